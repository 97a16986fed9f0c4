//! The binary part of a header copy: 4096 bytes, big-endian, of which 512 carry something
//! (specification, section 2.1).

use std::fmt;

use thiserror::Error;
use uuid::Uuid;

use super::{BINARY_BYTES, COPY_BYTES};
use crate::crypto::mac::{constant_time_eq, sha256};

/// Bytes of the salt that makes both copies' checksums differ.
pub(super) const SALT_BYTES: usize = 64;

/// Bytes of a label's field, its NUL included.
pub(super) const LABEL_BYTES: usize = 48;

const VERSION: u16 = 2;
const CHECKSUM_NAME: &[u8] = b"sha256";
const SHA256_BYTES: usize = 32;

// Where each field starts, and how long it is.
const MAGIC: Field = Field(0, 6);
const VERSION_FIELD: Field = Field(6, 2);
const SIZE: Field = Field(8, 8);
const SEQID: Field = Field(16, 8);
const LABEL: Field = Field(24, LABEL_BYTES);
const CHECKSUM_ALGORITHM: Field = Field(72, 32);
const SALT: Field = Field(104, SALT_BYTES);
const UUID: Field = Field(168, 40);
const SUBSYSTEM: Field = Field(208, LABEL_BYTES);
const POSITION: Field = Field(256, 8);
const PADDING: Field = Field(264, 184);
const CHECKSUM: Field = Field(448, 64);
const PADDING_TO_4096: Field = Field(512, BINARY_BYTES - 512);

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// At the start of the file.
    Primary,
    /// Right behind the primary.
    Secondary,
}

impl Which {
    /// Where the copy starts in the file, in bytes.
    pub const fn position(self) -> u64 {
        match self {
            Self::Primary => 0,
            Self::Secondary => COPY_BYTES as u64,
        }
    }

    /// The other copy.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    const fn magic(self) -> &'static [u8; 6] {
        match self {
            Self::Primary => b"LUKS\xba\xbe",
            Self::Secondary => b"SKUL\xba\xbe",
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// Why one copy does not count. The other copy may still do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CopyError {
    /// Fewer bytes than a copy has.
    #[error("cut off after {have} bytes")]
    Short {
        /// Bytes that were there.
        have: usize,
    },
    /// It does not start as this copy must: wiped, or never written.
    #[error("no LUKS magic")]
    NoMagic,
    /// Another version of LUKS.
    #[error("LUKS version {found}, not 2")]
    Version {
        /// The version it states.
        found: u16,
    },
    /// A size of header that we do not write.
    #[error("header size {found}, not {COPY_BYTES}")]
    Size {
        /// The size it states.
        found: u64,
    },
    /// A checksum algorithm other than SHA-256.
    #[error("unknown checksum algorithm")]
    ChecksumAlgorithm,
    /// Some byte changed by accident.
    #[error("checksum mismatch")]
    Checksum,
    /// It was written for another place in the file.
    #[error("written for byte {found} of the file")]
    Position {
        /// The place it states.
        found: u64,
    },
    /// A field that must be zero, or a text that must end in zeros, is not.
    #[error("stray bytes in a reserved field or behind a text")]
    StrayBytes,
    /// The UUID is not one, or not in lower case with hyphens.
    #[error("the UUID cannot be read")]
    Uuid,
}

/// What the binary part says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binary {
    pub(super) seqid: u64,
    pub(super) uuid: Uuid,
    pub(super) label: String,
    pub(super) subsystem: String,
    pub(super) salt: [u8; SALT_BYTES],
}

struct Field(usize, usize);

impl Field {
    fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.0..self.0 + self.1]
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        self.of(bytes).iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn put(&self, bytes: &mut [u8], value: &[u8]) {
        bytes[self.0..self.0 + value.len()].copy_from_slice(value);
    }

    fn is_zero(&self, bytes: &[u8]) -> bool {
        self.of(bytes).iter().all(|byte| *byte == 0)
    }

    /// The text up to the first NUL; what follows must be NULs.
    fn text<'a>(&self, bytes: &'a [u8]) -> Result<&'a str, CopyError> {
        let field = self.of(bytes);
        let end = field.iter().position(|byte| *byte == 0).ok_or(CopyError::StrayBytes)?;
        let (text, rest) = field.split_at(end);
        if rest.iter().any(|byte| *byte != 0) {
            return Err(CopyError::StrayBytes);
        }
        std::str::from_utf8(text).map_err(|_| CopyError::StrayBytes)
    }
}

/// Reads the binary part of `copy`, which is whole: binary part and JSON area.
pub(super) fn decode(which: Which, copy: &[u8]) -> Result<Binary, CopyError> {
    if copy.len() != COPY_BYTES {
        return Err(CopyError::Short { have: copy.len() });
    }
    if MAGIC.of(copy) != which.magic() {
        return Err(CopyError::NoMagic);
    }
    check_frame(which, copy)?;
    let text = UUID.text(copy)?;
    let uuid = Uuid::try_parse(text).map_err(|_| CopyError::Uuid)?;
    if uuid.hyphenated().to_string() != text {
        return Err(CopyError::Uuid);
    }
    let mut salt = [0; SALT_BYTES];
    salt.copy_from_slice(SALT.of(copy));
    Ok(Binary {
        seqid: SEQID.number(copy),
        uuid,
        label: LABEL.text(copy)?.to_owned(),
        subsystem: SUBSYSTEM.text(copy)?.to_owned(),
        salt,
    })
}

