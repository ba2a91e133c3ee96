//! Metrics: families by name, series in atomics, Prometheus text when asked.
//!
//! Requests are counted from their record (`request.rs`); everything else is told to [`Metrics`] by
//! whoever knows it. States that live elsewhere (endpoints, bulkheads) are asked for when metrics
//! are read instead of being mirrored here.

mod bounds;
mod encode;
mod histogram;
pub mod names;
mod own;
mod process;
mod request;
mod store;
mod traffic;

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::registry::Registry;

pub use process::Process;

use self::{bounds::Bounds, names::Family, store::Store, traffic::Traffic};
use super::record::{Direction, Record};
use crate::resource::pb;

/// Beside which workload the program runs, for `outrigger_workload_info`. Empty: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// `orders`
    pub service: String,
    /// `shop`
    pub namespace: String,
    /// Its unique name.
    pub name: String,
    /// Where it stands.
    pub zone: String,
}

/// What is counted in this process. Clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
    registry: Arc<Registry>,
}

#[derive(Debug)]
struct Inner {
    /// Tells the tables that threads keep apart, should there be several metrics in one process.
    id: u64,
    store: Store,
    bounds: Bounds,
    traffic: Traffic,
    in_flight: [Arc<AtomicI64>; 2],
    decisions: [Arc<AtomicU64>; 3],
    spans_dropped: Arc<AtomicU64>,
    access_log_dropped: Arc<AtomicU64>,
    destinations: OnceLock<Destinations>,
    /// What threads have counted of requests.
    own: own::All,
}

/// What a destination looks like now, in the eyes of this proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationState {
    /// `inventory.shop`
    pub destination: String,
    /// Endpoints that take traffic.
    pub ready: usize,
    /// Endpoints that say that they are not ready.
    pub not_ready: usize,
    /// Endpoints that outlier detection leaves alone.
    pub ejected: usize,
    /// Requests under way.
    pub bulkhead_in_use: usize,
    /// How many may be.
    pub bulkhead_limit: usize,
    /// Requests that wait.
    pub bulkhead_queued: usize,
}

struct Destinations(Box<dyn Fn() -> Vec<DestinationState> + Send + Sync>);

impl fmt::Debug for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Destinations")
    }
}

/// What authorization said about an inbound request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may pass.
    Allowed,
    /// It may not.
    Denied,
    /// It may pass, but an `Audit` policy would not have allowed it. Counted beside `Allowed`.
    Audited,
}

/// Which certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// The own one.
    Svid,
    /// The first root to expire.
    Root,
}

impl Metrics {
    /// Counts from zero, beside `workload`.
    pub fn new(workload: &Workload) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let store = Store::default();
        let in_flight = [Direction::Inbound, Direction::Outbound]
            .map(|direction| store.gauge(Family::RequestsInFlight, &[direction.name()]));
        let decisions = ["allowed", "denied", "audited"]
            .map(|decision| store.counter(Family::AuthorizationDecisions, &[decision]));
        let Workload { service, namespace, name, zone } = workload;
        store.gauge(Family::WorkloadInfo, &[service, namespace, name, zone]);
        store.gauge(Family::BuildInfo, &[env!("CARGO_PKG_VERSION")]);
        let inner = Arc::new(Inner {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            in_flight,
            decisions,
            spans_dropped: store.counter(Family::SpansDropped, &[]),
            access_log_dropped: store.counter(Family::AccessLogDropped, &[]),
            store,
            bounds: Bounds::default(),
            traffic: Traffic::default(),
            destinations: OnceLock::new(),
            own: own::All::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(encode::Exposition::new(Arc::clone(&inner))));
        registry.register_collector(Box::new(Process::new()));
        Self { inner, registry: Arc::new(registry) }
    }

