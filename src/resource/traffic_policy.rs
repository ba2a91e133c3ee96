//! `TrafficPolicy`: how calls to what it targets are timed, retried, limited and balanced.
//!
//! Times and retries are read field by field, `None` for what was left out, because a route rule's
//! own field overrides the same field of a policy, and a policy on a route that on its service.
//! What belongs to a destination (bulkhead, balancing, outlier detection, retry budget) is taken as
//! a whole with its defaults, which are the constants of this file.

use std::time::Duration;

use super::{
    Kind, Problem, pb,
    reference::{GrpcMethod, Target, grpc_method, http_method, targets},
    report::{Report, meant},
};
use crate::{
    reason::GrpcCode,
    units::{Percent, Rate, duration},
};

/// TCP and TLS to an endpoint: a second is ten times a slow handshake across a continent.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Without a byte in either direction: longer than any keepalive that is in use.
pub const STREAM_IDLE: Duration = Duration::from_secs(300);
/// Retries beyond the first attempt where a retry is asked for without a number.
pub const RETRY_ATTEMPTS: u32 = 2;
/// More would only multiply the load of an outage.
pub const RETRY_ATTEMPTS_MAX: u32 = 10;
/// HTTP methods that may be repeated without harm (RFC 9110, 9.2.2), but TRACE.
pub const RETRY_METHODS: [&str; 5] = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"];
/// On which HTTP statuses a route rule retries that asks for retries and names none: those by which
/// an intermediary says that it got no answer.
pub const RETRY_HTTP_STATUSES: [u16; 3] = [502, 503, 504];
/// Before the first retry.
pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
/// Between two attempts at most.
pub const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// What a policy says.
#[derive(Debug, Clone, PartialEq)]
pub struct TrafficPolicy {
    /// What it attaches to, at least one.
    pub targets: Vec<Target>,
    /// Times of a request.
    pub timeouts: Timeouts,
    /// What is retried; `None`: it does not say.
    pub retry: Option<Retry>,
    /// TCP and TLS to an endpoint.
    pub connect: Option<Duration>,
    /// How many retries are permitted.
    pub budget: Option<RetryBudget>,
    /// Requests under way and waiting.
    pub bulkhead: Option<Bulkhead>,
    /// How an endpoint is picked.
    pub balancing: Option<Balancing>,
    /// When an endpoint is left alone for a while.
    pub outlier: Option<OutlierDetection>,
}

/// A time limit as it is written: `0s` is none, which is not the same as saying nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// `0s`: explicitly none.
    Never,
    /// After so long.
    After(Duration),
}

impl Timeout {
    /// The time, if there is one.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::After(duration) => Some(duration),
        }
    }
}

/// Times of a request; `None`: not said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the response's, over all attempts; by default none.
    pub request: Option<Timeout>,
    /// The same of one attempt; by default none.
    pub attempt: Option<Timeout>,
    /// Without a byte after the response head; by default [`STREAM_IDLE`].
    pub stream_idle: Option<Timeout>,
    /// A stream's whole life; by default none.
    pub stream_max: Option<Timeout>,
}

impl Timeouts {
    /// These, and what they do not say from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            request: self.request.or(below.request),
            attempt: self.attempt.or(below.attempt),
            stream_idle: self.stream_idle.or(below.stream_idle),
            stream_max: self.stream_max.or(below.stream_max),
        }
    }
}

/// What is retried; `None`: not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retry {
    /// Beyond the first; by default [`RETRY_ATTEMPTS`].
    pub attempts: Option<u32>,
    /// gRPC statuses.
    pub on_grpc: Option<Vec<GrpcCode>>,
    /// HTTP statuses.
    pub on_http: Option<Vec<u16>>,
    /// The upstream broke the stream before its response head.
    pub on_reset: Option<bool>,
    /// HTTP methods; by default [`RETRY_METHODS`].
    pub methods: Option<Vec<String>>,
    /// gRPC methods; by default all.
    pub grpc_methods: Option<Vec<GrpcMethod>>,
    /// The pause before the first retry, doubled for each further one; by default [`BACKOFF_BASE`].
    pub backoff_base: Option<Duration>,
    /// The longest pause; by default [`BACKOFF_MAX`].
    pub backoff_max: Option<Duration>,
}

