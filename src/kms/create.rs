//! CreateKey: which keys can be made, and how one is made.

use super::hsm::HSM;
use super::material::{MaterialStore, NewVersion, SOFTWARE_LEVEL};
use super::spec::KeySpec;
use super::{Action, Kms, KmsError, is_service_key, rotation, tags};
use crate::catalog::{KeyRecord, KeyState, KeyVersionRecord, Operation, Page};
use crate::clock::random_uuid;
use crate::ram::Caller;
use crate::trail::ResourceType;

const ORIGIN: &str = "Aliyun_KMS";
/// `Origin` of keys whose material their owner brings.
pub(super) const EXTERNAL: &str = "EXTERNAL";

/// Keys of an account in a region, service keys aside; one more: `Rejected.LimitExceeded`.
const KEYS_MAX: u64 = 200;

/// Parameters of CreateKey; what is absent takes its published default.
#[derive(Clone, Debug, Default)]
pub struct CreateKey {
    /// `Description`.
    pub description: String,
    /// `KeySpec`: `Aliyun_AES_256`.
    pub spec: Option<String>,
    /// `KeyUsage`: `SIGN/VERIFY` where the spec can sign, else `ENCRYPT/DECRYPT`.
    pub usage: Option<String>,
    /// `Origin`: `Aliyun_KMS`.
    pub origin: Option<String>,
    /// `ProtectionLevel`: `SOFTWARE`.
    pub protection: Option<String>,
    /// `DKMSInstanceId`: none.
    pub instance: Option<String>,
    /// `EnableAutomaticRotation`: no.
    pub rotates: bool,
    /// `RotationInterval`, such as `30d`.
    pub rotation_interval: Option<String>,
    /// `Tags`: name and value.
    pub tags: Vec<(String, String)>,
    /// `Policy`: the default one. Keys of an instance alone have one.
    pub policy: Option<String>,
}

/// What a new key shall be, checked.
pub(super) struct NewKey<'a> {
    pub(super) creator: &'a str,
    pub(super) description: &'a str,
    pub(super) spec: KeySpec,
    pub(super) usage: &'static str,
    pub(super) origin: &'static str,
    /// `ProtectionLevel`; an instance decides for itself.
    pub(super) level: Option<&'a str>,
    pub(super) instance: Option<String>,
    pub(super) rotation: Option<std::time::Duration>,
}

impl<'a> NewKey<'a> {
    /// A symmetric key without anything special.
    pub(super) const fn plain(creator: &'a str, description: &'a str) -> Self {
        Self {
            creator,
            description,
            spec: KeySpec::Aes256,
            usage: super::spec::ENCRYPT,
            origin: ORIGIN,
            level: None,
            instance: None,
            rotation: None,
        }
    }
}

impl Kms {
    /// CreateKey.
    ///
    /// # Errors
    /// The published refusals.
    pub fn create_key(&self, caller: &Caller, wanted: &CreateKey) -> Result<KeyRecord, KmsError> {
        self.call(caller, Action::CreateKey, |call| {
            let parameters = [
                ("KeySpec", &wanted.spec),
                ("KeyUsage", &wanted.usage),
                ("Origin", &wanted.origin),
                ("ProtectionLevel", &wanted.protection),
                ("DKMSInstanceId", &wanted.instance),
                ("RotationInterval", &wanted.rotation_interval),
            ];
            for (name, value) in parameters {
                if let Some(value) = value {
                    call.request(name, value.as_str());
                }
            }
            call.request("Description", wanted.description.as_str());
            if !wanted.tags.is_empty() {
                call.request("Tags", tags::shown(&wanted.tags));
            }
            self.allow(call, &self.account.arn("key"))?;
            let new = self.checked(wanted)?;
            let _changes = self.lock_changes();
            let keys = self.catalog.keys(Page::ALL)?.items;
            if keys.iter().filter(|key| !is_service_key(key)).count() as u64 >= KEYS_MAX {
                return Err(KmsError::LimitExceeded);
            }
            let (key, version) = self.new_key(new)?;
            call.about(ResourceType::Key, &key.key_id);
            call.response("KeyId", key.key_id.as_str());
            let mut operations = vec![Operation::InsertKey(key.clone(), version)];
            operations.extend(tags::put_on(&key.key_id, &wanted.tags));
            if let Some(policy) = &wanted.policy {
                let (key_id, policy) = (key.key_id.clone(), policy.clone());
                operations.push(Operation::PutKeyPolicy { key_id, policy });
            }
            self.commit(call, &operations)?;
            Ok(key)
        })
    }

