//! The lock on a layer file: an open-file-description lock over the whole file.
//!
//! Not `flock`, because cryptsetup takes that on a LUKS2 file even to read it: `luksDump` on a
//! layer in use must not hang. Not a POSIX record lock, because any close of any descriptor of the
//! file in this process would drop it.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use super::StorageError;

/// Takes the exclusive lock on `file`, held until the last duplicate of its descriptor is closed.
///
/// # Errors
/// [`StorageError::Locked`] if another process (or another descriptor of this one) holds it.
pub(super) fn lock_exclusive(file: &File) -> Result<(), StorageError> {
    let request = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open for the whole call, and `request` is a valid struct flock
    // that the kernel only reads.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if outcome == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(StorageError::Locked),
        _ => Err(StorageError::Io(error)),
    }
}
