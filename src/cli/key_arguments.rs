//! The command line of `key` and `alias`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::clock::Timestamp;

/// Commands on keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key
    #[command(after_help = "Examples:\n  \
        sealdisk key create --description 'the database'\n  \
        sealdisk key create --rotate-every 90d --tag team=db\n  \
        sealdisk key create --origin EXTERNAL          # then: sealdisk key import\n  \
        sealdisk key create --protection-level HSM     # kept in a token, see docs/hsm.md\n  \
        sealdisk key create --spec EC_P256             # signs")]
    Create(CreateKey),
    /// List all keys
    #[command(after_help = "Examples:\n  sealdisk key list\n  \
        sealdisk key list --state PendingImport\n  sealdisk key list --tag team")]
    List {
        /// Only keys in this state (Enabled, Disabled, PendingDeletion, PendingImport)
        #[arg(long)]
        state: Option<String>,
        /// Only keys with a tag of this name
        #[arg(long, value_name = "NAME")]
        tag: Option<String>,
    },
    /// Show one key
    #[command(after_help = "Example:\n  sealdisk key show alias/byok")]
    Show(KeyName),
    /// Let a key be used again
    #[command(after_help = "Example:\n  sealdisk key enable alias/byok")]
    Enable(KeyName),
    /// Refuse use of a key: its disks stay attached, but cannot be attached again
    #[command(after_help = "Example:\n  sealdisk key disable alias/byok")]
    Disable(KeyName),
    /// Say what a key is for
    #[command(after_help = "Example:\n  sealdisk key describe alias/byok 'the database'")]
    Describe {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// What it is for
        description: String,
    },
    /// Refuse the deletion of a key
    #[command(after_help = "Example:\n  sealdisk key protect alias/byok --why 'all disks use it'")]
    Protect {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// Why
        #[arg(long)]
        why: Option<String>,
    },
    /// Allow the deletion of a key again
    #[command(after_help = "Example:\n  sealdisk key unprotect alias/byok")]
    Unprotect(KeyName),
    /// Destroy a key after a waiting time: its disks are lost then
    #[command(after_help = "Example:\n  sealdisk key schedule-deletion alias/byok --days 30")]
    ScheduleDeletion {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// Days until it is destroyed
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(7..=366))]
        days: u32,
    },
    /// Keep a key that waits for its deletion
    #[command(after_help = "Example:\n  sealdisk key cancel-deletion alias/byok")]
    CancelDeletion(KeyName),
    /// Rotate a key: by the clock, or a key pair by hand
    #[command(
        group = clap::ArgGroup::new("when").args(["every", "never", "now"]),
        after_help = "Examples:\n  sealdisk key rotate alias/byok --every 90d\n  \
            sealdisk key rotate alias/byok --never\n  \
            sealdisk key rotate alias/byok --now\n  \
            sealdisk key rotate alias/signer        # a key pair: a new version, once a week\n\n\
            Old versions stay: what they encrypted is decrypted for ever."
    )]
    Rotate {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// A new version each time this has passed: 7d to 365d
        #[arg(long, value_name = "SPAN")]
        every: Option<String>,
        /// No more new versions by themselves
        #[arg(long)]
        never: bool,
        /// A new version at once; a key pair gets one without this too
        #[arg(long)]
        now: bool,
    },
    /// Wrap all data keys under a key under its newest version; touches headers only
    #[command(after_help = "Example:\n  sealdisk key rewrap alias/byok\n\n\
        The disks may be in use. Cut off, it goes on where it was when it is called again.")]
    Rewrap(KeyName),
    /// List the versions of a key, oldest first
    #[command(after_help = "Example:\n  sealdisk key versions alias/byok")]
    Versions(KeyName),
    /// Bring your own key: give material to a key that was created with --origin EXTERNAL
    #[command(
        after_help = "Example:\n  head -c 32 /dev/urandom > byok.bin && chmod 600 byok.bin\n  \
        sealdisk key import alias/byok --material byok.bin\n\n\
        Keep the file somewhere safe: nobody can get it back out of the key."
    )]
    Import {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// File of exactly 32 bytes, mode 0600
        #[arg(long, value_name = "FILE")]
        material: PathBuf,
        /// When the key shall forget it: 2027-01-01T00:00:00Z; never without this
        #[arg(long, value_name = "DATE", value_parser = date)]
        expires: Option<Timestamp>,
    },
    /// Make a key forget imported material: it needs the same again before it can be used
    #[command(after_help = "Example:\n  sealdisk key delete-material alias/byok")]
    DeleteMaterial(KeyName),
    /// Put tags on a key
    #[command(after_help = "Examples:\n  sealdisk key tag alias/byok team=db\n  \
        sealdisk key tag alias/byok acs:ecs:disk-encryption=true   # disks may use it")]
    Tag {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// NAME=VALUE
        #[arg(required = true, value_parser = pair, value_name = "NAME=VALUE")]
        tags: Vec<(String, String)>,
    },
    /// Take tags off a key
    #[command(after_help = "Example:\n  sealdisk key untag alias/byok team")]
    Untag {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// Names
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// List the tags of a key
    #[command(after_help = "Example:\n  sealdisk key tags alias/byok")]
    Tags(KeyName),
    /// Show or replace the policy of a key in an instance
    #[command(after_help = "Examples:\n  sealdisk key policy KEY-ID\n  \
        sealdisk key policy KEY-ID --set policy.json")]
    Policy {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// File of the new policy, JSON
        #[arg(long, value_name = "FILE")]
        set: Option<PathBuf>,
    },
    /// Encrypt at most 6144 bytes: raw bytes in, base64 out
    #[command(after_help = "Example:\n  \
        sealdisk key encrypt alias/byok --context disk=d-1 < secret.txt > secret.b64")]
    Encrypt {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// What.
        #[command(flatten)]
        input: Input,
        /// To what the ciphertext shall be bound.
        #[command(flatten)]
        context: Pairs,
    },
    /// Decrypt: base64 in, raw bytes out
    #[command(after_help = "Examples:\n  \
        sealdisk key decrypt --context disk=d-1 < secret.b64\n  \
        sealdisk key decrypt --key alias/pair < secret.b64   # what a public key encrypted")]
    Decrypt {
        /// What.
        #[command(flatten)]
        input: Input,
        /// To what the ciphertext is bound.
        #[command(flatten)]
        context: Pairs,
        /// A key pair; any other ciphertext names its key itself
        #[arg(long)]
        key: Option<String>,
        /// Version of the key pair; the newest without this
        #[arg(long, requires = "key", value_name = "ID")]
        version_id: Option<String>,
    },
    /// Encrypt a ciphertext anew, under another key or its newest version: base64 in and out
    #[command(
        after_help = "Example:\n  sealdisk key re-encrypt --to alias/new < old.b64 > new.b64"
    )]
    ReEncrypt {
        /// The new key: id or alias
        #[arg(long, value_name = "KEY")]
        to: String,
        /// What.
        #[command(flatten)]
        input: Input,
        /// To what the ciphertext is and shall be bound.
        #[command(flatten)]
        context: Pairs,
    },
    /// Sign a file with a key pair: base64 out
    #[command(after_help = "Example:\n  sealdisk key sign alias/signer release.tar > release.sig")]
    Sign(SignKey),
    /// Check the signature of a file; exit code 1 if it is none
    #[command(after_help = "Example:\n  \
        sealdisk key verify alias/signer release.tar --signature release.sig")]
    Verify {
        /// With what, and what.
        #[command(flatten)]
        sign: SignKey,
        /// File of the signature, base64
        #[arg(long, value_name = "FILE")]
        signature: PathBuf,
    },
    /// Show the public half of a key pair, PEM
    #[command(after_help = "Example:\n  \
        sealdisk key public-key alias/signer | openssl pkey -pubin -noout -text")]
    PublicKey {
        /// Which.
        #[command(flatten)]
        key: KeyName,
        /// Version; the newest without this
        #[arg(long, value_name = "ID")]
        version_id: Option<String>,
    },
}

