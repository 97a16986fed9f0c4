//! What a caller is told of a denial (`AccessDeniedDetail`).

use super::{Decision, Principal};

/// Why the policies did not let somebody do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was asked (`ecs:AttachDisk`).
    pub action: String,
    /// `AuthPrincipalType`: `SubUser` for a RAM user.
    pub principal_type: &'static str,
    /// Id of the user, account or service.
    pub principal: String,
    /// The account that the caller belongs to; empty for a service.
    pub owner: String,
    /// `ImplicitDeny` or `ExplicitDeny`.
    pub no_permission_type: &'static str,
}

impl Denial {
    /// The denial that `decision` is; `None` if it is a permission.
    pub fn of(principal: &Principal, action: &str, decision: Decision) -> Option<Self> {
        let no_permission_type = decision.no_permission_type()?;
        let (principal_type, principal, owner) = match principal {
            Principal::Root { account } => ("Account", account.clone(), account.clone()),
            Principal::User { account, user_id, .. } => {
                ("SubUser", user_id.clone(), account.clone())
            }
            Principal::Service { name } => ("Service", (*name).to_owned(), String::new()),
            Principal::System => ("System", "sealdisk".to_owned(), String::new()),
        };
        Some(Self {
            action: action.to_owned(),
            principal_type,
            principal,
            owner,
            no_permission_type,
        })
    }
}
