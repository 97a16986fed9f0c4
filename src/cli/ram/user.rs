//! `sealdisk user …`

use serde_json::{Value, json};

use super::arguments::UserCommand;
use super::{RAM, access_key, change_attachment, list_attached, list_parts, or_dash};
use crate::cli::client::{Client, text};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, human_age, render_fields};
use crate::clock::{Clock, SystemClock};

pub(in crate::cli) fn run(
    command: UserCommand,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        UserCommand::Create { user, display_name, comments } => {
            let asked = [
                ("UserName", user.user.as_str()),
                ("DisplayName", &display_name),
                ("Comments", &comments),
            ];
            show(&client.call(RAM, "CreateUser", &asked)?["User"], output)
        }
        UserCommand::List => list(client, output),
        UserCommand::Show(user) => {
            show(&client.call(RAM, "GetUser", &[("UserName", &user.user)])?["User"], output)
        }
        UserCommand::Delete(user) => {
            client.call(RAM, "DeleteUser", &[("UserName", &user.user)])?;
            output.answer(&json!({"UserName": user.user}), || format!("deleted {}\n", user.user))
        }
        UserCommand::AttachPolicy { user, policy } => {
            let what = ("AttachPolicyToUser", "UserName", user.user.as_str());
            change_attachment(client, output, what, &policy)
        }
        UserCommand::DetachPolicy { user, policy } => {
            let what = ("DetachPolicyFromUser", "UserName", user.user.as_str());
            change_attachment(client, output, what, &policy)
        }
        UserCommand::Policies(user) => {
            list_attached(client, output, ("ListPoliciesForUser", "UserName", &user.user))
        }
        UserCommand::CreateAccessKey(whose) => access_key::create(&whose, client, output),
        UserCommand::AccessKeys(whose) => access_key::list(&whose, client, output),
        UserCommand::EnableAccessKey(key) => access_key::set(&key, "Active", client, output),
        UserCommand::DisableAccessKey(key) => access_key::set(&key, "Inactive", client, output),
        UserCommand::DeleteAccessKey(key) => access_key::delete(&key, client, output),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let users = list_parts(client, "ListUsers", &[], ("Users", "User"))?;
    let now = SystemClock::new().now();
    let mut table = Table::new(&["USER", "USER ID", "DISPLAY NAME", "COMMENTS", "CREATED"]);
    for user in &users {
        table.row([
            text(user, "UserName").into(),
            text(user, "UserId").into(),
            or_dash(text(user, "DisplayName")).into(),
            or_dash(text(user, "Comments")).into(),
            human_age(text(user, "CreateDate"), now).into(),
        ]);
    }
    let when_empty = "no users; sealdisk user create ann makes one";
    output.list(&json!({"Users": {"User": users}}), &table, when_empty)
}

fn show(user: &Value, output: &Output) -> Result<(), Failure> {
    output.answer(user, || {
        let field = |name: &str| text(user, name).to_owned();
        render_fields(&[
            ("User", field("UserName")),
            ("User id", field("UserId")),
            ("Display name", field("DisplayName")),
            ("Comments", field("Comments")),
            ("Created", field("CreateDate")),
        ])
    })
}
