//! After a key is dropped no copy of it is left in readable memory: not on the stack of the calls
//! that used it, not on the heap. The whole process is searched; a planted copy proves that the
//! search would find one.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(target_os = "linux")]

use std::fs::File;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;

use sealdisk::crypto::aead::{open, seal};
use sealdisk::crypto::engine::Engine;
use sealdisk::crypto::kdf::{hkdf_sha256, pbkdf2_sha256};
use sealdisk::crypto::mac::hmac_sha256;
use sealdisk::crypto::xts::XtsCipher;
use sealdisk::secret::Secret;
use sealdisk::units::{DataUnit, DataUnitSize};

/// Bytes that count as a copy: one AES block of the key, which is a quarter of a schedule's head.
const NEEDLE_BYTES: usize = 16;

/// The key, as a formula: a stored needle would find itself.
fn key_byte(index: usize) -> u8 {
    ((index * index * 31 + index * 113 + 91) % 251) as u8 ^ 0x5c
}

fn key(len: usize) -> Secret {
    Secret::from_fn(len, |bytes| {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = key_byte(index);
        }
    })
}

/// How many times a 16-byte block of the key lies in memory that this process can read.
fn copies() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
    let mut found = 0;
    for line in maps.lines().filter(|line| line.split(' ').nth(1).unwrap().starts_with("rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let mut at = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        while at < end {
            let len = (end - at).min(buffer.len() as u64);
            let Ok(read) = memory.read_at(&mut buffer[..len as usize], at) else { break };
            for (index, window) in buffer[..read].windows(NEEDLE_BYTES).enumerate() {
                found += usize::from(!own.contains(&(at + index as u64)) && is_block(window));
            }
            if (read as u64) < len || len < buffer.len() as u64 {
                break;
            }
            at += len - NEEDLE_BYTES as u64 + 1;
        }
    }
    buffer.fill(0);
    black_box(&buffer);
    found
}

fn is_block(window: &[u8]) -> bool {
    (0..64).step_by(NEEDLE_BYTES).any(|block| {
        window.iter().enumerate().all(|(index, byte)| *byte == key_byte(block + index))
    })
}

fn encrypt_data(engine: Engine) {
    let cipher = XtsCipher::new(engine, &key(64)).unwrap();
    let mut data = vec![1; 8192];
    cipher.encrypt_in_place(DataUnitSize::B4096, DataUnit::new(5), &mut data);
    cipher.decrypt_in_place(DataUnitSize::B4096, DataUnit::new(5), &mut data);
}

fn wrap_and_unwrap() {
    let sealed = seal(&key(32), [2; 12], b"context", key(64).expose());
    drop(open(&key(32), [2; 12], b"context", &sealed).unwrap());
}

fn derive() {
    black_box(hmac_sha256(&key(32), &[b"a", b"b"]));
    drop(hkdf_sha256(&key(32), b"info", 64));
    let mut digest = [0; 32];
    pbkdf2_sha256(&key(64), b"salt", NonZeroU32::new(10).unwrap(), &mut digest);
}

#[test]
fn a_dropped_key_is_nowhere() {
    // Searched after each use: the next one would overwrite the stack of the last.
    assert_eq!(copies(), 0, "before any use");
    for engine in Engine::available() {
        encrypt_data(engine);
        assert_eq!(copies(), 0, "{engine}");
    }
    wrap_and_unwrap();
    assert_eq!(copies(), 0, "AES-GCM");
    derive();
    assert_eq!(copies(), 0, "HMAC, HKDF, PBKDF2");
    let planted: Vec<u8> = (0..64).map(key_byte).collect();
    assert_eq!(copies(), 64 / NEEDLE_BYTES, "the search must find a planted key");
    black_box(&planted);
}
