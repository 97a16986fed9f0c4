//! A house of disks whose every write can be its last: storage and catalog share one fuse.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{ScopedJoinHandle, ThreadId};
use std::time::Duration;

use sealdisk::catalog::ram::{
    AccessKeyRecord, AttachmentRecord, Holder, PolicyKind, PolicyRecord, RamCatalog, RoleRecord,
    UserRecord,
};
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::*;
use sealdisk::clock::{Clock, Entropy, ManualClock, SeededEntropy, Timestamp};
use sealdisk::disk::{CreateDisk, Disks, DisksParts, Source, StackSettings};
use sealdisk::kms::{Account, DataKey, DataKeys, Decrypted, Encrypted, FoundKey, KmsError};
use sealdisk::ram::{Caller, Ram, RamParts};
use sealdisk::secret::Secret;
use sealdisk::storage::faulty::FaultyStorage;
use sealdisk::storage::store::{LayerStore, PageCache, Room};
use sealdisk::storage::{Capabilities, Durability, Extent, Storage, StorageError};
use sealdisk::trail::Trail;
use sealdisk::units::{ByteCount, ByteOffset};

const ACCOUNT: &str = "1000000000000001";

/// How many writes are left to this life.
#[derive(Debug)]
pub struct Fuse {
    left: AtomicU64,
    used: AtomicU64,
    is_blown: AtomicBool,
    /// There is no room for anything in layers.
    pub is_full: AtomicBool,
    /// Nor in the catalog.
    pub is_catalog_full: AtomicBool,
    pub turnstile: Turnstile,
}

impl Fuse {
    pub fn lasting(writes: u64) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(writes),
            used: AtomicU64::new(0),
            is_blown: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            is_catalog_full: AtomicBool::new(false),
            turnstile: Turnstile::default(),
        })
    }

    /// Whether the write may be made; `false` from the one that is one too many on.
    fn burn(&self) -> bool {
        self.turnstile.pass();
        if self.is_blown() {
            return false;
        }
        self.used.fetch_add(1, Ordering::SeqCst);
        let outcome =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        self.is_blown.fetch_or(outcome.is_err(), Ordering::SeqCst);
        outcome.is_ok()
    }

    /// No write is made any more.
    pub fn blow(&self) {
        self.is_blown.store(true, Ordering::SeqCst);
    }

    /// It lasts for ever from now on, unless it is blown.
    pub fn refill(&self) {
        self.left.store(u64::MAX, Ordering::SeqCst);
    }

    pub fn is_blown(&self) -> bool {
        self.is_blown.load(Ordering::SeqCst)
    }

    /// Writes so far.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }
}

/// Stops threads before a write of theirs, so that two can be interleaved at each of them.
#[derive(Debug, Default)]
pub struct Turnstile {
    visitors: Mutex<HashMap<ThreadId, Visitor>>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug)]
struct Visitor {
    /// Writes that it may still make.
    left: u64,
    is_stopped: bool,
    made: u64,
}

/// How a thread at the turnstile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It waits before a write.
    Stopped,
    /// It did what it had to do.
    Ended,
    /// It waits for something else, as far as can be told: nothing has come of it for a while.
    Stuck,
}

impl Turnstile {
    /// Does `what` on this thread, stopped before the write that comes after `writes` of them.
    pub fn through<T>(&self, writes: u64, what: impl FnOnce() -> T) -> T {
        let id = std::thread::current().id();
        let visitor = Visitor { left: writes, is_stopped: false, made: 0 };
        self.visitors.lock().unwrap().insert(id, visitor);
        let outcome = what();
        self.visitors.lock().unwrap().remove(&id);
        self.changed.notify_all();
        outcome
    }

    fn pass(&self) {
        let id = std::thread::current().id();
        let mut visitors = self.visitors.lock().unwrap();
        while let Some(visitor) = visitors.get_mut(&id) {
            if visitor.left > 0 {
                (visitor.left, visitor.is_stopped) = (visitor.left - 1, false);
                visitor.made += 1;
                return;
            }
            visitor.is_stopped = true;
            self.changed.notify_all();
            visitors = self.changed.wait(visitors).unwrap();
        }
    }

