//! `/health` and `/metrics`: what anybody who reaches a listener may know.

use serde_json::{Value, json};

use super::Api;
use crate::kms::TokenReport;
use crate::secret::{self, Protection};
use crate::token::TokenState;

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
        "hsm": hsms(api),
    })
}

/// The configured tokens; the cause of a failure without what else is in the library.
fn hsms(api: &Api) -> Vec<Value> {
    let reports = api.kms.tokens().into_iter();
    let value = |report: TokenReport| {
        let (state, since, cause) = match report.state {
            TokenState::Up { since, .. } => ("available", Some(since), None),
            TokenState::Down { cause, since } => ("unavailable", since, Some(cause.brief())),
        };
        json!({
            "name": report.name,
            "instance_id": report.instance_id,
            "state": state,
            "since": since.map(|since| since.to_string()),
            "cause": cause,
            "waiting_calls": report.load.waiting,
            "hung_workers": report.load.hung,
            "replaced_workers": report.load.replaced,
        })
    };
    reports.map(value).collect()
}

/// How well keys in memory are kept from other eyes, as a word.
fn protection(protection: Protection) -> &'static str {
    match protection {
        Protection::SecretMemory => "memfd_secret",
        Protection::Locked => "mlock",
        Protection::Unlocked => "none",
    }
}
