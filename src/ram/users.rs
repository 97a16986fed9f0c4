//! Users.

use super::access_keys::taken;
use super::error::Entity;
use super::names::{self, within};
use super::{Gated, Ram, RamError, USER_ID_DIGIT};
use crate::catalog::ram::{Holder, RamOperation, UserRecord};
use crate::catalog::{CatalogError, Gate};

/// Users of an account; as published.
pub const USERS_MAX: usize = 1000;

/// What a new user shall be; empty texts where there is nothing to say.
#[derive(Clone, Debug, Default)]
pub struct CreateUser {
    /// 1 to 64 letters, digits and `.`, `_`, `-`.
    pub user_name: String,
    /// At most 128 characters.
    pub display_name: String,
    /// At most 128 characters.
    pub comments: String,
    /// An address, or empty.
    pub email: String,
    /// A number, or empty.
    pub mobile_phone: String,
}

/// Part of a list, and whether it goes on.
#[derive(Clone, Debug)]
pub struct Part<T> {
    /// By name.
    pub items: Vec<T>,
    /// The name after which the next part begins, if there is one.
    pub marker: Option<String>,
}

impl<T> Part<T> {
    /// The first `limit` of `items`; there is a further one if the list goes on.
    pub(super) fn cut(mut items: Vec<T>, limit: usize, name: fn(&T) -> &str) -> Self {
        let goes_on = items.len() > limit;
        items.truncate(limit);
        let marker = items.last().filter(|_| goes_on).map(|last| name(last).to_owned());
        Self { items, marker }
    }
}

impl Ram {
    /// The user of this name.
    ///
    /// # Errors
    /// `EntityNotExist.User`, or the catalog's.
    pub fn user(&self, user_name: &str) -> Result<UserRecord, RamError> {
        self.catalog.user(user_name)?.ok_or(RamError::NotFound(Entity::User))
    }

    /// Up to `limit` users whose names come after `after`.
    ///
    /// # Errors
    /// The catalog's.
    pub fn users(&self, after: &str, limit: usize) -> Result<Part<UserRecord>, RamError> {
        let found = self.catalog.users(after, limit as u64 + 1)?;
        Ok(Part::cut(found, limit, |user| &user.user_name))
    }

    /// A new user, who may do nothing yet. `gate` is handed the record and runs just before the
    /// commit.
    ///
    /// # Errors
    /// `InvalidParameter.*`, `EntityAlreadyExists.User`, `LimitExceeded.User`; the gate's or the
    /// catalog's.
    pub fn create_user(
        &self,
        request: CreateUser,
        gate: &mut dyn FnMut(&UserRecord) -> Gated,
    ) -> Result<UserRecord, RamError> {
        let CreateUser { user_name, display_name, comments, email, mobile_phone } = request;
        names::check_user(&user_name)?;
        within(&display_name, 0..=128, "DisplayName")?;
        within(&comments, 0..=128, "Comments")?;
        names::check_email(&email)?;
        names::check_phone(&mobile_phone)?;
        let _changes = self.lock_changes();
        if self.catalog.users("", USERS_MAX as u64)?.len() >= USERS_MAX {
            return Err(RamError::LimitExceeded(Entity::User));
        }
        let created = self.clock.now();
        let user = UserRecord {
            user_id: self.new_id(USER_ID_DIGIT),
            user_name,
            display_name,
            comments,
            email,
            mobile_phone,
            created,
            updated: created,
        };
        self.apply(vec![RamOperation::InsertUser(user.clone())], &mut || gate(&user))
            .map_err(|error| taken(error, Entity::User))?;
        Ok(user)
    }

    /// Removes a user who has neither access keys nor policies.
    ///
    /// # Errors
    /// `EntityNotExist.User`, `DeleteConflict.User.AccessKey`, `DeleteConflict.User.Policy`; the
    /// gate's or the catalog's.
    pub fn delete_user(&self, user_name: &str, gate: Gate<'_>) -> Result<(), RamError> {
        let _changes = self.lock_changes();
        let user = self.user(user_name)?;
        if !self.catalog.access_keys(Some(&user.user_id))?.is_empty() {
            return Err(RamError::UserHasAccessKeys);
        }
        if !self.catalog.attachments(&Holder::User(user.user_id.clone()))?.is_empty() {
            return Err(RamError::HasPolicies(Entity::User));
        }
        match self.apply(vec![RamOperation::DeleteUser(user.user_id)], gate) {
            // Another host gave the user something meanwhile.
            Err(RamError::Catalog(CatalogError::Referenced)) => Err(RamError::UserHasAccessKeys),
            applied => applied.map_err(|error| taken(error, Entity::User)),
        }
    }
}
