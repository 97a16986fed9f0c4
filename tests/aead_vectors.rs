//! AES-256-GCM, HMAC-SHA-256 and HKDF-SHA-256 against Wycheproof: what is valid gives the published
//! bytes, what is invalid is refused.

#![allow(clippy::unwrap_used, reason = "a test")]

use sealdisk::crypto::aead::{AeadError, open, seal};
use sealdisk::crypto::kdf::{HKDF_BYTES_MAX, hkdf_sha256};
use sealdisk::crypto::mac::{constant_time_eq, hmac_sha256};
use sealdisk::secret::Secret;
use wycheproof::TestResult;

fn secret(bytes: &[u8]) -> Secret {
    Secret::from_fn(bytes.len(), |slot| slot.copy_from_slice(bytes))
}

#[test]
fn wycheproof_aes_256_gcm() {
    use wycheproof::aead::{TestName, TestSet};
    let (mut valid, mut invalid) = (0, 0);
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let iv: [u8; 12] = test.nonce.as_slice().try_into().unwrap();
            let sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
            let opened = open(&secret(&test.key), iv, &test.aad, &sealed);
            match test.result {
                TestResult::Valid | TestResult::Acceptable => {
                    assert_eq!(opened.unwrap().expose(), test.pt.as_slice(), "case {}", test.tc_id);
                    assert_eq!(seal(&secret(&test.key), iv, &test.aad, &test.pt), sealed);
                    valid += 1;
                }
                TestResult::Invalid => {
                    assert_eq!(opened.err(), Some(AeadError::NotAuthentic), "case {}", test.tc_id);
                    invalid += 1;
                }
            }
        }
    }
    println!("AES-256-GCM: {valid} valid, {invalid} invalid");
    assert_eq!((valid, invalid), (39, 27));
}

#[test]
fn wycheproof_hmac_sha256() {
    use wycheproof::mac::{TestName, TestSet};
    let (mut valid, mut invalid) = (0, 0);
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        for test in group.tests {
            // Shortened tags are the first bytes of the whole one.
            let tag = hmac_sha256(&secret(&test.key), &[&test.msg]);
            let is_equal = constant_time_eq(&tag[..test.tag.len()], &test.tag);
            assert_eq!(is_equal, !test.result.must_fail(), "case {}", test.tc_id);
            if is_equal { valid += 1 } else { invalid += 1 }
        }
    }
    println!("HMAC-SHA-256: {valid} valid, {invalid} invalid");
    assert_eq!(valid + invalid, 174);
}

#[test]
fn wycheproof_hkdf_sha256_without_salt() {
    use wycheproof::hkdf::{TestName, TestSet};
    let mut checked = 0;
    for group in TestSet::load(TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            if !test.salt.is_empty() || test.size > HKDF_BYTES_MAX {
                continue;
            }
            assert!(!test.result.must_fail(), "case {}", test.tc_id);
            let found = hkdf_sha256(&secret(&test.ikm), &test.info, test.size);
            assert_eq!(found.expose(), test.okm.as_slice(), "case {}", test.tc_id);
            checked += 1;
        }
    }
    println!("HKDF-SHA-256: {checked} without salt");
    assert_eq!(checked, 23);
}
