//! Edits LUKS2 headers as an attacker with write access would: checksums come out right.

use std::os::unix::fs::FileExt;
use std::path::Path;

use sealdisk::crypto::mac::sha256;
use serde_json::Value;

/// Bytes of each copy: binary header and JSON area.
pub const COPY_BYTES: usize = 16 << 10;
const BINARY_BYTES: usize = 4096;
const CHECKSUM: std::ops::Range<usize> = 448..512;

/// The JSON of the primary copy.
pub fn json(path: &Path) -> Value {
    let mut copy = vec![0; COPY_BYTES];
    std::fs::File::open(path).unwrap().read_exact_at(&mut copy, 0).unwrap();
    json_in(&copy)
}

/// Changes the JSON of both copies and makes their checksums right again.
pub fn edit(path: &Path, change: impl Fn(&mut Value)) {
    edit_copies(path, |copy| {
        let mut json = json_in(copy);
        change(&mut json);
        let text = json.to_string();
        assert!(text.len() < COPY_BYTES - BINARY_BYTES);
        copy[BINARY_BYTES..].fill(0);
        copy[BINARY_BYTES..BINARY_BYTES + text.len()].copy_from_slice(text.as_bytes());
    });
}

/// Changes the bytes of both copies and makes their checksums right again.
pub fn edit_copies(path: &Path, change: impl Fn(&mut [u8])) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    for index in 0..2 {
        let at = (index * COPY_BYTES) as u64;
        let mut copy = vec![0; COPY_BYTES];
        file.read_exact_at(&mut copy, at).unwrap();
        change(&mut copy);
        copy[CHECKSUM].fill(0);
        let sum = sha256(&[&copy]);
        copy[CHECKSUM.start..CHECKSUM.start + sum.len()].copy_from_slice(&sum);
        file.write_all_at(&copy, at).unwrap();
    }
}

/// Our token.
pub fn token(json: &mut Value) -> &mut Value {
    let tokens = json["tokens"].as_object_mut().unwrap();
    tokens.values_mut().find(|token| token["type"] == "sealdisk").unwrap()
}

/// The JSON in the bytes of a copy.
pub fn json_in(copy: &[u8]) -> Value {
    let area = &copy[BINARY_BYTES..];
    let end = area.iter().position(|byte| *byte == 0).unwrap();
    serde_json::from_slice(&area[..end]).unwrap()
}
