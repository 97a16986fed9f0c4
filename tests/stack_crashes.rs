//! Power loss at every call to storage, for every way that the layers of a disk change: nothing
//! that was flushed is lost, nothing else comes back than what was there, snapshots stay.

mod support;

use sealdisk::disk::DiskError;
use sealdisk::units::DataUnitSize;
use support::stacks::Scene;

const SIZE: u64 = 48 * 1024;

type Scenario = (&'static str, fn(&mut Scene) -> Result<(), DiskError>);

/// What happens until the power goes off, or to its end.
const SCENARIOS: [Scenario; 6] = [
    ("snapshots beside writes", |scene| {
        scene.write(100, &[4; 9000], false)?;
        scene.push(true)?;
        scene.write(4096, &[5; 4096], false)?;
        scene.write(5000, &[6; 100], true)?;
        scene.push(false)?;
        scene.zero(0, 12_288, false, false)?;
        scene.flush()
    }),
    ("a merge into the top", |scene| {
        scene.push(false)?;
        scene.write(4096, &[7; 8192], false)?;
        scene.pull((2, Some(0)), 0, 8)?;
        scene.write(8192, &[8; 4096], false)?;
        scene.finish((2, Some(0)))?;
        scene.write(0, &[9; 512], true)
    }),
    ("a merge below the top, space given back as it goes", |scene| {
        scene.push(false)?;
        scene.push(false)?;
        scene.write(0, &[7; 4096], false)?;
        let pull = (2, Some(0));
        for first in (0..12).step_by(4) {
            scene.pull(pull, first, 4)?;
            scene.disk.flush_layer(scene.id(2))?;
            scene.punch_below(pull, first, 4)?;
            scene.trim(first * 4096, 16_384)?;
        }
        scene.finish(pull)
    }),
    ("a new key for everything", |scene| {
        forget(scene);
        scene.push(false)?;
        scene.write(20_000, &[3; 6000], false)?;
        let pull = (scene.slots.len() - 1, None);
        for first in (0..12).step_by(3) {
            scene.pull(pull, first, 3)?;
            scene.disk.flush_layer(scene.id(pull.0))?;
            scene.punch_below(pull, first, 3)?;
            scene.zero(first * 4096, 5000, false, true)?;
        }
        scene.finish(pull)?;
        scene.zero(0, 8192, false, true)
    }),
    ("a snapshot in the middle of a pull", |scene| {
        forget(scene);
        scene.pull((1, None), 0, 6)?;
        scene.push(true)?;
        scene.write(0, &[2; 10_000], false)?;
        scene.trim(0, SIZE)?;
        scene.pull((1, None), 6, 6)?;
        scene.finish((1, None))
    }),
    ("growth", |scene| {
        scene.grow(8192)?;
        scene.write(SIZE - 100, &[1; 5000], true)?;
        scene.push(false)?;
        scene.grow(512)?;
        scene.finish((2, Some(0)))?;
        scene.trim(SIZE, 8192)
    }),
];

/// Two layers, the lower one a snapshot.
fn prepared() -> Scene {
    let mut scene = Scene::new(SIZE, DataUnitSize::B4096);
    let mixed: Vec<u8> = (0..SIZE).map(|at| 1 + (at / 512) as u8).collect();
    scene.write(0, &mixed[..40_000], false).expect("a write");
    scene.push(true).expect("a push");
    scene.write(10_000, &[0xaa; 7000], false).expect("a write");
    scene.zero(20_480, 4096, false, false).expect("zeroes");
    scene.flush().expect("a flush");
    scene
}

fn forget(scene: &mut Scene) {
    scene.slots.iter_mut().for_each(|slot| slot.snapshot = None);
}

#[test]
fn power_loss_at_any_call_leaves_every_disk_and_snapshot_as_it_may_be() {
    let mut cases = 0;
    for (name, scenario) in SCENARIOS {
        let mut scene = prepared();
        scene.power.off_at(0);
        scenario(&mut scene).unwrap_or_else(|error| panic!("{name}, with power: {error}"));
        let calls = scene.power.calls();
        assert!(scene.read(0, scene.size() as usize) == scene.model.now, "{name}: content");
        assert!(calls >= 15, "{name}: {calls} calls");
        for call in 1..=calls {
            for seed in 0..3 {
                let mut scene = prepared();
                scene.power.off_at(call);
                let outcome = scenario(&mut scene);
                scene.crash(call << 8 | seed).unwrap_or_else(|fault| {
                    panic!("{name}: power lost at call {call} of {calls}, seed {seed}: {fault}")
                });
                assert!(outcome.is_err(), "{name}: call {call} failed and nobody was told");
                cases += 1;
            }
        }
    }
    assert!(cases > 500, "{cases} cases");
}

/// As above, but first the process is killed at that call and a new one serves the disk: what it
/// promises holds, whatever the old one had left unflushed.
#[test]
fn a_flush_after_a_kill_at_any_call_holds_through_power_loss() {
    for (name, scenario) in SCENARIOS {
        let mut scene = prepared();
        scene.power.off_at(0);
        scenario(&mut scene).unwrap_or_else(|error| panic!("{name}, with power: {error}"));
        let calls = scene.power.calls();
        for (call, seed) in (1..=calls).flat_map(|call| [(call, 1), (call, 2)]) {
            let mut scene = prepared();
            scene.power.off_at(call);
            scenario(&mut scene).expect_err("killed");
            scene.reopen();
            let outcome = scene.adopt().and_then(|()| {
                let size = scene.size();
                scene.zero(0, size / 2, false, true).expect("zeroes");
                scene.trim(size / 2, size - size / 2).expect("a trim");
                scene.flush().expect("a flush");
                scene.crash(call << 8 | seed)
            });
            outcome.unwrap_or_else(|fault| {
                panic!("{name}: killed at call {call} of {calls}, seed {seed}: {fault}")
            });
        }
    }
}

/// A flush of a frozen layer that failed is not made good by the next one: what it should have
/// kept is gone, so what lies below must not be let go of.
#[test]
fn a_failed_flush_of_a_pulled_layer_is_remembered() {
    let mut scene = prepared();
    forget(&mut scene);
    scene.push(false).expect("a push");
    scene.pull((1, None), 0, 12).expect("a pull");
    scene.power.off_at(1);
    scene.disk.flush_layer(scene.id(1)).expect_err("no power");
    scene.power.off_at(0);
    for _ in 0..2 {
        let refused = scene.disk.flush_layer(scene.id(1));
        assert!(matches!(refused, Err(DiskError::FlushLost)), "{refused:?}");
    }
    scene.flush().expect("what clients wrote is in no danger");
    assert!(!scene.disk.has_lost_a_flush());
    scene.reopen();
    scene.pull((1, None), 0, 12).expect("a pull");
    scene.disk.flush_layer(scene.id(1)).expect("a fresh start");
}
