//! Tags on disks, snapshots and images.

use crate::catalog::{TagFilter, TagRecord, TaggedType};
use crate::ram::Caller;

use super::ControlError;
use super::registry::Disks;

impl Disks {
    /// Puts tags on things of one kind; all or none.
    ///
    /// # Errors
    /// The kind's `….NotFound`; `InvalidTagKey.Malformed`, `InvalidTagValue.Malformed`,
    /// `NumberExceed.Tags` for more than 20 on one thing.
    pub fn tag(
        &self,
        caller: &Caller,
        (kind, ids): (TaggedType, &[String]),
        tags: &[(String, String)],
    ) -> Result<(), ControlError> {
        let _ = (caller, kind, ids, tags);
        Err(ControlError::unsupported("TagResources"))
    }

    /// Takes tags of these names off things of one kind; `None`: all tags.
    ///
    /// # Errors
    /// The kind's `….NotFound`.
    pub fn untag(
        &self,
        caller: &Caller,
        (kind, ids): (TaggedType, &[String]),
        keys: Option<&[String]>,
    ) -> Result<(), ControlError> {
        let _ = (caller, kind, ids, keys);
        Err(ControlError::unsupported("UntagResources"))
    }

    /// The first `limit` tags that meet `filter`, by thing and name.
    ///
    /// # Errors
    /// `Forbidden.RAM`, or the catalog's.
    pub fn list_tags(
        &self,
        caller: &Caller,
        filter: &TagFilter,
        limit: u64,
    ) -> Result<Vec<TagRecord>, ControlError> {
        let _ = caller;
        Ok(self.parts.catalog.tags(filter, limit)?)
    }
}
