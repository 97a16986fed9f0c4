//! One line of the journal, and the chain of MACs through all of them.
//!
//! ```text
//! {"seq":7,"durable":6,"prev":"<mac of line 6>","event":{...},"mac":"<mac of all before this>"}
//! ```
//!
//! `durable` is the last record that was known to be on the medium when this one was written: by it
//! an end that a power cut left in pieces is told from damage to what was acknowledged.

use serde::Deserialize;
use serde_json::Value;

use super::Why;
use crate::crypto::mac::{constant_time_eq, hmac_sha256};
use crate::secret::Secret;

/// Largest line with its newline. Longer events are recorded without their parameters.
pub(super) const LINE_BYTES_MAX: usize = 256 << 10;

const LABEL: &[u8] = b"sealdisk-trail/line/v1";
const MAC_START: &str = ",\"mac\":\"";
const MAC_END: &str = "\"}";

/// The MAC of a line.
pub(super) type Mac = [u8; 32];

/// What the first line of all follows.
pub(super) const GENESIS: Mac = [0; 32];

/// A line that carries its MAC.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) seq: u64,
    pub(super) durable: u64,
    pub(super) prev: Mac,
    pub(super) event: Value,
    pub(super) mac: Mac,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parsed {
    seq: u64,
    durable: u64,
    prev: String,
    event: Value,
    mac: String,
}

/// The line of record `seq` with its newline, and its MAC.
pub(super) fn seal(
    key: &Secret,
    seq: u64,
    durable: u64,
    prev: &Mac,
    event: &str,
) -> (Vec<u8>, Mac) {
    let mut line = format!(
        "{{\"seq\":{seq},\"durable\":{durable},\"prev\":\"{}\",\"event\":{event}",
        hex(prev)
    );
    let mac = hmac_sha256(key, &[LABEL, line.as_bytes()]);
    line.push_str(MAC_START);
    line.push_str(&hex(&mac));
    line.push_str(MAC_END);
    line.push('\n');
    (line.into_bytes(), mac)
}

/// Reads a line (without its newline) and checks its MAC.
pub(super) fn unseal(key: &Secret, line: &[u8]) -> Result<Line, Why> {
    let text = std::str::from_utf8(line).map_err(|_| Why::NotARecord)?;
    let tail = MAC_START.len() + 64 + MAC_END.len();
    let at = text.len().checked_sub(tail).filter(|at| text.is_char_boundary(*at));
    let (sealed, rest) = text.split_at(at.ok_or(Why::NotARecord)?);
    let mac = rest
        .strip_prefix(MAC_START)
        .and_then(|rest| rest.strip_suffix(MAC_END))
        .and_then(unhex)
        .ok_or(Why::NotARecord)?;
    if !constant_time_eq(&hmac_sha256(key, &[LABEL, sealed.as_bytes()]), &mac) {
        return Err(Why::WrongMac);
    }
    let parsed: Parsed = serde_json::from_str(text).map_err(|_| Why::NotARecord)?;
    if unhex(&parsed.mac) != Some(mac) {
        return Err(Why::NotARecord);
    }
    let prev = unhex(&parsed.prev).ok_or(Why::NotARecord)?;
    Ok(Line { seq: parsed.seq, durable: parsed.durable, prev, event: parsed.event, mac })
}

fn hex(mac: &Mac) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    mac.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Mac> {
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
        let (bytes, mac) = seal(&key(), 7, 6, &[0xab; 32], r#"{"eventName":"Encrypt"}"#);
        assert_eq!(bytes.last(), Some(&b'\n'));
        let line = unseal(&key(), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!((line.seq, line.durable, line.prev, line.mac), (7, 6, [0xab; 32], mac));
        assert_eq!(line.event["eventName"], "Encrypt");
    }

    #[test]
    fn no_byte_can_be_changed() {
        let (bytes, _) = seal(&key(), 7, 6, &GENESIS, "{}");
        let line = &bytes[..bytes.len() - 1];
        for at in 0..line.len() {
            let mut changed = line.to_vec();
            changed[at] ^= 1;
            assert!(unseal(&key(), &changed).is_err(), "byte {at}");
            assert!(unseal(&key(), &line[..at]).is_err(), "cut at {at}");
        }
        let other = Secret::from_fn(32, |bytes| bytes.fill(8));
        assert_eq!(unseal(&other, line).unwrap_err(), Why::WrongMac);
    }
}
