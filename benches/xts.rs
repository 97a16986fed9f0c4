//! Throughput of AES-256-XTS on one core: each engine, both unit sizes, small to large buffers.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sealdisk::clock::SeededEntropy;
use sealdisk::crypto::engine::Engine;
use sealdisk::crypto::xts::{DATA_KEY_BYTES, XtsCipher};
use sealdisk::secret::Secret;
use sealdisk::units::{DataUnit, DataUnitSize};

const BUFFERS: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 1 << 20];

fn xts(criterion: &mut Criterion) {
    let key = Secret::random(DATA_KEY_BYTES, &SeededEntropy::new(1));
    for engine in Engine::available() {
        let cipher = XtsCipher::new(engine, &key).unwrap();
        for unit in [DataUnitSize::B512, DataUnitSize::B4096] {
            let mut group = criterion.benchmark_group(format!("{engine}/{}", unit.bytes()));
            for len in BUFFERS {
                let (plain, mut data) = (vec![7; len], vec![0; len]);
                let first = DataUnit::new(1 << 20);
                group.throughput(Throughput::Bytes(len as u64));
                group.bench_function(BenchmarkId::new("encrypt", len), |bencher| {
                    bencher.iter(|| cipher.encrypt(unit, first, &plain, &mut data));
                });
                group.bench_function(BenchmarkId::new("encrypt_in_place", len), |bencher| {
                    bencher.iter(|| cipher.encrypt_in_place(unit, first, &mut data));
                });
                group.bench_function(BenchmarkId::new("decrypt_in_place", len), |bencher| {
                    bencher.iter(|| cipher.decrypt_in_place(unit, first, &mut data));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, xts);
criterion_main!(benches);
