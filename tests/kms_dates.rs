//! What keys do by themselves, on a clock moved by hand: rotation, expiry of imported material,
//! the end of import tokens; and what outlives a restart.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::sync::Arc;
use std::time::Duration;

use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{Catalog, KeyRecord, KeyState, Operation, Page};
use sealdisk::clock::{Clock, ManualClock, SeededEntropy, Timestamp};
use sealdisk::crypto::asymmetric::{Padding, Signing, encrypt, verify};
use sealdisk::kms::context::Context;
use sealdisk::kms::{
    Account, CreateKey, Import, Kms, KmsError, KmsParts, Paging, Pair, Rotation, Source, root,
};
use sealdisk::ram::{Caller, Principal, Ram, RamParts, Route};
use sealdisk::secret::Secret;
use sealdisk::trail::{Direction, Query, Trail};
use uuid::Uuid;

const ACCOUNT: &str = "1000000000000001";
const DAY: Duration = Duration::from_secs(24 * 3600);

struct House {
    kms: Kms,
    trail: Arc<Trail>,
    catalog: Arc<SqliteCatalog>,
    clock: Arc<ManualClock>,
    scratch: tempfile::TempDir,
}

impl House {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_767_582_245_000)));
        Self::on(tempfile::tempdir().unwrap(), clock, 1)
    }

    fn on(scratch: tempfile::TempDir, clock: Arc<ManualClock>, seed: u64) -> Self {
        let entropy = Arc::new(SeededEntropy::new(seed));
        let key = || Secret::from_fn(32, |bytes| bytes.fill(0x42));
        let trail_key = root::trail_key(&key());
        let place = scratch.path().join("trail");
        let trail = Trail::open(&place, trail_key, clock.clone(), entropy.clone()).unwrap();
        let trail = Arc::new(trail);
        let catalog = Arc::new(SqliteCatalog::open(&scratch.path().join("catalog.db")).unwrap());
        let ram = Arc::new(Ram::new(RamParts {
            catalog: catalog.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            key: root::ram_key(&key()),
            account_id: ACCOUNT.into(),
        }));
        let kms = Kms::open(KmsParts {
            catalog: catalog.clone(),
            trail: trail.clone(),
            ram,
            sealing_key: key(),
            clock: clock.clone(),
            entropy,
            account: Account { account_id: ACCOUNT.into(), region: "cn-hangzhou".into() },
            tokens: Vec::new(),
        });
        Self { kms: kms.unwrap(), trail, catalog, clock, scratch }
    }

    /// The same state after a restart.
    fn again(self) -> Self {
        let Self { kms, trail, catalog, clock, scratch } = self;
        drop((kms, trail, catalog));
        Self::on(scratch, clock, 2)
    }

    fn make(&self, wanted: CreateKey) -> String {
        self.kms.create_key(&owner(), &wanted).unwrap().key_id
    }

    fn external(&self) -> String {
        self.make(CreateKey { origin: Some("EXTERNAL".into()), ..CreateKey::default() })
    }

    fn see(&self, id: &str) -> KeyRecord {
        self.kms.describe_key(&owner(), id).unwrap()
    }

    fn encrypt(&self, id: &str) -> Vec<u8> {
        self.kms.encrypt(&owner(), id, b"x", &Context::new()).unwrap().blob
    }

    fn opens(&self, blob: &[u8]) -> Result<(), KmsError> {
        let found = self.kms.decrypt(&owner(), blob, &Context::new())?;
        assert_eq!(found.plaintext.expose(), b"x");
        Ok(())
    }

    fn wrapped(&self, id: &str, material: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let algorithm = "RSAES_OAEP_SHA_256";
        let given = self.kms.parameters_for_import(&owner(), id, algorithm, "RSA_2048").unwrap();
        assert_eq!(given.expires, self.clock.now().plus(DAY));
        let wrapped = encrypt(&given.public_key, Padding::OaepSha256, material).unwrap();
        (wrapped, given.token)
    }

    fn give(&self, id: &str, pair: &(Vec<u8>, Vec<u8>), expires: i64) -> Result<(), KmsError> {
        let import = Import { wrapped: &pair.0, token: &pair.1, expires };
        self.kms.import_key_material(&owner(), id, import)
    }

    fn import(&self, id: &str, material: &[u8], expires: i64) -> Result<(), KmsError> {
        self.give(id, &self.wrapped(id, material), expires)
    }

    /// Names of the events that the service itself caused.
    fn own_events(&self) -> Vec<String> {
        let query = Query {
            direction: Direction::Forward,
            max_results: Some(50),
            start: Some(Timestamp::default()),
            ..Query::default()
        };
        let events = self.trail.lookup(&query).unwrap().events;
        let own = events.iter().filter(|event| event["eventType"] == "AliyunServiceEvent");
        own.map(|event| event["eventName"].as_str().unwrap().to_owned()).collect()
    }
}

