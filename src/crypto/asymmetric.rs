//! RSA (PKCS #1: OAEP, PSS, and version 1.5 where the cloud publishes it) and ECDSA on P-256.
//!
//! A private key is PKCS #8 in DER, in a [`Secret`]; a public key is X.509 SubjectPublicKeyInfo in
//! DER. Signatures are made over a SHA-256 digest that the caller computed. The library draws its
//! own randomness for keys, padding and nonces: no seed drives these.

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPrivateDecryptingKey,
    OaepPublicEncryptingKey, Pkcs1PrivateDecryptingKey, Pkcs1PublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use thiserror::Error;

use super::stack::with_wiped_stack;
use crate::secret::Secret;

/// Bytes of a SHA-256 digest.
pub const DIGEST_BYTES: usize = 32;

/// Longest RSA modulus, in bytes: what a decryption can need room for.
const MODULUS_BYTES_MAX: usize = 1024;

/// What kind of key pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
    /// The NIST curve P-256.
    P256,
}

/// How a digest is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signing {
    /// RSASSA-PSS, MGF1 with SHA-256, a salt of 32 bytes.
    Pss,
    /// RSASSA-PKCS1-v1_5.
    Pkcs1,
    /// ECDSA on P-256, the signature in DER.
    Ecdsa,
}

/// How RSA encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// OAEP, SHA-1 in both places.
    OaepSha1,
    /// OAEP, SHA-256 in both places.
    OaepSha256,
    /// PKCS #1 version 1.5, for the import of material alone: whoever may try ciphertexts at will
    /// learns from the refusals.
    Pkcs1,
}

/// Why an operation with a key pair was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AsymmetricError {
    /// The key is none of the kind that the operation needs, or is damaged.
    #[error("this is not a key for this operation")]
    Key,
    /// The plaintext is too long for the key, the ciphertext is another key's or changed, or the
    /// digest has another length. Which, is not told: a difference would be an oracle.
    #[error("the key cannot do this to this input")]
    Input,
}

/// A fresh private key.
///
/// # Errors
/// [`AsymmetricError::Key`] if the library fails to make one.
pub fn generate(kind: KeyKind) -> Result<Secret, AsymmetricError> {
    with_wiped_stack(|| match kind {
        KeyKind::Rsa2048 => generate_rsa(KeySize::Rsa2048),
        KeyKind::Rsa3072 => generate_rsa(KeySize::Rsa3072),
        KeyKind::Rsa4096 => generate_rsa(KeySize::Rsa4096),
        KeyKind::P256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(no_key)?;
            let document = pair.to_pkcs8v1().map_err(no_key)?;
            Ok(copied(document.as_ref()))
        }
    })
}

fn generate_rsa(size: KeySize) -> Result<Secret, AsymmetricError> {
    let key = PrivateDecryptingKey::generate(size).map_err(no_key)?;
    Ok(copied(key.as_der().map_err(no_key)?.as_ref()))
}

/// Into the arena; the library wipes its own buffer.
fn copied(bytes: &[u8]) -> Secret {
    Secret::from_fn(bytes.len(), |slot| slot.copy_from_slice(bytes))
}

/// The public half of `private`.
///
/// # Errors
/// [`AsymmetricError::Key`] for anything but a private key of `kind`.
pub fn public_key(kind: KeyKind, private: &Secret) -> Result<Vec<u8>, AsymmetricError> {
    with_wiped_stack(|| match kind {
        KeyKind::P256 => {
            let pair = ecdsa_pair(private)?;
            Ok(pair.public_key().as_der().map_err(no_key)?.as_ref().to_vec())
        }
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
            let key = PrivateDecryptingKey::from_pkcs8(private.expose()).map_err(no_key)?;
            Ok(key.public_key().as_der().map_err(no_key)?.as_ref().to_vec())
        }
    })
}

/// Signs a SHA-256 `digest`.
///
/// # Errors
/// A key of another kind, or a digest that has not [`DIGEST_BYTES`].
pub fn sign(private: &Secret, signing: Signing, digest: &[u8]) -> Result<Vec<u8>, AsymmetricError> {
    let digest = imported(digest)?;
    with_wiped_stack(|| match signing {
        Signing::Pss => sign_rsa(private, &RSA_PSS_SHA256, &digest),
        Signing::Pkcs1 => sign_rsa(private, &RSA_PKCS1_SHA256, &digest),
        Signing::Ecdsa => {
            let signature = ecdsa_pair(private)?.sign_digest(&digest);
            Ok(signature.map_err(no_input)?.as_ref().to_vec())
        }
    })
}

fn sign_rsa(
    private: &Secret,
    encoding: &'static dyn RsaEncoding,
    digest: &Digest,
) -> Result<Vec<u8>, AsymmetricError> {
    let pair = RsaKeyPair::from_pkcs8(private.expose()).map_err(no_key)?;
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign_digest(encoding, digest, &mut signature).map_err(no_input)?;
    Ok(signature)
}

fn ecdsa_pair(private: &Secret) -> Result<EcdsaKeyPair, AsymmetricError> {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, private.expose()).map_err(no_key)
}

/// Whether `signature` is one of `digest` under `public`. A key of another kind has signed nothing.
///
/// # Errors
/// A digest that has not [`DIGEST_BYTES`].
pub fn verify(
    public: &[u8],
    signing: Signing,
    digest: &[u8],
    signature: &[u8],
) -> Result<bool, AsymmetricError> {
    let algorithm: &'static dyn VerificationAlgorithm = match signing {
        Signing::Pss => &RSA_PSS_2048_8192_SHA256,
        Signing::Pkcs1 => &RSA_PKCS1_2048_8192_SHA256,
        Signing::Ecdsa => &ECDSA_P256_SHA256_ASN1,
    };
    let key = UnparsedPublicKey::new(algorithm, public);
    Ok(key.verify_digest(&imported(digest)?, signature).is_ok())
}

