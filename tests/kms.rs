//! The published behaviour of KMS, through the public interface: real catalog, real trail, a clock
//! moved by hand.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{
    Catalog, CatalogError, KeyRecord, KeyState, KeyVersionRecord, Operation, Page,
};
use sealdisk::clock::{Clock, ManualClock, SeededEntropy, Timestamp};
use sealdisk::crypto::aead;
use sealdisk::kms::context::Context;
use sealdisk::kms::{
    Account, Action, CreateKey, DISK_CONSENT_TAG, DataKeys, ECS_KEY_ALIAS, KeyFilter, Kms,
    KmsError, KmsParts, Paging, blob, state,
};
use sealdisk::ram::{Caller, Principal, Ram, RamParts, Route};
use sealdisk::secret::Secret;
use sealdisk::token::Sealed;
use sealdisk::trail::files::{DirectoryFiles, SegmentFile, SegmentFiles};
use sealdisk::trail::{Direction, Query, Trail};
use serde_json::Value;
use uuid::Uuid;

const ACCOUNT: &str = "1000000000000001";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A daemon's worth of key management in a scratch directory.
struct House {
    kms: Kms,
    trail: Arc<Trail>,
    catalog: Arc<SqliteCatalog>,
    clock: Arc<ManualClock>,
    is_broken: Arc<AtomicBool>,
    scratch: tempfile::TempDir,
}

/// Real files whose writes fail once `is_broken`.
struct Breakable {
    real: DirectoryFiles,
    is_broken: Arc<AtomicBool>,
}

struct BreakableFile {
    real: Box<dyn SegmentFile>,
    is_broken: Arc<AtomicBool>,
}

impl SegmentFiles for Breakable {
    fn list(&self) -> io::Result<Vec<String>> {
        self.real.list()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let is_broken = self.is_broken.clone();
        Ok(Box::new(BreakableFile { real: self.real.open(name)?, is_broken }))
    }
    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        let is_broken = self.is_broken.clone();
        Ok(Box::new(BreakableFile { real: self.real.create(name, reserve)?, is_broken }))
    }
    fn head(&self, may_create: bool) -> io::Result<Box<dyn SegmentFile>> {
        self.real.head(may_create)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.real.path(name)
    }
}

impl SegmentFile for BreakableFile {
    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.real.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.real.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.real.sync()
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.real.cut(length)
    }
}

fn root_key() -> Secret {
    Secret::from_fn(32, |bytes| bytes.fill(0x42))
}

impl House {
    fn new() -> Self {
        Self::in_scratch(tempfile::tempdir().unwrap(), 1)
    }

    fn in_scratch(scratch: tempfile::TempDir, seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_767_582_245_000)));
        let entropy = Arc::new(SeededEntropy::new(seed));
        let is_broken = Arc::new(AtomicBool::new(false));
        let real = DirectoryFiles::lock(&scratch.path().join("trail")).unwrap();
        let files = Arc::new(Breakable { real, is_broken: is_broken.clone() });
        let key = sealdisk::kms::root::trail_key(&root_key());
        let trail = Arc::new(Trail::open_on(files, key, clock.clone(), entropy.clone()).unwrap());
        let catalog = Arc::new(SqliteCatalog::open(&scratch.path().join("catalog.db")).unwrap());
        let kms = Kms::open(KmsParts {
            catalog: catalog.clone(),
            trail: trail.clone(),
            ram: ram(&(catalog.clone() as Arc<dyn Catalog>), &(clock.clone() as _)),
            sealing_key: root_key(),
            clock: clock.clone(),
            entropy,
            account: account(),
            tokens: Vec::new(),
        });
        Self { kms: kms.unwrap(), trail, catalog, clock, is_broken, scratch }
    }

    fn key(&self) -> String {
        self.kms.create_key(&root(), &CreateKey::default()).unwrap().key_id
    }

    fn state(&self, key_id: &str) -> KeyState {
        self.catalog.key(key_id).unwrap().unwrap().state
    }

    /// Puts a key into a state, by the side door.
    fn force(&self, key_id: &str, state: KeyState) {
        let mut key = self.catalog.key(key_id).unwrap().unwrap();
        key.state = state;
        key.deletes = (state == KeyState::PendingDeletion)
            .then(|| sealdisk::clock::Clock::now(self.clock.as_ref()).plus(DAY * 7));
        self.catalog.apply(&[Operation::UpdateKey(key)], &mut || Ok(())).unwrap();
    }

    fn events(&self) -> Vec<Value> {
        let mut query = Query {
            direction: Direction::Forward,
            max_results: Some(50),
            start: Some(Timestamp::default()),
            ..Query::default()
        };
        let mut events = Vec::new();
        loop {
            let page = self.trail.lookup(&query).unwrap();
            events.extend(page.events);
            query.next_token = page.next_token;
            if query.next_token.is_none() {
                return events;
            }
        }
    }

    fn last_event(&self) -> Value {
        self.events().pop().unwrap()
    }

    fn journal(&self) -> String {
        std::fs::read_dir(self.scratch.path().join("trail"))
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect()
    }
}

fn ram(catalog: &Arc<dyn Catalog>, clock: &Arc<dyn Clock>) -> Arc<Ram> {
    let ram = Ram::new(RamParts {
        catalog: Arc::clone(catalog),
        clock: Arc::clone(clock),
        entropy: Arc::new(SeededEntropy::new(77)),
        key: sealdisk::kms::root::ram_key(&root_key()),
        account_id: ACCOUNT.into(),
    });
    ram.grant_ecs_role().unwrap();
    Arc::new(ram)
}

fn account() -> Account {
    Account { account_id: ACCOUNT.into(), region: "cn-hangzhou".into() }
}

fn caller(principal: Principal) -> Caller {
    Caller {
        principal,
        request_id: Uuid::from_u128(0x1234),
        source: "unix:uid=0".into(),
        user_agent: "test".into(),
        route: Route::LOCAL,
        on_behalf_of: None,
    }
}

fn root() -> Caller {
    caller(Principal::Root { account: ACCOUNT.into() })
}

fn stranger() -> Caller {
    caller(Principal::Root { account: "1000000000000002".into() })
}

fn ecs() -> Caller {
    Caller::ecs(Uuid::from_u128(0x5678))
}

