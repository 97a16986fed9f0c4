//! Users, access keys, roles and policies in SQLite.

use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OptionalExtension, Params, Row, ffi, params};

use super::change::{Refusal, one};
use super::{SqliteCatalog, constraint_of};
use crate::catalog::CatalogError;
use crate::catalog::ram::{
    AccessKeyRecord, AttachmentRecord, Holder, PolicyKind, PolicyRecord, RamCatalog, RamOperation,
    RoleRecord, UserRecord,
};
use crate::clock::Timestamp;

const USER: &str = "SELECT user_id, user_name, display_name, comments, email, mobile_phone, \
     created, updated FROM ram_user";
const ACCESS_KEY: &str =
    "SELECT access_key_id, user_id, wrapped_secret, is_active, created FROM access_key";
const ROLE: &str = "SELECT role_id, role_name, description, trust_policy, session_seconds_max, \
     created, updated FROM ram_role";
const POLICY: &str = "SELECT policy_name, description, document, created FROM ram_policy";
const ATTACHMENT: &str =
    "SELECT user_id, role_id, system_name, custom_name, attached FROM policy_attachment";

pub(super) fn make(connection: &Connection, operation: &RamOperation) -> Result<(), Refusal> {
    match operation {
        RamOperation::InsertUser(user) => insert_user(connection, user),
        RamOperation::DeleteUser(id) => {
            delete(connection, "DELETE FROM ram_user WHERE user_id = ?1", id)
        }
        RamOperation::InsertAccessKey(key) => insert_access_key(connection, key),
        RamOperation::UpdateAccessKey(key) => one(connection.execute(
            "UPDATE access_key SET wrapped_secret = ?2, is_active = ?3 WHERE access_key_id = ?1",
            params![key.access_key_id, key.wrapped_secret, key.is_active],
        )?),
        RamOperation::DeleteAccessKey(id) => {
            delete(connection, "DELETE FROM access_key WHERE access_key_id = ?1", id)
        }
        RamOperation::InsertRole(role) => insert_role(connection, role),
        RamOperation::DeleteRole(id) => {
            delete(connection, "DELETE FROM ram_role WHERE role_id = ?1", id)
        }
        RamOperation::InsertPolicy(policy) => one(connection.execute(
            "INSERT INTO ram_policy (policy_name, description, document, created) \
             VALUES (?1, ?2, ?3, ?4)",
            params![
                policy.policy_name,
                policy.description,
                policy.document,
                policy.created.unix_millis()
            ],
        )?),
        RamOperation::DeletePolicy(name) => {
            delete(connection, "DELETE FROM ram_policy WHERE policy_name = ?1", name)
        }
        RamOperation::Attach(attachment) => attach(connection, attachment),
        RamOperation::Detach { holder, kind, policy_name } => {
            let (user, role) = holder_columns(holder);
            let (system, custom) = policy_columns(*kind, policy_name);
            one(connection.execute(
                "DELETE FROM policy_attachment WHERE user_id IS ?1 AND role_id IS ?2 \
                 AND system_name IS ?3 AND custom_name IS ?4",
                params![user, role, system, custom],
            )?)
        }
    }
}

/// Deletes one row that others may point to.
fn delete(connection: &Connection, text: &str, name: &str) -> Result<(), Refusal> {
    match connection.execute(text, [name]) {
        Err(error) if constraint_of(&error) == Some(ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => {
            Err(Refusal::Referenced)
        }
        deleted => one(deleted?),
    }
}

fn insert_user(connection: &Connection, user: &UserRecord) -> Result<(), Refusal> {
    one(connection.execute(
        "INSERT INTO ram_user (user_id, user_name, display_name, comments, email, mobile_phone, \
         created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            user.user_id,
            user.user_name,
            user.display_name,
            user.comments,
            user.email,
            user.mobile_phone,
            user.created.unix_millis(),
            user.updated.unix_millis()
        ],
    )?)
}

fn insert_access_key(connection: &Connection, key: &AccessKeyRecord) -> Result<(), Refusal> {
    one(connection.execute(
        "INSERT INTO access_key (access_key_id, user_id, wrapped_secret, is_active, created) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            key.access_key_id,
            key.user_id,
            key.wrapped_secret,
            key.is_active,
            key.created.unix_millis()
        ],
    )?)
}

fn insert_role(connection: &Connection, role: &RoleRecord) -> Result<(), Refusal> {
    one(connection.execute(
        "INSERT INTO ram_role (role_id, role_name, description, trust_policy, \
         session_seconds_max, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            role.role_id,
            role.role_name,
            role.description,
            role.trust_policy,
            role.session_seconds_max,
            role.created.unix_millis(),
            role.updated.unix_millis()
        ],
    )?)
}

fn attach(connection: &Connection, attachment: &AttachmentRecord) -> Result<(), Refusal> {
    let (user, role) = holder_columns(&attachment.holder);
    let (system, custom) = policy_columns(attachment.kind, &attachment.policy_name);
    one(connection.execute(
        "INSERT INTO policy_attachment (user_id, role_id, system_name, custom_name, attached) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![user, role, system, custom, attachment.attached.unix_millis()],
    )?)
}

fn holder_columns(holder: &Holder) -> (Option<&str>, Option<&str>) {
    match holder {
        Holder::User(id) => (Some(id), None),
        Holder::Role(id) => (None, Some(id)),
    }
}

fn policy_columns(kind: PolicyKind, name: &str) -> (Option<&str>, Option<&str>) {
    match kind {
        PolicyKind::System => (Some(name), None),
        PolicyKind::Custom => (None, Some(name)),
    }
}

