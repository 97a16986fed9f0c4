//! ACS3 and ACS4: the header `Authorization`, HMAC-SHA256 over method, query, headers and body.
//!
//! ```text
//! ACS3-HMAC-SHA256 Credential=ID,SignedHeaders=a;b;c,Signature=HEX
//! ACS4-HMAC-SHA256 Credential=ID/20260105/REGION/Kms/aliyun_v4_request,SignedHeaders=…,Signature=…
//! ```
//!
//! ACS4 signs with a key derived from the secret for one day, region and product.

use super::canonical::{acs_request, hex, only_header};
use super::{Form, Message, SignError, Signature};
use crate::crypto::mac::{constant_time_eq, hmac_sha256, sha256};
use crate::secret::Secret;

const ACS3: &str = "ACS3-HMAC-SHA256";
const ACS4: &str = "ACS4-HMAC-SHA256";

/// What ends the scope of an ACS4 credential and the derivation of its key.
const ACS4_END: &str = "aliyun_v4_request";
/// What the secret is prefixed with there.
const ACS4_START: &[u8] = b"aliyun_v4";

/// Headers that decide what a request does: whoever sends them signs them.
const DECISIVE: [&str; 6] = [
    "x-acs-action",
    "x-acs-version",
    "x-acs-date",
    "x-acs-signature-nonce",
    "x-acs-content-sha256",
    "x-acs-security-token",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acs {
    scope: Option<Scope>,
    signed_headers: String,
    signature: String,
}

/// What an ACS4 key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    date: String,
    region: String,
    product: String,
}

pub(super) fn find(message: &Message<'_>) -> Result<Option<Signature>, SignError> {
    let is_there = message.headers.iter().any(|(name, _)| *name == "authorization");
    if !is_there {
        return Ok(None);
    }
    let incomplete = SignError::Incomplete;
    let text = only_header(message, "authorization").map(std::str::from_utf8);
    let Some(Ok(text)) = text else {
        return Err(incomplete("there must be one Authorization header"));
    };
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if !matches!(scheme, ACS3 | ACS4) {
        return Err(incomplete("Authorization is neither ACS3-HMAC-SHA256 nor ACS4-HMAC-SHA256"));
    }
    let credential = member(rest, "Credential")?;
    let (id, scope) = match scheme {
        ACS3 => (credential, None),
        _ => {
            let (id, scope) = scope(credential)?;
            (id, Some(scope))
        }
    };
    let signed_headers = member(rest, "SignedHeaders")?;
    check_headers(message, signed_headers)?;
    let header = |name: &'static str| {
        let value = only_header(message, name).map(std::str::from_utf8);
        let Some(Ok(value)) = value else { return Err(SignError::Missing(name)) };
        Ok(value.trim().to_owned())
    };
    let timestamp = header("x-acs-date")?;
    // Compared with the body through the canonical request, which ends with the body's true hash.
    header("x-acs-content-sha256")?;
    if scope.as_ref().is_some_and(|scope| !is_day_of(&scope.date, &timestamp)) {
        return Err(incomplete("the credential is of another day than x-acs-date"));
    }
    let form = Form::Acs(Acs {
        scope,
        signed_headers: signed_headers.to_owned(),
        signature: member(rest, "Signature")?.to_owned(),
    });
    let nonce = header("x-acs-signature-nonce")?;
    Ok(Some(Signature { access_key_id: id.to_owned(), nonce, timestamp, form }))
}

/// The value of `NAME=value` in a list with commas.
fn member<'a>(list: &'a str, name: &'static str) -> Result<&'a str, SignError> {
    let mut values = list.split(',').filter_map(|entry| {
        let (known, value) = entry.trim().split_once('=')?;
        (known == name && !value.is_empty()).then_some(value)
    });
    let value = values.next().ok_or(SignError::Missing(name))?;
    if values.next().is_some() {
        return Err(SignError::Incomplete("a part of Authorization comes twice"));
    }
    Ok(value)
}

fn scope(credential: &str) -> Result<(&str, Scope), SignError> {
    let parts: Vec<&str> = credential.split('/').collect();
    let [id, date, region, product, ACS4_END] = parts[..] else {
        return Err(SignError::Incomplete(
            "Credential must be ID/YYYYMMDD/REGION/PRODUCT/aliyun_v4_request",
        ));
    };
    let scope = Scope { date: date.into(), region: region.into(), product: product.into() };
    Ok((id, scope))
}

/// Whether `20260105` is the day of `2026-01-05T03:04:05Z`.
fn is_day_of(date: &str, timestamp: &str) -> bool {
    let day = timestamp.split('T').next().unwrap_or_default();
    day.bytes().filter(|byte| *byte != b'-').eq(date.bytes())
}

fn check_headers(message: &Message<'_>, signed_headers: &str) -> Result<(), SignError> {
    let is_signed = |name: &str| signed_headers.split(';').any(|signed| signed == name);
    let is_there = |name: &str| message.headers.iter().any(|(known, _)| *known == name);
    if DECISIVE.iter().any(|name| is_there(name) && !is_signed(name)) {
        return Err(SignError::Incomplete("an x-acs- header is not among SignedHeaders"));
    }
    if only_header(message, "x-acs-security-token").is_some_and(|token| !token.is_empty()) {
        return Err(SignError::SecurityToken);
    }
    Ok(())
}

impl Acs {
    pub(super) fn product(&self) -> Option<&str> {
        self.scope.as_ref().map(|scope| scope.product.as_str())
    }

    pub(super) fn verify(&self, message: &Message<'_>, secret: &Secret) -> Result<(), SignError> {
        let request = acs_request(message, &self.signed_headers);
        let request = request.ok_or(SignError::Incomplete(
            "a header named in SignedHeaders is missing or comes twice",
        ))?;
        let scheme = if self.scope.is_some() { ACS4 } else { ACS3 };
        let text = format!("{scheme}\n{}", hex(&sha256(&[&request])));
        let tag = match &self.scope {
            None => hmac_sha256(secret, &[text.as_bytes()]),
            Some(scope) => hmac_sha256(&scope.key(secret), &[text.as_bytes()]),
        };
        if constant_time_eq(hex(&tag).as_bytes(), self.signature.as_bytes()) {
            return Ok(());
        }
        Err(SignError::Mismatch { string_to_sign: text })
    }
}

impl Scope {
    fn key(&self, secret: &Secret) -> Secret {
        let start = Secret::from_fn(ACS4_START.len() + secret.len(), |bytes| {
            bytes[..ACS4_START.len()].copy_from_slice(ACS4_START);
            bytes[ACS4_START.len()..].copy_from_slice(secret.expose());
        });
        let steps = [self.date.as_str(), &self.region, &self.product, ACS4_END];
        steps.iter().fold(start, |key, step| {
            let mut next = hmac_sha256(&key, &[step.as_bytes()]);
            Secret::take(&mut next)
        })
    }
}
