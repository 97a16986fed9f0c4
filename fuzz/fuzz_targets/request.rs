//! Requests of the API: query, form and headers become a call.
//!
//! Input: `x-acs-action`, `x-acs-version` and the query, each on a line (an empty header is
//! absent), then the form.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealdisk::api::percent;
use sealdisk::api::rpc::{Call, Parameters, Wire};
use sealdisk::api::sign::canonical::Pairs;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(4, |byte| *byte == b'\n');
    let mut line = || std::str::from_utf8(parts.next().unwrap_or_default());
    let (Ok(action), Ok(version), Ok(query)) = (line(), line(), line()) else { return };
    let form = parts.next().unwrap_or_default();
    let header = |value| Some(value).filter(|value: &&str| !value.is_empty());
    let wire = Wire { action: header(action), version: header(version), query, form };
    let Ok(call) = Call::read(&wire) else { return };
    read_values(&call.parameters);

    // What is signed and what is done are read by two readers: they must find the same.
    let form = std::str::from_utf8(form).expect("the call was read");
    let pairs = Pairs::read(&[query, form]).expect("the call was read");
    let canonical = pairs.canonical(None);
    for pair in canonical.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').expect("written as name=value");
        let name = percent::decode(name).expect("written encoded");
        let value = percent::decode(value).expect("written encoded");
        match name.as_str() {
            "Action" => assert!(value.is_empty() || value == call.action),
            "Version" => {}
            _ => assert_eq!(call.parameters.text(&name), Some(value.as_str())),
        }
    }
    let again = Call::read(&Wire { query: "", form: canonical.as_bytes(), ..wire });
    let again = again.expect("the canonical form says the same");
    assert_eq!((again.product, again.action), (call.product, call.action));
    assert_eq!(format!("{:?}", again.parameters), format!("{:?}", call.parameters));
});

fn read_values(parameters: &Parameters) {
    if let Ok(paging) = parameters.paging() {
        assert!(paging.number >= 1 && (1..=100).contains(&paging.size));
        assert_eq!(paging.page().limit, paging.size);
    }
    if let Ok(bytes) = parameters.base64("Plaintext", 48) {
        assert!(bytes.len() <= 48);
    }
    if let Ok(Some(ids)) = parameters.json_list("DiskIds") {
        assert!(ids.len() <= 100);
    }
    if let Ok(Some(size)) = parameters.integer("NumberOfBytes", 1..=1024_u32) {
        assert!((1..=1024).contains(&size));
    }
    assert!(parameters.list("Name").iter().all(|entry| !entry.is_empty()));
    let _ = parameters.boolean("Encrypted");
    let _ = parameters.encryption_context();
}