    /// Waits until a thread that was begun is stopped, has ended, or does not get on.
    pub fn wait_for(&self, thread: &ScopedJoinHandle<'_, ()>) -> Visit {
        let (id, mut made, mut quiet) = (thread.thread().id(), 0, 0);
        while quiet < 10 {
            if thread.is_finished() {
                return Visit::Ended;
            }
            match self.visitors.lock().unwrap().get(&id) {
                Some(visitor) if visitor.is_stopped => return Visit::Stopped,
                Some(visitor) if visitor.made == made => quiet += 1,
                Some(visitor) => (made, quiet) = (visitor.made, 0),
                // Not begun yet, or about to end.
                None => {}
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Visit::Stuck
    }

    /// Lets a thread go on to its end.
    pub fn let_go(&self, thread: &ScopedJoinHandle<'_, ()>) {
        if let Some(visitor) = self.visitors.lock().unwrap().get_mut(&thread.thread().id()) {
            visitor.left = u64::MAX;
        }
        self.changed.notify_all();
    }
}

fn dead() -> StorageError {
    StorageError::Io(std::io::Error::from_raw_os_error(libc::EIO))
}

#[derive(Debug)]
struct FusedStorage {
    inner: Arc<FaultyStorage>,
    fuse: Arc<Fuse>,
}

impl FusedStorage {
    fn burn(&self) -> Result<(), StorageError> {
        if self.fuse.burn() { Ok(()) } else { Err(dead()) }
    }

    fn take_room(&self) -> Result<(), StorageError> {
        match self.fuse.is_full.load(Ordering::SeqCst) {
            true => Err(StorageError::Io(std::io::Error::from_raw_os_error(libc::ENOSPC))),
            false => Ok(()),
        }
    }
}

impl Storage for FusedStorage {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.inner.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.inner.read_at(at, into)
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.inner.read_cached_at(at, into)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.take_room()?;
        self.burn()?;
        self.inner.write_at(at, from, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.burn()?;
        self.inner.flush()
    }

    fn punch(&self, range: std::ops::Range<ByteOffset>) -> Result<(), StorageError> {
        self.burn()?;
        self.inner.punch(range)
    }

    fn extents(
        &self,
        range: std::ops::Range<ByteOffset>,
        limit: usize,
    ) -> Result<Vec<Extent>, StorageError> {
        self.inner.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.take_room()?;
        self.burn()?;
        self.inner.set_len(len)
    }
}

/// Layers in memory: names and bytes survive a crash as far as they were synced.
#[derive(Debug)]
pub struct FusedStore {
    fuse: Arc<Fuse>,
    files: Mutex<Files>,
    condemned: Arc<Condemned>,
}

/// Names of layers that the catalog has said are to be erased.
type Condemned = Mutex<BTreeSet<String>>;

#[derive(Debug, Default)]
struct Files {
    there: BTreeMap<String, Arc<FaultyStorage>>,
    durable: BTreeMap<String, Arc<FaultyStorage>>,
}

impl FusedStore {
    fn open(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        let files = self.files.lock().unwrap();
        let missing = || StorageError::Io(std::io::ErrorKind::NotFound.into());
        let inner = Arc::clone(files.there.get(name).ok_or_else(missing)?);
        Ok(Arc::new(FusedStorage { inner, fuse: Arc::clone(&self.fuse) }))
    }

    pub fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().there.keys().cloned().collect()
    }

    /// What a power cut now may leave.
    fn crash(&self, entropy: &dyn Entropy, fuse: Arc<Fuse>) -> Self {
        let files = self.files.lock().unwrap();
        let mut there = BTreeMap::new();
        let names = files.there.keys().chain(files.durable.keys());
        for name in names.collect::<BTreeSet<_>>() {
            let mut coin = [0];
            entropy.fill(&mut coin);
            let (now, then) = (files.there.get(name), files.durable.get(name));
            let kept = match (now, then) {
                (Some(now), Some(_)) => Some(now),
                (one, other) if coin[0] & 1 == 1 => one.or(other),
                _ => None,
            };
            if let Some(storage) = kept {
                let image = FaultyStorage::holding(storage.crash(entropy));
                there.insert(name.clone(), Arc::new(image));
            }
        }
        let files = Mutex::new(Files { durable: there.clone(), there });
        Self { fuse, files, condemned: Arc::clone(&self.condemned) }
    }
}

impl LayerStore for FusedStore {
    fn create(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        if !self.fuse.burn() {
            return Err(dead());
        }
        let made = Arc::new(FaultyStorage::default());
        let before = self.files.lock().unwrap().there.insert(name.to_owned(), made);
        assert!(before.is_none(), "{name} is made twice");
        self.open(name)
    }

    fn open_writer(
        &self,
        name: &str,
        _: u64,
        _: PageCache,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        self.open(name)
    }

    fn open_frozen(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.open(name)
    }

