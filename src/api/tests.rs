//! The listeners over real sockets, with a control plane that only echoes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use uuid::Uuid;

use super::dispatch;
use super::error::ApiError;
use super::http::{Access, Asked, Control, Origin, Peer};
use super::listen::{Accept, Bounds, serve};
use super::rpc::{Call, Parameters, Wire};
use crate::limits;

struct Echo;

impl Control for Echo {
    fn request_id(&self) -> Uuid {
        Uuid::from_u128(7)
    }

    fn answer(&self, asked: &Asked, origin: Origin) -> Result<Bytes, ApiError> {
        let call = &asked.call;
        assert_ne!(call.action, "Panic", "this request is meant to fail");
        let note = call.parameters.text("Note").unwrap_or_default();
        let said = json!({"Action": call.action, "Source": origin.peer.source, "Note": note});
        Ok(said.to_string().into())
    }

    fn health(&self) -> Value {
        json!({"status": "ok"})
    }

    fn metrics(&self) -> String {
        "disks 3\n".to_owned()
    }
}

/// A unix listener whose visitors are strangers: we cannot be another user here.
struct Strangers(UnixListener);

impl Accept for Strangers {
    type Raw = UnixStream;
    type Stream = UnixStream;

    async fn next(&self) -> std::io::Result<(UnixStream, Peer)> {
        let (stream, peer) = self.0.next().await?;
        Ok((stream, Peer { access: Access::StatusOnly("who are you"), ..peer }))
    }

    fn open(
        &self,
        raw: UnixStream,
    ) -> impl Future<Output = std::io::Result<UnixStream>> + Send + 'static {
        self.0.open(raw)
    }
}

struct Server {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

const PATIENT: Bounds = Bounds { grace: Duration::from_secs(5), ..Bounds::PRODUCT };

impl Server {
    fn start(bounds: Bounds) -> Self {
        Self::start_with(bounds, |listener| listener)
    }

