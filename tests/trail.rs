//! What the trail promises: durable before the answer, shut after an error, no change unseen.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealdisk::clock::{Clock, ManualClock, SeededEntropy, Timestamp};
use sealdisk::secret::Secret;
use sealdisk::trail::files::{DirectoryFiles, SegmentFile, SegmentFiles};
use sealdisk::trail::{
    Actor, Attribute, Direction, Event, Query, ResourceType, Service, Trail, TrailError, Why,
    public_key, verify, verify_from, verify_public,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const START: Timestamp = Timestamp::from_unix_millis(1_767_582_245_000);

fn key() -> Secret {
    Secret::from_fn(32, |bytes| bytes.fill(9))
}

fn entropy() -> Arc<SeededEntropy> {
    Arc::new(SeededEntropy::new(1))
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(START))
}

fn open(dir: &Path) -> Result<Trail, TrailError> {
    Trail::open(dir, key(), clock(), entropy())
}

fn actor(user: &str) -> Actor {
    let mut user_identity = Map::new();
    user_identity.insert("type".into(), "ram-user".into());
    user_identity.insert("userName".into(), user.into());
    Actor {
        request_id: Uuid::nil(),
        account_id: "1000000000000001".into(),
        region: "cn-hangzhou".into(),
        source: "10.0.0.1".into(),
        user_agent: "test".into(),
        user_identity,
    }
}

fn event(name: &str) -> Event {
    Event::new(Service::Kms, "Encrypt", actor("alice"))
        .resource(ResourceType::Key, "key-1")
        .request("KeyId", name)
}

fn key_ids(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["requestParameters"]["KeyId"].as_str().unwrap()).collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    paths.sort();
    paths
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("trail");
    (scratch, dir)
}

#[test]
fn an_event_has_the_published_members() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    trail.record(&event("k").read_only().response("KeyVersionId", "v")).unwrap();
    trail
        .record(&event("k").error("Forbidden.KeyNotFound", "The specified Key is not found."))
        .unwrap();
    let events =
        trail.lookup(&Query { direction: Direction::Forward, ..Query::default() }).unwrap().events;
    let mut first = events[0].clone();
    let id = first["eventId"].take();
    assert!(Uuid::parse_str(id.as_str().unwrap()).is_ok());
    let expected = json!({
        "eventId": null, "eventVersion": 1, "eventCategory": "Management", "eventName": "Encrypt",
        "eventRW": "Read", "eventType": "ApiCall",
        "eventSource": "kms.cn-hangzhou.aliyuncs.com", "eventTime": "2026-01-05T03:04:05Z",
        "serviceName": "Kms", "apiVersion": "2016-01-20", "acsRegion": "cn-hangzhou",
        "requestId": "00000000-0000-0000-0000-000000000000", "sourceIpAddress": "10.0.0.1",
        "userAgent": "test", "isGlobal": false, "recipientAccountId": "1000000000000001",
        "userIdentity": { "type": "ram-user", "userName": "alice" },
        "requestParameters": { "KeyId": "k" }, "responseElements": { "KeyVersionId": "v" },
        "resourceType": "ACS::KMS::Key", "resourceName": "key-1",
        "referencedResources": { "ACS::KMS::Key": ["key-1"] }, "additionalEventData": {},
    });
    assert_eq!(first, expected);
    assert_eq!(events[1]["errorCode"], "Forbidden.KeyNotFound");
    assert_eq!(events[1]["errorMessage"], "The specified Key is not found.");
    assert_eq!(events[1]["eventRW"], "Write");
    assert_ne!(events[1]["eventId"], id);
}

#[test]
fn a_restart_goes_on_where_it_ended() {
    let (_scratch, dir) = scratch();
    for round in 0..3 {
        let trail = open(&dir).unwrap();
        assert_eq!(trail.last_seq(), round * 2);
        trail.record(&event("a")).unwrap();
        trail.record(&event("b")).unwrap();
    }
    let verified = verify(&dir, &key()).unwrap();
    assert_eq!((verified.records, verified.first_seq, verified.last_seq), (6, 1, 6));
    assert_eq!(verified.unfinished_bytes, 0);
}

