//! Who is let in to an attached disk, and when.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealdisk::disk::DiskError;
use sealdisk::disk::attachment::{Attachment, Guest, Label};
use sealdisk::storage::memory::MemoryStorage;
use sealdisk::units::DataUnitSize;
use support::layers;

/// A client that hears what is asked of it and does nothing.
struct Client {
    arrival: u64,
    has_departed: AtomicBool,
    is_hung_up: AtomicBool,
}

impl Client {
    fn new(arrival: u64) -> Arc<Self> {
        Arc::new(Self { arrival, has_departed: false.into(), is_hung_up: false.into() })
    }

    fn depart(&self) {
        self.has_departed.store(true, Ordering::SeqCst);
    }
}

impl Guest for Client {
    fn hang_up(&self) {
        self.is_hung_up.store(true, Ordering::SeqCst);
    }

    fn cut(&self) {}

    fn has_departed(&self) -> bool {
        self.has_departed.load(Ordering::SeqCst)
    }

    fn arrival(&self) -> u64 {
        self.arrival
    }
}

fn attachment() -> Arc<Attachment> {
    let bytes = layers::formatted(1 << 20, DataUnitSize::B4096);
    let disk = layers::open(Arc::new(MemoryStorage::holding(bytes))).unwrap();
    let (disk_id, name) = ("d-1".to_owned(), String::new());
    Attachment::new(disk, Label { disk_id, name, description: String::new(), read_only: false })
}

#[test]
fn a_newcomer_waits_until_those_who_departed_have_finished() {
    let attachment = attachment();
    let (old, other) = (Client::new(0), Client::new(1));
    let old_visit = attachment.enter(Arc::<Client>::clone(&old)).unwrap();
    let other_visit = attachment.enter(Arc::<Client>::clone(&other)).unwrap();
    old.depart();
    let has_left = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let newcomer = scope.spawn(|| {
            let visit = attachment.enter(Client::new(2)).unwrap();
            assert!(has_left.load(Ordering::SeqCst), "let in beside unfinished requests");
            drop(visit);
        });
        std::thread::sleep(Duration::from_millis(30));
        has_left.store(true, Ordering::SeqCst);
        drop(old_visit);
        newcomer.join().unwrap();
    });
    assert_eq!(attachment.guest_count(), 1);
    drop(other_visit);
}

#[test]
fn who_departed_before_it_came_in_stays_out_once_a_later_one_was_in() {
    let attachment = attachment();
    let late = Client::new(5);
    late.depart();
    // Alone it may finish what it sent.
    drop(attachment.enter(Arc::<Client>::clone(&late)).unwrap());
    drop(attachment.enter(Client::new(6)).unwrap());
    let refused = attachment.enter(late).err();
    assert!(matches!(refused, Some(DiskError::Fenced)), "{refused:?}");
    // An earlier one that is still there is merely another connection.
    assert!(attachment.enter(Client::new(4)).is_ok());
}

#[test]
fn closing_hangs_up_on_all_and_lets_nobody_in() {
    let attachment = attachment();
    let guest = Client::new(0);
    let visit = attachment.enter(Arc::<Client>::clone(&guest)).unwrap();
    assert!(!attachment.close(Duration::from_millis(1)), "somebody is still there");
    assert!(guest.is_hung_up.load(Ordering::SeqCst));
    assert!(matches!(attachment.enter(Client::new(1)), Err(DiskError::Closing)));
    drop(visit);
    assert!(attachment.close(Duration::from_millis(1)));
}
