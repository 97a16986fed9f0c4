//! `sealdisk account …`

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Client, OWN, text};
use super::failure::Failure;
use super::output::{Output, render_fields};

/// Commands on the account.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Show the account and how it stands with the KMS
    #[command(after_help = "Example:\n  sealdisk account show")]
    Show,
    /// Change how the account stands with the KMS
    #[command(after_help = "Examples:\n  \
        sealdisk account set --kms not-enabled   # until a client calls OpenKmsService\n  \
        sealdisk account set --kms in-debt       # every call is refused: Forbidden.InDebt\n  \
        sealdisk account set --kms enabled\n\n\
        For trying out what clients make of it. Disks that are attached go on; no other disk is \
        opened meanwhile, nor after a restart.")]
    Set {
        /// The new standing
        #[arg(long, value_enum)]
        kms: KmsStanding,
    },
}

/// How an account stands with the KMS.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KmsStanding {
    /// Open: it serves
    Enabled,
    /// Not opened: Forbidden.KmsServiceNotEnabled
    NotEnabled,
    /// The account owes money: Forbidden.InDebt
    InDebt,
    /// It has owed money for too long: Forbidden.InDebtOverdue
    Suspended,
}

pub(super) fn run(
    command: &AccountCommand,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    if let AccountCommand::Set { kms } = command {
        client.call(OWN, "SetAccountStatus", &[("KmsStatus", kms.published())])?;
    }
    show(&client.call(OWN, "DescribeAccount", &[])?, output)
}

impl KmsStanding {
    const fn published(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::NotEnabled => "NotEnabled",
            Self::InDebt => "InDebt",
            Self::Suspended => "Suspended",
        }
    }
}

fn show(account: &Value, output: &Output) -> Result<(), Failure> {
    output.answer(account, || {
        let field = |name: &str| text(account, name).to_owned();
        render_fields(&[
            ("Account", field("AccountId")),
            ("Region", field("RegionId")),
            ("KMS", field("KmsStatus")),
        ])
    })
}
