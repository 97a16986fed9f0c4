//! Aliases: second names of keys.

use super::call::Call;
use super::{Action, Kms, KmsError, Paging, state};
use crate::catalog::{AliasRecord, CatalogError, KeyRecord, Listed, Operation, Page};
use crate::ram::Caller;
use crate::trail::ResourceType;

const PREFIX: &str = "alias/";
/// Names that begin so are the services'.
const RESERVED_PREFIX: &str = "alias/acs";
/// Characters after the prefix.
const NAME_CHARS_MAX: usize = 255;
/// Aliases of an account in a region; one more: `Rejected.LimitExceeded`.
const ALIASES_MAX: u64 = 300;

impl Kms {
    /// CreateAlias.
    ///
    /// # Errors
    /// The published refusals.
    pub fn create_alias(&self, caller: &Caller, name: &str, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::CreateAlias, |call| {
            self.begin(call, name)?;
            let _changes = self.lock_changes();
            let key = self.resolve(call, key_id)?;
            check_name(name)?;
            if name.starts_with(RESERVED_PREFIX) {
                return Err(KmsError::InvalidParameter("AliasName"));
            }
            state::check(call.action, key.state)?;
            if self.catalog.alias(name)?.is_some() {
                return Err(KmsError::AliasAlreadyExists);
            }
            if self.catalog.aliases(None, Page { offset: 0, limit: 1 })?.total >= ALIASES_MAX {
                return Err(KmsError::LimitExceeded);
            }
            let alias = self.alias_of(name, &key);
            self.commit(call, &[Operation::InsertAlias(alias)]).map_err(already_exists)
        })
    }

    /// UpdateAlias: points it to another key.
    ///
    /// # Errors
    /// The published refusals.
    pub fn update_alias(&self, caller: &Caller, name: &str, key_id: &str) -> Result<(), KmsError> {
        self.call(caller, Action::UpdateAlias, |call| {
            self.begin(call, name)?;
            let _changes = self.lock_changes();
            let key = self.resolve(call, key_id)?;
            self.existing(name)?;
            state::check(call.action, key.state)?;
            let alias = self.alias_of(name, &key);
            self.commit(call, &[Operation::UpdateAlias(alias)])
        })
    }

    /// DeleteAlias. The key stays.
    ///
    /// # Errors
    /// The published refusals.
    pub fn delete_alias(&self, caller: &Caller, name: &str) -> Result<(), KmsError> {
        self.call(caller, Action::DeleteAlias, |call| {
            self.begin(call, name)?;
            let _changes = self.lock_changes();
            let alias = self.existing(name)?;
            call.about(ResourceType::Key, &alias.key_id);
            self.allow_key(call, &alias.key_id)?;
            self.commit(call, &[Operation::DeleteAlias(name.to_owned())])
        })
    }

    /// ListAliases, by name.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_aliases(
        &self,
        caller: &Caller,
        paging: Paging,
    ) -> Result<Listed<AliasRecord>, KmsError> {
        self.call(caller, Action::ListAliases, |call| {
            self.allow(call, &self.account.arn("alias"))?;
            Ok(self.catalog.aliases(None, paging.page()?)?)
        })
    }

    /// ListAliasesByKeyId, by name.
    ///
    /// # Errors
    /// The published refusals.
    pub fn list_aliases_by_key_id(
        &self,
        caller: &Caller,
        key_id: &str,
        paging: Paging,
    ) -> Result<Listed<AliasRecord>, KmsError> {
        self.call(caller, Action::ListAliasesByKeyId, |call| {
            let key = self.resolve(call, key_id)?;
            Ok(self.catalog.aliases(Some(&key.key_id), paging.page()?)?)
        })
    }

    /// Names the alias in the record and asks for permission on it; that on the key follows.
    fn begin(&self, call: &mut Call<'_>, name: &str) -> Result<(), KmsError> {
        call.request("AliasName", name);
        call.about(ResourceType::Alias, name);
        // What is no alias name is judged as the place where aliases are.
        let relative = if name.starts_with(PREFIX) { name } else { "alias" };
        self.allow(call, &self.account.arn(relative))
    }

    /// An alias that a caller may change.
    fn existing(&self, name: &str) -> Result<AliasRecord, KmsError> {
        check_name(name)?;
        let alias = self.catalog.alias(name)?.ok_or(KmsError::AliasNotFound)?;
        if name.starts_with(RESERVED_PREFIX) {
            return Err(KmsError::UnsupportedOperation);
        }
        Ok(alias)
    }

    fn alias_of(&self, name: &str, key: &KeyRecord) -> AliasRecord {
        AliasRecord { name: name.to_owned(), key_id: key.key_id.clone(), created: self.clock.now() }
    }
}

fn check_name(name: &str) -> Result<(), KmsError> {
    let rest = name.strip_prefix(PREFIX).ok_or(KmsError::InvalidParameter("AliasName"))?;
    let fits =
        rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/'));
    if fits && (1..=NAME_CHARS_MAX).contains(&rest.len()) {
        Ok(())
    } else {
        Err(KmsError::InvalidParameter("AliasName"))
    }
}

/// Another host may have been faster than the question.
fn already_exists(error: KmsError) -> KmsError {
    match error {
        KmsError::Catalog(CatalogError::Exists) => KmsError::AliasAlreadyExists,
        other => other,
    }
}
