//! LUKS2 headers: bytes to typed values and back, strictly.
//!
//! ```text
//! 0       4 KiB              16 KiB   20 KiB             32 KiB            1 MiB
//! | binary | JSON, NUL-padded | binary | JSON, NUL-padded | room for keyslots | data ...
//! |<------ primary ---------->|<------ secondary -------->|
//! ```
//!
//! Both copies say the same; each has a sequence number and a SHA-256 checksum. An update writes
//! one copy, flushes, then the other, so at any time one of them is whole; the valid copy with the
//! higher number counts. The checksum finds accidents, not attackers: what must not be changed is
//! bound elsewhere (see `layer::LayerSpec::encryption_context`).
//!
//! What we do not understand in a place that decides how data is read is refused by name. What a
//! stock tool may add without touching data (keyslots, tokens, labels, flags) is kept and written
//! back. Reference: LUKS2 On-Disk Format Specification 1.1.4.

mod binary;
mod copies;
mod fields;
mod json;
mod metadata;

pub use binary::{CopyError, Which};
pub use copies::{
    Condition, EncodeError, Header, ParseError, Parsed, check_room, encode_copy, parse,
};
pub use metadata::{Digest, Metadata, MetadataError, REQUIREMENT_CHAIN, Segment, SegmentSize};

/// Bytes of the binary part of one copy.
pub const BINARY_BYTES: usize = 4096;
/// Bytes of the JSON area of one copy: the smallest the format knows, and what stock tools make.
pub const JSON_BYTES: usize = 12 << 10;
/// Bytes of one copy.
pub const COPY_BYTES: usize = BINARY_BYTES + JSON_BYTES;
/// Bytes of both copies; what a keyslot may use starts here.
pub const HEADERS_BYTES: usize = 2 * COPY_BYTES;
