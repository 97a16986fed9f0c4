//! RAM 2015-05-01: users, access keys and roles. Policies are in `ram_policies.rs`.
//!
//! `ram` does not know the trail: a change is recorded here, through the gate that runs within its
//! transaction, and what only looks is recorded before the answer.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::{Handler, authorise};
use super::error::ApiError;
use super::ram_policies;
use super::rpc::Parameters;
use crate::catalog::ram::{AccessKeyRecord, RoleRecord, UserRecord};
use crate::ram::{
    Caller, CreateRole, CreateUser, Gated, Part, Principal, RamError, SESSION_SECONDS,
    SESSION_SECONDS_DEFAULT, ServiceActsAs,
};
use crate::trail::{Actor, Event, ResourceType, Service};

/// Entries in one part of a list, unless told otherwise and at most; as published.
const MAX_ITEMS_DEFAULT: usize = 100;
const MAX_ITEMS: std::ops::RangeInclusive<usize> = 1..=1000;

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreateUser" => create_user,
        "GetUser" => get_user,
        "DeleteUser" => delete_user,
        "ListUsers" => list_users,
        "CreateAccessKey" => create_access_key,
        "UpdateAccessKey" => update_access_key,
        "DeleteAccessKey" => delete_access_key,
        "ListAccessKeys" => list_access_keys,
        "CreateRole" => create_role,
        "GetRole" => get_role,
        "DeleteRole" => delete_role,
        "ListRoles" => list_roles,
        _ => return ram_policies::handler(action),
    })
}

/// One action under way: who does what, and what the trail will say of it.
pub(super) struct Deed<'a> {
    api: &'a Api,
    event: Event,
}

impl<'a> Deed<'a> {
    /// Asks the policy whether `caller` may do `action` to `relative` (`user/ann`).
    pub(super) fn begin(
        api: &'a Api,
        caller: &Caller,
        action: &'static str,
        relative: &str,
    ) -> Result<Self, ApiError> {
        authorise(api, caller, ("ram", action), relative)?;
        let actor = Actor {
            request_id: caller.request_id,
            account_id: api.account_id.clone(),
            region: api.region.clone(),
            source: caller.source.clone(),
            user_agent: caller.user_agent.clone(),
            user_identity: caller.user_identity(&api.account_id, &ServiceActsAs::Itself),
        };
        let event = Event::new(Service::Ram, action, actor);
        let is_read = action.starts_with("Get") || action.starts_with("List");
        Ok(Self { api, event: if is_read { event.read_only() } else { event } })
    }

    /// It is about this thing, which the parameter `name` names.
    pub(super) fn about(mut self, kind: ResourceType, name: &'static str, value: &str) -> Self {
        self.event = self.event.resource(kind, value).request(name, value);
        self
    }

    /// With a parameter of the request.
    pub(super) fn asked(mut self, name: &'static str, value: Option<&str>) -> Self {
        if let Some(value) = value {
            self.event = self.event.request(name, value);
        }
        self
    }

    /// Records a change that is about to be made.
    pub(super) fn record(&self) -> Gated {
        Ok(self.api.trail.record(&self.event)?)
    }

    /// Records a change that is about to be made, and the id that it gives.
    fn record_with(&self, name: &'static str, id: &str) -> Gated {
        Ok(self.api.trail.record(&self.event.clone().response(name, id))?)
    }

    /// Records that somebody looked, if there was something to see; to be called before the answer.
    pub(super) fn looked<T>(&self, outcome: Result<T, RamError>) -> Result<T, ApiError> {
        let seen = self.done(outcome)?;
        self.api.trail.record(&self.event)?;
        Ok(seen)
    }

    /// Records a refusal. What was done has been recorded when it was.
    pub(super) fn done<T>(&self, outcome: Result<T, RamError>) -> Result<T, ApiError> {
        outcome.map_err(|error| {
            let refusal = ApiError::from(error);
            let event = self.event.clone().error(&refusal.code, &refusal.message);
            match self.api.trail.record(&event) {
                Ok(()) => ApiError { is_recorded: true, ..refusal },
                Err(failure) => failure.into(),
            }
        })
    }
}

