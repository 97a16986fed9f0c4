//! A flush or FUA write that the device holds up: whom it delays on its connection, and that
//! nothing is lost when the server stops meanwhile.

#[path = "upkeep/house.rs"]
#[allow(dead_code)]
mod house;
#[path = "nbd_client/negotiation.rs"]
#[allow(dead_code)]
mod negotiation;
#[path = "nbd_client/socket.rs"]
#[allow(dead_code)]
mod socket;
#[path = "nbd_client/transmission.rs"]
#[allow(dead_code)]
mod transmission;

use std::io::Write;
use std::ops::Range;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use house::{House, attached, new_disk};
use negotiation::Mode;
use sealdisk::clock::SystemClock;
use sealdisk::disk::create::Source;
use sealdisk::nbd::listener::Listener;
use sealdisk::nbd::server::{Server, Settings};
use sealdisk::storage::store::{FileStore, LayerStore, PageCache, Room, Stored};
use sealdisk::storage::{Capabilities, Durability, Extent, Storage, StorageError, View};
use sealdisk::units::{ByteCount, ByteOffset};
use socket::{Client, FLUSH, FUA, Place, READ, WRITE};

/// Nothing here takes that long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives a server that does wrong the time to do it. No outcome of one that does right hangs on it.
const TEMPTATION: Duration = Duration::from_millis(50);

/// What waits for the device.
const SYNCS: [(u16, u16, u64); 2] = [(FLUSH, 0, 0), (WRITE, FUA, 4096)];

/// Where the next sync stops.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Open,
    Armed,
    Stopped,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        if *state == GateState::Armed {
            *state = GateState::Stopped;
            self.changed.notify_all();
            let stopped = |state: &mut GateState| *state == GateState::Stopped;
            drop(self.changed.wait_timeout_while(state, PATIENCE, stopped).unwrap());
        }
    }

    fn set(&self, state: GateState) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_all();
    }

    fn wait_until_stopped(&self) {
        let state = self.state.lock().unwrap();
        let armed = |state: &mut GateState| *state == GateState::Armed;
        let wait = self.changed.wait_timeout_while(state, PATIENCE, armed).unwrap();
        assert_eq!(*wait.0, GateState::Stopped, "no sync came");
    }
}

/// Files with a gate before each sync.
#[derive(Debug)]
struct GatedStore(FileStore, Arc<Gate>);

#[derive(Debug)]
struct Gated(Arc<dyn Storage>, Arc<Gate>);

impl LayerStore for GatedStore {
    fn create(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.0.create(name)
    }

    fn open_writer(
        &self,
        name: &str,
        epoch: u64,
        cache: PageCache,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        let inner = self.0.open_writer(name, epoch, cache)?;
        Ok(Arc::new(Gated(inner, Arc::clone(&self.1))))
    }

    fn open_frozen(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.0.open_frozen(name)
    }

    fn open_reader(&self, name: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.0.open_reader(name)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.0.remove(name)
    }

    fn sync_names(&self) -> Result<(), StorageError> {
        self.0.sync_names()
    }

    fn list(&self) -> Result<Vec<Stored>, StorageError> {
        self.0.list()
    }

    fn room(&self) -> Result<Room, StorageError> {
        self.0.room()
    }

    fn incoming(&self) -> PathBuf {
        self.0.incoming()
    }

    fn adopt(&self, from: &Path, name: &str) -> Result<(), StorageError> {
        self.0.adopt(from, name)
    }

    fn locate(&self, name: &str) -> PathBuf {
        self.0.locate(name)
    }
}

impl Storage for Gated {
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn len(&self) -> Result<ByteCount, StorageError> {
        self.0.len()
    }

    fn read_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<(), StorageError> {
        self.0.read_at(at, into)
    }

    fn read_cached_at(&self, at: ByteOffset, into: &mut [u8]) -> Result<bool, StorageError> {
        self.0.read_cached_at(at, into)
    }

    fn view(&self, range: &Range<ByteOffset>, request: ByteCount) -> Option<View> {
        self.0.view(range, request)
    }

    fn write_at(
        &self,
        at: ByteOffset,
        from: &[u8],
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.0.write_at(at, from, durability)
    }

    fn flush(&self) -> Result<(), StorageError> {
        self.1.pass();
        self.0.flush()
    }

    fn punch(&self, range: Range<ByteOffset>) -> Result<(), StorageError> {
        self.0.punch(range)
    }

    fn extents(&self, range: Range<ByteOffset>, limit: usize) -> Result<Vec<Extent>, StorageError> {
        self.0.extents(range, limit)
    }

    fn set_len(&self, len: ByteCount) -> Result<(), StorageError> {
        self.0.set_len(len)
    }
}

/// A server of one disk whose syncs can be stopped.
struct Served {
    server: Arc<Server>,
    gate: Arc<Gate>,
    place: Place,
    disk_id: String,
    _house: House,
}

impl Served {
    fn new() -> Self {
        let house = House::new();
        let gate = Arc::<Gate>::default();
        let store = GatedStore(FileStore::new(&house.layers()), Arc::clone(&gate));
        let disks = house.disks_in("catalog.db", Arc::new(store));
        let key = house.key();
        let disk_id = attached(&disks, &new_disk("db", Some(&key), Source::Nothing));
        let settings = Settings {
            connections_max: 8,
            handshake_timeout: PATIENCE,
            buffer_bytes_max: 64 << 20,
            worker_threads: 2,
        };
        let server = Server::start(disks, Arc::new(SystemClock::new()), settings).unwrap();
        let path = house.folder.path().join("nbd.sock");
        server.listen(Listener::Unix(UnixListener::bind(&path).unwrap())).unwrap();
        Self { server, gate, place: Place::Unix(path), disk_id, _house: house }
    }

