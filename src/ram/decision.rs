//! The decision: explicit denial over permission over silence.

/// The outcome of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A statement allows it and none denies it.
    Allow,
    /// No statement speaks of it.
    ImplicitDeny,
    /// A statement denies it.
    ExplicitDeny,
}

impl Decision {
    /// Whether the call may go on.
    pub const fn is_allowed(self) -> bool {
        matches!(self, Self::Allow)
    }

    /// Both together: any denial wins, then any permission.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::ExplicitDeny, _) | (_, Self::ExplicitDeny) => Self::ExplicitDeny,
            (Self::Allow, _) | (_, Self::Allow) => Self::Allow,
            (Self::ImplicitDeny, Self::ImplicitDeny) => Self::ImplicitDeny,
        }
    }

    /// `NoPermissionType` of a published denial; `None` if it was allowed.
    pub const fn no_permission_type(self) -> Option<&'static str> {
        match self {
            Self::Allow => None,
            Self::ImplicitDeny => Some("ImplicitDeny"),
            Self::ExplicitDeny => Some("ExplicitDeny"),
        }
    }
}

/// The account in a resource name; `None` if it is not a resource name.
pub(super) fn owner_of(resource: &str) -> Option<&str> {
    let mut parts = resource.splitn(5, ':');
    let (scheme, _service, _region) = (parts.next()?, parts.next()?, parts.next()?);
    let (account, relative) = (parts.next()?, parts.next()?);
    (scheme == "acs" && !account.is_empty() && !relative.is_empty()).then_some(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_resource_has_no_owner() {
        assert_eq!(owner_of("acs:kms:cn-hangzhou:1:key/k"), Some("1"));
        for resource in ["", "key/k", "acs:kms:r", "acs:kms:r::key/k", "arn:kms:r:1:key/k"] {
            assert_eq!(owner_of(resource), None, "{resource}");
        }
    }

    #[test]
    fn a_denial_wins_then_a_permission() {
        use Decision::{Allow, ExplicitDeny, ImplicitDeny};
        for (one, other, both) in [
            (Allow, ExplicitDeny, ExplicitDeny),
            (Allow, ImplicitDeny, Allow),
            (ImplicitDeny, ExplicitDeny, ExplicitDeny),
            (ImplicitDeny, ImplicitDeny, ImplicitDeny),
        ] {
            assert_eq!((one.or(other), other.or(one)), (both, both));
        }
    }
}
