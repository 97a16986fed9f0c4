//! One exchange with a KMS on another host, and when it is tried again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::RemoteError;
use super::exchange::{Answer, exchange};
use super::sign::{AccessKey, sign};
use crate::clock::{Clock, Entropy, random_uuid};
use crate::config::{self, KmsEndpoint};
use crate::kms::KmsError;
use crate::ram::Caller;

/// Tries of one call.
const TRIES: u32 = 4;

/// Pause before the second try; doubled before each further one, and up to half as much again by
/// chance, so that many hosts do not come back together.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest answer that is read, in bytes: a blob of the longest data key and its envelope.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// For whom we call when nobody asked: after a restart disks are opened again.
const SELF: &str = "sealdisk";

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The way to a KMS.
pub(super) struct Transport {
    endpoint: KmsEndpoint,
    access_key: AccessKey,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    runtime: Runtime,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: String,
    message: String,
    #[serde(default)]
    request_id: String,
}

impl Transport {
    pub(super) fn new(
        wanted: &config::RemoteKms,
        access_key: AccessKey,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, RemoteError> {
        let endpoint = wanted.endpoint.clone();
        let tls = if endpoint.is_tls {
            let name = ServerName::try_from(endpoint.host.clone());
            let name = name.map_err(|error| RemoteError::Tls(error.into()))?;
            Some((TlsConnector::from(Arc::new(client(wanted.ca_file.as_deref())?)), name))
        } else {
            None
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("remote-kms")
            .enable_all()
            .build()
            .map_err(|error| RemoteError::Tls(error.into()))?;
        Ok(Self { endpoint, access_key, tls, timeout: wanted.timeout, clock, entropy, runtime })
    }

    pub(super) fn endpoint(&self) -> String {
        self.endpoint.to_string()
    }

    /// Asks for `action`, up to [`TRIES`] times, for `caller`. Blocks; not from an async thread.
    pub(super) fn call(
        &self,
        caller: &Caller,
        action: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let mut pause = PAUSE;
        for tried in 1.. {
            let error = match self.try_once(caller, action, parameters) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if tried == TRIES || !may_pass(&error) {
                return Err(error.translated());
            }
            tracing::warn!(%error, tried, "remote KMS: tried again");
            let mut chance = [0];
            self.entropy.fill(&mut chance);
            std::thread::sleep(pause + pause * u32::from(chance[0]) / 512);
            pause *= 2;
        }
        Err(RemoteError::NotAKms { endpoint: self.endpoint() }.into())
    }

    fn try_once(
        &self,
        caller: &Caller,
        action: &'static str,
        parameters: &[(&str, &str)],
    ) -> Result<Zeroizing<Vec<u8>>, RemoteError> {
        // Signed anew for each try: a nonce is good for one.
        let moment = (self.clock.now(), random_uuid(self.entropy.as_ref()));
        let host = self.endpoint.authority();
        let sender = (host.as_str(), agent_of(caller));
        let signed = sign(&self.access_key, sender, (action, parameters), moment);
        let mut request = Request::post("/");
        for (name, value) in &signed.headers {
            request = request.header(*name, value);
        }
        let unreachable = |source| RemoteError::Unreachable { endpoint: self.endpoint(), source };
        let request = request
            .body(Full::new(Bytes::from(signed.body)))
            .map_err(|error| unreachable(error.into()))?;
        // Within the runtime, whose clock the time limit runs by.
        let exchange = async { tokio::time::timeout(self.timeout, self.exchange(request)).await };
        let answer = match self.runtime.block_on(exchange) {
            Ok(answered) => answered.map_err(unreachable)?,
            Err(_) => {
                let endpoint = self.endpoint();
                return Err(RemoteError::Timeout { endpoint, after: self.timeout });
            }
        };
        if answer.status == 200 {
            return Ok(answer.body);
        }
        let refusal: Result<Refusal, _> = serde_json::from_slice(&answer.body);
        Err(match refusal {
            Ok(Refusal { code, message, request_id }) => RemoteError::Refused {
                endpoint: self.endpoint(),
                status: answer.status,
                code,
                message,
                request_id,
            },
            // A proxy in between, or something else altogether.
            Err(_) if answer.status >= 500 => {
                unreachable(std::io::Error::other(format!("HTTP status {}", answer.status)).into())
            }
            Err(_) => RemoteError::NotAKms { endpoint: self.endpoint() },
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, AnyError> {
        let address = (self.endpoint.host.as_str(), self.endpoint.port);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await?;
                exchange(stream, request, ANSWER_BYTES_MAX).await
            }
            None => exchange(stream, request, ANSWER_BYTES_MAX).await,
        }
    }
}

/// What the other host's trail shows beside our access key, which is the same for all: whose call
/// of ours it was, and the id that our own trail has it under.
fn agent_of(caller: &Caller) -> String {
    let who = caller.on_behalf_of.as_deref().unwrap_or(SELF);
    let version = env!("CARGO_PKG_VERSION");
    format!("sealdisk/{version} (for {who}; request {})", caller.request_id)
}

/// Whether another try may do better.
fn may_pass(error: &RemoteError) -> bool {
    match error {
        RemoteError::Unreachable { .. } | RemoteError::Timeout { .. } => true,
        RemoteError::Refused { status, .. } => *status == 429 || *status >= 500,
        RemoteError::File { .. }
        | RemoteError::Exposed { .. }
        | RemoteError::Tls(_)
        | RemoteError::NotAKms { .. }
        | RemoteError::NoDefaultKey { .. } => false,
    }
}

/// TLS that trusts the certificates in `ca_file`, or those this host trusts.
fn client(ca_file: Option<&Path>) -> Result<ClientConfig, RemoteError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wanted = "certificates in PEM form";
            let malformed = || RemoteError::File { path: path.to_owned(), wanted, source: None };
            let text = std::fs::read(path).map_err(|source| RemoteError::File {
                path: path.to_owned(),
                wanted,
                source: Some(source),
            })?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                let certificate = certificate.map_err(|_| malformed())?;
                roots.add(certificate).map_err(|_| malformed())?;
            }
            if roots.is_empty() {
                return Err(malformed());
            }
        }
        None => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                // One that cannot be read vouches for nobody; others may.
                let _ = roots.add(certificate);
            }
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| RemoteError::Tls(error.into()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}
