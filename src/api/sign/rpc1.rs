//! RPC 1.0: every parameter but `Signature`, HMAC-SHA1 under the secret and `&`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::canonical::{Pairs, rpc1_string};
use super::{Form, Message, SignError, Signature};
use crate::crypto::mac::{constant_time_eq, hmac_sha1};
use crate::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rpc1 {
    signature: String,
}

pub(super) fn find(message: &Message<'_>) -> Result<Option<Signature>, SignError> {
    let form = std::str::from_utf8(message.body);
    let form = form.map_err(|_| SignError::Incomplete("the body is no form"))?;
    let pairs = Pairs::read(&[message.query, form]);
    let pairs = pairs.map_err(|_| SignError::Incomplete("the parameters cannot be read"))?;
    let filled = |name| pairs.get(name).filter(|value| !value.is_empty());
    // Either of them says that the client means to sign; with one alone it went wrong.
    if filled("Signature").is_none() && filled("AccessKeyId").is_none() {
        return Ok(None);
    }
    let required = |name| filled(name).map(str::to_owned).ok_or(SignError::Missing(name));
    // In headers alone they would be covered by nothing.
    required("Action")?;
    required("Version")?;
    let access_key_id = required("AccessKeyId")?;
    let signature = required("Signature")?;
    let timestamp = required("Timestamp")?;
    let nonce = required("SignatureNonce")?;
    for (name, only) in [("SignatureMethod", "HMAC-SHA1"), ("SignatureVersion", "1.0")] {
        if required(name)? != only {
            return Err(SignError::Invalid(name));
        }
    }
    if filled("SecurityToken").is_some() {
        return Err(SignError::SecurityToken);
    }
    Ok(Some(Signature { access_key_id, nonce, timestamp, form: Form::Rpc1(Rpc1 { signature }) }))
}

impl Rpc1 {
    pub(super) fn verify(&self, message: &Message<'_>, secret: &Secret) -> Result<(), SignError> {
        let text = rpc1_string(message)
            .map_err(|_| SignError::Incomplete("the parameters cannot be read"))?;
        let key = Secret::from_fn(secret.len() + 1, |bytes| {
            bytes[..secret.len()].copy_from_slice(secret.expose());
            bytes[secret.len()] = b'&';
        });
        let ours = STANDARD.encode(hmac_sha1(&key, &[text.as_bytes()]));
        if constant_time_eq(ours.as_bytes(), self.signature.as_bytes()) {
            return Ok(());
        }
        Err(SignError::Mismatch { string_to_sign: text.as_str().to_owned() })
    }
}
