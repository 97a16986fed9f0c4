//! What the daemon asks of the operating system for itself.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{IsTerminal, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::DaemonError;
use crate::config::{Config, Log, LogFormat};
use crate::nbd::listener::Listener;

/// Keeps keys out of core dumps and other users' sight, new files private, and many disks open.
pub(super) fn harden() -> Result<(), DaemonError> {
    let start = |error: rustix::io::Errno| DaemonError::Start(error.into());
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(start)?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).map_err(start)?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let files = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: files.maximum, maximum: files.maximum };
    // A disk takes a descriptor and a client another: the usual 1024 is soon used up.
    rustix::process::setrlimit(Resource::Nofile, raised).map_err(start)?;
    // Layers are read through mappings; one that is cut short must not end the process.
    crate::storage::guard_mappings().map_err(DaemonError::Start)
}

/// Logs to standard error. `SEALDISK_LOG` overrides the level, as `target=level,…`.
pub(super) fn start_log(log: &Log) {
    let filter = EnvFilter::try_from_env("SEALDISK_LOG")
        .unwrap_or_else(|_| EnvFilter::new(log.level.as_str()));
    // Escape sequences in a file or a journal would tear words apart for whoever searches there.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !is_plain)
        .with_writer(std::io::stderr)
        // A log that cannot be written (a full disk, a reader that is gone) would be told of on
        // the same standard error, and that would panic in the middle of a request.
        .log_internal_errors(false);
    // A second daemon in one process (tests) keeps the first one's log.
    let _ = match log.format {
        LogFormat::Text => lines.with_target(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Makes a directory that only its owner may enter, if there is none.
pub(super) fn make_private_dir(path: &Path) -> Result<(), DaemonError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| DaemonError::DataDir { path: path.to_owned(), error })
}

/// Makes the data directory (mode 0700) and takes the lock on it, held as long as the file is open.
///
/// # Errors
/// [`DaemonError::DataDirInUse`] if a daemon runs on it, [`DaemonError::DataDir`] otherwise.
pub fn take_data_dir(path: &Path) -> Result<File, DaemonError> {
    make_private_dir(path)?;
    let lock_path = path.join("daemon.lock");
    let at = |error| DaemonError::DataDir { path: lock_path.clone(), error };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&lock_path).map_err(at)?;
    if let Err(error) = file.try_lock() {
        let std::fs::TryLockError::WouldBlock = error else {
            return Err(at(error.into()));
        };
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim().to_owned();
        return Err(DaemonError::DataDirInUse { path: path.to_owned(), holder });
    }
    // Who holds it, for the message above alone.
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(at)?;
    Ok(file)
}

/// Listeners that systemd (or a client such as `nbdcopy [ … ]`) opened for us: all serve NBD.
pub(super) fn activated_listeners() -> Result<Vec<Listener>, DaemonError> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let unix = passed.take_unix_listener(index);
        let listener = match unix {
            Ok(Some(listener)) => Listener::Unix(listener),
            _ => match passed.take_tcp_listener(index).map_err(DaemonError::Start)? {
                Some(listener) => Listener::Tcp(listener),
                None => continue,
            },
        };
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Takes the socket files away after the listeners are closed.
pub(super) fn remove_sockets(config: &Config) {
    for path in config.nbd.unix.iter().chain([&config.api.unix]) {
        // Gone already, or in a directory we may no longer write: the next start deals with it.
        let _ = std::fs::remove_file(path);
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGTERM or SIGINT: end in order.
    Stop,
    /// SIGHUP: read again what can change under a running daemon.
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP; and SIGXFSZ, which by default ends a process that writes past its
/// limit of file sizes (`RLIMIT_FSIZE`). Caught, it leaves the write to fail with `EFBIG`, as a
/// full device does with `ENOSPC`.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    _file_size: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub(super) async fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    pub(super) async fn wait(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}