    fn checked<'a>(&'a self, wanted: &'a CreateKey) -> Result<NewKey<'a>, KmsError> {
        if wanted.description.chars().count() > super::keys::DESCRIPTION_CHARS_MAX {
            return Err(KmsError::InvalidParameter("Description"));
        }
        let level = wanted.protection.as_deref();
        if !matches!(level, None | Some(SOFTWARE_LEVEL | HSM)) {
            return Err(KmsError::InvalidParameter("ProtectionLevel"));
        }
        let store = self.store_of_new(level, wanted.instance.as_deref())?;
        let spec = KeySpec::wanted(wanted.spec.as_deref())?;
        if store.level() == HSM && !spec.is_symmetric() {
            return Err(KmsError::UnsupportedProtectionLevel);
        }
        let usage = spec.usage(wanted.usage.as_deref())?;
        let origin = match wanted.origin.as_deref() {
            None | Some(ORIGIN) => ORIGIN,
            // Not into an instance of software, as published.
            Some(EXTERNAL)
                if spec.is_symmetric() && (wanted.instance.is_none() || store.level() == HSM) =>
            {
                EXTERNAL
            }
            Some(EXTERNAL) => return Err(KmsError::UnsupportedOrigin),
            Some(_) => return Err(KmsError::InvalidParameter("Origin")),
        };
        let interval = wanted.rotation_interval.as_deref();
        let rotation = rotation::wanted(wanted.rotates, interval)?;
        if rotation.is_some() && !(spec.is_symmetric() && origin == ORIGIN) {
            return Err(KmsError::UnsupportedOperation);
        }
        if !wanted.tags.is_empty() {
            tags::check_tags(&wanted.tags, "Tags")?;
        }
        if let Some(policy) = &wanted.policy {
            super::policy::check(wanted.instance.is_some(), policy)?;
        }
        let NewKey { creator, description, .. } =
            NewKey::plain(&self.account.account_id, &wanted.description);
        let instance = wanted.instance.clone();
        Ok(NewKey { creator, description, spec, usage, origin, level, instance, rotation })
    }

    /// A fresh key and its first version, which has no material yet if its owner brings it.
    ///
    /// # Errors
    /// Those of the material's store.
    pub(super) fn new_key(
        &self,
        new: NewKey<'_>,
    ) -> Result<(KeyRecord, KeyVersionRecord), KmsError> {
        let created = self.clock.now();
        let unique = random_uuid(self.entropy.as_ref());
        let key_id = match &new.instance {
            None => unique.to_string(),
            Some(_) => format!("key-{}", &unique.simple().to_string()[..INSTANCE_KEY_DIGITS]),
        };
        let store = self.store_of_new(new.level, new.instance.as_deref())?;
        let has_material = new.origin == ORIGIN;
        let version = if has_material {
            let made = self.new_version(store, new.spec, (&key_id, 1));
            made.map_err(|error| error.of_instance(new.instance.is_some()))?
        } else {
            KeyVersionRecord {
                version_id: random_uuid(self.entropy.as_ref()).to_string(),
                key_id: key_id.clone(),
                created,
                store: store.name().to_owned(),
                wrapped_material: Vec::new(),
                public_key: None,
            }
        };
        let key = KeyRecord {
            key_id,
            description: new.description.to_owned(),
            spec: new.spec.as_str().to_owned(),
            usage: new.usage.to_owned(),
            instance: new.instance,
            origin: new.origin.to_owned(),
            protection: store.level().to_owned(),
            creator: new.creator.to_owned(),
            state: if has_material { KeyState::Enabled } else { KeyState::PendingImport },
            created,
            deletes: None,
            primary_version: version.version_id.clone(),
            rotation: new.rotation,
            rotated: created,
            deletion_protected: false,
            deletion_protected_why: String::new(),
            has_material,
            material_expires: None,
        };
        Ok((key, version))
    }

    /// A version with fresh material in `store`, number `number` of its key.
    pub(super) fn new_version(
        &self,
        store: &dyn MaterialStore,
        spec: KeySpec,
        (key_id, number): (&str, u64),
    ) -> Result<KeyVersionRecord, KmsError> {
        let version_id = random_uuid(self.entropy.as_ref()).to_string();
        let made = store.generate(spec, &NewVersion { key_id, version_id: &version_id, number })?;
        Ok(KeyVersionRecord {
            version_id,
            key_id: key_id.to_owned(),
            created: self.clock.now(),
            store: store.name().to_owned(),
            wrapped_material: made.wrapped,
            public_key: made.public_key,
        })
    }
}

/// Digits after `key-` in the id of a key in an instance.
const INSTANCE_KEY_DIGITS: usize = 20;