#[test]
fn its_files_are_private_and_its_alone() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    trail.record(&event("a")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for path in segments(&dir).into_iter().chain([dir.join("head")]) {
        assert_eq!(mode(&path), 0o600);
    }
    assert!(matches!(open(&dir), Err(TrailError::InUse { .. })));
    drop(trail);
    open(&dir).unwrap();
}

/// Puts the head back to what it was before the last batch, as a power cut may: it is not synced.
fn forget_last_head(dir: &Path) {
    let path = dir.join("head");
    let mut head = std::fs::read(&path).unwrap();
    let seq = |slot: &[u8]| serde_json::from_slice::<Value>(slot).unwrap()["seq"].as_u64();
    let newer = if seq(&head[..512]) > seq(&head[512..]) { 0 } else { 512 };
    head[newer..newer + 512].fill(0);
    std::fs::write(path, head).unwrap();
}

#[test]
fn an_unfinished_end_is_cut_and_recording_goes_on() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    trail.record(&event("a")).unwrap();
    trail.record(&event("b")).unwrap();
    drop(trail);
    let segment = &segments(&dir)[0];
    let whole = std::fs::read(segment).unwrap();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for length in [first + 1, whole.len() - 1] {
        std::fs::write(segment, &whole[..length]).unwrap();
        forget_last_head(&dir);
        let unfinished = (length - first) as u64;
        assert_eq!(verify(&dir, &key()).unwrap().unfinished_bytes, unfinished);
        let trail = open(&dir).unwrap();
        assert_eq!(trail.last_seq(), 1);
        trail.record(&event("c")).unwrap();
        drop(trail);
        assert_eq!(verify(&dir, &key()).unwrap().records, 2);
    }
}

#[test]
fn the_head_must_be_there_and_be_ours() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    trail.record(&event("a")).unwrap();
    drop(trail);
    let head = dir.join("head");
    let whole = std::fs::read(&head).unwrap();
    // One slot may be torn, by a power cut within its write.
    for slot in [0, 512] {
        let mut torn = whole.clone();
        torn[slot + 40] ^= 1;
        std::fs::write(&head, &torn).unwrap();
        verify(&dir, &key()).unwrap();
        assert_eq!(open(&dir).unwrap().last_seq(), 1);
    }
    let forged = String::from_utf8(whole.clone()).unwrap().replace("\"seq\":1", "\"seq\":0");
    for bytes in [forged.as_bytes(), b"", &whole[..100], &vec![0; 1024]] {
        let is_forged = bytes == forged.as_bytes();
        std::fs::write(&head, bytes).unwrap();
        if is_forged {
            // The other slot, from before the first record, still stands.
            assert_eq!(verify(&dir, &key()).unwrap().head, Some(0));
            continue;
        }
        assert!(matches!(verify(&dir, &key()), Err(TrailError::NoHead { .. })));
        assert!(matches!(open(&dir), Err(TrailError::NoHead { .. })));
    }
    std::fs::remove_file(&head).unwrap();
    assert_eq!(verify(&dir, &key()).unwrap().head, None);
    let refused = open(&dir).unwrap_err();
    assert!(refused.to_string().contains("start with an empty directory"), "{refused}");
}

#[test]
fn all_segments_taken_away_are_missed() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    trail.record(&event("a")).unwrap();
    drop(trail);
    std::fs::remove_file(&segments(&dir)[0]).unwrap();
    assert_eq!(damage(&dir), (1, 1, Why::CutOff));
}

