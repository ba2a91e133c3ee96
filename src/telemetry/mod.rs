//! Metrics, access log, trace context and spans: what a request leaves behind.
//!
//! The proxy fills one [`Record`] per request and hands it to its worker's [`Recorder`] once, at the
//! last byte or when the request is dropped. Metric, log line and span are all made from it, so they
//! can not disagree. Handing over never waits: lines and spans go through bounded queues, and what they
//! lose is counted.

mod chain;
mod line;
mod log;
pub mod metrics;
mod record;
mod recorder;
mod repeats;
mod spans;
mod time;
pub mod trace;

use std::{
    fmt, io,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use opentelemetry::KeyValue;

pub use chain::chain;
pub use metrics::Metrics;
#[cfg(test)]
pub(crate) use record::sample;
pub use record::{Attempt, Attempts, Direction, Name, Place, Record, SpanContext};
pub use recorder::Recorder;
pub use spans::Exporter;
pub use time::Rfc3339;

use self::{log::AccessLog, spans::Spans, trace::Sampler};
use crate::{
    resource::pb,
    snapshot::{AccessLogMode, Mesh},
};

/// Sampled until a configuration says otherwise: share of the traces that start here.
const DEFAULT_SAMPLING: f64 = 0.01;
/// And at most so many a second.
const DEFAULT_SAMPLED_PER_SECOND_MAX: f64 = 50.0;

/// What is known of telemetry before any configuration.
pub struct Options {
    /// Beside which workload.
    pub workload: metrics::Workload,
    /// Further resource attributes (`OTEL_RESOURCE_ATTRIBUTES`); `service.*` of the workload win.
    pub resource: Vec<(String, String)>,
    /// Where spans go, over what `Mesh` says (`--otlp`, `OTEL_EXPORTER_OTLP_ENDPOINT`): an `http://`
    /// URL, without TLS.
    pub otlp: Option<String>,
    /// How they are sent there.
    pub exporter: Exporter,
    /// Share of the traces that start here, 0.0 to 1.0, over what `Mesh` says
    /// (`OTEL_TRACES_SAMPLER_ARG`).
    pub sampling: Option<f64>,
    /// Where the access log goes; stdout as a rule.
    pub access_log: Box<dyn io::Write + Send>,
}

/// The telemetry of one process; shared by all workers.
pub struct Telemetry {
    metrics: Metrics,
    sampler: Sampler,
    sampling: Option<f64>,
    otlp: Option<String>,
    log: AccessLog,
    log_mode: AtomicU8,
    spans: Spans,
}

impl Telemetry {
    /// Starts the log's thread and, on the current runtime, the task that sends spans. Until
    /// [`Telemetry::configure`], failed requests are logged and 1% of the traces sampled.
    ///
    /// # Errors
    /// When the system gives no thread.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(options: Options) -> io::Result<Self> {
        let metrics = Metrics::new(&options.workload);
        let sampling = options.sampling.unwrap_or(DEFAULT_SAMPLING);
        let resource = resource(&options.workload, options.resource);
        Ok(Self {
            sampler: Sampler::new(sampling, DEFAULT_SAMPLED_PER_SECOND_MAX),
            sampling: options.sampling,
            log: AccessLog::start(options.access_log, metrics.access_log_dropped())?,
            log_mode: AtomicU8::new(encode_mode(AccessLogMode::Errors)),
            spans: Spans::start(
                resource,
                options.otlp.clone(),
                options.exporter,
                metrics.spans_dropped(),
            ),
            otlp: options.otlp,
            metrics,
        })
    }

    /// Does as `mesh` says from now on, where the options do not say otherwise. To be called when a
    /// snapshot is published.
    pub fn configure(&self, mesh: &Mesh) {
        let tracing = &mesh.tracing;
        self.sampler.configure(self.sampling.unwrap_or(tracing.sampling), tracing.per_second_max);
        self.spans.set_endpoint(self.otlp.as_deref().or(tracing.otlp.as_deref()));
        self.log_mode.store(encode_mode(mesh.access_log), Ordering::Relaxed);
    }

    /// Counts a request as under way, until [`Telemetry::end`], and finds its place in its trace: below
    /// `parent` (as [`trace::parse_traceparent`] read it), or at the start of a new one. `now` is any
    /// clock, `random` any generator.
    pub fn begin(
        &self,
        direction: Direction,
        parent: Option<SpanContext>,
        now: impl FnOnce() -> Duration,
        random: impl FnMut() -> u64,
    ) -> trace::Place {
        self.metrics.in_flight(direction, 1);
        trace::continue_or_start(parent, &self.sampler, now, random)
    }

    /// A request that began is not under way any more.
    pub fn end(&self, direction: Direction) {
        self.metrics.in_flight(direction, -1);
    }

    /// What is logged now.
    fn log_mode(&self) -> AccessLogMode {
        decode_mode(self.log_mode.load(Ordering::Relaxed))
    }

    /// Everything that is counted but requests.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All metrics as text for Prometheus.
    pub fn encode(&self) -> String {
        self.metrics.encode()
    }

    /// Outbound calls between services since the start.
    pub fn traffic(&self) -> Vec<pb::Traffic> {
        self.metrics.traffic()
    }

    /// Writes and sends what still waits, at most `bound` long. May be cancelled and called again.
    pub async fn shutdown(&self, bound: Duration) {
        tokio::join!(self.log.flush(bound), self.spans.flush(bound));
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

fn resource(workload: &metrics::Workload, given: Vec<(String, String)>) -> Vec<KeyValue> {
    let mut resource: Vec<KeyValue> =
        given.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect();
    for (key, value) in [
        ("service.name", &workload.service),
        ("service.namespace", &workload.namespace),
        ("service.instance.id", &workload.name),
    ] {
        if !value.is_empty() {
            resource.push(KeyValue::new(key, value.clone()));
        }
    }
    resource
}

fn encode_mode(mode: AccessLogMode) -> u8 {
    match mode {
        AccessLogMode::Off => 0,
        AccessLogMode::Errors => 1,
        AccessLogMode::All => 2,
    }
}

fn decode_mode(mode: u8) -> AccessLogMode {
    match mode {
        0 => AccessLogMode::Off,
        1 => AccessLogMode::Errors,
        _ => AccessLogMode::All,
    }
}

#[cfg(test)]
mod tests;
