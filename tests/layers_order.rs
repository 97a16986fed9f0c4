//! A merge ends while something else is done to the same disk: one is stopped before each of its
//! writes, of a layer or the catalog, the other goes as far as each of its own; then both go on, or
//! the power is cut. What a merge has removed does not come back, and nothing else is lost.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

#[path = "layers_model/house.rs"]
#[allow(dead_code, unreachable_pub)]
mod house;

use sealdisk::catalog::{
    Catalog, DiskStatus, JobFilter, JobPace, JobState, Page, SnapshotFilter, SnapshotStatus,
};
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{ControlError, CreateSnapshot, Deletion, Disks, JobCommand, Renewal, Waiting};
use sealdisk::layer::{Presence, read_header};
use sealdisk::luks2::Condition;
use sealdisk::storage::Durability;
use sealdisk::storage::store::LayerStore;
use sealdisk::units::{ByteCount, ByteOffset};

use house::{House, Visit, empty_disk, owner};

const UNIT: u64 = 4096;
const SIZE: u64 = 12 * UNIT;
const LARGER: u64 = 17 * UNIT;

/// What is done while the merge ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Resize,
    Snapshot,
    Rewrap,
    Detach,
}

impl Other {
    fn on(self, disks: &Disks, disk_id: &str) -> Result<(), ControlError> {
        match self {
            Self::Resize => disks.resize(&owner(), disk_id, ByteCount::new(LARGER)).map(drop),
            Self::Snapshot => {
                let request =
                    CreateSnapshot { disk_id: disk_id.to_owned(), ..CreateSnapshot::default() };
                disks.create_snapshot(&owner(), &request).map(drop)
            }
            Self::Rewrap => disks.rewrap_disk(&owner(), disk_id).map(drop),
            Self::Detach => disks.detach(&owner(), disk_id, None).map(drop),
        }
    }
}

/// How it goes on when both have gone as far as they shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    MergeFirst,
    OtherFirst,
    PowerCut,
}

struct Scene {
    house: House,
    disk_id: String,
    held: Vec<u8>,
}

impl Scene {
    /// An empty disk, attached.
    fn new() -> Self {
        let house = House::build(7, u64::MAX);
        let request = empty_disk(ByteCount::new(SIZE));
        let disk_id = house.disks().create(&owner(), &request).unwrap().disk_id;
        let scene = Self { house, disk_id, held: vec![0; SIZE as usize] };
        scene.attach();
        scene
    }

    /// A disk of two layers whose merge has everything up and is to end.
    fn set(is_attached: bool) -> Self {
        let mut scene = Self::new();
        scene.write(0, 8, 1);
        let snapshot = scene.snapshot();
        scene.write(2, 3, 2);
        scene.disks().delete_snapshot(&owner(), &snapshot, Deletion::default()).unwrap();
        if !is_attached {
            scene.disks().detach(&owner(), &scene.disk_id, None).unwrap();
        }
        scene.work_until_switching();
        scene.house.keys().rotate();
        scene
    }

    fn snapshot(&self) -> String {
        let request = CreateSnapshot { disk_id: self.disk_id.clone(), ..Default::default() };
        self.disks().create_snapshot(&owner(), &request).unwrap().snapshot_id
    }

    fn work_until_switching(&self) {
        // Without a disk that is open, opening one is a piece of its own.
        let is_attached = self.disks().find_export(&self.disk_id).is_some();
        let pieces = if is_attached { 1 } else { 2 };
        let switching = JobFilter { states: Some(vec![JobState::Switching]), ..Default::default() };
        while self.house.catalog().jobs(&switching, Page::ALL).unwrap().total == 0 {
            assert!(!self.disks().run_jobs(pieces), "the merge has ended");
        }
    }

    fn disks(&self) -> &Disks {
        self.house.disks()
    }

    fn attach(&self) {
        self.disks().attach(&owner(), &self.disk_id, "i-test").unwrap();
    }

    fn write(&mut self, first: u64, units: u64, byte: u8) {
        self.send(first, units, byte);
        let range = (first * UNIT) as usize..((first + units) * UNIT) as usize;
        self.held[range].fill(byte);
    }

