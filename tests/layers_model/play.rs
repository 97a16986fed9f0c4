//! A script of operations, played on a house and on a model of it.

use std::collections::BTreeMap;

use sealdisk::catalog::{
    Catalog, DiskFilter, DiskStatus, JobFilter, JobPace, LayerState, Page, SnapshotFilter,
    SnapshotStatus,
};
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{
    ControlError, CopyRequest, CreateDisk, CreateImage, CreateSnapshot, Deletion, Disks,
    JobCommand, Renewal, Source, Waiting,
};
use sealdisk::layer::Presence;
use sealdisk::storage::Durability;
use sealdisk::units::{ByteCount, ByteOffset};

use crate::house::{House, empty_disk, owner};
use crate::support::dice::Dice;

const UNIT: u64 = 4096;
const SECTOR: usize = 512;
const SECTORS: u64 = 8;

/// More writes than recovery takes, as a rule.
const RECOVERY_WRITES: u64 = 11;

/// Numbers name disks, snapshots and images; ranges are in data units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create(u8, u64),
    CreatePlain(u8, u64),
    Clone(u8, u8, u64),
    CloneImage(u8, u8, u64),
    Delete(u8),
    Attach(u8),
    Detach(u8),
    Write(u8, u64, u64),
    Zero(u8, u64, u64),
    Trim(u8, u64, u64),
    Flush(u8),
    Snapshot(u8, u8),
    DeleteSnapshot(u8),
    Erase(u8),
    Copy(u8, u8),
    Image(u8, u8),
    DeleteImage(u8),
    Rekey(u8),
    SetKey(u8),
    Encrypt(u8),
    Flatten(u8),
    Cancel(u8),
    Resize(u8, u64),
    Reset(u8, u8),
    Reinit(u8),
    Jobs(u64),
    LookAfter,
}

/// Marks that each sector may hold; the last one is what it holds while the power is on.
type Sectors = Vec<Vec<u64>>;

#[derive(Clone, Debug)]
struct ModelDisk {
    id: String,
    sectors: Sectors,
    is_attached: bool,
    /// What it was made of.
    origin: Option<Sectors>,
    is_plain: bool,
}

#[derive(Clone, Debug)]
struct ModelSnapshot {
    id: String,
    disk: Option<u8>,
    sectors: Sectors,
}

pub struct Play {
    house: House,
    dice: Dice,
    disks: BTreeMap<u8, ModelDisk>,
    snapshots: BTreeMap<u8, ModelSnapshot>,
    images: BTreeMap<u8, ModelSnapshot>,
    next_mark: u64,
    seed: u64,
}

impl Play {
    /// In a new house that lives for so many writes.
    pub fn new(seed: u64, writes: u64) -> Self {
        Self {
            house: House::build(seed, writes),
            dice: Dice::new(seed),
            disks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            images: BTreeMap::new(),
            next_mark: 0,
            seed,
        }
    }

    /// Plays it all and compares; how many writes it took.
    pub fn through(mut self, script: &[Op]) -> u64 {
        let place = format!("seed {}, to the end", self.seed);
        for op in script {
            if let Err(error) = self.act(*op) {
                panic!("{place}: {op:?}: {error}");
            }
        }
        let writes = self.house.fuse.used();
        self.verify(&place);
        self.finish_all(&place);
        self.verify(&place);
        writes
    }

    /// Plays until the power is cut, lets it come back and compares.
    pub fn cut_off(mut self, script: &[Op], place: &str) {
        let mut under_way = None;
        for op in script {
            let before = (self.disks.clone(), self.snapshots.clone());
            let outcome = self.act(*op);
            if self.house.fuse.is_blown() {
                under_way = Some((*op, before));
                break;
            }
            if let Err(error) = outcome {
                panic!("{place}: {op:?}: {error}");
            }
        }
        let Some((op, before)) = under_way else { panic!("{place}: it was not cut") };
        let place = format!("{place}, during {op:?}");
        // Recovery may be cut off, too: after each number of writes, in one crash or another.
        self.house.crash(self.seed, self.house.fuse.used() % RECOVERY_WRITES);
        let mut recovery = self.house.disks().recover(&owner());
        if self.house.fuse.is_blown() {
            self.house.crash(self.seed + 1, u64::MAX);
            recovery = self.house.disks().recover(&owner());
        }
        self.house.fuse.refill();
        let recovery = recovery.unwrap();
        assert!(recovery.failed.is_empty(), "{place}: {recovery:?}");
        self.adopt(op, before, &place);
        self.verify(&place);
        self.finish_all(&place);
        self.verify(&place);
    }

