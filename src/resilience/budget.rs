//! The retry budget of a destination: retries as a share of requests over a moving interval, plus a
//! rate that is always permitted (Finagle's and Linkerd's retry budget; gRFC A6's throttling has the
//! same aim). At 100% failure it keeps the load that retries add at the share and no more.
//!
//! Requests and retries are counted in ten slots over the interval. A slot is one atomic that holds
//! both the slot's number since `origin` and its count, so that an old slot is recognised and reused
//! without a lock. A retry is counted first and taken back when that was one too many: threads that
//! ask at the same time may all be refused, but never permitted beyond the budget.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::snapshot::RetryBudget;

/// How finely the interval moves.
const SLOTS: u32 = 10;

/// Counts a destination's requests and retries. Shared by all workers.
#[derive(Debug)]
pub struct Budget {
    origin: Instant,
    requests: Window,
    retries: Window,
}

impl Budget {
    /// An empty one; every later `now` is at or after `origin`.
    pub fn new(origin: Instant) -> Self {
        Self { origin, requests: Window::default(), retries: Window::default() }
    }

    /// Counts a request, once however often it is tried.
    pub fn count_request(&self, settings: &RetryBudget, now: Instant) {
        self.requests.add(self.slot(settings, now));
    }

    /// Takes one retry from the budget, if there is one. The limit is
    /// `ratio * requests + rate_min * interval`, over the interval that ends at `now`.
    pub fn try_retry(&self, settings: &RetryBudget, now: Instant) -> bool {
        let slot = self.slot(settings, now);
        self.retries.add(slot);
        let permitted = permitted(settings, self.requests.sum(slot));
        let within = f64::from(self.retries.sum(slot)) <= permitted;
        if !within {
            self.retries.take_back(slot);
        }
        within
    }

    /// Requests and retries of the interval that ends at `now`.
    pub fn counted(&self, settings: &RetryBudget, now: Instant) -> (u32, u32) {
        let slot = self.slot(settings, now);
        (self.requests.sum(slot), self.retries.sum(slot))
    }

    /// The slot of `now`, from 1 so that an untouched slot (0) is always an old one.
    fn slot(&self, settings: &RetryBudget, now: Instant) -> u32 {
        let length = (nanos(settings.interval) / u64::from(SLOTS)).max(1);
        let passed = nanos(now.saturating_duration_since(self.origin)) / length;
        // Wraps after decades of the shortest interval; then the window is forgotten once.
        u32::try_from(passed % u64::from(u32::MAX)).unwrap_or_default() + 1
    }
}

/// Of five centuries at most.
fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

/// How many retries an interval with so many requests permits.
fn permitted(settings: &RetryBudget, requests: u32) -> f64 {
    settings.ratio * f64::from(requests) + settings.rate_min * settings.interval.as_secs_f64()
}

/// Counts by slot: the slot's number in the upper half, its count in the lower.
#[derive(Debug, Default)]
struct Window {
    slots: [AtomicU64; SLOTS as usize],
}

impl Window {
    fn add(&self, slot: u32) {
        self.change(slot, |count| count.saturating_add(1));
    }

    fn take_back(&self, slot: u32) {
        self.change(slot, |count| count.saturating_sub(1));
    }

    fn change(&self, slot: u32, count: impl Fn(u32) -> u32) {
        let place = &self.slots[(slot % SLOTS) as usize];
        let next = |packed: u64| {
            let (held, old) = unpack(packed);
            Some(pack(slot, count(if held == slot { old } else { 0 })))
        };
        let changed = place.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        debug_assert!(changed.is_ok(), "the closure always gives a value");
    }

    /// The counts of `slot` and of the nine before it.
    fn sum(&self, slot: u32) -> u32 {
        let counts = self.slots.iter().map(|place| {
            let (held, count) = unpack(place.load(Ordering::Acquire));
            let recent = held != 0 && held <= slot && slot - held < SLOTS;
            if recent { count } else { 0 }
        });
        counts.fold(0, u32::saturating_add)
    }
}

