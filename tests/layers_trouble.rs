//! Jobs that meet trouble on their way: a key that is disabled, a KMS that is away, a full device.
//! The job says why it does not go on, clients do, nothing is lost, and once the cause is gone the
//! job ends by itself.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

#[path = "layers_model/house.rs"]
#[allow(dead_code, unreachable_pub)]
mod house;

use std::sync::atomic::Ordering;

use sealdisk::catalog::{Catalog, JobFilter, JobPace, JobRecord, JobState, Page};
use sealdisk::disk::{CreateSnapshot, Deletion, DiskError, Disks, JobCommand, Renewal, Waiting};
use sealdisk::kms::KmsError;
use sealdisk::kms::remote::RemoteError;
use sealdisk::layer::Presence;
use sealdisk::storage::Durability;
use sealdisk::units::{ByteCount, ByteOffset};

use house::{House, empty_disk, owner};

const UNIT: u64 = 4096;
const SIZE: u64 = 24 * UNIT;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Merge,
    Flatten,
    Rekey,
    SetKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Disabled,
    Away,
    Full,
    /// Layers and catalog lie on the same device.
    AllFull,
}

impl Trouble {
    fn begin(self, house: &House) {
        match self {
            Self::Disabled => house.keys().refuse(Some(|| KmsError::Disabled)),
            Self::Away => house.keys().refuse(Some(|| {
                let source = "connection refused".into();
                let endpoint = "https://kms.example".into();
                KmsError::Remote(RemoteError::Unreachable { endpoint, source })
            })),
            Self::Full => house.fuse.is_full.store(true, Ordering::SeqCst),
            Self::AllFull => {
                house.fuse.is_full.store(true, Ordering::SeqCst);
                house.fuse.is_catalog_full.store(true, Ordering::SeqCst);
            }
        }
    }

    fn end(house: &House) {
        house.keys().refuse(None);
        house.fuse.is_full.store(false, Ordering::SeqCst);
        house.fuse.is_catalog_full.store(false, Ordering::SeqCst);
    }

    const fn is_without_room(self) -> bool {
        matches!(self, Self::Full | Self::AllFull)
    }

    /// What the job says meanwhile.
    const fn words(self) -> &'static str {
        match self {
            Self::Disabled => "needs to be enabled",
            Self::Away => "https://kms.example",
            Self::Full | Self::AllFull => "space",
        }
    }
}

struct Scene {
    house: House,
    disk_id: String,
    held: Vec<u8>,
}

impl Scene {
    /// A disk of two layers, attached, with a job that has begun.
    fn set(kind: Kind) -> Self {
        let house = House::build(9, u64::MAX);
        let request = empty_disk(ByteCount::new(SIZE));
        let disk_id = house.disks().create(&owner(), &request).unwrap().disk_id;
        let mut scene = Self { house, disk_id, held: vec![0; SIZE as usize] };
        scene.attach();
        scene.write(0, 20, 1).unwrap();
        let request = CreateSnapshot { disk_id: scene.disk_id.clone(), ..Default::default() };
        let snapshot = scene.disks().create_snapshot(&owner(), &request).unwrap().snapshot_id;
        scene.write(3, 2, 2).unwrap();
        let renewal = match kind {
            Kind::Merge => None,
            Kind::Flatten => Some(Renewal::Flatten),
            Kind::Rekey => Some(Renewal::Rekey),
            Kind::SetKey => Some(Renewal::SetKey("another-key".into())),
        };
        match renewal {
            None => {
                let deletion = Deletion::default();
                scene.disks().delete_snapshot(&owner(), &snapshot, deletion).unwrap();
            }
            Some(renewal) => {
                let (id, pace) = (&scene.disk_id, JobPace::Full);
                scene.disks().renew(&owner(), id, &renewal, pace).unwrap();
            }
        }
        scene
    }

    fn disks(&self) -> &Disks {
        self.house.disks()
    }

    fn attach(&self) {
        self.disks().attach(&owner(), &self.disk_id, "i-test").unwrap();
    }

