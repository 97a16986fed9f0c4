//! Headers changed by accident and by attackers: refused by name, or seen where the data key is
//! unwrapped. An attacker recomputes checksums; so a change to what a layer *is* must change the
//! encryption context, without which its data key cannot be had, and every other change must be
//! refused here or be of no consequence.

#![allow(clippy::unwrap_used, reason = "a test")]

mod layer_file;

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use layer_file::{FileBytes, envelope, key, spec};
use sealdisk::clock::SeededEntropy;
use sealdisk::crypto::mac::sha256;
use sealdisk::crypto::xts::Cipher;
use sealdisk::layer::{Layer, LayerError, LayerHeader, LayerSpec, Writable, format, read_header};
use sealdisk::luks2::{
    BINARY_BYTES, COPY_BYTES, Condition, CopyError, HEADERS_BYTES, MetadataError, Which,
};
use sealdisk::units::DataUnitSize;
use serde_json::{Value, json};
use uuid::Uuid;

const DISK_BYTES: u64 = 64 << 10;
const CHECKSUM: usize = 448;
const SEQID: usize = 16;

/// A layer file of which tests change copies.
struct Scene {
    directory: tempfile::TempDir,
    good: Vec<u8>,
}

impl Scene {
    fn new() -> Self {
        Self::of(&spec(DISK_BYTES, DataUnitSize::B4096))
    }

    fn of(spec: &LayerSpec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("good");
        let (envelope, key) = (envelope(), key(1));
        let sealed = (spec.cipher != Cipher::Null).then_some((&envelope, &key));
        format(&FileBytes::create(&path), spec, sealed, &SeededEntropy::new(2)).unwrap();
        Self { good: std::fs::read(path).unwrap(), directory }
    }

    fn store(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("changed");
        // Only headers are looked at here; the rest is a hole of the right length.
        let file = std::fs::File::create(&path).unwrap();
        file.write_all_at(&bytes[..bytes.len().min(HEADERS_BYTES)], 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        path
    }

    fn read(&self, bytes: &[u8]) -> Result<LayerHeader, LayerError> {
        read_header(&FileBytes::open(&self.store(bytes)))
    }

    /// Reads the header and opens the layer with key number `seed`.
    fn open(&self, bytes: &[u8], seed: u64) -> Result<LayerHeader, LayerError> {
        let storage = Arc::new(FileBytes::open(&self.store(bytes)));
        let header = read_header(&*storage)?;
        Layer::<Writable>::open(storage, header.clone(), Some(key(seed)))?;
        Ok(header)
    }

    fn good_header(&self) -> LayerHeader {
        self.read(&self.good).unwrap()
    }

    fn json(&self) -> Value {
        let area = &self.good[BINARY_BYTES..COPY_BYTES];
        let end = area.iter().position(|byte| *byte == 0).unwrap();
        serde_json::from_slice(&area[..end]).unwrap()
    }

    /// The file with other metadata in both copies, checksums right.
    fn with_json(&self, json: &Value) -> Vec<u8> {
        self.with_text(json.to_string().as_bytes())
    }

    fn with_text(&self, text: &[u8]) -> Vec<u8> {
        let mut bytes = self.good.clone();
        for copy in bytes[..HEADERS_BYTES].chunks_mut(COPY_BYTES) {
            let area = &mut copy[BINARY_BYTES..];
            area.fill(0);
            area[..text.len()].copy_from_slice(text);
            sum(copy);
        }
        bytes
    }

    /// The metadata with the value at `pointer` replaced, or added, or (`None`) removed.
    fn with_value(&self, pointer: &str, value: Option<Value>) -> Vec<u8> {
        let mut json = self.json();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => drop(parent.insert(field.to_owned(), value)),
            None => drop(parent.remove(field).unwrap()),
        }
        self.with_json(&json)
    }

    /// The file with `value` at `at` of both copies' binary part, checksums right.
    fn with_binary(&self, at: usize, value: &[u8]) -> Vec<u8> {
        let mut bytes = self.good.clone();
        for copy in bytes[..HEADERS_BYTES].chunks_mut(COPY_BYTES) {
            copy[at..at + value.len()].copy_from_slice(value);
            sum(copy);
        }
        bytes
    }
}

fn sum(copy: &mut [u8]) {
    copy[CHECKSUM..CHECKSUM + 64].fill(0);
    let sum = sha256(&[copy]);
    copy[CHECKSUM..CHECKSUM + 32].copy_from_slice(&sum);
}

