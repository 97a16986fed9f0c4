//! A result becomes bytes (spec, "Simple reply message", "Structured reply chunk message",
//! "Extended reply chunk message", "Structured reply types").
//!
//! The encoders append to a buffer of the caller and allocate nothing; bytes of the export are not
//! copied here but sent beside the header by a vectored write. In structured and extended mode
//! everything is a chunk, errors too, so a client never has to guess what comes next.

use bytes::BufMut;

use super::context::NBD_STATE_CHANGED;
use super::errno::Errno;
use super::export::ReplyMode;
use super::request::Decoded;
use super::wire::{self, bounded_text};
use crate::limits;

/// Longest extent in 32 bits: below 2^32, and a multiple of any block a client may have.
const EXTENT_32_BYTES_MAX: u64 = (1 << 32) - (1 << 16);

/// Largest header any reply begins with, in bytes, with the fixed part of an `OFFSET_DATA` payload.
pub const READ_DATA_HEADER_BYTES_MAX: usize = wire::EXTENDED_REPLY_HEADER_BYTES + 8;

/// To which request a reply belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// Which headers the connection uses.
    pub mode: ReplyMode,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset, as it came.
    pub offset: u64,
}

impl ReplyTo {
    /// A reply to `request` on a connection that uses `mode`.
    pub const fn new(mode: ReplyMode, request: &Decoded) -> Self {
        Self { mode, cookie: request.cookie, offset: request.offset }
    }
}

/// Whether a chunk is the last of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// It ends the reply: nothing of it can fail any more.
    Yes,
    /// More chunks follow.
    No,
}

/// A part of the export that is all hole or all data, following the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// In bytes.
    pub length: u64,
    /// Nothing is stored there; it reads as zeros.
    pub is_hole: bool,
}

/// One content chunk of the reply to a READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadChunk {
    /// Bytes from the start of the export.
    pub offset: u64,
    /// In bytes, never zero.
    pub length: u32,
    /// Sent as a length alone, by [`read_hole`]; otherwise with its bytes, by [`begin_read_data`].
    pub is_hole: bool,
    /// The last chunk of the reply.
    pub done: Done,
}

/// One extent of a BLOCK_STATUS reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// In bytes, never zero; fits 32 bits unless the mode is extended.
    pub length: u64,
    /// `NBD_STATE_*`.
    pub flags: u32,
}

/// The reply to a request that succeeded and has nothing to send, a READ of zero bytes included.
pub fn success(to: ReplyTo, out: &mut impl BufMut) {
    match to.mode {
        ReplyMode::Simple => simple(to, 0, out),
        _ => chunk(to, wire::NBD_REPLY_TYPE_NONE, Done::Yes, 0, out),
    }
}

/// The whole reply to a request that failed, or its end if chunks were already sent. `text` is for
/// people, cut to the protocol's 4096 bytes, and lost in simple mode.
///
/// In simple mode this must not follow a [`begin_read_data`]: there only closing is left.
pub fn error(to: ReplyTo, errno: Errno, text: &str, out: &mut impl BufMut) {
    if to.mode == ReplyMode::Simple {
        return simple(to, errno.code(), out);
    }
    let text = bounded_text(text);
    chunk(to, wire::NBD_REPLY_TYPE_ERROR, Done::Yes, 6 + text.len(), out);
    error_fields(errno, text, out);
}

/// As [`error`], and says that it happened at byte `at` of the export, inside the request.
pub fn error_at(to: ReplyTo, errno: Errno, at: u64, text: &str, out: &mut impl BufMut) {
    if to.mode == ReplyMode::Simple {
        return simple(to, errno.code(), out);
    }
    let text = bounded_text(text);
    chunk(to, wire::NBD_REPLY_TYPE_ERROR_OFFSET, Done::Yes, 14 + text.len(), out);
    error_fields(errno, text, out);
    out.put_u64(at);
}

