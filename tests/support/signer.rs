//! Signs requests, by the book and step by step: the counterpart of what the product verifies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sealdisk::crypto::mac::{hmac_sha1, hmac_sha256, sha256};
use sealdisk::secret::Secret;

/// An access key, as a client has it.
#[derive(Clone, Debug)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

/// How to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Rpc1,
    Acs3,
    Acs4,
}

/// A request, signed.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub query: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What is asked, and when.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub version: &'a str,
    pub action: &'a str,
    pub parameters: &'a [(&'a str, &'a str)],
    pub timestamp: &'a str,
    pub nonce: &'a str,
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Signs `ask`. Parameters go into the query of ACS requests, into the form of RPC 1.0 ones.
pub fn sign(scheme: Scheme, key: &AccessKey, ask: &Ask<'_>) -> Request {
    match scheme {
        Scheme::Rpc1 => rpc1(key, ask),
        Scheme::Acs3 | Scheme::Acs4 => acs(scheme, key, ask),
    }
}

fn rpc1(key: &AccessKey, ask: &Ask<'_>) -> Request {
    let fixed = [
        ("Action", ask.action),
        ("Version", ask.version),
        ("Format", "JSON"),
        ("AccessKeyId", key.id.as_str()),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureVersion", "1.0"),
        ("SignatureNonce", ask.nonce),
        ("Timestamp", ask.timestamp),
    ];
    let canonical = canonical(fixed.iter().chain(ask.parameters));
    let text = format!("POST&%2F&{}", encode(&canonical));
    let tag = hmac_sha1(&secret_of(&format!("{}&", key.secret)), &[text.as_bytes()]);
    let body = format!("{canonical}&Signature={}", encode(&STANDARD.encode(tag)));
    let headers = vec![("content-type".to_owned(), FORM.to_owned())];
    Request { method: "POST", query: String::new(), headers, body }
}

fn acs(scheme: Scheme, key: &AccessKey, ask: &Ask<'_>) -> Request {
    let name = if scheme == Scheme::Acs3 { "ACS3-HMAC-SHA256" } else { "ACS4-HMAC-SHA256" };
    let query = canonical(ask.parameters.iter());
    let payload = hex(&sha256(&[b""]));
    let mut headers: Vec<(String, String)> = [
        ("host", "test"),
        ("x-acs-action", ask.action),
        ("x-acs-content-sha256", payload.as_str()),
        ("x-acs-date", ask.timestamp),
        ("x-acs-signature-nonce", ask.nonce),
        ("x-acs-version", ask.version),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let signed: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    let signed = signed.join(";");
    let request = format!("POST\n/\n{query}\n{lines}\n{signed}\n{payload}");
    let text = format!("{name}\n{}", hex(&sha256(&[request.as_bytes()])));
    let (credential, signing_key) = if scheme == Scheme::Acs3 {
        (key.id.clone(), secret_of(&key.secret))
    } else {
        let day = ask.timestamp[..10].replace('-', "");
        let mut derived = secret_of(&format!("aliyun_v4{}", key.secret));
        for step in [day.as_str(), "cn-hangzhou", "Kms", "aliyun_v4_request"] {
            derived = Secret::take(&mut hmac_sha256(&derived, &[step.as_bytes()]));
        }
        (format!("{}/{day}/cn-hangzhou/Kms/aliyun_v4_request", key.id), derived)
    };
    let tag = hex(&hmac_sha256(&signing_key, &[text.as_bytes()]));
    let authorization =
        format!("{name} Credential={credential},SignedHeaders={signed},Signature={tag}");
    headers.push(("authorization".to_owned(), authorization));
    Request { method: "POST", query, headers, body: String::new() }
}

fn secret_of(text: &str) -> Secret {
    Secret::from_fn(text.len(), |bytes| bytes.copy_from_slice(text.as_bytes()))
}

/// Sorted by name, each part encoded.
pub fn canonical<'a>(pairs: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort();
    let encoded: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    encoded.join("&")
}

/// Percent-encodes all but RFC 3986's unreserved characters.
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
