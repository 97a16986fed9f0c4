//! The two listeners: accept within a bound, learn who is there, stop in order.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::Api;
use super::http::{self, Access, Control, Peer};
use crate::limits;

/// Pause after a failed accept (no descriptors left), so that a full process does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const STRANGER: &str =
    "Only the user that runs the daemon, and root, may use the API on this socket.";

const UNSIGNED: &str = "This address serves GET /health and GET /metrics only: requests cannot be \
     signed yet. Use the unix socket of the API.";

/// Serves the API on a unix socket until `stop` turns true (or its sender is gone), then finishes
/// what is under way. The daemon's own user and root may do everything, others see its state.
pub async fn serve_unix(listener: UnixListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    serve(listener, api, stop, Bounds::PRODUCT).await;
}

/// Serves `/health` and `/metrics` on TCP until `stop` turns true (or its sender is gone).
pub async fn serve_tcp(listener: TcpListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    serve(listener, api, stop, Bounds::PRODUCT).await;
}

/// How long and how many; tests make them small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) head_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) age_max: Duration,
    pub(super) grace: Duration,
}

impl Bounds {
    pub(super) const PRODUCT: Self = Self {
        connections: limits::API_CONNECTIONS_MAX,
        head_timeout: limits::API_HEAD_TIMEOUT,
        body_timeout: limits::API_BODY_TIMEOUT,
        age_max: limits::API_CONNECTION_AGE_MAX,
        grace: limits::SHUTDOWN_GRACE,
    };
}

/// A listener of either kind.
pub(super) trait Accept {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let is_owner = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let access = if is_owner { Access::Owner } else { Access::StatusOnly(STRANGER) };
        Ok((stream, Peer { source: format!("unix:uid={uid}"), access }))
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<(Self::Stream, Peer)> {
        let (stream, address) = self.accept().await?;
        let source = address.ip().to_string();
        Ok((stream, Peer { source, access: Access::StatusOnly(UNSIGNED) }))
    }
}

pub(super) async fn serve<A: Accept>(
    listener: A,
    control: Arc<dyn Control>,
    mut stop: watch::Receiver<bool>,
    bounds: Bounds,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept(&listener, &places) => accepted,
            // Finished conversations are taken away as they end.
            Some(_) = conversations.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let visit = Visit { control: control.clone(), peer: peer.into(), bounds };
                let stop = stop.clone();
                conversations.spawn(async move {
                    visit.converse(stream, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

/// The next client once there is a place for it.
async fn accept<A: Accept>(
    listener: &A,
    places: &Arc<Semaphore>,
) -> io::Result<(A::Stream, Peer, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.next().await?;
    Ok((stream, peer, place))
}

/// Resolves once `stop` is true, or nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

struct Visit {
    control: Arc<dyn Control>,
    peer: Arc<Peer>,
    bounds: Bounds,
}

impl Visit {
    async fn converse<S>(self, stream: S, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { control, peer, bounds } = self;
        let service = service_fn(|request| {
            http::handle(request, control.clone(), peer.clone(), bounds.body_timeout)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout)
            .max_headers(limits::API_HEADERS_MAX)
            .max_buf_size(limits::API_HEAD_BYTES_MAX)
            // Bodies go to the socket from where they are, so that a secret one is not copied.
            .writev(true)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            // How a client leaves is its own affair.
            _ = connection.as_mut() => return,
            () = stopped(&mut stop) => {}
            () = tokio::time::sleep(bounds.age_max) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(bounds.grace, connection).await;
    }
}
