//! Records a second that become durable, by the number of threads that record at the same time.
//!
//! `cargo bench --bench trail [SECONDS]`; the journal lies in the temporary directory.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench looks at the clock")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::secret::Secret;
use sealdisk::trail::{Actor, Event, ResourceType, Service, Trail};

fn main() {
    let seconds = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(2);
    let span = Duration::from_secs(seconds);
    println!("| threads | records/s | p50 | p99 |\n|---|---|---|---|");
    for threads in [1, 4, 16, 64] {
        let scratch = tempfile::tempdir().unwrap();
        let key = Secret::random(32, &SystemEntropy);
        let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy));
        let trail = Trail::open(&scratch.path().join("trail"), key, clock, entropy).unwrap();
        let done = AtomicU64::new(0);
        let begun = Instant::now();
        let mut waits: Vec<Duration> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..threads).map(|_| scope.spawn(|| record_for(span, &trail, &done))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        waits.sort_unstable();
        let rate = done.into_inner() as f64 / begun.elapsed().as_secs_f64();
        let at = |part: usize| waits[(waits.len() - 1) * part / 100];
        println!("| {threads} | {rate:.0} | {:.2?} | {:.2?} |", at(50), at(99));
    }
}

fn record_for(span: Duration, trail: &Trail, done: &AtomicU64) -> Vec<Duration> {
    let begun = Instant::now();
    let mut waits = Vec::new();
    while begun.elapsed() < span {
        let before = Instant::now();
        trail.record(&event()).unwrap();
        waits.push(before.elapsed());
        done.fetch_add(1, Ordering::Relaxed);
    }
    waits
}

fn event() -> Event {
    let actor = Actor {
        request_id: uuid::Uuid::nil(),
        account_id: "1000000000000001".into(),
        region: "cn-hangzhou".into(),
        source: "10.0.0.1".into(),
        user_agent: "bench".into(),
        user_identity: serde_json::Map::new(),
    };
    Event::new(Service::Kms, "Decrypt", actor)
        .resource(ResourceType::Key, "0b9c1a2d-7d0c-4a6b-9d1a-0c4be2d5a001")
        .request("EncryptionContext", "{\"disk\":\"d-1\"}")
        .response("KeyVersionId", "7a1d0c4b-e2d5-4a00-9f1a-0123456789ab")
}