/// What goes before the bytes of a data chunk. The caller holds them all already, so that the
/// chunk cannot fail once begun, and sends exactly that many.
///
/// # Panics
/// If the chunk is a hole.
pub fn begin_read_data(to: ReplyTo, part: &ReadChunk, out: &mut impl BufMut) {
    assert!(!part.is_hole, "a hole has no bytes to send");
    if to.mode == ReplyMode::Simple {
        return simple(to, 0, out);
    }
    chunk(to, wire::NBD_REPLY_TYPE_OFFSET_DATA, part.done, 8 + part.length as usize, out);
    out.put_u64(part.offset);
}

/// A hole, complete.
///
/// # Panics
/// In simple mode, which has no holes; [`plan_read`] makes none for it.
pub fn read_hole(to: ReplyTo, part: &ReadChunk, out: &mut impl BufMut) {
    chunk(to, wire::NBD_REPLY_TYPE_OFFSET_HOLE, part.done, 12, out);
    out.put_u64(part.offset);
    out.put_u32(part.length);
}

/// The extents of one metadata context, complete.
///
/// # Panics
/// In simple mode, in which no context can be selected, or if an extent of a structured reply does
/// not fit 32 bits; [`plan_block_status`] makes none that long.
pub fn block_status(
    to: ReplyTo,
    context: u32,
    extents: &[Descriptor],
    done: Done,
    out: &mut impl BufMut,
) {
    if to.mode == ReplyMode::Extended {
        let length = 8 + 16 * extents.len();
        chunk(to, wire::NBD_REPLY_TYPE_BLOCK_STATUS_EXT, done, length, out);
        out.put_u32(context);
        out.put_u32(u32::try_from(extents.len()).expect("at most limits::EXTENTS_MAX"));
        for extent in extents {
            out.put_u64(extent.length);
            out.put_u64(extent.flags.into());
        }
    } else {
        chunk(to, wire::NBD_REPLY_TYPE_BLOCK_STATUS, done, 4 + 8 * extents.len(), out);
        out.put_u32(context);
        for extent in extents {
            out.put_u32(u32::try_from(extent.length).expect("planned for 32 bits"));
            out.put_u32(extent.flags);
        }
    }
}

/// Cuts a READ of `length` bytes into content chunks, put into `chunks` in the order of their
/// offsets: they cover all of it, each byte once, and the last one is done. None if `length` is 0;
/// [`success`] is the answer then.
///
/// `runs` say where holes are, from the request's offset on; what they leave open is data. A hole
/// that is short, or short beside the whole ([`limits::READ_HOLE_BYTES_MIN`],
/// [`limits::READ_HOLES_MAX`]), is made part of the data around it: the caller's buffer holds
/// zeros there. So there are never more than 2 x `READ_HOLES_MAX` + 1 chunks. With `df`, and in
/// simple mode, there is one of data.
pub fn plan_read(
    to: ReplyTo,
    length: u32,
    df: bool,
    runs: impl IntoIterator<Item = Run>,
    chunks: &mut Vec<ReadChunk>,
) {
    chunks.clear();
    let total = u64::from(length);
    let hole_min = limits::READ_HOLE_BYTES_MIN.max(total.div_ceil(limits::READ_HOLES_MAX));
    let is_whole = df || to.mode == ReplyMode::Simple;
    let mut planned = 0;
    for run in merged(runs) {
        let bytes = run.length.min(total - planned);
        let is_hole = run.is_hole && !is_whole && (bytes >= hole_min || bytes == total);
        extend(chunks, to.offset + planned, bytes, is_hole);
        planned += bytes;
        if planned == total {
            break;
        }
    }
    extend(chunks, to.offset + planned, total - planned, false);
    if let Some(last) = chunks.last_mut() {
        last.done = Done::Yes;
    }
}

/// What runs say in a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// `base:allocation`: holes are holes.
    Allocation,
    /// `sealdisk:changed-since=…`: holes are unchanged, what is not may have changed.
    Changes,
}

