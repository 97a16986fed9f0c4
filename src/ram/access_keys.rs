//! Access keys: made, wrapped, found again when a request is signed with one.
//!
//! ```text
//! format, 1 | initialisation vector, 12 | ciphertext, 30 | tag, 16
//! ```
//!
//! Associated data: `sealdisk-ram/secret/v1`, then the access key's id.

use std::sync::Arc;

use super::error::Entity;
use super::{Principal, Ram, RamError};
use crate::catalog::ram::{AccessKeyRecord, RamOperation};
use crate::catalog::{CatalogError, Gate};
use crate::clock::Entropy;
use crate::crypto::aead;
use crate::secret::Secret;

/// Access keys of one user, or of the account's owner; as published.
pub const ACCESS_KEYS_MAX: usize = 2;

const LABEL: &[u8] = b"sealdisk-ram/secret/v1";
const FORMAT: u8 = 1;

/// Letters and digits of a secret: 178 bits.
const SECRET_CHARS: usize = 30;
/// What every id begins with.
const ID_PREFIX: &str = "LTAI5t";
/// Letters and digits after that.
const ID_CHARS: usize = 18;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// What a signature is checked with, and who made it.
#[derive(Debug)]
pub struct Credential {
    /// The access key's secret: ASCII letters and digits.
    pub secret: Secret,
    /// Whose access key it is.
    pub principal: Principal,
    /// Requests signed with an inactive one are refused.
    pub is_active: bool,
}

/// A fresh access key, told once.
#[derive(Debug)]
pub struct NewAccessKey {
    /// What the catalog keeps.
    pub record: AccessKeyRecord,
    /// ASCII letters and digits.
    pub secret: Secret,
}

impl Ram {
    /// What requests signed with access key `id` are checked with; `None` if there is no such key.
    /// Cached until users or access keys change.
    ///
    /// # Errors
    /// The catalog's, or [`RamError::DamagedSecret`].
    pub fn access_key(&self, id: &str) -> Result<Option<Arc<Credential>>, RamError> {
        if let Some(known) = self.cache.credential(id) {
            return Ok(Some(known));
        }
        let generation = self.cache.generation();
        let Some(record) = self.catalog.access_key(id)? else { return Ok(None) };
        let principal = match &record.user_id {
            None => Principal::Root { account: self.account_id.clone() },
            Some(user_id) => {
                let Some(user) = self.catalog.user_by_id(user_id)? else { return Ok(None) };
                Principal::User {
                    account: self.account_id.clone(),
                    user_id: user.user_id,
                    user_name: user.user_name,
                }
            }
        };
        let secret = self.open_secret(&record)?;
        let credential = Arc::new(Credential { secret, principal, is_active: record.is_active });
        self.cache.keep_credential(generation, id, &credential);
        Ok(Some(credential))
    }

    /// A new active access key of `user_name`, or of the account's owner. `gate` is handed the
    /// record and runs just before the commit.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `LimitExceeded.User.AccessKey`; the gate's or the catalog's.
    pub fn create_access_key(
        &self,
        user_name: Option<&str>,
        gate: &mut dyn FnMut(&NewAccessKey) -> super::Gated,
    ) -> Result<NewAccessKey, RamError> {
        let _changes = self.lock_changes();
        let user_id = self.owner_of_keys(user_name)?;
        if self.catalog.access_keys(user_id.as_deref())?.len() >= ACCESS_KEYS_MAX {
            return Err(RamError::LimitExceeded(Entity::AccessKey));
        }
        let mut id = [0; ID_CHARS];
        draw(&mut id, &*self.entropy);
        let access_key_id: String =
            ID_PREFIX.chars().chain(id.iter().map(|byte| char::from(*byte))).collect();
        let secret = Secret::from_fn(SECRET_CHARS, |bytes| draw(bytes, &*self.entropy));
        let record = AccessKeyRecord {
            wrapped_secret: self.wrap_secret(&access_key_id, &secret),
            access_key_id,
            user_id,
            is_active: true,
            created: self.clock.now(),
        };
        let made = NewAccessKey { record, secret };
        let operation = RamOperation::InsertAccessKey(made.record.clone());
        self.apply(vec![operation], &mut || gate(&made))?;
        Ok(made)
    }

    /// The access keys of a user or of the owner, oldest first.
    ///
    /// # Errors
    /// `EntityNotExist.User`, or the catalog's.
    pub fn access_keys(&self, user_name: Option<&str>) -> Result<Vec<AccessKeyRecord>, RamError> {
        let user_id = self.owner_of_keys(user_name)?;
        Ok(self.catalog.access_keys(user_id.as_deref())?)
    }

