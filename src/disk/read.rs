//! The read route: whole units into the buffer, decrypted in place, piece by piece; absent units
//! are read in the layer below, and are zeros at the bottom.

use crate::layer::{Presence, Torn};
use crate::units::{ByteOffset, DataUnit, SECTOR_BYTES};

use super::align::Span;
use super::stack::Stack;
use super::unit_map::{Lead, UnitMap};
use super::{Disk, DiskError, Waiting, tiles};

const SECTOR: usize = SECTOR_BYTES as usize;

impl Disk {
    /// The whole data units that a request touches. Buffers are taken for
    /// [`Span::covered_bytes`]; the request's own bytes lie at [`Span::payload`] in them.
    pub fn span(&self, at: ByteOffset, len: usize) -> Span {
        Span::covering(self.unit(), at, len)
    }

    /// Fills `data`, which is [`Span::covered_bytes`] long, with the plaintext of all units of
    /// `span`, and says in `present` which of them hold anything.
    ///
    /// `Ok(false)`: waiting is forbidden and would be needed; `data` is undefined.
    ///
    /// # Errors
    /// The device's or the layer's.
    pub fn read(
        &self,
        span: &Span,
        data: &mut [u8],
        present: &mut Presence,
        waiting: Waiting,
    ) -> Result<bool, DiskError> {
        debug_assert_eq!(data.len(), span.covered_bytes());
        present.clear();
        for (piece, place) in span.pieces(self.pieces.read) {
            if !self.read_piece(&piece, &mut data[place], present, waiting)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_piece(
        &self,
        piece: &Span,
        data: &mut [u8],
        present: &mut Presence,
        waiting: Waiting,
    ) -> Result<bool, DiskError> {
        if waiting == Waiting::Forbidden {
            let Some(_guard) = self.locks.try_read(piece.first(), piece.units()) else {
                return Ok(false);
            };
            return self.stack.load().read(piece.first(), data, present, waiting);
        }
        let _guard = self.locks.read(piece.first(), piece.units());
        self.stack.load().read(piece.first(), data, present, waiting)
    }
}

impl Stack {
    /// Fills `data` with the plaintext of the units from `first` on, and adds to `present` which
    /// of them are in any layer. The caller holds their locks. `Ok(false)` as [`Disk::read`].
    pub(super) fn read(
        &self,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
        waiting: Waiting,
    ) -> Result<bool, DiskError> {
        let descent = Descent { stack: self, waiting };
        match &self.map {
            None => descent.read_in(self.depth(), first, data, present),
            Some(map) if waiting == Waiting::Forbidden && data.len() >= tiles::BYTES_MIN => {
                descent.read_tiles(map, first, data, present)
            }
            Some(map) => descent.read_runs(map, first, data, present),
        }
    }
}

/// A read on its way down a stack. All of it returns `Ok(false)` as [`Disk::read`] does.
#[derive(Clone, Copy)]
pub(super) struct Descent<'a> {
    pub(super) stack: &'a Stack,
    waiting: Waiting,
}

impl Descent<'_> {
    /// Reads units one run after another, each where `map` says.
    pub(super) fn read_runs(
        self,
        map: &UnitMap,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let unit = self.stack.top.unit_size().as_usize();
        let mut done = 0;
        while done < data.len() {
            let at = first.plus((done / unit) as u64);
            let left = ((data.len() - done) / unit) as u64;
            let Some(lead) = self.lead(map, at, left)? else { return Ok(false) };
            let end = done + lead.units as usize * unit;
            let position = lead.position.unwrap_or(self.stack.depth());
            if !self.read_from(position, at, &mut data[done..end], present)? {
                return Ok(false);
            }
            done = end;
        }
        Ok(true)
    }

    /// Where to look for the unit `at`, and how many of the `left` behind it alike. `None`: nobody
    /// can say without waiting.
    pub(super) fn lead(
        self,
        map: &UnitMap,
        at: DataUnit,
        left: u64,
    ) -> Result<Option<Lead>, DiskError> {
        let mut found = map.find(at);
        if found.is_none() && map.has_room(at) {
            if self.waiting == Waiting::Forbidden {
                return Ok(None);
            }
            map.fill(self.stack, at)?;
            found = map.find(at);
        }
        Ok(Some(match found.as_ref().and_then(|found| found.as_ref()) {
            Some(region) => region.lead(at, left),
            None => UnitMap::unmapped(at, left),
        }))
    }

    /// Reads units that no layer above `position` holds; zeros below the bottom.
    pub(super) fn read_from(
        self,
        position: usize,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let unit = self.stack.top.unit_size().as_usize();
        let units = data.len() / unit;
        // A layer may be smaller than those above it.
        let held = match position {
            0 => 0,
            _ => self.stack.at(position).units().saturating_sub(first.get()).min(units as u64),
        } as usize;
        let (inside, beyond) = data.split_at_mut(held * unit);
        if held > 0 && !self.read_in(position, first, inside, present)? {
            return Ok(false);
        }
        if held < units {
            beyond.fill(0);
            present.extend(units - held);
        }
        if position <= 1 {
            return Ok(true);
        }
        Ok(self.read_absent(position, first, data, present)?
            && self.mend_torn(position, first, data, present)?)
    }

    /// Reads below `position` the units of `data`, the last ones in `present`, that it lacks.
    fn read_absent(
        self,
        position: usize,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let unit = self.stack.top.unit_size().as_usize();
        let units = data.len() / unit;
        let base = present.len() - units;
        let mut index = 0;
        while index < units {
            let end = (present.run_end(base + index) - base).min(units);
            if !present.is_present(base + index) {
                let (at, run) = (first.plus(index as u64), &mut data[index * unit..end * unit]);
                if let Some(map) = &self.stack.map {
                    map.lower(at, (end - index) as u64, position);
                }
                let mut below = Presence::default();
                if !self.read_from(position - 1, at, run, &mut below)? {
                    return Ok(false);
                }
                (0..end - index)
                    .filter(|offset| below.is_present(*offset))
                    .for_each(|offset| present.set(base + index + offset));
            }
            index = end;
        }
        Ok(true)
    }

    /// Reads below `position` the sectors that units of `data` there do not have.
    fn mend_torn(
        self,
        position: usize,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let unit = self.stack.top.unit_size().as_usize();
        let base = present.len() - data.len() / unit;
        for Torn { index, absent } in present.take_torn() {
            let index = index - base;
            let mut whole = [0; 4096];
            let (whole, mut below) = (&mut whole[..unit], Presence::default());
            if !self.read_from(position - 1, first.plus(index as u64), whole, &mut below)? {
                return Ok(false);
            }
            let torn = &mut data[index * unit..(index + 1) * unit];
            let sectors = torn.chunks_exact_mut(SECTOR).zip(whole.chunks_exact(SECTOR));
            for (_, (sector, old)) in sectors.enumerate().filter(|(i, _)| absent >> i & 1 == 1) {
                sector.copy_from_slice(old);
            }
        }
        Ok(true)
    }

    /// Reads what the layer at `position` has.
    fn read_in(
        self,
        position: usize,
        first: DataUnit,
        data: &mut [u8],
        present: &mut Presence,
    ) -> Result<bool, DiskError> {
        let place = self.stack.at(position);
        if self.waiting == Waiting::Forbidden {
            return Ok(place.read_cached(first, data, present)?);
        }
        place.read(first, data, present)?;
        Ok(true)
    }
}
