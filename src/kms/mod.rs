//! Stub.
#![allow(missing_docs, clippy::all)]
use crate::{catalog::*, ram::Caller, secret::Secret};
use std::collections::BTreeMap;
#[derive(Debug)]
pub struct KmsError;
impl KmsError {
    pub fn message(&self) -> String {
        String::new()
    }
    pub fn code(&self) -> &'static str {
        "InternalFailure"
    }
    pub fn status(&self) -> u16 {
        500
    }
}
impl std::fmt::Display for KmsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("kms")
    }
}
impl std::error::Error for KmsError {}
#[derive(Clone, Debug)]
pub struct Account {
    pub account_id: String,
    pub region: String,
}
pub struct NewKey {
    pub description: String,
    pub spec: Option<String>,
    pub usage: Option<String>,
    pub origin: Option<String>,
    pub protection: Option<String>,
}
pub struct DataKey {
    pub plaintext: Secret,
    pub blob: Vec<u8>,
    pub key_id: String,
    pub key_version: String,
}
pub struct Encrypted {
    pub blob: Vec<u8>,
    pub key_id: String,
    pub key_version: String,
}
pub struct Decrypted {
    pub plaintext: Secret,
    pub key_id: String,
    pub key_version: String,
}
type Context = BTreeMap<String, String>;
type R<T> = Result<T, KmsError>;
pub struct Kms;
pub struct KmsParts {
    pub catalog: std::sync::Arc<dyn crate::catalog::Catalog>,
    pub trail: std::sync::Arc<crate::trail::Trail>,
    pub root: Secret,
    pub clock: std::sync::Arc<dyn crate::clock::Clock>,
    pub entropy: std::sync::Arc<dyn crate::clock::Entropy>,
    pub account: Account,
}
impl Kms {
    pub fn open(_: KmsParts) -> R<Self> {
        Ok(Kms)
    }
    pub fn service_key(&self, _: &Caller) -> R<KeyRecord> {
        Err(KmsError)
    }
}
pub mod root {
    use crate::secret::Secret;
    #[derive(Debug)]
    pub struct RootError;
    impl std::fmt::Display for RootError {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("root")
        }
    }
    pub fn load_or_create(
        _: &std::path::Path,
        _: bool,
        _: &dyn crate::clock::Entropy,
    ) -> Result<Secret, RootError> {
        Ok(Secret::zeroed(32))
    }
}

#[allow(unused_variables)]
impl Kms {
    pub fn create_key(&self, c: &Caller, n: &NewKey) -> R<KeyRecord> {
        Err(KmsError)
    }
    pub fn describe_key(&self, c: &Caller, k: &str) -> R<KeyRecord> {
        Err(KmsError)
    }
    pub fn list_keys(&self, c: &Caller, p: Page) -> R<Listed<KeyRecord>> {
        Err(KmsError)
    }
    pub fn enable_key(&self, c: &Caller, k: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn disable_key(&self, c: &Caller, k: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn schedule_key_deletion(&self, c: &Caller, k: &str, days: u32) -> R<()> {
        Err(KmsError)
    }
    pub fn cancel_key_deletion(&self, c: &Caller, k: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn update_key_description(&self, c: &Caller, k: &str, d: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn create_alias(&self, c: &Caller, a: &str, k: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn update_alias(&self, c: &Caller, a: &str, k: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn delete_alias(&self, c: &Caller, a: &str) -> R<()> {
        Err(KmsError)
    }
    pub fn list_aliases(&self, c: &Caller, p: Page) -> R<Listed<AliasRecord>> {
        Err(KmsError)
    }
    pub fn list_aliases_by_key_id(&self, c: &Caller, k: &str, p: Page) -> R<Listed<AliasRecord>> {
        Err(KmsError)
    }
    pub fn list_key_versions(&self, c: &Caller, k: &str, p: Page) -> R<Listed<KeyVersionRecord>> {
        Err(KmsError)
    }
    pub fn describe_key_version(&self, c: &Caller, k: &str, v: &str) -> R<KeyVersionRecord> {
        Err(KmsError)
    }
    pub fn encrypt(&self, c: &Caller, k: &str, plain: &[u8], x: &Context) -> R<Encrypted> {
        Err(KmsError)
    }
    pub fn decrypt(&self, c: &Caller, blob: &[u8], x: &Context) -> R<Decrypted> {
        Err(KmsError)
    }
    pub fn generate_data_key(&self, c: &Caller, k: &str, bytes: usize, x: &Context) -> R<DataKey> {
        Err(KmsError)
    }
    pub fn generate_data_key_without_plaintext(
        &self,
        c: &Caller,
        k: &str,
        bytes: usize,
        x: &Context,
    ) -> R<Encrypted> {
        Err(KmsError)
    }
}