    fn open_reader(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.open(name)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        if !self.fuse.burn() {
            return Err(dead());
        }
        let removed = self.files.lock().unwrap().there.remove(name);
        if let Some(storage) = removed.filter(|_| self.condemned.lock().unwrap().contains(name)) {
            // Whatever the power does from now on.
            let left = FaultyStorage::holding(storage.crash(&SeededEntropy::new(1)));
            let header = sealdisk::layer::read_header(&left);
            assert!(header.is_err(), "{name} is removed with its key in it");
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<(), StorageError> {
        if !self.fuse.burn() {
            return Err(dead());
        }
        let mut files = self.files.lock().unwrap();
        files.durable = files.there.clone();
        Ok(())
    }

    fn list(&self) -> Result<Vec<sealdisk::storage::store::Stored>, StorageError> {
        Ok(Vec::new())
    }

    fn room(&self) -> Result<Room, StorageError> {
        Ok(Room { free: ByteCount::new(1 << 40), total: ByteCount::new(1 << 40) })
    }

    fn incoming(&self) -> PathBuf {
        PathBuf::from("incoming")
    }

    fn adopt(&self, _: &Path, _: &str) -> Result<(), StorageError> {
        unreachable!("nothing is restored here")
    }

    fn locate(&self, name: &str) -> PathBuf {
        Path::new("layers").join(name)
    }
}

/// A catalog that may die just before a change or just after it.
struct FusedCatalog {
    inner: Arc<SqliteCatalog>,
    fuse: Arc<Fuse>,
    condemned: Arc<Condemned>,
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        $(fn $name(&self, $($argument: $kind),*) -> Result<$answer, CatalogError> {
            self.inner.$name($($argument),*)
        })*
    };
}

impl Catalog for FusedCatalog {
    fn apply(&self, operations: &[Operation], gate: Gate<'_>) -> Result<(), CatalogError> {
        let dead = || CatalogError::Database("the house is dead".into());
        if self.fuse.is_catalog_full.load(Ordering::SeqCst) {
            return Err(CatalogError::Database("no space is left for it".into()));
        }
        if !self.fuse.burn() {
            return Err(dead());
        }
        self.inner.apply(operations, gate)?;
        for operation in operations {
            if let Operation::Stack(StackOperation::UpdateLayer(layer)) = operation
                && matches!(layer.state, LayerState::Condemned | LayerState::Erasing)
            {
                self.condemned.lock().unwrap().insert(layer.file_name.clone());
            }
        }
        if self.fuse.burn() { Ok(()) } else { Err(dead()) }
    }

    forward! {
        key(key_id: &str) -> Option<KeyRecord>;
        keys(page: Page) -> Listed<KeyRecord>;
        key_version(version_id: &str) -> Option<KeyVersionRecord>;
        key_versions(key_id: &str, page: Page) -> Listed<KeyVersionRecord>;
        key_policy(key_id: &str) -> Option<String>;
        alias(name: &str) -> Option<AliasRecord>;
        aliases(key_id: Option<&str>, page: Page) -> Listed<AliasRecord>;
        tags(filter: &TagFilter, limit: u64) -> Vec<TagRecord>;
        disk(disk_id: &str) -> Option<DiskRecord>;
        disks(filter: &DiskFilter, page: Page) -> Listed<DiskRecord>;
        layers(disk_id: &str) -> Vec<LayerRecord>;
        layer(layer_id: &str) -> Option<LayerRecord>;
        chain(layer_id: &str) -> Vec<LayerRecord>;
        layer_uses(layer_id: &str) -> LayerUses;
        disks_over(layer_id: &str) -> Vec<String>;
        all_layers(state: Option<LayerState>, page: Page) -> Listed<LayerRecord>;
        unreferenced_layers() -> Vec<LayerRecord>;
        absorbing_layers() -> Vec<LayerRecord>;
        snapshot(snapshot_id: &str) -> Option<SnapshotRecord>;
        snapshots(filter: &SnapshotFilter, page: Page) -> Listed<SnapshotRecord>;
        image(image_id: &str) -> Option<ImageRecord>;
        images(filter: &ImageFilter, page: Page) -> Listed<ImageRecord>;
        job(job_id: &str) -> Option<JobRecord>;
        jobs(filter: &JobFilter, page: Page) -> Listed<JobRecord>;
        reserved_wraps(version_id: &str) -> u64;
        kms_status() -> KmsStatus;
        root() -> Option<RootRecord>;
        copy_to(to: &Path) -> ();
    }
}

impl RamCatalog for FusedCatalog {
    forward! {
        user(user_name: &str) -> Option<UserRecord>;
        user_by_id(user_id: &str) -> Option<UserRecord>;
        users(after: &str, limit: u64) -> Vec<UserRecord>;
        access_key(access_key_id: &str) -> Option<AccessKeyRecord>;
        access_keys(user_id: Option<&str>) -> Vec<AccessKeyRecord>;
        all_access_keys() -> Vec<AccessKeyRecord>;
        role(role_name: &str) -> Option<RoleRecord>;
        roles(after: &str, limit: u64) -> Vec<RoleRecord>;
        policy(policy_name: &str) -> Option<PolicyRecord>;
        policies(after: &str, limit: u64) -> Vec<PolicyRecord>;
        attachments(holder: &Holder) -> Vec<AttachmentRecord>;
        holders(kind: PolicyKind, policy_name: &str) -> Vec<AttachmentRecord>;
    }
}

/// A KMS that outlives the house: it wraps by remembering.
pub struct Keys {
    entropy: SeededEntropy,
    wrapped: Mutex<HashMap<Vec<u8>, Wrapped>>,
    /// The newest version of every key.
    newest: AtomicU64,
    refusal: Mutex<Option<fn() -> KmsError>>,
}

struct Wrapped {
    key: Vec<u8>,
    key_id: String,
    context: BTreeMap<String, String>,
    version: String,
}

impl Keys {
    pub fn new(seed: u64) -> Self {
        Self {
            entropy: SeededEntropy::new(seed),
            wrapped: Mutex::default(),
            newest: AtomicU64::new(2),
            refusal: Mutex::default(),
        }
    }

