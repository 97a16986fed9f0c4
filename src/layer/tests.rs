//! A layer over a storage in memory.

use std::ops::Range;
use std::sync::Mutex;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::clock::{SeededEntropy, Timestamp};
use crate::crypto::xts::{Cipher, DATA_KEY_BYTES};
use crate::storage::file::FileStorage;
use crate::storage::{Durability, Extent, Fencing, StorageError};
use crate::units::{ByteOffset, DataUnit};

/// Bytes in memory. Writes can be made to fail from a given one on.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    bytes: Mutex<Vec<u8>>,
    writes_left: Mutex<Option<usize>>,
}

impl Bytes {
    fn failing_after(bytes: Vec<u8>, writes: usize) -> Self {
        Self { bytes: Mutex::new(bytes), writes_left: Mutex::new(Some(writes)) }
    }

    fn snapshot(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    fn with(
        &self,
        at: ByteOffset,
        len: usize,
        work: impl FnOnce(&mut [u8]),
    ) -> Result<(), StorageError> {
        let mut bytes = self.bytes.lock().unwrap();
        let start = at.get() as usize;
        let end = bytes.len();
        match bytes.get_mut(start..start + len) {
            Some(slice) => work(slice),
            None => {
                let missing = ByteCount::new((start + len - end) as u64);
                return Err(StorageError::Short { at: ByteOffset::new(end as u64), missing });
            }
        }
        Ok(())
    }
}

impl Storage for Bytes {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            punch_is_fast: true,
            ack_is_durable: true,
            writes_wait: false,
            fencing: Fencing::None,
        }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        Ok(ByteCount::of(&self.bytes.lock().unwrap()))
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.with(at, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.read_at(at, into).map(|()| true)
    }

    fn write_at(&self, at: ByteOffset, from: &[u8], _: Durability) -> Result<(), StorageError> {
        if let Some(left) = self.writes_left.lock().unwrap().as_mut() {
            if *left == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
            }
            *left -= 1;
        }
        self.with(at, from.len(), |bytes| bytes.copy_from_slice(from))
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        self.with(range.start, range.end.since(range.start).as_usize(), |bytes| bytes.fill(0))
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        let bytes = self.bytes.lock().unwrap();
        let mut found: Vec<Extent> = Vec::new();
        for at in (range.start.get()..range.end.get()).step_by(512) {
            let is_data = bytes[at as usize..at as usize + 512].iter().any(|byte| *byte != 0);
            let is_full = found.len() == limit;
            match found.last_mut() {
                Some(last) if last.is_data == is_data => {
                    last.len = ByteCount::new(last.len.get() + 512);
                }
                _ if is_full => break,
                _ => {
                    let (start, len) = (ByteOffset::new(at), ByteCount::new(512));
                    found.push(Extent { start, len, is_data });
                }
            }
        }
        Ok(found)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.bytes.lock().unwrap().resize(len.as_usize(), 0);
        Ok(())
    }
}

fn spec(cipher: Cipher, unit: DataUnitSize) -> LayerSpec {
    LayerSpec {
        layer_id: Uuid::from_u128(0xfeed),
        disk_id: "d-bp1abcdefgh".to_owned(),
        parent: None,
        size: ByteCount::new(64 * 4096 - 512),
        unit,
        cipher,
        created: Timestamp::from_unix_millis(1_767_582_245_678),
    }
}

fn envelope() -> Envelope {
    Envelope { key_id: "key".to_owned(), key_version: "1".to_owned(), wrapped: vec![1, 2, 3] }
}

fn key() -> Secret {
    Secret::random(DATA_KEY_BYTES, &SeededEntropy::new(1))
}

fn made(spec: &LayerSpec) -> Arc<Bytes> {
    let storage = Arc::new(Bytes::default());
    let (envelope, key) = (envelope(), key());
    let sealed = (spec.cipher != Cipher::Null).then_some((&envelope, &key));
    format(&*storage, spec, sealed, &SeededEntropy::new(2)).unwrap();
    storage
}

fn opened(spec: &LayerSpec) -> (Arc<Bytes>, Layer<Writable>) {
    let storage = made(spec);
    let header = read_header(&*storage).unwrap();
    let key = (spec.cipher != Cipher::Null).then(key);
    (storage.clone(), Layer::open(storage, header, key).unwrap())
}

