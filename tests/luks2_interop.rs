//! Stock cryptsetup reads what we write, without root and without device-mapper: it dumps the
//! header, tells the right key from a wrong one, takes a passphrase for break-glass, and decrypts
//! the data to the bytes that were written. The last check is only worth something because a layer
//! with a wrong tweak fails it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod layer_file;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer_file::{FileBytes, envelope, has_tool, key, must, run, spec};
use sealdisk::clock::{Entropy, SeededEntropy};
use sealdisk::crypto::engine::Engine;
use sealdisk::crypto::xts::{Cipher, XtsCipher};
use sealdisk::layer::{
    DATA_OFFSET, Layer, LayerError, LayerSpec, Presence, Writable, format, read_header,
};
use sealdisk::storage::Durability;
use sealdisk::units::{DataUnit, DataUnitSize};
use uuid::Uuid;

const DISK_BYTES: usize = 4 << 20;

/// A layer with data in it, its key and the key's file, in a directory of its own.
struct Made {
    directory: tempfile::TempDir,
    plain: Vec<u8>,
}

impl Made {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn new(spec: &LayerSpec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut made = Self { directory, plain: vec![0; spec.data_len().as_usize()] };
        SeededEntropy::new(3).fill(&mut made.plain);
        fs::write(made.path("key"), key(1).expose()).unwrap();
        fs::write(made.path("wrong"), key(2).expose()).unwrap();
        fs::write(made.path("passphrase"), "break-glass").unwrap();
        let storage = FileBytes::create(&made.path("layer"));
        let (envelope, key) = (envelope(), key(1));
        format(&storage, spec, Some((&envelope, &key)), &SeededEntropy::new(4)).unwrap();
        made
    }

    /// Writes the data through the product.
    fn fill(self) -> Self {
        let layer = self.open();
        let unit = layer.unit_size();
        let step = 64 * 1024;
        for (index, part) in self.plain.chunks(step).enumerate() {
            let first = DataUnit::new((index * step) as u64 / unit.bytes());
            layer.write_units(first, &mut part.to_vec(), Durability::Volatile).unwrap();
        }
        layer.flush().unwrap();
        self
    }

    fn open(&self) -> Layer<Writable> {
        let storage = Arc::new(FileBytes::open(&self.path("layer")));
        let header = read_header(&*storage).unwrap();
        Layer::open(storage, header, Some(key(1))).unwrap()
    }

    fn test_key(&self, key: &str) -> Option<i32> {
        let (key, layer) = (self.text(key), self.text("layer"));
        let arguments = ["open", "--test-passphrase", "--volume-key-file", &key];
        let arguments = [&arguments[..], &["--key-size", "512", &layer]].concat();
        run("cryptsetup", &arguments).status.code()
    }

    fn add_passphrase(&self, name: &str) {
        let (key, passphrase, layer) = (self.text("key"), self.text("passphrase"), self.text(name));
        let arguments = ["luksAddKey", "-q", "--volume-key-file", &key, "--key-size", "512"];
        let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        must("cryptsetup", &[&arguments[..], &quick, &[&layer, &passphrase]].concat());
    }

    /// What cryptsetup makes of a copy of the layer.
    fn decrypted_by_cryptsetup(&self) -> Vec<u8> {
        let (copy, passphrase, head) =
            (self.text("copy"), self.text("passphrase"), self.text("head"));
        fs::copy(self.path("layer"), &copy).unwrap();
        self.add_passphrase("copy");
        must(
            "cryptsetup",
            &[
                "reencrypt",
                "--decrypt",
                "--force-offline-reencrypt",
                "-q",
                "--key-file",
                &passphrase,
                "--header",
                &head,
                &copy,
            ],
        );
        fs::read(copy).unwrap()
    }
}

const UNITS: [DataUnitSize; 2] = [DataUnitSize::B4096, DataUnitSize::B512];

