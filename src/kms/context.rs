//! Encryption contexts: what a ciphertext is bound to without holding it.

use std::collections::BTreeMap;

use super::KmsError;

/// Characters of all names and values together at most.
pub const CONTEXT_CHARS_MAX: usize = 8192;

/// An encryption context: the order in which a caller gives the pairs means nothing.
pub type Context = BTreeMap<String, String>;

/// The one byte form of `context`: pairs sorted by name, a length before every name and value, so
/// that no two contexts share it. Absent and empty are the same.
///
/// # Errors
/// [`KmsError::InvalidParameter`] over [`CONTEXT_CHARS_MAX`] characters.
pub fn canonical(context: &Context) -> Result<Vec<u8>, KmsError> {
    let texts = || context.iter().flat_map(|(name, value)| [name, value]);
    let chars: usize = texts().map(|text| text.chars().count()).sum();
    if chars > CONTEXT_CHARS_MAX {
        return Err(KmsError::InvalidParameter("EncryptionContext"));
    }
    let mut bytes = Vec::new();
    for text in texts() {
        let length = u32::try_from(text.len()).expect("8192 characters are few bytes");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> Context {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn no_two_contexts_share_a_form() {
        let all = [
            context(&[]),
            context(&[("", "")]),
            context(&[("a", "bc")]),
            context(&[("ab", "c")]),
            context(&[("abc", "")]),
            context(&[("a", "b"), ("c", "d")]),
            context(&[("a", "b\0\0\0\u{1}c\0\0\0\u{1}d")]),
        ];
        for (i, one) in all.iter().enumerate() {
            for other in &all[i + 1..] {
                assert_ne!(canonical(one).unwrap(), canonical(other).unwrap());
            }
        }
        let sorted = canonical(&context(&[("b", "2"), ("a", "1")])).unwrap();
        assert_eq!(sorted, b"\0\0\0\x01a\0\0\0\x011\0\0\0\x01b\0\0\0\x012");
    }

    #[test]
    fn its_characters_are_counted_not_its_bytes() {
        let long = "\u{e9}".repeat(CONTEXT_CHARS_MAX - 1);
        canonical(&context(&[("k", &long)])).unwrap();
        assert!(canonical(&context(&[("ke", &long)])).is_err());
    }
}
