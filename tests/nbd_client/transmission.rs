//! The second half of the client: requests out, replies in, every rule on chunks checked.

use std::collections::HashMap;

use crate::negotiation::{Mode, Reader};

/// A request as it goes over the wire, without payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Request {
    pub(crate) fn encode(&self, mode: Mode) -> Vec<u8> {
        let magic: u32 = if mode == Mode::Extended { 0x21e4_1c71 } else { 0x2560_9513 };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        if mode == Mode::Extended {
            bytes.extend(self.length.to_be_bytes());
        } else {
            bytes.extend(u32::try_from(self.length).unwrap().to_be_bytes());
        }
        bytes
    }
}

/// A reply to one request, put together from its chunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// 0 for success.
    pub(crate) error: u32,
    /// Where the error happened, if the server says so.
    pub(crate) error_offset: Option<u64>,
    pub(crate) text: String,
    /// What a READ brought, holes filled in.
    pub(crate) data: Vec<u8>,
    pub(crate) content_chunks: usize,
    pub(crate) hole_bytes: u64,
    /// Context id and its extents.
    pub(crate) status: Vec<(u32, Vec<(u64, u64)>)>,
}

/// Reads every reply in `bytes` by the rules of `mode`. `sent` are the requests they answer.
pub(crate) fn replies(mode: Mode, sent: &[Request], bytes: &[u8]) -> HashMap<u64, Reply> {
    let sent: HashMap<u64, Request> =
        sent.iter().map(|request| (request.cookie, *request)).collect();
    let mut done = HashMap::new();
    let mut partial: HashMap<u64, Partial> = HashMap::new();
    let mut reader = Reader(bytes);
    while !reader.is_empty() {
        if mode == Mode::Simple {
            assert_eq!(reader.u32(), 0x6744_6698, "magic of a simple reply");
            let (error, cookie) = (reader.u32(), reader.u64());
            let request = sent[&cookie];
            let mut reply = Reply { error, ..Reply::default() };
            if request.command == 0 && error == 0 {
                reply.data = reader.bytes(usize::try_from(request.length).unwrap()).to_vec();
            }
            assert!(done.insert(cookie, reply).is_none(), "answered twice");
            continue;
        }
        let header = take_chunk_header(mode, &mut reader);
        let request = sent[&header.cookie];
        if mode == Mode::Extended {
            assert_eq!(header.offset, Some(request.offset), "reply offset is request offset");
        }
        let payload = reader.bytes(usize::try_from(header.length).unwrap());
        let part = partial.entry(header.cookie).or_insert_with(|| Partial::new(&request));
        part.take(mode, &request, header.kind, payload);
        if header.flags & 1 != 0 {
            let reply = partial.remove(&header.cookie).unwrap().finish(&request);
            assert!(done.insert(header.cookie, reply).is_none(), "answered twice");
        }
        assert_eq!(header.flags & !1, 0, "unknown chunk flags");
    }
    assert!(partial.is_empty(), "replies without a done chunk: {partial:?}");
    done
}

struct ChunkHeader {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: Option<u64>,
    length: u64,
}

fn take_chunk_header(mode: Mode, reader: &mut Reader<'_>) -> ChunkHeader {
    let extended = mode == Mode::Extended;
    let magic = if extended { 0x6e8a_278c } else { 0x668e_33ef };
    assert_eq!(reader.u32(), magic, "magic of a chunk");
    ChunkHeader {
        flags: reader.u16(),
        kind: reader.u16(),
        cookie: reader.u64(),
        offset: extended.then(|| reader.u64()),
        length: if extended { reader.u64() } else { reader.u32().into() },
    }
}

#[derive(Debug)]
struct Partial {
    reply: Reply,
    /// Which bytes of a READ are there.
    filled: Vec<bool>,
}

impl Partial {
    fn new(request: &Request) -> Self {
        // No server sends more than its maximum; a longer READ can only fail.
        let is_read = request.command == 0 && request.length <= 32 << 20;
        let bytes = usize::try_from(if is_read { request.length } else { 0 }).unwrap();
        Self {
            reply: Reply { data: vec![0xee; bytes], ..Reply::default() },
            filled: vec![false; bytes],
        }
    }

