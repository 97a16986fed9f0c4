//! The product itself, as one of those compared.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A daemon with one encrypted disk of that name attached.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// # Panics
    /// If it does not start.
    pub(crate) fn start(data: &Path, disk: &str, bytes: u64) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_sealdisk"))
            .args(["serve", "--dev", "--nbd-tcp", "off", "--http", "off", "--data-dir"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Self { child, socket: data.join("nbd.sock") };
        let output = daemon.child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut String::new()).expect("a line when it is ready");
        let made = Command::new(env!("CARGO_BIN_EXE_sealdisk"))
            .args(["--endpoint", &format!("unix:{}", data.join("api.sock").display())])
            .args(["disk", "create", "--attach", "--name", disk, "--size", &bytes.to_string()])
            .output()
            .expect("the command line runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        daemon
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
