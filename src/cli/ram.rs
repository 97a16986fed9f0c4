//! `sealdisk user …`, `sealdisk role …`, `sealdisk policy …`

use serde_json::{Value, json};

use super::client::{Client, text};
use super::failure::Failure;
use super::output::{Output, Table, human_age};
use crate::clock::{Clock, SystemClock};

pub(super) mod access_key;
pub mod arguments;
pub(super) mod policy;
pub(super) mod role;
pub(super) mod user;

/// Product version that these commands speak.
pub(super) const RAM: &str = "2015-05-01";

/// Entries asked for at a time when a whole list is wanted.
const MAX_ITEMS: &str = "1000";

/// All entries of a list that comes in parts: `outer.inner[]`.
fn list_parts(
    client: &Client,
    action: &str,
    parameters: &[(&str, &str)],
    (outer, inner): (&str, &str),
) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut marker = String::new();
    loop {
        let place = [("MaxItems", MAX_ITEMS), ("Marker", marker.as_str())];
        let mut answer = client.call(RAM, action, &[parameters, &place].concat())?;
        let next = text(&answer, "Marker").to_owned();
        if let Value::Array(items) = answer[outer][inner].take() {
            all.extend(items);
        }
        // A list that does not get on would never end.
        if answer["IsTruncated"] != true || next <= marker {
            return Ok(all);
        }
        marker = next;
    }
}

/// Whose a policy of this name is: the system's or the owner's. The names are apart.
fn type_of(client: &Client, policy: &str) -> Result<&'static str, Failure> {
    let asked = [("PolicyType", "System"), ("PolicyName", policy)];
    match client.call(RAM, "GetPolicy", &asked) {
        Ok(_) => Ok("System"),
        Err(failure) if failure.code.as_deref() == Some("EntityNotExist.Policy") => Ok("Custom"),
        Err(failure) => Err(failure),
    }
}

/// Attaches a policy to a user or role, or takes it away.
fn change_attachment(
    client: &Client,
    output: &Output,
    (action, holder, name): (&str, &str, &str),
    policy: &str,
) -> Result<(), Failure> {
    let kind = type_of(client, policy)?;
    let asked = [(holder, name), ("PolicyType", kind), ("PolicyName", policy)];
    client.call(RAM, action, &asked)?;
    let verb = if action.starts_with("Attach") { "attached to" } else { "detached from" };
    let done = json!({holder: name, "PolicyType": kind, "PolicyName": policy});
    output.answer(&done, || format!("{policy} {verb} {name}\n"))
}

/// The policies that a user or role holds.
fn list_attached(
    client: &Client,
    output: &Output,
    (action, holder, name): (&str, &str, &str),
) -> Result<(), Failure> {
    let answer = client.call(RAM, action, &[(holder, name)])?;
    let items = answer["Policies"]["Policy"].as_array().map_or(&[][..], Vec::as_slice);
    let now = SystemClock::new().now();
    let mut table = Table::new(&["POLICY", "TYPE", "DESCRIPTION", "ATTACHED"]);
    for policy in items {
        table.row([
            text(policy, "PolicyName").into(),
            text(policy, "PolicyType").into(),
            or_dash(text(policy, "Description")).into(),
            human_age(text(policy, "AttachDate"), now).into(),
        ]);
    }
    let when_empty = format!("{name} holds no policy, so may do nothing");
    output.list(&json!({"Policies": {"Policy": items}}), &table, &when_empty)
}

/// The contents of a file that a document is read from.
fn read_document(path: &std::path::Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
