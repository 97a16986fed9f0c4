//! AES-256-GCM by a key in the token.
//!
//! Tokens take empty vectors and tags of no bits without a word, so the sizes are ours to enforce:
//! the types here have no others.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::types::Ulong;

use super::failure::TokenError;
use crate::secret::Secret;

/// Bytes of an initialisation vector.
pub const IV_BYTES: usize = 12;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// What asks for a vector of the token's own.
const NO_IV: [u8; IV_BYTES] = [0; IV_BYTES];

const TAG_BITS: Ulong = Ulong::new(128);

/// What [`seal`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The initialisation vector that the token used.
    pub iv: [u8; IV_BYTES],
    /// Ciphertext and tag.
    pub bytes: Vec<u8>,
}

/// Encrypts `plain` under a vector of the token's own making.
pub(super) fn seal(
    session: &Session,
    key: ObjectHandle,
    data: &[u8],
    plain: &[u8],
) -> Result<Sealed, TokenError> {
    let mut iv = [0; IV_BYTES];
    session.generate_random_slice(&mut iv)?;
    if iv == NO_IV {
        // A generator that says all is well and gives nothing would repeat vectors.
        return Err(TokenError::Output);
    }
    let refused = match seal_with(session, key, iv, data, plain) {
        Err(TokenError::Code(code)) if code.is_bad_parameter() => code,
        sealed => return sealed,
    };
    // Some take no vector but their own, which they write over zeros. What comes back under zeros
    // is from one that did not: it leaves no trace.
    match seal_with(session, key, NO_IV, data, plain) {
        Ok(sealed) if sealed.iv != NO_IV => Ok(sealed),
        _ => Err(TokenError::Code(refused)),
    }
}

/// Encrypts `plain` under `iv`, or the one that the token puts in its place.
pub(super) fn seal_with(
    session: &Session,
    key: ObjectHandle,
    mut iv: [u8; IV_BYTES],
    data: &[u8],
    plain: &[u8],
) -> Result<Sealed, TokenError> {
    if data.is_empty() {
        return Err(TokenError::Unsupported { what: "encryption without associated data" });
    }
    let bytes = {
        let parameters = GcmParams::new(&mut iv, data, TAG_BITS)?;
        session.encrypt(&Mechanism::AesGcm(parameters), key, plain)?
    };
    // Read only now: some tokens make the vector themselves and write it where ours was.
    if bytes.len() == plain.len() + TAG_BYTES {
        Ok(Sealed { iv, bytes })
    } else {
        Err(TokenError::Output)
    }
}

/// The plaintext of what [`seal`] made.
pub(super) fn open(
    session: &Session,
    key: ObjectHandle,
    iv: [u8; IV_BYTES],
    data: &[u8],
    sealed: &[u8],
) -> Result<Option<Secret>, TokenError> {
    let mut plain = Secret::zeroed(sealed.len().saturating_sub(TAG_BYTES));
    let is_open = open_into(session, key, (iv, data), sealed, &mut plain)?;
    Ok(is_open.then_some(plain))
}

/// As [`open`], into a secret that is as long as the plaintext; false if there is none.
pub(super) fn open_into(
    session: &Session,
    key: ObjectHandle,
    (mut iv, data): ([u8; IV_BYTES], &[u8]),
    sealed: &[u8],
    into: &mut Secret,
) -> Result<bool, TokenError> {
    if data.is_empty() || sealed.len() < TAG_BYTES {
        return Ok(false);
    }
    let parameters = GcmParams::new(&mut iv, data, TAG_BITS)?;
    let mut plain = session.decrypt(&Mechanism::AesGcm(parameters), key, sealed)?;
    let is_whole = plain.len() == sealed.len() - TAG_BYTES && plain.len() == into.len();
    if is_whole {
        into.expose_mut().copy_from_slice(&plain);
    }
    // Whatever its length, out of the ordinary heap first.
    zeroize::Zeroize::zeroize(&mut plain);
    if is_whole { Ok(true) } else { Err(TokenError::Output) }
}
