//! Policies that name whom they speak of: key policies and the trust policies of roles.

use super::condition::{Circumstances, Conditions};
use super::document::{RawPrincipal, RawStatement};
use super::policy::{Effect, Statement, decide, read_document};
use super::{Decision, PolicyError, wildcard};
use crate::clock::Timestamp;

/// Longest key policy, in bytes; as published.
pub const KEY_POLICY_BYTES_MAX: usize = 32_768;

/// Longest trust policy of a role, in bytes; as published.
pub const TRUST_POLICY_BYTES_MAX: usize = 2048;

/// Longest `Sid`, in characters; as published.
const SID_CHARS_MAX: usize = 128;

/// Taking on a role.
const ASSUME_ROLE: &str = "sts:AssumeRole";

/// What a key's own policy says of those it names.
#[derive(Debug)]
pub struct KeyPolicy {
    statements: Vec<(Vec<String>, Statement)>,
}

impl KeyPolicy {
    /// Reads a key policy: each statement names its principals (`{"RAM": […]}`) and has `*` as its
    /// only resource, the key.
    ///
    /// # Errors
    /// [`PolicyError`]: the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let statements = read_document(text, KEY_POLICY_BYTES_MAX)?;
        let statements = statements.into_iter().map(|mut raw| {
            let principals = match raw.principal.take() {
                Some(RawPrincipal { ram: Some(ram), service: None }) => ram.into_vec(),
                Some(RawPrincipal { service: Some(_), .. }) => {
                    return Err(PolicyError::Unexpected("Principal.Service"));
                }
                _ => return Err(PolicyError::Missing("Principal.RAM")),
            };
            if principals.is_empty() {
                return Err(PolicyError::Missing("Principal.RAM"));
            }
            if let Some(wrong) = principals.iter().find(|name| !is_principal(name)) {
                return Err(PolicyError::Principal(wrong.clone()));
            }
            check_sid(&raw)?;
            let statement = Statement::read(raw, |resource| resource == "*")?;
            match statement.action_of_another("kms:") {
                Some(action) => Err(PolicyError::Action(action.to_owned())),
                None => Ok((principals, statement)),
            }
        });
        Ok(Self { statements: statements.collect::<Result<_, _>>()? })
    }

    /// What it says of `action` by the principal whose resource name is `who`
    /// (`acs:ram::<account>:user/<name>`).
    ///
    /// The account itself (`acs:ram::<account>:*` and `…:root`) is its owner where something is
    /// allowed: what users may do is left to their own policies. A denial to `…:*` is one to all.
    /// `*` alone is everybody in the account.
    pub fn decide(
        &self,
        who: &str,
        action: &str,
        resource: &str,
        circumstances: &Circumstances<'_>,
    ) -> Decision {
        let about = self.statements.iter().filter(|(principals, statement)| {
            principals.iter().any(|pattern| names(pattern, who, statement.effect))
        });
        decide(about.map(|(_, statement)| statement), action, resource, circumstances)
    }
}

fn names(pattern: &str, who: &str, effect: Effect) -> bool {
    match pattern.strip_suffix(":*") {
        Some(account) if effect == Effect::Allow => {
            who.strip_prefix(account).is_some_and(|rest| rest == ":root")
        }
        _ => wildcard::matches(pattern, who),
    }
}

/// `*`, or `acs:ram::<account>:` and `*`, `root`, `user/<name>` or `role/<name>`.
fn is_principal(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let Some((account, relative)) =
        text.strip_prefix("acs:ram::").and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    let is_account = !account.is_empty() && account.bytes().all(|byte| byte.is_ascii_digit());
    let named = |kind| relative.strip_prefix(kind).is_some_and(|name| !name.is_empty());
    is_account && (matches!(relative, "*" | "root") || named("user/") || named("role/"))
}

fn check_sid(raw: &RawStatement) -> Result<(), PolicyError> {
    match &raw.sid {
        Some(sid) if sid.chars().count() > SID_CHARS_MAX => {
            Err(PolicyError::Value { operator: "Sid".into(), value: sid.clone() })
        }
        _ => Ok(()),
    }
}

/// Who may take on a role.
#[derive(Debug)]
pub struct TrustPolicy {
    statements: Vec<(Vec<String>, Statement)>,
}

