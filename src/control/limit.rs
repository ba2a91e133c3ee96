//! How often somebody may ask for a certificate: one token bucket each, in a table of bounded size.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Buckets kept; beyond that the full ones are forgotten, which changes nothing for anyone.
const BUCKETS_MAX: usize = 10_000;

/// Buckets by whom they are for.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    burst: f64,
    per_second: f64,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Hash + Eq> Limiter<K> {
    /// `burst` at once and `per_second` in the long run, for each.
    pub(crate) fn new(burst: f64, per_second: f64) -> Self {
        Self { burst, per_second, buckets: Mutex::default() }
    }

    /// Takes one token, or says after which time there will be one.
    pub(crate) fn take(&self, who: K, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = |bucket: &Bucket| {
            let since = now.duration_since(bucket.at).as_secs_f64();
            (bucket.tokens + since * self.per_second).min(self.burst)
        };
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&who) {
            buckets.retain(|_, bucket| filled(bucket) < self.burst);
            if buckets.len() >= BUCKETS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(who).or_insert(Bucket { tokens: self.burst, at: now });
        *bucket = Bucket { tokens: filled(bucket), at: now };
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }

    /// Whether a token would be had, without taking it.
    pub(crate) fn check(&self, who: &K, now: Instant) -> Result<(), Duration> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get(who) else { return Ok(()) };
        let since = now.duration_since(bucket.at).as_secs_f64();
        let missing = 1.0 - (bucket.tokens + since * self.per_second).min(self.burst);
        if missing <= 0.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64(missing / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{BUCKETS_MAX, Limiter};

    #[test]
    fn a_burst_then_a_rate_for_each() {
        let limiter = Limiter::new(2.0, 0.5);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(limiter.take("a", at(0)), Ok(()));
        assert_eq!(limiter.take("a", at(0)), Ok(()));
        assert_eq!(limiter.take("a", at(0)), Err(Duration::from_secs(2)));
        assert_eq!(limiter.check(&"a", at(1)), Err(Duration::from_secs(1)));
        assert_eq!(limiter.take("b", at(0)), Ok(()));
        assert_eq!(limiter.take("a", at(2)), Ok(()));
        assert_eq!(limiter.take("a", at(2)), Err(Duration::from_secs(2)));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_full() {
        let limiter = Limiter::new(1.0, 1.0);
        let start = Instant::now();
        for i in 0..BUCKETS_MAX {
            assert_eq!(limiter.take(i, start), Ok(()));
        }
        assert!(limiter.take(BUCKETS_MAX, start).is_err());
        assert_eq!(limiter.take(BUCKETS_MAX, start + Duration::from_secs(2)), Ok(()));
    }
}
