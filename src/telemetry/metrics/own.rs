//! What threads count, each for itself. Workers that add to the same numbers take them away from each
//! other's caches on every request; here each adds to numbers of its own, which nobody else writes, and
//! whoever reads the metrics first brings what was added since the last reading into the series.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64, Ordering, fence},
};

use rustc_hash::FxHashMap;

use super::histogram::Histogram;

/// Adds where nobody else does.
pub(super) fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

/// A thread's part of a counter or gauge.
#[derive(Debug)]
pub(super) struct OwnNumber {
    added: AtomicU64,
    /// As much of it is in the series.
    taken: AtomicU64,
    to: To,
}

#[derive(Debug)]
enum To {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicI64>),
}

/// A thread's part of a histogram.
#[derive(Debug)]
pub(super) struct OwnDurations {
    added: Histogram,
    taken: Histogram,
    to: Arc<Histogram>,
}

impl OwnNumber {
    fn new(to: To) -> Arc<Self> {
        Arc::new(Self { added: AtomicU64::new(0), taken: AtomicU64::new(0), to })
    }

    /// Only for the thread whose it is.
    pub(super) fn add(&self, more: u64) {
        add(&self.added, more);
    }

    fn hand_over(&self) {
        let added = self.added.load(Ordering::Relaxed);
        let more = added.wrapping_sub(self.taken.swap(added, Ordering::Relaxed));
        match &self.to {
            To::Counter(counter) => counter.fetch_add(more, Ordering::Relaxed),
            To::Gauge(gauge) => {
                gauge.fetch_add(more.cast_signed(), Ordering::Relaxed).cast_unsigned()
            }
        };
    }
}

impl OwnDurations {
    /// Only for the thread whose it is.
    pub(super) fn observe(&self, nanos: u64) {
        self.added.observe_alone(nanos);
    }
}

/// Every thread's numbers.
#[derive(Debug, Default)]
pub(super) struct All {
    all: Mutex<Vec<Own>>,
}

#[derive(Debug)]
enum Own {
    Number(Arc<OwnNumber>),
    Durations(Arc<OwnDurations>),
}

impl All {
    /// Brings into the series what was added. What belongs to no thread any more is forgotten.
    pub(super) fn gather(&self) {
        self.lock().retain(|own| {
            let used = match own {
                Own::Number(number) => Arc::strong_count(number) > 1,
                Own::Durations(durations) => Arc::strong_count(durations) > 1,
            };
            // What a thread added before it let go is seen.
            fence(Ordering::Acquire);
            match own {
                Own::Number(number) => number.hand_over(),
                Own::Durations(own) => own.to.take_over(&own.added, &own.taken),
            }
            used
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Own>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's numbers, by the series to which they belong.
#[derive(Debug, Default)]
pub(super) struct Mine {
    numbers: FxHashMap<usize, Arc<OwnNumber>>,
    durations: FxHashMap<usize, Arc<OwnDurations>>,
}

impl Mine {
    pub(super) fn counter(&mut self, all: &All, series: &Arc<AtomicU64>) -> Arc<OwnNumber> {
        self.number(all, Arc::as_ptr(series).addr(), || To::Counter(Arc::clone(series)))
    }

    pub(super) fn gauge(&mut self, all: &All, series: &Arc<AtomicI64>) -> Arc<OwnNumber> {
        self.number(all, Arc::as_ptr(series).addr(), || To::Gauge(Arc::clone(series)))
    }

    /// A series stays where it is, because its numbers hold it.
    fn number(&mut self, all: &All, series: usize, to: impl FnOnce() -> To) -> Arc<OwnNumber> {
        let number = self.numbers.entry(series).or_insert_with(|| {
            let number = OwnNumber::new(to());
            all.lock().push(Own::Number(Arc::clone(&number)));
            number
        });
        Arc::clone(number)
    }

    pub(super) fn durations(&mut self, all: &All, series: &Arc<Histogram>) -> Arc<OwnDurations> {
        let own = self.durations.entry(Arc::as_ptr(series).addr()).or_insert_with(|| {
            let (added, taken) = (series.empty(), series.empty());
            let own = Arc::new(OwnDurations { added, taken, to: Arc::clone(series) });
            all.lock().push(Own::Durations(Arc::clone(&own)));
            own
        });
        Arc::clone(own)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::Ordering},
        thread,
    };

    use super::{super::histogram::SHORT_BOUNDS, All, Histogram, Mine};

    #[test]
    fn what_threads_add_is_in_the_series_once() {
        let all = Arc::new(All::default());
        let (counter, gauge) = (Arc::default(), Arc::default());
        let durations = Arc::new(Histogram::new(SHORT_BOUNDS));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (all, counter, gauge) =
                    (Arc::clone(&all), Arc::clone(&counter), Arc::clone(&gauge));
                let durations = Arc::clone(&durations);
                thread::spawn(move || {
                    let mut mine = Mine::default();
                    let own = mine.counter(&all, &counter);
                    let open = mine.gauge(&all, &gauge);
                    let took = mine.durations(&all, &durations);
                    for _ in 0..1000 {
                        own.add(1);
                        open.add(1);
                        open.add(1_u64.wrapping_neg());
                        took.observe(11_000);
                    }
                    open.add(2);
                })
            })
            .collect();
        for _ in 0..10 {
            all.gather();
        }
        threads.into_iter().for_each(|thread| thread.join().expect("joined"));
        for _ in 0..2 {
            all.gather();
            assert_eq!(counter.load(Ordering::Relaxed), 4000);
            assert_eq!(gauge.load(Ordering::Relaxed), 8);
            assert_eq!(durations.counts().nth(1), Some(4000));
            assert!((durations.sum() - 0.044).abs() < 1e-9);
        }
        assert!(all.lock().is_empty(), "threads that have ended are forgotten");
    }
}
