//! Layers come and go: a new one under a fresh data key, those that nobody needs any more.
//!
//! A layer is in the catalog, in state `Making`, before its file exists, and in state `Going`
//! before its file goes. What a crash leaves in one of these is finished at the next start.

use uuid::Uuid;

use crate::catalog::{
    CatalogError, LayerRecord, LayerState, LayerUses, Operation, Page, StackOperation,
};
use crate::clock::random_uuid;
use crate::crypto::xts::Cipher;
use crate::layer::{self, Envelope, Layer, LayerHeader, LayerSpec, Writable};
use crate::ram::Caller;
use crate::secret::Secret;
use crate::storage::store::PageCache;
use crate::units::{ByteCount, DataUnitSize};

use super::registry::Disks;
use super::{ControlError, audit};

/// Bytes of a data key: two AES-256 keys.
const DATA_KEY_BYTES: usize = 64;

/// A layer whose file was made just now, and which nobody refers to yet.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) record: LayerRecord,
    key: Option<Secret>,
}

/// What a new layer shall be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerPlan<'a> {
    /// The disk or image it is for.
    pub(super) owner: &'a str,
    /// The layer it stands on.
    pub(super) parent: Option<&'a str>,
    /// Bytes of the disk.
    pub(super) size: ByteCount,
    /// The KMS key of its data key; `None`: not encrypted, at the bottom only.
    pub(super) kms_key_id: Option<&'a str>,
}

impl Disks {
    /// The record of a layer to be made.
    pub(super) fn plan_layer(&self, plan: LayerPlan<'_>) -> LayerRecord {
        let layer_id = random_uuid(&*self.parts.entropy).to_string();
        LayerRecord {
            owner: plan.owner.to_owned(),
            parent: plan.parent.map(str::to_owned),
            file_name: format!("{layer_id}.luks"),
            layer_id,
            kms_key_id: plan.kms_key_id.map(str::to_owned),
            size: plan.size,
            created: self.parts.clock.now(),
            state: LayerState::Making,
            key_bytes: 0,
        }
    }

    /// Makes the layer, in the catalog and as a file. It stays `Making` until somebody refers to
    /// it.
    pub(super) fn new_layer(
        &self,
        caller: &Caller,
        plan: LayerPlan<'_>,
    ) -> Result<NewLayer, ControlError> {
        let record = self.plan_layer(plan);
        self.apply([StackOperation::InsertLayer(record.clone())])?;
        match self.make_file(caller, &record) {
            Ok(key) => Ok(NewLayer { record, key }),
            Err(error) => {
                self.unmake(&record);
                Err(error)
            }
        }
    }

    /// Writes the file of a layer that is in the catalog, under a fresh data key, durably.
    pub(super) fn make_file(
        &self,
        caller: &Caller,
        record: &LayerRecord,
    ) -> Result<Option<Secret>, ControlError> {
        let spec = spec_of(record)?;
        let data_key = match &record.kms_key_id {
            None => None,
            Some(key_id) => {
                let (ecs, context) = (self.as_ecs(caller), spec.encryption_context());
                let kms = &self.parts.kms;
                let made = kms.generate_data_key(&ecs, key_id, DATA_KEY_BYTES, &context);
                Some(made.map_err(|error| self.no_data_key(error, key_id))?)
            }
        };
        let envelope = data_key.as_ref().map(|key| Envelope {
            key_id: key.key_id.clone(),
            key_version: key.key_version.clone(),
            wrapped: key.blob.clone(),
        });
        let sealed = envelope.as_ref().zip(data_key.as_ref().map(|key| &key.plaintext));
        let name = &record.file_name;
        let storage =
            self.parts.store.create(name).map_err(|error| self.on_storage(name, error))?;
        let names = self.name_of_owner(&record.owner)?;
        layer::format_named(&*storage, &spec, sealed, &names, &*self.parts.entropy)
            .map_err(|error| self.on_layer(name, error))?;
        self.parts.store.sync_names().map_err(|error| self.on_storage(name, error))?;
        Ok(data_key.map(|key| key.plaintext))
    }

    /// Opens a layer that was made just now as the top of a disk.
    pub(super) fn open_new(
        &self,
        new: NewLayer,
        (epoch, cache): (u64, PageCache),
    ) -> Result<Layer<Writable>, ControlError> {
        let name = &new.record.file_name;
        let opened = self.parts.store.open_writer(name, epoch, cache);
        let storage = opened.map_err(|error| self.on_storage(name, error))?;
        let header = layer::read_header(&*storage).map_err(|error| self.on_layer(name, error))?;
        let top = Layer::open(storage, header, new.key);
        let top = top.map_err(|error| self.on_layer(name, error))?;
        self.keep_count(&top, &new.record);
        Ok(top)
    }

