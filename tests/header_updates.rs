//! Headers that are changed in place: cut off at every storage call and by every kind of fault, a
//! layer opens as it was or as it shall be, and stock cryptsetup reads it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod layer_file;

use std::fs;
use std::sync::Arc;

use layer_file::{FileBytes, envelope, has_tool, key, must, run, spec};
use sealdisk::clock::SeededEntropy;
use sealdisk::crypto::xts::Cipher;
use sealdisk::layer::{
    DATA_OFFSET, Envelope, Frozen, Layer, LayerError, LayerHeader, LayerRegistry, LayerSpec,
    Presence, Writable, erase, format, read_header, reheader, repair_header, rewrite_envelope,
};
use sealdisk::luks2::Condition;
use sealdisk::storage::faulty::{Fault, FaultPlan, FaultyStorage};
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::storage::{Durability, Storage};
use sealdisk::units::{ByteCount, DataUnit, DataUnitSize};
use uuid::Uuid;

const SIZE: u64 = 64 << 10;
const GROWN: u64 = 96 << 10;
const FAULTS: [Fault; 4] = [Fault::Eio, Fault::NoSpace, Fault::Short, Fault::Interrupted];

/// A layer that stands on another, as bytes.
fn chained() -> (LayerSpec, Vec<u8>) {
    let mut spec = spec(SIZE, DataUnitSize::B4096);
    spec.parent = Some(Uuid::from_u128(9));
    (spec.clone(), formatted(&spec))
}

fn formatted(spec: &LayerSpec) -> Vec<u8> {
    let storage = MemoryStorage::default();
    let (envelope, key) = (envelope(), key(1));
    let sealed = (spec.cipher != Cipher::Null).then_some((&envelope, &key));
    format(&storage, spec, sealed, &SeededEntropy::new(4)).unwrap();
    storage.contents()
}

/// Stands for what KMS would give for another context.
fn other_envelope() -> Envelope {
    Envelope { wrapped: (50..200).collect(), ..envelope() }
}

/// The ways a header is changed, each from a layer of [`chained`] to what it shall be.
type Change = fn(&dyn Storage, &LayerHeader) -> Result<LayerHeader, LayerError>;

const CHANGES: [(&str, Change); 4] = [
    ("parent", |storage, header| {
        let spec = LayerSpec { parent: Some(Uuid::from_u128(10)), ..header.spec.clone() };
        reheader(storage, header, &spec, Some(&other_envelope()), &SeededEntropy::new(5))
    }),
    ("no parent", |storage, header| {
        let spec = LayerSpec { parent: None, ..header.spec.clone() };
        reheader(storage, header, &spec, Some(&other_envelope()), &SeededEntropy::new(5))
    }),
    ("size", |storage, header| {
        let spec = LayerSpec { size: ByteCount::new(GROWN), ..header.spec.clone() };
        reheader(storage, header, &spec, Some(&other_envelope()), &SeededEntropy::new(5))
    }),
    ("envelope", |storage, header| {
        rewrite_envelope(storage, header, &other_envelope(), &SeededEntropy::new(5))
    }),
];

#[test]
fn a_change_cut_off_at_any_call_leaves_the_old_layer_or_the_new_one() {
    let mut cases = 0;
    for (name, change) in CHANGES {
        let (spec, bytes) = chained();
        let sound = FaultyStorage::holding(bytes.clone());
        let old = read_header(&sound).unwrap();
        sound.set_plan(None);
        let new = change(&sound, &old).unwrap();
        let calls = sound.calls();
        assert!(calls >= 5, "{name}: {calls} calls");
        assert_ne!((&new.spec, &new.envelope), (&old.spec, &old.envelope), "{name}");
        for call in 1..=calls {
            for (fault, seed) in FAULTS.into_iter().flat_map(|f| (0..4).map(move |s| (f, s))) {
                let storage = FaultyStorage::holding(bytes.clone());
                let before = read_header(&storage).unwrap();
                storage.set_plan(Some(FaultPlan { call, fault, for_good: true }));
                assert!(change(&storage, &before).is_err(), "{name}: call {call} met {fault:?}");
                let image = storage.crash(&SeededEntropy::new(seed * 1000 + call));
                let what = format!("{name}: call {call} met {fault:?}, crash {seed}");
                check_old_or_new(image, &old, &new, &what);
                cases += 1;
            }
        }
        assert_eq!(spec.size, old.spec.size);
    }
    assert!(cases > 300, "{cases} cases");
}

