//! What callers saw lately: the counters that one sidecar reports since its start, as differences
//! over the last five minutes.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::resource::pb;

/// Over which traffic is shown.
pub(crate) const WINDOW: Duration = Duration::from_mins(5);
/// Reports closer together than this share a slot, which bounds how many there are.
const SLOT: Duration = Duration::from_secs(4);
/// Destinations of one sidecar that are counted; later ones are not.
const DESTINATIONS_MAX: usize = 1000;
/// Bytes of a destination: two labels and what joins them.
const DESTINATION_BYTES_MAX: usize = 128;
/// Reasons of one destination; the table of reasons and statuses has fewer.
const REASONS_MAX: usize = 100;
/// Buckets of one destination; the longest latency has fewer.
const BUCKETS_MAX: usize = 64;

/// Failures that stop for so long and come again began again.
const QUIET: Duration = Duration::from_mins(1);
/// Characters of a trace.
const TRACE_MAX: usize = 32;

/// The last five minutes of one sidecar's outbound traffic, by destination.
#[derive(Debug, Default)]
pub(crate) struct Window {
    slots: VecDeque<Slot>,
    /// The counters as they were reported last.
    last: HashMap<String, Counters>,
    /// Since when differences are known; `None` before the first report.
    since: Option<Instant>,
    /// Whether the next report begins a slot of its own.
    cut: bool,
    /// By destination, then by reason.
    onsets: BTreeMap<String, BTreeMap<String, Onset>>,
}

/// When calls began to fail for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Onset {
    /// When the first failure was reported.
    pub since: Instant,
    last: Instant,
    /// The trace of one of them; empty: none is known.
    trace: String,
}

#[derive(Debug)]
struct Slot {
    at: Instant,
    counts: BTreeMap<String, Counters>,
}

/// Calls to one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// All.
    pub total: u64,
    /// Failed ones by reason.
    pub failed: BTreeMap<String, u64>,
    /// By latency, as in `Traffic.latency_buckets`.
    pub latency: Vec<u64>,
    /// When those failures began, by reason.
    pub onsets: BTreeMap<String, Onset>,
}

impl Counters {
    fn read(traffic: &pb::Traffic) -> Self {
        Self {
            total: traffic.total,
            failed: traffic
                .failed
                .iter()
                .take(REASONS_MAX)
                .map(|(reason, count)| (reason.chars().take(64).collect(), *count))
                .collect(),
            latency: traffic.latency_buckets.iter().take(BUCKETS_MAX).copied().collect(),
            onsets: BTreeMap::new(),
        }
    }

    /// What was added since `before`; all of it when the counting began anew.
    fn since(&self, before: &Self) -> Self {
        if self.total < before.total {
            return self.clone();
        }
        let earlier = |reason: &String| before.failed.get(reason).copied().unwrap_or(0);
        Self {
            total: self.total - before.total,
            failed: self
                .failed
                .iter()
                .map(|(reason, count)| (reason.clone(), count.saturating_sub(earlier(reason))))
                .filter(|(_, count)| *count > 0)
                .collect(),
            latency: (0..)
                .zip(&self.latency)
                .map(|(i, count)| {
                    let i: usize = i;
                    count.saturating_sub(before.latency.get(i).copied().unwrap_or(0))
                })
                .collect(),
            onsets: BTreeMap::new(),
        }
    }

    /// Adds the other's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        for (reason, count) in &other.failed {
            let failed = self.failed.entry(reason.clone()).or_default();
            *failed = failed.saturating_add(*count);
        }
        if self.latency.len() < other.latency.len() {
            self.latency.resize(other.latency.len(), 0);
        }
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            *mine = mine.saturating_add(*theirs);
        }
        for (reason, theirs) in &other.onsets {
            let mine = self.onsets.entry(reason.clone()).or_insert_with(|| theirs.clone());
            mine.since = mine.since.min(theirs.since);
            if theirs.last >= mine.last && !theirs.trace.is_empty() {
                mine.trace.clone_from(&theirs.trace);
            }
            mine.last = mine.last.max(theirs.last);
        }
    }

    /// As the API shows it; `wall` tells when a moment was.
    pub(crate) fn to_pb(
        &self,
        source: &str,
        destination: &str,
        wall: impl Fn(Instant) -> prost_types::Timestamp,
    ) -> pb::Traffic {
        let traced = self.onsets.iter().filter(|(_, onset)| !onset.trace.is_empty());
        pb::Traffic {
            source: source.to_owned(),
            destination: destination.to_owned(),
            total: self.total,
            failed: self.failed.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
            latency_buckets: self.latency.clone(),
            failed_traces: traced
                .map(|(reason, onset)| (reason.clone(), onset.trace.clone()))
                .collect(),
            failing_since: self
                .onsets
                .iter()
                .map(|(reason, onset)| (reason.clone(), wall(onset.since)))
                .collect(),
        }
    }
}

