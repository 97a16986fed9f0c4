//! Headers of layers, changed in place: another parent or size, the data key wrapped anew, names.
//!
//! One change at a time in the whole process, through a descriptor of its own: a layer may be open
//! and served meanwhile, for nobody looks at a header again after opening.

use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use crate::catalog::{ImageFilter, LayerRecord, LayerState, Page, SnapshotFilter};
use crate::layer::{self, Envelope, LayerHeader, LayerName, LayerSpec, NameKind};
use crate::luks2::Condition;
use crate::ram::Caller;
use crate::storage::Storage;

use super::ControlError;
use super::registry::Disks;

/// Whether wrapping anew changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewrapped {
    /// The data key is under a newer version of the KMS key.
    Anew,
    /// It was under the newest one already.
    Newest,
    /// There is no data key.
    Plain,
}

impl Disks {
    /// Makes the header of `layer` say what `change` makes of it, which may be another parent or a
    /// greater size; its data key is wrapped for that by the KMS. Done already: nothing happens,
    /// but that a change cut off between the header's copies is brought to its end. `layer` is the
    /// record as it was before, or as it shall be.
    ///
    /// # Errors
    /// `DiskError` if the file is not the layer's, the KMS's codes, the storage's.
    pub(super) fn reheader_layer(
        &self,
        caller: &Caller,
        layer: &LayerRecord,
        change: impl FnOnce(&LayerSpec) -> LayerSpec,
    ) -> Result<LayerHeader, ControlError> {
        let _one = self.lock_headers();
        let (storage, header) = self.header_of(layer)?;
        let file = self.parts.store.locate(&layer.file_name);
        let on_layer = |error| ControlError::Layer { file: file.clone(), error };
        let entropy = &*self.parts.entropy;
        let spec = change(&header.spec);
        if spec == header.spec {
            return match header.condition {
                Condition::Sound => Ok(header),
                _ => layer::repair_header(&*storage, &header, entropy).map_err(on_layer),
            };
        }
        let envelope = self.envelope_for(caller, (&header, layer), &spec, &file)?;
        layer::reheader(&*storage, &header, &spec, envelope.as_ref(), entropy).map_err(on_layer)
    }

    /// Wraps the data key of `layer` under the newest version of its KMS key.
    ///
    /// # Errors
    /// `DiskError` if the file is not the layer's, the KMS's codes, the storage's.
    pub(super) fn rewrap_layer(
        &self,
        caller: &Caller,
        layer: &LayerRecord,
    ) -> Result<Rewrapped, ControlError> {
        let _one = self.lock_headers();
        let (storage, header) = self.header_of(layer)?;
        let file = self.parts.store.locate(&layer.file_name);
        let on_layer = |error| ControlError::Layer { file: file.clone(), error };
        let entropy = &*self.parts.entropy;
        let Some(envelope) = self.envelope_for(caller, (&header, layer), &header.spec, &file)?
        else {
            return Ok(Rewrapped::Plain);
        };
        let is_newest =
            header.envelope.as_ref().is_some_and(|old| old.key_version == envelope.key_version);
        if !is_newest {
            layer::rewrite_envelope(&*storage, &header, &envelope, entropy).map_err(on_layer)?;
            return Ok(Rewrapped::Anew);
        }
        if header.condition != Condition::Sound {
            // The older version is still in the copy that a crash left behind.
            layer::repair_header(&*storage, &header, entropy).map_err(on_layer)?;
        }
        Ok(Rewrapped::Newest)
    }

    /// Writes both copies of a header again if one of them is not whole; whether that was so.
    ///
    /// # Errors
    /// `DiskError` if the file is not the layer's, the storage's.
    pub(super) fn mend_header(&self, layer: &LayerRecord) -> Result<bool, ControlError> {
        let _one = self.lock_headers();
        let (storage, header) = self.header_of(layer)?;
        if header.condition == Condition::Sound {
            return Ok(false);
        }
        let file = self.parts.store.locate(&layer.file_name);
        layer::repair_header(&*storage, &header, &*self.parts.entropy)
            .map_err(|error| ControlError::Layer { file, error })?;
        Ok(true)
    }

    /// Notes in the header of a layer what the disk, the snapshots and the images that refer to it
    /// are called, for a rebuild of the catalog. Best effort: what fails is logged.
    pub(super) fn note_names(&self, layer_id: &str) {
        if let Err(error) = self.try_note_names(layer_id) {
            tracing::warn!(layer = %layer_id, %error, "names not noted in the layer's header");
        }
    }

    fn try_note_names(&self, layer_id: &str) -> Result<(), ControlError> {
        let catalog = &self.parts.catalog;
        let Some(layer) = catalog.layer(layer_id)?.filter(|layer| is_whole(layer.state)) else {
            return Ok(());
        };
        let names = self.names_of(layer_id)?;
        let _one = self.lock_headers();
        let (storage, header) = self.header_of(&layer)?;
        let file = self.parts.store.locate(&layer.file_name);
        layer::rename(&*storage, &header, &names, &*self.parts.entropy)
            .map_err(|error| ControlError::Layer { file, error })?;
        Ok(())
    }