    /// Takes a layer away that was never referred to. What fails is tried again at the next start.
    pub(super) fn unmake(&self, record: &LayerRecord) {
        let removed = self.parts.store.remove(&record.file_name);
        let outcome = removed
            .and_then(|()| self.parts.store.sync_names())
            .map_err(|error| self.on_storage(&record.file_name, error))
            .and_then(|()| self.apply([StackOperation::DeleteLayer(record.layer_id.clone())]));
        if let Err(error) = outcome {
            let layer = &record.layer_id;
            tracing::error!(%layer, %error, "half-made layer not removed; tried again at start");
        }
    }

    /// Which layers nobody needs any more when nobody but `is_gone` refers to `layer_id`, from the
    /// top down.
    pub(super) fn released_by(
        &self,
        layer_id: &str,
        is_gone: impl Fn(&LayerUses) -> bool,
    ) -> Result<Vec<LayerRecord>, CatalogError> {
        let catalog = &self.parts.catalog;
        let mut released: Vec<LayerRecord> = Vec::new();
        let mut next = Some(layer_id.to_owned());
        while let Some(id) = next {
            let Some(layer) = catalog.layer(&id)? else { break };
            let uses = catalog.layer_uses(&id)?;
            let is_released = match released.last() {
                None => is_gone(&uses),
                Some(above) => {
                    uses.is_named_by_nobody() && uses.children == [above.layer_id.clone()]
                }
            };
            if !is_released {
                break;
            }
            next = layer.parent.clone();
            released.push(layer);
        }
        Ok(released)
    }

    /// Takes away what nobody refers to any more: records, then files. What fails is tried again
    /// at the next start, or by the next sweep.
    pub(super) fn sweep(&self, caller: &Caller) {
        if let Err(error) = self.try_sweep(caller) {
            tracing::error!(%error, "layers not removed; tried again at start");
        }
    }

    fn try_sweep(&self, caller: &Caller) -> Result<(), ControlError> {
        let _one = self.lock_sweeps();
        loop {
            let _structure = self.lock_structure();
            let free = self.parts.catalog.unreferenced_layers()?;
            if free.is_empty() {
                break;
            }
            self.apply(free.into_iter().map(going))?;
        }
        let of = |state| self.parts.catalog.all_layers(Some(state), Page::ALL);
        let (going, erasing) = (of(LayerState::Going)?.items, of(LayerState::Erasing)?.items);
        if going.is_empty() && erasing.is_empty() {
            return Ok(());
        }
        for layer in &erasing {
            self.erase(caller, layer)?;
        }
        let gone: Vec<LayerRecord> = going.into_iter().chain(erasing).collect();
        for layer in &gone {
            if let Ok(id) = Uuid::parse_str(&layer.layer_id) {
                self.stack.registry.forget(id);
            }
            let removed = self.parts.store.remove(&layer.file_name);
            removed.map_err(|error| self.on_storage(&layer.file_name, error))?;
        }
        self.parts.store.sync_names().map_err(|error| self.on_storage("", error))?;
        let delete = |layer: LayerRecord| StackOperation::DeleteLayer(layer.layer_id);
        self.apply(gone.into_iter().map(delete))
    }

    /// Destroys the header of a layer with its wrapped key, and says so in the trail. Whoever
    /// changes a header has read it under the same lock, so none is written back afterwards.
    fn erase(&self, caller: &Caller, layer: &LayerRecord) -> Result<(), ControlError> {
        let _one = self.lock_headers();
        let name = &layer.file_name;
        let storage = match self.parts.store.open_frozen(name) {
            Ok(storage) => storage,
            // Erased and removed; only its record was left.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(self.on_storage(name, error)),
        };
        let bytes = layer::erase(&*storage, &*self.parts.entropy)
            .map_err(|error| self.on_layer(name, error))?;
        let event = audit::layer_erased(self.actor(caller), layer, bytes);
        Ok(self.parts.trail.record(&event)?)
    }

