//! `sealdisk disk resize|rekey|set-key|flatten|reset|reinit`: what changes a disk's layers.

use serde_json::{Value, json};

use super::client::{Client, ECS, OWN, text};
use super::disk::{consented, size_of};
use super::failure::Failure;
use super::find::{DISK, SNAPSHOT};
use super::job;
use super::output::Output;
use super::stack_arguments::{ChangeLayers, ResetDisk, ResizeDisk, SetDiskKey};

const GIB: u64 = 1 << 30;

/// The disk afterwards.
pub(super) fn resize(resize: &ResizeDisk, client: &Client) -> Result<Value, Failure> {
    let id = DISK.id_of(client, &resize.disk.disk)?;
    let bytes = resize.size.get();
    // The published action counts whole GiB.
    let (version, action, name, size) = match bytes.is_multiple_of(GIB) {
        true => (ECS, "ResizeDisk", "NewSize", bytes / GIB),
        false => (OWN, "ResizeLocalDisk", "SizeBytes", bytes),
    };
    let size = size.to_string();
    let mut parameters = vec![("DiskId", id.as_str()), (name, size.as_str())];
    if version == ECS {
        parameters.push(("Type", "online"));
    }
    client.call(version, action, &parameters)?;
    DISK.find(client, &id)
}

/// Rekeys or flattens.
pub(super) fn change(
    action: &str,
    change: &ChangeLayers,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let id = DISK.id_of(client, &change.disk.disk)?;
    let begun = client.call(OWN, action, &[("DiskId", &id)])?;
    job::begun(&begun, change.wait, client, output)
}

pub(super) fn set_key(set: &SetDiskKey, client: &Client, output: &Output) -> Result<(), Failure> {
    let id = DISK.id_of(client, &set.change.disk.disk)?;
    let key_id = set.key_id.as_deref().map(|key| consented(client, key)).transpose()?;
    let mut parameters = vec![("DiskId", id.as_str())];
    parameters.extend(key_id.iter().map(|key| ("KMSKeyId", key.as_str())));
    let begun = client.call(OWN, "SetDiskKey", &parameters)?;
    job::begun(&begun, set.change.wait, client, output)
}

pub(super) fn reset(reset: &ResetDisk, client: &Client, output: &Output) -> Result<(), Failure> {
    let disk = DISK.find(client, &reset.disk.disk)?;
    let snapshot = SNAPSHOT.find(client, &reset.snapshot)?;
    let (id, snapshot_id) = (text(&disk, "DiskId"), text(&snapshot, "SnapshotId"));
    if !reset.yes {
        let (name, taken) = (text(&disk, "DiskName"), text(&snapshot, "CreationTime"));
        output.confirm(&format!(
            "Reset disk {id} {name} to {snapshot_id} of {taken}? What was written since is lost."
        ))?;
    }
    client.call(ECS, "ResetDisk", &[("DiskId", id), ("SnapshotId", snapshot_id)])?;
    let answer = json!({"DiskId": id, "SnapshotId": snapshot_id});
    output.answer(&answer, || format!("{id} is as {snapshot_id} was taken\n"))
}

pub(super) fn reinit(
    (name, yes): (&str, bool),
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let disk = DISK.find(client, name)?;
    let id = text(&disk, "DiskId");
    if !yes {
        let (name, size) = (text(&disk, "DiskName"), size_of(&disk));
        output.confirm(&format!(
            "Bring disk {id} {name} ({size}) back to how it was made? What was written is lost."
        ))?;
    }
    client.call(ECS, "ReInitDisk", &[("DiskId", id)])?;
    output.answer(&json!({"DiskId": id}), || format!("{id} is as it was made\n"))
}
