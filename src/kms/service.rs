//! The service key: made by the disk service at its first need, one for account and region.

use super::create::NewKey;
use super::{Action, Kms, KmsError};
use crate::catalog::{AliasRecord, CatalogError, KeyRecord, Operation};
use crate::ram::Caller;
use crate::trail::ResourceType;

/// The alias of the disk service's key. All of `alias/acs` is reserved.
pub const ECS_KEY_ALIAS: &str = "alias/acs/ecs";

/// `Creator` of the disk service's key.
pub const ECS_CREATOR: &str = "Ecs";

const DESCRIPTION: &str = "Default key that protects disks of ECS when no other key is defined";

/// Whether `key` belongs to a service: its creator is no account number.
pub fn is_service_key(key: &KeyRecord) -> bool {
    !key.creator.bytes().all(|byte| byte.is_ascii_digit())
}

impl Kms {
    /// The disk service's own key, made now if there is none yet; however many ask at once, it is
    /// one. The making is recorded as the service's, under the request of `caller`.
    ///
    /// # Errors
    /// [`KmsError::Unrecorded`] or [`KmsError::Catalog`]; nothing was made then.
    pub fn service_key(&self, caller: &Caller) -> Result<KeyRecord, KmsError> {
        if let Some(key) = self.existing_service_key()? {
            return Ok(key);
        }
        let service = Caller::ecs_for(caller);
        self.call(&service, Action::CreateServiceKey, |call| {
            let _changes = self.lock_changes();
            call.on_service_key();
            self.allow(call, &self.account.arn("key"))?;
            if let Some(key) = self.existing_service_key()? {
                call.needs_no_record();
                return Ok(key);
            }
            let (key, version) = self.new_key(NewKey::plain(ECS_CREATOR, DESCRIPTION))?;
            let alias = AliasRecord {
                name: ECS_KEY_ALIAS.into(),
                key_id: key.key_id.clone(),
                created: key.created,
            };
            call.about(ResourceType::Key, &key.key_id);
            call.about(ResourceType::Alias, ECS_KEY_ALIAS);
            call.response("KeyId", key.key_id.as_str());
            let operations =
                [Operation::InsertKey(key.clone(), version), Operation::InsertAlias(alias)];
            match self.commit(call, &operations) {
                // Another host came first: its key is ours too.
                Err(KmsError::Catalog(CatalogError::Exists)) => {
                    call.needs_no_record();
                    self.existing_service_key()?.ok_or(KmsError::KeyNotFound)
                }
                committed => committed.map(|()| key),
            }
        })
    }

    fn existing_service_key(&self) -> Result<Option<KeyRecord>, KmsError> {
        match self.catalog.alias(ECS_KEY_ALIAS)? {
            Some(alias) => Ok(self.catalog.key(&alias.key_id)?),
            None => Ok(None),
        }
    }
}