fn owner() -> Caller {
    Caller {
        principal: Principal::Root { account: ACCOUNT.into() },
        request_id: Uuid::from_u128(0x1234),
        source: "unix:uid=0".into(),
        user_agent: "test".into(),
        route: Route::LOCAL,
        on_behalf_of: None,
    }
}

#[track_caller]
fn refused<T>(result: Result<T, KmsError>, code: &str) {
    assert_eq!(result.map(|_| "it went").unwrap_err().code(), code);
}

fn rotating(interval: &str) -> CreateKey {
    CreateKey { rotates: true, rotation_interval: Some(interval.into()), ..CreateKey::default() }
}

#[test]
fn a_key_rotates_by_its_date_and_old_blobs_open_for_ever() {
    let house = House::new();
    let id = house.make(rotating("7d"));
    let blob = house.encrypt(&id);
    let first = house.see(&id);
    assert_eq!(Rotation::of(&first), Rotation::Enabled(first.created.plus(DAY * 7)));
    house.clock.advance(DAY * 7 - Duration::from_secs(1));
    let swept = house.kms.run_due().unwrap();
    assert_eq!((swept.rotated, swept.next), (0, Some(first.created.plus(DAY * 7))));
    house.clock.advance(Duration::from_secs(1));
    let swept = house.kms.run_due().unwrap();
    assert_eq!((swept.rotated, swept.next), (1, Some(house.clock.now().plus(DAY * 7))));
    assert_eq!(house.own_events(), ["RotateKey"]);

    let second = house.see(&id);
    assert_ne!(second.primary_version, first.primary_version);
    assert_eq!(second.rotated, house.clock.now());
    let newer = house.encrypt(&id);
    assert_eq!(newer[..36], *second.primary_version.as_bytes());
    let versions = house.kms.list_key_versions(&owner(), &id, Paging::default()).unwrap();
    assert_eq!(versions.total, 2);

    let house = house.again();
    house.opens(&blob).unwrap();
    house.opens(&newer).unwrap();
    house.clock.advance(DAY * 7);
    assert_eq!(house.kms.run_due().unwrap().rotated, 1, "the date is in the catalog");

    // Only this moves data to the primary version.
    let none = Context::new();
    let source = Source::Blob { blob: &blob, context: &none };
    let moved = house.kms.re_encrypt(&owner(), source, &id, &none).unwrap();
    assert_eq!(moved.key_version, first.primary_version, "the version that decrypted");
    assert_eq!(moved.blob[..36], *house.see(&id).primary_version.as_bytes());
    house.opens(&moved.blob).unwrap();
}

