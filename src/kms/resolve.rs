//! From what a caller calls a key to the key.

use super::call::Call;
use super::state::Class;
use super::{Kms, KmsError, is_service_key};
use crate::catalog::{KeyRecord, KeyState};
use crate::ram::{ECS_SERVICE, Principal};
use crate::trail::ResourceType;

/// What a `KeyId` parameter can hold.
enum Name<'a> {
    Id(&'a str),
    Alias(&'a str),
    /// Resource name of a key or alias of another account or region.
    Elsewhere,
}

impl Kms {
    /// The key that `given` names, if the caller may do this to it at all. The key's state is yet
    /// to be asked.
    pub(super) fn resolve(&self, call: &mut Call<'_>, given: &str) -> Result<KeyRecord, KmsError> {
        call.request("KeyId", given);
        self.find(call, given)
    }

    /// As [`Kms::resolve`], for a call whose record names its keys otherwise.
    pub(super) fn find(&self, call: &mut Call<'_>, given: &str) -> Result<KeyRecord, KmsError> {
        let name = self.read_name(given);
        let key = match name {
            Name::Id(id) => self.catalog.key(id)?,
            Name::Alias(alias) => match self.catalog.alias(alias)? {
                Some(alias) => self.catalog.key(&alias.key_id)?,
                None => None,
            },
            Name::Elsewhere => None,
        };
        let key = key.and_then(|key| self.as_of_now(key));
        // Permission before existence: who may not ask is not told what there is.
        let resource = match &name {
            Name::Id(id) => self.account.key_arn(id),
            Name::Alias(alias) => self.account.alias_arn(alias),
            Name::Elsewhere => given.to_owned(),
        };
        let named = key.as_ref().map_or(given, |key| key.key_id.as_str()).to_owned();
        call.about(ResourceType::Key, &named);
        if key.as_ref().is_some_and(is_service_key) {
            call.on_service_key();
        }
        match &key {
            Some(key) => self.allow_key(call, &key.key_id)?,
            None => self.allow(call, &resource)?,
        }
        let is_taken = match &name {
            Name::Id(id) if *id == given => true,
            Name::Alias(_) => call.action.takes_aliases(),
            Name::Id(_) | Name::Elsewhere => call.action.takes_arns(),
        };
        if !is_taken {
            return Err(match name {
                Name::Alias(_) => KmsError::UnsupportedAlias,
                Name::Id(_) | Name::Elsewhere => KmsError::InvalidParameter("KeyId"),
            });
        }
        match (key, name) {
            (Some(key), _) => {
                guard_service_key(call, &key)?;
                Ok(key)
            }
            (None, Name::Alias(_)) => Err(KmsError::AliasNotFound),
            (None, Name::Id(_) | Name::Elsewhere) => Err(KmsError::KeyNotFound),
        }
    }

    /// Whether the deletion date of `key` has passed: from then on it is not there, whenever the
    /// sweep comes by.
    pub(super) fn is_gone(&self, key: &KeyRecord) -> bool {
        key.state == KeyState::PendingDeletion
            && key.deletes.is_some_and(|deletes| deletes <= self.clock.now())
    }

    /// `key` as it is at this moment, whatever the sweep has yet to do: none after its deletion
    /// date, without material after that has expired.
    pub(super) fn as_of_now(&self, key: KeyRecord) -> Option<KeyRecord> {
        if self.is_gone(&key) {
            return None;
        }
        if !self.material_is_due(&key) {
            return Some(key);
        }
        let state = match key.state {
            KeyState::PendingDeletion => KeyState::PendingDeletion,
            _ => KeyState::PendingImport,
        };
        Some(KeyRecord { state, has_material: false, ..key })
    }

    fn read_name<'a>(&self, given: &'a str) -> Name<'a> {
        if given.starts_with("alias/") {
            return Name::Alias(given);
        }
        if !given.starts_with("acs:") {
            return Name::Id(given);
        }
        let prefix = self.account.arn("");
        match given.strip_prefix(&prefix) {
            Some(relative) if relative.starts_with("alias/") => Name::Alias(relative),
            Some(relative) => relative.strip_prefix("key/").map_or(Name::Elsewhere, Name::Id),
            None => Name::Elsewhere,
        }
    }
}

/// A service key is seen by everybody who may look, used by its service, changed by nobody.
pub(super) fn guard_service_key(call: &Call<'_>, key: &KeyRecord) -> Result<(), KmsError> {
    if !is_service_key(key) {
        return Ok(());
    }
    let is_its_service =
        matches!(call.caller.principal, Principal::Service { name } if name == ECS_SERVICE);
    match call.action.class() {
        Class::Look => Ok(()),
        Class::Use if is_its_service => Ok(()),
        Class::Use => Err(KmsError::NoPermission),
        Class::Manage => Err(KmsError::UnsupportedOperation),
    }
}
