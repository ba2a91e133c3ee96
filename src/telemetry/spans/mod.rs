//! Spans: built from records and sent by OTLP over gRPC, by one task behind a bounded queue.
//!
//! A worker only puts the record into the queue; the task makes spans of it, gathers them and hands
//! them to opentelemetry-otlp. The SDK's own batch processor is not used, because it can neither
//! say how many spans it lost nor change its collector while it runs. What is lost, because the
//! queue is full or the collector does not take it, is counted.

mod data;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    resource::TelemetryResourceDetector,
    trace::{SpanData, SpanExporter as _},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::record::Record;
use crate::task;

/// Records that may wait.
const QUEUE_RECORDS_MAX: usize = 2048;
/// Spans that are sent together at most, but for the attempts of the last record.
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How long sending may take, with the exporter's own retries.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Hands records to the sending task.
#[derive(Debug)]
pub(super) struct Spans {
    queue: mpsc::Sender<Message>,
    endpoint: watch::Sender<Option<String>>,
    /// Whether there is an endpoint, for workers, who take no lock.
    on: AtomicBool,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Record(Arc<Record>),
    /// Send everything, then say so.
    Flush(oneshot::Sender<()>),
}

impl Spans {
    /// Starts the task on the current runtime; without an endpoint nothing is sent. What is lost is
    /// counted in `dropped`.
    pub(super) fn start(
        resource: Vec<KeyValue>,
        endpoint: Option<String>,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        let (queue, records) = mpsc::channel(QUEUE_RECORDS_MAX);
        let on = AtomicBool::new(endpoint.is_some());
        let (endpoint, endpoints) = watch::channel(endpoint);
        let scope = InstrumentationScope::builder("outrigger")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(resource)
            .build();
        let sender = Sender {
            records,
            endpoints,
            exporter: None,
            resource,
            scope,
            dropped: Arc::clone(&dropped),
            failing: false,
        };
        let _detached = task::spawn("spans", sender.run());
        Self { queue, endpoint, on, dropped }
    }

    /// Sends to another collector from now on, or to none.
    pub(super) fn set_endpoint(&self, endpoint: Option<&str>) {
        self.on.store(endpoint.is_some(), Ordering::Relaxed);
        self.endpoint.send_if_modified(|current| {
            let changed = current.as_deref() != endpoint;
            if changed {
                *current = endpoint.map(str::to_owned);
            }
            changed
        });
    }

    /// Whether spans are sent at all.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Queues a record's spans; never waits.
    pub(super) fn send(&self, record: &Arc<Record>) {
        if self.queue.try_send(Message::Record(Arc::clone(record))).is_err() {
            let spans = 1 + data::attempts(record).count();
            self.dropped.fetch_add(u64::try_from(spans).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Waits until all that was queued before is sent or lost, at most `bound`. May be cancelled.
    pub(super) async fn flush(&self, bound: Duration) {
        let flush = async {
            let (done, sent) = oneshot::channel();
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ended = sent.await;
            }
        };
        let _in_time = tokio::time::timeout(bound, flush).await;
    }
}

/// The sending task.
struct Sender {
    records: mpsc::Receiver<Message>,
    endpoints: watch::Receiver<Option<String>>,
    /// For the endpoint last seen; `None`: it has none, or a malformed one.
    exporter: Option<SpanExporter>,
    resource: Resource,
    scope: InstrumentationScope,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Sender {
    async fn run(mut self) {
        self.connect();
        while let Some(message) = self.records.recv().await {
            let mut batch = Vec::new();
            let mut flushed = self.take(message, &mut batch);
            let until = Instant::now() + BATCH_WAIT;
            while flushed.is_none() && batch.len() < BATCH_SPANS_MAX {
                match tokio::time::timeout_at(until, self.records.recv()).await {
                    Ok(Some(message)) => flushed = self.take(message, &mut batch),
                    Ok(None) | Err(_) => break,
                }
            }
            if self.endpoints.has_changed().unwrap_or(false) {
                self.connect();
            }
            self.export(batch).await;
            if let Some(flushed) = flushed {
                let _nobody_waits = flushed.send(());
            }
        }
    }

    fn take(&self, message: Message, batch: &mut Vec<SpanData>) -> Option<oneshot::Sender<()>> {
        match message {
            Message::Record(record) => {
                data::extend(batch, &record, &self.scope);
                None
            }
            Message::Flush(done) => Some(done),
        }
    }

    /// Makes the exporter for the newest endpoint. It dials when it first sends.
    fn connect(&mut self) {
        let endpoint = self.endpoints.borrow_and_update().clone();
        self.failing = false;
        self.exporter = endpoint.and_then(|endpoint| {
            let built = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(&endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .build();
            match built {
                Ok(mut exporter) => {
                    exporter.set_resource(&self.resource);
                    Some(exporter)
                }
                Err(error) => {
                    tracing::warn!(endpoint, %error, "no spans are sent: the endpoint is wrong");
                    None
                }
            }
        });
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let result: OTelSdkResult = match &self.exporter {
            Some(exporter) => exporter.export(batch).await,
            // Switched off, or never right: said when it happened.
            None => {
                self.dropped.fetch_add(spans, Ordering::Relaxed);
                return;
            }
        };
        match result {
            Ok(()) if self.failing => tracing::info!("spans are sent again"),
            Ok(()) => {}
            Err(error) => {
                self.dropped.fetch_add(spans, Ordering::Relaxed);
                if !self.failing {
                    let endpoint = self.endpoints.borrow().clone().unwrap_or_default();
                    tracing::warn!(endpoint, %error, "spans are lost: the collector takes none");
                }
                self.failing = true;
                return;
            }
        }
        self.failing = false;
    }
}

#[cfg(test)]
mod tests;