fn context(pairs: &[(&str, &str)]) -> Context {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn none() -> Context {
    Context::new()
}

#[track_caller]
fn refused<T>(result: Result<T, KmsError>, code: &str, status: u16) -> KmsError {
    match result {
        Ok(_) => panic!("{code} expected"),
        Err(error) => {
            assert_eq!((error.code(), error.status()), (code, status), "{error}");
            error
        }
    }
}

// ---- keys -------------------------------------------------------------------------------------

#[test]
fn a_new_key_has_the_published_defaults() {
    let house = House::new();
    let wanted = CreateKey { description: "mine".into(), ..CreateKey::default() };
    let key = house.kms.create_key(&root(), &wanted).unwrap();
    assert!(Uuid::parse_str(&key.key_id).is_ok());
    assert_eq!(
        (key.spec.as_str(), key.origin.as_str(), key.protection.as_str(), key.creator.as_str()),
        ("Aliyun_AES_256", "Aliyun_KMS", "SOFTWARE", ACCOUNT)
    );
    assert_eq!(
        (key.state, key.deletes, key.description.as_str()),
        (KeyState::Enabled, None, "mine")
    );
    assert_eq!(house.kms.describe_key(&root(), &key.key_id).unwrap(), key);
    let versions = house.kms.list_key_versions(&root(), &key.key_id, Paging::default()).unwrap();
    assert_eq!((versions.total, &versions.items[0].version_id), (1, &key.primary_version));
    let version =
        house.kms.describe_key_version(&root(), &key.key_id, &key.primary_version).unwrap();
    assert_eq!(version.key_id, key.key_id);
    let other = house.key();
    refused(
        house.kms.describe_key_version(&root(), &other, &key.primary_version),
        "Forbidden.KeyVersionNotFound",
        404,
    );
}

#[test]
fn what_cannot_be_made_is_refused_by_its_parameter() {
    let house = House::new();
    let make = |wanted: CreateKey| house.kms.create_key(&root(), &wanted);
    let base = CreateKey::default;
    let error = refused(
        make(CreateKey { spec: Some("RSA_1024".into()), ..base() }),
        "InvalidParameter",
        400,
    );
    assert_eq!(error.message(), "The specified parameter \"KeySpec\" is not valid.");
    refused(
        make(CreateKey { usage: Some("SIGN/VERIFY".into()), ..base() }),
        "InvalidParameter",
        400,
    );
    refused(make(CreateKey { origin: Some("external".into()), ..base() }), "InvalidParameter", 400);
    for spec in ["Aliyun_AES_192", "Aliyun_AES_128", "Aliyun_SM4", "EC_SM2"] {
        let hardware = CreateKey { spec: Some(spec.into()), ..base() };
        refused(make(hardware), "Unsupported.ProtectionLevel", 400);
    }
    let external = CreateKey { origin: Some("EXTERNAL".into()), ..base() };
    let pair = CreateKey { spec: Some("EC_P256".into()), ..external.clone() };
    refused(make(pair), "Unsupported.Origin", 400);
    let inside = CreateKey { instance: Some(house.kms.instance_id()), ..external };
    refused(make(inside), "Unsupported.Origin", 400);
    let elsewhere = CreateKey { instance: Some("kst-other".into()), ..base() };
    refused(make(elsewhere), "Forbidden.DKMSInstanceNotFound", 404);
    refused(
        make(CreateKey { protection: Some("HSM".into()), ..base() }),
        "Unsupported.ProtectionLevel",
        400,
    );
    refused(
        make(CreateKey { description: "\u{e9}".repeat(8193), ..base() }),
        "InvalidParameter",
        400,
    );
    make(CreateKey { description: "\u{e9}".repeat(8192), ..base() }).unwrap();
    make(CreateKey {
        spec: Some("Aliyun_AES_256".into()),
        usage: Some("ENCRYPT/DECRYPT".into()),
        origin: Some("Aliyun_KMS".into()),
        protection: Some("SOFTWARE".into()),
        ..base()
    })
    .unwrap();
    assert_eq!(house.catalog.keys(Page::ALL).unwrap().total, 2);
}

/// Randomness that a use of a key waits for, between the look at the key's state and its end.
struct Held {
    real: SeededEntropy,
    is_held: AtomicBool,
    has_come: AtomicBool,
}

impl sealdisk::clock::Entropy for Held {
    fn fill(&self, bytes: &mut [u8]) {
        if self.is_held.load(Ordering::SeqCst) {
            self.has_come.store(true, Ordering::SeqCst);
        }
        while self.is_held.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        self.real.fill(bytes);
    }
}

#[test]
fn once_a_key_is_taken_away_no_use_of_it_is_under_way() {
    type Take = fn(&Kms, &str) -> Result<(), KmsError>;
    let ways: [(Take, KeyState); 2] = [
        (|kms, id| kms.disable_key(&root(), id), KeyState::Disabled),
        (|kms, id| kms.schedule_key_deletion(&root(), id, 7), KeyState::PendingDeletion),
    ];
    let house = House::new();
    for (take_away, state) in ways {
        let id = house.key();
        let held = Arc::new(Held {
            real: SeededEntropy::new(5),
            is_held: true.into(),
            has_come: false.into(),
        });
        let kms = Kms::open(KmsParts {
            catalog: house.catalog.clone(),
            trail: house.trail.clone(),
            ram: ram(&(house.catalog.clone() as Arc<dyn Catalog>), &(house.clock.clone() as _)),
            sealing_key: root_key(),
            clock: house.clock.clone(),
            entropy: held.clone(),
            account: account(),
            tokens: Vec::new(),
        })
        .unwrap();
        std::thread::scope(|scope| {
            let using = scope.spawn(|| kms.encrypt(&root(), &id, b"x", &none()));
            while !held.has_come.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let taking = scope.spawn(|| take_away(&kms, &id));
            while house.state(&id) != state {
                std::thread::yield_now();
            }
            // New uses are refused already; the call does not return before the old one has ended.
            assert!(kms.encrypt(&root(), &id, b"x", &none()).is_err());
            assert!(!taking.is_finished());
            held.is_held.store(false, Ordering::SeqCst);
            taking.join().unwrap().unwrap();
            using.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_key_goes_through_its_states() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    kms.disable_key(&root(), &id).unwrap();
    kms.disable_key(&root(), &id).unwrap();
    assert_eq!(house.state(&id), KeyState::Disabled);
    refused(kms.encrypt(&root(), &id, b"x", &none()), "Rejected.Disabled", 409);
    kms.enable_key(&root(), &id).unwrap();
    refused(kms.cancel_key_deletion(&root(), &id), "Rejected.StateModifiedFailed", 409);
    for days in [0, 6, 367] {
        refused(kms.schedule_key_deletion(&root(), &id, days), "InvalidParameter", 400);
    }
    kms.schedule_key_deletion(&root(), &id, 7).unwrap();
    let key = kms.describe_key(&root(), &id).unwrap();
    assert_eq!(key.deletes, Some(key.created.plus(DAY * 7)));
    refused(kms.enable_key(&root(), &id), "Rejected.StateModifiedFailed", 409);
    refused(kms.schedule_key_deletion(&root(), &id, 7), "Rejected.StateModifiedFailed", 409);
    refused(kms.update_key_description(&root(), &id, "x"), "Rejected.PendingDeletion", 409);
    refused(kms.generate_data_key(&root(), &id, 32, &none()), "Rejected.PendingDeletion", 409);
    kms.cancel_key_deletion(&root(), &id).unwrap();
    let key = kms.describe_key(&root(), &id).unwrap();
    assert_eq!((key.state, key.deletes), (KeyState::Enabled, None));
    kms.update_key_description(&root(), &id, "new").unwrap();
    assert_eq!(kms.describe_key(&root(), &id).unwrap().description, "new");
    refused(kms.update_key_description(&root(), &id, &"x".repeat(8193)), "InvalidParameter", 400);
}

#[test]
fn after_its_date_a_key_is_gone() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    let blob = kms.encrypt(&root(), &id, b"x", &none()).unwrap().blob;
    kms.create_alias(&root(), "alias/a", &id).unwrap();
    kms.schedule_key_deletion(&root(), &id, 7).unwrap();
    house.clock.advance(DAY * 7 - Duration::from_secs(1));
    assert_eq!(kms.run_due().unwrap().deleted, 0);
    refused(kms.decrypt(&root(), &blob, &none()), "Rejected.PendingDeletion", 409);
    house.clock.advance(Duration::from_secs(1));
    for _ in 0..2 {
        refused(kms.describe_key(&root(), &id), "Forbidden.KeyNotFound", 404);
        refused(kms.cancel_key_deletion(&root(), &id), "Forbidden.KeyNotFound", 404);
        refused(kms.decrypt(&root(), &blob, &none()), "Forbidden.KeyNotFound", 404);
        assert_eq!(kms.list_keys(&root(), &[], Paging::default()).unwrap().total, 0);
        kms.run_due().unwrap();
    }
    assert_eq!(house.catalog.key(&id).unwrap(), None);
    assert!(house.catalog.alias("alias/a").unwrap().is_none());
    let events = house.events();
    let deletion = events.iter().find(|event| event["eventName"] == "DeleteKey").unwrap();
    assert_eq!(deletion["eventType"], "AliyunServiceEvent");
    assert_eq!(deletion["userIdentity"]["type"], "system");
    assert_eq!(deletion["resourceName"], id.as_str());
}

/// The published matrix, written out: `+` goes, `=` is `Rejected.<state>`, `-` is
/// `Rejected.StateModifiedFailed`; columns Enabled, Disabled, PendingDeletion, PendingImport.
fn published(action: Action) -> &'static str {
    use Action::*;
    match action {
        Encrypt
        | Decrypt
        | GenerateDataKey
        | GenerateDataKeyWithoutPlaintext
        | ExportDataKey
        | GenerateAndExportDataKey
        | ReEncrypt
        | CreateKeyVersion
        | UpdateRotationPolicy
        | AsymmetricSign
        | AsymmetricVerify
        | AsymmetricEncrypt
        | AsymmetricDecrypt => "+===",
        EnableKey | DisableKey => "++--",
        ScheduleKeyDeletion => "++-+",
        CancelKeyDeletion => "--+-",
        CreateAlias => "++-+",
        UpdateAlias
        | UpdateKeyDescription
        | TagResource
        | UntagResource
        | TagResources
        | UntagResources
        | SetDeletionProtection
        | SetKeyPolicy => "++=+",
        ImportKeyMaterial => "++-+",
        CreateKey
        | CreateServiceKey
        | DescribeKey
        | ListKeys
        | DeleteKey
        | DeleteAlias
        | ListAliases
        | ListAliasesByKeyId
        | ListKeyVersions
        | DescribeKeyVersion
        | ListResourceTags
        | ListTagResources
        | GetParametersForImport
        | DeleteKeyMaterial
        | ExpireKeyMaterial
        | RotateKey
        | GetKeyPolicy
        | GetPublicKey
        | DescribeAccountKmsStatus
        | OpenKmsService
        | SetAccountStatus
        | ListKmsInstances
        | ListOrphans
        | DestroyOrphans => "++++",
    }
}

const STATES: [KeyState; 4] =
    [KeyState::Enabled, KeyState::Disabled, KeyState::PendingDeletion, KeyState::PendingImport];

#[test]
fn every_operation_in_every_state() {
    use Action::*;
    let all = [
        CreateKey,
        CreateServiceKey,
        DescribeKey,
        ListKeys,
        EnableKey,
        DisableKey,
        ScheduleKeyDeletion,
        CancelKeyDeletion,
        DeleteKey,
        UpdateKeyDescription,
        CreateAlias,
        UpdateAlias,
        DeleteAlias,
        ListAliases,
        ListAliasesByKeyId,
        ListKeyVersions,
        DescribeKeyVersion,
        Encrypt,
        Decrypt,
        GenerateDataKey,
        GenerateDataKeyWithoutPlaintext,
        ReEncrypt,
        ExportDataKey,
        GenerateAndExportDataKey,
        CreateKeyVersion,
        UpdateRotationPolicy,
        TagResource,
        UntagResource,
        TagResources,
        UntagResources,
        ListResourceTags,
        ListTagResources,
        GetParametersForImport,
        ImportKeyMaterial,
        DeleteKeyMaterial,
        ExpireKeyMaterial,
        RotateKey,
        ListOrphans,
        DestroyOrphans,
        SetDeletionProtection,
        GetKeyPolicy,
        SetKeyPolicy,
        AsymmetricSign,
        AsymmetricVerify,
        AsymmetricEncrypt,
        AsymmetricDecrypt,
        GetPublicKey,
        DescribeAccountKmsStatus,
        OpenKmsService,
        SetAccountStatus,
        ListKmsInstances,
    ];
    for action in all {
        for (state, mark) in STATES.into_iter().zip(published(action).chars()) {
            let expected = match mark {
                '+' => None,
                '=' => Some(format!("Rejected.{state}")),
                _ => Some("Rejected.StateModifiedFailed".to_owned()),
            };
            let verdict = state::check(action, state);
            let code = verdict.as_ref().err().map(|error| error.code().to_owned());
            assert_eq!(code, expected, "{action:?} in {state}");
            assert!(verdict.err().is_none_or(|error| error.status() == 409));
        }
    }
}

#[test]
fn every_call_asks_the_matrix() {
    use Action::*;
    type Attempt = fn(&House, &str, &[u8]) -> Result<(), KmsError>;
    let attempts: [(Action, Attempt); 14] = [
        (Encrypt, |h, id, _| h.kms.encrypt(&root(), id, b"x", &none()).map(drop)),
        (Decrypt, |h, _, blob| h.kms.decrypt(&root(), blob, &none()).map(drop)),
        (GenerateDataKey, |h, id, _| h.kms.generate_data_key(&root(), id, 32, &none()).map(drop)),
        (GenerateDataKeyWithoutPlaintext, |h, id, _| {
            h.kms.generate_data_key_without_plaintext(&root(), id, 32, &none()).map(drop)
        }),
        (EnableKey, |h, id, _| h.kms.enable_key(&root(), id)),
        (DisableKey, |h, id, _| h.kms.disable_key(&root(), id)),
        (ScheduleKeyDeletion, |h, id, _| h.kms.schedule_key_deletion(&root(), id, 7)),
        (CancelKeyDeletion, |h, id, _| h.kms.cancel_key_deletion(&root(), id)),
        (CreateAlias, |h, id, _| h.kms.create_alias(&root(), "alias/new", id)),
        (UpdateAlias, |h, id, _| h.kms.update_alias(&root(), "alias/old", id)),
        (DeleteAlias, |h, _, _| h.kms.delete_alias(&root(), "alias/old")),
        (UpdateKeyDescription, |h, id, _| h.kms.update_key_description(&root(), id, "d")),
        (DescribeKey, |h, id, _| h.kms.describe_key(&root(), id).map(drop)),
        (ListKeyVersions, |h, id, _| {
            h.kms.list_key_versions(&root(), id, Paging::default()).map(drop)
        }),
    ];
    for (action, attempt) in attempts {
        for state in STATES {
            let house = House::new();
            let id = house.key();
            let blob = house.kms.encrypt(&root(), &id, b"x", &none()).unwrap().blob;
            house.kms.create_alias(&root(), "alias/old", &id).unwrap();
            house.force(&id, state);
            let code = |result: Result<(), KmsError>| result.err().map(|error| error.code());
            let outcome = code(attempt(&house, &id, &blob));
            assert_eq!(outcome, code(state::check(action, state)), "{action:?} in {state}");
            let event = house.last_event();
            assert_eq!(event["eventName"], action.as_str());
            assert_eq!(event["errorCode"].as_str(), outcome, "{action:?} in {state}");
        }
    }
}

#[test]
fn keys_are_listed_in_pages_and_filtered() {
    let house = House::new();
    let ids: Vec<String> = (0..12).map(|_| house.key()).collect();
    let service = house.kms.service_key(&ecs()).unwrap();
    house.kms.disable_key(&root(), &ids[3]).unwrap();
    let list = |filters: &[(&str, &[&str])], number, size| {
        let filters: Vec<_> = filters
            .iter()
            .map(|(key, values)| KeyFilter {
                key: (*key).into(),
                values: values.iter().map(|value| (*value).into()).collect(),
            })
            .collect();
        house.kms.list_keys(&root(), &filters, Paging { number, size })
    };
    let found = |listed: sealdisk::catalog::Listed<KeyRecord>| -> Vec<String> {
        listed.items.into_iter().map(|key| key.key_id).collect()
    };
    let first = list(&[], 1, 10).unwrap();
    assert_eq!((first.total, found(first)), (13, ids[..10].to_vec()));
    assert_eq!(found(list(&[], 2, 10).unwrap())[2], service.key_id, "service keys are listed");
    assert!(found(list(&[], 3, 10).unwrap()).is_empty());
    assert!(found(list(&[], u32::MAX, 100).unwrap()).is_empty());
    assert_eq!(found(list(&[("KeyState", &["Disabled"])], 1, 10).unwrap()), ids[3..4]);
    assert_eq!(list(&[("KeyState", &["Disabled", "Enabled"])], 1, 10).unwrap().total, 13);
    assert_eq!(found(list(&[("CreatorType", &["Service"])], 1, 10).unwrap()), [service.key_id]);
    assert_eq!(
        list(&[("CreatorType", &["User"]), ("KeyState", &["Enabled"])], 1, 10).unwrap().total,
        11
    );
    refused(list(&[("Colour", &["red"])], 1, 10), "InvalidParameter", 400);
    for (number, size) in [(0, 10), (1, 0), (1, 101)] {
        refused(list(&[], number, size), "InvalidParameter", 400);
    }
}

#[test]
fn an_account_has_a_bounded_number_of_keys() {
    let house = House::new();
    house.kms.service_key(&ecs()).unwrap();
    for _ in 0..200 {
        house.key();
    }
    refused(house.kms.create_key(&root(), &CreateKey::default()), "Rejected.LimitExceeded", 400);
}

// ---- names ------------------------------------------------------------------------------------

#[test]
fn a_key_is_found_by_id_alias_and_resource_name_where_published() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    kms.create_alias(&root(), "alias/disk", &id).unwrap();
    let names = [
        id.clone(),
        "alias/disk".into(),
        account().key_arn(&id),
        account().alias_arn("alias/disk"),
    ];
    for name in &names {
        assert_eq!(kms.describe_key(&root(), name).unwrap().key_id, id);
        assert_eq!(kms.encrypt(&root(), name, b"x", &none()).unwrap().key_id, id);
        assert_eq!(kms.generate_data_key(&root(), name, 32, &none()).unwrap().key_id, id);
        kms.generate_data_key_without_plaintext(&root(), name, 32, &none()).unwrap();
        kms.list_key_versions(&root(), name, Paging::default()).unwrap();
    }
    for (name, code) in
        names[1..].iter().zip(["Unsupported.Alias", "InvalidParameter", "Unsupported.Alias"])
    {
        refused(kms.disable_key(&root(), name), code, 400);
        refused(kms.schedule_key_deletion(&root(), name, 7), code, 400);
        refused(kms.create_alias(&root(), "alias/other", name), code, 400);
        refused(kms.list_aliases_by_key_id(&root(), name, Paging::default()), code, 400);
    }
    assert_eq!(house.state(&id), KeyState::Enabled);
    for name in ["nonsense", "", "acs:kms:cn-beijing:1000000000000001:key/x", "alias"] {
        let missing = kms.encrypt(&root(), name, b"x", &none());
        assert!(missing.is_err(), "{name}");
    }
    refused(kms.describe_key(&root(), "nonsense"), "Forbidden.KeyNotFound", 404);
    refused(kms.describe_key(&root(), "alias/none"), "Forbidden.AliasNotFound", 404);
    let elsewhere = account().key_arn(&id).replace("cn-hangzhou", "cn-beijing");
    refused(kms.describe_key(&root(), &elsewhere), "Forbidden.KeyNotFound", 404);
    let foreign = account().key_arn(&id).replace(ACCOUNT, "1000000000000009");
    refused(kms.describe_key(&root(), &foreign), "Forbidden.NoPermission", 403);
}

#[test]
fn aliases_are_made_moved_and_removed() {
    let house = House::new();
    let (kms, one, two) = (&house.kms, house.key(), house.key());
    kms.create_alias(&root(), "alias/b", &one).unwrap();
    kms.create_alias(&root(), "alias/a", &one).unwrap();
    refused(kms.create_alias(&root(), "alias/a", &two), "AliasAlreadyExists", 400);
    kms.update_alias(&root(), "alias/a", &two).unwrap();
    assert_eq!(kms.describe_key(&root(), "alias/a").unwrap().key_id, two);
    refused(kms.update_alias(&root(), "alias/none", &two), "Forbidden.AliasNotFound", 404);
    refused(kms.update_alias(&root(), "alias/a", "none"), "Forbidden.KeyNotFound", 404);
    let listed = kms.list_aliases(&root(), Paging::default()).unwrap();
    let names: Vec<_> = listed.items.iter().map(|alias| alias.name.as_str()).collect();
    assert_eq!((listed.total, names), (2, vec!["alias/a", "alias/b"]));
    assert_eq!(kms.list_aliases_by_key_id(&root(), &one, Paging::default()).unwrap().total, 1);
    kms.delete_alias(&root(), "alias/a").unwrap();
    refused(kms.delete_alias(&root(), "alias/a"), "Forbidden.AliasNotFound", 404);
    assert_eq!(house.state(&two), KeyState::Enabled);
}

#[test]
fn an_alias_has_a_published_form() {
    let house = House::new();
    let id = house.key();
    let make = |name: &str| house.kms.create_alias(&root(), name, &id);
    for name in ["", "alias", "alias/", "disk", "Alias/x", "alias/a b", "alias/\u{e9}", "alias/x:y"]
    {
        refused(make(name), "InvalidParameter", 400);
    }
    refused(make(&format!("alias/{}", "x".repeat(256))), "InvalidParameter", 400);
    make(&format!("alias/{}", "x".repeat(255))).unwrap();
    for name in ["alias/acs", "alias/acs/ecs", "alias/acs/rds", "alias/acsx"] {
        refused(make(name), "InvalidParameter", 400);
    }
    make("alias/A-b_9/c").unwrap();
}

// ---- use --------------------------------------------------------------------------------------

#[test]
fn what_is_encrypted_comes_back() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    for length in [1, 32, 6144] {
        let plain = vec![7; length];
        let made = kms.encrypt(&root(), &id, &plain, &none()).unwrap();
        let found = kms.decrypt(&root(), &made.blob, &none()).unwrap();
        assert_eq!(found.plaintext.expose(), plain);
        assert_eq!((&found.key_id, &found.key_version), (&id, &made.key_version));
    }
    refused(kms.encrypt(&root(), &id, &[], &none()), "InvalidParameter", 400);
    refused(kms.encrypt(&root(), &id, &[0; 6145], &none()), "InvalidParameter", 400);
    let same: Vec<_> =
        (0..2).map(|_| kms.encrypt(&root(), &id, b"same", &none()).unwrap().blob).collect();
    assert_ne!(same[0], same[1]);
}