impl Meaning {
    const fn flags(self, is_hole: bool) -> u32 {
        match (self, is_hole) {
            (Self::Allocation, true) => wire::NBD_STATE_HOLE | wire::NBD_STATE_ZERO,
            (Self::Changes, false) => NBD_STATE_CHANGED,
            (Self::Allocation, false) | (Self::Changes, true) => 0,
        }
    }
}

/// Makes of `runs`, which begin at the request's offset, the extents of a BLOCK_STATUS reply for
/// a context of that `meaning`, put into `extents`: at least one, at most
/// [`limits::EXTENTS_MAX`], no two equal neighbours. They end where the reply's form, the limit or
/// the runs end; the client asks again from there. With `req_one` there is one, not longer than
/// the `length` of the request in bytes.
pub fn plan_block_status(
    (mode, meaning): (ReplyMode, Meaning),
    length: u64,
    req_one: bool,
    runs: impl IntoIterator<Item = Run>,
    extents: &mut Vec<Descriptor>,
) {
    extents.clear();
    let (extents_max, reach) = if req_one { (1, length) } else { (limits::EXTENTS_MAX, u64::MAX) };
    let mut covered = 0_u64;
    for run in merged(runs).take(extents_max) {
        let flags = meaning.flags(run.is_hole);
        extents.push(Descriptor { length: run.length, flags });
        covered = covered.saturating_add(run.length);
        if covered >= length {
            // Only the last extent may reach past the request.
            break;
        }
    }
    if extents.is_empty() {
        // One extent is due: data, or changed, is what is always safe to believe.
        extents.push(Descriptor { length, flags: meaning.flags(false) });
    }
    let longest = match mode {
        ReplyMode::Extended => reach,
        ReplyMode::Simple | ReplyMode::Structured => reach.min(EXTENT_32_BYTES_MAX),
    };
    // An extent that is cut is the last one: the next would not follow it.
    if let Some(cut) = extents.iter().position(|extent| extent.length > longest) {
        extents[cut].length = longest;
        extents.truncate(cut + 1);
    }
}

/// The same runs without empty ones and without equal neighbours.
fn merged(runs: impl IntoIterator<Item = Run>) -> impl Iterator<Item = Run> {
    let mut runs = runs.into_iter().filter(|run| run.length > 0).peekable();
    std::iter::from_fn(move || {
        let mut run = runs.next()?;
        while let Some(next) = runs.next_if(|next| next.is_hole == run.is_hole) {
            run.length = run.length.saturating_add(next.length);
        }
        Some(run)
    })
}

/// Appends bytes to the plan, to the last chunk if it is of the same kind.
fn extend(chunks: &mut Vec<ReadChunk>, offset: u64, bytes: u64, is_hole: bool) {
    let length = u32::try_from(bytes).expect("a part of a 32-bit length");
    match chunks.last_mut() {
        _ if length == 0 => {}
        Some(last) if last.is_hole == is_hole => last.length += length,
        _ => chunks.push(ReadChunk { offset, length, is_hole, done: Done::No }),
    }
}

fn error_fields(errno: Errno, text: &str, out: &mut impl BufMut) {
    out.put_u32(errno.code());
    out.put_u16(u16::try_from(text.len()).expect("cut to 4096 bytes"));
    out.put_slice(text.as_bytes());
}

