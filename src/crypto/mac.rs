//! SHA-256, HMAC-SHA-256, HMAC-SHA-1 and comparison that does not tell where bytes differ.

use aws_lc_rs::{constant_time, digest, hmac};

use super::stack::with_wiped_stack;
use crate::secret::Secret;

/// Bytes of a SHA-256 digest or an HMAC-SHA-256 tag.
pub const DIGEST_BYTES: usize = 32;

/// Bytes of an HMAC-SHA-1 tag.
pub const SHA1_BYTES: usize = 20;

/// HMAC-SHA-256 (RFC 2104) over `parts` one after the other. Lengths are not mixed in: parts of
/// variable length need a length prefix of their own.
pub fn hmac_sha256(key: &Secret, parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    with_wiped_stack(|| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        array_of(context.sign().as_ref())
    })
}

/// HMAC-SHA-1 (RFC 2104) over `parts` one after the other, for the one old signature that official
/// clients still make. HMAC does not need the hash to be free of collisions, which SHA-1 is not.
pub fn hmac_sha1(key: &Secret, parts: &[&[u8]]) -> [u8; SHA1_BYTES] {
    with_wiped_stack(|| {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.expose());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-1 gives 20 bytes")
    })
}

/// SHA-256 (FIPS 180-4) over `parts` one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    array_of(context.finish().as_ref())
}

/// A SHA-256 that goes on: of all that was added so far. A copy goes on by itself.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Of nothing yet.
    #[expect(clippy::new_without_default, reason = "a hash of nothing should be asked for")]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> [u8; DIGEST_BYTES] {
        array_of(self.0.finish().as_ref())
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256")
    }
}

/// Whether `a` and `b` are equal, in a time that depends on their lengths alone.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

fn array_of(digest: &[u8]) -> [u8; DIGEST_BYTES] {
    digest.try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn sha256_of_abc() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&sha256(&[b"a", b"", b"bc"])), expected);
        let mut going = Sha256::new();
        going.update(b"a");
        let branch = going.clone();
        going.update(b"bc");
        assert_eq!(hex(&going.finish()), expected);
        assert_eq!(branch.finish(), sha256(&[b"a"]));
    }

    #[test]
    fn hmac_of_rfc_4231_case_2() {
        let key = Secret::from_fn(4, |bytes| bytes.copy_from_slice(b"Jefe"));
        let tag = hmac_sha256(&key, &[b"what do ya want ", b"for nothing?"]);
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&tag), expected);
    }

    #[test]
    fn hmac_sha1_of_rfc_2202_case_2() {
        let key = Secret::from_fn(4, |bytes| bytes.copy_from_slice(b"Jefe"));
        let tag = hmac_sha1(&key, &[b"what do ya want ", b"for nothing?"]);
        assert_eq!(hex(&tag), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
    }

    #[test]
    fn equality_needs_the_same_length() {
        assert!(constant_time_eq(b"", b""));
        assert!(constant_time_eq(b"abc", b"abc"));
        assert!(!constant_time_eq(b"abc", b"abd"));
        assert!(!constant_time_eq(b"abc", b"abcd"));
    }
}