/// A key.
#[derive(Args, Debug)]
pub struct KeyName {
    /// Id or alias (alias/…)
    #[arg(value_name = "KEY")]
    pub key: String,
}

/// What a new key shall be.
#[derive(Args, Debug)]
pub struct CreateKey {
    /// What it is for
    #[arg(long, default_value = "")]
    pub description: String,
    /// Aliyun_AES_256, RSA_2048, RSA_3072, RSA_4096 or EC_P256; the first without this
    #[arg(long)]
    pub spec: Option<String>,
    /// ENCRYPT/DECRYPT or SIGN/VERIFY; what can sign, signs without this
    #[arg(long)]
    pub usage: Option<String>,
    /// SOFTWARE or HSM: where its material is kept
    #[arg(long, value_name = "LEVEL")]
    pub protection_level: Option<String>,
    /// EXTERNAL: its material comes from you, by key import
    #[arg(long)]
    pub origin: Option<String>,
    /// A new version each time this has passed: 7d to 365d
    #[arg(long, value_name = "SPAN")]
    pub rotate_every: Option<String>,
    /// Put a tag on it
    #[arg(long = "tag", value_parser = pair, value_name = "NAME=VALUE")]
    pub tags: Vec<(String, String)>,
    /// Make it in this instance (kst-…): such keys have a policy
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

/// Where bytes come from.
#[derive(Args, Debug)]
pub struct Input {
    /// File to read instead of standard input
    #[arg(long = "in", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// An encryption context.
#[derive(Args, Debug)]
pub struct Pairs {
    /// Bind the ciphertext to this; the same must be said again to decrypt it
    #[arg(long = "context", value_parser = pair, value_name = "NAME=VALUE")]
    pub pairs: Vec<(String, String)>,
}

/// A file, and the key pair that signs it.
#[derive(Args, Debug)]
pub struct SignKey {
    /// Which.
    #[command(flatten)]
    pub key: KeyName,
    /// The file
    pub file: PathBuf,
    /// RSA_PSS_SHA_256 (without this), RSA_PKCS1_SHA_256 or ECDSA_SHA_256
    #[arg(long)]
    pub algorithm: Option<String>,
    /// Version of the key pair; the newest without this
    #[arg(long, value_name = "ID")]
    pub version_id: Option<String>,
}

/// Commands on aliases.
#[derive(Debug, Subcommand)]
pub enum AliasCommand {
    /// Give a key a name
    #[command(after_help = "Example:\n  sealdisk alias create alias/byok KEY-ID")]
    Create(AliasAndKey),
    /// List all aliases, or those of one key
    #[command(after_help = "Examples:\n  sealdisk alias list\n  sealdisk alias list --key KEY-ID")]
    List {
        /// Only aliases of this key: id or alias
        #[arg(long)]
        key: Option<String>,
    },
    /// Point an alias to another key; disks keep the key they have
    #[command(after_help = "Example:\n  sealdisk alias update alias/byok OTHER-KEY-ID")]
    Update(AliasAndKey),
    /// Remove an alias; its key stays
    #[command(after_help = "Example:\n  sealdisk alias delete alias/byok")]
    Delete {
        /// alias/…
        alias: String,
    },
}

/// An alias and the key it shall name.
#[derive(Args, Debug)]
pub struct AliasAndKey {
    /// alias/…
    pub alias: String,
    /// Id of the key, or another alias of it
    #[command(flatten)]
    pub key: KeyName,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn date(text: &str) -> Result<Timestamp, &'static str> {
    Timestamp::parse(text).ok_or("write it as 2027-01-01T00:00:00Z")
}
