//! The head: which record is the last one, kept beside the segments.
//!
//! Lines that are cut off the end of the journal leave no mark in what remains. So after each batch
//! the number and the MAC of its last record are put here, under a MAC of their own. That is not
//! synced: after a power cut the head may be behind the journal, and never ahead of it.
//!
//! Two slots in turn, a sector each, so that a torn write leaves the other one.

use std::io;

use serde::Deserialize;

use super::chain::{Mac, hex, unhex};
use super::files::{SegmentFile, SegmentFiles};
use super::segment::Link;
use super::{TrailError, journal, segment};
use crate::crypto::mac::{constant_time_eq, hmac_sha256};
use crate::secret::Secret;

/// Bytes of a slot.
const SLOT_BYTES: usize = 512;

const LABEL: &[u8] = b"sealdisk-trail/head/v1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slot {
    seq: u64,
    last: String,
    mac: String,
}

/// The head of a journal that is being written.
pub(super) struct Head {
    file: Box<dyn SegmentFile>,
    next_slot: u64,
    is_failing: bool,
}

impl Head {
    /// Opens the head and reads it; makes it if `may_create`.
    pub(super) fn open(
        files: &dyn SegmentFiles,
        key: &Secret,
        may_create: bool,
    ) -> Result<(Self, Option<Link>), TrailError> {
        let failed = |error| TrailError::io("opening", &files.path(super::files::HEAD_NAME), error);
        let file = match files.head(may_create) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TrailError::NoHead { path: files.path(super::files::HEAD_NAME) });
            }
            Err(error) => return Err(failed(error)),
        };
        let slots = read_slots(file.as_ref(), Some(key)).map_err(failed)?;
        let (link, next_slot) = match newest(&slots) {
            Some((slot, link)) => (Some(link), 1 - slot),
            None if may_create => {
                // Both slots get their place on the medium now: later writes need no room.
                let both = [slot_bytes(key, Link::START), slot_bytes(key, Link::START)].concat();
                let made = journal::write_full(file.as_ref(), &both, 0).and_then(|()| file.sync());
                made.map_err(failed)?;
                (Some(Link::START), 0)
            }
            None => (None, 0),
        };
        Ok((Self { file, next_slot, is_failing: false }, link))
    }

    /// Puts the last record down. What cannot be written is told once: the record itself is safe.
    pub(super) fn put(&mut self, key: &Secret, link: Link) {
        let at = self.next_slot * SLOT_BYTES as u64;
        match journal::write_full(self.file.as_ref(), &slot_bytes(key, link), at) {
            Ok(()) => {
                self.next_slot = 1 - self.next_slot;
                self.is_failing = false;
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::error!(%error, "the trail's head cannot be written: an end that is cut \
                     off from now on would not be noticed");
            }
            Err(_) => {}
        }
    }
}

/// The head of a journal that is only read; `None` if there is none.
pub(super) fn read(
    files: &dyn SegmentFiles,
    key: Option<&Secret>,
) -> Result<Option<Link>, TrailError> {
    let failed = |error| TrailError::io("reading", &files.path(super::files::HEAD_NAME), error);
    match files.head(false) {
        Ok(file) => {
            let slots = read_slots(file.as_ref(), key).map_err(failed)?;
            let link = newest(&slots).map(|(_, link)| link);
            link.map(Some)
                .ok_or_else(|| TrailError::NoHead { path: files.path(super::files::HEAD_NAME) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn newest(slots: &[Option<Link>; 2]) -> Option<(u64, Link)> {
    match *slots {
        [Some(first), Some(second)] if second.seq > first.seq => Some((1, second)),
        [Some(first), _] => Some((0, first)),
        [None, Some(second)] => Some((1, second)),
        [None, None] => None,
    }
}

fn read_slots(file: &dyn SegmentFile, key: Option<&Secret>) -> io::Result<[Option<Link>; 2]> {
    let mut bytes = [0; SLOT_BYTES * 2];
    let read = segment::read_full(file, &mut bytes, 0)?;
    let slot = |index: usize| {
        let slot = bytes[..read].get(index * SLOT_BYTES..(index + 1) * SLOT_BYTES)?;
        let slot: Slot = serde_json::from_slice(slot).ok()?;
        let (last, mac) = (unhex(&slot.last)?, unhex(&slot.mac)?);
        let is_sound = key.is_none_or(|key| constant_time_eq(&sealed(key, slot.seq, &last), &mac));
        is_sound.then_some(Link { seq: slot.seq, mac: last })
    };
    Ok([slot(0), slot(1)])
}

fn slot_bytes(key: &Secret, link: Link) -> Vec<u8> {
    let Link { seq, mac: last } = link;
    let mac = hex(&sealed(key, seq, &last));
    let text = format!("{{\"seq\":{seq},\"last\":\"{}\",\"mac\":\"{mac}\"}}", hex(&last));
    let mut bytes = format!("{text:511}").into_bytes();
    bytes.push(b'\n');
    bytes
}

fn sealed(key: &Secret, seq: u64, last: &Mac) -> Mac {
    hmac_sha256(key, &[LABEL, &seq.to_be_bytes(), last])
}