#[test]
fn a_data_key_is_random_wrapped_and_as_long_as_asked() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    for bytes in [1, 16, 32, 64, 1024] {
        let made = kms.generate_data_key(&root(), &id, bytes, &none()).unwrap();
        assert_eq!(made.plaintext.len(), bytes);
        let found = kms.decrypt(&root(), &made.blob, &none()).unwrap();
        assert!(found.plaintext == made.plaintext);
        // As Alibaba's: the version's UUID in text leads. 32 bytes make a blob of 36 + 69.
        assert_eq!(std::str::from_utf8(&made.blob[..36]), Ok(made.key_version.as_str()));
        assert_eq!(made.blob.len(), 36 + 37 + bytes);
    }
    for bytes in [0, 1025, usize::MAX] {
        refused(kms.generate_data_key(&root(), &id, bytes, &none()), "InvalidParameter", 400);
    }
    let bound = context(&[("disk", "d-1")]);
    let wrapped = kms.generate_data_key_without_plaintext(&root(), &id, 64, &bound).unwrap();
    assert_eq!(kms.decrypt(&root(), &wrapped.blob, &bound).unwrap().plaintext.len(), 64);
}

#[test]
fn a_context_must_be_the_same_map() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    let given = context(&[("disk", "d-1"), ("layer", "l-1")]);
    let made = kms.generate_data_key(&root(), &id, 32, &given).unwrap();
    kms.decrypt(&root(), &made.blob, &context(&[("layer", "l-1"), ("disk", "d-1")])).unwrap();
    let mut changed_blob = made.blob.clone();
    *changed_blob.last_mut().unwrap() ^= 1;
    let answer = |blob: &[u8], context: &Context| {
        let error = refused(kms.decrypt(&root(), blob, context), "InvalidParameter", 400);
        (error.message(), error.to_string())
    };
    let changed = answer(&changed_blob, &given);
    assert_eq!(changed.0, "The specified parameter \"CiphertextBlob\" is not valid.");
    for wrong in [
        none(),
        context(&[("disk", "d-1")]),
        context(&[("disk", "d-2"), ("layer", "l-1")]),
        context(&[("disk", "d-1l"), ("ayer", "l-1")]),
        context(&[("disk", "d-1"), ("layer", "l-1"), ("more", "")]),
    ] {
        assert_eq!(answer(&made.blob, &wrong), changed, "no oracle");
    }
    let long = context(&[("k", &"v".repeat(8192))]);
    for result in [
        kms.encrypt(&root(), &id, b"x", &long).map(drop),
        kms.decrypt(&root(), &made.blob, &long).map(drop),
        kms.generate_data_key(&root(), &id, 32, &long).map(drop),
    ] {
        let error = refused(result, "InvalidParameter", 400);
        assert!(error.message().contains("EncryptionContext"));
    }
}

