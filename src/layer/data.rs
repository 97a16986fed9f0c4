//! Reads and writes of whole units: the only hot caller of storage. Nothing here allocates.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Ciphertext, DATA_OFFSET, Frozen, Layer, LayerError, Presence, State, Writable};
use crate::storage::Durability;
use crate::units::{ByteCount, ByteOffset, DataUnit, SECTOR_BYTES};

const SECTOR: usize = SECTOR_BYTES as usize;

impl<S: State> Layer<S> {
    /// Fills `data`, whole units from `first` on, with plaintext. Absent units are left as zeros;
    /// which they are is added to `present`.
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
        if let Some(view) = self.storage.view(&range, ByteCount::of(data))
            && let Some(sealed) = view.bytes(0..data.len())
        {
            let before = present.len();
            self.decrypt_to(first, sealed, data, present);
            if view.is_sound() {
                return Ok(true);
            }
            present.truncate(before);
        }
        let done = self.storage.read_cached_at(range.start, data)?;
        if done {
            self.decrypt_present(first, data, present);
        }
        Ok(done)
    }

    /// Encrypts `data`, whole units from `first` on, and writes of each unit the sectors that
    /// `sectors` has bits for, the first sector lowest; the others become absent. So data of a
    /// layer below comes up, into a frozen layer too: what the disk reads stays the same.
    /// Afterwards `data` holds ciphertext.
    ///
    /// # Errors
    /// As [`Layer::write_units`].
    pub fn fill_units(
        &self,
        first: DataUnit,
        data: &mut [u8],
        sectors: &[u8],
    ) -> Result<(), LayerError> {
        let range = self.range_of(first, ByteCount::of(data))?;
        self.meter.count(ByteCount::of(data))?;
        let ciphertext = self.codec.encrypt_sectors(first, data, sectors);
        Ok(self.storage.write_at(range.start, ciphertext.bytes(), Durability::Volatile)?)
    }

    /// Makes everything written so far survive power loss.
    ///
    /// # Errors
    /// Storage that fails; then what was written since the last flush may be lost.
    pub fn flush(&self) -> Result<(), LayerError> {
        Ok(self.storage.flush()?)
    }

    fn punch(&self, first: DataUnit, units: u64) -> Result<(), LayerError> {
        let bytes = units.checked_mul(self.unit_size().bytes()).map(ByteCount::new);
        let beyond = LayerError::OutOfRange { first, bytes: ByteCount::new(u64::MAX) };
        let range = self.range_of(first, bytes.ok_or(beyond)?)?;
        Ok(self.storage.punch(range)?)
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

    /// Decrypts where they are the units that are there. Units that are there alike, of as many as
    /// are looked at together, are decrypted in one call: the fastest engine wants many.
    ///
    /// Power loss may tear the first write of an absent unit between sectors. A sector of a present
    /// unit whose ciphertext is all zeros was never written (chance says otherwise once in 2^4096
    /// sectors), so it is left as zeros: each sector is old or new, also then.
    fn decrypt_present(&self, first: DataUnit, data: &mut [u8], present: &mut Presence) {
        let size = self.unit_size().as_usize();
        let mut base = present.extend(data.len() / size);
        let mut at = first;
        for data in data.chunks_mut(LOOK_UNITS * size) {
            let mut rest = data;
            for run in absent_of(rest, size).runs() {
                let (units, after) = rest.split_at_mut(run.len() * size);
                if run[0] != all_sectors(size) {
                    self.codec.decrypt_in_place(at, units);
                    self.note_present((base, run), units, present);
                }
                (rest, base, at) = (after, base + run.len(), at.plus(run.len() as u64));
            }
        }
    }

    /// As [`Layer::decrypt_present`], from `sealed` to `data`, whose bytes were any.
    ///
    /// What begins with a unit that is there is decrypted before it is looked at: a look at lines
    /// here and there in memory that nobody has read yet takes longer than to read all of it.
    fn decrypt_to(&self, first: DataUnit, sealed: &[u8], data: &mut [u8], present: &mut Presence) {
        let size = self.unit_size().as_usize();
        let mut base = present.extend(data.len() / size);
        let (mut at, group) = (first, LOOK_UNITS * size);
        for (sealed, data) in sealed.chunks(group).zip(data.chunks_mut(group)) {
            let is_decrypted = !begins_with_zeros(sealed);
            if is_decrypted {
                self.codec.decrypt_to(at, sealed, data);
            }
            let (mut from, mut rest) = (sealed, data);
            for run in absent_of(sealed, size).runs() {
                let (units, after) = rest.split_at_mut(run.len() * size);
                let (sealed, from_after) = from.split_at(units.len());
                if run[0] == all_sectors(size) {
                    units.fill(0);
                } else {
                    if !is_decrypted {
                        self.codec.decrypt_to(at, sealed, units);
                    }
                    self.note_present((base, run), units, present);
                }
                (from, rest) = (from_after, after);
                (base, at) = (base + run.len(), at.plus(run.len() as u64));
            }
        }
    }

    /// Writes down that units are there, `base` being the place of the first, and leaves zeros in
    /// sectors that are not.
    fn note_present(
        &self,
        (base, absent): (usize, &[u8]),
        units: &mut [u8],
        present: &mut Presence,
    ) {
        let each = units.chunks_exact_mut(self.unit_size().as_usize()).zip(absent);
        for (index, (unit, absent)) in each.enumerate() {
            present.set(base + index);
            if *absent != 0 && self.header.spec.parent.is_some() {
                present.set_torn(base + index, *absent);
            }
            clear_sectors(unit, *absent);
        }
    }
}

