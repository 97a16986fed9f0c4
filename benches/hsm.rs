//! Wraps per second of a token: its own rate, and through `sealdisk::token`. Driven by
//! `tools/bench-hsm`, which makes the token:
//!
//! ```text
//! hsm URI ROUNDS SECONDS [WORKERS...]
//! ```
//!
//! A wrap is what a data key costs: 12 random bytes of the token, then AES-256-GCM of 64 bytes with
//! 100 bytes of associated data. *Raw* is a thread for each worker that does nothing but that, each
//! with a session of its own. *Through the product* twice as many callers wait for as many workers.
//! Rounds of both are interleaved in one process; what is printed are the medians of the rounds.

#![allow(clippy::unwrap_used, reason = "a bench may stop at what it does not expect")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, Ulong};
use sealdisk::clock::{SystemClock, SystemEntropy};
use sealdisk::config::{Hsm, PinSource, TokenUri};
use sealdisk::token::{Object, Token, TokenParts, TokenState};

const PLAIN: [u8; 64] = [7; 64];
const DATA: [u8; 100] = [9; 100];
const WORKERS: [&str; 4] = ["1", "2", "4", "8"];

/// One run: wraps a second, and latencies in µs.
#[derive(Clone, Copy)]
struct Run {
    rate: f64,
    median: f64,
    p99: f64,
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|text| text != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [uri, rounds, seconds, ref workers @ ..] = arguments[..] else {
        // As `cargo bench` runs it, without a token.
        println!("run tools/bench-hsm");
        return;
    };
    let uri = TokenUri::parse(uri).unwrap();
    let rounds: usize = rounds.parse().unwrap();
    let span = Duration::from_secs_f64(seconds.parse().unwrap());
    let raw = Raw::new(&uri);
    let all = if workers.is_empty() { &WORKERS[..] } else { workers };
    let rows = all.iter().map(|workers| {
        let workers = workers.parse().unwrap();
        let ours = Ours::new(&uri, workers);
        let runs: Vec<(Run, Run)> =
            (0..rounds).map(|_| (raw.run(workers, span), ours.run(2 * workers, span))).collect();
        let raw = median(runs.iter().map(|(raw, _)| *raw).collect());
        (workers, raw, median(runs.iter().map(|(_, ours)| *ours).collect()))
    });
    println!(
        "| workers | raw, wraps/s | p50, µs | p99, µs | sealdisk, wraps/s | p50 | p99 | of raw |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (workers, raw, ours) in rows.collect::<Vec<(usize, Run, Run)>>() {
        println!(
            "| {workers} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
            raw.rate,
            raw.median,
            raw.p99,
            ours.rate,
            ours.median,
            ours.p99,
            ours.rate / raw.rate
        );
    }
}

fn median(mut runs: Vec<Run>) -> Run {
    let mut middle = |field: fn(&Run) -> f64| {
        runs.sort_by(|a, b| field(a).total_cmp(&field(b)));
        field(&runs[runs.len() / 2])
    };
    Run {
        rate: middle(|run| run.rate),
        median: middle(|run| run.median),
        p99: middle(|run| run.p99),
    }
}

/// Threads that do one thing for a while.
fn measure<T: Send>(
    threads: usize,
    span: Duration,
    make: impl Fn() -> T + Sync,
    act: impl Fn(&mut T) + Sync,
) -> Run {
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let mut all: Vec<u32> = std::thread::scope(|scope| {
        let loops: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut own = make();
                    let mut taken = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        act(&mut own);
                        taken.push(start.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
                    }
                    taken
                })
            })
            .collect();
        std::thread::sleep(span);
        is_over.store(true, Ordering::Relaxed);
        loops.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    let rate = all.len() as f64 / begun.elapsed().as_secs_f64();
    all.sort_unstable();
    let at = |share: f64| f64::from(all[(all.len() as f64 * share) as usize]) / 1000.0;
    Run { rate, median: at(0.5), p99: at(0.99) }
}

/// The token by itself.
struct Raw {
    library: Pkcs11,
    slot: Slot,
    key: ObjectHandle,
    /// Keeps the login and the key.
    _anchor: Mutex<Session>,
}

impl Raw {
    fn new(uri: &TokenUri) -> Self {
        let library = Pkcs11::new(&uri.module).unwrap();
        // Already so, if the product was first.
        let _ = library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        let label = uri.label.as_deref().unwrap();
        let slots = library.get_slots_with_token().unwrap();
        let is_it = |slot: &Slot| library.get_token_info(*slot).unwrap().label() == label;
        let slot = slots.into_iter().find(is_it).unwrap();
        let anchor = library.open_rw_session(slot).unwrap();
        let PinSource::File(pin) = &uri.pin else { panic!("pin-source=file:") };
        let pin = AuthPin::new(std::fs::read_to_string(pin).unwrap().trim().into());
        anchor.login(UserType::User, Some(&pin)).unwrap();
        let template = [
            Attribute::ValueLen(Ulong::new(32)),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
        ];
        let key = anchor.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
        Self { library, slot, key, _anchor: Mutex::new(anchor) }
    }

    fn run(&self, threads: usize, span: Duration) -> Run {
        let open = || self.library.open_ro_session(self.slot).unwrap();
        measure(threads, span, open, |session| {
            let mut iv = [0; 12];
            session.generate_random_slice(&mut iv).unwrap();
            let parameters = GcmParams::new(&mut iv, &DATA, Ulong::new(128)).unwrap();
            session.encrypt(&Mechanism::AesGcm(parameters), self.key, &PLAIN).unwrap();
        })
    }
}

/// The token as the product asks it.
struct Ours {
    token: Token,
    key: Object,
}

impl Ours {
    fn new(uri: &TokenUri, workers: usize) -> Self {
        let mut settings = Hsm::new(uri.clone());
        settings.workers = workers;
        let parts = TokenParts {
            settings,
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy),
            on_change: Box::new(|_| {}),
        };
        let token = Token::open(parts).unwrap();
        let state = token.settle(Duration::from_secs(20));
        assert!(matches!(state, TokenState::Up { .. }), "{state:?}");
        let key = token.generate("acs/bench/v1").unwrap();
        Self { token, key }
    }

    fn run(&self, callers: usize, span: Duration) -> Run {
        let wrap = |(): &mut ()| drop(self.token.seal(&self.key, &DATA, &PLAIN).unwrap());
        measure(callers, span, || (), wrap)
    }
}
