//! The catalog and the layers held together: check, rebuild, rewrap, crypto-erase. Over real files.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

mod support;
#[path = "upkeep/house.rs"]
mod upkeep_house;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use sealdisk::catalog::{DiskFilter, ImageFilter, JobPace, Page, SnapshotFilter};
use sealdisk::disk::check::{CheckReport, Problem};
use sealdisk::disk::create::Source;
use sealdisk::disk::image::CreateImage;
use sealdisk::disk::snapshot::{CreateSnapshot, Deletion};
use sealdisk::disk::{Disks, Renewal};
use sealdisk::luks2::Condition;
use sealdisk::units::ByteCount;
use serde_json::json;
use support::luks;
use upkeep_house::{House, SIZE, attached, content, new_disk, owner, write};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn snapshot(disks: &Disks, disk_id: &str, name: &str) -> String {
    let request = CreateSnapshot {
        disk_id: disk_id.to_owned(),
        name: name.to_owned(),
        ..CreateSnapshot::default()
    };
    disks.create_snapshot(&owner(), &request).unwrap().snapshot_id
}

/// What there is, by name: kind, id and content of each disk and snapshot.
struct Scene {
    house: House,
    disks: BTreeMap<&'static str, (String, Vec<u8>)>,
    monday: String,
    monday_content: Vec<u8>,
    golden: String,
}

impl Scene {
    /// Three disks, two snapshots, an image, a clone under another key; all detached again.
    fn set() -> Self {
        let house = House::new();
        let disks = house.disks("disks.db");
        let (one, other) = (house.key(), house.key());
        let db = attached(&disks, &new_disk("db", Some(&one), Source::Nothing));
        write(&disks, &db, 0, 0xa1);
        let monday = snapshot(&disks, &db, "monday");
        let monday_content = content(&disks, &db);
        house.clock.advance(DAY);
        write(&disks, &db, 128, 0xb2);
        let tuesday = snapshot(&disks, &db, "tuesday");
        write(&disks, &db, 64, 0xc3);
        let from = Source::Snapshot(monday.clone());
        let clone = attached(&disks, &new_disk("clone", Some(&other), from));
        write(&disks, &clone, 32, 0xd4);
        let plain = attached(&disks, &new_disk("plain", None, Source::Nothing));
        write(&disks, &plain, 512, 0xe5);
        let request = CreateImage {
            snapshot_id: tuesday,
            name: "golden".into(),
            description: String::new(),
            tags: Vec::new(),
        };
        let golden = disks.create_image(&owner(), &request).unwrap().image_id;
        let all = [("db", db), ("clone", clone), ("plain", plain)];
        let of = |(name, id): (&'static str, String)| {
            let content = content(&disks, &id);
            disks.detach(&owner(), &id, None).unwrap();
            (name, (id, content))
        };
        let found = all.into_iter().map(of).collect();
        drop(disks);
        Self { house, disks: found, monday, monday_content, golden }
    }

    fn id(&self, name: &str) -> &str {
        &self.disks[name].0
    }

    /// Every disk has the name and the content that it had.
    fn verify(&self, disks: &Disks) {
        for (name, (id, expected)) in &self.disks {
            let record = disks.attach(&owner(), id, "i-again").unwrap();
            assert_eq!((record.name.as_str(), record.encrypted), (*name, *name != "plain"));
            assert!(content(disks, id) == *expected, "{name} has another content");
            disks.detach(&owner(), id, None).unwrap();
        }
        let clone = new_disk("again", None, Source::Snapshot(self.monday.clone()));
        let clone = attached(disks, &clone);
        assert!(content(disks, &clone) == self.monday_content, "the snapshot has another content");
        disks.detach(&owner(), &clone, None).unwrap();
        disks.delete(&owner(), &clone).unwrap();
    }
}

