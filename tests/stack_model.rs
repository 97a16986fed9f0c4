//! Disks of several layers against a plain array of bytes: reads, writes, zeroes, trims, flushes,
//! layers pushed, pulled, let go of and left out, growth, reopening and power loss in any order.

mod support;

use std::collections::HashSet;

use proptest::prelude::*;
use sealdisk::disk::pull::Strides;
use sealdisk::layer::DATA_OFFSET;
use sealdisk::storage::Durability;
use sealdisk::units::{ByteCount, ByteOffset, DataUnit, DataUnitSize};
use support::stacks::{SECTOR, Scene, read, write};

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: usize, fill: u8, fua: bool },
    Zero { at: u64, len: u64, keep: bool, fua: bool },
    Trim { at: u64, len: u64 },
    Read { at: u64, len: usize },
    Extents { at: u64, len: u64 },
    Flush,
    Push { keep: bool },
    Forget { index: usize },
    Pull { choice: usize, first: u64, units: u64, release: bool },
    Finish { choice: usize },
    Grow { sectors: u64 },
    Reopen,
    Crash { seed: u64 },
}

const SIZE: u64 = 64 * 1024 + 512;

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE, 1..30_000u64)
        .prop_flat_map(|(at, len)| {
            prop_oneof![
                Just((at, len)),
                Just((at / 512 * 512, len.div_ceil(512) * 512)),
                Just((at / 4096 * 4096, len.div_ceil(4096) * 4096)),
            ]
        })
        .prop_map(move |(at, len)| (at, len.min(SIZE - at).max(1)));
    prop_oneof![
        8 => (range.clone(), 1..=255u8, prop::bool::weighted(0.2)).prop_map(
            |((at, len), fill, fua)| Step::Write { at, len: len as usize, fill, fua }
        ),
        3 => (range.clone(), any::<bool>(), prop::bool::weighted(0.3)).prop_map(
            |((at, len), keep, fua)| Step::Zero { at, len, keep, fua }
        ),
        3 => range.clone().prop_map(|(at, len)| Step::Trim { at, len }),
        4 => range.clone().prop_map(|(at, len)| Step::Read { at, len: len as usize }),
        1 => range.prop_map(|(at, len)| Step::Extents { at, len }),
        2 => Just(Step::Flush),
        3 => any::<bool>().prop_map(|keep| Step::Push { keep }),
        1 => (0..6usize).prop_map(|index| Step::Forget { index }),
        4 => (0..40usize, 0..17u64, 1..20u64, any::<bool>()).prop_map(
            |(choice, first, units, release)| Step::Pull { choice, first, units, release }
        ),
        2 => (0..40usize).prop_map(|choice| Step::Finish { choice }),
        1 => (1..20u64).prop_map(|sectors| Step::Grow { sectors }),
        1 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
    ]
}

fn content(len: usize, fill: u8) -> Vec<u8> {
    (0..len).map(|i| fill.wrapping_add((i / 7) as u8)).collect()
}

fn check_extents(scene: &Scene, at: u64, len: u64) -> Result<(), TestCaseError> {
    let (start, count) = (ByteOffset::new(at), ByteCount::new(len));
    let mut position = at as usize;
    for extent in scene.disk.extents(start, count, 1000).expect("extents") {
        let end = position + extent.len.get() as usize;
        prop_assert!(extent.len.get() > 0);
        let held = &scene.model.now[position..end];
        prop_assert!(!extent.is_hole || held.iter().all(|byte| *byte == 0), "a hole with data");
        position = end;
    }
    prop_assert_eq!(position, (at + len) as usize, "extents cover the range");
    Ok(())
}

/// What differs from a kept snapshot must be told as changed.
fn check_changes(scene: &Scene) -> Result<(), TestCaseError> {
    for index in 0..scene.slots.len() - 1 {
        let Some(old) = &scene.slots[index].snapshot else { continue };
        let (mut at, end) = (0, old.len());
        while at < end {
            let (start, left) = (ByteOffset::new(at as u64), ByteCount::new((end - at) as u64));
            let found = scene.disk.changed_since(scene.id(index), start, left, 3).expect("changes");
            prop_assert!(!found.is_empty() && found.len() <= 3);
            for extent in found {
                let range = at..at + extent.len.as_usize();
                let is_same = old[range.clone()] == scene.model.now[range.clone()];
                prop_assert!(extent.is_changed || is_same, "a change at {at} is not told");
                at = range.end;
            }
        }
        prop_assert_eq!(at, end);
    }
    Ok(())
}

