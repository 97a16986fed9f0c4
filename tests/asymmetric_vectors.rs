//! OAEP, PKCS #1, PSS and ECDSA against Wycheproof: what is valid is taken, what is invalid is
//! refused.

#![allow(clippy::unwrap_used, reason = "a test")]

use sealdisk::crypto::asymmetric::{Padding, Signing, decrypt, verify};
use sealdisk::crypto::mac::sha256;
use sealdisk::secret::Secret;
use wycheproof::TestResult;

/// Counts of one kind of test.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    valid: usize,
    invalid: usize,
    acceptable: usize,
}

impl Seen {
    /// Takes one outcome into account; what is but acceptable may go either way.
    fn judge(&mut self, result: TestResult, went: bool, case: usize) {
        match result {
            TestResult::Valid => {
                assert!(went, "case {case} is valid");
                self.valid += 1;
            }
            TestResult::Invalid => {
                assert!(!went, "case {case} is invalid");
                self.invalid += 1;
            }
            TestResult::Acceptable => self.acceptable += 1,
        }
    }

    fn is_substantial(&self) {
        println!("{self:?}");
        assert!(self.valid > 10 && self.invalid > 10, "{self:?}");
    }
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::from_fn(bytes.len(), |slot| slot.copy_from_slice(bytes))
}

#[test]
fn wycheproof_oaep() {
    use wycheproof::rsa_oaep::{TestName, TestSet};
    let mut seen = Seen::default();
    for (name, padding) in [
        (TestName::Rsa2048Sha1Mgf1Sha1, Padding::OaepSha1),
        (TestName::Rsa2048Sha256Mgf1Sha256, Padding::OaepSha256),
        (TestName::Rsa3072Sha256Mgf1Sha256, Padding::OaepSha256),
        (TestName::Rsa4096Sha256Mgf1Sha256, Padding::OaepSha256),
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            let key = secret(&group.pkcs8);
            for test in group.tests {
                // We have no labels: to us such a ciphertext is another one.
                let with_label = !test.label.is_empty();
                let opened = decrypt(&key, padding, &test.ct);
                let went = opened.is_ok_and(|plain| plain.expose() == test.pt.as_slice());
                let result = if with_label { TestResult::Invalid } else { test.result };
                seen.judge(result, went, test.tc_id);
            }
        }
    }
    seen.is_substantial();
}

#[test]
fn wycheproof_pkcs1_decryption() {
    use wycheproof::rsa_pkcs1_decrypt::{TestName, TestSet};
    let mut seen = Seen::default();
    for group in TestSet::load(TestName::Rsa2048).unwrap().test_groups {
        let key = secret(&group.pkcs8);
        for test in group.tests {
            let opened = decrypt(&key, Padding::Pkcs1, &test.ct);
            let went = opened.is_ok_and(|plain| plain.expose() == test.pt.as_slice());
            seen.judge(test.result, went, test.tc_id);
        }
    }
    seen.is_substantial();
}

#[test]
fn wycheproof_pss() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let mut seen = Seen::default();
    for name in [
        TestName::RsaPss2048Sha256Mgf1SaltLen32,
        TestName::RsaPss3072Sha256Mgf1SaltLen32,
        TestName::RsaPss4096Sha256Mgf1SaltLen32,
    ] {
        for group in TestSet::load(name).unwrap().test_groups {
            for test in group.tests {
                let digest = sha256(&[&test.msg]);
                let went = verify(&group.der, Signing::Pss, &digest, &test.sig).unwrap();
                seen.judge(test.result, went, test.tc_id);
            }
        }
    }
    seen.is_substantial();
}

#[test]
fn wycheproof_pkcs1_signatures() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let mut seen = Seen::default();
    for group in TestSet::load(TestName::Rsa2048Sha256).unwrap().test_groups {
        for test in group.tests {
            let digest = sha256(&[&test.msg]);
            let went = verify(&group.der, Signing::Pkcs1, &digest, &test.sig).unwrap();
            seen.judge(test.result, went, test.tc_id);
        }
    }
    assert!(seen.valid > 5 && seen.invalid > 10, "{seen:?}");
}

#[test]
fn wycheproof_ecdsa() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let mut seen = Seen::default();
    for group in TestSet::load(TestName::EcdsaSecp256r1Sha256).unwrap().test_groups {
        for test in group.tests {
            let digest = sha256(&[&test.msg]);
            let went = verify(&group.der, Signing::Ecdsa, &digest, &test.sig).unwrap();
            seen.judge(test.result, went, test.tc_id);
        }
    }
    seen.is_substantial();
}
