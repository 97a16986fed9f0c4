//! One call to the daemon at a time: a form over HTTP, an answer in JSON.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use super::endpoint::{self, Endpoint};
use super::failure::Failure;
pub(super) use crate::kms::remote::exchange::encode;
use crate::kms::remote::exchange::{Answer, exchange};

/// Time a call may take, fsyncs of the daemon included.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Entries asked for at a time when a whole list is wanted: the most the API gives.
const PAGE_SIZE: usize = 100;

/// Product versions the commands speak.
pub(super) const ECS: &str = "2014-05-26";
pub(super) const KMS: &str = "2016-01-20";
pub(super) const ACTIONTRAIL: &str = "2020-07-06";
pub(super) const OWN: &str = crate::api::OWN_VERSION;

/// Parameters of a call.
pub(super) type Parameters<'a> = &'a [(&'a str, &'a str)];

/// The daemon, seen from here.
pub(super) struct Client {
    endpoint: Endpoint,
    runtime: Runtime,
}

impl Client {
    /// The daemon at `told`, or at one of the usual places.
    pub(super) fn find(told: Option<Endpoint>) -> Result<Self, Failure> {
        let endpoint = endpoint::first_alive(endpoint::candidates(told))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
        Ok(Self { endpoint, runtime })
    }

    /// Does `action` and returns its answer, always an object.
    pub(super) fn call(
        &self,
        version: &str,
        action: &str,
        parameters: Parameters<'_>,
    ) -> Result<Value, Failure> {
        let body = self.call_secret(version, action, parameters)?;
        let answer = serde_json::from_slice(&body).ok().filter(Value::is_object);
        answer.ok_or_else(|| self.not_sealdisk())
    }

    /// As [`Client::call`] for an answer that holds a secret: its bytes, to be read in place.
    /// Best effort: what the HTTP library buffered is freed, not wiped.
    pub(super) fn call_secret(
        &self,
        version: &str,
        action: &str,
        parameters: Parameters<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let fixed = [("Action", action), ("Version", version)];
        let pairs: Vec<String> = fixed
            .iter()
            .chain(parameters)
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        let exchange = async {
            let exchange = self.exchange(pairs.join("&"));
            match tokio::time::timeout(CALL_TIMEOUT, exchange).await {
                Ok(answered) => answered.map_err(|error| self.unreachable(&*error)),
                Err(_) => Err(Failure::new(format!("{} does not answer", self.endpoint))),
            }
        };
        let answer = self.runtime.block_on(exchange)?;
        if answer.status == 200 { Ok(answer.body) } else { Err(self.refusal(&answer)) }
    }

    /// All entries of a list that comes in pages: `outer.inner[]`.
    pub(super) fn list_all(
        &self,
        (version, action): (&str, &str),
        parameters: Parameters<'_>,
        (outer, inner): (&str, &str),
    ) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        for number in 1_usize.. {
            let (page_number, size) = (number.to_string(), PAGE_SIZE.to_string());
            let paging = [("PageNumber", page_number.as_str()), ("PageSize", size.as_str())];
            let mut answer = self.call(version, action, &[parameters, &paging].concat())?;
            let total = answer["TotalCount"].as_u64().unwrap_or_default();
            let page = answer.get_mut(outer).and_then(|wrapped| wrapped.get_mut(inner));
            let Some(Value::Array(page)) = page.map(Value::take) else {
                return Err(self.not_sealdisk());
            };
            // A page may be short though more follow: what is being deleted is left out of it.
            let left_out = PAGE_SIZE.saturating_sub(page.len());
            let is_last = (number * PAGE_SIZE) as u64 >= total.saturating_add(left_out as u64);
            if page.is_empty() || is_last {
                all.extend(page);
                break;
            }
            all.extend(page);
        }
        Ok(all)
    }

    async fn exchange(
        &self,
        form: String,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                exchange(stream, request("localhost", form)?, ANSWER_BYTES_MAX).await
            }
            Endpoint::Http(host) => {
                let stream = TcpStream::connect(host.as_str()).await?;
                exchange(stream, request(host, form)?, ANSWER_BYTES_MAX).await
            }
        }
    }

    fn refusal(&self, answer: &Answer) -> Failure {
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (said["Code"].as_str(), said["Message"].as_str()) {
            (Some(code), Some(message)) => {
                Failure::refused(code, message, said["Recommend"].as_str())
            }
            _ => self.not_sealdisk(),
        }
    }

    fn not_sealdisk(&self) -> Failure {
        Failure::new(format!("what answers at {} is no sealdisk daemon", self.endpoint))
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Failure {
        Failure::new(format!("{}: {error}", self.endpoint))
            .hint("the daemon may have stopped meanwhile; its log tells why")
    }
}

/// Ctrl-C and a request to end, heard instead of obeyed: what was begun is tidied up first.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on.
    pub(super) fn listen(client: &Client) -> Result<Self, Failure> {
        let _inside = client.runtime.enter();
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(format!("signals cannot be heard: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for one, `patience` at most.
    pub(super) fn came_within(&mut self, client: &Client, patience: Duration) -> bool {
        client.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => true,
                _ = self.terminate.recv() => true,
                () = tokio::time::sleep(patience) => false,
            }
        })
    }
}

fn request(host: &str, form: String) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    Request::post("/")
        .header(HOST, host)
        .header(USER_AGENT, concat!("sealdisk/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(form.into()))
}

/// The text of a field; empty if it is absent or no text.
pub(super) fn text<'a>(item: &'a Value, field: &str) -> &'a str {
    item[field].as_str().unwrap_or_default()
}

/// A list in the API's own wrapping, all pages in one.
pub(super) fn wrapped(outer: &str, inner: &str, items: &[Value]) -> Value {
    let total = items.len();
    json!({outer: {inner: items}, "TotalCount": total})
}
