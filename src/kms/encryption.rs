//! The use of symmetric keys: Encrypt, Decrypt, GenerateDataKey.
//!
//! Encryption takes the key's primary version; decryption the version that the blob names, and
//! that one alone.

use super::call::Call;
use super::context::{Context, canonical};
use super::resolve::guard_service_key;
use super::spec::{ENCRYPT, is_symmetric};
use super::{Action, Kms, KmsError, blob, is_service_key, state};
use crate::catalog::{KeyRecord, KeyVersionRecord};
use crate::ram::Caller;
use crate::secret::Secret;
use crate::trail::ResourceType;

/// Plaintext of one Encrypt, in bytes.
pub const ENCRYPT_BYTES_MAX: usize = 6144;

/// Data key of one GenerateDataKey, in bytes.
const DATA_KEY_BYTES_MAX: usize = 1024;

/// A data key, in clear and wrapped.
#[derive(Debug)]
pub struct DataKey {
    /// In clear.
    pub plaintext: Secret,
    /// Wrapped: the `CiphertextBlob`.
    pub blob: Vec<u8>,
    /// The key that wrapped it.
    pub key_id: String,
    /// The version that wrapped it.
    pub key_version: String,
}

/// What Encrypt, or GenerateDataKeyWithoutPlaintext, made.
#[derive(Debug)]
pub struct Encrypted {
    /// The `CiphertextBlob`.
    pub blob: Vec<u8>,
    /// The key that encrypted it.
    pub key_id: String,
    /// The version that encrypted it.
    pub key_version: String,
}

/// What Decrypt found.
#[derive(Debug)]
pub struct Decrypted {
    /// In clear.
    pub plaintext: Secret,
    /// The key that decrypted it.
    pub key_id: String,
    /// The version that decrypted it.
    pub key_version: String,
}

/// How a key is used, beside the what.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    /// `EncryptionContext`.
    pub context: &'a Context,
    /// `DryRun`: everything is done and nothing given; the answer is an error that says how it
    /// would have gone.
    pub is_dry_run: bool,
}

impl<'a> From<&'a Context> for Use<'a> {
    fn from(context: &'a Context) -> Self {
        Self { context, is_dry_run: false }
    }
}

/// The length of a data key from `KeySpec` and `NumberOfBytes`, which wins; 32 without both.
///
/// # Errors
/// [`KmsError::InvalidParameter`] names the one that cannot be.
pub fn data_key_bytes(spec: Option<&str>, number: Option<&str>) -> Result<usize, KmsError> {
    let by_spec = match spec {
        None | Some("AES_256") => 32,
        Some("AES_128") => 16,
        Some(_) => return Err(KmsError::InvalidParameter("KeySpec")),
    };
    match number {
        None => Ok(by_spec),
        Some(number) => number
            .parse()
            .ok()
            .filter(|bytes| (1..=DATA_KEY_BYTES_MAX).contains(bytes))
            .ok_or(KmsError::InvalidParameter("NumberOfBytes")),
    }
}

