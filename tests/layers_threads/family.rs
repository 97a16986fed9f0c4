//! One who changes the layers of a few disks in every way, and what everything must hold.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::Scope;

use sealdisk::catalog::{Catalog, JobFilter, JobPace, Page, SnapshotStatus};
use sealdisk::disk::{
    ControlError, CopyRequest, CreateDisk, CreateImage, CreateSnapshot, Deletion, Disks,
    JobCommand, Renewal, Source,
};
use sealdisk::units::ByteCount;

use crate::client::{CLIENTS, Client, PART, SECTOR, Served, parts, read, write};
use crate::history::{Stamps, check_cut};
use crate::house::{House, empty_disk, owner};
use crate::support::dice::Dice;

/// Sectors of a disk that is made of nothing.
const SECTORS: usize = 320;
const DISKS_MAX: usize = 3;
const KEPT_MAX: usize = 5;

/// A snapshot or an image, and what it holds.
struct Kept {
    source: Source,
    /// The disk that it is a snapshot of and that can be put back to it.
    disk: Option<String>,
    held: Vec<u64>,
}

impl Kept {
    fn id(&self) -> &str {
        match &self.source {
            Source::Snapshot(id) | Source::Image(id) => id,
            Source::Nothing => unreachable!("nothing is kept of nothing"),
        }
    }
}

/// Ends the clients of all disks when dropped, also when something was found wrong.
#[derive(Default)]
struct Ending(Mutex<Vec<Arc<Served>>>);

impl Drop for Ending {
    fn drop(&mut self) {
        for disk in self.0.lock().unwrap().iter() {
            disk.is_over.store(true, Ordering::Relaxed);
        }
    }
}

pub struct Family<'a> {
    house: &'a House,
    stamps: &'a Stamps,
    dice: Dice,
    disks: Vec<Arc<Served>>,
    kept: Vec<Kept>,
    name: String,
    /// How often each change was made.
    pub done: BTreeMap<&'static str, u64>,
}

impl<'a> Family<'a> {
    pub fn new(house: &'a House, stamps: &'a Stamps, seed: u64) -> Self {
        let (disks, kept, done) = (Vec::new(), Vec::new(), BTreeMap::new());
        let (dice, name) = (Dice::new(seed), format!("family {seed}"));
        Self { house, stamps, dice, disks, kept, name, done }
    }

