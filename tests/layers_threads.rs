//! Every operation on stacks of layers while three clients of each disk read, write, zero and trim
//! and jobs run on threads of their own. Clients meet in data units and read what others write;
//! a snapshot is a consistent cut through all of them; what it holds never changes.
//!
//! `SEALDISK_LONG_TESTS=1` plays more plays.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it does not expect")]

#[path = "layers_threads/client.rs"]
#[allow(unreachable_pub)]
mod client;
#[path = "layers_threads/family.rs"]
#[allow(unreachable_pub)]
mod family;
#[path = "layers_threads/history.rs"]
#[allow(unreachable_pub)]
mod history;
#[path = "layers_model/house.rs"]
#[allow(dead_code, unreachable_pub)]
mod house;
mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealdisk::catalog::{Catalog, JobFilter, JobState, Page};
use sealdisk::disk::JobCommand;

use family::Family;
use history::Stamps;
use house::{House, owner};

/// Steps of each of the two who change layers.
const STEPS: u64 = 150;

/// Ends the clock and the job threads, also when a test fails.
struct Ending<'a> {
    house: &'a House,
    is_over: &'a AtomicBool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.house.disks().stop_jobs();
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Two families of disks, each with one who changes their layers.
fn play(seed: u64) {
    let house = House::build(seed, u64::MAX);
    let (stamps, is_over) = (Stamps::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Time goes by as outside, so that jobs rest as they do there.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(2));
                house.wait_for(Duration::from_millis(2));
            }
        });
        let ending = Ending { house: &house, is_over: &is_over };
        house.disks().start_jobs().unwrap();
        let (house, stamps) = (&house, &stamps);
        let families = [0, 1].map(|number| {
            scope.spawn(move || {
                let mut family = Family::new(house, stamps, seed * 2 + number);
                family.play(STEPS);
                family
            })
        });
        let families = families.map(|family| family.join().expect("nothing was found wrong"));
        // Two disks that have one layer open keep a job waiting.
        families.iter().for_each(Family::compare_and_detach_all);
        end_jobs(house);
        families.iter().for_each(Family::compare);
        let steps: Vec<_> = families.iter().map(|family| family.done.clone()).collect();
        check_all_is_tidy(house);
        drop(ending);
        eprintln!("seed {seed}: {steps:?}");
    });
}

/// Resumes what was paused and waits until everything is done.
fn end_jobs(house: &House) {
    support::tools::wait_until("all jobs have ended", || {
        let unfinished = house.catalog().jobs(&JobFilter::unfinished(), Page::ALL).unwrap().items;
        for job in &unfinished {
            // It may have ended meanwhile.
            let _ = house.disks().command_job(&owner(), &job.job_id, JobCommand::Resume);
        }
        house.disks().look_after();
        unfinished.is_empty()
            && house.catalog().jobs(&JobFilter::unfinished(), Page::ALL).unwrap().total == 0
    });
}

/// No job failed, every layer is needed, and every file is a layer's.
fn check_all_is_tidy(house: &House) {
    let failed = JobFilter { states: Some(vec![JobState::Failed]), ..JobFilter::default() };
    let failed = house.catalog().jobs(&failed, Page::ALL).unwrap().items;
    assert!(failed.is_empty(), "{failed:?}");
    house.disks().look_after();
    let layers = house.catalog().all_layers(None, Page::ALL).unwrap().items;
    for layer in &layers {
        let uses = house.catalog().layer_uses(&layer.layer_id).unwrap();
        assert!(!uses.is_empty(), "nobody needs {layer:?}");
    }
    let mut files: Vec<String> = layers.into_iter().map(|layer| layer.file_name).collect();
    files.sort();
    assert_eq!(files, house.store.names(), "files and records");
}

#[test]
fn layers_change_under_many_clients_with_jobs_at_work() {
    let is_long = std::env::var_os("SEALDISK_LONG_TESTS").is_some();
    for seed in 1..=if is_long { 200 } else { 12 } {
        play(seed);
    }
}
