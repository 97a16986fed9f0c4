//! Reads and writes of whole units: the only hot caller of storage. Nothing here allocates.

use std::ops::Range;

use super::{Ciphertext, DATA_OFFSET, Layer, LayerError, Presence, State, Writable};
use crate::storage::Durability;
use crate::units::{ByteCount, ByteOffset, DataUnit};

impl<S: State> Layer<S> {
    /// Fills `data`, whole units from `first` on, with plaintext. Absent units are left as zeros;
    /// `present` tells which they are.
    ///
    /// # Errors
    /// A range outside the layer, or storage that fails; then `data` is undefined.
    pub fn read_units(
        &self,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<(), LayerError> {
        let range = self.range_of(first, ByteCount::of(data))?;
        self.storage.read_at(range.start, data)?;
        self.decrypt_present(first, data, present);
        Ok(())
    }

    /// As [`Layer::read_units`], but only if storage can do it without waiting. `Ok(false)`: not
    /// now, `data` is undefined.
    ///
    /// # Errors
    /// As [`Layer::read_units`].
    pub fn read_units_cached(
        &self,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, LayerError> {
        let range = self.range_of(first, ByteCount::of(data))?;
        let done = self.storage.read_cached_at(range.start, data)?;
        if done {
            self.decrypt_present(first, data, present);
        }
        Ok(done)
    }

    /// Where `bytes` from unit `first` on lie in the file.
    pub(super) fn range_of(
        &self,
        first: DataUnit,
        bytes: ByteCount,
    ) -> Result<Range<ByteOffset>, LayerError> {
        let unit = self.unit_size();
        if !bytes.get().is_multiple_of(unit.bytes()) {
            return Err(LayerError::Misaligned { bytes });
        }
        let start = first.get().checked_mul(unit.bytes());
        let end = start.and_then(|start| start.checked_add(bytes.get()));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.header.spec.data_len().get() => {
                let at = |bytes| DATA_OFFSET.plus(ByteCount::new(bytes));
                Ok(at(start)..at(end))
            }
            _ => Err(LayerError::OutOfRange { first, bytes }),
        }
    }

    /// Unit by unit, so that what was looked at is still in the first cache when it is decrypted.
    fn decrypt_present(&self, first: DataUnit, data: &mut [u8], present: &mut Presence) {
        let size = self.unit_size().as_usize();
        present.reset(data.len() / size);
        for (index, unit) in data.chunks_exact_mut(size).enumerate() {
            if !is_zero(unit) {
                present.set(index);
                self.codec.decrypt_unit(first.plus(index as u64), unit);
            }
        }
    }
}

impl Layer<Writable> {
    /// Encrypts `data`, whole units from `first` on, where it is and writes it. Afterwards `data`
    /// holds ciphertext.
    ///
    /// # Errors
    /// A range outside the layer, or storage that fails; then the units are old, new, or a mixture
    /// of both by sectors.
    pub fn write_units(
        &self,
        first: DataUnit,
        data: &mut [u8],
        durability: Durability,
    ) -> Result<(), LayerError> {
        let range = self.range_of(first, ByteCount::of(data))?;
        let ciphertext = self.codec.encrypt_in_place(first, data);
        self.store(range.start, &ciphertext, durability)
    }

    /// Encrypts `plain`, whole units from `first` on, into the start of `scratch` and writes that.
    ///
    /// # Errors
    /// As [`Layer::write_units`]; [`LayerError::Misaligned`] if `scratch` is shorter than `plain`.
    pub fn write_units_from(
        &self,
        first: DataUnit,
        plain: &[u8],
        scratch: &mut [u8],
        durability: Durability,
    ) -> Result<(), LayerError> {
        let range = self.range_of(first, ByteCount::of(plain))?;
        let short = LayerError::Misaligned { bytes: ByteCount::of(scratch) };
        let scratch = scratch.get_mut(..plain.len()).ok_or(short)?;
        let ciphertext = self.codec.encrypt(first, plain, scratch);
        self.store(range.start, &ciphertext, durability)
    }

    /// Makes `units` units from `first` on absent. Over a parent's data that uncovers it: the disk
    /// writes zeros instead.
    ///
    /// # Errors
    /// A range outside the layer, or storage that fails.
    pub fn punch_units(&self, first: DataUnit, units: u64) -> Result<(), LayerError> {
        let bytes = units.checked_mul(self.unit_size().bytes()).map(ByteCount::new);
        let beyond = LayerError::OutOfRange { first, bytes: ByteCount::new(u64::MAX) };
        let range = self.range_of(first, bytes.ok_or(beyond)?)?;
        Ok(self.storage.punch(range)?)
    }

    /// Makes everything written so far survive power loss.
    ///
    /// # Errors
    /// Storage that fails; then what was written since the last flush may be lost.
    pub fn flush(&self) -> Result<(), LayerError> {
        Ok(self.storage.flush()?)
    }

    fn store(
        &self,
        at: ByteOffset,
        ciphertext: &Ciphertext<'_>,
        durability: Durability,
    ) -> Result<(), LayerError> {
        Ok(self.storage.write_at(at, ciphertext.bytes(), durability)?)
    }
}

/// Whether `unit`, at least 16 bytes, is all zeros. Real ciphertext shows it in its first 16 bytes.
fn is_zero(unit: &[u8]) -> bool {
    let (head, rest) = unit.split_at(16);
    head == [0; 16] && rest.chunks(128).all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
}
