//! RAM 2015-05-01: policies, and who holds them.

use serde_json::{Value, json};

use super::Api;
use super::answer::Answer;
use super::dispatch::{Handler, authorise_on};
use super::error::ApiError;
use super::ram::{Deed, on_role, on_user, part_asked, with_part};
use super::rpc::Parameters;
use crate::catalog::ram::PolicyKind;
use crate::clock::Timestamp;
use crate::ram::{Caller, HolderName, PolicyView, RamError, SYSTEM_OWNER};
use crate::trail::ResourceType;

/// A policy has one version here.
const VERSION: &str = "v1";

type Answered = Result<Answer, ApiError>;

pub(super) fn handler(action: &str) -> Option<Handler> {
    Some(match action {
        "CreatePolicy" => create_policy,
        "GetPolicy" => get_policy,
        "DeletePolicy" => delete_policy,
        "ListPolicies" => list_policies,
        "AttachPolicyToUser" => attach_policy_to_user,
        "DetachPolicyFromUser" => detach_policy_from_user,
        "ListPoliciesForUser" => list_policies_for_user,
        "AttachPolicyToRole" => attach_policy_to_role,
        "DetachPolicyFromRole" => detach_policy_from_role,
        "ListPoliciesForRole" => list_policies_for_role,
        _ => return None,
    })
}

fn create_policy(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let name = parameters.required("PolicyName")?;
    let document = parameters.required("PolicyDocument")?;
    parameters.refuse(&["Tag.1.Key"])?;
    let description = parameters.filled("Description");
    let deed = Deed::begin(api, caller, "CreatePolicy", "policy/*")?
        .about(ResourceType::Policy, "PolicyName", name)
        .asked("PolicyDocument", Some(document))
        .asked("Description", description);
    let gate = &mut |_: &crate::catalog::ram::PolicyRecord| deed.record();
    let made =
        deed.done(api.ram.create_policy(name, description.unwrap_or_default(), document, gate))?;
    let item = json!({
        "PolicyName": made.policy_name,
        "PolicyType": PolicyKind::Custom.as_str(),
        "Description": made.description,
        "DefaultVersion": VERSION,
        "CreateDate": made.created.to_string(),
    });
    Ok(Answer::new().with("Policy", item))
}

fn get_policy(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (kind, name) = policy_asked(parameters)?;
    let deed = Deed::begin(api, caller, "GetPolicy", &format!("policy/{name}"))?
        .about(ResourceType::Policy, "PolicyName", name)
        .asked("PolicyType", Some(kind.as_str()));
    let policy = deed.looked(api.ram.policy(kind, name))?;
    let mut item = policy_item(&policy);
    item["PolicyDocument"] = policy.document.as_str().into();
    let version = json!({
        "VersionId": VERSION,
        "IsDefaultVersion": true,
        "PolicyDocument": policy.document,
        "CreateDate": policy.created.to_string(),
    });
    Ok(Answer::new().with("Policy", item).with("DefaultPolicyVersion", version))
}

fn delete_policy(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let name = parameters.required("PolicyName")?;
    if parameters.boolean("CascadingDelete")? == Some(true) {
        return Err(ApiError::unsupported("CascadingDelete"));
    }
    let deed = Deed::begin(api, caller, "DeletePolicy", &format!("policy/{name}"))?.about(
        ResourceType::Policy,
        "PolicyName",
        name,
    );
    deed.done(api.ram.delete_policy(name, &mut || deed.record()))?;
    Ok(Answer::new())
}

fn list_policies(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let kind = parameters.filled("PolicyType").map(kind_of).transpose()?;
    let deed = Deed::begin(api, caller, "ListPolicies", "policy/*")?
        .asked("PolicyType", kind.map(PolicyKind::as_str));
    let (after, limit) = part_asked(parameters)?;
    let part = deed.looked(api.ram.policies(kind, after, limit))?;
    Ok(with_part(Answer::new(), ("Policies", "Policy"), &part, policy_item))
}

fn attach_policy_to_user(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const ACTION: &str = "AttachPolicyToUser";
    let (user, deed) = on_user(api, caller, ACTION, parameters)?;
    let policy = on_policy(api, caller, ACTION, parameters)?;
    attach(api, HolderName::User(user), deed, policy)
}

