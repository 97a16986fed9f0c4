//! The errors a reply can carry (spec, "Error values"). There is no other way to put an error on
//! the wire, so a number of the operating system cannot leak.

use std::fmt;

use crate::disk::DiskError;

/// Why a request failed, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Errno {
    /// `NBD_EPERM`: a write to a read-only export.
    Perm = 1,
    /// `NBD_EIO`: storage failed.
    Io = 5,
    /// `NBD_ENOMEM`: known for completeness; the spec says to avoid it.
    NoMem = 12,
    /// `NBD_EINVAL`: the request itself is wrong.
    Inval = 22,
    /// `NBD_ENOSPC`: storage is full, or a write reaches past the end.
    NoSpc = 28,
    /// `NBD_EOVERFLOW`: a read longer than we answer in one go.
    Overflow = 75,
    /// `NBD_ENOTSUP`: a fast zero that would not be fast.
    NotSup = 95,
    /// `NBD_ESHUTDOWN`: the server is stopping.
    Shutdown = 108,
}

impl Errno {
    /// Every error there is, in the order of its number.
    pub const ALL: [Self; 8] = [
        Self::Perm,
        Self::Io,
        Self::NoMem,
        Self::Inval,
        Self::NoSpc,
        Self::Overflow,
        Self::NotSup,
        Self::Shutdown,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// The name the spec gives it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Perm => "NBD_EPERM",
            Self::Io => "NBD_EIO",
            Self::NoMem => "NBD_ENOMEM",
            Self::Inval => "NBD_EINVAL",
            Self::NoSpc => "NBD_ENOSPC",
            Self::Overflow => "NBD_EOVERFLOW",
            Self::NotSup => "NBD_ENOTSUP",
            Self::Shutdown => "NBD_ESHUTDOWN",
        }
    }
}

/// The one table from a disk's error to the wire.
impl From<&DiskError> for Errno {
    fn from(error: &DiskError) -> Self {
        match error {
            DiskError::OutOfSpace => Self::NoSpc,
            DiskError::NotFaster => Self::NotSup,
            DiskError::Closing => Self::Shutdown,
            DiskError::Layer(_)
            | DiskError::FlushLost
            | DiskError::Fenced
            | DiskError::KeyExhausted
            | DiskError::Stack(_) => Self::Io,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_protocol() {
        assert_eq!(Errno::ALL.map(Errno::code), [1, 5, 12, 22, 28, 75, 95, 108]);
    }
}