#[test]
fn checkpoints_vouch_for_the_records_before_them() {
    let (_scratch, dir) = scratch();
    let clock = clock();
    let trail = Trail::open(&dir, key(), clock.clone(), entropy()).unwrap();
    trail.checkpoint().unwrap();
    assert_eq!(trail.last_seq(), 0, "there is nothing to vouch for");
    for i in 0..1010 {
        trail.record(&event(&i.to_string())).unwrap();
    }
    let count = || {
        let found = verify(&dir, &key()).unwrap();
        assert_eq!(verify_public(&dir, trail.public_key(), 0).unwrap(), found);
        (found.records, found.checkpoints, found.last_checkpoint)
    };
    assert_eq!(count(), (1010, 1, 1001), "after a thousand records");
    clock.advance(Duration::from_secs(61));
    trail.record(&event("x")).unwrap();
    assert_eq!(count(), (1011, 2, 1013), "a minute after the first record without one");
    trail.record(&event("y")).unwrap();
    trail.checkpoint().unwrap();
    trail.checkpoint().unwrap();
    assert_eq!(count(), (1012, 3, 1015), "when asked for, and once");
    assert_eq!(trail.public_key(), public_key(&key()));
    drop(trail);
    let trail = Trail::open(&dir, key(), clock, entropy()).unwrap();
    trail.record(&event("z")).unwrap();
    trail.checkpoint().unwrap();
    let found = verify(&dir, &key()).unwrap();
    assert_eq!((found.records, found.checkpoints, found.last_seq), (1013, 4, 1017));
    let shown = all(&trail, &Query::default());
    assert_eq!(shown.len(), 1013, "a checkpoint is no event");
}