fn check_frame(which: Which, copy: &[u8]) -> Result<(), CopyError> {
    let version = VERSION_FIELD.number(copy) as u16;
    if version != VERSION {
        return Err(CopyError::Version { found: version });
    }
    let size = SIZE.number(copy);
    if size != COPY_BYTES as u64 {
        return Err(CopyError::Size { found: size });
    }
    if CHECKSUM_ALGORITHM.text(copy)?.as_bytes() != CHECKSUM_NAME {
        return Err(CopyError::ChecksumAlgorithm);
    }
    let (sum, rest) = CHECKSUM.of(copy).split_at(SHA256_BYTES);
    if !constant_time_eq(sum, &checksum(copy)) {
        return Err(CopyError::Checksum);
    }
    let position = POSITION.number(copy);
    if position != which.position() {
        return Err(CopyError::Position { found: position });
    }
    let has_stray = rest.iter().any(|byte| *byte != 0)
        || !PADDING.is_zero(copy)
        || !PADDING_TO_4096.is_zero(copy);
    if has_stray { Err(CopyError::StrayBytes) } else { Ok(()) }
}

/// Writes the binary part over `copy`, whose JSON area is already filled, checksum last.
/// `label` and `subsystem` are as [`decode`] gave them, or shorter than 48 bytes.
pub(super) fn encode(which: Which, binary: &Binary, copy: &mut [u8]) {
    copy[..BINARY_BYTES].fill(0);
    MAGIC.put(copy, which.magic());
    VERSION_FIELD.put(copy, &VERSION.to_be_bytes());
    SIZE.put(copy, &(COPY_BYTES as u64).to_be_bytes());
    SEQID.put(copy, &binary.seqid.to_be_bytes());
    LABEL.put(copy, binary.label.as_bytes());
    CHECKSUM_ALGORITHM.put(copy, CHECKSUM_NAME);
    SALT.put(copy, &binary.salt);
    UUID.put(copy, binary.uuid.hyphenated().to_string().as_bytes());
    SUBSYSTEM.put(copy, binary.subsystem.as_bytes());
    POSITION.put(copy, &which.position().to_be_bytes());
    let sum = checksum(copy);
    CHECKSUM.put(copy, &sum);
}

/// SHA-256 over the whole copy with the checksum field taken as zeros.
fn checksum(copy: &[u8]) -> [u8; SHA256_BYTES] {
    let end = CHECKSUM.0 + CHECKSUM.1;
    sha256(&[&copy[..CHECKSUM.0], &[0; CHECKSUM.1], &copy[end..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary() -> Binary {
        Binary {
            seqid: 0x0102_0304_0506_0708,
            uuid: Uuid::from_u128(0x0a27_3a72_4ffc_42e7_9576_ed53_79d1_e32a),
            label: "label".to_owned(),
            subsystem: String::new(),
            salt: [7; SALT_BYTES],
        }
    }

    fn copy(which: Which) -> Vec<u8> {
        let mut copy = vec![0; COPY_BYTES];
        copy[BINARY_BYTES] = b'{';
        encode(which, &binary(), &mut copy);
        copy
    }

    #[test]
    fn reads_back_what_it_wrote() {
        for which in [Which::Primary, Which::Secondary] {
            assert_eq!(decode(which, &copy(which)), Ok(binary()));
            assert_eq!(decode(which.other(), &copy(which)), Err(CopyError::NoMagic));
        }
    }

    #[test]
    fn no_byte_can_change_unnoticed() {
        let good = copy(Which::Primary);
        for at in 0..COPY_BYTES {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(decode(Which::Primary, &bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn each_refusal_has_its_name() {
        let resum = |mut bad: Vec<u8>| {
            let sum = checksum(&bad);
            CHECKSUM.put(&mut bad, &sum);
            decode(Which::Primary, &bad).err()
        };
        let changed = |field: &Field, value: &[u8]| {
            let mut bad = copy(Which::Primary);
            field.put(&mut bad, value);
            resum(bad)
        };
        assert_eq!(changed(&VERSION_FIELD, &[0, 1]), Some(CopyError::Version { found: 1 }));
        assert_eq!(changed(&SIZE, &[0; 8]), Some(CopyError::Size { found: 0 }));
        assert_eq!(changed(&CHECKSUM_ALGORITHM, b"sha512"), Some(CopyError::ChecksumAlgorithm));
        assert_eq!(changed(&POSITION, &[1]), Some(CopyError::Position { found: 1 << 56 }));
        assert_eq!(changed(&PADDING, &[1]), Some(CopyError::StrayBytes));
        assert_eq!(changed(&PADDING_TO_4096, &[1]), Some(CopyError::StrayBytes));
        assert_eq!(changed(&UUID, b"zz"), Some(CopyError::Uuid));
        assert_eq!(changed(&LABEL, &[b'x'; 48]), Some(CopyError::StrayBytes));
        assert_eq!(changed(&LABEL, b"a\0b"), Some(CopyError::StrayBytes));
        let short = decode(Which::Primary, &[0; 100]);
        assert_eq!(short, Err(CopyError::Short { have: 100 }));
    }
}
