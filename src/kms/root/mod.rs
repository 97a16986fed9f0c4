//! The root key: where it comes from, how a catalog knows it again, how another takes its place.
//!
//! ```text
//! root key  --seals-->  sealing key  --HKDF-->  key of KMS material, key of the trail, ...
//! (provider)            (root record)           (never stored)
//! ```
//!
//! The root key seals one random secret, the *sealing key*; everything that the catalog keeps is
//! sealed under keys derived from that one. So a rotation is one row in one transaction, whatever
//! the catalog holds and whoever else seals in it; it needs no pause; and a token that never gives
//! its root key away is asked once a start. What a rotation does not do: take back what the holder
//! of the old root key and an old copy of the catalog has. See docs/keys.md.
//!
//! The root key itself is forgotten as soon as it has opened the sealing key.

use std::sync::{Arc, Mutex, PoisonError};

use super::KmsError;
use crate::catalog::{Catalog, CatalogError, Operation, Page, RootRecord};
use crate::clock::{Clock, Entropy};
use crate::config;
use crate::crypto::kdf::hkdf_sha256;
use crate::secret::Secret;
use crate::trail::TrailError;

mod credential;
mod error;
mod event;
mod file;
mod key;
mod passphrase;
mod prompt;
mod token;

pub use credential::Credential;
pub use error::RootError;
pub use event::rotated;
pub use file::KeyFile;
use key::KEY_BYTES;
pub use key::{RootKey, SoftwareKey};
pub use passphrase::{PASSPHRASE_BYTES_MIN, Passphrase, Source};
pub use token::TokenKey;

/// A root key, and what the root record says of how it was found.
pub struct Loaded {
    key: Box<dyn RootKey>,
    parameters: String,
}

impl Loaded {
    fn new(key: SoftwareKey) -> Self {
        Self { key: Box::new(key), parameters: String::new() }
    }
}

/// Where a root key comes from.
pub trait Provider: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Where it looks, for people.
    fn place(&self) -> String;

    /// The root key; `known` is the catalog's record, `None` in a catalog without one.
    ///
    /// # Errors
    /// [`RootError`]: all but `Wrong` and `Corrupt`, which only the catalog can tell.
    fn load(&self, known: Option<&RootRecord>, entropy: &dyn Entropy) -> Result<Loaded, RootError>;

    /// A root key to put in the place of the one that is `known`, made or `given`. It is safely
    /// kept when this returns, and [`Provider::load`] finds it if the catalog names it.
    ///
    /// # Errors
    /// [`RootError`].
    fn prepare(
        &self,
        known: &RootRecord,
        given: Option<&Secret>,
        entropy: &dyn Entropy,
    ) -> Result<Loaded, RootError>;

    /// The catalog names the prepared key now: makes it the usual one.
    ///
    /// # Errors
    /// [`RootError::Io`]; nothing is lost, the next start does it.
    fn promote(&self) -> Result<(), RootError>;
}

/// The provider that the configuration asks for.
pub fn provider(wanted: &config::RootKey) -> Box<dyn Provider> {
    match wanted {
        config::RootKey::File { path, may_create } => {
            Box::new(KeyFile { path: path.clone(), may_create: *may_create })
        }
        config::RootKey::Passphrase { from } => {
            let source = match from {
                config::PassphraseFrom::File(path) => Source::File(path.clone()),
                config::PassphraseFrom::Credential(name) => Source::Credential(name.clone()),
                config::PassphraseFrom::Prompt => Source::Prompt,
            };
            Box::new(Passphrase { source })
        }
        config::RootKey::Credential { name } => Box::new(Credential { name: name.clone() }),
        config::RootKey::Token { uri } => Box::new(TokenKey::new(uri.clone())),
    }
}

/// What a [`Root`] is made of.
pub struct RootParts {
    /// Whose root record it is.
    pub catalog: Arc<dyn Catalog>,
    /// Where the root key comes from.
    pub provider: Box<dyn Provider>,
    /// Where it came from before, if it is to be moved.
    pub previous: Option<Box<dyn Provider>>,
    /// The time of rotations.
    pub clock: Arc<dyn Clock>,
    /// Fresh keys.
    pub entropy: Arc<dyn Entropy>,
}

