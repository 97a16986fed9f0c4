//! Which implementation of AES-256-XTS does the work.
//!
//! aws-lc is several times faster than the portable crates and keeps its key schedules in the
//! secret arena, but its entry point is hardware only and says nothing when the processor, or
//! `OPENSSL_ia32cap`, disagrees. The vector engine runs the rounds on those schedules and takes
//! their layout for granted. So each is used only after it has answered a published vector and
//! agreed with the portable engine.

use std::fmt;
use std::sync::OnceLock;

use super::{xts_awslc, xts_vaes};

/// An implementation of AES-256-XTS. All give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Ours for processors with 512-bit vectors of AES instructions, on aws-lc's key schedules.
    Vaes,
    /// aws-lc's assembler for processors with AES instructions.
    AwsLc,
    /// The `aes` and `xts-mode` crates: any target, slower, schedules on the heap.
    Portable,
}

/// Why an engine cannot be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// This build lacks it: feature `portable-xts`, or an architecture without one.
    NotBuilt,
    /// The processor lacks its instructions.
    NoInstructions,
    /// The self-test gave a wrong answer: a processor capability was masked, or worse.
    SelfTestFailed,
}

impl Engine {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Vaes, Self::AwsLc, Self::Portable];

    /// The fastest engine that passed its self-test; the test runs at first use.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// The engines that can be used here, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|engine| engine.is_available())
    }

    /// Why this engine cannot be used here. The portable one always can.
    pub fn obstacle(self) -> Option<Obstacle> {
        static VAES: OnceLock<Option<Obstacle>> = OnceLock::new();
        static AWS_LC: OnceLock<Option<Obstacle>> = OnceLock::new();
        match self {
            Self::Vaes => *VAES.get_or_init(|| {
                Self::AwsLc
                    .obstacle()
                    .or_else(|| verdict(xts_vaes::has_vector_aes(), self_test::passes_by_vectors))
            }),
            Self::AwsLc => *AWS_LC.get_or_init(|| {
                if !xts_awslc::IS_BUILT {
                    return Some(Obstacle::NotBuilt);
                }
                verdict(xts_awslc::has_aes_instructions(), self_test::passes)
            }),
            Self::Portable => None,
        }
    }

    /// Whether this engine can be used here.
    pub fn is_available(self) -> bool {
        self.obstacle().is_none()
    }
}

fn verdict(has_instructions: bool, passes: fn() -> bool) -> Option<Obstacle> {
    if !has_instructions {
        return Some(Obstacle::NoInstructions);
    }
    (!passes()).then_some(Obstacle::SelfTestFailed)
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vaes => "vaes",
            Self::AwsLc => "aws-lc",
            Self::Portable => "portable",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBuilt => "this build lacks it",
            Self::NoInstructions => "the processor lacks its AES instructions",
            Self::SelfTestFailed => "it failed its self-test (is OPENSSL_ia32cap set?)",
        })
    }
}

mod self_test {
    use super::super::{tweak, xts_awslc, xts_portable, xts_vaes};
    use crate::secret::Secret;
    use crate::units::{DataUnit, DataUnitSize};

    // NIST CAVP, XTSGenAES256 (tweak-128hexstr), ENCRYPT, COUNT 1.
    const KEY: [u8; 64] = [
        0x1e, 0xa6, 0x61, 0xc5, 0x8d, 0x94, 0x3a, 0x0e, 0x48, 0x01, 0xe4, 0x2f, 0x4b, 0x09, 0x47,
        0x14, 0x9e, 0x7f, 0x9f, 0x8e, 0x3e, 0x68, 0xd0, 0xc7, 0x50, 0x52, 0x10, 0xbd, 0x31, 0x1a,
        0x0e, 0x7c, 0xd6, 0xe1, 0x3f, 0xfd, 0xf2, 0x41, 0x8d, 0x8d, 0x19, 0x11, 0xc0, 0x04, 0xcd,
        0xa5, 0x8d, 0xa3, 0xd6, 0x19, 0xb7, 0xe2, 0xb9, 0x14, 0x1e, 0x58, 0x31, 0x8e, 0xea, 0x39,
        0x2c, 0xf4, 0x1b, 0x08,
    ];
    const TWEAK: [u8; 16] = [
        0xad, 0xf8, 0xd9, 0x26, 0x27, 0x46, 0x4a, 0xd2, 0xf0, 0x42, 0x8e, 0x84, 0xa9, 0xf8, 0x75,
        0x64,
    ];
    const PLAIN: [u8; 32] = [
        0x2e, 0xed, 0xea, 0x52, 0xcd, 0x82, 0x15, 0xe1, 0xac, 0xc6, 0x47, 0xe8, 0x10, 0xbb, 0xc3,
        0x64, 0x2e, 0x87, 0x28, 0x7f, 0x8d, 0x2e, 0x57, 0xe3, 0x6c, 0x0a, 0x24, 0xfb, 0xc1, 0x2a,
        0x20, 0x2e,
    ];
    const CIPHER: [u8; 32] = [
        0xcb, 0xaa, 0xd0, 0xe2, 0xf6, 0xce, 0xa3, 0xf5, 0x0b, 0x37, 0xf9, 0x34, 0xd4, 0x6a, 0x9b,
        0x13, 0x0b, 0x9d, 0x54, 0xf0, 0x7e, 0x34, 0xf3, 0x6a, 0xf7, 0x93, 0xe8, 0x6f, 0x73, 0xc6,
        0xd7, 0xdb,
    ];

