//! First stage of a request: its header becomes a checked command. And what a client costs before
//! that: its handshake. A regression here is in `nbd/request`, `nbd/wire` or `nbd/handshake`.

#![allow(missing_docs)]

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sealdisk::limits;
use sealdisk::nbd::export::{ExportDirectory, ExportInfo, Negotiated, ReplyMode};
use sealdisk::nbd::handshake::{Handshake, Step};
use sealdisk::nbd::{request, wire};

/// Requests that arrive in one receive call.
const BATCH: usize = 32;

struct OneExport;

impl ExportDirectory for OneExport {
    fn find(&self, _name: &str) -> Option<ExportInfo> {
        Some(info())
    }

    fn list(&self, _limit: usize) -> Vec<(String, String)> {
        vec![(info().name, String::new())]
    }
}

fn info() -> ExportInfo {
    ExportInfo {
        name: "disk".to_owned(),
        description: String::new(),
        size: 1 << 40,
        read_only: false,
        multi_conn: true,
        rotational: false,
        fast_zero: false,
        block_min: 1,
        block_preferred: 4096,
        block_max: limits::REQUEST_BYTES_MAX,
    }
}

/// A header of any mode: reads and writes of 4 KiB in turn.
fn header(mode: ReplyMode, number: u64) -> Vec<u8> {
    let is_extended = mode == ReplyMode::Extended;
    let magic =
        if is_extended { wire::NBD_EXTENDED_REQUEST_MAGIC } else { wire::NBD_REQUEST_MAGIC };
    let (command, flags) = match number % 2 {
        0 => (wire::NBD_CMD_READ, 0),
        _ if is_extended => (wire::NBD_CMD_WRITE, wire::NBD_CMD_FLAG_PAYLOAD_LEN),
        _ => (wire::NBD_CMD_WRITE, 0),
    };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend((number * 4096).to_be_bytes());
    if is_extended {
        bytes.extend(4096_u64.to_be_bytes());
    } else {
        bytes.extend(4096_u32.to_be_bytes());
    }
    bytes
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(BATCH as u64));
    for mode in [ReplyMode::Simple, ReplyMode::Extended] {
        let (base_allocation, changes) = (Some(1), Vec::new());
        let negotiated = Negotiated { export: info(), replies: mode, base_allocation, changes };
        let batch: Vec<u8> = (0..BATCH as u64).flat_map(|number| header(mode, number)).collect();
        let size = request::header_bytes(mode);
        assert_eq!(batch.len(), BATCH * size);
        group.bench_function(format!("{BATCH} requests, {mode:?}"), |bencher| {
            bencher.iter(|| {
                let decoded =
                    batch.chunks_exact(size).map(|header| request::decode(header, &negotiated));
                let good = decoded.filter(|it| it.is_ok_and(|it| it.verdict.is_ok())).count();
                assert_eq!(good, BATCH);
            });
        });
    }
    group.finish();
}

fn handshake(criterion: &mut Criterion) {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    let mut option = |option: u32, data: &[u8]| {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
    };
    option(wire::NBD_OPT_EXTENDED_HEADERS, &[]);
    option(wire::NBD_OPT_GO, &[&4_u32.to_be_bytes()[..], b"disk", &[0, 1, 0, 3]].concat());
    criterion.bench_function("handshake, extended headers and GO", |bencher| {
        bencher.iter(|| {
            let (mut input, mut output) = (BytesMut::from(&bytes[..]), BytesMut::new());
            let mut handshake = Handshake::new(&mut output);
            assert_eq!(handshake.advance(&mut input, &mut output, &OneExport), Step::Answered);
            let step = handshake.advance(&mut input, &mut output, &OneExport);
            assert!(matches!(step, Step::Transmit(_)));
        });
    });
}

criterion_group!(all, requests, handshake);
criterion_main!(all);
