//! What callers saw of one service: totals over all sources, and quantiles from latency buckets.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{cli::words, resource::pb};

/// The calls to one service over a window, summed over their sources.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Calls {
    /// How many.
    pub(super) total: u64,
    /// How many failed, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// Since when they fail, by reason.
    pub(super) since: BTreeMap<String, SystemTime>,
    /// The trace of a call that failed, by reason.
    pub(super) traces: BTreeMap<String, String>,
    /// Who made failing calls, the most affected first.
    pub(super) failed_from: Vec<String>,
    /// Calls by latency; bucket i counts those below 1 ms × 2^(i/2) and not below the one before.
    buckets: Vec<u64>,
}

impl Calls {
    pub(super) fn of(service: &pb::ServiceStatus) -> Self {
        let mut calls = Self::default();
        let mut sources: Vec<(u64, &str)> = Vec::new();
        for traffic in &service.traffic {
            calls.total += traffic.total;
            let mut failed = 0;
            for (reason, count) in &traffic.failed {
                *calls.failed.entry(reason.clone()).or_default() += count;
                failed += count;
            }
            for (reason, at) in &traffic.failing_since {
                let Some(at) = words::time(Some(at)) else { continue };
                let since = calls.since.entry(reason.clone()).or_insert(at);
                *since = at.min(*since);
            }
            let traces = traffic.failed_traces.iter();
            calls.traces.extend(traces.map(|(reason, trace)| (reason.clone(), trace.clone())));
            if failed > 0 {
                sources.push((failed, &traffic.source));
            }
            if calls.buckets.len() < traffic.latency_buckets.len() {
                calls.buckets.resize(traffic.latency_buckets.len(), 0);
            }
            for (sum, count) in calls.buckets.iter_mut().zip(&traffic.latency_buckets) {
                *sum += count;
            }
        }
        calls.failed.retain(|_, count| *count > 0);
        sources.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        calls.failed_from = sources.into_iter().map(|(_, source)| source.to_owned()).collect();
        calls
    }

    pub(super) fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Share of the calls that did not fail, 0.0 to 1.0; `None` without calls.
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    pub(super) fn ok_share(&self) -> Option<f64> {
        let ok = self.total.saturating_sub(self.failed_total());
        (self.total > 0).then(|| ok as f64 / self.total as f64)
    }

    /// The latency in milliseconds below which that share of the calls stayed, taken evenly within
    /// its bucket; `None` without calls.
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.buckets.iter().sum();
        let rank = share * total as f64;
        let mut below = 0.0;
        let mut low = 0.0;
        let mut high = 1.0;
        for &count in self.buckets.iter().filter(|_| total > 0) {
            let count = count as f64;
            if count > 0.0 && below + count >= rank {
                return Some(low + (high - low) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            low = high;
            high *= std::f64::consts::SQRT_2;
        }
        None
    }

    /// Failures by reason, the most frequent first.
    pub(super) fn reasons(&self) -> Vec<(&str, u64)> {
        let mut reasons: Vec<_> =
            self.failed.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::Calls;
    use crate::resource::pb;

    fn calls(buckets: &[u64]) -> Calls {
        let traffic = pb::Traffic { latency_buckets: buckets.to_vec(), ..Default::default() };
        Calls::of(&pb::ServiceStatus { traffic: vec![traffic], ..Default::default() })
    }

    #[test]
    fn a_quantile_lies_within_its_bucket() {
        // Below 1 ms: 90 calls; from 1 to 1.41 ms: none; from 1.41 to 2 ms: 10.
        let calls = calls(&[90, 0, 10]);
        assert_eq!(calls.quantile(0.45), Some(0.5));
        let p99 = calls.quantile(0.99).expect("there were calls");
        assert!((1.9..2.0).contains(&p99), "{p99}");
        assert_eq!(calls.quantile(0.9), Some(1.0));
    }

    #[test]
    fn without_calls_there_is_no_number() {
        assert_eq!(calls(&[]).quantile(0.5), None);
        assert_eq!(calls(&[0, 0]).quantile(0.5), None);
        assert_eq!(calls(&[]).ok_share(), None);
    }
}
