//! Disks over storage in memory.

use std::sync::Arc;

use sealdisk::clock::{SeededEntropy, Timestamp};
use sealdisk::crypto::xts::Cipher;
use sealdisk::disk::Disk;
use sealdisk::layer::{self, Envelope, Layer, LayerError, LayerSpec, Writable};
use sealdisk::secret::Secret;
use sealdisk::storage::Storage;
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::units::{ByteCount, DataUnitSize};

/// The data key of every disk here.
pub fn data_key() -> Secret {
    Secret::random(64, &SeededEntropy::new(0x5ea1))
}

pub fn spec(size: u64, unit: DataUnitSize) -> LayerSpec {
    LayerSpec {
        layer_id: uuid::Uuid::from_u128(7),
        disk_id: "d-modelmodelmodelmodel".to_owned(),
        parent: None,
        size: ByteCount::new(size),
        unit,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::from_unix_millis(1_767_582_245_000),
    }
}

/// A new layer, as bytes.
pub fn formatted(size: u64, unit: DataUnitSize) -> Vec<u8> {
    let storage = MemoryStorage::default();
    let envelope = Envelope {
        key_id: "0b9c4c3e-0000-4000-8000-000000000001".to_owned(),
        key_version: "7a1d4c3e-0000-4000-8000-000000000002".to_owned(),
        wrapped: vec![1; 120],
    };
    let key = data_key();
    layer::format(&storage, &spec(size, unit), Some((&envelope, &key)), &SeededEntropy::new(1))
        .expect("a new layer");
    storage.contents()
}

/// Opens the disk on `storage`.
pub fn open(storage: Arc<dyn Storage>) -> Result<Disk, LayerError> {
    let header = layer::read_header(&*storage)?;
    Ok(Disk::new(Layer::<Writable>::open(storage, header, Some(data_key()))?))
}
