//! The composition root: a configuration becomes objects, threads and sockets, and an orderly stop
//! takes them down in the reverse order.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;

use crate::api::{Api, Endpoints, Gate};
use crate::clock::{Clock, Entropy};
use crate::config::{Config, Mode};
use crate::crypto::engine::{Engine, Obstacle};
use crate::disk::space::SpaceWatch;
use crate::disk::{Disks, Recovery};
use crate::kms::root::Root;
use crate::kms::{Kms, Swept};
use crate::limits;
use crate::metrics;
use crate::nbd::listener::Listener;
use crate::nbd::server::{Server, Settings};
use crate::ram::{Caller, Ram};
use crate::secret::{self, Protection};
use crate::trail::Trail;

mod access_key;
mod error;
mod faces;
mod foundation;
mod process;
mod services;
mod space;
mod tokens;

pub use error::DaemonError;
use faces::Faces;
use foundation::Foundation;
use process::Wish;
pub use process::take_data_dir;
pub use services::Offline;
use services::Services;
use tokens::Returning;

/// Threads for requests that wait for a device; they sleep there, so more than cores.
const WORKER_THREADS: usize = 16;

/// How often finished histograms are folded, so that they do not grow where nobody scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// How often records that no checkpoint of the trail covers are looked for.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// How often it is looked whether a key is due for deletion or rotation, or material expires.
const DUE_KEYS_INTERVAL: Duration = Duration::from_secs(60);

/// What a started daemon has to say.
#[derive(Debug)]
pub struct Ready {
    /// Where it listens, ports as bound.
    pub endpoints: Endpoints,
    /// Where the root key comes from.
    pub root_key: String,
    /// It was made just now.
    pub root_key_created: bool,
    /// File that tells the owner's access key; in development alone.
    pub access_key: Option<PathBuf>,
    /// The configured tokens and how each is.
    pub hsms: Vec<String>,
    /// How well keys in memory are kept.
    pub protection: Protection,
    /// What the last run left behind.
    pub recovery: Recovery,
}

/// Everything that lives as long as the daemon.
struct House {
    disks: Arc<Disks>,
    kms: Arc<Kms>,
    root: Arc<Root>,
    remote_kms: Option<String>,
    ram: Arc<Ram>,
    trail: Arc<Trail>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    metrics: PrometheusHandle,
    /// Who opens disks again when a token has come back.
    returning: Returning,
    space: Arc<SpaceWatch>,
    _lock: File,
}

