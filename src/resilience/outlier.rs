//! Outlier detection: an endpoint that fails so many times in a row is left alone for a while
//! (Envoy's outlier detection; gRFC A50 has the same limits).
//!
//! The count per endpoint is one atomic. Ejecting looks at the whole pool under a lock, because two
//! workers that eject at the same time must not eject more than permitted together; it is rare. An
//! ejection ends by time alone: whoever reads it compares it with `now`, no timer runs.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    reason::{GrpcCode, Reason},
    snapshot::OutlierDetection,
};

/// An ejection is at most so many times the base (Envoy: 300 s over 30 s).
const EJECTION_FACTOR_MAX: u32 = 10;

/// Ejects the endpoints of one destination. Shared by all workers.
#[derive(Debug)]
pub struct Outlier {
    origin: Instant,
    ejecting: Mutex<()>,
}

/// What is known of one endpoint's failures.
#[derive(Debug, Default)]
pub struct Health {
    failures_in_row: AtomicU32,
    /// Nanoseconds since the pool's origin; 0: never ejected.
    ejected_until: AtomicU64,
    /// How often it was ejected, less what healthy intervals have forgiven.
    ejections: AtomicU32,
    /// The failures in a row and the last one's cause that led to the last ejection, for people.
    ejected_after: AtomicU32,
    ejected_by: AtomicU32,
}

/// Why an endpoint is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Until it is tried again.
    pub left: Duration,
    /// Failures in a row that led to it.
    pub failures: u32,
    /// The last of them.
    pub cause: Cause,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The endpoint's application answered so.
    Grpc(GrpcCode),
    /// The same, by HTTP.
    Http(u16),
    /// A sidecar said so.
    Reason(Reason),
}

impl Cause {
    /// As one number, which an atomic holds.
    fn code(self) -> u32 {
        let place = |reason| Reason::ALL.iter().position(|other| *other == reason);
        match self {
            Self::Grpc(code) => code as u32,
            Self::Http(status) => HTTP | u32::from(status),
            Self::Reason(reason) => {
                REASON | place(reason).and_then(|it| u32::try_from(it).ok()).unwrap_or_default()
            }
        }
    }

    fn from_code(code: u32) -> Self {
        let low = code & 0xffff;
        match code & !0xffff {
            HTTP => Self::Http(u16::try_from(low).unwrap_or_default()),
            REASON => {
                let reason = usize::try_from(low).ok().and_then(|place| Reason::ALL.get(place));
                Self::Reason(reason.copied().unwrap_or(Reason::Internal))
            }
            _ => Self::Grpc(GrpcCode::from_number(low).unwrap_or(GrpcCode::Unknown)),
        }
    }
}

/// What a [`Cause`]'s number is of; gRPC's codes are as they are.
const HTTP: u32 = 1 << 16;
const REASON: u32 = 2 << 16;

impl fmt::Display for Cause {
    /// As metrics and status name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grpc(code) => write!(f, "grpc_{}", code.name()),
            Self::Http(status) => write!(f, "http_{status}"),
            Self::Reason(reason) => f.write_str(reason.name()),
        }
    }
}

/// What an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answers.
    Healthy,
    /// It fails, and so.
    Failing(Cause),
    /// Nothing: the caller's own doing, or a limit that holds everywhere.
    Silent,
}

impl Verdict {
    /// Of a gRPC status: those that a server gives when it is in trouble, not those that answer the
    /// request (Linkerd's failure accrual; gRFC A50 counts every status but OK, which ejects servers
    /// for their callers' mistakes).
    pub fn of_grpc(code: GrpcCode) -> Self {
        use GrpcCode::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
        match code {
            Unknown | DeadlineExceeded | Internal | Unavailable | DataLoss => {
                Self::Failing(Cause::Grpc(code))
            }
            GrpcCode::Cancelled => Self::Silent,
            _ => Self::Healthy,
        }
    }

    /// Of an HTTP status: 5xx but 501, which says only that the method is not known.
    pub fn of_http(status: u16) -> Self {
        match status {
            501 => Self::Healthy,
            500..600 => Self::Failing(Cause::Http(status)),
            _ => Self::Healthy,
        }
    }

