//! What every catalog must do, held against each engine through `&dyn Catalog`.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sealdisk::catalog::ram::RamCatalog;
use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{
    AliasRecord, CacheMode, Catalog, CatalogError, DiskFilter, DiskLimits, DiskRecord, DiskStatus,
    KeyRecord, KeyState, KeyVersionRecord, KmsStatus, LayerRecord, Operation, Page, RootRecord,
    TagFilter, TagRecord, TaggedType,
};
use sealdisk::clock::Timestamp;
use sealdisk::units::ByteCount;

const NOW: Timestamp = Timestamp::from_unix_millis(1_767_582_245_123);

fn key(id: &str) -> (KeyRecord, KeyVersionRecord) {
    let version = format!("{id}-v1");
    let key = KeyRecord {
        key_id: id.into(),
        description: "d".into(),
        spec: "Aliyun_AES_256".into(),
        origin: "Aliyun_KMS".into(),
        protection: "SOFTWARE".into(),
        creator: "1000000000000001".into(),
        state: KeyState::Enabled,
        created: NOW,
        deletes: None,
        primary_version: version.clone(),
        usage: "ENCRYPT/DECRYPT".into(),
        instance: None,
        rotation: None,
        rotated: NOW,
        deletion_protected: false,
        deletion_protected_why: String::new(),
        has_material: true,
        material_expires: None,
    };
    (key, self::version(id, &version))
}

fn version(key_id: &str, version_id: &str) -> KeyVersionRecord {
    KeyVersionRecord {
        version_id: version_id.into(),
        key_id: key_id.into(),
        created: NOW,
        store: "software".into(),
        wrapped_material: vec![0, 1, 255],
        public_key: None,
    }
}

fn alias(name: &str, key_id: &str) -> AliasRecord {
    AliasRecord { name: name.into(), key_id: key_id.into(), created: NOW }
}

fn disk(id: &str) -> DiskRecord {
    DiskRecord {
        disk_id: id.into(),
        name: "data".into(),
        description: String::new(),
        size: ByteCount::new(20 << 30),
        encrypted: true,
        kms_key_id: Some("k1".into()),
        status: DiskStatus::Creating,
        category: "cloud_essd".into(),
        created: NOW,
        attached: None,
        detached: None,
        instance_id: None,
        read_only: false,
        cache: CacheMode::None,
        limits: DiskLimits { iops: Some(3000), bytes_per_second: None },
        epoch: 0,
    }
}

fn layer(id: &str, disk_id: &str, parent: Option<&str>) -> LayerRecord {
    LayerRecord {
        layer_id: id.into(),
        disk_id: disk_id.into(),
        parent: parent.map(Into::into),
        file_name: format!("{id}.luks"),
    }
}

fn apply(catalog: &dyn Catalog, operations: &[Operation]) -> Result<(), CatalogError> {
    catalog.apply(operations, &mut || Ok(()))
}

fn must(catalog: &dyn Catalog, operations: &[Operation]) {
    apply(catalog, operations).unwrap();
}

fn insert_key(id: &str) -> Operation {
    let (key, version) = key(id);
    Operation::InsertKey(key, version)
}

const fn page(offset: u64, limit: u64) -> Page {
    Page { offset, limit }
}

/// The contract. Each part starts from an empty catalog.
fn holds(fresh: &dyn Fn() -> Box<dyn Catalog>) {
    for part in [
        keys_come_back_as_they_went_in,
        names_are_unique,
        what_is_not_there_is_not_found,
        a_key_takes_its_versions_and_aliases_along,
        lists_are_paged_in_order,
        a_change_is_whole_or_nothing,
        a_refusing_gate_leaves_nothing,
        the_gate_runs_once_and_only_for_a_change_that_can_be_made,
        a_disk_is_changed_only_as_it_was_seen,
        disks_are_found_by_every_condition,
        layers_come_bottom_first,
        there_is_one_root,
        tags_are_found_by_every_condition,
    ] {
        part(fresh().as_ref());
    }
    readers_do_not_wait_for_a_gate(fresh().as_ref());
    writers_take_turns(fresh().as_ref());
}