    fn write(&mut self, first: u64, units: u64, byte: u8) -> Result<(), DiskError> {
        let attachment = self.disks().find_export(&self.disk_id).unwrap();
        let span = attachment.disk().span(ByteOffset::new(first * UNIT), (units * UNIT) as usize);
        let mut data = vec![byte; span.covered_bytes()];
        attachment.disk().write(&span, &mut data, Durability::Durable)?;
        self.held[(first * UNIT) as usize..((first + units) * UNIT) as usize].fill(byte);
        Ok(())
    }

    fn compare(&self) {
        let attachment = self.disks().find_export(&self.disk_id).unwrap();
        let span = attachment.disk().span(ByteOffset::ZERO, SIZE as usize);
        let mut data = vec![0xee; span.covered_bytes()];
        let mut present = Presence::new();
        assert!(attachment.disk().read(&span, &mut data, &mut present, Waiting::Allowed).unwrap());
        assert!(data[..SIZE as usize] == self.held, "another content");
    }

    /// The job, which has not ended.
    fn job(&self) -> JobRecord {
        let jobs = self.disks().describe_jobs(&owner(), &JobFilter::unfinished(), Page::ALL);
        let jobs = jobs.unwrap().items;
        let [job] = &jobs[..] else { panic!("one job: {jobs:?}") };
        job.clone()
    }

    /// Works on the job until it has to wait.
    fn work(&self) -> JobRecord {
        for _ in 0..20 {
            if self.disks().run_jobs(50) {
                return self.job();
            }
        }
        panic!("the job goes on and on: {:?}", self.job());
    }
}

/// A job of this kind meets trouble after so many pieces.
fn play(kind: Kind, is_attached: bool, trouble: Trouble, pieces: u64) {
    let mut scene = Scene::set(kind);
    let place = format!("{kind:?}, attached: {is_attached}, {trouble:?} after {pieces} pieces");
    if !is_attached {
        scene.disks().detach(&owner(), &scene.disk_id, None).unwrap();
    }
    scene.disks().run_jobs(pieces);
    let id = scene.job().job_id;
    trouble.begin(&scene.house);
    for round in 0..3 {
        let job = scene.work();
        assert!(
            matches!(job.state, JobState::Waiting | JobState::Switching)
                || (job.state == JobState::Running && trouble == Trouble::AllFull),
            "{place}, round {round}: {job:?}"
        );
        assert!(job.failure.contains(trouble.words()), "{place}, round {round}: {job:?}");
        // It does not try again at once; later it does.
        let asked = scene.house.fuse.used();
        assert!(scene.disks().run_jobs(50), "{place}");
        assert_eq!(scene.house.fuse.used(), asked, "{place}: it does not rest");
        scene.house.wait();
        if is_attached {
            scene.compare();
            match scene.write(8 + round, 1, 3) {
                Ok(()) => assert!(!trouble.is_without_room(), "{place}"),
                Err(error) => {
                    assert!(trouble.is_without_room(), "{place}: {error}");
                    assert!(matches!(error, DiskError::OutOfSpace), "{place}: {error}");
                }
            }
        }
    }
    Trouble::end(&scene.house);
    if pieces.is_multiple_of(2) {
        scene.house.wait();
    } else {
        // Who does not want to wait says so; this clears what was wrong as soon as it is begun.
        scene.disks().command_job(&owner(), &id, JobCommand::Resume).unwrap();
    }
    while !scene.disks().run_jobs(50) {}
    let filter = JobFilter { ids: Some(vec![id]), ..JobFilter::default() };
    let jobs = scene.disks().describe_jobs(&owner(), &filter, Page::ALL).unwrap().items;
    let job = &jobs[0];
    assert_eq!((job.state, job.failure.as_str()), (JobState::Done, ""), "{place}");
    if !is_attached {
        scene.attach();
    }
    scene.compare();
    scene.write(0, 1, 4).unwrap();
    scene.disks().detach(&owner(), &scene.disk_id, None).unwrap();
    scene.attach();
    scene.compare();
    let chain = scene.house.catalog().layers(&scene.disk_id).unwrap();
    assert_eq!(chain.len(), 1, "{place}: {chain:?}");
    let moved = kind == Kind::SetKey;
    assert_eq!(chain[0].kms_key_id.as_deref() == Some("another-key"), moved, "{place}");
}

/// At each of its pieces.
fn play_all(kind: Kind, trouble: Trouble) {
    for is_attached in [true, false] {
        for pieces in 0..5 {
            play(kind, is_attached, trouble, pieces);
        }
    }
}

