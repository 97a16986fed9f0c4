//! Looks after the room where the layers lie.

use std::sync::Arc;
use std::time::Duration;

use crate::disk::Disks;
use crate::disk::space::{SpaceWatch, Watermark};

/// How often room is measured.
const INTERVAL: Duration = Duration::from_secs(5);

/// Measures at the start and then for ever; says in the log when room gets short.
pub(super) async fn look_after(disks: Arc<Disks>, watch: Arc<SpaceWatch>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let (disks, watch) = (Arc::clone(&disks), Arc::clone(&watch));
        if let Err(error) = tokio::task::spawn_blocking(move || measure(&disks, &watch)).await {
            tracing::error!(%error, "measuring space ended abnormally");
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
