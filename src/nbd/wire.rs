//! The numbers and byte layouts of the protocol, under the names the spec gives them.
//!
//! Everything is big-endian. Nothing here decides anything.

use bytes::Buf;

use crate::limits::NBD_STRING_BYTES_MAX;

/// First word of the greeting: `NBDMAGIC`.
pub const INIT_PASSWD: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of the greeting and first word of every option: `IHAVEOPT`.
pub const IHAVEOPT: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// First word of every answer to an option.
pub const NBD_OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const NBD_EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a structured reply chunk.
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of an extended reply chunk.
pub const NBD_EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

// Handshake flags, 16 bits, server to client.

/// We speak fixed newstyle: options are answered.
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// We can leave out the 124 zero bytes after `NBD_OPT_EXPORT_NAME`.
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;

// Client flags, 32 bits, client to server.

/// The client speaks fixed newstyle.
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// The client does not want the 124 zero bytes.
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Zero bytes that end the answer to `NBD_OPT_EXPORT_NAME` unless both sides agreed otherwise.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;

// Transmission flags, 16 bits.

/// Always set.
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Writes are refused.
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// `NBD_CMD_FLUSH` works.
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// `NBD_CMD_FLAG_FUA` works.
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// Schedule as for a spinning disk.
pub const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
/// `NBD_CMD_TRIM` works.
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_FLAG_NO_HOLE` work.
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// `NBD_CMD_FLAG_DF` works; never without structured or extended replies.
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// A flush on one connection covers the acknowledged writes of all.
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Of the RESIZE extension; we never set it.
pub const NBD_FLAG_SEND_RESIZE: u16 = 1 << 9;
/// `NBD_CMD_CACHE` is understood.
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// `NBD_CMD_FLAG_FAST_ZERO` is answered honestly.
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// `NBD_CMD_BLOCK_STATUS` may name its contexts in a payload; never without extended headers.
pub const NBD_FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

// Options.

/// Choose an export and begin transmission; cannot be refused but by closing.
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// End the session.
pub const NBD_OPT_ABORT: u32 = 2;
/// Name the exports.
pub const NBD_OPT_LIST: u32 = 3;
/// Withdrawn from the protocol.
pub const NBD_OPT_PEEK_EXPORT: u32 = 4;
/// Continue inside TLS.
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Describe an export.
pub const NBD_OPT_INFO: u32 = 6;
/// Describe an export and begin transmission.
pub const NBD_OPT_GO: u32 = 7;
/// Use structured replies.
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// Name the metadata contexts of an export.
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Choose metadata contexts of an export.
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Use extended headers.
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

// Answers to options.

/// Done.
pub const NBD_REP_ACK: u32 = 1;
/// One export of a list.
pub const NBD_REP_SERVER: u32 = 2;
/// One piece of information on an export.
pub const NBD_REP_INFO: u32 = 3;
/// One metadata context.
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// Set in every answer that is an error.
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// We do not know the option.
pub const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR | 1;
/// We know the option and do not allow it.
pub const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR | 2;
/// The option is malformed or out of place.
pub const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR | 3;
/// The option cannot work on this platform.
pub const NBD_REP_ERR_PLATFORM: u32 = NBD_REP_FLAG_ERROR | 4;
/// TLS must come first.
pub const NBD_REP_ERR_TLS_REQD: u32 = NBD_REP_FLAG_ERROR | 5;
/// There is no such export.
pub const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR | 6;
/// The server is stopping.
pub const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR | 7;
/// The client must ask for block sizes; we never require it.
pub const NBD_REP_ERR_BLOCK_SIZE_REQD: u32 = NBD_REP_FLAG_ERROR | 8;
/// The option or its answer is too large.
pub const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR | 9;
/// Extended headers are in use, or would have to be.
pub const NBD_REP_ERR_EXT_HEADER_REQD: u32 = NBD_REP_FLAG_ERROR | 10;

// Pieces of information on an export.

/// Size and transmission flags.
pub const NBD_INFO_EXPORT: u16 = 0;
/// The canonical name.
pub const NBD_INFO_NAME: u16 = 1;
/// A text for people.
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Minimum block, preferred block, maximum payload.
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

// Commands.

/// Read.
pub const NBD_CMD_READ: u16 = 0;
/// Write; the data follows the header.
pub const NBD_CMD_WRITE: u16 = 1;
/// Finish what is in flight and close. Has no reply.
pub const NBD_CMD_DISC: u16 = 2;
/// Make acknowledged writes survive power loss.
pub const NBD_CMD_FLUSH: u16 = 3;
/// The content is no longer needed.
pub const NBD_CMD_TRIM: u16 = 4;
/// The content will be needed soon.
pub const NBD_CMD_CACHE: u16 = 5;
/// Write zeroes without sending them.
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Ask which parts are holes.
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

// Command flags.

/// On stable storage before the reply.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// WRITE_ZEROES: keep the space allocated.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// READ: answer with one content chunk.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// BLOCK_STATUS: answer with one extent.
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// WRITE_ZEROES: fail at once unless it is faster than writing.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// Extended headers: the header's length is that of a payload.
pub const NBD_CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

// Reply chunks.

/// Chunk flag: the last one of its reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// Nothing but the end of a reply.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Bytes of the export.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// A run of zeroes of the export.
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Extents with 32-bit lengths.
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Extents with 64-bit lengths; only with extended headers.
pub const NBD_REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// An error.
pub const NBD_REPLY_TYPE_ERROR: u16 = (1 << 15) | 1;
/// An error at a position of the export.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) | 2;

// Status flags of the context `base:allocation`.

/// The extent has no space allocated.
pub const NBD_STATE_HOLE: u32 = 1 << 0;
/// The extent reads as zeroes.
pub const NBD_STATE_ZERO: u32 = 1 << 1;

/// The metadata context that says where data is.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The query for every context of the namespace `base`.
pub const BASE_WILDCARD: &str = "base:";

/// Bytes in the header of an option.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes in a compact request header.
pub const REQUEST_HEADER_BYTES: usize = 28;
/// Bytes in an extended request header.
pub const EXTENDED_REQUEST_HEADER_BYTES: usize = 32;
/// Bytes in a simple reply, without its data.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes in the header of a structured reply chunk.
pub const STRUCTURED_REPLY_HEADER_BYTES: usize = 20;
/// Bytes in the header of an extended reply chunk.
pub const EXTENDED_REPLY_HEADER_BYTES: usize = 32;

/// The header of an option. Its magic has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// `NBD_OPT_*`, or a number we do not know.
    pub option: u32,
    /// Bytes of data that follow.
    pub length: u32,
}

impl OptionHeader {
    /// Reads an option's header; `None` if it does not begin with [`IHAVEOPT`].
    pub fn parse(bytes: &[u8; OPTION_HEADER_BYTES]) -> Option<Self> {
        let mut bytes = &bytes[..];
        let magic = bytes.get_u64();
        let header = Self { option: bytes.get_u32(), length: bytes.get_u32() };
        (magic == IHAVEOPT).then_some(header)
    }
}

/// The header of a request in either layout, as it came: nothing is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// [`NBD_REQUEST_MAGIC`] or [`NBD_EXTENDED_REQUEST_MAGIC`], if the client is sane.
    pub magic: u32,
    /// `NBD_CMD_FLAG_*`.
    pub flags: u16,
    /// `NBD_CMD_*`.
    pub command: u16,
    /// What the reply repeats.
    pub cookie: u64,
    /// Bytes from the start of the export.
    pub offset: u64,
    /// Bytes of the export, or of the payload.
    pub length: u64,
}

impl RequestHeader {
    /// Reads the compact layout.
    pub fn parse_compact(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Self {
        let mut bytes = &bytes[..];
        Self {
            magic: bytes.get_u32(),
            flags: bytes.get_u16(),
            command: bytes.get_u16(),
            cookie: bytes.get_u64(),
            offset: bytes.get_u64(),
            length: bytes.get_u32().into(),
        }
    }

    /// Reads the extended layout.
    pub fn parse_extended(bytes: &[u8; EXTENDED_REQUEST_HEADER_BYTES]) -> Self {
        let mut bytes = &bytes[..];
        Self {
            magic: bytes.get_u32(),
            flags: bytes.get_u16(),
            command: bytes.get_u16(),
            cookie: bytes.get_u64(),
            offset: bytes.get_u64(),
            length: bytes.get_u64(),
        }
    }
}

/// As much of `text` as a string on the wire may have ([`NBD_STRING_BYTES_MAX`]), cut between two
/// characters.
pub fn bounded_text(text: &str) -> &str {
    let mut end = text.len().min(NBD_STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magics_are_the_published_numbers() {
        assert_eq!(INIT_PASSWD, 0x4e42_444d_4147_4943);
        assert_eq!(IHAVEOPT, 0x4948_4156_454f_5054);
        assert_eq!(NBD_OPTION_REPLY_MAGIC, 0x3_e889_0455_65a9);
    }

    #[test]
    fn an_option_with_another_magic_is_refused() {
        let mut bytes = *b"IHAVEOPT\0\0\0\x07\0\0\0\x06";
        assert_eq!(
            OptionHeader::parse(&bytes),
            Some(OptionHeader { option: NBD_OPT_GO, length: 6 })
        );
        bytes[7] ^= 1;
        assert_eq!(OptionHeader::parse(&bytes), None);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(bounded_text("short"), "short");
        let long = "é".repeat(NBD_STRING_BYTES_MAX);
        assert_eq!(bounded_text(&long).len(), NBD_STRING_BYTES_MAX);
        let odd = format!("x{long}");
        assert_eq!(bounded_text(&odd).len(), NBD_STRING_BYTES_MAX - 1);
    }
}