    /// What those who refer to a layer are called.
    fn names_of(&self, layer_id: &str) -> Result<Vec<LayerName>, ControlError> {
        let catalog = &self.parts.catalog;
        let mut names = Vec::new();
        for disk_id in catalog.layer_uses(layer_id)?.disks {
            if let Some(disk) = catalog.disk(&disk_id)? {
                names.push(LayerName { kind: NameKind::Disk, id: disk_id, name: disk.name });
            }
        }
        let layer_id = Some(layer_id.to_owned());
        let filter = SnapshotFilter { layer_id: layer_id.clone(), ..SnapshotFilter::default() };
        let snapshots = catalog.snapshots(&filter, Page::ALL)?.items.into_iter();
        names.extend(snapshots.map(|snapshot| LayerName {
            kind: NameKind::Snapshot,
            id: snapshot.snapshot_id,
            name: snapshot.name,
        }));
        let images = catalog.images(&ImageFilter::default(), Page::ALL)?.items.into_iter();
        let images = images.filter(|image| Some(&image.layer_id) == layer_id.as_ref());
        names.extend(images.map(|image| LayerName {
            kind: NameKind::Image,
            id: image.image_id,
            name: image.name,
        }));
        Ok(names)
    }

    /// What the disk, snapshot or image is called that a new layer is made for.
    pub(super) fn name_of_owner(&self, owner: &str) -> Result<Vec<LayerName>, ControlError> {
        let catalog = &self.parts.catalog;
        let named = if let Some(disk) = catalog.disk(owner)? {
            Some((NameKind::Disk, disk.name))
        } else if let Some(snapshot) = catalog.snapshot(owner)? {
            Some((NameKind::Snapshot, snapshot.name))
        } else {
            catalog.image(owner)?.map(|image| (NameKind::Image, image.name))
        };
        let id = owner.to_owned();
        Ok(named.map(|(kind, name)| LayerName { kind, id, name }).into_iter().collect())
    }

    /// The data key in `header`, wrapped for `spec` under the newest version of its KMS key; `None`
    /// for a plain layer.
    fn envelope_for(
        &self,
        caller: &Caller,
        (header, layer): (&LayerHeader, &LayerRecord),
        spec: &LayerSpec,
        file: &Path,
    ) -> Result<Option<Envelope>, ControlError> {
        let key_id = header.envelope.as_ref().map(|envelope| &envelope.key_id);
        if key_id != layer.kms_key_id.as_ref() {
            // The name in the header is a claim: a data key must not follow it to another KMS key.
            return Err(differs(layer, "KMS key id"));
        }
        let Some(old) = &header.envelope else { return Ok(None) };
        let (ecs, bound_to) = (self.as_ecs(caller), header.spec.encryption_context());
        let source = (old.wrapped.as_slice(), &bound_to);
        let kms = &self.parts.kms;
        let moved = kms.re_encrypt(&ecs, source, &old.key_id, &spec.encryption_context());
        let moved = moved.map_err(|error| self.unusable_key(error, &old.key_id, file))?;
        Ok(Some(Envelope {
            key_id: moved.key_id,
            key_version: moved.key_version,
            wrapped: moved.blob,
        }))
    }

    /// The header of a layer and the file to change it in.
    fn header_of(
        &self,
        layer: &LayerRecord,
    ) -> Result<(Arc<dyn Storage>, LayerHeader), ControlError> {
        let file = || self.parts.store.locate(&layer.file_name);
        let storage = self.parts.store.open_frozen(&layer.file_name);
        let storage = storage.map_err(|error| ControlError::Storage { file: file(), error })?;
        let header = layer::read_header(&*storage)
            .map_err(|error| ControlError::Layer { file: file(), error })?;
        let is_ours = header.spec.layer_id.to_string() == layer.layer_id
            && header.spec.disk_id == layer.owner;
        if is_ours { Ok((storage, header)) } else { Err(differs(layer, "id")) }
    }

    pub(super) fn lock_headers(&self) -> MutexGuard<'_, ()> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In what a header differs from the record of its layer, if in anything.
pub(super) fn difference(header: &LayerHeader, layer: &LayerRecord) -> Option<&'static str> {
    let spec = &header.spec;
    let key_id = header.envelope.as_ref().map(|envelope| envelope.key_id.as_str());
    [
        ("layer id", spec.layer_id.to_string() == layer.layer_id),
        ("owner", spec.disk_id == layer.owner),
        ("parent layer", spec.parent.map(|id| id.to_string()) == layer.parent),
        ("size", spec.size == layer.size),
        ("KMS key id", key_id == layer.kms_key_id.as_deref()),
    ]
    .into_iter()
    .find_map(|(field, is_same)| (!is_same).then_some(field))
}

fn differs(layer: &LayerRecord, field: &str) -> ControlError {
    ControlError::refused(
        "DiskError",
        403,
        format!(
            "The file {} is not the layer of {} that the catalog knows: its {field} differs. Put \
             the right file back.",
            layer.file_name, layer.owner
        ),
    )
}

/// Whether a layer in this state has a file that is made and stays.
pub(super) const fn is_whole(state: LayerState) -> bool {
    matches!(state, LayerState::Live | LayerState::Condemned)
}