impl Window {
    /// Takes a report of counters since the sidecar's start. The first report that this window ever
    /// sees only says from where to count.
    pub(crate) fn report(&mut self, now: Instant, reported: &[pb::Traffic]) {
        let first = self.since.is_none();
        self.since.get_or_insert(now);
        let mut counts = BTreeMap::new();
        let mut last = HashMap::new();
        let named = |traffic: &&pb::Traffic| traffic.destination.len() <= DESTINATION_BYTES_MAX;
        for traffic in reported.iter().filter(named).take(DESTINATIONS_MAX) {
            let counters = Counters::read(traffic);
            let before = self.last.get(&traffic.destination);
            let added = before.map_or_else(|| counters.clone(), |before| counters.since(before));
            if !first && !added.failed.is_empty() {
                self.failed(now, traffic, &added.failed);
            }
            if !first && added.total > 0 {
                counts.insert(traffic.destination.clone(), added);
            }
            last.insert(traffic.destination.clone(), counters);
        }
        self.last = last;
        self.forget(now);
        let cut = std::mem::take(&mut self.cut);
        match self.slots.back_mut().filter(|slot| !cut && now.duration_since(slot.at) < SLOT) {
            Some(slot) => {
                for (destination, added) in counts {
                    slot.counts.entry(destination).or_default().add(&added);
                }
            }
            None if counts.is_empty() => {}
            None => self.slots.push_back(Slot { at: now, counts }),
        }
    }

    /// Drops what is older than the window.
    pub(crate) fn forget(&mut self, now: Instant) {
        while self.slots.front().is_some_and(|slot| now.duration_since(slot.at) > WINDOW) {
            self.slots.pop_front();
        }
        for reasons in self.onsets.values_mut() {
            reasons.retain(|_, onset| now.duration_since(onset.last) <= WINDOW);
        }
        self.onsets.retain(|_, reasons| !reasons.is_empty());
    }

    /// Notes since when calls fail.
    fn failed(&mut self, now: Instant, traffic: &pb::Traffic, failed: &BTreeMap<String, u64>) {
        let reasons = self.onsets.entry(traffic.destination.clone()).or_default();
        for reason in failed.keys() {
            let new = || Onset { since: now, last: now, trace: String::new() };
            let onset = reasons.entry(reason.clone()).or_insert_with(new);
            if now.duration_since(onset.last) > QUIET {
                onset.since = now;
            }
            onset.last = now;
            if let Some(trace) = traffic.failed_traces.get(reason) {
                onset.trace =
                    trace.chars().filter(char::is_ascii_hexdigit).take(TRACE_MAX).collect();
            }
        }
    }

