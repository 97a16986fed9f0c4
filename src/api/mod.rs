//! The control plane's face: the cloud's RPC actions over HTTP/1.1.
//!
//! ```text
//! listen.rs  accept, count (peers.rs), stop        unix, HTTP, HTTPS (tls.rs)
//! http.rs    bytes -> request, answer -> bytes     limits, timeouts
//! rpc.rs     query + form + headers -> Call        pure, fuzzed
//! gate.rs    signature -> principal                sign/ is pure, fuzzed; rate.rs counts,
//!                                                  ledger.rs remembers over restarts
//! dispatch.rs (version, action) -> handler         one table
//! kms*.rs ecs*.rs actiontrail.rs own*.rs hsm.rs …  one small function an action
//! error.rs   domain error -> published code        the only such table
//! format.rs  JSON or XML
//! ```
//!
//! Handlers are blocking code and run on the blocking pool, so that a slow fsync holds up nobody's
//! socket. The unix listener serves the daemon's own user and root, told by peer credentials, as
//! the account's owner. Over TCP every request is signed; `/health` and `/metrics` are for all.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, Entropy};
use crate::disk::Disks;
use crate::kms::Kms;
use crate::kms::root::Root;
use crate::ram::Ram;
use crate::trail::Trail;

mod actiontrail;
mod answer;
mod dispatch;
mod ecs;
mod ecs_image;
mod ecs_snapshot;
mod ecs_tags;
mod ecs_words;
pub mod error;
mod format;
mod gate;
mod hsm;
mod http;
mod keeping;
mod kms;
mod kms_account;
mod kms_import;
mod kms_tags;
mod kms_use;
mod ledger;
mod listen;
mod own;
mod own_layers;
mod pages;
mod peers;
pub mod percent;
mod ram;
mod ram_policies;
mod rate;
mod refusal;
pub mod rpc;
pub mod sign;
mod status;
mod tls;

#[cfg(test)]
mod tests;

pub use ecs_words::check_image_name;
pub use gate::{Admitted, Gate};
pub use listen::{serve_http, serve_https, serve_unix};
pub use own::finding_shown;
pub use tls::{Tls, TlsError};

/// Version of the product that holds what the cloud does not have (`CreateLocalDisk`,
/// `ExportDiskKey`, …).
pub const OWN_VERSION: &str = "2026-11-01";

/// Our name in policies.
pub(crate) const OWN_SERVICE: &str = "sealdisk";

/// Where a daemon listens and keeps its state; ports as bound, paths absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Directory of catalog, layers and trail.
    pub data_dir: PathBuf,
    /// Unix socket of NBD.
    pub nbd_unix: Option<PathBuf>,
    /// TCP address of NBD.
    pub nbd_tcp: Option<SocketAddr>,
    /// Unix socket of the API.
    pub api_unix: PathBuf,
    /// HTTP address of the API.
    pub http: Option<SocketAddr>,
    /// HTTPS address of the API.
    pub https: Option<SocketAddr>,
}

/// What the actions work on.
pub struct Api {
    /// The disks.
    pub disks: Arc<Disks>,
    /// The keys.
    pub kms: Arc<Kms>,
    /// Who may do what, and whose access keys are whose.
    pub ram: Arc<Ram>,
    /// What happened.
    pub trail: Arc<Trail>,
    /// Who signed a request.
    pub gate: Gate,
    /// Time of day, and uptime: its monotonic time starts with the process.
    pub clock: Arc<dyn Clock>,
    /// Request ids.
    pub entropy: Arc<dyn Entropy>,
    /// Account that owns everything, 16 digits.
    pub account_id: String,
    /// Region of ARNs.
    pub region: String,
    /// Where this daemon listens.
    pub endpoints: Endpoints,
    /// The key above all keys.
    pub root: Arc<Root>,
    /// Where the keys of the disks are, if not here.
    pub remote_kms: Option<String>,
    /// How many disks are attached now; cheap, called for each `/health`.
    pub attached_disks: Box<dyn Fn() -> usize + Send + Sync>,
    /// Whether little space is left for layers; cheap, called for each `/health`.
    pub is_space_low: Box<dyn Fn() -> bool + Send + Sync>,
    /// The text of `/metrics`, in Prometheus' exposition format.
    pub render_metrics: Box<dyn Fn() -> String + Send + Sync>,
}
