//! Calls per second and latency of a KMS over HTTP keep-alive, from many clients at once. Driven by
//! `tools/bench-kms`, which starts the servers:
//!
//! ```text
//! kms_http sealdisk|moto HOST:PORT KEY-ID ACCESS-KEY-FILE CLIENTS SECONDS
//! ```
//!
//! Prints a row of a Markdown table for each action. sealdisk is asked with signed requests (ACS3);
//! the other checks no signature, so it is spared that.

#![allow(clippy::unwrap_used, reason = "a bench may stop at what it does not expect")]

#[allow(dead_code, unreachable_pub, reason = "the tests use more of it")]
#[path = "../tests/support/signer.rs"]
mod signer;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use sealdisk::clock::{Clock, SystemClock, SystemEntropy, random_uuid};
use serde_json::Value;
use signer::{AccessKey, Ask, Scheme, sign};

const VERSION: &str = "2016-01-20";

/// What one client needs to know.
#[derive(Clone)]
struct Server {
    is_ours: bool,
    address: String,
    key_id: String,
    access_key: AccessKey,
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|text| text != "--bench").collect();
    let [kind, address, key_id, file, clients, seconds] = &arguments[..] else {
        // As `cargo bench` runs it, without servers.
        println!("run tools/bench-kms");
        return;
    };
    let text = std::fs::read_to_string(file).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    let field = |name: &str| file[name].as_str().unwrap().to_owned();
    let server = Server {
        is_ours: kind == "sealdisk",
        address: address.clone(),
        key_id: key_id.clone(),
        access_key: AccessKey { id: field("AccessKeyId"), secret: field("AccessKeySecret") },
    };
    let span = Duration::from_secs(seconds.parse().unwrap());
    let clients: usize = clients.parse().unwrap();
    let blob = Client::connect(&server).call("GenerateDataKey", &server, None);
    for action in ["GenerateDataKey", "Decrypt"] {
        let begun = Instant::now();
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                let (server, blob) = (server.clone(), blob.clone());
                std::thread::spawn(move || run(&server, action, &blob, span))
            })
            .collect();
        let mut times: Vec<Duration> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let took = begun.elapsed();
        times.sort_unstable();
        let at =
            |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "| {kind} | {action} | {clients} | {:.0} | {:.2} | {:.2} |",
            times.len() as f64 / took.as_secs_f64(),
            at(0.5),
            at(0.99),
        );
    }
}

fn run(server: &Server, action: &str, blob: &str, span: Duration) -> Vec<Duration> {
    let mut client = Client::connect(server);
    let (end, mut times) = (Instant::now() + span, Vec::new());
    while Instant::now() < end {
        let begun = Instant::now();
        client.call(action, server, Some(blob));
        times.push(begun.elapsed());
    }
    times
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(&server.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 16 << 10] }
    }

    /// The `CiphertextBlob` of the answer, empty if it has none.
    fn call(&mut self, action: &str, server: &Server, blob: Option<&str>) -> String {
        let request =
            if server.is_ours { ours(action, server, blob) } else { theirs(action, server, blob) };
        self.stream.write_all(request.as_bytes()).unwrap();
        let answer = self.read();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if answer.to_ascii_lowercase().contains("connection: close") {
            *self = Self::connect(server);
        }
        let body = &answer[answer.find("\r\n\r\n").unwrap()..];
        let value: Value = serde_json::from_str(body.trim()).unwrap();
        value["CiphertextBlob"].as_str().unwrap_or_default().to_owned()
    }

    fn read(&mut self) -> String {
        let mut len = 0;
        loop {
            let got = self.stream.read(&mut self.buffer[len..]).unwrap();
            assert_ne!(got, 0, "the server closed");
            len += got;
            let text = std::str::from_utf8(&self.buffer[..len]).unwrap();
            let Some(head) = text.find("\r\n\r\n") else { continue };
            let lower = text[..head].to_ascii_lowercase();
            let body = lower.split("content-length: ").nth(1).unwrap();
            let body: usize = body.split("\r\n").next().unwrap().parse().unwrap();
            if len >= head + 4 + body {
                return text.to_owned();
            }
        }
    }
}

fn ours(action: &str, server: &Server, blob: Option<&str>) -> String {
    let nonce = random_uuid(&SystemEntropy).to_string();
    let timestamp = SystemClock::new().now().to_string();
    let parameters = match (action, blob) {
        ("Decrypt", Some(blob)) => [("CiphertextBlob", blob)],
        _ => [("KeyId", server.key_id.as_str())],
    };
    let (parameters, timestamp) = (&parameters, timestamp.as_str());
    let ask = Ask { version: VERSION, action, parameters, timestamp, nonce: &nonce };
    let signed = sign(Scheme::Acs3, &server.access_key, &ask);
    let headers: String =
        signed.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("POST /?{} HTTP/1.1\r\n{headers}content-length: 0\r\n\r\n", signed.query)
}

fn theirs(action: &str, server: &Server, blob: Option<&str>) -> String {
    let body = match (action, blob) {
        ("Decrypt", Some(blob)) => format!("{{\"CiphertextBlob\":\"{blob}\"}}"),
        _ => format!("{{\"KeyId\":\"{}\",\"NumberOfBytes\":32}}", server.key_id),
    };
    format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nX-Amz-Target: TrentService.{action}\r\nContent-Type: \
         application/x-amz-json-1.1\r\nAuthorization: AWS4-HMAC-SHA256 Credential=a/20260101/\
         us-east-1/kms/aws4_request, SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\
         \r\n{body}",
        server.address,
        body.len()
    )
}
