//! How often a key version has encrypted. Vectors are random, so with each use it becomes more
//! likely that one comes twice, which would break AES-GCM: at 2^32 it ends (NIST SP 800-38D, 8.3).
//!
//! The catalog keeps how many uses are *reserved*, a block at a time. A restart forgets what was
//! left of a block: it counts too many, never too few.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Kms, KmsError};
use crate::catalog::{CatalogError, Operation};

/// Uses that are reserved at once.
const BLOCK: u64 = 1 << 16;

/// From here on the log warns, a line a block.
const WARNING: u64 = 1 << 31;

/// No more.
const MAX: u64 = 1 << 32;

/// Versions whose count is kept in memory; the rest of a block is lost for those beyond.
const VERSIONS_MAX: usize = 10_000;

/// Uses left of the blocks that this process has reserved.
#[derive(Default)]
pub(super) struct Wraps {
    left: Mutex<HashMap<String, u64>>,
}

impl Kms {
    /// Counts one use of a version to encrypt.
    ///
    /// # Errors
    /// [`KmsError::WornOut`] after the last.
    pub(super) fn count_wrap(&self, version_id: &str) -> Result<(), KmsError> {
        let mut left = self.wraps.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = left.get_mut(version_id)
            && *left > 0
        {
            *left -= 1;
            return Ok(());
        }
        let seen = self.reserve(version_id)?;
        if seen >= WARNING {
            tracing::warn!(
                version = version_id,
                uses = seen,
                "the key version comes to the end of its life; rotate the key"
            );
        }
        if left.len() >= VERSIONS_MAX {
            left.clear();
        }
        left.insert(version_id.to_owned(), BLOCK - 1);
        Ok(())
    }

    /// Reserves a block; how many there were before.
    fn reserve(&self, version_id: &str) -> Result<u64, KmsError> {
        loop {
            let seen = self.catalog.reserved_wraps(version_id)?;
            if seen >= MAX {
                return Err(KmsError::WornOut);
            }
            let version_id = version_id.to_owned();
            let reserve = Operation::ReserveWraps { version_id, seen, reserved: seen + BLOCK };
            match self.catalog.apply(&[reserve], &mut || Ok(())) {
                Ok(()) => return Ok(seen),
                // Another host took a block meanwhile.
                Err(CatalogError::Changed) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
