//! The read route: whole units into the buffer, decrypted in place, piece by piece; absent units
//! are zeros.

use crate::layer::Presence;
use crate::units::ByteOffset;

use super::align::Span;
use super::{Disk, DiskError, Waiting};

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
            return Ok(self.top.read_units_cached(piece.first(), data, present)?);
        }
        let _guard = self.locks.read(piece.first(), piece.units());
        self.top.read_units(piece.first(), data, present)?;
        Ok(true)
    }
}