impl Kms {
    /// Encrypt: 1 to [`ENCRYPT_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// The published refusals.
    pub fn encrypt<'a>(
        &self,
        caller: &Caller,
        key: &str,
        plaintext: &[u8],
        using: impl Into<Use<'a>>,
    ) -> Result<Encrypted, KmsError> {
        let using = using.into();
        self.using(caller, Action::Encrypt, using, |call| {
            let key = self.usable_key(call, key, using.context)?;
            if !(1..=ENCRYPT_BYTES_MAX).contains(&plaintext.len()) {
                return Err(KmsError::InvalidParameter("Plaintext"));
            }
            self.seal(call, &key, plaintext, using.context)
        })
    }

    /// GenerateDataKey: 1 to 1024 random bytes, in clear and wrapped ([`data_key_bytes`]).
    ///
    /// # Errors
    /// The published refusals.
    pub fn generate_data_key<'a>(
        &self,
        caller: &Caller,
        key: &str,
        bytes: usize,
        using: impl Into<Use<'a>>,
    ) -> Result<DataKey, KmsError> {
        let using = using.into();
        self.using(caller, Action::GenerateDataKey, using, |call| {
            let (plaintext, wrapped) = self.new_data_key(call, key, bytes, using.context)?;
            let Encrypted { blob, key_id, key_version } = wrapped;
            Ok(DataKey { plaintext, blob, key_id, key_version })
        })
    }

    /// GenerateDataKeyWithoutPlaintext.
    ///
    /// # Errors
    /// The published refusals.
    pub fn generate_data_key_without_plaintext<'a>(
        &self,
        caller: &Caller,
        key: &str,
        bytes: usize,
        using: impl Into<Use<'a>>,
    ) -> Result<Encrypted, KmsError> {
        let using = using.into();
        self.using(caller, Action::GenerateDataKeyWithoutPlaintext, using, |call| {
            let (_, wrapped) = self.new_data_key(call, key, bytes, using.context)?;
            Ok(wrapped)
        })
    }

    /// Decrypt: the blob names its key.
    ///
    /// # Errors
    /// The published refusals. A changed blob and a wrong context are one:
    /// `InvalidParameter CiphertextBlob`. A blob of a key that is not here:
    /// `Forbidden.KeyNotFound`.
    pub fn decrypt<'a>(
        &self,
        caller: &Caller,
        blob: &[u8],
        using: impl Into<Use<'a>>,
    ) -> Result<Decrypted, KmsError> {
        let using = using.into();
        self.using(caller, Action::Decrypt, using, |call| self.open_blob(call, blob, using.context))
    }

    /// [`Kms::call`], thrown away in the end if it is but a dry run.
    pub(super) fn using<T>(
        &self,
        caller: &Caller,
        action: Action,
        using: Use<'_>,
        body: impl FnOnce(&mut Call<'_>) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        self.call(caller, action, |call| {
            if !using.is_dry_run {
                return body(call);
            }
            call.request("DryRun", true);
            Err(match body(call) {
                Ok(_) => KmsError::DryRunOperation,
                Err(error) => error.in_dry_run(),
            })
        })
    }

    /// What a blob holds. Tries the one key that it names.
    pub(super) fn open_blob(
        &self,
        call: &mut Call<'_>,
        blob: &[u8],
        context: &Context,
    ) -> Result<Decrypted, KmsError> {
        record_context(call, context);
        let parsed = blob::parse(blob);
        let found = match &parsed {
            Some(parsed) => self.find_version(parsed.version_id())?,
            None => None,
        };
        match &found {
            Some((key, _)) => {
                call.about(ResourceType::Key, &key.key_id);
                if is_service_key(key) {
                    call.on_service_key();
                }
                self.allow_key(call, &key.key_id)?;
            }
            None => self.allow(call, &self.account.arn("key"))?,
        }
        let parsed = parsed.ok_or(KmsError::InvalidParameter("CiphertextBlob"))?;
        let (key, version) = found.ok_or(KmsError::KeyNotFound)?;
        guard_service_key(call, &key)?;
        state::check(call.action, key.state)?;
        if !is_symmetric(&key) {
            // Nothing under a key pair has this form.
            return Err(KmsError::InvalidParameter("CiphertextBlob"));
        }
        canonical(context)?;
        let store = self.store(&version)?;
        let opened =
            parsed.open(context, |iv, data, sealed| store.open(&version, iv, data, sealed));
        let plaintext = opened.map_err(|error| error.of_instance(key.instance.is_some()))?;
        let key_version = version.version_id;
        call.response("KeyId", key.key_id.as_str());
        call.response("KeyVersionId", key_version.as_str());
        Ok(Decrypted { plaintext, key_id: key.key_id, key_version })
    }

    pub(super) fn new_data_key(
        &self,
        call: &mut Call<'_>,
        key: &str,
        bytes: usize,
        context: &Context,
    ) -> Result<(Secret, Encrypted), KmsError> {
        call.request("NumberOfBytes", bytes);
        let key = self.usable_key(call, key, context)?;
        if !(1..=DATA_KEY_BYTES_MAX).contains(&bytes) {
            return Err(KmsError::InvalidParameter("NumberOfBytes"));
        }
        let plaintext = Secret::random(bytes, self.entropy.as_ref());
        let wrapped = self.seal(call, &key, plaintext.expose(), context)?;
        Ok((plaintext, wrapped))
    }

    fn usable_key(
        &self,
        call: &mut Call<'_>,
        key: &str,
        context: &Context,
    ) -> Result<KeyRecord, KmsError> {
        record_context(call, context);
        let key = self.resolve(call, key)?;
        state::check(call.action, key.state)?;
        Ok(key)
    }

    pub(super) fn seal(
        &self,
        call: &mut Call<'_>,
        key: &KeyRecord,
        plaintext: &[u8],
        context: &Context,
    ) -> Result<Encrypted, KmsError> {
        if key.usage != ENCRYPT || !is_symmetric(key) {
            return Err(KmsError::UnsupportedAction);
        }
        let version = self.catalog.key_version(&key.primary_version)?;
        let version = version.ok_or(KmsError::KeyVersionNotFound)?;
        let store = self.store(&version)?;
        self.count_wrap(&version.version_id)?;
        let encrypt = |data: &[u8]| store.seal(&version, data, plaintext);
        let blob = blob::seal(&version.version_id, context, encrypt);
        let blob = blob.map_err(|error| error.of_instance(key.instance.is_some()))?;
        call.response("KeyId", key.key_id.as_str());
        call.response("KeyVersionId", version.version_id.as_str());
        Ok(Encrypted { blob, key_id: key.key_id.clone(), key_version: version.version_id })
    }

    fn find_version(
        &self,
        version_id: &str,
    ) -> Result<Option<(KeyRecord, KeyVersionRecord)>, KmsError> {
        let Some(version) = self.catalog.key_version(version_id)? else { return Ok(None) };
        let key = self.catalog.key(&version.key_id)?.and_then(|key| self.as_of_now(key));
        Ok(key.map(|key| (key, version)))
    }
}

/// A context is no secret: it tells what a use of the key was for.
fn record_context(call: &mut Call<'_>, context: &Context) {
    if !context.is_empty() {
        let pairs = context.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        let text = serde_json::Value::Object(pairs.collect()).to_string();
        call.request("EncryptionContext", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_data_key() {
        let of = |spec, number| data_key_bytes(spec, number).ok();
        assert_eq!(of(None, None), Some(32));
        assert_eq!(of(Some("AES_256"), None), Some(32));
        assert_eq!(of(Some("AES_128"), None), Some(16));
        assert_eq!(of(Some("AES_128"), Some("64")), Some(64));
        assert_eq!(of(None, Some("1024")), Some(1024));
        for (spec, number) in [
            (Some("AES_512"), None),
            (None, Some("0")),
            (None, Some("1025")),
            (None, Some("-1")),
            (None, Some("x")),
        ] {
            assert_eq!(of(spec, number), None);
        }
    }
}
