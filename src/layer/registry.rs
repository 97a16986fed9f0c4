//! Frozen layers that are open, each once: a thousand disks on one image share one descriptor and
//! one key schedule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use uuid::Uuid;

use super::{Frozen, Layer};

/// Fewest entries that are looked through for dead ones.
const SWEEP_MIN: usize = 64;

/// The frozen layers that are open, by id. It keeps none of them open.
///
/// It saves memory, not permission: whoever wants a layer asks the KMS for its key first, and lets
/// the key go when the layer turns out to be open.
#[derive(Debug, Default)]
pub struct LayerRegistry {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    layers: HashMap<Uuid, Weak<Layer<Frozen>>>,
    /// Entries after the last sweep.
    swept: usize,
}

impl LayerRegistry {
    /// Nothing is open.
    pub fn new() -> Self {
        Self::default()
    }

    /// The layer of this id, if somebody has it open.
    pub fn find(&self, layer_id: Uuid) -> Option<Arc<Layer<Frozen>>> {
        self.lock().layers.get(&layer_id).and_then(Weak::upgrade)
    }

    /// The layer of this id: the one that is open, else what `open` makes. `open` runs without a
    /// lock held; where two come at once, both get the one that was ready first.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn get_or_open<E>(
        &self,
        layer_id: Uuid,
        open: impl FnOnce() -> Result<Layer<Frozen>, E>,
    ) -> Result<Arc<Layer<Frozen>>, E> {
        if let Some(found) = self.find(layer_id) {
            return Ok(found);
        }
        let made = Arc::new(open()?);
        let mut open = self.lock();
        if let Some(found) = open.layers.get(&layer_id).and_then(Weak::upgrade) {
            return Ok(found);
        }
        open.insert(layer_id, &made);
        Ok(made)
    }

    /// Shares a layer that was frozen just now; takes the place of one of the same id.
    pub fn share(&self, layer: Layer<Frozen>) -> Arc<Layer<Frozen>> {
        let layer = Arc::new(layer);
        self.keep(&layer);
        layer
    }

    /// As [`LayerRegistry::share`], of one that somebody has already.
    pub fn keep(&self, layer: &Arc<Layer<Frozen>>) {
        self.lock().insert(layer.header().spec.layer_id, layer);
    }

    /// Whoever wants this layer from here on opens it anew: its header changed, or it goes. Those
    /// who have it keep it.
    pub fn forget(&self, layer_id: Uuid) {
        self.lock().layers.remove(&layer_id);
    }

    /// How many layers are open.
    pub fn count(&self) -> usize {
        self.lock().layers.values().filter(|layer| layer.strong_count() > 0).count()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn insert(&mut self, layer_id: Uuid, layer: &Arc<Layer<Frozen>>) {
        // Looked through when it has doubled, so that what died costs a constant share.
        if self.layers.len() >= SWEEP_MIN.max(2 * self.swept) {
            self.layers.retain(|_, layer| layer.strong_count() > 0);
            self.swept = self.layers.len();
        }
        self.layers.insert(layer_id, Arc::downgrade(layer));
    }
}
