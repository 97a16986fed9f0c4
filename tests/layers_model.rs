//! Every operation on stacks of layers, between reads and writes, with the power cut at every
//! single write: of any layer, of any name, of the catalog. What every disk and every snapshot
//! holds afterwards is compared with a model.
//!
//! `SEALDISK_LONG_TESTS=1` plays more random plays.

#[path = "layers_model/house.rs"]
#[allow(dead_code, unreachable_pub)]
mod house;
#[path = "layers_model/play.rs"]
#[allow(unreachable_pub)]
mod play;
mod support;

use play::{Op, Play, random_script};

/// Plays `script` once for each write that it makes, and cuts the power there.
fn every_crash(name: &str, seed: u64, script: &[Op]) {
    let whole = Play::new(seed, u64::MAX).through(script);
    assert!(whole > 10, "{name}: only {whole} writes");
    let next = std::sync::atomic::AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let writes = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if writes >= whole {
                        return;
                    }
                    let place = format!("{name}, seed {seed}, cut after {writes} of {whole}");
                    Play::new(seed, writes).cut_off(script, &place);
                }
            });
        }
    });
}

use Op::{
    Attach, Cancel, Clone, CloneImage, Copy, Create, CreatePlain, Delete, DeleteImage,
    DeleteSnapshot, Detach, Encrypt, Erase, Flatten, Flush, Image, Jobs, LookAfter, Reinit, Rekey,
    Reset, Resize, SetKey, Snapshot, Trim, Write, Zero,
};

#[test]
fn a_snapshot_is_taken_kept_and_merged_away() {
    let script = [
        Create(0, 24),
        Attach(0),
        Write(0, 0, 12),
        Flush(0),
        Write(0, 4, 4),
        Snapshot(0, 0),
        Write(0, 2, 8),
        Zero(0, 6, 3),
        Snapshot(0, 1),
        Write(0, 10, 6),
        Trim(0, 0, 5),
        DeleteSnapshot(0),
        Jobs(1),
        Write(0, 1, 3),
        Jobs(100),
        DeleteSnapshot(1),
        Jobs(2),
        Flush(0),
        Jobs(100),
        Detach(0),
        Snapshot(0, 2),
        Erase(2),
        Jobs(100),
        Delete(0),
    ];
    every_crash("snapshots", 1, &script);
}

#[test]
fn a_disk_is_renewed_while_it_is_used() {
    let script = [
        Create(0, 24),
        Attach(0),
        Write(0, 0, 20),
        Flush(0),
        Rekey(0),
        Write(0, 3, 4),
        Jobs(2),
        Snapshot(0, 0),
        Write(0, 8, 4),
        Jobs(2),
        Zero(0, 12, 2),
        Jobs(100),
        SetKey(0),
        Jobs(1),
        Cancel(0),
        Write(0, 9, 1),
        Resize(0, 32),
        Write(0, 26, 4),
        SetKey(0),
        Jobs(100),
        DeleteSnapshot(0),
        Detach(0),
        Resize(0, 40),
        Flatten(0),
        Jobs(100),
    ];
    every_crash("renewals", 2, &script);
}

#[test]
fn clones_images_and_copies_share_what_is_below() {
    let script = [
        Create(0, 16),
        Attach(0),
        Write(0, 0, 10),
        Snapshot(0, 0),
        Clone(0, 1, 20),
        Attach(1),
        Write(1, 5, 8),
        Image(0, 0),
        CloneImage(0, 2, 16),
        Copy(0, 1),
        Jobs(2),
        DeleteSnapshot(0),
        Jobs(100),
        Flatten(1),
        Jobs(100),
        Attach(2),
        Write(2, 1, 2),
        DeleteImage(0),
        Jobs(100),
        Detach(2),
        Delete(2),
        Jobs(100),
    ];
    every_crash("clones", 3, &script);
}

#[test]
fn a_disk_goes_back_and_a_plain_one_is_encrypted() {
    let script = [
        CreatePlain(0, 16),
        Attach(0),
        Write(0, 0, 10),
        Flush(0),
        Snapshot(0, 0),
        Write(0, 4, 8),
        Zero(0, 0, 2),
        Snapshot(0, 1),
        Detach(0),
        Reset(0, 0),
        Attach(0),
        Write(0, 12, 2),
        Encrypt(0),
        Jobs(2),
        Write(0, 3, 2),
        DeleteSnapshot(1),
        Jobs(100),
        Detach(0),
        DeleteSnapshot(0),
        Jobs(100),
        Reinit(0),
        Attach(0),
        Write(0, 0, 1),
        LookAfter,
    ];
    every_crash("resets", 4, &script);
}

#[test]
fn a_deep_stack_is_made_shallow() {
    let mut script = vec![Create(0, 12), Attach(0)];
    for number in 0..7 {
        script.extend([Write(0, u64::from(number), 4), Snapshot(0, number)]);
    }
    script.extend([LookAfter, Jobs(2), Write(0, 3, 2), Jobs(100), LookAfter, Jobs(100)]);
    every_crash("depth", 5, &script);
}

#[test]
fn random_plays() {
    let is_long = std::env::var_os("SEALDISK_LONG_TESTS").is_some();
    let (plays, steps) = if is_long { (60, 40) } else { (3, 24) };
    for seed in 100..100 + plays {
        every_crash("random", seed, &random_script(seed, steps));
    }
}

/// The same plays without a crash, many more of them.
#[test]
fn random_plays_to_the_end() {
    let is_long = std::env::var_os("SEALDISK_LONG_TESTS").is_some();
    for seed in 1000..1000 + if is_long { 3000 } else { 60 } {
        Play::new(seed, u64::MAX).through(&random_script(seed, 60));
    }
}
