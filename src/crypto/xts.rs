//! AES-256-XTS over runs of data units: what every byte on storage goes through.

use std::fmt;

use thiserror::Error;

use super::engine::Engine;
use super::mac::constant_time_eq;
use super::tweak::{self, Tweak};
use super::xts_awslc;
use super::xts_portable;
use super::xts_vaes;
use crate::secret::Secret;
use crate::units::{DataUnit, DataUnitSize};

/// Bytes in a data key: two independent AES-256 keys, one for data, one for the tweak.
pub const DATA_KEY_BYTES: usize = 64;

/// Bytes in a block of AES. XTS encrypts each alone, under a tweak of its place in the unit.
const BLOCK_BYTES: usize = 16;

/// How the data of a layer is encrypted. The allow-list: no other name is ever accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-256 in XTS mode, tweak counted in 512-byte sectors.
    Aes256XtsPlain64,
    /// Not at all. Only for disks that were asked for without encryption.
    Null,
}

impl Cipher {
    /// The name that dm-crypt and LUKS2 have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256XtsPlain64 => "aes-xts-plain64",
            Self::Null => "cipher_null-ecb",
        }
    }

    /// The cipher with this LUKS2 name, if it is one we allow.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Aes256XtsPlain64, Self::Null].into_iter().find(|cipher| cipher.name() == name)
    }

    /// Bits of its data key: 512, or 0 for the null cipher.
    pub const fn key_bits(self) -> u32 {
        match self {
            Self::Aes256XtsPlain64 => (DATA_KEY_BYTES * 8) as u32,
            Self::Null => 0,
        }
    }
}

/// Why a data key was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum XtsKeyError {
    /// Whoever made the key made it for another cipher.
    #[error("an AES-256-XTS data key has {DATA_KEY_BYTES} bytes, this one has {have}")]
    WrongLength {
        /// Bytes that were given.
        have: usize,
    },
    /// FIPS 140-3 IG C.I: such a key makes the tweak predictable. Make another.
    #[error("both halves of the data key are equal")]
    EqualHalves,
    /// See [`Engine::fallback`].
    #[error("the {0} engine cannot be used here; take Engine::best()")]
    EngineUnavailable(Engine),
}

/// One data key, expanded once. Used by any number of threads at a time.
pub struct XtsCipher {
    engine: Engine,
    schedules: Schedules,
}

enum Schedules {
    Vaes(xts_vaes::Schedules),
    AwsLc(xts_awslc::Schedules),
    Portable(xts_portable::Schedules),
}

impl XtsCipher {
    /// Expands `key` for `engine`.
    ///
    /// # Errors
    /// A key that is not 64 bytes or has two equal halves; an engine that is not available here.
    pub fn new(engine: Engine, key: &Secret) -> Result<Self, XtsKeyError> {
        if key.len() != DATA_KEY_BYTES {
            return Err(XtsKeyError::WrongLength { have: key.len() });
        }
        let (data_key, tweak_key) = key.expose().split_at(DATA_KEY_BYTES / 2);
        if constant_time_eq(data_key, tweak_key) {
            return Err(XtsKeyError::EqualHalves);
        }
        let schedules = expand(engine, key).ok_or(XtsKeyError::EngineUnavailable(engine))?;
        Ok(Self { engine, schedules })
    }

    /// Which engine does the work.
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// Encrypts the units from `first` on, from `plain` to `cipher`.
    ///
    /// # Panics
    /// If the lengths differ or are not a multiple of the unit.
    pub fn encrypt(&self, size: DataUnitSize, first: DataUnit, plain: &[u8], cipher: &mut [u8]) {
        assert_eq!(plain.len(), cipher.len(), "ciphertext and plaintext differ in length");
        assert_whole_units(size, plain);
        match &self.schedules {
            Schedules::Vaes(many) if xts_vaes::pays(size, plain.len()) => {
                many.encrypt(size, first, plain, cipher);
            }
            Schedules::Vaes(many) => {
                each_unit((size, first), plain, cipher, |t, i, o| many.library().encrypt(t, i, o));
            }
            Schedules::AwsLc(one) => {
                each_unit((size, first), plain, cipher, |t, i, o| one.encrypt(t, i, o));
            }
            Schedules::Portable(one) => {
                each_unit((size, first), plain, cipher, |t, i, o| one.encrypt(t, i, o));
            }
        }
    }

    /// Encrypts the units from `first` on in their own buffer.
    ///
    /// # Panics
    /// If the length is not a multiple of the unit.
    pub fn encrypt_in_place(&self, size: DataUnitSize, first: DataUnit, data: &mut [u8]) {
        assert_whole_units(size, data);
        match &self.schedules {
            Schedules::Vaes(many) if xts_vaes::pays(size, data.len()) => {
                many.encrypt_in_place(size, first, data);
            }
            _ => {
                for (index, unit) in data.chunks_exact_mut(size.as_usize()).enumerate() {
                    self.encrypt_raw(tweak::of_unit(size, first.plus(index as u64)), unit);
                }
            }
        }
    }