    fn disks(&self) -> &Disks {
        self.house.disks()
    }

    /// Does one operation if it makes sense now.
    fn act(&mut self, op: Op) -> Result<(), ControlError> {
        match op {
            Op::Create(disk, units) => self.create(disk, units, Source::Nothing, true),
            Op::CreatePlain(disk, units) => self.create(disk, units, Source::Nothing, false),
            Op::Clone(snapshot, disk, units) => match self.snapshots.get(&snapshot) {
                Some(found) => {
                    let source = Source::Snapshot(found.id.clone());
                    self.create(disk, units, source, true)
                }
                None => Ok(()),
            },
            Op::CloneImage(image, disk, units) => match self.images.get(&image) {
                Some(found) => {
                    let source = Source::Image(found.id.clone());
                    self.create(disk, units, source, true)
                }
                None => Ok(()),
            },
            Op::Write(disk, first, units) => self.write(disk, first, units),
            Op::Zero(disk, first, units) => self.zero(disk, first, units),
            Op::Trim(disk, first, units) => self.trim(disk, first, units),
            Op::Flush(disk) => self.flush(disk),
            Op::Snapshot(disk, snapshot) => self.snapshot(disk, snapshot),
            Op::DeleteSnapshot(snapshot) => self.delete_snapshot(snapshot, false),
            Op::Erase(snapshot) => self.delete_snapshot(snapshot, true),
            Op::Copy(from, to) => self.copy(from, to),
            Op::Image(snapshot, image) => self.image(snapshot, image),
            Op::DeleteImage(image) => self.delete_image(image),
            Op::Resize(disk, units) => self.resize(disk, units),
            Op::Reset(disk, snapshot) => self.reset(disk, snapshot),
            Op::Reinit(disk) => self.reinit(disk),
            Op::Delete(disk) => self.delete(disk),
            Op::Attach(disk) => self.attach(disk),
            Op::Detach(disk) => self.detach(disk),
            Op::Rekey(disk) => self.renew(disk, &Renewal::Rekey),
            Op::SetKey(disk) => self.renew(disk, &Renewal::SetKey("another-key".into())),
            Op::Encrypt(disk) => self.renew(disk, &Renewal::Encrypt(None)),
            Op::Flatten(disk) => self.renew(disk, &Renewal::Flatten),
            Op::Cancel(disk) => self.cancel(disk),
            Op::Jobs(pieces) => {
                self.disks().run_jobs(pieces);
                Ok(())
            }
            Op::LookAfter => {
                self.disks().look_after();
                Ok(())
            }
        }
    }

    fn create(
        &mut self,
        disk: u8,
        units: u64,
        source: Source,
        encrypted: bool,
    ) -> Result<(), ControlError> {
        if self.disks.contains_key(&disk) {
            return Ok(());
        }
        let origin = match &source {
            Source::Nothing => None,
            Source::Snapshot(id) => {
                self.snapshots.values().find(|s| s.id == *id).map(|s| s.sectors.clone())
            }
            Source::Image(id) => {
                self.images.values().find(|i| i.id == *id).map(|i| i.sectors.clone())
            }
        };
        let held = origin.as_ref().map_or(0, |sectors| sectors.len() as u64 / SECTORS);
        let size = ByteCount::new(units.max(held) * UNIT);
        let request = CreateDisk {
            encrypted,
            source,
            tags: vec![("stage".into(), "test".into())],
            ..empty_disk(size)
        };
        let made = self.disks().create(&owner(), &request)?;
        let mut sectors = origin.clone().unwrap_or_default();
        sectors.resize((size.get() / UNIT * SECTORS) as usize, vec![0]);
        let id = made.disk_id;
        let model = ModelDisk { id, sectors, is_attached: false, origin, is_plain: !encrypted };
        self.disks.insert(disk, model);
        Ok(())
    }

    fn delete(&mut self, disk: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        if model.is_attached {
            return Ok(());
        }
        self.disks().delete(&owner(), &model.id)?;
        self.disks.remove(&disk);
        Ok(())
    }