fn check_old_or_new(image: Vec<u8>, old: &LayerHeader, new: &LayerHeader, what: &str) {
    let again = Arc::new(FaultyStorage::holding(image));
    let found = read_header(&*again).unwrap_or_else(|error| panic!("{what}: {error}"));
    let is = |header: &LayerHeader| {
        (&found.spec, &found.envelope, found.seqid)
            == (&header.spec, &header.envelope, header.seqid)
    };
    assert!(is(old) || is(new), "{what}: {found:?}");
    // Whichever it is, the key that belongs to it opens it, and it can be mended.
    let mended = repair_header(&*again, &found, &SeededEntropy::new(7)).unwrap();
    assert_eq!(read_header(&*again).unwrap().condition, Condition::Sound);
    Layer::<Writable>::open(again, mended, Some(key(1))).unwrap_or_else(|e| panic!("{what}: {e}"));
}

#[test]
fn what_a_layer_is_made_of_never_changes() {
    let (spec, bytes) = chained();
    let storage = MemoryStorage::holding(bytes.clone());
    let header = read_header(&storage).unwrap();
    let others = [
        LayerSpec { layer_id: Uuid::from_u128(1), ..spec.clone() },
        LayerSpec { disk_id: "d-other".to_owned(), ..spec.clone() },
        LayerSpec { unit: DataUnitSize::B512, ..spec.clone() },
        LayerSpec { cipher: Cipher::Null, parent: None, ..spec.clone() },
        LayerSpec { created: spec.created.plus(std::time::Duration::from_secs(1)), ..spec.clone() },
    ];
    let try_it = |spec: &LayerSpec, envelope: Option<&Envelope>| {
        reheader(&storage, &header, spec, envelope, &SeededEntropy::new(5)).unwrap_err()
    };
    for other in others {
        let refused = try_it(&other, Some(&other_envelope()));
        assert!(matches!(refused, LayerError::FixedField { .. }), "{refused}");
    }
    let less = LayerSpec { size: ByteCount::new(SIZE - 512), ..spec.clone() };
    assert!(matches!(try_it(&less, Some(&envelope())), LayerError::Shrinks { .. }));
    let itself = LayerSpec { parent: Some(spec.layer_id), ..spec.clone() };
    assert!(matches!(try_it(&itself, Some(&envelope())), LayerError::InvalidSpec { .. }));
    assert!(matches!(try_it(&spec, None), LayerError::MissingKey));
    let vast = Envelope { wrapped: vec![1; 20 << 10], ..envelope() };
    let grown = LayerSpec { size: ByteCount::new(GROWN), ..spec };
    assert!(matches!(try_it(&grown, Some(&vast)), LayerError::HeaderTooLarge(_)));
    assert!(storage.contents() == bytes, "a refusal changes nothing, the length neither");
}

#[test]
fn a_layer_without_encryption_grows_too() {
    let plain = LayerSpec { cipher: Cipher::Null, ..spec(SIZE, DataUnitSize::B4096) };
    let storage = MemoryStorage::holding(formatted(&plain));
    let header = read_header(&storage).unwrap();
    let grown = LayerSpec { size: ByteCount::new(GROWN), ..header.spec.clone() };
    let refused =
        reheader(&storage, &header, &grown, Some(&envelope()), &SeededEntropy::new(5)).unwrap_err();
    assert!(matches!(refused, LayerError::NullCipherRefused));
    let header = reheader(&storage, &header, &grown, None, &SeededEntropy::new(5)).unwrap();
    assert_eq!(storage.len().unwrap(), grown.file_len());
    let layer = Layer::<Writable>::open(Arc::new(storage), header, None).unwrap();
    assert_eq!(layer.size().get(), GROWN);
}

