//! Root keys: found again, told apart, replaced while serving, whatever moment a crash chooses.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, Operation, RootRecord};
use sealdisk::clock::{Clock, Entropy, SeededEntropy, SystemClock, SystemEntropy};
use sealdisk::kms::backup::{self, About};
use sealdisk::kms::root::{
    KeyFile, Loaded, Passphrase, Provider, Root, RootError, RootParts, Source,
};
use sealdisk::kms::{Account, KmsError};
use sealdisk::secret::Secret;
use sealdisk::trail::TrailError;
use serde_json::Value;
use support::daemon::{Daemon, serve};
use support::{api, tools};

/// A catalog and the root key file beside it.
struct Place {
    scratch: tempfile::TempDir,
    catalog: Arc<SqliteCatalog>,
}

impl Place {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let catalog = Arc::new(SqliteCatalog::open(&scratch.path().join("catalog.db")).unwrap());
        Self { scratch, catalog }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn file(&self, may_create: bool) -> KeyFile {
        KeyFile { path: self.path("root.key"), may_create }
    }

    fn unlock(&self, provider: impl Provider + 'static) -> Result<Root, KmsError> {
        self.unlock_after(provider, None)
    }

    fn unlock_after(
        &self,
        provider: impl Provider + 'static,
        previous: Option<Box<dyn Provider>>,
    ) -> Result<Root, KmsError> {
        Root::unlock(RootParts {
            catalog: self.catalog.clone(),
            provider: Box::new(provider),
            previous,
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
        })
    }

    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn phrase(&self, text: &str) -> Passphrase {
        Passphrase { source: Source::File(self.secret("phrase", text)) }
    }

    fn id(&self) -> String {
        self.catalog.root().unwrap().unwrap().root_key_id
    }
}

fn why(opened: Result<Root, KmsError>) -> RootError {
    match opened.unwrap_err() {
        KmsError::Root(error) => error,
        other => panic!("{other:?}"),
    }
}

fn recorded(_: &RootRecord) -> Result<(), TrailError> {
    Ok(())
}

#[test]
fn missing_wrong_and_corrupt_are_three_errors() {
    let place = Place::new();
    let refused = why(place.unlock(place.file(false)));
    assert!(matches!(refused, RootError::Missing { .. }), "{refused:?}");
    assert!(refused.to_string().contains("root.key") && !place.path("root.key").exists());
    let sealing = place.unlock(place.file(true)).unwrap().sealing_key();
    assert!(place.unlock(place.file(false)).unwrap().sealing_key() == sealing);

    let right = std::fs::read_to_string(place.path("root.key")).unwrap();
    place.secret("root.key", &"3a".repeat(32));
    let wrong = why(place.unlock(place.file(true)));
    assert!(matches!(&wrong, RootError::Wrong { is_previous: false, .. }), "{wrong:?}");
    assert!(wrong.to_string().contains(&place.id()), "{wrong}");
    std::fs::remove_file(place.path("root.key")).unwrap();
    let missing = why(place.unlock(place.file(true)));
    assert!(matches!(missing, RootError::Missing { .. }), "never a second root: {missing:?}");

    place.secret("root.key", &right);
    let raw = rusqlite::Connection::open(place.path("catalog.db")).unwrap();
    let keep = place.catalog.root().unwrap().unwrap();
    for damage in [
        "UPDATE root SET sealed_key = zeroblob(60)",
        "UPDATE root SET sealed_key = x'00'",
        "UPDATE root SET root_key_id = 'another'",
    ] {
        raw.execute(damage, []).unwrap();
        let error = why(place.unlock(place.file(true)));
        assert!(matches!(error, RootError::Corrupt), "{damage}: {error:?}");
        raw.execute("DELETE FROM root", []).unwrap();
        let put_back = [Operation::InsertRoot(keep.clone())];
        place.catalog.apply(&put_back, &mut || Ok(())).unwrap();
    }
    assert!(place.unlock(place.file(false)).unwrap().sealing_key() == sealing);
}

#[test]
fn a_catalog_with_keys_and_without_root_record_gets_no_other_root() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.ok(&["key", "create"]);
    assert!(daemon.stop().success());
    let raw = rusqlite::Connection::open(data.join("catalog.db")).unwrap();
    raw.execute("DELETE FROM root", []).unwrap();
    drop(raw);
    let error = support::daemon::start_refused(&data);
    assert!(error.contains("the catalog's record of its root key is damaged"), "{error}");
}