    /// Whether it has nothing to show any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How far back it reaches.
    pub(crate) fn reach(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.duration_since(since).min(WINDOW))
    }

    /// What is reported from now on is told apart from what was before.
    pub(crate) fn cut(&mut self) {
        self.cut = true;
    }

    /// The sum of what was reported within this time, at most the window's, by destination.
    pub(crate) fn sums_of(&self, now: Instant, within: Duration) -> BTreeMap<&str, Counters> {
        let within = within.min(WINDOW);
        let mut sums: BTreeMap<&str, Counters> = BTreeMap::new();
        for slot in self.slots.iter().filter(|slot| now.duration_since(slot.at) <= within) {
            for (destination, added) in &slot.counts {
                sums.entry(destination).or_default().add(added);
            }
        }
        for (destination, counters) in &mut sums {
            let onsets = self.onsets.get(*destination).into_iter().flatten();
            let failing = onsets.filter(|(reason, _)| counters.failed.contains_key(*reason));
            counters.onsets =
                failing.map(|(reason, onset)| (reason.clone(), onset.clone())).collect();
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use tokio::time::{Instant, advance};

    use super::{WINDOW, Window};
    use crate::resource::pb;

    fn traffic(total: u64, denied: u64, latency: &[u64]) -> Vec<pb::Traffic> {
        vec![pb::Traffic {
            destination: "catalog.shop".to_owned(),
            total,
            failed: HashMap::from([("denied".to_owned(), denied)]),
            latency_buckets: latency.to_vec(),
            ..Default::default()
        }]
    }

    /// Total, denied and latencies over the window.
    fn seen(window: &Window) -> (u64, u64, Vec<u64>) {
        let sums = window.sums_of(Instant::now(), WINDOW);
        let counters = sums.get("catalog.shop").cloned().unwrap_or_default();
        let denied = counters.failed.get("denied").copied().unwrap_or(0);
        (counters.total, denied, counters.latency)
    }

    #[tokio::test(start_paused = true)]
    async fn counters_become_differences_that_are_forgotten_after_the_window() {
        let mut window = Window::default();
        // It ran before this control plane did.
        window.report(Instant::now(), &traffic(100, 10, &[100]));
        assert_eq!(seen(&window), (0, 0, vec![]));
        for (total, denied) in [(110, 11), (110, 11), (130, 13)] {
            advance(Duration::from_secs(5)).await;
            window.report(Instant::now(), &traffic(total, denied, &[total - 5, 5]));
        }
        assert_eq!(seen(&window), (30, 3, vec![25, 5]));
        assert_eq!(window.reach(Instant::now()), Duration::from_secs(15));
        advance(Duration::from_secs(292)).await;
        assert_eq!(seen(&window), (20, 2, vec![20, 0]));
        advance(Duration::from_secs(292)).await;
        window.forget(Instant::now());
        assert!(window.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_have_a_beginning_and_the_last_trace() {
        let mut window = Window::default();
        let report = |window: &mut Window, denied: u64, trace: &str| {
            let mut traffic = traffic(1000 + denied, denied, &[]);
            traffic[0].failed_traces.insert("denied".to_owned(), trace.to_owned());
            window.report(Instant::now(), &traffic);
        };
        let start = Instant::now();
        let began = |window: &Window| {
            let sums = window.sums_of(Instant::now(), WINDOW);
            let onset = sums["catalog.shop"].onsets["denied"].clone();
            ((onset.since - start).as_secs(), onset.trace)
        };
        report(&mut window, 0, "");
        for (seconds, denied, trace, expected) in [
            (5, 1, "aa", (5, "aa")),
            (50, 2, "bb", (5, "bb")),
            (50, 2, "bb", (5, "bb")),
            // After a minute without any they began again.
            (20, 3, "c\u{1b}c", (125, "cc")),
        ] {
            advance(Duration::from_secs(seconds)).await;
            report(&mut window, denied, trace);
            assert_eq!(began(&window), (expected.0, expected.1.to_owned()));
        }
        advance(Duration::from_secs(400)).await;
        window.forget(Instant::now());
        assert!(window.onsets.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_began_anew_counts_from_zero() {
        let mut window = Window::default();
        window.report(Instant::now(), &[]);
        advance(Duration::from_secs(5)).await;
        window.report(Instant::now(), &traffic(50, 5, &[]));
        advance(Duration::from_secs(5)).await;
        window.report(Instant::now(), &traffic(7, 1, &[]));
        assert_eq!(seen(&window), (57, 6, vec![]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_sidecar_counts_is_bounded() {
        let mut window = Window::default();
        window.report(Instant::now(), &[]);
        let long = pb::Traffic { destination: "x".repeat(1 << 20), total: 1, ..Default::default() };
        window.report(Instant::now(), &[long]);
        assert!(window.sums_of(Instant::now(), WINDOW).is_empty());
        for total in [u64::MAX, 0, u64::MAX] {
            window.report(Instant::now(), &traffic(total, total, &[total]));
        }
        assert_eq!(seen(&window), (u64::MAX, u64::MAX, vec![u64::MAX]));
    }

    #[tokio::test(start_paused = true)]
    async fn frequent_reports_do_not_grow_the_window() {
        let mut window = Window::default();
        for total in 0..100_u64 {
            window.report(Instant::now(), &traffic(total, 0, &[]));
            advance(Duration::from_millis(10)).await;
        }
        assert_eq!((window.slots.len(), seen(&window).0), (1, 99));
    }
}
