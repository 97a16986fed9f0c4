//! What the catalog keeps of material that is in a token.
//!
//! ```text
//! offset  bytes
//!      0      1  1 = the object is there, 2 = it was destroyed, the same material may come again
//!      1     16  CKA_ID of the object
//!     17     44  check value: vector, a constant under the key, tag
//!     61      n  label of the object, UTF-8
//! ```
//!
//! None of it is secret. The check value takes the place of the mark that material in the catalog
//! leaves behind: who imports again must open it.

use crate::token::{CHECK_BYTES, Check, ID_BYTES, Object};

const PRESENT: u8 = 1;
const DESTROYED: u8 = 2;

/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 256;

/// Material that is or was in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Reference {
    pub(in super::super) object: Object,
    pub(in super::super) is_present: bool,
}

impl Reference {
    /// Reads what [`Reference::written`] wrote.
    pub(in super::super) fn read(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (id, rest) = rest.split_first_chunk::<ID_BYTES>()?;
        let (check, label) = rest.split_first_chunk::<CHECK_BYTES>()?;
        let is_present = match *kind {
            PRESENT => true,
            DESTROYED => false,
            _ => return None,
        };
        let label = std::str::from_utf8(label).ok().filter(|l| l.len() <= LABEL_BYTES_MAX)?;
        let object = Object { id: *id, label: label.to_owned(), check: Check(*check) };
        Some(Self { object, is_present })
    }

    /// For [`crate::catalog::KeyVersionRecord::wrapped_material`].
    pub(in super::super) fn written(&self) -> Vec<u8> {
        let kind = if self.is_present { PRESENT } else { DESTROYED };
        let Object { id, label, check } = &self.object;
        [&[kind][..], id, &check.0, label.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_reads_back_and_others_do_not() {
        let object =
            Object { id: [1; 16], label: "acs/k/v1".into(), check: Check([2; CHECK_BYTES]) };
        for is_present in [true, false] {
            let reference = Reference { object: object.clone(), is_present };
            let bytes = reference.written();
            assert_eq!(Reference::read(&bytes), Some(reference));
            assert_eq!(Reference::read(&bytes[..60]), None);
            assert_eq!(Reference::read(&[&[3], &bytes[1..]].concat()), None);
        }
        assert_eq!(Reference::read(&[]), None);
    }
}
