//! `sealdisk key …`: what manages keys.

use std::path::Path;

use serde_json::{Value, json};

use super::arguments::{CreateKey, KeyCommand};
use super::client::{Client, KMS, OWN, text, wrapped};
use super::failure::Failure;
use super::output::{Cell, Output, Table, human_age, render_fields};
use super::{disk, key_import, key_use};
use crate::clock::{Clock, SystemClock};
use crate::kms::DISK_CONSENT_TAG;

pub(super) fn run(command: KeyCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    use KeyCommand as K;
    let change =
        |action, key: &str, more: &[(&str, &str)]| change(client, output, action, (key, more));
    match command {
        K::Create(wanted) => create(&wanted, client, output),
        K::List { state, tag } => list(client, output, &[("KeyState", state), ("TagKey", tag)]),
        K::Show(key) => show(&describe(client, &key.key)?, output),
        K::Enable(key) => change("EnableKey", &key.key, &[]),
        K::Disable(key) => change("DisableKey", &key.key, &[]),
        K::Describe { key, description } => {
            change("UpdateKeyDescription", &key.key, &[("Description", &description)])
        }
        K::Protect { key, why } => {
            let on = ("EnableDeletionProtection", "true");
            let why = why.as_deref().map(|why| ("DeletionProtectionDescription", why));
            let parameters: Vec<_> = [Some(on), why].into_iter().flatten().collect();
            change("SetDeletionProtection", &key.key, &parameters)
        }
        K::Unprotect(key) => {
            change("SetDeletionProtection", &key.key, &[("EnableDeletionProtection", "false")])
        }
        K::ScheduleDeletion { key, days } => {
            let days = days.to_string();
            change("ScheduleKeyDeletion", &key.key, &[("PendingWindowInDays", &days)])?;
            output.note(&format!("\nsealdisk key cancel-deletion {}   keeps it", key.key))
        }
        K::CancelDeletion(key) => change("CancelKeyDeletion", &key.key, &[]),
        K::Rotate { key, now: true, .. } => {
            let id = resolve(client, &key.key)?;
            client.call(OWN, "RotateKey", &[("KeyId", &id)])?;
            show(&describe(client, &id)?, output)
        }
        K::Rotate { key, every, never, .. } => rotate(client, output, &key.key, (every, never)),
        K::Rewrap(key) => disk::rewrap((OWN, "RewrapKey"), ("KeyId", &key.key), client, output),
        K::Versions(key) => versions(client, output, &key.key),
        K::Import { key, material, expires } => {
            let id = resolve(client, &key.key)?;
            key_import::run(&id, &material, expires, (client, output))?;
            show(&describe(client, &id)?, output)
        }
        K::DeleteMaterial(key) => change("DeleteKeyMaterial", &key.key, &[]),
        K::Tag { key, tags } => {
            let tags = tags_in_json(&tags);
            tagged(client, output, &key.key, Some(("TagResource", ("Tags", &tags))))
        }
        K::Untag { key, names } => {
            let names = json!(names).to_string();
            tagged(client, output, &key.key, Some(("UntagResource", ("TagKeys", &names))))
        }
        K::Tags(key) => tagged(client, output, &key.key, None),
        K::Policy { key, set } => policy(client, output, &key.key, set.as_deref()),
        used => key_use::run(used, client, output),
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

pub(super) fn describe(client: &Client, key: &str) -> Result<Value, Failure> {
    let mut answer = client.call(KMS, "DescribeKey", &[("KeyId", key)])?;
    Ok(answer["KeyMetadata"].take())
}

fn create(wanted: &CreateKey, client: &Client, output: &Output) -> Result<(), Failure> {
    let tags = tags_in_json(&wanted.tags);
    let optional = [
        ("KeySpec", wanted.spec.as_deref()),
        ("KeyUsage", wanted.usage.as_deref()),
        ("ProtectionLevel", wanted.protection_level.as_deref()),
        ("Origin", wanted.origin.as_deref()),
        ("DKMSInstanceId", wanted.instance.as_deref()),
        ("RotationInterval", wanted.rotate_every.as_deref()),
        ("EnableAutomaticRotation", wanted.rotate_every.as_deref().map(|_| "true")),
        ("Tags", (!wanted.tags.is_empty()).then_some(tags.as_str())),
    ];
    let given = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let parameters: Vec<(&str, &str)> =
        std::iter::once(("Description", wanted.description.as_str())).chain(given).collect();
    let created = client.call(KMS, "CreateKey", &parameters)?;
    show(&created["KeyMetadata"], output)
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

fn rotate(
    client: &Client,
    output: &Output,
    key: &str,
    (every, never): (Option<String>, bool),
) -> Result<(), Failure> {
    let switch = |on| ("EnableAutomaticRotation", on);
    match every {
        Some(span) => {
            let policy = [switch("true"), ("RotationInterval", span.as_str())];
            change(client, output, "UpdateRotationPolicy", (key, &policy))
        }
        None if never => change(client, output, "UpdateRotationPolicy", (key, &[switch("false")])),
        None => change(client, output, "CreateKeyVersion", (key, &[])).map_err(|failure| {
            failure.hint("only key pairs, once a week; others take --now or --every SPAN")
        }),
    }
}

fn versions(client: &Client, output: &Output, key: &str) -> Result<(), Failure> {
    let primary = describe(client, key)?;
    let parameters = [("KeyId", key)];
    let list = (KMS, "ListKeyVersions");
    let versions = client.list_all(list, &parameters, ("KeyVersions", "KeyVersion"))?;
    let mut table = Table::new(&["VERSION ID", "CREATED", "PRIMARY"]);
    for version in &versions {
        let id = text(version, "KeyVersionId");
        let mark = if id == text(&primary, "PrimaryKeyVersion") { "yes" } else { "" };
        table.row([id.into(), text(version, "CreationDate").into(), mark.into()]);
    }
    output.list(&wrapped("KeyVersions", "KeyVersion", &versions), &table, "no versions")
}

/// Does `what` to the tags of a key, and shows them.
fn tagged(
    client: &Client,
    output: &Output,
    key: &str,
    what: Option<(&str, (&str, &str))>,
) -> Result<(), Failure> {
    let id = resolve(client, key)?;
    if let Some((action, parameter)) = what {
        client.call(KMS, action, &[("KeyId", &id), parameter])?;
    }
    let answer = client.call(KMS, "ListResourceTags", &[("KeyId", &id)])?;
    let mut table = Table::new(&["TAG", "VALUE"]);
    for tag in answer["Tags"]["Tag"].as_array().into_iter().flatten() {
        table.row([text(tag, "TagKey").into(), text(tag, "TagValue").into()]);
    }
    output.list(&answer, &table, "no tags; sealdisk key tag KEY NAME=VALUE puts one on")
}

fn tags_in_json(tags: &[(String, String)]) -> String {
    let tag = |(key, value): &(String, String)| json!({"TagKey": key, "TagValue": value});
    Value::Array(tags.iter().map(tag).collect()).to_string()
}

fn policy(client: &Client, output: &Output, key: &str, set: Option<&Path>) -> Result<(), Failure> {
    let id = resolve(client, key)?;
    if let Some(file) = set {
        let policy = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
        client.call(KMS, "SetKeyPolicy", &[("KeyId", &id), ("Policy", &policy)])?;
    }
    let answer = client.call(KMS, "GetKeyPolicy", &[("KeyId", &id)])?;
    output.answer(&answer, || {
        let policy = text(&answer, "Policy");
        match serde_json::from_str::<Value>(policy) {
            Ok(policy) => format!("{policy:#}\n"),
            Err(_) => format!("{policy}\n"),
        }
    })
}

fn list(
    client: &Client,
    output: &Output,
    conditions: &[(&str, Option<String>)],
) -> Result<(), Failure> {
    let conditions = conditions.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let filters: Vec<Value> =
        conditions.map(|(key, value)| json!({"Key": key, "Values": [value]})).collect();
    let filters = Value::Array(filters).to_string();
    let asked = [("Filters", filters.as_str())];
    let listed = client.list_all((KMS, "ListKeys"), &asked, ("Keys", "Key"))?;
    let described: Result<Vec<Value>, Failure> =
        listed.iter().map(|key| describe(client, text(key, "KeyId"))).collect();
    let keys = described?;
    let now = SystemClock::new().now();
    let mut table = Table::new(&["KEY ID", "STATE", "SPEC", "CREATOR", "DESCRIPTION", "CREATED"]);
    for key in &keys {
        table.row([
            text(key, "KeyId").into(),
            Cell::status(text(key, "KeyState")),
            text(key, "KeySpec").into(),
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
        let always = [
            ("Key id", field("KeyId")),
            ("ARN", field("Arn")),
            ("State", field("KeyState")),
            ("Description", field("Description")),
            ("Spec", field("KeySpec")),
            ("Usage", field("KeyUsage")),
            ("Origin", field("Origin")),
            ("Protection", field("ProtectionLevel")),
            ("Creator", field("Creator")),
            ("Primary version", field("PrimaryKeyVersion")),
            ("Rotation", field("AutomaticRotation")),
            ("Created", field("CreationDate")),
            ("Deleted at", field("DeleteDate")),
        ];
        let sometimes = [
            ("Instance", field("DKMSInstanceId")),
            ("Next rotation", field("NextRotationDate")),
            ("Material expires", field("MaterialExpireTime")),
            ("Kept because", field("DeletionProtectionDescription")),
        ];
        let said = sometimes.into_iter().filter(|(_, value)| !value.is_empty());
        render_fields(&always.into_iter().chain(said).collect::<Vec<_>>())
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
