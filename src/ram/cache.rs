//! What was looked up lately, until anything of RAM changes.
//!
//! A reader notes the generation before it asks the catalog; what it found is kept only if no
//! change came in between. So nothing outlives the answer to the change that made it untrue.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::access_keys::Credential;
use super::grants::{GrantedRole, Grants};
use crate::catalog::ram::Holder;

/// Entries of one kind; when one more comes, all of that kind are forgotten.
const ENTRIES_MAX: usize = 1024;

#[derive(Default)]
struct Known {
    generation: u64,
    credentials: HashMap<String, Arc<Credential>>,
    grants: HashMap<Holder, Arc<Grants>>,
    roles: HashMap<String, Option<Arc<GrantedRole>>>,
}

#[derive(Default)]
pub(super) struct Cache {
    known: RwLock<Known>,
}

impl Cache {
    pub(super) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// Forgets everything: something changed.
    pub(super) fn forget(&self) {
        let mut known = self.write();
        *known = Known { generation: known.generation + 1, ..Known::default() };
    }

    pub(super) fn credential(&self, id: &str) -> Option<Arc<Credential>> {
        self.read().credentials.get(id).cloned()
    }

    pub(super) fn keep_credential(&self, generation: u64, id: &str, found: &Arc<Credential>) {
        let mut known = self.write();
        if known.generation == generation {
            keep(&mut known.credentials, id.to_owned(), Arc::clone(found));
        }
    }

    pub(super) fn grants(&self, holder: &Holder) -> Option<Arc<Grants>> {
        self.read().grants.get(holder).cloned()
    }

    pub(super) fn keep_grants(&self, generation: u64, holder: &Holder, found: &Arc<Grants>) {
        let mut known = self.write();
        if known.generation == generation {
            keep(&mut known.grants, holder.clone(), Arc::clone(found));
        }
    }

    pub(super) fn role(&self, name: &str) -> Option<Option<Arc<GrantedRole>>> {
        self.read().roles.get(name).cloned()
    }

    pub(super) fn keep_role(&self, generation: u64, name: &str, found: Option<&Arc<GrantedRole>>) {
        let mut known = self.write();
        if known.generation == generation {
            keep(&mut known.roles, name.to_owned(), found.cloned());
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, name: K, value: V) {
    if map.len() >= ENTRIES_MAX {
        map.clear();
    }
    map.insert(name, value);
}
