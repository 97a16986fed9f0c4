//! Signing a call: ACS3-HMAC-SHA256 over method, path, headers and body. Pure.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::RemoteError;
use super::exchange::encode;
use crate::clock::Timestamp;
use crate::crypto::mac::{hmac_sha256, sha256};
use crate::secret::Secret;

const ALGORITHM: &str = "ACS3-HMAC-SHA256";
const VERSION: &str = "2016-01-20";
const FORM: &str = "application/x-www-form-urlencoded";

/// What an access key file holds.
const WANTED: &str = "AccessKeyId and AccessKeySecret, as JSON";

/// Largest access key file, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Permissions that others must not have.
const OTHERS: u32 = 0o077;

/// An access key of a RAM user.
#[derive(Debug)]
pub(super) struct AccessKey {
    pub(super) id: String,
    pub(super) secret: Secret,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written<'a> {
    access_key_id: String,
    #[serde(borrow)]
    access_key_secret: &'a str,
}

impl AccessKey {
    pub(super) fn load(path: &Path) -> Result<Self, RemoteError> {
        let failed = |source| RemoteError::File {
            path: path.to_owned(),
            wanted: WANTED,
            source: Some(source),
        };
        let malformed =
            || RemoteError::File { path: path.to_owned(), wanted: WANTED, source: None };
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let mode = metadata.mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(RemoteError::Exposed { path: path.to_owned(), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(malformed());
        }
        let text = std::fs::read(path).map(Zeroizing::new).map_err(failed)?;
        let written: Written<'_> = serde_json::from_slice(&text).map_err(|_| malformed())?;
        let secret = written.access_key_secret.as_bytes();
        Ok(Self {
            id: written.access_key_id,
            secret: Secret::from_fn(secret.len(), |out| out.copy_from_slice(secret)),
        })
    }
}

/// A call, ready to be sent: a POST of `/`.
pub(super) struct Signed {
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

/// Signs `action` for `host`; `agent` is what we say of ourselves.
pub(super) fn sign(
    key: &AccessKey,
    (host, agent): (&str, String),
    (action, parameters): (&'static str, &[(&str, &str)]),
    (now, nonce): (Timestamp, Uuid),
) -> Signed {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    let body = pairs.join("&");
    // In the order of their names, as they are signed.
    let mut headers = vec![
        ("content-type", FORM.to_owned()),
        ("host", host.to_owned()),
        ("user-agent", agent),
        ("x-acs-action", action.to_owned()),
        ("x-acs-content-sha256", hex(&sha256(&[body.as_bytes()]))),
        ("x-acs-date", now.to_string()),
        ("x-acs-signature-nonce", nonce.to_string()),
        ("x-acs-version", VERSION.to_owned()),
    ];
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let hash = hex(&sha256(&[body.as_bytes()]));
    let request = format!("POST\n/\n\n{lines}\n{names}\n{hash}");
    let text = format!("{ALGORITHM}\n{}", hex(&sha256(&[request.as_bytes()])));
    let signature = hex(&hmac_sha256(&key.secret, &[text.as_bytes()]));
    let authorization =
        format!("{ALGORITHM} Credential={},SignedHeaders={names},Signature={signature}", key.id);
    headers.push(("authorization", authorization));
    Signed { headers, body }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_access_key_file_is_private_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        let put = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            AccessKey::load(&path)
        };
        let whole = r#"{"AccessKeyId": "LTAI1", "AccessKeySecret": "s3cret"}"#;
        let key = put(whole, 0o600).unwrap();
        assert_eq!((key.id.as_str(), key.secret.expose()), ("LTAI1", &b"s3cret"[..]));
        assert!(!format!("{key:?}").contains("s3cret"));
        assert!(matches!(put(whole, 0o640), Err(RemoteError::Exposed { mode: 0o640, .. })));
        for text in ["", "{}", r#"{"AccessKeyId": "LTAI1"}"#, &" ".repeat(5000)] {
            let refused = put(text, 0o600).unwrap_err();
            assert!(refused.to_string().contains("AccessKeyId and AccessKeySecret"), "{refused}");
        }
    }
}
