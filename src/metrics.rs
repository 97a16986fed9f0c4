//! Counters and histograms, registered once and then held by whoever counts.
//!
//! Names follow the Prometheus conventions: `sealdisk_` first, unit last. No label ever holds what
//! a client made up: export labels are disk ids.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// Upper bounds of the latency histograms, in seconds: 10 µs to 10 s.
pub const LATENCY_BUCKETS_SECONDS: [f64; 13] =
    [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1.0, 10.0];

/// Name of the request latency histogram, for the exporter to set its buckets.
pub const REQUEST_SECONDS: &str = "sealdisk_nbd_request_seconds";

/// Name of the histogram of calls of tokens, for the exporter to set its buckets.
pub const HSM_SECONDS: &str = "sealdisk_hsm_call_seconds";

/// Name of the KMS latency histogram, for the exporter to set its buckets.
pub const KMS_SECONDS: &str = "sealdisk_kms_call_seconds";

/// What is counted of one export.
pub struct ExportMetrics {
    commands: Vec<CommandMetrics>,
    bytes_read: Counter,
    bytes_written: Counter,
}

struct CommandMetrics {
    requests: Counter,
    errors: Counter,
    seconds: Histogram,
}

impl ExportMetrics {
    /// Registers the metrics of the export with this disk id, for commands of these names.
    pub fn register(disk_id: &str, commands: &[&'static str]) -> Self {
        let export = disk_id.to_owned();
        let of_command = |command: &&'static str| CommandMetrics {
            requests: counter!("sealdisk_nbd_requests_total",
                "export" => export.clone(), "command" => *command),
            errors: counter!("sealdisk_nbd_request_errors_total",
                "export" => export.clone(), "command" => *command),
            seconds: histogram!(REQUEST_SECONDS,
                "export" => export.clone(), "command" => *command),
        };
        let bytes = |direction: &'static str| {
            counter!("sealdisk_nbd_bytes_total",
                "export" => export.clone(), "direction" => direction)
        };
        Self {
            commands: commands.iter().map(of_command).collect(),
            bytes_read: bytes("read"),
            bytes_written: bytes("written"),
        }
    }

    /// Counts a finished request; `command` is its place in the list given to `register`.
    pub fn finished(&self, command: usize, took: Duration, is_error: bool) {
        let Some(metrics) = self.commands.get(command) else { return };
        metrics.requests.increment(1);
        metrics.seconds.record(took.as_secs_f64());
        if is_error {
            metrics.errors.increment(1);
        }
    }

    /// Counts payload sent to a client.
    pub fn read(&self, bytes: u64) {
        self.bytes_read.increment(bytes);
    }

    /// Counts payload taken from a client.
    pub fn written(&self, bytes: u64) {
        self.bytes_written.increment(bytes);
    }
}

/// Connections open now, on all listeners.
pub fn connections() -> Gauge {
    gauge!("sealdisk_nbd_connections")
}

/// Connections ended before transmission, by cause.
pub fn handshake_failures(cause: &'static str) -> Counter {
    counter!("sealdisk_nbd_handshake_failures_total", "cause" => cause)
}

/// Connections turned away, by cause.
pub fn connections_refused(cause: &'static str) -> Counter {
    counter!("sealdisk_nbd_connections_refused_total", "cause" => cause)
}

/// Disks attached now.
pub fn attached_disks() -> Gauge {
    gauge!("sealdisk_attached_disks")
}

/// What disks promise, what their layers take, and what is left where they lie; in bytes.
pub fn space(advertised: u64, allocated: u64, free: u64) {
    gauge!("sealdisk_disks_advertised_bytes").set(advertised as f64);
    gauge!("sealdisk_layers_allocated_bytes").set(allocated as f64);
    gauge!("sealdisk_data_dir_free_bytes").set(free as f64);
}

/// Bytes encrypted under that data key of a disk that has encrypted the most.
pub fn data_key_bytes(disk_id: &str) -> Gauge {
    gauge!("sealdisk_data_key_encrypted_bytes", "export" => disk_id.to_owned())
}

/// Counts a KMS call and its time.
pub fn kms_call(action: &'static str, outcome: &'static str, took: Duration) {
    counter!("sealdisk_kms_calls_total", "action" => action, "outcome" => outcome).increment(1);
    histogram!(KMS_SECONDS, "action" => action).record(took.as_secs_f64());
}

/// API connections closed at once because their peer had too many.
pub fn api_connections_refused() -> Counter {
    counter!("sealdisk_api_connections_refused_total")
}

/// Counts an API request by action, which must be a known one, and HTTP status.
pub fn api_request(action: &str, status: u16) {
    let (action, status) = (action.to_owned(), status.to_string());
    counter!("sealdisk_api_requests_total", "action" => action, "status" => status).increment(1);
}

/// Whether the token of this configured name can be used.
pub fn hsm_up(name: &str, is_up: bool) {
    gauge!("sealdisk_hsm_up", "hsm" => name.to_owned()).set(if is_up { 1.0 } else { 0.0 });
}

/// Counts a call of a token and its time.
pub fn hsm_call(name: &str, operation: &'static str, outcome: &'static str, took: Duration) {
    counter!("sealdisk_hsm_calls_total",
        "hsm" => name.to_owned(), "operation" => operation, "outcome" => outcome)
    .increment(1);
    histogram!(HSM_SECONDS, "hsm" => name.to_owned(), "operation" => operation)
        .record(took.as_secs_f64());
}

/// Counts that the way to a token was mended, by the step that did it.
pub fn hsm_recovered(name: &str, step: &'static str) {
    counter!("sealdisk_hsm_recoveries_total", "hsm" => name.to_owned(), "step" => step)
        .increment(1);
}

/// Calls that wait for a token, and workers in calls that do not end.
pub fn hsm_load(name: &str, waiting: usize, hung: usize) {
    gauge!("sealdisk_hsm_waiting", "hsm" => name.to_owned()).set(waiting as f64);
    gauge!("sealdisk_hsm_hung_workers", "hsm" => name.to_owned()).set(hung as f64);
}

/// Objects in a token that no key version is known for.
pub fn hsm_orphans(name: &str, orphans: usize) {
    gauge!("sealdisk_hsm_orphans", "hsm" => name.to_owned()).set(orphans as f64);
}
