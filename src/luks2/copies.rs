//! Two copies of one header: which of them counts, and how a copy is made.

use thiserror::Error;
use uuid::Uuid;

use super::binary::{self, Binary, CopyError, LABEL_BYTES, SALT_BYTES, Which};
use super::metadata::{Metadata, MetadataError};
use super::{BINARY_BYTES, COPY_BYTES, JSON_BYTES};
use crate::clock::Entropy;

/// What both copies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Grows by one with each update.
    pub seqid: u64,
    /// Names the file; ours is the layer's id.
    pub uuid: Uuid,
    /// A label that a stock tool may set; kept.
    pub label: String,
    /// A second label; kept.
    pub subsystem: String,
    /// The JSON part.
    pub metadata: Metadata,
}

/// A header and the state of its copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What counts.
    pub header: Header,
    /// Whether both copies say so.
    pub condition: Condition,
}

/// The state of the two copies. In all of these the header can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Both are whole and say the same.
    Sound,
    /// One cannot be used; writing the header again repairs it.
    OneBad {
        /// Which.
        copy: Which,
        /// What is wrong with it.
        why: CopyError,
    },
    /// One is older: an update was cut off between the copies.
    OneBehind {
        /// Which.
        copy: Which,
        /// The older sequence number.
        seqid: u64,
    },
}

/// Why the bytes are no header that we use.
#[derive(Debug, Error)]
pub enum ParseError {
    /// Neither copy can be used.
    #[error("no usable LUKS2 header: primary: {primary}; secondary: {secondary}")]
    NoGoodCopy {
        /// What is wrong with the primary copy.
        primary: CopyError,
        /// What is wrong with the secondary copy.
        secondary: CopyError,
    },
    /// Same sequence number, different content: no update does that.
    #[error("the header copies have one sequence number and different contents")]
    CopiesDisagree,
    /// Both checksums are salted alike: one copy was made from the other by hand.
    #[error("the header copies have the same salt")]
    SaltsEqual,
    /// The copy that counts is whole and says something we refuse.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Why a header cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Keyslots and tokens of other tools take the room.
    #[error("the metadata takes {need} bytes, there is room for {JSON_BYTES}")]
    TooLarge {
        /// Bytes it would take.
        need: usize,
    },
    /// Label or subsystem does not fit its field.
    #[error("a label has at most {} bytes", LABEL_BYTES - 1)]
    LabelTooLong,
}

/// Reads both copies, as found at [`Which::position`] of each. Any bytes of any length will do.
///
/// # Errors
/// No usable copy, copies that contradict each other, or metadata that we refuse.
pub fn parse(primary: &[u8], secondary: &[u8]) -> Result<Parsed, ParseError> {
    let first = binary::decode(Which::Primary, primary);
    let second = binary::decode(Which::Secondary, secondary);
    let (which, binary, condition) = match (first, second) {
        (Err(primary), Err(secondary)) => {
            return Err(ParseError::NoGoodCopy { primary, secondary });
        }
        (Ok(first), Err(why)) => {
            (Which::Primary, first, Condition::OneBad { copy: Which::Secondary, why })
        }
        (Err(why), Ok(second)) => {
            (Which::Secondary, second, Condition::OneBad { copy: Which::Primary, why })
        }
        (Ok(first), Ok(second)) => choose(first, second, primary, secondary)?,
    };
    let area = match which {
        Which::Primary => &primary[BINARY_BYTES..],
        Which::Secondary => &secondary[BINARY_BYTES..],
    };
    let metadata = Metadata::decode(area)?;
    let Binary { seqid, uuid, label, subsystem, .. } = binary;
    Ok(Parsed { header: Header { seqid, uuid, label, subsystem, metadata }, condition })
}

type Choice = (Which, Binary, Condition);

fn choose(
    first: Binary,
    second: Binary,
    primary: &[u8],
    secondary: &[u8],
) -> Result<Choice, ParseError> {
    if first.salt == second.salt {
        return Err(ParseError::SaltsEqual);
    }
    if first.seqid > second.seqid {
        let behind = Condition::OneBehind { copy: Which::Secondary, seqid: second.seqid };
        return Ok((Which::Primary, first, behind));
    }
    if first.seqid < second.seqid {
        let behind = Condition::OneBehind { copy: Which::Primary, seqid: first.seqid };
        return Ok((Which::Secondary, second, behind));
    }
    let same = first.uuid == second.uuid
        && first.label == second.label
        && first.subsystem == second.subsystem
        && primary[BINARY_BYTES..] == secondary[BINARY_BYTES..];
    if same {
        Ok((Which::Primary, first, Condition::Sound))
    } else {
        Err(ParseError::CopiesDisagree)
    }
}

/// Whether `header` fits its place.
///
/// # Errors
/// As [`encode_copy`].
pub fn check_room(header: &Header) -> Result<(), EncodeError> {
    fitting_json(header).map(drop)
}

fn fitting_json(header: &Header) -> Result<String, EncodeError> {
    if header.label.len() >= LABEL_BYTES || header.subsystem.len() >= LABEL_BYTES {
        return Err(EncodeError::LabelTooLong);
    }
    let json = header.metadata.to_json().to_string();
    // The area ends in at least one NUL.
    if json.len() >= JSON_BYTES {
        return Err(EncodeError::TooLarge { need: json.len() + 1 });
    }
    Ok(json)
}