    fn attach(&mut self, disk: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        if !model.is_attached {
            self.disks().attach(&owner(), &model.id, "i-test")?;
            self.disks.get_mut(&disk).unwrap().is_attached = true;
        }
        Ok(())
    }

    fn detach(&mut self, disk: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        if model.is_attached {
            self.disks().detach(&owner(), &model.id, None)?;
            self.settled(disk);
            self.disks.get_mut(&disk).unwrap().is_attached = false;
        }
        Ok(())
    }

    /// Everything written is durable.
    fn settled(&mut self, disk: u8) {
        for marks in &mut self.disks.get_mut(&disk).unwrap().sectors {
            *marks = vec![*marks.last().unwrap()];
        }
    }

    /// The range of a request on an attached disk, cut to its size.
    fn range(&self, disk: u8, first: u64, units: u64) -> Option<(ByteOffset, u64)> {
        let model = self.disks.get(&disk).filter(|model| model.is_attached)?;
        let all = model.sectors.len() as u64 / SECTORS;
        let units = units.min(all.saturating_sub(first));
        (units > 0).then_some((ByteOffset::new(first * UNIT), units * UNIT))
    }

    fn write(&mut self, disk: u8, first: u64, units: u64) -> Result<(), ControlError> {
        let Some((at, len)) = self.range(disk, first, units) else { return Ok(()) };
        // Now and then not whole units.
        let shift = self.dice.below(3) * SECTOR as u64 % len;
        let (at, len) = (ByteOffset::new(at.get() + shift), (len - shift) as usize);
        let start = at.get() as usize / SECTOR;
        let mut bytes = Vec::with_capacity(len);
        for sector in start..start + len / SECTOR {
            self.next_mark += 1;
            let mark = self.next_mark;
            self.disks.get_mut(&disk).unwrap().sectors[sector].push(mark);
            bytes.extend(mark.to_le_bytes().repeat(SECTOR / 8));
        }
        let attached = self.disks().find_export(&self.disks[&disk].id).unwrap();
        let open = attached.disk();
        let span = open.span(at, len);
        let mut data = vec![0; span.covered_bytes()];
        data[span.payload()].copy_from_slice(&bytes);
        open.write(&span, &mut data, Durability::Volatile).map_err(failed)
    }

    fn zero(&mut self, disk: u8, first: u64, units: u64) -> Result<(), ControlError> {
        let Some((at, len)) = self.range(disk, first, units) else { return Ok(()) };
        self.mark(disk, at, len, &[0]);
        let attached = self.disks().find_export(&self.disks[&disk].id).unwrap();
        let how = Zeroing {
            only_if_fast: false,
            keep_allocated: self.dice.below(2) == 0,
            durability: Durability::Volatile,
        };
        attached.disk().write_zeroes(at, ByteCount::new(len), how).map_err(failed)
    }

    /// What was trimmed is zeros or as it was, until it is read: then it stays so.
    fn trim(&mut self, disk: u8, first: u64, units: u64) -> Result<(), ControlError> {
        let Some((at, len)) = self.range(disk, first, units) else { return Ok(()) };
        let start = at.get() as usize / SECTOR;
        for sector in start..start + len as usize / SECTOR {
            let marks = &mut self.disks.get_mut(&disk).unwrap().sectors[sector];
            let last = *marks.last().unwrap();
            marks.extend([0, last]);
        }
        let attached = self.disks().find_export(&self.disks[&disk].id).unwrap();
        let length = ByteCount::new(len);
        attached.disk().trim(at, length, Durability::Volatile).map_err(failed)?;
        let found = self.read(&self.disks[&disk].id.clone());
        let sectors = &mut self.disks.get_mut(&disk).unwrap().sectors;
        for sector in start..start + len as usize / SECTOR {
            let (found, marks) = (found[sector], &mut sectors[sector]);
            assert!(found == 0 || found == *marks.last().unwrap(), "trim made up {found}");
            marks.push(found);
        }
        Ok(())
    }

    fn mark(&mut self, disk: u8, at: ByteOffset, len: u64, marks: &[u64]) {
        let start = at.get() as usize / SECTOR;
        let sectors = &mut self.disks.get_mut(&disk).unwrap().sectors;
        sectors[start..start + len as usize / SECTOR].iter_mut().for_each(|s| s.extend(marks));
    }

