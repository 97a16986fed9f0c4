//! What an account has: its region, the service's standing, its instances.

use std::sync::PoisonError;

use super::call::Call;
use super::{Action, Kms, KmsError, Paging};
use crate::catalog::{KmsStatus, Listed, Operation};
use crate::ram::{Caller, Principal};

impl Kms {
    /// DescribeRegions: the one there is. Asks nobody and is not recorded, as published.
    pub fn regions(&self) -> Vec<String> {
        vec![self.account.region.clone()]
    }

    /// DescribeAccountKmsStatus.
    ///
    /// # Errors
    /// The published refusals.
    pub fn account_status(&self, caller: &Caller) -> Result<KmsStatus, KmsError> {
        self.call(caller, Action::DescribeAccountKmsStatus, |call| {
            self.allow(call, &self.account.arn("*"))?;
            Ok(self.standing())
        })
    }

    /// OpenKmsService: no change where it is open. Debt is not settled by it.
    ///
    /// # Errors
    /// The published refusals.
    pub fn open_service(&self, caller: &Caller) -> Result<KmsStatus, KmsError> {
        self.call(caller, Action::OpenKmsService, |call| {
            self.allow(call, &self.account.arn("*"))?;
            let _changes = self.lock_changes();
            match self.standing() {
                KmsStatus::Enabled => {}
                KmsStatus::NotEnabled => self.put_standing(call, KmsStatus::Enabled)?,
                owing @ (KmsStatus::InDebt | KmsStatus::Suspended) => refuse(owing)?,
            }
            Ok(KmsStatus::Enabled)
        })
    }

    /// SetAccountStatus, ours: what a bill, or its payment, does in the cloud. Asks no permission:
    /// whoever hosts the service decides, not its customer.
    ///
    /// # Errors
    /// [`KmsError::Unrecorded`] or [`KmsError::Catalog`]; nothing was changed then.
    pub fn set_account_status(&self, caller: &Caller, status: KmsStatus) -> Result<(), KmsError> {
        self.call(caller, Action::SetAccountStatus, |call| {
            call.request("KmsStatus", status.as_str());
            let _changes = self.lock_changes();
            self.put_standing(call, status)
        })
    }

    /// How the account stands now.
    pub fn standing(&self) -> KmsStatus {
        *self.standing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_standing(&self, call: &mut Call<'_>, status: KmsStatus) -> Result<(), KmsError> {
        self.commit(call, &[Operation::PutKmsStatus(status)])?;
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = status;
        Ok(())
    }

    /// Whether the account may call at all. What the daemon does by itself goes on whatever is
    /// owed: key material that expires, expires.
    pub(super) fn check_standing(&self, caller: &Caller, action: Action) -> Result<(), KmsError> {
        let is_about_standing = matches!(
            action,
            Action::DescribeAccountKmsStatus | Action::OpenKmsService | Action::SetAccountStatus
        );
        if is_about_standing || caller.principal == Principal::System {
            return Ok(());
        }
        refuse(self.standing())
    }

    /// ListKmsInstances: ids. There is one of software, and one of hardware for each token.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_instances(
        &self,
        caller: &Caller,
        paging: Paging,
    ) -> Result<Listed<String>, KmsError> {
        self.call(caller, Action::ListKmsInstances, |call| {
            self.allow(call, &self.account.arn("*"))?;
            let page = paging.page()?;
            let mut all = vec![self.instance_id()];
            all.extend(self.hsms.iter().map(|store| store.instance_id()));
            let (total, skip) = (all.len() as u64, usize::try_from(page.offset));
            let items = all.into_iter().skip(skip.unwrap_or(usize::MAX)).take(paging.size as usize);
            Ok(Listed { items: items.collect(), total })
        })
    }

    /// The id of the account's instance of software; not published, so of a form of our own.
    pub fn instance_id(&self) -> String {
        format!("kst-{}", self.account.account_id)
    }
}

/// The refusal of every call of an account that stands so.
const fn refuse(status: KmsStatus) -> Result<(), KmsError> {
    match status {
        KmsStatus::Enabled => Ok(()),
        KmsStatus::NotEnabled => Err(KmsError::ServiceNotEnabled),
        KmsStatus::InDebt => Err(KmsError::InDebt),
        KmsStatus::Suspended => Err(KmsError::InDebtOverdue),
    }
}
