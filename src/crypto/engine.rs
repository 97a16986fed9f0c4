//! Which implementation of AES-256-XTS does the work.
//!
//! aws-lc is several times faster and keeps its key schedules in the secret arena, but its entry
//! point is hardware only and says nothing when the processor, or `OPENSSL_ia32cap`, disagrees. So
//! it is used only after it has answered a published vector and agreed with the portable engine.

use std::fmt;
use std::sync::OnceLock;

use super::xts_awslc;

/// An implementation of AES-256-XTS. Both give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// aws-lc's assembler for processors with AES instructions.
    AwsLc,
    /// The `aes` and `xts-mode` crates: any target, slower, schedules on the heap.
    Portable,
}

/// Why [`Engine::best`] is not [`Engine::AwsLc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This build has no aws-lc engine: feature `portable-xts`, or an architecture without one.
    NotBuilt,
    /// The processor has no AES instructions.
    NoAesInstructions,
    /// The self-test gave a wrong answer: a processor capability was masked, or worse.
    SelfTestFailed,
}

impl Engine {
    /// The fastest engine that passed its self-test; the test runs at first use.
    pub fn best() -> Self {
        match Self::fallback() {
            None => Self::AwsLc,
            Some(_) => Self::Portable,
        }
    }

    /// Why the portable engine is the best one here; `None` when aws-lc serves. The daemon logs it.
    pub fn fallback() -> Option<Fallback> {
        verdict()
    }

    /// Whether this engine can be used here.
    pub fn is_available(self) -> bool {
        self == Self::Portable || Self::fallback().is_none()
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AwsLc => "aws-lc",
            Self::Portable => "portable",
        })
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBuilt => "this build has no aws-lc engine",
            Self::NoAesInstructions => "the processor has no AES instructions",
            Self::SelfTestFailed => "aws-lc failed its self-test (is OPENSSL_ia32cap set?)",
        })
    }
}

fn verdict() -> Option<Fallback> {
    static VERDICT: OnceLock<Option<Fallback>> = OnceLock::new();
    *VERDICT.get_or_init(|| {
        if !xts_awslc::IS_BUILT {
            return Some(Fallback::NotBuilt);
        }
        if !xts_awslc::has_aes_instructions() {
            return Some(Fallback::NoAesInstructions);
        }
        (!self_test::passes()).then_some(Fallback::SelfTestFailed)
    })
}

mod self_test {
    use super::super::{xts_awslc, xts_portable};
    use crate::secret::Secret;

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
    fn the_best_engine_is_available_and_the_fallback_says_why() {
        assert!(Engine::best().is_available());
        assert!(Engine::Portable.is_available());
        assert_eq!(Engine::best() == Engine::AwsLc, Engine::fallback().is_none());
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(feature = "portable-xts")))]
    fn a_processor_with_aes_instructions_runs_aws_lc() {
        if std::is_x86_feature_detected!("aes") {
            assert_eq!(Engine::fallback(), None);
        }
    }
}
