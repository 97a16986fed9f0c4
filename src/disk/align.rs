//! Byte ranges and the whole data units that cover them. Alignment is decided here alone.

use std::ops::Range;

use crate::units::{ByteCount, ByteOffset, DataUnit, DataUnitSize};

/// The whole data units that cover a byte range.
///
/// ```text
/// units    |-------u0-------|-------u1-------|-------u2-------|
/// range         [===========================)
///          <lead>                           <-----trail------>
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    size: DataUnitSize,
    first: DataUnit,
    units: u64,
    lead: usize,
    len: usize,
}

impl Span {
    /// The span of `len` bytes from `at`; of no units if `len` is zero.
    pub fn covering(size: DataUnitSize, at: ByteOffset, len: usize) -> Self {
        let first = size.unit_of(at);
        let lead = at.since(size.start_of(first)).as_usize();
        let units = match len {
            0 => 0,
            _ => size.units_in(ByteCount::new((lead + len) as u64)),
        };
        Self { size, first, units, lead, len }
    }

    /// Bytes in one unit.
    pub const fn unit_bytes(&self) -> usize {
        self.size.as_usize()
    }

    /// The first unit.
    pub const fn first(&self) -> DataUnit {
        self.first
    }

    /// How many units.
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// Bytes of the first unit that lie before the range.
    pub const fn lead(&self) -> usize {
        self.lead
    }

    /// Bytes in all units together: what a buffer for this span must hold.
    pub const fn covered_bytes(&self) -> usize {
        self.units as usize * self.size.as_usize()
    }

    /// Where the range lies inside such a buffer.
    pub const fn payload(&self) -> Range<usize> {
        self.lead..self.lead + self.len
    }

    /// Bytes of the last unit that lie behind the range.
    pub const fn trail(&self) -> usize {
        self.covered_bytes() - self.lead - self.len
    }

    /// Whether the range is whole units, so that nothing around it must be kept.
    pub const fn is_aligned(&self) -> bool {
        self.lead == 0 && self.trail() == 0
    }

    /// The span in pieces of at most `bytes_max` (at least one unit), in order, each with its place
    /// in a buffer for the whole span.
    pub fn pieces(&self, bytes_max: usize) -> impl Iterator<Item = (Self, Range<usize>)> + use<> {
        let (whole, unit) = (*self, self.unit_bytes());
        let step = (bytes_max / unit).max(1) * unit;
        (0..whole.covered_bytes()).step_by(step).map(move |start| {
            let covered = start..whole.covered_bytes().min(start + step);
            let payload = whole.payload();
            let (from, to) = (payload.start.max(covered.start), payload.end.min(covered.end));
            let piece = Self {
                size: whole.size,
                first: whole.first.plus((start / unit) as u64),
                units: (covered.len() / unit) as u64,
                lead: from - covered.start,
                len: to - from,
            };
            (piece, covered)
        })
    }
}

/// A byte range as a part of one unit, whole units, and a part of one more; any may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Bytes before the first whole unit.
    pub head: Option<(ByteOffset, usize)>,
    /// First whole unit, and how many.
    pub body: (DataUnit, u64),
    /// Bytes behind the last whole unit.
    pub tail: Option<(ByteOffset, usize)>,
}

impl Parts {
    /// The parts of `len` bytes from `at`. A range inside one unit is all head.
    pub fn of(size: DataUnitSize, at: ByteOffset, len: ByteCount) -> Self {
        let end = at.plus(len);
        let first_whole = size.units_in(at.since(ByteOffset::ZERO));
        let end_whole = size.unit_of(end).get();
        if first_whole > end_whole {
            let head = Some((at, len.as_usize()));
            return Self { head, body: (DataUnit::new(first_whole), 0), tail: None };
        }
        let body_start = size.start_of(DataUnit::new(first_whole));
        let body_end = size.start_of(DataUnit::new(end_whole));
        let part = |from: ByteOffset, to: ByteOffset| {
            (from < to).then(|| (from, to.since(from).as_usize()))
        };
        Self {
            head: part(at, body_start),
            body: (DataUnit::new(first_whole), end_whole - first_whole),
            tail: part(body_end, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: DataUnitSize = DataUnitSize::B4096;

    #[test]
    fn a_range_inside_one_unit_is_all_head() {
        let parts = Parts::of(SIZE, ByteOffset::new(10), ByteCount::new(20));
        assert_eq!(parts.head, Some((ByteOffset::new(10), 20)));
        assert_eq!((parts.body.1, parts.tail), (0, None));
    }

    #[test]
    fn nothing_covers_nothing() {
        let span = Span::covering(SIZE, ByteOffset::new(777), 0);
        assert_eq!((span.units(), span.covered_bytes()), (0, 0));
    }

    proptest! {
        #[test]
        fn parts_cover_the_range_once_in_order(at in 0u64..100_000, len in 0u64..100_000) {
            let (start, count) = (ByteOffset::new(at), ByteCount::new(len));
            let parts = Parts::of(SIZE, start, count);
            let mut position = at;
            if let Some((head, bytes)) = parts.head {
                prop_assert_eq!(head.get(), position);
                prop_assert!(bytes > 0 && bytes < 4096);
                position += bytes as u64;
            }
            if parts.body.1 > 0 {
                prop_assert_eq!(SIZE.start_of(parts.body.0).get(), position);
                position += parts.body.1 * 4096;
            }
            if let Some((tail, bytes)) = parts.tail {
                prop_assert_eq!(tail.get(), position);
                prop_assert!(bytes > 0 && bytes < 4096);
                position += bytes as u64;
            }
            prop_assert_eq!(position, at + len);
        }

        #[test]
        fn pieces_are_the_span_in_order(
            at in 0u64..100_000,
            len in 0usize..100_000,
            bytes_max in 1usize..70_000,
        ) {
            let span = Span::covering(SIZE, ByteOffset::new(at), len);
            let (mut unit, mut covered, mut payload) = (span.first(), 0, span.lead());
            for (piece, place) in span.pieces(bytes_max) {
                prop_assert_eq!((piece.first(), place.start), (unit, covered));
                prop_assert_eq!(place.len(), piece.covered_bytes());
                prop_assert!(place.len() <= bytes_max.max(4096));
                prop_assert_eq!(place.start + piece.payload().start, payload);
                prop_assert!(piece.payload().end <= piece.covered_bytes());
                unit = unit.plus(piece.units());
                covered = place.end;
                payload = place.start + piece.payload().end;
            }
            prop_assert_eq!(covered, span.covered_bytes());
            prop_assert_eq!(payload, span.payload().end);
        }

        #[test]
        fn a_span_holds_its_range(at in 0u64..100_000, len in 1usize..100_000) {
            let span = Span::covering(SIZE, ByteOffset::new(at), len);
            prop_assert_eq!(SIZE.start_of(span.first()).get() + span.lead() as u64, at);
            prop_assert!(span.payload().end <= span.covered_bytes());
            prop_assert!(span.lead() < 4096 && span.trail() < 4096);
        }
    }
}
