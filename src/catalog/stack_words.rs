//! The names of states and kinds of what is in a stack, in the catalog and in the API.

use super::stack::{ImageStatus, JobKind, JobPace, JobState, LayerState, SnapshotStatus};

impl LayerState {
    const ALL: [Self; 5] = [Self::Making, Self::Live, Self::Condemned, Self::Going, Self::Erasing];

    /// Its name in the catalog.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Live => "live",
            Self::Condemned => "condemned",
            Self::Going => "going",
            Self::Erasing => "erasing",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl SnapshotStatus {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Accomplished => "accomplished",
            Self::Failed => "failed",
        }
    }

    /// The status of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Progressing, Self::Accomplished, Self::Failed]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl ImageStatus {
    /// The published name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Available => "Available",
            Self::CreateFailed => "CreateFailed",
        }
    }

    /// The status of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Creating, Self::Available, Self::CreateFailed]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

impl JobKind {
    const ALL: [Self; 7] = [
        Self::Flatten,
        Self::Rekey,
        Self::SetKey,
        Self::Encrypt,
        Self::Merge,
        Self::Copy,
        Self::Resize,
    ];

    /// Its name in the API and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flatten => "flatten",
            Self::Rekey => "rekey",
            Self::SetKey => "set-key",
            Self::Encrypt => "encrypt",
            Self::Merge => "merge",
            Self::Copy => "copy",
            Self::Resize => "resize",
        }
    }

    /// The kind of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl JobState {
    pub(super) const ALL: [Self; 7] = [
        Self::Waiting,
        Self::Running,
        Self::Paused,
        Self::Switching,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Its name in the API and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Switching => "switching",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether it stays so for good.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl JobPace {
    /// Its name in the API and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gentle => "gentle",
            Self::Full => "full",
        }
    }

    /// The pace of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Gentle, Self::Full].into_iter().find(|pace| pace.as_str() == text)
    }
}
