//! What can be wrong with a root key.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::passphrase::PASSPHRASE_BYTES_MIN;
use crate::token::TokenError;

/// What is wrong with the root key.
#[derive(Debug)]
pub enum RootError {
    /// The catalog has a root key and its file is not there.
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The key is not the one that the catalog needs.
    Wrong {
        /// Id of the key at hand.
        found: String,
        /// Id of the key that is needed.
        expected: String,
        /// The key at hand is the one that was replaced at the last rotation.
        is_previous: bool,
    },
    /// The catalog's record of its root key is damaged, or gone while keys are there.
    Corrupt,
    /// The file does not hold a key.
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others than its owner may read or write the file.
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file could not be read or made.
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// The service manager passed no credential of this name.
    NoCredential {
        /// Its name.
        name: String,
    },
    /// A passphrase for a new root key is too short.
    ShortPassphrase,
    /// The two answers to the question for a new passphrase differ.
    PassphrasesDiffer,
    /// The terminal was left (end of file, an interrupt) before a passphrase was typed.
    NoAnswer,
    /// There is no terminal to ask for the passphrase on.
    NoTerminal(io::Error),
    /// Such a root key cannot be made here: the new secret must come with the rotation.
    SecretNeeded {
        /// The provider.
        provider: &'static str,
    },
    /// The secret that came with the rotation is no key.
    MalformedSecret,
    /// The key is made here, so none can come with the rotation.
    SecretUnneeded {
        /// The provider.
        provider: &'static str,
    },
    /// The token that has it does not do its part.
    Token(TokenError),
    /// The system gave no thread to wait for the token.
    NoThread(io::Error),
    /// The new root key is the one there is.
    Unchanged,
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("root key: ")?;
        match self {
            Self::Missing { path } => write!(
                f,
                "{} is missing, and the catalog needs the key that was there; restore it from its \
                 backup",
                path.display()
            ),
            Self::Wrong { found, expected, is_previous: false } => {
                write!(
                    f,
                    "this is key {found}, the catalog needs key {expected}; restore that one, or \
                     type its passphrase again"
                )
            }
            Self::Wrong { found, expected, is_previous: true } => write!(
                f,
                "this is key {found}, which was replaced by key {expected} at the last rotation; \
                 give that one"
            ),
            Self::Corrupt => {
                f.write_str("the catalog's record of its root key is damaged; restore the catalog")
            }
            Self::Malformed { path } => write!(
                f,
                "{} does not hold 64 hexadecimal digits; restore it from its backup",
                path.display()
            ),
            Self::Exposed { path, mode } => write!(
                f,
                "{} is open to others than its owner (mode {mode:04o}); if they can be trusted, \
                 chmod 600 it",
                path.display()
            ),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::NoCredential { name } => write!(
                f,
                "the service manager passed no credential `{name}`; put \
                 LoadCredentialEncrypted={name}:FILE into the unit"
            ),
            Self::ShortPassphrase => write!(
                f,
                "a passphrase has at least {PASSPHRASE_BYTES_MIN} bytes; take a longer one"
            ),
            Self::PassphrasesDiffer => f.write_str("the two passphrases differ; nothing was done"),
            Self::NoAnswer => f.write_str("no passphrase was given; nothing was done"),
            Self::NoTerminal(error) => write!(
                f,
                "there is no terminal to ask for the passphrase on ({error}); name a file or a \
                 credential in the configuration"
            ),
            Self::SecretNeeded { provider } => write!(
                f,
                "the provider {provider} cannot make a new one by itself; give it with the rotation"
            ),
            Self::MalformedSecret => f.write_str("the new key is not 64 hexadecimal digits"),
            Self::SecretUnneeded { provider } => {
                write!(f, "the provider {provider} makes the new key itself; give none")
            }
            Self::Token(error) => write!(f, "it is in a token: {error}"),
            Self::NoThread(error) => write!(f, "the system gives no thread: {error}"),
            Self::Unchanged => f.write_str("the new one is the present one; nothing was done"),
        }
    }
}

impl std::error::Error for RootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::NoTerminal(source) | Self::NoThread(source) => {
                Some(source)
            }
            Self::Token(error) => Some(error),
            _ => None,
        }
    }
}
