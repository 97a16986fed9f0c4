//! One line of the journal, and the chain of MACs through all of them.
//!
//! ```text
//! {"seq":7,"durable":6,"prev":"<mac of line 6>","event":{...},"mac":"<mac of all before this>"}
//! {"seq":8,"durable":6,"prev":"<mac of line 7>","checkpoint":{...},"mac":"..."}
//! ```
//!
//! `durable` is the last record that was known to be on the medium when this one was written: by it
//! an end that a power cut left in pieces is told from damage to what was acknowledged.

use serde::Deserialize;
use serde_json::Value;

use super::Why;
use super::checkpoint::Checkpoint;
use crate::crypto::ed25519::{PublicKey, SigningKey};
use crate::crypto::kdf::hkdf_sha256;
use crate::crypto::mac::{constant_time_eq, hmac_sha256};
use crate::secret::Secret;

/// Largest line with its newline. Longer events are recorded without their parameters.
pub(super) const LINE_BYTES_MAX: usize = 256 << 10;

const LABEL: &[u8] = b"sealdisk-trail/line/v1";
const SIGNING_LABEL: &[u8] = b"sealdisk-trail/signing/v1";
const MAC_START: &str = ",\"mac\":\"";
const MAC_END: &str = "\"}";

/// The MAC of a line.
pub(super) type Mac = [u8; 32];

/// What the first line of all follows.
pub(super) const GENESIS: Mac = [0; 32];

/// What a trail is written with.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) mac: Secret,
    pub(super) signing: SigningKey,
}

impl Keys {
    /// The MAC key, and the signing key derived from it.
    pub(super) fn new(mac: Secret) -> Self {
        let signing = SigningKey::new(hkdf_sha256(&mac, SIGNING_LABEL, 32));
        Self { mac, signing }
    }

    pub(super) fn checker(&self) -> Checker<'_> {
        Checker { mac: Some(&self.mac), public: self.signing.public() }
    }
}

/// What a trail is checked with: without the MAC key only checkpoints vouch for the lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checker<'a> {
    pub(super) mac: Option<&'a Secret>,
    pub(super) public: PublicKey,
}

/// What a line is about.
#[derive(Debug)]
pub(super) enum Body {
    Event(Value),
    Checkpoint(Checkpoint),
}

/// A line, as far as its own MAC vouches for it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) durable: u64,
    pub(super) prev: Mac,
    pub(super) body: Body,
    pub(super) mac: Mac,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsed {
    seq: u64,
    durable: u64,
    prev: String,
    event: Option<Value>,
    checkpoint: Option<Checkpoint>,
    mac: String,
}

/// The line of record `seq` with its newline, and its MAC. `body` is the name and value of its
/// member, as JSON.
pub(super) fn seal(
    key: &Secret,
    seq: u64,
    durable: u64,
    prev: &Mac,
    (name, body): (&str, &str),
) -> (Vec<u8>, Mac) {
    let mut line = format!(
        "{{\"seq\":{seq},\"durable\":{durable},\"prev\":\"{}\",\"{name}\":{body}",
        hex(prev)
    );
    let mac = hmac_sha256(key, &[LABEL, line.as_bytes()]);
    line.push_str(MAC_START);
    line.push_str(&hex(&mac));
    line.push_str(MAC_END);
    line.push('\n');
    (line.into_bytes(), mac)
}

/// Reads a line (without its newline) and checks its MAC, where there is a key for it.
pub(super) fn unseal(key: Option<&Secret>, line: &[u8]) -> Result<Line, Why> {
    let text = std::str::from_utf8(line).map_err(|_| Why::NotARecord)?;
    let tail = MAC_START.len() + 64 + MAC_END.len();
    let at = text.len().checked_sub(tail).filter(|at| text.is_char_boundary(*at));
    let (sealed, rest) = text.split_at(at.ok_or(Why::NotARecord)?);
    let mac = rest
        .strip_prefix(MAC_START)
        .and_then(|rest| rest.strip_suffix(MAC_END))
        .and_then(unhex)
        .ok_or(Why::NotARecord)?;
    if let Some(key) = key
        && !constant_time_eq(&hmac_sha256(key, &[LABEL, sealed.as_bytes()]), &mac)
    {
        return Err(Why::WrongMac);
    }
    let parsed: Parsed = serde_json::from_str(text).map_err(|_| Why::NotARecord)?;
    if unhex(&parsed.mac) != Some(mac) {
        return Err(Why::NotARecord);
    }
    let body = match (parsed.event, parsed.checkpoint) {
        (Some(event), None) => Body::Event(event),
        (None, Some(checkpoint)) => Body::Checkpoint(checkpoint),
        _ => return Err(Why::NotARecord),
    };
    let prev = unhex(&parsed.prev).ok_or(Why::NotARecord)?;
    Ok(Line { seq: parsed.seq, durable: parsed.durable, prev, body, mac })
}

pub(super) fn hex(mac: &Mac) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    mac.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(super) fn unhex(text: &str) -> Option<Mac> {
    let digits = text.as_bytes();
    if digits.len() != 64 || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut mac = [0; 32];
    for (byte, pair) in mac.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]
mod tests {
    use super::*;

    fn key() -> Secret {
        Secret::from_fn(32, |bytes| bytes.fill(7))
    }

    #[test]
    fn a_line_reads_back() {
        let event = r#"{"eventName":"Encrypt"}"#;
        let (bytes, mac) = seal(&key(), 7, 6, &[0xab; 32], ("event", event));
        assert_eq!(bytes.last(), Some(&b'\n'));
        let line = unseal(Some(&key()), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!((line.seq, line.durable, line.prev, line.mac), (7, 6, [0xab; 32], mac));
        assert!(matches!(line.body, Body::Event(event) if event["eventName"] == "Encrypt"));
    }

    #[test]
    fn no_byte_can_be_changed() {
        let (bytes, _) = seal(&key(), 7, 6, &GENESIS, ("event", "{}"));
        let line = &bytes[..bytes.len() - 1];
        for at in 0..line.len() {
            let mut changed = line.to_vec();
            changed[at] ^= 1;
            assert!(unseal(Some(&key()), &changed).is_err(), "byte {at}");
            assert!(unseal(Some(&key()), &line[..at]).is_err(), "cut at {at}");
        }
        let other = Secret::from_fn(32, |bytes| bytes.fill(8));
        assert_eq!(unseal(Some(&other), line).unwrap_err(), Why::WrongMac);
    }

    #[test]
    fn a_line_is_about_one_thing() {
        for (name, body) in [("event", "null"), ("other", "{}"), ("checkpoint", "{}")] {
            let (bytes, _) = seal(&key(), 7, 6, &GENESIS, (name, body));
            let line = unseal(Some(&key()), &bytes[..bytes.len() - 1]);
            assert_eq!(line.unwrap_err(), Why::NotARecord, "{name}");
        }
    }
}