    /// Decrypts the units from `first` on, from `cipher` to `plain`.
    ///
    /// # Panics
    /// If the lengths differ or are not a multiple of the unit.
    pub fn decrypt(&self, size: DataUnitSize, first: DataUnit, cipher: &[u8], plain: &mut [u8]) {
        assert_eq!(cipher.len(), plain.len(), "ciphertext and plaintext differ in length");
        assert_whole_units(size, cipher);
        match &self.schedules {
            Schedules::Vaes(many) if xts_vaes::pays(size, cipher.len()) => {
                many.decrypt(size, first, cipher, plain);
            }
            Schedules::Vaes(many) => {
                each_unit((size, first), cipher, plain, |t, i, o| many.library().decrypt(t, i, o));
            }
            Schedules::AwsLc(one) => {
                each_unit((size, first), cipher, plain, |t, i, o| one.decrypt(t, i, o));
            }
            Schedules::Portable(one) => {
                each_unit((size, first), cipher, plain, |t, i, o| one.decrypt(t, i, o));
            }
        }
    }

    /// Decrypts the units from `first` on in their own buffer.
    ///
    /// # Panics
    /// If the length is not a multiple of the unit.
    pub fn decrypt_in_place(&self, size: DataUnitSize, first: DataUnit, data: &mut [u8]) {
        assert_whole_units(size, data);
        match &self.schedules {
            Schedules::Vaes(many) if xts_vaes::pays(size, data.len()) => {
                many.decrypt_in_place(size, first, data);
            }
            _ => {
                for (index, unit) in data.chunks_exact_mut(size.as_usize()).enumerate() {
                    self.decrypt_raw(tweak::of_unit(size, first.plus(index as u64)), unit);
                }
            }
        }
    }

    /// Encrypts the start of a unit, whole blocks of 16 bytes, as they are in the whole unit.
    ///
    /// # Panics
    /// If there is none, or part of one.
    pub fn encrypt_start(&self, size: DataUnitSize, unit: DataUnit, data: &mut [u8]) {
        assert!(data.len().is_multiple_of(BLOCK_BYTES), "not a whole number of cipher blocks");
        self.encrypt_raw(tweak::of_unit(size, unit), data);
    }

    /// Encrypts one data unit of any length from 16 bytes under any tweak: published test vectors
    /// are not of our unit sizes.
    ///
    /// # Panics
    /// If `data` is shorter than 16 bytes.
    #[doc(hidden)]
    pub fn encrypt_raw(&self, tweak: Tweak, data: &mut [u8]) {
        match &self.schedules {
            Schedules::Vaes(schedules) => schedules.library().encrypt_in_place(&tweak, data),
            Schedules::AwsLc(schedules) => schedules.encrypt_in_place(&tweak, data),
            Schedules::Portable(schedules) => schedules.encrypt_in_place(&tweak, data),
        }
    }

    /// Decrypts one data unit, as [`XtsCipher::encrypt_raw`].
    ///
    /// # Panics
    /// If `data` is shorter than 16 bytes.
    #[doc(hidden)]
    pub fn decrypt_raw(&self, tweak: Tweak, data: &mut [u8]) {
        match &self.schedules {
            Schedules::Vaes(schedules) => schedules.library().decrypt_in_place(&tweak, data),
            Schedules::AwsLc(schedules) => schedules.decrypt_in_place(&tweak, data),
            Schedules::Portable(schedules) => schedules.decrypt_in_place(&tweak, data),
        }
    }
}

impl fmt::Debug for XtsCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XtsCipher({})", self.engine)
    }
}

fn expand(engine: Engine, key: &Secret) -> Option<Schedules> {
    if !engine.is_available() {
        return None;
    }
    match engine {
        Engine::Vaes => xts_vaes::Schedules::expand(key).map(Schedules::Vaes),
        Engine::AwsLc => xts_awslc::Schedules::expand(key).map(Schedules::AwsLc),
        Engine::Portable => Some(Schedules::Portable(xts_portable::Schedules::expand(key))),
    }
}

/// Hands the tweak of each unit, the unit, and its place in the output to `pass`.
fn each_unit(
    (size, first): (DataUnitSize, DataUnit),
    input: &[u8],
    output: &mut [u8],
    pass: impl Fn(&Tweak, &[u8], &mut [u8]),
) {
    let pairs = input.chunks_exact(size.as_usize()).zip(output.chunks_exact_mut(size.as_usize()));
    for (index, (from, to)) in pairs.enumerate() {
        pass(&tweak::of_unit(size, first.plus(index as u64)), from, to);
    }
}

