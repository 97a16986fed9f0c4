//! Tags on disks, snapshots and images.

use crate::catalog::{Operation, TagFilter, TagRecord, TaggedType};
use crate::limits;
use crate::ram::Caller;
use crate::trail::{Event, ResourceType, Service};

use super::ControlError;
use super::registry::Disks;

/// Longest name or value of a tag, in characters.
const TAG_CHARS_MAX: usize = 128;

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
        self.recorded_tags(caller, "TagResources", (kind, ids), || {
            check_tags(tags)?;
            let mut change = Vec::new();
            for id in ids {
                self.allow_on(caller, "ecs:TagResources", &thing(kind, id))?;
                self.check_there(kind, id)?;
                let had = self.parts.catalog.tags(&TagFilter::of(kind, id), ALL_TAGS)?;
                let is_new = |tag: &&TagRecord| tags.iter().all(|(key, _)| *key != tag.key);
                check_number(had.iter().filter(is_new).count() + tags.len())?;
                change.extend(put_tags(kind, id, tags));
            }
            let mut event = self.tag_event(caller, "TagResources", (kind, ids));
            for (key, value) in tags {
                event = event.request("Tag", format!("{key}={value}"));
            }
            self.apply_recorded(&change, &event)
        })
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
        self.recorded_tags(caller, "UntagResources", (kind, ids), || {
            let mut change = Vec::new();
            for id in ids {
                self.allow_on(caller, "ecs:UntagResources", &thing(kind, id))?;
                self.check_there(kind, id)?;
                let had = self.parts.catalog.tags(&TagFilter::of(kind, id), ALL_TAGS)?;
                let is_meant = |tag: &TagRecord| keys.is_none_or(|keys| keys.contains(&tag.key));
                change.extend(had.into_iter().filter(is_meant).map(|tag| Operation::DeleteTag {
                    resource_type: kind,
                    resource_id: tag.resource_id,
                    key: tag.key,
                }));
            }
            let event = self.tag_event(caller, "UntagResources", (kind, ids));
            self.apply_recorded(&change, &event)
        })
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
        let things = thing(filter.resource_type, "*");
        let ids = Some(&filter.ids).filter(|ids| !ids.is_empty());
        self.may_list(caller, "ecs:ListTagResources", (&things, "ResourceId"), ids)?;
        Ok(self.parts.catalog.tags(filter, limit)?)
    }

    fn check_there(&self, kind: TaggedType, id: &str) -> Result<(), ControlError> {
        match kind {
            TaggedType::Disk => self.disk(id).map(drop),
            TaggedType::Snapshot => self.snapshot(id).map(drop),
            TaggedType::Image => self.image(id).map(drop),
            TaggedType::Key => {
                let message = "The specified ResourceType is not supported: key.";
                Err(ControlError::refused("InvalidResourceType.NotFound", 404, message))
            }
        }
    }

    fn tag_event(
        &self,
        caller: &Caller,
        action: &'static str,
        (kind, ids): (TaggedType, &[String]),
    ) -> Event {
        let event = Event::new(Service::Ecs, action, self.actor(caller))
            .request("ResourceType", kind.as_str())
            .request("ResourceId", ids.join(","));
        let resource = match kind {
            TaggedType::Key => ResourceType::Key,
            TaggedType::Disk => ResourceType::Disk,
            TaggedType::Snapshot => ResourceType::Snapshot,
            TaggedType::Image => ResourceType::Image,
        };
        ids.iter().fold(event, |event, id| event.resource(resource, id))
    }

    fn recorded_tags(
        &self,
        caller: &Caller,
        action: &'static str,
        things: (TaggedType, &[String]),
        command: impl FnOnce() -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let outcome = command();
        if let Err(error) = &outcome {
            let event = self.tag_event(caller, action, things);
            self.parts.trail.record(&event.error(error.code(), &error.message()))?;
        }
        outcome
    }
}

/// More than one thing can have.
const ALL_TAGS: u64 = 10_000;

/// The steps that put tags on a thing.
pub(super) fn put_tags(kind: TaggedType, id: &str, tags: &[(String, String)]) -> Vec<Operation> {
    let put = |(key, value): &(String, String)| {
        Operation::PutTag(TagRecord {
            resource_type: kind,
            resource_id: id.to_owned(),
            key: key.clone(),
            value: value.clone(),
        })
    };
    tags.iter().map(put).collect()
}

/// Refuses tags that nothing can have.
pub(super) fn check_tags(tags: &[(String, String)]) -> Result<(), ControlError> {
    check_number(tags.len())?;
    let is_long = |text: &str| text.chars().count() > TAG_CHARS_MAX;
    let is_reserved = |key: &str| {
        let key = key.to_ascii_lowercase();
        key.starts_with("aliyun") || key.starts_with("acs:") || key.starts_with("http")
    };
    let bad = |code, message| Err(ControlError::refused(code, 400, message));
    for (key, value) in tags {
        if key.is_empty() || is_long(key) || is_reserved(key) || key.contains(char::is_control) {
            let message = "A tag key has 1 to 128 characters and begins neither with aliyun, acs: \
                           nor http.";
            return bad("InvalidTagKey.Malformed", message);
        }
        if is_long(value) || value.contains(char::is_control) {
            return bad("InvalidTagValue.Malformed", "A tag value has at most 128 characters.");
        }
    }
    Ok(())
}

fn check_number(count: usize) -> Result<(), ControlError> {
    if count <= limits::TAGS_MAX {
        return Ok(());
    }
    let message = format!("One thing has at most {} tags.", limits::TAGS_MAX);
    Err(ControlError::refused("NumberExceed.Tags", 400, message))
}

fn thing(kind: TaggedType, id: &str) -> String {
    format!("{}/{id}", kind.as_str())
}
