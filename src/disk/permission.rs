//! Who may do what with a disk, and with which keys the disk service may protect it.

use std::path::Path;

use crate::catalog::KeyState;
use crate::kms::{DISK_CONSENT_TAG, KmsError};
use crate::ram::{Caller, Conditions, Denial, ECS_ROLE, ECS_SERVICE, Principal};
use crate::trail::{Event, ResourceType, Service};

use super::registry::Disks;
use super::{ControlError, audit};

impl Disks {
    /// Whether the caller may do `action` (`ecs:AttachDisk`) to the disk, or to any (`*`).
    pub(super) fn allow(
        &self,
        caller: &Caller,
        action: &'static str,
        disk_id: &str,
    ) -> Result<(), ControlError> {
        self.allow_on(caller, action, &format!("disk/{disk_id}"))
    }

    /// Whether the caller may do `action` to `thing` (`snapshot/s-…`).
    pub(super) fn allow_on(
        &self,
        caller: &Caller,
        action: &'static str,
        thing: &str,
    ) -> Result<(), ControlError> {
        let account = &self.parts.account;
        let (service, _) = action.split_once(':').unwrap_or(("ecs", action));
        let resource = format!("acs:{service}:{}:{}:{thing}", account.region, account.account_id);
        let conditions = Conditions::of(caller);
        let who = &caller.principal;
        let decision = self.parts.ram.decide(who, action, &resource, &conditions);
        match Denial::of(who, action, decision.map_err(KmsError::Ram)?) {
            None => Ok(()),
            Some(denial) => Err(ControlError::Denied { denial: Box::new(denial), resource }),
        }
    }

    /// Records that somebody lists things, or is refused to. `things` is what they are (a resource)
    /// and how the parameter with their ids is called.
    pub(super) fn may_list(
        &self,
        caller: &Caller,
        action: &'static str,
        (thing, ids_name): (&str, &'static str),
        ids: Option<&Vec<String>>,
    ) -> Result<(), ControlError> {
        let (_, name) = action.split_once(':').unwrap_or(("ecs", action));
        let mut event = Event::new(Service::Ecs, name, self.actor(caller)).read_only();
        if let Some(ids) = ids {
            event = event.request(ids_name, ids.join(","));
        }
        if let Err(error) = self.allow_on(caller, action, thing) {
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
            return Err(error);
        }
        Ok(self.parts.trail.record(&event)?)
    }

    /// Does a command about one thing, and records it if it is refused.
    pub(super) fn recorded<T>(
        &self,
        caller: &Caller,
        action: &'static str,
        thing: (ResourceType, &str),
        command: impl FnOnce() -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let outcome = command();
        if let Err(error) = &outcome {
            let event = audit::thing_event(self.actor(caller), action, thing);
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
        }
        outcome
    }

    /// The id of a key that may wrap data keys now.
    pub(super) fn usable_key(&self, caller: &Caller, key: &str) -> Result<String, ControlError> {
        let found = self.parts.kms.find_key(&self.as_ecs(caller), key);
        let key = found.map_err(|error| match (error.status(), &error) {
            (404, _) => ControlError::refused(
                "InvalidParameter.KMSKeyId.NotFound",
                404,
                format!("The specified KMSKeyId does not exist: {key}"),
            ),
            (_, KmsError::NoPermission) => self.unauthorised(key),
            _ => not_opened("InvalidParameter.KmsNotEnabled", 400, error),
        })?;
        if !key.is_symmetric {
            let message = format!("The specified KMSKeyId is not symmetric: {}", key.key_id);
            return Err(ControlError::refused("InvalidKMSKeyId.NotSymmetric", 400, message));
        }
        if key.state == KeyState::Enabled {
            return Ok(key.key_id);
        }
        Err(not_enabled(&format!("{} is {}.", key.key_id, key.state)))
    }

    /// What the KMS's refusal to make a data key under `key_id` means for a disk.
    pub(super) fn no_data_key(&self, error: KmsError, key_id: &str) -> ControlError {
        match error {
            KmsError::NoPermission => self.unauthorised(key_id),
            other => not_opened("InvalidParameter.KmsNotEnabled", 400, other),
        }
    }

    /// The key of disks that name none.
    pub(super) fn default_key(&self, caller: &Caller) -> Result<String, ControlError> {
        let found = self.parts.kms.default_key(&self.as_ecs(caller));
        found.map_err(|error| not_opened("InvalidParameter.Encrypted.KmsNotEnabled", 400, error))
    }

    /// What the KMS's refusal to unwrap the data key in `file` means for a disk, in the words of
    /// ECS.
    pub(super) fn unusable_key(&self, error: KmsError, key_id: &str, file: &Path) -> ControlError {
        match error {
            // The tag cannot tell which of them was changed.
            KmsError::InvalidParameter("CiphertextBlob") => ControlError::refused(
                "DiskError",
                403,
                format!(
                    "{}: the wrapped data key does not belong to this header: one of them was \
                     changed. Put the right file back.",
                    file.display()
                ),
            ),
            KmsError::Disabled | KmsError::PendingDeletion | KmsError::PendingImport => {
                not_enabled(&error.message())
            }
            KmsError::NoPermission => self.unauthorised(key_id),
            other => not_opened("InvalidOperation.KMSServiceNotOpen", 403, other),
        }
    }

    /// Why the disk service may not use a customer's key: if the tag alone would help it is the
    /// tag, else the role.
    fn unauthorised(&self, key_id: &str) -> ControlError {
        let conditions = Conditions {
            secure_transport: true,
            key_tags: vec![(DISK_CONSENT_TAG.into(), "true".into())],
            ..Conditions::default()
        };
        let service = Principal::Service { name: ECS_SERVICE };
        let resource = self.parts.account.key_arn(key_id);
        match self.parts.ram.decide(&service, "kms:Decrypt", &resource, &conditions) {
            Err(error) => KmsError::Ram(error).into(),
            Ok(decision) if decision.is_allowed() => ControlError::refused(
                "InvalidParameter.KMSKeyId.CMKUnauthorized",
                403,
                format!(
                    "The CMK needs to be added ECS tag. Put the tag {DISK_CONSENT_TAG}=true on \
                     {key_id}."
                ),
            ),
            Ok(_) => ControlError::refused(
                "InvalidParameter.KMSKeyId.KMSUnauthorized",
                403,
                format!(
                    "ECS service have no right to access your KMS. Create the role {ECS_ROLE} \
                     again, with its policy."
                ),
            ),
        }
    }
}

/// An account that has not opened the KMS, in the words of ECS for what was asked of it.
fn not_opened(code: &'static str, status: u16, error: KmsError) -> ControlError {
    match error {
        KmsError::ServiceNotEnabled => ControlError::refused(
            code,
            status,
            "The KMS is not enabled for this account. Open it (OpenKmsService).".to_owned(),
        ),
        other => other.into(),
    }
}

fn not_enabled(why: &str) -> ControlError {
    let message = format!("The CMK needs to be enabled. {why}");
    ControlError::refused("InvalidParameter.KMSKeyId.CMKNotEnabled", 403, message)
}
