//! The pause before a retry: exponential with full jitter ("Exponential Backoff And Jitter", AWS
//! Architecture Blog), so that callers that failed together do not come back together.

use std::time::Duration;

/// The pause before retry `retry` (0 is the first): uniform between nothing and `base * 2^retry`, at
/// most `max`. `random` is uniform over all of `u64`.
pub fn full_jitter(base: Duration, max: Duration, retry: u32, random: u64) -> Duration {
    let doubled = 2_u32.checked_pow(retry).and_then(|factor| base.checked_mul(factor));
    let ceiling = doubled.unwrap_or(max).min(max);
    let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
    let share = (u128::from(nanos) * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(share).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::full_jitter;

    #[test]
    fn the_ceiling_doubles_up_to_its_max() {
        let (base, max) = (Duration::from_millis(25), Duration::from_millis(250));
        for (retry, ceiling) in
            [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (31, 250), (32, 250), (u32::MAX, 250)]
        {
            let ceiling = Duration::from_millis(ceiling);
            let longest = full_jitter(base, max, retry, u64::MAX);
            assert!(longest < ceiling && ceiling - longest < Duration::from_nanos(2), "{retry}");
            assert_eq!(full_jitter(base, max, retry, 0), Duration::ZERO);
            let half = full_jitter(base, max, retry, 1 << 63);
            assert_eq!(half, ceiling / 2, "{retry}");
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let longest = full_jitter(Duration::MAX, Duration::MAX, 40, u64::MAX);
        assert!(longest > Duration::from_secs(1 << 33));
        assert_eq!(full_jitter(Duration::ZERO, Duration::MAX, 3, u64::MAX), Duration::ZERO);
    }
}
