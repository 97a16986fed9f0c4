//! Crypto-erase: the wrapped key of a layer is destroyed before its file goes, and the trail says
//! that it was.
//!
//! A file that is only unlinked stays on the medium until its blocks are used again; whoever finds
//! it there and may use the KMS key reads it. Without its header there is nothing to unwrap.

use crate::catalog::LayerRecord;
use crate::layer;
use crate::ram::Caller;

use super::headers::is_missing;
use super::registry::Disks;
use super::{ControlError, audit};

impl Disks {
    /// Overwrites the header of `layer` and everything else in front of its data, flushes, and
    /// records `EraseLayer` in the trail. The caller unlinks the file. A file that is gone already
    /// is no error: a removal is repeated after a crash.
    ///
    /// # Errors
    /// The storage's, or the trail's: then it must be repeated before the file is unlinked.
    pub(super) fn erase_layer(
        &self,
        caller: &Caller,
        layer: &LayerRecord,
    ) -> Result<(), ControlError> {
        let file = self.parts.store.locate(&layer.file_name);
        let storage = match self.parts.store.open_frozen(&layer.file_name) {
            Err(error) if is_missing(&error) => return Ok(()),
            opened => {
                opened.map_err(|error| ControlError::Storage { file: file.clone(), error })?
            }
        };
        let erased = layer::erase(&*storage, &*self.parts.entropy)
            .map_err(|error| ControlError::Layer { file, error })?;
        let event = audit::layer_erased(self.actor(caller), layer, erased);
        Ok(self.parts.trail.record(&event)?)
    }
}