#[test]
fn rotation_is_suspended_and_resumed_with_the_key() {
    let house = House::new();
    let id = house.make(rotating("30d"));
    let due = house.see(&id).created.plus(DAY * 30);
    house.kms.disable_key(&owner(), &id).unwrap();
    assert_eq!(Rotation::of(&house.see(&id)), Rotation::Suspended(due));
    house.clock.advance(DAY * 31);
    assert_eq!(house.kms.run_due().unwrap().rotated, 0);
    let before = house.see(&id).primary_version;
    house.kms.enable_key(&owner(), &id).unwrap();
    let after = house.see(&id);
    assert_ne!(after.primary_version, before, "its date had passed");
    assert_eq!(Rotation::of(&after), Rotation::Enabled(house.clock.now().plus(DAY * 30)));

    house.kms.schedule_key_deletion(&owner(), &id, 60).unwrap();
    house.clock.advance(DAY * 31);
    assert_eq!(house.kms.run_due().unwrap().rotated, 0);
    house.kms.cancel_key_deletion(&owner(), &id).unwrap();
    assert_ne!(house.see(&id).primary_version, after.primary_version);

    // A shorter interval puts the date into the past: at once.
    house.clock.advance(DAY * 10);
    let before = house.see(&id).primary_version;
    house.kms.update_rotation_policy(&owner(), &id, true, Some("168h")).unwrap();
    assert_ne!(house.see(&id).primary_version, before);
    house.kms.update_rotation_policy(&owner(), &id, false, None).unwrap();
    assert_eq!(Rotation::of(&house.see(&id)), Rotation::Disabled);
}

#[test]
fn what_does_not_rotate_says_so() {
    let house = House::new();
    let own = house.external();
    house.import(&own, &[1; 32], 0).unwrap();
    let pair = house.make(CreateKey { spec: Some("EC_P256".into()), ..CreateKey::default() });
    for id in [&own, &pair] {
        let turned_on = house.kms.update_rotation_policy(&owner(), id, true, Some("30d"));
        refused(turned_on, "Rejected.UnsupportedOperation");
    }
    let wanted = CreateKey { spec: Some("RSA_2048".into()), ..rotating("30d") };
    refused(house.kms.create_key(&owner(), &wanted), "Rejected.UnsupportedOperation");
    let wanted = CreateKey { rotation_interval: None, ..rotating("30d") };
    refused(house.kms.create_key(&owner(), &wanted), "MissingParameter");
    refused(house.kms.create_key(&owner(), &rotating("6d")), "InvalidParameter");
}

#[test]
fn a_key_pair_has_a_version_a_week_and_fifty_at_most() {
    let house = House::new();
    let id = house.make(CreateKey { spec: Some("EC_P256".into()), ..CreateKey::default() });
    let first = house.see(&id).primary_version;
    refused(house.kms.create_key_version(&owner(), &id), "Rejected.UnsupportedOperation");
    for _ in 1..50 {
        house.clock.advance(DAY * 7);
        let version = house.kms.create_key_version(&owner(), &id).unwrap();
        assert_eq!(version.created, house.clock.now());
    }
    house.clock.advance(DAY * 7);
    refused(house.kms.create_key_version(&owner(), &id), "Rejected.UnsupportedOperation");
    assert_eq!(house.see(&id).primary_version, first);
}

