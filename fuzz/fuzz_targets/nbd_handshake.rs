//! The negotiation of NBD: whatever a client sends, in whatever pieces, it gets the same answers.
//!
//! Input: the length of the pieces less one (a byte), then what the client sends.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sealdisk::limits;
use sealdisk::nbd::export::{ExportDirectory, ExportInfo};
use sealdisk::nbd::handshake::{Handshake, Step};

struct OneDisk;

impl ExportDirectory for OneDisk {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        assert!(!name.is_empty(), "the empty name is resolved by the negotiation");
        (name == "disk").then(|| ExportInfo {
            name: name.to_owned(),
            description: "a disk".to_owned(),
            size: 1 << 30,
            read_only: false,
            multi_conn: true,
            rotational: false,
            fast_zero: true,
            block_min: 512,
            block_preferred: 4096,
            block_max: limits::REQUEST_BYTES_MAX,
        })
    }

    fn list(&self, limit: usize) -> Vec<(String, String)> {
        std::iter::once(("disk".to_owned(), "a disk".to_owned())).take(limit).collect()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((length, bytes)) = bytes.split_first() else { return };
    let whole = converse(std::iter::once(bytes));
    let pieces = converse(bytes.chunks(usize::from(*length) + 1));
    assert_eq!(whole, pieces);
});

/// What was sent, how it ended, and what of the input was left then.
fn converse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Step>, Vec<u8>) {
    let (mut input, mut out, mut sent) = (BytesMut::new(), BytesMut::new(), Vec::new());
    let mut handshake = Handshake::new(&mut out);
    sent.extend_from_slice(&out.split());
    let mut end = None;
    for piece in pieces {
        input.extend_from_slice(piece);
        while end.is_none() {
            let step = handshake.advance(&mut input, &mut out, &OneDisk);
            sent.extend_from_slice(&out.split());
            match step {
                Step::Answered => {}
                Step::NeedMore => {
                    assert!(input.len() < limits::OPTION_BYTES_MAX, "it has what it needs");
                    break;
                }
                Step::Transmit(_) | Step::Close(_) => end = Some(step),
            }
        }
    }
    (sent, end, input.to_vec())
}