fn create_user(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let user_name = parameters.required("UserName")?;
    let deed = Deed::begin(api, caller, "CreateUser", "user/*")?
        .about(ResourceType::User, "UserName", user_name)
        .asked("DisplayName", parameters.filled("DisplayName"))
        .asked("Comments", parameters.filled("Comments"));
    let owned = |name| parameters.filled(name).unwrap_or_default().to_owned();
    let request = CreateUser {
        user_name: user_name.to_owned(),
        display_name: owned("DisplayName"),
        comments: owned("Comments"),
        email: owned("Email"),
        mobile_phone: owned("MobilePhone"),
    };
    let gate = &mut |user: &UserRecord| deed.record_with("UserId", &user.user_id);
    let user = deed.done(api.ram.create_user(request, gate))?;
    Ok(Answer::new().with("User", user_item(&user)))
}

fn get_user(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user_name, deed) = on_user(api, caller, "GetUser", parameters)?;
    let user = deed.looked(api.ram.user(user_name))?;
    let mut item = user_item(&user);
    item["LastLoginDate"] = "".into();
    Ok(Answer::new().with("User", item))
}

fn delete_user(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user_name, deed) = on_user(api, caller, "DeleteUser", parameters)?;
    deed.done(api.ram.delete_user(user_name, &mut || deed.record()))?;
    Ok(Answer::new())
}

fn list_users(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let deed = Deed::begin(api, caller, "ListUsers", "user/*")?;
    let (after, limit) = part_asked(parameters)?;
    let part = deed.looked(api.ram.users(after, limit))?;
    Ok(with_part(Answer::new(), ("Users", "User"), &part, user_item))
}

pub(super) fn on_user<'a, 'p>(
    api: &'a Api,
    caller: &Caller,
    action: &'static str,
    parameters: &'p Parameters,
) -> Result<(&'p str, Deed<'a>), ApiError> {
    let user_name = parameters.required("UserName")?;
    let deed = Deed::begin(api, caller, action, &format!("user/{user_name}"))?;
    Ok((user_name, deed.about(ResourceType::User, "UserName", user_name)))
}

/// Whose access keys are meant: those of the user named, else of who asks.
fn on_keys<'a>(
    api: &'a Api,
    caller: &Caller,
    action: &'static str,
    parameters: &Parameters,
) -> Result<(Option<String>, Deed<'a>), ApiError> {
    let named = parameters.filled("UserName").map(str::to_owned);
    let user_name = named.or_else(|| match &caller.principal {
        Principal::User { user_name, .. } => Some(user_name.clone()),
        _ => None,
    });
    // Those of the owner are nobody's to give: no policy of a user speaks of them.
    let resource = match &user_name {
        Some(name) => format!("user/{name}"),
        None => "root".to_owned(),
    };
    let deed = Deed::begin(api, caller, action, &resource)?;
    let deed = match &user_name {
        Some(name) => deed.about(ResourceType::User, "UserName", name),
        None => deed,
    };
    Ok((user_name, deed))
}

fn create_access_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user_name, deed) = on_keys(api, caller, "CreateAccessKey", parameters)?;
    let gate = &mut |made: &crate::ram::NewAccessKey| {
        deed.record_with("AccessKeyId", &made.record.access_key_id)
    };
    let made = deed.done(api.ram.create_access_key(user_name.as_deref(), gate))?;
    Ok(Answer::new()
        .with("AccessKey", key_item(&made.record))
        .with_secret_text("AccessKey.AccessKeySecret", made.secret))
}

fn update_access_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user_name, deed) = on_keys(api, caller, "UpdateAccessKey", parameters)?;
    let id = parameters.required("UserAccessKeyId")?;
    let status = parameters.required("Status")?;
    let is_active = match status {
        "Active" => true,
        "Inactive" => false,
        _ => return Err(ApiError::invalid("Status")),
    };
    let deed =
        deed.about(ResourceType::AccessKey, "UserAccessKeyId", id).asked("Status", Some(status));
    let gate = &mut || deed.record();
    deed.done(api.ram.set_access_key_active(user_name.as_deref(), id, is_active, gate))?;
    Ok(Answer::new())
}

fn delete_access_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user_name, deed) = on_keys(api, caller, "DeleteAccessKey", parameters)?;
    let id = parameters.required("UserAccessKeyId")?;
    let deed = deed.about(ResourceType::AccessKey, "UserAccessKeyId", id);
    deed.done(api.ram.delete_access_key(user_name.as_deref(), id, &mut || deed.record()))?;
    Ok(Answer::new())
}

fn list_access_keys(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user_name, deed) = on_keys(api, caller, "ListAccessKeys", parameters)?;
    let keys = deed.looked(api.ram.access_keys(user_name.as_deref()))?;
    let items: Vec<Value> = keys.iter().map(key_item).collect();
    Ok(Answer::new().with("AccessKeys", json!({"AccessKey": items})))
}