    /// A write that is not counted on yet.
    fn send(&self, first: u64, units: u64, byte: u8) {
        let attachment = self.disks().find_export(&self.disk_id).unwrap();
        let span = attachment.disk().span(ByteOffset::new(first * UNIT), (units * UNIT) as usize);
        let mut data = vec![byte; span.covered_bytes()];
        attachment.disk().write(&span, &mut data, Durability::Durable).unwrap();
    }

    /// Lets both go as far as they shall, then on; whether either was stopped where it shall be.
    fn play(&mut self, other: Other, (merge, rest): (u64, u64), then: Then) -> (Visit, Visit) {
        let (house, disk_id) = (&self.house, &self.disk_id);
        let (disks, turnstile) = (house.disks(), &house.fuse.turnstile);
        std::thread::scope(|scope| {
            let merging = scope.spawn(move || {
                turnstile.through(merge, || disks.run_jobs(50));
            });
            let merge_was = turnstile.wait_for(&merging);
            let doing = scope.spawn(move || {
                let outcome = turnstile.through(rest, || other.on(disks, disk_id));
                // Without power nothing succeeds.
                outcome
                    .or_else(|error| if house.fuse.is_blown() { Ok(()) } else { Err(error) })
                    .unwrap_or_else(|error| panic!("{other:?}: {error}"));
            });
            let other_was = turnstile.wait_for(&doing);
            if then == Then::PowerCut {
                house.fuse.blow();
            }
            let order =
                if then == Then::OtherFirst { [&doing, &merging] } else { [&merging, &doing] };
            turnstile.let_go(order[0]);
            turnstile.wait_for(order[0]);
            turnstile.let_go(order[1]);
            (merge_was, other_was)
        })
    }

    /// After everything has ended: one layer, or two with the snapshot, each as the catalog says it
    /// is, and what was written.
    fn check(&mut self, other: Other, then: Then) {
        for _ in 0..4 {
            self.house.wait();
            self.disks().look_after();
            self.disks().run_jobs(1000);
        }
        let catalog = self.house.catalog();
        let unfinished = catalog.jobs(&JobFilter::unfinished(), Page::ALL).unwrap().items;
        assert!(unfinished.is_empty(), "{unfinished:?}");
        let disk = catalog.disk(&self.disk_id).unwrap().unwrap();
        let snapshots = catalog.snapshots(&Default::default(), Page::ALL).unwrap().items;
        if then != Then::PowerCut {
            assert_eq!(disk.size.get(), if other == Other::Resize { LARGER } else { SIZE });
            assert_eq!(snapshots.len(), usize::from(other == Other::Snapshot));
        }
        assert!(snapshots.iter().all(|found| found.status == SnapshotStatus::Accomplished));
        let chain = catalog.layers(&self.disk_id).unwrap();
        assert_eq!(chain.len(), 1 + snapshots.len(), "{chain:?}");
        assert_eq!(self.house.store.names().len(), chain.len());
        let top = chain.iter().find(|layer| layer.layer_id == disk.top_layer).unwrap();
        assert_eq!(top.size, disk.size);
        for layer in &chain {
            let header = read_header(&*self.house.store.open_reader(&layer.file_name).unwrap());
            let header = header.unwrap();
            // A power cut may leave one copy with older names or an older version of the key.
            if then != Then::PowerCut || other == Other::Resize {
                assert_eq!(header.condition, Condition::Sound);
            }
            assert_eq!(header.spec.parent.map(|id| id.to_string()), layer.parent);
            assert_eq!(header.spec.size, layer.size);
        }
        let bottom = chain.iter().filter(|layer| layer.parent.is_none()).count();
        assert_eq!(bottom, 1, "what was merged away has come back: {chain:?}");
        if disk.status == DiskStatus::InUse {
            self.compare(disk.size);
            self.disks().detach(&owner(), &self.disk_id, None).unwrap();
        }
        self.attach();
        self.compare(disk.size);
    }

