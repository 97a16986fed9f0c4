//! Keys from passwords (PBKDF2) and from other keys (HKDF), both over SHA-256.

use std::num::NonZeroU32;

use aws_lc_rs::{hkdf, pbkdf2};

use super::stack::with_wiped_stack;
use crate::secret::Secret;

/// Longest output of HKDF over SHA-256, in bytes (RFC 5869, section 2.3).
pub const HKDF_BYTES_MAX: usize = 255 * 32;

/// PBKDF2-HMAC-SHA-256 (RFC 8018) of `password` into all of `out`. The output here is a check value
/// or leaves at once for a [`Secret`]; the caller says which by what it passes.
pub fn pbkdf2_sha256(password: &Secret, salt: &[u8], iterations: NonZeroU32, out: &mut [u8]) {
    with_wiped_stack(|| {
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.expose(), out);
    });
}

/// HKDF-SHA-256 (RFC 5869) with an empty salt: `len` bytes for the use that `info` names.
///
/// # Panics
/// If `len` is over [`HKDF_BYTES_MAX`].
pub fn hkdf_sha256(key: &Secret, info: &[u8], len: usize) -> Secret {
    assert!(len <= HKDF_BYTES_MAX, "HKDF-SHA-256 gives at most {HKDF_BYTES_MAX} bytes");
    Secret::from_fn(len, |out| {
        with_wiped_stack(|| {
            let extracted = hkdf::Salt::none(hkdf::HKDF_SHA256).extract(key.expose());
            let info = [info];
            let expanded = extracted.expand(&info, OutputLen(len));
            let filled = expanded.and_then(|output| output.fill(out));
            filled.expect("the length was checked above");
        });
    })
}

struct OutputLen(usize);

impl hkdf::KeyType for OutputLen {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> Secret {
        Secret::from_fn(bytes.len(), |slot| slot.copy_from_slice(bytes))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn pbkdf2_of_rfc_7914_section_11() {
        let mut out = [0; 64];
        let one = NonZeroU32::new(1).unwrap();
        pbkdf2_sha256(&secret(b"passwd"), b"salt", one, &mut out);
        let expected = "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\
                        49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783";
        assert_eq!(hex(&out), expected);
    }

    #[test]
    fn hkdf_of_rfc_5869_case_3() {
        let okm = hkdf_sha256(&secret(&[0x0b; 22]), b"", 42);
        let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d\
                        9d201395faa4b61a96c8";
        assert_eq!(hex(okm.expose()), expected);
    }

    #[test]
    fn another_use_gives_another_key() {
        let key = secret(&[3; 32]);
        assert_ne!(hkdf_sha256(&key, b"trail", 32), hkdf_sha256(&key, b"canary", 32));
        assert_eq!(hkdf_sha256(&key, b"trail", 0).len(), 0);
    }
}