/// Runs the daemon until SIGTERM or SIGINT, then stops in order. `announce` is called once, when
/// everything listens.
///
/// # Errors
/// Whatever kept it from starting: the fault, the place and what to do.
pub fn run(config: &Config, announce: &mut dyn FnMut(&Ready)) -> Result<(), DaemonError> {
    process::harden()?;
    process::start_log(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(DaemonError::Start)?;
    // Before the first write: one past the limit of file sizes is an error, not the end.
    let mut signals = runtime.block_on(process::Signals::listen()).map_err(DaemonError::Start)?;
    let (house, mut ready) = build(config)?;
    let server = start_nbd(config, &house, &mut ready.endpoints)?;
    let control = serve_control_plane(config, &house, (&mut ready, announce), &mut signals);
    let outcome = runtime.block_on(control);
    tracing::info!("stopping: finishing requests in flight");
    if !server.stop(limits::SHUTDOWN_GRACE) {
        tracing::warn!("some clients did not finish in time and were cut off");
    }
    house.disks.stop_jobs();
    house.disks.close_all();
    if let Err(error) = house.trail.checkpoint() {
        tracing::error!(%error, "the trail ends without a checkpoint");
    }
    process::remove_sockets(config);
    runtime.shutdown_timeout(Duration::from_secs(5));
    tracing::info!("stopped");
    outcome
}

fn build(config: &Config) -> Result<(House, Ready), DaemonError> {
    let lock = process::take_data_dir(&config.data_dir)?;
    let metrics = install_metrics()?;
    let base = Foundation::lay(config)?;
    let Services { ram, kms, disks, back } = Services::build(config, &base)?;
    let Foundation { clock, entropy, root, root_key_created, trail, caller, .. } = base;
    let access_key = first_access_key(config, (&*ram, &*trail), &caller)?;
    let recovery = report(disks.recover(&caller)?);
    disks.start_jobs().map_err(DaemonError::Start)?;
    let ready = Ready {
        endpoints: configured(config),
        root_key: root.provider().place(),
        root_key_created,
        access_key,
        hsms: tokens::shown(&kms),
        protection: secret::protection(),
        recovery,
    };
    let house = House {
        disks,
        kms,
        root: Arc::new(root),
        remote_kms: config.remote_kms.as_ref().map(|remote| remote.endpoint.to_string()),
        ram,
        trail,
        clock,
        entropy,
        metrics,
        returning: Returning { back, caller },
        space: Arc::new(SpaceWatch::new(config.limits.low_space_percent)),
        _lock: lock,
    };
    Ok((house, ready))
}

/// In development an access key of the owner. In production the owner makes access keys over the
/// unix socket, and nothing writes them down.
fn first_access_key(
    config: &Config,
    (ram, trail): (&Ram, &Trail),
    caller: &Caller,
) -> Result<Option<PathBuf>, DaemonError> {
    match config.mode {
        Mode::Development => {
            access_key::write_first((ram, trail, &config.region), caller, &config.data_dir)
        }
        Mode::Production => Ok(None),
    }
}

fn configured(config: &Config) -> Endpoints {
    Endpoints {
        data_dir: config.data_dir.clone(),
        nbd_unix: config.nbd.unix.clone(),
        nbd_tcp: config.nbd.tcp,
        api_unix: config.api.unix.clone(),
        http: config.api.http,
        https: config.api.https.as_ref().map(|https| https.address),
    }
}

fn report(recovery: Recovery) -> Recovery {
    if recovery.removed > 0 {
        tracing::info!(
            disks = recovery.removed,
            "removed disks that were half made or half deleted"
        );
    }
    for (disk, error) in &recovery.failed {
        tracing::error!(%disk, %error, "attached disk not opened; mend the cause, or detach it");
    }
    let engine = Engine::best();
    let failed = |engine: &Engine| engine.obstacle() == Some(Obstacle::SelfTestFailed);
    for engine in Engine::ALL.into_iter().filter(failed) {
        tracing::warn!(
            %engine,
            "a cipher engine failed its self-test and is not used: is OPENSSL_ia32cap set?"
        );
    }
    let memory = secret::protection();
    tracing::info!(attached = recovery.reopened, %engine, ?memory, "disks open");
    if secret::protection() != Protection::SecretMemory {
        tracing::warn!(
            "memfd_secret is not to be had: keys are in ordinary memory, locked where the limit \
             allows; raise RLIMIT_MEMLOCK or boot with secretmem.enable=1"
        );
    }
    recovery
}

fn install_metrics() -> Result<PrometheusHandle, DaemonError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full(metrics::KMS_SECONDS.to_owned()),
            &metrics::LATENCY_BUCKETS_SECONDS,
        )
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full(metrics::HSM_SECONDS.to_owned()),
                &metrics::LATENCY_BUCKETS_SECONDS,
            )
        })
        .map_err(|error| DaemonError::Metrics(Box::new(error)))?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder)
        .map_err(|error| DaemonError::Metrics(error.to_string().into()))?;
    Ok(handle)
}

fn start_nbd(
    config: &Config,
    house: &House,
    endpoints: &mut Endpoints,
) -> Result<Arc<Server>, DaemonError> {
    let settings = Settings {
        connections_max: config.nbd.max_connections,
        handshake_timeout: config.nbd.handshake_timeout,
        buffer_bytes_max: config.limits.request_buffers.as_usize(),
        worker_threads: WORKER_THREADS,
    };
    let server = Server::start(Arc::clone(&house.disks), Arc::clone(&house.clock), settings)
        .map_err(DaemonError::Start)?;
    for listener in process::activated_listeners()? {
        server.listen(listener).map_err(DaemonError::Start)?;
    }
    if let Some(path) = &config.nbd.unix {
        server.listen(Listener::Unix(bind_unix(path)?)).map_err(DaemonError::Start)?;
    }
    if let Some(address) = config.nbd.tcp {
        let listener = bind_tcp(address)?;
        endpoints.nbd_tcp = listener.local_addr().ok();
        server.listen(Listener::Tcp(listener)).map_err(DaemonError::Start)?;
    }
    Ok(server)
}

