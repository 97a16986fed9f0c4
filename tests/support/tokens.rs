//! PKCS#11 tokens of a test's own: SoftHSM, Kryoptic, and a proxy before either that fails by script.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tools;

pub const PIN: &str = "48151623";
pub const SO_PIN: &str = "42108642";

/// SoftHSM with its tokens in a folder of its own.
pub struct SoftHsm {
    folder: PathBuf,
}

impl SoftHsm {
    /// In `folder`, without a token. `None` if it is not installed.
    pub fn new(folder: &Path) -> Option<Self> {
        if !tools::have("softhsm2-util") {
            return None;
        }
        let hsm = Self { folder: folder.to_owned() };
        std::fs::create_dir_all(hsm.tokens()).unwrap();
        let at = hsm.tokens();
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            at.display()
        );
        std::fs::write(hsm.conf(), text).unwrap();
        Some(hsm)
    }

    /// Where its tokens are.
    pub fn tokens(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// For `SOFTHSM2_CONF`.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    /// Its library.
    pub fn module() -> PathBuf {
        let usual = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"];
        usual.iter().map(PathBuf::from).find(|path| path.exists()).expect("SoftHSM's library")
    }

    /// Makes a token, or erases the one of that label and makes it anew.
    pub fn init(&self, label: &str, is_new: bool) {
        let which: &[&str] = if is_new { &["--free"] } else { &["--token", label] };
        let pins = ["--label", label, "--pin", PIN, "--so-pin", SO_PIN];
        self.util(&[&["--init-token"], which, &pins].concat());
    }

    /// Runs softhsm2-util.
    pub fn util(&self, arguments: &[&str]) -> String {
        let mut command = tools::command("softhsm2-util");
        command.args(arguments).env("SOFTHSM2_CONF", self.conf());
        tools::text_of("softhsm2-util", &command.output().unwrap())
    }

    /// A command that finds these tokens.
    pub fn with(&self, mut command: Command) -> Command {
        command.env("SOFTHSM2_CONF", self.conf());
        command
    }

    /// Takes the tokens out, as a cable or a card would be.
    pub fn take_out(&self) {
        std::fs::rename(self.tokens(), self.folder.join("tokens.away")).unwrap();
    }

    /// Puts them back.
    pub fn put_back(&self) {
        let _ = std::fs::remove_dir_all(self.tokens());
        std::fs::rename(self.folder.join("tokens.away"), self.tokens()).unwrap();
    }
}

/// Kryoptic with one token in a database of its own.
pub struct Kryoptic {
    folder: PathBuf,
}

impl Kryoptic {
    /// In `folder`, with a token of that label. `None` if it was not built (`tools/test` does).
    pub fn new(folder: &Path, label: &str) -> Option<Self> {
        built("SEALDISK_KRYOPTIC", "kryoptic/debug/libkryoptic_token.so")?;
        if !tools::have("pkcs11-tool") {
            return None;
        }
        let kryoptic = Self { folder: folder.to_owned() };
        std::fs::create_dir_all(folder).unwrap();
        let database = folder.join("token.sql");
        let text = format!(
            "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{}\"\n",
            database.display()
        );
        std::fs::write(kryoptic.conf(), text).unwrap();
        let so_pin = ["--slot", "1", "--so-pin", SO_PIN];
        kryoptic.tool(&[&["--init-token", "--label", label], &so_pin[..]].concat());
        let login = ["--login", "--login-type", "so", "--init-pin", "--pin", PIN];
        kryoptic.tool(&[&login[..], &so_pin[..]].concat());
        Some(kryoptic)
    }

    /// For `KRYOPTIC_CONF`.
    pub fn conf(&self) -> PathBuf {
        self.folder.join("kryoptic.conf")
    }

    /// Its library.
    pub fn module() -> PathBuf {
        built("SEALDISK_KRYOPTIC", "kryoptic/debug/libkryoptic_token.so").expect("it was built")
    }

    fn tool(&self, arguments: &[&str]) {
        let mut command = tools::command("pkcs11-tool");
        command.arg("--module").arg(Self::module()).args(arguments);
        command.env("KRYOPTIC_CONF", self.conf());
        tools::text_of("pkcs11-tool", &command.output().unwrap());
    }
}

/// A module that forwards to another, and fails by script. See `tests/token-proxy`.
pub struct Proxy {
    library: PathBuf,
    module: PathBuf,
}

impl Proxy {
    /// A copy in `folder`, before `module`. `None` if it was not built (`tools/test` does).
    pub fn new(folder: &Path, module: &Path) -> Option<Self> {
        let built = built("SEALDISK_TOKEN_PROXY", "token-proxy/debug/libtoken_proxy.so")?;
        std::fs::create_dir_all(folder).unwrap();
        let library = folder.join("token-proxy.so");
        std::fs::copy(built, &library).unwrap();
        let proxy = Self { library, module: module.to_owned() };
        proxy.obey(&[]);
        Some(proxy)
    }

    /// The library to load.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Obeys these lines from its next call on, and counts and logs anew.
    pub fn obey(&self, lines: &[&str]) {
        let head = format!("module {}\nlog\n", self.module.display());
        let text = head + &lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let script = self.library.with_extension("script");
        let fresh = script.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        let _ = std::fs::remove_file(self.library.with_extension("calls"));
        std::fs::rename(fresh, script).unwrap();
    }

    /// The calls since then, with their answers: `C_Login CKR_OK`.
    pub fn calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.library.with_extension("calls"));
        text.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// How often this was called with this answer.
    pub fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|line| *line == call).count()
    }
}

/// A file with the PIN, for its owner alone.
pub fn pin_file(folder: &Path, pin: &str) -> PathBuf {
    let path = folder.join("pin");
    std::fs::write(&path, pin).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// The URI of a token.
pub fn uri(label: &str, module: &Path, pin: &Path) -> String {
    let (module, pin) = (module.display(), pin.display());
    format!("pkcs11:token={label}?module-path={module}&pin-source=file:{pin}")
}

fn built(variable: &str, usual: &str) -> Option<PathBuf> {
    let told = std::env::var_os(variable).map(PathBuf::from);
    let target = Path::new(env!("CARGO_BIN_EXE_sealdisk")).ancestors().nth(2).unwrap();
    let path = told.unwrap_or_else(|| target.join("test-tools").join(usual));
    if path.exists() {
        return Some(path);
    }
    assert!(!tools::are_required(), "{} is required here; tools/test builds it", path.display());
    eprintln!("SKIPPED: {} is not built; tools/test does", path.display());
    None
}

/// What the process that [`apart`] starts is told.
const APART: &str = "SEALDISK_TEST_APART";

/// Runs the test `name` once more, alone in a process of its own: a library has one state for the
/// whole process, and takes the place of its tokens from the environment.
///
/// There: the folder for its tokens. Here, after that process has succeeded: `None`.
pub fn apart(name: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(APART) {
        return Some(folder.into());
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(APART, folder)
        .env("SOFTHSM2_CONF", SoftHsm { folder: folder.to_owned() }.conf())
        .env("KRYOPTIC_CONF", Kryoptic { folder: folder.to_owned() }.conf())
        .output()
        .unwrap();
    let all = [&output.stdout[..], &output.stderr].concat();
    let all = String::from_utf8_lossy(&all);
    assert!(output.status.success(), "{name}, apart: {}\n{all}", output.status);
    if all.contains("SKIPPED") {
        eprintln!("{all}");
    }
    None
}
