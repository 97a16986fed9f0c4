//! LUKS2 headers of images from anywhere. The checksum is made right first: it keeps out
//! accidents, not attackers, and nothing behind it would ever be reached.
//!
//! Input: the first 512 bytes of a copy, where all fields are, then its JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealdisk::clock::SeededEntropy;
use sealdisk::crypto::mac::sha256;
use sealdisk::luks2::{BINARY_BYTES, COPY_BYTES, JSON_BYTES, Which, encode_copy, parse};

const FIELDS_BYTES: usize = 512;
const CHECKSUM_AT: usize = 448;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse(bytes, bytes);
    let Some((fields, json)) = bytes.split_at_checked(FIELDS_BYTES) else { return };
    let json = &json[..json.len().min(JSON_BYTES)];
    let mut copy = vec![0; COPY_BYTES];
    copy[..CHECKSUM_AT].copy_from_slice(&fields[..CHECKSUM_AT]);
    copy[BINARY_BYTES..BINARY_BYTES + json.len()].copy_from_slice(json);
    let sum = sha256(&[&copy]);
    copy[CHECKSUM_AT..CHECKSUM_AT + sum.len()].copy_from_slice(&sum);
    let Ok(parsed) = parse(&copy, &[]) else { return };

    // What was read can be written, unless it takes more room than before, and reads back.
    let entropy = SeededEntropy::new(1);
    let Ok(primary) = encode_copy(&parsed.header, Which::Primary, &entropy) else { return };
    let secondary = encode_copy(&parsed.header, Which::Secondary, &entropy).expect("as long");
    let again = parse(&primary, &secondary).expect("our own header");
    assert_eq!(again.header, parsed.header);
});
