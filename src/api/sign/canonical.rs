//! What exactly is signed: parameters and requests in their one canonical form.

use zeroize::{Zeroize, Zeroizing};

use super::Message;
use crate::api::percent::{PercentError, decode, encode_into};
use crate::crypto::mac::sha256;

/// Parameters, decoded, in the order of their bytes. May be secret: wiped on drop.
pub struct Pairs(Vec<(String, String)>);

impl Drop for Pairs {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, value)| value.zeroize());
    }
}

impl Pairs {
    /// Reads `name=value&…` texts, query and form for instance, as one list.
    ///
    /// # Errors
    /// [`PercentError`] if one of them is not encoded as it must be.
    pub fn read(texts: &[&str]) -> Result<Self, PercentError> {
        // Filled in place, so that what was read before an error is wiped too.
        let mut pairs = Self(Vec::new());
        for text in texts {
            for pair in text.split('&').filter(|pair| !pair.is_empty()) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                pairs.0.push((decode(name)?, decode(value)?));
            }
        }
        pairs.0.sort_unstable();
        Ok(pairs)
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `name=value` joined by `&`, each percent-encoded, without the parameter `except`.
    pub fn canonical(&self, except: Option<&str>) -> Zeroizing<String> {
        let bytes: usize = self.0.iter().map(|(name, value)| name.len() + value.len() + 1).sum();
        // Room for all of it at once: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(3 * bytes));
        for (name, value) in self.0.iter().filter(|(name, _)| Some(name.as_str()) != except) {
            if !text.is_empty() {
                text.push('&');
            }
            encode_into(&mut text, name);
            text.push('=');
            encode_into(&mut text, value);
        }
        text
    }
}

/// The string to sign of RPC 1.0: `METHOD&%2F&` and the canonical parameters of query and form,
/// encoded once more.
///
/// # Errors
/// [`PercentError`] if the parameters cannot be read.
pub fn rpc1_string(message: &Message<'_>) -> Result<Zeroizing<String>, PercentError> {
    let form = std::str::from_utf8(message.body).map_err(|_| PercentError::Utf8)?;
    let canonical = Pairs::read(&[message.query, form])?.canonical(Some("Signature"));
    let mut text =
        Zeroizing::new(String::with_capacity(message.method.len() + 5 + 3 * canonical.len()));
    text.push_str(message.method);
    text.push_str("&%2F&");
    encode_into(&mut text, &canonical);
    Ok(text)
}

/// The canonical request of ACS3 and ACS4: method, path, query, the listed headers, their names,
/// and the hash of the body. `None` if a listed header is missing or comes twice, or the query
/// cannot be read.
pub fn acs_request(message: &Message<'_>, signed_headers: &str) -> Option<Zeroizing<Vec<u8>>> {
    let query = Pairs::read(&[message.query]).ok()?.canonical(None);
    let values: usize = message.headers.iter().map(|(_, value)| value.len() + 2).sum();
    let room = message.method.len() + query.len() + values + 2 * signed_headers.len() + 80;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    text.extend_from_slice(message.method.as_bytes());
    text.extend_from_slice(b"\n/\n");
    text.extend_from_slice(query.as_bytes());
    text.push(b'\n');
    for name in signed_headers.split(';') {
        text.extend_from_slice(name.as_bytes());
        text.push(b':');
        text.extend_from_slice(only_header(message, name)?.trim_ascii());
        text.push(b'\n');
    }
    text.push(b'\n');
    text.extend_from_slice(signed_headers.as_bytes());
    text.push(b'\n');
    text.extend_from_slice(hex(&sha256(&[message.body])).as_bytes());
    Some(text)
}

/// The value of a header that is there once; `name` in lower case.
pub(super) fn only_header<'a>(message: &Message<'a>, name: &str) -> Option<&'a [u8]> {
    let mut values = message.headers.iter().filter(|(known, _)| *known == name);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(*value)
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
