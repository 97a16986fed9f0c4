//! Keys: seen, switched, protected, scheduled for deletion.

use std::ops::RangeInclusive;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::filter::{self, KeyFilter};
use super::{Action, Kms, KmsError, Paging, state};
use crate::catalog::{KeyRecord, KeyState, Listed, Operation, Page};
use crate::ram::Caller;

/// Days a deletion can be cancelled (7 to 30 until 2021).
pub const DELETION_WINDOW_DAYS: RangeInclusive<u32> = 7..=366;

/// Characters of a description.
pub(super) const DESCRIPTION_CHARS_MAX: usize = 8192;

impl Kms {
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
            let all = self.catalog.keys(Page::ALL)?.items;
            let mut items: Vec<KeyRecord> =
                all.into_iter().filter_map(|key| self.as_of_now(key)).collect();
            self.retain(&mut items, filters)?;
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
        })?;
        // Its rotation was suspended, and may have come due meanwhile.
        self.rotate_if_due(key_id)
    }

    /// DisableKey. A disk that is attached keeps its data key and goes on. When this returns, no
    /// use of the key is under way any more.
    ///
    /// # Errors
    /// The published refusals.
    pub fn disable_key(&self, caller: &Caller, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::DisableKey, |call| {
            self.change(call, key_id, |key| key.state = KeyState::Disabled)
        })?;
        self.uses.wait_for(key_id);
        Ok(())
    }

    /// ScheduleKeyDeletion, in `days` ([`DELETION_WINDOW_DAYS`]). When this returns, no use of the
    /// key is under way any more.
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
            let _changes = self.lock_changes();
            let key = self.resolve(call, key_id)?;
            state::check(call.action, key.state)?;
            if key.deletion_protected {
                return Err(KmsError::UnsupportedOperation);
            }
            let deletes = Some(deletes);
            let doomed = KeyRecord { state: KeyState::PendingDeletion, deletes, ..key };
            self.commit(call, &[Operation::UpdateKey(doomed)])
        })?;
        self.uses.wait_for(key_id);
        Ok(())
    }

    /// CancelKeyDeletion: the key is enabled afterwards, or waits for its material.
    ///
    /// # Errors
    /// The published refusals.
    pub fn cancel_key_deletion(&self, caller: &Caller, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::CancelKeyDeletion, |call| {
            self.change(call, key_id, |key| {
                key.state =
                    if key.has_material { KeyState::Enabled } else { KeyState::PendingImport };
                key.deletes = None;
            })
        })?;
        self.rotate_if_due(key_id)
    }

    /// SetDeletionProtection: while it is on, ScheduleKeyDeletion is refused.
    ///
    /// # Errors
    /// The published refusals.
    pub fn set_deletion_protection(
        &self,
        caller: &Caller,
        key: &str,
        is_on: bool,
        why: Option<&str>,
    ) -> Result<(), KmsError> {
        self.call(caller, Action::SetDeletionProtection, |call| {
            call.request("EnableDeletionProtection", is_on);
            if why.is_some_and(|why| why.chars().count() > DESCRIPTION_CHARS_MAX) {
                self.resolve(call, key)?;
                return Err(KmsError::InvalidParameter("DeletionProtectionDescription"));
            }
            self.change(call, key, |key| {
                key.deletion_protected = is_on;
                match why {
                    Some(why) => why.clone_into(&mut key.deletion_protected_why),
                    None if !is_on => key.deletion_protected_why.clear(),
                    None => {}
                }
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

    /// Changes a key as its state allows; no change, no transaction.
    pub(super) fn change(
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
