//! Access keys of users and of the account's owner.

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::RAM;
use super::arguments::{AccessKey, KeyOwner};
use crate::cli::client::{Client, text};
use crate::cli::failure::Failure;
use crate::cli::output::{Cell, Output, Table, human_age};
use crate::clock::{Clock, SystemClock};

/// Read in place: a secret of letters and digits has nothing to unescape, so it is not copied.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created<'a> {
    #[serde(borrow)]
    access_key: Fresh<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fresh<'a> {
    access_key_id: &'a str,
    access_key_secret: &'a str,
}

pub(super) fn create(whose: &KeyOwner, client: &Client, output: &Output) -> Result<(), Failure> {
    let body = client.call_secret(RAM, "CreateAccessKey", &of(whose))?;
    let Created { access_key } = serde_json::from_slice(&body)
        .map_err(|_| Failure::new("the daemon answered something else than an access key"))?;
    let Fresh { access_key_id: id, access_key_secret: secret } = access_key;
    let printed = Zeroizing::new(if output.is_for_people() {
        format!("Access key id  {id}\nSecret         {secret}\n")
    } else {
        format!("{{\n  \"AccessKeyId\": \"{id}\",\n  \"AccessKeySecret\": \"{secret}\"\n}}\n")
    });
    output.print(&printed)?;
    output.note(
        "\nThe secret is shown this once. Keep it where only its user can read it; whoever has it \
         may do what they may.",
    )
}

pub(super) fn list(whose: &KeyOwner, client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.call(RAM, "ListAccessKeys", &of(whose))?;
    let keys = answer["AccessKeys"]["AccessKey"].as_array().map_or(&[][..], Vec::as_slice);
    let now = SystemClock::new().now();
    let mut table = Table::new(&["ACCESS KEY ID", "STATUS", "CREATED"]);
    for key in keys {
        table.row([
            text(key, "AccessKeyId").into(),
            Cell::status(text(key, "Status")),
            human_age(text(key, "CreateDate"), now).into(),
        ]);
    }
    let when_empty = "no access keys; sealdisk user create-access-key makes one";
    output.list(&json!({"AccessKeys": {"AccessKey": keys}}), &table, when_empty)
}

pub(super) fn set(
    key: &AccessKey,
    status: &str,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    let about = [("UserAccessKeyId", key.id.as_str()), ("Status", status)];
    client.call(RAM, "UpdateAccessKey", &[&of(&key.whose)[..], &about].concat())?;
    let done = json!({"AccessKeyId": key.id, "Status": status});
    output.answer(&done, || format!("{} is {status}\n", key.id))
}

pub(super) fn delete(key: &AccessKey, client: &Client, output: &Output) -> Result<(), Failure> {
    let about = [("UserAccessKeyId", key.id.as_str())];
    client.call(RAM, "DeleteAccessKey", &[&of(&key.whose)[..], &about].concat())?;
    output.answer(&json!({"AccessKeyId": key.id}), || format!("deleted {}\n", key.id))
}

/// The user, or nobody for the owner: the unix socket is the owner's.
fn of(whose: &KeyOwner) -> Vec<(&str, &str)> {
    whose.user.iter().map(|user| ("UserName", user.as_str())).collect()
}
