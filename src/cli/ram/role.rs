//! `sealdisk role …`

use serde_json::{Value, json};

use super::arguments::RoleCommand;
use super::{RAM, change_attachment, list_attached, list_parts, or_dash, read_document};
use crate::cli::client::{Client, text};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, human_age, render_fields};
use crate::clock::{Clock, SystemClock};

pub(in crate::cli) fn run(
    command: RoleCommand,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        RoleCommand::Create { role, service, trust, description } => {
            let trust = match (trust, service) {
                (Some(file), _) => read_document(&file)?,
                (None, service) => trust_of(&service.unwrap_or_default()),
            };
            let asked = [
                ("RoleName", role.role.as_str()),
                ("AssumeRolePolicyDocument", &trust),
                ("Description", &description),
            ];
            show(&client.call(RAM, "CreateRole", &asked)?["Role"], output)
        }
        RoleCommand::List => list(client, output),
        RoleCommand::Show(role) => {
            show(&client.call(RAM, "GetRole", &[("RoleName", &role.role)])?["Role"], output)
        }
        RoleCommand::Delete(role) => {
            client.call(RAM, "DeleteRole", &[("RoleName", &role.role)])?;
            output.answer(&json!({"RoleName": role.role}), || format!("deleted {}\n", role.role))
        }
        RoleCommand::AttachPolicy { role, policy } => {
            let what = ("AttachPolicyToRole", "RoleName", role.role.as_str());
            change_attachment(client, output, what, &policy)
        }
        RoleCommand::DetachPolicy { role, policy } => {
            let what = ("DetachPolicyFromRole", "RoleName", role.role.as_str());
            change_attachment(client, output, what, &policy)
        }
        RoleCommand::Policies(role) => {
            list_attached(client, output, ("ListPoliciesForRole", "RoleName", &role.role))
        }
    }
}

/// The trust policy that lets one service take a role on.
fn trust_of(service: &str) -> String {
    json!({"Version": "1", "Statement": [{
        "Action": "sts:AssumeRole",
        "Effect": "Allow",
        "Principal": {"Service": [service]},
    }]})
    .to_string()
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let roles = list_parts(client, "ListRoles", &[], ("Roles", "Role"))?;
    let now = SystemClock::new().now();
    let mut table = Table::new(&["ROLE", "ROLE ID", "DESCRIPTION", "CREATED"]);
    for role in &roles {
        table.row([
            text(role, "RoleName").into(),
            text(role, "RoleId").into(),
            or_dash(text(role, "Description")).into(),
            human_age(text(role, "CreateDate"), now).into(),
        ]);
    }
    let when_empty = "no roles: the disk service may use no key but its own";
    output.list(&json!({"Roles": {"Role": roles}}), &table, when_empty)
}

fn show(role: &Value, output: &Output) -> Result<(), Failure> {
    output.answer(role, || {
        let field = |name: &str| text(role, name).to_owned();
        render_fields(&[
            ("Role", field("RoleName")),
            ("Role id", field("RoleId")),
            ("ARN", field("Arn")),
            ("Description", field("Description")),
            ("Trust policy", field("AssumeRolePolicyDocument")),
            ("Created", field("CreateDate")),
        ])
    })
}