const KINDS: [(Cipher, DataUnitSize); 3] = [
    (Cipher::Aes256XtsPlain64, DataUnitSize::B4096),
    (Cipher::Aes256XtsPlain64, DataUnitSize::B512),
    (Cipher::Null, DataUnitSize::B4096),
];

#[test]
fn a_header_reads_back_as_it_was_written() {
    for (cipher, unit) in KINDS {
        let spec = spec(cipher, unit);
        let storage = made(&spec);
        let header = read_header(&*storage).unwrap();
        assert_eq!(header.spec.encryption_context(), spec.encryption_context());
        let created = Timestamp::from_unix_millis(1_767_582_245_000);
        assert_eq!(header.spec, LayerSpec { created, ..spec.clone() });
        assert_eq!(header.envelope, (cipher != Cipher::Null).then(envelope));
        assert_eq!(storage.len().unwrap(), spec.file_len());
        assert_eq!(header.condition, crate::luks2::Condition::Sound);
    }
}

#[test]
fn the_last_unit_is_whole_in_the_file() {
    let spec = spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096);
    assert_eq!(spec.data_len(), ByteCount::new(64 * 4096));
    let (_, layer) = opened(&spec);
    assert_eq!(layer.size(), spec.size);
    let mut unit = vec![7; 4096];
    layer.write_units(DataUnit::new(63), &mut unit, Durability::Volatile).unwrap();
    let refused = layer.write_units(DataUnit::new(64), &mut unit, Durability::Volatile);
    assert!(matches!(refused, Err(LayerError::OutOfRange { .. })));
}

#[test]
fn ranges_are_checked_before_anything_happens() {
    let (storage, layer) = opened(&spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096));
    let before = storage.snapshot();
    let mut data = vec![7; 8192];
    let mut present = Presence::new();
    for first in [63, 64, 1 << 51, 1 << 52, u64::MAX] {
        let first = DataUnit::new(first);
        let refusals = [
            layer.write_units(first, &mut data, Durability::Volatile),
            layer.seal_units(first, &mut data).map(|_| ()),
            layer.read_units(first, &mut data, &mut present),
            layer.read_units_cached(first, &mut data, &mut present).map(|_| ()),
            layer.punch_units(first, 2),
            layer.punch_units(first, u64::MAX),
            layer.extents(first, 2, 9).map(|_| ()),
            layer.extents(first, 1 << 52, 9).map(|_| ()),
        ];
        for refused in refusals {
            assert!(matches!(refused, Err(LayerError::OutOfRange { .. })), "{first:?} {refused:?}");
        }
    }
    assert_eq!(data, [7; 8192]);
    let odd = layer.write_units(DataUnit::new(0), &mut data[..100], Durability::Volatile);
    assert!(matches!(odd, Err(LayerError::Misaligned { .. })));
    assert_eq!(storage.snapshot(), before);
}

#[test]
fn storage_never_sees_plaintext() {
    let (storage, layer) = opened(&spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096));
    let plain = b"plaintext to look for, long enough to be no accident".repeat(100);
    let mut data = plain[..4096].to_vec();
    layer.write_units(DataUnit::new(1), &mut data, Durability::Durable).unwrap();
    assert_ne!(data, plain[..4096]);
    let mut data = plain[..4096].to_vec();
    let sealed = layer.seal_units(DataUnit::new(9), &mut data).unwrap();
    assert_ne!(sealed.bytes(), &plain[..4096]);
    layer.store_units(&sealed, Durability::Durable).unwrap();
    let stored = storage.snapshot();
    assert!(!stored.windows(16).any(|window| window == &plain[..16]));
    let key = key();
    assert!(!stored.windows(32).any(|window| window == &key.expose()[..32]));
}

#[test]
fn a_frozen_layer_still_reads() {
    let (_, layer) = opened(&spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096));
    layer.write_units(DataUnit::new(5), &mut [3; 4096], Durability::Volatile).unwrap();
    let frozen: Layer<Frozen> = layer.freeze();
    let (mut data, mut present) = (vec![0; 8192], Presence::new());
    frozen.read_units(DataUnit::new(4), &mut data, &mut present).unwrap();
    assert_eq!((&data[..4096], &data[4096..]), (&[0; 4096][..], &[3; 4096][..]));
    assert!(!present.is_present(0) && present.is_present(1));
}

