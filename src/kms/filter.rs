//! Filters of ListKeys.

use std::collections::BTreeSet;

use super::{Kms, KmsError, is_service_key};
use crate::catalog::{CatalogError, KeyRecord, TagFilter, TagRecord, TaggedType};

/// One entry of `Filters`: the key has one of the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFilter {
    /// One of those published, such as `KeyState` or `TagKey`.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
}

/// Entries at most.
const FILTERS_MAX: usize = 10;

/// What can be asked for.
const KNOWN: [&str; 11] = [
    "KeyState",
    "KeySpec",
    "KeyUsage",
    "ProtectionLevel",
    "CreatorType",
    "Creator",
    "KeyId",
    "DKMSInstanceId",
    "AliasName",
    "TagKey",
    "TagValue",
];

pub(super) fn check(filters: &[KeyFilter]) -> Result<(), KmsError> {
    let is_known = filters.iter().all(|filter| KNOWN.contains(&filter.key.as_str()));
    if is_known && filters.len() <= FILTERS_MAX {
        Ok(())
    } else {
        Err(KmsError::InvalidParameter("Filters"))
    }
}

impl Kms {
    /// Keeps the keys that meet all of `filters`.
    pub(super) fn retain(
        &self,
        keys: &mut Vec<KeyRecord>,
        filters: &[KeyFilter],
    ) -> Result<(), KmsError> {
        for filter in filters {
            let ids = match filter.key.as_str() {
                "AliasName" => Some(self.ids_by_alias(&filter.values)?),
                "TagKey" | "TagValue" => Some(self.ids_by_tag(filter)?),
                _ => None,
            };
            keys.retain(|key| match &ids {
                Some(ids) => ids.contains(&key.key_id),
                None => {
                    let value = value_of(key, &filter.key);
                    filter.values.iter().any(|any| any == value)
                }
            });
        }
        Ok(())
    }

    fn ids_by_alias(&self, names: &[String]) -> Result<BTreeSet<String>, KmsError> {
        let aliases = names.iter().map(|name| self.catalog.alias(name));
        let found = aliases.filter_map(Result::transpose);
        Ok(found.map(|alias| Ok(alias?.key_id)).collect::<Result<_, CatalogError>>()?)
    }

    /// Keys with a tag of one of these names, or with one of these values whatever its name.
    fn ids_by_tag(&self, filter: &KeyFilter) -> Result<BTreeSet<String>, KmsError> {
        let every = TagFilter { ids: Vec::new(), ..TagFilter::of(TaggedType::Key, "") };
        // Keys and tags of a key are few.
        let tags = self.catalog.tags(&every, u64::MAX)?;
        let text = |tag: &TagRecord| match filter.key.as_str() {
            "TagKey" => tag.key.clone(),
            _ => tag.value.clone(),
        };
        let meets = |tag: &TagRecord| filter.values.contains(&text(tag));
        Ok(tags.into_iter().filter(meets).map(|tag| tag.resource_id).collect())
    }
}

fn value_of<'a>(key: &'a KeyRecord, name: &str) -> &'a str {
    match name {
        "KeyState" => key.state.as_str(),
        "KeySpec" => &key.spec,
        "KeyUsage" => &key.usage,
        "ProtectionLevel" => &key.protection,
        "CreatorType" if is_service_key(key) => "Service",
        "CreatorType" => "User",
        "Creator" => &key.creator,
        "DKMSInstanceId" => key.instance.as_deref().unwrap_or_default(),
        _ => &key.key_id,
    }
}
