//! Crypto-erase: without its wrapped key a layer is noise to everybody, for ever.

use super::{DATA_OFFSET, LayerError};
use crate::clock::Entropy;
use crate::storage::{Durability, Storage};
use crate::units::{ByteCount, ByteOffset};

/// Bytes written at a time.
const STEP_BYTES: usize = 64 << 10;

/// Overwrites everything in front of the data (both header copies with the wrapped data key, and
/// the room for keyslots, which can hold it as well) with random bytes, and flushes. Random, so
/// that storage which makes holes of zeros writes them. Returns how many bytes that were: fewer
/// than [`DATA_OFFSET`] where the file is shorter. Takes any file, a damaged or half-made one too.
///
/// What lies below may keep older copies of a block (snapshots of a file system, spare cells of a
/// flash device); a layer cannot reach those.
///
/// # Errors
/// Storage that fails: then nothing is certain, and the call can be repeated.
pub fn erase(storage: &dyn Storage, entropy: &dyn Entropy) -> Result<ByteCount, LayerError> {
    let len = storage.len()?.get().min(DATA_OFFSET.get());
    let mut noise = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(STEP_BYTES as u64);
        let part = &mut noise[..step as usize];
        entropy.fill(part);
        storage.write_at(ByteOffset::new(at), part, Durability::Volatile)?;
        at += step;
    }
    storage.flush()?;
    Ok(ByteCount::new(len))
}
