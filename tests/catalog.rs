//! What every catalog must do, held against each engine through `&dyn Catalog`.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sealdisk::catalog::sqlite::SqliteCatalog;
use sealdisk::catalog::{
    AliasRecord, CacheMode, Catalog, CatalogError, DiskFilter, DiskLimits, DiskRecord, DiskStatus,
    ImageFilter, ImageRecord, ImageStatus, JobFilter, JobKind, JobPace, JobRecord, JobState,
    KeyRecord, KeyState, KeyVersionRecord, KmsStatus, LayerRecord, LayerState, Operation, Page,
    RootRecord, SnapshotFilter, SnapshotRecord, SnapshotStatus, StackOperation, TagFilter,
    TagRecord, TaggedType,
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
        top_layer: "l1".into(),
        source_snapshot: None,
        source_image: None,
        multi_attach: false,
        more_instances: Vec::new(),
        lease_ends: None,
    }
}

fn layer(id: &str, owner: &str, parent: Option<&str>) -> LayerRecord {
    LayerRecord {
        layer_id: id.into(),
        owner: owner.into(),
        parent: parent.map(Into::into),
        file_name: format!("{id}.luks"),
        kms_key_id: Some("k1".into()),
        size: ByteCount::new(20 << 30),
        created: NOW,
        state: LayerState::Live,
        key_bytes: 0,
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
        a_layer_knows_who_refers_to_it,
        what_nobody_refers_to_is_found,
        a_top_and_a_job_are_changed_only_as_they_were_seen,
        snapshots_images_and_jobs_come_back_as_they_went_in,
        snapshots_and_images_are_found_by_every_condition,
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
    let disk = DiskRecord { top_layer: "top".into(), ..disk("d1") };
    must(catalog, &[Operation::InsertDisk(disk, stack)]);
    let ids: Vec<_> = catalog.layers("d1").unwrap().into_iter().map(|l| l.layer_id).collect();
    assert_eq!(ids, ["bottom", "middle", "top"]);
}

fn stacked(operations: impl IntoIterator<Item = StackOperation>) -> Vec<Operation> {
    operations.into_iter().map(Operation::Stack).collect()
}

fn snapshot(id: &str, layer_id: &str) -> SnapshotRecord {
    SnapshotRecord {
        snapshot_id: id.into(),
        name: "nightly".into(),
        description: "d".into(),
        disk_id: "d1".into(),
        layer_id: layer_id.into(),
        size: ByteCount::new(1 << 63),
        encrypted: true,
        kms_key_id: Some("k1".into()),
        status: SnapshotStatus::Progressing,
        created: NOW,
        retention_days: Some(7),
        expires: Some(NOW),
        source_snapshot: None,
    }
}

fn image(id: &str, layer_id: &str) -> ImageRecord {
    ImageRecord {
        image_id: id.into(),
        name: "golden".into(),
        description: String::new(),
        layer_id: layer_id.into(),
        size: ByteCount::new(4096),
        encrypted: false,
        kms_key_id: None,
        status: ImageStatus::Creating,
        created: NOW,
        source: "s1".into(),
    }
}

fn job(id: &str, target: &str) -> JobRecord {
    JobRecord {
        job_id: id.into(),
        kind: JobKind::SetKey,
        disk_id: Some("d1".into()),
        subject: None,
        target_layer: target.into(),
        floor_layer: Some("l1".into()),
        state: JobState::Waiting,
        failure: String::new(),
        cursor_units: 3,
        total_units: u64::MAX,
        bytes_done: 8192,
        created: NOW,
        changed: NOW,
        pace: JobPace::Gentle,
        rate: Some(u64::MAX),
    }
}

/// Layers l1 <- l2 <- l3 (top of d1), and l1 <- c1 (top of d2).
fn forked(catalog: &dyn Catalog) {
    let over = |id: &str, top: &str| DiskRecord { top_layer: top.into(), ..disk(id) };
    let stack =
        vec![layer("l1", "d1", None), layer("l2", "d1", Some("l1")), layer("l3", "d1", Some("l2"))];
    let clone = vec![layer("c1", "d2", Some("l1"))];
    let insert = Operation::InsertDisk;
    must(catalog, &[insert(over("d1", "l3"), stack), insert(over("d2", "c1"), clone)]);
}

fn a_layer_knows_who_refers_to_it(catalog: &dyn Catalog) {
    forked(catalog);
    let chain = |id: &str| -> Vec<String> {
        catalog.chain(id).unwrap().into_iter().map(|layer| layer.layer_id).collect()
    };
    assert_eq!(chain("l3"), ["l1", "l2", "l3"]);
    assert_eq!(chain("c1"), ["l1", "c1"]);
    assert!(chain("none").is_empty());
    assert_eq!(catalog.layer("c1").unwrap(), Some(layer("c1", "d2", Some("l1"))));
    assert_eq!(catalog.disks_over("l1").unwrap(), ["d1", "d2"]);
    assert_eq!(catalog.disks_over("l2").unwrap(), ["d1"]);
    must(
        catalog,
        &stacked([
            StackOperation::InsertSnapshot(snapshot("s1", "l1")),
            StackOperation::InsertImage(image("m1", "l1")),
            StackOperation::InsertJob(job("j1", "l1")),
        ]),
    );
    let uses = catalog.layer_uses("l1").unwrap();
    assert_eq!(uses.children, ["l2", "c1"]);
    assert_eq!(
        (uses.snapshots.as_slice(), uses.images.as_slice()),
        (&["s1".into()][..], &["m1".into()][..])
    );
    assert_eq!((uses.jobs.as_slice(), uses.disks.is_empty()), (&["j1".into()][..], true));
    assert!(!uses.is_named_by_nobody());
    assert_eq!(catalog.layer_uses("c1").unwrap().disks, ["d2"]);
    let l2 = catalog.layer_uses("l2").unwrap();
    assert!(l2.is_named_by_nobody() && !l2.is_empty());
    let delete = |id: &str| apply(catalog, &stacked([StackOperation::DeleteLayer(id.into())]));
    for id in ["l1", "l2", "l3"] {
        assert!(matches!(delete(id), Err(CatalogError::Referenced)), "{id}");
    }
    // A job that is at its end holds nothing, nor does a child on its way out.
    let done = JobRecord { state: JobState::Done, ..job("j1", "l1") };
    let going = LayerRecord { state: LayerState::Going, ..layer("l2", "d1", Some("l1")) };
    must(
        catalog,
        &stacked([
            StackOperation::UpdateJob { job: done, seen_state: JobState::Waiting },
            StackOperation::UpdateLayer(going),
        ]),
    );
    let uses = catalog.layer_uses("l1").unwrap();
    assert_eq!((uses.children.as_slice(), uses.jobs.is_empty()), (&["c1".into()][..], true));
    assert_eq!(catalog.disks_over("l1").unwrap(), ["d2"]);
}

fn what_nobody_refers_to_is_found(catalog: &dyn Catalog) {
    forked(catalog);
    let found = || -> Vec<String> {
        let layers = catalog.unreferenced_layers().unwrap();
        layers.into_iter().map(|layer| layer.layer_id).collect()
    };
    assert!(found().is_empty());
    let making = LayerRecord { state: LayerState::Making, ..layer("m", "d1", Some("l3")) };
    must(catalog, &stacked([StackOperation::InsertLayer(making)]));
    must(catalog, &[Operation::DeleteDisk("d1".into())]);
    assert!(found().is_empty(), "what is being made holds those below");
    must(catalog, &stacked([StackOperation::DeleteLayer("m".into())]));
    assert_eq!(found(), ["l3"]);
    must(catalog, &stacked([StackOperation::InsertSnapshot(snapshot("s1", "l2"))]));
    must(catalog, &stacked([StackOperation::DeleteLayer("l3".into())]));
    assert!(found().is_empty(), "the snapshot holds l2");
    must(catalog, &stacked([StackOperation::DeleteSnapshot("s1".into())]));
    assert_eq!(found(), ["l2"]);
    let raise = |key_bytes| StackOperation::RaiseKeyBytes { layer_id: "l2".into(), key_bytes };
    must(catalog, &stacked([raise(9), raise(7)]));
    assert_eq!(catalog.layer("l2").unwrap().unwrap().key_bytes, 9);
    let settle = StackOperation::SettleKeyBytes { layer_id: "l2".into(), key_bytes: 4 };
    must(catalog, &stacked([settle]));
    assert_eq!(catalog.layer("l2").unwrap().unwrap().key_bytes, 4);
    let listed = catalog.all_layers(Some(LayerState::Live), Page::ALL).unwrap();
    assert_eq!(listed.total, 3);
    assert_eq!(catalog.all_layers(Some(LayerState::Making), Page::ALL).unwrap().total, 0);
    assert_eq!(catalog.all_layers(None, page(1, 1)).unwrap().items[0].layer_id, "l2");
}

fn a_top_and_a_job_are_changed_only_as_they_were_seen(catalog: &dyn Catalog) {
    forked(catalog);
    let set = |seen: &str| {
        let top = StackOperation::SetTop {
            disk_id: "d1".into(),
            top_layer: "l2".into(),
            seen_top: seen.into(),
        };
        apply(catalog, &stacked([top]))
    };
    assert!(matches!(set("l1"), Err(CatalogError::Changed)));
    set("l3").unwrap();
    assert_eq!(catalog.disk("d1").unwrap().unwrap().top_layer, "l2");
    // Whoever changes the disk as a whole leaves its top alone.
    let old = DiskRecord { top_layer: "l3".into(), ..disk("d1") };
    let update =
        Operation::UpdateDisk { disk: old, seen_status: DiskStatus::Creating, seen_epoch: 0 };
    must(catalog, &[update]);
    assert_eq!(catalog.disk("d1").unwrap().unwrap().top_layer, "l2");

    must(catalog, &stacked([StackOperation::InsertJob(job("j1", "l3"))]));
    let update = |seen_state| {
        let job = JobRecord { state: JobState::Running, ..job("j1", "l3") };
        apply(catalog, &stacked([StackOperation::UpdateJob { job, seen_state }]))
    };
    assert!(matches!(update(JobState::Paused), Err(CatalogError::Changed)));
    update(JobState::Waiting).unwrap();
    assert!(matches!(update(JobState::Waiting), Err(CatalogError::Changed)));
    for operation in [
        StackOperation::InsertJob(job("j2", "none")),
        StackOperation::InsertSnapshot(snapshot("s2", "none")),
        StackOperation::InsertImage(image("m2", "none")),
        StackOperation::DeleteJob("none".into()),
        StackOperation::DeleteLayer("none".into()),
    ] {
        let outcome = apply(catalog, &stacked([operation.clone()]));
        assert!(matches!(outcome, Err(CatalogError::NotFound)), "{operation:?}: {outcome:?}");
    }
}

fn snapshots_images_and_jobs_come_back_as_they_went_in(catalog: &dyn Catalog) {
    forked(catalog);
    let (mut s1, mut m1, mut j1) = (snapshot("s1", "l1"), image("m1", "l2"), job("j1", "l3"));
    must(
        catalog,
        &stacked([
            StackOperation::InsertSnapshot(s1.clone()),
            StackOperation::InsertImage(m1.clone()),
            StackOperation::InsertJob(j1.clone()),
        ]),
    );
    assert_eq!(catalog.snapshot("s1").unwrap().as_ref(), Some(&s1));
    assert_eq!(catalog.image("m1").unwrap().as_ref(), Some(&m1));
    assert_eq!(catalog.job("j1").unwrap().as_ref(), Some(&j1));
    s1 = SnapshotRecord {
        name: "other".into(),
        layer_id: "l2".into(),
        status: SnapshotStatus::Accomplished,
        retention_days: None,
        expires: None,
        source_snapshot: Some("s0".into()),
        ..s1
    };
    m1 = ImageRecord { status: ImageStatus::Available, encrypted: true, ..m1 };
    j1 = JobRecord {
        state: JobState::Failed,
        failure: "why".into(),
        floor_layer: None,
        subject: Some("s1".into()),
        pace: JobPace::Full,
        rate: None,
        ..j1
    };
    must(
        catalog,
        &stacked([
            StackOperation::UpdateSnapshot(s1.clone()),
            StackOperation::UpdateImage(m1.clone()),
            StackOperation::UpdateJob { job: j1.clone(), seen_state: JobState::Waiting },
        ]),
    );
    assert_eq!(catalog.snapshot("s1").unwrap(), Some(s1));
    assert_eq!(catalog.image("m1").unwrap(), Some(m1));
    assert_eq!(catalog.job("j1").unwrap().as_ref(), Some(&j1));
    let jobs = |filter: JobFilter| catalog.jobs(&filter, Page::ALL).unwrap().total;
    assert_eq!((jobs(JobFilter::default()), jobs(JobFilter::unfinished())), (1, 0));
    let of = |disk: &str| JobFilter { disk_id: Some(disk.into()), ..JobFilter::default() };
    assert_eq!((jobs(of("d1")), jobs(of("d2"))), (1, 0));
    must(
        catalog,
        &stacked([
            StackOperation::DeleteImage("m1".into()),
            StackOperation::DeleteJob("j1".into()),
        ]),
    );
    assert_eq!((catalog.image("m1").unwrap(), catalog.job("j1").unwrap()), (None, None));
}

fn snapshots_and_images_are_found_by_every_condition(catalog: &dyn Catalog) {
    forked(catalog);
    let other = SnapshotRecord {
        disk_id: "d2".into(),
        name: String::new(),
        encrypted: false,
        kms_key_id: None,
        status: SnapshotStatus::Accomplished,
        expires: Some(NOW.plus(std::time::Duration::from_millis(1))),
        ..snapshot("s2", "l2")
    };
    let tag = |kind, id: &str| TagRecord {
        resource_type: kind,
        resource_id: id.into(),
        key: "stage".into(),
        value: "x".into(),
    };
    let mut all = stacked([
        StackOperation::InsertSnapshot(snapshot("s1", "l1")),
        StackOperation::InsertSnapshot(other),
        StackOperation::InsertImage(image("m1", "l1")),
        StackOperation::InsertImage(ImageRecord { name: "b".into(), ..image("m2", "l2") }),
    ]);
    all.push(Operation::PutTag(tag(TaggedType::Snapshot, "s2")));
    all.push(Operation::PutTag(tag(TaggedType::Image, "m1")));
    all.push(Operation::PutTag(tag(TaggedType::Disk, "d2")));
    must(catalog, &all);
    let found = |filter: SnapshotFilter| -> Vec<String> {
        let listed = catalog.snapshots(&filter, Page::ALL).unwrap();
        listed.items.into_iter().map(|snapshot| snapshot.snapshot_id).collect()
    };
    let any = SnapshotFilter::default;
    let tagged = |value: Option<&str>| vec![("stage".to_owned(), value.map(Into::into))];
    assert_eq!(found(any()), ["s2", "s1"]);
    assert_eq!(found(SnapshotFilter { ids: Some(vec!["s1".into()]), ..any() }), ["s1"]);
    assert_eq!(found(SnapshotFilter { name: Some("nightly".into()), ..any() }), ["s1"]);
    assert_eq!(found(SnapshotFilter { disk_id: Some("d2".into()), ..any() }), ["s2"]);
    assert_eq!(found(SnapshotFilter { layer_id: Some("l1".into()), ..any() }), ["s1"]);
    let status = Some(SnapshotStatus::Accomplished);
    assert_eq!(found(SnapshotFilter { status, ..any() }), ["s2"]);
    assert_eq!(found(SnapshotFilter { encrypted: Some(true), ..any() }), ["s1"]);
    assert_eq!(found(SnapshotFilter { kms_key_id: Some("k1".into()), ..any() }), ["s1"]);
    assert_eq!(found(SnapshotFilter { expired_at: Some(NOW), ..any() }), ["s1"]);
    assert_eq!(found(SnapshotFilter { tags: tagged(None), ..any() }), ["s2"]);
    assert!(found(SnapshotFilter { tags: tagged(Some("y")), ..any() }).is_empty());
    let images = |filter: ImageFilter| -> Vec<String> {
        let listed = catalog.images(&filter, Page::ALL).unwrap();
        listed.items.into_iter().map(|image| image.image_id).collect()
    };
    let any = ImageFilter::default;
    assert_eq!(images(any()), ["m2", "m1"]);
    assert_eq!(images(ImageFilter { name: Some("b".into()), ..any() }), ["m2"]);
    assert_eq!(images(ImageFilter { tags: tagged(Some("x")), ..any() }), ["m1"]);
    let status = Some(ImageStatus::Available);
    assert!(images(ImageFilter { status, source: Some("s1".into()), ..any() }).is_empty());
    let disks = DiskFilter { tags: tagged(None), ..DiskFilter::default() };
    assert_eq!(catalog.disks(&disks, Page::ALL).unwrap().items[0].disk_id, "d2");
    // Tags go with what they are on.
    must(catalog, &stacked([StackOperation::DeleteSnapshot("s2".into())]));
    must(catalog, &[Operation::DeleteDisk("d2".into())]);
    for (kind, id) in [(TaggedType::Snapshot, "s2"), (TaggedType::Disk, "d2")] {
        assert!(catalog.tags(&TagFilter::of(kind, id), 9).unwrap().is_empty());
    }
    assert_eq!(catalog.tags(&TagFilter::of(TaggedType::Image, "m1"), 9).unwrap().len(), 1);
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

/// `catalog-v1.sql` is what SQLite's `.dump` says of a catalog that format 1 was written to: an
/// attached encrypted disk and a plain one.
#[test]
fn a_catalog_of_format_1_is_upgraded_in_place() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("catalog.db");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(include_str!("data/catalog-v1.sql")).unwrap();
    drop(raw);
    // Twice: what was upgraded is not upgraded again.
    for _ in 0..2 {
        let catalog = SqliteCatalog::open(&path).unwrap();
        let disks = catalog.disks(&DiskFilter::default(), Page::ALL).unwrap().items;
        let [plain, db] = &disks[..] else { panic!("{disks:?}") };
        assert_eq!((plain.name.as_str(), db.name.as_str()), ("plain", "db"));
        assert_eq!(db.status, DiskStatus::InUse);
        assert_eq!(db.instance_id.as_deref(), Some("i-local"));
        assert!(!db.multi_attach && db.more_instances.is_empty() && db.lease_ends.is_none());
        for disk in [plain, db] {
            let layers = catalog.layers(&disk.disk_id).unwrap();
            let expected = LayerRecord {
                layer_id: disk.top_layer.clone(),
                owner: disk.disk_id.clone(),
                parent: None,
                file_name: format!("{}.luks", disk.top_layer),
                kms_key_id: disk.kms_key_id.clone(),
                size: disk.size,
                created: disk.created,
                state: LayerState::Live,
                key_bytes: 0,
            };
            assert_eq!(layers, [expected]);
        }
        assert_eq!(catalog.keys(Page::ALL).unwrap().total, 2);
        assert!(catalog.root().unwrap().is_some());
        assert_eq!(catalog.kms_status().unwrap(), KmsStatus::Enabled);
        assert!(catalog.unreferenced_layers().unwrap().is_empty());
    }
}

/// Both ways to format 2 end with the same tables.
#[test]
fn an_upgraded_catalog_is_as_a_new_one() {
    let scratch = tempfile::tempdir().unwrap();
    let tables = |name: &str, before: &str| -> Vec<(String, Option<String>)> {
        let path = scratch.path().join(name);
        rusqlite::Connection::open(&path).unwrap().execute_batch(before).unwrap();
        drop(SqliteCatalog::open(&path).unwrap());
        let raw = rusqlite::Connection::open(&path).unwrap();
        let text = "SELECT name, sql FROM sqlite_schema ORDER BY name";
        let mut rows = raw.prepare(text).unwrap();
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    };
    assert_eq!(tables("old.db", include_str!("data/catalog-v1.sql")), tables("new.db", ""));
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
