//! AES-256-XTS by aws-lc's assembler, with key schedules expanded in place in the secret arena.
//!
//! The library's public XTS context lies on the heap and keeps state per context, so it can neither
//! be shared between threads nor kept in secret memory. The function below it takes bare schedules
//! and writes nothing but its output. It is exported but not declared in a public header, hence the
//! name with the version in it: another version of the library fails to link, and whoever raises it
//! reads this first. It is hardware only; `engine.rs` decides whether it may be called.

#![allow(unsafe_code)]

use std::ffi::c_int;

use aws_lc_sys::{AES_KEY, AES_set_decrypt_key, AES_set_encrypt_key, CRYPTO_library_init};

use super::tweak::Tweak;
use crate::secret::Secret;

// SAFETY: the declaration is that of crypto/fipsmodule/aes/internal.h in the version which the name
// states. It returns 0 if `length` is below 16, else 1; `input` and `output` are equal or disjoint.
unsafe extern "C" {
    #[link_name = "aws_lc_0_47_0_aes_hw_xts_cipher"]
    fn aes_hw_xts_cipher(
        input: *const u8,
        output: *mut u8,
        length: usize,
        data_key: *const AES_KEY,
        tweak_key: *const AES_KEY,
        tweak: *const u8,
        encrypt: c_int,
    ) -> c_int;
}

/// Bytes between schedules: the next multiple of the arena's 64-byte granule.
const SLOT_BYTES: usize = 256;
const ENCRYPT_AT: usize = 0;
const DECRYPT_AT: usize = SLOT_BYTES;
const TWEAK_AT: usize = 2 * SLOT_BYTES;
const ALL_BYTES: usize = 3 * SLOT_BYTES;

const _: () = assert!(size_of::<AES_KEY>() <= SLOT_BYTES && align_of::<AES_KEY>() <= 64);

/// Bytes of the fifteen round keys of AES-256.
#[cfg(target_arch = "x86_64")]
pub(super) const ROUND_KEY_BYTES: usize = 15 * 16;

const KEY_BITS: u32 = 256;
const ENCRYPT: c_int = 1;
const DECRYPT: c_int = 0;

/// This build has the engine.
pub(super) const IS_BUILT: bool = true;

/// Whether the processor has the instructions that the assembler consists of.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_aes_instructions() -> bool {
    std::is_x86_feature_detected!("aes")
}

/// Whether the processor has the instructions that the assembler consists of.
#[cfg(target_arch = "aarch64")]
pub(super) fn has_aes_instructions() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

/// Three schedules in one slot of the arena: data key to encrypt, to decrypt, tweak key.
/// Never changed after expansion, so any number of threads may use it.
pub(super) struct Schedules {
    memory: Secret,
}

impl Schedules {
    /// Expands `key`, which has 64 bytes. `None`: the library refused the key size.
    pub(super) fn expand(key: &Secret) -> Option<Self> {
        let (data_key, tweak_key) = key.expose().split_at_checked(32)?;
        if tweak_key.len() != 32 {
            return None;
        }
        let mut schedules = Self { memory: Secret::zeroed(ALL_BYTES) };
        let base = schedules.memory.expose_mut().as_mut_ptr();
        // SAFETY: idempotent set-up of the library's processor capabilities.
        unsafe { CRYPTO_library_init() };
        // SAFETY: both key halves have 32 bytes (checked above); each slot has SLOT_BYTES, no less
        // than an AES_KEY, lies within the ALL_BYTES of `memory`, and is aligned because the arena
        // hands out 64-byte granules.
        let refused = unsafe {
            AES_set_encrypt_key(data_key.as_ptr(), KEY_BITS, base.add(ENCRYPT_AT).cast())
                | AES_set_decrypt_key(data_key.as_ptr(), KEY_BITS, base.add(DECRYPT_AT).cast())
                | AES_set_encrypt_key(tweak_key.as_ptr(), KEY_BITS, base.add(TWEAK_AT).cast())
        };
        (refused == 0).then_some(schedules)
    }

