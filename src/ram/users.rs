//! Users.

use super::error::Entity;
use super::{Ram, RamError};
use crate::catalog::ram::UserRecord;

impl Ram {
    /// The user of this name.
    ///
    /// # Errors
    /// `EntityNotExist.User`, or the catalog's.
    pub fn user(&self, user_name: &str) -> Result<UserRecord, RamError> {
        self.catalog.user(user_name)?.ok_or(RamError::NotFound(Entity::User))
    }
}