#[test]
fn a_blob_that_is_none_of_ours_is_told_from_one_of_a_foreign_key() {
    let (house, other) = (House::new(), House::in_scratch(tempfile::tempdir().unwrap(), 2));
    let foreign = other.kms.encrypt(&root(), &other.key(), b"x", &none()).unwrap().blob;
    refused(house.kms.decrypt(&root(), &foreign, &none()), "Forbidden.KeyNotFound", 404);
    for junk in [&b""[..], b"x", &[0; 200], &foreign[..60]] {
        refused(house.kms.decrypt(&root(), junk, &none()), "InvalidParameter", 400);
    }
}

#[test]
fn decryption_tries_the_named_version_and_no_other() {
    let house = House::new();
    let (kms, one, two) = (&house.kms, house.key(), house.key());
    let made = kms.encrypt(&root(), &one, b"x", &none()).unwrap();
    let two_version = house.catalog.key(&two).unwrap().unwrap().primary_version;
    let mut renamed = made.blob.clone();
    renamed[..36].copy_from_slice(two_version.as_bytes());
    refused(kms.decrypt(&root(), &renamed, &none()), "InvalidParameter", 400);
    // A second version: encryption moves on, old blobs still open with the first.
    let first = house.catalog.key_version(&made.key_version).unwrap().unwrap();
    let mut key = house.catalog.key(&one).unwrap().unwrap();
    let swapped = KeyVersionRecord { version_id: Uuid::from_u128(7).to_string(), ..first };
    key.primary_version.clone_from(&swapped.version_id);
    let change = [Operation::InsertKeyVersion(swapped), Operation::UpdateKey(key)];
    house.catalog.apply(&change, &mut || Ok(())).unwrap();
    assert_eq!(kms.decrypt(&root(), &made.blob, &none()).unwrap().plaintext.expose(), b"x");
    // Its material was wrapped for the first version: copied to another it is damage, by name.
    let error = refused(kms.encrypt(&root(), &one, b"x", &none()), "InternalFailure", 500);
    assert!(error.to_string().contains(&Uuid::from_u128(7).to_string()), "{error}");
    assert_eq!(error.message(), "Internal failure.");
}