    fn client(&self) -> Client {
        Client::connect(&self.place, &self.disk_id, Mode::Simple)
    }

    /// Sends `sync` and comes back when the device has it; the cookie.
    fn stop_at(&self, client: &mut Client, (command, flags, length): (u16, u16, u64)) -> u64 {
        self.gate.set(GateState::Armed);
        let payload = vec![1; length as usize];
        let cookie = client.send((command, flags), 0, length, &payload).unwrap();
        self.gate.wait_until_stopped();
        cookie
    }

    /// A read that is sent while the device holds `sync` is answered while it does.
    fn assert_is_overtaken(&self, client: &mut Client, sync: (u16, u16, u64)) {
        let held_up = self.stop_at(client, sync);
        let read = client.send((READ, 0), 64 << 10, 4096, &[]).unwrap();
        assert_eq!(client.next_reply().expect("a reply").0, read);
        self.gate.set(GateState::Open);
        assert_eq!(client.next_reply().expect("a reply").0, held_up);
    }

    /// A read that is sent while the device holds `sync` is answered behind it.
    fn assert_is_in_turn(&self, client: &mut Client, sync: (u16, u16, u64)) {
        let held_up = self.stop_at(client, sync);
        let read = client.send((READ, 0), 64 << 10, 4096, &[]).unwrap();
        std::thread::sleep(TEMPTATION);
        self.gate.set(GateState::Open);
        let replies = [client.next_reply(), client.next_reply()].map(|reply| {
            let (cookie, reply) = reply.expect("a reply");
            assert_eq!(reply.error, 0);
            cookie
        });
        assert_eq!(replies, [held_up, read]);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.gate.set(GateState::Open);
        self.server.stop(PATIENCE);
    }
}

fn write_one_by_one(client: &mut Client, count: u64) {
    for number in 0..count {
        client.write(4096 * (16 + number % 64), &[number as u8; 4096]);
    }
}

/// Each pair comes in one piece.
fn write_in_pairs(client: &mut Client, count: u64) {
    for number in 0..count {
        let mut bytes = Vec::new();
        for half in 0..2 {
            let request = client.request(WRITE, 0, 4096 * (16 + 2 * (number % 32) + half), 4096);
            bytes.extend(client.encode(&request, &[3; 4096]));
        }
        client.wire.write_all(&bytes).unwrap();
        assert!(client.all_replies().values().all(|reply| reply.error == 0));
    }
}

#[test]
fn a_sync_holds_nothing_up_for_who_has_not_shown_to_send_one_request_at_a_time() {
    let served = Served::new();
    for sync in SYNCS {
        // Requests that came alone; the sync itself is one more.
        for before in [0, 1, 14] {
            let mut client = served.client();
            write_one_by_one(&mut client, before);
            served.assert_is_overtaken(&mut client, sync);
        }
        let mut client = served.client();
        for _ in 0..3 {
            write_in_pairs(&mut client, 40);
            served.assert_is_overtaken(&mut client, sync);
            write_one_by_one(&mut client, 40);
            write_in_pairs(&mut client, 1);
            served.assert_is_overtaken(&mut client, sync);
        }
    }
}

#[test]
fn who_sends_one_request_at_a_time_has_syncs_in_turn_until_it_does_not() {
    let served = Served::new();
    for sync in SYNCS {
        let mut client = served.client();
        write_one_by_one(&mut client, 15);
        for _ in 0..3 {
            served.assert_is_in_turn(&mut client, sync);
            // It is held up once, not again.
            served.assert_is_overtaken(&mut client, sync);
            served.assert_is_overtaken(&mut client, sync);
            // Many, for the reply to the last sync may be sent by a thread that counts it late.
            write_one_by_one(&mut client, 400);
        }
    }
}

#[test]
fn a_sync_in_turn_when_the_server_stops_is_answered_and_the_stop_waits_for_it() {
    for sync in SYNCS {
        let served = Served::new();
        let mut client = served.client();
        write_one_by_one(&mut client, 40);
        let held_up = served.stop_at(&mut client, sync);
        let server = Arc::clone(&served.server);
        let stop = std::thread::spawn(move || server.stop(PATIENCE));
        std::thread::sleep(TEMPTATION);
        assert!(!stop.is_finished());
        served.gate.set(GateState::Open);
        let (cookie, reply) = client.next_reply().expect("a reply");
        assert_eq!((cookie, reply.error), (held_up, 0));
        assert!(client.ends());
        drop(client);
        assert!(stop.join().unwrap(), "in time");
    }
}

#[test]
fn a_client_that_is_gone_during_a_sync_in_turn_leaves_nothing_behind() {
    let served = Served::new();
    for sync in SYNCS {
        let mut client = served.client();
        write_one_by_one(&mut client, 40);
        served.stop_at(&mut client, sync);
        drop(client);
        served.gate.set(GateState::Open);
        // Let in when the departed one has finished.
        served.client().flush();
    }
}
