//! Counters and histograms, registered once and then held by whoever counts.
//!
//! Names follow the Prometheus conventions: `sealdisk_` first, unit last. No label ever holds what
//! a client made up: export labels are disk ids.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, counter, gauge, histogram};

/// Upper bounds of the latency histograms, in seconds: 10 µs to 10 s.
pub const LATENCY_BUCKETS_SECONDS: [f64; 13] =
    [1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.25, 1.0, 10.0];

const REQUEST_SECONDS: &str = "sealdisk_nbd_request_seconds";

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
    latencies: Arc<Latencies>,
}

/// A histogram of fixed size. The one behind `histogram!` keeps every sample until it is folded:
/// 16 bytes a request, tens of MiB in a few busy seconds.
#[derive(Debug, Default)]
struct Latencies {
    /// Samples up to each bound and above the one before it; the last: above all.
    counts: [AtomicU64; LATENCY_BUCKETS_SECONDS.len() + 1],
    nanos: AtomicU64,
}

/// The histograms of requests by export and command.
static REQUESTS: Mutex<BTreeMap<(String, &str), Arc<Latencies>>> = Mutex::new(BTreeMap::new());

impl Latencies {
    fn of_requests(export: &str, command: &'static str) -> Arc<Self> {
        let mut all = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry((export.to_owned(), command)).or_default())
    }

    fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BUCKETS_SECONDS.iter().position(|bound| seconds <= *bound);
        let bucket = bucket.unwrap_or(LATENCY_BUCKETS_SECONDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        // Full after 584 years.
        self.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    fn render(&self, labels: &str, out: &mut String) {
        let mut total = 0;
        let bounds = LATENCY_BUCKETS_SECONDS.iter().map(f64::to_string);
        for (count, bound) in self.counts.iter().zip(bounds.chain(["+Inf".to_owned()])) {
            total += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{REQUEST_SECONDS}_bucket{{{labels},le=\"{bound}\"}} {total}");
        }
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(out, "{REQUEST_SECONDS}_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "{REQUEST_SECONDS}_count{{{labels}}} {total}");
    }
}

/// The latencies of requests in Prometheus' text format, to stand behind what the exporter renders.
pub fn render_latencies() -> String {
    let all = REQUESTS.lock().unwrap_or_else(PoisonError::into_inner);
    if all.is_empty() {
        return String::new();
    }
    let mut out = format!("# TYPE {REQUEST_SECONDS} histogram\n");
    for ((export, command), latencies) in all.iter() {
        latencies.render(&format!("export=\"{export}\",command=\"{command}\""), &mut out);
    }
    out
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
            latencies: Latencies::of_requests(disk_id, command),
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
        metrics.latencies.record(took);
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

/// Calls that wait for a token, workers in calls that do not end, and those in their place.
pub fn hsm_load(name: &str, waiting: usize, hung: usize, replaced: usize) {
    gauge!("sealdisk_hsm_waiting", "hsm" => name.to_owned()).set(waiting as f64);
    gauge!("sealdisk_hsm_hung_workers", "hsm" => name.to_owned()).set(hung as f64);
    gauge!("sealdisk_hsm_replaced_workers", "hsm" => name.to_owned()).set(replaced as f64);
}

/// Objects in a token that no key version is known for.
pub fn hsm_orphans(name: &str, orphans: usize) {
    gauge!("sealdisk_hsm_orphans", "hsm" => name.to_owned()).set(orphans as f64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_sample_once_and_shows_them_cumulated() {
        let metrics = ExportMetrics::register("d-metrics", &["read", "write"]);
        let micros = [1, 10, 11, 60, 2000, 60_000_000];
        micros.iter().for_each(|took| metrics.finished(1, Duration::from_micros(*took), false));
        let text = render_latencies();
        assert!(text.starts_with("# TYPE sealdisk_nbd_request_seconds histogram\n"));
        let value = |name: &str, rest: &str| {
            let start = format!(
                "sealdisk_nbd_request_seconds_{name}{{export=\"d-metrics\",command=\"write\"{rest}}} "
            );
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("{start}: {text}")).parse::<f64>().unwrap()
        };
        let bounds = [("0.00001", 2.0), ("0.000025", 3.0), ("0.0001", 4.0), ("0.0025", 5.0)];
        for (bound, count) in bounds.into_iter().chain([("10", 5.0), ("+Inf", 6.0)]) {
            assert_eq!(value("bucket", &format!(",le=\"{bound}\"")), count, "{bound}");
        }
        assert_eq!(value("count", ""), 6.0);
        assert!((value("sum", "") - 60.002082).abs() < 1e-9);
    }
}