impl Layer<Writable> {
    /// Encrypts `data`, whole units from `first` on, where it is and writes it. Afterwards `data`
    /// holds ciphertext.
    ///
    /// # Errors
    /// As [`Layer::seal_units`] and [`Layer::store_units`].
    pub fn write_units(
        &self,
        first: DataUnit,
        data: &mut [u8],
        durability: Durability,
    ) -> Result<(), LayerError> {
        self.store_units(&self.seal_units(first, data)?, durability)
    }

    /// Encrypts `data`, whole units from `first` on, where it is. Needs no lock: only the caller
    /// sees its buffer.
    ///
    /// # Errors
    /// A range outside the layer, or [`LayerError::KeyExhausted`]; then `data` is as it was.
    pub fn seal_units<'a>(
        &self,
        first: DataUnit,
        data: &'a mut [u8],
    ) -> Result<Ciphertext<'a>, LayerError> {
        self.range_of(first, ByteCount::of(data))?;
        self.meter.count(ByteCount::of(data))?;
        Ok(self.codec.encrypt_in_place(first, data))
    }

    /// Encrypts `part` of `data`, whole sectors, where they are; `data` is whole units from `first`
    /// on and holds nothing of use elsewhere afterwards.
    ///
    /// # Errors
    /// As [`Layer::seal_units`].
    pub fn seal_part<'a>(
        &self,
        first: DataUnit,
        data: &'a mut [u8],
        part: Range<usize>,
    ) -> Result<Ciphertext<'a>, LayerError> {
        self.range_of(first, ByteCount::of(data))?;
        self.meter.count(ByteCount::of(&data[part.clone()]))?;
        Ok(self.codec.encrypt_part(first, data, part))
    }

    /// Takes [`Layer::seal_units`] back: `data` is plaintext again.
    pub fn unseal_units(&self, first: DataUnit, data: &mut [u8]) {
        self.codec.decrypt_in_place(first, data);
    }

    /// Whether `unit` is certainly there: the first block of its ciphertext is not all zeros.
    /// `false` tells nothing.
    ///
    /// # Errors
    /// As [`Layer::read_units`].
    pub fn surely_holds(&self, unit: DataUnit) -> Result<bool, LayerError> {
        let range = self.range_of(unit, ByteCount::new(self.unit_size().bytes()))?;
        let mut head = [0; 16];
        self.storage.read_at(range.start, &mut head)?;
        Ok(head != [0; 16])
    }

    /// Writes units, or the sectors of them, where they were encrypted for.
    ///
    /// # Errors
    /// Storage that fails; then the units are old, new, or a mixture of both by sectors.
    pub fn store_units(
        &self,
        ciphertext: &Ciphertext<'_>,
        durability: Durability,
    ) -> Result<(), LayerError> {
        let unit = self.unit_size();
        let covered = ByteCount::new(ciphertext.units(unit) * unit.bytes());
        let range = self.range_of(ciphertext.first(), covered)?;
        let at = range.start.plus(ByteCount::new(ciphertext.lead() as u64));
        Ok(self.storage.write_at(at, ciphertext.bytes(), durability)?)
    }

    /// Makes `units` units from `first` on absent. Over a parent's data that uncovers it: the disk
    /// writes zeros instead.
    ///
    /// # Errors
    /// A range outside the layer, or storage that fails.
    pub fn punch_units(&self, first: DataUnit, units: u64) -> Result<(), LayerError> {
        self.punch(first, units)
    }
}