fn assert_whole_units(size: DataUnitSize, data: &[u8]) {
    assert!(data.len().is_multiple_of(size.as_usize()), "not a whole number of data units");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u64) -> Secret {
        Secret::random(DATA_KEY_BYTES, &crate::clock::SeededEntropy::new(seed))
    }

    #[test]
    fn a_short_or_long_key_is_refused() {
        for have in [0, 16, 32, 63, 65, 128] {
            let refused = XtsCipher::new(Engine::Portable, &Secret::zeroed(have));
            assert_eq!(refused.err(), Some(XtsKeyError::WrongLength { have }));
        }
    }

    #[test]
    fn equal_halves_are_refused() {
        for engine in Engine::available() {
            let equal = Secret::from_fn(64, |bytes| bytes.fill(7));
            assert_eq!(XtsCipher::new(engine, &equal).err(), Some(XtsKeyError::EqualHalves));
        }
    }

    #[test]
    fn cipher_names_are_the_two_we_allow() {
        for cipher in [Cipher::Aes256XtsPlain64, Cipher::Null] {
            assert_eq!(Cipher::from_name(cipher.name()), Some(cipher));
        }
        for name in ["", "aes-xts-plain", "aes-cbc-essiv:sha256", "AES-XTS-PLAIN64", "cipher_null"]
        {
            assert_eq!(Cipher::from_name(name), None);
        }
    }

    #[test]
    fn equal_plaintext_differs_from_unit_to_unit() {
        for engine in Engine::available() {
            let cipher = XtsCipher::new(engine, &key(1)).unwrap();
            let mut data = vec![0x55; 3 * 4096];
            cipher.encrypt_in_place(DataUnitSize::B4096, DataUnit::new(0), &mut data);
            assert_ne!(data[..4096], data[4096..8192]);
            assert_ne!(data[4096..8192], data[8192..]);
        }
    }

    #[test]
    fn one_cipher_serves_many_threads() {
        let cipher = XtsCipher::new(Engine::best(), &key(2)).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let cipher = &cipher;
                scope.spawn(move || {
                    for round in 0..50 {
                        let unit = DataUnit::new(thread * 1000 + round);
                        let mut data = vec![thread as u8; 8192];
                        cipher.encrypt_in_place(DataUnitSize::B4096, unit, &mut data);
                        cipher.decrypt_in_place(DataUnitSize::B4096, unit, &mut data);
                        assert!(data.iter().all(|byte| *byte == thread as u8));
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn all_engines_agree(
            seed in any::<u64>(),
            unit in 0_u64..(1 << 55),
            large in any::<bool>(),
            units in prop_oneof![1_usize..6, 30_usize..36, 62_usize..70],
        ) {
            let size = if large { DataUnitSize::B4096 } else { DataUnitSize::B512 };
            let (key, first) = (key(seed), DataUnit::new(unit));
            let mut plain = vec![0; units * size.as_usize()];
            crate::clock::Entropy::fill(&crate::clock::SeededEntropy::new(!seed), &mut plain);
            let oracle = XtsCipher::new(Engine::Portable, &key).unwrap();
            let mut expected = plain.clone();
            oracle.encrypt_in_place(size, first, &mut expected);
            for engine in Engine::available() {
                let cipher = XtsCipher::new(engine, &key).unwrap();
                let mut data = vec![0; plain.len()];
                cipher.encrypt(size, first, &plain, &mut data);
                prop_assert_eq!(&data, &expected);
                let mut apart = vec![7; data.len()];
                cipher.decrypt(size, first, &data, &mut apart);
                prop_assert_eq!(&apart, &plain);
                cipher.decrypt_in_place(size, first, &mut data);
                prop_assert_eq!(&data, &plain);
                cipher.encrypt_in_place(size, first, &mut data);
                prop_assert_eq!(&data, &expected);
            }
        }

        /// Whatever the alignment of the buffers, and nothing beside them is touched.
        #[test]
        fn buffers_may_lie_anywhere(lead in 0_usize..70, units in 1_usize..40) {
            let (size, first) = (DataUnitSize::B512, DataUnit::new(77));
            let len = units * size.as_usize();
            let plain: Vec<u8> = (0..len + lead).map(|i| (i % 251) as u8).collect();
            for engine in Engine::available() {
                let cipher = XtsCipher::new(engine, &key(3)).unwrap();
                let mut place = vec![0xee; lead + len + 64];
                cipher.encrypt(size, first, &plain[lead..], &mut place[lead..lead + len]);
                prop_assert!(place[..lead].iter().all(|byte| *byte == 0xee));
                prop_assert!(place[lead + len..].iter().all(|byte| *byte == 0xee));
                cipher.decrypt_in_place(size, first, &mut place[lead..lead + len]);
                prop_assert_eq!(&place[lead..lead + len], &plain[lead..]);
            }
        }
    }
}