fn problems(report: &CheckReport) -> Vec<(&str, &'static str, bool)> {
    let shown = report.findings.iter();
    shown.map(|f| (f.subject.as_str(), f.problem.code(), f.is_repaired)).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_lost_catalog_is_rebuilt_from_the_layers() {
    let scene = Scene::set();
    let files = scene.house.headers().len();
    std::fs::remove_file(scene.house.folder.path().join("disks.db")).unwrap();
    let disks = scene.house.disks("rebuilt.db");
    let found = disks.check(&owner(), false).unwrap();
    assert_eq!((found.files, found.faults()), (files, files), "all are unknown");

    let dry = disks.rebuild(&owner(), true).unwrap();
    assert_eq!((dry.layers, dry.disks.len()), (files, 3));
    assert_eq!(disks.check(&owner(), false).unwrap().layers, 0, "a dry run changes nothing");

    let report = disks.rebuild(&owner(), false).unwrap();
    assert_eq!((report.layers, report.known, report.refreshed), (files, 0, 0));
    assert!(report.left_out.is_empty(), "{:?}", report.left_out);
    let names: Vec<&str> = report.snapshots.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"monday") && names.contains(&"tuesday"), "{names:?}");
    assert!(report.snapshots.iter().any(|found| found.snapshot_id == scene.monday));
    assert_eq!(report.images.len(), 1);
    assert_eq!((&report.images[0].image_id, &*report.images[0].name), (&scene.golden, "golden"));
    assert_eq!(scene.house.events("RebuildCatalog").len(), 1);

    let found = disks.check(&owner(), false).unwrap();
    assert!(found.findings.is_empty(), "{:?}", problems(&found));
    scene.verify(&disks);
    let again = disks.rebuild(&owner(), false).unwrap();
    assert_eq!((again.layers, again.known, again.disks.len()), (0, files, 0));
    assert_eq!(scene.house.events("RebuildCatalog").len(), 1, "nothing was done");
}

#[test]
fn a_catalog_older_than_the_layers_is_brought_up_to_date() {
    let house = House::new();
    let disks = house.disks("disks.db");
    let key = house.key();
    let db = attached(&disks, &new_disk("db", Some(&key), Source::Nothing));
    let (grown, renewed) =
        (new_disk("grown", None, Source::Nothing), new_disk("plain", None, Source::Nothing));
    let (grown, renewed) = (attached(&disks, &grown), attached(&disks, &renewed));
    write(&disks, &db, 0, 0xa1);
    for disk in [&db, &grown, &renewed] {
        disks.detach(&owner(), disk, None).unwrap();
    }
    drop(disks);
    std::fs::copy(house.folder.path().join("disks.db"), house.folder.path().join("old.db"))
        .unwrap();
    let disks = house.disks("disks.db");
    disks.attach(&owner(), &db, "i-test").unwrap();
    house.clock.advance(DAY);
    snapshot(&disks, &db, "later");
    write(&disks, &db, 64, 0xb2);
    // The sizes and keys of disks are in the headers of their tops alone.
    let larger = ByteCount::new(SIZE as u64 * 2);
    disks.resize(&owner(), &db, larger).unwrap();
    disks.resize(&owner(), &grown, larger).unwrap();
    let renewal = Renewal::Encrypt(Some(key.clone()));
    disks.renew(&owner(), &renewed, &renewal, JobPace::Full).unwrap();
    while !disks.run_jobs(1000) {}
    let expected = content(&disks, &db);
    disks.detach(&owner(), &db, None).unwrap();
    drop(disks);

    let disks = house.disks("old.db");
    let report = disks.rebuild(&owner(), false).unwrap();
    assert_eq!((report.layers, report.known, report.refreshed), (2, 1, 1));
    assert_eq!(report.disks.len(), 0);
    let moved: BTreeSet<&str> = report.moved.iter().map(String::as_str).collect();
    assert_eq!(moved, [db.as_str(), &grown, &renewed].into());
    assert_eq!(report.snapshots.len(), 1);
    let ids = Some(vec![db.clone(), grown, renewed]);
    let filter = DiskFilter { ids, ..DiskFilter::default() };
    for disk in disks.describe(&owner(), &filter, Page::ALL).unwrap().items {
        let size = if disk.name == "plain" { ByteCount::new(SIZE as u64) } else { larger };
        assert_eq!((disk.size, disk.encrypted), (size, true), "{}", disk.name);
        assert_eq!(disk.name == "grown", disk.kms_key_id != Some(key.clone()), "{}", disk.name);
        disks.attach(&owner(), &disk.disk_id, "i-test").unwrap();
        disks.detach(&owner(), &disk.disk_id, None).unwrap();
    }
    disks.attach(&owner(), &db, "i-test").unwrap();
    assert!(content(&disks, &db) == expected);
    // The layer that the disk had before it was encrypted is in the old catalog alone.
    disks.look_after();
    let found = disks.check(&owner(), false).unwrap().findings;
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn a_rebuild_takes_in_nothing_that_the_kms_does_not_vouch_for() {
    let scene = Scene::set();
    let disks = scene.house.disks("rebuilt.db");
    let headers = scene.house.headers();
    let of = |name: &str| {
        let leaf = |(_, header): &&(_, sealdisk::layer::LayerHeader)| {
            let id = Some(header.spec.layer_id);
            header.spec.disk_id == scene.id(name)
                && !headers.iter().any(|(_, other)| other.spec.parent == id)
        };
        headers.iter().find(leaf).unwrap().0.clone()
    };
    // A forged owner: the clone shall become part of another account of things.
    luks::edit(&of("clone"), |json| {
        luks::token(json)["disk_id"] = json!("d-zzzzzzzzzzzzzzzzzzzz");
    });
    // Two files with one layer, a stray file, a bottom layer that is gone with all that is on it.
    let twice = scene.house.layers().join("copy-of-plain.luks");
    std::fs::copy(of("plain"), &twice).unwrap();
    std::fs::write(scene.house.layers().join("notes.txt"), "not a layer").unwrap();
    let (bottom, _) = headers
        .iter()
        .find(|(_, h)| h.spec.parent.is_none() && h.spec.disk_id == scene.id("db"))
        .unwrap();
    let aside = scene.house.folder.path().join("aside");
    std::fs::rename(bottom, &aside).unwrap();

    let report = disks.rebuild(&owner(), false).unwrap();
    let why = |name: &str| {
        let found = report.left_out.iter().find(|(file, _)| file == name);
        found.unwrap_or_else(|| panic!("{name} was not left out: {report:?}")).1.clone()
    };
    assert!(why(&name_of(&of("clone"))).contains("does not belong to this header"));
    assert!(why("notes.txt").contains("LUKS2") || why("notes.txt").contains("bytes"));
    assert!(why(&name_of(&of("db"))).contains("on which it stands"));
    assert!(report.left_out.iter().any(|(_, why)| why.contains("the same layer")));
    assert_eq!(report.disks.len(), 1);
    assert_eq!(report.disks[0].name, "plain");

    // What is put back is taken in by the next call; what was forged is not.
    std::fs::rename(&aside, bottom).unwrap();
    std::fs::remove_file(twice).unwrap();
    let report = disks.rebuild(&owner(), false).unwrap();
    let names: Vec<&str> = report.disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["db"]);
    assert!(disks.describe(&owner(), &DiskFilter::default(), Page::ALL).unwrap().total == 2);
}