impl TrustPolicy {
    /// Reads a trust policy: its statements speak of `sts:AssumeRole`, name services or RAM
    /// principals, and have no resource.
    ///
    /// # Errors
    /// [`PolicyError`]: the first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let statements = read_document(text, TRUST_POLICY_BYTES_MAX)?;
        let statements = statements.into_iter().map(|mut raw| {
            if raw.resource.is_some() {
                return Err(PolicyError::Unexpected("Resource"));
            }
            let Some(RawPrincipal { ram, service }) = raw.principal.take() else {
                return Err(PolicyError::Missing("Principal"));
            };
            let named = [ram, service].into_iter().flatten();
            let principals: Vec<String> =
                named.flat_map(super::document::Texts::into_vec).collect();
            if principals.is_empty() {
                return Err(PolicyError::Missing("Principal"));
            }
            check_sid(&raw)?;
            raw.resource = Some(super::document::Texts::One("*".into()));
            Ok((principals, Statement::read(raw, |resource| resource == "*")?))
        });
        Ok(Self { statements: statements.collect::<Result<_, _>>()? })
    }

    /// Whether the service of this name may take on the role.
    pub fn trusts_service(&self, name: &str, now: Timestamp) -> bool {
        let conditions = Conditions { secure_transport: true, ..Conditions::default() };
        let circumstances = Circumstances { now, conditions: &conditions };
        let about = self
            .statements
            .iter()
            .filter(|(principals, _)| principals.iter().any(|principal| principal == name));
        decide(about.map(|(_, statement)| statement), ASSUME_ROLE, "*", &circumstances).is_allowed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "acs:ram::1000000000000001:root";
    const ANN: &str = "acs:ram::1000000000000001:user/ann";

    fn key_policy(effect: &str, principal: &str) -> Result<KeyPolicy, PolicyError> {
        KeyPolicy::parse(&format!(
            r#"{{"Version":"1","Statement":[{{"Sid":"s","Effect":"{effect}","Action":"kms:*",
            "Resource":"*","Principal":{{"RAM":["{principal}"]}}}}]}}"#
        ))
    }

    fn decide(policy: &KeyPolicy, who: &str) -> Decision {
        let conditions = Conditions::default();
        let now = Timestamp::default();
        let circumstances = Circumstances { now, conditions: &conditions };
        policy.decide(who, "kms:Decrypt", "acs:kms:r:1000000000000001:key/k", &circumstances)
    }

    #[test]
    fn a_key_policy_speaks_of_those_it_names() {
        let everybody = "acs:ram::1000000000000001:*";
        let policy = key_policy("Allow", everybody).unwrap();
        assert_eq!(decide(&policy, OWNER), Decision::Allow);
        assert_eq!(decide(&policy, ANN), Decision::ImplicitDeny, "left to her own policies");
        let policy = key_policy("Deny", everybody).unwrap();
        assert_eq!(decide(&policy, ANN), Decision::ExplicitDeny);
        assert_eq!(decide(&key_policy("Allow", "*").unwrap(), ANN), Decision::Allow);
        let policy = key_policy("Allow", ANN).unwrap();
        assert_eq!(decide(&policy, ANN), Decision::Allow);
        assert_eq!(decide(&policy, "acs:ram::1000000000000001:user/anna"), Decision::ImplicitDeny);
        assert_eq!(decide(&policy, OWNER), Decision::ImplicitDeny);
        for wrong in ["**", "ann", "acs:ram::x:root", "acs:ram::1:group/g", "acs:ram::1:user/"] {
            assert!(
                matches!(key_policy("Allow", wrong), Err(PolicyError::Principal(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_trust_policy_names_who_may_take_on_the_role() {
        let policy = |action: &str, service: &str| {
            TrustPolicy::parse(&format!(
                r#"{{"Version":"1","Statement":[{{"Effect":"Allow","Action":"{action}",
                "Principal":{{"Service":["{service}"]}}}}]}}"#
            ))
            .unwrap()
        };
        let now = Timestamp::default();
        let ecs = "ecs.aliyuncs.com";
        assert!(policy("sts:AssumeRole", ecs).trusts_service(ecs, now));
        assert!(!policy("sts:AssumeRole", "rds.aliyuncs.com").trusts_service(ecs, now));
        assert!(!policy("kms:Decrypt", ecs).trusts_service(ecs, now));
    }
}