impl Layer<Frozen> {
    /// Flushes what an earlier process may have left unflushed, and what was released: once for
    /// all handles.
    ///
    /// # Errors
    /// As [`Layer::flush`].
    pub fn settle(&self) -> Result<(), LayerError> {
        if !self.is_settled.load(Ordering::Acquire) {
            self.flush()?;
            self.is_settled.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes `units` units from `first` on absent and gives their space back. Only for units that
    /// every reader of this layer finds in a layer above. [`Layer::settle`] makes it last.
    ///
    /// # Errors
    /// A range outside the layer, or storage that fails.
    pub fn release_units(&self, first: DataUnit, units: u64) -> Result<(), LayerError> {
        self.is_settled.store(false, Ordering::Release);
        self.punch(first, units)
    }
}

/// Units that are looked at together before they are decrypted: a look takes in a cache line of
/// each sector.
const LOOK_UNITS: usize = 32;

/// What [`absent_sectors`] says of up to [`LOOK_UNITS`] units.
struct Absent {
    units: [u8; LOOK_UNITS],
    len: usize,
}

impl Absent {
    /// Runs of units of which it says the same.
    fn runs(&self) -> impl Iterator<Item = &[u8]> {
        self.units[..self.len].chunk_by(PartialEq::eq)
    }
}

fn absent_of(sealed: &[u8], size: usize) -> Absent {
    let mut absent = Absent { units: [0; LOOK_UNITS], len: sealed.len() / size };
    for (unit, absent) in sealed.chunks_exact(size).zip(&mut absent.units) {
        *absent = absent_sectors(unit);
    }
    absent
}

/// One bit per sector of `unit` whose ciphertext is all zeros.
pub(super) fn absent_sectors(unit: &[u8]) -> u8 {
    let sectors = unit.chunks_exact(SECTOR).enumerate();
    sectors.fold(0, |absent, (index, sector)| absent | u8::from(is_zero(sector)) << index)
}

/// What [`absent_sectors`] says of an absent unit of `size` bytes.
const fn all_sectors(size: usize) -> u8 {
    u8::MAX >> (8 - size / SECTOR)
}

/// Leaves zeros where nothing was ever written.
fn clear_sectors(unit: &mut [u8], absent: u8) {
    if absent != 0 {
        let sectors = unit.chunks_exact_mut(SECTOR).enumerate();
        sectors.filter(|(i, _)| absent >> i & 1 == 1).for_each(|(_, s)| s.fill(0));
    }
}

/// Whether the first 16 bytes are zeros, which real ciphertext hardly ever shows.
pub(super) fn begins_with_zeros(sealed: &[u8]) -> bool {
    sealed.starts_with(&[0; 16])
}

/// Whether `sector` is all zeros. Real ciphertext shows it in its first 16 bytes.
fn is_zero(sector: &[u8]) -> bool {
    let (head, rest) = sector.split_at(16);
    head == [0; 16] && rest.chunks(124).all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
}