fn keys_come_back_as_they_went_in(catalog: &dyn Catalog) {
    let (mut first, first_version) = key("k1");
    must(catalog, &[Operation::InsertKey(first.clone(), first_version.clone())]);
    assert_eq!(catalog.key("k1").unwrap().as_ref(), Some(&first));
    assert_eq!(catalog.key_version("k1-v1").unwrap(), Some(first_version));
    first.state = KeyState::PendingDeletion;
    first.deletes = Some(NOW);
    first.description = "gone soon — \u{1f512}".into();
    first.primary_version = "k1-v2".into();
    first.rotation = Some(std::time::Duration::from_secs(604_800));
    first.rotated = NOW.plus(std::time::Duration::from_secs(1));
    first.deletion_protected = true;
    first.deletion_protected_why = "it is used".into();
    first.has_material = false;
    first.material_expires = Some(NOW);
    let mut second_version = version("k1", "k1-v2");
    second_version.public_key = Some(vec![4, 5]);
    must(
        catalog,
        &[Operation::InsertKeyVersion(second_version.clone()), Operation::UpdateKey(first.clone())],
    );
    assert_eq!(catalog.key("k1").unwrap(), Some(first));
    let versions = catalog.key_versions("k1", Page::ALL).unwrap();
    assert_eq!((versions.total, &versions.items[1]), (2, &second_version));
    second_version.wrapped_material = vec![7];
    must(catalog, &[Operation::UpdateKeyVersion(second_version.clone())]);
    assert_eq!(catalog.key_version("k1-v2").unwrap(), Some(second_version));
    assert_eq!(catalog.key_policy("k1").unwrap(), None);
    for policy in ["{}", "[]"] {
        let (key_id, policy) = ("k1".to_owned(), policy.to_owned());
        must(catalog, &[Operation::PutKeyPolicy { key_id, policy: policy.clone() }]);
        assert_eq!(catalog.key_policy("k1").unwrap(), Some(policy));
    }
    must(catalog, &[Operation::InsertAlias(alias("alias/a", "k1"))]);
    assert_eq!(catalog.alias("alias/a").unwrap(), Some(alias("alias/a", "k1")));
    assert_eq!(catalog.key("k2").unwrap(), None);
    assert_eq!(catalog.alias("alias/b").unwrap(), None);
}

fn tags_are_found_by_every_condition(catalog: &dyn Catalog) {
    let tag = |id: &str, key: &str, value: &str| TagRecord {
        resource_type: TaggedType::Key,
        resource_id: id.into(),
        key: key.into(),
        value: value.into(),
    };
    let all = [tag("k1", "a", "1"), tag("k1", "b", ""), tag("k2", "a", "2")];
    must(catalog, &[insert_key("k1"), Operation::PutTag(tag("k1", "a", "old"))]);
    must(catalog, &all.clone().map(Operation::PutTag));
    let none = TagFilter { ids: Vec::new(), ..TagFilter::of(TaggedType::Key, "") };
    let found = |filter: &TagFilter| catalog.tags(filter, 10).unwrap();
    assert_eq!(found(&none), all);
    assert_eq!(catalog.tags(&none, 2).unwrap(), all[..2]);
    let after = Some(("k1".to_owned(), "a".to_owned()));
    assert_eq!(found(&TagFilter { after, ..none.clone() }), all[1..]);
    assert_eq!(found(&TagFilter::of(TaggedType::Key, "k2")), all[2..]);
    let with = |tags: &[(&str, Option<&str>)]| {
        let owned = |(key, value): &(&str, Option<&str>)| ((*key).into(), value.map(Into::into));
        found(&TagFilter { tags: tags.iter().map(owned).collect(), ..none.clone() })
    };
    assert_eq!(with(&[("a", None)]), [all[0].clone(), all[2].clone()]);
    assert_eq!(with(&[("a", Some("1"))]), all[..1]);
    assert_eq!(with(&[("a", Some("1")), ("b", None)]), all[..2]);
    assert_eq!(with(&[("a", Some("2")), ("b", None)]), []);

    let gone = |key: &str| Operation::DeleteTag {
        resource_type: TaggedType::Key,
        resource_id: "k1".into(),
        key: key.into(),
    };
    must(catalog, &[gone("b"), gone("never there")]);
    assert_eq!(found(&none), [all[0].clone(), all[2].clone()]);
    must(catalog, &[Operation::DeleteKey("k1".into())]);
    assert_eq!(found(&none), all[2..]);
}

