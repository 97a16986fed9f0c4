//! The write route without sockets: align, lock, encrypt, store, in memory and in a file, beside
//! the read route. A regression here is in `disk`, `layer`, `crypto` or `storage`.

#![allow(missing_docs)]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sealdisk::clock::{SeededEntropy, Timestamp};
use sealdisk::crypto::xts::Cipher;
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::{self, Envelope, Layer, LayerSpec, Presence, Writable};
use sealdisk::secret::Secret;
use sealdisk::storage::file::FileStorage;
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};

const DISK_BYTES: u64 = 64 << 20;

fn disk_on(storage: Arc<dyn Storage>) -> Disk {
    let entropy = SeededEntropy::new(1);
    let key = Secret::random(64, &entropy);
    let spec = LayerSpec {
        layer_id: uuid::Uuid::from_u128(1),
        disk_id: "d-benchbenchbenchbench".to_owned(),
        parent: None,
        size: ByteCount::new(DISK_BYTES),
        unit: DataUnitSize::B4096,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::from_unix_millis(0),
    };
    let envelope = Envelope {
        key_id: "00000000-0000-4000-8000-000000000001".to_owned(),
        key_version: "00000000-0000-4000-8000-000000000002".to_owned(),
        wrapped: vec![1; 120],
    };
    layer::format(&*storage, &spec, Some((&envelope, &key)), &entropy).expect("a new layer");
    let header = layer::read_header(&*storage).expect("its header");
    Disk::new(Layer::<Writable>::open(storage, header, Some(key)).expect("the layer"))
}

fn routes(criterion: &mut Criterion, name: &str, disk: &Disk) {
    let mut group = criterion.benchmark_group(name);
    for (case, at, len) in [
        ("4 KiB", 8192, 4096),
        ("512 B inside a unit", 9000, 512),
        ("a sector inside a unit", 9728, 512),
        ("1 MiB", 1 << 20, 1 << 20),
    ] {
        let span = disk.span(ByteOffset::new(at), len);
        let mut data = vec![7; span.covered_bytes()];
        let mut present = Presence::new();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("write {case}"), |bencher| {
            bencher.iter(|| disk.write(&span, &mut data, Durability::Volatile));
        });
        group.bench_function(format!("read {case}"), |bencher| {
            bencher.iter(|| disk.read(&span, &mut data, &mut present, Waiting::Allowed));
        });
    }
    group.finish();
}

fn benches(criterion: &mut Criterion) {
    routes(criterion, "memory", &disk_on(Arc::new(MemoryStorage::default())));
    let folder = tempfile::tempdir().expect("a scratch folder");
    let file = FileStorage::create(&folder.path().join("layer")).expect("a file");
    routes(criterion, "file", &disk_on(Arc::new(file)));
}

criterion_group!(all, benches);
criterion_main!(all);