/// Where a large piece is read from the page cache itself, it is the same to the last bit: present,
/// absent and torn units.
#[test]
fn what_is_read_where_it_lies_is_what_is_read_by_copy() {
    crate::storage::guard_mappings().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (number, (cipher, unit)) in KINDS.into_iter().enumerate() {
        let spec = spec(cipher, unit);
        let storage = FileStorage::create(&folder.path().join(number.to_string())).unwrap();
        let (envelope, key) = (envelope(), key());
        let sealed = (cipher != Cipher::Null).then_some((&envelope, &key));
        format(&storage, &spec, sealed, &SeededEntropy::new(2)).unwrap();
        let (header, storage) = (read_header(&storage).unwrap(), Arc::new(storage));
        let key = (cipher != Cipher::Null).then_some(key);
        let layer: Layer<Writable> = Layer::open(storage.clone(), header, key).unwrap();

        let units = (128 << 10) / unit.as_usize();
        let mut all = vec![3; 128 << 10];
        layer.write_units(DataUnit::new(0), &mut all, Durability::Volatile).unwrap();
        layer.punch_units(DataUnit::new(2), 5).unwrap();
        layer.punch_units(DataUnit::new(units as u64 - 3), 3).unwrap();
        let torn = DATA_OFFSET.plus(ByteCount::new(unit.bytes() * 9 + unit.bytes() - 512));
        storage.write_at(torn, &[0; 512], Durability::Volatile).unwrap();

        let range = layer.range_of(DataUnit::new(0), ByteCount::new(128 << 10)).unwrap();
        let (mut copied, mut present) = (vec![0; 128 << 10], Presence::new());
        layer.read_units(DataUnit::new(0), &mut copied, &mut present).unwrap();
        let view = storage.view(&range, ByteCount::new(128 << 10)).unwrap();
        assert!(view.bytes(0..128 << 10).is_some(), "it is in the page cache");
        let (mut seen, mut seen_present) = (vec![0xee; 128 << 10], Presence::new());
        assert!(layer.read_units_cached(DataUnit::new(0), &mut seen, &mut seen_present).unwrap());
        assert!(seen == copied, "{cipher:?} {unit:?}");
        assert!(seen_present.runs().eq(present.runs()));
        assert_eq!(seen_present.absent_count(), present.absent_count());
        assert_eq!(present.absent_count(), 8 + usize::from(unit == DataUnitSize::B512));
    }
}

#[test]
fn a_file_that_is_not_empty_is_not_formatted() {
    let spec = spec(Cipher::Null, DataUnitSize::B4096);
    let storage = made(&spec);
    let refused = format(&*storage, &spec, None, &SeededEntropy::new(3));
    assert!(matches!(refused, Err(LayerError::NotEmpty { .. })));
}

#[test]
fn layers_that_cannot_be_are_refused() {
    let good = spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096);
    let (envelope, key) = (envelope(), key());
    let try_format = |spec: &LayerSpec, sealed| {
        format(&Bytes::default(), spec, sealed, &SeededEntropy::new(3)).err()
    };
    for size in [0, 511, 513, (64 << 40) + 512] {
        let spec = LayerSpec { size: ByteCount::new(size), ..good.clone() };
        let refused = try_format(&spec, Some((&envelope, &key)));
        assert!(matches!(refused, Some(LayerError::InvalidSpec { field: "size" })));
    }
    for disk_id in ["", "a/b", "a b", "\u{e9}", &"x".repeat(65)] {
        let spec = LayerSpec { disk_id: disk_id.to_owned(), ..good.clone() };
        let refused = try_format(&spec, Some((&envelope, &key)));
        assert!(matches!(refused, Some(LayerError::InvalidSpec { field: "disk id" })));
    }
    assert!(matches!(try_format(&good, None), Some(LayerError::MissingKey)));
    let equal = Secret::from_fn(64, |bytes| bytes.fill(1));
    let short = Secret::zeroed(32);
    let refused = try_format(&good, Some((&envelope, &equal)));
    assert!(matches!(refused, Some(LayerError::EqualKeyHalves)));
    let refused = try_format(&good, Some((&envelope, &short)));
    assert!(matches!(refused, Some(LayerError::WrongKey)));
    let null = spec(Cipher::Null, DataUnitSize::B4096);
    let refused = try_format(&null, Some((&envelope, &key)));
    assert!(matches!(refused, Some(LayerError::NullCipherRefused)));
    let chained = LayerSpec { parent: Some(Uuid::from_u128(1)), ..null };
    assert!(matches!(try_format(&chained, None), Some(LayerError::NullCipherRefused)));
}