/// Encrypts `plain` for whoever has the private half of the RSA key `public`.
///
/// # Errors
/// [`AsymmetricError::Key`] for anything but an RSA key; [`AsymmetricError::Input`] for more bytes
/// than the key and its padding have room for.
pub fn encrypt(public: &[u8], padding: Padding, plain: &[u8]) -> Result<Vec<u8>, AsymmetricError> {
    let key = PublicEncryptingKey::from_der(public).map_err(no_key)?;
    let mut out = vec![0; key.key_size_bytes()];
    let length = with_wiped_stack(|| match oaep(padding) {
        Some(algorithm) => OaepPublicEncryptingKey::new(key)
            .map_err(no_key)?
            .encrypt(algorithm, plain, &mut out, None)
            .map(|written| written.len())
            .map_err(no_input),
        None => Pkcs1PublicEncryptingKey::new(key)
            .map_err(no_key)?
            .encrypt(plain, &mut out)
            .map(|written| written.len())
            .map_err(no_input),
    })?;
    out.truncate(length);
    Ok(out)
}

/// Decrypts what [`encrypt`] made, straight into a [`Secret`].
///
/// # Errors
/// [`AsymmetricError::Key`] for anything but an RSA key; [`AsymmetricError::Input`] for anything
/// but a ciphertext under it.
pub fn decrypt(
    private: &Secret,
    padding: Padding,
    ciphertext: &[u8],
) -> Result<Secret, AsymmetricError> {
    let mut room = Secret::zeroed(MODULUS_BYTES_MAX);
    let length = with_wiped_stack(|| {
        let key = PrivateDecryptingKey::from_pkcs8(private.expose()).map_err(no_key)?;
        let out = room.expose_mut();
        match oaep(padding) {
            Some(algorithm) => OaepPrivateDecryptingKey::new(key)
                .map_err(no_key)?
                .decrypt(algorithm, ciphertext, out, None)
                .map(|plain| plain.len())
                .map_err(no_input),
            None => Pkcs1PrivateDecryptingKey::new(key)
                .map_err(no_key)?
                .decrypt(ciphertext, out)
                .map(|plain| plain.len())
                .map_err(no_input),
        }
    })?;
    Ok(copied(&room.expose()[..length]))
}

const fn oaep(padding: Padding) -> Option<&'static OaepAlgorithm> {
    match padding {
        Padding::OaepSha1 => Some(&OAEP_SHA1_MGF1SHA1),
        Padding::OaepSha256 => Some(&OAEP_SHA256_MGF1SHA256),
        Padding::Pkcs1 => None,
    }
}

fn imported(digest: &[u8]) -> Result<Digest, AsymmetricError> {
    Digest::import_less_safe(digest, &SHA256).map_err(no_input)
}

fn no_key<E>(_: E) -> AsymmetricError {
    AsymmetricError::Key
}

fn no_input<E>(_: E) -> AsymmetricError {
    AsymmetricError::Input
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: [u8; DIGEST_BYTES] = [7; DIGEST_BYTES];

    #[test]
    fn what_one_half_does_the_other_undoes() {
        let rsa = generate(KeyKind::Rsa2048).unwrap();
        let public = public_key(KeyKind::Rsa2048, &rsa).unwrap();
        for (padding, most) in
            [(Padding::OaepSha1, 214), (Padding::OaepSha256, 190), (Padding::Pkcs1, 245)]
        {
            for length in [0, 1, most] {
                let plain = vec![9; length];
                let sealed = encrypt(&public, padding, &plain).unwrap();
                assert_eq!(decrypt(&rsa, padding, &sealed).unwrap().expose(), plain);
            }
            let long = encrypt(&public, padding, &vec![9; most + 1]);
            assert_eq!(long, Err(AsymmetricError::Input));
            let zeros = decrypt(&rsa, padding, &[0; 256]).unwrap_err();
            assert_eq!(zeros, AsymmetricError::Input);
        }
        let p256 = generate(KeyKind::P256).unwrap();
        let point = public_key(KeyKind::P256, &p256).unwrap();
        for (private, public, signing) in [
            (&rsa, &public, Signing::Pss),
            (&rsa, &public, Signing::Pkcs1),
            (&p256, &point, Signing::Ecdsa),
        ] {
            let mut signature = sign(private, signing, &DIGEST).unwrap();
            assert_eq!(verify(public, signing, &DIGEST, &signature), Ok(true));
            assert_eq!(verify(public, signing, &[8; 32], &signature), Ok(false));
            assert_eq!(sign(private, signing, &DIGEST[1..]), Err(AsymmetricError::Input));
            signature[20] ^= 1;
            assert_eq!(verify(public, signing, &DIGEST, &signature), Ok(false));
        }
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let p256 = generate(KeyKind::P256).unwrap();
        let point = public_key(KeyKind::P256, &p256).unwrap();
        assert_eq!(sign(&p256, Signing::Pss, &DIGEST), Err(AsymmetricError::Key));
        assert_eq!(encrypt(&point, Padding::OaepSha256, b"x"), Err(AsymmetricError::Key));
        assert!(decrypt(&p256, Padding::OaepSha256, b"x").is_err());
        assert_eq!(verify(&point, Signing::Pss, &DIGEST, b"x"), Ok(false));
        let junk = Secret::from_fn(32, |bytes| bytes.fill(1));
        assert_eq!(public_key(KeyKind::P256, &junk), Err(AsymmetricError::Key));
        assert_eq!(public_key(KeyKind::Rsa2048, &junk), Err(AsymmetricError::Key));
    }
}
