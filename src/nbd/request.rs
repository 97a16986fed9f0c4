//! A request header becomes a checked command, or the error to answer (spec, "Request message",
//! "Request types", "Command flags", "Error values"). Every check of range, flags and size of a
//! request is in this file.
//!
//! A wrong request never costs the connection as long as the next one can be found: its payload is
//! counted in [`Decoded::payload`] whatever the verdict, and the caller reads exactly that many
//! bytes, through the same TLS layer if there is one, keeping them or throwing them away.

use bytes::Buf;

use super::context::{CHANGES_MAX, Chosen};
use super::errno::Errno;
use super::export::{Negotiated, ReplyMode};
use super::wire::{self, RequestHeader};
use crate::limits;

/// Longest payload of a BLOCK_STATUS that names its contexts: the length asked about, and the id of
/// each context there can be. An unknown or repeated id is an error, so none longer can be right.
pub const BLOCK_STATUS_PAYLOAD_BYTES_MAX: usize = 8 + 4 * (1 + CHANGES_MAX);

/// A request that was read to the end of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// What the reply repeats.
    pub cookie: u64,
    /// As it was in the header, in bytes; an extended reply repeats it even where it is nonsense.
    pub offset: u64,
    /// Bytes of the export the request is about. Checked together with `offset` if `verdict` is a
    /// command; may be zero, which is a success without effect.
    pub length: u64,
    /// Bytes that follow the header and belong to this request.
    pub payload: u64,
    /// What to do, or what to answer once `payload` has been read and thrown away.
    pub verdict: Result<Command, Errno>,
}

/// What a client wants; offset and length are in [`Decoded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send bytes, at most `block_max` of them.
    Read {
        /// In one content chunk.
        df: bool,
    },
    /// Store the payload, at most `block_max` bytes.
    Write {
        /// On stable storage before the reply.
        fua: bool,
    },
    /// Finish what is in flight, then close. Has no reply.
    Disconnect,
    /// Make acknowledged writes survive power loss.
    Flush,
    /// The content is no longer needed. As long as the export, if the client likes.
    Trim {
        /// On stable storage before the reply.
        fua: bool,
    },
    /// The content will be needed soon. As long as the export, if the client likes.
    Cache,
    /// Zeroes. As long as the export, if the client likes.
    WriteZeroes {
        /// On stable storage before the reply.
        fua: bool,
        /// Keep the space allocated.
        no_hole: bool,
        /// Fail with [`Errno::NotSup`] at once unless it is faster than writing.
        fast: bool,
    },
    /// Say which parts are holes. As long as the export, if the client likes.
    BlockStatus {
        /// One extent, not longer than the request.
        req_one: bool,
        /// In which respects; at least one.
        contexts: Chosen,
    },
    /// As [`Command::BlockStatus`], but its length and contexts are in the payload, which has at
    /// most [`BLOCK_STATUS_PAYLOAD_BYTES_MAX`]: [`Decoded::with_block_status_payload`] makes a
    /// checked request of it.
    BlockStatusPayload {
        /// One extent, not longer than the request.
        req_one: bool,
    },
}

/// Why the connection cannot go on: there is no way, or no sense, to find the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The client lost count of its own bytes, or is no NBD client.
    #[error("a request without its magic number: {found:#010x}")]
    BadMagic {
        /// What stood there instead.
        found: u32,
    },
    /// More payload than we read even to throw it away.
    #[error("a request with {bytes} bytes of payload")]
    PayloadTooLong {
        /// What its header claims.
        bytes: u64,
    },
}

/// Bytes in a request header.
pub const fn header_bytes(mode: ReplyMode) -> usize {
    match mode {
        ReplyMode::Simple | ReplyMode::Structured => wire::REQUEST_HEADER_BYTES,
        ReplyMode::Extended => wire::EXTENDED_REQUEST_HEADER_BYTES,
    }
}