#[test]
fn what_format_1_stored_is_still_opened() {
    // Both files were made by another implementation of the formats.
    let house = House::new();
    let mut key = house.catalog.key(&house.key()).unwrap().unwrap();
    key.key_id = "0b9c1d2e-3f40-4a5b-8c6d-7e8f90a1b2c3".into();
    key.primary_version = "7a1d0c4b-e2d5-4a00-9f1a-0123456789ab".into();
    let version = KeyVersionRecord {
        version_id: key.primary_version.clone(),
        key_id: key.key_id.clone(),
        created: key.created,
        store: "software".into(),
        wrapped_material: include_bytes!("data/material-v1.bin").to_vec(),
        public_key: None,
    };
    house.catalog.apply(&[Operation::InsertKey(key, version)], &mut || Ok(())).unwrap();
    let bound = context(&[("disk", "d-1"), ("account", ACCOUNT)]);
    let found = house.kms.decrypt(&root(), include_bytes!("data/blob-v1.bin"), &bound).unwrap();
    assert_eq!(found.plaintext.expose(), b"what format 1 sealed is opened for ever");
}

// ---- the service key --------------------------------------------------------------------------

#[test]
fn the_service_key_is_made_once_and_is_the_services() {
    let house = House::new();
    let kms = &house.kms;
    let key = kms.service_key(&root()).unwrap();
    let creation = house.last_event();
    assert_eq!(creation["eventName"], "CreateKey");
    assert_eq!(creation["eventType"], "AliyunServiceEvent");
    assert_eq!(creation["userIdentity"]["invokedBy"], "ecs.aliyuncs.com");
    assert_eq!(creation["requestId"], root().request_id.to_string());
    assert_eq!(kms.service_key(&ecs()).unwrap(), key);
    assert_eq!(key.creator, "Ecs");
    assert_eq!(kms.describe_key(&root(), ECS_KEY_ALIAS).unwrap(), key);
    let aliases = kms.list_aliases_by_key_id(&root(), &key.key_id, Paging::default()).unwrap();
    assert_eq!(aliases.items[0].name, ECS_KEY_ALIAS);

    let made = kms.generate_data_key(&ecs(), ECS_KEY_ALIAS, 64, &none()).unwrap();
    assert_eq!(house.last_event()["userIdentity"]["type"], "system");
    kms.decrypt(&ecs(), &made.blob, &none()).unwrap();
    kms.encrypt(&ecs(), &key.key_id, b"x", &none()).unwrap();
    kms.describe_key(&ecs(), &key.key_id).unwrap();

    let id = key.key_id.as_str();
    refused(kms.generate_data_key(&root(), id, 32, &none()), "Forbidden.NoPermission", 403);
    refused(kms.encrypt(&root(), ECS_KEY_ALIAS, b"x", &none()), "Forbidden.NoPermission", 403);
    refused(kms.decrypt(&root(), &made.blob, &none()), "Forbidden.NoPermission", 403);
    let user_key = house.key();
    for managed in [
        kms.enable_key(&root(), id),
        kms.disable_key(&root(), id),
        kms.schedule_key_deletion(&root(), id, 7),
        kms.cancel_key_deletion(&root(), id),
        kms.update_key_description(&root(), id, "mine"),
        kms.create_alias(&root(), "alias/mine", id),
        kms.update_alias(&root(), ECS_KEY_ALIAS, &user_key),
        kms.delete_alias(&root(), ECS_KEY_ALIAS),
    ] {
        refused(managed, "Rejected.UnsupportedOperation", 400);
    }
    assert_eq!(kms.service_key(&ecs()).unwrap(), key, "nothing of it was changed");
}

