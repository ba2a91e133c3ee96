//! Spans: written from records where a request ends, and sent by OTLP over gRPC by one task behind a
//! bounded queue. The SDK's own processor and exporter are not used: they can neither say how many spans they
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

use bytes::BufMut as _;
use http::{HeaderMap, uri::PathAndQuery};
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::{Resource, resource::TelemetryResourceDetector};
use prost::Message as _;
use tokio::{
    sync::{
        mpsc::{
            self,
            error::{TryRecvError, TrySendError},
        },
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

pub(super) use self::data::{Batch, Repeat};
use super::{chain, recorder::Chunk};
use crate::task;

/// Chunks of spans that may wait, each of about 16 KiB at most.
const QUEUE_CHUNKS_MAX: usize = 256;
/// A request of so many bytes takes no further chunk; collectors take 4 MiB as a rule.
const EXPORT_BYTES: usize = 1024 * 1024;
/// How long a span waits for others.
const EXPORT_WAIT: Duration = Duration::from_secs(1);
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

/// Hands spans to the sending task.
#[derive(Debug)]
pub(super) struct Spans {
    queue: mpsc::Sender<Message>,
    endpoint: watch::Sender<Option<String>>,
    /// Whether there is an endpoint, for workers, who take no lock.
    on: AtomicBool,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Spans(Chunk),
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
        let (queue, spans) = mpsc::channel(QUEUE_CHUNKS_MAX);
        let on = AtomicBool::new(endpoint.is_some());
        let (endpoint, endpoints) = watch::channel(endpoint);
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(resource)
            .build();
        let attributes: Vec<KeyValue> =
            resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        let sender = Sender {
            queue: spans,
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

    /// Queues what is in `spans`, or leaves it there; never waits.
    pub(super) fn take(&self, spans: &mut Chunk) {
        let lost = spans.hand_over(|spans| match self.queue.try_send(Message::Spans(spans)) {
            Err(TrySendError::Full(Message::Spans(spans))) => Err(spans),
            Ok(()) | Err(_) => Ok(()),
        });
        self.lose(lost);
    }

    /// Counts spans that nobody will send.
    pub(super) fn lose(&self, spans: usize) {
        self.dropped.fetch_add(wide(spans), Ordering::Relaxed);
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
    queue: mpsc::Receiver<Message>,
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
        while let Some(message) = self.queue.recv().await {
            let mut export = Export::default();
            let mut flushed = export.take(message);
            let until = Instant::now() + EXPORT_WAIT;
            while flushed.is_none() && export.bytes < EXPORT_BYTES {
                match self.queue.try_recv() {
                    Ok(message) => flushed = export.take(message),
                    // Waiting for the next one would let each of them wake this task.
                    Err(TryRecvError::Empty) if Instant::now() < until => sleep(GATHER).await,
                    Err(_) => break,
                }
            }
            if self.endpoints.has_changed().unwrap_or(false) {
                self.connect();
            }
            if !export.chunks.is_empty() {
                self.export(export).await;
            }
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

    async fn export(&mut self, mut export: Export) {
        let spans = wide(export.spans);
        // Switched off, or never right: said when it happened.
        let Some(collector) = &mut self.collector else {
            self.dropped.fetch_add(spans, Ordering::Relaxed);
            return;
        };
        export.start = wire::request(&self.resource, &self.scope, export.bytes);
        let (headers, export) = (&self.headers, Arc::new(export));
        let mut sent = send(collector, headers, Arc::clone(&export)).await;
        // A connection that ended since the last time says so only now.
        if sent.as_ref().is_err_and(|status| status.code() == Code::Unavailable) {
            sent = send(collector, headers, export).await;
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

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// An `ExportTraceServiceRequest`.
#[derive(Default)]
struct Export {
    start: Vec<u8>,
    chunks: Vec<Vec<u8>>,
    /// In the chunks.
    bytes: usize,
    spans: usize,
}

impl Export {
    /// Adds spans; or says who is to be told when it is sent.
    fn take(&mut self, message: Message) -> Option<oneshot::Sender<()>> {
        match message {
            Message::Spans(Chunk { bytes, count }) => {
                self.bytes += bytes.len();
                self.spans += count;
                self.chunks.push(bytes);
                None
            }
            Message::Flush(done) => Some(done),
        }
    }
}

/// Sends it and gives how many spans the collector refused.
async fn send(
    collector: &mut Grpc<Channel>,
    headers: &MetadataMap,
    export: Arc<Export>,
) -> Result<u64, Status> {
    const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    let sent = async {
        collector.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let path = PathAndQuery::from_static(EXPORT);
        let request = Request::from_parts(headers.clone(), Extensions::default(), export);
        collector.unary(request, path, Raw).await
    };
    // Connecting is in it, which the channel itself does not bound.
    match tokio::time::timeout(EXPORT_TIMEOUT, sent).await {
        Ok(sent) => Ok(sent?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("it took too long")),
    }
}

/// Requests that are written already; of a response only the number of refused spans.
struct Raw;

impl Codec for Raw {
    type Encode = Arc<Export>;
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
    type Item = Arc<Export>;
    type Error = Status;

    fn encode(&mut self, export: Arc<Export>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(export.start.len() + export.bytes);
        to.put_slice(&export.start);
        export.chunks.iter().for_each(|chunk| to.put_slice(chunk));
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
