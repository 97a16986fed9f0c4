//! What is shown of disks, snapshots and images beside their records: tags, use, progress.
//!
//! Part of a description that was asked for, allowed and recorded as a whole.

use std::collections::BTreeMap;

use crate::catalog::{
    DiskFilter, ImageFilter, JobFilter, JobRecord, Page, TagFilter, TagRecord, TaggedType,
};

use super::registry::Disks;
use super::{ControlError, Source};

/// Tags on one thing, at most; more are not shown.
const TAGS_SHOWN_MAX: u64 = 100;

/// What was made of a snapshot and is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotUse {
    /// Images.
    pub images: bool,
    /// Disks.
    pub disks: bool,
}

impl Disks {
    /// The tags of things of one kind, by id; those without tags are left out.
    ///
    /// # Errors
    /// The catalog's.
    pub fn tags_shown(
        &self,
        kind: TaggedType,
        ids: Vec<String>,
    ) -> Result<BTreeMap<String, Vec<TagRecord>>, ControlError> {
        let mut shown: BTreeMap<String, Vec<TagRecord>> = BTreeMap::new();
        if ids.is_empty() {
            return Ok(shown);
        }
        let limit = TAGS_SHOWN_MAX * ids.len() as u64;
        let filter = TagFilter { resource_type: kind, ids, tags: Vec::new(), after: None };
        for tag in self.parts.catalog.tags(&filter, limit)? {
            shown.entry(tag.resource_id.clone()).or_default().push(tag);
        }
        Ok(shown)
    }

    /// What a snapshot is used for.
    ///
    /// # Errors
    /// The catalog's.
    pub fn snapshot_use(&self, snapshot_id: &str) -> Result<SnapshotUse, ControlError> {
        let one = Page { offset: 0, limit: 1 };
        let source = || Some(snapshot_id.to_owned());
        let images = ImageFilter { source: source(), ..ImageFilter::default() };
        let disks = DiskFilter { source_snapshot: source(), ..DiskFilter::default() };
        Ok(SnapshotUse {
            images: self.parts.catalog.images(&images, one)?.total > 0,
            disks: self.parts.catalog.disks(&disks, one)?.total > 0,
        })
    }

    /// Whether what a new disk begins with is encrypted; nothing, and what is not there, is not.
    ///
    /// # Errors
    /// The catalog's.
    pub fn is_encrypted(&self, source: &Source) -> Result<bool, ControlError> {
        let catalog = &self.parts.catalog;
        Ok(match source {
            Source::Nothing => false,
            Source::Snapshot(id) => catalog.snapshot(id)?.is_some_and(|found| found.encrypted),
            Source::Image(id) => catalog.image(id)?.is_some_and(|found| found.encrypted),
        })
    }

    /// Jobs that are not at their end: what is being made says how far it is.
    ///
    /// # Errors
    /// The catalog's.
    pub fn unfinished_jobs(&self) -> Result<Vec<JobRecord>, ControlError> {
        Ok(self.parts.catalog.jobs(&JobFilter::unfinished(), Page::ALL)?.items)
    }
}