impl Retry {
    /// This, and what it does not say from `below`.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            attempts: self.attempts.or(below.attempts),
            on_grpc: self.on_grpc.or(below.on_grpc),
            on_http: self.on_http.or(below.on_http),
            on_reset: self.on_reset.or(below.on_reset),
            methods: self.methods.or(below.methods),
            grpc_methods: self.grpc_methods.or(below.grpc_methods),
            backoff_base: self.backoff_base.or(below.backoff_base),
            backoff_max: self.backoff_max.or(below.backoff_max),
        }
    }
}

/// How many retries are permitted over the requests of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Share of the requests.
    pub ratio: Percent,
    /// Permitted in any case.
    pub rate_min: Rate,
    /// Over which both are counted.
    pub interval: Duration,
}

impl Default for RetryBudget {
    /// A fifth more load at most, and ten a second so that a quiet service can retry at all.
    fn default() -> Self {
        Self {
            ratio: Percent::new(20),
            rate_min: Rate::of_second(10),
            interval: Duration::from_secs(10),
        }
    }
}

/// How many requests may be under way and how many may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bulkhead {
    /// At once, each counted to its last byte.
    pub concurrent_max: u32,
    /// Waiting.
    pub queued_max: u32,
    /// How long one may wait.
    pub wait_max: Duration,
    /// Where it is counted.
    pub scope: BulkheadScope,
}

impl Default for Bulkhead {
    /// Room for every healthy service, and a second of waiting: longer, and the caller is gone.
    fn default() -> Self {
        Self {
            concurrent_max: 1024,
            queued_max: 256,
            wait_max: Duration::from_secs(1),
            scope: BulkheadScope::Destination,
        }
    }
}

/// Where a bulkhead is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkheadScope {
    /// At the caller's sidecar, by destination.
    Destination,
    /// At the destination's sidecar, by caller.
    Caller,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the field's own names; see the message")]
pub enum Balancing {
    #[default]
    PeakEwma,
    LeastRequest,
    RoundRobin,
    Random,
}

/// When an endpoint is left alone for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutlierDetection {
    /// After so many failures in a row; 0: never.
    pub consecutive_failures: u32,
    /// How often ejections are looked at.
    pub interval: Duration,
    /// The first ejection's length, multiplied by how often it happened.
    pub base_ejection: Duration,
    /// Share of the endpoints.
    pub ejected_max: Percent,
}

impl Default for OutlierDetection {
    /// Envoy's numbers, but for the share: half of a small service may go.
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            ejected_max: Percent::new(50),
        }
    }
}

/// Reads the spec of a policy.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(spec: &pb::TrafficPolicy) -> Result<TrafficPolicy, Vec<Problem>> {
    let (parsed, problems) = read(spec);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::TrafficPolicy) -> Vec<Problem> {
    read(spec).1
}

fn read(spec: &pb::TrafficPolicy) -> (Option<TrafficPolicy>, Vec<Problem>) {
    Report::read("spec", |report| {
        let kinds = [Kind::Service, Kind::HttpRoute, Kind::GrpcRoute];
        let targets = targets(report, &spec.target_refs, &kinds);
        if spec.target_refs.is_empty() {
            report.field("targetRefs", |report| {
                report.error("names nothing", "[{kind: Service, name: …}]");
            });
        }
        let (timeouts, connect) = spec.timeouts.as_ref().map_or_else(Default::default, |spec| {
            report.field("timeouts", |report| read_timeouts(report, spec))
        });
        let retry = spec.retry.as_ref();
        let policy = TrafficPolicy {
            timeouts,
            connect,
            retry: retry.map(|spec| report.field("retry", |report| read_retry(report, spec))),
            budget: retry
                .and_then(|retry| retry.budget.as_ref())
                .map(|spec| report.field("retry", |r| r.field("budget", |r| read_budget(r, spec)))),
            bulkhead: spec
                .bulkhead
                .as_ref()
                .map(|spec| report.field("bulkhead", |report| read_bulkhead(report, spec))),
            balancing: spec.load_balancing.as_ref().and_then(|spec| {
                report.field("loadBalancing", |report| read_balancing(report, spec))
            }),
            outlier: spec
                .outlier_detection
                .as_ref()
                .map(|spec| report.field("outlierDetection", |report| read_outlier(report, spec))),
            targets,
        };
        refuse_for_routes(report, &policy);
        policy
    })
}

