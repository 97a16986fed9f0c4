//! What the last run left behind: finished or undone at the start, before anybody is served.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::catalog::{
    DiskFilter, DiskRecord, DiskStatus, LayerState, Page, SnapshotFilter, SnapshotRecord,
    SnapshotStatus, StackOperation,
};
use crate::ram::Caller;

use super::registry::Disks;
use super::{ControlError, audit};

/// Threads that open disks at a start: unwrapping waits for the trail, digests for the processor.
const OPENERS: usize = 8;

/// What a start found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Disks that are served again.
    pub reopened: usize,
    /// Disks that could not be opened, and why. They stay `In_use`: nothing is decided for their
    /// owner, who can mend the cause and start again, or detach them.
    pub failed: Vec<(String, ControlError)>,
    /// Half-made or half-removed disks that were removed.
    pub removed: usize,
}

impl Disks {
    /// Finishes what a crash interrupted, then opens every disk that was attached.
    ///
    /// # Errors
    /// If the catalog cannot be read or changed. A disk that cannot be opened is not an error here.
    pub fn recover(&self, caller: &Caller) -> Result<Recovery, ControlError> {
        let mut recovery = Recovery::default();
        let going = DiskFilter { status: Some(DiskStatus::Deleting), ..DiskFilter::default() };
        let mut disks = self.parts.catalog.disks(&DiskFilter::default(), Page::ALL)?.items;
        disks.extend(self.parts.catalog.disks(&going, Page::ALL)?.items);
        let mut attached = Vec::new();
        for disk in disks {
            match disk.status {
                DiskStatus::Available => {}
                DiskStatus::Creating | DiskStatus::Deleting => {
                    self.try_remove(&disk.disk_id)?;
                    recovery.removed += 1;
                }
                DiskStatus::Attaching | DiskStatus::Detaching => {
                    let free = DiskRecord {
                        status: DiskStatus::Available,
                        instance_id: None,
                        more_instances: Vec::new(),
                        ..disk.clone()
                    };
                    self.change(&disk, &free, || Ok(()))?;
                }
                DiskStatus::InUse => attached.push(disk),
            }
        }
        for layer in self.parts.catalog.all_layers(Some(LayerState::Making), Page::ALL)?.items {
            self.unmake(&layer);
        }
        self.settle_snapshots()?;
        if let Err(error) = self.try_finish_switches(None) {
            // Its disk says what is wrong when it is opened.
            tracing::error!(%error, "a job could not be finished");
        }
        self.sweep(caller);
        self.reopen_all(caller, attached, &mut recovery);
        Ok(recovery)
    }

    /// Opens what is attached and could not be opened so far: its token may be there again.
    ///
    /// # Errors
    /// If the catalog cannot be read. A disk that cannot be opened is not an error here.
    pub fn reopen_missing(&self, caller: &Caller) -> Result<Recovery, ControlError> {
        let attached = DiskFilter { status: Some(DiskStatus::InUse), ..DiskFilter::default() };
        let mut disks = self.parts.catalog.disks(&attached, Page::ALL)?.items;
        {
            let open = self.attached.read().unwrap_or_else(PoisonError::into_inner);
            disks.retain(|disk| !open.contains_key(&disk.disk_id));
        }
        let mut recovery = Recovery::default();
        self.reopen_all(caller, disks, &mut recovery);
        Ok(recovery)
    }

    /// Completes snapshots whose data was still to be flushed. Copies are their jobs' to complete.
    fn settle_snapshots(&self) -> Result<(), ControlError> {
        let status = Some(SnapshotStatus::Progressing);
        let filter = SnapshotFilter { status, ..SnapshotFilter::default() };
        for snapshot in self.parts.catalog.snapshots(&filter, Page::ALL)?.items {
            if snapshot.source_snapshot.is_some() {
                continue;
            }
            let flushed =
                self.layer_record(&snapshot.layer_id).and_then(|layer| self.flush_file(&layer));
            let status = match flushed {
                Ok(()) => SnapshotStatus::Accomplished,
                Err(error) => {
                    let id = &snapshot.snapshot_id;
                    tracing::error!(snapshot = %id, %error, "snapshot failed");
                    SnapshotStatus::Failed
                }
            };
            let settled = SnapshotRecord { status, ..snapshot };
            self.apply([StackOperation::UpdateSnapshot(settled)])?;
        }
        Ok(())
    }

    fn reopen_all(&self, caller: &Caller, disks: Vec<DiskRecord>, recovery: &mut Recovery) {
        let (queue, done) = (Mutex::new(disks), Mutex::new(recovery));
        std::thread::scope(|scope| {
            for _ in 0..OPENERS {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                        let Some(disk) = next else { return };
                        let outcome = self.reopen(caller, &disk);
                        let mut recovery = done.lock().unwrap_or_else(PoisonError::into_inner);
                        match outcome {
                            Ok(()) => recovery.reopened += 1,
                            Err(error) => recovery.failed.push((disk.disk_id, error)),
                        }
                    }
                });
            }
        });
    }

    /// Opens a disk that was attached when the last run ended, under a new epoch.
    fn reopen(&self, caller: &Caller, disk: &DiskRecord) -> Result<(), ControlError> {
        // A job that was finished at the start may have changed its size or its key.
        let disk = self.disk(&disk.disk_id)?;
        if disk.status != DiskStatus::InUse {
            return Ok(());
        }
        let renewed = DiskRecord { epoch: disk.epoch + 1, ..disk.clone() };
        self.change(&disk, &renewed, || Ok(()))?;
        let outcome = self.open(caller, &renewed);
        match outcome {
            Ok(open) => {
                let _limits = self.performance.lock().unwrap_or_else(PoisonError::into_inner);
                // It may have been detached meanwhile; its limits may have been changed.
                let current = self.disk(&disk.disk_id)?;
                if (current.status, current.epoch) == (renewed.status, renewed.epoch) {
                    self.publish(&current, open);
                }
                Ok(())
            }
            Err(error) => {
                let event = audit::disk_event(self.actor(caller), "AttachDisk", &disk.disk_id);
                self.parts.trail.record(&event.error(error.code(), &error.message()))?;
                Err(error)
            }
        }
    }
}
