//! Looks after what is used up: the room where the layers lie, and data keys.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::disk::Disks;
use crate::disk::space::{SpaceWatch, Watermark};

/// How often room is measured.
const INTERVAL: Duration = Duration::from_secs(5);

/// Measures at the start and then for ever; says in the log when room gets short, and of each disk
/// once that its data key should be renewed.
pub(super) async fn look_after(disks: Arc<Disks>, watch: Arc<SpaceWatch>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    let told = Arc::new(Mutex::new(HashSet::new()));
    loop {
        ticks.tick().await;
        let (disks, watch, told) = (Arc::clone(&disks), Arc::clone(&watch), Arc::clone(&told));
        let measured = tokio::task::spawn_blocking(move || {
            measure(&disks, &watch);
            measure_keys(&disks, &mut told.lock().unwrap_or_else(PoisonError::into_inner));
        });
        if let Err(error) = measured.await {
            tracing::error!(%error, "measuring ended abnormally");
        }
    }
}

fn measure_keys(disks: &Disks, told: &mut HashSet<String>) {
    let worn = disks.measure_keys();
    // A disk that has a fresh key will be told of again when that is worn, too.
    told.retain(|disk| worn.iter().any(|(worn, _)| worn == disk));
    for (disk, bytes) in worn {
        if told.insert(disk.clone()) {
            tracing::warn!(
                %disk,
                bytes = bytes.get(),
                "2^36 blocks were encrypted under one data key: give the disk a fresh one \
                 (sealdisk disk rekey); at 2^44 blocks writes to it are refused"
            );
        }
    }
}

fn measure(disks: &Disks, watch: &SpaceWatch) {
    let space = match disks.measure_space() {
        Ok(space) => space,
        Err(error) => return tracing::error!(%error, "space not measured"),
    };
    let (free, total) = (space.room.free.get(), space.room.total.get());
    let (advertised, allocated) = (space.advertised.get(), space.allocated.get());
    match watch.observe(space.room) {
        None => {}
        Some(Watermark::Fell) => tracing::warn!(
            free,
            total,
            advertised,
            allocated,
            "little space is left in the data directory: writes to disks will fail with ENOSPC \
             when it is used up; free some, or delete disks and snapshots"
        ),
        Some(Watermark::Rose) => tracing::info!(free, total, "there is enough space again"),
    }
}