    fn compare(&self, size: ByteCount) {
        let attachment = self.disks().find_export(&self.disk_id).unwrap();
        assert_eq!(attachment.disk().size(), size);
        let span = attachment.disk().span(ByteOffset::ZERO, size.as_usize());
        let mut data = vec![0xee; span.covered_bytes()];
        let mut present = Presence::new();
        assert!(attachment.disk().read(&span, &mut data, &mut present, Waiting::Allowed).unwrap());
        assert!(data[..self.held.len()] == self.held, "another content");
        assert!(data[self.held.len()..].iter().all(|byte| *byte == 0), "no zeros behind it");
    }
}

/// A disk is renewed, stopped before each write that this takes; a job thread looks for work, and a
/// client writes. What the client wrote is there afterwards: no job may fill the new layer before
/// the disk writes to it.
#[test]
fn a_job_does_not_begin_before_its_layer_is_on_the_disk() {
    for writes in 0.. {
        let mut scene = Scene::set(true);
        let end = || {
            scene.house.wait();
            scene.disks().look_after();
            scene.disks().run_jobs(1000);
        };
        (0..4).for_each(|_| end());
        let (house, disk_id) = (&scene.house, scene.disk_id.clone());
        let (disks, turnstile) = (house.disks(), &house.fuse.turnstile);
        let renewal_was = std::thread::scope(|scope| {
            let renewing = scope.spawn(move || {
                turnstile.through(writes, || {
                    disks.renew(&owner(), &disk_id, &Renewal::Rekey, JobPace::Full).unwrap();
                });
            });
            let renewal_was = turnstile.wait_for(&renewing);
            let working = scope.spawn(move || {
                turnstile.through(u64::MAX, || disks.run_jobs(50));
            });
            turnstile.wait_for(&working);
            let attachment = disks.find_export(&scene.disk_id).unwrap();
            let span = attachment.disk().span(ByteOffset::ZERO, 4096);
            attachment.disk().write(&span, &mut [9; 4096], Durability::Durable).unwrap();
            turnstile.let_go(&renewing);
            renewal_was
        });
        scene.held[..4096].fill(9);
        scene.compare(ByteCount::new(SIZE));
        scene.check(Other::Rewrap, Then::OtherFirst);
        if renewal_was != Visit::Stopped {
            assert!(writes > 5, "a renewal takes {writes} writes");
            return;
        }
    }
}

/// A disk is flattened while a merge into its top waits for a key. The merge has nothing to do
/// afterwards: it must not put a layer below the top again.
#[test]
fn a_merge_that_is_overtaken_does_not_bring_its_floor_back() {
    let mut scene = Scene::new();
    scene.write(0, 8, 1);
    scene.snapshot();
    scene.write(2, 3, 2);
    let second = scene.snapshot();
    scene.write(3, 1, 3);
    scene.disks().delete_snapshot(&owner(), &second, Deletion::default()).unwrap();
    scene.work_until_switching();
    scene.house.keys().refuse(Some(|| sealdisk::kms::KmsError::Disabled));
    let flatten = (Renewal::Flatten, JobPace::Full);
    let job = scene.disks().renew(&owner(), &scene.disk_id, &flatten.0, flatten.1).unwrap();
    scene.disks().run_jobs(1000);
    scene.house.keys().refuse(None);
    scene.disks().command_job(&owner(), &job.job_id, JobCommand::Resume).unwrap();
    scene.disks().run_jobs(1000);
    let layers = |scene: &Scene| {
        let attachment = scene.disks().find_export(&scene.disk_id).unwrap();
        attachment.disk().layers().len()
    };
    assert_eq!(layers(&scene), 1, "it is flattened first");
    // Nothing is below: these become holes.
    let attachment = scene.disks().find_export(&scene.disk_id).unwrap();
    let how =
        Zeroing { only_if_fast: false, keep_allocated: false, durability: Durability::Durable };
    let length = ByteCount::new(8 * UNIT);
    attachment.disk().write_zeroes(ByteOffset::ZERO, length, how).unwrap();
    scene.held[..8 * UNIT as usize].fill(0);
    drop(attachment);
    for _ in 0..4 {
        scene.house.wait();
        scene.disks().look_after();
        scene.disks().run_jobs(1000);
    }
    assert_eq!(layers(&scene), 1);
    let jobs = scene.house.catalog().jobs(&JobFilter::default(), Page::ALL).unwrap().items;
    assert!(jobs.iter().all(|job| job.state == JobState::Done), "{jobs:?}");
    scene.compare(ByteCount::new(SIZE));
    scene.disks().detach(&owner(), &scene.disk_id, None).unwrap();
    scene.attach();
    scene.compare(ByteCount::new(SIZE));
}

