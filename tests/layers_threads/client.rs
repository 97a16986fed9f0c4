//! Disks that are served, and the clients on them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use sealdisk::catalog::{Catalog, JobFilter, Page};
use sealdisk::disk::attachment::Attachment;
use sealdisk::disk::zero::Zeroing;
use sealdisk::disk::{Disk, Waiting};
use sealdisk::layer::Presence;
use sealdisk::storage::Durability;
use sealdisk::units::{ByteCount, ByteOffset};

use crate::history::{Effect, History, Stamps};
use crate::house::House;
use crate::support::dice::Dice;

pub const SECTOR: usize = 512;

/// Sectors of a client. Borders lie within data units, so that neighbours meet in one.
pub const PART: usize = 92;

/// Clients of each disk. What is behind their parts is written by whoever changes the disk.
pub const CLIENTS: usize = 3;

/// A disk and what is known of it.
pub struct Served {
    pub id: String,
    /// `None` while it is detached.
    pub attachment: RwLock<Option<Arc<Attachment>>>,
    histories: Vec<Mutex<History>>,
    pub is_over: AtomicBool,
}

impl Served {
    /// One that holds `sectors`.
    pub fn holding(id: String, sectors: &[u64]) -> Self {
        let histories = parts(sectors.len())
            .map(|part| Mutex::new(History::from(sectors[part].to_vec())))
            .collect();
        let (attachment, is_over) = (RwLock::new(None), AtomicBool::new(false));
        Self { id, attachment, histories, is_over }
    }

    pub fn history(&self, part: usize) -> MutexGuard<'_, History> {
        self.histories[part].lock().unwrap()
    }

    pub fn sectors(&self) -> usize {
        CLIENTS * PART + self.history(CLIENTS).now.len()
    }

    /// What it holds by the requests that were answered.
    pub fn now(&self) -> Vec<u64> {
        (0..=CLIENTS).flat_map(|part| self.history(part).now.clone()).collect()
    }

    /// It holds something else from now on. No client is at work.
    pub fn becomes(&self, sectors: &[u64]) {
        for (number, part) in parts(sectors.len()).enumerate() {
            *self.history(number) = History::from(sectors[part].to_vec());
        }
    }

    /// Requests that were sent and answered so far, for each part.
    pub fn counts(&self) -> Vec<(usize, usize)> {
        let of = |part| {
            let history = self.history(part);
            (history.requests.len(), history.answered)
        };
        (0..=CLIENTS).map(of).collect()
    }
}

/// The sectors of each part of a disk.
pub fn parts(sectors: usize) -> impl Iterator<Item = Range<usize>> {
    let end = move |part| if part == CLIENTS { sectors } else { (part + 1) * PART };
    (0..=CLIENTS).map(move |part| part * PART..end(part))
}

/// The mark of each sector.
pub fn read(disk: &Disk, sectors: Range<usize>) -> Vec<u64> {
    let at = ByteOffset::new((sectors.start * SECTOR) as u64);
    let span = disk.span(at, sectors.len() * SECTOR);
    let mut data = vec![0xee; span.covered_bytes()];
    let mut present = Presence::new();
    assert!(disk.read(&span, &mut data, &mut present, Waiting::Allowed).unwrap());
    let mark = |sector: &[u8]| {
        let mark = u64::from_le_bytes(sector[..8].try_into().unwrap());
        assert!(sector.chunks(8).all(|part| part == mark.to_le_bytes()), "a torn sector");
        mark
    };
    data[span.payload()].chunks(SECTOR).map(mark).collect()
}

/// One who writes a part of a disk and reads all of it.
pub struct Client<'a> {
    pub disk: &'a Served,
    pub part: usize,
    pub stamps: &'a Stamps,
    pub dice: Dice,
    pub house: &'a House,
}