    /// Has what the layer's key encrypts written down in the catalog, before it is encrypted.
    pub(super) fn keep_count<S: layer::State>(&self, layer: &Layer<S>, record: &LayerRecord) {
        let catalog = std::sync::Arc::clone(&self.parts.catalog);
        let layer_id = record.layer_id.clone();
        layer.meter().keep(ByteCount::new(record.key_bytes), move |bound| {
            let (layer_id, key_bytes) = (layer_id.clone(), bound.get());
            let raise = StackOperation::RaiseKeyBytes { layer_id, key_bytes };
            catalog.apply(&[raise.into()], &mut || Ok(())).is_ok()
        });
    }

    /// Changes layers, snapshots, images or jobs, of which nobody was told.
    pub(super) fn apply(
        &self,
        operations: impl IntoIterator<Item = StackOperation>,
    ) -> Result<(), ControlError> {
        let operations: Vec<Operation> = operations.into_iter().map(Operation::Stack).collect();
        Ok(self.parts.catalog.apply(&operations, &mut || Ok(()))?)
    }

    /// Changes whatever and records `event` in the same step.
    pub(super) fn apply_recorded(
        &self,
        operations: &[Operation],
        event: &crate::trail::Event,
    ) -> Result<(), ControlError> {
        Ok(self.parts.catalog.apply(operations, &mut || Ok(self.parts.trail.record(event)?))?)
    }

    pub(super) fn on_storage(
        &self,
        name: &str,
        error: crate::storage::StorageError,
    ) -> ControlError {
        ControlError::Storage { file: self.parts.store.locate(name), error }
    }

    pub(super) fn on_layer(&self, name: &str, error: layer::LayerError) -> ControlError {
        ControlError::Layer { file: self.parts.store.locate(name), error }
    }
}

/// A layer on its way out.
pub(super) fn going(layer: LayerRecord) -> StackOperation {
    let state = match layer.state {
        LayerState::Condemned | LayerState::Erasing => LayerState::Erasing,
        _ => LayerState::Going,
    };
    StackOperation::UpdateLayer(LayerRecord { state, ..layer })
}

/// A layer whose header is to be destroyed when it goes.
pub(super) fn condemned(layer: LayerRecord) -> StackOperation {
    let state = match layer.state {
        LayerState::Live => LayerState::Condemned,
        other => other,
    };
    StackOperation::UpdateLayer(LayerRecord { state, ..layer })
}

/// A layer that somebody refers to from now on.
pub(super) fn live(layer: &LayerRecord) -> StackOperation {
    StackOperation::UpdateLayer(LayerRecord { state: LayerState::Live, ..layer.clone() })
}

fn spec_of(record: &LayerRecord) -> Result<LayerSpec, ControlError> {
    let is_encrypted = record.kms_key_id.is_some();
    Ok(LayerSpec {
        layer_id: uuid_of(&record.layer_id)?,
        disk_id: record.owner.clone(),
        parent: record.parent.as_deref().map(uuid_of).transpose()?,
        size: record.size,
        unit: DataUnitSize::B4096,
        cipher: if is_encrypted { Cipher::Aes256XtsPlain64 } else { Cipher::Null },
        created: record.created,
    })
}

/// The id of a layer in the catalog.
pub(super) fn uuid_of(layer_id: &str) -> Result<Uuid, ControlError> {
    Uuid::parse_str(layer_id).map_err(|_| {
        let message = format!("The catalog names a layer {layer_id:?}: run `sealdisk check`.");
        ControlError::refused("DiskError", 403, message)
    })
}

/// Whether the layer is the one that the catalog means: a swapped file is refused by name, before
/// any key is asked for.
pub(super) fn belongs(header: &LayerHeader, layer: &LayerRecord) -> Result<(), ControlError> {
    let spec = &header.spec;
    let key_id = header.envelope.as_ref().map(|envelope| envelope.key_id.as_str());
    let difference = [
        ("disk id", spec.disk_id == layer.owner),
        ("layer id", spec.layer_id.to_string() == layer.layer_id),
        ("parent layer", spec.parent.map(|id| id.to_string()) == layer.parent),
        ("size", spec.size == layer.size),
        ("encryption", header.envelope.is_some() == layer.kms_key_id.is_some()),
        ("KMS key id", key_id == layer.kms_key_id.as_deref()),
    ]
    .into_iter()
    .find(|(_, is_same)| !is_same);
    match difference {
        None => Ok(()),
        Some((field, _)) => Err(ControlError::refused(
            "DiskError",
            403,
            format!(
                "The layer {} is not that of {}: its {field} differs from the catalog. Put the \
                 right file back.",
                layer.file_name, layer.owner
            ),
        )),
    }
}