#[test]
fn who_has_the_public_key_alone_finds_what_was_changed_before_a_checkpoint() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    for name in ["a", "b", "c"] {
        trail.record(&event(name)).unwrap();
    }
    trail.checkpoint().unwrap();
    trail.record(&event("d")).unwrap();
    let public = trail.public_key();
    drop(trail);
    let segment = &segments(&dir)[0];
    let whole = std::fs::read_to_string(segment).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let found = |lines: &[&str], public| {
        std::fs::write(segment, lines.concat()).unwrap();
        match verify_public(&dir, public, 0) {
            Ok(_) => None,
            Err(TrailError::Damaged(damage)) => Some((damage.seq, damage.why)),
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(found(&lines, public), None);
    let changed = lines[1].replace("alice", "mallo");
    let flipped = [lines[0], &changed, lines[2], lines[3], lines[4]];
    assert_eq!(found(&flipped, public), Some((4, Why::WrongDigest)));
    let deleted = [lines[0], lines[2], lines[3], lines[4]];
    assert_eq!(found(&deleted, public), Some((2, Why::BrokenChain)));
    let reordered = [lines[0], lines[2], lines[1], lines[3], lines[4]];
    assert_eq!(found(&reordered, public), Some((2, Why::BrokenChain)));
    assert_eq!(found(&lines[..3], public), Some((4, Why::CutOff)));
    let other = public_key(&Secret::zeroed(32));
    assert_eq!(found(&lines, other), Some((4, Why::WrongSignature)));
    let forged = lines[3].replace("2026-", "2025-");
    let forged = [lines[0], lines[1], lines[2], &forged, lines[4]];
    assert_eq!(found(&forged, public), Some((4, Why::WrongSignature)));
}

#[test]
fn a_full_device_is_waited_out() {
    for torn in [0, 100, 1_000_000] {
        let (_scratch, dir) = scratch();
        let (trail, faults) = faulty(&dir);
        trail.record(&event("a")).unwrap();
        faults.torn.store(torn, Ordering::SeqCst);
        faults.set("write", 0, ENOSPC);
        let error = trail.record(&event("b")).unwrap_err();
        assert!(matches!(error, TrailError::Full { .. }), "{error:?}");
        assert_eq!(trail.last_seq(), 1);
        assert_eq!(verify(&dir, &key()).unwrap().unfinished_bytes, 0);
        trail.record(&event("c")).unwrap();
        assert_eq!(key_ids(&trail.lookup(&Query::default()).unwrap().events), ["c", "a"]);
        assert_eq!(verify(&dir, &key()).unwrap().records, 2);
        // If what was half written stays, nobody knows what the medium holds.
        faults.set("write", 0, ENOSPC);
        faults.also_cut.store(true, Ordering::SeqCst);
        let error = trail.record(&event("d")).unwrap_err();
        assert!(matches!(error, TrailError::Poisoned { .. }), "{error:?}");
    }
}

#[test]
fn a_new_segment_whose_first_record_was_refused_is_used_later() {
    let (_scratch, dir) = scratch();
    let (trail, faults) = faulty(&dir);
    faults.set("write", 0, ENOSPC);
    trail.record(&event("a")).unwrap_err();
    trail.record(&event("b")).unwrap();
    assert_eq!(segments(&dir).len(), 1);
    assert_eq!(verify(&dir, &key()).unwrap().records, 1);
}

fn damage(dir: &Path) -> (u64, u64, Why) {
    let found = match verify(dir, &key()) {
        Err(TrailError::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    };
    match open(dir) {
        Err(error @ TrailError::Damaged(_)) => {
            let text = error.to_string();
            assert!(
                text.contains("trail-") && text.contains(&format!("line {}", found.line)),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    (found.line, found.seq, found.why)
}

#[test]
fn every_kind_of_tampering_is_named() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    for name in ["a", "b", "c", "d"] {
        trail.record(&event(name)).unwrap();
    }
    drop(trail);
    let segment = &segments(&dir)[0];
    let whole = std::fs::read_to_string(segment).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let put = |lines: &[&str]| std::fs::write(segment, lines.concat()).unwrap();

    let changed = lines[1].replace("alice", "mallo");
    put(&[lines[0], &changed, lines[2], lines[3]]);
    assert_eq!(damage(&dir), (2, 2, Why::WrongMac));
    put(&[lines[0], lines[2], lines[3]]);
    assert_eq!(damage(&dir), (2, 2, Why::BrokenChain));
    put(&[lines[0], lines[2], lines[1], lines[3]]);
    assert_eq!(damage(&dir), (2, 2, Why::BrokenChain));
    put(&[lines[0], lines[0], lines[1]]);
    assert_eq!(damage(&dir), (2, 2, Why::BrokenChain));
    put(&[lines[1], lines[2]]);
    assert_eq!(damage(&dir), (1, 1, Why::BrokenChain));
    for kept in 0..4 {
        put(&lines[..kept]);
        assert_eq!(damage(&dir), (kept as u64 + 1, kept as u64 + 1, Why::CutOff));
    }
    put(&[lines[0], lines[1], lines[2], &lines[3][..20]]);
    assert_eq!(damage(&dir), (4, 4, Why::CutOff));
    put(&[lines[0], "{}\n", lines[1]]);
    assert_eq!(damage(&dir), (2, 2, Why::NotARecord));
    put(&lines);
    verify(&dir, &key()).unwrap();
    let other = Secret::zeroed(32);
    assert!(matches!(verify(&dir, &other), Err(TrailError::NoHead { .. })));
    std::fs::rename(segment, dir.join("trail-00000000000000000002.jsonl")).unwrap();
    assert_eq!(damage(&dir).2, Why::BrokenChain);
    std::fs::rename(&segments(&dir)[0], dir.join("trail-x.jsonl")).unwrap();
    assert_eq!(damage(&dir).2, Why::WrongName);
}

/// An event whose line is some 200 KiB.
fn long_event(name: &str) -> Event {
    let long = "x".repeat(8192);
    let names = ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O"];
    names
        .into_iter()
        .fold(event(name), |event, name| {
            event.request(name, long.as_str()).response(name, long.as_str())
        })
        .response("Extra", "")
}

#[test]
fn segments_follow_each_other_and_none_can_be_taken_away() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    let one = {
        trail.record(&long_event("0")).unwrap();
        std::fs::metadata(&segments(&dir)[0]).unwrap().len()
    };
    let count = (16 << 20) / one * 2 + 5;
    for i in 1..count {
        trail.record(&long_event(&i.to_string())).unwrap();
    }
    let mut token = None;
    let mut seen = Vec::new();
    loop {
        let query = Query { max_results: Some(50), next_token: token, ..Query::default() };
        let page = trail.lookup(&query).unwrap();
        seen.extend(key_ids(&page.events).into_iter().map(|id| id.parse::<u64>().unwrap()));
        token = page.next_token;
        if token.is_none() {
            break;
        }
    }
    assert!(seen.iter().copied().eq((0..count).rev()));
    drop(trail);
    let paths = segments(&dir);
    assert_eq!(paths.len(), 3);
    assert!(paths.iter().all(|path| std::fs::metadata(path).unwrap().len() <= 16 << 20));
    let whole = verify(&dir, &key()).unwrap();
    assert_eq!((whole.records, whole.checkpoints), (count, 2));
    assert_eq!(open(&dir).unwrap().last_seq(), count + 2);

    std::fs::rename(&paths[0], dir.join("elsewhere")).unwrap();
    let verified = verify(&dir, &key()).unwrap();
    assert!(verified.first_seq > 1 && verified.last_seq == whole.last_seq);
    assert_eq!(verify_from(&dir, &key(), verified.first_seq).unwrap(), verified);
    std::fs::rename(dir.join("elsewhere"), &paths[0]).unwrap();
    std::fs::remove_file(&paths[1]).unwrap();
    assert!(matches!(damage(&dir), (1, _, Why::BrokenChain)));
}

#[test]
fn many_threads_share_the_chain() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let trail = &trail;
            scope.spawn(move || {
                for i in 0..50 {
                    trail.record(&event(&format!("{thread}-{i}"))).unwrap();
                }
            });
        }
    });
    assert_eq!(trail.last_seq(), 400);
    assert_eq!(verify(&dir, &key()).unwrap().records, 400);
}

