//! Key policies: kept with keys of an instance, evaluated beside the caller's own policies.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Action, Kms, KmsError, state};
use crate::catalog::Operation;
use crate::ram::Caller;

/// Bytes of a policy's text.
const POLICY_BYTES_MAX: usize = 32_768;
/// Characters of a statement's name.
const SID_CHARS_MAX: usize = 128;
/// The one policy that a key has.
const POLICY_NAME: &str = "default";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Policy {
    version: String,
    statement: Vec<Statement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(default)]
    sid: String,
    effect: String,
    principal: Principals,
    action: Texts,
    resource: Texts,
    #[serde(default)]
    condition: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Principals {
    #[serde(rename = "RAM")]
    ram: Texts,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// Whether a key may have this policy.
///
/// # Errors
/// [`KmsError::UnsupportedAction`] for a key that is in no instance, else
/// [`KmsError::InvalidParameter`].
pub(super) fn check(is_in_instance: bool, policy: &str) -> Result<(), KmsError> {
    if !is_in_instance {
        return Err(KmsError::UnsupportedAction);
    }
    let fits = policy.len() <= POLICY_BYTES_MAX
        && serde_json::from_str::<Policy>(policy).is_ok_and(|policy| is_well_formed(&policy));
    if fits { Ok(()) } else { Err(KmsError::InvalidParameter("Policy")) }
}

fn is_well_formed(policy: &Policy) -> bool {
    let statement = |statement: &Statement| {
        let has = |texts: &Texts, fits: fn(&String) -> bool| {
            !texts.all().is_empty() && texts.all().iter().all(fits)
        };
        statement.sid.chars().count() <= SID_CHARS_MAX
            && ["Allow", "Deny"].contains(&statement.effect.as_str())
            && has(&statement.principal.ram, |arn| arn == "*" || arn.starts_with("acs:ram::"))
            && has(&statement.action, |action| action.starts_with("kms:") || action == "*")
            && has(&statement.resource, |resource| resource == "*")
            && statement.condition.values().all(Value::is_object)
    };
    policy.version == "1" && !policy.statement.is_empty() && policy.statement.iter().all(statement)
}

impl Kms {
    /// GetKeyPolicy: JSON text; until one is set, that which lets the account's owner do all.
    ///
    /// # Errors
    /// The published refusals. Keys outside an instance have no policy:
    /// [`KmsError::UnsupportedAction`].
    pub fn key_policy(
        &self,
        caller: &Caller,
        key: &str,
        name: Option<&str>,
    ) -> Result<String, KmsError> {
        self.call(caller, Action::GetKeyPolicy, |call| {
            let key = self.resolve(call, key)?;
            state::check(call.action, key.state)?;
            check_name(name)?;
            if key.instance.is_none() {
                return Err(KmsError::UnsupportedAction);
            }
            let policy = self.catalog.key_policy(&key.key_id)?;
            Ok(policy.unwrap_or_else(|| self.default_policy()))
        })
    }

    /// SetKeyPolicy.
    ///
    /// # Errors
    /// As [`Kms::key_policy`].
    pub fn set_key_policy(
        &self,
        caller: &Caller,
        key: &str,
        name: Option<&str>,
        policy: &str,
    ) -> Result<(), KmsError> {
        self.call(caller, Action::SetKeyPolicy, |call| {
            call.request("Policy", policy);
            let _changes = self.lock_changes();
            let key = self.resolve(call, key)?;
            state::check(call.action, key.state)?;
            check_name(name)?;
            check(key.instance.is_some(), policy)?;
            let (key_id, policy) = (key.key_id, policy.to_owned());
            self.commit(call, &[Operation::PutKeyPolicy { key_id, policy }])
        })
    }

    fn default_policy(&self) -> String {
        let owner = format!("acs:ram::{}:*", self.account.account_id);
        let statement = json!({
            "Sid": "kms default key policy",
            "Effect": "Allow",
            "Principal": {"RAM": [owner]},
            "Action": ["kms:*"],
            "Resource": ["*"],
        });
        json!({"Version": "1", "Statement": [statement]}).to_string()
    }
}

fn check_name(name: Option<&str>) -> Result<(), KmsError> {
    match name {
        None | Some(POLICY_NAME) => Ok(()),
        Some(_) => Err(KmsError::InvalidParameter("PolicyName")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_a_published_form() {
        let policy = |statement: Value| json!({"Version": "1", "Statement": [statement]});
        let good = json!({
            "Sid": "a", "Effect": "Allow", "Principal": {"RAM": ["acs:ram::1:*"]},
            "Action": "kms:*", "Resource": ["*"],
        });
        let is_fine = |value: &Value| check(true, &value.to_string()).is_ok();
        assert!(is_fine(&policy(good.clone())));
        assert!(matches!(
            check(false, &policy(good.clone()).to_string()),
            Err(KmsError::UnsupportedAction)
        ));
        for (name, value) in [
            ("Effect", json!("Maybe")),
            ("Principal", json!({"Service": ["ecs.aliyuncs.com"]})),
            ("Principal", json!({"RAM": []})),
            ("Action", json!("ecs:*")),
            ("Resource", json!(["acs:kms:*:*:key/1"])),
            ("Sid", json!("s".repeat(129))),
            ("Condition", json!({"Bool": 1})),
            ("Colour", json!("red")),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            assert!(!is_fine(&policy(bad)), "{name}");
        }
        assert!(!is_fine(&json!({"Version": "2", "Statement": [good]})));
        assert!(!is_fine(&json!({"Version": "1", "Statement": []})));
        let long = policy(good).to_string() + &" ".repeat(POLICY_BYTES_MAX);
        assert!(check(true, &long).is_err());
    }
}
