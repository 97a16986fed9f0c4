//! What happens by itself: keys are destroyed at their deletion date, imported material at its
//! expiry, and keys rotate. All three are dates in the catalog, so a restart forgets none; and a
//! date holds from its moment on, whenever the sweep comes by (rotation aside, which the sweep
//! makes).

use super::call::Call;
use super::{Action, Kms, KmsError, Rotation};
use crate::catalog::{KeyRecord, KeyState, Operation, Page};
use crate::clock::{Timestamp, random_uuid};
use crate::ram::Caller;
use crate::trail::ResourceType;

/// What a sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Keys destroyed.
    pub deleted: usize,
    /// Keys whose material was destroyed.
    pub expired: usize,
    /// Keys that have a new primary version.
    pub rotated: usize,
    /// Keys whose dates wait until their token is there again.
    pub waiting: usize,
    /// The earliest date that is left.
    pub next: Option<Timestamp>,
}

impl Kms {
    /// Does what is due, for the daemon's timer. Each is an event in the trail.
    ///
    /// # Errors
    /// [`KmsError::Unrecorded`], [`KmsError::Catalog`] or that of a material store; the rest is
    /// left for the next time.
    pub fn run_due(&self) -> Result<Swept, KmsError> {
        let mut swept = Swept::default();
        for key in self.catalog.keys(Page::ALL)?.items {
            let is_due =
                self.is_gone(&key) || self.material_is_due(&key) || self.rotation_is_due(&key);
            if is_due && !self.stores_are_ready(&key)? {
                // Tried and failed, it would be a record in the trail each minute.
                swept.waiting += 1;
                continue;
            }
            if self.is_gone(&key) {
                swept.deleted += usize::from(self.delete_due(&key.key_id)?);
                continue;
            }
            if self.material_is_due(&key) {
                swept.expired += usize::from(self.expire_due(&key.key_id)?);
            }
            if self.rotation_is_due(&key) {
                swept.rotated += usize::from(self.rotate(&key.key_id)?);
            }
            let left = self.catalog.key(&key.key_id)?;
            swept.next =
                [swept.next, left.as_ref().and_then(next_date)].into_iter().flatten().min();
        }
        Ok(swept)
    }

    /// Whether all that has material of `key` can be used now.
    fn stores_are_ready(&self, key: &KeyRecord) -> Result<bool, KmsError> {
        if self.hsms.is_empty() && key.protection == super::material::SOFTWARE_LEVEL {
            return Ok(true);
        }
        let versions = self.catalog.key_versions(&key.key_id, Page::ALL)?.items;
        Ok(versions.iter().all(|version| self.store(version).is_ok_and(|store| store.is_ready())))
    }

    pub(super) fn material_is_due(&self, key: &KeyRecord) -> bool {
        key.material_expires.is_some_and(|expires| expires <= self.clock.now())
    }

    fn delete_due(&self, key_id: &str) -> Result<bool, KmsError> {
        self.by_itself(Action::DeleteKey, key_id, |_, key| {
            Ok(self.is_gone(&key).then(|| vec![Operation::DeleteKey(key.key_id)]))
        })
    }

    fn expire_due(&self, key_id: &str) -> Result<bool, KmsError> {
        self.by_itself(Action::ExpireKeyMaterial, key_id, |_, key| {
            if self.material_is_due(&key) { self.without_material(key).map(Some) } else { Ok(None) }
        })
    }

    /// Makes the change that `plan` finds still due; whether it was.
    pub(super) fn by_itself(
        &self,
        action: Action,
        key_id: &str,
        plan: impl FnOnce(&mut Call<'_>, KeyRecord) -> Result<Option<Vec<Operation>>, KmsError>,
    ) -> Result<bool, KmsError> {
        let system = Caller::system(random_uuid(self.entropy.as_ref()));
        self.call(&system, action, |call| {
            call.about(ResourceType::Key, key_id);
            self.allow_key(call, key_id)?;
            let _changes = self.lock_changes();
            // Seen again under the lock: another change may have come first, and a clock that was
            // set back may have let a cancellation in.
            let operations = match self.catalog.key(key_id)? {
                Some(key) => plan(call, key)?,
                None => None,
            };
            match operations {
                Some(operations) => self.commit(call, &operations).map(|()| true),
                None => {
                    call.needs_no_record();
                    Ok(false)
                }
            }
        })
    }
}

/// When `run_due` will next have something to do with `key`.
fn next_date(key: &KeyRecord) -> Option<Timestamp> {
    let deletes = key.deletes.filter(|_| key.state == KeyState::PendingDeletion);
    let rotates = match Rotation::of(key) {
        Rotation::Enabled(at) => Some(at),
        Rotation::Suspended(_) | Rotation::Disabled => None,
    };
    [deletes, key.material_expires, rotates].into_iter().flatten().min()
}