    /// Of a reason for which this sidecar, or the endpoint's own, ended the attempt.
    pub fn of_reason(reason: Reason) -> Self {
        match reason {
            Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::PeerIdentity
            | Reason::AppUnreachable
            | Reason::StreamRefused
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::AttemptTimeout
            | Reason::RequestTimeout
            | Reason::Deadline
            | Reason::NotReady
            | Reason::Overloaded
            | Reason::Internal => Self::Failing(Cause::Reason(reason)),
            // An orderly GOAWAY, a drain or a limit is no fault, and the caller's mistakes are none
            // of the endpoint's.
            _ => Self::Silent,
        }
    }
}

impl Health {
    /// Whether it is ejected at `now`, in the pool of `outlier`.
    pub fn is_ejected(&self, outlier: &Outlier, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Acquire);
        // Nearly none ever was, and then the time need not be worked out.
        until != 0 && outlier.nanos(now) < until
    }

    /// Why it is ejected at `now`, if it is.
    pub fn ejection(&self, outlier: &Outlier, now: Instant) -> Option<Ejection> {
        let until = self.ejected_until.load(Ordering::Acquire);
        let left = until.checked_sub(outlier.nanos(now)).filter(|left| *left > 0)?;
        Some(Ejection {
            left: Duration::from_nanos(left),
            failures: self.ejected_after.load(Ordering::Acquire),
            cause: Cause::from_code(self.ejected_by.load(Ordering::Acquire)),
        })
    }

    /// Failures since the last success.
    pub fn failures_in_row(&self) -> u32 {
        self.failures_in_row.load(Ordering::Acquire)
    }
}

impl Outlier {
    /// Of an empty pool; every later `now` is at or after `origin`.
    pub fn new(origin: Instant) -> Self {
        Self { origin, ejecting: Mutex::new(()) }
    }