async fn serve_control_plane(
    config: &Config,
    house: &House,
    (ready, announce): (&mut Ready, &mut dyn FnMut(&Ready)),
    signals: &mut process::Signals,
) -> Result<(), DaemonError> {
    let faces = Faces::bind(config, &mut ready.endpoints)?;
    let tls = faces.tls();
    let api = Arc::new(control_plane(config, house, ready.endpoints.clone())?);
    let (stop, stopped) = watch::channel(false);
    let mut faces = faces.serve(&api, &stopped);
    let mut timers = tokio::task::JoinSet::new();
    timers.spawn(fold_metrics(house.metrics.clone()));
    timers.spawn(run_due(Arc::clone(&house.kms)));
    timers.spawn(space::look_after(Arc::clone(&house.disks), Arc::clone(&house.space)));
    timers.spawn(sign_checkpoints(Arc::clone(&house.trail)));
    timers.spawn(tokens::tend(Arc::clone(&house.kms)));
    timers.spawn(tokens::reopen_disks(house.returning.clone(), Arc::clone(&house.disks)));
    announce(ready);
    while signals.wait().await == Wish::Reload {
        faces::reload(tls.as_deref());
    }
    // Nobody left to tell is as good as told.
    let _ = stop.send(true);
    while faces.join_next().await.is_some() {}
    timers.shutdown().await;
    Ok(())
}

async fn fold_metrics(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(METRICS_UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// Signs a checkpoint of the trail where there are records since the last one.
async fn sign_checkpoints(trail: Arc<Trail>) {
    let mut ticks = tokio::time::interval(CHECKPOINT_INTERVAL);
    loop {
        ticks.tick().await;
        let trail = Arc::clone(&trail);
        match tokio::task::spawn_blocking(move || trail.checkpoint()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "no checkpoint of the trail"),
            Err(error) => tracing::error!(%error, "a checkpoint ended abnormally"),
        }
    }
}

/// Does what the dates of keys ask for.
async fn run_due(kms: Arc<Kms>) {
    let mut ticks = tokio::time::interval(DUE_KEYS_INTERVAL);
    loop {
        ticks.tick().await;
        let kms = Arc::clone(&kms);
        match tokio::task::spawn_blocking(move || kms.run_due()).await {
            Ok(Ok(Swept { deleted: 0, expired: 0, rotated: 0, .. })) => {}
            Ok(Ok(Swept { deleted, expired, rotated, .. })) => {
                tracing::info!(deleted, expired, rotated, "did what keys were due for");
            }
            Ok(Err(error)) => tracing::error!(%error, "keys are due, and nothing was done"),
            Err(error) => tracing::error!(%error, "looking after due keys ended abnormally"),
        }
    }
}

fn control_plane(config: &Config, house: &House, endpoints: Endpoints) -> Result<Api, DaemonError> {
    let entropy = house.entropy.as_ref();
    let world = (Arc::clone(&house.clock), entropy);
    let (disks, metrics) = (Arc::clone(&house.disks), house.metrics.clone());
    let space = Arc::clone(&house.space);
    let gate = Gate::new(Arc::clone(&house.ram), world, config.api.requests_per_second);
    let gate = gate.remembering(&config.data_dir, entropy);
    let data_dir = |error| DaemonError::DataDir { path: config.data_dir.clone(), error };
    Ok(Api {
        disks: Arc::clone(&house.disks),
        kms: Arc::clone(&house.kms),
        gate: gate.map_err(data_dir)?,
        ram: Arc::clone(&house.ram),
        trail: Arc::clone(&house.trail),
        clock: Arc::clone(&house.clock),
        entropy: Arc::clone(&house.entropy),
        account_id: house.kms.account().account_id.clone(),
        region: house.kms.account().region.clone(),
        endpoints,
        root: Arc::clone(&house.root),
        remote_kms: house.remote_kms.clone(),
        attached_disks: Box::new(move || disks.attached_count()),
        is_space_low: Box::new(move || space.is_low()),
        render_metrics: Box::new(move || metrics.render() + &metrics::render_latencies()),
    })
}

/// Binds a unix socket, private to us from its creation on (the umask is 077). A file that a dead
/// daemon left there is removed, one that answers is not.
fn bind_unix(path: &Path) -> Result<UnixListener, DaemonError> {
    let at = |error| DaemonError::Listen { place: path.display().to_string(), error };
    if path.exists() {
        if UnixStream::connect(path).is_ok() {
            return Err(at(std::io::ErrorKind::AddrInUse.into()));
        }
        std::fs::remove_file(path).map_err(at)?;
    }
    UnixListener::bind(path).map_err(at)
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, DaemonError> {
    TcpListener::bind(address)
        .map_err(|error| DaemonError::Listen { place: address.to_string(), error })
}
