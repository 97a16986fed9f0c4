//! What a change of the catalog means for tokens: objects that go with it, objects that came for
//! it.

use super::super::{Kms, KmsError};
use super::Reference;
use crate::catalog::{KeyVersionRecord, Operation, Page};

impl Kms {
    /// Versions whose objects are to be destroyed before `operations` take effect.
    pub(in super::super) fn leaving(
        &self,
        operations: &[Operation],
    ) -> Result<Vec<KeyVersionRecord>, KmsError> {
        let mut leaving = Vec::new();
        if self.hsms.is_empty() {
            return Ok(leaving);
        }
        for operation in operations {
            match operation {
                Operation::DeleteKey(key_id) => {
                    leaving.extend(self.catalog.key_versions(key_id, Page::ALL)?.items);
                }
                Operation::UpdateKeyVersion(version) => {
                    let stored = self.catalog.key_version(&version.version_id)?;
                    leaving.extend(stored.filter(|stored| object_of(stored) != object_of(version)));
                }
                _ => {}
            }
        }
        leaving.retain(|version| object_of(version).is_some());
        Ok(leaving)
    }

    /// Destroys the objects of `versions`.
    pub(in super::super) fn destroy_objects(
        &self,
        versions: &[KeyVersionRecord],
    ) -> Result<(), KmsError> {
        versions.iter().try_for_each(|version| self.store(version)?.destroy(version))
    }

    /// `operations` did not take effect: what was made for them is not wanted.
    pub(in super::super) fn discard_objects(&self, operations: &[Operation]) {
        if self.hsms.is_empty() {
            return;
        }
        for operation in operations {
            let (Operation::InsertKey(_, version)
            | Operation::InsertKeyVersion(version)
            | Operation::UpdateKeyVersion(version)) = operation
            else {
                continue;
            };
            // Not what is recorded, whoever recorded it; and nothing while that cannot be told.
            let Ok(stored) = self.catalog.key_version(&version.version_id) else { continue };
            let is_recorded = stored.is_some_and(|stored| object_of(&stored) == object_of(version));
            if let (false, Some(_), Ok(store)) =
                (is_recorded, object_of(version), self.store(version))
            {
                store.discard(version);
            }
        }
    }
}

/// Store and id of the object that a version has.
fn object_of(version: &KeyVersionRecord) -> Option<(&str, [u8; 16])> {
    if !version.store.starts_with("hsm:") {
        return None;
    }
    let reference = Reference::read(&version.wrapped_material)?;
    reference.is_present.then_some((version.store.as_str(), reference.object.id))
}