/// Everything that is done with another disk, snapshots and jobs.
fn use_another(scene: &Scene, disk_id: &str) {
    let disks = scene.disks();
    disks.attach(&owner(), disk_id, "i-test").unwrap();
    let request = CreateSnapshot { disk_id: disk_id.to_owned(), ..Default::default() };
    let snapshot = disks.create_snapshot(&owner(), &request).unwrap().snapshot_id;
    disks.describe_snapshots(&owner(), &SnapshotFilter::default(), Page::ALL).unwrap();
    disks.delete_snapshot(&owner(), &snapshot, Deletion::default()).unwrap();
    let job = disks.renew(&owner(), disk_id, &Renewal::Rekey, JobPace::Full).unwrap().job_id;
    for command in [JobCommand::Pause, JobCommand::Resume, JobCommand::Cancel] {
        disks.command_job(&owner(), &job, command).unwrap();
    }
    disks.describe_jobs(&owner(), &JobFilter::default(), Page::ALL).unwrap();
    disks.resize(&owner(), disk_id, ByteCount::new(LARGER)).unwrap();
    disks.look_after();
    disks.detach(&owner(), disk_id, None).unwrap();
    disks.delete(&owner(), disk_id).unwrap();
}

/// A client's write hangs in storage while the layers of its disk are exchanged, which has to wait
/// for it, and so does the next command for this disk. Nobody else does.
fn hang_during(other: Option<Other>) {
    let mut scene = Scene::set(true);
    let another = scene.disks().create(&owner(), &empty_disk(ByteCount::new(SIZE))).unwrap();
    let turnstile = &scene.house.fuse.turnstile;
    let was_exchanged = || match other {
        None => {
            let jobs = scene.house.catalog().jobs(&JobFilter::default(), Page::ALL).unwrap().items;
            jobs.iter().all(|job| job.state == JobState::Done)
        }
        Some(_) => {
            let disk = scene.house.catalog().disk(&scene.disk_id).unwrap().unwrap();
            disk.size == ByteCount::new(LARGER)
        }
    };
    let is_met = |is_so: &dyn Fn() -> bool| {
        (0..8000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            is_so()
        })
    };
    let (is_begun, is_free) = std::thread::scope(|scope| {
        let client = scope.spawn(|| turnstile.through(0, || scene.send(9, 1, 4)));
        assert_eq!(turnstile.wait_for(&client), Visit::Stopped);
        let exchange = scope.spawn(|| {
            turnstile.through(u64::MAX, || match other {
                None => assert!(scene.disks().run_jobs(1000)),
                Some(other) => other.on(scene.disks(), &scene.disk_id).unwrap(),
            });
        });
        let is_begun = is_met(&was_exchanged);
        // It waits for its turn or for the exchange, and must not hold what others need.
        let next = scope.spawn(|| {
            turnstile.through(u64::MAX, || drop(scene.snapshot()));
        });
        let waits = turnstile.wait_for(&next);
        let user = scope.spawn(|| use_another(&scene, &another.disk_id));
        let is_free = is_met(&|| user.is_finished());
        let still = !exchange.is_finished() && waits == Visit::Stuck && !next.is_finished();
        turnstile.let_go(&client);
        (is_begun && still, is_free)
    });
    assert!(is_begun, "{other:?}: no exchange waits for the client");
    assert!(is_free, "{other:?}: another disk has to wait for the client");
    scene.held[9 * UNIT as usize..10 * UNIT as usize].fill(4);
    if other.is_some() {
        scene.held.resize(LARGER as usize, 0);
    }
    scene.compare(ByteCount::new(scene.held.len() as u64));
}

#[test]
fn a_request_that_hangs_holds_up_commands_of_its_own_disk_alone() {
    hang_during(None);
    hang_during(Some(Other::Resize));
}

