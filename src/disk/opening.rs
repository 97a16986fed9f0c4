//! Opening the layers of a disk: each found, compared with the catalog, its key unwrapped.
//!
//! The KMS is asked for the key of every layer each time, also of those that are open for another
//! disk already: a key that was disabled opens nothing more.

use std::sync::Arc;

use crate::catalog::{CacheMode, DiskRecord, LayerRecord};
use crate::layer::{self, Frozen, Layer, LayerHeader, Writable};
use crate::ram::Caller;
use crate::secret::Secret;
use crate::storage::Storage;
use crate::storage::store::PageCache;

use super::layers::{belongs, uuid_of};
use super::registry::Disks;
use super::{ControlError, Disk};

impl Disks {
    /// Opens the layers of `disk` under its current epoch.
    pub(super) fn open(
        &self,
        caller: &Caller,
        disk: &DiskRecord,
    ) -> Result<Arc<Disk>, ControlError> {
        // What a job left between a header and the catalog is finished first.
        self.finish_switches(&disk.top_layer);
        let chain = || self.parts.catalog.chain(&disk.top_layer);
        let (chain, opening) = self.stack.open.reserve(&disk.disk_id, chain)?;
        let open = self.open_chain(caller, &chain, |name| {
            self.parts.store.open_writer(name, disk.epoch, page_cache(disk.cache))
        })?;
        opening.filled_by(&open);
        Ok(open)
    }

    /// Opens a layer and those below it as a disk that a job has for itself: nobody writes to it,
    /// the job fills it.
    pub(super) fn open_for_job(
        &self,
        caller: &Caller,
        (job_id, layer_id): (&str, &str),
    ) -> Result<Arc<Disk>, ControlError> {
        self.finish_switches(layer_id);
        let chain = || self.parts.catalog.chain(layer_id);
        let (chain, opening) = self.stack.open.reserve(job_id, chain)?;
        let open = self.open_chain(caller, &chain, |name| self.parts.store.open_frozen(name))?;
        opening.filled_by(&open);
        Ok(open)
    }

    fn open_chain(
        &self,
        caller: &Caller,
        chain: &[LayerRecord],
        open_top: impl Fn(&str) -> Result<Arc<dyn Storage>, crate::storage::StorageError>,
    ) -> Result<Arc<Disk>, ControlError> {
        let Some((top, below)) = chain.split_last() else {
            let message = "The disk has no layer in the catalog: run `sealdisk check`.";
            return Err(ControlError::refused("DiskError", 403, message));
        };
        whole(chain)?;
        let mut frozen = Vec::with_capacity(below.len());
        for record in below.iter().rev() {
            frozen.push(self.open_frozen(caller, record)?);
        }
        let name = &top.file_name;
        let storage = open_top(name).map_err(|error| self.on_storage(name, error))?;
        let (header, key) = self.unlock(caller, top, &*storage)?;
        let opened = Layer::<Writable>::open(storage, header, key);
        let opened = opened.map_err(|error| self.on_layer(name, error))?;
        self.keep_count(&opened, top);
        let disk = Disk::over(opened, frozen)
            .map_err(|error| ControlError::refused("DiskError", 403, error.to_string()))?;
        Ok(Arc::new(disk))
    }

    /// A layer below a top: the one that is open, or opened now.
    fn open_frozen(
        &self,
        caller: &Caller,
        record: &LayerRecord,
    ) -> Result<Arc<Layer<Frozen>>, ControlError> {
        let name = &record.file_name;
        let storage =
            self.parts.store.open_frozen(name).map_err(|error| self.on_storage(name, error))?;
        let (header, key) = self.unlock(caller, record, &*storage)?;
        let (id, parent) = (header.spec.layer_id, header.spec.parent);
        let registry = &self.stack.registry;
        if registry.find(id).is_some_and(|open| open.header().spec.parent != parent) {
            registry.forget(id);
        }
        registry.get_or_open(id, || {
            let layer = Layer::open(storage, header, key);
            let layer = layer.map_err(|error| self.on_layer(name, error))?;
            self.keep_count(&layer, record);
            Ok(layer)
        })
    }

    /// The header in `storage`, if it is the one the catalog means, and the key that opens it.
    fn unlock(
        &self,
        caller: &Caller,
        record: &LayerRecord,
        storage: &dyn Storage,
    ) -> Result<(LayerHeader, Option<Secret>), ControlError> {
        let name = &record.file_name;
        let header = layer::read_header(storage).map_err(|error| self.on_layer(name, error))?;
        belongs(&header, record)?;
        let file = self.parts.store.locate(name);
        let key = self.unwrap_data_key(caller, &header, &file)?;
        Ok((header, key))
    }

    /// Asks the KMS for the keys of all layers of `chain`, and lets them go.
    pub(super) fn check_keys(
        &self,
        caller: &Caller,
        chain: &[LayerRecord],
    ) -> Result<(), ControlError> {
        whole(chain)?;
        for record in chain {
            let name = &record.file_name;
            let storage = self.parts.store.open_reader(name);
            let storage = storage.map_err(|error| self.on_storage(name, error))?;
            self.unlock(caller, record, &*storage)?;
        }
        Ok(())
    }

    /// Shares a layer that was the top of an open disk until now.
    pub(super) fn share(&self, frozen: &Arc<Layer<Frozen>>) {
        self.stack.registry.keep(frozen);
    }
}

/// Refuses a chain whose lowest layer stands on one that the catalog does not have.
fn whole(chain: &[LayerRecord]) -> Result<(), ControlError> {
    for layer in chain {
        uuid_of(&layer.layer_id)?;
    }
    match chain.first().and_then(|bottom| bottom.parent.as_ref()) {
        None => Ok(()),
        Some(missing) => {
            let message = format!(
                "The layer {missing}, on which {} stands, is not in the catalog: run `sealdisk \
                 check`.",
                chain[0].layer_id
            );
            Err(ControlError::refused("DiskError", 403, message))
        }
    }
}

/// The cache mode in the words of storage.
pub(super) const fn page_cache(mode: CacheMode) -> PageCache {
    match mode {
        CacheMode::Writeback => PageCache::Used,
        CacheMode::None => PageCache::Bypassed,
    }
}
