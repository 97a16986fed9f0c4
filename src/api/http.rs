//! One HTTP request: who may ask what, how much of it is read, and the answer as bytes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use super::error::ApiError;
use super::format::Format;
use super::gate::{self, Admitted};
use super::rpc::{Call, Wire};
use super::sign::Message;
use super::{Api, dispatch, kms_use, refusal, status};
use crate::clock::random_uuid;
use crate::limits;
use crate::metrics;
use crate::ram::{Caller, Principal, Route};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");
/// Header that names the request in every answer, as the cloud's gateway does.
const REQUEST_ID: &str = "x-acs-request-id";
const FORM: &[u8] = b"application/x-www-form-urlencoded";

/// Longest `User-Agent` that is kept for the trail, in characters.
const USER_AGENT_CHARS_MAX: usize = 256;

/// What a request is answered from. The API itself; tests put something small here.
pub(super) trait Control: Send + Sync + 'static {
    /// A fresh id for one request.
    fn request_id(&self) -> Uuid;
    /// Checks who asks and does what is asked. Blocking.
    fn answer(&self, asked: &Asked, origin: Origin) -> Result<Bytes, ApiError>;
    /// The body of `/health`. May block shortly.
    fn health(&self) -> Value;
    /// The body of `/metrics`. May block shortly.
    fn metrics(&self) -> String;
}

/// One request to do something, whole, and the bytes it was read from.
pub(super) struct Asked {
    pub(super) call: Call,
    pub(super) format: Format,
    head: Parts,
    form: Bytes,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) request_id: Uuid,
    pub(super) peer: Arc<Peer>,
    pub(super) user_agent: String,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// `unix:uid=0`, or an IP address: for the trail.
    pub(super) source: String,
    /// What they may ask for.
    pub(super) access: Access,
    /// Their address; `None` on a unix socket.
    pub(super) address: Option<IpAddr>,
    /// Nobody on the way can listen.
    pub(super) is_secure: bool,
}

/// What a peer may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything, as the account's owner; as somebody else if they sign as such.
    Owner,
    /// What whoever signed a request may.
    Signed,
    /// `/health` and `/metrics`; for the rest, this is why not.
    StatusOnly(&'static str),
}

impl Asked {
    /// Runs `work` on what was signed.
    fn with_message<T>(&self, work: impl FnOnce(&Message<'_>) -> T) -> T {
        let fields = self.head.headers.iter();
        let headers: Vec<_> =
            fields.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        work(&Message {
            method: self.head.method.as_str(),
            query: self.head.uri.query().unwrap_or_default(),
            headers: &headers,
            body: &self.form,
        })
    }
}

impl Api {
    fn caller(&self, asked: &Asked, origin: Origin) -> Result<Caller, ApiError> {
        let product = asked.call.product;
        let admitted = asked.with_message(|message| self.gate.admit(message, product))?;
        let (principal, access_key_id) = match (admitted, origin.peer.access) {
            (Some(Admitted { principal, access_key_id }), _) => (principal, Some(access_key_id)),
            (None, Access::Owner) => (Principal::Root { account: self.account_id.clone() }, None),
            (None, _) => return Err(gate::unsigned()),
        };
        let (address, is_secure) = (origin.peer.address, origin.peer.is_secure);
        Ok(Caller {
            route: Route { access_key_id, address, is_secure },
            principal,
            request_id: origin.request_id,
            source: origin.peer.source.clone(),
            user_agent: origin.user_agent,
            on_behalf_of: None,
        })
    }
}

impl Control for Api {
    fn request_id(&self) -> Uuid {
        random_uuid(self.entropy.as_ref())
    }

    fn answer(&self, asked: &Asked, origin: Origin) -> Result<Bytes, ApiError> {
        let Asked { call, format, .. } = asked;
        let request_id = origin.request_id;
        let caller = self.caller(asked, origin)?;
        // Only who may call at all is told which actions there are.
        let handler = dispatch::find(call)?;
        let answered = handler(self, &caller, &call.parameters)
            .map_err(|error| kms_use::in_dry_run(call, error))
            .map_err(|error| refusal::record(self, call, &caller, error));
        // The name had a handler, so it is one of ours.
        let status = answered.as_ref().map_or_else(|error| error.status, |_| 200);
        metrics::api_request(&call.action, status);
        Ok(answered?.into_body(request_id, &call.action, *format))
    }

    fn health(&self) -> Value {
        status::health(self)
    }