    fn flush(&mut self, disk: u8) -> Result<(), ControlError> {
        if self.range(disk, 0, 1).is_some() {
            let attached = self.disks().find_export(&self.disks[&disk].id).unwrap();
            attached.disk().flush().map_err(failed)?;
            self.settled(disk);
        }
        Ok(())
    }

    fn snapshot(&mut self, disk: u8, snapshot: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        if self.snapshots.contains_key(&snapshot) {
            return Ok(());
        }
        let request = CreateSnapshot { disk_id: model.id, ..CreateSnapshot::default() };
        let made = self.disks().create_snapshot(&owner(), &request)?;
        assert_eq!(made.status, SnapshotStatus::Accomplished);
        self.settled(disk);
        let sectors = self.disks[&disk].sectors.clone();
        let id = made.snapshot_id;
        self.snapshots.insert(snapshot, ModelSnapshot { id, disk: Some(disk), sectors });
        Ok(())
    }

    fn delete_snapshot(&mut self, snapshot: u8, erase: bool) -> Result<(), ControlError> {
        let Some(model) = self.snapshots.get(&snapshot).cloned() else { return Ok(()) };
        let found = self.house.catalog().snapshot(&model.id).unwrap().unwrap();
        if found.status == SnapshotStatus::Progressing {
            return Ok(());
        }
        let deletion = Deletion { force: true, erase };
        self.disks().delete_snapshot(&owner(), &model.id, deletion)?;
        self.snapshots.remove(&snapshot);
        Ok(())
    }

    fn copy(&mut self, from: u8, to: u8) -> Result<(), ControlError> {
        let Some(model) = self.snapshots.get(&from).cloned() else { return Ok(()) };
        let found = self.house.catalog().snapshot(&model.id).unwrap().unwrap();
        let is_ready = found.status == SnapshotStatus::Accomplished;
        if self.snapshots.contains_key(&to) || !is_ready {
            return Ok(());
        }
        let request = CopyRequest {
            source: model.id,
            encrypted: true,
            kms_key: Some("another-key".into()),
            ..CopyRequest::default()
        };
        let made = self.disks().copy_snapshot(&owner(), &request)?;
        let (id, sectors) = (made.snapshot_id, model.sectors);
        self.snapshots.insert(to, ModelSnapshot { id, disk: None, sectors });
        Ok(())
    }

    fn image(&mut self, snapshot: u8, image: u8) -> Result<(), ControlError> {
        let Some(model) = self.snapshots.get(&snapshot).cloned() else { return Ok(()) };
        let found = self.house.catalog().snapshot(&model.id).unwrap().unwrap();
        let is_ready = found.status == SnapshotStatus::Accomplished;
        if self.images.contains_key(&image) || !is_ready {
            return Ok(());
        }
        let request = CreateImage { snapshot_id: model.id.clone(), ..CreateImage::default() };
        let made = self.disks().create_image(&owner(), &request)?;
        self.images.insert(image, ModelSnapshot { id: made.image_id, ..model });
        Ok(())
    }

    fn delete_image(&mut self, image: u8) -> Result<(), ControlError> {
        let Some(model) = self.images.get(&image).cloned() else { return Ok(()) };
        let deletion = Deletion { force: true, erase: false };
        self.disks().delete_image(&owner(), &model.id, deletion)?;
        self.images.remove(&image);
        Ok(())
    }

    fn renew(&mut self, disk: u8, renewal: &Renewal) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        let is_plain = self.house.catalog().disk(&model.id).unwrap().unwrap().kms_key_id.is_none();
        let wants_plain = matches!(renewal, Renewal::Encrypt(_));
        if *renewal != Renewal::Flatten && wants_plain != is_plain {
            return Ok(());
        }
        match self.disks().renew(&owner(), &model.id, renewal, JobPace::Full) {
            Err(error) if error.code() == "OperationConflict" => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    fn cancel(&mut self, disk: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk) else { return Ok(()) };
        let filter = JobFilter { disk_id: Some(model.id.clone()), ..JobFilter::unfinished() };
        for job in self.house.catalog().jobs(&filter, Page::ALL).unwrap().items {
            match self.disks().command_job(&owner(), &job.job_id, JobCommand::Cancel) {
                Err(error) if error.code() == "IncorrectJobStatus" => {}
                outcome => drop(outcome?),
            }
        }
        Ok(())
    }