#[test]
fn an_envelope_is_replaced_copy_by_copy() {
    let storage = made(&spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096));
    let old = read_header(&*storage).unwrap();
    let new = Envelope { key_id: "other".to_owned(), ..envelope() };
    for writes in 0..=2 {
        let cut = Bytes::failing_after(storage.snapshot(), writes);
        let done = rewrite_envelope(&cut, &old, &new, &SeededEntropy::new(4));
        assert_eq!(done.is_ok(), writes == 2);
        let found = read_header(&cut).unwrap();
        let expected = if writes == 0 { envelope() } else { new.clone() };
        assert_eq!(found.envelope, Some(expected));
        assert_eq!(found.seqid, if writes == 0 { 1 } else { 2 });
        let mended = Bytes::failing_after(cut.snapshot(), 2);
        let mended_header = repair_header(&mended, &found, &SeededEntropy::new(5)).unwrap();
        assert_eq!(read_header(&mended).unwrap(), mended_header);
        Layer::<Writable>::open(Arc::new(mended), mended_header, Some(key())).unwrap();
    }
}

#[test]
fn the_kms_key_that_opened_the_envelope_must_be_the_one_named() {
    let storage = made(&spec(Cipher::Aes256XtsPlain64, DataUnitSize::B4096));
    let header = read_header(&*storage).unwrap();
    header.check_unwrapped_by("key", "1").unwrap();
    for (key_id, version) in [("other", "1"), ("key", "2")] {
        let refused = header.check_unwrapped_by(key_id, version);
        assert!(matches!(refused, Err(LayerError::HeaderMismatch { .. })));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    SealAndStore(u64, u64, u8),
    Punch(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0_u64..32, 1_u64..9);
    prop_oneof![
        (range.clone(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
        (range.clone(), any::<u8>())
            .prop_map(|((at, len), byte)| Step::SealAndStore(at, len, byte)),
        range.prop_map(|(at, len)| Step::Punch(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn reads_give_what_was_written(
        kind in 0_usize..3,
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let (cipher, unit) = KINDS[kind];
        let (storage, layer) = opened(&spec(cipher, unit));
        let size = unit.as_usize();
        let mut model = vec![None; 40];
        for step in steps {
            let (at, len, byte) = match step {
                Step::Write(at, len, byte) => {
                    let mut data = vec![byte; len as usize * size];
                    layer.write_units(DataUnit::new(at), &mut data, Durability::Volatile).unwrap();
                    (at, len, Some(byte))
                }
                Step::SealAndStore(at, len, byte) => {
                    let mut data = vec![byte; len as usize * size];
                    let sealed = layer.seal_units(DataUnit::new(at), &mut data).unwrap();
                    layer.store_units(&sealed, Durability::Durable).unwrap();
                    (at, len, Some(byte))
                }
                Step::Punch(at, len) => {
                    layer.punch_units(DataUnit::new(at), len).unwrap();
                    (at, len, None)
                }
            };
            model[at as usize..(at + len) as usize].fill(byte);
        }
        if cipher == Cipher::Null {
            model.iter_mut().filter(|byte| **byte == Some(0)).for_each(|byte| *byte = None);
        }
        layer.flush().unwrap();
        drop(layer);
        let header = read_header(&*storage).unwrap();
        let key = (cipher != Cipher::Null).then(key);
        let layer: Layer<Frozen> = Layer::open(storage, header, key).unwrap();
        let (mut data, mut present) = (vec![0xee; 40 * size], Presence::new());
        layer.read_units(DataUnit::new(0), &mut data, &mut present).unwrap();
        for (index, (unit, byte)) in data.chunks(size).zip(&model).enumerate() {
            prop_assert!(unit.iter().all(|found| *found == byte.unwrap_or(0)), "unit {}", index);
            prop_assert_eq!(present.is_present(index), byte.is_some());
        }
        let mut cached = vec![0; data.len()];
        prop_assert!(layer.read_units_cached(DataUnit::new(0), &mut cached, &mut present).unwrap());
        prop_assert_eq!(&cached, &data);
        let mut next = 0;
        for run in layer.extents(DataUnit::new(0), 40, 100).unwrap() {
            prop_assert_eq!(run.first.get(), next);
            next += run.units;
            for unit in run.first.get()..next {
                prop_assert_eq!(run.is_present, model[unit as usize].is_some());
            }
        }
        prop_assert_eq!(next, 40);
    }
}
