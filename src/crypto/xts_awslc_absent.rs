//! Stands in for `xts_awslc.rs` where it is not built: a type without values.

use super::tweak::Tweak;
use crate::secret::Secret;

/// This build lacks the engine.
pub(super) const IS_BUILT: bool = false;

/// Never asked: see [`IS_BUILT`].
pub(super) fn has_aes_instructions() -> bool {
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
    pub(super) fn encrypt(&self, _tweak: &Tweak, _plain: &[u8], _cipher: &mut [u8]) {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn encrypt_in_place(&self, _tweak: &Tweak, _data: &mut [u8]) {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn decrypt(&self, _tweak: &Tweak, _cipher: &[u8], _plain: &mut [u8]) {
        match *self {}
    }

    /// Unreachable.
    pub(super) fn decrypt_in_place(&self, _tweak: &Tweak, _data: &mut [u8]) {
        match *self {}
    }
}