    fn resize(&mut self, disk: u8, units: u64) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        if units * SECTORS > model.sectors.len() as u64 {
            self.disks().resize(&owner(), &model.id, ByteCount::new(units * UNIT))?;
            let sectors = &mut self.disks.get_mut(&disk).unwrap().sectors;
            sectors.resize((units * SECTORS) as usize, vec![0]);
        }
        Ok(())
    }

    fn reset(&mut self, disk: u8, snapshot: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        let Some(to) = self.snapshots.get(&snapshot).cloned() else { return Ok(()) };
        if model.is_attached || to.disk != Some(disk) {
            return Ok(());
        }
        match self.disks().reset(&owner(), &model.id, &to.id) {
            // An earlier disk of this number.
            Err(error) if error.code() == "InvalidParameter.Mismatch" => return Ok(()),
            outcome => drop(outcome?),
        }
        self.becomes(disk, to.sectors);
        Ok(())
    }

    fn reinit(&mut self, disk: u8) -> Result<(), ControlError> {
        let Some(model) = self.disks.get(&disk).cloned() else { return Ok(()) };
        if model.is_attached {
            return Ok(());
        }
        match self.disks().reinit(&owner(), &model.id) {
            Err(error) if error.code() == "InvalidSourceSnapshot.NotFound" => return Ok(()),
            outcome => drop(outcome?),
        }
        self.becomes(disk, model.origin.unwrap_or_default());
        Ok(())
    }

    fn becomes(&mut self, disk: u8, mut sectors: Sectors) {
        let model = self.disks.get_mut(&disk).unwrap();
        sectors.resize(model.sectors.len(), vec![0]);
        model.sectors = sectors;
    }

    /// Takes over what became of the operation during which the power was cut.
    fn adopt(
        &mut self,
        op: Op,
        before: (BTreeMap<u8, ModelDisk>, BTreeMap<u8, ModelSnapshot>),
        place: &str,
    ) {
        let catalog = self.house.catalog();
        let mut known: Vec<String> = self.disks.values().map(|disk| disk.id.clone()).collect();
        known.extend(self.snapshots.values().map(|snapshot| snapshot.id.clone()));
        for disk in catalog.disks(&DiskFilter::default(), Page::ALL).unwrap().items {
            let is_served = disk.status == DiskStatus::InUse;
            assert!(is_served || disk.status == DiskStatus::Available, "{place}: {disk:?}");
            match self.disks.values_mut().find(|model| model.id == disk.disk_id) {
                Some(model) => {
                    model.is_attached = is_served;
                    let sectors = (disk.size.get() / UNIT * SECTORS) as usize;
                    if sectors != model.sectors.len() {
                        assert!(matches!(op, Op::Resize(..)), "{place}: {disk:?}");
                        model.sectors.resize(sectors, vec![0]);
                    }
                }
                None => {
                    let may_be = matches!(
                        op,
                        Op::Create(..) | Op::CreatePlain(..) | Op::Clone(..) | Op::CloneImage(..)
                    );
                    assert!(may_be, "{place}: {disk:?}");
                }
            }
        }
        self.disks.retain(|_, disk| {
            let is_there = catalog.disk(&disk.id).unwrap().is_some();
            assert!(is_there || matches!(op, Op::Delete(_)), "{place}: {} is gone", disk.id);
            is_there
        });
        self.snapshots.retain(|_, snapshot| {
            let is_there = catalog.snapshot(&snapshot.id).unwrap().is_some();
            let may_go = matches!(op, Op::DeleteSnapshot(_) | Op::Erase(_));
            assert!(is_there || may_go, "{place}: {} is gone", snapshot.id);
            is_there
        });
        self.images.retain(|_, image| catalog.image(&image.id).unwrap().is_some());
        let all = catalog.snapshots(&SnapshotFilter::default(), Page::ALL).unwrap().items;
        let new = all.into_iter().find(|snapshot| !known.contains(&snapshot.snapshot_id));
        match (op, new) {
            (_, None) => {}
            (Op::Snapshot(disk, number), Some(snapshot)) => {
                assert_eq!(snapshot.status, SnapshotStatus::Accomplished, "{place}");
                let (id, sectors) = (snapshot.snapshot_id, before.0[&disk].sectors.clone());
                self.snapshots.insert(number, ModelSnapshot { id, disk: Some(disk), sectors });
            }
            (Op::Copy(from, to), Some(snapshot)) => {
                let (id, sectors) = (snapshot.snapshot_id, before.1[&from].sectors.clone());
                self.snapshots.insert(to, ModelSnapshot { id, disk: None, sectors });
            }
            (_, Some(snapshot)) => panic!("{place}: {snapshot:?}"),
        }
        // It has gone back as a whole or not at all.
        let target = match op {
            Op::Reset(_, snapshot) => before.1.get(&snapshot).map(|s| s.sectors.clone()),
            Op::Reinit(disk) => {
                before.0.get(&disk).map(|model| model.origin.clone().unwrap_or_default())
            }
            _ => None,
        };
        let (Op::Reset(disk, _) | Op::Reinit(disk)) = op else { return };
        if let (Some(mut target), Some(model)) = (target, before.0.get(&disk)) {
            target.resize(model.sectors.len(), vec![0]);
            let found = self.content_of_disk(disk);
            if !is_allowed(&found, &model.sectors) {
                self.disks.get_mut(&disk).unwrap().sectors = target;
            }
        }
    }

    /// Compares every disk and every snapshot with the model; what was found holds from then on.
    fn verify(&mut self, place: &str) {
        for number in self.disks.keys().copied().collect::<Vec<_>>() {
            let found = self.content_of_disk(number);
            let model = self.disks.get_mut(&number).unwrap();
            check(&found, &mut model.sectors, &format!("{place}: disk {number} {}", model.id));
        }
        for number in self.snapshots.keys().copied().collect::<Vec<_>>() {
            let model = self.snapshots[&number].clone();
            let found = self.house.catalog().snapshot(&model.id).unwrap().unwrap();
            match found.status {
                SnapshotStatus::Progressing => continue,
                SnapshotStatus::Failed => panic!("{place}: {found:?}"),
                SnapshotStatus::Accomplished => {}
            }
            let found = self.content_of(Source::Snapshot(model.id.clone()));
            let sectors = &mut self.snapshots.get_mut(&number).unwrap().sectors;
            check(&found, sectors, &format!("{place}: snapshot {number} {}", model.id));
        }
        for number in self.images.keys().copied().collect::<Vec<_>>() {
            let found = self.content_of(Source::Image(self.images[&number].id.clone()));
            let sectors = &mut self.images.get_mut(&number).unwrap().sectors;
            check(&found, sectors, &format!("{place}: image {number}"));
        }
    }

    /// Lets all jobs end; then nothing half done may be left.
    fn finish_all(&mut self, place: &str) {
        // Two who have one layer open keep a job waiting.
        for number in self.disks.keys().copied().collect::<Vec<_>>() {
            self.detach(number).unwrap();
        }
        for _ in 0..20 {
            self.house.wait();
            self.disks().look_after();
            self.disks().run_jobs(10_000);
        }
        let catalog = self.house.catalog();
        let unfinished = catalog.jobs(&JobFilter::unfinished(), Page::ALL).unwrap().items;
        assert!(unfinished.is_empty(), "{place}: {unfinished:?}");
        let layers = catalog.all_layers(None, Page::ALL).unwrap().items;
        let mut files: Vec<String> = layers.iter().map(|layer| layer.file_name.clone()).collect();
        files.sort();
        assert_eq!(files, self.house.store.names(), "{place}: files and records");
        for layer in &layers {
            assert!(matches!(layer.state, LayerState::Live | LayerState::Condemned), "{layer:?}");
            let uses = catalog.layer_uses(&layer.layer_id).unwrap();
            assert!(!uses.is_empty(), "{place}: nobody needs {layer:?}");
        }
        for model in self.disks.values() {
            let depth = catalog.layers(&model.id).unwrap().len();
            assert!(depth <= 5, "{place}: {depth} layers");
            let disk = catalog.disk(&model.id).unwrap().unwrap();
            assert!(model.is_plain || disk.encrypted, "{place}: {disk:?}");
        }
    }

    fn content_of_disk(&self, number: u8) -> Vec<u64> {
        let model = &self.disks[&number];
        if model.is_attached {
            return self.read(&model.id);
        }
        self.disks().attach(&owner(), &model.id, "i-test").unwrap();
        let found = self.read(&model.id);
        self.disks().detach(&owner(), &model.id, None).unwrap();
        found
    }

    /// What a snapshot or an image holds: read through a disk made of it.
    fn content_of(&self, source: Source) -> Vec<u64> {
        let request = CreateDisk { read_only: true, source, ..empty_disk(ByteCount::ZERO) };
        let disk = self.disks().create(&owner(), &request).unwrap();
        self.disks().attach(&owner(), &disk.disk_id, "i-test").unwrap();
        let found = self.read(&disk.disk_id);
        self.disks().detach(&owner(), &disk.disk_id, None).unwrap();
        self.disks().delete(&owner(), &disk.disk_id).unwrap();
        found
    }

    /// The mark of each sector of an attached disk.
    fn read(&self, disk_id: &str) -> Vec<u64> {
        let attached = self.disks().find_export(disk_id).unwrap();
        let open = attached.disk();
        let span = open.span(ByteOffset::new(0), open.size().as_usize());
        let mut data = vec![0; span.covered_bytes()];
        let mut present = Presence::new();
        assert!(open.read(&span, &mut data, &mut present, Waiting::Allowed).unwrap());
        let mark = |sector: &[u8]| {
            let mark = u64::from_le_bytes(sector[..8].try_into().unwrap());
            assert!(sector.chunks(8).all(|part| part == mark.to_le_bytes()), "a torn sector");
            mark
        };
        data.chunks(SECTOR).map(mark).collect()
    }
}