/// Checks a request.
///
/// # Panics
/// If `header` is shorter than [`header_bytes`]; bytes after them are not looked at.
pub fn decode(header: &[u8], negotiated: &Negotiated) -> Result<Decoded, Fatal> {
    let (header, magic) = match negotiated.replies {
        ReplyMode::Simple | ReplyMode::Structured => {
            let bytes = header.first_chunk().expect("the caller waits for header_bytes");
            (RequestHeader::parse_compact(bytes), wire::NBD_REQUEST_MAGIC)
        }
        ReplyMode::Extended => {
            let bytes = header.first_chunk().expect("the caller waits for header_bytes");
            (RequestHeader::parse_extended(bytes), wire::NBD_EXTENDED_REQUEST_MAGIC)
        }
    };
    if header.magic != magic {
        return Err(Fatal::BadMagic { found: header.magic });
    }
    let payload = payload(&header, negotiated);
    if payload > payload_max(negotiated) {
        return Err(Fatal::PayloadTooLong { bytes: payload });
    }
    Ok(Decoded {
        cookie: header.cookie,
        offset: header.offset,
        length: header.length,
        payload,
        verdict: verdict(&header, negotiated),
    })
}

impl Decoded {
    /// The same request after the payload of a [`Command::BlockStatusPayload`] was read: `length`
    /// and `verdict` are final. Unchanged for every other command.
    #[must_use]
    pub fn with_block_status_payload(self, payload: &[u8], negotiated: &Negotiated) -> Self {
        let Ok(Command::BlockStatusPayload { req_one }) = self.verdict else {
            return self;
        };
        let mut ids = payload;
        let Ok(length) = ids.try_get_u64() else {
            return Self { verdict: Err(Errno::Inval), ..self };
        };
        let verdict = match Chosen::of_ids(ids, negotiated) {
            Some(contexts) => block_status((self.offset, length), (req_one, contexts), negotiated),
            None => Err(Errno::Inval),
        };
        Self { length, verdict, ..self }
    }
}

/// Bytes that follow the header. With extended headers the flag announces them for any command. A
/// WRITE must have the flag by the spec, but qemu 10 sends its payload without it: what WRITE means
/// is never in doubt, so it is served.
fn payload(header: &RequestHeader, negotiated: &Negotiated) -> u64 {
    let is_announced = negotiated.replies == ReplyMode::Extended
        && header.flags & wire::NBD_CMD_FLAG_PAYLOAD_LEN != 0;
    let follows = is_announced || header.command == wire::NBD_CMD_WRITE;
    if follows { header.length } else { 0 }
}

/// Payload that is read at all. With extended headers the spec wants longer ones closed at the
/// advertised maximum, or at the default one if that is larger.
fn payload_max(negotiated: &Negotiated) -> u64 {
    match negotiated.replies {
        ReplyMode::Extended => {
            u64::from(negotiated.export.block_max.max(limits::REQUEST_BYTES_MAX))
        }
        ReplyMode::Simple | ReplyMode::Structured => limits::PAYLOAD_DISCARD_BYTES_MAX,
    }
}

fn verdict(header: &RequestHeader, negotiated: &Negotiated) -> Result<Command, Errno> {
    let RequestHeader { command, flags, offset, length, .. } = *header;
    let export = &negotiated.export;
    if command == wire::NBD_CMD_DISC {
        // It has no reply, so there is nobody to tell about flags or a length.
        return Ok(Command::Disconnect);
    }
    if export.read_only && writes(command) {
        return Err(Errno::Perm);
    }
    if flags & !allowed_flags(command, negotiated) != 0 {
        return Err(Errno::Inval);
    }
    let has = |flag| flags & flag != 0;
    let fua = has(wire::NBD_CMD_FLAG_FUA);
    match command {
        wire::NBD_CMD_READ => read(offset, length, has(wire::NBD_CMD_FLAG_DF), negotiated),
        wire::NBD_CMD_WRITE => {
            inside(offset, length, negotiated, Errno::NoSpc)?;
            if length > export.block_max.into() {
                return Err(Errno::Inval);
            }
            Ok(Command::Write { fua })
        }
        // The spec reserves offset and length, and leaves open what happens if they are set. They
        // are ignored: flushing everything covers whatever range was meant, and an I/O error
        // would harm more than the slip.
        wire::NBD_CMD_FLUSH => Ok(Command::Flush),
        wire::NBD_CMD_TRIM => {
            inside(offset, length, negotiated, Errno::Inval)?;
            Ok(Command::Trim { fua })
        }
        wire::NBD_CMD_CACHE => {
            inside(offset, length, negotiated, Errno::Inval)?;
            Ok(Command::Cache)
        }
        wire::NBD_CMD_WRITE_ZEROES => {
            inside(offset, length, negotiated, Errno::NoSpc)?;
            Ok(Command::WriteZeroes {
                fua,
                no_hole: has(wire::NBD_CMD_FLAG_NO_HOLE),
                fast: has(wire::NBD_CMD_FLAG_FAST_ZERO),
            })
        }
        wire::NBD_CMD_BLOCK_STATUS => {
            let req_one = has(wire::NBD_CMD_FLAG_REQ_ONE);
            if !has(wire::NBD_CMD_FLAG_PAYLOAD_LEN) {
                let all = Chosen::all(negotiated);
                block_status((offset, length), (req_one, all), negotiated)
            } else if (12..=BLOCK_STATUS_PAYLOAD_BYTES_MAX as u64).contains(&length)
                && length.is_multiple_of(4)
            {
                Ok(Command::BlockStatusPayload { req_one })
            } else {
                Err(Errno::Inval)
            }
        }
        _ => Err(Errno::Inval),
    }
}

