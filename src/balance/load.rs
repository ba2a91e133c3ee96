//! How busy an endpoint is: requests under way, and a peak-sensitive moving average of its latency
//! (Finagle's Peak EWMA). The average rises at once to a slower sample and falls slowly to faster
//! ones, so that an endpoint which became slow is left at once; it also fades while nothing is
//! observed, so that one which was slow is tried again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Over which time a sample loses all but 1/e of its weight (Finagle and Linkerd: 10 s).
const DECAY: Duration = Duration::from_secs(10);

/// The load of one endpoint. Shared by all workers.
#[derive(Debug)]
pub struct Load {
    origin: Instant,
    in_flight: AtomicU32,
    /// The average in microseconds in the upper half, at least 1; when it was last changed, in
    /// milliseconds since `origin`, in the lower. 0: no sample yet.
    latency: AtomicU64,
}

/// Counts one request as under way until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<Load>,
}

impl Load {
    /// Of an endpoint that was not called yet; every later `now` is at or after `origin`.
    pub fn new(origin: Instant) -> Self {
        Self { origin, in_flight: AtomicU32::new(0), latency: AtomicU64::new(0) }
    }

    /// Counts a request until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight { load: Arc::clone(self) }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Adds how long an attempt took to its response head. A failure never lowers the average: an
    /// endpoint that fails fast must not look like a fast one.
    pub fn observe(&self, latency: Duration, failed: bool, now: Instant) {
        let millis = self.millis(now);
        let sample = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX).max(1);
        let next = |packed: u64| {
            let (average, since) = unpack(packed);
            let elapsed = elapsed(millis, since);
            let faded = fade(average, elapsed);
            let average = if average == 0 || sample >= faded {
                sample
            } else if failed {
                average
            } else {
                let weight = remaining(elapsed);
                to_micros(f64::from(average) * weight + f64::from(sample) * (1.0 - weight))
            };
            // Below the clock's step the weight of a sample is nothing and the stamp stays.
            (pack(average, millis) != packed).then(|| pack(average, millis))
        };
        // Refused when nothing changes: then there is nothing to store.
        let _unchanged = self.latency.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// The average latency at `now`; `None` before the first sample.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let (average, since) = unpack(self.latency.load(Ordering::Acquire));
        let micros = fade(average, elapsed(self.millis(now), since));
        (average != 0).then(|| Duration::from_micros(u64::from(micros)))
    }

    fn millis(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.origin);
        let millis = since.as_secs().wrapping_mul(1000) + u64::from(since.subsec_millis());
        // Wraps after 49 days; `elapsed` wraps with it.
        u32::try_from(millis % (1 << 32)).unwrap_or_default()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Milliseconds between two stamps. Another worker's `now` may be a little older than the last
/// stamp; that counts as none.
fn elapsed(now: u32, since: u32) -> u32 {
    let elapsed = now.wrapping_sub(since);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

/// The share of an average's weight that is left.
fn remaining(elapsed_millis: u32) -> f64 {
    if elapsed_millis == 0 {
        return 1.0;
    }
    (-f64::from(elapsed_millis) / 1000.0 / DECAY.as_secs_f64()).exp()
}

fn fade(average: u32, elapsed_millis: u32) -> u32 {
    if elapsed_millis == 0 {
        return average.max(1);
    }
    to_micros(f64::from(average) * remaining(elapsed_millis))
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the range of u32; floats have no fallible conversion"
)]
fn to_micros(value: f64) -> u32 {
    value.clamp(1.0, f64::from(u32::MAX)) as u32
}

fn pack(average: u32, millis: u32) -> u64 {
    u64::from(average) << 32 | u64::from(millis)
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

    use super::{DECAY, Load};

    fn start() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn requests_count_until_their_guard_is_dropped() {
        let load = Arc::new(Load::new(start()));
        let guards = (load.begin(), load.begin());
        assert_eq!(load.in_flight(), 2);
        drop(guards.0);
        assert_eq!(load.in_flight(), 1);
        drop(guards.1);
        assert_eq!(load.in_flight(), 0);
    }

    #[test]
    fn the_average_rises_at_once_and_falls_slowly() {
        let now = start();
        let load = Load::new(now);
        assert_eq!(load.latency(now), None);
        load.observe(millis(10), false, now);
        assert_eq!(load.latency(now), Some(millis(10)));
        load.observe(millis(500), false, now);
        assert_eq!(load.latency(now), Some(millis(500)));
        load.observe(millis(10), false, now + millis(100));
        let after = load.latency(now + millis(100)).expect("sampled");
        assert!(after > millis(490) && after < millis(500), "{after:?}");
    }

    #[test]
    fn the_average_fades_without_samples() {
        let now = start();
        let load = Load::new(now);
        load.observe(millis(1000), false, now);
        let later = load.latency(now + DECAY).expect("sampled");
        assert!(later > millis(367) && later < millis(369), "{later:?}");
        let much_later = load.latency(now + 100 * DECAY).expect("sampled");
        assert_eq!(much_later, Duration::from_micros(1));
    }

    #[test]
    fn a_fast_failure_does_not_look_like_a_fast_endpoint() {
        let now = start();
        let load = Load::new(now);
        load.observe(millis(100), false, now);
        for step in 1..1000 {
            load.observe(Duration::from_micros(50), true, now + millis(step));
        }
        let average = load.latency(now + millis(999)).expect("sampled");
        assert_eq!(average, millis(100));
        load.observe(millis(300), true, now + millis(1000));
        assert_eq!(load.latency(now + millis(1000)), Some(millis(300)));
    }

    #[test]
    fn steady_samples_settle_at_their_value() {
        let now = start();
        let load = Load::new(now);
        load.observe(millis(1000), false, now);
        for step in 1..=60_000 {
            load.observe(millis(20), false, now + millis(step));
        }
        let average = load.latency(now + millis(60_000)).expect("sampled");
        assert!(average >= millis(19) && average < millis(25), "{average:?}");
    }

    #[test]
    fn clocks_may_step_back_and_values_may_be_huge() {
        let now = start();
        let load = Load::new(now);
        load.observe(Duration::MAX, false, now + millis(10));
        assert!(load.latency(now).expect("sampled") > Duration::from_secs(4000));
        load.observe(Duration::ZERO, false, now);
    }
}