#[test]
fn of_two_who_change_a_header_at_once_the_second_is_told() {
    let (_, bytes) = chained();
    let storage = MemoryStorage::holding(bytes);
    let header = read_header(&storage).unwrap();
    for (_, change) in CHANGES {
        let seen = read_header(&storage).unwrap();
        rewrite_envelope(&storage, &seen, &other_envelope(), &SeededEntropy::new(6)).unwrap();
        let refused = change(&storage, &header).unwrap_err();
        assert!(matches!(refused, LayerError::HeaderChanged { seen: 1, .. }), "{refused}");
    }
}

#[test]
fn an_open_layer_changes_its_header_and_goes_on() {
    let (spec, bytes) = chained();
    let storage = Arc::new(MemoryStorage::holding(bytes));
    let header = read_header(&*storage).unwrap();
    let layer = Layer::<Writable>::open(storage.clone(), header, Some(key(1))).unwrap();
    layer.write_units(DataUnit::new(3), &mut [7; 4096], Durability::Volatile).unwrap();
    let stored = layer.stored_header().unwrap();
    let apart = LayerSpec { parent: None, size: ByteCount::new(GROWN), ..spec };
    let entropy = SeededEntropy::new(8);
    layer.reheader(&stored, &apart, Some(&other_envelope()), &entropy).unwrap();
    layer.write_units(DataUnit::new(4), &mut [8; 4096], Durability::Volatile).unwrap();
    let header = read_header(&*storage).unwrap();
    assert_eq!((header.spec.parent, header.spec.size.get()), (None, GROWN));
    let again = Layer::<Frozen>::open(storage, header, Some(key(1))).unwrap();
    let (mut data, mut present) = (vec![0; 8192], Presence::new());
    again.read_units(DataUnit::new(3), &mut data, &mut present).unwrap();
    assert_eq!((data[0], data[4096]), (7, 8));
}

#[test]
fn cryptsetup_reads_every_header_that_was_changed() {
    if !has_tool("cryptsetup") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("wrong");
    let right = directory.path().join("key");
    fs::write(&right, key(1).expose()).unwrap();
    fs::write(&wrong, key(2).expose()).unwrap();
    for (name, change) in CHANGES {
        let path = directory.path().join(name.replace(' ', "-"));
        let (_, bytes) = chained();
        fs::write(&path, bytes).unwrap();
        let storage = FileBytes::open(&path);
        let new = change(&storage, &read_header(&storage).unwrap()).unwrap();
        drop(storage);
        let layer = path.to_str().unwrap();
        let dump = must("cryptsetup", &["luksDump", layer]);
        let id = new.spec.layer_id.to_string();
        // Its size, and that it is in a chain, as far as it is.
        for expected in ["sealdisk", "aes-xts-plain64", &id, "Epoch:         \t2"] {
            assert!(dump.contains(expected), "{name}: no {expected:?} in:\n{dump}");
        }
        let length = format!("{} [bytes]", new.spec.data_len().get());
        assert!(dump.contains(&length), "{name}: no {length:?} in:\n{dump}");
        let is_chained = dump.contains("sealdisk-chain");
        assert_eq!(is_chained, new.spec.parent.is_some(), "{name}: {dump}");
        for (file, expected) in [(&right, 0), (&wrong, 2)] {
            let arguments = ["open", "--test-passphrase", "--volume-key-file"];
            let place = [file.to_str().unwrap(), "--key-size", "512", layer];
            let code = run("cryptsetup", &[&arguments[..], &place].concat()).status.code();
            assert_eq!(code, Some(expected), "{name}");
        }
    }
}

#[test]
fn an_erased_layer_is_noise() {
    let (spec, bytes) = chained();
    let storage = Arc::new(MemoryStorage::holding(bytes.clone()));
    let header = read_header(&*storage).unwrap();
    let layer = Layer::<Writable>::open(storage.clone(), header, Some(key(1))).unwrap();
    layer.write_units(DataUnit::new(0), &mut [7; 4096], Durability::Volatile).unwrap();
    let data = storage.contents().split_off(DATA_OFFSET.get() as usize);
    assert_eq!(erase(&*storage, &SeededEntropy::new(9)).unwrap().get(), DATA_OFFSET.get());
    let left = storage.contents();
    assert!(matches!(read_header(&*storage), Err(LayerError::NotALayer)));
    // No run of the old header survives, nor of the room where keyslots would be.
    let wrapped = envelope().wrapped;
    assert!(!left.windows(16).any(|window| window == &wrapped[..16]));
    assert!(left[..DATA_OFFSET.get() as usize].chunks(64).all(|run| run.iter().any(|b| *b != 0)));
    assert!(left[DATA_OFFSET.get() as usize..] == data[..], "data is left to the unlink");
    assert_eq!(left.len() as u64, spec.file_len().get());
    // Half-made and damaged files as well.
    for len in [0, 1, 5000, 100_000] {
        let part = MemoryStorage::holding(bytes[..len].to_vec());
        assert_eq!(erase(&part, &SeededEntropy::new(9)).unwrap().get(), len as u64);
        assert_eq!(part.contents().len(), len);
    }
}