    fn start_with<A: Accept + Send + Sync + 'static>(
        bounds: Bounds,
        wrap: impl FnOnce(UnixListener) -> A,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let listener = wrap(UnixListener::bind(&socket).unwrap());
        let (stop, stopping) = watch::channel(false);
        let task = tokio::spawn(serve(listener, Arc::new(Echo), stopping, bounds));
        Self { socket, stop, task, _dir: dir }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends one request that closes the connection; status and body of the answer.
    async fn ask(&self, request: &str) -> (u16, String) {
        converse(self.connect().await, request.as_bytes()).await
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap();
    }
}

async fn converse(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    request: &[u8],
) -> (u16, String) {
    // A server that refuses early may close before it has read all of it.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status, body.unwrap_or_default())
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
}

fn post(headers: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "POST / HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len}\r\n\
         {headers}\r\n{body}"
    )
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n";

#[tokio::test]
async fn query_form_and_headers_make_one_call() {
    let server = Server::start(PATIENT);
    let (status, body) = server.ask(&get("/?Action=ListKeys&Version=2016-01-20&Note=a%20b")).await;
    assert_eq!(status, 200, "{body}");
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((said["Action"].as_str(), said["Note"].as_str()), (Some("ListKeys"), Some("a b")));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(said["Source"], format!("unix:uid={uid}"));

    let headers = format!("{FORM}x-acs-action: Encrypt\r\nx-acs-version: 2016-01-20\r\n");
    let (_, body) = server.ask(&post(&headers, "Note=f%2Bg")).await;
    assert!(body.contains("\"Action\":\"Encrypt\"") && body.contains("f+g"), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn an_error_has_the_published_body() {
    let server = Server::start(PATIENT);
    let (status, body) = server.ask(&get("/?Action=ListKeys")).await;
    assert_eq!(status, 400);
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(said["Code"], "MissingParameter");
    assert_eq!(said["RequestId"], Uuid::from_u128(7).to_string());
    assert_eq!(said["HostId"], "here");
    assert!(said["Message"].as_str().unwrap().contains("\"Version\""));
    server.stop().await;
}

#[tokio::test]
async fn tcp_serves_state_to_all() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve(listener, Arc::new(Echo), stopping, PATIENT));
    let ask = async |request: String| {
        converse(TcpStream::connect(address).await.unwrap(), request.as_bytes()).await
    };
    assert_eq!(ask(get("/health")).await, (200, "{\"status\":\"ok\"}".to_owned()));
    assert_eq!(ask(get("/metrics")).await, (200, "disks 3\n".to_owned()));
    let (status, body) = ask(get("/?Action=ListKeys&Version=2016-01-20")).await;
    assert!(status == 200 && body.contains("\"Source\":\"127.0.0.1\""), "{body}");
    stop.send(true).unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn a_stranger_on_the_unix_socket_is_refused() {
    let server = Server::start_with(PATIENT, Strangers);
    let (status, body) = server.ask(&get("/?Action=ListKeys&Version=2016-01-20")).await;
    assert_eq!(status, 403);
    assert!(body.contains("who are you"), "{body}");
    assert_eq!(server.ask(&get("/health")).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_large_or_of_another_kind_is_refused() {
    let server = Server::start(PATIENT);
    let declared = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
        limits::API_BODY_BYTES_MAX + 1
    );
    assert_eq!(server.ask(&declared).await.0, 413);
    let chunk = "x".repeat(limits::API_BODY_BYTES_MAX);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{chunk}\r\n1\r\nx\r\n",
        chunk.len()
    );
    assert_eq!(server.ask(&chunked).await.0, 413);
    let head = get(&format!("/?{}", "x".repeat(limits::API_HEAD_BYTES_MAX)));
    assert!([414, 431].contains(&server.ask(&head).await.0));
    let headers = "A: b\r\n".repeat(limits::API_HEADERS_MAX + 1);
    assert_eq!(server.ask(&post(&headers, "")).await.0, 431);
    assert_eq!(server.ask(&post("", "{}")).await.0, 400);
    assert_eq!(server.ask(&get("/elsewhere")).await.0, 404);
    let (status, body) = server.ask(&get("/health").replace("GET", "DELETE")).await;
    assert_eq!(status, 404, "{body}");
    let (status, body) = server.ask(&get("/").replace("GET", "PUT")).await;
    assert!(status == 403 && body.contains("UnsupportedHTTPMethod"), "{body}");
    server.stop().await;
}

#[tokio::test]
async fn slow_clients_and_old_connections_are_sent_away() {
    let soon = Duration::from_millis(50);
    let server = Server::start(Bounds { head_timeout: soon, body_timeout: soon, ..PATIENT });
    // Returns only because the server closes.
    converse(server.connect().await, b"GET / HT").await;
    let waiting = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf";
    let (status, body) = converse(server.connect().await, waiting.as_bytes()).await;
    assert!(status == 408 && body.contains("RequestTimeout"), "{body}");
    server.stop().await;

    let server = Server::start(Bounds { age_max: soon, grace: soon, ..PATIENT });
    converse(server.connect().await, b"").await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_sent_away() {
    let soon = Duration::from_millis(50);
    let server = Server::start(Bounds { write_timeout: soon, ..PATIENT });
    let mut stream = server.connect().await;
    let ask = format!("/?Action=A&Version=2016-01-20&Note={}", "x".repeat(50_000));
    let ask = get(&ask).replace("Connection: close\r\n", "");
    // More answers than the socket holds: the server waits for us, then no longer.
    let mut refused = false;
    for _ in 0..100 {
        refused = refused || stream.write_all(ask.as_bytes()).await.is_err();
    }
    assert!(refused, "the server would have waited for ever");
    server.stop().await;
}

#[tokio::test]
async fn a_failing_handler_fails_its_own_request_alone() {
    let server = Server::start(PATIENT);
    let (status, body) = server.ask(&get("/?Action=Panic&Version=2016-01-20")).await;
    assert!(status == 500 && body.contains("InternalFailure"), "{body}");
    assert_eq!(server.ask(&get("/health")).await.0, 200);
    server.stop().await;
}

#[tokio::test]
async fn one_more_than_the_bound_waits_its_turn() {
    let server = Server::start(Bounds { connections: 1, ..PATIENT });
    let first = server.connect().await;
    let mut second = server.connect().await;
    second.write_all(get("/health").as_bytes()).await.unwrap();
    drop(first);
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn one_peer_cannot_have_every_place() {
    let server = Server::start(Bounds { connections_per_peer: 1, ..PATIENT });
    let mut first = server.connect().await;
    first.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut seen = [0; 12];
    first.read_exact(&mut seen).await.unwrap();
    // Closed at once, without an answer.
    assert_eq!(server.ask(&get("/health")).await.0, 0);
    drop(first);
    let mut status = 0;
    while status == 0 {
        status = server.ask(&get("/health")).await.0;
    }
    assert_eq!(status, 200);
    server.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_clients() {
    let server = Server::start(Bounds { head_timeout: Duration::from_secs(3600), ..PATIENT });
    let mut idle = server.connect().await;
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut seen = [0; 12];
    idle.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 200");
    server.stop().await;
}

fn call(query: &str) -> Call {
    Call::read(&Wire { query, ..Wire::default() }).unwrap()
}

#[test]
fn actions_are_told_apart_by_version() {
    let known = [
        ("2016-01-20", "GenerateDataKey"),
        ("2014-05-26", "DescribeDisks"),
        ("2020-07-06", "LookupEvents"),
        (super::OWN_VERSION, "ExportDiskKey"),
        (super::OWN_VERSION, "ModifyDiskPerformance"),
    ];
    for (version, action) in known {
        for (other, _) in known {
            let found = dispatch::find(&call(&format!("Action={action}&Version={other}")));
            assert_eq!(found.is_ok(), other == version, "{action} {other}");
        }
    }
    let error = dispatch::find(&call("Action=createdisk&Version=2014-05-26")).unwrap_err();
    assert_eq!((error.status, error.code.as_ref()), (404, "InvalidAction.NotFound"));
}

fn disk_request(query: &str) -> Result<(String, String), String> {
    let parameters: Parameters = call(&format!("Action=A&Version=2014-05-26&{query}")).parameters;
    let size = crate::units::ByteCount::new(1 << 30);
    let encrypted = parameters.boolean("Encrypted").unwrap().unwrap_or(false);
    let source = crate::disk::Source::Nothing;
    let request = super::ecs::new_disk(&parameters, (size, source), encrypted);
    request.map(|disk| (disk.name, disk.category)).map_err(|error| error.code.into_owned())
}

#[test]
fn a_disk_request_is_checked_before_anything_is_made() {
    assert_eq!(disk_request("DiskName=db"), Ok(("db".into(), "cloud_essd".into())));
    assert_eq!(disk_request("DiskName=p&DiskCategory=cloud"), Ok(("p".into(), "cloud".into())));
    for name in ["1st", "d-bp1aaaaaaaaaaaaaaaaaa", "a/b", "a%0Ab", &"x".repeat(129)] {
        let refused = disk_request(&format!("DiskName={name}"));
        assert_eq!(refused, Err("InvalidDiskName.Malformed".into()), "{name}");
    }
    let code = |query| disk_request(query).unwrap_err();
    assert_eq!(code("KMSKeyId=k"), "InvalidParameter.EncryptedIllegal");
    assert_eq!(code("DiskCategory=floppy"), "InvalidDiskCategory.NotSupported");
    assert_eq!(code("Description=http://x"), "InvalidDescription.Malformed");
}
