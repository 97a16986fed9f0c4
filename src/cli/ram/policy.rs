//! `sealdisk policy …`

use serde_json::{Value, json};

use super::arguments::PolicyCommand;
use super::{RAM, list_parts, or_dash, read_document, type_of};
use crate::cli::client::{Client, text};
use crate::cli::failure::Failure;
use crate::cli::output::{Output, Table, render_fields};

pub(in crate::cli) fn run(
    command: PolicyCommand,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        PolicyCommand::Create { policy, document, description } => {
            let document = read_document(&document)?;
            let asked = [
                ("PolicyName", policy.policy.as_str()),
                ("PolicyDocument", &document),
                ("Description", &description),
            ];
            client.call(RAM, "CreatePolicy", &asked)?;
            show(&policy.policy, client, output)
        }
        PolicyCommand::List { custom } => list(custom, client, output),
        PolicyCommand::Show(policy) => show(&policy.policy, client, output),
        PolicyCommand::Delete(policy) => {
            let name = policy.policy;
            client.call(RAM, "DeletePolicy", &[("PolicyName", &name)])?;
            output.answer(&json!({"PolicyName": name}), || format!("deleted {name}\n"))
        }
    }
}

fn list(custom: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    let asked = [("PolicyType", if custom { "Custom" } else { "" })];
    let policies = list_parts(client, "ListPolicies", &asked, ("Policies", "Policy"))?;
    let mut table = Table::new(&["POLICY", "TYPE", "HELD BY", "DESCRIPTION"]);
    for policy in &policies {
        table.row([
            text(policy, "PolicyName").into(),
            text(policy, "PolicyType").into(),
            policy["AttachmentCount"].to_string().into(),
            or_dash(text(policy, "Description")).into(),
        ]);
    }
    let when_empty = "no policies of your own; sealdisk policy create makes one";
    output.list(&json!({"Policies": {"Policy": policies}}), &table, when_empty)
}

fn show(name: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let asked = [("PolicyType", type_of(client, name)?), ("PolicyName", name)];
    let policy: Value = client.call(RAM, "GetPolicy", &asked)?["Policy"].take();
    output.answer(&policy, || {
        let field = |name: &str| text(&policy, name).to_owned();
        let document: Option<Value> = serde_json::from_str(text(&policy, "PolicyDocument")).ok();
        let document = document.map(|document| format!("{document:#}")).unwrap_or_default();
        let fields = render_fields(&[
            ("Policy", field("PolicyName")),
            ("Type", field("PolicyType")),
            ("Description", field("Description")),
            ("Held by", policy["AttachmentCount"].to_string()),
            ("Created", field("CreateDate")),
        ]);
        format!("{fields}\n{document}\n")
    })
}