#[test]
fn cryptsetup_reads_the_header_and_knows_the_key() {
    if !has_tool("cryptsetup") {
        return;
    }
    for unit in UNITS {
        let made = Made::new(&spec(DISK_BYTES as u64, unit));
        let dump = must("cryptsetup", &["luksDump", &made.text("layer")]);
        let id = made.open().header().spec.layer_id.to_string();
        for expected in ["sealdisk", "aes-xts-plain64", &id] {
            assert!(dump.contains(expected), "{expected} is not in:\n{dump}");
        }
        must("cryptsetup", &["isLuks", "--type", "luks2", &made.text("layer")]);
        let exported =
            must("cryptsetup", &["token", "export", "--token-id", "0", &made.text("layer")]);
        assert!(exported.contains("wrapped_key"), "{exported}");
        assert_eq!(made.test_key("key"), Some(0));
        assert_eq!(made.test_key("wrong"), Some(2));
    }
}

#[test]
fn cryptsetup_decrypts_what_we_wrote() {
    if !has_tool("cryptsetup") {
        return;
    }
    for unit in UNITS {
        let made = Made::new(&spec(DISK_BYTES as u64, unit)).fill();
        let found = made.decrypted_by_cryptsetup();
        assert!(found[..made.plain.len()] == made.plain[..], "unit {unit:?}");
    }
}

/// The same file with the tweak counted in 4096-byte units, as a naive reading of plain64 has it.
#[test]
fn cryptsetup_does_not_decrypt_a_wrong_tweak() {
    if !has_tool("cryptsetup") {
        return;
    }
    let made = Made::new(&spec(DISK_BYTES as u64, DataUnitSize::B4096));
    let cipher = XtsCipher::new(Engine::Portable, &key(1)).unwrap();
    let mut data = made.plain.clone();
    for (index, unit) in data.chunks_mut(4096).enumerate() {
        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&(index as u64).to_le_bytes());
        cipher.encrypt_raw(tweak, unit);
    }
    let file = fs::OpenOptions::new().write(true).open(made.path("layer")).unwrap();
    file.write_all_at(&data, DATA_OFFSET.get()).unwrap();
    let found = made.decrypted_by_cryptsetup();
    // Unit 0 has tweak 0 either way; from unit 1 on the readings differ.
    assert!(found[..4096] == made.plain[..4096]);
    for at in (4096..made.plain.len()).step_by(4096) {
        assert!(found[at..at + 4096] != made.plain[at..at + 4096], "byte {at}");
    }
}

#[test]
fn a_layer_with_a_passphrase_added_is_still_ours() {
    if !has_tool("cryptsetup") {
        return;
    }
    let made = Made::new(&spec(DISK_BYTES as u64, DataUnitSize::B4096)).fill();
    made.add_passphrase("layer");
    must("cryptsetup", &["config", "--label", "rescue", &made.text("layer")]);
    let layer = made.open();
    assert_eq!(layer.header().keyslots, 1);
    assert_eq!(layer.header().envelope, Some(envelope()));
    let (mut data, mut present) = (vec![0; 8192], Presence::new());
    layer.read_units(DataUnit::new(7), &mut data, &mut present).unwrap();
    assert!(data == made.plain[7 * 4096..9 * 4096]);
    // And what we write back keeps the passphrase.
    let storage = FileBytes::open(&made.path("layer"));
    let header = read_header(&storage).unwrap();
    let rewritten =
        sealdisk::layer::rewrite_envelope(&storage, &header, &envelope(), &SeededEntropy::new(8));
    assert_eq!(rewritten.unwrap().keyslots, 1);
    let (passphrase, layer) = (made.text("passphrase"), made.text("layer"));
    must("cryptsetup", &["open", "--test-passphrase", "--key-file", &passphrase, &layer]);
    let dump = must("cryptsetup", &["luksDump", &layer]);
    assert!(dump.contains("rescue"), "{dump}");
}