#[test]
fn own_material_is_imported_once_and_again_but_never_other() {
    let house = House::new();
    let id = house.external();
    assert_eq!(house.see(&id).state, KeyState::PendingImport);
    refused(house.kms.encrypt(&owner(), &id, b"x", &Context::new()), "Rejected.PendingImport");
    for wrong in [&[1; 31][..], &[1; 33], &[]] {
        refused(house.import(&id, wrong, 0), "InvalidKeyMaterial");
    }
    house.import(&id, &[1; 32], 0).unwrap();
    assert_eq!(house.see(&id).state, KeyState::Enabled);
    let blob = house.encrypt(&id);
    refused(house.import(&id, &[2; 32], 0), "InvalidKeyMaterial");
    house.import(&id, &[1; 32], 0).unwrap();

    house.kms.delete_key_material(&owner(), &id).unwrap();
    house.kms.delete_key_material(&owner(), &id).unwrap();
    assert_eq!(house.see(&id).state, KeyState::PendingImport);
    refused(house.opens(&blob), "Rejected.PendingImport");
    let house = house.again();
    refused(house.import(&id, &[2; 32], 0), "InvalidKeyMaterial");
    house.import(&id, &[1; 32], 0).unwrap();
    house.opens(&blob).unwrap();

    // The same material in another key is another key.
    let other = house.external();
    house.import(&other, &[1; 32], 0).unwrap();
    let mut foreign = blob;
    foreign[..36].copy_from_slice(house.see(&other).primary_version.as_bytes());
    refused(house.opens(&foreign), "InvalidParameter");

    // Material that is wrapped otherwise, or for another key.
    let (wrapped, token) = house.wrapped(&id, &[1; 32]);
    refused(house.give(&other, &(wrapped.clone(), token), 0), "InvalidImportToken");
    let (_, token) = house.wrapped(&id, &[1; 32]);
    refused(house.give(&id, &(wrapped, token), 0), "InvalidKeyMaterial");
    refused(house.import(&id, &[1; 32], -1), "InvalidParameter");
    refused(house.import(&id, &[1; 32], 1), "InvalidParameter");
    let plain = house.make(CreateKey::default());
    let asked =
        |spec, algorithm| house.kms.parameters_for_import(&owner(), &id, algorithm, spec).map(drop);
    refused(asked("EC_SM2", "RSAES_OAEP_SHA_256"), "InvalidParameter");
    refused(asked("RSA_2048", "SM2PKE"), "InvalidParameter");
    let elsewhere =
        house.kms.parameters_for_import(&owner(), &plain, "RSAES_OAEP_SHA_1", "RSA_2048");
    refused(elsewhere, "Unsupported.Origin");
}

#[test]
fn a_token_lives_a_day_and_through_a_restart() {
    let house = House::new();
    let id = house.external();
    let pair = house.wrapped(&id, &[1; 32]);
    let other = house.wrapped(&id, &[1; 32]);
    assert_ne!(pair.1, other.1, "every call makes a new pair");
    for at in [0, 1, 9, 10, 100, pair.1.len() - 1] {
        let mut changed = pair.clone();
        changed.1[at] ^= 1;
        refused(house.give(&id, &changed, 0), "InvalidImportToken");
    }
    for length in [0, 9, 21, 40] {
        let cut = (pair.0.clone(), pair.1[..length].to_vec());
        refused(house.give(&id, &cut, 0), "InvalidImportToken");
    }
    let house = house.again();
    house.clock.advance(DAY - Duration::from_secs(1));
    house.give(&id, &pair, 0).unwrap();
    house.give(&id, &pair, 0).unwrap();
    house.clock.advance(Duration::from_secs(1));
    refused(house.give(&id, &pair, 0), "ExpiredImportToken");
    assert_eq!(house.catalog.keys(Page::ALL).unwrap().total, 1);
}

#[test]
fn material_expires_at_its_moment_and_is_destroyed_by_the_sweep() {
    let house = House::new();
    let (id, doomed) = (house.external(), house.external());
    let expires = house.clock.now().plus(DAY).unix_seconds();
    for key in [&id, &doomed] {
        house.import(key, &[1; 32], expires).unwrap();
    }
    let blob = house.encrypt(&id);
    let stored = |house: &House| {
        let version = house.see(&id).primary_version;
        house.catalog.key_version(&version).unwrap().unwrap().wrapped_material
    };
    let before = stored(&house);
    house.kms.schedule_key_deletion(&owner(), &doomed, 30).unwrap();
    house.clock.advance(DAY);
    // Before any sweep.
    refused(house.opens(&blob), "Rejected.PendingImport");
    assert_eq!((house.see(&id).state, stored(&house)), (KeyState::PendingImport, before.clone()));
    let house = house.again();
    let swept = house.kms.run_due().unwrap();
    assert_eq!((swept.expired, swept.deleted), (2, 0));
    assert_eq!(house.own_events(), ["ExpireKeyMaterial"; 2]);
    assert_ne!(stored(&house), before);
    assert_eq!(house.see(&doomed).state, KeyState::PendingDeletion);
    assert_eq!(house.kms.run_due().unwrap().expired, 0);

    house.kms.cancel_key_deletion(&owner(), &doomed).unwrap();
    assert_eq!(house.see(&doomed).state, KeyState::PendingImport);
    house.import(&id, &[1; 32], 0).unwrap();
    house.opens(&blob).unwrap();
    house.clock.advance(DAY * 1000);
    assert_eq!(house.kms.run_due().unwrap().expired, 0);
    house.opens(&blob).unwrap();
}

