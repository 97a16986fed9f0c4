//! Signatures of requests: the canonical forms, and the search for one of three kinds.
//!
//! Input: the method, then `name:value` headers, an empty line, the query, and the body, on a line
//! each but the body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealdisk::api::sign::canonical::{Pairs, acs_request, rpc1_string};
use sealdisk::api::sign::{Message, SignError, Signature};
use sealdisk::secret::Secret;

fuzz_target!(|bytes: &[u8]| {
    let Some(message) = Parts::read(bytes) else { return };
    let message = message.message();
    check_canonical(&message);
    let Ok(Some(signature)) = Signature::find(&message) else { return };
    assert!(!signature.access_key_id().is_empty());
    let _ = signature.timestamp();
    let verdicts = [b'a', b'b']
        .map(|byte| signature.verify(&message, &Secret::from_fn(30, |bytes| bytes.fill(byte))));
    assert!(verdicts.iter().any(Result::is_err), "one signature, two secrets");
    if let [Err(SignError::Mismatch { string_to_sign: one }), Err(other)] = &verdicts {
        assert_eq!(other, &SignError::Mismatch { string_to_sign: one.clone() });
    }
});

fn check_canonical(message: &Message<'_>) {
    if let Ok(text) = rpc1_string(message) {
        let rest = text.strip_prefix(message.method);
        let rest = rest.and_then(|rest| rest.strip_prefix("&%2F&")).expect("as documented");
        assert!(!rest.contains(['&', '=', '+', '\n']), "ambiguous: {rest}");
    }
    if let Ok(pairs) = Pairs::read(&[message.query]) {
        let canonical = pairs.canonical(None);
        let again = Pairs::read(&[&canonical]).expect("it is encoded").canonical(None);
        assert_eq!(*again, *canonical, "canonical is what stays");
    }
    for (name, _) in message.headers {
        if let Some(text) = acs_request(message, name) {
            assert!(text.starts_with(message.method.as_bytes()));
        }
    }
}

struct Parts<'a> {
    method: &'a str,
    headers: Vec<(&'a str, &'a [u8])>,
    query: &'a str,
    body: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut line = || {
            let end = rest.iter().position(|byte| *byte == b'\n')?;
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            Some(line)
        };
        let method = std::str::from_utf8(line()?).ok()?;
        let mut headers = Vec::new();
        loop {
            let header = line()?;
            let Some(colon) = header.iter().position(|byte| *byte == b':') else { break };
            headers.push((std::str::from_utf8(&header[..colon]).ok()?, &header[colon + 1..]));
        }
        let query = std::str::from_utf8(line()?).ok()?;
        Some(Self { method, headers, query, body: rest })
    }

    fn message(&self) -> Message<'_> {
        let Self { method, query, body, .. } = *self;
        Message { method, query, headers: &self.headers, body }
    }
}
