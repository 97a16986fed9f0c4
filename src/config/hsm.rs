//! The section `hsm`: tokens whose keys have the protection level HSM, as meant and as written.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::TokenUri;
use super::yaml::{HsmName, HsmWorkers, RemoteTimeout, TokenAddress};

/// Threads that wait for a token unless told otherwise.
pub const HSM_WORKERS_DEFAULT: usize = 4;

/// Threads that a token may have.
pub const HSM_WORKERS: RangeInclusive<usize> = 1..=64;

/// Time a call of a token may take unless told otherwise.
pub const HSM_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Name of the token of `--hsm`, and of one that is given none.
pub const HSM_NAME_DEFAULT: &str = "hsm";

/// A token, its name here, and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hsm {
    /// What the catalog calls it: the token may be replaced by its clone, with another serial
    /// number, and its keys are found again under this name. `kst-NAME` is its KMS instance.
    pub name: String,
    /// Which token.
    pub uri: TokenUri,
    /// Threads that call it.
    pub workers: usize,
    /// Time one call may take, its time in the queue included.
    pub timeout: Duration,
}

impl Hsm {
    /// `uri`, with all else as it is unless told otherwise.
    pub fn new(uri: TokenUri) -> Self {
        let name = HSM_NAME_DEFAULT.to_owned();
        Self { name, uri, workers: HSM_WORKERS_DEFAULT, timeout: HSM_TIMEOUT_DEFAULT }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenHsm {
    name: Option<HsmName>,
    uri: TokenAddress,
    workers: Option<HsmWorkers>,
    timeout: Option<RemoteTimeout>,
}

impl WrittenHsm {
    pub(super) fn meant(self) -> Hsm {
        let mut hsm = Hsm::new(self.uri.0);
        if let Some(name) = self.name {
            hsm.name = name.0;
        }
        if let Some(workers) = self.workers {
            hsm.workers = workers.0;
        }
        if let Some(timeout) = self.timeout {
            hsm.timeout = timeout.0;
        }
        hsm
    }
}