    /// Every key gets a new version; the older ones still open what they wrapped.
    pub fn rotate(&self) {
        self.newest.fetch_add(1, Ordering::SeqCst);
    }

    /// Every use of a key is refused like this from now on, or none.
    pub fn refuse(&self, refusal: Option<fn() -> KmsError>) {
        *self.refusal.lock().unwrap() = refusal;
    }

    fn check(&self) -> Result<(), KmsError> {
        self.refusal.lock().unwrap().map_or(Ok(()), |refusal| Err(refusal()))
    }

    /// The blob, and the version that wrapped it.
    fn wrap(
        &self,
        key: Vec<u8>,
        key_id: &str,
        context: &BTreeMap<String, String>,
    ) -> (Vec<u8>, String) {
        let mut blob = vec![0; 100];
        self.entropy.fill(&mut blob);
        let newest = self.newest.load(Ordering::SeqCst);
        let version = format!("7a1d4c3e-0000-4000-8000-{newest:012}");
        let (key_id, context) = (key_id.to_owned(), context.clone());
        let wrapped = Wrapped { key, key_id, context, version: version.clone() };
        self.wrapped.lock().unwrap().insert(blob.clone(), wrapped);
        (blob, version)
    }

    /// The key, and the version that wrapped it.
    fn unwrap(
        &self,
        blob: &[u8],
        context: &BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, String, String), KmsError> {
        self.check()?;
        match self.wrapped.lock().unwrap().get(blob) {
            Some(found) if found.context == *context => {
                Ok((found.key.clone(), found.key_id.clone(), found.version.clone()))
            }
            _ => Err(KmsError::InvalidParameter("CiphertextBlob")),
        }
    }
}

impl DataKeys for Keys {
    fn default_key(&self, _: &Caller) -> Result<String, KmsError> {
        Ok("service-key".into())
    }

    fn find_key(&self, _: &Caller, key: &str) -> Result<FoundKey, KmsError> {
        Ok(FoundKey { key_id: key.into(), state: KeyState::Enabled, is_symmetric: true })
    }

    fn generate_data_key(
        &self,
        _: &Caller,
        key_id: &str,
        bytes: usize,
        context: &BTreeMap<String, String>,
    ) -> Result<DataKey, KmsError> {
        self.check()?;
        let plaintext = Secret::random(bytes, &self.entropy);
        let (blob, key_version) = self.wrap(plaintext.expose().to_vec(), key_id, context);
        Ok(DataKey { plaintext, blob, key_id: key_id.to_owned(), key_version })
    }

    fn decrypt(
        &self,
        _: &Caller,
        blob: &[u8],
        context: &BTreeMap<String, String>,
    ) -> Result<Decrypted, KmsError> {
        let (key, key_id, key_version) = self.unwrap(blob, context)?;
        let mut plaintext = Secret::zeroed(key.len());
        plaintext.expose_mut().copy_from_slice(&key);
        Ok(Decrypted { plaintext, key_id, key_version })
    }

