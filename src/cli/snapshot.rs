//! `sealdisk snapshot …`

use serde_json::{Value, json};

use super::client::{Client, ECS, OWN, text};
use super::disk::{KeyNames, consented, or_dash, size_of};
use super::failure::Failure;
use super::find::{DISK, SNAPSHOT};
use super::output::{Cell, Output, Table, human_age, human_size, render_fields};
use super::stack_arguments::{
    CopySnapshot, CreateSnapshot, DeleteSnapshot, SetSnapshot, SnapshotCommand,
};
use super::{client, job, snapshot_backup};
use crate::clock::{Clock, SystemClock};

pub(super) fn run(
    command: SnapshotCommand,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create(create) => create_snapshot(&create, client, output),
        SnapshotCommand::List { disk } => list(disk.as_deref(), client, output),
        SnapshotCommand::Show(name) => {
            show(&SNAPSHOT.find(client, &name.snapshot)?, client, output)
        }
        SnapshotCommand::Set(set) => set_snapshot(&set, client, output),
        SnapshotCommand::Delete(delete) => delete_snapshot(&delete, client, output),
        SnapshotCommand::Copy(copy) => copy_snapshot(&copy, client, output),
        SnapshotCommand::Diff { earlier, later } => diff((&earlier, &later), client, output),
        SnapshotCommand::Export(export) => snapshot_backup::export(&export, client, output),
        SnapshotCommand::Restore(restore) => {
            let id = snapshot_backup::restore(&restore, client, output)?;
            show(&SNAPSHOT.find(client, &id)?, client, output)
        }
    }
}

