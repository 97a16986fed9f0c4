//! PKCS#11 tokens of a test's own: SoftHSM, Kryoptic, and a proxy before either that fails by
//! script.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::config::Hsm;
use sealdisk::token::{Token, TokenParts, TokenState};

use super::softhsm::{PIN, SoftHsm};
use super::tools;

const SO_PIN: &str = "12345678";
/// It wants eight digits.
const KRYOPTIC_PIN: &str = "48151623";

/// Opens a token, and waits until it is known whether it is there.
pub fn open(settings: Hsm) -> Token {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let parts = TokenParts { settings, clock, entropy, on_change: Box::new(|_| {}) };
    let token = Token::open(parts).unwrap();
    token.settle(Duration::from_secs(20));
    token
}

/// Opens a token; it must be there.
pub fn reach(settings: Hsm) -> Token {
    let token = open(settings);
    match token.state() {
        TokenState::Up { .. } => token,
        TokenState::Down { cause, .. } => panic!("{cause}"),
    }
}

/// What happens to tokens in the field.
impl SoftHsm {
    /// Takes the tokens out, as a cable or a card would be.
    pub fn take_out(&self) {
        std::fs::rename(&self.tokens, self.tokens.with_extension("away")).unwrap();
    }

    /// Puts them back.
    pub fn put_back(&self) {
        // The library may have made an empty folder meanwhile.
        let _ = std::fs::remove_dir_all(&self.tokens);
        std::fs::rename(self.tokens.with_extension("away"), &self.tokens).unwrap();
    }

    /// Erases the token of this label, and makes it anew without an object.
    pub fn erase(&self, label: &str) {
        let pins = ["--label", label, "--pin", PIN, "--so-pin", SO_PIN];
        let mut command = tools::command("softhsm2-util");
        command.args(["--init-token", "--token", label]).args(pins);
        command.env("SOFTHSM2_CONF", &self.conf);
        tools::text_of("softhsm2-util", &command.output().unwrap());
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
        let login = ["--login", "--login-type", "so", "--init-pin", "--pin", KRYOPTIC_PIN];
        kryoptic.tool(&[&login[..], &so_pin[..]].concat());
        let pin = folder.join("pin");
        std::fs::write(&pin, KRYOPTIC_PIN).unwrap();
        std::fs::set_permissions(&pin, PermissionsExt::from_mode(0o600)).unwrap();
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
    scripts: AtomicU32,
}

impl Proxy {
    /// A copy in `folder`, before `module`. `None` if it was not built (`tools/test` does).
    pub fn new(folder: &Path, module: &Path) -> Option<Self> {
        let built = built("SEALDISK_TOKEN_PROXY", "token-proxy/debug/libtoken_proxy.so")?;
        std::fs::create_dir_all(folder).unwrap();
        let library = folder.join("token-proxy.so");
        std::fs::copy(built, &library).unwrap();
        let proxy = Self { library, module: module.to_owned(), scripts: AtomicU32::new(0) };
        proxy.obey(&[]);
        Some(proxy)
    }

    /// The library to load.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Obeys these lines from its next call on, and counts and logs anew.
    pub fn obey(&self, lines: &[&str]) {
        // The same lines again are another script.
        let number = self.scripts.fetch_add(1, Ordering::Relaxed);
        let head = format!("# {number}\nmodule {}\nlog\n", self.module.display());
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

/// Runs `body` with the URI of a Kryoptic token, in a process of its own.
///
/// `name` is the test's own, as the harness knows it.
pub fn in_own_process_with_kryoptic(name: &str, body: impl FnOnce(&str)) {
    const MARK: &str = "SEALDISK_TEST_KRYOPTIC";
    if let Some(dir) = std::env::var_os(MARK) {
        let kryoptic = Kryoptic { folder: dir.into() };
        body(&uri("kryoptic", &Kryoptic::module(), &kryoptic.folder.join("pin")));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(kryoptic) = Kryoptic::new(dir.path(), "kryoptic") else { return };
    let run = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, dir.path())
        .env("KRYOPTIC_CONF", kryoptic.conf())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}\n{said}\n{complained}", run.status);
    assert!(said.contains("1 passed"), "no test is called {name}:\n{said}");
}
