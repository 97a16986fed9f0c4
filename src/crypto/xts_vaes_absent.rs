//! Stands in for `xts_vaes.rs` where it is not built: a type without values.

use super::xts_awslc;
use crate::secret::Secret;
use crate::units::{DataUnit, DataUnitSize};

/// Never.
pub(super) fn has_vector_aes() -> bool {
    false
}

/// Never.
pub(super) const fn pays(_size: DataUnitSize, _len: usize) -> bool {
    false
}

/// Cannot exist.
pub(super) enum Schedules {}

impl Schedules {
    /// Always `None`.
    pub(super) fn expand(_key: &Secret) -> Option<Self> {
        None
    }

    /// Unreachable.
    pub(super) fn library(&self) -> &xts_awslc::Schedules {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn encrypt(&self, _: DataUnitSize, _: DataUnit, _plain: &[u8], _cipher: &mut [u8]) {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn encrypt_in_place(&self, _: DataUnitSize, _: DataUnit, _data: &mut [u8]) {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn decrypt(&self, _: DataUnitSize, _: DataUnit, _cipher: &[u8], _plain: &mut [u8]) {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn decrypt_in_place(&self, _: DataUnitSize, _: DataUnit, _data: &mut [u8]) {
        match *self {}
    }
}
