//! The owner's first access key, for development.
//!
//! The file is written before the catalog has the key, and gets its name after: whatever a crash
//! leaves behind is finished or made anew at the next start.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::DaemonError;
use crate::ram::{Caller, NewAccessKey, Ram, ServiceActsAs};
use crate::trail::{Actor, Event, EventKind, ResourceType, Service, Trail};

/// Where it is written, in the data directory.
const FILE: &str = "access-key.json";

/// Where it is written until the catalog has it.
const UNFINISHED: &str = "access-key.json.new";

/// Makes an access key of the account's owner if there is none, and gives the file that tells it
/// (mode 0600), if there is one. The making is in the trail as the daemon's own deed.
pub(super) fn write_first(
    (ram, trail, region): (&Ram, &Trail, &str),
    caller: &Caller,
    data_dir: &Path,
) -> Result<Option<PathBuf>, DaemonError> {
    let (path, unfinished) = (data_dir.join(FILE), data_dir.join(UNFINISHED));
    let failed = |error| DaemonError::DataDir { path: path.clone(), error };
    if path.exists() {
        return Ok(Some(path));
    }
    if ram.access_keys(None)?.is_empty() {
        let actor = Actor {
            request_id: caller.request_id,
            account_id: ram.account_id().to_owned(),
            region: region.to_owned(),
            source: caller.source.clone(),
            user_agent: caller.user_agent.clone(),
            user_identity: caller.user_identity(ram.account_id(), &ServiceActsAs::Itself),
        };
        let event =
            Event::new(Service::Ram, "CreateAccessKey", actor).kind(EventKind::ServiceEvent);
        ram.create_access_key(None, &mut |made| {
            write(&unfinished, made)?;
            let id = &made.record.access_key_id;
            let event = event.clone().resource(ResourceType::AccessKey, id);
            Ok(trail.record(&event.response("AccessKeyId", id.as_str()))?)
        })?;
    } else if !unfinished.exists() {
        // Somebody took the file away, or the keys were made by hand.
        return Ok(None);
    }
    std::fs::rename(&unfinished, &path)
        .and_then(|()| File::open(data_dir)?.sync_all())
        .map_err(failed)?;
    Ok(Some(path))
}

fn write(path: &Path, made: &NewAccessKey) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut text = Zeroizing::new(Vec::with_capacity(256));
    // Ids and secrets are letters and digits: nothing in them needs escaping.
    text.extend_from_slice(b"{\"AccessKeyId\":\"");
    text.extend_from_slice(made.record.access_key_id.as_bytes());
    text.extend_from_slice(b"\",\"AccessKeySecret\":\"");
    text.extend_from_slice(made.secret.expose());
    text.extend_from_slice(b"\"}\n");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}