#[test]
fn the_untouched_layer_opens() {
    let scene = Scene::new();
    assert_eq!(scene.open(&scene.good, 1).unwrap().condition, Condition::Sound);
}

#[test]
fn every_changed_byte_of_one_copy_is_named_and_survived() {
    let scene = Scene::new();
    let good = scene.good_header();
    let storage = FileBytes::open(&scene.store(&scene.good));
    for at in 0..HEADERS_BYTES {
        put_byte(&storage, at, scene.good[at] ^ 0x20);
        let found = read_header(&storage).unwrap();
        assert_eq!((&found.spec, &found.envelope), (&good.spec, &good.envelope), "byte {at}");
        let changed = if at < COPY_BYTES { Which::Primary } else { Which::Secondary };
        let is_named = matches!(found.condition, Condition::OneBad { copy, .. } if copy == changed);
        assert!(is_named, "byte {at}: {:?}", found.condition);
        put_byte(&storage, at, scene.good[at]);
    }
}

#[test]
fn every_byte_changed_in_both_copies_is_refused() {
    let scene = Scene::new();
    let storage = FileBytes::open(&scene.store(&scene.good));
    for at in 0..COPY_BYTES {
        let other = at + COPY_BYTES;
        put_byte(&storage, at, scene.good[at] ^ 0x01);
        put_byte(&storage, other, scene.good[other] ^ 0x01);
        let refused = read_header(&storage).unwrap_err();
        let is_named = match at {
            0..6 => matches!(refused, LayerError::NotALayer),
            6..8 => matches!(refused, LayerError::UnsupportedVersion { .. }),
            8..16 | 72..104 => matches!(refused, LayerError::NoGoodCopy { .. }),
            // Beyond the 32 bytes of SHA-256 its field is zeros.
            480..512 => matches!(refused, LayerError::NoGoodCopy { .. }),
            _ => matches!(refused, LayerError::ChecksumMismatch),
        };
        assert!(is_named, "byte {at}: {refused}");
        put_byte(&storage, at, scene.good[at]);
        put_byte(&storage, other, scene.good[other]);
    }
}

fn put_byte(storage: &FileBytes, at: usize, byte: u8) {
    use sealdisk::storage::{Durability, Storage};
    use sealdisk::units::ByteOffset;
    storage.write_at(ByteOffset::new(at as u64), &[byte], Durability::Volatile).unwrap();
}

/// With checksums recomputed over a byte changed in both copies: refused, or the same layer, or a
/// layer whose key cannot be unwrapped.
#[test]
fn no_byte_changed_by_an_attacker_goes_unseen() {
    let scene = Scene::new();
    let good = scene.good_header();
    let text_end = BINARY_BYTES + scene.json().to_string().len();
    let (mut refusals, mut other_contexts, mut harmless) = (0, 0, Vec::new());
    for at in (0..512).chain(BINARY_BYTES..text_end + 16) {
        for flip in [0x01, 0x20] {
            let changed = [scene.good[at] ^ flip];
            let bytes = scene.with_binary(at, &changed);
            match scene.open(&bytes, 1) {
                Err(_) => refusals += 1,
                Ok(found) if found.spec != good.spec => {
                    assert_ne!(
                        found.spec.encryption_context(),
                        good.spec.encryption_context(),
                        "byte {at}"
                    );
                    other_contexts += 1;
                }
                // The blob is authenticated by KMS, and the names beside it by its answer.
                Ok(found) if found.envelope != good.envelope => {
                    let good = good.envelope.as_ref().unwrap();
                    let has_other_names =
                        found.check_unwrapped_by(&good.key_id, &good.key_version).is_err();
                    let has_other_blob = found.envelope.unwrap().wrapped != good.wrapped;
                    assert!(has_other_names || has_other_blob, "byte {at}");
                    other_contexts += 1;
                }
                Ok(_) => harmless.push(at),
            }
        }
    }
    println!("{refusals} refused, {other_contexts} unwrap no more, {} harmless", harmless.len());
    // Sequence number, labels, salt and the checksum itself (which was recomputed) say nothing of
    // the data; neither do the number of a token and white space behind the JSON text.
    let text = scene.json().to_string();
    let token_number = BINARY_BYTES + text.find("\"tokens\":{\"0\"").unwrap() + 11;
    let means_nothing = |at: &usize| {
        let fields = [SEQID..24, 24..72, 104..168, 208..256, CHECKSUM..CHECKSUM + 64];
        fields.iter().any(|field| field.contains(at)) || [token_number, text_end].contains(at)
    };
    let beyond: Vec<_> = harmless.iter().filter(|at| !means_nothing(at)).collect();
    assert!(beyond.is_empty(), "{beyond:?}: {text}");
}

