//! Headers to and from storage: a new layer, reading, updating.

use super::header::make_digest;
use super::{DATA_OFFSET, Envelope, LayerError, LayerHeader, LayerName, LayerSpec};
use super::{names, token};
use crate::clock::Entropy;
use crate::crypto::xts::{Cipher, DATA_KEY_BYTES};
use crate::luks2::{
    self, COPY_BYTES, Condition, HEADERS_BYTES, Header, Parsed, REQUIREMENT_CHAIN, Which,
};
use crate::secret::Secret;
use crate::storage::{Durability, Storage};
use crate::units::{ByteCount, ByteOffset};

/// Makes a new layer in an empty file: length, both header copies, flush. `sealed` is the wrapped
/// data key and the key itself, of which only a digest is stored; `None` for the null cipher.
///
/// # Errors
/// A specification that no layer can have, a file that is not empty, a key that does not fit the
/// cipher, or storage that fails.
pub fn format(
    storage: &dyn Storage,
    spec: &LayerSpec,
    sealed: Option<(&Envelope, &Secret)>,
    entropy: &dyn Entropy,
) -> Result<(), LayerError> {
    format_named(storage, spec, sealed, &[], entropy)
}

/// As [`format()`], for a layer that has names from the beginning.
///
/// # Errors
/// As [`format()`].
pub fn format_named(
    storage: &dyn Storage,
    spec: &LayerSpec,
    sealed: Option<(&Envelope, &Secret)>,
    given_names: &[LayerName],
    entropy: &dyn Entropy,
) -> Result<(), LayerError> {
    spec.check()?;
    let have = storage.len()?;
    if have != ByteCount::ZERO {
        return Err(LayerError::NotEmpty { have });
    }
    let digest = match (spec.cipher, sealed) {
        // LUKS2 wants a digest for every segment; the null cipher's key has no bits.
        (Cipher::Null, None) => make_digest(&Secret::zeroed(0), entropy),
        (Cipher::Null, Some(_)) => return Err(LayerError::NullCipherRefused),
        (Cipher::Aes256XtsPlain64, None) => return Err(LayerError::MissingKey),
        (Cipher::Aes256XtsPlain64, Some((_, key))) => {
            check_new_key(key)?;
            make_digest(key, entropy)
        }
    };
    let mut header = spec.luks_header(digest);
    let envelope = sealed.map(|(envelope, _)| envelope);
    token::put(&mut header.metadata.tokens, token::encode(spec, envelope));
    names::put(&mut header.metadata.tokens, given_names);
    // Whatever is written must be readable again: no layer is made that cannot be opened.
    interpret(Parsed { header: header.clone(), condition: Condition::Sound })?;
    storage.set_len(spec.file_len())?;
    // The primary copy last: a layer that was not made to its end has no magic at its start.
    write_copy(storage, &header, Which::Secondary, entropy)?;
    write_copy(storage, &header, Which::Primary, entropy)?;
    Ok(storage.flush()?)
}

/// Reads the header of a layer. Needs no key.
///
/// # Errors
/// Anything but a sound layer header that contradicts itself nowhere, each by its name.
pub fn read_header(storage: &dyn Storage) -> Result<LayerHeader, LayerError> {
    let (have, need) = (storage.len()?, ByteCount::new(HEADERS_BYTES as u64));
    if have < need {
        return Err(LayerError::Truncated { have, need });
    }
    let mut headers = vec![0; HEADERS_BYTES];
    storage.read_at(ByteOffset::ZERO, &mut headers)?;
    let (primary, secondary) = headers.split_at(COPY_BYTES);
    interpret(luks2::parse(primary, secondary)?)
}

/// Replaces the wrapped data key in the header, as rewrapping under another KMS key does: the older
/// or broken copy first, a flush, the other copy, a flush. Cut off at any point, one copy is whole.
///
/// # Errors
/// A layer without encryption, a header that has no room, [`LayerError::HeaderChanged`] if storage
/// holds another header than `header` by now, or storage that fails. After an error `header` may or
/// may not be what storage holds: read it again.
pub fn rewrite_envelope(
    storage: &dyn Storage,
    header: &LayerHeader,
    envelope: &Envelope,
    entropy: &dyn Entropy,
) -> Result<LayerHeader, LayerError> {
    if header.envelope.is_none() {
        return Err(LayerError::NullCipherRefused);
    }
    let mut luks = header.luks.clone();
    token::put(&mut luks.metadata.tokens, token::encode(&header.spec, Some(envelope)));
    write_again(storage, header, luks, entropy)
}

