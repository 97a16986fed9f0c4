//! The account's standing, root key and backups, under our own version. Only for who sits on the
//! host: a unix socket.

use std::path::Path;

use super::answer::Answer;
use super::dispatch::authorise;
use super::error::ApiError;
use super::rpc::Parameters;
use super::{Api, OWN_SERVICE};
use crate::catalog::KmsStatus;
use crate::kms::backup::{self, About, BackupError};
use crate::kms::root::{self, RootError};
use crate::kms::{KmsError, root as root_key};
use crate::ram::Caller;
use crate::secret::Secret;
use crate::trail::{Event, Service};

type Answered = Result<Answer, ApiError>;

pub(super) fn describe_account(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    authorise(api, caller, (OWN_SERVICE, "DescribeAccount"), "account")?;
    local(caller)?;
    let event = Event::new(Service::Kms, "DescribeAccount", api.kms.account().actor(caller));
    api.trail.record(&event.read_only())?;
    Ok(Answer::new()
        .with("AccountId", api.account_id.clone())
        .with("RegionId", api.region.clone())
        .with("KmsStatus", api.kms.standing().as_str()))
}

/// What a bill does in the cloud, and its payment: for trying out what clients make of it.
pub(super) fn set_account_status(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const STATUS: &str = "KmsStatus";
    authorise(api, caller, (OWN_SERVICE, "SetAccountStatus"), "account")?;
    local(caller)?;
    let status = KmsStatus::parse(parameters.required(STATUS)?).ok_or_else(|| {
        ApiError::invalid(STATUS).recommending("Enabled, NotEnabled, InDebt or Suspended")
    })?;
    api.kms.set_account_status(caller, status)?;
    Ok(Answer::new().with(STATUS, status.as_str()))
}

pub(super) fn describe_root_key(api: &Api, caller: &Caller, _: &Parameters) -> Answered {
    authorise(api, caller, (OWN_SERVICE, "DescribeRootKey"), "root-key")?;
    local(caller)?;
    let record = api.root.record()?;
    let event = Event::new(Service::Kms, "DescribeRootKey", api.kms.account().actor(caller));
    api.trail.record(&event.read_only())?;
    Ok(Answer::new()
        .with("Provider", record.provider)
        .with("Place", api.root.provider().place())
        .with("RootKeyId", record.root_key_id)
        .with("PreviousRootKeyId", record.previous_id)
        .with("Since", record.since.to_string()))
}

/// Puts another root key in the place of the present one; `NewSecret` is what it is made of, where
/// the provider cannot make one itself.
pub(super) fn rotate_root_key(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    authorise(api, caller, (OWN_SERVICE, "RotateRootKey"), "root-key")?;
    local(caller)?;
    let given = parameters.filled("NewSecret").map(str::as_bytes);
    let given = given.map(|text| Secret::from_fn(text.len(), |out| out.copy_from_slice(text)));
    let actor = api.kms.account().actor(caller);
    let mut gate = |record: &_| api.trail.record(&root_key::rotated(actor.clone(), record));
    let record = api.root.rotate(given.as_ref(), &mut gate).map_err(rotation_refused)?;
    Ok(Answer::new()
        .with("Provider", record.provider)
        .with("RootKeyId", record.root_key_id)
        .with("PreviousRootKeyId", record.previous_id)
        .with("Since", record.since.to_string()))
}

fn rotation_refused(error: KmsError) -> ApiError {
    use root::RootError::{
        MalformedSecret, SecretNeeded, SecretUnneeded, ShortPassphrase, Unchanged,
    };
    match error {
        KmsError::Root(error) => match error {
            MalformedSecret
            | SecretNeeded { .. }
            | SecretUnneeded { .. }
            | ShortPassphrase
            | Unchanged => ApiError::new(400, "InvalidParameter", error.to_string()),
            RootError::Token(_) => {
                ApiError::new(503, "ServiceUnavailableTemporary", error.to_string())
            }
            RootError::Corrupt
            | RootError::Wrong { .. }
            | RootError::Missing { .. }
            | RootError::Malformed { .. }
            | RootError::Exposed { .. }
            | RootError::Io { .. }
            | RootError::NoCredential { .. }
            | RootError::PassphrasesDiffer
            | RootError::NoAnswer
            | RootError::NoTerminal(_)
            | RootError::NoThread(_) => ApiError::new(500, "InternalFailure", error.to_string()),
        },
        error => unrecorded(error),
    }
}

/// Writes a backup to the new file `Path`, as the daemon's user.
pub(super) fn create_backup(api: &Api, caller: &Caller, parameters: &Parameters) -> Answered {
    const PATH: &str = "Path";
    authorise(api, caller, (OWN_SERVICE, "CreateBackup"), "backup")?;
    local(caller)?;
    let path = Path::new(parameters.required(PATH)?);
    if !path.is_absolute() {
        return Err(ApiError::invalid(PATH).recommending("give an absolute path"));
    }
    let account = api.kms.account().clone();
    let event = Event::new(Service::Kms, "CreateBackup", account.actor(caller))
        .request(PATH, path.to_string_lossy());
    let about = About { account, trail_last_seq: api.trail.last_seq(), now: api.clock.now() };
    let manifest = backup::create(&api.root, api.root.catalog(), &about, path).map_err(
        |error| match error {
            BackupError::Exists { .. } => ApiError::new(400, "InvalidParameter", error.to_string()),
            BackupError::Kms(error) => unrecorded(error),
            error => ApiError::new(500, "InternalFailure", error.to_string()),
        },
    )?;
    let event = event
        .response("RootKeyId", manifest.root_key_id.as_str())
        .response("Sha256", manifest.sha256.as_str());
    if let Err(error) = api.trail.record(&event) {
        // What is not recorded is not done.
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(Answer::new()
        .with("Path", path.to_string_lossy())
        .with("Bytes", manifest.bytes)
        .with("Sha256", manifest.sha256)
        .with("Provider", manifest.provider)
        .with("RootKeyId", manifest.root_key_id)
        .with("CreationTime", manifest.created))
}

/// No call of the KMS has recorded this one.
fn unrecorded(error: KmsError) -> ApiError {
    ApiError { is_recorded: matches!(error, KmsError::Unrecorded(_)), ..ApiError::from(error) }
}

fn local(caller: &Caller) -> Result<(), ApiError> {
    if caller.source.starts_with("unix:") {
        return Ok(());
    }
    let message = "This action is for the daemon's own host: call it over its unix socket.";
    Err(ApiError::new(403, "Forbidden.NoPermission", message))
}
