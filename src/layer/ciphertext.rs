//! The only way from plaintext to storage.

use std::ops::Range;

use super::{LayerError, LayerSpec};
use crate::crypto::engine::Engine;
use crate::crypto::xts::{Cipher, XtsCipher, XtsKeyError};
use crate::secret::Secret;
use crate::units::{ByteCount, DataUnit, DataUnitSize, SECTOR_BYTES};

/// Whole units, or sectors that follow each other, as they go to storage. Only [`Codec`] makes one,
/// so whoever holds it has encrypted.
#[derive(Debug)]
pub struct Ciphertext<'a> {
    first: DataUnit,
    lead: usize,
    bytes: &'a [u8],
}

impl Ciphertext<'_> {
    /// The unit that the first byte belongs to: it decrypts nowhere else.
    pub const fn first(&self) -> DataUnit {
        self.first
    }

    /// Bytes of the first unit that lie before [`Ciphertext::bytes`].
    pub const fn lead(&self) -> usize {
        self.lead
    }

    /// How many units of `size` it is of, wholly or in part.
    pub const fn units(&self, size: DataUnitSize) -> u64 {
        size.units_in(ByteCount::new((self.lead + self.bytes.len()) as u64))
    }

    /// The bytes to store.
    pub const fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

/// Encrypts and decrypts the units of one layer.
#[derive(Debug)]
pub(super) struct Codec {
    unit: DataUnitSize,
    cipher: Option<XtsCipher>,
}

impl Codec {
    /// For a specification and key that were checked against each other.
    pub(super) fn new(spec: &LayerSpec, key: Option<&Secret>) -> Result<Self, LayerError> {
        let cipher = match (spec.cipher, key) {
            (Cipher::Null, None) => None,
            (Cipher::Null, Some(_)) => return Err(LayerError::NullCipherRefused),
            (Cipher::Aes256XtsPlain64, None) => return Err(LayerError::MissingKey),
            (Cipher::Aes256XtsPlain64, Some(key)) => Some(expand(key)?),
        };
        Ok(Self { unit: spec.unit, cipher })
    }

    /// Encrypts `data` where it is.
    pub(super) fn encrypt_in_place<'a>(
        &self,
        first: DataUnit,
        data: &'a mut [u8],
    ) -> Ciphertext<'a> {
        if let Some(cipher) = &self.cipher {
            cipher.encrypt_in_place(self.unit, first, data);
        }
        Ciphertext { first, lead: 0, bytes: data }
    }

    /// Encrypts `part` of the units in `data`, whole sectors: all that stands before it in the
    /// first unit is taken along and left out, for XTS has no other way to come there, and nothing
    /// of what stands behind it. Each block of 16 bytes is encrypted alone, so `part` is what it
    /// is in whole units.
    pub(super) fn encrypt_part<'a>(
        &self,
        first: DataUnit,
        data: &'a mut [u8],
        part: Range<usize>,
    ) -> Ciphertext<'a> {
        if let Some(cipher) = &self.cipher {
            let unit = self.unit.as_usize();
            let whole = part.end / unit;
            let (units, rest) = data[..part.end].split_at_mut(whole * unit);
            cipher.encrypt_in_place(self.unit, first, units);
            if !rest.is_empty() {
                cipher.encrypt_start(self.unit, first.plus(whole as u64), rest);
            }
        }
        Ciphertext { first, lead: part.start, bytes: &data[part] }
    }

    /// As [`Codec::encrypt_in_place`], but only of the sectors of each unit that `sectors` has bits
    /// for: the others are absent.
    pub(super) fn encrypt_sectors<'a>(
        &self,
        first: DataUnit,
        data: &'a mut [u8],
        sectors: &[u8],
    ) -> Ciphertext<'a> {
        if let Some(cipher) = &self.cipher {
            cipher.encrypt_in_place(self.unit, first, data);
        }
        for (unit, present) in data.chunks_exact_mut(self.unit.as_usize()).zip(sectors) {
            let each = unit.chunks_exact_mut(SECTOR_BYTES as usize).enumerate();
            each.filter(|(index, _)| present >> index & 1 == 0).for_each(|(_, s)| s.fill(0));
        }
        Ciphertext { first, lead: 0, bytes: data }
    }

    /// Decrypts whole units where they are, absent ones too.
    pub(super) fn decrypt_in_place(&self, first: DataUnit, data: &mut [u8]) {
        if let Some(cipher) = &self.cipher {
            cipher.decrypt_in_place(self.unit, first, data);
        }
    }

    /// Decrypts whole units from `sealed` to `plain`, equally long.
    pub(super) fn decrypt_to(&self, first: DataUnit, sealed: &[u8], plain: &mut [u8]) {
        match &self.cipher {
            Some(cipher) => cipher.decrypt(self.unit, first, sealed, plain),
            None => plain.copy_from_slice(sealed),
        }
    }
}

fn expand(key: &Secret) -> Result<XtsCipher, LayerError> {
    XtsCipher::new(Engine::best(), key).map_err(|error| match error {
        XtsKeyError::EqualHalves => LayerError::EqualKeyHalves,
        // The best engine is available by its definition, so what is left is the length.
        XtsKeyError::WrongLength { .. } | XtsKeyError::EngineUnavailable(_) => LayerError::WrongKey,
    })
}
