//! Why a command did not do what was asked, and what to do now.

use std::fmt;
use std::io;

/// A failure as a person reads it: what, the published code if the API has one, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// The API's code, such as `InvalidDiskId.NotFound`.
    pub code: Option<String>,
    /// What to do now.
    pub hint: Option<String>,
    /// Whether the command line itself is at fault.
    pub is_usage: bool,
    /// The reader of our output went away: nobody is left to be told.
    pub is_silent: bool,
}

impl Failure {
    /// Refused or failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: None, hint: None, is_usage: false, is_silent: false }
    }

    /// The command line is at fault.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { is_usage: true, ..Self::new(message) }
    }

    /// With what to do now.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A refusal of the API; `recommend` is its own hint, ours fills in where it has none.
    pub fn refused(code: &str, message: &str, recommend: Option<&str>) -> Self {
        let mut failure = Self::new(message);
        failure.code = Some(code.to_owned());
        failure.hint = recommend.or_else(|| hint_for(code)).map(str::to_owned);
        failure
    }

    /// 2 for a wrong command line, 1 for all else.
    pub const fn exit_code(&self) -> u8 {
        if self.is_usage { 2 } else { 1 }
    }
}

/// What a person can do about a published code.
fn hint_for(code: &str) -> Option<&'static str> {
    Some(match code {
        "InvalidDiskId.NotFound" => "sealdisk disk list shows the disks there are",
        "InvalidSnapshotId.NotFound" => "sealdisk snapshot list shows the snapshots there are",
        "InvalidImageId.NotFound" => "sealdisk image list shows the images there are",
        "InvalidJobId.NotFound" => "sealdisk job list shows the jobs there are",
        "SnapshotCreatedDisk" | "SnapshotCreatedImage" | "ImageUsedByDisk" => {
            "--force deletes it all the same; what was made of it keeps its data"
        }
        "IncorrectDiskStatus" => "sealdisk disk show DISK tells its status",
        "Forbidden.KeyNotFound" | "InvalidParameter.KMSKeyId.NotFound" => {
            "sealdisk key list shows the keys there are"
        }
        "Forbidden.AliasNotFound" => "sealdisk alias list shows the aliases there are",
        "Rejected.Disabled" | "InvalidParameter.KMSKeyId.CMKNotEnabled" => {
            "sealdisk key enable KEY makes it usable again"
        }
        "InvalidParameter.KMSKeyId.KMSUnauthorized" => {
            "sealdisk role create AliyunECSDiskEncryptDefaultRole --service ecs.aliyuncs.com and \
             role attach-policy AliyunECSDiskEncryptDefaultRole AliyunECSDiskEncryptRolePolicy \
             bring it back"
        }
        "InvalidParameter.KMSKeyId.CMKUnauthorized" => {
            "the key's tag acs:ecs:disk-encryption=true lets the disk service use it"
        }
        "EntityNotExist.User" => "sealdisk user list shows the users there are",
        "EntityNotExist.Role" => "sealdisk role list shows the roles there are",
        "EntityNotExist.Policy" => "sealdisk policy list shows the policies there are",
        "DeleteConflict.User.AccessKey" => {
            "sealdisk user access-keys USER lists them, delete-access-key deletes one"
        }
        "DeleteConflict.User.Policy" => "sealdisk user policies USER lists them",
        "DeleteConflict.Role.Policy" => "sealdisk role policies ROLE lists them",
        "LimitExceeded.User.AccessKey" => "delete one of the two that there are first",
        "Rejected.PendingDeletion" => "sealdisk key cancel-deletion KEY keeps it",
        "AliasAlreadyExists" => "sealdisk alias update ALIAS KEY points it elsewhere",
        "Rejected.UnsupportedOperation" => {
            "service keys (alias/acs/…) are managed by their service alone; sealdisk key create \
             makes one of your own"
        }
        _ => return None,
    })
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(code) = &self.code {
            write!(f, "\n  code: {code}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Standard output failed: a closed pipe is the reader's choice, all else is told.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let is_silent = error.kind() == io::ErrorKind::BrokenPipe;
        Self { is_silent, ..Self::new(format!("standard output: {error}")) }
    }
}
