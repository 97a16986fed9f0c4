//! The ciphertext blob, which names the key version it needs.
//!
//! ```text
//! offset  bytes
//!      0     36  version id of the key, a UUID in lower-case text
//!     36      7  "sealdsk"
//!     43      1  format, 1
//!     44      1  algorithm, 1 = AES-256-GCM
//!     45     12  initialisation vector
//!     57      n  ciphertext, 1 to 6144 bytes
//!   57+n     16  tag
//! ```
//!
//! Associated data: `sealdisk-kms/blob/v1`, the first 45 bytes, the canonical encryption context.

use super::KmsError;
use super::context::{Context, canonical};
use super::encryption::ENCRYPT_BYTES_MAX;
use crate::secret::Secret;
use crate::token::Sealed;

const LABEL: &[u8] = b"sealdisk-kms/blob/v1";
const VERSION_ID_BYTES: usize = 36;
const MAGIC: &[u8; 7] = b"sealdsk";
const FORMAT: u8 = 1;
const AES_256_GCM: u8 = 1;
const HEADER_BYTES: usize = VERSION_ID_BYTES + MAGIC.len() + 2;
const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// A blob that has the right form. Whether it is authentic only [`Blob::open`] tells.
#[derive(Debug)]
pub struct Blob<'a> {
    version_id: &'a str,
    header: &'a [u8],
    iv: [u8; IV_BYTES],
    sealed: &'a [u8],
}

/// Reads a blob; `None` if it is not one of ours. Takes any bytes.
pub fn parse(bytes: &[u8]) -> Option<Blob<'_>> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let (iv, sealed) = rest.split_first_chunk::<IV_BYTES>()?;
    let (version_id, form) = header.split_at_checked(VERSION_ID_BYTES)?;
    let form = form.strip_prefix(MAGIC)?;
    if form != [FORMAT, AES_256_GCM] {
        return None;
    }
    let length = sealed.len().checked_sub(TAG_BYTES)?;
    if !(1..=ENCRYPT_BYTES_MAX).contains(&length) {
        return None;
    }
    let version_id = leading_version(version_id)?;
    Some(Blob { version_id, header, iv: *iv, sealed })
}

/// The key version that leads a blob, of ours or of another KMS that speaks this API.
pub fn leading_version(bytes: &[u8]) -> Option<&str> {
    let (version_id, _) = bytes.split_at_checked(VERSION_ID_BYTES)?;
    std::str::from_utf8(version_id).ok().filter(|id| is_uuid(id))
}

/// The blob that holds, under version `version_id` (a lower-case UUID) of a key, what `encrypt`
/// makes by AES-256-GCM with the associated data it is given and a vector of its own choice: some
/// tokens choose it during the call. GCM binds it by itself.
///
/// # Errors
/// [`KmsError::InvalidParameter`] for a context that is too long, and those of `encrypt`.
pub fn seal(
    version_id: &str,
    context: &Context,
    encrypt: impl FnOnce(&[u8]) -> Result<Sealed, KmsError>,
) -> Result<Vec<u8>, KmsError> {
    let mut blob = Vec::with_capacity(HEADER_BYTES);
    blob.extend_from_slice(version_id.as_bytes());
    blob.extend_from_slice(MAGIC);
    blob.extend_from_slice(&[FORMAT, AES_256_GCM]);
    let sealed = encrypt(&associated_data(&blob, context)?)?;
    blob.extend_from_slice(&sealed.iv);
    blob.extend_from_slice(&sealed.bytes);
    Ok(blob)
}

impl Blob<'_> {
    /// The key version it names.
    pub const fn version_id(&self) -> &str {
        self.version_id
    }

    /// What was sealed, if key, context and every byte are right. `decrypt` is given the
    /// initialisation vector, the associated data and the ciphertext with its tag, and finds
    /// `None` where they do not belong together.
    ///
    /// # Errors
    /// The same for a wrong context and a changed blob: which of the two it was is nobody's
    /// business. Beyond that, those of `decrypt`.
    pub fn open(
        &self,
        context: &Context,
        decrypt: impl FnOnce([u8; IV_BYTES], &[u8], &[u8]) -> Result<Option<Secret>, KmsError>,
    ) -> Result<Secret, KmsError> {
        let data = associated_data(self.header, context)?;
        let opened = decrypt(self.iv, &data, self.sealed)?;
        opened.ok_or(KmsError::InvalidParameter("CiphertextBlob"))
    }
}

fn associated_data(header: &[u8], context: &Context) -> Result<Vec<u8>, KmsError> {
    Ok([LABEL, header, &canonical(context)?].concat())
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;
    use crate::crypto::aead;

    const VERSION: &str = "7a1d0c4b-e2d5-4a00-9f1a-0123456789ab";
    const GOLDEN: &[u8] = include_bytes!("../../tests/data/blob-v1.bin");
    const PLAIN: &[u8] = b"what format 1 sealed is opened for ever";

    fn key() -> Secret {
        Secret::from_fn(32, |bytes| (0..).zip(bytes).for_each(|(i, byte)| *byte = i))
    }

    fn context() -> Context {
        [("disk", "d-1"), ("account", "1000000000000001")]
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect()
    }

    fn open(blob: &Blob<'_>, context: &Context) -> Result<Secret, KmsError> {
        blob.open(context, |iv, data, sealed| Ok(aead::open(&key(), iv, data, sealed).ok()))
    }

    #[test]
    fn the_golden_blob_is_made_and_opened() {
        let iv = *b"twelve bytes";
        let encrypt = |data: &[u8]| Ok(Sealed { iv, bytes: aead::seal(&key(), iv, data, PLAIN) });
        let blob = seal(VERSION, &context(), encrypt).unwrap();
        assert_eq!(blob, GOLDEN);
        let parsed = parse(GOLDEN).unwrap();
        assert_eq!(parsed.version_id(), VERSION);
        assert_eq!(open(&parsed, &context()).unwrap().expose(), PLAIN);
    }

    #[test]
    fn no_bit_can_be_changed_and_no_byte_left_out() {
        for at in 0..GOLDEN.len() {
            for bit in 0..8 {
                let mut changed = GOLDEN.to_vec();
                changed[at] ^= 1 << bit;
                let opened = parse(&changed).map(|blob| open(&blob, &context()));
                assert!(opened.is_none_or(|opened| opened.is_err()), "bit {bit} of byte {at}");
            }
            let cut = parse(&GOLDEN[..at]).map(|blob| open(&blob, &context()));
            assert!(cut.is_none_or(|opened| opened.is_err()), "cut at {at}");
        }
        assert!(open(&parse(GOLDEN).unwrap(), &Context::new()).is_err());
    }

    #[test]
    fn a_blob_of_the_wrong_length_is_none() {
        let with = |length: usize| {
            let mut bytes = GOLDEN[..HEADER_BYTES + IV_BYTES].to_vec();
            bytes.resize(HEADER_BYTES + IV_BYTES + length + TAG_BYTES, 0);
            parse(&bytes).is_some()
        };
        assert!(!with(0) && with(1) && with(ENCRYPT_BYTES_MAX) && !with(ENCRYPT_BYTES_MAX + 1));
    }
}
