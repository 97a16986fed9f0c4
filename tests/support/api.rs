//! The API as bytes: one request over a unix socket or TCP.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::signer::{AccessKey, Ask, Scheme, encode, sign};

pub const KMS: &str = "2016-01-20";
pub const ECS: &str = "2014-05-26";
pub const RAM: &str = "2015-05-01";
pub const OWN: &str = sealdisk::api::OWN_VERSION;

/// Calls an action: HTTP status and answer.
pub fn call(
    socket: &Path,
    version: &str,
    action: &str,
    parameters: &[(&str, &str)],
) -> (u16, Value) {
    let fixed = [("Action", action), ("Version", version)];
    let form: Vec<String> = fixed
        .iter()
        .chain(parameters)
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    let form = form.join("&");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{form}",
        form.len()
    );
    let mut stream = UnixStream::connect(socket).expect("the API listens");
    let (status, body) = exchange(&mut stream, &request);
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

/// GET of a path over TCP: HTTP status and body.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).expect("something listens");
    exchange(
        &mut stream,
        &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
    )
}

/// Sends a request that asks for the connection to be closed; reads the answer whole.
pub fn exchange(stream: &mut (impl Read + Write), request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// Calls an action over TCP, signed with `key`: HTTP status and answer. `nonce` is used once.
pub fn call_signed(
    address: &str,
    key: &AccessKey,
    what: (&str, &str),
    parameters: &[(&str, &str)],
    nonce: &str,
) -> (u16, Value) {
    use sealdisk::clock::{Clock, SystemClock};
    let timestamp = SystemClock::new().now().to_string();
    call_signed_at(address, key, what, parameters, (&timestamp, nonce))
}

/// As [`call_signed`], dated `timestamp`.
pub fn call_signed_at(
    address: &str,
    key: &AccessKey,
    (version, action): (&str, &str),
    parameters: &[(&str, &str)],
    (timestamp, nonce): (&str, &str),
) -> (u16, Value) {
    let ask = Ask { version, action, parameters, timestamp, nonce };
    let signed = sign(Scheme::Acs3, key, &ask);
    let headers: String =
        signed.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{} /?{} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: 0\r\n\r\n",
        signed.method, signed.query
    );
    let mut stream = std::net::TcpStream::connect(address).expect("the API listens");
    let (status, body) = exchange(&mut stream, &request);
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")))
}
