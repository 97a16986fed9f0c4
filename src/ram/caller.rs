//! Who calls, from where, and how the trail names them (ActionTrail, `userIdentity`).

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ECS_SERVICE;

/// Name of the sessions in which the disk service takes on its role. Not published: our choice.
const ECS_SESSION: &str = "ecs-disk";

/// Who is behind a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The owner of an account.
    Root {
        /// 16 digits.
        account: String,
    },
    /// A RAM user.
    User {
        /// 16 digits.
        account: String,
        /// 18 digits.
        user_id: String,
        /// Unique in the account.
        user_name: String,
    },
    /// A service of the cloud, such as `ecs.aliyuncs.com`.
    Service {
        /// Its published name.
        name: &'static str,
    },
    /// The daemon on its own account: timers, recovery.
    System,
}

/// How a call reached us: what conditions of policies can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The access key that signed it.
    pub access_key_id: Option<String>,
    /// The caller's address; `None` if the call never left this host.
    pub address: Option<IpAddr>,
    /// Nobody on the way could listen: TLS, a unix socket, or no way at all.
    pub is_secure: bool,
}

impl Route {
    /// From this host, over a unix socket or from within.
    pub const LOCAL: Self = Self { access_key_id: None, address: None, is_secure: true };
}

/// One call's origin.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub principal: Principal,
    /// The id that the answer and the trail share.
    pub request_id: Uuid,
    /// `unix:uid=0`, or an address.
    pub source: String,
    /// What the client says of itself.
    pub user_agent: String,
    /// How the call came.
    pub route: Route,
    /// Whom a service acts for, where somebody asked it to: for the trail of another host, which
    /// knows none of them.
    pub on_behalf_of: Option<String>,
}

/// In whose name a service acts: decides what it may and what the trail shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceActsAs {
    /// In its own, on its own service key.
    Itself,
    /// Through the role its customer granted, on the customer's key.
    CustomersRole {
        /// 18 digits.
        role_id: String,
        /// The role's name.
        role_name: String,
    },
}

impl Caller {
    /// The disk service, doing what `asking` asked of it.
    pub fn ecs_for(asking: &Self) -> Self {
        let name = match &asking.principal {
            Principal::Root { .. } => Some("root".to_owned()),
            Principal::User { user_name, .. } => Some(format!("user {user_name}")),
            Principal::Service { .. } | Principal::System => asking.on_behalf_of.clone(),
        };
        Self { on_behalf_of: name, ..Self::ecs(asking.request_id) }
    }

    /// The disk service, on behalf of the call with `request_id`.
    pub fn ecs(request_id: Uuid) -> Self {
        Self {
            principal: Principal::Service { name: ECS_SERVICE },
            request_id,
            source: ECS_SERVICE.into(),
            user_agent: ECS_SERVICE.into(),
            route: Route::LOCAL,
            on_behalf_of: None,
        }
    }

    /// The daemon itself, under a fresh `request_id`.
    pub fn system(request_id: Uuid) -> Self {
        Self {
            principal: Principal::System,
            request_id,
            source: "Internal".into(),
            user_agent: "sealdisk".into(),
            route: Route::LOCAL,
            on_behalf_of: None,
        }
    }

    /// The `userIdentity` of this caller in the trail of `account`.
    pub fn user_identity(&self, account: &str, acting: &ServiceActsAs) -> Map<String, Value> {
        let mut identity = match (&self.principal, acting) {
            (Principal::Root { account }, _) => json!({
                "type": "root-account",
                "principalId": account,
                "accountId": account,
                "userName": "root",
            }),
            (Principal::User { account, user_id, user_name }, _) => json!({
                "type": "ram-user",
                "principalId": user_id,
                "accountId": account,
                "userName": user_name,
            }),
            (Principal::Service { name }, ServiceActsAs::CustomersRole { role_id, role_name }) => {
                json!({
                    "type": "assumed-role",
                    "principalId": format!("{role_id}:{ECS_SESSION}"),
                    "accountId": account,
                    "userName": format!("{}:{ECS_SESSION}", role_name.to_lowercase()),
                    "invokedBy": name,
                })
            }
            (Principal::Service { name }, ServiceActsAs::Itself) => json!({
                "type": "system",
                "principalId": name,
                "accountId": account,
                "userName": name,
                "invokedBy": name,
            }),
            (Principal::System, _) => json!({
                "type": "system",
                "principalId": "sealdisk",
                "accountId": account,
                "userName": "sealdisk",
            }),
        };
        if let Some(id) = &self.route.access_key_id {
            identity["accessKeyId"] = id.as_str().into();
        }
        match identity {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "1000000000000001";

    #[test]
    fn each_principal_has_its_published_identity_type() {
        let itself = ServiceActsAs::Itself;
        let role = ServiceActsAs::CustomersRole {
            role_id: "300000000000000007".into(),
            role_name: "AliyunECSDiskEncryptDefaultRole".into(),
        };
        let mut caller = Caller::ecs(Uuid::nil());
        assert_eq!(caller.user_identity(ACCOUNT, &itself)["type"], "system");
        let assumed = caller.user_identity(ACCOUNT, &role);
        assert_eq!(assumed["type"], "assumed-role");
        assert_eq!(assumed["principalId"], "300000000000000007:ecs-disk");
        assert_eq!(assumed["userName"], "aliyunecsdiskencryptdefaultrole:ecs-disk");
        caller.principal = Principal::Root { account: ACCOUNT.into() };
        let identity = caller.user_identity(ACCOUNT, &itself);
        assert_eq!(identity["type"], "root-account");
        assert_eq!(identity["principalId"], identity["accountId"]);
        assert_eq!(identity["userName"], "root");
        assert!(!identity.contains_key("accessKeyId"));
        let system = Caller::system(Uuid::nil());
        assert_eq!(system.user_identity(ACCOUNT, &itself)["type"], "system");
    }

    #[test]
    fn a_signed_call_names_its_user_and_access_key() {
        let mut caller = Caller::ecs(Uuid::nil());
        caller.principal = Principal::User {
            account: ACCOUNT.into(),
            user_id: "200000000000000001".into(),
            user_name: "ann".into(),
        };
        caller.route.access_key_id = Some("LTAI5tExample".into());
        let identity = caller.user_identity(ACCOUNT, &ServiceActsAs::Itself);
        assert_eq!(identity["type"], "ram-user");
        assert_eq!(identity["principalId"], "200000000000000001");
        assert_eq!(identity["userName"], "ann");
        assert_eq!(identity["accessKeyId"], "LTAI5tExample");
    }
}
