//! The sockets of the API: bound before anything is announced, served until the end.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{DaemonError, bind_tcp, bind_unix};
use crate::api::{self, Api, Endpoints, Tls};
use crate::config::Config;

/// Every listener of the API, bound.
pub(super) struct Faces {
    unix: UnixListener,
    http: Option<TcpListener>,
    https: Option<(TcpListener, Arc<Tls>)>,
}

impl Faces {
    /// Binds what `config` names and notes the ports as bound.
    pub(super) fn bind(config: &Config, endpoints: &mut Endpoints) -> Result<Self, DaemonError> {
        // First what is easily wrong, so that no socket is left behind for it.
        let https = match &config.api.https {
            None => None,
            Some(https) => {
                let tls = Arc::new(Tls::load(&https.certificate, &https.key)?);
                Some((listen(https.address, &mut endpoints.https)?, tls))
            }
        };
        let http = match config.api.http {
            None => None,
            Some(address) => Some(listen(address, &mut endpoints.http)?),
        };
        let unix = bind_unix(&config.api.unix)?;
        unix.set_nonblocking(true).map_err(DaemonError::Start)?;
        let unix = UnixListener::from_std(unix).map_err(DaemonError::Start)?;
        Ok(Self { unix, http, https })
    }

    /// The certificate, to be read again.
    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.https.as_ref().map(|(_, tls)| Arc::clone(tls))
    }

    /// Serves on all of them until `stop` turns true.
    pub(super) fn serve(self, api: &Arc<Api>, stop: &watch::Receiver<bool>) -> JoinSet<()> {
        let mut serving = JoinSet::new();
        serving.spawn(api::serve_unix(self.unix, Arc::clone(api), stop.clone()));
        if let Some(listener) = self.http {
            serving.spawn(api::serve_http(listener, Arc::clone(api), stop.clone()));
        }
        if let Some((listener, tls)) = self.https {
            serving.spawn(api::serve_https(listener, tls, Arc::clone(api), stop.clone()));
        }
        serving
    }
}

/// Reads the certificate again, if there is one; what failed leaves the old one in use.
pub(super) fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => tracing::info!("SIGHUP: there is no certificate to read again"),
        Some(Ok(())) => tracing::info!("SIGHUP: the certificate was read again"),
        Some(Err(error)) => tracing::error!(%error, "SIGHUP: the old certificate stays in use"),
    }
}

fn listen(address: SocketAddr, bound: &mut Option<SocketAddr>) -> Result<TcpListener, DaemonError> {
    let listener = bind_tcp(address)?;
    *bound = listener.local_addr().ok();
    listener.set_nonblocking(true).map_err(DaemonError::Start)?;
    TcpListener::from_std(listener).map_err(DaemonError::Start)
}