#[test]
fn a_job_whose_key_is_disabled_waits_and_says_so() {
    for kind in [Kind::Merge, Kind::Flatten, Kind::Rekey, Kind::SetKey] {
        play_all(kind, Trouble::Disabled);
    }
}

#[test]
fn a_job_whose_kms_is_away_waits_and_says_so() {
    for kind in [Kind::Merge, Kind::Flatten, Kind::Rekey, Kind::SetKey] {
        play_all(kind, Trouble::Away);
    }
}

#[test]
fn a_job_without_room_waits_and_says_so() {
    for kind in [Kind::Merge, Kind::Flatten, Kind::Rekey, Kind::SetKey] {
        play_all(kind, Trouble::Full);
    }
}

#[test]
fn a_job_says_why_it_waits_when_the_catalog_has_no_room_either() {
    for kind in [Kind::Merge, Kind::Flatten, Kind::Rekey, Kind::SetKey] {
        play_all(kind, Trouble::AllFull);
    }
}

/// Ends the job threads, also when a test fails.
struct Ending<'a>(&'a Disks);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop_jobs();
    }
}

/// Waits until `is_so` of the job.
fn wait_until(scene: &Scene, job_id: &str, is_so: impl Fn(&JobRecord) -> bool) {
    let filter = JobFilter { ids: Some(vec![job_id.to_owned()]), ..JobFilter::default() };
    let mut seen = Vec::new();
    for _ in 0..8000 {
        seen = scene.disks().describe_jobs(&owner(), &filter, Page::ALL).unwrap().items;
        if seen.iter().all(&is_so) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("in vain: {seen:?}");
}

/// The clock stands still, so neither patience nor a rest is ever over by itself.
#[test]
fn a_job_that_waits_is_looked_at_when_somebody_resumes_it() {
    let scene = Scene::set(Kind::Flatten);
    let id = scene.job().job_id;
    Trouble::AllFull.begin(&scene.house);
    scene.house.disks().start_jobs().unwrap();
    let ending = Ending(scene.disks());
    wait_until(&scene, &id, |job| job.failure.contains("space"));
    Trouble::end(&scene.house);
    scene.disks().command_job(&owner(), &id, JobCommand::Resume).unwrap();
    wait_until(&scene, &id, |job| job.state == JobState::Done && job.failure.is_empty());
    drop(ending);
    scene.compare();
}

#[test]
fn a_job_that_rests_for_its_rate_heeds_what_it_is_told() {
    let scene = Scene::set(Kind::Rekey);
    let id = scene.job().job_id;
    let tell = |command| scene.disks().command_job(&owner(), &id, command).unwrap();
    // Hours for each piece.
    tell(JobCommand::Pace(JobPace::Full, Some(1)));
    scene.house.disks().start_jobs().unwrap();
    let ending = Ending(scene.disks());
    wait_until(&scene, &id, |job| job.cursor_units > 0);
    tell(JobCommand::Pause);
    tell(JobCommand::Resume);
    let first = scene.job().cursor_units;
    wait_until(&scene, &id, |job| job.cursor_units > first);
    tell(JobCommand::Pace(JobPace::Full, None));
    wait_until(&scene, &id, |job| job.state == JobState::Done);
    drop(ending);
    scene.compare();
}

/// Nobody is kept waiting by what was known of a job that was steered or is gone.
#[test]
fn a_reason_goes_with_its_job() {
    let scene = Scene::set(Kind::Rekey);
    Trouble::AllFull.begin(&scene.house);
    let job = scene.work();
    assert!(job.failure.contains("space"), "{job:?}");
    Trouble::end(&scene.house);
    let paused = scene.disks().command_job(&owner(), &job.job_id, JobCommand::Pause).unwrap();
    assert_eq!(paused.state, JobState::Paused);
    assert_eq!(scene.job().failure, "");
    scene.disks().command_job(&owner(), &job.job_id, JobCommand::Resume).unwrap();
    assert_eq!(scene.job().failure, "");
    while !scene.disks().run_jobs(50) {}
    assert_eq!(scene.house.catalog().jobs(&JobFilter::unfinished(), Page::ALL).unwrap().total, 0);
    scene.compare();
}
