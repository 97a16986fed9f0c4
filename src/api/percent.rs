//! Percent-encoding: read strictly, written in the one form that signatures are made over.

/// Why a text cannot be decoded. The writer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PercentError {
    /// `%` is not followed by two hex digits.
    #[error("a % lacks two hex digits")]
    Digits,
    /// The bytes are no UTF-8.
    #[error("a value is no UTF-8")]
    Utf8,
}

/// Undoes `application/x-www-form-urlencoded`: `+` is a space, `%` is followed by two hex digits,
/// the result is UTF-8.
pub fn decode(text: &str) -> Result<String, PercentError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = rest.next().and_then(hex).zip(rest.next().and_then(hex));
                let (high, low) = pair.ok_or(PercentError::Digits)?;
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| PercentError::Utf8)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Appends `text` with everything but RFC 3986's unreserved characters (letters, digits, `-_.~`)
/// percent-encoded, in upper case. Up to three bytes for each one.
pub fn encode_into(encoded: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        let mut encoded = String::new();
        encode_into(&mut encoded, "alias/a b~*ü+%");
        assert_eq!(encoded, "alias%2Fa%20b~%2A%C3%BC%2B%25");
        assert_eq!(decode("a+b%20c").as_deref(), Ok("a b c"));
        assert_eq!(decode("%4"), Err(PercentError::Digits));
        assert_eq!(decode("%zz"), Err(PercentError::Digits));
        assert_eq!(decode("%ff"), Err(PercentError::Utf8));
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(text in ".*") {
            let mut encoded = String::new();
            encode_into(&mut encoded, &text);
            prop_assert_eq!(decode(&encoded).unwrap(), text);
        }
    }
}
