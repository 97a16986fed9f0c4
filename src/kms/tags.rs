//! Tags on keys. A policy can ask for them (`kms:tag/<key>`), so putting one on is a matter of
//! permission on the key.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::call::Call;
use super::{Action, Kms, KmsError, state};
use crate::catalog::{KeyRecord, Operation, TagFilter, TagRecord, TaggedType};
use crate::ram::Caller;

/// The owner's consent, with value `true`, that the disk service uses a key. The one name of the
/// services' that a user may set: the service asks for it and sets it in its user's name.
pub const DISK_CONSENT_TAG: &str = "acs:ecs:disk-encryption";

/// Names that begin so are the services'.
const RESERVED_PREFIXES: [&str; 2] = ["aliyun", "acs:"];
/// Characters of a name or a value.
const TEXT_CHARS_MAX: usize = 128;
/// Tags on a key; one more: `Rejected.LimitExceeded`.
const TAGS_MAX: usize = 20;
/// Keys in one TagResources or UntagResources.
const KEYS_AT_ONCE_MAX: usize = 50;
/// Tags on one page of ListTagResources.
const PAGE_TAGS: usize = 100;

/// What is taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untag {
    /// Tags of these names; those that are not there are passed over.
    Names(Vec<String>),
    /// All but those that only a service may take off.
    All,
}

/// Which tags ListTagResources shall give; what is empty asks nothing.
#[derive(Clone, Debug, Default)]
pub struct TagQuery {
    /// On these keys.
    pub key_ids: Vec<String>,
    /// On keys with all of these tags; without a value, any will do.
    pub tags: Vec<(String, Option<String>)>,
    /// Where the last page ended.
    pub after: Option<(String, String)>,
}

/// A page of tags.
#[derive(Clone, Debug)]
pub struct TagPage {
    /// By key id and name.
    pub tags: Vec<TagRecord>,
    /// [`TagQuery::after`] of the next page, if there is one.
    pub next: Option<(String, String)>,
}

impl Kms {
    /// TagResource and TagResources: puts `tags` (name, value) on all of `key_ids`, or on none.
    ///
    /// # Errors
    /// The published refusals.
    pub fn tag(
        &self,
        caller: &Caller,
        action: Action,
        key_ids: &[&str],
        tags: &[(String, String)],
    ) -> Result<(), KmsError> {
        self.call(caller, action, |call| {
            call.request("Tags", shown(tags));
            let _changes = self.lock_changes();
            let keys = self.taggable(call, key_ids)?;
            check_tags(tags, parameter(action))?;
            let mut operations = Vec::new();
            for key in &keys {
                let mut there = self.key_tags(&key.key_id)?;
                there.extend(tags.iter().cloned());
                if there.len() > TAGS_MAX {
                    return Err(KmsError::LimitExceeded);
                }
                operations.extend(put_on(&key.key_id, tags));
            }
            self.commit(call, &operations)
        })
    }

    /// UntagResource and UntagResources: takes tags off all of `key_ids`.
    ///
    /// # Errors
    /// The published refusals.
    pub fn untag(
        &self,
        caller: &Caller,
        action: Action,
        key_ids: &[&str],
        what: &Untag,
    ) -> Result<(), KmsError> {
        self.call(caller, action, |call| {
            match what {
                Untag::Names(names) => call.request("TagKey", names.clone()),
                Untag::All => call.request("All", true),
            }
            let _changes = self.lock_changes();
            let keys = self.taggable(call, key_ids)?;
            if let Untag::Names(names) = what
                && (names.is_empty() || names.len() > TAGS_MAX || names.iter().any(is_reserved))
            {
                return Err(KmsError::InvalidParameter(match action {
                    Action::UntagResource => "TagKeys",
                    _ => "TagKey",
                }));
            }
            let mut operations = Vec::new();
            for key in &keys {
                let names: Vec<String> = match what {
                    Untag::Names(names) => names.clone(),
                    Untag::All => self.key_tags(&key.key_id)?.into_keys().collect(),
                };
                let taken = names.into_iter().filter(|name| !is_reserved(name));
                operations.extend(taken.map(|name| Operation::DeleteTag {
                    resource_type: TaggedType::Key,
                    resource_id: key.key_id.clone(),
                    key: name,
                }));
            }
            self.commit(call, &operations)
        })
    }

