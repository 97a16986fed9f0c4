//! `/health` and `/metrics`: what anybody who reaches a listener may know.

use serde_json::{Value, json};

use super::Api;
use crate::secret::{self, Protection};

/// How the daemon is. It answers at all, hence `ok`.
pub(super) fn health(api: &Api) -> Value {
    json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": api.clock.monotonic().as_secs(),
        "attached_disks": (api.attached_disks)(),
        "space": if (api.is_space_low)() { "low" } else { "enough" },
        "root_key": {"provider": api.root.provider().name()},
        "memory_protection": protection(secret::protection()),
    })
}

/// How well keys in memory are kept from other eyes, as a word.
fn protection(protection: Protection) -> &'static str {
    match protection {
        Protection::SecretMemory => "memfd_secret",
        Protection::Locked => "mlock",
        Protection::Unlocked => "none",
    }
}
