//! A histogram of durations in atomics: an observation is a search among fixed bounds and two
//! additions, without a lock. (prometheus-client's own takes a
//! mutex for each observation.)

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::own;

/// Upper bounds in microseconds for requests: 0.5 ms to 30 s.
pub(super) const REQUEST_BOUNDS: &[u64] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];
/// Upper bounds in microseconds for the proxy's own time: 10 µs to 100 ms.
pub(super) const SHORT_BOUNDS: &[u64] =
    &[10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000];

/// In nanoseconds; the longest that fit in are 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    let seconds = duration.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(duration.subsec_nanos()))
}

/// Counts of durations between fixed bounds.
#[derive(Debug)]
pub(in crate::telemetry) struct Histogram {
    /// Upper bounds in microseconds, growing.
    bounds: &'static [u64],
    /// One more than there are bounds: the last one takes the rest.
    counts: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub(in crate::telemetry) fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanos: AtomicU64::new(0) }
    }

    /// One with the same bounds.
    pub(super) fn empty(&self) -> Self {
        Self::new(self.bounds)
    }

    /// Counts a duration in the first bucket whose bound is not below it, where nobody else counts.
    pub(super) fn observe_alone(&self, nanos: u64) {
        let bucket = self.bounds.partition_point(|bound| bound * 1_000 < nanos);
        own::add(&self.counts[bucket], 1);
        own::add(&self.sum_nanos, nanos);
    }

    /// Adds what `added` has more than `taken`, which has as much then.
    pub(super) fn take_over(&self, added: &Self, taken: &Self) {
        for ((to, added), taken) in self.numbers().zip(added.numbers()).zip(taken.numbers()) {
            let added = added.load(Ordering::Relaxed);
            let more = added.wrapping_sub(taken.swap(added, Ordering::Relaxed));
            to.fetch_add(more, Ordering::Relaxed);
        }
    }

    fn numbers(&self) -> impl Iterator<Item = &AtomicU64> {
        self.counts.iter().chain([&self.sum_nanos])
    }

    /// Each bucket's bound in seconds (the last one's is infinite) and its own count.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts()).collect()
    }

    /// Each bucket's own count.
    pub(in crate::telemetry) fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed))
    }

    /// The sum of all durations, in seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Histogram, REQUEST_BOUNDS, SHORT_BOUNDS, nanos};

    #[test]
    fn bounds_grow() {
        for bounds in [REQUEST_BOUNDS, SHORT_BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
        assert_eq!((REQUEST_BOUNDS[0], REQUEST_BOUNDS[14]), (500, 30_000_000));
    }

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(REQUEST_BOUNDS);
        for (micros, bucket) in
            [(0, 0), (500, 0), (501, 1), (1_000, 1), (29_999_999, 14), (30_000_001, 15)]
        {
            let before = histogram.counts().nth(bucket);
            histogram.observe_alone(nanos(Duration::from_micros(micros)));
            assert_eq!(histogram.counts().nth(bucket), before.map(|n| n + 1), "{micros}");
        }
        histogram.observe_alone(nanos(Duration::MAX));
        assert_eq!(histogram.counts().sum::<u64>(), 7);
        assert_eq!(histogram.buckets().last(), Some(&(f64::INFINITY, 2)));
        assert!(histogram.buckets()[0].0.to_string() == "0.0005");
    }
}