fn create_role(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const SECONDS: &str = "MaxSessionDuration";
    let role_name = parameters.required("RoleName")?;
    let trust_policy = parameters.required("AssumeRolePolicyDocument")?;
    parameters.refuse(&["Tag.1.Key"])?;
    let description = parameters.filled("Description");
    let deed = Deed::begin(api, caller, "CreateRole", "role/*")?
        .about(ResourceType::Role, "RoleName", role_name)
        .asked("AssumeRolePolicyDocument", Some(trust_policy))
        .asked("Description", description);
    let request = CreateRole {
        role_name: role_name.to_owned(),
        description: description.unwrap_or_default().to_owned(),
        trust_policy: trust_policy.to_owned(),
        session_seconds_max: parameters
            .integer(SECONDS, SESSION_SECONDS)?
            .unwrap_or(SESSION_SECONDS_DEFAULT),
    };
    let gate = &mut |role: &RoleRecord| deed.record_with("RoleId", &role.role_id);
    let role = deed.done(api.ram.create_role(request, gate))?;
    Ok(Answer::new().with("Role", role_item(api, &role)))
}

fn get_role(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (role_name, deed) = on_role(api, caller, "GetRole", parameters)?;
    let role = deed.looked(api.ram.role(role_name))?;
    Ok(Answer::new().with("Role", role_item(api, &role)))
}

fn delete_role(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (role_name, deed) = on_role(api, caller, "DeleteRole", parameters)?;
    deed.done(api.ram.delete_role(role_name, &mut || deed.record()))?;
    Ok(Answer::new())
}

fn list_roles(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let deed = Deed::begin(api, caller, "ListRoles", "role/*")?;
    let (after, limit) = part_asked(parameters)?;
    let part = deed.looked(api.ram.roles(after, limit))?;
    let item = |role: &RoleRecord| {
        let mut item = role_item(api, role);
        if let Value::Object(members) = &mut item {
            members.remove("AssumeRolePolicyDocument");
        }
        item
    };
    Ok(with_part(Answer::new(), ("Roles", "Role"), &part, item))
}

pub(super) fn on_role<'a, 'p>(
    api: &'a Api,
    caller: &Caller,
    action: &'static str,
    parameters: &'p Parameters,
) -> Result<(&'p str, Deed<'a>), ApiError> {
    let role_name = parameters.required("RoleName")?;
    let deed = Deed::begin(api, caller, action, &format!("role/{role_name}"))?;
    Ok((role_name, deed.about(ResourceType::Role, "RoleName", role_name)))
}

/// Where a list shall go on, and how many entries are wanted.
pub(super) fn part_asked(parameters: &Parameters) -> Result<(&str, usize), ApiError> {
    let limit = parameters.integer("MaxItems", MAX_ITEMS)?.unwrap_or(MAX_ITEMS_DEFAULT);
    Ok((parameters.filled("Marker").unwrap_or_default(), limit))
}

/// A part of a list, wrapped twice, and whether it goes on.
pub(super) fn with_part<T>(
    answer: Answer,
    (outer, inner): (&str, &str),
    part: &Part<T>,
    item: impl Fn(&T) -> Value,
) -> Answer {
    let items: Vec<Value> = part.items.iter().map(item).collect();
    let answer =
        answer.with(outer, json!({inner: items})).with("IsTruncated", part.marker.is_some());
    match &part.marker {
        Some(marker) => answer.with("Marker", marker.as_str()),
        None => answer,
    }
}

fn user_item(user: &UserRecord) -> Value {
    json!({
        "UserId": user.user_id,
        "UserName": user.user_name,
        "DisplayName": user.display_name,
        "Comments": user.comments,
        "Email": user.email,
        "MobilePhone": user.mobile_phone,
        "CreateDate": user.created.to_string(),
        "UpdateDate": user.updated.to_string(),
    })
}

fn key_item(key: &AccessKeyRecord) -> Value {
    json!({
        "AccessKeyId": key.access_key_id,
        "Status": if key.is_active { "Active" } else { "Inactive" },
        "CreateDate": key.created.to_string(),
    })
}

fn role_item(api: &Api, role: &RoleRecord) -> Value {
    json!({
        "RoleId": role.role_id,
        "RoleName": role.role_name,
        "Arn": format!("acs:ram::{}:role/{}", api.account_id, role.role_name.to_lowercase()),
        "Description": role.description,
        "AssumeRolePolicyDocument": role.trust_policy,
        "MaxSessionDuration": role.session_seconds_max,
        "CreateDate": role.created.to_string(),
        "UpdateDate": role.updated.to_string(),
    })
}
