//! Filters of ListKeys.

use super::{KmsError, is_service_key};
use crate::catalog::KeyRecord;

/// One entry of `Filters`: the key has one of the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFilter {
    /// `KeyState`, `KeySpec`, `KeyUsage`, `ProtectionLevel`, `CreatorType`, `Creator` or `KeyId`.
    pub key: String,
    /// Any of these.
    pub values: Vec<String>,
}

/// Entries at most.
const FILTERS_MAX: usize = 10;

/// Whether `key` meets all of `filters`.
pub(super) fn meets(key: &KeyRecord, filters: &[KeyFilter]) -> bool {
    filters.iter().all(|filter| {
        value_of(key, &filter.key).is_some_and(|value| filter.values.iter().any(|any| any == value))
    })
}

pub(super) fn check(filters: &[KeyFilter]) -> Result<(), KmsError> {
    let known =
        ["KeyState", "KeySpec", "KeyUsage", "ProtectionLevel", "CreatorType", "Creator", "KeyId"];
    let is_known = filters.iter().all(|filter| known.contains(&filter.key.as_str()));
    if is_known && filters.len() <= FILTERS_MAX {
        Ok(())
    } else {
        Err(KmsError::InvalidParameter("Filters"))
    }
}

fn value_of<'a>(key: &'a KeyRecord, name: &str) -> Option<&'a str> {
    Some(match name {
        "KeyState" => key.state.as_str(),
        "KeySpec" => &key.spec,
        "KeyUsage" => super::keys::USAGE,
        "ProtectionLevel" => &key.protection,
        "CreatorType" if is_service_key(key) => "Service",
        "CreatorType" => "User",
        "Creator" => &key.creator,
        "KeyId" => &key.key_id,
        _ => return None,
    })
}
