//! A token that comes or goes, in the trail.

use crate::token::TokenState;
use crate::trail::{Actor, Event, EventKind, Service};

/// The configured token `name` is in this state from here on.
pub fn hsm_event(actor: Actor, name: &str, state: &TokenState) -> Event {
    let event = |action| {
        Event::new(Service::Kms, action, actor)
            .kind(EventKind::ServiceEvent)
            .request("Hsm", name)
            .request("DKMSInstanceId", format!("kst-{name}"))
    };
    match state {
        TokenState::Up { found, .. } => {
            event("HsmAvailable").response("SerialNumber", found.serial.as_str())
        }
        TokenState::Down { cause, .. } => {
            event("HsmUnavailable").error("HsmUnavailable", &cause.to_string())
        }
    }
}