#[test]
fn binary_fields_are_refused_by_name() {
    let scene = Scene::new();
    let both_are = |at: usize, value: &[u8], why: CopyError| {
        let refused = scene.read(&scene.with_binary(at, value));
        let is_named = matches!(&refused, Err(LayerError::NoGoodCopy { primary, secondary })
            if *primary == why && *secondary == why);
        assert!(is_named, "{at}: {refused:?}");
    };
    both_are(8, &[0, 0, 0, 0, 0, 0, 0x80, 0], CopyError::Size { found: 0x8000 });
    both_are(72, b"sha512", CopyError::ChecksumAlgorithm);
    both_are(168, b"not-a-uuid", CopyError::Uuid);
    both_are(264, b"x", CopyError::StrayBytes);
    both_are(4000, b"x", CopyError::StrayBytes);
    both_are(256, &[9; 8], CopyError::Position { found: 0x0909_0909_0909_0909 });
    let version = scene.read(&scene.with_binary(6, &[0, 3]));
    assert!(matches!(version, Err(LayerError::UnsupportedVersion { found: 3 })));
    let other = scene.read(&scene.with_binary(168, b"00000000-0000-0000-0000-000000000001"));
    assert!(matches!(other, Err(LayerError::HeaderMismatch { field: "UUID" })));
}

/// What the layer alone cannot see, because the layer says it itself: the context shows it.
#[test]
fn what_a_layer_is_cannot_change_without_its_context() {
    let scene = Scene::new();
    let good = scene.good_header().spec.encryption_context();
    let changes = [
        ("/tokens/0/disk_id", json!("d-bp1other"), "sealdisk:disk"),
        ("/tokens/0/created", json!("2026-01-05T03:04:06Z"), "sealdisk:created"),
        ("/tokens/0/size", json!((DISK_BYTES - 512).to_string()), "sealdisk:size"),
        ("/segments/0/sector_size", json!(512), "sealdisk:unit"),
    ];
    for (pointer, value, expected) in changes {
        let found = scene.read(&scene.with_value(pointer, Some(value))).unwrap();
        let context = found.spec.encryption_context();
        let different: Vec<_> =
            good.iter().filter(|(name, value)| context.get(*name) != Some(value)).collect();
        assert_eq!(different.len(), 1, "{pointer}");
        assert_eq!(different[0].0, expected);
    }
}

/// The same, where two places of the header have to be edited together.
#[test]
fn consistent_forgeries_change_the_context() {
    let scene = Scene::new();
    let good = scene.good_header().spec.encryption_context();
    let id = Uuid::from_u128(77).to_string();
    let mut json = scene.json();
    json["tokens"]["0"]["layer_id"] = json!(id);
    let mut swapped = scene.with_json(&json);
    for copy in swapped[..HEADERS_BYTES].chunks_mut(COPY_BYTES) {
        copy[168..168 + id.len()].copy_from_slice(id.as_bytes());
        sum(copy);
    }
    let mut json = scene.json();
    json["tokens"]["0"]["parent"] = json!(id);
    json["config"]["requirements"] = json!({"mandatory": ["sealdisk-chain"]});
    let adopted = scene.with_json(&json);
    let mut json = scene.json();
    json["tokens"]["0"]["size"] = json!("4096");
    json["segments"]["0"]["size"] = json!("4096");
    let shrunk = scene.with_json(&json);
    for (bytes, field) in [(swapped, "layer"), (adopted, "parent"), (shrunk, "size")] {
        let context = scene.read(&bytes).unwrap().spec.encryption_context();
        let field = format!("sealdisk:{field}");
        assert_ne!(context[&field], good[&field]);
    }
}