#[test]
fn a_root_key_file_is_made_once_private_and_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("root.key");
    let entropy = SeededEntropy::new(4);
    let load = |may_create| {
        let file = KeyFile { path: path.clone(), may_create };
        file.load(None, &entropy).map(|_| std::fs::read_to_string(&path).unwrap())
    };
    let made = load(true).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    assert_eq!(load(true).unwrap(), made);
    assert_eq!(load(false).unwrap(), made);
    // What a crash left under the unfinished name does not hinder.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(scratch.path().join("root.key.new"), "half").unwrap();
    let text = load(true).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o610] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let error = load(true).unwrap_err();
        assert!(matches!(error, RootError::Exposed { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("{mode:04o}")), "{error}");
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
    load(false).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    for junk in ["", "00", &text[..63], &format!("{text}00"), &"g".repeat(64), &"0".repeat(70)] {
        std::fs::write(&path, junk).unwrap();
        let error = load(true).unwrap_err();
        assert!(matches!(error, RootError::Malformed { .. }), "{junk}: {error:?}");
    }
}

#[test]
fn a_rotation_keeps_what_is_sealed_and_names_the_one_before() {
    let place = Place::new();
    let root = place.unlock(place.file(true)).unwrap();
    let (sealing, first) = (root.sealing_key(), place.id());
    let old = std::fs::read_to_string(place.path("root.key")).unwrap();
    let record = root.rotate(None, &mut recorded).unwrap();
    assert_eq!(record.previous_id.as_ref(), Some(&first));
    assert_eq!(place.id(), record.root_key_id);
    assert_ne!(record.root_key_id, first);
    assert_eq!(std::fs::read_to_string(place.path("root.key.previous")).unwrap(), old);
    assert!(!place.path("root.key.next").exists());
    root.rotate(None, &mut recorded).unwrap();
    assert!(place.unlock(place.file(false)).unwrap().sealing_key() == sealing);

    let second = std::fs::read_to_string(place.path("root.key.previous")).unwrap();
    place.secret("root.key", &second);
    let wrong = why(place.unlock(place.file(false)));
    assert!(matches!(wrong, RootError::Wrong { is_previous: true, .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("replaced by key"), "{wrong}");
    place.secret("root.key", &old);
    let wrong = why(place.unlock(place.file(false)));
    assert!(matches!(wrong, RootError::Wrong { is_previous: false, .. }), "{wrong:?}");
}

/// A file whose last step of a rotation a crash prevents.
struct Unpromoted(KeyFile);

impl Provider for Unpromoted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn place(&self) -> String {
        self.0.place()
    }

    fn load(&self, known: Option<&RootRecord>, entropy: &dyn Entropy) -> Result<Loaded, RootError> {
        self.0.load(known, entropy)
    }

    fn prepare(
        &self,
        known: &RootRecord,
        given: Option<&Secret>,
        entropy: &dyn Entropy,
    ) -> Result<Loaded, RootError> {
        self.0.prepare(known, given, entropy)
    }

    fn promote(&self) -> Result<(), RootError> {
        Err(RootError::Corrupt)
    }
}

#[test]
fn a_prepared_key_that_cannot_be_read_is_an_error_and_stays() {
    let place = Place::new();
    place.unlock(place.file(true)).unwrap();
    let stopped = place.unlock(Unpromoted(place.file(false))).unwrap();
    stopped.rotate(None, &mut recorded).unwrap();
    let (next, kept) = (place.path("root.key.next"), place.id());
    let mode = |mode| std::fs::set_permissions(&next, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    assert!(place.unlock(place.file(false)).is_err());
    assert!(stopped.rotate(None, &mut recorded).is_err());
    assert!(next.exists(), "it is the only copy of the root key");
    mode(0o600);
    place.unlock(place.file(false)).unwrap();
    assert_eq!(place.id(), kept);
}

#[test]
fn a_crash_at_any_step_of_a_rotation_leaves_a_root_key_that_opens() {
    let place = Place::new();
    let sealing = place.unlock(place.file(true)).unwrap().sealing_key();
    let first = place.id();
    let opens = |when: &str| {
        let root = place.unlock(place.file(false));
        let root = root.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(root.sealing_key() == sealing, "{when}");
        root
    };
    // The new key is prepared; the record in the trail fails.
    let poisoned = TrailError::Full {
        path: "trail".into(),
        source: Arc::new(std::io::ErrorKind::StorageFull.into()),
    };
    let refused = opens("at first").rotate(None, &mut |_| Err(poisoned.clone()));
    assert!(matches!(refused, Err(KmsError::Unrecorded(_))), "{refused:?}");
    assert!(place.path("root.key.next").exists());
    assert_eq!(place.id(), first);
    opens("after a refused record");

    // The record is written; the catalog's change fails.
    let raw = rusqlite::Connection::open(place.path("catalog.db")).unwrap();
    let stop =
        "CREATE TRIGGER stop BEFORE UPDATE ON root BEGIN SELECT RAISE(ABORT, 'cut off'); END";
    raw.execute_batch(stop).unwrap();
    let failed = opens("before the commit").rotate(None, &mut recorded);
    assert!(matches!(failed, Err(KmsError::Catalog(_))), "{failed:?}");
    raw.execute_batch("DROP TRIGGER stop").unwrap();
    assert_eq!(place.id(), first);
    opens("after a commit that failed");

    // The catalog has it; the files are as before.
    let stopped = place.unlock(Unpromoted(place.file(false))).unwrap();
    let second = stopped.rotate(None, &mut recorded).unwrap().root_key_id;
    assert!(place.path("root.key.next").exists());
    assert_eq!(place.id(), second);
    // A further rotation before any restart must not lose the key that is in use.
    let again = KeyFile { ..place.file(false) };
    let root = place.unlock(Unpromoted(again)).unwrap();
    assert!(root.sealing_key() == sealing && !place.path("root.key.next").exists());
    stopped.rotate(None, &mut recorded).unwrap();
    let third = stopped.rotate(None, &mut recorded).unwrap().root_key_id;
    assert_eq!(place.id(), third);
    opens("with the new key beside the old one");
    assert!(!place.path("root.key.next").exists());

    // The old one is kept; the new one is not yet in its place.
    let stopped = place.unlock(Unpromoted(place.file(false))).unwrap();
    stopped.rotate(None, &mut recorded).unwrap();
    std::fs::remove_file(place.path("root.key.previous")).unwrap();
    std::fs::hard_link(place.path("root.key"), place.path("root.key.previous")).unwrap();
    opens("between link and rename");
    // Not even the old one is there any more.
    let stopped = place.unlock(Unpromoted(place.file(false))).unwrap();
    stopped.rotate(None, &mut recorded).unwrap();
    std::fs::remove_file(place.path("root.key")).unwrap();
    opens("with the new key alone");
    assert_eq!(std::fs::read_to_string(place.path("root.key")).unwrap().len(), 65);
}

#[test]
fn a_passphrase_is_a_root_key() {
    let place = Place::new();
    let short = why(place.unlock(place.phrase("too short\n")));
    assert!(matches!(short, RootError::ShortPassphrase), "{short:?}");
    let root = place.unlock(place.phrase("correct horse battery\n")).unwrap();
    let record = root.record().unwrap();
    assert_eq!(record.provider, "passphrase");
    assert!(record.parameters.starts_with("argon2id,m=65536,t=3,p=4,salt="), "{record:?}");
    // The line end does not count; all else does.
    let again = place.unlock(place.phrase("correct horse battery")).unwrap();
    assert!(again.sealing_key() == root.sealing_key());
    let wrong = why(place.unlock(place.phrase("correct horse batterx")));
    assert!(matches!(wrong, RootError::Wrong { .. }), "{wrong:?}");
    assert!(!wrong.to_string().contains("horse"));

    let given =
        |text: &str| Secret::from_fn(text.len(), |out| out.copy_from_slice(text.as_bytes()));
    let needed = root.rotate(None, &mut recorded).unwrap_err();
    assert!(matches!(needed, KmsError::Root(RootError::SecretNeeded { .. })), "{needed:?}");
    let short = root.rotate(Some(&given("short")), &mut recorded).unwrap_err();
    assert!(matches!(short, KmsError::Root(RootError::ShortPassphrase)), "{short:?}");
    root.rotate(Some(&given("another one, longer\n")), &mut recorded).unwrap();
    let before = why(place.unlock(place.phrase("correct horse battery")));
    // Its salt is another one now, so it is not even known as the previous one.
    assert!(matches!(before, RootError::Wrong { .. }), "{before:?}");
    let after = place.unlock(place.phrase("another one, longer")).unwrap();
    assert!(after.sealing_key() == again.sealing_key());
    let exposed = place.phrase("another one, longer");
    std::fs::set_permissions(place.path("phrase"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(matches!(why(place.unlock(exposed)), RootError::Exposed { .. }));

    let raw = rusqlite::Connection::open(place.path("catalog.db")).unwrap();
    let cheap = "UPDATE root SET parameters = 'argon2id,m=4000000000,t=3,p=4,salt=00'";
    raw.execute(cheap, []).unwrap();
    let corrupt = why(place.unlock(place.phrase("another one, longer")));
    assert!(matches!(corrupt, RootError::Corrupt), "{corrupt:?}");
}

#[test]
fn a_root_key_moves_to_another_provider_at_a_start() {
    let place = Place::new();
    let sealing = place.unlock(place.file(true)).unwrap().sealing_key();
    let first = place.id();
    let phrase = || place.phrase("correct horse battery");
    assert!(matches!(why(place.unlock(phrase())), RootError::Wrong { .. }));
    let moving = place.unlock_after(phrase(), Some(Box::new(place.file(false)))).unwrap();
    assert_eq!(place.id(), first, "only once the trail can record it");
    let moved = moving.finish_move(&mut recorded).unwrap().unwrap();
    assert_eq!((moved.provider.as_str(), moved.previous_id), ("passphrase", Some(first)));
    assert!(moving.finish_move(&mut recorded).unwrap().is_none());
    assert!(place.unlock(phrase()).unwrap().sealing_key() == sealing);
    // The entry for the previous one may stay.
    let again = place.unlock_after(phrase(), Some(Box::new(place.file(false)))).unwrap();
    assert!(again.finish_move(&mut recorded).unwrap().is_none());
    assert!(why(place.unlock(place.file(true))).to_string().contains("replaced by key"));
}

/// Starts a daemon on `data` with a configuration that ends in these lines.
fn configured(data: &Path, root_key: &str) -> std::process::Command {
    let at = data.display();
    let text = format!(
        "data_dir: {at}\nnbd:\n  unix: {at}/nbd.sock\napi:\n  unix: {at}/api.sock\n  http: off\n\
         root_key:\n{root_key}"
    );
    let file = data.with_extension("yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = std::process::Command::new(support::daemon::binary());
    command.args(["serve", "--config"]).arg(file);
    command
}

#[test]
fn the_daemon_takes_a_credential_and_moves_to_it_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    let disk = daemon.disk("db", "64M");
    assert!(daemon.stop().success());

    let credentials = folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("k"), "5c".repeat(32)).unwrap();
    let place = "  provider: credential\n  credential: k\n";
    let previous =
        format!("  previous:\n    provider: file\n    path: {}/root.key\n", data.display());
    let start = |text: &str| {
        let mut command = configured(&data, text);
        command.env("CREDENTIALS_DIRECTORY", &credentials);
        command
    };
    let refused = |mut command: std::process::Command| {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let wrong = refused(start(place));
    assert!(wrong.contains("the catalog needs key"), "{wrong}");
    let absent = refused(configured(&data, "  provider: credential\n  credential: other\n"));
    assert!(absent.contains("LoadCredentialEncrypted=other:FILE"), "{absent}");

    let daemon = Daemon::launch(start(&format!("{place}{previous}")), &data);
    assert_eq!(daemon.json(&["disk", "show", &disk])["Status"], "In_use");
    let moved = daemon.events("RotateRootKey");
    assert_eq!(moved[0]["responseElements"]["Provider"], "credential");
    assert_eq!(moved[0]["userIdentity"]["type"], "system");
    assert!(daemon.stop().success());
    std::fs::remove_file(data.join("root.key")).unwrap();
    let daemon = Daemon::launch(start(place), &data);
    assert_eq!(daemon.json(&["disk", "show", &disk])["Status"], "In_use");

    // Online, to a key that is given.
    let next = folder.path().join("next");
    std::fs::write(&next, "6d".repeat(32) + "\n").unwrap();
    let refused = daemon.refused(&["root", "rotate", "--yes"]);
    assert!(refused.contains("cannot make a new one by itself"), "{refused}");
    daemon.ok(&["root", "rotate", "--yes", "--new-secret-file", next.to_str().unwrap()]);
    let same =
        daemon.refused(&["root", "rotate", "--yes", "--new-secret-file", next.to_str().unwrap()]);
    assert!(same.contains("the new one is the present one"), "{same}");
    assert!(daemon.stop().success());
    std::fs::copy(&next, credentials.join("k")).unwrap();
    let daemon = Daemon::launch(start(place), &data);
    assert_eq!(daemon.json(&["disk", "show", &disk])["Status"], "In_use");
    let text = support::needles::Needles::text("key", "6d".repeat(32).as_bytes());
    assert!(text.count_below(&data).is_empty(), "a given key is written nowhere");
    assert!(!daemon.log().contains("6d6d6d6d"));
}

fn call(daemon: &Daemon, action: &str, parameters: &[(&str, &str)]) -> Value {
    let (status, answer) = api::call(&daemon.api_socket(), api::KMS, action, parameters);
    assert_eq!(status, 200, "{action}: {answer}");
    answer
}

#[test]
fn serving_goes_on_through_rotations_and_everything_opens_after() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let daemon = Daemon::start(&data);
    daemon.disk("db", "64M");
    let shown = daemon.json(&["root", "show"]);
    assert_eq!(shown["Provider"], "file");
    let key = call(&daemon, "CreateKey", &[])["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let stop = AtomicBool::new(false);
    let blobs: Vec<String> = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let mut blobs = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let id = call(&daemon, "CreateKey", &[])["KeyMetadata"]["KeyId"].clone();
                for id in [&key, id.as_str().unwrap()] {
                    let made = call(&daemon, "Encrypt", &[("KeyId", id), ("Plaintext", "AAAA")]);
                    blobs.push(made["CiphertextBlob"].as_str().unwrap().to_owned());
                }
                let first = [("CiphertextBlob", blobs[0].as_str())];
                assert_eq!(call(&daemon, "Decrypt", &first)["Plaintext"], "AAAA");
            }
            blobs
        });
        for _ in 0..10 {
            daemon.ok(&["root", "rotate", "--yes"]);
        }
        stop.store(true, Ordering::SeqCst);
        user.join().unwrap()
    });
    assert_eq!(daemon.events("RotateRootKey").len(), 10);
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&data);
    for blob in &blobs {
        assert_eq!(call(&daemon, "Decrypt", &[("CiphertextBlob", blob)])["Plaintext"], "AAAA");
    }
    daemon.ok(&["disk", "detach", "db"]);
    daemon.ok(&["disk", "attach", "db"]);
    assert_ne!(daemon.json(&["root", "show"])["RootKeyId"], shown["RootKeyId"]);
    let checked = daemon.json(&["trail", "verify", "--data-dir", data.to_str().unwrap()]);
    assert!(checked["Events"].as_u64().unwrap() > 20, "{checked}");
}