    /// Makes an access key active or inactive.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `EntityNotExist.User.AccessKey`; the gate's or the catalog's.
    pub fn set_access_key_active(
        &self,
        user_name: Option<&str>,
        id: &str,
        is_active: bool,
        gate: Gate<'_>,
    ) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let record = self.owned_key(user_name, id)?;
        let changed = AccessKeyRecord { is_active, ..record };
        self.apply(vec![RamOperation::UpdateAccessKey(changed)], gate)
    }

    /// Removes an access key for good.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `EntityNotExist.User.AccessKey`; the gate's or the catalog's.
    pub fn delete_access_key(
        &self,
        user_name: Option<&str>,
        id: &str,
        gate: Gate<'_>,
    ) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let record = self.owned_key(user_name, id)?;
        self.apply(vec![RamOperation::DeleteAccessKey(record.access_key_id)], gate)
    }

    fn owned_key(&self, user_name: Option<&str>, id: &str) -> Result<AccessKeyRecord, RamError> {
        let user_id = self.owner_of_keys(user_name)?;
        let found = self.catalog.access_key(id)?.filter(|record| record.user_id == user_id);
        found.ok_or(RamError::NotFound(Entity::AccessKey))
    }

    fn owner_of_keys(&self, user_name: Option<&str>) -> Result<Option<String>, RamError> {
        user_name.map(|name| Ok(self.user(name)?.user_id)).transpose()
    }

    fn wrap_secret(&self, access_key_id: &str, secret: &Secret) -> Vec<u8> {
        let mut iv = [0; aead::IV_BYTES];
        self.entropy.fill(&mut iv);
        wrap(&self.key, iv, access_key_id, secret)
    }

    fn open_secret(&self, record: &AccessKeyRecord) -> Result<Secret, RamError> {
        unwrap(&self.key, record)
    }
}

/// The operations that put every access key's secret from under `old` under `new`: for a change of
/// the root key, in the transaction that changes it.
///
/// # Errors
/// The catalog's, or [`RamError::DamagedSecret`].
pub fn rewrap_secrets(
    catalog: &dyn crate::catalog::Catalog,
    (old, new): (&Secret, &Secret),
    entropy: &dyn Entropy,
) -> Result<Vec<RamOperation>, RamError> {
    let records = catalog.all_access_keys()?;
    let rewrapped = records.into_iter().map(|record| {
        let secret = unwrap(old, &record)?;
        let mut iv = [0; aead::IV_BYTES];
        entropy.fill(&mut iv);
        let wrapped_secret = wrap(new, iv, &record.access_key_id, &secret);
        Ok(RamOperation::UpdateAccessKey(AccessKeyRecord { wrapped_secret, ..record }))
    });
    rewrapped.collect()
}

fn wrap(key: &Secret, iv: [u8; aead::IV_BYTES], id: &str, secret: &Secret) -> Vec<u8> {
    let sealed = aead::seal(key, iv, &[LABEL, id.as_bytes()].concat(), secret.expose());
    [&[FORMAT][..], &iv, &sealed].concat()
}

fn unwrap(key: &Secret, record: &AccessKeyRecord) -> Result<Secret, RamError> {
    let id = &record.access_key_id;
    let damaged = || RamError::DamagedSecret { access_key_id: id.clone() };
    let stored = record.wrapped_secret.strip_prefix(&[FORMAT]).ok_or_else(damaged)?;
    let (iv, sealed) = stored.split_first_chunk().ok_or_else(damaged)?;
    let data = [LABEL, id.as_bytes()].concat();
    // The stored bytes decide the length: a damaged record must not ask for more than a secret is.
    if sealed.len() != SECRET_CHARS + aead::TAG_BYTES {
        return Err(damaged());
    }
    aead::open(key, *iv, &data, sealed).map_err(|_| damaged())
}

/// Fills `chars` with letters and digits, each as likely as any other.
fn draw(chars: &mut [u8], entropy: &dyn Entropy) {
    for slot in chars {
        *slot = loop {
            let mut byte = [0];
            entropy.fill(&mut byte);
            // 248 = 4 * 62: higher values would make some letters likelier.
            if byte[0] < 248 {
                break ALPHABET[usize::from(byte[0] % 62)];
            }
        };
    }
}

/// What a change of one thing meets when its name is taken.
pub(super) fn taken(error: RamError, entity: Entity) -> RamError {
    match error {
        RamError::Catalog(CatalogError::Exists) => RamError::Exists(entity),
        RamError::Catalog(CatalogError::NotFound) => RamError::NotFound(entity),
        other => other,
    }
}
