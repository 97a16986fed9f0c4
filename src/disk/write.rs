//! The write route, on one screen: piece by piece, lock the units, fill the edges, encrypt, write.

use crate::layer::Presence;
use crate::storage::Durability;
use crate::units::DataUnit;

use super::align::Span;
use super::{Disk, DiskError};

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
        if piece.is_aligned() {
            let sealed = self.top.seal_units(piece.first(), data)?;
            let _guard = self.locks.write(piece.first(), piece.units());
            return Ok(self.top.store_units(&sealed, Durability::Volatile)?);
        }
        let _guard = self.locks.write(piece.first(), piece.units());
        self.fill_edges(piece, data)?;
        Ok(self.top.write_units(piece.first(), data, Durability::Volatile)?)
    }

    /// Reads what lies around the payload in its first and last unit. The caller holds the lock on
    /// both: nobody changes those bytes before they are written back.
    fn fill_edges(&self, span: &Span, data: &mut [u8]) -> Result<(), DiskError> {
        let unit = self.unit().as_usize();
        let payload = span.payload();
        let last = span.units() - 1;
        let mut edge = Edge::new(unit);
        if span.lead() > 0 || (span.trail() > 0 && last == 0) {
            let old = edge.read(self, span.first())?;
            data[..payload.start].copy_from_slice(&old[..payload.start]);
            if last == 0 {
                data[payload.end..].copy_from_slice(&old[payload.end..]);
                return Ok(());
            }
        }
        if span.trail() > 0 {
            let old = edge.read(self, span.first().plus(last))?;
            let kept = data.len() - payload.end;
            data[payload.end..].copy_from_slice(&old[unit - kept..]);
        }
        Ok(())
    }
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

    fn read(&mut self, disk: &Disk, unit: DataUnit) -> Result<&[u8], DiskError> {
        let bytes = &mut self.bytes[..self.unit];
        disk.top.read_units(unit, bytes, &mut self.present)?;
        Ok(bytes)
    }
}
