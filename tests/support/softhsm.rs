//! SoftHSM: tokens of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian and others put it.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// PIN of every token here.
pub const PIN: &str = "123456";

/// A directory of tokens.
pub struct SoftHsm {
    /// Configuration file, for `SOFTHSM2_CONF`.
    pub conf: PathBuf,
    /// Where the tokens are.
    pub tokens: PathBuf,
    /// File of the PIN, mode 0600.
    pub pin_file: PathBuf,
}

impl SoftHsm {
    /// Makes it below `dir`; `None` if SoftHSM is not on this machine.
    pub fn new(dir: &Path) -> Option<Self> {
        use std::os::unix::fs::PermissionsExt;
        library()?;
        let softhsm = Self::at(dir);
        let Self { conf, tokens, pin_file } = &softhsm;
        std::fs::create_dir_all(tokens).unwrap();
        let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        std::fs::write(conf, text).unwrap();
        std::fs::write(pin_file, PIN).unwrap();
        std::fs::set_permissions(pin_file, std::fs::Permissions::from_mode(0o600)).unwrap();
        Some(softhsm)
    }

    /// The one that was made below `dir`.
    fn at(dir: &Path) -> Self {
        let pin_file = dir.join("hsm.pin");
        Self { conf: dir.join("softhsm2.conf"), tokens: dir.join("tokens"), pin_file }
    }

    /// Makes a token.
    pub fn init(&self, label: &str) {
        let free =
            ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "12345678"];
        let made = Command::new("softhsm2-util")
            .args(free)
            .env("SOFTHSM2_CONF", &self.conf)
            .output()
            .expect("softhsm2-util runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// The URI of the token of this label.
    pub fn uri(&self, label: &str) -> String {
        let library = library().expect("it is there").display();
        let pin = self.pin_file.display();
        format!("pkcs11:token={label}?module-path={library}&pin-source=file:{pin}")
    }
}

/// The library, if it is there; a test that must not be skipped fails.
pub fn library() -> Option<&'static Path> {
    let found = LIBRARIES.iter().map(Path::new).find(|path| path.exists());
    let required = std::env::var_os("SEALDISK_REQUIRE_TOOLS").is_some();
    assert!(found.is_some() || !required, "SoftHSM is not there: apt-get install softhsm2");
    found
}

/// Runs `body` in a process of its own, with a directory of tokens of its own: the library reads
/// its configuration once, and tokens of one process share one login.
///
/// `name` is the test's own, as the harness knows it.
pub fn in_own_process(name: &str, body: impl FnOnce(&SoftHsm)) {
    const MARK: &str = "SEALDISK_TEST_SOFTHSM";
    if let Some(dir) = std::env::var_os(MARK) {
        body(&SoftHsm::at(Path::new(&dir)));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(softhsm) = SoftHsm::new(dir.path()) else {
        eprintln!("SKIPPED: SoftHSM is not installed");
        return;
    };
    let run = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, dir.path())
        .env("SOFTHSM2_CONF", &softhsm.conf)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let complained = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}\n{said}\n{complained}", run.status);
    assert!(said.contains("1 passed"), "no test is called {name}:\n{said}");
}
