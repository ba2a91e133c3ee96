//! Who calls whom, how often, how slowly and what failed: what a sidecar reports to the control
//! plane about its outbound requests since its start.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::histogram::Histogram;
use crate::{
    reason::{GrpcCode, Reason},
    resource::pb,
    telemetry::record::Record,
};

/// Latency buckets, the last of which takes the rest.
const BUCKETS: usize = 32;
/// Upper bounds in microseconds: 1 ms × 2^(i/2), up to 32.8 s.
const BOUNDS: [u64; BUCKETS - 1] = {
    let mut bounds = [0; BUCKETS - 1];
    let mut i = 0;
    while i < bounds.len() {
        // 1,414,214 ns is 1 ms × √2.
        let nanos: u64 = if i % 2 == 0 { 1_000_000 } else { 1_414_214 };
        bounds[i] = (nanos << (i / 2)) / 1_000;
        i += 1;
    }
    bounds
};

/// Outbound requests by source and destination. The keys are bounded label values.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pairs: Mutex<BTreeMap<Ends, Arc<Pair>>>,
    /// Somebody's trace since the last report; only the first one takes the lock.
    latest: Mutex<Option<u128>>,
    has_latest: AtomicBool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    source: Box<str>,
    destination: Box<str>,
}

/// Calls from one service to another.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) latency: Arc<Histogram>,
    failed: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    /// The last traced call that failed so.
    traces: Mutex<BTreeMap<String, u128>>,
}

impl Traffic {
    /// The counters of one pair.
    pub(super) fn pair(&self, source: &str, destination: &str) -> Arc<Pair> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = Ends { source: source.into(), destination: destination.into() };
        let pair = pairs.entry(ends).or_insert_with(|| {
            Arc::new(Pair {
                latency: Arc::new(Histogram::new(&BOUNDS)),
                failed: Mutex::default(),
                traces: Mutex::default(),
            })
        });
        Arc::clone(pair)
    }

    /// Keeps the trace of a call, for whoever wants to look at one: of each way of failing the last
    /// one, and of all calls one for each report.
    pub(super) fn keep_trace(&self, record: &Record) {
        if !self.has_latest.load(Ordering::Relaxed) {
            let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            *latest = Some(record.span.trace_id);
            self.has_latest.store(true, Ordering::Relaxed);
        }
        if record.succeeded() {
            return;
        }
        let ends =
            Ends { source: (&*record.source).into(), destination: (&*record.destination).into() };
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = pairs.get(&ends).map(Arc::clone);
        drop(pairs);
        if let Some(pair) = pair {
            let mut traces = pair.traces.lock().unwrap_or_else(PoisonError::into_inner);
            traces.insert(Outcome::of_record(record).to_string(), record.span.trace_id);
        }
    }

    /// The trace of a call since the last report.
    pub(super) fn take_trace(&self) -> Option<u128> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_latest.store(false, Ordering::Relaxed);
        latest.take()
    }

    /// All of it, since the start.
    pub(super) fn report(&self) -> Vec<pb::Traffic> {
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let report = pairs.iter().map(|(ends, pair)| {
            let latency_buckets: Vec<u64> = pair.latency.counts().collect();
            let failed = pair.failed.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = failed
                .iter()
                .map(|(reason, count)| (reason.clone(), count.load(Ordering::Relaxed)))
                .collect();
            let traces = pair.traces.lock().unwrap_or_else(PoisonError::into_inner);
            let failed_traces =
                traces.iter().map(|(reason, trace)| (reason.clone(), format!("{trace:032x}")));
            pb::Traffic {
                source: ends.source.to_string(),
                destination: ends.destination.to_string(),
                total: latency_buckets.iter().sum(),
                failed,
                latency_buckets,
                failed_traces: failed_traces.collect(),
                failing_since: HashMap::new(),
            }
        });
        report.collect()
    }
}

impl Pair {
    /// The counter of calls that failed so.
    pub(super) fn failed(&self, outcome: Outcome) -> Arc<AtomicU64> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(failed.entry(outcome.to_string()).or_default())
    }
}

/// How a request or an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::telemetry) enum Outcome {
    Success,
    /// By the mesh.
    Reason(Reason),
    /// By the application.
    Grpc(GrpcCode),
    /// By the application.
    Http(u16),
}

impl Outcome {
    /// How a request ended for its caller.
    pub(in crate::telemetry) fn of_record(record: &Record) -> Self {
        if record.succeeded() {
            return Self::Success;
        }
        Self::failure(record.reason, record.grpc_status, record.http_status)
    }

    /// How an attempt ended in this proxy's eyes.
    pub(in crate::telemetry) fn of_attempt(attempt: &crate::telemetry::Attempt) -> Self {
        if attempt.succeeded() {
            return Self::Success;
        }
        Self::failure(attempt.reason, attempt.grpc_status, attempt.http_status)
    }

    fn failure(reason: Option<Reason>, grpc: Option<GrpcCode>, http: u16) -> Self {
        match (reason, grpc) {
            (Some(reason), _) => Self::Reason(reason),
            (None, Some(code)) if code != GrpcCode::Ok => Self::Grpc(code),
            (None, _) if http != 0 => Self::Http(http),
            // No status and no reason: whoever filled the record forgot one.
            (None, _) => Self::Reason(Reason::Internal),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success"),
            Self::Reason(reason) => f.write_str(reason.name()),
            Self::Grpc(code) => write!(f, "grpc_{}", code.name()),
            Self::Http(status) => write!(f, "http_{status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::{BOUNDS, Outcome, Traffic};
    use crate::reason::{GrpcCode, Reason};

    #[test]
    fn bounds_are_powers_of_the_root_of_two() {
        for (i, bound) in (0..).zip(BOUNDS) {
            let exact = 1000.0 * 2f64.powf(f64::from(i) / 2.0);
            assert!((bound as f64 - exact).abs() <= 1e-3 * exact, "{i}: {bound} {exact}");
        }
    }

    #[test]
    fn a_report_is_cumulative_and_by_pair() {
        let traffic = Traffic::default();
        let pair = traffic.pair("front.shop", "orders.shop");
        for micros in [999, 1_000, 1_001, 1_415, 60_000_000] {
            pair.latency.observe_alone(micros * 1_000);
        }
        for outcome in [
            Outcome::Reason(Reason::NoEndpoint),
            Outcome::Grpc(GrpcCode::Unavailable),
            Outcome::Http(503),
            Outcome::Http(503),
        ] {
            pair.failed(outcome).fetch_add(1, Ordering::Relaxed);
        }
        traffic.pair("front.shop", "catalog.shop");
        let report = traffic.report();
        assert_eq!(report[0].destination, "catalog.shop");
        let orders = &report[1];
        assert_eq!((orders.source.as_str(), orders.total), ("front.shop", 5));
        assert_eq!(orders.latency_buckets.len(), 32);
        assert_eq!(orders.latency_buckets[..3], [2, 1, 1]);
        assert_eq!(orders.latency_buckets[31], 1);
        let failed = [("no_endpoint", 1), ("grpc_UNAVAILABLE", 1), ("http_503", 2)];
        assert_eq!(orders.failed, failed.map(|(name, n)| (name.to_owned(), n)).into());
    }
}