fn run(steps: &[Step], unit: DataUnitSize) -> Result<(), TestCaseError> {
    let mut scene = Scene::new(SIZE, unit);
    for step in steps {
        take(&mut scene, step)?;
    }
    prop_assert!(scene.read(0, scene.size() as usize) == scene.model.now, "content at the end");
    check_changes(&scene)?;
    scene.check_snapshots().map_err(TestCaseError::fail)
}

fn take(scene: &mut Scene, step: &Step) -> Result<(), TestCaseError> {
    match *step {
        Step::Write { at, len, fill, fua } => {
            scene.write(at, &content(len, fill), fua).expect("a write");
        }
        Step::Zero { at, len, keep, fua } => scene.zero(at, len, keep, fua).expect("zeroes"),
        Step::Trim { at, len } => scene.trim(at, len).expect("a trim"),
        Step::Read { at, len } => {
            let expected = &scene.model.now[at as usize..at as usize + len];
            prop_assert!(scene.read(at, len) == expected, "read of {} at {}", len, at);
        }
        Step::Extents { at, len } => check_extents(scene, at, len)?,
        Step::Flush => scene.flush().expect("a flush"),
        Step::Push { keep } => {
            if scene.slots.len() < 8 {
                scene.push(keep).expect("a push");
            }
        }
        Step::Forget { index } => {
            let index = index % scene.slots.len();
            scene.slots[index].snapshot = None;
        }
        Step::Pull { choice, first, units, release } => {
            if let Some(pull) = scene.pullable(choice) {
                let next = scene.pull(pull, first, units).expect("a pull");
                // What lies outside the layer it was pulled into stays.
                let done = next.saturating_sub(first).min(units);
                if release && next > first {
                    scene.disk.flush_layer(scene.id(pull.0)).expect("a flush");
                    scene.punch_below(pull, first, done).expect("let go");
                }
            }
        }
        Step::Finish { choice } => {
            if let Some(pull) = scene.pullable(choice) {
                scene.finish(pull).expect("a pull to its end");
            }
        }
        Step::Grow { sectors } => scene.grow(sectors * SECTOR as u64).expect("growth"),
        Step::Reopen => scene.reopen(),
        Step::Crash { seed } => scene.crash(seed).map_err(TestCaseError::fail)?,
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn units_of_4096_bytes(steps in prop::collection::vec(step(), 1..70)) {
        run(&steps, DataUnitSize::B4096)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn units_of_512_bytes(steps in prop::collection::vec(step(), 1..70)) {
        run(&steps, DataUnitSize::B512)?;
    }
}

/// One plaintext in all units and layers, pulled up again: no block of 16 bytes is ever twice on
/// storage, so no key met one tweak with two versions of a unit.
#[test]
fn versions_of_a_unit_share_neither_key_nor_tweak() {
    let mut scene = Scene::new(64 * 1024, DataUnitSize::B4096);
    let same = vec![0x5a; 64 * 1024];
    scene.write(0, &same, false).expect("a write");
    for round in 0..4 {
        scene.push(round % 2 == 0).expect("a push");
        scene.write(4096 * round, &same[..32 * 1024], false).expect("a write");
    }
    let top = scene.slots.len() - 1;
    scene.pull((top, None), 0, 16).expect("a pull");
    assert_eq!(scene.read(0, same.len()), same);
    let mut seen = HashSet::new();
    let zeros = vec![0; 16];
    let mut blocks = 0;
    for slot in &scene.slots {
        for block in slot.bytes()[DATA_OFFSET.get() as usize..].chunks(16) {
            if block != zeros {
                assert!(seen.insert(block.to_vec()), "a block of ciphertext is there twice");
                blocks += 1;
            }
        }
    }
    assert!(blocks > 5 * 8 * 256, "{blocks} blocks: each layer holds some");
}

/// A pull copies what the target lacks, once, and a second one finds nothing to do.
#[test]
fn a_pull_is_done_once() {
    let mut scene = Scene::new(64 * 1024, DataUnitSize::B4096);
    scene.write(0, &[1; 8192], false).expect("a write");
    scene.push(false).expect("a push");
    scene.write(4096, &[2; 4096], false).expect("a write");
    let pull = |scene: &Scene| {
        let (target, units) = (scene.id(1), scene.units());
        scene.disk.pull_units(target, None, DataUnit::new(0), units).expect("a pull")
    };
    let first = pull(&scene);
    assert_eq!((first.next.get(), first.copied.get()), (16, 4096));
    let before = scene.slots[1].bytes();
    let second = pull(&scene);
    assert_eq!((second.next.get(), second.copied.get()), (16, 0));
    assert!(before == scene.slots[1].bytes());
    assert_eq!(scene.read(0, 8192), [[1; 4096], [2; 4096]].concat());
}

/// Clients come in between two strides of a pull, and what they write is not overwritten. A pull
/// that still held a lock would wait for itself here.
#[test]
fn between_two_strides_of_a_pull_clients_read_and_write() {
    let mut scene = Scene::new(64 * 1024, DataUnitSize::B4096);
    scene.write(0, &[1; 64 * 1024], false).expect("a write");
    scene.push(false).expect("a push");
    let (disk, target, mut strides) = (&scene.disk, scene.id(1), 0);
    let mut between = || {
        // From the end: units that the pull has yet to come to, then some it has done.
        let at = (15 - strides) * 4096;
        assert_eq!(read(disk, at, 4096), [1; 4096]);
        write(disk, at, &[7; 4096], Durability::Volatile).expect("a write");
        assert_eq!(read(disk, at, 4096), [7; 4096]);
        strides += 1;
    };
    let by = &mut Strides { bytes: 8192, between: &mut between };
    let pulled = disk.pull_units_by(by, (target, None), DataUnit::new(0), 16).expect("a pull");
    assert_eq!((strides, pulled.next.get(), pulled.copied.get()), (8, 16, 11 * 4096));
    assert_eq!(read(disk, 0, 65536), [[1; 32768], [7; 32768]].concat());
}

/// Clients come in while the space below is given back.
#[test]
fn between_two_steps_of_a_release_clients_read() {
    let mut scene = Scene::new(1536 * 1024, DataUnitSize::B4096);
    scene.write(0, &[1; 1536 * 1024], false).expect("a write");
    scene.push(false).expect("a push");
    scene.pull((1, None), 0, 384).expect("a pull");
    scene.disk.flush_layer(scene.id(1)).expect("a flush");
    let (disk, mut steps) = (&scene.disk, 0);
    let look = || assert!(read(disk, 0, 1536 * 1024).iter().all(|byte| *byte == 1));
    let mut pause = || {
        look();
        steps += 1;
    };
    let pair = (scene.id(1), None);
    disk.punch_below_by(&mut pause, pair, DataUnit::new(0), 384).expect("let go");
    assert_eq!(steps, 2, "256 units, then the rest");
    look();
}

/// Power loss has torn the first write of a unit in two layers. Each sector is read in the topmost
/// layer that has it, and a pull brings up what the layers between have, no more and no less.
#[test]
fn torn_units_are_whole_before_and_after_a_pull() {
    let mut scene = Scene::new(64 * 1024, DataUnitSize::B4096);
    scene.write(0, &[1; 4096], false).expect("a write");
    scene.push(false).expect("a push");
    scene.write(0, &[2; 4096], false).expect("a write");
    scene.slots[1].tear(0, 0..2);
    scene.push(false).expect("a push");
    scene.write(0, &[3; 4096], false).expect("a write");
    scene.slots[2].tear(0, 1..7);
    scene.reopen();
    let expected: Vec<u8> =
        [3, 1, 2, 2, 2, 2, 2, 3].into_iter().flat_map(|fill| [fill; SECTOR]).collect();
    assert!(scene.read(0, 4096) == expected, "before");
    scene.pull((2, Some(0)), 0, 16).expect("a pull");
    assert!(scene.read(0, 4096) == expected, "after");
    scene.disk.flush_layer(scene.id(2)).expect("a flush");
    scene.punch_below((2, Some(0)), 0, 16).expect("let go");
    assert!(scene.read(0, 4096) == expected, "let go");
    scene.finish((2, None)).expect("to the bottom");
    assert!(scene.read(0, 4096) == expected, "alone");
    assert_eq!(scene.slots.len(), 1);
}

/// A disk that grew is pulled and let go of in parts: one begins where the layer below has ended.
#[test]
fn what_is_let_go_of_may_lie_beyond_a_smaller_layer() {
    let mut scene = Scene::new(16 * 1024, DataUnitSize::B4096);
    scene.write(0, &[1; 16 * 1024], false).expect("a write");
    scene.push(false).expect("a push");
    scene.grow(16 * 1024).expect("larger");
    for first in [0, 3, 6] {
        scene.pull((1, None), first, 3).expect("a pull");
        scene.disk.flush_layer(scene.id(1)).expect("a flush");
        scene.punch_below((1, None), first, 3).expect("let go");
    }
    assert!(scene.read(0, 16 * 1024).iter().all(|byte| *byte == 1));
    assert!(scene.read(16 * 1024, 16 * 1024).iter().all(|byte| *byte == 0));
}
