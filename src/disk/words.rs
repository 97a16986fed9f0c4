//! Names, descriptions and ids of disks, snapshots and images.

use crate::clock::Entropy;

use super::ControlError;

/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 128;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 256;

/// Refuses a name that none of them can have.
pub(super) fn check_name(name: &str) -> Result<(), ControlError> {
    if is_name(name) {
        return Ok(());
    }
    let message = "The disk name must start with a letter and have at most 128 letters, digits, \
                   '.', '_', '-' or ':'.";
    Err(ControlError::refused("InvalidDiskName.Malformed", 400, message))
}

/// As [`check_name`], in the words for snapshots.
pub(super) fn check_snapshot_name(name: &str) -> Result<(), ControlError> {
    if is_name(name) {
        return Ok(());
    }
    let message = "The snapshot name must start with a letter and have at most 128 letters, \
                   digits, '.', '_', '-' or ':'.";
    Err(ControlError::refused("InvalidSnapshotName.Malformed", 400, message))
}

/// As [`check_name`], in the words for images.
pub(super) fn check_image_name(name: &str) -> Result<(), ControlError> {
    if is_name(name) {
        return Ok(());
    }
    let message = "The image name must start with a letter and have at most 128 letters, digits, \
                   '.', '_', '-' or ':'.";
    Err(ControlError::refused("InvalidImageName.Malformed", 400, message))
}

fn is_name(name: &str) -> bool {
    let is_name_char = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
    name.chars().next().is_none_or(char::is_alphabetic)
        && name.chars().all(is_name_char)
        && name.chars().count() <= NAME_CHARS_MAX
}

/// Refuses a description that is too long.
pub(super) fn check_description(description: &str) -> Result<(), ControlError> {
    if description.chars().count() <= DESCRIPTION_CHARS_MAX {
        return Ok(());
    }
    let message = "The description must have at most 256 characters.";
    Err(ControlError::refused("InvalidDescription.Malformed", 400, message))
}

/// `prefix` and 20 lower-case letters or digits: 103 bits, so two are never the same.
pub(super) fn new_id(prefix: &str, entropy: &dyn Entropy) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut id = String::from(prefix);
    while id.len() < prefix.len() + 20 {
        let mut byte = [0];
        entropy.fill(&mut byte);
        // 252 = 7 * 36: higher values would make some letters likelier.
        if byte[0] < 252 {
            id.push(char::from(ALPHABET[usize::from(byte[0] % 36)]));
        }
    }
    id
}
