//! Keys: made, seen, switched, scheduled for deletion.

use std::ops::RangeInclusive;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::filter::{self, KeyFilter};
use super::{Action, Kms, KmsError, Paging, is_service_key, state};
use crate::catalog::{KeyRecord, KeyState, Listed, Operation, Page};
use crate::ram::Caller;
use crate::trail::ResourceType;

pub(super) const SPEC: &str = "Aliyun_AES_256";
pub(super) const USAGE: &str = "ENCRYPT/DECRYPT";
pub(super) const ORIGIN: &str = "Aliyun_KMS";
pub(super) const PROTECTION: &str = "SOFTWARE";

/// Days a deletion can be cancelled (7 to 30 until 2021).
pub const DELETION_WINDOW_DAYS: RangeInclusive<u32> = 7..=366;

/// Keys of an account in a region, service keys aside; one more: `Rejected.LimitExceeded`.
const KEYS_MAX: u64 = 200;

/// Characters of a description.
const DESCRIPTION_CHARS_MAX: usize = 8192;

/// Parameters of CreateKey; what is absent takes its published default.
#[derive(Clone, Debug, Default)]
pub struct CreateKey {
    /// `Description`.
    pub description: String,
    /// `KeySpec`: `Aliyun_AES_256`.
    pub spec: Option<String>,
    /// `KeyUsage`: `ENCRYPT/DECRYPT`.
    pub usage: Option<String>,
    /// `Origin`: `Aliyun_KMS`.
    pub origin: Option<String>,
    /// `ProtectionLevel`: `SOFTWARE`.
    pub protection: Option<String>,
}

impl Kms {
    /// CreateKey.
    ///
    /// # Errors
    /// The published refusals.
    pub fn create_key(&self, caller: &Caller, wanted: &CreateKey) -> Result<KeyRecord, KmsError> {
        self.call(caller, Action::CreateKey, |call| {
            let parameters = [
                ("KeySpec", &wanted.spec),
                ("KeyUsage", &wanted.usage),
                ("Origin", &wanted.origin),
                ("ProtectionLevel", &wanted.protection),
            ];
            for (name, value) in parameters {
                if let Some(value) = value {
                    call.request(name, value.as_str());
                }
            }
            call.request("Description", wanted.description.as_str());
            self.allow(call, &self.account.arn("key"))?;
            wanted.check()?;
            let _changes = self.lock_changes();
            let keys = self.catalog.keys(Page::ALL)?.items;
            if keys.iter().filter(|key| !is_service_key(key)).count() as u64 >= KEYS_MAX {
                return Err(KmsError::LimitExceeded);
            }
            let (key, version) = self.new_key(&self.account.account_id, &wanted.description);
            call.about(ResourceType::Key, &key.key_id);
            call.response("KeyId", key.key_id.as_str());
            self.commit(call, &[Operation::InsertKey(key.clone(), version)])?;
            Ok(key)
        })
    }

    /// DescribeKey, by id, alias or resource name.
    ///
    /// # Errors
    /// The published refusals.
    pub fn describe_key(&self, caller: &Caller, key: &str) -> Result<KeyRecord, KmsError> {
        self.call(caller, Action::DescribeKey, |call| self.resolve(call, key))
    }