fn names_are_unique(catalog: &dyn Catalog) {
    let all = [
        insert_key("k1"),
        Operation::InsertAlias(alias("alias/a", "k1")),
        Operation::InsertDisk(disk("d1"), vec![layer("l1", "d1", None)]),
    ];
    must(catalog, &all);
    for again in &all {
        let error = apply(catalog, std::slice::from_ref(again)).unwrap_err();
        assert!(matches!(error, CatalogError::Exists), "{again:?}: {error:?}");
    }
    let taken = Operation::InsertDisk(disk("d2"), vec![layer("l1", "d2", None)]);
    assert!(matches!(apply(catalog, &[taken]), Err(CatalogError::Exists)));
    assert_eq!(catalog.disk("d2").unwrap(), None);
}

fn what_is_not_there_is_not_found(catalog: &dyn Catalog) {
    let update = Operation::UpdateDisk {
        disk: disk("d1"),
        seen_status: DiskStatus::Creating,
        seen_epoch: 0,
    };
    for operation in [
        Operation::UpdateKey(key("k1").0),
        Operation::InsertKeyVersion(version("k1", "v")),
        Operation::DeleteKey("k1".into()),
        Operation::InsertAlias(alias("alias/a", "k1")),
        Operation::UpdateAlias(alias("alias/a", "k1")),
        Operation::DeleteAlias("alias/a".into()),
        update,
        Operation::DeleteDisk("d1".into()),
    ] {
        let error = apply(catalog, std::slice::from_ref(&operation)).unwrap_err();
        assert!(matches!(error, CatalogError::NotFound), "{operation:?}: {error:?}");
    }
}

fn a_key_takes_its_versions_and_aliases_along(catalog: &dyn Catalog) {
    must(
        catalog,
        &[
            insert_key("k1"),
            insert_key("k2"),
            Operation::InsertAlias(alias("alias/a", "k1")),
            Operation::InsertAlias(alias("alias/b", "k2")),
        ],
    );
    must(catalog, &[Operation::DeleteKey("k1".into())]);
    assert_eq!(catalog.key_version("k1-v1").unwrap(), None);
    assert_eq!(catalog.alias("alias/a").unwrap(), None);
    assert!(catalog.key_version("k2-v1").unwrap().is_some());
    assert!(catalog.alias("alias/b").unwrap().is_some());
}

fn lists_are_paged_in_order(catalog: &dyn Catalog) {
    for i in 0..5 {
        must(catalog, &[insert_key(&format!("k{}", 9 - i))]);
    }
    let ids = |page| -> Vec<String> {
        let listed = catalog.keys(page).unwrap();
        assert_eq!(listed.total, 5);
        listed.items.into_iter().map(|key| key.key_id).collect()
    };
    assert_eq!(ids(Page::ALL), ["k9", "k8", "k7", "k6", "k5"]);
    assert_eq!(ids(page(1, 2)), ["k8", "k7"]);
    assert_eq!(ids(page(4, 2)), ["k5"]);
    assert!(ids(page(5, 2)).is_empty());
    assert!(ids(page(u64::MAX, u64::MAX)).is_empty());
    for (name, key_id) in [("alias/c", "k9"), ("alias/a", "k8"), ("alias/b", "k9")] {
        must(catalog, &[Operation::InsertAlias(alias(name, key_id))]);
    }
    let all = catalog.aliases(None, page(1, 2)).unwrap();
    let names: Vec<_> = all.items.iter().map(|alias| alias.name.as_str()).collect();
    assert_eq!((all.total, names), (3, vec!["alias/b", "alias/c"]));
    assert_eq!(catalog.aliases(Some("k9"), Page::ALL).unwrap().total, 2);
    assert_eq!(catalog.aliases(Some("k7"), Page::ALL).unwrap().total, 0);
}

fn a_change_is_whole_or_nothing(catalog: &dyn Catalog) {
    let broken = [insert_key("k1"), Operation::DeleteAlias("alias/none".into())];
    assert!(matches!(apply(catalog, &broken), Err(CatalogError::NotFound)));
    assert_eq!(catalog.key("k1").unwrap(), None);
    must(catalog, &[insert_key("k1")]);
}

fn a_refusing_gate_leaves_nothing(catalog: &dyn Catalog) {
    let error = catalog.apply(&[insert_key("k1")], &mut || Err("the trail is shut".into()));
    match error {
        Err(CatalogError::Gate(cause)) => assert_eq!(cause.to_string(), "the trail is shut"),
        other => panic!("{other:?}"),
    }
    assert_eq!(catalog.key("k1").unwrap(), None);
    assert_eq!(catalog.key_version("k1-v1").unwrap(), None);
    must(catalog, &[insert_key("k1")]);
}

