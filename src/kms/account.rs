//! What an account has: its region, the service's standing, its instances.

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