#[test]
fn without_its_key_a_layer_waits() {
    let scene = Scene::set();
    let disks = scene.house.disks("rebuilt.db");
    let key = scene.house.headers().into_iter().find_map(|(_, header)| {
        (header.spec.disk_id == scene.id("clone")).then(|| header.envelope.unwrap().key_id)
    });
    let key = key.unwrap();
    scene.house.kms.disable_key(&owner(), &key).unwrap();
    let report = disks.rebuild(&owner(), false).unwrap();
    assert_eq!(report.left_out.len(), 1, "{:?}", report.left_out);
    assert!(report.left_out[0].1.contains("needs to be enabled"), "{:?}", report.left_out);
    assert_eq!(report.disks.len(), 2);
    scene.house.kms.enable_key(&owner(), &key).unwrap();
    let report = disks.rebuild(&owner(), false).unwrap();
    assert_eq!((report.layers, report.disks.len()), (1, 1));
    scene.verify(&disks);
}

#[test]
fn a_check_finds_what_does_not_agree_and_mends_what_loses_nothing() {
    let scene = Scene::set();
    let disks = scene.house.disks("disks.db");
    assert!(disks.check(&owner(), true).unwrap().findings.is_empty());
    let headers = scene.house.headers();
    let at = |name: &str, is_bottom: bool| {
        let fits = |(_, h): &&(_, sealdisk::layer::LayerHeader)| {
            h.spec.disk_id == scene.id(name) && h.spec.parent.is_none() == is_bottom
        };
        headers.iter().find(fits).unwrap().0.clone()
    };
    let overwrite = |path: &Path, at: u64| {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0; 4096], at).unwrap();
    };
    // One header copy of the plain disk, all of the clone, a byte of what the catalog knows of db.
    overwrite(&at("plain", true), 0);
    let (clone, kept) = (at("clone", false), std::fs::read(at("clone", false)).unwrap());
    std::fs::remove_file(&clone).unwrap();
    let bottom = at("db", true);
    std::fs::write(&clone, &kept[..500_000]).unwrap();
    let intact = std::fs::read(&bottom).unwrap();
    luks::edit(&bottom, |json| luks::token(json)["kms_key_id"] = json!("another"));
    let half = scene.house.layers().join("0b9c4c3e-0000-4000-8000-000000000001.luks");
    std::fs::write(&half, vec![0; 2 << 20]).unwrap();
    std::fs::write(scene.house.layers().join("notes.txt"), "not a layer").unwrap();

    let expected = |is_repaired: bool| {
        let mut all = vec![
            (name_of(&half), "HalfMadeLayer", is_repaired),
            (name_of(&clone), "DamagedLayer", false),
            (name_of(&bottom), "HeaderDiffers", false),
            (name_of(&at("plain", true)), "HeaderCopy", is_repaired),
            ("notes.txt".to_owned(), "StrayFile", false),
        ];
        all.sort();
        all
    };
    let owned = |report: &CheckReport| -> Vec<_> {
        problems(report).into_iter().map(|(s, p, r)| (s.to_owned(), p, r)).collect()
    };
    let report = disks.check(&owner(), false).unwrap();
    assert_eq!(owned(&report), expected(false));
    assert_eq!(report.faults(), 4);
    assert!(half.exists(), "nothing is repaired unless asked for");
    let report = disks.check(&owner(), true).unwrap();
    assert_eq!(owned(&report), expected(true));
    assert_eq!(report.faults(), 2);
    assert!(!half.exists());
    let mended = scene.house.headers();
    let mended = mended.iter().find(|(path, _)| *path == at("plain", true)).unwrap();
    assert_eq!(mended.1.condition, Condition::Sound);
    assert_eq!(scene.house.events("CheckLayers").len(), 3);

    std::fs::write(&clone, kept).unwrap();
    std::fs::write(&bottom, intact).unwrap();
    let report = disks.check(&owner(), false).unwrap();
    assert_eq!(report.faults(), 0, "{:?}", problems(&report));
    scene.verify(&disks);
    std::fs::remove_file(&clone).unwrap();
    let report = disks.check(&owner(), false).unwrap();
    assert!(report.findings.iter().any(|f| matches!(f.problem, Problem::Missing)));
}