fn the_gate_runs_once_and_only_for_a_change_that_can_be_made(catalog: &dyn Catalog) {
    let mut runs = 0;
    let mut gate = || {
        runs += 1;
        Ok(())
    };
    catalog.apply(&[insert_key("k1"), insert_key("k2")], &mut gate).unwrap();
    catalog.apply(&[insert_key("k1")], &mut gate).unwrap_err();
    assert_eq!(runs, 1);
}

fn a_disk_is_changed_only_as_it_was_seen(catalog: &dyn Catalog) {
    must(catalog, &[Operation::InsertDisk(disk("d1"), vec![layer("l1", "d1", None)])]);
    let mut wanted = disk("d1");
    wanted.status = DiskStatus::InUse;
    wanted.epoch = u64::MAX;
    wanted.cache = CacheMode::Writeback;
    wanted.limits = DiskLimits { iops: None, bytes_per_second: Some(u64::MAX) };
    wanted.instance_id = Some("i-1".into());
    wanted.attached = Some(NOW);
    let update = |seen_status, seen_epoch| {
        apply(catalog, &[Operation::UpdateDisk { disk: wanted.clone(), seen_status, seen_epoch }])
    };
    assert!(matches!(update(DiskStatus::Available, 0), Err(CatalogError::Changed)));
    assert!(matches!(update(DiskStatus::Creating, 1), Err(CatalogError::Changed)));
    assert_eq!(catalog.disk("d1").unwrap(), Some(disk("d1")));
    update(DiskStatus::Creating, 0).unwrap();
    assert_eq!(catalog.disk("d1").unwrap(), Some(wanted.clone()));
    assert!(matches!(update(DiskStatus::Creating, 0), Err(CatalogError::Changed)));
    must(catalog, &[Operation::DeleteDisk("d1".into())]);
    assert!(catalog.layers("d1").unwrap().is_empty());
}

fn disks_are_found_by_every_condition(catalog: &dyn Catalog) {
    let mut plain = disk("d2");
    plain.encrypted = false;
    plain.kms_key_id = None;
    plain.name = "boot".into();
    let mut served = disk("d3");
    served.status = DiskStatus::InUse;
    served.instance_id = Some("i-1".into());
    for disk in [disk("d1"), plain, served] {
        must(catalog, &[Operation::InsertDisk(disk, Vec::new())]);
    }
    let found = |filter: DiskFilter| -> Vec<String> {
        let listed = catalog.disks(&filter, Page::ALL).unwrap();
        assert_eq!(listed.total, listed.items.len() as u64);
        listed.items.into_iter().map(|disk| disk.disk_id).collect()
    };
    let any = DiskFilter::default;
    assert_eq!(found(any()), ["d3", "d2", "d1"]);
    let ids = vec!["d1".to_owned(), "d2".into(), "'); DROP TABLE disk; --".into()];
    assert_eq!(found(DiskFilter { ids: Some(ids.clone()), ..any() }), ["d2", "d1"]);
    assert!(found(DiskFilter { ids: Some(Vec::new()), ..any() }).is_empty());
    assert_eq!(found(DiskFilter { name: Some("boot".into()), ..any() }), ["d2"]);
    assert_eq!(found(DiskFilter { status: Some(DiskStatus::InUse), ..any() }), ["d3"]);
    assert_eq!(found(DiskFilter { encrypted: Some(false), ..any() }), ["d2"]);
    assert_eq!(found(DiskFilter { kms_key_id: Some("k1".into()), ..any() }), ["d3", "d1"]);
    assert_eq!(found(DiskFilter { instance_id: Some("i-1".into()), ..any() }), ["d3"]);
    assert_eq!(found(DiskFilter { ids: Some(ids), encrypted: Some(true), ..any() }), ["d1"]);
    let second = catalog.disks(&any(), page(1, 1)).unwrap();
    assert_eq!((second.total, second.items[0].disk_id.as_str()), (3, "d2"));
}

fn layers_come_bottom_first(catalog: &dyn Catalog) {
    let stack = vec![
        layer("top", "d1", Some("middle")),
        layer("bottom", "d1", Some("another disk's")),
        layer("middle", "d1", Some("bottom")),
    ];
    must(catalog, &[Operation::InsertDisk(disk("d1"), stack)]);
    let ids: Vec<_> = catalog.layers("d1").unwrap().into_iter().map(|l| l.layer_id).collect();
    assert_eq!(ids, ["bottom", "middle", "top"]);
}

