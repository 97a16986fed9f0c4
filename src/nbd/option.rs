//! What options carry and how they are answered (spec, "Option types", "Option reply types").
//!
//! Parsers borrow from the option's data and keep nothing; the data is at most
//! [`OPTION_BYTES_MAX`](crate::limits::OPTION_BYTES_MAX) long, so loops over it are bounded.

use bytes::{Buf, BufMut, BytesMut};

use super::context;
use super::wire::{self, bounded_text};
use crate::limits::NBD_STRING_BYTES_MAX;

/// What is wrong with an option's data. The text is sent to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Fields or strings reach past the end.
    #[error("the option's data is shorter than its fields say")]
    Short,
    /// Bytes are left after the last field.
    #[error("the option's data is longer than its fields say")]
    Long,
    /// A string has more bytes than the protocol allows.
    #[error("a string is longer than 4096 bytes")]
    StringTooLong,
    /// A string is not what the protocol calls a string.
    #[error("a string is not UTF-8 or contains a NUL")]
    NotAString,
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`: an export and what to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export; empty for the default one.
    pub export: &'a str,
    /// `NBD_INFO_NAME` is asked for.
    pub wants_name: bool,
    /// `NBD_INFO_DESCRIPTION` is asked for.
    pub wants_description: bool,
    /// `NBD_INFO_BLOCK_SIZE` is asked for: after GO, a promise to keep to the sizes.
    pub wants_block_size: bool,
}

impl<'a> InfoRequest<'a> {
    /// Reads name, count and kinds. Unknown kinds are ignored, and so are repeated ones: the
    /// client must not send them, but what it wants is plain.
    pub fn parse(mut data: &'a [u8]) -> Result<Self, Malformed> {
        let export = take_long_string(&mut data)?;
        let count = data.try_get_u16().map_err(|_| Malformed::Short)?;
        let mut request =
            Self { export, wants_name: false, wants_description: false, wants_block_size: false };
        for _ in 0..count {
            match data.try_get_u16().map_err(|_| Malformed::Short)? {
                wire::NBD_INFO_NAME => request.wants_name = true,
                wire::NBD_INFO_DESCRIPTION => request.wants_description = true,
                wire::NBD_INFO_BLOCK_SIZE => request.wants_block_size = true,
                _ => {}
            }
        }
        if data.is_empty() { Ok(request) } else { Err(Malformed::Long) }
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`, reduced to what the
/// contexts we have need to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextRequest<'a> {
    /// The export; empty for the default one.
    pub export: &'a str,
    /// There is no query at all.
    pub is_empty: bool,
    /// A query is `base:allocation`.
    pub names_allocation: bool,
    /// A query is `base:`.
    pub names_base: bool,
    /// A query is `sealdisk:` or `sealdisk:changed-since=`.
    pub names_all_changes: bool,
    /// Snapshots in queries `sealdisk:changed-since=…`, each once.
    pub changed_since: Vec<&'a str>,
}

impl<'a> ContextRequest<'a> {
    /// Reads name, count and queries. A query of another namespace must be ignored; one without
    /// any colon may be, and is.
    pub fn parse(mut data: &'a [u8]) -> Result<Self, Malformed> {
        let export = take_long_string(&mut data)?;
        let count = data.try_get_u32().map_err(|_| Malformed::Short)?;
        let mut request = Self {
            export,
            is_empty: count == 0,
            names_allocation: false,
            names_base: false,
            names_all_changes: false,
            changed_since: Vec::new(),
        };
        // A lying count ends the loop with an error after at most OPTION_BYTES_MAX / 4 rounds.
        for _ in 0..count {
            match take_long_string(&mut data)? {
                wire::BASE_ALLOCATION => request.names_allocation = true,
                wire::BASE_WILDCARD => request.names_base = true,
                context::OWN_WILDCARD | context::CHANGED_SINCE => request.names_all_changes = true,
                query => request.add_change(query),
            }
        }
        if data.is_empty() { Ok(request) } else { Err(Malformed::Long) }
    }

