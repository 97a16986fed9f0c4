//! A layer in an ordinary file, without an engine of the product: these tests look at the format.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use sealdisk::clock::{SeededEntropy, SystemEntropy, Timestamp, random_uuid};
use sealdisk::crypto::xts::{Cipher, DATA_KEY_BYTES};
use sealdisk::layer::{Envelope, LayerSpec};
use sealdisk::secret::Secret;
use sealdisk::storage::{Capabilities, Durability, Extent, Fencing, Storage, StorageError};
use sealdisk::units::{ByteCount, ByteOffset, DataUnitSize};

/// A file by `std::fs`.
#[derive(Debug)]
pub struct FileBytes(File);

impl FileBytes {
    pub fn create(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        Self(options.read(true).write(true).create_new(true).open(path).unwrap())
    }

    pub fn open(path: &Path) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(path).unwrap())
    }
}

impl Storage for FileBytes {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            punch_is_fast: false,
            ack_is_durable: false,
            writes_wait: false,
            fencing: Fencing::None,
        }
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        Ok(ByteCount::new(self.0.metadata()?.len()))
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        Ok(self.0.read_exact_at(into, at.get())?)
    }

    fn read_cached_at(&self, _: ByteOffset, _: &mut [u8]) -> Result<bool, StorageError> {
        Ok(false)
    }

    fn write_at(&self, at: ByteOffset, from: &[u8], _: Durability) -> Result<(), StorageError> {
        Ok(self.0.write_all_at(from, at.get())?)
    }

    fn flush(&self) -> Result<(), StorageError> {
        Ok(self.0.sync_data()?)
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        let zeros = vec![0; range.end.since(range.start).as_usize()];
        Ok(self.0.write_all_at(&zeros, range.start.get())?)
    }

    fn extents(&self, range: Range<ByteOffset>, _: usize) -> Result<Vec<Extent>, StorageError> {
        let len = range.end.since(range.start);
        Ok(vec![Extent { start: range.start, len, is_data: true }])
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        Ok(self.0.set_len(len.get())?)
    }
}

/// A layer of `bytes` with a random id: cryptsetup locks a re-encryption by UUID.
pub fn spec(bytes: u64, unit: DataUnitSize) -> LayerSpec {
    LayerSpec {
        layer_id: random_uuid(&SystemEntropy),
        disk_id: "d-bp1abcdefghijklmnop".to_owned(),
        parent: None,
        size: ByteCount::new(bytes),
        unit,
        cipher: Cipher::Aes256XtsPlain64,
        created: Timestamp::parse("2026-01-05T03:04:05Z").unwrap(),
    }
}

/// Stands for what KMS would give.
pub fn envelope() -> Envelope {
    Envelope {
        key_id: "08ec3bb9-034f-485b-b1cd-3459baa889c7".to_owned(),
        key_version: "2ab1a983-7072-4bbc-a582-584b5bd8b1d8".to_owned(),
        wrapped: (0..150).collect(),
    }
}

pub fn key(seed: u64) -> Secret {
    Secret::random(DATA_KEY_BYTES, &SeededEntropy::new(seed))
}

/// Whether `tool` is there. Where the environment says that tools are required, it must be.
pub fn has_tool(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        let is_required =
            std::env::var_os("SEALDISK_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(
            !is_required,
            "{tool} is required by SEALDISK_REQUIRE_TOOLS=1 and is not installed"
        );
        eprintln!("SKIPPED: {tool} is not installed; set SEALDISK_REQUIRE_TOOLS=1 to fail instead");
    }
    found
}

pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

/// Runs a tool that must succeed.
pub fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}