    fn metrics(&self) -> String {
        (self.render_metrics)()
    }
}

/// Answers one request; whatever goes wrong becomes an answer too.
pub(super) async fn handle(
    request: Request<Incoming>,
    control: Arc<dyn Control>,
    peer: Arc<Peer>,
    body_timeout: Duration,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let request_id = control.request_id();
    let host_id = header(request.headers(), HOST.as_str()).unwrap_or_default().to_owned();
    let user_agent = user_agent(request.headers());
    let origin = Origin { request_id, peer, user_agent };
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let json = Format::Json;
    let (answered, format, content_type) = match request.uri().path() {
        "/health" if is_read => {
            let health = blocking(move || Ok(control.health().to_string().into())).await;
            (health, json, json.content_type())
        }
        "/metrics" if is_read => (blocking(move || Ok(control.metrics().into())).await, json, TEXT),
        "/" => {
            let (answered, format) = call(request, control, origin, body_timeout).await;
            (answered, format, format.content_type())
        }
        _ => {
            let refused = ApiError::new(404, "InvalidAction.NotFound", "There is nothing here.")
                .recommending("the API is at /, its state at /health and /metrics");
            (Err(refused), json, json.content_type())
        }
    };
    let mut response = match answered {
        Ok(body) => respond(StatusCode::OK, content_type, body),
        Err(error) => {
            let status = StatusCode::from_u16(error.status);
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = format.error_body(&error.body(request_id, &host_id));
            respond(status, format.content_type(), body)
        }
    };
    if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    Ok(response)
}

/// Reads a call and has it done; the answer, and the form it is wanted in.
async fn call(
    request: Request<Incoming>,
    control: Arc<dyn Control>,
    origin: Origin,
    body_timeout: Duration,
) -> (Result<Bytes, ApiError>, Format) {
    let asked = match read(request, origin.peer.access, body_timeout).await {
        Ok(asked) => asked,
        Err(error) => return (Err(error), Format::Json),
    };
    let format = asked.format;
    let answered = blocking(move || {
        let request_id = origin.request_id;
        let action = asked.call.action.as_str();
        // Whatever is logged on the way carries the id that the answer and the trail have.
        let _span = tracing::info_span!("call", %request_id, action).entered();
        let answered = control.answer(&asked, origin);
        match &answered {
            Ok(_) => tracing::debug!("answered"),
            Err(ApiError { status, code, .. }) if *status >= 500 => {
                tracing::warn!(status, %code, "failed");
            }
            Err(ApiError { status, code, .. }) => tracing::debug!(status, %code, "refused"),
        }
        answered
    });
    (answered.await, format)
}

/// Reads a request whole and makes sense of it; nothing is known yet of who sent it.
async fn read(
    request: Request<Incoming>,
    access: Access,
    body_timeout: Duration,
) -> Result<Asked, ApiError> {
    if let Access::StatusOnly(reason) = access {
        return Err(ApiError::new(403, "Forbidden.NoPermission", reason));
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        let message = "This HTTP method is not supported; use GET or POST.";
        return Err(ApiError::new(403, "UnsupportedHTTPMethod", message));
    }
    let (head, body) = request.into_parts();
    let form = read_body(body, body_timeout).await?;
    let is_form = head.headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.len() >= FORM.len() && value[..FORM.len()].eq_ignore_ascii_case(FORM)
    });
    if !form.is_empty() && !is_form {
        let message = "A body must be application/x-www-form-urlencoded.";
        return Err(ApiError::new(400, "ParseRequestParameterException", message));
    }
    let wire = Wire {
        action: header(&head.headers, "x-acs-action"),
        version: header(&head.headers, "x-acs-version"),
        query: head.uri.query().unwrap_or_default(),
        form: &form,
    };
    let call = Call::read(&wire)?;
    let format = Format::asked(call.parameters.filled("Format"))?;
    Ok(Asked { call, format, head, form })
}

/// Reads a body whole, within its bounds of length and time.
async fn read_body(body: Incoming, timeout: Duration) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("A request has at most {} bytes.", limits::API_BODY_BYTES_MAX);
        ApiError::new(413, "RequestEntityTooLarge", message)
    };
    if body.size_hint().lower() > limits::API_BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let limited = Limited::new(body, limits::API_BODY_BYTES_MAX);
    match tokio::time::timeout(timeout, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => {
            let message = "The request body could not be read.";
            Err(ApiError::new(400, "ParseRequestParameterException", message))
        }
        Err(_) => {
            let message = "The request body did not come in time.";
            Err(ApiError::new(408, "RequestTimeout", message))
        }
    }
}

/// Runs blocking work beside the sockets. A panic in it is this request's failure, nobody else's.
async fn blocking(
    work: impl FnOnce() -> Result<Bytes, ApiError> + Send + 'static,
) -> Result<Bytes, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request handler ended abnormally");
        Err(ApiError::new(500, "InternalFailure", "The request failed inside the daemon.")
            .recommending("see the daemon's log"))
    })
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn user_agent(headers: &HeaderMap) -> String {
    let text = header(headers, USER_AGENT.as_str()).unwrap_or_default();
    text.chars().take(USER_AGENT_CHARS_MAX).collect()
}
