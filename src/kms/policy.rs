//! Key policies: kept with keys of an instance, evaluated beside the caller's own policies.

use serde_json::json;

use super::{Action, Kms, KmsError, state};
use crate::catalog::Operation;
use crate::ram::{Caller, KeyPolicy, RamError};

/// The one policy that a key has.
const POLICY_NAME: &str = "default";

/// Whether a key may have this policy.
///
/// # Errors
/// [`KmsError::UnsupportedAction`] for a key that is in no instance, else
/// [`KmsError::InvalidParameter`].
pub(super) fn check(is_in_instance: bool, policy: &str) -> Result<(), KmsError> {
    if !is_in_instance {
        return Err(KmsError::UnsupportedAction);
    }
    KeyPolicy::parse(policy).map(drop).map_err(|_| KmsError::InvalidParameter("Policy"))
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

    /// What a key's own policy says, if it has been given one: the default adds nothing to what the
    /// account's owner has anyway.
    pub(super) fn own_policy(&self, key_id: &str) -> Result<Option<KeyPolicy>, KmsError> {
        let Some(text) = self.catalog.key_policy(key_id)? else { return Ok(None) };
        let policy = KeyPolicy::parse(&text).map_err(|error| RamError::DamagedPolicy {
            policy_name: format!("of key {key_id}"),
            error,
        })?;
        Ok(Some(policy))
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
    use serde_json::Value;

    use super::*;
    use crate::ram::KEY_POLICY_BYTES_MAX;

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
        let long = policy(good).to_string() + &" ".repeat(KEY_POLICY_BYTES_MAX);
        assert!(check(true, &long).is_err());
    }
}