#[test]
fn a_protected_key_is_not_scheduled_for_deletion() {
    let house = House::new();
    let id = house.make(CreateKey::default());
    let arn = house.kms.account().key_arn(&id);
    house.kms.set_deletion_protection(&owner(), &arn, true, Some("it is used")).unwrap();
    assert_eq!(house.see(&id).deletion_protected_why, "it is used");
    let attempt = || house.kms.schedule_key_deletion(&owner(), &id, 7);
    refused(attempt(), "Rejected.UnsupportedOperation");
    house.kms.set_deletion_protection(&owner(), &id, false, None).unwrap();
    assert_eq!(house.see(&id).deletion_protected_why, "");
    attempt().unwrap();
    let late = house.kms.set_deletion_protection(&owner(), &id, true, None);
    refused(late, "Rejected.PendingDeletion");
}

#[test]
fn what_the_first_release_stored_is_still_used() {
    // The files were made by another implementation of the formats.
    const ID: &str = "0b9c1d2e-3f40-4a5b-8c6d-7e8f90a1b2c3";
    let put = |house: &House, spec: &str, wrapped: &[u8], public_key: Option<&[u8]>| {
        let template = house.make(CreateKey { spec: Some(spec.into()), ..CreateKey::default() });
        let mut key = house.catalog.key(&template).unwrap().unwrap();
        let mut version = house.catalog.key_version(&key.primary_version).unwrap().unwrap();
        ID.clone_into(&mut key.key_id);
        ID.clone_into(&mut version.key_id);
        "7a1d0c4b-e2d5-4a00-9f1a-0123456789ab".clone_into(&mut version.version_id);
        key.primary_version.clone_from(&version.version_id);
        key.origin = if spec == "EC_P256" { "Aliyun_KMS" } else { "EXTERNAL" }.into();
        version.wrapped_material = wrapped.to_vec();
        version.public_key = public_key.map(<[u8]>::to_vec);
        house.catalog.apply(&[Operation::InsertKey(key, version)], &mut || Ok(())).unwrap();
    };
    // What is left of deleted material knows it again: 0, 1, 2, …
    let house = House::new();
    put(&house, "Aliyun_AES_256", include_bytes!("data/mark-v1.bin"), None);
    let material: Vec<u8> = (0..32).collect();
    refused(house.import(ID, &[0; 32], 0), "InvalidKeyMaterial");
    house.import(ID, &material, 0).unwrap();
    let account = ("account".to_owned(), ACCOUNT.to_owned());
    let bound: Context = [("disk".to_owned(), "d-1".to_owned()), account].into();
    let blob = include_bytes!("data/blob-v1.bin");
    let found = house.kms.decrypt(&owner(), blob, &bound).unwrap();
    assert_eq!(found.plaintext.expose(), b"what format 1 sealed is opened for ever");

    let house = House::new();
    let public = include_bytes!("data/pair-v1.pub");
    put(&house, "EC_P256", include_bytes!("data/pair-v1.bin"), Some(public));
    let version_id = house.see(ID).primary_version;
    let pair = Pair { key: ID, version_id: &version_id, algorithm: "ECDSA_SHA_256" };
    let none = Context::new();
    let signed = house.kms.asymmetric_sign(&owner(), pair, &[7; 32], &none).unwrap();
    assert_eq!(verify(public, Signing::Ecdsa, &[7; 32], &signed.signature), Ok(true));
}
