//! Disks over real files, a real catalog and a real KMS whose keys are in a catalog of their own,
//! so that the catalog of the disks can be lost without the keys.

#![allow(unreachable_pub, reason = "a part of one test file")]

use std::path::PathBuf;
use std::sync::Arc;

use sealdisk::catalog::Catalog;
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::clock::{ManualClock, SeededEntropy, Timestamp};
use sealdisk::disk::create::Source;
use sealdisk::disk::{CreateDisk, Disks, DisksParts, StackSettings, Waiting};
use sealdisk::kms::{Account, Action, CreateKey, DISK_CONSENT_TAG, Kms, KmsParts};
use sealdisk::layer::{LayerHeader, Presence, read_header};
use sealdisk::ram::{Caller, Principal, Ram, RamParts, Route};
use sealdisk::secret::Secret;
use sealdisk::storage::Durability;
use sealdisk::storage::file::FileStorage;
use sealdisk::storage::store::{FileStore, LayerStore};
use sealdisk::trail::{Direction, Query, Trail};
use sealdisk::units::{ByteCount, ByteOffset};
use serde_json::Value;
use uuid::Uuid;

const ACCOUNT: &str = "1000000000000001";

/// Size of every disk here.
pub const SIZE: usize = 1 << 20;

pub struct House {
    pub folder: tempfile::TempDir,
    pub kms: Arc<Kms>,
    pub clock: Arc<ManualClock>,
    trail: Arc<Trail>,
    ram: Arc<Ram>,
    entropy: Arc<SeededEntropy>,
}

fn account() -> Account {
    Account { account_id: ACCOUNT.into(), region: "cn-hangzhou".into() }
}

pub fn owner() -> Caller {
    Caller {
        principal: Principal::Root { account: ACCOUNT.into() },
        request_id: Uuid::from_u128(1),
        source: "unix:uid=0".into(),
        user_agent: "test".into(),
        route: Route::LOCAL,
        on_behalf_of: None,
    }
}

impl House {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("layers")).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_767_582_245_000)));
        let entropy = Arc::new(SeededEntropy::new(11));
        let root_key = || Secret::from_fn(32, |bytes| bytes.fill(0x42));
        let keys: Arc<dyn Catalog> =
            Arc::new(SqliteCatalog::open(&folder.path().join("keys.db")).unwrap());
        let trail = Trail::open(
            &folder.path().join("trail"),
            sealdisk::kms::root::trail_key(&root_key()),
            clock.clone(),
            entropy.clone(),
        );
        let trail = Arc::new(trail.unwrap());
        let ram = Ram::new(RamParts {
            catalog: keys.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            key: sealdisk::kms::root::ram_key(&root_key()),
            account_id: ACCOUNT.into(),
        });
        ram.grant_ecs_role().unwrap();
        let ram = Arc::new(ram);
        let kms = Kms::open(KmsParts {
            catalog: keys,
            trail: trail.clone(),
            ram: ram.clone(),
            sealing_key: root_key(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            account: account(),
            tokens: Vec::new(),
        });
        Self { folder, kms: Arc::new(kms.unwrap()), clock, trail, ram, entropy }
    }

    /// The disks over the catalog of this name, which is made if it is not there.
    pub fn disks(&self, catalog: &str) -> Arc<Disks> {
        self.disks_in(catalog, Arc::new(FileStore::new(&self.layers())))
    }

    /// The same with their layers in `store`.
    pub fn disks_in(&self, catalog: &str, store: Arc<dyn LayerStore>) -> Arc<Disks> {
        let catalog = SqliteCatalog::open(&self.folder.path().join(catalog)).unwrap();
        Arc::new(Disks::new(DisksParts {
            catalog: Arc::new(catalog),
            trail: self.trail.clone(),
            kms: self.kms.clone(),
            ram: self.ram.clone(),
            store,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            account: account(),
            stack: StackSettings::default(),
        }))
    }

    pub fn layers(&self) -> PathBuf {
        self.folder.path().join("layers")
    }

    /// Every file among the layers that has a header, with it.
    pub fn headers(&self) -> Vec<(PathBuf, LayerHeader)> {
        let entries = std::fs::read_dir(self.layers()).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let read = |path: &PathBuf| read_header(&FileStorage::open_reader(path).unwrap()).ok();
        paths.into_iter().filter_map(|path| read(&path).map(|header| (path, header))).collect()
    }

    /// A key that disks may use.
    pub fn key(&self) -> String {
        let key = self.kms.create_key(&owner(), &CreateKey::default()).unwrap().key_id;
        let consent = [(DISK_CONSENT_TAG.to_owned(), "true".to_owned())];
        self.kms.tag(&owner(), Action::TagResource, &[&key], &consent).unwrap();
        key
    }

    pub fn events(&self, name: &str) -> Vec<Value> {
        let query = Query {
            direction: Direction::Backward,
            max_results: Some(50),
            start: Some(Timestamp::default()),
            ..Query::default()
        };
        let found = self.trail.lookup(&query).unwrap().events.into_iter();
        found.filter(|event| event["eventName"] == name).collect()
    }
}

pub fn new_disk(name: &str, key: Option<&str>, source: Source) -> CreateDisk {
    CreateDisk {
        name: name.into(),
        description: String::new(),
        size: if source == Source::Nothing { ByteCount::of(&[0; SIZE]) } else { ByteCount::ZERO },
        encrypted: name != "plain",
        kms_key: key.map(str::to_owned),
        category: "cloud_essd".into(),
        read_only: false,
        cache: Default::default(),
        limits: Default::default(),
        source,
        multi_attach: false,
        lease: None,
        tags: Vec::new(),
    }
}

/// Makes and attaches a disk; its id.
pub fn attached(disks: &Disks, request: &CreateDisk) -> String {
    let disk_id = disks.create(&owner(), request).unwrap().disk_id;
    disks.attach(&owner(), &disk_id, "i-test").unwrap();
    disk_id
}

/// Writes 64 KiB of `byte` at `at` KiB, durably.
pub fn write(disks: &Disks, disk_id: &str, at: u64, byte: u8) {
    let open = disks.find_export(disk_id).unwrap();
    let span = open.disk().span(ByteOffset::new(at << 10), 64 << 10);
    let mut data = vec![byte; span.covered_bytes()];
    open.disk().write(&span, &mut data, Durability::Durable).unwrap();
}

/// Everything on an attached disk.
pub fn content(disks: &Disks, disk_id: &str) -> Vec<u8> {
    let open = disks.find_export(disk_id).unwrap();
    let size = open.disk().size().as_usize();
    let span = open.disk().span(ByteOffset::ZERO, size);
    let mut data = vec![0; span.covered_bytes()];
    let done = open.disk().read(&span, &mut data, &mut Presence::new(), Waiting::Allowed).unwrap();
    assert!(done, "waiting was allowed");
    data
}