    /// The data key's round keys as the AES instructions take them, where the processor has these.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn encrypt_keys(&self) -> &[u8; ROUND_KEY_BYTES] {
        self.round_keys::<ENCRYPT_AT>()
    }

    /// Those that decrypt.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn decrypt_keys(&self) -> &[u8; ROUND_KEY_BYTES] {
        self.round_keys::<DECRYPT_AT>()
    }

    /// Those of the tweak key.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn tweak_keys(&self) -> &[u8; ROUND_KEY_BYTES] {
        self.round_keys::<TWEAK_AT>()
    }

    #[cfg(target_arch = "x86_64")]
    fn round_keys<const AT: usize>(&self) -> &[u8; ROUND_KEY_BYTES] {
        let slots = self.memory.expose()[AT..].first_chunk();
        slots.expect("a slot is longer than the round keys, which an AES_KEY begins with")
    }

    /// Encrypts one data unit of at least 16 bytes from `plain` to `cipher`, equally long.
    ///
    /// # Panics
    /// If the lengths differ or are below 16.
    pub(super) fn encrypt(&self, tweak: &Tweak, plain: &[u8], cipher: &mut [u8]) {
        assert_eq!(plain.len(), cipher.len(), "plaintext and ciphertext differ in length");
        // SAFETY: both slices hold `len` bytes and cannot overlap, one being exclusive.
        unsafe {
            self.run::<ENCRYPT_AT>(tweak, plain.as_ptr(), cipher.as_mut_ptr(), plain.len());
        }
    }

    /// Encrypts one data unit of at least 16 bytes.
    ///
    /// # Panics
    /// If it is shorter.
    pub(super) fn encrypt_in_place(&self, tweak: &Tweak, data: &mut [u8]) {
        let start = data.as_mut_ptr();
        // SAFETY: input and output are the same exclusive slice of `len` bytes.
        unsafe { self.run::<ENCRYPT_AT>(tweak, start, start, data.len()) };
    }

    /// Decrypts one data unit of at least 16 bytes from `cipher` to `plain`, equally long.
    ///
    /// # Panics
    /// If the lengths differ or are below 16.
    pub(super) fn decrypt(&self, tweak: &Tweak, cipher: &[u8], plain: &mut [u8]) {
        assert_eq!(cipher.len(), plain.len(), "ciphertext and plaintext differ in length");
        // SAFETY: both slices hold `len` bytes and cannot overlap, one being exclusive.
        unsafe {
            self.run::<DECRYPT_AT>(tweak, cipher.as_ptr(), plain.as_mut_ptr(), cipher.len());
        }
    }

    /// Decrypts one data unit of at least 16 bytes.
    ///
    /// # Panics
    /// If it is shorter.
    pub(super) fn decrypt_in_place(&self, tweak: &Tweak, data: &mut [u8]) {
        let start = data.as_mut_ptr();
        // SAFETY: input and output are the same exclusive slice of `len` bytes.
        unsafe { self.run::<DECRYPT_AT>(tweak, start, start, data.len()) };
    }

    /// Runs the data key's schedule at `SCHEDULE_AT`: `ENCRYPT_AT` or `DECRYPT_AT`.
    ///
    /// # Safety
    /// `input` and `output` are `len` bytes each, equal or disjoint.
    #[inline]
    unsafe fn run<const SCHEDULE_AT: usize>(
        &self,
        tweak: &Tweak,
        input: *const u8,
        output: *mut u8,
        len: usize,
    ) {
        assert!(len >= 16, "XTS takes one block of 16 bytes or more");
        let base = self.memory.expose().as_ptr();
        let direction = if SCHEDULE_AT == ENCRYPT_AT { ENCRYPT } else { DECRYPT };
        // SAFETY: the schedules were expanded at these places of the arena slot and are only read;
        // the tweak has 16 bytes; the buffers are the caller's promise.
        let done = unsafe {
            let data_key = base.add(SCHEDULE_AT).cast();
            let tweak_key = base.add(TWEAK_AT).cast();
            aes_hw_xts_cipher(input, output, len, data_key, tweak_key, tweak.as_ptr(), direction)
        };
        assert_eq!(done, 1, "the only refusal is a length below 16, checked above");
    }
}