#[test]
fn eight_first_users_make_one_service_key() {
    let house = House::new();
    let start = std::sync::Barrier::new(8);
    let ids: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    house.kms.service_key(&ecs()).unwrap().key_id
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(house.catalog.keys(Page::ALL).unwrap().total, 1);
    assert_eq!(house.events().len(), 1, "its making is recorded once");
}

// ---- who may ----------------------------------------------------------------------------------

#[test]
fn strangers_are_told_nothing() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    let blob = kms.encrypt(&root(), &id, b"x", &none()).unwrap().blob;
    let mut answers = Vec::new();
    for result in [
        kms.describe_key(&stranger(), &id).map(drop),
        kms.describe_key(&stranger(), "none").map(drop),
        kms.describe_key(&stranger(), "alias/none").map(drop),
        kms.encrypt(&stranger(), &id, b"x", &none()).map(drop),
        kms.decrypt(&stranger(), &blob, &none()).map(drop),
        kms.decrypt(&stranger(), b"junk", &none()).map(drop),
        kms.disable_key(&stranger(), &id),
        kms.create_alias(&stranger(), "alias/a", &id),
        kms.delete_alias(&stranger(), "alias/a"),
        kms.create_key(&stranger(), &CreateKey::default()).map(drop),
        kms.list_keys(&stranger(), &[], Paging::default()).map(drop),
        kms.list_aliases(&stranger(), Paging::default()).map(drop),
        kms.list_key_versions(&stranger(), &id, Paging::default()).map(drop),
    ] {
        answers.push(refused(result, "Forbidden.NoPermission", 403).to_string());
        assert_eq!(house.last_event()["errorCode"], "Forbidden.NoPermission");
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[test]
fn the_disk_service_uses_customer_keys_through_its_role() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    let untagged = kms.generate_data_key(&ecs(), &id, 64, &none());
    refused(untagged, "Forbidden.NoPermission", 403);
    let consent = (DISK_CONSENT_TAG.to_owned(), "True".to_owned());
    kms.tag(&root(), Action::TagResource, &[&id], &[consent]).unwrap();
    let made = kms.generate_data_key(&ecs(), &id, 64, &none()).unwrap();
    let event = house.last_event();
    assert_eq!(event["userIdentity"]["type"], "assumed-role");
    assert_eq!(event["userIdentity"]["accountId"], ACCOUNT);
    assert_eq!(event["sourceIpAddress"], "ecs.aliyuncs.com");
    kms.decrypt(&ecs(), &made.blob, &none()).unwrap();
    refused(kms.disable_key(&ecs(), &id), "Forbidden.NoPermission", 403);
    refused(kms.schedule_key_deletion(&ecs(), &id, 7), "Forbidden.NoPermission", 403);
    // Its role may look, as the published pattern of such roles has it.
    assert_eq!(kms.list_keys(&ecs(), &[], Paging::default()).unwrap().total, 1);
    let refused = kms.encrypt(&stranger_service(), &id, b"x", &none());
    assert!(matches!(refused, Err(KmsError::NoPermission)));
}