fn pack(slot: u32, count: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(count)
}

fn unpack(packed: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    (half(packed >> 32), half(packed))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use proptest::{collection::vec, prelude::any, prop_assert, proptest};

    use super::Budget;
    use crate::snapshot::RetryBudget;

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn settings(ratio: f64, rate_min: f64) -> RetryBudget {
        RetryBudget { ratio, rate_min, interval: Duration::from_secs(10) }
    }

    #[test]
    fn retries_are_a_share_of_requests() {
        let (now, settings) = (start(), settings(0.2, 0.0));
        let budget = Budget::new(now);
        assert!(!budget.try_retry(&settings, now), "without requests nothing is permitted");
        for _ in 0..100 {
            budget.count_request(&settings, now);
        }
        let permitted = (0..100).filter(|_| budget.try_retry(&settings, now)).count();
        assert_eq!(permitted, 20);
        assert_eq!(budget.counted(&settings, now), (100, 20));
    }

    #[test]
    fn a_least_rate_is_permitted_without_requests() {
        let (now, settings) = (start(), settings(0.0, 2.0));
        let budget = Budget::new(now);
        assert_eq!((0..100).filter(|_| budget.try_retry(&settings, now)).count(), 20);
    }

    #[test]
    fn what_lies_before_the_interval_is_forgotten() {
        let (origin, settings) = (start(), settings(0.5, 0.0));
        let budget = Budget::new(origin);
        for _ in 0..10 {
            budget.count_request(&settings, origin);
        }
        let late = origin + Duration::from_millis(9_900);
        assert!(budget.try_retry(&settings, late));
        let later = origin + Duration::from_millis(10_100);
        assert!(!budget.try_retry(&settings, later));
        assert_eq!(budget.counted(&settings, later), (0, 1));
        assert_eq!(budget.counted(&settings, origin + Duration::from_secs(3600)), (0, 0));
    }

    #[test]
    fn another_interval_starts_anew() {
        let origin = start();
        let budget = Budget::new(origin);
        let short = RetryBudget { interval: Duration::from_secs(1), ..settings(0.5, 0.0) };
        let now = origin + Duration::from_secs(500);
        budget.count_request(&short, now);
        budget.count_request(&short, now);
        assert!(budget.try_retry(&short, now));
        assert!(!budget.try_retry(&settings(0.5, 0.0), now));
    }

    #[test]
    fn threads_together_keep_the_budget() {
        let (now, settings) = (start(), settings(0.2, 0.0));
        let budget = Arc::new(Budget::new(now));
        for _ in 0..1000 {
            budget.count_request(&settings, now);
        }
        let ask = |budget: Arc<Budget>| {
            move || (0..500).filter(|_| budget.try_retry(&settings, now)).count()
        };
        let threads: Vec<_> =
            (0..4).map(|_| std::thread::spawn(ask(Arc::clone(&budget)))).collect();
        let permitted: usize = threads.into_iter().map(|thread| thread.join().expect("ran")).sum();
        assert!(permitted <= 200, "{permitted}");
        assert!(permitted >= 190, "{permitted}");
    }

    proptest! {
        #[test]
        fn within_any_interval_the_limit_holds(
            ratio in 0.0..1.0_f64,
            rate_min in 0.0..5.0_f64,
            steps in vec((any::<bool>(), 0_u64..400), 1..400),
        ) {
            let (origin, settings) = (start(), settings(ratio, rate_min));
            let budget = Budget::new(origin);
            let mut now = origin;
            for (request, pause) in steps {
                now += Duration::from_millis(pause);
                if request {
                    budget.count_request(&settings, now);
                } else {
                    let permitted = budget.try_retry(&settings, now);
                    let (requests, retries) = budget.counted(&settings, now);
                    let limit = super::permitted(&settings, requests);
                    prop_assert!(!permitted || f64::from(retries) <= limit);
                    prop_assert!(permitted || f64::from(retries) + 1.0 > limit);
                }
            }
        }
    }
}