    /// ListKeys: those that meet all of `filters`, service keys among them, oldest first.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_keys(
        &self,
        caller: &Caller,
        filters: &[KeyFilter],
        paging: Paging,
    ) -> Result<Listed<KeyRecord>, KmsError> {
        self.call(caller, Action::ListKeys, |call| {
            call.request("PageNumber", paging.number);
            call.request("PageSize", paging.size);
            self.allow(call, &self.account.arn("key"))?;
            let page = paging.page()?;
            filter::check(filters)?;
            // The quota bounds what is read here.
            let mut items = self.catalog.keys(Page::ALL)?.items;
            items.retain(|key| !self.is_gone(key) && filter::meets(key, filters));
            let total = items.len() as u64;
            let skip = usize::try_from(page.offset).unwrap_or(usize::MAX);
            let items = items.into_iter().skip(skip).take(paging.size as usize).collect();
            Ok(Listed { items, total })
        })
    }

    /// EnableKey.
    ///
    /// # Errors
    /// The published refusals.
    pub fn enable_key(&self, caller: &Caller, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::EnableKey, |call| {
            self.change(call, key_id, |key| key.state = KeyState::Enabled)
        })
    }

    /// DisableKey. A disk that is attached keeps its data key and goes on.
    ///
    /// # Errors
    /// The published refusals.
    pub fn disable_key(&self, caller: &Caller, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::DisableKey, |call| {
            self.change(call, key_id, |key| key.state = KeyState::Disabled)
        })
    }

    /// ScheduleKeyDeletion, in `days` ([`DELETION_WINDOW_DAYS`]).
    ///
    /// # Errors
    /// The published refusals.
    pub fn schedule_key_deletion(
        &self,
        caller: &Caller,
        key_id: &str,
        days: u32,
    ) -> Result<(), KmsError> {
        self.call(caller, Action::ScheduleKeyDeletion, |call| {
            call.request("PendingWindowInDays", days);
            if !DELETION_WINDOW_DAYS.contains(&days) {
                self.resolve(call, key_id)?;
                return Err(KmsError::InvalidParameter("PendingWindowInDays"));
            }
            let deletes = self.clock.now().plus(Duration::from_secs(u64::from(days) * 24 * 3600));
            self.change(call, key_id, |key| {
                key.state = KeyState::PendingDeletion;
                key.deletes = Some(deletes);
            })
        })
    }

    /// CancelKeyDeletion: the key is enabled afterwards.
    ///
    /// # Errors
    /// The published refusals.
    pub fn cancel_key_deletion(&self, caller: &Caller, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::CancelKeyDeletion, |call| {
            self.change(call, key_id, |key| {
                key.state = KeyState::Enabled;
                key.deletes = None;
            })
        })
    }

    /// UpdateKeyDescription.
    ///
    /// # Errors
    /// The published refusals.
    pub fn update_key_description(
        &self,
        caller: &Caller,
        key_id: &str,
        description: &str,
    ) -> Result<(), KmsError> {
        self.call(caller, Action::UpdateKeyDescription, |call| {
            call.request("Description", description);
            if description.chars().count() > DESCRIPTION_CHARS_MAX {
                self.resolve(call, key_id)?;
                return Err(KmsError::InvalidParameter("Description"));
            }
            self.change(call, key_id, |key| key.description = description.to_owned())
        })
    }

    /// Destroys the keys whose deletion date has passed, for the daemon's timer; how many. They
    /// are out of everyone's reach from that date on, with or without this.
    ///
    /// # Errors
    /// [`KmsError::Unrecorded`] or [`KmsError::Catalog`]; the rest is left for the next time.
    pub fn delete_due_keys(&self) -> Result<usize, KmsError> {
        let due = self.catalog.keys(Page::ALL)?.items;
        let due: Vec<KeyRecord> = due.into_iter().filter(|key| self.is_gone(key)).collect();
        for key in &due {
            let system = Caller::system(crate::clock::random_uuid(self.entropy.as_ref()));
            self.call(&system, Action::DeleteKey, |call| {
                call.about(ResourceType::Key, &key.key_id);
                self.allow(call, &self.account.key_arn(&key.key_id))?;
                let _changes = self.lock_changes();
                // Nobody can have cancelled it: it is gone for every caller already.
                self.commit(call, &[Operation::DeleteKey(key.key_id.clone())])
            })?;
        }
        Ok(due.len())
    }

    /// Changes a key as its state allows; no change, no transaction.
    fn change(
        &self,
        call: &mut super::call::Call<'_>,
        key_id: &str,
        edit: impl FnOnce(&mut KeyRecord),
    ) -> Result<(), KmsError> {
        let _changes = self.lock_changes();
        let key = self.resolve(call, key_id)?;
        state::check(call.action, key.state)?;
        let mut changed = key.clone();
        edit(&mut changed);
        if changed == key {
            return Ok(());
        }
        self.commit(call, &[Operation::UpdateKey(changed)])
    }

    pub(super) fn lock_changes(&self) -> MutexGuard<'_, ()> {
        // It guards no data: a panic under it leaves nothing half done.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CreateKey {
    fn check(&self) -> Result<(), KmsError> {
        let is = |value: &Option<String>, only| value.as_deref().is_none_or(|value| value == only);
        if self.description.chars().count() > DESCRIPTION_CHARS_MAX {
            return Err(KmsError::InvalidParameter("Description"));
        }
        if !is(&self.spec, SPEC) {
            return Err(KmsError::InvalidParameter("KeySpec"));
        }
        if !is(&self.usage, USAGE) {
            return Err(KmsError::InvalidParameter("KeyUsage"));
        }
        match self.origin.as_deref() {
            None | Some(ORIGIN) => {}
            Some("EXTERNAL") => return Err(KmsError::UnsupportedOrigin),
            Some(_) => return Err(KmsError::InvalidParameter("Origin")),
        }
        match self.protection.as_deref() {
            None | Some(PROTECTION) => Ok(()),
            Some("HSM") => Err(KmsError::UnsupportedProtectionLevel),
            Some(_) => Err(KmsError::InvalidParameter("ProtectionLevel")),
        }
    }
}
