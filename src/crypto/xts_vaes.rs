//! AES-256-XTS over whole data units with 512-bit vectors, many units in one call.
//!
//! aws-lc's assembler takes one data unit a call: the tweak of each has passed through fourteen
//! rounds before its first block can begin, and the pipeline runs empty at every end. Here the
//! tweaks of up to [`BATCH`] units are encrypted side by side, and 32 blocks are under way at a
//! time, from one unit on into the next (`xts_vaes_rounds.rs`). The library makes the key
//! schedules; only the rounds are run here. `engine.rs` decides whether that may be.

#![allow(unsafe_code)]

use zeroize::Zeroize;

use super::tweak;
use super::xts_awslc;
use super::xts_vaes_rounds::{self as rounds, BATCH, GROUP_BYTES, Tweaks};
use crate::secret::Secret;
use crate::units::{DataUnit, DataUnitSize};

/// Whether the processor has the instructions that the assembler consists of.
pub(super) fn has_vector_aes() -> bool {
    std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("vaes")
        && std::is_x86_feature_detected!("vpclmulqdq")
}

/// Whether `len` bytes in units of `size` are enough for the vectors: encrypting the tweaks takes a
/// time of its own, about that of two thirds of a unit of 4096 bytes (`benches/xts.rs`).
pub(super) const fn pays(size: DataUnitSize, len: usize) -> bool {
    len > 2 * size.as_usize()
}

/// The library's schedules of one data key.
pub(super) struct Schedules {
    library: xts_awslc::Schedules,
}

impl Schedules {
    /// Expands `key`, which has 64 bytes. `None`: the library refused it, or the processor lacks
    /// the instructions.
    pub(super) fn expand(key: &Secret) -> Option<Self> {
        let library = xts_awslc::Schedules::expand(key)?;
        has_vector_aes().then_some(Self { library })
    }

    /// For a unit of any length, and for few: the library's way.
    pub(super) const fn library(&self) -> &xts_awslc::Schedules {
        &self.library
    }

    /// Encrypts the units from `first` on, from `plain` to `cipher`: whole units, equally many.
    pub(super) fn encrypt(
        &self,
        size: DataUnitSize,
        first: DataUnit,
        plain: &[u8],
        cipher: &mut [u8],
    ) {
        assert_eq!(plain.len(), cipher.len(), "plaintext and ciphertext differ in length");
        let (input, output) = (plain.as_ptr(), cipher.as_mut_ptr());
        // SAFETY: `plain.len()` bytes each; they cannot overlap, one being exclusive.
        unsafe { self.run::<true>((size, first), input, output, plain.len()) };
    }

    /// Encrypts the units from `first` on in their own buffer.
    pub(super) fn encrypt_in_place(&self, size: DataUnitSize, first: DataUnit, data: &mut [u8]) {
        let start = data.as_mut_ptr();
        // SAFETY: input and output are the same exclusive slice of that length.
        unsafe { self.run::<true>((size, first), start, start, data.len()) };
    }

    /// Decrypts the units from `first` on, from `cipher` to `plain`: whole units, equally many.
    pub(super) fn decrypt(
        &self,
        size: DataUnitSize,
        first: DataUnit,
        cipher: &[u8],
        plain: &mut [u8],
    ) {
        assert_eq!(cipher.len(), plain.len(), "ciphertext and plaintext differ in length");
        let (input, output) = (cipher.as_ptr(), plain.as_mut_ptr());
        // SAFETY: `cipher.len()` bytes each; they cannot overlap, one being exclusive.
        unsafe { self.run::<false>((size, first), input, output, cipher.len()) };
    }

    /// Decrypts the units from `first` on in their own buffer.
    pub(super) fn decrypt_in_place(&self, size: DataUnitSize, first: DataUnit, data: &mut [u8]) {
        let start = data.as_mut_ptr();
        // SAFETY: input and output are the same exclusive slice of that length.
        unsafe { self.run::<false>((size, first), start, start, data.len()) };
    }

    /// # Safety
    /// `input` and `output` are `len` bytes each, equal or disjoint.
    unsafe fn run<const ENCRYPT: bool>(
        &self,
        (size, first): (DataUnitSize, DataUnit),
        input: *const u8,
        output: *mut u8,
        len: usize,
    ) {
        let unit = size.as_usize();
        let (units, groups) = (len / unit, unit / GROUP_BYTES);
        let mut tweaks = Tweaks([[0; 16]; BATCH]);
        for done in (0..units).step_by(BATCH) {
            let count = (units - done).min(BATCH);
            for (index, tweak) in tweaks.0[..count].iter_mut().enumerate() {
                *tweak = tweak::of_unit(size, first.plus((done + index) as u64));
            }
            // SAFETY: `expand` saw that the processor has the instructions. A batch has 1 to BATCH
            // units of one group or more and ends within `len`.
            unsafe {
                rounds::encrypt_tweaks(self.library.tweak_keys(), &mut tweaks);
                let places = (input.add(done * unit), output.add(done * unit));
                if ENCRYPT {
                    rounds::encrypt(self.library.encrypt_keys(), &tweaks, places, (count, groups));
                } else {
                    rounds::decrypt(self.library.decrypt_keys(), &tweaks, places, (count, groups));
                }
            }
        }
        tweaks.0.zeroize();
    }
}
