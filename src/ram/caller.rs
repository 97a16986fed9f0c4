//! Who calls, and how the trail names them (ActionTrail, `userIdentity`).

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::ECS_SERVICE;

/// Role through which the disk service uses its customers' keys.
const ECS_ROLE: &str = "aliyunecsdiskencryptdefaultrole";
/// Name of its sessions. Not published: our choice.
const ECS_SESSION: &str = "ecs-disk";
/// Id of the role; any number with 18 digits will do.
const ECS_ROLE_ID: &str = "300000000000000001";

/// Who is behind a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The owner of an account.
    Root {
        /// 16 digits.
        account: String,
    },
    /// A service of the cloud, such as `ecs.aliyuncs.com`.
    Service {
        /// Its published name.
        name: &'static str,
    },
    /// The daemon on its own account: timers, recovery.
    System,
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
}

/// In whose name a service acts: decides what the trail shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceActsAs {
    /// In its own, on its own service key.
    Itself,
    /// Through the role its customer granted, on the customer's key.
    CustomersRole,
}

impl Caller {
    /// The disk service, on behalf of the call with `request_id`.
    pub fn ecs(request_id: Uuid) -> Self {
        Self {
            principal: Principal::Service { name: ECS_SERVICE },
            request_id,
            source: ECS_SERVICE.into(),
            user_agent: ECS_SERVICE.into(),
        }
    }

    /// The daemon itself, under a fresh `request_id`.
    pub fn system(request_id: Uuid) -> Self {
        Self {
            principal: Principal::System,
            request_id,
            source: "Internal".into(),
            user_agent: "sealdisk".into(),
        }
    }

    /// The `userIdentity` of this caller in the trail of `account`.
    pub fn user_identity(&self, account: &str, acting: ServiceActsAs) -> Map<String, Value> {
        let identity = match (&self.principal, acting) {
            (Principal::Root { account }, _) => json!({
                "type": "root-account",
                "principalId": account,
                "accountId": account,
                "userName": "root",
            }),
            (Principal::Service { name }, ServiceActsAs::CustomersRole) => json!({
                "type": "assumed-role",
                "principalId": format!("{ECS_ROLE_ID}:{ECS_SESSION}"),
                "accountId": account,
                "userName": format!("{ECS_ROLE}:{ECS_SESSION}"),
                "invokedBy": name,
            }),
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
        match identity {
            Value::Object(members) => members,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_principal_has_its_published_identity_type() {
        let kind = |caller: &Caller, acting| {
            caller.user_identity("1000000000000001", acting)["type"].as_str().map(str::to_owned)
        };
        let mut caller = Caller::ecs(Uuid::nil());
        assert_eq!(kind(&caller, ServiceActsAs::Itself).as_deref(), Some("system"));
        assert_eq!(kind(&caller, ServiceActsAs::CustomersRole).as_deref(), Some("assumed-role"));
        caller.principal = Principal::Root { account: "1000000000000001".into() };
        let identity = caller.user_identity("1000000000000001", ServiceActsAs::Itself);
        assert_eq!(identity["type"], "root-account");
        assert_eq!(identity["principalId"], identity["accountId"]);
        assert_eq!(identity["userName"], "root");
        let system = Caller::system(Uuid::nil());
        assert_eq!(kind(&system, ServiceActsAs::Itself).as_deref(), Some("system"));
    }
}
