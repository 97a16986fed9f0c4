//! The attached disks, as the handshake shows them.

use uuid::Uuid;

use super::export::{ExportDirectory, ExportInfo};
use crate::disk::Disks;
use crate::disk::attachment::Attachment;
use crate::limits;

/// Attached disks as exports.
pub(super) struct Exports<'a> {
    disks: &'a Disks,
}

impl<'a> Exports<'a> {
    pub(super) const fn new(disks: &'a Disks) -> Self {
        Self { disks }
    }
}

impl ExportDirectory for Exports<'_> {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        self.disks.find_export(name).map(|attachment| info(&attachment))
    }

    /// Each disk once, by its id: a name may belong to several. The name is the description.
    fn list(&self, limit: usize) -> Vec<(String, String)> {
        self.disks.list_exports(limit)
    }

    fn snapshots(&self, export: &str, limit: usize) -> Vec<String> {
        self.disks.snapshots_below(export, limit)
    }

    fn layer_of_snapshot(&self, export: &str, snapshot: &str) -> Option<Uuid> {
        self.disks.snapshot_below(export, snapshot)
    }
}

fn info(attachment: &Attachment) -> ExportInfo {
    let disk = attachment.disk();
    ExportInfo {
        name: attachment.disk_id().to_owned(),
        description: match attachment.description() {
            "" => attachment.name().to_owned(),
            text => text.to_owned(),
        },
        size: disk.size().get(),
        read_only: attachment.is_read_only(),
        // One file below: a flush covers the writes of every connection.
        multi_conn: true,
        rotational: false,
        fast_zero: true,
        block_min: 1,
        block_preferred: 4096,
        block_max: limits::REQUEST_BYTES_MAX,
    }
}