fn create_snapshot(
    create: &CreateSnapshot,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let disk = DISK.id_of(client, &create.disk.disk)?;
    let days = create.retention_days.map(|days| days.to_string());
    let tags = numbered_tags(&create.tags);
    let mut parameters = vec![("DiskId", disk.as_str())];
    parameters.extend(create.name.iter().map(|name| ("SnapshotName", name.as_str())));
    parameters.extend(create.description.iter().map(|text| ("Description", text.as_str())));
    parameters.extend(days.iter().map(|days| ("RetentionDays", days.as_str())));
    parameters.extend(tags.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let created = client.call(ECS, "CreateSnapshot", &parameters)?;
    show(&SNAPSHOT.find(client, text(&created, "SnapshotId"))?, client, output)
}

/// `Tag.N.Key` and `Tag.N.Value`.
pub(super) fn numbered_tags(tags: &[(String, String)]) -> Vec<(String, String)> {
    let of = |(number, (key, value)): (usize, &(String, String))| {
        let name = |part| format!("Tag.{}.{part}", number + 1);
        [(name("Key"), key.clone()), (name("Value"), value.clone())]
    };
    tags.iter().enumerate().flat_map(of).collect()
}

fn list(disk: Option<&str>, client: &Client, output: &Output) -> Result<(), Failure> {
    let disk = disk.map(|disk| DISK.id_of(client, disk)).transpose()?;
    let parameters: Vec<(&str, &str)> = disk.iter().map(|id| ("DiskId", id.as_str())).collect();
    let snapshots = SNAPSHOT.list(client, &parameters)?;
    let names = KeyNames::for_people(client, output);
    let now = SystemClock::new().now();
    let mut table = Table::new(&["SNAPSHOT ID", "NAME", "DISK", "SIZE", "STATUS", "KEY", "TAKEN"]);
    for snapshot in &snapshots {
        table.row([
            text(snapshot, "SnapshotId").into(),
            or_dash(text(snapshot, "SnapshotName")).into(),
            text(snapshot, "SourceDiskId").into(),
            size_of(snapshot).into(),
            Cell::status(text(snapshot, "Status")),
            names.of(snapshot).into(),
            human_age(text(snapshot, "CreationTime"), now).into(),
        ]);
    }
    let when_empty = "no snapshots; sealdisk snapshot create DISK takes one";
    output.list(&client::wrapped("Snapshots", "Snapshot", &snapshots), &table, when_empty)
}

fn show(snapshot: &Value, client: &Client, output: &Output) -> Result<(), Failure> {
    output.answer(snapshot, || {
        let retention = match snapshot["RetentionDays"].as_u64() {
            Some(days @ 1..) => format!("{days} days"),
            _ => "until it is deleted".to_owned(),
        };
        render_fields(&[
            ("Snapshot id", text(snapshot, "SnapshotId").to_owned()),
            ("Name", text(snapshot, "SnapshotName").to_owned()),
            ("Description", text(snapshot, "Description").to_owned()),
            ("Of disk", text(snapshot, "SourceDiskId").to_owned()),
            ("Size", size_of(snapshot)),
            ("Status", format!("{} {}", text(snapshot, "Status"), text(snapshot, "Progress"))),
            ("Encrypted", yes_or_no(snapshot)),
            ("KMS key", KeyNames::read(client).of(snapshot)),
            ("Taken", text(snapshot, "CreationTime").to_owned()),
            ("Kept", retention),
            ("Layer", text(snapshot, "LayerId").to_owned()),
            ("Tags", tags_of(snapshot)),
        ])
    })
}

pub(super) fn yes_or_no(item: &Value) -> String {
    if item["Encrypted"] == true { "yes" } else { "NO" }.to_owned()
}

/// `plan=daily, owner=`.
pub(super) fn tags_of(item: &Value) -> String {
    let tags = item["Tags"]["Tag"].as_array().map_or(&[][..], Vec::as_slice);
    let tags: Vec<String> = tags
        .iter()
        .map(|tag| format!("{}={}", text(tag, "TagKey"), text(tag, "TagValue")))
        .collect();
    tags.join(", ")
}

fn set_snapshot(set: &SetSnapshot, client: &Client, output: &Output) -> Result<(), Failure> {
    let id = SNAPSHOT.id_of(client, &set.snapshot.snapshot)?;
    let days = set.retention_days.map(|days| days.to_string());
    let mut parameters = vec![("SnapshotId", id.as_str())];
    parameters.extend(set.name.iter().map(|name| ("SnapshotName", name.as_str())));
    parameters.extend(set.description.iter().map(|text| ("Description", text.as_str())));
    parameters.extend(days.iter().map(|days| ("RetentionDays", days.as_str())));
    client.call(ECS, "ModifySnapshotAttribute", &parameters)?;
    show(&SNAPSHOT.find(client, &id)?, client, output)
}

fn delete_snapshot(
    delete: &DeleteSnapshot,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let snapshot = SNAPSHOT.find(client, &delete.snapshot.snapshot)?;
    let id = text(&snapshot, "SnapshotId");
    if !delete.yes {
        let (name, disk) = (text(&snapshot, "SnapshotName"), text(&snapshot, "SourceDiskId"));
        output.confirm(&format!("Delete snapshot {id} {name} of {disk}?"))?;
    }
    let force = delete.force.to_string();
    let (version, action) =
        if delete.erase { (OWN, "EraseSnapshot") } else { (ECS, "DeleteSnapshot") };
    client.call(version, action, &[("SnapshotId", id), ("Force", &force)])?;
    output.answer(&json!({"SnapshotId": id}), || format!("deleted {id}\n"))
}

fn copy_snapshot(copy: &CopySnapshot, client: &Client, output: &Output) -> Result<(), Failure> {
    let id = SNAPSHOT.id_of(client, &copy.snapshot.snapshot)?;
    let region = region_of(client)?;
    let key_id = copy.key_id.as_deref().map(|key| consented(client, key)).transpose()?;
    let mut parameters = vec![
        ("SnapshotId", id.as_str()),
        ("RegionId", region.as_str()),
        ("DestinationRegionId", region.as_str()),
        ("DestinationSnapshotName", copy.name.as_str()),
        ("DestinationSnapshotDescription", ""),
    ];
    if let Some(key) = &key_id {
        parameters.extend([("Encrypted", "true"), ("KMSKeyId", key.as_str())]);
    }
    let copied = client.call(ECS, "CopySnapshot", &parameters)?;
    let new = text(&copied, "SnapshotId");
    if copy.wait {
        job::wait_for_copy(new, client, output)?;
    }
    show(&SNAPSHOT.find(client, new)?, client, output)
}

/// The daemon's region: copies go from there to there.
pub(super) fn region_of(client: &Client) -> Result<String, Failure> {
    Ok(text(&client.call(OWN, "DescribeServer", &[])?, "RegionId").to_owned())
}

fn diff((earlier, later): (&str, &str), client: &Client, output: &Output) -> Result<(), Failure> {
    let (earlier, later) = (SNAPSHOT.id_of(client, earlier)?, SNAPSHOT.id_of(client, later)?);
    let mut changes = Vec::new();
    let mut offset = "0".to_owned();
    loop {
        let parameters = [
            ("SinceSnapshotId", earlier.as_str()),
            ("SnapshotId", later.as_str()),
            ("Offset", offset.as_str()),
        ];
        let mut page = client.call(OWN, "DescribeSnapshotDifference", &parameters)?;
        if let Some(Value::Array(items)) = page.get_mut("Changes").map(Value::take) {
            changes.extend(items);
        }
        match page["NextOffset"].as_u64() {
            Some(next) => offset = next.to_string(),
            None => break,
        }
    }
    let number = |change: &Value, field: &str| change[field].as_u64().unwrap_or_default();
    let total: u64 = changes.iter().map(|change| number(change, "Length")).sum();
    let mut table = Table::new(&["OFFSET", "LENGTH", "SIZE"]);
    for change in &changes {
        let length = number(change, "Length");
        table.row([
            number(change, "Offset").to_string().into(),
            length.to_string().into(),
            human_size(length).into(),
        ]);
    }
    let json = json!({
        "SinceSnapshotId": earlier,
        "SnapshotId": later,
        "Changes": changes,
        "ChangedBytes": total,
    });
    output.list(&json, &table, "nothing changed")?;
    if output.is_for_people() && total > 0 {
        output.note(&format!("\n{} in {} runs may differ", human_size(total), changes.len()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_numbered_from_one_and_shown_as_given() {
        let tags = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())];
        let names: Vec<_> = numbered_tags(&tags).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Tag.1.Key", "Tag.1.Value", "Tag.2.Key", "Tag.2.Value"]);
        let item = json!({"Tags": {"Tag": [{"TagKey": "a", "TagValue": "1"}]}});
        assert_eq!((tags_of(&item), tags_of(&json!({}))), ("a=1".to_owned(), String::new()));
    }
}
