//! The first half of a tiny NBD client over byte slices, written from the protocol document alone:
//! it shares no number and no code with the server it judges, and panics where that breaks a rule.

pub(crate) const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

pub(crate) const EXPORT_NAME: u32 = 1;
pub(crate) const GO: u32 = 7;
pub(crate) const STRUCTURED_REPLY: u32 = 8;
pub(crate) const SET_META_CONTEXT: u32 = 10;
pub(crate) const EXTENDED_HEADERS: u32 = 11;

pub(crate) const ACK: u32 = 1;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;

/// Client flags: fixed newstyle, no zeroes.
pub(crate) const FIXED: &[u8] = &[0, 0, 0, 3];

/// One option as it goes over the wire.
pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// A string behind its 32-bit length.
pub(crate) fn long_string(text: &str) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// Data of INFO and GO.
pub(crate) fn info_data(export: &str, infos: &[u16]) -> Vec<u8> {
    let mut data = long_string(export);
    data.extend(u16::try_from(infos.len()).unwrap().to_be_bytes());
    data.extend(infos.iter().flat_map(|info| info.to_be_bytes()));
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn context_data(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = long_string(export);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    data.extend(queries.iter().flat_map(|query| long_string(query)));
    data
}

/// Takes numbers and bytes from the front of a slice.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        head
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.bytes(2).try_into().unwrap())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes(4).try_into().unwrap())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.bytes(8).try_into().unwrap())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One answer to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// Takes one answer to an option.
pub(crate) fn take_answer(reader: &mut Reader<'_>) -> Answer {
    assert_eq!(reader.u64(), 0x3_e889_0455_65a9, "magic of an option reply");
    let (option, kind, length) = (reader.u32(), reader.u32(), reader.u32());
    let data = reader.bytes(length as usize).to_vec();
    if kind & (1 << 31) != 0 {
        let text = std::str::from_utf8(&data).expect("error texts are UTF-8");
        assert!(!text.contains('\0') && text.len() <= 4096, "error text: {text:?}");
    }
    Answer { option, kind, data }
}

/// How the transmission phase is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    Simple,
    Structured,
    Extended,
}

pub(crate) const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];

impl Mode {
    /// The option a client sends for it.
    pub(crate) fn option(self) -> Option<u32> {
        match self {
            Self::Simple => None,
            Self::Structured => Some(STRUCTURED_REPLY),
            Self::Extended => Some(EXTENDED_HEADERS),
        }
    }
}
