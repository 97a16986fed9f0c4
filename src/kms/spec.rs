//! Key specs: what a key can be and what it is for. One table.

use super::KmsError;
use crate::catalog::KeyRecord;
use crate::crypto::asymmetric::{KeyKind, Padding, Signing};

/// `KeyUsage` of keys that encrypt.
pub(super) const ENCRYPT: &str = "ENCRYPT/DECRYPT";
/// `KeyUsage` of keys that sign.
pub(super) const SIGN: &str = "SIGN/VERIFY";

/// A spec that we make keys of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeySpec {
    Aes256,
    /// A key pair.
    Pair(KeyKind),
}

/// The published names. The first is the default.
const SPECS: [(&str, KeySpec); 5] = [
    ("Aliyun_AES_256", KeySpec::Aes256),
    ("RSA_2048", KeySpec::Pair(KeyKind::Rsa2048)),
    ("RSA_3072", KeySpec::Pair(KeyKind::Rsa3072)),
    ("RSA_4096", KeySpec::Pair(KeyKind::Rsa4096)),
    ("EC_P256", KeySpec::Pair(KeyKind::P256)),
];

/// Published names of specs that only hardware has.
const HARDWARE_SPECS: [&str; 5] =
    ["Aliyun_AES_192", "Aliyun_AES_128", "Aliyun_SM4", "EC_P256K", "EC_SM2"];

impl KeySpec {
    /// The spec that CreateKey's `KeySpec` asks for.
    ///
    /// # Errors
    /// `Unsupported.ProtectionLevel` for what only hardware has, else `InvalidParameter`.
    pub(super) fn wanted(name: Option<&str>) -> Result<Self, KmsError> {
        match name {
            None => Ok(Self::Aes256),
            Some(name) => Self::of(name).ok_or_else(|| {
                if HARDWARE_SPECS.contains(&name) {
                    KmsError::UnsupportedProtectionLevel
                } else {
                    KmsError::InvalidParameter("KeySpec")
                }
            }),
        }
    }

    /// The spec of this published name.
    pub(super) fn of(name: &str) -> Option<Self> {
        SPECS.iter().find(|(known, _)| *known == name).map(|(_, spec)| *spec)
    }

    pub(super) fn as_str(self) -> &'static str {
        let row = SPECS.iter().find(|(_, spec)| *spec == self);
        row.map_or("", |(name, _)| *name)
    }

    pub(super) const fn is_symmetric(self) -> bool {
        matches!(self, Self::Aes256)
    }

    /// The usage that CreateKey's `KeyUsage` asks for: what can sign, does so unless told
    /// otherwise.
    pub(super) fn usage(self, wanted: Option<&str>) -> Result<&'static str, KmsError> {
        let usages: &[&'static str] = match self {
            Self::Aes256 => &[ENCRYPT],
            Self::Pair(KeyKind::P256) => &[SIGN],
            Self::Pair(_) => &[SIGN, ENCRYPT],
        };
        let found = match wanted {
            None => usages.first(),
            Some(wanted) => usages.iter().find(|usage| **usage == wanted),
        };
        found.copied().ok_or(KmsError::InvalidParameter("KeyUsage"))
    }

    /// How a key of this spec signs under `Algorithm`.
    pub(super) fn signing(self, algorithm: &str) -> Result<Signing, KmsError> {
        match (self, algorithm) {
            (Self::Pair(KeyKind::P256), "ECDSA_SHA_256") => Ok(Signing::Ecdsa),
            (Self::Pair(KeyKind::P256) | Self::Aes256, _) => invalid_algorithm(),
            (Self::Pair(_), "RSA_PSS_SHA_256") => Ok(Signing::Pss),
            (Self::Pair(_), "RSA_PKCS1_SHA_256") => Ok(Signing::Pkcs1),
            (Self::Pair(_), _) => invalid_algorithm(),
        }
    }

    /// How a key of this spec encrypts under `Algorithm`.
    pub(super) fn padding(self, algorithm: &str) -> Result<Padding, KmsError> {
        match (self, algorithm) {
            (Self::Pair(KeyKind::P256) | Self::Aes256, _) => invalid_algorithm(),
            (Self::Pair(_), "RSAES_OAEP_SHA_256") => Ok(Padding::OaepSha256),
            (Self::Pair(_), "RSAES_OAEP_SHA_1") => Ok(Padding::OaepSha1),
            (Self::Pair(_), _) => invalid_algorithm(),
        }
    }
}

/// Whether `key` is no key pair: only such keys wrap data keys.
pub fn is_symmetric(key: &KeyRecord) -> bool {
    KeySpec::of(&key.spec).is_some_and(KeySpec::is_symmetric)
}

const fn invalid_algorithm<T>() -> Result<T, KmsError> {
    Err(KmsError::InvalidParameter("Algorithm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_specs_and_usages_belong_together() {
        for (name, spec) in SPECS {
            assert_eq!(KeySpec::of(name), Some(spec));
            assert_eq!(spec.as_str(), name);
        }
        let usage = |name, wanted| KeySpec::of(name).unwrap().usage(wanted).ok();
        assert_eq!(usage("Aliyun_AES_256", None), Some(ENCRYPT));
        assert_eq!(usage("Aliyun_AES_256", Some(SIGN)), None);
        assert_eq!(usage("RSA_3072", None), Some(SIGN));
        assert_eq!(usage("RSA_3072", Some(ENCRYPT)), Some(ENCRYPT));
        assert_eq!(usage("EC_P256", None), Some(SIGN));
        assert_eq!(usage("EC_P256", Some(ENCRYPT)), None);
        assert!(matches!(
            KeySpec::wanted(Some("Aliyun_AES_128")),
            Err(KmsError::UnsupportedProtectionLevel)
        ));
        assert!(matches!(KeySpec::wanted(Some("AES")), Err(KmsError::InvalidParameter("KeySpec"))));
    }
}
