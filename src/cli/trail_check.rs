//! `sealdisk trail verify`: reads files, asks no daemon.

use std::path::Path;

use serde_json::{Value, json};

use super::failure::Failure;
use super::output::{Output, render_fields};
use super::root_source::{RootSource, record_of};
use super::trail::Verify;
use crate::catalog::RootRecord;
use crate::clock::SystemEntropy;
use crate::crypto::ed25519::PublicKey;
use crate::kms::root::{RootError, open_trail_key};
use crate::trail::{self, TrailError, Verified};

pub(super) fn run(verify: &Verify, output: &Output) -> Result<(), Failure> {
    let dir = verify.trail_dir.clone().unwrap_or_else(|| verify.data_dir.join("trail"));
    if !dir.is_dir() {
        let message = format!("{}: no trail is there", dir.display());
        return Err(Failure::new(message)
            .hint("name the data directory with --data-dir DIR, or the trail with --trail-dir"));
    }
    let (found, public) = match verify.public_key {
        Some(public) => (checked(trail::verify_public(&dir, public, verify.from))?, public),
        None => {
            let record = record_of(&verify.data_dir)?;
            let key = trail_key(&verify.root, &record, &verify.data_dir)?;
            let found = trail::verify_from(&dir, &key, verify.from);
            (checked(found)?, trail::public_key(&key))
        }
    };
    judge(verify, &found)?;
    let by = if verify.public_key.is_some() { "signatures alone" } else { "every MAC" };
    output.answer(&as_json(&dir, &found, public), || as_text(&dir, &found, (public, by)))
}

fn trail_key(
    source: &RootSource,
    record: &RootRecord,
    data_dir: &Path,
) -> Result<crate::secret::Secret, Failure> {
    let provider = source.provider(&record.provider, data_dir)?;
    open_trail_key(&*provider, record, &SystemEntropy).map_err(|error: RootError| {
        Failure::new(error.to_string()).hint("say --root-key FILE, or --config FILE")
    })
}

fn checked(found: Result<Verified, TrailError>) -> Result<Verified, Failure> {
    found.map_err(|error| {
        let failure = Failure::new(error.to_string());
        match error {
            TrailError::Damaged(_) | TrailError::NoHead { .. } => {
                failure.hint("the trail was tampered with, or the medium is damaged")
            }
            _ => failure,
        }
    })
}

/// What only who asks can know.
fn judge(verify: &Verify, found: &Verified) -> Result<(), Failure> {
    if found.first_seq > verify.from {
        let first = found.first_seq;
        let message = format!(
            "the trail begins with record {first}; records {} to {} are missing",
            verify.from,
            first - 1
        );
        let hint = format!("if they were moved elsewhere, say --from {first}");
        return Err(Failure::new(message).hint(hint));
    }
    match verify.until {
        Some(until) if until > found.last_seq => {
            let message = format!(
                "the trail ends with record {}; records up to {until} must be there",
                found.last_seq
            );
            Err(Failure::new(message).hint("the trail was cut off, or put back to an older copy"))
        }
        _ => Ok(()),
    }
}

fn as_json(dir: &Path, found: &Verified, public: PublicKey) -> Value {
    json!({
        "TrailDir": dir.to_string_lossy(),
        "Events": found.records,
        "Checkpoints": found.checkpoints,
        "FirstRecord": found.first_seq,
        "LastRecord": found.last_seq,
        "LastCheckpoint": found.last_checkpoint,
        "Head": found.head,
        "UnfinishedBytes": found.unfinished_bytes,
        "PublicKey": public.to_string(),
    })
}

fn as_text(dir: &Path, found: &Verified, (public, by): (PublicKey, &str)) -> String {
    let mut fields = vec![
        ("Trail", dir.display().to_string()),
        ("Checked", format!("sound, by {by}")),
        ("Records", format!("{} to {}", found.first_seq, found.last_seq)),
        ("Events", found.records.to_string()),
        (
            "Checkpoints",
            format!("{}, the last is record {}", found.checkpoints, found.last_checkpoint),
        ),
        ("Public key", public.to_string()),
    ];
    if found.head.is_none() {
        let note = "not there: whether the end was cut off cannot be told without --until";
        fields.push(("Head", note.to_owned()));
    }
    if found.unfinished_bytes > 0 {
        let note = format!(
            "{} bytes at the end: being written, or left by a crash",
            found.unfinished_bytes
        );
        fields.push(("Unfinished", note));
    }
    render_fields(&fields)
}
