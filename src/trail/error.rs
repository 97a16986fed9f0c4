//! Why the trail could not be opened, read or written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What went wrong. Cheap to clone: everyone who waited for the same write gets it.
#[derive(Clone, Debug)]
pub enum TrailError {
    /// The journal could not be read or set up.
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
    /// Another process records there.
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A record is not as it was written.
    Damaged(Damage),
    /// No further segment could be made. Nothing was recorded; once there is room, it goes on.
    NoSegment {
        /// The segment.
        path: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
    /// The device is full, and what was half written is gone again. Nothing was recorded; once
    /// there is room, it goes on.
    Full {
        /// The segment.
        path: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
    /// There are segments, and the head that names their last record is gone or damaged.
    NoHead {
        /// Where it should be.
        path: PathBuf,
    },
    /// A write or sync failed: the trail is shut until a restart.
    Poisoned {
        /// What failed.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        source: Arc<io::Error>,
    },
    /// The page token is not one that a lookup gave.
    InvalidToken,
}

/// The first bad record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment it is in.
    pub file: PathBuf,
    /// Its line, counted from 1.
    pub line: u64,
    /// The number it must have.
    pub seq: u64,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It does not have the form of a record.
    NotARecord,
    /// Its text does not match its MAC: it was changed, or the key is another one.
    WrongMac,
    /// It does not follow the record before it: one is missing or was put in between.
    BrokenChain,
    /// The segment ends within it though later ones exist.
    Unfinished,
    /// The segment is larger than any we write.
    TooLong,
    /// The segment's name does not say its first record.
    WrongName,
    /// The signature of a checkpoint is not by this key.
    WrongSignature,
    /// A checkpoint vouches for other lines than those before it.
    WrongDigest,
    /// The segment does not begin with a checkpoint.
    NoCheckpoint,
    /// The head names another record of this number.
    NotTheHead,
    /// The head names a later record than the last one there is.
    CutOff,
}

impl TrailError {
    pub(super) fn io(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source: Arc::new(error) }
    }

    pub(super) fn poisoned(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Poisoned { doing, path: path.to_owned(), source: Arc::new(error) }
    }
}

impl fmt::Display for TrailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, path, source } => {
                write!(f, "trail: {doing} {} failed: {source}", path.display())
            }
            Self::InUse { path } => write!(
                f,
                "trail: another process records in {}; stop it, or name another directory",
                path.display()
            ),
            Self::Damaged(damage) => write!(
                f,
                "trail: {}, line {}: record {} {}; keep the files, start with an empty directory",
                damage.file.display(),
                damage.line,
                damage.seq,
                damage.why
            ),
            Self::NoSegment { path, source } => write!(
                f,
                "trail: segment {} could not be made: {source}; nothing is done until it can",
                path.display()
            ),
            Self::Full { path, source } => write!(
                f,
                "trail: no room to write {}: {source}; nothing is done until there is",
                path.display()
            ),
            Self::NoHead { path } => write!(
                f,
                "trail: {} is missing or damaged, so nobody can tell whether the end of the trail \
                 was cut off; keep the files, start with an empty directory",
                path.display()
            ),
            Self::Poisoned { doing, path, source } => write!(
                f,
                "trail: shut since {doing} {} failed: {source}; mend that and restart",
                path.display()
            ),
            Self::InvalidToken => f.write_str("trail: the page token is not one of ours"),
        }
    }
}

impl std::error::Error for TrailError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. }
            | Self::NoSegment { source, .. }
            | Self::Full { source, .. }
            | Self::Poisoned { source, .. } => Some(source.as_ref()),
            Self::InUse { .. } | Self::NoHead { .. } | Self::Damaged(_) | Self::InvalidToken => {
                None
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotARecord => "does not have the form of a record",
            Self::WrongMac => "does not match its MAC (changed, or another key)",
            Self::BrokenChain => "does not follow the one before (one is missing or was put in)",
            Self::Unfinished => "is unfinished though later segments exist",
            Self::TooLong => "lies in a segment larger than any we write",
            Self::WrongName => "lies in a segment whose name does not tell its first record",
            Self::WrongSignature => "is a checkpoint that this key did not sign",
            Self::WrongDigest => {
                "is a checkpoint that does not fit the records before it: one of them was changed"
            }
            Self::NoCheckpoint => "begins a segment and is no checkpoint",
            Self::NotTheHead => "is not the record that the head names",
            Self::CutOff => "is missing, by the head: the end of the trail was cut off",
        })
    }
}
