//! The little statistics that the demo's claims need.

use std::time::Duration;

/// How unlikely a result must be on either side before the demo takes it for a fault: once in a
/// million runs it is wrong.
const TAIL: f64 = 1e-6;

/// Between which two counts, both included, `trials` independent tries with this chance end but
/// for a chance of [`TAIL`] on either side.
pub(super) fn likely(trials: u32, chance: f64) -> (u32, u32) {
    let probabilities = binomial(trials, chance);
    let first_over = |mut counts: Box<dyn Iterator<Item = u32>>| {
        let mut sum = 0.0;
        counts.find(|count| {
            sum +=
                usize::try_from(*count).ok().and_then(|at| probabilities.get(at)).unwrap_or(&0.0);
            sum > TAIL
        })
    };
    let low = first_over(Box::new(0..=trials)).unwrap_or(0);
    let high = first_over(Box::new((0..=trials).rev())).unwrap_or(trials);
    (low, high)
}

/// The chance of every count from 0 to `trials`.
fn binomial(trials: u32, chance: f64) -> Vec<f64> {
    // One try more at a time: exact enough and without large factorials.
    let mut probabilities = vec![1.0];
    for _ in 0..trials {
        let mut next = vec![0.0; probabilities.len() + 1];
        for (count, probability) in probabilities.iter().enumerate() {
            next[count] += probability * (1.0 - chance);
            next[count + 1] += probability * chance;
        }
        probabilities = next;
    }
    probabilities
}

/// The time within which `percent` of a hundred ended; zero for none at all.
pub(super) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{likely, percentile};

    #[test]
    fn ninety_ten_over_two_hundred_leaves_some_room() {
        assert_eq!(likely(200, 0.1), (3, 43));
        assert_eq!(likely(200, 0.0), (0, 0));
        assert_eq!(likely(200, 1.0), (200, 200));
        assert_eq!(likely(4, 0.5), (0, 4));
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        for (percent, expected) in [(50, 100), (99, 198), (100, 200), (0, 1)] {
            assert_eq!(percentile(&times, percent), Duration::from_millis(expected), "{percent}");
        }
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