    /// Those past what can be selected are dropped but for one, which is one too many.
    fn add_change(&mut self, query: &'a str) {
        let Some(snapshot) = query.strip_prefix(context::CHANGED_SINCE) else { return };
        let is_new = !self.changed_since.contains(&snapshot);
        if is_new && self.changed_since.len() <= context::CHANGES_MAX {
            self.changed_since.push(snapshot);
        }
    }

    /// Whether LIST names every context of changes in its answer.
    pub const fn lists_all_changes(&self) -> bool {
        self.is_empty || self.names_all_changes
    }

    /// Whether LIST names `base:allocation` in its answer.
    pub const fn lists_allocation(&self) -> bool {
        self.is_empty || self.names_base || self.names_allocation
    }

    /// Whether SET selects `base:allocation`. The spec wants no queries to select nothing, and the
    /// wildcard to be ignored here.
    pub const fn selects_allocation(&self) -> bool {
        self.names_allocation
    }
}

/// The whole of `data` as a string of the protocol: UTF-8, no NUL, at most 4096 bytes.
pub fn string(data: &[u8]) -> Result<&str, Malformed> {
    if data.len() > NBD_STRING_BYTES_MAX {
        return Err(Malformed::StringTooLong);
    }
    match std::str::from_utf8(data) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Malformed::NotAString),
    }
}

/// A string behind its 32-bit length.
fn take_long_string<'a>(data: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    let length = data.try_get_u32().map_err(|_| Malformed::Short)?;
    let length = usize::try_from(length).map_err(|_| Malformed::Short)?;
    let (text, rest) = data.split_at_checked(length).ok_or(Malformed::Short)?;
    *data = rest;
    string(text)
}

/// Writes the answers to one option.
#[derive(Debug)]
pub struct OptionReply<'a> {
    option: u32,
    out: &'a mut BytesMut,
}

impl<'a> OptionReply<'a> {
    /// Answers to `option`, appended to `out`.
    pub const fn new(option: u32, out: &'a mut BytesMut) -> Self {
        Self { option, out }
    }

    /// The last answer: it worked.
    pub fn ack(&mut self) {
        self.header(wire::NBD_REP_ACK, 0);
    }

    /// The last answer: it did not, because of `code` (`NBD_REP_ERR_*`); `text` is for people and
    /// cut to the protocol's 4096 bytes.
    pub fn error(&mut self, code: u32, text: &str) {
        let text = bounded_text(text);
        self.header(code, text.len());
        self.out.put_slice(text.as_bytes());
    }

    /// The last answer: the data makes no sense.
    pub fn malformed(&mut self, why: Malformed) {
        self.error(wire::NBD_REP_ERR_INVALID, &why.to_string());
    }

    /// One export of a list; both texts are cut to the protocol's 4096 bytes.
    pub fn server(&mut self, name: &str, description: &str) {
        let (name, description) = (bounded_text(name), bounded_text(description));
        self.header(wire::NBD_REP_SERVER, 4 + name.len() + description.len());
        self.out.put_u32(wire_length(name.len()));
        self.out.put_slice(name.as_bytes());
        self.out.put_slice(description.as_bytes());
    }

    /// Size in bytes and transmission flags of an export.
    pub fn info_export(&mut self, size: u64, flags: u16) {
        self.info(wire::NBD_INFO_EXPORT, 10);
        self.out.put_u64(size);
        self.out.put_u16(flags);
    }

    /// Minimum block, preferred block and maximum payload of an export, in bytes.
    pub fn info_block_size(&mut self, minimum: u32, preferred: u32, maximum: u32) {
        self.info(wire::NBD_INFO_BLOCK_SIZE, 12);
        for bytes in [minimum, preferred, maximum] {
            self.out.put_u32(bytes);
        }
    }

    /// The canonical name or the description of an export, as `kind` says.
    pub fn info_text(&mut self, kind: u16, text: &str) {
        let text = bounded_text(text);
        self.info(kind, text.len());
        self.out.put_slice(text.as_bytes());
    }

