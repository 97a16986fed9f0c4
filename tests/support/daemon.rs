//! A real daemon on a data directory of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use serde_json::Value;

use super::tools;

/// A running `sealdisk serve --dev`, killed when dropped.
pub struct Daemon {
    child: Child,
    data_dir: PathBuf,
    log: PathBuf,
    banner: String,
}

impl Daemon {
    /// Starts on `data_dir` without TCP and waits until it listens.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &["--nbd-tcp", "off", "--http", "off"])
    }

    /// Starts with further arguments and waits until it listens.
    pub fn start_with(data_dir: &Path, arguments: &[&str]) -> Self {
        Self::launch(serve(data_dir, arguments), data_dir)
    }

    /// Starts with a configuration file: all defaults of development, NBD over TCP and HTTP on free
    /// ports, and `nbd` (lines of `option: value`).
    pub fn start_configured(data_dir: &Path, nbd: &[&str]) -> Self {
        Self::start_configured_with(data_dir, nbd, &[])
    }

    /// As [`Daemon::start_configured`], with lines for the API.
    pub fn start_configured_with(data_dir: &Path, nbd: &[&str], api: &[&str]) -> Self {
        let at = data_dir.display();
        let lines =
            |lines: &[&str]| -> String { lines.iter().map(|line| format!("  {line}\n")).collect() };
        let (nbd, api) = (lines(nbd), lines(api));
        let text = format!(
            "data_dir: {at}\n\
             root_key:\n  path: {at}/root.key\n  create: true\n\
             nbd:\n  unix: {at}/nbd.sock\n  tcp: 127.0.0.1:0\n{nbd}\
             api:\n  unix: {at}/api.sock\n  http: 127.0.0.1:0\n{api}"
        );
        let file = data_dir.with_extension("yaml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(binary());
        command.args(["serve", "--config"]).arg(file);
        Self::launch(command, data_dir)
    }

    /// Runs a command that becomes a daemon on `data_dir` (see [`serve`]), and waits until it
    /// listens.
    pub fn launch(mut command: Command, data_dir: &Path) -> Self {
        let log = data_dir.with_extension("log");
        let errors = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child =
            command.stdout(Stdio::piped()).stderr(errors).spawn().expect("the daemon starts");
        let mut banner = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        while !banner.contains("\n  HTTP") {
            if stdout.read_line(&mut banner).unwrap() == 0 {
                let status = child.wait().unwrap();
                panic!("the daemon ended ({status}): {}", std::fs::read_to_string(&log).unwrap());
            }
        }
        // Kept read, so that the daemon never waits for us.
        std::thread::spawn(move || stdout.read_to_string(&mut String::new()));
        Self { child, data_dir: data_dir.to_owned(), log, banner }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Everything the daemon wrote to standard error, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn api_socket(&self) -> PathBuf {
        self.data_dir.join("api.sock")
    }

    pub fn nbd_socket(&self) -> PathBuf {
        self.data_dir.join("nbd.sock")
    }

    /// Where NBD is served over TCP.
    pub fn nbd_tcp(&self) -> SocketAddr {
        self.told("tcp:", "\n").parse().unwrap()
    }

    /// The NBD URI of an export, over TCP.
    pub fn tcp_uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.nbd_tcp())
    }

    /// The value of a metric without labels, asked over HTTP.
    pub fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.told("http://", "/")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        // Shown from the first time it is set.
        value.unwrap_or("0").parse().unwrap()
    }

    /// Where the API is served over HTTP.
    pub fn http(&self) -> &str {
        self.told("http://", "/")
    }

    /// Where the API is served over HTTPS, with a slash at the end.
    pub fn https(&self) -> String {
        format!("https://{}/", self.told("https://", "/"))
    }

    fn told(&self, before: &str, after: &str) -> &str {
        let rest = self.banner.split(before).nth(1).expect("the banner tells");
        rest.split(after).next().unwrap()
    }

    /// The NBD URI of an export.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.nbd_socket().display())
    }

    /// Runs the command line against this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let endpoint = format!("unix:{}", self.data_dir.join("api.sock").display());
        Command::new(binary())
            .args(["--endpoint", &endpoint])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the command line runs")
    }

    /// The standard output of a command that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        tools::text_of(&format!("sealdisk {}", arguments.join(" ")), &self.cli(arguments))
    }

    /// The JSON answer of a command that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The error text of a command that must be refused.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} must be refused");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Creates and attaches an encrypted disk; its id.
    pub fn disk(&self, name: &str, size: &str) -> String {
        self.disk_with(name, size, &[])
    }

    /// As [`Daemon::disk`], with further options.
    pub fn disk_with(&self, name: &str, size: &str, options: &[&str]) -> String {
        let arguments =
            [&["disk", "create", "--name", name, "--size", size, "--attach"], options].concat();
        let answer = self.json(&arguments);
        answer["DiskId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The data key of a disk, by break-glass.
    pub fn export_key(&self, disk: &str, to: &Path) -> Vec<u8> {
        let path = to.to_str().unwrap();
        self.ok(&["disk", "export-key", disk, "--to", path, "--yes"]);
        std::fs::read(to).unwrap()
    }

    /// Audit events of a name, newest first.
    pub fn events(&self, name: &str) -> Vec<Value> {
        let answer = self.json(&["trail", "list", "--limit", "1000", "--event", name]);
        answer["Events"].as_array().expect("a list of events").clone()
    }

    /// The file of a disk's only layer.
    pub fn layer_file(&self, disk: &str) -> PathBuf {
        let header = |path: &Path| {
            let mut start = vec![0; 32 << 10];
            std::fs::File::open(path).unwrap().read_exact(&mut start).unwrap();
            start
        };
        let layers = std::fs::read_dir(self.data_dir.join("layers")).unwrap();
        layers
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                let start = header(path);
                start.windows(disk.len()).any(|window| window == disk.as_bytes())
            })
            .expect("the disk has a layer")
    }

    /// Ends it with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop (SIGTERM) and waits.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.pid(), "TERM");
        tools::wait_until("the daemon stops", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already where the test did so.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that serves `data_dir`.
pub fn serve(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["serve", "--dev", "--data-dir"]).arg(data_dir).args(arguments);
    command
}

/// Standard error of a daemon that must not start.
pub fn start_refused(data_dir: &Path) -> String {
    let output = serve(data_dir, &["--nbd-tcp", "off", "--http", "off"])
        .stdin(Stdio::null())
        .output()
        .expect("the daemon runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    errors
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    tools::run("kill", &[&format!("-{name}"), &pid.to_string()]);
}

/// The program under test: the one just built, or `SEALDISK_BINARY` (a release, a package): what
/// stays in memory depends on the optimiser.
pub fn binary() -> PathBuf {
    let told = std::env::var_os("SEALDISK_BINARY");
    told.map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_sealdisk")), PathBuf::from)
}
