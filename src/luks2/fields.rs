//! Typed access to the fields of one JSON object, with the name of what is wrong.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::metadata::MetadataError;

/// One object of the metadata and what the specification calls it.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    object: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// The fields of `map`, which is called `object` in errors.
    pub(super) const fn new(object: &'static str, map: &'a Map<String, Value>) -> Self {
        Self { object, map }
    }

    /// The fields of `value`, if it is an object.
    pub(super) fn of(object: &'static str, value: &'a Value) -> Result<Self, MetadataError> {
        let map = value.as_object().ok_or(MetadataError::NotAnObject { object })?;
        Ok(Self { object, map })
    }

    /// Refuses every field that is not in `known`.
    pub(super) fn only(self, known: &[&str]) -> Result<Self, MetadataError> {
        match self.map.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(self),
            Some(key) => {
                let field = key.chars().take(64).collect();
                Err(MetadataError::UnknownField { object: self.object, field })
            }
        }
    }

    /// The value of `field`, if it is there.
    pub(super) fn optional(self, field: &str) -> Option<&'a Value> {
        self.map.get(field)
    }

    /// A field that is an object.
    pub(super) fn object(
        self,
        field: &'static str,
    ) -> Result<&'a Map<String, Value>, MetadataError> {
        self.required(field)?.as_object().ok_or(self.wrong(field))
    }

    /// A field that is a text.
    pub(super) fn text(self, field: &'static str) -> Result<&'a str, MetadataError> {
        self.required(field)?.as_str().ok_or(self.wrong(field))
    }

    /// A 64-bit number, which LUKS2 writes as a decimal text.
    pub(super) fn long(self, field: &'static str) -> Result<u64, MetadataError> {
        decimal(self.text(field)?).ok_or(self.wrong(field))
    }

    /// A 32-bit number, which LUKS2 writes as a number.
    pub(super) fn int(self, field: &'static str) -> Result<u32, MetadataError> {
        let number = self.required(field)?.as_u64();
        number.and_then(|number| u32::try_from(number).ok()).ok_or(self.wrong(field))
    }

    /// A list of texts.
    pub(super) fn texts(self, field: &'static str) -> Result<Vec<String>, MetadataError> {
        texts(self.required(field)?).ok_or(self.wrong(field))
    }

    /// Base64 of `N` bytes.
    pub(super) fn bytes<const N: usize>(
        self,
        field: &'static str,
    ) -> Result<[u8; N], MetadataError> {
        let bytes = STANDARD.decode(self.text(field)?).map_err(|_| self.wrong(field))?;
        bytes.try_into().map_err(|_| self.wrong(field))
    }

    /// The error for a field whose value is not acceptable.
    pub(super) const fn wrong(self, field: &'static str) -> MetadataError {
        MetadataError::WrongValue { object: self.object, field }
    }

    fn required(self, field: &'static str) -> Result<&'a Value, MetadataError> {
        let missing = MetadataError::MissingField { object: self.object, field };
        self.map.get(field).ok_or(missing)
    }
}

/// Every element, if all are texts.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A decimal number in its only form: no sign, no leading zero.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_number_has_one_form() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("18446744073709551615"), Some(u64::MAX));
        for text in ["", "+1", "-1", "01", "1 ", "0x1", "18446744073709551616", "dynamic"] {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
