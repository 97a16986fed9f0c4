//! A KMS on another host: the same API, signed and over TLS.
//!
//! ```text
//! mod.rs        the four actions, their answers, what a refusal means
//! exchange.rs   request -> answer over any stream, its secrets wiped
//! sign.rs       parameters -> form, headers, ACS3-HMAC-SHA256      pure
//! transport.rs  one exchange: connect, TLS, send, read; tries again
//! ```
//!
//! Every action asked here may be asked twice: a second GenerateDataKey makes a key that nobody
//! keeps. So whatever fails on the way, or for now, is tried again a few times.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::context::Context;
use super::data_keys::{DataKeys, FoundKey};
use super::{DataKey, Decrypted, Encrypted, KmsError, blob};
use crate::catalog::KeyState;
use crate::clock::{Clock, Entropy};
use crate::config;
use crate::ram::Caller;
use crate::secret::Secret;

mod error;
pub(crate) mod exchange;
mod sign;
mod transport;

pub use error::RemoteError;
use sign::AccessKey;
use transport::Transport;

/// How the names of key specs begin that can wrap data keys.
const SYMMETRIC: [&str; 2] = ["Aliyun_AES", "Aliyun_SM4"];

/// A KMS on another host.
pub struct RemoteKms {
    transport: Transport,
    default_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described {
    key_metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    key_id: String,
    key_state: String,
    key_spec: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made<'a> {
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
    ciphertext_blob: String,
    key_id: String,
    key_version_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Opened<'a> {
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
    key_id: String,
    key_version_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Moved {
    ciphertext_blob: String,
}

impl RemoteKms {
    /// The KMS that the configuration names. Connects when it is asked for the first time.
    ///
    /// # Errors
    /// [`RemoteError`] if access key or certificates cannot be read.
    pub fn new(
        wanted: &config::RemoteKms,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, RemoteError> {
        let access_key = AccessKey::load(&wanted.access_key_file)?;
        let transport = Transport::new(wanted, access_key, clock, entropy)?;
        Ok(Self { transport, default_key: wanted.default_key.clone() })
    }

    fn call<T>(
        &self,
        caller: &Caller,
        action: &'static str,
        parameters: &[(&str, &str)],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, KmsError> {
        let answer: Zeroizing<Vec<u8>> = self.transport.call(caller, action, parameters)?;
        let not_a_kms = || RemoteError::NotAKms { endpoint: self.transport.endpoint() };
        Ok(read(&answer).ok_or_else(not_a_kms)?)
    }
}

impl DataKeys for RemoteKms {
    fn default_key(&self, caller: &Caller) -> Result<String, KmsError> {
        let Some(key) = &self.default_key else {
            return Err(RemoteError::NoDefaultKey { endpoint: self.transport.endpoint() }.into());
        };
        Ok(self.find_key(caller, key)?.key_id)
    }

    fn find_key(&self, caller: &Caller, key: &str) -> Result<FoundKey, KmsError> {
        self.call(caller, "DescribeKey", &[("KeyId", key)], |answer| {
            let Described { key_metadata } = serde_json::from_slice(answer).ok()?;
            let state = KeyState::parse(&key_metadata.key_state)?;
            let is_symmetric = SYMMETRIC.iter().any(|kind| key_metadata.key_spec.starts_with(kind));
            Some(FoundKey { key_id: key_metadata.key_id, state, is_symmetric })
        })
    }

    fn generate_data_key(
        &self,
        caller: &Caller,
        key_id: &str,
        bytes: usize,
        context: &Context,
    ) -> Result<DataKey, KmsError> {
        let (number, context) = (bytes.to_string(), as_json(context));
        let parameters = [
            ("KeyId", key_id),
            ("NumberOfBytes", number.as_str()),
            ("EncryptionContext", context.as_str()),
        ];
        self.call(caller, "GenerateDataKey", &parameters, |answer| {
            let made: Made<'_> = serde_json::from_slice(answer).ok()?;
            let plaintext = decode(made.plaintext)?;
            let blob = STANDARD.decode(made.ciphertext_blob).ok()?;
            // What has another length is not what was asked for.
            (plaintext.len() == bytes).then_some(DataKey {
                plaintext,
                blob,
                key_id: made.key_id,
                key_version: made.key_version_id,
            })
        })
    }

    fn decrypt(
        &self,
        caller: &Caller,
        blob: &[u8],
        context: &Context,
    ) -> Result<Decrypted, KmsError> {
        let (blob, context) = (STANDARD.encode(blob), as_json(context));
        let parameters =
            [("CiphertextBlob", blob.as_str()), ("EncryptionContext", context.as_str())];
        self.call(caller, "Decrypt", &parameters, |answer| {
            let opened: Opened<'_> = serde_json::from_slice(answer).ok()?;
            Some(Decrypted {
                plaintext: decode(opened.plaintext)?,
                key_id: opened.key_id,
                key_version: opened.key_version_id,
            })
        })
    }

    /// The answer names the key and version that decrypted; those that encrypted are the key that
    /// was asked for and the version that leads the blob.
    fn re_encrypt(
        &self,
        caller: &Caller,
        (blob, bound_to): (&[u8], &Context),
        key_id: &str,
        context: &Context,
    ) -> Result<Encrypted, KmsError> {
        let (blob, bound_to, context) =
            (STANDARD.encode(blob), as_json(bound_to), as_json(context));
        let parameters = [
            ("CiphertextBlob", blob.as_str()),
            ("SourceEncryptionContext", bound_to.as_str()),
            ("DestinationKeyId", key_id),
            ("DestinationEncryptionContext", context.as_str()),
        ];
        self.call(caller, "ReEncrypt", &parameters, |answer| {
            let Moved { ciphertext_blob } = serde_json::from_slice(answer).ok()?;
            let blob = STANDARD.decode(ciphertext_blob).ok()?;
            let key_version = blob::leading_version(&blob)?.to_owned();
            Some(Encrypted { blob, key_id: key_id.to_owned(), key_version })
        })
    }
}

fn as_json(context: &Context) -> String {
    serde_json::to_string(context).unwrap_or_default()
}

/// Base64 into secret memory, without a copy elsewhere.
fn decode(text: Cow<'_, str>) -> Option<Secret> {
    let text: Cow<'_, [u8]> = match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        // Only where the answer escapes what it need not.
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = STANDARD.decode_slice(&text, &mut bytes).ok();
    if let Cow::Owned(text) = text {
        drop(Zeroizing::new(text));
    }
    Some(Secret::take(&mut bytes[..len?]))
}

impl std::fmt::Debug for RemoteKms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteKms({})", self.transport.endpoint())
    }
}