impl RamCatalog for SqliteCatalog {
    fn user(&self, user_name: &str) -> Result<Option<UserRecord>, CatalogError> {
        self.first(&format!("{USER} WHERE user_name = ?1"), [user_name], user)
    }

    fn user_by_id(&self, user_id: &str) -> Result<Option<UserRecord>, CatalogError> {
        self.first(&format!("{USER} WHERE user_id = ?1"), [user_id], user)
    }

    fn users(&self, after: &str, limit: u64) -> Result<Vec<UserRecord>, CatalogError> {
        let text = format!("{USER} WHERE user_name > ?1 ORDER BY user_name LIMIT ?2");
        self.all(&text, params![after, clamped(limit)], user)
    }

    fn access_key(&self, access_key_id: &str) -> Result<Option<AccessKeyRecord>, CatalogError> {
        self.first(&format!("{ACCESS_KEY} WHERE access_key_id = ?1"), [access_key_id], access_key)
    }

    fn access_keys(&self, user_id: Option<&str>) -> Result<Vec<AccessKeyRecord>, CatalogError> {
        let text = format!("{ACCESS_KEY} WHERE user_id IS ?1 ORDER BY number");
        self.all(&text, [user_id], access_key)
    }

    fn all_access_keys(&self) -> Result<Vec<AccessKeyRecord>, CatalogError> {
        self.all(&format!("{ACCESS_KEY} ORDER BY number"), [], access_key)
    }

    fn role(&self, role_name: &str) -> Result<Option<RoleRecord>, CatalogError> {
        self.first(&format!("{ROLE} WHERE role_name = ?1"), [role_name], role)
    }

    fn roles(&self, after: &str, limit: u64) -> Result<Vec<RoleRecord>, CatalogError> {
        let text = format!("{ROLE} WHERE role_name > ?1 ORDER BY role_name LIMIT ?2");
        self.all(&text, params![after, clamped(limit)], role)
    }

    fn policy(&self, policy_name: &str) -> Result<Option<PolicyRecord>, CatalogError> {
        self.first(&format!("{POLICY} WHERE policy_name = ?1"), [policy_name], policy)
    }

    fn policies(&self, after: &str, limit: u64) -> Result<Vec<PolicyRecord>, CatalogError> {
        let text = format!("{POLICY} WHERE policy_name > ?1 ORDER BY policy_name LIMIT ?2");
        self.all(&text, params![after, clamped(limit)], policy)
    }

    fn attachments(&self, holder: &Holder) -> Result<Vec<AttachmentRecord>, CatalogError> {
        let (user, role) = holder_columns(holder);
        let text = format!("{ATTACHMENT} WHERE user_id IS ?1 AND role_id IS ?2 ORDER BY number");
        self.all(&text, [user, role], attachment)
    }

    fn holders(
        &self,
        kind: PolicyKind,
        policy_name: &str,
    ) -> Result<Vec<AttachmentRecord>, CatalogError> {
        let (system, custom) = policy_columns(kind, policy_name);
        let text =
            format!("{ATTACHMENT} WHERE system_name IS ?1 AND custom_name IS ?2 ORDER BY number");
        self.all(&text, [system, custom], attachment)
    }
}

impl SqliteCatalog {
    fn first<T>(
        &self,
        text: &str,
        values: impl Params,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, CatalogError> {
        self.read(|reader| reader.prepare_cached(text)?.query_row(values, read).optional())
    }

    fn all<T>(
        &self,
        text: &str,
        values: impl Params,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, CatalogError> {
        self.read(|reader| reader.prepare_cached(text)?.query_map(values, read)?.collect())
    }
}

fn user(row: &Row<'_>) -> rusqlite::Result<UserRecord> {
    Ok(UserRecord {
        user_id: row.get(0)?,
        user_name: row.get(1)?,
        display_name: row.get(2)?,
        comments: row.get(3)?,
        email: row.get(4)?,
        mobile_phone: row.get(5)?,
        created: moment(row, 6)?,
        updated: moment(row, 7)?,
    })
}

fn access_key(row: &Row<'_>) -> rusqlite::Result<AccessKeyRecord> {
    Ok(AccessKeyRecord {
        access_key_id: row.get(0)?,
        user_id: row.get(1)?,
        wrapped_secret: row.get(2)?,
        is_active: row.get(3)?,
        created: moment(row, 4)?,
    })
}

fn role(row: &Row<'_>) -> rusqlite::Result<RoleRecord> {
    Ok(RoleRecord {
        role_id: row.get(0)?,
        role_name: row.get(1)?,
        description: row.get(2)?,
        trust_policy: row.get(3)?,
        session_seconds_max: row.get(4)?,
        created: moment(row, 5)?,
        updated: moment(row, 6)?,
    })
}

fn policy(row: &Row<'_>) -> rusqlite::Result<PolicyRecord> {
    Ok(PolicyRecord {
        policy_name: row.get(0)?,
        description: row.get(1)?,
        document: row.get(2)?,
        created: moment(row, 3)?,
    })
}

fn attachment(row: &Row<'_>) -> rusqlite::Result<AttachmentRecord> {
    let holder = match (row.get(0)?, row.get(1)?) {
        (Some(user), None) => Holder::User(user),
        (None, Some(role)) => Holder::Role(role),
        _ => return Err(FromSqlError::InvalidType.into()),
    };
    let (kind, policy_name) = match (row.get(2)?, row.get(3)?) {
        (Some(name), None) => (PolicyKind::System, name),
        (None, Some(name)) => (PolicyKind::Custom, name),
        _ => return Err(FromSqlError::InvalidType.into()),
    };
    Ok(AttachmentRecord { holder, kind, policy_name, attached: moment(row, 4)? })
}

fn moment(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_unix_millis)
}

fn clamped(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
