//! `sealdisk key …`

use serde_json::{Value, json};

use super::arguments::KeyCommand;
use super::client::{Client, KMS, text, wrapped};
use super::failure::Failure;
use super::output::{Cell, Output, Table, human_age, render_fields};
use crate::clock::{Clock, SystemClock};
use crate::kms::DISK_CONSENT_TAG;

pub(super) fn run(command: KeyCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { description } => {
            let created = client.call(KMS, "CreateKey", &[("Description", &description)])?;
            show(&created["KeyMetadata"], output)
        }
        KeyCommand::List => list(client, output),
        KeyCommand::Show(key) => show(&describe(client, &key.key)?, output),
        KeyCommand::Enable(key) => change(client, output, "EnableKey", (&key.key, &[])),
        KeyCommand::Disable(key) => change(client, output, "DisableKey", (&key.key, &[])),
        KeyCommand::ScheduleDeletion { key, days } => {
            let days = days.to_string();
            let window = [("PendingWindowInDays", days.as_str())];
            change(client, output, "ScheduleKeyDeletion", (&key.key, &window))?;
            output.note(&format!("\nsealdisk key cancel-deletion {}   keeps it", key.key))
        }
        KeyCommand::CancelDeletion(key) => {
            change(client, output, "CancelKeyDeletion", (&key.key, &[]))
        }
    }
}

/// The id of a key given by id or alias: management actions take ids alone.
pub(super) fn resolve(client: &Client, key: &str) -> Result<String, Failure> {
    if !key.starts_with("alias/") {
        return Ok(key.to_owned());
    }
    Ok(text(&describe(client, key)?, "KeyId").to_owned())
}

/// Puts the tag on a key that says its owner lets the disk service use it, as the cloud's console
/// does when a key is chosen for a disk. A service key needs none.
pub(super) fn consent(client: &Client, key: &str) -> Result<(), Failure> {
    let described = describe(client, key)?;
    if !text(&described, "Creator").bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    let id = text(&described, "KeyId");
    let tags = client.call(KMS, "ListResourceTags", &[("KeyId", id)])?;
    let there = tags["Tags"]["Tag"].as_array().map_or(&[][..], Vec::as_slice);
    let is_consent =
        |tag: &Value| text(tag, "TagKey") == DISK_CONSENT_TAG && text(tag, "TagValue") == "true";
    if there.iter().any(is_consent) {
        return Ok(());
    }
    let tag = json!([{"TagKey": DISK_CONSENT_TAG, "TagValue": "true"}]).to_string();
    client.call(KMS, "TagResource", &[("KeyId", id), ("Tags", &tag)]).map(drop)
}

fn describe(client: &Client, key: &str) -> Result<Value, Failure> {
    let mut answer = client.call(KMS, "DescribeKey", &[("KeyId", key)])?;
    Ok(answer["KeyMetadata"].take())
}

fn change(
    client: &Client,
    output: &Output,
    action: &str,
    (key, more): (&str, &[(&str, &str)]),
) -> Result<(), Failure> {
    let id = resolve(client, key)?;
    client.call(KMS, action, &[&[("KeyId", id.as_str())], more].concat())?;
    show(&describe(client, &id)?, output)
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let listed = client.list_all((KMS, "ListKeys"), &[], ("Keys", "Key"))?;
    let described: Result<Vec<Value>, Failure> =
        listed.iter().map(|key| describe(client, text(key, "KeyId"))).collect();
    let keys = described?;
    let now = SystemClock::new().now();
    let mut table = Table::new(&["KEY ID", "STATE", "CREATOR", "DESCRIPTION", "CREATED"]);
    for key in &keys {
        table.row([
            text(key, "KeyId").into(),
            Cell::status(text(key, "KeyState")),
            text(key, "Creator").into(),
            first_line(text(key, "Description")).into(),
            human_age(text(key, "CreationDate"), now).into(),
        ]);
    }
    let when_empty = "no keys; sealdisk key create makes one, and the first encrypted disk makes \
                      the service key";
    output.list(&wrapped("Keys", "Key", &keys), &table, when_empty)
}

/// A description may be long and have lines; a table has room for little.
fn first_line(text: &str) -> String {
    const SHOWN: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None if line.is_empty() => "-".to_owned(),
        None => line.to_owned(),
    }
}

fn show(key: &Value, output: &Output) -> Result<(), Failure> {
    output.answer(key, || {
        let field = |name: &str| text(key, name).to_owned();
        render_fields(&[
            ("Key id", field("KeyId")),
            ("ARN", field("Arn")),
            ("State", field("KeyState")),
            ("Description", field("Description")),
            ("Spec", field("KeySpec")),
            ("Origin", field("Origin")),
            ("Protection", field("ProtectionLevel")),
            ("Creator", field("Creator")),
            ("Primary version", field("PrimaryKeyVersion")),
            ("Created", field("CreationDate")),
            ("Deleted at", field("DeleteDate")),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_cut_to_a_line() {
        assert_eq!(first_line(""), "-");
        assert_eq!(first_line("one\ntwo"), "one");
        assert_eq!(first_line(&"ü".repeat(60)), format!("{}…", "ü".repeat(40)));
    }
}