/// What is kept for each destination can not hang on a route, of which several may lead there.
fn refuse_for_routes(report: &mut Report, policy: &TrafficPolicy) {
    if policy.targets.iter().all(|target| target.kind == Kind::Service) {
        return;
    }
    for (field, set) in [
        ("timeouts.connect", policy.connect.is_some()),
        ("retry.budget", policy.budget.is_some()),
        ("bulkhead", policy.bulkhead.is_some()),
        ("loadBalancing", policy.balancing.is_some()),
        ("outlierDetection", policy.outlier.is_some()),
    ] {
        if set {
            report.field(field, |report| {
                let message = "holds for a Service as a whole, but a route is targeted";
                report.error(message, "a TrafficPolicy that targets the Service");
            });
        }
    }
}

/// A time limit, for which `0s` is none.
pub(super) fn timeout(report: &mut Report, name: &str, text: &str) -> Option<Timeout> {
    let duration = report.field(name, |report| report.unit(text, duration::parse))?;
    Some(if duration.is_zero() { Timeout::Never } else { Timeout::After(duration) })
}

/// A time that can not be nothing.
fn positive(report: &mut Report, name: &str, text: &str) -> Option<Duration> {
    report.field(name, |report| {
        let duration = report.unit(text, duration::parse)?;
        if duration.is_zero() {
            report.wrong(text, "must be longer than 0s", "");
        }
        Some(duration)
    })
}

/// An attempt's time within a request's, as Gateway API demands.
pub(super) fn check_attempt(report: &mut Report, name: &str, timeouts: &Timeouts, text: &str) {
    let duration = |timeout: Option<Timeout>| timeout.and_then(Timeout::duration);
    if let (Some(request), Some(attempt)) = (duration(timeouts.request), duration(timeouts.attempt))
        && attempt > request
    {
        report.field(name, |report| {
            let hint = format!("at most {}", duration::format(request));
            report.wrong(text, "longer than the whole request may take", hint);
        });
    }
}

fn read_timeouts(report: &mut Report, spec: &pb::Timeouts) -> (Timeouts, Option<Duration>) {
    let timeouts = Timeouts {
        request: timeout(report, "request", &spec.request),
        attempt: timeout(report, "attempt", &spec.attempt),
        stream_idle: timeout(report, "streamIdle", &spec.stream_idle),
        stream_max: timeout(report, "maxStream", &spec.max_stream),
    };
    check_attempt(report, "attempt", &timeouts, &spec.attempt);
    (timeouts, positive(report, "connect", &spec.connect))
}

fn read_retry(report: &mut Report, spec: &pb::Retry) -> Retry {
    let mut retry = Retry { attempts: read_attempts(report, spec.attempts), ..Retry::default() };
    if let Some(on) = &spec.on {
        report.field("on", |report| {
            let codes = report.each("grpc", &on.grpc, |report, name| grpc_status(report, name));
            retry.on_grpc = some(codes.into_iter().flatten().collect());
            retry.on_http = some(read_statuses(report, "http", &on.http));
            retry.on_reset = on.reset.then_some(true);
        });
    } else if spec.attempts.is_none_or(|attempts| attempts > 0) {
        report.field("on", |report| {
            let message = "is not set: only unseen requests are retried, as without this policy";
            report.warn("", message, "on: {grpc: [UNAVAILABLE]}");
        });
    }
    retry.methods = some(report.each("methods", &spec.methods, |r, text| http_method(r, text)));
    let methods = report.each("grpcMethods", &spec.grpc_methods, |r, text| grpc_method(r, text));
    retry.grpc_methods = some(methods.into_iter().flatten().collect());
    if let Some(backoff) = &spec.backoff {
        report.field("backoff", |report| {
            retry.backoff_base = positive(report, "base", &backoff.base);
            retry.backoff_max = positive(report, "max", &backoff.max);
            if retry.backoff_max.is_some_and(|most| most < retry.backoff_base.unwrap_or(most)) {
                report.field("max", |r| r.wrong(&backoff.max, "shorter than base", &*backoff.base));
            }
        });
    }
    retry
}

/// How often is retried beyond the first attempt.
pub(super) fn read_attempts(report: &mut Report, attempts: Option<u32>) -> Option<u32> {
    let number = attempts?;
    report.field("attempts", |report| report.range(number, 0, RETRY_ATTEMPTS_MAX));
    Some(number)
}