/// Makes one copy of `header`, salted from `entropy`: [`COPY_BYTES`] bytes.
///
/// # Errors
/// The metadata does not fit its area, or a label its field.
pub fn encode_copy(
    header: &Header,
    which: Which,
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, EncodeError> {
    let json = fitting_json(header)?;
    let mut copy = vec![0; COPY_BYTES];
    copy[BINARY_BYTES..BINARY_BYTES + json.len()].copy_from_slice(json.as_bytes());
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt);
    let Header { seqid, uuid, label, subsystem, .. } = header.clone();
    binary::encode(which, &Binary { seqid, uuid, label, subsystem, salt }, &mut copy);
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::super::{Digest, Segment, SegmentSize};
    use super::*;
    use crate::clock::SeededEntropy;
    use proptest::prelude::*;
    use serde_json::{Map, json};

    fn header(seqid: u64) -> Header {
        let tokens = json!({"0": {"type": "x", "keyslots": []}});
        Header {
            seqid,
            uuid: Uuid::from_u128(5),
            label: String::new(),
            subsystem: String::new(),
            metadata: Metadata {
                segment: Segment {
                    offset: 1 << 20,
                    size: SegmentSize::Exact(8192),
                    iv_tweak: 0,
                    encryption: "aes-xts-plain64".to_owned(),
                    sector_size: 4096,
                },
                digest: Some(Digest {
                    keyslots: vec![],
                    iterations: 1000,
                    salt: [1; 32],
                    digest: [2; 32],
                }),
                tokens: tokens.as_object().unwrap().clone(),
                keyslots: Map::new(),
                keyslots_size: 1 << 19,
                flags: vec!["allow-discards".to_owned()],
                requirements: vec![super::super::REQUIREMENT_CHAIN.to_owned()],
            },
        }
    }

    fn copies(header: &Header) -> [Vec<u8>; 2] {
        let entropy = SeededEntropy::new(header.seqid);
        [Which::Primary, Which::Secondary]
            .map(|which| encode_copy(header, which, &entropy).unwrap())
    }

    #[test]
    fn reads_back_what_it_wrote() {
        let [primary, secondary] = copies(&header(4));
        let parsed = parse(&primary, &secondary).unwrap();
        assert_eq!(parsed, Parsed { header: header(4), condition: Condition::Sound });
    }

    #[test]
    fn one_bad_copy_is_named_and_survived() {
        let [primary, secondary] = copies(&header(4));
        let wiped = vec![0; COPY_BYTES];
        for (first, second, copy) in
            [(&wiped, &secondary, Which::Primary), (&primary, &wiped, Which::Secondary)]
        {
            let parsed = parse(first, second).unwrap();
            assert_eq!(parsed.header, header(4));
            assert_eq!(parsed.condition, Condition::OneBad { copy, why: CopyError::NoMagic });
        }
        assert!(matches!(parse(&wiped, &wiped), Err(ParseError::NoGoodCopy { .. })));
    }

    #[test]
    fn the_newer_copy_counts() {
        let ([old_primary, old_secondary], [new_primary, new_secondary]) =
            (copies(&header(4)), copies(&header(5)));
        let parsed = parse(&old_primary, &new_secondary).unwrap();
        assert_eq!(parsed.header.seqid, 5);
        let behind = Condition::OneBehind { copy: Which::Primary, seqid: 4 };
        assert_eq!(parsed.condition, behind);
        let parsed = parse(&new_primary, &old_secondary).unwrap();
        assert_eq!(parsed.header.seqid, 5);
        let behind = Condition::OneBehind { copy: Which::Secondary, seqid: 4 };
        assert_eq!(parsed.condition, behind);
    }

    #[test]
    fn contradicting_copies_are_refused() {
        let mut other = header(4);
        other.metadata.segment.sector_size = 512;
        let entropy = SeededEntropy::new(99);
        let forged = encode_copy(&other, Which::Secondary, &entropy).unwrap();
        let [primary, _] = copies(&header(4));
        assert!(matches!(parse(&primary, &forged), Err(ParseError::CopiesDisagree)));
    }

    #[test]
    fn equal_salts_are_refused() {
        let [primary, secondary] = [Which::Primary, Which::Secondary]
            .map(|which| encode_copy(&header(4), which, &SeededEntropy::new(1)).unwrap());
        assert!(matches!(parse(&primary, &secondary), Err(ParseError::SaltsEqual)));
    }

    #[test]
    fn a_token_too_many_is_refused() {
        let mut large = header(4);
        large.metadata.flags = vec!["x".repeat(JSON_BYTES)];
        let refused = encode_copy(&large, Which::Primary, &SeededEntropy::new(1));
        assert!(matches!(refused, Err(EncodeError::TooLarge { .. })));
    }

    proptest! {
        #[test]
        fn any_json_text_is_read_or_refused(text in ".{0,300}") {
            let mut area = text.into_bytes();
            area.resize(JSON_BYTES, 0);
            let _ = Metadata::decode(&area);
        }

        #[test]
        fn any_bytes_are_refused(first in any::<Vec<u8>>(), second in any::<Vec<u8>>()) {
            prop_assert!(parse(&first, &second).is_err());
        }
    }
}