#[test]
fn every_field_of_a_layer_is_in_its_context() {
    let good = spec(DISK_BYTES, DataUnitSize::B4096);
    let others = [
        LayerSpec { layer_id: Uuid::from_u128(1), ..good.clone() },
        LayerSpec { disk_id: "d-other".to_owned(), ..good.clone() },
        LayerSpec { parent: Some(Uuid::from_u128(1)), ..good.clone() },
        LayerSpec { size: sealdisk::units::ByteCount::new(512), ..good.clone() },
        LayerSpec { unit: DataUnitSize::B512, ..good.clone() },
        LayerSpec { cipher: Cipher::Null, ..good.clone() },
        LayerSpec { created: good.created.plus(std::time::Duration::from_secs(1)), ..good.clone() },
    ];
    for other in others {
        assert_ne!(other.encryption_context(), good.encryption_context(), "{other:?}");
    }
    let context = good.encryption_context();
    for (name, value) in [
        ("format", "1"),
        ("cipher", "aes-xts-plain64"),
        ("key-bits", "512"),
        ("unit", "4096"),
        ("data-offset", "1048576"),
        ("size", "65536"),
        ("parent", "none"),
    ] {
        assert_eq!(context[&format!("sealdisk:{name}")], value);
    }
}

type Expected = fn(&LayerError) -> bool;

