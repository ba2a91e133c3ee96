//! Exposing the store by prometheus-client: one collector that goes over the table of families.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder,
        NoLabelSet,
    },
};

use super::{
    DestinationState, Inner,
    histogram::Histogram,
    names::{Family, Label, Shape},
    store::{Series, Values},
};

/// Everything that is counted, as prometheus-client asks for it.
#[derive(Debug)]
pub(super) struct Exposition {
    inner: Arc<Inner>,
}

/// A value as it is written.
enum Value {
    Integer(i64),
    Count(u64),
    Histogram(Arc<Histogram>),
}

impl Exposition {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// The series of a family that are kept in the store.
    fn stored(&self, family: Family) -> Vec<(Values, Value)> {
        let read = self.inner.store.read(family).into_iter();
        read.map(|(values, series)| (values, Value::from(series))).collect()
    }

    /// The series that are known elsewhere, by family.
    fn asked(&self) -> BTreeMap<Family, Vec<(Values, Value)>> {
        let mut asked: BTreeMap<Family, Vec<(Values, Value)>> = BTreeMap::new();
        let dropped = Value::Count(self.inner.store.dropped());
        asked.insert(Family::SeriesDropped, vec![(Values::default(), dropped)]);
        let states = self.inner.destinations.get().map(|states| (states.0)()).unwrap_or_default();
        for state in &states {
            for (family, extra, count) in rows(state) {
                let name = [state.destination.as_str()].into_iter().chain(extra);
                let values: Values = name.map(Box::from).collect();
                let value = Value::Integer(i64::try_from(count).unwrap_or(i64::MAX));
                asked.entry(family).or_default().push((values, value));
            }
        }
        asked
    }
}

fn rows(state: &DestinationState) -> [(Family, Option<&'static str>, usize); 6] {
    [
        (Family::Endpoints, Some("ready"), state.ready),
        (Family::Endpoints, Some("not_ready"), state.not_ready),
        (Family::Endpoints, Some("ejected"), state.ejected),
        (Family::BulkheadInUse, None, state.bulkhead_in_use),
        (Family::BulkheadLimit, None, state.bulkhead_limit),
        (Family::BulkheadQueued, None, state.bulkhead_queued),
    ]
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.inner.own.gather();
        let mut asked = self.asked();
        for family in Family::ALL {
            let mut series = self.stored(*family);
            series.extend(asked.remove(family).unwrap_or_default());
            if series.is_empty() {
                continue;
            }
            let (name, help) = (family.name(), family.help());
            let kind = family.shape().metric_type();
            let mut descriptor = encoder.encode_descriptor(name, help, None, kind)?;
            for (values, value) in &series {
                let labels = Labels { names: family.labels(), values };
                write(&mut descriptor, family.shape(), &labels, value)?;
            }
        }
        Ok(())
    }
}

fn write(
    encoder: &mut MetricEncoder<'_>,
    shape: Shape,
    labels: &Labels<'_>,
    value: &Value,
) -> Result<(), fmt::Error> {
    if shape == Shape::Info {
        return encoder.encode_info(labels);
    }
    if labels.names.is_empty() {
        return write_value(encoder, shape, value);
    }
    write_value(&mut encoder.encode_family(labels)?, shape, value)
}

fn write_value(
    encoder: &mut MetricEncoder<'_>,
    shape: Shape,
    value: &Value,
) -> Result<(), fmt::Error> {
    match (shape, value) {
        (Shape::Counter, Value::Count(count)) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(count, None)
        }
        (_, Value::Count(value)) => encoder.encode_gauge(value),
        (_, Value::Integer(value)) => encoder.encode_gauge(value),
        (_, Value::Histogram(histogram)) => {
            let buckets = histogram.buckets();
            // Of one reading, so that the last bucket is the count.
            let count = buckets.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(histogram.sum(), count, &buckets, None)
        }
    }
}

impl From<Series> for Value {
    fn from(series: Series) -> Self {
        match series {
            Series::Counter(counter) => Self::Count(counter.load(Ordering::Relaxed)),
            Series::Gauge(gauge) => Self::Integer(gauge.load(Ordering::Relaxed)),
            Series::Histogram(histogram) => Self::Histogram(histogram),
        }
    }
}

/// A family's labels with their values.
#[derive(Debug)]
struct Labels<'a> {
    names: &'static [Label],
    values: &'a Values,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        for (label, value) in self.names.iter().zip(self.values) {
            (label.name(), &**value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