#[test]
fn a_kill_during_a_rotation_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut daemon = Daemon::start(&data);
    let key = call(&daemon, "CreateKey", &[])["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned();
    let blob = call(&daemon, "Encrypt", &[("KeyId", &key), ("Plaintext", "AAAA")]);
    let blob = blob["CiphertextBlob"].as_str().unwrap().to_owned();
    for round in 0..8 {
        let endpoint = format!("unix:{}", daemon.api_socket().display());
        let mut rotation = std::process::Command::new(support::daemon::binary())
            .args(["--endpoint", &endpoint, "root", "rotate", "--yes"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(2 + round));
        daemon.kill();
        rotation.wait().unwrap();
        daemon = Daemon::launch(serve(&data, &["--nbd-tcp", "off", "--http", "off"]), &data);
        assert_eq!(call(&daemon, "Decrypt", &[("CiphertextBlob", &blob)])["Plaintext"], "AAAA");
        tools::run(
            support::daemon::binary().to_str().unwrap(),
            &["trail", "verify", "--data-dir", data.to_str().unwrap()],
        );
    }
}

#[test]
fn a_backup_names_the_root_key_that_is_in_it() {
    let place = Place::new();
    let root = place.unlock(place.file(true)).unwrap();
    // A rotation comes right after the copy of the catalog is taken.
    let copy = place.path("copy.db");
    place.catalog.copy_to(&copy).unwrap();
    let copy = SqliteCatalog::open(&copy).unwrap();
    root.rotate(None, &mut recorded).unwrap();
    let about = About {
        account: Account { account_id: "1000000000000001".into(), region: "cn-hangzhou".into() },
        trail_last_seq: 0,
        now: SystemClock::new().now(),
    };
    let to = place.path("keys.backup");
    let manifest = backup::create(&root, &copy, &about, &to).unwrap();
    let inside = copy.root().unwrap().unwrap().root_key_id;
    assert_ne!(inside, place.id());
    assert_eq!(manifest.root_key_id, inside);
}