#[test]
fn rewrapping_moves_every_data_key_to_the_newest_version() {
    let scene = Scene::set();
    let house = &scene.house;
    let disks = house.disks("disks.db");
    let db = scene.id("db");
    let versions = || -> BTreeMap<String, (String, u64)> {
        let headers = house.headers().into_iter();
        let of = |(path, header): (std::path::PathBuf, sealdisk::layer::LayerHeader)| {
            let envelope = header.envelope?;
            Some((name_of(&path), (envelope.key_version, header.seqid)))
        };
        headers.filter_map(of).collect()
    };
    let before = versions();
    let report = disks.rewrap_disk(&owner(), db).unwrap();
    assert_eq!((report.rewrapped, report.newest, report.plain), (0, 3, 0));
    assert_eq!(versions(), before, "nothing newer, nothing written");

    let of_db = house.headers().into_iter().find(|(_, header)| header.spec.disk_id == db);
    let key = of_db.unwrap().1.envelope.unwrap().key_id;
    house.kms.update_rotation_policy(&owner(), &key, true, Some("604800s")).unwrap();
    house.clock.advance(DAY * 8);
    assert_eq!(house.kms.run_due().unwrap().rotated, 1);
    let newest = house.kms.describe_key(&owner(), &key).unwrap().primary_version;
    // In use meanwhile.
    disks.attach(&owner(), db, "i-test").unwrap();
    let report = disks.rewrap_key(&owner(), &key).unwrap();
    assert_eq!((report.rewrapped, report.newest, report.failed.len()), (3, 0, 0));
    write(&disks, db, 0, 0xf6);
    disks.detach(&owner(), db, None).unwrap();
    let after = versions();
    let moved = after.values().filter(|(version, _)| *version == newest).count();
    assert_eq!((moved, after.len()), (3, 4), "the clone is under another key");
    let report = disks.rewrap_key(&owner(), &key).unwrap();
    assert_eq!((report.rewrapped, report.newest), (0, 3));
    disks.attach(&owner(), db, "i-test").unwrap();
    assert_eq!(content(&disks, db)[0], 0xf6);
    let events = house.events("RewrapKey");
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["responseElements"]["Rewrapped"], 3);
    assert!(disks.check(&owner(), false).unwrap().findings.is_empty());
}