    /// Counts what an attempt said about `health`, and ejects it when that was one failure too many
    /// and the pool permits it. `pool` gives the health of every endpoint that could take traffic,
    /// this one among them. Returns for how long it was ejected, if it was.
    pub fn observe<'a>(
        &self,
        settings: &OutlierDetection,
        health: &Health,
        verdict: Verdict,
        now: Instant,
        pool: impl Iterator<Item = &'a Health>,
    ) -> Option<Duration> {
        match verdict {
            Verdict::Silent => None,
            Verdict::Healthy => {
                // Read first: a store would take the cache line from the other workers every time.
                if health.failures_in_row.load(Ordering::Acquire) != 0 {
                    health.failures_in_row.store(0, Ordering::Release);
                }
                None
            }
            Verdict::Failing(cause) => {
                let failures = health.failures_in_row.fetch_add(1, Ordering::AcqRel);
                let failures = failures.saturating_add(1);
                let limit = settings.consecutive_failures;
                let too_many = limit != 0 && failures >= limit;
                let eject = || self.eject(settings, health, now, pool);
                let ejected = too_many.then(eject).flatten()?;
                health.ejected_after.store(failures, Ordering::Release);
                health.ejected_by.store(cause.code(), Ordering::Release);
                Some(ejected)
            }
        }
    }

    /// Ejects unless it is already, too many are, or nobody would be left.
    fn eject<'a>(
        &self,
        settings: &OutlierDetection,
        health: &Health,
        now: Instant,
        pool: impl Iterator<Item = &'a Health>,
    ) -> Option<Duration> {
        let _alone = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        if health.is_ejected(self, now) {
            return None;
        }
        let (mut all, mut ejected) = (0_u32, 0_u32);
        for other in pool {
            all = all.saturating_add(1);
            ejected = ejected.saturating_add(u32::from(other.is_ejected(self, now)));
        }
        if ejected >= ejected_max(settings, all) {
            return None;
        }
        let times = self.forgiven(settings, health, now).saturating_add(1);
        let factor = times.min(EJECTION_FACTOR_MAX);
        let pause = settings.base_ejection.saturating_mul(factor);
        let pause_nanos = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        health.ejections.store(times, Ordering::Release);
        health.failures_in_row.store(0, Ordering::Release);
        let until = self.nanos(now).saturating_add(pause_nanos);
        health.ejected_until.store(until, Ordering::Release);
        Some(pause)
    }

    /// How many ejections still count at `now`: each whole interval since the last one forgives one.
    fn forgiven(&self, settings: &OutlierDetection, health: &Health, now: Instant) -> u32 {
        let until = health.ejected_until.load(Ordering::Acquire);
        let healthy = u128::from(self.nanos(now).saturating_sub(until));
        let intervals = healthy / settings.interval.as_nanos().max(1);
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        health.ejections.load(Ordering::Acquire).saturating_sub(intervals)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

/// How many of `all` may be ejected at once: the share, but one where there are two, and never all.
fn ejected_max(settings: &OutlierDetection, all: u32) -> u32 {
    let mut share = 0;
    while share < all && f64::from(share + 1) <= settings.ejected_max * f64::from(all) {
        share += 1;
    }
    share.max(1).min(all.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::{collection::vec, prop_assert, proptest};

    use super::{Cause, Ejection, Health, Outlier, Verdict, ejected_max};
    use crate::{
        reason::{GrpcCode, Reason},
        snapshot::OutlierDetection,
    };

    const SECOND: Duration = Duration::from_secs(1);
    const FAILING: Verdict = Verdict::Failing(Cause::Grpc(GrpcCode::Unavailable));

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_failures: 3,
            interval: 10 * SECOND,
            base_ejection: 30 * SECOND,
            ejected_max: 0.5,
        }
    }

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    struct Pool {
        outlier: Outlier,
        health: Vec<Health>,
    }

    impl Pool {
        fn new(endpoints: usize, origin: Instant) -> Self {
            let health = (0..endpoints).map(|_| Health::default()).collect();
            Self { outlier: Outlier::new(origin), health }
        }

        fn observe(&self, endpoint: usize, verdict: Verdict, now: Instant) -> Option<Duration> {
            let health = &self.health[endpoint];
            self.outlier.observe(&settings(), health, verdict, now, self.health.iter())
        }

        fn fail(&self, endpoint: usize, times: u32, now: Instant) -> Option<Duration> {
            (0..times).filter_map(|_| self.observe(endpoint, FAILING, now)).last()
        }

        fn ejected(&self, now: Instant) -> Vec<usize> {
            let ejected = |index: &usize| self.health[*index].is_ejected(&self.outlier, now);
            (0..self.health.len()).filter(ejected).collect()
        }
    }

    #[test]
    fn so_many_failures_in_a_row_eject_for_a_while() {
        let now = start();
        let pool = Pool::new(3, now);
        assert_eq!(pool.fail(0, 2, now), None);
        assert_eq!(pool.fail(0, 1, now), Some(30 * SECOND));
        assert_eq!(pool.ejected(now), [0]);
        assert_eq!(pool.ejected(now + 30 * SECOND - Duration::from_nanos(1)), [0]);
        assert_eq!(pool.ejected(now + 30 * SECOND), Vec::<usize>::new());
    }

    #[test]
    fn a_success_between_begins_the_count_again() {
        let now = start();
        let pool = Pool::new(2, now);
        pool.fail(0, 2, now);
        pool.observe(0, Verdict::Silent, now);
        assert_eq!(pool.health[0].failures_in_row(), 2);
        pool.observe(0, Verdict::Healthy, now);
        assert_eq!(pool.fail(0, 2, now), None);
        assert!(pool.fail(0, 1, now).is_some());
    }

    #[test]
    fn each_ejection_is_longer_until_healthy_intervals_forgive() {
        let mut now = start();
        let pool = Pool::new(2, now);
        for times in [1, 2, 3] {
            assert_eq!(pool.fail(0, 3, now), Some(30 * SECOND * times));
            now += 30 * SECOND * times;
        }
        now += 20 * SECOND;
        assert_eq!(pool.fail(0, 3, now), Some(60 * SECOND), "two of three are forgiven");
        now += 3600 * SECOND;
        assert_eq!(pool.fail(0, 3, now), Some(30 * SECOND));
    }

    #[test]
    fn an_ejection_has_a_longest() {
        let mut now = start();
        let pool = Pool::new(2, now);
        for _ in 0..20 {
            now += pool.fail(0, 3, now).expect("ejected again at once");
        }
        assert_eq!(pool.fail(0, 3, now), Some(300 * SECOND));
    }

    #[test]
    fn the_last_one_stays_and_so_does_more_than_the_share() {
        let now = start();
        for (endpoints, expected) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
            let pool = Pool::new(endpoints, now);
            for endpoint in 0..endpoints {
                pool.fail(endpoint, 3, now);
            }
            assert_eq!(pool.ejected(now).len(), expected, "of {endpoints}");
        }
    }

    #[test]
    fn one_that_was_not_permitted_is_ejected_when_it_fails_again_later() {
        let now = start();
        let pool = Pool::new(2, now);
        pool.fail(0, 3, now);
        assert_eq!(pool.fail(1, 3, now), None);
        let later = now + 30 * SECOND;
        assert_eq!(pool.fail(1, 1, later), Some(30 * SECOND));
    }

    #[test]
    fn shares_are_rounded_down_but_leave_one_to_eject_and_one_to_stay() {
        for (share, all, expected) in
            [(0.0, 2, 1), (0.0, 1, 0), (0.0, 0, 0), (1.0, 3, 2), (0.34, 3, 1), (0.67, 3, 2)]
        {
            let settings = OutlierDetection { ejected_max: share, ..settings() };
            assert_eq!(ejected_max(&settings, all), expected, "{share} of {all}");
        }
    }

    #[test]
    fn an_ejection_says_why_and_for_how_long() {
        let now = start();
        let pool = Pool::new(2, now);
        let ejection = |now| pool.health[0].ejection(&pool.outlier, now);
        pool.fail(0, 2, now);
        assert_eq!(ejection(now), None);
        pool.observe(0, Verdict::of_http(503), now).expect("ejected");
        let expected = Ejection { left: 20 * SECOND, failures: 3, cause: Cause::Http(503) };
        assert_eq!(ejection(now + 10 * SECOND), Some(expected));
        assert_eq!(ejection(now + 30 * SECOND), None);
        for cause in [
            Cause::Grpc(GrpcCode::DataLoss),
            Cause::Http(599),
            Cause::Reason(Reason::NoRoute),
            Cause::Reason(Reason::Internal),
        ] {
            assert_eq!(Cause::from_code(cause.code()), cause);
        }
        assert_eq!(Cause::Grpc(GrpcCode::Unavailable).to_string(), "grpc_UNAVAILABLE");
        assert_eq!(Cause::Http(503).to_string(), "http_503");
        assert_eq!(Cause::Reason(Reason::ConnectFailed).to_string(), "connect_failed");
    }

    #[test]
    fn zero_failures_mean_never() {
        let now = start();
        let never = OutlierDetection { consecutive_failures: 0, ..settings() };
        let pool = Pool::new(2, now);
        for _ in 0..100 {
            let (health, pool_health) = (&pool.health[0], pool.health.iter());
            let verdict = FAILING;
            assert_eq!(pool.outlier.observe(&never, health, verdict, now, pool_health), None);
        }
    }

    #[test]
    fn only_trouble_of_the_endpoint_counts() {
        for (verdict, expected) in [
            (Verdict::of_grpc(GrpcCode::Ok), Verdict::Healthy),
            (Verdict::of_grpc(GrpcCode::NotFound), Verdict::Healthy),
            (Verdict::of_grpc(GrpcCode::Unavailable), FAILING),
            (Verdict::of_grpc(GrpcCode::Cancelled), Verdict::Silent),
            (Verdict::of_http(200), Verdict::Healthy),
            (Verdict::of_http(404), Verdict::Healthy),
            (Verdict::of_http(503), Verdict::Failing(Cause::Http(503))),
            (Verdict::of_http(501), Verdict::Healthy),
            (
                Verdict::of_reason(Reason::ConnectFailed),
                Verdict::Failing(Cause::Reason(Reason::ConnectFailed)),
            ),
            (Verdict::of_reason(Reason::Draining), Verdict::Silent),
            (Verdict::of_reason(Reason::CallerGone), Verdict::Silent),
            (Verdict::of_reason(Reason::Denied), Verdict::Silent),
        ] {
            assert_eq!(verdict, expected);
        }
    }

    proptest! {
        #[test]
        fn the_pool_is_never_emptied(
            endpoints in 1_usize..8,
            steps in vec((0_usize..8, 0_u32..10, 0_u64..20), 0..300),
        ) {
            let mut now = start();
            let pool = Pool::new(endpoints, now);
            for (endpoint, kind, pause) in steps {
                now += Duration::from_secs(pause);
                let verdict = if kind == 0 { Verdict::Healthy } else { FAILING };
                pool.observe(endpoint % endpoints, verdict, now);
                let ejected = pool.ejected(now).len();
                prop_assert!(ejected < endpoints);
                prop_assert!(ejected <= (endpoints / 2).max(1));
            }
        }
    }
}
