//! The section `root_key` as written.

use serde::Deserialize;

use super::yaml::{AbsolutePath, CredentialName, PassphrasePath, Provider};
use super::{PassphraseFrom, ROOT_KEY_CREDENTIAL_DEFAULT, ROOT_KEY_FILE_DEFAULT, RootKey};

/// Where a root key comes from, by name.
#[derive(Clone, Copy)]
pub(super) enum ProviderName {
    File,
    Passphrase,
    Credential,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenRootKey {
    provider: Option<Provider>,
    path: Option<AbsolutePath>,
    create: Option<bool>,
    passphrase_file: Option<PassphrasePath>,
    credential: Option<CredentialName>,
    previous: Option<WrittenSource>,
}

/// A source of root keys that there was before.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSource {
    provider: Provider,
    path: Option<AbsolutePath>,
    passphrase_file: Option<PassphrasePath>,
    credential: Option<CredentialName>,
}

impl WrittenRootKey {
    /// The root key, and the one before.
    pub(super) fn meant(self) -> (RootKey, Option<RootKey>) {
        let previous = self.previous.map(|previous| {
            let WrittenSource { provider, path, passphrase_file, credential } = previous;
            source(provider, path, false, (passphrase_file, credential))
        });
        let provider = self.provider.unwrap_or(Provider(ProviderName::File));
        let from = (self.passphrase_file, self.credential);
        (source(provider, self.path, self.create.unwrap_or(false), from), previous)
    }
}

fn source(
    Provider(name): Provider,
    path: Option<AbsolutePath>,
    may_create: bool,
    (passphrase_file, credential): (Option<PassphrasePath>, Option<CredentialName>),
) -> RootKey {
    let name_of = |credential: CredentialName| credential.0;
    match name {
        ProviderName::File => RootKey::File {
            path: path.map_or_else(|| ROOT_KEY_FILE_DEFAULT.into(), |path| path.0),
            may_create,
        },
        ProviderName::Credential => RootKey::Credential {
            name: credential.map_or_else(|| ROOT_KEY_CREDENTIAL_DEFAULT.into(), name_of),
        },
        ProviderName::Passphrase => RootKey::Passphrase {
            from: match (passphrase_file, credential) {
                (Some(PassphrasePath(Some(path))), _) => PassphraseFrom::File(path),
                (None, Some(credential)) => PassphraseFrom::Credential(credential.0),
                (Some(PassphrasePath(None)), _) | (None, None) => PassphraseFrom::Prompt,
            },
        },
    }
}
