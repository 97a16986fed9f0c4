//! Bring your own key: a pair in the token, under whose public half material comes, and which
//! unwraps it straight into a key that nobody can take out.
//!
//! The private half is a token object: one of a session would be gone before its answer comes. Its
//! label ends in the second of its expiry, so that any later process can sweep it.

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use super::failure::TokenError;
use super::object::ID_BYTES;
use crate::crypto::asymmetric::{self, Padding};
use crate::secret::Secret;

/// Hash of an OAEP wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OaepHash {
    /// SHA-256, the usual one.
    Sha256,
    /// SHA-1, where the token has nothing else.
    Sha1,
}

/// Bits of a pair's modulus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairBits {
    /// 2048.
    B2048,
    /// 3072.
    B3072,
    /// 4096.
    B4096,
}

impl PairBits {
    const fn bits(self) -> u64 {
        match self {
            Self::B2048 => 2048,
            Self::B3072 => 3072,
            Self::B4096 => 4096,
        }
    }
}

impl OaepHash {
    /// As the names of wrappings end.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA_256",
            Self::Sha1 => "SHA_1",
        }
    }

    /// How who wraps must pad.
    pub const fn padding(self) -> Padding {
        match self {
            Self::Sha256 => Padding::OaepSha256,
            Self::Sha1 => Padding::OaepSha1,
        }
    }

    pub(super) fn mechanism(self) -> Mechanism<'static> {
        let (hash, mgf) = match self {
            Self::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
            Self::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
        };
        // Not an empty label that is there: SoftHSM refuses its pointer.
        Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty()))
    }
}

/// Makes a pair; its public half as X.509 SubjectPublicKeyInfo, DER.
pub(super) fn generate(
    session: &Session,
    bits: PairBits,
    id: &[u8; ID_BYTES],
    label: &str,
) -> Result<Vec<u8>, TokenError> {
    // Nothing of CKA_PRIVATE: AWS CloudHSM is documented to take no other than its own.
    let public = [
        Attribute::Token(false),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
        Attribute::Verify(false),
        Attribute::ModulusBits(Ulong::new(bits.bits())),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Unwrap(true),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Derive(false),
        Attribute::Id(id.to_vec()),
        Attribute::Label(label.as_bytes().to_vec()),
    ];
    let mechanism = Mechanism::RsaPkcsKeyPairGen;
    let (public, private) = session.generate_key_pair(&mechanism, &public, &private)?;
    let strong = [Attribute::Sensitive(true), Attribute::Extractable(false)];
    let asked = [AttributeType::Sensitive, AttributeType::Extractable];
    let read = session.get_attributes(private, &asked)?;
    if !strong.iter().all(|wanted| read.contains(wanted)) {
        let _ = session.destroy_object(private);
        return Err(TokenError::Weak { label: label.to_owned(), attribute: "extractable" });
    }
    let asked = [AttributeType::Modulus, AttributeType::PublicExponent];
    let (mut modulus, mut exponent) = (None, None);
    for attribute in session.get_attributes(public, &asked)? {
        match attribute {
            Attribute::Modulus(bytes) => modulus = Some(bytes),
            Attribute::PublicExponent(bytes) => exponent = Some(bytes),
            _ => {}
        }
    }
    let (modulus, exponent) = modulus.zip(exponent).ok_or(TokenError::Output)?;
    Ok(subject_public_key_info(&modulus, &exponent))
}

/// The private half of this id.
pub(super) fn find(
    session: &Session,
    id: &[u8; ID_BYTES],
    label: &str,
) -> Result<ObjectHandle, TokenError> {
    let wanted = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.to_vec())];
    let found = session.find_objects(&wanted)?;
    found.first().copied().ok_or_else(|| TokenError::Missing { label: label.to_owned() })
}

/// Tries whether the token unwraps under this hash. Its list of mechanisms does not tell.
pub(super) fn try_hash(
    session: &Session,
    hash: OaepHash,
    (id, label): (&[u8; ID_BYTES], &str),
    public: &[u8],
) -> Result<(), TokenError> {
    let sample = Secret::zeroed(32);
    let wrapped = asymmetric::encrypt(public, hash.padding(), sample.expose());
    let wrapped = wrapped.map_err(|_| TokenError::Output)?;
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    let pair = find(session, id, label)?;
    let key = session.unwrap_key(&hash.mechanism(), pair, &wrapped, &template)?;
    Ok(session.destroy_object(key)?)
}

/// RFC 8017, appendix A.1.1, in the frame of RFC 5280, section 4.1.
fn subject_public_key_info(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    /// `rsaEncryption` and its parameter, NULL.
    const ALGORITHM: [u8; 15] =
        [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let numbers = [der_integer(modulus), der_integer(exponent)].concat();
    let key = der(SEQUENCE, &numbers);
    let bits = der(BIT_STRING, &[&[0][..], &key].concat());
    der(SEQUENCE, &[&ALGORITHM[..], &bits].concat())
}

fn der_integer(bytes: &[u8]) -> Vec<u8> {
    const INTEGER: u8 = 0x02;
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[start..];
    let is_padded = bytes.first().is_none_or(|first| first & 0x80 != 0);
    let padding: &[u8] = if is_padded { &[0] } else { &[] };
    der(INTEGER, &[padding, bytes].concat())
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match length {
        0..0x80 => bytes.push(length as u8),
        0x80..0x100 => bytes.extend([0x81, length as u8]),
        _ => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::asymmetric::KeyKind;

    #[test]
    fn a_public_key_is_written_as_the_library_writes_it() {
        let private = asymmetric::generate(KeyKind::Rsa2048).unwrap();
        let expected = asymmetric::public_key(KeyKind::Rsa2048, &private).unwrap();
        // With 2048 bits 33 bytes are before the modulus, a tag and its length before the exponent.
        let (modulus, exponent) = (&expected[33..33 + 256], &expected[33 + 256 + 2..]);
        assert_eq!(subject_public_key_info(modulus, exponent), expected);
        assert_eq!(subject_public_key_info(&[&[0], modulus].concat(), exponent), expected);
    }
}