fn attach_policy_to_role(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const ACTION: &str = "AttachPolicyToRole";
    let (role, deed) = on_role(api, caller, ACTION, parameters)?;
    let policy = on_policy(api, caller, ACTION, parameters)?;
    attach(api, HolderName::Role(role), deed, policy)
}

fn attach(
    api: &Api,
    holder: HolderName<'_>,
    deed: Deed<'_>,
    (kind, name): (PolicyKind, &str),
) -> Answered {
    let deed = about_policy(deed, kind, name);
    deed.done(api.ram.attach_policy(holder, kind, name, &mut || deed.record()))?;
    Ok(Answer::new())
}

fn detach_policy_from_user(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const ACTION: &str = "DetachPolicyFromUser";
    let (user, deed) = on_user(api, caller, ACTION, parameters)?;
    let policy = on_policy(api, caller, ACTION, parameters)?;
    detach(api, HolderName::User(user), deed, policy)
}

fn detach_policy_from_role(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const ACTION: &str = "DetachPolicyFromRole";
    let (role, deed) = on_role(api, caller, ACTION, parameters)?;
    let policy = on_policy(api, caller, ACTION, parameters)?;
    detach(api, HolderName::Role(role), deed, policy)
}

fn detach(
    api: &Api,
    holder: HolderName<'_>,
    deed: Deed<'_>,
    (kind, name): (PolicyKind, &str),
) -> Answered {
    let deed = about_policy(deed, kind, name);
    deed.done(api.ram.detach_policy(holder, kind, name, &mut || deed.record()))?;
    Ok(Answer::new())
}

fn list_policies_for_user(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (user, deed) = on_user(api, caller, "ListPoliciesForUser", parameters)?;
    held(api, HolderName::User(user), &deed)
}

fn list_policies_for_role(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    let (role, deed) = on_role(api, caller, "ListPoliciesForRole", parameters)?;
    held(api, HolderName::Role(role), &deed)
}

fn held(api: &Api, holder: HolderName<'_>, deed: &Deed<'_>) -> Answered {
    let held = deed.looked(api.ram.policies_of(holder))?;
    let item = |(policy, attached): &(PolicyView, Timestamp)| {
        json!({
            "PolicyName": policy.policy_name,
            "PolicyType": policy.kind.as_str(),
            "Description": policy.description,
            "DefaultVersion": VERSION,
            "AttachDate": attached.to_string(),
        })
    };
    let items: Vec<Value> = held.iter().map(item).collect();
    Ok(Answer::new().with("Policies", json!({"Policy": items})))
}

fn about_policy<'a>(deed: Deed<'a>, kind: PolicyKind, name: &str) -> Deed<'a> {
    deed.about(ResourceType::Policy, "PolicyName", name).asked("PolicyType", Some(kind.as_str()))
}

/// The policy to be given or taken away. As the cloud has it, a caller needs the permission on the
/// policy too, so that who may make users readers cannot make them owners; those of the system
/// belong to the account `system`.
fn on_policy<'p>(
    api: &Api,
    caller: &Caller,
    action: &'static str,
    parameters: &'p Parameters,
) -> Result<(PolicyKind, &'p str), ApiError> {
    let (kind, name) = policy_asked(parameters)?;
    let owner = match kind {
        PolicyKind::System => SYSTEM_OWNER,
        PolicyKind::Custom => api.account_id.as_str(),
    };
    let resource = format!("acs:ram::{owner}:policy/{name}");
    authorise_on(api, caller, ("ram", action), &resource)?;
    Ok((kind, name))
}

fn policy_asked(parameters: &Parameters) -> Result<(PolicyKind, &str), ApiError> {
    let kind = kind_of(parameters.required("PolicyType")?)?;
    Ok((kind, parameters.required("PolicyName")?))
}

fn kind_of(text: &str) -> Result<PolicyKind, ApiError> {
    PolicyKind::parse(text).ok_or_else(|| RamError::Value("PolicyType").into())
}

fn policy_item(policy: &PolicyView) -> Value {
    json!({
        "PolicyName": policy.policy_name,
        "PolicyType": policy.kind.as_str(),
        "Description": policy.description,
        "DefaultVersion": VERSION,
        "AttachmentCount": policy.attachments,
        "CreateDate": policy.created.to_string(),
        "UpdateDate": policy.created.to_string(),
    })
}