    fn re_encrypt(
        &self,
        _: &Caller,
        source: (&[u8], &BTreeMap<String, String>),
        key_id: &str,
        context: &BTreeMap<String, String>,
    ) -> Result<Encrypted, KmsError> {
        let (key, ..) = self.unwrap(source.0, source.1)?;
        let (blob, key_version) = self.wrap(key, key_id, context);
        Ok(Encrypted { blob, key_id: key_id.to_owned(), key_version })
    }
}

/// What outlives a crash, and what is served from it.
pub struct House {
    folder: tempfile::TempDir,
    catalog: Arc<SqliteCatalog>,
    keys: Arc<Keys>,
    pub store: Arc<FusedStore>,
    pub fuse: Arc<Fuse>,
    /// `None` between a crash and the next opening.
    disks: Option<Arc<Disks>>,
    clock: Arc<ManualClock>,
    seed: u64,
}

impl House {
    /// A new one that lives for so many writes.
    pub fn build(seed: u64, writes: u64) -> Self {
        let folder = if Path::new("/dev/shm").is_dir() {
            tempfile::tempdir_in("/dev/shm").unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let fuse = Fuse::lasting(writes);
        let (files, condemned) = (Mutex::default(), Arc::default());
        let store = FusedStore { fuse: Arc::clone(&fuse), files, condemned };
        let mut house = Self {
            catalog: Arc::new(SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap()),
            folder,
            keys: Arc::new(Keys::new(seed)),
            store: Arc::new(store),
            fuse,
            disks: None,
            clock: Arc::new(ManualClock::at(Timestamp::from_unix_millis(1_767_582_245_000))),
            seed,
        };
        house.open();
        house
    }

    fn open(&mut self) {
        let catalog: Arc<dyn Catalog> = Arc::new(FusedCatalog {
            inner: Arc::clone(&self.catalog),
            fuse: Arc::clone(&self.fuse),
            condemned: Arc::clone(&self.store.condemned),
        });
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(self.seed));
        self.seed += 1;
        let key = || Secret::random(32, &SeededEntropy::new(1));
        let dir = self.folder.path().join("trail");
        let trail = Trail::open(&dir, key(), Arc::clone(&clock), Arc::clone(&entropy)).unwrap();
        let ram = Ram::new(RamParts {
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            key: key(),
            account_id: ACCOUNT.into(),
        });
        let store: Arc<dyn LayerStore> = Arc::clone(&self.store) as _;
        let keys: Arc<dyn DataKeys> = Arc::clone(&self.keys) as _;
        let disks = Disks::new(DisksParts {
            catalog,
            trail: Arc::new(trail),
            kms: keys,
            ram: Arc::new(ram),
            store,
            clock,
            entropy,
            account: Account { account_id: ACCOUNT.into(), region: "cn-hangzhou".into() },
            stack: StackSettings {
                depth_max: 5,
                piece_units: 5,
                checkpoint_bytes: ByteCount::new(1),
            },
        });
        self.disks = Some(Arc::new(disks));
    }

    pub fn disks(&self) -> &Arc<Disks> {
        self.disks.as_ref().unwrap()
    }

    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// A minute goes by.
    pub fn wait(&self) {
        self.wait_for(Duration::from_secs(60));
    }

    pub fn wait_for(&self, span: Duration) {
        self.clock.advance(span);
    }

    pub fn catalog(&self) -> &SqliteCatalog {
        &self.catalog
    }

    /// The power is cut and comes back: what is left, for so many writes more. Recovery is the
    /// caller's to ask for.
    pub fn crash(&mut self, dice: u64, writes: u64) {
        self.disks = None;
        self.fuse = Fuse::lasting(writes);
        let entropy = SeededEntropy::new(dice);
        self.store = Arc::new(self.store.crash(&entropy, Arc::clone(&self.fuse)));
        self.open();
    }
}

/// What makes an encrypted, empty disk under the service key; a test changes what is to differ.
pub fn empty_disk(size: ByteCount) -> CreateDisk {
    CreateDisk {
        name: String::new(),
        description: String::new(),
        size,
        encrypted: true,
        kms_key: None,
        category: "cloud_essd".into(),
        read_only: false,
        cache: CacheMode::Writeback,
        limits: DiskLimits::default(),
        source: Source::Nothing,
        multi_attach: false,
        lease: None,
        tags: Vec::new(),
    }
}

pub fn owner() -> Caller {
    Caller {
        principal: sealdisk::ram::Principal::Root { account: ACCOUNT.into() },
        ..Caller::system(uuid::Uuid::from_u128(1))
    }
}