fn read(offset: u64, length: u64, df: bool, negotiated: &Negotiated) -> Result<Command, Errno> {
    inside(offset, length, negotiated, Errno::Inval)?;
    if length > negotiated.export.block_max.into() {
        return Err(match negotiated.replies {
            ReplyMode::Simple => Errno::Inval,
            ReplyMode::Structured | ReplyMode::Extended => Errno::Overflow,
        });
    }
    Ok(Command::Read { df })
}

fn block_status(
    (offset, length): (u64, u64),
    (req_one, contexts): (bool, Chosen),
    negotiated: &Negotiated,
) -> Result<Command, Errno> {
    // A reply must have an extent, and an extent a length: there is none for zero bytes.
    if contexts.is_empty() || length == 0 {
        return Err(Errno::Inval);
    }
    inside(offset, length, negotiated, Errno::Inval)?;
    Ok(Command::BlockStatus { req_one, contexts })
}

const fn writes(command: u16) -> bool {
    matches!(command, wire::NBD_CMD_WRITE | wire::NBD_CMD_TRIM | wire::NBD_CMD_WRITE_ZEROES)
}

/// The flags `command` may have, given what was advertised.
fn allowed_flags(command: u16, negotiated: &Negotiated) -> u16 {
    let advertised = negotiated.transmission_flags();
    let given = |feature, flag| if advertised & feature != 0 { flag } else { 0 };
    // On every command, says the spec, even where it means nothing.
    let fua = given(wire::NBD_FLAG_SEND_FUA, wire::NBD_CMD_FLAG_FUA);
    fua | match command {
        wire::NBD_CMD_READ => given(wire::NBD_FLAG_SEND_DF, wire::NBD_CMD_FLAG_DF),
        wire::NBD_CMD_WRITE => match negotiated.replies {
            ReplyMode::Extended => wire::NBD_CMD_FLAG_PAYLOAD_LEN,
            ReplyMode::Simple | ReplyMode::Structured => 0,
        },
        wire::NBD_CMD_WRITE_ZEROES => {
            wire::NBD_CMD_FLAG_NO_HOLE
                | given(wire::NBD_FLAG_SEND_FAST_ZERO, wire::NBD_CMD_FLAG_FAST_ZERO)
        }
        wire::NBD_CMD_BLOCK_STATUS => {
            wire::NBD_CMD_FLAG_REQ_ONE
                | given(wire::NBD_FLAG_BLOCK_STATUS_PAYLOAD, wire::NBD_CMD_FLAG_PAYLOAD_LEN)
        }
        _ => 0,
    }
}