/// HTTP statuses that are failures.
pub(super) fn read_statuses(report: &mut Report, name: &str, statuses: &[u32]) -> Vec<u16> {
    report.each(name, statuses, |report, status| {
        report.range(*status, 400, 599);
        u16::try_from(*status).unwrap_or_default()
    })
}

fn grpc_status(report: &mut Report, name: &str) -> Option<GrpcCode> {
    match GrpcCode::from_name(name) {
        None => {
            let failures = GrpcCode::names().filter(|name| *name != "OK").collect::<Vec<_>>();
            report.wrong(name, "not a gRPC status", meant(name, failures.iter().copied()));
            None
        }
        Some(GrpcCode::Ok) => {
            report.wrong(name, "not a failure", "leave it out");
            None
        }
        code => code,
    }
}

fn read_budget(report: &mut Report, spec: &pb::RetryBudget) -> RetryBudget {
    let default = RetryBudget::default();
    RetryBudget {
        ratio: report.field("ratio", |r| r.unit(&spec.ratio, str::parse)).unwrap_or(default.ratio),
        rate_min: report
            .field("minRate", |report| report.unit(&spec.min_rate, str::parse))
            .unwrap_or(default.rate_min),
        interval: report.field("interval", |report| {
            let interval = report.unit(&spec.interval, duration::parse).unwrap_or(default.interval);
            if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&interval) {
                report.wrong(&spec.interval, "not in 1s to 1m", "");
            }
            interval
        }),
    }
}

fn read_bulkhead(report: &mut Report, spec: &pb::Bulkhead) -> Bulkhead {
    let default = Bulkhead::default();
    if let Some(most) = spec.max_concurrent {
        report.field("maxConcurrent", |report| report.range(most, 1, BULKHEAD_MAX));
    }
    if let Some(most) = spec.max_queued {
        report.field("maxQueued", |report| report.range(most, 0, BULKHEAD_MAX));
    }
    Bulkhead {
        concurrent_max: spec.max_concurrent.unwrap_or(default.concurrent_max),
        queued_max: spec.max_queued.unwrap_or(default.queued_max),
        wait_max: report
            .field("maxWait", |report| report.unit(&spec.max_wait, duration::parse))
            .unwrap_or(default.wait_max),
        scope: match report.enumerator("per", spec.per) {
            pb::BulkheadScope::Unspecified => default.scope,
            pb::BulkheadScope::Destination => BulkheadScope::Destination,
            pb::BulkheadScope::Caller => BulkheadScope::Caller,
        },
    }
}

/// A million requests held at once is beyond any one proxy.
const BULKHEAD_MAX: u32 = 1_000_000;

fn read_balancing(report: &mut Report, spec: &pb::LoadBalancing) -> Option<Balancing> {
    match report.enumerator("policy", spec.policy) {
        pb::LoadBalancingPolicy::Unspecified => None,
        pb::LoadBalancingPolicy::PeakEwma => Some(Balancing::PeakEwma),
        pb::LoadBalancingPolicy::LeastRequest => Some(Balancing::LeastRequest),
        pb::LoadBalancingPolicy::RoundRobin => Some(Balancing::RoundRobin),
        pb::LoadBalancingPolicy::Random => Some(Balancing::Random),
        pb::LoadBalancingPolicy::RingHash => {
            report.field("policy", |report| report.not_run("RingHash"));
            None
        }
        pb::LoadBalancingPolicy::Maglev => {
            report.field("policy", |report| report.not_run("Maglev"));
            None
        }
    }
}

fn read_outlier(report: &mut Report, spec: &pb::OutlierDetection) -> OutlierDetection {
    let default = OutlierDetection::default();
    OutlierDetection {
        consecutive_failures: spec.consecutive_failures.unwrap_or(default.consecutive_failures),
        interval: positive(report, "interval", &spec.interval).unwrap_or(default.interval),
        base_ejection: positive(report, "baseEjection", &spec.base_ejection)
            .unwrap_or(default.base_ejection),
        ejected_max: report
            .field("maxEjected", |report| report.unit(&spec.max_ejected, str::parse))
            .unwrap_or(default.ejected_max),
    }
}

/// A list that was left out is not an empty one that was meant.
fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}
