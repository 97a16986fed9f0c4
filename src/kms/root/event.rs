//! Rotations in the trail.

use crate::catalog::RootRecord;
use crate::trail::{Actor, Event, Service};

/// A root key took the place of another.
pub fn rotated(actor: Actor, record: &RootRecord) -> Event {
    Event::new(Service::Kms, "RotateRootKey", actor)
        .response("Provider", record.provider.as_str())
        .response("RootKeyId", record.root_key_id.as_str())
        .response("PreviousRootKeyId", record.previous_id.clone().unwrap_or_default())
}