fn simple(to: ReplyTo, error: u32, out: &mut impl BufMut) {
    out.put_u32(wire::NBD_SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(to.cookie);
}

/// The header of a chunk whose payload has `length` bytes.
fn chunk(to: ReplyTo, kind: u16, done: Done, length: usize, out: &mut impl BufMut) {
    let magic = match to.mode {
        ReplyMode::Simple => unreachable!("chunks in simple mode: {kind:#06x}"),
        ReplyMode::Structured => wire::NBD_STRUCTURED_REPLY_MAGIC,
        ReplyMode::Extended => wire::NBD_EXTENDED_REPLY_MAGIC,
    };
    let flags = match done {
        Done::Yes => wire::NBD_REPLY_FLAG_DONE,
        Done::No => 0,
    };
    out.put_u32(magic);
    out.put_u16(flags);
    out.put_u16(kind);
    out.put_u64(to.cookie);
    if to.mode == ReplyMode::Extended {
        out.put_u64(to.offset);
        out.put_u64(length as u64);
    } else {
        out.put_u32(u32::try_from(length).expect("replies stay near limits::REQUEST_BYTES_MAX"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXTENDED: ReplyTo = ReplyTo { mode: ReplyMode::Extended, cookie: 1, offset: 4096 };

    fn plan(to: ReplyTo, length: u32, df: bool, runs: &[Run]) -> Vec<ReadChunk> {
        let mut chunks = vec![ReadChunk { offset: 9, length: 9, is_hole: true, done: Done::No }];
        plan_read(to, length, df, runs.iter().copied(), &mut chunks);
        chunks
    }

    fn status(mode: ReplyMode, length: u64, req_one: bool, runs: &[Run]) -> Vec<(u64, u32)> {
        let mut extents = vec![Descriptor { length: 9, flags: 9 }];
        let form = (mode, Meaning::Allocation);
        plan_block_status(form, length, req_one, runs.iter().copied(), &mut extents);
        extents.iter().map(|extent| (extent.length, extent.flags)).collect()
    }

    const fn data(length: u64) -> Run {
        Run { length, is_hole: false }
    }

    const fn hole(length: u64) -> Run {
        Run { length, is_hole: true }
    }

    #[test]
    fn layouts_are_those_of_the_protocol() {
        let part = ReadChunk { offset: 0x0a, length: 0x0b, is_hole: false, done: Done::Yes };
        let bytes = |mode, write: fn(ReplyTo, &ReadChunk, &mut Vec<u8>)| {
            let mut out = Vec::new();
            write(ReplyTo { mode, cookie: 0x0c, offset: 0x0d }, &part, &mut out);
            out
        };
        let data: fn(ReplyTo, &ReadChunk, &mut Vec<u8>) = |to, part, out| {
            begin_read_data(to, part, out);
        };
        assert_eq!(
            bytes(ReplyMode::Simple, data),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0c]
        );
        let structured = [
            &[0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x0c][..],
            &[0, 0, 0, 8 + 0x0b, 0, 0, 0, 0, 0, 0, 0, 0x0a],
        ];
        assert_eq!(bytes(ReplyMode::Structured, data), structured.concat());
        let extended = [
            &[0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0x0c][..],
            &[0, 0, 0, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0, 12],
            &[0, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0x0b],
        ];
        assert_eq!(bytes(ReplyMode::Extended, read_hole), extended.concat());
    }

    #[test]
    fn short_holes_are_sent_as_data_and_long_ones_as_holes() {
        let kinds = |length: u32, runs: &[Run]| -> Vec<(u32, bool)> {
            let chunks = plan(EXTENDED, length, false, runs);
            chunks.iter().map(|chunk| (chunk.length, chunk.is_hole)).collect()
        };
        let min = u32::try_from(limits::READ_HOLE_BYTES_MIN).expect("small");
        assert_eq!(kinds(8 + min, &[data(8), hole(min.into())]), [(8, false), (min, true)]);
        assert_eq!(kinds(7 + min, &[data(8), hole(min.into())]), [(7 + min, false)]);
        assert_eq!(kinds(512, &[hole(512)]), [(512, true)], "nothing but a hole");
        assert_eq!(kinds(512, &[]), [(512, false)], "runs that say nothing");
        let pieces = vec![hole(4096); 16];
        assert_eq!(
            kinds(16 * 4096 + 1, &[&pieces[..], &[data(1)]].concat()),
            [(16 * 4096, true), (1, false)]
        );
    }

    #[test]
    fn extents_of_a_structured_reply_are_cut_to_32_bits() {
        let huge = [hole(1 << 40), data(4096)];
        let flags = wire::NBD_STATE_HOLE | wire::NBD_STATE_ZERO;
        let cut = status(ReplyMode::Structured, 1 << 31, false, &huge);
        assert_eq!(cut, [(EXTENT_32_BYTES_MAX, flags)]);
        assert!(EXTENT_32_BYTES_MAX.is_multiple_of(4096) && EXTENT_32_BYTES_MAX < 1 << 32);
        let whole = status(ReplyMode::Extended, 2 << 40, false, &huge);
        assert_eq!(whole, [(1 << 40, flags), (4096, 0)]);
    }

    #[test]
    fn extents_end_with_the_one_that_reaches_the_end_of_the_request() {
        let runs = [data(4096), hole(4096), data(4096)];
        let count = |length| status(ReplyMode::Extended, length, false, &runs).len();
        assert_eq!([1, 4096, 4097, 8192, 8193].map(count), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn extents_are_bounded_and_never_none() {
        let runs: Vec<Run> =
            (0..20_000).map(|i| Run { length: 4096, is_hole: i % 2 == 0 }).collect();
        let extents = status(ReplyMode::Extended, u64::MAX, false, &runs);
        assert_eq!(extents.len(), limits::EXTENTS_MAX);
        assert_eq!(status(ReplyMode::Extended, 77, false, &[]), [(77, 0)]);
        assert_eq!(status(ReplyMode::Structured, 77, true, &[hole(0)]), [(77, 0)]);
    }

    fn some_runs() -> impl Strategy<Value = Vec<Run>> {
        let length = prop_oneof![0..10_000_u64, 0..200_000_u64, any::<u64>()];
        let run = (length, any::<bool>()).prop_map(|(length, is_hole)| Run { length, is_hole });
        prop::collection::vec(run, 0..300)
    }

    proptest! {
        #[test]
        fn chunks_cover_the_read_once_and_only_the_last_is_done(
            runs in some_runs(),
            length in prop_oneof![0..100_000_u32, 0..limits::REQUEST_BYTES_MAX],
            df in any::<bool>(),
            simple in any::<bool>(),
        ) {
            let mode = if simple { ReplyMode::Simple } else { ReplyMode::Structured };
            let to = ReplyTo { mode, ..EXTENDED };
            let chunks = plan(to, length, df, &runs);
            let mut next = to.offset;
            for (i, chunk) in chunks.iter().enumerate() {
                prop_assert_eq!(chunk.offset, next);
                prop_assert!(chunk.length > 0);
                prop_assert_eq!(chunk.done == Done::Yes, i + 1 == chunks.len());
                next += u64::from(chunk.length);
            }
            prop_assert_eq!(next, to.offset + u64::from(length));
            prop_assert!(chunks.len() as u64 <= 2 * limits::READ_HOLES_MAX + 1);
            if df || simple {
                prop_assert!(chunks.len() <= 1 && chunks.iter().all(|chunk| !chunk.is_hole));
            }
            // What is sent as a hole is a hole.
            let mut at = to.offset;
            for run in runs {
                let end = at.saturating_add(run.length);
                for chunk in chunks.iter().filter(|chunk| chunk.is_hole && !run.is_hole) {
                    let chunk_end = chunk.offset + u64::from(chunk.length);
                    prop_assert!(end <= chunk.offset || at >= chunk_end);
                }
                at = end;
            }
        }

        #[test]
        fn extents_keep_the_rules(
            runs in some_runs(),
            length in prop_oneof![1..1_000_000_u64, 1..=u64::from(u32::MAX)],
            req_one in any::<bool>(),
            wide in any::<bool>(),
        ) {
            let mode = if wide { ReplyMode::Extended } else { ReplyMode::Structured };
            let extents = status(mode, length, req_one, &runs);
            prop_assert!(!extents.is_empty() && extents.iter().all(|(bytes, _)| *bytes > 0));
            prop_assert!(extents.windows(2).all(|pair| pair[0].1 != pair[1].1));
            let but_last: u64 = extents[..extents.len() - 1].iter().map(|(bytes, _)| bytes).sum();
            prop_assert!(but_last < length);
            prop_assert!(wide || extents.iter().all(|(bytes, _)| *bytes < 1 << 32));
            prop_assert!(!req_one || (extents.len() == 1 && extents[0].0 <= length));
        }
    }
}
