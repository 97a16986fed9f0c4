//! The section `root_key` as written.

use serde::Deserialize;

use super::yaml::{AbsolutePath, CredentialName, PassphrasePath, Provider, TokenAddress};
use super::{PassphraseFrom, ROOT_KEY_CREDENTIAL_DEFAULT, ROOT_KEY_FILE_DEFAULT, RootKey};

/// Where a root key comes from, by name.
#[derive(Clone, Copy)]
pub(super) enum ProviderName {
    File,
    Passphrase,
    Credential,
    Pkcs11,
}

impl ProviderName {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Passphrase => "passphrase",
            Self::Credential => "credential",
            Self::Pkcs11 => "pkcs11",
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenRootKey {
    provider: Option<Provider>,
    path: Option<AbsolutePath>,
    create: Option<bool>,
    passphrase_file: Option<PassphrasePath>,
    credential: Option<CredentialName>,
    uri: Option<TokenAddress>,
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
    uri: Option<TokenAddress>,
}

/// What a source is made of.
struct Parts {
    path: Option<AbsolutePath>,
    may_create: bool,
    passphrase_file: Option<PassphrasePath>,
    credential: Option<CredentialName>,
    uri: Option<TokenAddress>,
}

impl WrittenRootKey {
    /// The root key, and the one before.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn meant(self) -> Result<(RootKey, Option<RootKey>), &'static str> {
        let previous = self.previous.map(|previous| {
            let WrittenSource { provider, path, passphrase_file, credential, uri } = previous;
            source(provider, Parts { path, may_create: false, passphrase_file, credential, uri })
        });
        let parts = Parts {
            path: self.path,
            may_create: self.create.unwrap_or(false),
            passphrase_file: self.passphrase_file,
            credential: self.credential,
            uri: self.uri,
        };
        let provider = self.provider.unwrap_or(Provider(ProviderName::File));
        Ok((source(provider, parts)?, previous.transpose()?))
    }
}

fn source(Provider(name): Provider, parts: Parts) -> Result<RootKey, &'static str> {
    let Parts { path, may_create, passphrase_file, credential, uri } = parts;
    let name_of = |credential: CredentialName| credential.0;
    Ok(match name {
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
        ProviderName::Pkcs11 => {
            let missing = "root_key: the provider pkcs11 needs uri: pkcs11:token=…";
            RootKey::Token { uri: uri.ok_or(missing)?.0 }
        }
    })
}
