//! `sealdisk hsm …`

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::{Error, ErrorKind};
use clap::{Arg, Command, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, OWN, text};
use super::failure::Failure;
use super::output::{Cell, Output, Table};
use crate::config::{self, Hsm, RootKey, TokenUri, without_pin};
use crate::token::{Finding, Verdict, check};

/// Commands on tokens.
#[derive(Debug, Subcommand)]
pub enum HsmCommand {
    /// Check a token from end to end, without a daemon: library, token, PIN, mechanisms, a key that
    /// is made, used and destroyed
    #[command(
        group = clap::ArgGroup::new("which").required(true).args(["hsm", "config"]),
        after_help = "Examples:\n  sealdisk hsm check --hsm \
            'pkcs11:token=prod?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/etc/pin'\n  \
            sealdisk hsm check --config /etc/sealdisk/sealdisk.yaml\n\n\
            The PIN is presented once, and not at all where a wrong one would lock the token. Exit \
            code 1 if the token cannot be used."
    )]
    Check {
        /// This token
        #[arg(long, value_name = "URI", value_parser = TokenUriParser)]
        hsm: Option<TokenUri>,
        /// All tokens of this configuration, that of the root key too
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List the daemon's tokens and how they are
    #[command(after_help = "Example:\n  sealdisk hsm list")]
    List,
    /// List keys in a token that the catalog knows nothing of
    #[command(after_help = "Examples:\n  sealdisk hsm orphans hsm\n  \
        sealdisk hsm orphans hsm --destroy\n\n\
        A crash while a key is made can leave one. So can a catalog that was restored from a \
        backup: then they may be the only keys of newer data. Only those of keys of this catalog \
        are ever destroyed.")]
    Orphans {
        /// The token's name in the configuration; hsm with serve --dev --hsm
        #[arg(value_name = "HSM")]
        name: String,
        /// Destroy those of keys of this catalog, for good
        #[arg(long)]
        destroy: bool,
        /// Do not ask
        #[arg(long, requires = "destroy")]
        yes: bool,
    },
}

/// The token of `--hsm`. A refusal shows what was written, but no PIN that stands in it.
#[derive(Clone, Copy, Debug)]
pub struct TokenUriParser;

impl TypedValueParser for TokenUriParser {
    type Value = TokenUri;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<TokenUri, Error> {
        let text = value.to_string_lossy();
        TokenUri::parse(&text).map_err(|error| {
            let shown = without_pin(&text);
            let said = format!("invalid value '{shown}' for '--hsm <URI>': {error}\n");
            Error::raw(ErrorKind::ValueValidation, said).with_cmd(command)
        })
    }
}

pub(super) fn run(
    command: &HsmCommand,
    client: impl Fn() -> Result<Client, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        HsmCommand::Check { hsm, config } => check_all(hsm.as_ref(), config.as_ref(), output),
        HsmCommand::List => list(&client()?, output),
        HsmCommand::Orphans { name, destroy, yes } => {
            if *destroy && !yes {
                output.confirm("Destroy keys in the token that the catalog does not know?")?;
            }
            let action = if *destroy { "DestroyHsmOrphans" } else { "ListHsmOrphans" };
            orphans(&client()?.call(OWN, action, &[("Name", name)])?, output)
        }
    }
}

fn check_all(
    hsm: Option<&TokenUri>,
    file: Option<&PathBuf>,
    output: &Output,
) -> Result<(), Failure> {
    let mut hsms: Vec<Hsm> = hsm.cloned().map(Hsm::new).into_iter().collect();
    if let Some(file) = file {
        let config = config::load(file).map_err(|error| Failure::usage(error.to_string()))?;
        hsms.extend(config.hsm);
        for root in [Some(config.root_key), config.previous_root_key].into_iter().flatten() {
            if let RootKey::Token { uri } = root {
                hsms.push(Hsm { name: "root".into(), ..Hsm::new(uri) });
            }
        }
    }
    if hsms.is_empty() {
        return Err(Failure::new("the configuration has no token").hint("add one under hsm:"));
    }
    let mut table = Table::new(&["HSM", "STEP", "", "FINDING"]);
    let (mut items, mut is_bad) = (Vec::new(), false);
    for hsm in &hsms {
        for Finding { step, verdict, text, advice } in check(hsm) {
            is_bad |= verdict == Verdict::Bad;
            let shown = match &advice {
                Some(advice) => format!("{text}; {advice}"),
                None => text.clone(),
            };
            table.row([hsm.name.as_str().into(), step.into(), mark(verdict), shown.into()]);
            items.push(json!({
                "Hsm": hsm.name,
                "Step": step,
                "Verdict": word(verdict),
                "Finding": text,
                "Advice": advice,
            }));
        }
    }
    output.list(&json!({ "Findings": { "Finding": items } }), &table, "nothing was checked")?;
    if is_bad {
        return Err(Failure::new("a token cannot be used").hint("mend what is marked bad above"));
    }
    Ok(())
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok",
        Verdict::Doubtful => "mind",
        Verdict::Bad => "BAD",
    }
}

fn mark(verdict: Verdict) -> Cell {
    Cell::from(word(verdict))
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let answer = client.call(OWN, "DescribeHsms", &[])?;
    let mut table = Table::new(&["HSM", "INSTANCE", "STATE", "SINCE", "TOKEN"]);
    for hsm in answer["Hsms"]["Hsm"].as_array().into_iter().flatten() {
        let token = match text(hsm, "State") {
            "Available" => format!("{} ({})", text(hsm, "Token"), text(hsm, "SerialNumber")),
            _ => text(hsm, "Cause").to_owned(),
        };
        table.row([
            text(hsm, "Name").into(),
            text(hsm, "KmsInstanceId").into(),
            Cell::status(text(hsm, "State")),
            text(hsm, "Since").into(),
            token.into(),
        ]);
    }
    output.list(&answer, &table, "no tokens; serve --dev --hsm URI, or hsm: in the configuration")
}

fn orphans(answer: &Value, output: &Output) -> Result<(), Failure> {
    let mut table = Table::new(&["OBJECT ID", "LABEL", "KEY"]);
    for orphan in answer["Orphans"]["Orphan"].as_array().into_iter().flatten() {
        let is_known = orphan["IsOfKnownKey"].as_bool().unwrap_or_default();
        let key = if is_known { "of this catalog" } else { "unknown: left alone" };
        table.row([text(orphan, "ObjectId").into(), text(orphan, "Label").into(), key.into()]);
    }
    output.list(answer, &table, "none")
}
