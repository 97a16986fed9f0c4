//! KMS calls in process, on a real catalog and a trail whose files are never synced: what one costs
//! without the medium under the trail. A regression here is in `kms`, `catalog`, `crypto` or
//! `trail`.

#![allow(missing_docs)]

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use sealdisk::catalog::ram::PolicyKind;
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::kms::context::Context;
use sealdisk::kms::{Account, CreateKey, Kms, KmsParts, Pair, root};
use sealdisk::ram::{Caller, CreateUser, HolderName, Principal, Ram, RamParts, Route};
use sealdisk::secret::Secret;
use sealdisk::trail::Trail;
use sealdisk::trail::files::{DirectoryFiles, SegmentFile, SegmentFiles};

const ACCOUNT: &str = "1000000000000001";

/// Real files that are never synced.
struct Unsynced(DirectoryFiles);

struct UnsyncedFile(Box<dyn SegmentFile>);

impl SegmentFiles for Unsynced {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(UnsyncedFile(self.0.open(name)?)))
    }
    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(UnsyncedFile(self.0.create(name, reserve)?)))
    }
    fn head(&self, may_create: bool) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(UnsyncedFile(self.0.head(may_create)?)))
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
}

impl SegmentFile for UnsyncedFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn cut(&self, length: u64) -> io::Result<()> {
        self.0.cut(length)
    }
}

/// The KMS, and a user whose policies let them use keys from this network, tagged so.
fn kms_in(folder: &std::path::Path) -> (Kms, Caller) {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
    let sealing_key = Secret::random(32, entropy.as_ref());
    let files = DirectoryFiles::lock(&folder.join("trail")).expect("a new trail");
    let key = root::trail_key(&sealing_key);
    let trail = Trail::open_on(Arc::new(Unsynced(files)), key, clock.clone(), entropy.clone());
    let catalog = SqliteCatalog::open(&folder.join("catalog.db")).expect("a new catalog");
    let catalog = Arc::new(catalog);
    let ram = Ram::new(RamParts {
        catalog: catalog.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        key: root::ram_key(&sealing_key),
        account_id: ACCOUNT.into(),
    });
    let user = user_with_policies(&ram);
    let account = Account { account_id: ACCOUNT.into(), region: "cn-hangzhou".into() };
    let kms = Kms::open(KmsParts {
        catalog,
        ram: Arc::new(ram),
        trail: Arc::new(trail.expect("a new trail")),
        sealing_key,
        clock,
        entropy,
        account,
        tokens: Vec::new(),
    });
    (kms.expect("a new KMS"), user)
}

const POLICY: &str = r#"{"Version": "1", "Statement": [
    {"Effect": "Deny", "Action": "kms:*", "Resource": "*",
     "Condition": {"NotIpAddress": {"acs:SourceIp": ["192.0.2.0/24", "127.0.0.1"]}}},
    {"Effect": "Allow", "Action": ["kms:DescribeKey", "kms:List*"], "Resource": "*"},
    {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*"],
     "Resource": "acs:kms:*:*:key/*", "Condition": {"StringLike": {"kms:tag/team": ["d?", "e*"]}}}
]}"#;

fn user_with_policies(ram: &Ram) -> Caller {
    let wanted = CreateUser { user_name: "ann".into(), ..CreateUser::default() };
    let user = ram.create_user(wanted, &mut |_| Ok(())).expect("a new user");
    ram.create_policy("uses-keys", "", POLICY, &mut |_| Ok(())).expect("a new policy");
    for (kind, name) in
        [(PolicyKind::Custom, "uses-keys"), (PolicyKind::System, "AliyunECSReadOnlyAccess")]
    {
        ram.attach_policy(HolderName::User("ann"), kind, name, &mut || Ok(())).expect("attached");
    }
    let principal = Principal::User {
        account: ACCOUNT.into(),
        user_id: user.user_id,
        user_name: user.user_name,
    };
    let address = Some(std::net::IpAddr::from([192, 0, 2, 7]));
    let route = Route { access_key_id: Some("LTAI5tExample".into()), address, is_secure: true };
    Caller {
        principal,
        request_id: uuid::Uuid::from_u128(1),
        source: "192.0.2.7".into(),
        user_agent: "bench".into(),
        route,
        on_behalf_of: None,
    }
}

fn calls(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let (kms, user) = kms_in(folder.path());
    let caller = Caller {
        principal: Principal::Root { account: ACCOUNT.into() },
        request_id: uuid::Uuid::from_u128(1),
        source: "unix:uid=0".into(),
        user_agent: "bench".into(),
        route: Route::LOCAL,
        on_behalf_of: None,
    };
    let tagged = CreateKey { tags: vec![("team".into(), "db".into())], ..CreateKey::default() };
    let key = kms.create_key(&caller, &tagged).expect("a key").key_id;
    let context: Context = [("disk".to_owned(), "d-1".to_owned())].into();
    let made = kms.generate_data_key(&caller, &key, 64, &context).expect("a data key");
    let mut group = criterion.benchmark_group("kms");
    group.bench_function("GenerateDataKey", |bencher| {
        bencher.iter(|| kms.generate_data_key(&caller, &key, 64, &context).expect("a data key"));
    });
    group.bench_function("Decrypt", |bencher| {
        bencher.iter(|| kms.decrypt(&caller, &made.blob, &context).expect("a plaintext"));
    });
    group.bench_function("GenerateDataKey by a user", |bencher| {
        bencher.iter(|| kms.generate_data_key(&user, &key, 64, &context).expect("a data key"));
    });
    group.bench_function("Decrypt by a user", |bencher| {
        bencher.iter(|| kms.decrypt(&user, &made.blob, &context).expect("a plaintext"));
    });
    let wanted = CreateKey { spec: Some("EC_P256".into()), ..CreateKey::default() };
    let pair = kms.create_key(&caller, &wanted).expect("a key pair");
    let pair =
        Pair { key: &pair.key_id, version_id: &pair.primary_version, algorithm: "ECDSA_SHA_256" };
    let none = Context::new();
    group.bench_function("AsymmetricSign P-256", |bencher| {
        bencher.iter(|| kms.asymmetric_sign(&caller, pair, &[7; 32], &none).expect("a signature"));
    });
    group.finish();
}

criterion_group!(benches, calls);
criterion_main!(benches);