impl Client<'_> {
    /// The layers and jobs of the disk, to be told when something is found wrong.
    fn layers(&self, disk: &Disk) -> String {
        let catalog = self.house.catalog();
        let chain = catalog.layers(&self.disk.id).unwrap().into_iter().map(|layer| layer.layer_id);
        let unfinished = catalog.jobs(&JobFilter::unfinished(), Page::ALL).unwrap().items;
        format!(
            "{}: {:?} in the catalog, {:?} open, {unfinished:?}",
            self.disk.id,
            chain.collect::<Vec<_>>(),
            disk.layers()
        )
    }

    /// Works until the disk is over.
    pub fn work(mut self) {
        while !self.disk.is_over.load(Ordering::Relaxed) {
            let attachment = self.disk.attachment.read().unwrap();
            if let Some(attachment) = &*attachment {
                self.step(attachment.disk());
            }
            let is_served = attachment.is_some();
            drop(attachment);
            if !is_served || self.dice.below(4) == 0 {
                std::thread::sleep(Duration::from_micros(self.dice.below(400)));
            }
        }
    }

    fn step(&mut self, disk: &Disk) {
        match self.dice.below(14) {
            0..=5 => self.write(disk),
            6 => self.zero(disk),
            7 => self.trim(disk),
            8 => disk.flush().unwrap(),
            9 | 10 => {
                let own = self.range(PART);
                let expected = self.disk.history(self.part).now[own.clone()].to_vec();
                let found = read(disk, self.placed(&own));
                assert!(
                    found == expected,
                    "{own:?} of part {} holds {found:?}, not {expected:?}; {}",
                    self.part,
                    self.layers(disk)
                );
            }
            _ => self.look_at_another(disk),
        }
    }

    /// Some sectors of the part.
    fn range(&mut self, most: usize) -> Range<usize> {
        let first = self.dice.below(PART as u64) as usize;
        let count = 1 + self.dice.below(most.min(PART - first) as u64) as usize;
        first..first + count
    }

    fn placed(&self, range: &Range<usize>) -> Range<usize> {
        self.part * PART + range.start..self.part * PART + range.end
    }

    fn write(&mut self, disk: &Disk) {
        let range = self.range(30);
        write(disk, self.disk, (self.part, range), self.stamps);
    }

    fn zero(&mut self, disk: &Disk) {
        let range = self.range(30);
        let (at, len) = place(&self.placed(&range));
        let how = Zeroing {
            only_if_fast: false,
            keep_allocated: self.dice.below(2) == 0,
            durability: Durability::Volatile,
        };
        self.disk.history(self.part).begin(range, Effect::Mark(0));
        disk.write_zeroes(at, len, how).unwrap();
        self.disk.history(self.part).end(None, self.stamps.next());
    }

    /// What was trimmed is zeros or as it was, and stays what it was found to be.
    fn trim(&mut self, disk: &Disk) {
        let range = self.range(40);
        let placed = self.placed(&range);
        let (at, len) = place(&placed);
        let before = self.disk.history(self.part).now[range.clone()].to_vec();
        self.disk.history(self.part).begin(range, Effect::Trim(None));
        disk.trim(at, len, Durability::Volatile).unwrap();
        let found = read(disk, placed);
        let is_allowed = |(found, before): (&u64, &u64)| *found == 0 || found == before;
        assert!(found.iter().zip(&before).all(is_allowed), "{found:?} after {before:?}");
        self.disk.history(self.part).end(Some(found), self.stamps.next());
    }

    /// Reads what another client writes: what was answered before, or anything sent meanwhile.
    fn look_at_another(&mut self, disk: &Disk) {
        let part = (self.part + 1 + self.dice.below(CLIENTS as u64 - 1) as usize) % CLIENTS;
        let range = self.range(PART);
        let (before, answered) = {
            let history = self.disk.history(part);
            (history.now[range.clone()].to_vec(), history.answered)
        };
        let found = read(disk, part * PART + range.start..part * PART + range.end);
        let history = self.disk.history(part).clone();
        for ((found, before), sector) in found.into_iter().zip(before).zip(range) {
            let mut since = history.requests[answered..].iter();
            assert!(
                found == before || since.any(|request| request.may_leave(sector, found)),
                "sector {sector} of part {part} is {found}, was {before}; nobody wrote that; {}",
                self.layers(disk)
            );
        }
    }
}

/// Writes a range of a part: the stamp of the request, over and over.
pub fn write(disk: &Disk, served: &Served, (part, range): (usize, Range<usize>), stamps: &Stamps) {
    let at = ByteOffset::new(((part * PART + range.start) * SECTOR) as u64);
    let span = disk.span(at, range.len() * SECTOR);
    let mark = {
        let mut history = served.history(part);
        let mark = stamps.next();
        history.begin(range.clone(), Effect::Mark(mark));
        mark
    };
    let mut data = vec![0; span.covered_bytes()];
    data[span.payload()].copy_from_slice(&mark.to_le_bytes().repeat(range.len() * SECTOR / 8));
    disk.write(&span, &mut data, Durability::Volatile).unwrap();
    served.history(part).end(None, stamps.next());
}

fn place(sectors: &Range<usize>) -> (ByteOffset, ByteCount) {
    let bytes = |sectors: usize| (sectors * SECTOR) as u64;
    (ByteOffset::new(bytes(sectors.start)), ByteCount::new(bytes(sectors.len())))
}