#[test]
fn a_data_key_does_not_follow_a_header_to_another_kms_key() {
    let scene = Scene::set();
    let disks = scene.house.disks("disks.db");
    let (db, foreign) = (scene.id("db"), scene.house.key());
    let headers = scene.house.headers();
    let (bottom, _) =
        headers.iter().find(|(_, h)| h.spec.parent.is_none() && h.spec.disk_id == db).unwrap();
    luks::edit(bottom, |json| luks::token(json)["kms_key_id"] = json!(foreign));
    let changed = std::fs::read(bottom).unwrap();
    let refused = disks.rewrap_disk(&owner(), db).unwrap_err();
    assert!(refused.message().contains("KMS key id differs"), "{refused}");
    assert!(std::fs::read(bottom).unwrap() == changed);
    assert!(scene.house.events("ReEncrypt").iter().all(|e| e["errorCode"].is_null()));
}

#[test]
fn an_erased_disk_leaves_no_wrapped_key_behind_and_the_trail_says_so() {
    let scene = Scene::set();
    let disks = scene.house.disks("disks.db");
    let clone = scene.id("clone").to_owned();
    let headers = scene.house.headers();
    let (path, header) = headers.iter().find(|(_, h)| h.spec.disk_id == clone).unwrap();
    // The file is gone after; a second name for it shows what is left of it on the medium.
    let left = scene.house.folder.path().join("left-on-the-medium");
    std::fs::hard_link(path, &left).unwrap();
    let erase = Deletion { force: false, erase: true };
    disks.delete_with(&owner(), &clone, erase).unwrap();
    assert!(!path.exists());
    let bytes = std::fs::read(&left).unwrap();
    let wrapped = &header.envelope.as_ref().unwrap().wrapped;
    let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, wrapped);
    let needle = &text.as_bytes()[64..96];
    assert!(!bytes.windows(needle.len()).any(|window| window == needle));
    let storage = sealdisk::storage::file::FileStorage::open_reader(&left).unwrap();
    assert!(sealdisk::layer::read_header(&storage).is_err());
    let events = scene.house.events("EraseLayer");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["requestParameters"]["LayerId"], header.spec.layer_id.to_string());
    assert_eq!(events[0]["responseElements"]["ErasedBytes"], 1 << 20);
    // The others, and the layer that the clone stood on, are untouched.
    assert!(disks.check(&owner(), false).unwrap().findings.is_empty());
    let snapshots = disks.describe_snapshots(&owner(), &SnapshotFilter::default(), Page::ALL);
    assert_eq!(snapshots.unwrap().total, 2);
    let images = disks.describe_images(&owner(), &ImageFilter::default(), Page::ALL);
    assert_eq!(images.unwrap().total, 1);
}

#[test]
fn what_a_data_key_has_encrypted_outlives_restarts_and_crashes() {
    let house = House::new();
    let disks = house.disks("disks.db");
    let db = attached(&disks, &new_disk("db", None, Source::Nothing));
    let count = |disks: &Disks| disks.key_scopes(&db).unwrap()[0].encrypted.get();
    assert_eq!(count(&disks), 0);
    for at in 0..10 {
        write(&disks, &db, at * 64, 0xa1);
    }
    assert_eq!(count(&disks), 10 << 16);
    disks.detach(&owner(), &db, None).unwrap();
    assert_eq!(count(&disks), 10 << 16, "an orderly end keeps the count itself");
    drop(disks);
    let disks = house.disks("disks.db");
    disks.attach(&owner(), &db, "i-test").unwrap();
    write(&disks, &db, 0, 0xb2);
    assert_eq!(count(&disks), 11 << 16);
    // A crash: the next run has the bound alone, which is more and not much.
    let crashed = house.disks("disks.db");
    let scope = crashed.key_scopes(&db).unwrap().remove(0);
    let bound = scope.encrypted.get();
    assert!((11 << 16..5 << 30).contains(&bound), "{bound}");
    assert!(!scope.is_warning);
    assert!(crashed.measure_keys().is_empty());
}