#[test]
fn an_erasure_that_failed_says_so_and_can_be_repeated() {
    let (_, bytes) = chained();
    let storage = FaultyStorage::holding(bytes.clone());
    storage.set_plan(None);
    erase(&storage, &SeededEntropy::new(9)).unwrap();
    for call in 1..=storage.calls() {
        let storage = FaultyStorage::holding(bytes.clone());
        storage.set_plan(Some(FaultPlan { call, fault: Fault::Eio, for_good: false }));
        erase(&storage, &SeededEntropy::new(9)).unwrap_err();
        storage.set_plan(None);
        erase(&storage, &SeededEntropy::new(9)).unwrap();
        let image = MemoryStorage::holding(storage.crash(&SeededEntropy::new(call)));
        assert!(matches!(read_header(&image), Err(LayerError::NotALayer)), "call {call}");
    }
}

fn frozen(bytes: &[u8]) -> Layer<Frozen> {
    let storage = Arc::new(MemoryStorage::holding(bytes.to_vec()));
    let header = read_header(&*storage).unwrap();
    Layer::open(storage, header, Some(key(1))).unwrap()
}

#[test]
fn a_frozen_layer_is_open_once() {
    let (spec, bytes) = chained();
    let (registry, id) = (LayerRegistry::new(), spec.layer_id);
    let mut opened = 0;
    let mut all = Vec::new();
    for _ in 0..500 {
        let layer = registry.get_or_open(id, || {
            opened += 1;
            Ok::<_, LayerError>(frozen(&bytes))
        });
        all.push(layer.unwrap());
    }
    assert_eq!((opened, registry.count()), (1, 1));
    assert!(all.iter().all(|layer| Arc::ptr_eq(layer, &all[0])));
    registry.forget(id);
    assert!(registry.find(id).is_none());
    let other = registry.share(frozen(&bytes));
    assert!(!Arc::ptr_eq(&other, &all[0]), "a header that changed is read again");
    drop((all, other));
    assert_eq!(registry.count(), 0, "the registry keeps nothing open");
    let refused = registry.get_or_open(id, || Err(LayerError::MissingKey)).unwrap_err();
    assert!(matches!(refused, LayerError::MissingKey));
}

#[test]
fn the_registry_forgets_what_is_closed() {
    let (_, bytes) = chained();
    let registry = LayerRegistry::new();
    let kept: Vec<_> = (0..300_u128)
        .filter_map(|number| {
            let layer = registry
                .get_or_open(Uuid::from_u128(number), || Ok::<_, LayerError>(frozen(&bytes)))
                .unwrap();
            (number % 100 == 0).then_some(layer)
        })
        .collect();
    assert_eq!(registry.count(), kept.len());
    let shown = format!("{registry:?}");
    assert!(shown.matches("(Weak)").count() < 150, "closed layers are swept");
}

#[test]
fn two_who_open_a_layer_at_once_get_one() {
    let (spec, bytes) = chained();
    let registry = LayerRegistry::new();
    let start = std::sync::Barrier::new(8);
    let all: Vec<_> = std::thread::scope(|scope| {
        let each = (0..8).map(|_| {
            scope.spawn(|| {
                start.wait();
                registry.get_or_open(spec.layer_id, || Ok::<_, LayerError>(frozen(&bytes))).unwrap()
            })
        });
        let each: Vec<_> = each.collect();
        each.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|layer| Arc::ptr_eq(layer, &all[0])));
}
