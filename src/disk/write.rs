//! The write route, on one screen: piece by piece, lock the units, fill the edges, encrypt, write.
//! Sectors of units that are in the top already are encrypted and written alone.

use crate::layer::Presence;
use crate::storage::Durability;
use crate::units::{DataUnit, SECTOR_BYTES};

use super::align::Span;
use super::stack::Stack;
use super::{Disk, DiskError, Waiting};

impl Disk {
    /// Writes the bytes at [`Span::payload`] of `data`, which is [`Span::covered_bytes`] long and
    /// comes back as ciphertext: it is the request's own buffer, never the client's memory.
    ///
    /// With [`Durability::Durable`] the data survives power loss when the call returns.
    ///
    /// # Errors
    /// The device's or the layer's; the range then holds old or new sectors.
    pub fn write(
        &self,
        span: &Span,
        data: &mut [u8],
        durability: Durability,
    ) -> Result<(), DiskError> {
        debug_assert_eq!(data.len(), span.covered_bytes());
        for (piece, place) in span.pieces(self.pieces.write) {
            self.write_piece(&piece, &mut data[place])?;
        }
        match durability {
            Durability::Volatile => Ok(()),
            // A flush of its own rather than a synchronous write: only so is a failed write (which
            // loses nothing else) told apart from a failed sync (which may have lost anything).
            Durability::Durable => self.flush(),
        }
    }

    fn write_piece(&self, piece: &Span, data: &mut [u8]) -> Result<(), DiskError> {
        let first = piece.first();
        if piece.is_aligned() {
            let before = self.stack.load();
            let sealed = before.top.seal_units(first, data)?;
            let _guard = self.locks.write(first, piece.units());
            let stack = self.stack.load();
            if stack.top.is_same_as(&before.top) {
                return Ok(stack.store(&sealed)?);
            }
            // A layer was pushed in between: what was sealed is for the wrong one.
            before.top.unseal_units(first, data);
            drop(before);
            return Ok(stack.write(first, data)?);
        }
        let _guard = self.locks.write(first, piece.units());
        let stack = self.stack.load();
        if is_apart(&stack, piece)? {
            return Ok(stack.store(&stack.top.seal_part(first, data, piece.payload())?)?);
        }
        fill_edges(&stack, piece, data)?;
        Ok(stack.write(first, data)?)
    }
}

/// Whether the payload can be written without what lies around it in its first and last unit: it
/// is whole sectors, and those units are in the top, so nothing of them must be brought there. The
/// caller holds the lock on both. Direct I/O writes whole blocks in any case.
fn is_apart(stack: &Stack, span: &Span) -> Result<bool, DiskError> {
    let payload = span.payload();
    let is_sectors = (payload.start | payload.end).is_multiple_of(SECTOR_BYTES as usize);
    if !is_sectors || stack.top.capabilities().writes_wait {
        return Ok(false);
    }
    let last = span.units() - 1;
    let edges = [(span.lead() > 0 || last == 0, 0), (span.trail() > 0 && last > 0, last)];
    for (_, edge) in edges.into_iter().filter(|(is_partial, _)| *is_partial) {
        if !stack.top.surely_holds(span.first().plus(edge))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads what lies around the payload in its first and last unit. The caller holds the lock on
/// both: nobody changes those bytes before they are written back.
fn fill_edges(stack: &Stack, span: &Span, data: &mut [u8]) -> Result<(), DiskError> {
    let unit = span.unit_bytes();
    let payload = span.payload();
    let last = span.units() - 1;
    let mut edge = Edge::new(unit);
    if span.lead() > 0 || (span.trail() > 0 && last == 0) {
        let old = edge.read(stack, span.first())?;
        data[..payload.start].copy_from_slice(&old[..payload.start]);
        if last == 0 {
            data[payload.end..].copy_from_slice(&old[payload.end..]);
            return Ok(());
        }
    }
    if span.trail() > 0 {
        let old = edge.read(stack, span.first().plus(last))?;
        let kept = data.len() - payload.end;
        data[payload.end..].copy_from_slice(&old[unit - kept..]);
    }
    Ok(())
}

/// Room for one unit's old content. Only requests that are not whole units pay for it.
struct Edge {
    bytes: [u8; 4096],
    unit: usize,
    present: Presence,
}

impl Edge {
    fn new(unit: usize) -> Self {
        Self { bytes: [0; 4096], unit, present: Presence::new() }
    }

    fn read(&mut self, stack: &Stack, unit: DataUnit) -> Result<&[u8], DiskError> {
        let bytes = &mut self.bytes[..self.unit];
        self.present.clear();
        stack.read(unit, bytes, &mut self.present, Waiting::Allowed)?;
        Ok(bytes)
    }
}
