//! What a client may know of an export, and what the two sides have agreed on once they use it
//! (spec, "Transmission flags", "Size constraints").

use uuid::Uuid;

use super::context::ChangeContext;
use super::wire;
use crate::limits;

/// Which headers the transmission phase uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReplyMode {
    /// 28-byte requests, 16-byte replies: what the Linux kernel speaks.
    #[default]
    Simple,
    /// 28-byte requests, replies in chunks.
    Structured,
    /// 32-byte requests and chunks, 64-bit lengths.
    Extended,
}

/// What a client may know about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// The canonical name, at most 4096 bytes of UTF-8 without NUL.
    pub name: String,
    /// A text for people; empty for none.
    pub description: String,
    /// Length in bytes, a multiple of `block_min`, below 2^63.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// A flush on one connection covers acknowledged writes of all.
    pub multi_conn: bool,
    /// The medium rotates.
    pub rotational: bool,
    /// A fast zero can succeed, or at least fails fast.
    pub fast_zero: bool,
    /// Smallest and most coarsely aligned access served to clients that asked for sizes, in bytes:
    /// a power of two up to 64 KiB. Clients that did not ask are served from 1 byte.
    pub block_min: u32,
    /// Access that is served without a detour, in bytes: a power of two, at least 512 and
    /// `block_min`.
    pub block_preferred: u32,
    /// Longest READ or WRITE, in bytes: at least `block_preferred`, at most
    /// [`limits::REQUEST_BYTES_MAX`].
    pub block_max: u32,
}

impl ExportInfo {
    /// Whether the sizes keep to the spec ("Size constraints") and to our own bounds.
    pub const fn has_legal_sizes(&self) -> bool {
        self.block_min.is_power_of_two()
            && self.block_min <= 1 << 16
            && self.block_preferred.is_power_of_two()
            && self.block_preferred >= 512
            && self.block_preferred >= self.block_min
            && self.block_max >= self.block_preferred
            && self.block_max <= limits::REQUEST_BYTES_MAX
            && self.size.is_multiple_of(self.block_min as u64)
            && self.size < 1 << 63
    }
}

/// The exports as one client may see them.
pub trait ExportDirectory {
    /// The export of that name. The empty name is never asked for.
    fn find(&self, name: &str) -> Option<ExportInfo>;

    /// Name and description of up to `limit` exports.
    fn list(&self, limit: usize) -> Vec<(String, String)>;

    /// Ids of up to `limit` snapshots in the chain of the export with the canonical name `export`.
    fn snapshots(&self, export: &str, limit: usize) -> Vec<String> {
        let _ = (export, limit);
        Vec::new()
    }

    /// The frozen layer that `snapshot` is, if it is in the chain of the export with the canonical
    /// name `export`.
    fn layer_of_snapshot(&self, export: &str, snapshot: &str) -> Option<Uuid> {
        let _ = (export, snapshot);
        None
    }

    /// The export a client means by `name`: the empty one is the default export, which is the only
    /// one there is, or none.
    fn resolve(&self, name: &str) -> Option<ExportInfo> {
        if !name.is_empty() {
            return self.find(name);
        }
        match self.list(2).as_slice() {
            [(only, _)] => self.find(only),
            _ => None,
        }
    }
}

/// What the two sides agreed on when transmission begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The export. Its `block_min` is 1 unless the client promised to keep to the sizes.
    pub export: ExportInfo,
    /// Which headers both use from now on.
    pub replies: ReplyMode,
    /// The id of `base:allocation`, if the client selected it for this export.
    pub base_allocation: Option<u32>,
    /// The contexts of changes it selected for this export, at most
    /// [`CHANGES_MAX`](super::context::CHANGES_MAX).
    pub changes: Vec<ChangeContext>,
}

impl Negotiated {
    /// Whether there is anything BLOCK_STATUS could be asked about.
    pub const fn has_contexts(&self) -> bool {
        self.base_allocation.is_some() || !self.changes.is_empty()
    }

    /// `NBD_FLAG_*` of the transmission phase. What is not set here, `request` refuses.
    pub const fn transmission_flags(&self) -> u16 {
        let export = &self.export;
        let mut flags =
            wire::NBD_FLAG_HAS_FLAGS | wire::NBD_FLAG_SEND_FLUSH | wire::NBD_FLAG_SEND_CACHE;
        if export.read_only {
            // Nothing can be written, so neither FUA, TRIM nor zeroes mean anything. FLUSH stays:
            // it is trivially true, and file systems mounted read-only send it.
            flags |= wire::NBD_FLAG_READ_ONLY;
        } else {
            flags |= wire::NBD_FLAG_SEND_FUA
                | wire::NBD_FLAG_SEND_TRIM
                | wire::NBD_FLAG_SEND_WRITE_ZEROES;
            if export.fast_zero {
                flags |= wire::NBD_FLAG_SEND_FAST_ZERO;
            }
        }
        if export.rotational {
            flags |= wire::NBD_FLAG_ROTATIONAL;
        }
        if export.multi_conn {
            flags |= wire::NBD_FLAG_CAN_MULTI_CONN;
        }
        if !matches!(self.replies, ReplyMode::Simple) {
            flags |= wire::NBD_FLAG_SEND_DF;
        }
        // Without a context there is nothing a payload could choose from.
        if matches!(self.replies, ReplyMode::Extended) && self.has_contexts() {
            flags |= wire::NBD_FLAG_BLOCK_STATUS_PAYLOAD;
        }
        flags
    }
}