/// Writes both copies of the header again, the one that was not whole first.
///
/// # Errors
/// [`LayerError::HeaderChanged`] if storage holds another header than `header` by now, or storage
/// that fails.
pub fn repair_header(
    storage: &dyn Storage,
    header: &LayerHeader,
    entropy: &dyn Entropy,
) -> Result<LayerHeader, LayerError> {
    write_again(storage, header, header.luks.clone(), entropy)
}

/// Replaces `old` by `luks` under the next sequence number, one copy at a time.
pub(super) fn write_again(
    storage: &dyn Storage,
    old: &LayerHeader,
    luks: Header,
    entropy: &dyn Entropy,
) -> Result<LayerHeader, LayerError> {
    let header = update(old, luks)?;
    // Two who change one header at once must not undo each other's work.
    let found = read_header(storage)?.seqid;
    if found != old.seqid {
        return Err(LayerError::HeaderChanged { seen: old.seqid, found });
    }
    let first = match old.condition {
        Condition::Sound => Which::Secondary,
        Condition::OneBad { copy, .. } | Condition::OneBehind { copy, .. } => copy,
    };
    for which in [first, first.other()] {
        write_copy(storage, &header.luks, which, entropy)?;
        storage.flush()?;
    }
    Ok(header)
}

/// `luks` as the header that follows `old`: what could not be read again is refused here, before
/// anything is written.
pub(super) fn update(old: &LayerHeader, mut luks: Header) -> Result<LayerHeader, LayerError> {
    let next = old.seqid.checked_add(1);
    luks.seqid = next.ok_or(LayerError::HeaderMismatch { field: "seqid" })?;
    luks2::check_room(&luks).map_err(LayerError::HeaderTooLarge)?;
    interpret(Parsed { header: luks, condition: Condition::Sound })
}

fn write_copy(
    storage: &dyn Storage,
    header: &Header,
    which: Which,
    entropy: &dyn Entropy,
) -> Result<(), LayerError> {
    let copy = luks2::encode_copy(header, which, entropy).map_err(LayerError::HeaderTooLarge)?;
    let at = ByteOffset::new(which.position());
    Ok(storage.write_at(at, &copy, Durability::Volatile)?)
}

/// What a LUKS2 header says as a layer, every place checked against every other.
fn interpret(parsed: Parsed) -> Result<LayerHeader, LayerError> {
    let Parsed { header: luks, condition } = parsed;
    let metadata = &luks.metadata;
    let (spec, envelope) = token::decode(token::find(&metadata.tokens)?, &metadata.segment)?;
    spec.check()?;
    match (spec.cipher, &envelope) {
        (Cipher::Null, Some(_)) => return Err(LayerError::NullCipherRefused),
        (Cipher::Aes256XtsPlain64, None) => {
            return Err(LayerError::TokenField { field: "wrapped_key" });
        }
        _ => {}
    }
    let expected = spec.segment();
    let is_chained = metadata.requirements == [REQUIREMENT_CHAIN];
    let room = DATA_OFFSET.get() - HEADERS_BYTES as u64;
    let agreements = [
        ("UUID", luks.uuid == spec.layer_id),
        ("data offset", metadata.segment.offset == expected.offset),
        ("size", metadata.segment.size == expected.size),
        ("first tweak", metadata.segment.iv_tweak == expected.iv_tweak),
        ("digest", metadata.digest.is_some()),
        ("requirements", is_chained == spec.parent.is_some()),
        ("requirements", metadata.requirements.len() == usize::from(is_chained)),
        ("keyslots size", metadata.keyslots_size == room),
    ];
    if let Some((field, _)) = agreements.iter().find(|(_, agree)| !agree) {
        return Err(LayerError::HeaderMismatch { field });
    }
    let (seqid, keyslots) = (luks.seqid, metadata.keyslots.len());
    Ok(LayerHeader { spec, envelope, seqid, condition, keyslots, luks })
}

fn check_new_key(key: &Secret) -> Result<(), LayerError> {
    use crate::crypto::mac::constant_time_eq;
    if key.len() != DATA_KEY_BYTES {
        return Err(LayerError::WrongKey);
    }
    let (data_half, tweak_half) = key.expose().split_at(DATA_KEY_BYTES / 2);
    if constant_time_eq(data_half, tweak_half) {
        return Err(LayerError::EqualKeyHalves);
    }
    Ok(())
}
