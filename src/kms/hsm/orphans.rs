//! Tokens as operators see them: their state, and objects that no key version is known for.
//!
//! What this process made in vain it destroys by itself. Whatever else it does not know it leaves
//! alone and says so: after a catalog was restored from a backup an object may be the only key of
//! newer data, and another installation may share the token.

use std::collections::HashSet;

use serde_json::Value;

use super::super::material::MaterialStore;
use super::super::{Action, Kms, KmsError};
use super::{HsmStore, PREFIX, Reference};
use crate::catalog::Page;
use crate::metrics;
use crate::ram::Caller;
use crate::token::{Load, TokenState};

/// An object that no key version is known for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// CKA_ID, in hexadecimal digits.
    pub id: String,
    /// CKA_LABEL.
    pub label: String,
    /// It belongs to a key of this catalog, so it is no other installation's.
    pub is_of_known_key: bool,
}

/// How a configured token is.
#[derive(Clone, Debug)]
pub struct TokenReport {
    /// Its configured name.
    pub name: String,
    /// Its KMS instance.
    pub instance_id: String,
    /// Whether it can be used, and what not.
    pub state: TokenState,
    /// What it has to do.
    pub load: Load,
}

impl Kms {
    /// The configured tokens. Asks nobody and waits for nothing.
    pub fn tokens(&self) -> Vec<TokenReport> {
        let report = |store: &std::sync::Arc<HsmStore>| TokenReport {
            name: store.token().name().to_owned(),
            instance_id: store.instance_id(),
            state: store.token().state(),
            load: store.token().load(),
        };
        self.hsms.iter().map(report).collect()
    }

    /// Objects in the token `name` that no key version is known for; destroys those of keys of this
    /// catalog if `is_to_destroy`.
    ///
    /// # Errors
    /// [`KmsError::InstanceNotFound`] for a token that is not configured, and the token's.
    pub fn orphans(
        &self,
        caller: &Caller,
        name: &str,
        is_to_destroy: bool,
    ) -> Result<Vec<Orphan>, KmsError> {
        let action = if is_to_destroy { Action::DestroyOrphans } else { Action::ListOrphans };
        self.call(caller, action, |call| {
            call.request("Hsm", name);
            self.allow(call, &self.account.instance_arn(&format!("kst-{name}")))?;
            let store = self.hsms.iter().find(|store| store.token().name() == name);
            let store = store.ok_or(KmsError::InstanceNotFound)?;
            // No version comes to be between looking into the token and into the catalog.
            let _changes = self.lock_changes();
            let orphans = self.find_orphans(store)?;
            if is_to_destroy {
                let doomed: Vec<&Orphan> =
                    orphans.iter().filter(|one| one.is_of_known_key).collect();
                let labels = doomed.iter().map(|orphan| Value::from(orphan.label.as_str()));
                call.response("Destroyed", labels.collect::<Vec<Value>>());
                self.commit(call, &[])?;
                for orphan in doomed {
                    if let Some(id) = id_of(&orphan.id) {
                        store.token().destroy(id)?;
                    }
                }
            }
            Ok(orphans)
        })
    }

    fn find_orphans(&self, store: &HsmStore) -> Result<Vec<Orphan>, KmsError> {
        let (mut known, mut keys) = (HashSet::new(), HashSet::new());
        for key in self.catalog.keys(Page::ALL)?.items {
            for version in self.catalog.key_versions(&key.key_id, Page::ALL)?.items {
                if version.store == store.name()
                    && let Some(reference) = Reference::read(&version.wrapped_material)
                {
                    known.insert(reference.object.id);
                }
            }
            keys.insert(key.key_id);
        }
        let mut orphans = Vec::new();
        for (id, label) in store.token().keys(PREFIX)? {
            // `acs/<key id>/v<number>`; the probe has another form.
            let Some((key_id, _)) = label[PREFIX.len()..].split_once("/v") else { continue };
            if !known.contains(&id) {
                let is_of_known_key = keys.contains(key_id);
                let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
                orphans.push(Orphan { id, label, is_of_known_key });
            }
        }
        metrics::hsm_orphans(store.token().name(), orphans.len());
        Ok(orphans)
    }

    /// Destroys pairs of imports whose time is over, and counts orphans. For the daemon's timer.
    pub fn sweep_tokens(&self) {
        for store in &self.hsms {
            if !store.is_ready() {
                continue;
            }
            let name = store.token().name();
            match store.sweep_pairs(self.clock.now()) {
                Ok(0) => {}
                Ok(pairs) => tracing::info!(hsm = name, pairs, "destroyed pairs of old imports"),
                Err(error) => tracing::warn!(hsm = name, %error, "pairs of old imports are left"),
            }
            let _changes = self.lock_changes();
            match self.find_orphans(store) {
                Ok(orphans) if orphans.is_empty() => {}
                Ok(orphans) => tracing::warn!(
                    hsm = name,
                    orphans = orphans.len(),
                    "the token has keys that the catalog does not know; see sealdisk hsm orphans"
                ),
                Err(error) => tracing::warn!(hsm = name, %error, "could not look for orphans"),
            }
        }
    }
}

fn id_of(digits: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(id)
}