    /// ListResourceTags: the tags of one key, by name.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_resource_tags(
        &self,
        caller: &Caller,
        key_id: &str,
    ) -> Result<Vec<TagRecord>, KmsError> {
        self.call(caller, Action::ListResourceTags, |call| {
            let key = self.resolve(call, key_id)?;
            let filter = TagFilter::of(TaggedType::Key, &key.key_id);
            Ok(self.catalog.tags(&filter, TAGS_MAX as u64)?)
        })
    }

    /// ListTagResources: tags of many keys.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_tag_resources(
        &self,
        caller: &Caller,
        query: &TagQuery,
    ) -> Result<TagPage, KmsError> {
        self.call(caller, Action::ListTagResources, |call| {
            if query.key_ids.is_empty() {
                self.allow(call, &self.account.arn("key"))?;
            }
            check_count(query.key_ids.len(), KEYS_AT_ONCE_MAX, "ResourceId")?;
            check_count(query.tags.len(), TAGS_MAX, "Tag")?;
            for key_id in &query.key_ids {
                self.find(call, key_id)?;
            }
            let filter = TagFilter {
                resource_type: TaggedType::Key,
                ids: query.key_ids.clone(),
                tags: query.tags.clone(),
                after: query.after.clone(),
            };
            let mut tags = self.catalog.tags(&filter, PAGE_TAGS as u64 + 1)?;
            let goes_on = tags.len() > PAGE_TAGS;
            tags.truncate(PAGE_TAGS);
            let last = tags.last().filter(|_| goes_on);
            let next = last.map(|tag| (tag.resource_id.clone(), tag.key.clone()));
            Ok(TagPage { tags, next })
        })
    }

    /// The tags of a key, by name: what a policy's condition `kms:tag/<key>` asks for.
    pub(super) fn key_tags(&self, key_id: &str) -> Result<BTreeMap<String, String>, KmsError> {
        let filter = TagFilter::of(TaggedType::Key, key_id);
        let tags = self.catalog.tags(&filter, TAGS_MAX as u64)?;
        Ok(tags.into_iter().map(|tag| (tag.key, tag.value)).collect())
    }

    /// The keys of these ids, each of which may be tagged by this caller now.
    fn taggable(&self, call: &mut Call<'_>, key_ids: &[&str]) -> Result<Vec<KeyRecord>, KmsError> {
        check_count(key_ids.len(), KEYS_AT_ONCE_MAX, "ResourceId")?;
        call.request("KeyId", key_ids.join(","));
        let mut keys: Vec<KeyRecord> = Vec::with_capacity(key_ids.len());
        for key_id in key_ids {
            let key = self.find(call, key_id)?;
            state::check(call.action, key.state)?;
            if !keys.iter().any(|known| known.key_id == key.key_id) {
                keys.push(key);
            }
        }
        Ok(keys)
    }
}

/// `tags` as the trail shows them.
pub(super) fn shown(tags: &[(String, String)]) -> String {
    let one = |(key, value): &(String, String)| json!({"TagKey": key, "TagValue": value});
    Value::Array(tags.iter().map(one).collect()).to_string()
}

/// The operations that put `tags` on a key.
pub(super) fn put_on(key_id: &str, tags: &[(String, String)]) -> Vec<Operation> {
    let operation = |(key, value): &(String, String)| {
        Operation::PutTag(TagRecord {
            resource_type: TaggedType::Key,
            resource_id: key_id.to_owned(),
            key: key.clone(),
            value: value.clone(),
        })
    };
    tags.iter().map(operation).collect()
}

/// Whether a user may put all of `tags` on one key.
///
/// # Errors
/// [`KmsError::InvalidParameter`] of `parameter`.
pub(super) fn check_tags(
    tags: &[(String, String)],
    parameter: &'static str,
) -> Result<(), KmsError> {
    let names_fit = tags.iter().enumerate().all(|(at, (name, _))| {
        let is_first = tags[..at].iter().all(|(earlier, _)| earlier != name);
        is_first && !name.is_empty() && is_text(name) && !is_reserved(name)
    });
    let values_fit = tags.iter().all(|(_, value)| is_text(value));
    if names_fit && values_fit && (1..=TAGS_MAX).contains(&tags.len()) {
        Ok(())
    } else {
        Err(KmsError::InvalidParameter(parameter))
    }
}

const fn parameter(action: Action) -> &'static str {
    match action {
        Action::TagResource => "Tags",
        _ => "Tag",
    }
}

fn is_reserved(name: &String) -> bool {
    name != DISK_CONSENT_TAG && RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_text(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || r"/\_-.+=:@".contains(c);
    text.chars().count() <= TEXT_CHARS_MAX && text.chars().all(fits)
}

fn check_count(count: usize, max: usize, parameter: &'static str) -> Result<(), KmsError> {
    if count <= max { Ok(()) } else { Err(KmsError::InvalidParameter(parameter)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fine(name: &str, value: &str) -> bool {
        check_tags(&[(name.to_owned(), value.to_owned())], "Tags").is_ok()
    }

    #[test]
    fn names_and_values_have_a_published_form() {
        assert!(is_fine(r"a/\_-.+=:@Z9", r"a/\_-.+=:@Z9"));
        assert!(is_fine(DISK_CONSENT_TAG, "true"));
        assert!(is_fine("k", ""));
        assert!(is_fine(&"k".repeat(TEXT_CHARS_MAX), &"v".repeat(TEXT_CHARS_MAX)));
        for name in ["", "a b", "ü", "aliyun-x", "acs:other", &"k".repeat(TEXT_CHARS_MAX + 1)] {
            assert!(!is_fine(name, "v"), "{name}");
        }
        assert!(!is_fine("k", &"v".repeat(TEXT_CHARS_MAX + 1)));
        let twice = [("k".to_owned(), "1".to_owned()), ("k".to_owned(), "2".to_owned())];
        assert!(check_tags(&twice, "Tags").is_err());
        assert!(check_tags(&[], "Tags").is_err());
    }
}