    fn disks(&self) -> &'a Disks {
        self.house.disks()
    }

    fn count(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// Makes so many changes, then ends all clients.
    pub fn play(&mut self, steps: u64) {
        std::thread::scope(|scope| {
            let ending = Ending::default();
            self.serve(scope, &ending, Source::Nothing, &[0; SECTORS]);
            for _ in 0..steps {
                self.step(scope, &ending);
            }
        });
    }

    fn step<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, ending: &Ending)
    where
        'a: 'scope,
    {
        match self.dice.below(24) {
            0..=4 => self.snapshot(),
            5 | 6 => self.delete_kept(),
            7 => self.clone_disk(scope, ending),
            8 => self.delete_disk(),
            9 | 10 => self.resize(),
            11..=13 => self.renew(),
            14 => self.rewrap(),
            15 | 16 => self.reset(),
            17 => self.image(),
            18 => self.copy(),
            19 | 20 => self.command_a_job(),
            21 => self.look_at_kept(),
            _ => self.write_behind(),
        }
    }

    fn some_disk(&mut self) -> Arc<Served> {
        let number = self.dice.below(self.disks.len() as u64) as usize;
        Arc::clone(&self.disks[number])
    }

    fn some_kept(&mut self) -> Option<usize> {
        let count = self.kept.len() as u64;
        (count > 0).then(|| self.dice.below(count) as usize)
    }

    fn make(&self, source: &Source, sectors: usize, read_only: bool) -> String {
        let request =
            CreateDisk { read_only, source: source.clone(), ..empty_disk(bytes(sectors)) };
        self.disks().create(&owner(), &request).unwrap().disk_id
    }

    fn attach(&self, disk: &Served) {
        self.disks().attach(&owner(), &disk.id, "i-test").unwrap();
        *disk.attachment.write().unwrap() = self.disks().find_export(&disk.id);
    }

    /// Makes a disk, attaches it, and lets clients loose on it.
    fn serve<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        ending: &Ending,
        source: Source,
        held: &[u64],
    ) where
        'a: 'scope,
    {
        let id = self.make(&source, held.len(), false);
        let disk = Arc::new(Served::holding(id, held));
        self.attach(&disk);
        ending.0.lock().unwrap().push(Arc::clone(&disk));
        self.disks.push(Arc::clone(&disk));
        for part in 0..CLIENTS {
            let (disk, stamps, house) = (Arc::clone(&disk), self.stamps, self.house);
            let dice = Dice::new(self.dice.next());
            scope.spawn(move || Client { disk: &disk, part, stamps, dice, house }.work());
        }
    }

    /// A consistent cut through all clients, wherever they are.
    fn snapshot(&mut self) {
        if self.kept.len() >= KEPT_MAX {
            return self.delete_kept();
        }
        let disk = self.some_disk();
        let before = disk.counts();
        let request = CreateSnapshot { disk_id: disk.id.clone(), ..CreateSnapshot::default() };
        let made = self.disks().create_snapshot(&owner(), &request).unwrap();
        assert_eq!(made.status, SnapshotStatus::Accomplished, "{}", self.name);
        let after = disk.counts();
        let source = Source::Snapshot(made.snapshot_id);
        let held = self.content_of(&source);
        let histories: Vec<_> = (0..=CLIENTS).map(|part| disk.history(part).clone()).collect();
        let of = |(part, range): (usize, std::ops::Range<usize>)| {
            (&histories[part], before[part].1..after[part].0, &held[range])
        };
        let cut: Vec<_> = parts(held.len()).enumerate().map(of).collect();
        check_cut(&cut, &format!("{}: {source:?} of {}", self.name, disk.id));
        self.kept.push(Kept { source, disk: Some(disk.id.clone()), held });
        self.count("snapshot");
    }

    /// Read through a disk made of it.
    fn content_of(&self, source: &Source) -> Vec<u64> {
        let id = self.make(source, 0, true);
        self.disks().attach(&owner(), &id, "i-test").unwrap();
        let attachment = self.disks().find_export(&id).unwrap();
        let sectors = attachment.disk().size().as_usize() / SECTOR;
        let held = read(attachment.disk(), 0..sectors);
        drop(attachment);
        self.disks().detach(&owner(), &id, None).unwrap();
        self.disks().delete(&owner(), &id).unwrap();
        held
    }

    fn look_at_kept(&mut self) {
        if let Some(number) = self.some_kept() {
            self.check_kept(&self.kept[number]);
            self.count("look");
        }
    }

    fn check_kept(&self, kept: &Kept) {
        if let Source::Snapshot(id) = &kept.source {
            // A copy has its data when its job is done, and never if that was cancelled.
            let found = self.house.catalog().snapshot(id).unwrap().unwrap();
            match (found.status, &kept.disk) {
                (SnapshotStatus::Accomplished, _) => {}
                (_, None) => return,
                (status, Some(_)) => panic!("{}: {id} is {status:?}", self.name),
            }
        }
        let found = self.content_of(&kept.source);
        assert_eq!(found, kept.held, "{}: {:?} has changed", self.name, kept.source);
    }

    fn delete_kept(&mut self) {
        let Some(number) = self.some_kept() else { return };
        let deletion = Deletion { force: true, erase: self.dice.below(3) == 0 };
        let kept = &self.kept[number];
        let outcome = match &kept.source {
            Source::Image(id) => self.disks().delete_image(&owner(), id, deletion),
            _ => self.disks().delete_snapshot(&owner(), kept.id(), deletion),
        };
        // A copy that is still being made stays.
        if tolerated(outcome, &["InvalidSnapshotId.NotReady"]).is_some() {
            self.kept.remove(number);
            self.count(if deletion.erase { "erase" } else { "delete" });
        }
    }

    fn clone_disk<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, ending: &Ending)
    where
        'a: 'scope,
    {
        let Some(number) = self.some_kept().filter(|_| self.disks.len() < DISKS_MAX) else {
            return;
        };
        let (source, held) = (self.kept[number].source.clone(), self.kept[number].held.clone());
        if !self.is_ready(number) {
            return;
        }
        self.serve(scope, ending, source, &held);
        self.count("clone");
    }

    fn is_ready(&self, number: usize) -> bool {
        let Source::Snapshot(id) = &self.kept[number].source else { return true };
        let found = self.house.catalog().snapshot(id).unwrap().unwrap();
        found.status == SnapshotStatus::Accomplished
    }

    /// Compares the whole disk with its histories, then deletes it.
    fn delete_disk(&mut self) {
        if self.disks.len() < 2 {
            return;
        }
        let number = self.dice.below(self.disks.len() as u64) as usize;
        let disk = self.disks.remove(number);
        self.compare_and_detach(&disk);
        self.disks().delete(&owner(), &disk.id).unwrap();
        for kept in self.kept.iter_mut().filter(|kept| kept.disk.as_ref() == Some(&disk.id)) {
            kept.disk = Some(String::new());
        }
        self.count("delete disk");
    }

    fn compare_and_detach(&self, disk: &Served) {
        disk.is_over.store(true, Ordering::Relaxed);
        let mut attachment = disk.attachment.write().unwrap();
        let open = attachment.take().unwrap();
        let (expected, found) = (disk.now(), read(open.disk(), 0..disk.sectors()));
        assert_eq!(found, expected, "{}: disk {}", self.name, disk.id);
        assert_eq!(open.disk().size(), bytes(disk.sectors()), "{}: disk {}", self.name, disk.id);
        drop(open);
        self.disks().detach(&owner(), &disk.id, None).unwrap();
    }

    fn resize(&mut self) {
        let disk = self.some_disk();
        let sectors = disk.sectors() + 8 * (1 + self.dice.below(4) as usize);
        self.disks().resize(&owner(), &disk.id, bytes(sectors)).unwrap();
        disk.history(CLIENTS).grow(sectors - CLIENTS * PART);
        self.count("resize");
    }

    /// The part behind those of the clients.
    fn write_behind(&mut self) {
        let disk = self.some_disk();
        let sectors = disk.history(CLIENTS).now.len();
        let first = self.dice.below(sectors as u64) as usize;
        let count = 1 + self.dice.below((sectors - first) as u64) as usize;
        let attachment = disk.attachment.read().unwrap();
        let open = attachment.as_ref().unwrap().disk();
        write(open, &disk, (CLIENTS, first..first + count), self.stamps);
        let expected = disk.history(CLIENTS).now.clone();
        assert_eq!(read(open, CLIENTS * PART..disk.sectors()), expected, "{}", self.name);
    }

    fn renew(&mut self) {
        let disk = self.some_disk();
        let (what, renewal) = match self.dice.below(3) {
            0 => ("rekey", Renewal::Rekey),
            1 => ("set-key", Renewal::SetKey(format!("key-{}", self.dice.below(2)))),
            _ => ("flatten", Renewal::Flatten),
        };
        let pace = [JobPace::Full, JobPace::Gentle][self.dice.below(2) as usize];
        let outcome = self.disks().renew(&owner(), &disk.id, &renewal, pace);
        if tolerated(outcome, &["OperationConflict"]).is_some() {
            self.count(what);
        }
    }

    fn rewrap(&mut self) {
        self.house.keys().rotate();
        if self.dice.below(2) == 0 {
            let report = self.disks().rewrap_key(&owner(), "service-key").unwrap();
            assert!(report.failed.is_empty(), "{}: {:?}", self.name, report.failed);
        } else {
            let disk = self.some_disk();
            self.disks().rewrap_disk(&owner(), &disk.id).unwrap();
        }
        self.count("rewrap");
    }

    /// Detaches a disk under its clients, puts it back to one of its snapshots, attaches it again.
    fn reset(&mut self) {
        let disk = self.some_disk();
        let of_disk = |kept: &&Kept| kept.disk.as_ref() == Some(&disk.id);
        let Some(to) = self.kept.iter().find(of_disk) else { return };
        let mut held = to.held.clone();
        {
            let mut attachment = disk.attachment.write().unwrap();
            *attachment = None;
            self.disks().detach(&owner(), &disk.id, None).unwrap();
            self.disks().reset(&owner(), &disk.id, to.id()).unwrap();
            held.resize(disk.sectors(), 0);
            disk.becomes(&held);
        }
        self.attach(&disk);
        self.count("reset");
    }

    fn image(&mut self) {
        let is_snapshot = |number: &usize| matches!(self.kept[*number].source, Source::Snapshot(_));
        let Some(number) = (0..self.kept.len()).rev().find(is_snapshot) else { return };
        if self.kept.len() >= KEPT_MAX || !self.is_ready(number) {
            return;
        }
        let (snapshot_id, held) =
            (self.kept[number].id().to_owned(), self.kept[number].held.clone());
        let request = CreateImage { snapshot_id, ..CreateImage::default() };
        let made = self.disks().create_image(&owner(), &request).unwrap();
        self.kept.push(Kept { source: Source::Image(made.image_id), disk: None, held });
        self.count("image");
    }

    fn copy(&mut self) {
        let is_own = |number: &usize| self.kept[*number].disk.is_some();
        let Some(number) = (0..self.kept.len()).find(is_own) else { return };
        if self.kept.len() >= KEPT_MAX {
            return;
        }
        let (source, held) = (self.kept[number].id().to_owned(), self.kept[number].held.clone());
        let kms_key = Some("key-0".to_owned());
        let request = CopyRequest { source, encrypted: true, kms_key, ..CopyRequest::default() };
        let made = self.disks().copy_snapshot(&owner(), &request).unwrap();
        self.kept.push(Kept { source: Source::Snapshot(made.snapshot_id), disk: None, held });
        self.count("copy");
    }

    /// Pauses, resumes or cancels a job, whosever it is.
    fn command_a_job(&mut self) {
        let jobs = self.house.catalog().jobs(&JobFilter::unfinished(), Page::ALL).unwrap().items;
        if jobs.is_empty() {
            return;
        }
        let job = &jobs[self.dice.below(jobs.len() as u64) as usize];
        let (what, command) = match self.dice.below(5) {
            0 | 1 => ("pause", JobCommand::Pause),
            2 | 3 => ("resume", JobCommand::Resume),
            _ => ("cancel", JobCommand::Cancel),
        };
        let outcome = self.disks().command_job(&owner(), &job.job_id, command);
        let gone = ["IncorrectJobStatus", "InvalidJobId.NotFound", "OperationConflict"];
        if tolerated(outcome, &gone).is_some() {
            self.count(what);
        }
    }

    /// Compares all disks, which are attached, with their histories.
    pub fn compare_and_detach_all(&self) {
        self.disks.iter().for_each(|disk| self.compare_and_detach(disk));
    }

    /// Compares everything, disks being detached, with what it must hold.
    pub fn compare(&self) {
        for disk in &self.disks {
            self.attach(disk);
            self.compare_and_detach(disk);
        }
        self.kept.iter().for_each(|kept| self.check_kept(kept));
    }
}

fn bytes(sectors: usize) -> ByteCount {
    ByteCount::new((sectors * SECTOR) as u64)
}

/// The answer, or none for an error of these codes.
fn tolerated<T>(outcome: Result<T, ControlError>, codes: &[&str]) -> Option<T> {
    match outcome {
        Ok(answer) => Some(answer),
        Err(error) if codes.contains(&error.code()) => None,
        Err(error) => panic!("{}: {error}", error.code()),
    }
}
