//! What can be wrong with a layer, each by its name.

use thiserror::Error;

use crate::luks2::{CopyError, EncodeError, MetadataError, ParseError};
use crate::storage::StorageError;
use crate::units::{ByteCount, DataUnit};

/// Why a layer was not opened, written or read.
#[derive(Debug, Error)]
pub enum LayerError {
    /// No LUKS2 header at either place. Some other file, or both copies were wiped.
    #[error("not a layer: no LUKS2 header")]
    NotALayer,
    /// A LUKS2 header without our token: made by a stock tool. Import its data instead.
    #[error("not a layer: a LUKS2 header without a sealdisk token")]
    NoToken,
    /// More than one of our tokens: somebody edited the header.
    #[error("the header has {found} sealdisk tokens instead of one")]
    TokenCount {
        /// How many.
        found: usize,
    },
    /// Another version of LUKS.
    #[error("LUKS version {found}, only version 2 is read")]
    UnsupportedVersion {
        /// The version it states.
        found: u16,
    },
    /// A layer of a format from the future. Use a newer sealdisk.
    #[error("layer format {found}, this version reads format {}", super::token::FORMAT_VERSION)]
    UnsupportedFormat {
        /// The format it states.
        found: u64,
    },
    /// Both header copies changed by accident. Restore one from a backup of the first 32 KiB.
    #[error("both header copies fail their checksum")]
    ChecksumMismatch,
    /// Neither header copy can be used, for different reasons.
    #[error("no usable header: primary: {primary}; secondary: {secondary}")]
    NoGoodCopy {
        /// What is wrong with the primary copy.
        primary: CopyError,
        /// What is wrong with the secondary copy.
        secondary: CopyError,
    },
    /// Same sequence number or same salt in copies that must differ, or differ where they must
    /// not: somebody edited the header.
    #[error("the header copies contradict each other")]
    CopiesDisagree,
    /// The JSON metadata says something we refuse.
    #[error("the header's metadata is refused: {0}")]
    Metadata(#[source] MetadataError),
    /// Some tool demands that readers know this: a re-encryption under way, say. Finish it there.
    #[error("the header has the unknown mandatory requirement {name:?}")]
    UnknownRequirement {
        /// Its name, cut to 64 characters.
        name: String,
    },
    /// A field of our token is missing or not as we write it.
    #[error("the sealdisk token has an unusable {field}")]
    TokenField {
        /// Which.
        field: &'static str,
    },
    /// A cipher that is not on the allow-list.
    #[error("cipher {name:?} is not allowed")]
    UnknownCipher {
        /// Its name, cut to 64 characters.
        name: String,
    },
    /// No encryption, where a wrapped key, a data key or a parent says that there is some. A known
    /// way to make a reader accept foreign plaintext (CVE-2025-59054).
    #[error("the null cipher is refused for a layer that has a key or a parent")]
    NullCipherRefused,
    /// Two places that must agree do not: somebody edited the header, or swapped files.
    #[error("the header contradicts itself or its key in {field}")]
    HeaderMismatch {
        /// Which.
        field: &'static str,
    },
    /// The caller asks for a layer that cannot be.
    #[error("a layer cannot have this {field}")]
    InvalidSpec {
        /// Which.
        field: &'static str,
    },
    /// What shall change of a layer is not what can change: its parent, and its size upwards.
    #[error("the {field} of a layer never changes")]
    FixedField {
        /// Which.
        field: &'static str,
    },
    /// A layer would lose its end.
    #[error("a layer of {have} cannot shrink to {asked}")]
    Shrinks {
        /// Its size.
        have: ByteCount,
        /// The size asked for.
        asked: ByteCount,
    },
    /// Somebody else wrote the header meanwhile. Read it again.
    #[error("the header was changed meanwhile: sequence number {found}, {seen} was expected")]
    HeaderChanged {
        /// The sequence number that the caller read.
        seen: u64,
        /// The one in the file.
        found: u64,
    },
    /// Formatting would overwrite something.
    #[error("the file already holds {have}")]
    NotEmpty {
        /// Its length.
        have: ByteCount,
    },
    /// Keyslots and tokens that stock tools added leave no room for ours.
    #[error("the header cannot be written: {0}")]
    HeaderTooLarge(#[source] EncodeError),
    /// The layer is encrypted and no key was given.
    #[error("the layer is encrypted and no data key was given")]
    MissingKey,
    /// Not the data key of this layer.
    #[error("wrong data key: it does not match the digest in the header")]
    WrongKey,
    /// FIPS 140-3 IG C.I forbids such keys.
    #[error("both halves of the data key are equal")]
    EqualKeyHalves,
    /// The file is shorter than it must be: cut off, or a copy that lost its end.
    #[error("the file has {have}, its layer needs {need}")]
    Truncated {
        /// Its length.
        have: ByteCount,
        /// The least length.
        need: ByteCount,
    },
    /// A caller of ours went past the end of the layer.
    #[error("{bytes} from unit {} on are not in the layer", first.get())]
    OutOfRange {
        /// First unit asked for.
        first: DataUnit,
        /// How much was asked for.
        bytes: ByteCount,
    },
    /// A caller of ours asked for part of a unit.
    #[error("{bytes} are not a whole number of data units")]
    Misaligned {
        /// How much was asked for.
        bytes: ByteCount,
    },
    /// The data key has encrypted as much as one key may. The layer can still be read.
    #[error(
        "the data key has encrypted {} TiB, the most that one key may: give the disk a new data \
         key (disk rekey)",
        super::KEY_BYTES_MAX >> 40
    )]
    KeyExhausted,
    /// The storage below failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl LayerError {
    /// Whether the device, file system or quota below is full.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_out_of_space())
    }
}

impl From<ParseError> for LayerError {
    fn from(error: ParseError) -> Self {
        use CopyError::{Checksum, NoMagic, Version};
        match error {
            ParseError::NoGoodCopy { primary: NoMagic, secondary: NoMagic } => Self::NotALayer,
            ParseError::NoGoodCopy { primary: Checksum, secondary: Checksum } => {
                Self::ChecksumMismatch
            }
            ParseError::NoGoodCopy { primary: Version { found }, .. } => {
                Self::UnsupportedVersion { found }
            }
            ParseError::NoGoodCopy { primary, secondary } => {
                Self::NoGoodCopy { primary, secondary }
            }
            ParseError::CopiesDisagree | ParseError::SaltsEqual => Self::CopiesDisagree,
            ParseError::Metadata(MetadataError::UnknownRequirement { name }) => {
                Self::UnknownRequirement { name }
            }
            ParseError::Metadata(error) => Self::Metadata(error),
        }
    }
}