fn there_is_one_root(catalog: &dyn Catalog) {
    assert_eq!(catalog.root().unwrap(), None);
    let root = RootRecord {
        provider: "file".into(),
        parameters: String::new(),
        root_key_id: "0011".into(),
        sealed_key: vec![1, 2, 3],
        previous_id: None,
        since: Timestamp::from_unix_millis(5),
    };
    must(catalog, &[Operation::InsertRoot(root.clone())]);
    assert_eq!(catalog.root().unwrap(), Some(root.clone()));
    let again = apply(catalog, &[Operation::InsertRoot(root.clone())]);
    assert!(matches!(again, Err(CatalogError::Exists)));
    let next = RootRecord {
        provider: "passphrase".into(),
        parameters: "salt".into(),
        root_key_id: "0022".into(),
        sealed_key: vec![4],
        previous_id: Some("0011".into()),
        since: Timestamp::from_unix_millis(6),
    };
    let replace = |seen: &str| Operation::ReplaceRoot {
        record: next.clone(),
        seen_root_key_id: seen.to_owned(),
    };
    assert!(matches!(apply(catalog, &[replace("0033")]), Err(CatalogError::Changed)));
    assert_eq!(catalog.root().unwrap(), Some(root));
    must(catalog, &[replace("0011")]);
    assert_eq!(catalog.root().unwrap(), Some(next.clone()));
    assert!(matches!(apply(catalog, &[replace("0011")]), Err(CatalogError::Changed)));
}

fn readers_do_not_wait_for_a_gate(catalog: &dyn Catalog) {
    must(catalog, &[insert_key("k1")]);
    let mut seen = None;
    // The gate itself reads: were readers to wait for it, this would never end.
    let mut gate = || {
        seen = Some((catalog.key("k1").unwrap().is_some(), catalog.key("k2").unwrap().is_some()));
        Ok(())
    };
    catalog.apply(&[insert_key("k2")], &mut gate).unwrap();
    assert_eq!(seen, Some((true, false)), "a reader sees whole changes only");
}

fn writers_take_turns(catalog: &dyn Catalog) {
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                for i in 0..10 {
                    must(catalog, &[insert_key(&format!("k{thread}-{i}"))]);
                    catalog.keys(page(0, 1)).unwrap();
                }
            });
        }
    });
    assert_eq!(catalog.keys(Page::ALL).unwrap().total, 40);
}

#[test]
fn sqlite_holds_the_contract() {
    let scratch = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    holds(&|| {
        count.set(count.get() + 1);
        let path = scratch.path().join(format!("{}.db", count.get()));
        Box::new(SqliteCatalog::open(&path).unwrap())
    });
}

#[test]
fn what_was_applied_is_there_after_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("catalog.db");
    must(&SqliteCatalog::open(&path).unwrap(), &[insert_key("k1")]);
    assert!(SqliteCatalog::open(&path).unwrap().key("k1").unwrap().is_some());
}

#[test]
fn a_copy_taken_while_it_runs_holds_what_was_applied() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("catalog.db");
    let catalog = SqliteCatalog::open(&path).unwrap();
    must(&catalog, &[insert_key("k1")]);
    // What a killed process leaves behind: the file and its log, as they are now.
    let after = scratch.path().join("after");
    std::fs::create_dir(&after).unwrap();
    for name in ["catalog.db", "catalog.db-wal"] {
        std::fs::copy(scratch.path().join(name), after.join(name)).unwrap();
    }
    let recovered = SqliteCatalog::open(&after.join("catalog.db")).unwrap();
    assert!(recovered.key("k1").unwrap().is_some());
}

#[test]
fn its_files_are_private() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("catalog.db");
    let catalog = SqliteCatalog::open(&path).unwrap();
    must(&catalog, &[insert_key("k1")]);
    for entry in std::fs::read_dir(scratch.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[test]
fn a_catalog_of_format_1_is_upgraded_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    // As the release of format 1 made it.
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("../src/catalog/sqlite/tables.sql")).unwrap();
    raw.pragma_update(None, "application_id", 0x534c_444b).unwrap();
    raw.pragma_update(None, "user_version", 1).unwrap();
    raw.execute("INSERT INTO ram_policy VALUES ('p', 'd', '{}', 0)", []).unwrap();
    drop(raw);
    for _ in 0..2 {
        let catalog = SqliteCatalog::open(&path).unwrap();
        assert_eq!(catalog.kms_status().unwrap(), KmsStatus::Enabled);
        assert_eq!(catalog.policies("", 10).unwrap().len(), 1);
    }
    let raw = rusqlite::Connection::open(&path).unwrap();
    let format: i64 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(format, 2);
}

