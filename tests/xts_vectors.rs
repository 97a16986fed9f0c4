//! AES-XTS against published vectors: NIST CAVP (2,800 whole-byte cases) and Wycheproof (82 cases
//! of the two usual key sizes). AES-256 goes through every engine of the product; AES-128, which it
//! has not, through the crates that its portable engine is made of.
//!
//! CAVP comes with the Python package `cryptography_vectors`; `SEALDISK_CAVP_DIR` names the
//! directory of that package where it cannot be imported.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::PathBuf;
use std::process::Command;

use aes::Aes128;
use aes::cipher::KeyInit;
use sealdisk::crypto::engine::Engine;
use sealdisk::crypto::xts::XtsCipher;
use sealdisk::secret::Secret;
use wycheproof::TestResult;
use wycheproof::cipher::{TestName, TestSet};
use xts_mode::Xts128;

/// One data unit under any tweak.
#[derive(Default)]
struct Case {
    key: Vec<u8>,
    tweak: [u8; 16],
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

impl Case {
    /// Encrypts and decrypts by everything that takes this key size.
    fn check(&self) {
        match self.key.len() {
            32 => self.check_aes_128(),
            64 => Engine::available().for_each(|engine| self.check_aes_256(engine)),
            other => panic!("a key of {other} bytes"),
        }
    }

    fn check_aes_256(&self, engine: Engine) {
        let key = Secret::from_fn(self.key.len(), |bytes| bytes.copy_from_slice(&self.key));
        let cipher = XtsCipher::new(engine, &key).unwrap();
        let mut data = self.plain.clone();
        cipher.encrypt_raw(self.tweak, &mut data);
        assert_eq!(data, self.cipher, "{engine}: encryption");
        cipher.decrypt_raw(self.tweak, &mut data);
        assert_eq!(data, self.plain, "{engine}: decryption");
    }

    fn check_aes_128(&self) {
        let (data_key, tweak_key) = self.key.split_at(16);
        let [one, two] = [data_key, tweak_key].map(|key| Aes128::new_from_slice(key).unwrap());
        let cipher = Xts128::new(one, two);
        let mut data = self.plain.clone();
        cipher.encrypt_sector(&mut data, self.tweak);
        assert_eq!(data, self.cipher, "portable crates: encryption");
        cipher.decrypt_sector(&mut data, self.tweak);
        assert_eq!(data, self.plain, "portable crates: decryption");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The directory of the package `cryptography_vectors`.
fn cavp_directory() -> Option<PathBuf> {
    let named = std::env::var_os("SEALDISK_CAVP_DIR").map(PathBuf::from);
    let found = named.or_else(|| {
        let script = "import cryptography_vectors, os; \
                      print(os.path.dirname(cryptography_vectors.__file__))";
        let output = Command::new("python3").args(["-c", script]).output().ok()?;
        let path = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| PathBuf::from(path.trim()))
    });
    let found = found.filter(|directory| directory.join("ciphers/AES/XTS").is_dir());
    if found.is_none() {
        let is_required = std::env::var_os("SEALDISK_REQUIRE_TOOLS").is_some_and(|it| it == "1");
        assert!(!is_required, "cryptography_vectors is required and was not found");
        eprintln!(
            "SKIPPED: no CAVP vectors; pip install cryptography_vectors, or SEALDISK_CAVP_DIR"
        );
    }
    found
}

/// The cases of one CAVP response file whose data unit is a whole number of bytes.
fn cavp_cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut bits = Vec::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let (name, value) = (name.trim(), value.trim());
        if name == "COUNT" {
            cases.push(Case::default());
        }
        let Some(case) = cases.last_mut() else { continue };
        match name {
            "DataUnitLen" => bits.push(value.parse::<usize>().unwrap()),
            "Key" => case.key = unhex(value),
            "i" => case.tweak = unhex(value).try_into().unwrap(),
            "DataUnitSeqNumber" => {
                case.tweak = value.parse::<u128>().unwrap().to_le_bytes();
            }
            "PT" => case.plain = unhex(value),
            "CT" => case.cipher = unhex(value),
            _ => {}
        }
    }
    assert_eq!(bits.len(), cases.len());
    let whole = cases.into_iter().zip(bits).filter(|(_, bits)| bits.is_multiple_of(8));
    whole
        .map(|(case, bits)| {
            assert_eq!((case.plain.len(), case.cipher.len()), (bits / 8, bits / 8));
            case
        })
        .collect()
}

#[test]
fn nist_cavp() {
    let Some(directory) = cavp_directory() else { return };
    let mut counts = Vec::new();
    for file in ["XTSGenAES128.rsp", "XTSGenAES256.rsp"] {
        for tweak in ["tweak-128hexstr", "tweak-dataunitseqno"] {
            let path = directory.join("ciphers/AES/XTS").join(tweak).join(file);
            let cases = cavp_cases(&std::fs::read_to_string(path).unwrap());
            cases.iter().for_each(Case::check);
            counts.push(cases.len());
        }
    }
    println!("CAVP: AES-128 {} + {}, AES-256 {} + {}", counts[0], counts[1], counts[2], counts[3]);
    assert_eq!(counts, [800, 800, 600, 600]);
}

#[test]
fn wycheproof_aes_xts() {
    let set = TestSet::load(TestName::AesXts).unwrap();
    let mut counts = [0, 0];
    for group in set.test_groups {
        for test in group.tests {
            let size = match test.key.len() {
                32 => 0,
                64 => 1,
                _ => continue,
            };
            assert_eq!(test.result, TestResult::Valid, "case {}", test.tc_id);
            // The tweak is the number of the data unit, little-endian, in up to 16 bytes.
            let mut tweak = [0; 16];
            tweak[..test.nonce.len()].copy_from_slice(&test.nonce);
            let (key, plain, cipher) = (test.key.to_vec(), test.pt.to_vec(), test.ct.to_vec());
            Case { key, tweak, plain, cipher }.check();
            counts[size] += 1;
        }
    }
    println!("Wycheproof: AES-128 {}, AES-256 {}", counts[0], counts[1]);
    assert_eq!(counts, [41, 41]);
}