/// Data of a chained layer is not the disk alone: the requirement keeps stock tools off.
#[test]
fn cryptsetup_leaves_a_chained_layer_alone() {
    if !has_tool("cryptsetup") {
        return;
    }
    let chained = LayerSpec {
        parent: Some(Uuid::from_u128(9)),
        ..spec(DISK_BYTES as u64, DataUnitSize::B4096)
    };
    let made = Made::new(&chained);
    let before = fs::read(made.path("layer")).unwrap();
    assert_eq!(made.test_key("key"), Some(0));
    assert_eq!(made.test_key("wrong"), Some(2));
    let (key, passphrase, layer) = (made.text("key"), made.text("passphrase"), made.text("layer"));
    let arguments = ["luksAddKey", "-q", "--volume-key-file", &key, "--key-size", "512"];
    let refused = run("cryptsetup", &[&arguments[..], &[&layer, &passphrase]].concat());
    assert!(!refused.status.success());
    assert!(fs::read(made.path("layer")).unwrap() == before);
}

#[test]
fn cryptsetup_reads_the_header_of_a_layer_without_encryption() {
    if !has_tool("cryptsetup") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("layer");
    let null = LayerSpec { cipher: Cipher::Null, ..spec(1 << 20, DataUnitSize::B4096) };
    format(&FileBytes::create(&path), &null, None, &SeededEntropy::new(5)).unwrap();
    let dump = must("cryptsetup", &["luksDump", path.to_str().unwrap()]);
    assert!(dump.contains("cipher_null-ecb"), "{dump}");
}

#[test]
fn the_secondary_header_serves_both_when_the_primary_is_wiped() {
    if !has_tool("cryptsetup") {
        return;
    }
    let made = Made::new(&spec(DISK_BYTES as u64, DataUnitSize::B4096));
    let file = fs::OpenOptions::new().write(true).open(made.path("layer")).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(read_header(&FileBytes::open(&made.path("layer"))).unwrap().seqid, 1);
    assert_eq!(made.test_key("key"), Some(0));
}

#[test]
fn a_header_of_a_stock_tool_is_refused_by_name() {
    if !has_tool("cryptsetup") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (file, passphrase) = (directory.path().join("stock"), directory.path().join("passphrase"));
    fs::write(&passphrase, "passphrase").unwrap();
    let format_as = |kind: &str, iterations: &str| {
        fs::File::create(&file).unwrap().set_len(40 << 20).unwrap();
        let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", iterations];
        let arguments = ["luksFormat", "-q", "--type", kind, file.to_str().unwrap()];
        must("cryptsetup", &[&arguments[..], &quick, &[passphrase.to_str().unwrap()]].concat());
        read_header(&FileBytes::open(Path::new(&file))).err()
    };
    assert!(matches!(format_as("luks2", "1000"), Some(LayerError::NoToken)));
    let version = format_as("luks1", "1000");
    assert!(matches!(version, Some(LayerError::UnsupportedVersion { found: 1 })), "{version:?}");
}

/// A re-encryption that a stock tool began and did not end.
#[test]
fn a_layer_in_re_encryption_is_refused_by_name() {
    if !has_tool("cryptsetup") {
        return;
    }
    let made = Made::new(&spec(DISK_BYTES as u64, DataUnitSize::B4096));
    made.add_passphrase("layer");
    let (passphrase, layer) = (made.text("passphrase"), made.text("layer"));
    let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let arguments = ["reencrypt", "-q", "--init-only", "--force-offline-reencrypt"];
    let arguments = [&arguments[..], &quick, &["--key-file", &passphrase, &layer]].concat();
    must("cryptsetup", &arguments);
    let refused = read_header(&FileBytes::open(&made.path("layer"))).unwrap_err();
    assert!(
        matches!(&refused, LayerError::UnknownRequirement { name } if name.contains("reencrypt")),
        "{refused}"
    );
}
