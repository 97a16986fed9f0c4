//! What an account has: its region, the service's standing, its one instance.

use super::{Action, Kms, KmsError, Paging};
use crate::catalog::Listed;
use crate::ram::Caller;

impl Kms {
    /// DescribeRegions: the one there is. Asks nobody and is not recorded, as published.
    pub fn regions(&self) -> Vec<String> {
        vec![self.account.region.clone()]
    }

    /// DescribeAccountKmsStatus and OpenKmsService (by `action`): the service is always open.
    ///
    /// # Errors
    /// The published refusals.
    pub fn account_status(
        &self,
        caller: &Caller,
        action: Action,
    ) -> Result<&'static str, KmsError> {
        self.call(caller, action, |call| {
            self.allow(call, &self.account.arn("*"))?;
            Ok("Enabled")
        })
    }

    /// ListKmsInstances: ids. There is one, of software.
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
            let items = if page.offset == 0 { vec![self.instance_id()] } else { Vec::new() };
            Ok(Listed { items, total: 1 })
        })
    }

    /// The id of the account's instance; not published, so of a form of our own.
    pub fn instance_id(&self) -> String {
        format!("kst-{}", self.account.account_id)
    }

    /// # Errors
    /// [`KmsError::InstanceNotFound`] for any other.
    pub(super) fn check_instance(&self, id: &str) -> Result<(), KmsError> {
        if id == self.instance_id() { Ok(()) } else { Err(KmsError::InstanceNotFound) }
    }
}
