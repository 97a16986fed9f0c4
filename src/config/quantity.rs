//! Sizes and spans of time as people write them: `10GiB`, `512M`, `30s`.

use std::time::Duration;

use crate::units::ByteCount;

/// Units of size, in powers of 1024. `GB` is left out on purpose: half of its readers mean 10^9.
const SIZE_UNITS: [(&str, u32); 11] = [
    ("", 0),
    ("B", 0),
    ("K", 10),
    ("KiB", 10),
    ("M", 20),
    ("MiB", 20),
    ("G", 30),
    ("GiB", 30),
    ("T", 40),
    ("TiB", 40),
    ("PiB", 50),
];

/// Units of time, in milliseconds.
const SPAN_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

/// Why a text is no quantity. The writer's fault; the message says what would be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It does not begin with a whole number.
    #[error("must begin with a whole number")]
    NoNumber,
    /// Its unit of size is unknown.
    #[error("has an unknown unit; allowed: B, K, KiB, M, MiB, G, GiB, T, TiB, PiB")]
    SizeUnit,
    /// Its unit of time is missing or unknown.
    #[error("has no known unit; allowed: ms, s, m, h")]
    SpanUnit,
    /// It does not fit into 64 bits.
    #[error("is too large")]
    TooLarge,
}

/// Reads `10GiB`, `512M`, `1TiB`, `4096`. Letters may be of either case; a plain number counts
/// bytes.
pub fn parse_size(text: &str) -> Result<ByteCount, QuantityError> {
    let (number, unit) = split(text)?;
    let (_, shift) = SIZE_UNITS
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or(QuantityError::SizeUnit)?;
    number.checked_mul(1 << shift).map(ByteCount::new).ok_or(QuantityError::TooLarge)
}

/// Reads `500ms`, `10s`, `2m`, `1h`.
pub fn parse_span(text: &str) -> Result<Duration, QuantityError> {
    let (number, unit) = split(text)?;
    let (_, factor) =
        SPAN_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or(QuantityError::SpanUnit)?;
    number.checked_mul(factor).map(Duration::from_millis).ok_or(QuantityError::TooLarge)
}

fn split(text: &str) -> Result<(u64, &str), QuantityError> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    if digits.is_empty() {
        return Err(QuantityError::NoNumber);
    }
    let number = digits.parse().map_err(|_| QuantityError::TooLarge)?;
    Ok((number, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("10GiB", 10 << 30),
            ("512M", 512 << 20),
            ("1TiB", 1 << 40),
            ("4096", 4096),
            ("64 kib", 64 << 10),
            ("1b", 1),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(ByteCount::new(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_named() {
        for (text, error) in [
            ("", QuantityError::NoNumber),
            ("GiB", QuantityError::NoNumber),
            ("-1GiB", QuantityError::NoNumber),
            ("10GB", QuantityError::SizeUnit),
            ("1.5GiB", QuantityError::SizeUnit),
            ("10 GiB x", QuantityError::SizeUnit),
            ("99999999999999999999", QuantityError::TooLarge),
            ("20000PiB", QuantityError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }

    #[test]
    fn spans_need_a_unit() {
        assert_eq!(parse_span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_span("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_span("10"), Err(QuantityError::SpanUnit));
        assert_eq!(parse_span("10 parsecs"), Err(QuantityError::SpanUnit));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse_size(&text);
            let _ = parse_span(&text);
        }

        #[test]
        fn a_plain_number_is_itself(bytes: u64) {
            prop_assert_eq!(parse_size(&bytes.to_string()), Ok(ByteCount::new(bytes)));
        }
    }
}