    pub(super) fn passes() -> bool {
        let key = Secret::from_fn(64, |bytes| bytes.copy_from_slice(&KEY));
        let Some(fast) = xts_awslc::Schedules::expand(&key) else { return false };
        let portable = xts_portable::Schedules::expand(&key);
        answers_the_vector(&fast) && [16, 512, 4096].iter().all(|len| agree(&fast, &portable, *len))
    }

    /// The vector engine takes whole units only, so it is held against the portable one alone: a
    /// batch and a part of one, of each size of a unit.
    pub(super) fn passes_by_vectors() -> bool {
        let key = Secret::from_fn(64, |bytes| bytes.copy_from_slice(&KEY));
        let Some(fast) = xts_vaes::Schedules::expand(&key) else { return false };
        let portable = xts_portable::Schedules::expand(&key);
        [DataUnitSize::B512, DataUnitSize::B4096].into_iter().all(|size| {
            let first = DataUnit::new(0x0123_4567_89ab);
            let plain: Vec<u8> =
                (0..35 * size.as_usize()).map(|i| (i * 7 + i / 256) as u8).collect();
            let mut expected = plain.clone();
            for (index, unit) in expected.chunks_exact_mut(size.as_usize()).enumerate() {
                let tweak = tweak::of_unit(size, first.plus(index as u64));
                portable.encrypt_in_place(&tweak, unit);
            }
            let mut data = vec![0; plain.len()];
            fast.encrypt(size, first, &plain, &mut data);
            let encrypted = data == expected;
            fast.decrypt_in_place(size, first, &mut data);
            encrypted && data == plain
        })
    }

    fn answers_the_vector(fast: &xts_awslc::Schedules) -> bool {
        let mut data = PLAIN;
        fast.encrypt_in_place(&TWEAK, &mut data);
        let encrypted = data == CIPHER;
        fast.decrypt_in_place(&TWEAK, &mut data);
        encrypted && data == PLAIN
    }

    fn agree(fast: &xts_awslc::Schedules, portable: &xts_portable::Schedules, len: usize) -> bool {
        let plain: Vec<u8> = (0..len).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut expected = plain.clone();
        portable.encrypt_in_place(&TWEAK, &mut expected);
        let mut data = vec![0; len];
        fast.encrypt(&TWEAK, &plain, &mut data);
        let encrypted = data == expected;
        fast.decrypt_in_place(&TWEAK, &mut data);
        encrypted && data == plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_engine_is_the_first_without_an_obstacle() {
        let best = Engine::best();
        assert!(best.is_available());
        assert!(Engine::Portable.is_available());
        for faster in Engine::ALL.into_iter().take_while(|engine| *engine != best) {
            assert!(faster.obstacle().is_some(), "{faster}");
        }
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(feature = "portable-xts")))]
    fn a_processor_with_the_instructions_runs_the_engine() {
        if std::is_x86_feature_detected!("aes") {
            assert_eq!(Engine::AwsLc.obstacle(), None);
        }
        if xts_vaes::has_vector_aes() {
            assert_eq!(Engine::best(), Engine::Vaes);
        }
    }
}