    /// All families as OpenMetrics text, which Prometheus reads; content type
    /// [`Metrics::CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing to a string does not fail");
        text
    }

    /// Of what [`Metrics::encode`] gives.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// The trace of an outbound call since this was asked last, if one was traced.
    pub fn take_trace(&self) -> Option<u128> {
        self.inner.traffic.take_trace()
    }

    /// Keeps the trace of an outbound call, where it is the first one or one that failed.
    pub(super) fn keep_trace(&self, record: &Record) {
        self.inner.traffic.keep_trace(record);
    }

    /// Outbound calls between services since the start, by source and destination.
    pub fn traffic(&self) -> Vec<pb::Traffic> {
        self.inner.own.gather();
        self.inner.traffic.report()
    }

    /// Counts a request that ended, with its attempts. Takes no lock for labels that this thread
    /// has counted before.
    pub fn count(&self, record: &Record) {
        request::count(&self.inner, record);
    }

    /// Counts so many requests more as under way.
    pub(in crate::telemetry) fn in_flight(&self, direction: Direction, more: i64) {
        let which = match direction {
            Direction::Inbound => 0,
            Direction::Outbound => 1,
        };
        if !request::add(&self.inner, |usual| &usual.in_flight[which], more.cast_unsigned()) {
            self.inner.in_flight[which].fetch_add(more, Ordering::Relaxed);
        }
    }

    /// How many requests are under way, in both directions together.
    pub fn requests_in_flight(&self) -> usize {
        self.inner.own.gather();
        let gauges = self.inner.in_flight.iter();
        let sum: i64 = gauges.map(|gauge| gauge.load(Ordering::Relaxed)).sum();
        usize::try_from(sum).unwrap_or(0)
    }

    /// Counts a connection as opened, and as open until the guard is dropped. `protocol` is one of
    /// few words: `http/1.1`, `h2`, `tcp`.
    pub fn connection(&self, direction: Direction, protocol: &'static str, tls: bool) -> InFlight {
        let values = [direction.name(), protocol, if tls { "true" } else { "false" }];
        self.add(Family::ConnectionsOpened, &values);
        InFlight::new(self.inner.store.gauge(Family::ConnectionsOpen, &values))
    }

    /// Counts a TLS handshake; `failure` is a word for why, from a closed set.
    pub fn handshake(&self, direction: Direction, failure: Option<&'static str>) {
        self.add(Family::TlsHandshakes, &[direction.name(), failure.unwrap_or("success")]);
    }

    /// The counter of bytes of opaque connections to `destination`; ask once per connection.
    pub fn tcp_bytes(&self, direction: Direction, destination: &str) -> Arc<AtomicU64> {
        let destination = self.inner.bounds.destination(destination);
        self.inner.store.counter(Family::TcpBytes, &[direction.name(), destination])
    }

    /// Counts a decision about an inbound request; no lock.
    pub fn decision(&self, decision: Decision) {
        let which = match decision {
            Decision::Allowed => 0,
            Decision::Denied => 1,
            Decision::Audited => 2,
        };
        if !request::add(&self.inner, |usual| &usual.decisions[which], 1) {
            self.inner.decisions[which].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts an ejected endpoint of `destination`.
    pub fn ejected(&self, destination: &str) {
        self.add(Family::Ejections, &[self.inner.bounds.destination(destination)]);
    }

    /// Counts a retry of a request to `destination` that the budget did not permit.
    pub fn retry_budget_exhausted(&self, destination: &str) {
        self.add(Family::RetryBudgetExhausted, &[self.inner.bounds.destination(destination)]);
    }

    /// Says when a certificate expires.
    pub fn certificate(&self, certificate: Certificate, not_after: SystemTime) {
        let kind = match certificate {
            Certificate::Svid => "svid",
            Certificate::Root => "root",
        };
        self.set(Family::CertificateExpiry, &[kind], seconds(not_after));
    }

    /// Counts an attempt to renew the own certificate.
    pub fn certificate_renewal(&self, renewed: bool) {
        self.add(Family::CertificateRenewals, &[if renewed { "success" } else { "failure" }]);
    }

    /// Says whether the control plane is connected.
    pub fn control_connected(&self, connected: bool) {
        self.set(Family::ControlConnected, &[], i64::from(connected));
    }

    /// Says when the control plane was last heard.
    pub fn control_contact(&self, at: SystemTime) {
        self.set(Family::ControlLastContact, &[], seconds(at));
    }

    /// Says which revision runs, and how many resources run in an older form because their newest
    /// is refused.
    pub fn config(&self, revision: u64, rejected: usize) {
        self.set(Family::ConfigRevision, &[], i64::try_from(revision).unwrap_or(i64::MAX));
        let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
        self.set(Family::ConfigRejectedResources, &[], rejected);
    }

    /// Counts a resource that was refused.
    pub fn config_rejection(&self) {
        self.add(Family::ConfigRejections, &[]);
    }

    /// Says who knows the state of destinations; asked whenever metrics are read. The first one
    /// stays.
    pub fn watch_destinations(
        &self,
        states: impl Fn() -> Vec<DestinationState> + Send + Sync + 'static,
    ) {
        let _already = self.inner.destinations.set(Destinations(Box::new(states)));
    }

    /// The counter of spans that were not sent.
    pub fn spans_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.spans_dropped)
    }

    /// The counter of log lines that were not written.
    pub fn access_log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.inner.access_log_dropped)
    }

    fn add(&self, family: Family, values: &[&str]) {
        self.inner.store.counter(family, values).fetch_add(1, Ordering::Relaxed);
    }

    fn set(&self, family: Family, values: &[&str], value: i64) {
        self.inner.store.gauge(family, values).store(value, Ordering::Relaxed);
    }
}

/// Counted in a gauge until dropped.
#[derive(Debug)]
pub struct InFlight {
    gauge: Arc<AtomicI64>,
}

impl InFlight {
    fn new(gauge: Arc<AtomicI64>) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self { gauge }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.gauge.fetch_sub(1, Ordering::Relaxed);
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