/// Files of a directory whose n-th operation fails.
struct FaultyFiles {
    real: DirectoryFiles,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// `(operation, calls to let pass, error number)`; `None`: all pass.
    next: Mutex<Option<(&'static str, usize, i32)>>,
    /// Most bytes one write takes; 0: all.
    short: AtomicUsize,
    syncs: AtomicUsize,
    /// Bytes a failing write still puts down.
    torn: AtomicI32,
    /// Cutting a file fails as well.
    also_cut: AtomicBool,
}

impl Faults {
    fn set(&self, operation: &'static str, after: usize, errno: i32) {
        *self.next.lock().unwrap() = Some((operation, after, errno));
    }

    fn meet(&self, operation: &'static str) -> io::Result<()> {
        let mut next = self.next.lock().unwrap();
        match next.as_mut() {
            Some((name, 0, errno)) if *name == operation => {
                let error = io::Error::from_raw_os_error(*errno);
                *next = None;
                Err(error)
            }
            Some((name, after, _)) if *name == operation => {
                *after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

struct FaultyFile {
    real: Box<dyn SegmentFile>,
    faults: Arc<Faults>,
}

impl SegmentFiles for FaultyFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        self.real.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let faults = self.faults.clone();
        Ok(Box::new(FaultyFile { real: self.real.open(name)?, faults }))
    }

    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn SegmentFile>> {
        self.faults.meet("create")?;
        let faults = self.faults.clone();
        Ok(Box::new(FaultyFile { real: self.real.create(name, reserve)?, faults }))
    }

    fn head(&self, may_create: bool) -> io::Result<Box<dyn SegmentFile>> {
        self.real.head(may_create)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.real.path(name)
    }
}

impl SegmentFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        self.real.length()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.faults.meet("read")?;
        self.real.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if let Err(error) = self.faults.meet("write") {
            let torn = self.faults.torn.load(Ordering::SeqCst) as usize;
            self.real.write_at(&bytes[..torn.min(bytes.len())], offset)?;
            return Err(error);
        }
        match self.faults.short.load(Ordering::SeqCst) {
            0 => self.real.write_at(bytes, offset),
            short => self.real.write_at(&bytes[..short.min(bytes.len())], offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        self.faults.meet("sync")?;
        self.real.sync()
    }

    fn cut(&self, length: u64) -> io::Result<()> {
        self.faults.meet("cut")?;
        if self.faults.also_cut.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        self.real.cut(length)
    }
}

fn faulty(dir: &Path) -> (Trail, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let files = FaultyFiles { real: DirectoryFiles::lock(dir).unwrap(), faults: faults.clone() };
    (Trail::open_on(Arc::new(files), key(), clock(), entropy()).unwrap(), faults)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
fn any_failed_write_or_sync_shuts_the_trail_until_a_restart() {
    for (operation, errno, torn) in
        [("write", EIO, 0), ("write", EIO, 100), ("sync", EIO, 0), ("write", EIO, 1_000_000)]
    {
        let (_scratch, dir) = scratch();
        let (trail, faults) = faulty(&dir);
        trail.record(&event("a")).unwrap();
        faults.torn.store(torn, Ordering::SeqCst);
        faults.set(operation, 0, errno);
        let error = trail.record(&event("b")).unwrap_err();
        assert!(matches!(error, TrailError::Poisoned { .. }), "{error:?}");
        assert!(error.to_string().contains("shut since"), "{error}");
        // The fault has passed; the trail does not trust it.
        let again = trail.record(&event("c")).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
        assert_eq!(trail.last_seq(), 1);
        let found = trail.lookup(&Query::default()).unwrap().events;
        assert_eq!(key_ids(&found), ["a"]);
        drop(trail);
        let trail = open(&dir).unwrap();
        assert_eq!(trail.last_seq(), 1, "what was refused is not found after a restart");
        trail.record(&event("d")).unwrap();
        assert_eq!(verify(&dir, &key()).unwrap().records, 2);
    }
}

#[test]
fn a_refused_end_that_cannot_be_cut_is_mended_at_the_next_start() {
    let (_scratch, dir) = scratch();
    let (trail, faults) = faulty(&dir);
    trail.record(&event("a")).unwrap();
    faults.torn.store(100, Ordering::SeqCst);
    faults.set("write", 0, EIO);
    trail.record(&event("b")).unwrap_err();
    drop(trail);
    let segment = &segments(&dir)[0];
    let mut bytes = std::fs::read(segment).unwrap();
    bytes.extend_from_slice(b"{\"seq\":2,\"dur");
    std::fs::write(segment, bytes).unwrap();
    assert_eq!(open(&dir).unwrap().last_seq(), 1);
}

#[test]
fn without_room_for_a_segment_nothing_is_recorded_and_later_it_goes_on() {
    let (_scratch, dir) = scratch();
    let (trail, faults) = faulty(&dir);
    faults.set("create", 0, ENOSPC);
    let error = trail.record(&event("a")).unwrap_err();
    assert!(matches!(error, TrailError::NoSegment { .. }), "{error:?}");
    assert_eq!(trail.last_seq(), 0);
    trail.record(&event("b")).unwrap();
    assert_eq!(verify(&dir, &key()).unwrap().records, 1);
}

#[test]
fn short_writes_are_completed() {
    let (_scratch, dir) = scratch();
    let (trail, faults) = faulty(&dir);
    faults.short.store(7, Ordering::SeqCst);
    trail.record(&event("a")).unwrap();
    trail.record(&event("b")).unwrap();
    assert_eq!(verify(&dir, &key()).unwrap().records, 2);
}

#[test]
fn every_record_was_synced_before_it_was_acknowledged() {
    let (_scratch, dir) = scratch();
    let (trail, faults) = faulty(&dir);
    for i in 1..=5 {
        trail.record(&event("a")).unwrap();
        assert_eq!(faults.syncs.load(Ordering::SeqCst), i);
    }
}

#[test]
fn a_failing_sync_fails_all_who_wait_for_it() {
    let (_scratch, dir) = scratch();
    let (trail, faults) = faulty(&dir);
    faults.set("sync", 3, EIO);
    let acknowledged = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    if trail.record(&event("a")).is_ok() {
                        acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let acknowledged = acknowledged.into_inner() as u64;
    assert_eq!(trail.last_seq(), acknowledged);
    drop(trail);
    assert_eq!(verify(&dir, &key()).unwrap().records, acknowledged);
}

fn all(trail: &Trail, query: &Query) -> Vec<String> {
    let mut query = query.clone();
    let mut found = Vec::new();
    for _ in 0..1000 {
        let page = trail.lookup(&query).unwrap();
        found.extend(key_ids(&page.events).into_iter().map(str::to_owned));
        query.next_token = page.next_token;
        if query.next_token.is_none() {
            return found;
        }
    }
    panic!("the pages do not end");
}

#[test]
fn events_are_found_by_time_order_and_attribute() {
    let (_scratch, dir) = scratch();
    let clock = clock();
    let trail = Trail::open(&dir, key(), clock.clone(), entropy()).unwrap();
    for i in 0..130 {
        let user = if i % 2 == 0 { "alice" } else { "bob" };
        let service = if i % 5 == 0 { Service::Ecs } else { Service::Kms };
        let name = if i % 3 == 0 { "Decrypt" } else { "Encrypt" };
        let mut event = Event::new(service, name, actor(user)).request("KeyId", i.to_string());
        if i % 10 == 0 {
            event = event.resource(ResourceType::Disk, "d-1").resource(ResourceType::Key, "k-1");
        }
        if i % 4 == 0 {
            event = event.read_only();
        }
        trail.record(&event).unwrap();
        clock.advance(Duration::from_secs(3600));
    }
    let numbers = |keep: &dyn Fn(u32) -> bool| -> Vec<String> {
        (0..130).filter(|i| keep(*i)).map(|i| i.to_string()).collect()
    };
    let forward = Query { direction: Direction::Forward, max_results: Some(7), ..Query::default() };
    assert_eq!(all(&trail, &forward), numbers(&|_| true));
    let mut reversed = numbers(&|_| true);
    reversed.reverse();
    assert_eq!(all(&trail, &Query::default()), reversed);
    assert_eq!(trail.lookup(&Query::default()).unwrap().events.len(), 20);
    let most = trail.lookup(&Query { max_results: Some(1000), ..Query::default() }).unwrap();
    assert_eq!(most.events.len(), 50);

    let by = |attribute, value: &str| {
        all(&trail, &Query { filter: Some((attribute, value.into())), ..forward.clone() })
    };
    assert_eq!(by(Attribute::User, "bob"), numbers(&|i| i % 2 == 1));
    assert_eq!(by(Attribute::ServiceName, "Ecs"), numbers(&|i| i % 5 == 0));
    assert_eq!(by(Attribute::EventName, "Decrypt"), numbers(&|i| i % 3 == 0));
    assert_eq!(by(Attribute::EventRw, "Read"), numbers(&|i| i % 4 == 0));
    assert_eq!(by(Attribute::ResourceName, "k-1"), numbers(&|i| i % 10 == 0));
    assert_eq!(by(Attribute::ResourceType, "ACS::ECS::Disk"), numbers(&|i| i % 10 == 0));
    let id = most.events[3]["eventId"].as_str().unwrap();
    assert_eq!(by(Attribute::EventId, id), [key_ids(&most.events)[3]]);
    assert!(by(Attribute::EventAccessKeyId, "x").is_empty());

    let hour = |i: u64| START.plus(Duration::from_secs(3600 * i));
    let window = Query { start: Some(hour(40)), end: Some(hour(44)), ..forward.clone() };
    assert_eq!(all(&trail, &window), ["40", "41", "42", "43", "44"]);
    let window = Query { direction: Direction::Backward, ..window };
    assert_eq!(all(&trail, &window), ["44", "43", "42", "41", "40"]);
    // Without a start, seven days back.
    clock.advance(Duration::from_secs(3600 * 40));
    assert_eq!(all(&trail, &forward), numbers(&|i| i >= 2));
    assert!(clock.now() > hour(169));
}

#[test]
fn a_foreign_token_is_refused() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    trail.record(&event("a")).unwrap();
    for token in ["", "x", "1", "1.5", "1.ffffffffffffffff", "2.0", "1.0.0", "-1.0", "1.\u{e9}"] {
        let query = Query { next_token: Some(token.into()), ..Query::default() };
        assert!(matches!(trail.lookup(&query), Err(TrailError::InvalidToken)), "{token}");
    }
}

#[test]
fn a_changed_record_is_not_shown() {
    let (_scratch, dir) = scratch();
    let trail = open(&dir).unwrap();
    for name in ["a", "b", "c"] {
        trail.record(&event(name)).unwrap();
    }
    let segment = &segments(&dir)[0];
    let mut text = std::fs::read_to_string(segment).unwrap();
    let at = text.rfind("alice").unwrap();
    text.replace_range(at..at + 5, "mallo");
    std::fs::write(segment, text).unwrap();
    match trail.lookup(&Query::default()) {
        Err(TrailError::Damaged(damage)) => assert_eq!((damage.line, damage.seq), (3, 3)),
        other => panic!("{other:?}"),
    }
}