#[test]
fn how_the_account_stands_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    for status in [KmsStatus::InDebt, KmsStatus::NotEnabled, KmsStatus::Enabled] {
        let catalog = SqliteCatalog::open(&path).unwrap();
        catalog.apply(&[Operation::PutKmsStatus(status)], &mut || Ok(())).unwrap();
        let refused = Operation::PutKmsStatus(KmsStatus::Suspended);
        assert!(catalog.apply(&[refused], &mut || Err("no".into())).is_err());
        drop(catalog);
        assert_eq!(SqliteCatalog::open(&path).unwrap().kms_status().unwrap(), status);
    }
}

#[test]
fn a_newer_format_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("catalog.db");
    drop(SqliteCatalog::open(&path).unwrap());
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let error = SqliteCatalog::open(&path).unwrap_err();
    assert!(matches!(error, CatalogError::Newer { found: 99, known: 2 }), "{error:?}");
}

#[test]
fn uses_of_a_key_version_are_reserved_by_who_saw_the_last_reservation() {
    let scratch = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&scratch.path().join("catalog.db")).unwrap();
    must(&catalog, &[insert_key("k1")]);
    assert_eq!(catalog.reserved_wraps("k1-v1").unwrap(), 0);
    let reserve =
        |seen, reserved| Operation::ReserveWraps { version_id: "k1-v1".into(), seen, reserved };
    must(&catalog, &[reserve(0, 10)]);
    let raced = catalog.apply(&[reserve(0, 20)], &mut || Ok(()));
    assert!(matches!(raced, Err(CatalogError::Changed)), "{raced:?}");
    must(&catalog, &[reserve(10, 20)]);
    assert_eq!(catalog.reserved_wraps("k1-v1").unwrap(), 20);
    must(&catalog, &[Operation::DeleteKey("k1".into())]);
    assert_eq!(catalog.reserved_wraps("k1-v1").unwrap(), 0);
}

fn refused_by_name(path: &Path, word: &str) {
    match SqliteCatalog::open(path) {
        Err(error @ CatalogError::Database(_)) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()) && text.contains(word), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_damaged_or_foreign_file_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let junk = scratch.path().join("junk.db");
    std::fs::write(&junk, [0x55; 8192]).unwrap();
    refused_by_name(&junk, "not a database");

    let foreign = scratch.path().join("foreign.db");
    let raw = rusqlite::Connection::open(&foreign).unwrap();
    raw.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(raw);
    refused_by_name(&foreign, "not a sealdisk catalog");

    let cut = scratch.path().join("cut.db");
    let catalog = SqliteCatalog::open(&cut).unwrap();
    (0..200).for_each(|i| must(&catalog, &[insert_key(&format!("k{i}"))]));
    drop(catalog);
    let mut bytes = std::fs::read(&cut).unwrap();
    bytes[4096..].fill(0xee);
    std::fs::write(&cut, &bytes).unwrap();
    refused_by_name(&cut, "it is damaged");

    refused_by_name(&scratch.path().join("no/such/dir.db"), "creating it");
}

#[test]
fn what_is_deleted_or_replaced_is_not_left_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.db");
    let catalog = SqliteCatalog::open(&path).unwrap();
    let sealed = |byte: u8| vec![byte; 1200];
    for (id, byte) in [("deleted", 0xd1), ("forgotten", 0xf1)] {
        let (key, version) = key(id);
        let version = KeyVersionRecord { wrapped_material: sealed(byte), ..version };
        apply(&catalog, &[Operation::InsertKey(key, version)]).unwrap();
    }
    let (_, version) = key("forgotten");
    apply(&catalog, &[Operation::UpdateKeyVersion(version)]).unwrap();
    apply(&catalog, &[Operation::DeleteKey("deleted".into())]).unwrap();
    drop(catalog);
    let bytes = std::fs::read(&path).unwrap();
    for byte in [0xd1, 0xf1] {
        let needle = [byte; 64];
        assert!(!bytes.windows(64).any(|window| window == needle), "{byte:x} is still there");
    }
}