/// Whether a range lies on the export, else `past_end`, and on its minimum blocks, else `EINVAL`.
fn inside(offset: u64, length: u64, negotiated: &Negotiated, past_end: Errno) -> Result<(), Errno> {
    let export = &negotiated.export;
    match offset.checked_add(length) {
        Some(end) if end <= export.size => {}
        _ => return Err(past_end),
    }
    let block = u64::from(export.block_min);
    if offset.is_multiple_of(block) && length.is_multiple_of(block) {
        Ok(())
    } else {
        Err(Errno::Inval)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nbd::export::ExportInfo;

    fn negotiated(replies: ReplyMode, size: u64, base_allocation: Option<u32>) -> Negotiated {
        let export = ExportInfo {
            name: "disk".to_owned(),
            description: String::new(),
            size,
            read_only: false,
            multi_conn: true,
            rotational: false,
            fast_zero: true,
            block_min: 1,
            block_preferred: 4096,
            block_max: limits::REQUEST_BYTES_MAX,
        };
        Negotiated { export, replies, base_allocation, changes: Vec::new() }
    }

    #[test]
    fn layouts_are_those_of_the_protocol() {
        let compact = [
            &[0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0x0c][..],
            &[0, 0, 0, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0x0e],
        ]
        .concat();
        let decoded = decode(&compact, &negotiated(ReplyMode::Simple, 1 << 30, None));
        let expected = Decoded {
            cookie: 0x0c,
            offset: 0x0d,
            length: 0x0e,
            payload: 0,
            verdict: Ok(Command::WriteZeroes { fua: true, no_hole: false, fast: false }),
        };
        assert_eq!(decoded, Ok(expected));
        let extended = [
            &[0x21, 0xe4, 0x1c, 0x71, 0, 0x20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x0c][..],
            &[0, 0, 0, 0, 0, 0, 0, 0x0d, 0, 0, 0, 0, 0, 0, 0, 0x0e],
        ]
        .concat();
        let decoded = decode(&extended, &negotiated(ReplyMode::Extended, 1 << 30, None));
        let verdict = Ok(Command::Write { fua: false });
        assert_eq!(decoded, Ok(Decoded { payload: 0x0e, verdict, ..expected }));
    }

    fn some_header() -> impl Strategy<Value = (ReplyMode, Vec<u8>)> {
        let edge = |small: u64| {
            prop_oneof![0..small, any::<u64>(), Just(u64::MAX), Just(1 << 32), Just(small)]
        };
        let mode = prop_oneof![
            Just(ReplyMode::Simple),
            Just(ReplyMode::Structured),
            Just(ReplyMode::Extended)
        ];
        (mode, 0..128_u16, 0..10_u16, edge(1 << 20), edge(40 << 20)).prop_map(
            |(mode, flags, command, offset, length)| {
                let is_extended = mode == ReplyMode::Extended;
                let magic = match is_extended {
                    true => wire::NBD_EXTENDED_REQUEST_MAGIC,
                    false => wire::NBD_REQUEST_MAGIC,
                };
                let mut bytes = magic.to_be_bytes().to_vec();
                bytes.extend(flags.to_be_bytes());
                bytes.extend(command.to_be_bytes());
                bytes.extend([0; 8]);
                bytes.extend(offset.to_be_bytes());
                let from = if is_extended { 0 } else { 4 };
                bytes.extend(&length.to_be_bytes()[from..]);
                (mode, bytes)
            },
        )
    }

    proptest! {
        #[test]
        fn every_command_that_is_let_through_lies_on_the_export(
            (mode, header) in some_header(),
            size in prop_oneof![0..2_000_000_u64, Just(1 << 40), Just((1 << 63) - 1)],
            context in any::<Option<u32>>(),
        ) {
            let negotiated = negotiated(mode, size, context);
            let Ok(decoded) = decode(&header, &negotiated) else {
                return Ok(());
            };
            prop_assert!(decoded.payload <= limits::PAYLOAD_DISCARD_BYTES_MAX);
            match decoded.verdict {
                Ok(Command::Read { .. } | Command::Write { .. }) => {
                    prop_assert!(decoded.length <= limits::REQUEST_BYTES_MAX.into());
                }
                Ok(Command::BlockStatusPayload { .. }) => {
                    prop_assert!(decoded.payload <= BLOCK_STATUS_PAYLOAD_BYTES_MAX as u64);
                    return Ok(());
                }
                Ok(Command::Flush | Command::Disconnect) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
            prop_assert!(decoded.offset.checked_add(decoded.length).is_some_and(|end| end <= size));
        }
    }
}