/// Keys are wrapped anew, stopped before each write of that, while a disk is erased as far as each
/// of its own. The store looks at each erased layer that it removes: no key may be back in it.
#[test]
fn an_erased_layer_gets_no_key_back() {
    let mut rewrap = 0;
    loop {
        let (mut rewrap_was, mut rest) = (Visit::Stopped, 0);
        loop {
            let scene = Scene::new();
            let (disks, disk_id) = (scene.disks(), &scene.disk_id);
            disks.detach(&owner(), disk_id, None).unwrap();
            let layer = scene.house.catalog().layers(disk_id).unwrap().remove(0);
            scene.house.keys().rotate();
            let turnstile = &scene.house.fuse.turnstile;
            let place = format!("{rewrap} writes of the rewrap, {rest} of the erasure");
            let guard = Place(place);
            let erasure_was = std::thread::scope(|scope| {
                let wrapping = scope.spawn(|| {
                    turnstile.through(rewrap, || {
                        let key = layer.kms_key_id.as_ref().unwrap();
                        let report = disks.rewrap_key(&owner(), key).unwrap();
                        assert!(report.failed.is_empty(), "{report:?}");
                    });
                });
                rewrap_was = turnstile.wait_for(&wrapping);
                let erasing = scope.spawn(|| {
                    let deletion = Deletion { force: false, erase: true };
                    turnstile.through(rest, || {
                        disks.delete_with(&owner(), disk_id, deletion).unwrap();
                    });
                });
                let erasure_was = turnstile.wait_for(&erasing);
                turnstile.let_go(&wrapping);
                turnstile.wait_for(&wrapping);
                turnstile.let_go(&erasing);
                erasure_was
            });
            assert_eq!(scene.house.store.names(), [""; 0], "it is gone");
            drop(guard);
            if erasure_was != Visit::Stopped {
                break;
            }
            rest += 1;
        }
        if rewrap_was != Visit::Stopped {
            break;
        }
        rewrap += 1;
    }
    assert!(rewrap > 1, "a rewrap takes {rewrap} writes");
}

/// Every interleaving of the end of a merge with `other`.
fn interleave(other: Other, is_attached: bool) {
    let (mut plays, mut merge) = (0, 0);
    loop {
        let (mut merge_was, mut rest) = (Visit::Stopped, 0);
        loop {
            let mut other_was = Visit::Stopped;
            let all = [Then::MergeFirst, Then::OtherFirst, Then::PowerCut];
            // Opening and closing makes a detached disk slower: one way for each place.
            let one = ((merge + rest) % 3) as usize;
            for then in if is_attached { &all[..] } else { &all[one..=one] } {
                let then = *then;
                let mut scene = Scene::set(is_attached);
                let place = format!("{merge} writes of the merge, {rest} of {other:?}, {then:?}");
                let guard = Place(place);
                (merge_was, other_was) = scene.play(other, (merge, rest), then);
                if then == Then::PowerCut {
                    scene.house.crash(merge * 100 + rest, u64::MAX);
                    let recovery = scene.disks().recover(&owner()).unwrap();
                    assert!(recovery.failed.is_empty(), "{recovery:?}");
                }
                scene.check(other, then);
                drop(guard);
                plays += 1;
            }
            if other_was != Visit::Stopped {
                break;
            }
            rest += 1;
        }
        if merge_was != Visit::Stopped {
            break;
        }
        merge += 1;
    }
    assert!(merge > 5, "the end of a merge takes {merge} writes");
    eprintln!("{other:?}: {plays} plays");
}

/// Says where it was when a test fails.
struct Place(String);

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {}", self.0);
        }
    }
}

#[test]
fn a_resize_while_a_merge_ends() {
    interleave(Other::Resize, true);
}

#[test]
fn a_resize_of_a_detached_disk_while_a_merge_ends() {
    interleave(Other::Resize, false);
}

#[test]
fn a_snapshot_while_a_merge_ends() {
    interleave(Other::Snapshot, true);
}

#[test]
fn a_rewrap_while_a_merge_ends() {
    interleave(Other::Rewrap, true);
}

#[test]
fn a_detach_while_a_merge_ends() {
    interleave(Other::Detach, true);
}
