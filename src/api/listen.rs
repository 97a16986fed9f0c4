//! The listeners: accept within a bound, learn who is there, stop in order.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::server::TlsStream;

use super::Api;
use super::http::{self, Access, Control, Peer};
use super::peers::Peers;
use super::tls::Tls;
use crate::limits;
use crate::metrics;

/// Pause after a failed accept (no descriptors left), so that a full process does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const STRANGER: &str =
    "Only the user that runs the daemon, and root, may use the API on this socket.";

/// Serves the API on a unix socket until `stop` turns true (or its sender is gone), then finishes
/// what is under way. The daemon's own user and root may do everything, others see its state.
pub async fn serve_unix(listener: UnixListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    serve(listener, api, stop, Bounds::PRODUCT).await;
}

/// Serves the API to whoever signs, and `/health` and `/metrics` to all, over plain HTTP, until
/// `stop` turns true (or its sender is gone).
pub async fn serve_http(listener: TcpListener, api: Arc<Api>, stop: watch::Receiver<bool>) {
    serve(listener, api, stop, Bounds::PRODUCT).await;
}

/// As [`serve_http`], over TLS.
pub async fn serve_https(
    listener: TcpListener,
    tls: Arc<Tls>,
    api: Arc<Api>,
    stop: watch::Receiver<bool>,
) {
    serve(TlsListener { listener, tls }, api, stop, Bounds::PRODUCT).await;
}

/// How long and how many; tests make them small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) connections: usize,
    pub(super) connections_per_peer: usize,
    pub(super) head_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) age_max: Duration,
    pub(super) grace: Duration,
}

impl Bounds {
    pub(super) const PRODUCT: Self = Self {
        connections: limits::API_CONNECTIONS_MAX,
        connections_per_peer: limits::API_CONNECTIONS_PER_PEER_MAX,
        head_timeout: limits::API_HEAD_TIMEOUT,
        body_timeout: limits::API_BODY_TIMEOUT,
        write_timeout: limits::API_WRITE_TIMEOUT,
        age_max: limits::API_CONNECTION_AGE_MAX,
        grace: limits::SHUTDOWN_GRACE,
    };
}

/// A listener of any kind.
pub(super) trait Accept {
    /// A connection as it came.
    type Raw: Send + 'static;
    /// What HTTP is spoken over.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<(Self::Raw, Peer)>> + Send;

    /// What must be done before HTTP: runs beside other connections, for as long as a head may
    /// take.
    fn open(
        &self,
        raw: Self::Raw,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send + 'static;
}

impl Accept for UnixListener {
    type Raw = UnixStream;
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let is_owner = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let access = if is_owner { Access::Owner } else { Access::StatusOnly(STRANGER) };
        let source = format!("unix:uid={uid}");
        Ok((stream, Peer { source, access, address: None, is_secure: true }))
    }

    fn open(&self, raw: UnixStream) -> impl Future<Output = io::Result<UnixStream>> + 'static {
        std::future::ready(Ok(raw))
    }
}

impl Accept for TcpListener {
    type Raw = TcpStream;
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        // An answer is one or two writes; waiting for more would only delay it.
        stream.set_nodelay(true)?;
        let address = address.ip().to_canonical();
        let peer = Peer {
            source: address.to_string(),
            access: Access::Signed,
            address: Some(address),
            is_secure: false,
        };
        Ok((stream, peer))
    }

    fn open(&self, raw: TcpStream) -> impl Future<Output = io::Result<TcpStream>> + 'static {
        std::future::ready(Ok(raw))
    }
}

/// TCP with TLS on it.
struct TlsListener {
    listener: TcpListener,
    tls: Arc<Tls>,
}

impl Accept for TlsListener {
    type Raw = TcpStream;
    type Stream = TlsStream<TcpStream>;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, peer) = self.listener.next().await?;
        Ok((stream, Peer { is_secure: true, ..peer }))
    }

    fn open(
        &self,
        raw: TcpStream,
    ) -> impl Future<Output = io::Result<TlsStream<TcpStream>>> + 'static {
        self.tls.acceptor().accept(raw)
    }
}

pub(super) async fn serve<A: Accept>(
    listener: A,
    control: Arc<dyn Control>,
    mut stop: watch::Receiver<bool>,
    bounds: Bounds,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    let peers = Peers::new(bounds.connections_per_peer);
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = accept(&listener, &places) => accepted,
            // Finished conversations are taken away as they end.
            Some(_) = conversations.join_next() => continue,
        };
        match accepted {
            Ok((raw, peer, place)) => {
                let Some(counted) = peers.enter(&peer) else {
                    metrics::api_connections_refused().increment(1);
                    tracing::debug!(peer = peer.source, "too many connections from one peer");
                    continue;
                };
                let visit = Visit { control: control.clone(), peer: peer.into(), bounds };
                let (opening, stop) = (listener.open(raw), stop.clone());
                conversations.spawn(async move {
                    match tokio::time::timeout(bounds.head_timeout, opening).await {
                        Ok(Ok(stream)) => visit.converse(stream, stop).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                    drop((place, counted));
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
) -> io::Result<(A::Raw, Peer, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (raw, peer) = listener.next().await?;
    Ok((raw, peer, place))
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
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(bounds.write_timeout));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout)
            .max_headers(limits::API_HEADERS_MAX)
            .max_buf_size(limits::API_HEAD_BYTES_MAX)
            // Bodies go to the socket from where they are, so that a secret one is not copied.
            .writev(true)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
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
