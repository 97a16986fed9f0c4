//! The KMS of a real daemon, asked over its unix socket.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::api;
use super::daemon::Daemon;
use sealdisk::crypto::asymmetric::{Padding, encrypt};

pub struct Kms {
    pub daemon: Daemon,
    _folder: tempfile::TempDir,
}

impl Kms {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { daemon: Daemon::start(&folder.path().join("data")), _folder: folder }
    }

    /// Status and answer of an action.
    pub fn ask(&self, action: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        api::call(&self.daemon.api_socket(), api::KMS, action, parameters)
    }

    /// The answer of an action that must go.
    #[track_caller]
    pub fn ok(&self, action: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, answer) = self.ask(action, parameters);
        assert_eq!(status, 200, "{action} {parameters:?}: {answer}");
        answer
    }

    /// An action that must be refused so.
    #[track_caller]
    pub fn refused(&self, action: &str, parameters: &[(&str, &str)], expected: (u16, &str)) {
        let (status, answer) = self.ask(action, parameters);
        let found = (status, answer["Code"].as_str().unwrap_or_default());
        assert_eq!(found, expected, "{action} {parameters:?}: {answer}");
    }

    /// The metadata of a new key.
    pub fn create(&self, parameters: &[(&str, &str)]) -> Value {
        self.ok("CreateKey", parameters)["KeyMetadata"].take()
    }

    /// The id of a new key.
    pub fn key(&self, parameters: &[(&str, &str)]) -> String {
        text(&self.create(parameters), "KeyId")
    }

    pub fn describe(&self, key: &str) -> Value {
        self.ok("DescribeKey", &[("KeyId", key)])["KeyMetadata"].take()
    }

    /// Parameters of an import of `material`, whose length is nobody's business here.
    pub fn wrap(&self, key: &str, algorithm: &str, material: &[u8]) -> (String, String) {
        let asked =
            [("KeyId", key), ("WrappingAlgorithm", algorithm), ("WrappingKeySpec", "RSA_2048")];
        let given = self.ok("GetParametersForImport", &asked);
        let padding = match algorithm {
            "RSAES_PKCS1_V1_5" => Padding::Pkcs1,
            "RSAES_OAEP_SHA_1" => Padding::OaepSha1,
            _ => Padding::OaepSha256,
        };
        let public = STANDARD.decode(text(&given, "PublicKey")).unwrap();
        let wrapped = encrypt(&public, padding, material).unwrap();
        (STANDARD.encode(wrapped), text(&given, "ImportToken"))
    }

    /// Imports `material` into an EXTERNAL key, until `expires` (0: for ever).
    pub fn import(&self, key: &str, material: &[u8], expires: &str) -> (u16, Value) {
        let (wrapped, token) = self.wrap(key, "RSAES_OAEP_SHA_256", material);
        let import = [
            ("KeyId", key),
            ("EncryptedKeyMaterial", wrapped.as_str()),
            ("ImportToken", token.as_str()),
            ("KeyMaterialExpireUnix", expires),
        ];
        self.ask("ImportKeyMaterial", &import)
    }
}

/// The text of a field.
pub fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}")).to_owned()
}

/// A JSON object of texts.
pub fn object(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
    Value::Object(pairs.collect()).to_string()
}
