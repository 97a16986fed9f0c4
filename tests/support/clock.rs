//! The clock of a running daemon, moved from outside (libfaketime): nothing in the product is made
//! for it. Time of day alone is moved; what measures spans goes on as ever.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sealdisk::clock::{Clock, SystemClock, Timestamp};

use super::tools;

/// The library's places on Debian, by architecture.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
];

/// How far the clock of a daemon is ahead.
pub struct MovedClock {
    file: PathBuf,
    library: &'static str,
    ahead: AtomicU64,
}

impl MovedClock {
    /// A clock that is right yet; `None` where the library is not installed.
    pub fn new(folder: &Path) -> Option<Self> {
        let library = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
        if library.is_none() {
            assert!(!tools::are_required(), "libfaketime is required here and not installed");
            eprintln!("SKIPPED: libfaketime is not installed");
        }
        let clock = Self { file: folder.join("clock"), library: library?, ahead: 0.into() };
        clock.write();
        Some(clock)
    }

    /// Lets a command that is to be started go by this clock.
    pub fn drive<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    }

    /// Moves it on.
    pub fn advance(&self, span: Duration) {
        self.ahead.fetch_add(span.as_secs(), Ordering::SeqCst);
        self.write();
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        SystemClock::new().now().plus(Duration::from_secs(self.ahead.load(Ordering::SeqCst)))
    }

    fn write(&self) {
        // Put in place whole: the daemon reads it all the time.
        let fresh = self.file.with_extension("new");
        let ahead = self.ahead.load(Ordering::SeqCst);
        std::fs::write(&fresh, format!("+{ahead}\n")).unwrap();
        std::fs::rename(&fresh, &self.file).unwrap();
    }
}