#[test]
fn the_disk_service_wraps_a_data_key_anew_where_it_may_decrypt_and_encrypt() {
    let house = House::new();
    let (kms, from, to) = (&house.kms, house.key(), house.key());
    let (old, new) = (context(&[("size", "1")]), context(&[("size", "2")]));
    let consent = [(DISK_CONSENT_TAG.to_owned(), "true".to_owned())];
    kms.tag(&root(), Action::TagResource, &[&from], &consent).unwrap();
    let made = kms.generate_data_key(&ecs(), &from, 64, &old).unwrap();
    let again = |blob: &[u8], bound_to: &Context, key: &str| {
        DataKeys::re_encrypt(kms, &ecs(), (blob, bound_to), key, &new)
    };
    refused(again(&made.blob, &old, &to), "Forbidden.NoPermission", 403);
    assert_eq!(house.last_event()["eventName"], "ReEncrypt");
    kms.tag(&root(), Action::TagResource, &[&to], &consent).unwrap();
    let moved = again(&made.blob, &old, &to).unwrap();
    let primary = house.catalog.key(&to).unwrap().unwrap().primary_version;
    assert_eq!((&moved.key_id, &moved.key_version), (&to, &primary));
    assert_eq!(blob::leading_version(&moved.blob), Some(primary.as_str()));
    let opened = kms.decrypt(&ecs(), &moved.blob, &new).unwrap();
    assert_eq!(opened.plaintext.expose(), made.plaintext.expose());
    refused(kms.decrypt(&ecs(), &moved.blob, &old), "InvalidParameter", 400);
    refused(again(&made.blob, &new, &to), "InvalidParameter", 400);
    // The same key, once it has a newer version.
    kms.update_rotation_policy(&root(), &from, true, Some("604800s")).unwrap();
    house.clock.advance(DAY * 8);
    assert_eq!(kms.run_due().unwrap().rotated, 1);
    let newest = house.catalog.key(&from).unwrap().unwrap().primary_version;
    assert_ne!(newest, made.key_version);
    assert_eq!(again(&made.blob, &old, &from).unwrap().key_version, newest);
    // The service's own key, and nobody but the service.
    let own = kms.service_key(&ecs()).unwrap().key_id;
    assert_eq!(again(&made.blob, &old, &own).unwrap().key_id, own);
    let other = DataKeys::re_encrypt(kms, &stranger_service(), (&made.blob, &old), &to, &new);
    refused(other, "Forbidden.NoPermission", 403);
    kms.disable_key(&root(), &to).unwrap();
    refused(again(&made.blob, &old, &to), "Rejected.Disabled", 409);
}

fn stranger_service() -> Caller {
    caller(Principal::Service { name: "rds.aliyuncs.com" })
}

// ---- the trail --------------------------------------------------------------------------------

#[test]
fn a_use_is_recorded_with_what_it_was_for_and_without_secrets() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    let bound = context(&[("disk", "d-1")]);
    let made = kms.generate_data_key(&root(), &id, 32, &bound).unwrap();
    let event = house.last_event();
    assert_eq!(event["eventName"], "GenerateDataKey");
    assert_eq!(event["eventRW"], "Write");
    assert_eq!(event["requestId"], root().request_id.to_string());
    assert_eq!(event["userIdentity"]["type"], "root-account");
    assert_eq!(event["requestParameters"]["KeyId"], id.as_str());
    assert_eq!(event["requestParameters"]["EncryptionContext"], r#"{"disk":"d-1"}"#);
    assert_eq!(event["responseElements"]["KeyVersionId"], made.key_version.as_str());
    assert_eq!(event["referencedResources"]["ACS::KMS::Key"][0], id.as_str());
    kms.encrypt(&root(), &id, b"hunter2hunter2", &none()).unwrap();
    kms.decrypt(&root(), &made.blob, &bound).unwrap();
    kms.decrypt(&root(), &made.blob, &none()).unwrap_err();
    kms.describe_key(&root(), &id).unwrap();
    assert_eq!(house.last_event()["eventRW"], "Read");
    let names: Vec<_> = house.events().iter().map(|event| event["eventName"].clone()).collect();
    assert_eq!(
        names,
        ["CreateKey", "GenerateDataKey", "Encrypt", "Decrypt", "Decrypt", "DescribeKey"]
    );
    let journal = house.journal();
    let hex: String = made.plaintext.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD;
    for secret in [
        "hunter2".to_owned(),
        hex,
        base64.encode(made.plaintext.expose()),
        base64.encode(&made.blob)[..60].to_owned(),
        "\"Plaintext\"".into(),
        "\"CiphertextBlob\"".into(),
    ] {
        assert!(!journal.contains(&secret), "{secret}");
    }
}