    /// The context `base:allocation` under `id`.
    pub fn base_allocation(&mut self, id: u32) {
        self.header(wire::NBD_REP_META_CONTEXT, 4 + wire::BASE_ALLOCATION.len());
        self.out.put_u32(id);
        self.out.put_slice(wire::BASE_ALLOCATION.as_bytes());
    }

    /// The context of changes since `snapshot` under `id`.
    pub fn changed_since(&mut self, id: u32, snapshot: &str) {
        let name = format!("{}{snapshot}", context::CHANGED_SINCE);
        self.header(wire::NBD_REP_META_CONTEXT, 4 + name.len());
        self.out.put_u32(id);
        self.out.put_slice(name.as_bytes());
    }

    fn info(&mut self, kind: u16, payload: usize) {
        self.header(wire::NBD_REP_INFO, 2 + payload);
        self.out.put_u16(kind);
    }

    fn header(&mut self, reply: u32, length: usize) {
        self.out.put_u64(wire::NBD_OPTION_REPLY_MAGIC);
        self.out.put_u32(self.option);
        self.out.put_u32(reply);
        self.out.put_u32(wire_length(length));
    }
}

fn wire_length(length: usize) -> u32 {
    u32::try_from(length).expect("an answer holds at most two strings of 4096 bytes")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;

    fn long_string(text: &[u8]) -> Vec<u8> {
        [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
    }

    #[test]
    fn info_requests_are_a_set_and_unknown_ones_are_ignored() {
        let data = [&long_string(b"disk")[..], &[0, 4, 0, 3, 0, 3, 0xff, 0xff, 0, 1]].concat();
        let request = InfoRequest::parse(&data).unwrap();
        assert_eq!(request.export, "disk");
        assert!(request.wants_block_size && request.wants_name && !request.wants_description);
    }

    #[test]
    fn every_shortened_info_request_is_short_and_every_longer_one_long() {
        let data = [&long_string(b"disk")[..], &[0, 2, 0, 3, 0, 1]].concat();
        for end in 0..data.len() {
            assert_eq!(InfoRequest::parse(&data[..end]), Err(Malformed::Short), "{end} bytes");
        }
        let longer = [&data[..], &[0]].concat();
        assert_eq!(InfoRequest::parse(&longer), Err(Malformed::Long));
    }

    #[test]
    fn lying_lengths_are_short() {
        assert_eq!(InfoRequest::parse(&[0xff; 6]), Err(Malformed::Short));
        let counts = [&long_string(b"")[..], &[0xff; 4], &[0; 4]].concat();
        assert_eq!(ContextRequest::parse(&counts), Err(Malformed::Short));
    }

    #[test]
    fn strings_are_utf8_without_nul_up_to_4096_bytes() {
        assert_eq!(string(&[b'x'; NBD_STRING_BYTES_MAX]).map(str::len), Ok(NBD_STRING_BYTES_MAX));
        assert_eq!(string(&[b'x'; NBD_STRING_BYTES_MAX + 1]), Err(Malformed::StringTooLong));
        assert_eq!(string(b"a\0b"), Err(Malformed::NotAString));
        assert_eq!(string(&[0xc3]), Err(Malformed::NotAString));
    }

    #[test]
    fn wildcards_list_but_do_not_select() {
        let ask = |queries: &[&str]| {
            let mut data = long_string(b"");
            data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
            for query in queries {
                data.extend(long_string(query.as_bytes()));
            }
            let request = ContextRequest::parse(&data).unwrap();
            (request.lists_allocation(), request.selects_allocation())
        };
        assert_eq!(ask(&[]), (true, false));
        assert_eq!(ask(&["base:"]), (true, false));
        assert_eq!(ask(&["base:allocation"]), (true, true));
        assert_eq!(ask(&["base:other", "qemu:dirty-bitmap:b", "no colon"]), (false, false));
        assert_eq!(ask(&["x-own:thing", "base:allocation", "base:allocation"]), (true, true));
    }
}
