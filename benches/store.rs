//! Third stage of a request: ciphertext to and from a file in the page cache. A regression here is
//! in `storage/file` or in the kernel.

#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sealdisk::storage::file::FileStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, ByteOffset};

const FILE_BYTES: u64 = 64 << 20;

/// Writes go through the file in this order, so that no two follow each other in one folio.
fn place(step: u64, len: usize) -> ByteOffset {
    let count = FILE_BYTES / len as u64;
    ByteOffset::new(step.wrapping_mul(0x9e37_79b9) % count * len as u64)
}

fn store(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = FileStorage::create(&folder.path().join("layer")).expect("a file");
    file.set_len(ByteCount::new(FILE_BYTES)).expect("a length");
    let mut data = vec![7; 1 << 20];
    for at in (0..FILE_BYTES).step_by(data.len()) {
        file.write_at(ByteOffset::new(at), &data, Durability::Volatile).expect("room");
    }
    let mut group = criterion.benchmark_group("store");
    for len in [4 << 10, 64 << 10, 1 << 20] {
        let data = &mut data[..len];
        let mut step = 0;
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("read cached", len), |bencher| {
            bencher.iter(|| {
                step += 1;
                assert!(file.read_cached_at(place(step, len), data).expect("a read"), "cached");
            });
        });
        group.bench_function(BenchmarkId::new("read", len), |bencher| {
            bencher.iter(|| {
                step += 1;
                file.read_at(place(step, len), data).expect("a read");
            });
        });
        group.bench_function(BenchmarkId::new("write", len), |bencher| {
            bencher.iter(|| {
                step += 1;
                file.write_at(place(step, len), data, Durability::Volatile).expect("a write");
            });
        });
    }
    group.finish();
}

criterion_group!(all, store);
criterion_main!(all);