#[test]
fn json_fields_are_refused_by_name() {
    let scene = Scene::new();
    let token: Expected = |error| matches!(error, LayerError::TokenField { .. });
    let mismatch: Expected = |error| matches!(error, LayerError::HeaderMismatch { .. });
    let metadata: Expected = |error| matches!(error, LayerError::Metadata(_));
    let cipher: Expected = |error| matches!(error, LayerError::UnknownCipher { .. });
    let null: Expected = |error| matches!(error, LayerError::NullCipherRefused);
    let spec: Expected = |error| matches!(error, LayerError::InvalidSpec { .. });
    let format: Expected = |error| matches!(error, LayerError::UnsupportedFormat { found: 2 });
    let no_token: Expected = |error| matches!(error, LayerError::NoToken);
    let requirement: Expected = |error| matches!(error, LayerError::UnknownRequirement { .. });
    let cases: Vec<(&str, Option<Value>, Expected)> = vec![
        ("/tokens/0", None, no_token),
        ("/tokens/0/type", Some(json!("sealdisk2")), no_token),
        ("/tokens/0/type", Some(json!(1)), metadata),
        ("/tokens/0/type", None, metadata),
        ("/tokens/00", Some(json!({"type": "x"})), metadata),
        ("/tokens/32", Some(json!({"type": "x"})), metadata),
        ("/tokens/1", Some(json!([])), metadata),
        ("/tokens/0/format", Some(json!(2)), format),
        ("/tokens/0/format", Some(json!("1")), token),
        ("/tokens/0/format", None, token),
        ("/tokens/0/keyslots", Some(json!(["0"])), token),
        ("/tokens/0/keyslots", None, token),
        ("/tokens/0/surprise", Some(json!(1)), token),
        ("/tokens/0/layer_id", Some(json!(Uuid::from_u128(3).to_string())), mismatch),
        ("/tokens/0/layer_id", Some(json!("{}")), token),
        ("/tokens/0/layer_id", None, token),
        ("/tokens/0/disk_id", Some(json!("../d")), spec),
        ("/tokens/0/disk_id", Some(json!("")), spec),
        ("/tokens/0/disk_id", Some(json!(null)), token),
        ("/tokens/0/disk_id", None, token),
        ("/tokens/0/parent", Some(json!(Uuid::from_u128(3).to_string())), mismatch),
        ("/tokens/0/parent", Some(json!("none")), token),
        ("/tokens/0/parent", None, token),
        ("/tokens/0/size", Some(json!("131072")), mismatch),
        ("/tokens/0/size", Some(json!("0")), spec),
        ("/tokens/0/size", Some(json!("65535")), spec),
        ("/tokens/0/size", Some(json!("18446744073709551104")), spec),
        ("/tokens/0/size", Some(json!(65536)), token),
        ("/tokens/0/size", Some(json!("065536")), token),
        ("/tokens/0/size", None, token),
        ("/tokens/0/created", Some(json!("yesterday")), token),
        ("/tokens/0/created", None, token),
        ("/tokens/0/kms_key_id", None, token),
        ("/tokens/0/kms_key_id", Some(json!("")), token),
        ("/tokens/0/kms_key_id", Some(json!("x".repeat(600))), token),
        ("/tokens/0/kms_key_version", None, token),
        ("/tokens/0/wrapped_key", None, token),
        ("/tokens/0/wrapped_key", Some(json!("")), token),
        ("/tokens/0/wrapped_key", Some(json!("@@@@")), token),
        ("/segments/0/encryption", Some(json!("aes-xts-plain")), cipher),
        ("/segments/0/encryption", Some(json!("aes-cbc-essiv:sha256")), cipher),
        ("/segments/0/encryption", Some(json!("")), cipher),
        ("/segments/0/encryption", Some(json!("cipher_null-ecb")), null),
        ("/segments/0/encryption", Some(json!("cipher_null-xts-plain64")), cipher),
        ("/segments/0/encryption", None, metadata),
        ("/segments/0/offset", Some(json!("1052672")), mismatch),
        ("/segments/0/offset", Some(json!("0")), mismatch),
        ("/segments/0/offset", Some(json!(1_048_576)), metadata),
        ("/segments/0/offset", Some(json!("-1")), metadata),
        ("/segments/0/offset", None, metadata),
        ("/segments/0/size", Some(json!("dynamic")), mismatch),
        ("/segments/0/size", Some(json!("4096")), mismatch),
        ("/segments/0/size", Some(json!("large")), metadata),
        ("/segments/0/size", None, metadata),
        ("/segments/0/iv_tweak", Some(json!("8")), mismatch),
        ("/segments/0/iv_tweak", None, metadata),
        ("/segments/0/sector_size", Some(json!(1024)), mismatch),
        ("/segments/0/sector_size", Some(json!("4096")), metadata),
        ("/segments/0/sector_size", None, metadata),
        ("/segments/0/type", Some(json!("linear")), metadata),
        ("/segments/0/type", None, metadata),
        ("/segments/0/integrity", Some(json!({"type": "none"})), metadata),
        ("/segments/0/flags", Some(json!(["backup-final"])), metadata),
        ("/segments/1", Some(json!({})), metadata),
        ("/segments/0", None, metadata),
        ("/segments", None, metadata),
        ("/segments", Some(json!([])), metadata),
        ("/digests/0", None, mismatch),
        ("/digests/1", Some(json!({})), metadata),
        ("/digests/0/type", Some(json!("argon2id")), metadata),
        ("/digests/0/hash", Some(json!("sha1")), metadata),
        ("/digests/0/segments", Some(json!([])), metadata),
        ("/digests/0/salt", Some(json!("AAAA")), metadata),
        ("/digests/0/digest", Some(json!("")), metadata),
        ("/digests/0/keyslots", Some(json!("0")), metadata),
        ("/digests/0/more", Some(json!(0)), metadata),
        ("/digests/0/iterations", Some(json!(-1)), metadata),
        ("/digests", None, metadata),
        ("/config/json_size", Some(json!("28672")), metadata),
        ("/config/keyslots_size", Some(json!("0")), mismatch),
        ("/config/keyslots_size", None, metadata),
        ("/config/flags", Some(json!("allow-discards")), metadata),
        ("/config/surprise", Some(json!(0)), metadata),
        ("/config/requirements", Some(json!(["online-reencrypt"])), metadata),
        ("/config/requirements", Some(json!({"optional": []})), metadata),
        ("/config/requirements", Some(json!({"mandatory": ["online-reencrypt-v2"]})), requirement),
        ("/config/requirements", Some(json!({"mandatory": ["sealdisk-chain"]})), mismatch),
        ("/config", None, metadata),
        ("/keyslots", None, metadata),
        ("/keyslots/0", Some(json!({"type": 1})), metadata),
        ("/tokens", None, metadata),
        ("/surprise", Some(json!({})), metadata),
    ];
    let count = cases.len();
    for (pointer, value, is_expected) in cases {
        let refused = scene.read(&scene.with_value(pointer, value.clone()));
        let error = refused.err().unwrap_or_else(|| panic!("{pointer} = {value:?} was accepted"));
        assert!(is_expected(&error), "{pointer} = {value:?}: {error}");
    }
    println!("{count} forged fields refused");
}

#[test]
fn what_stock_tools_may_add_is_tolerated() {
    let scene = Scene::new();
    let good = scene.good_header();
    let additions = [
        ("/tokens/5", json!({"type": "systemd-tpm2", "keyslots": ["0"]})),
        ("/keyslots/0", json!({"type": "luks2", "key_size": 64})),
        ("/config/flags", json!(["allow-discards"])),
        ("/config/requirements", json!({})),
        ("/config/requirements", json!({"mandatory": []})),
        ("/digests/0/keyslots", json!(["0"])),
    ];
    for (pointer, value) in additions {
        let found = scene.open(&scene.with_value(pointer, Some(value)), 1).unwrap();
        assert_eq!((found.spec, found.envelope), (good.spec.clone(), good.envelope.clone()));
    }
    scene.open(&scene.with_binary(24, b"a label"), 1).unwrap();
}

