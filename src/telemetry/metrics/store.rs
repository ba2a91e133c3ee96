//! All series of all families behind one short lock, with a cap on how many there may be.
//!
//! The lock is taken when a series is first asked for and when metrics are read; whoever counts
//! holds the series' own atomics and takes none. Beyond the cap a series is counted under `_OTHER`
//! in every label whose values come from outside, so that sums stay right and memory bounded.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use super::{
    histogram::{Histogram, REQUEST_BOUNDS, SHORT_BOUNDS},
    names::{Family, Shape},
};

/// The value that stands for all that are too many.
pub(super) const OTHER: &str = "_OTHER";
/// How many lines all series may come to, a histogram counted with each of its buckets.
const LINES_MAX: usize = 10_000;

/// The values of a family's labels, in their order.
pub(super) type Values = Box<[Box<str>]>;

/// One series.
#[derive(Debug, Clone)]
pub(super) enum Series {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicI64>),
    Histogram(Arc<Histogram>),
}

impl Series {
    fn new(shape: Shape) -> Self {
        match shape {
            Shape::Counter => Self::Counter(Arc::default()),
            Shape::Gauge => Self::Gauge(Arc::default()),
            Shape::Info => Self::Gauge(Arc::new(AtomicI64::new(1))),
            Shape::Durations => Self::Histogram(Arc::new(Histogram::new(REQUEST_BOUNDS))),
            Shape::ShortDurations => Self::Histogram(Arc::new(Histogram::new(SHORT_BOUNDS))),
        }
    }

    /// How many lines it is exposed as.
    fn lines(&self) -> usize {
        match self {
            Self::Counter(_) | Self::Gauge(_) => 1,
            // Every bucket, the sum and the count.
            Self::Histogram(histogram) => histogram.counts().count() + 2,
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Store {
    table: Mutex<Table>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    families: BTreeMap<Family, BTreeMap<Values, Series>>,
    lines: usize,
}

impl Store {
    /// The counter with these label values.
    pub(super) fn counter(&self, family: Family, values: &[&str]) -> Arc<AtomicU64> {
        match self.series(family, values) {
            Series::Counter(counter) => counter,
            // A family has one shape, so a call for another is a slip that tests see as a zero.
            Series::Gauge(_) | Series::Histogram(_) => Arc::default(),
        }
    }

    /// The gauge with these label values.
    pub(super) fn gauge(&self, family: Family, values: &[&str]) -> Arc<AtomicI64> {
        match self.series(family, values) {
            Series::Gauge(gauge) => gauge,
            Series::Counter(_) | Series::Histogram(_) => Arc::default(),
        }
    }

    /// The histogram with these label values.
    pub(super) fn histogram(&self, family: Family, values: &[&str]) -> Arc<Histogram> {
        match self.series(family, values) {
            Series::Histogram(histogram) => histogram,
            Series::Counter(_) | Series::Gauge(_) => Arc::new(Histogram::new(REQUEST_BOUNDS)),
        }
    }

    /// How many series were counted under `_OTHER`.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Every series of a family, sorted by its values.
    pub(super) fn read(&self, family: Family) -> Vec<(Values, Series)> {
        let table = self.lock();
        let series = table.families.get(&family).into_iter().flatten();
        series.map(|(values, series)| (values.clone(), series.clone())).collect()
    }

    fn series(&self, family: Family, values: &[&str]) -> Series {
        debug_assert_eq!(values.len(), family.labels().len(), "{family:?}");
        let mut table = self.lock();
        let values: Values = values.iter().map(|value| Box::from(*value)).collect();
        if let Some(series) = table.get(family, &values) {
            return series;
        }
        let series = Series::new(family.shape());
        if table.lines + series.lines() <= LINES_MAX {
            return table.insert(family, values, series);
        }
        self.dropped.fetch_add(1, Ordering::Relaxed);
        let labels = family.labels().iter().zip(values);
        let values: Values = labels
            .map(|(label, value)| if label.is_open() { Box::from(OTHER) } else { value })
            .collect();
        // These are few, because all labels that stay have few values: the cap need not hold them.
        match table.get(family, &values) {
            Some(series) => series,
            None => table.insert(family, values, series),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held, and counts are worth keeping in any case.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn get(&self, family: Family, values: &Values) -> Option<Series> {
        self.families.get(&family)?.get(values).cloned()
    }

    fn insert(&mut self, family: Family, values: Values, series: Series) -> Series {
        self.lines += series.lines();
        self.families.entry(family).or_default().insert(values, series.clone());
        series
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering};

    use super::{Family, LINES_MAX, Store};

    #[test]
    fn the_same_labels_are_the_same_series() {
        let store = Store::default();
        let one = store.counter(Family::Ejections, &["a.b"]);
        let same = store.counter(Family::Ejections, &["a.b"]);
        let other = store.counter(Family::Ejections, &["c.b"]);
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert_eq!(store.read(Family::Ejections).len(), 2);
    }

    #[test]
    fn a_million_names_stay_bounded_and_nothing_is_lost() {
        let store = Store::default();
        for i in 0..1_000_000 {
            let name = format!("s{i}.shop");
            store.counter(Family::Ejections, &[&name]).fetch_add(1, Ordering::Relaxed);
        }
        let series = store.read(Family::Ejections);
        assert_eq!(series.len(), LINES_MAX + 1);
        assert_eq!(store.dropped(), 1_000_000 - 10_000);
        assert_eq!(store.counter(Family::Ejections, &["_OTHER"]).load(Ordering::Relaxed), 990_000);
    }
}
