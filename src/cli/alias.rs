//! `sealdisk alias …`

use serde_json::json;

use super::arguments::{AliasAndKey, AliasCommand};
use super::client::{Client, KMS, text, wrapped};
use super::failure::Failure;
use super::key;
use super::output::{Output, Table};

pub(super) fn run(command: AliasCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        AliasCommand::Create(names) => point(client, output, "CreateAlias", &names),
        AliasCommand::Update(names) => point(client, output, "UpdateAlias", &names),
        AliasCommand::List { key } => list(client, output, key.as_deref()),
        AliasCommand::Delete { alias } => {
            client.call(KMS, "DeleteAlias", &[("AliasName", &alias)])?;
            output.answer(&json!({"AliasName": alias}), || format!("deleted {alias}\n"))
        }
    }
}

fn point(
    client: &Client,
    output: &Output,
    action: &str,
    names: &AliasAndKey,
) -> Result<(), Failure> {
    let alias = names.alias.as_str();
    let key_id = key::resolve(client, &names.key.key)?;
    client.call(KMS, action, &[("AliasName", alias), ("KeyId", &key_id)])?;
    let json = json!({"AliasName": alias, "KeyId": key_id});
    output.answer(&json, || format!("{alias} names {key_id}\n"))
}

fn list(client: &Client, output: &Output, key: Option<&str>) -> Result<(), Failure> {
    let names = ("Aliases", "Alias");
    let aliases = match key {
        None => client.list_all((KMS, "ListAliases"), &[], names)?,
        Some(key) => {
            let id = key::resolve(client, key)?;
            client.list_all((KMS, "ListAliasesByKeyId"), &[("KeyId", &id)], names)?
        }
    };
    let mut table = Table::new(&["ALIAS", "KEY ID"]);
    for alias in &aliases {
        table.row([text(alias, "AliasName").into(), text(alias, "KeyId").into()]);
    }
    let when_empty = "no aliases; sealdisk alias create alias/NAME KEY makes one";
    output.list(&wrapped("Aliases", "Alias", &aliases), &table, when_empty)
}