#[test]
fn a_second_token_of_ours_is_refused() {
    let scene = Scene::new();
    let token = scene.json()["tokens"]["0"].clone();
    let refused = scene.read(&scene.with_value("/tokens/1", Some(token)));
    assert!(matches!(refused, Err(LayerError::TokenCount { found: 2 })));
}

#[test]
fn ambiguous_or_broken_json_is_refused() {
    let scene = Scene::new();
    let good = scene.json().to_string();
    let twice = good.replacen("\"iv_tweak\":\"0\"", "\"iv_tweak\":\"0\",\"iv_tweak\":\"0\"", 1);
    assert_ne!(twice, good);
    let deep = format!("{}{}", "[".repeat(6000), "]".repeat(6000));
    for text in [&twice, "", "[]", "null", &good[1..], &good[..good.len() - 1], &deep] {
        let refused = scene.read(&scene.with_text(text.as_bytes()));
        assert!(matches!(refused, Err(LayerError::Metadata(MetadataError::Json(_)))), "{text:.40}");
    }
    let tail = [good.as_bytes(), b"\0x"].concat();
    let refused = scene.read(&scene.with_text(&tail));
    assert!(matches!(refused, Err(LayerError::Metadata(MetadataError::StrayBytes))));
    let full = vec![b' '; COPY_BYTES - BINARY_BYTES];
    let refused = scene.read(&scene.with_text(&full));
    assert!(matches!(refused, Err(LayerError::Metadata(MetadataError::StrayBytes))));
}

#[test]
fn a_wrong_key_is_refused() {
    let scene = Scene::new();
    assert!(matches!(scene.open(&scene.good, 2), Err(LayerError::WrongKey)));
    let storage = Arc::new(FileBytes::open(&scene.store(&scene.good)));
    let open = |key| Layer::<Writable>::open(storage.clone(), scene.good_header(), key).err();
    assert!(matches!(open(None), Some(LayerError::MissingKey)));
    let short = sealdisk::secret::Secret::zeroed(32);
    assert!(matches!(open(Some(short)), Some(LayerError::WrongKey)));
    let changed_salt = scene.json()["digests"]["0"]["digest"].clone();
    let bytes = scene.with_value("/digests/0/salt", Some(changed_salt));
    assert!(matches!(scene.open(&bytes, 1), Err(LayerError::WrongKey)));
    for iterations in [0_u32, 1, 999, 1_000_001, u32::MAX] {
        let bytes = scene.with_value("/digests/0/iterations", Some(json!(iterations)));
        let refused = scene.open(&bytes, 1);
        assert!(
            matches!(refused, Err(LayerError::HeaderMismatch { field: "digest iterations" })),
            "{iterations}"
        );
    }
    let bytes = scene.with_value("/digests/0/iterations", Some(json!(1001)));
    assert!(matches!(scene.open(&bytes, 1), Err(LayerError::WrongKey)));
}

/// An encrypted layer dressed up as a plain one, so that a reader takes the attacker's plaintext.
#[test]
fn the_null_cipher_cannot_be_slipped_in() {
    let scene = Scene::new();
    let mut json = scene.json();
    json["segments"]["0"]["encryption"] = json!("cipher_null-ecb");
    let refused = scene.read(&scene.with_json(&json));
    assert!(matches!(refused, Err(LayerError::NullCipherRefused)));
    // With the envelope gone too, the header is that of a plain layer, but for its digest. Its
    // context is another one, and whoever has a key for it is refused.
    let token = json["tokens"]["0"].as_object_mut().unwrap();
    for field in ["kms_key_id", "kms_key_version", "wrapped_key"] {
        token.remove(field);
    }
    let bytes = scene.with_json(&json);
    let storage = Arc::new(FileBytes::open(&scene.store(&bytes)));
    let header = read_header(&*storage).unwrap();
    assert_eq!((header.spec.cipher, &header.envelope), (Cipher::Null, &None));
    assert_eq!(header.spec.encryption_context()["sealdisk:cipher"], "cipher_null-ecb");
    for key in [None, Some(key(1))] {
        let refused = Layer::<Writable>::open(storage.clone(), header.clone(), key).err();
        assert!(matches!(refused, Some(LayerError::NullCipherRefused)));
    }
}

