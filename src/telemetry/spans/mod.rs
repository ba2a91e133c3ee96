//! Spans: built from records and sent by OTLP over gRPC, by one task behind a bounded queue.
//!
//! A worker only puts the record into the queue; the task writes spans of it, gathers them and sends
//! them. The SDK's own processor and exporter are not used: they can neither say how many spans they
//! lost nor change their collector while they run, and they cost more than the requests. What is lost,
//! because the queue is full or the collector does not take it, is counted.

mod data;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes};
use http::{HeaderMap, uri::PathAndQuery};
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::{Resource, resource::TelemetryResourceDetector};
use prost::Message as _;
use tokio::{
    sync::{
        mpsc::{self, error::TryRecvError},
        oneshot, watch,
    },
    time::{Instant, sleep},
};
use tonic::{
    Code, Extensions, Request, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use self::data::Batch;
use super::{chain, record::Record};
use crate::task;

/// Records that may wait.
const QUEUE_RECORDS_MAX: usize = 2048;
/// Spans that are sent together at most, but for the attempts of the last record.
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// How often it is looked whether there are more.
const GATHER: Duration = Duration::from_millis(20);
/// How long sending may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How spans are sent, to whichever collector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exporter {
    /// Metadata of each request, such as a key that the collector asks for.
    pub headers: HeaderMap,
    /// Whether requests are compressed.
    pub gzip: bool,
}

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
        exporter: Exporter,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        let (queue, records) = mpsc::channel(QUEUE_RECORDS_MAX);
        let on = AtomicBool::new(endpoint.is_some());
        let (endpoint, endpoints) = watch::channel(endpoint);
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(resource)
            .build();
        let attributes: Vec<KeyValue> =
            resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        let sender = Sender {
            records,
            endpoints,
            collector: None,
            headers: MetadataMap::from_headers(exporter.headers),
            gzip: exporter.gzip,
            resource: wire::resource(attributes.iter()),
            scope: wire::scope("outrigger", env!("CARGO_PKG_VERSION")),
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
    collector: Option<Grpc<Channel>>,
    headers: MetadataMap,
    gzip: bool,
    /// As OTLP has them.
    resource: Vec<u8>,
    scope: Vec<u8>,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Sender {
    async fn run(mut self) {
        self.connect();
        let mut batch = Batch::default();
        while let Some(message) = self.records.recv().await {
            let mut flushed = take(message, &mut batch);
            let until = Instant::now() + BATCH_WAIT;
            while flushed.is_none() && batch.spans < BATCH_SPANS_MAX {
                match self.records.try_recv() {
                    Ok(message) => flushed = take(message, &mut batch),
                    // Waiting for the next one would let each of them wake this task.
                    Err(TryRecvError::Empty) if Instant::now() < until => sleep(GATHER).await,
                    Err(_) => break,
                }
            }
            if self.endpoints.has_changed().unwrap_or(false) {
                self.connect();
            }
            self.export(&batch).await;
            (batch.spans, batch.bytes) = (0, Vec::new());
            if let Some(flushed) = flushed {
                let _nobody_waits = flushed.send(());
            }
        }
    }

    /// Sends to the newest endpoint from now on. It is dialled when something is first sent.
    fn connect(&mut self) {
        let endpoint = self.endpoints.borrow_and_update().clone();
        self.failing = false;
        self.collector =
            endpoint.and_then(|endpoint| match Endpoint::from_shared(endpoint.clone()) {
                Ok(built) => {
                    let collector = Grpc::new(built.connect_lazy());
                    Some(if self.gzip {
                        collector.send_compressed(CompressionEncoding::Gzip)
                    } else {
                        collector
                    })
                }
                Err(error) => {
                    tracing::warn!(endpoint, %error, "no spans are sent: the endpoint is wrong");
                    None
                }
            });
    }

    async fn export(&mut self, batch: &Batch) {
        if batch.spans == 0 {
            return;
        }
        let spans = u64::try_from(batch.spans).unwrap_or(u64::MAX);
        // Switched off, or never right: said when it happened.
        let Some(collector) = &mut self.collector else {
            self.dropped.fetch_add(spans, Ordering::Relaxed);
            return;
        };
        let request = Bytes::from(wire::request(&self.resource, &self.scope, &batch.bytes));
        let headers = &self.headers;
        let mut sent = send(collector, headers, request.clone()).await;
        // A connection that ended since the last time says so only now.
        if sent.as_ref().is_err_and(|status| status.code() == Code::Unavailable) {
            sent = send(collector, headers, request).await;
        }
        match sent {
            Ok(refused) => {
                self.dropped.fetch_add(refused.min(spans), Ordering::Relaxed);
                if self.failing {
                    tracing::info!("spans are sent again");
                }
                self.failing = false;
            }
            Err(status) => {
                self.dropped.fetch_add(spans, Ordering::Relaxed);
                if !self.failing {
                    let endpoint = self.endpoints.borrow().clone().unwrap_or_default();
                    let error = chain(&status);
                    tracing::warn!(endpoint, %error, "spans are lost: the collector takes none");
                }
                self.failing = true;
            }
        }
    }
}

fn take(message: Message, batch: &mut Batch) -> Option<oneshot::Sender<()>> {
    match message {
        Message::Record(record) => {
            data::extend(batch, &record);
            None
        }
        Message::Flush(done) => Some(done),
    }
}

/// Sends an `ExportTraceServiceRequest` and gives how many spans the collector refused.
async fn send(
    collector: &mut Grpc<Channel>,
    headers: &MetadataMap,
    request: Bytes,
) -> Result<u64, Status> {
    const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let sent = async {
        collector.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let path = PathAndQuery::from_static(EXPORT);
        let request = Request::from_parts(headers.clone(), Extensions::default(), request);
        collector.unary(request, path, Raw).await
    };
    // Connecting is in it, which the channel itself does not bound.
    match tokio::time::timeout(EXPORT_TIMEOUT, sent).await {
        Ok(sent) => Ok(sent?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("it took too long")),
    }
}

/// Requests that are bytes already; of a response only the number of refused spans.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = u64;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = u64;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        let response = ExportTraceServiceResponse::decode(from)
            .map_err(|error| Status::internal(error.to_string()))?;
        let refused = response.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(Some(u64::try_from(refused).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests;