/// The opened root of a catalog.
pub struct Root {
    parts: RootParts,
    sealing_key: Secret,
    /// The configured root key, while the catalog still names the previous one. Held during a
    /// rotation.
    pending: Mutex<Option<Loaded>>,
}

/// A rotation's record in the trail, made just before the commit.
pub type RotationGate<'a> = &'a mut dyn FnMut(&RootRecord) -> Result<(), TrailError>;

impl Root {
    /// Opens the sealing key of the catalog; a catalog without keys takes the root key as its own.
    /// To be done before anything else is read: what was sealed under another key looks damaged,
    /// and is not.
    ///
    /// # Errors
    /// [`KmsError::Root`], or the catalog's.
    pub fn unlock(parts: RootParts) -> Result<Self, KmsError> {
        let entropy = Arc::clone(&parts.entropy);
        let Some(record) = parts.catalog.root()? else {
            return Self::adopt(parts);
        };
        let loaded = parts.provider.load(Some(&record), &*entropy)?;
        if loaded.key.id() == record.root_key_id {
            let sealing_key = loaded.key.open(&record.sealed_key)?;
            return Ok(Self { parts, sealing_key, pending: Mutex::default() });
        }
        if loaded.key.open(&record.sealed_key).is_ok() {
            // The right key under another name.
            return Err(RootError::Corrupt.into());
        }
        let Some(previous) = &parts.previous else { return Err(wrong(&loaded, &record).into()) };
        let before = previous.load(Some(&record), &*entropy)?;
        if before.key.id() != record.root_key_id {
            return Err(wrong(&loaded, &record).into());
        }
        let sealing_key = before.key.open(&record.sealed_key)?;
        Ok(Self { parts, sealing_key, pending: Mutex::new(Some(loaded)) })
    }

    fn adopt(parts: RootParts) -> Result<Self, KmsError> {
        if parts.catalog.keys(Page { offset: 0, limit: 1 })?.total > 0 {
            return Err(RootError::Corrupt.into());
        }
        let entropy = Arc::clone(&parts.entropy);
        let loaded = parts.provider.load(None, &*entropy)?;
        let sealing_key = Secret::random(KEY_BYTES, &*entropy);
        let record = RootRecord {
            provider: parts.provider.name().to_owned(),
            parameters: loaded.parameters,
            root_key_id: loaded.key.id().to_owned(),
            sealed_key: loaded.key.seal(&sealing_key, &*entropy)?,
            previous_id: None,
            since: parts.clock.now(),
        };
        match parts.catalog.apply(&[Operation::InsertRoot(record)], &mut || Ok(())) {
            // Another host adopted one meanwhile.
            Err(CatalogError::Exists) => Self::unlock(parts),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(Self { parts, sealing_key, pending: Mutex::default() }),
        }
    }

    /// What all other keys are derived from.
    pub fn sealing_key(&self) -> Secret {
        self.sealing_key.duplicate()
    }

    /// The key of the trail's chain.
    pub fn trail_key(&self) -> Secret {
        trail_key(&self.sealing_key)
    }

    /// The key that seals the secrets of access keys.
    pub fn ram_key(&self) -> Secret {
        ram_key(&self.sealing_key)
    }

    /// Where the root key comes from.
    pub fn provider(&self) -> &dyn Provider {
        &*self.parts.provider
    }

    /// Whose root this is.
    pub fn catalog(&self) -> &dyn Catalog {
        &*self.parts.catalog
    }

    /// The catalog's record.
    ///
    /// # Errors
    /// The catalog's.
    pub fn record(&self) -> Result<RootRecord, KmsError> {
        Ok(self.parts.catalog.root()?.ok_or(RootError::Corrupt)?)
    }