fn failed(error: sealdisk::disk::DiskError) -> ControlError {
    ControlError::refused("DiskError", 403, error.to_string())
}

fn is_allowed(found: &[u64], allowed: &Sectors) -> bool {
    found.len() == allowed.len() && found.iter().zip(allowed).all(|(f, marks)| marks.contains(f))
}

/// Refuses what may not be there; from here on each sector must stay as it was found.
fn check(found: &[u64], allowed: &mut Sectors, place: &str) {
    assert_eq!(found.len(), allowed.len(), "{place}: size");
    for (sector, (found, marks)) in found.iter().zip(allowed).enumerate() {
        assert!(marks.contains(found), "{place}: sector {sector} is {found}, not of {marks:?}");
        *marks = vec![*found];
    }
}

/// A play of many steps, the same for the same seed.
pub fn random_script(seed: u64, steps: usize) -> Vec<Op> {
    let mut dice = Dice::new(seed);
    let mut script = vec![Op::Create(0, 20), Op::Attach(0), Op::Write(0, 0, 12)];
    while script.len() < steps {
        let (disk, other) = (dice.below(3) as u8, dice.below(4) as u8);
        let (first, units) = (dice.below(20), 1 + dice.below(8));
        script.push(match dice.below(32) {
            0 => Op::Create(disk, 8 + dice.below(16)),
            1 => Op::CreatePlain(disk, 8 + dice.below(16)),
            2 | 3 => Op::Clone(other, disk, 8 + dice.below(16)),
            4 => Op::CloneImage(other, disk, 8 + dice.below(16)),
            5 => Op::Delete(disk),
            6 | 7 => Op::Attach(disk),
            8 => Op::Detach(disk),
            9..=13 => Op::Write(disk, first, units),
            14 => Op::Zero(disk, first, units),
            15 => Op::Trim(disk, first, units),
            16 => Op::Flush(disk),
            17..=19 => Op::Snapshot(disk, other),
            20 | 21 => Op::DeleteSnapshot(other),
            22 => Op::Copy(other, dice.below(4) as u8),
            23 => Op::Image(other, dice.below(4) as u8),
            24 => Op::DeleteImage(other),
            25 => [Op::Rekey(disk), Op::SetKey(disk)][dice.below(2) as usize],
            26 => [Op::Flatten(disk), Op::Encrypt(disk)][dice.below(2) as usize],
            27 => [Op::Cancel(disk), Op::Erase(other)][dice.below(2) as usize],
            28 => Op::Resize(disk, 20 + dice.below(12)),
            29 => [Op::Reset(disk, other), Op::Reinit(disk)][dice.below(2) as usize],
            30 => Op::LookAfter,
            _ => Op::Jobs(1 + dice.below(30)),
        });
    }
    script
}