#[test]
fn what_cannot_be_recorded_is_not_done() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    kms.create_alias(&root(), "alias/a", &id).unwrap();
    let blob = kms.encrypt(&root(), &id, b"x", &none()).unwrap().blob;
    let before = (house.catalog.keys(Page::ALL).unwrap().items, house.events().len());
    house.is_broken.store(true, Ordering::SeqCst);
    let unavailable = |result: Result<(), KmsError>| {
        refused(result, "ServiceUnavailableTemporary", 503);
    };
    unavailable(kms.create_key(&root(), &CreateKey::default()).map(drop));
    unavailable(kms.disable_key(&root(), &id));
    unavailable(kms.schedule_key_deletion(&root(), &id, 7));
    unavailable(kms.update_key_description(&root(), &id, "x"));
    unavailable(kms.create_alias(&root(), "alias/b", &id));
    unavailable(kms.delete_alias(&root(), "alias/a"));
    unavailable(kms.service_key(&ecs()).map(drop));
    unavailable(kms.encrypt(&root(), &id, b"x", &none()).map(drop));
    unavailable(kms.decrypt(&root(), &blob, &none()).map(drop));
    unavailable(kms.generate_data_key(&root(), &id, 32, &none()).map(drop));
    unavailable(kms.describe_key(&root(), &id).map(drop));
    unavailable(kms.list_keys(&root(), &[], Paging::default()).map(drop));
    // Refusals too: without a record no answer but this one.
    unavailable(kms.describe_key(&stranger(), &id).map(drop));
    unavailable(kms.describe_key(&root(), "none").map(drop));
    // Mended or not, the trail stays shut.
    house.is_broken.store(false, Ordering::SeqCst);
    unavailable(kms.enable_key(&root(), &id));
    let after = (house.catalog.keys(Page::ALL).unwrap().items, house.events().len());
    assert_eq!(before, after);
    assert!(house.catalog.alias("alias/a").unwrap().is_some());
    assert!(house.catalog.alias("alias/b").unwrap().is_none());
    assert!(house.catalog.alias(ECS_KEY_ALIAS).unwrap().is_none());
}

#[test]
fn a_refusal_before_the_operation_is_recorded_too() {
    let house = House::new();
    let error = KmsError::MissingParameter("KeyId");
    let answer = house.kms.refuse(&root(), Action::Encrypt, error);
    assert_eq!(answer.message(), "The parameter \"KeyId\" is needed but not provided.");
    assert_eq!(house.last_event()["errorCode"], "MissingParameter");
    house.is_broken.store(true, Ordering::SeqCst);
    let answer = house.kms.refuse(&root(), Action::Encrypt, KmsError::MissingParameter("KeyId"));
    assert_eq!(answer.code(), "ServiceUnavailableTemporary");
}

#[test]
fn keys_outlive_a_restart() {
    let house = House::new();
    let id = house.key();
    let blob = house.kms.encrypt(&root(), &id, b"x", &none()).unwrap().blob;
    let House { kms, trail, catalog, scratch, .. } = house;
    drop((kms, trail, catalog));
    let house = House::in_scratch(scratch, 3);
    assert_eq!(house.kms.decrypt(&root(), &blob, &none()).unwrap().plaintext.expose(), b"x");
}

// ---- errors -----------------------------------------------------------------------------------

#[test]
fn no_error_tells_a_secret() {
    let house = House::new();
    let (kms, id) = (&house.kms, house.key());
    let bound = context(&[("disk", "d-1")]);
    let made = kms.generate_data_key(&root(), &id, 32, &bound).unwrap();
    let version = house.catalog.key_version(&made.key_version).unwrap().unwrap();
    let texts = [
        format!("{made:?}").replace(&format!("{:?}", made.blob), ""),
        format!("{kms:?}"),
        format!("{:?}", kms.decrypt(&root(), &made.blob, &none()).unwrap_err()),
        format!("{:?}", kms.encrypt(&root(), &id, &[], &none()).unwrap_err()),
        format!("{:?}", KmsError::DamagedMaterial { version_id: version.version_id }),
    ];
    let decimal = format!("{:?}", made.plaintext.expose());
    for text in texts {
        assert!(!text.contains(decimal.trim_matches(['[', ']'])), "{text}");
        assert!(!text.contains(&"66, ".repeat(4)) && !text.contains("42424242"), "{text}");
    }
}

#[test]
fn every_error_has_a_published_code_and_a_message() {
    let all = [
        (KmsError::KeyNotFound, "Forbidden.KeyNotFound", 404),
        (KmsError::KeyVersionNotFound, "Forbidden.KeyVersionNotFound", 404),
        (KmsError::AliasNotFound, "Forbidden.AliasNotFound", 404),
        (KmsError::NoPermission, "Forbidden.NoPermission", 403),
        (KmsError::MissingParameter("KeyId"), "MissingParameter", 400),
        (KmsError::InvalidParameter("KeyId"), "InvalidParameter", 400),
        (KmsError::AliasAlreadyExists, "AliasAlreadyExists", 400),
        (KmsError::LimitExceeded, "Rejected.LimitExceeded", 400),
        (KmsError::UnsupportedOperation, "Rejected.UnsupportedOperation", 400),
        (KmsError::Disabled, "Rejected.Disabled", 409),
        (KmsError::PendingDeletion, "Rejected.PendingDeletion", 409),
        (KmsError::PendingImport, "Rejected.PendingImport", 409),
        (KmsError::StateModifiedFailed, "Rejected.StateModifiedFailed", 409),
        (KmsError::Catalog(CatalogError::NotFound), "InternalFailure", 500),
    ];
    for (error, code, status) in all {
        assert_eq!((error.code(), error.status()), (code, status));
        assert!(!error.message().is_empty() && error.to_string().starts_with(code));
    }
    assert_eq!(KmsError::KeyNotFound.message(), "The specified Key is not found.");
    assert_eq!(
        KmsError::NoPermission.message(),
        "This operation is forbidden by permission system."
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = blob::parse(&bytes);
    }

    #[test]
    fn any_change_of_a_blob_is_refused(
        plain in prop::collection::vec(any::<u8>(), 1..100),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let key = Secret::zeroed(32);
        let id = Uuid::from_u128(1).to_string();
        let encrypt = |data: &[u8]| {
            Ok(Sealed { iv: [0; 12], bytes: aead::seal(&key, [0; 12], data, &plain) })
        };
        let open = |iv, data: &[u8], sealed: &[u8]| Ok(aead::open(&key, iv, data, sealed).ok());
        let made = blob::seal(&id, &none(), encrypt).unwrap();
        let opened = blob::parse(&made).unwrap().open(&none(), open).unwrap();
        prop_assert_eq!(opened.expose(), &plain[..]);
        let mut changed = made;
        *at.get_mut(&mut changed) ^= flip;
        let opened = blob::parse(&changed).map(|blob| blob.open(&none(), open));
        prop_assert!(opened.is_none_or(|opened| opened.is_err()));
    }
}
