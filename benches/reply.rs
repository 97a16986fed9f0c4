//! Last stage of a request: its reply becomes bytes, and many replies leave in one call. A
//! regression here is in `nbd/reply`, or, if only the batch got slower, in the kernel.

#![allow(missing_docs)]

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sealdisk::nbd::export::ReplyMode;
use sealdisk::nbd::reply::{self, ReplyTo, Run};

/// Replies that leave together.
const BATCH: usize = 32;

const BLOCK: usize = 4096;

fn replies() -> impl Iterator<Item = u64> {
    0..BATCH as u64
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reply");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut out = BytesMut::new();
    let mut chunks = Vec::new();
    for mode in [ReplyMode::Simple, ReplyMode::Structured, ReplyMode::Extended] {
        group.bench_function(format!("{BATCH} headers of writes, {mode:?}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                for cookie in replies() {
                    reply::success(ReplyTo { mode, cookie, offset: 0 }, &mut out);
                }
                out.len()
            });
        });
        group.bench_function(format!("{BATCH} headers of reads, {mode:?}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                for cookie in replies() {
                    let to = ReplyTo { mode, cookie, offset: cookie * BLOCK as u64 };
                    let run = Run { length: BLOCK as u64, is_hole: false };
                    reply::plan_read(to, BLOCK as u32, false, [run], &mut chunks);
                    chunks.iter().for_each(|chunk| reply::begin_read_data(to, chunk, &mut out));
                }
                out.len()
            });
        });
    }
    group.finish();
}

fn batch(criterion: &mut Criterion) {
    let (mut ours, mut theirs) = UnixStream::pair().expect("two sockets");
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1 << 20).expect("a larger buffer");
    let data = vec![7; BLOCK];
    let mut taken = vec![0; BATCH * (16 + BLOCK)];
    let mut group = criterion.benchmark_group("reply");
    group.throughput(Throughput::Bytes(taken.len() as u64));
    group.bench_function(format!("{BATCH} replies of 4 KiB through a socket"), |bencher| {
        bencher.iter(|| {
            let mut heads = Vec::with_capacity(BATCH * 16);
            for cookie in replies() {
                let to = ReplyTo { mode: ReplyMode::Simple, cookie, offset: 0 };
                reply::success(to, &mut heads);
            }
            let mut pieces: Vec<IoSlice<'_>> = heads
                .chunks_exact(16)
                .flat_map(|head| [IoSlice::new(head), IoSlice::new(&data)])
                .collect();
            let mut left = &mut pieces[..];
            while !left.is_empty() {
                let sent = ours.write_vectored(left).expect("the other end reads");
                IoSlice::advance_slices(&mut left, sent);
            }
            theirs.read_exact(&mut taken).expect("all of it");
        });
    });
    group.finish();
}

criterion_group!(all, headers, batch);
criterion_main!(all);