    fn take(&mut self, mode: Mode, request: &Request, kind: u16, payload: &[u8]) {
        let mut payload = Reader(payload);
        match kind {
            0 => {}
            1 => {
                let at = payload.u64();
                let data = payload.bytes(payload.0.len());
                self.fill(request, at, data.len()).copy_from_slice(data);
            }
            2 => {
                let (at, length) = (payload.u64(), payload.u32());
                self.fill(request, at, length as usize).fill(0);
                self.reply.hole_bytes += u64::from(length);
            }
            5 | 6 => {
                assert_eq!(kind == 6, mode == Mode::Extended, "status type of another mode");
                let extents = take_extents(kind == 6, &mut payload);
                assert!(!self.reply.status.iter().any(|(id, _)| *id == extents.0), "context twice");
                self.reply.status.push(extents);
            }
            0x8001 | 0x8002 => {
                self.reply.error = payload.u32();
                let length = payload.u16();
                self.reply.text = String::from_utf8(payload.bytes(length.into()).to_vec()).unwrap();
                if kind == 0x8002 {
                    self.reply.error_offset = Some(payload.u64());
                }
                assert!(self.reply.error != 0 && self.reply.text.len() <= 4096);
            }
            other => panic!("unknown chunk type {other:#06x}"),
        }
        assert!(
            payload.is_empty(),
            "chunk type {kind:#06x} with {} bytes too many",
            payload.0.len()
        );
    }

    /// Marks bytes as received: at least one, inside the request, none twice.
    fn fill(&mut self, request: &Request, at: u64, length: usize) -> &mut [u8] {
        assert!(length > 0, "an empty content chunk");
        assert_eq!(request.command, 0, "content for another command than READ");
        let start =
            usize::try_from(at.checked_sub(request.offset).expect("before the request")).unwrap();
        let range = start..start + length;
        assert!(range.end <= self.filled.len(), "content past the request");
        assert!(!self.filled[range.clone()].contains(&true), "content twice");
        self.filled[range.clone()].fill(true);
        self.reply.content_chunks += 1;
        &mut self.reply.data[range]
    }

    fn finish(self, request: &Request) -> Reply {
        let mut reply = self.reply;
        if reply.error == 0 {
            assert!(!self.filled.contains(&false), "success without all of the data");
            assert!(request.flags & 4 == 0 || reply.content_chunks <= 1, "DF in several chunks");
            if request.command == 7 {
                check_status(request, &reply);
            }
        } else {
            reply.data.clear();
        }
        reply
    }
}

fn take_extents(wide: bool, payload: &mut Reader<'_>) -> (u32, Vec<(u64, u64)>) {
    let id = payload.u32();
    let count = wide.then(|| payload.u32());
    let mut extents = Vec::new();
    while !payload.is_empty() {
        extents.push(if wide {
            (payload.u64(), payload.u64())
        } else {
            (payload.u32().into(), payload.u32().into())
        });
    }
    if let Some(count) = count {
        assert_eq!(count as usize, extents.len(), "descriptor count");
    }
    (id, extents)
}

fn check_status(request: &Request, reply: &Reply) {
    assert!(!reply.status.is_empty(), "no status for any context");
    for (_, extents) in &reply.status {
        assert!(!extents.is_empty() && extents.len() <= 1 << 20);
        assert!(extents.iter().all(|(length, _)| *length > 0), "an empty extent");
        assert!(extents.windows(2).all(|pair| pair[0].1 != pair[1].1), "equal neighbours");
        if request.flags & 0x20 == 0 {
            let but_last: u64 = extents[..extents.len() - 1].iter().map(|(length, _)| length).sum();
            assert!(but_last < request.length, "extents past the request");
            if request.flags & 8 != 0 {
                assert!(extents.len() == 1 && extents[0].0 <= request.length, "REQ_ONE");
            }
        }
    }
}