#[test]
fn a_plain_layer_cannot_be_given_a_parent() {
    let plain = LayerSpec { cipher: Cipher::Null, ..spec(DISK_BYTES, DataUnitSize::B4096) };
    let scene = Scene::of(&plain);
    assert_eq!(scene.good_header().envelope, None);
    let mut json = scene.json();
    json["tokens"]["0"]["parent"] = json!(Uuid::from_u128(4).to_string());
    json["config"]["requirements"] = json!({"mandatory": ["sealdisk-chain"]});
    let refused = scene.read(&scene.with_json(&json));
    assert!(matches!(refused, Err(LayerError::NullCipherRefused)));
}

#[test]
fn swapped_headers_do_not_pass() {
    let (one, two) = (Scene::new(), Scene::new());
    // Whole headers of another layer: sound in themselves, another context and another key.
    let mut swapped = one.good.clone();
    swapped[..HEADERS_BYTES].copy_from_slice(&two.good[..HEADERS_BYTES]);
    let found = one.read(&swapped).unwrap();
    assert_ne!(found.spec.encryption_context(), one.good_header().spec.encryption_context());
    // One copy of another layer beside one of ours.
    let mut mixed = one.good.clone();
    mixed[COPY_BYTES..HEADERS_BYTES].copy_from_slice(&two.good[COPY_BYTES..HEADERS_BYTES]);
    assert!(matches!(one.read(&mixed), Err(LayerError::CopiesDisagree)));
    // Our copies in each other's place.
    let mut turned = one.good.clone();
    turned[..HEADERS_BYTES].rotate_left(COPY_BYTES);
    assert!(matches!(one.read(&turned), Err(LayerError::NotALayer)));
    // A secondary made of the primary: right magic, right place, the primary's salt.
    let mut cloned = one.good.clone();
    let (primary, secondary) = cloned[..HEADERS_BYTES].split_at_mut(COPY_BYTES);
    secondary[104..168].copy_from_slice(&primary[104..168]);
    sum(secondary);
    assert!(matches!(one.read(&cloned), Err(LayerError::CopiesDisagree)));
}

#[test]
fn a_copy_with_a_higher_number_counts_and_is_judged() {
    let scene = Scene::new();
    let mut bytes = scene.good.clone();
    let secondary = &mut bytes[COPY_BYTES..HEADERS_BYTES];
    secondary[SEQID + 7] = 9;
    sum(secondary);
    let found = scene.open(&bytes, 1).unwrap();
    assert_eq!(found.seqid, 9);
    assert_eq!(found.condition, Condition::OneBehind { copy: Which::Primary, seqid: 1 });
    // Whole but unacceptable: no falling back to the older copy.
    let secondary = &mut bytes[COPY_BYTES..HEADERS_BYTES];
    secondary[BINARY_BYTES] = b'[';
    sum(secondary);
    assert!(matches!(scene.read(&bytes), Err(LayerError::Metadata(_))));
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let scene = Scene::new();
    let whole = scene.good.len();
    let lengths = (0..=HEADERS_BYTES)
        .step_by(509)
        .chain([1, 511, 4095, 4096, COPY_BYTES, HEADERS_BYTES - 1, HEADERS_BYTES])
        .chain((HEADERS_BYTES..whole).step_by(4093))
        .chain([(1 << 20) - 1, 1 << 20, (1 << 20) + 1, whole - 4096, whole - 512, whole - 1]);
    for len in lengths {
        let cut = &scene.good[..len];
        let refused = scene.open(cut, 1);
        assert!(
            matches!(refused, Err(LayerError::Truncated { have, need })
                if have.get() == len as u64 && need > have),
            "{len}: {refused:?}"
        );
    }
    // Longer is fine: an engine may round up.
    scene.open(&[&scene.good[..], &[0; 4096]].concat(), 1).unwrap();
}

#[test]
fn other_files_are_no_layers() {
    let scene = Scene::new();
    for bytes in [vec![0; 1 << 20], vec![0xff; 1 << 20], b"#!/bin/sh\n".repeat(5000)] {
        assert!(matches!(scene.read(&bytes), Err(LayerError::NotALayer)));
    }
}