    /// Puts the configured root key in the place of the previous one, if the catalog still names
    /// that; the record then.
    ///
    /// # Errors
    /// As [`Root::rotate`].
    pub fn finish_move(&self, gate: RotationGate<'_>) -> Result<Option<RootRecord>, KmsError> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(next) = pending.as_ref() else { return Ok(None) };
        let record = self.replace(&self.record()?, next, gate)?;
        *pending = None;
        Ok(Some(record))
    }

    /// Puts another root key in the place of the present one: a fresh one, or the one made of
    /// `given`. Serving goes on meanwhile. A crash at any moment leaves either one or the other.
    ///
    /// # Errors
    /// [`KmsError::Root`] if there is no such key, [`KmsError::Unrecorded`] if `gate` refused; the
    /// present one stays.
    pub fn rotate(
        &self,
        given: Option<&Secret>,
        gate: RotationGate<'_>,
    ) -> Result<RootRecord, KmsError> {
        let _one_at_a_time = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.record()?;
        let next = self.parts.provider.prepare(&known, given, &*self.parts.entropy)?;
        if next.key.id() == known.root_key_id {
            return Err(RootError::Unchanged.into());
        }
        let record = self.replace(&known, &next, gate)?;
        if let Err(error) = self.parts.provider.promote() {
            // The key is safe where it is.
            tracing::warn!(%error, "the new root key is in use and not yet in its usual place; \
                 the next start puts it there");
        }
        Ok(record)
    }

    fn replace(
        &self,
        known: &RootRecord,
        next: &Loaded,
        gate: RotationGate<'_>,
    ) -> Result<RootRecord, KmsError> {
        let record = RootRecord {
            provider: self.parts.provider.name().to_owned(),
            parameters: next.parameters.clone(),
            root_key_id: next.key.id().to_owned(),
            sealed_key: next.key.seal(&self.sealing_key, &*self.parts.entropy)?,
            previous_id: Some(known.root_key_id.clone()),
            since: self.parts.clock.now(),
        };
        let seen_root_key_id = known.root_key_id.clone();
        let change = [Operation::ReplaceRoot { record: record.clone(), seen_root_key_id }];
        let mut refusal = None;
        let mut gate = || {
            gate(&record).map_err(|error| {
                refusal = Some(error.clone());
                Box::new(error) as Box<dyn std::error::Error + Send + Sync>
            })
        };
        let applied = self.parts.catalog.apply(&change, &mut gate);
        match (applied, refusal) {
            (Err(CatalogError::Gate(_)), Some(error)) => Err(KmsError::Unrecorded(error)),
            (applied, _) => Ok(applied.map(|()| record)?),
        }
    }
}

/// The key of the trail of the catalog with this record, for who checks it without a daemon.
///
/// # Errors
/// [`RootError`].
pub fn open_trail_key(
    provider: &dyn Provider,
    record: &RootRecord,
    entropy: &dyn Entropy,
) -> Result<Secret, RootError> {
    let loaded = provider.load(Some(record), entropy)?;
    if loaded.key.id() != record.root_key_id {
        return Err(wrong(&loaded, record));
    }
    Ok(trail_key(&loaded.key.open(&record.sealed_key)?))
}

fn wrong(loaded: &Loaded, record: &RootRecord) -> RootError {
    RootError::Wrong {
        found: loaded.key.id().to_owned(),
        expected: record.root_key_id.clone(),
        is_previous: record.previous_id.as_deref() == Some(loaded.key.id()),
    }
}

/// The key of the trail's chain, derived from the sealing key.
pub fn trail_key(sealing_key: &Secret) -> Secret {
    hkdf_sha256(sealing_key, b"sealdisk/trail/v1", 32)
}

/// The key that seals the secrets of access keys, derived from the sealing key.
pub fn ram_key(sealing_key: &Secret) -> Secret {
    hkdf_sha256(sealing_key, b"sealdisk/ram/v1", 32)
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root")
            .field("provider", &self.parts.provider.name())
            .finish_non_exhaustive()
    }
}
