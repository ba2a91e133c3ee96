//! Spans as a collector receives them, over real sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::{ResourceSpans, Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::Server};

use super::{Batch, EXPORT_BYTES, Exporter, QUEUE_CHUNKS_MAX, Spans};
use crate::{
    task::Tasks,
    telemetry::{Direction, Record, SpanContext, record::sample},
};

const BOUND: Duration = Duration::from_secs(20);

/// Passes on what it receives, when it comes compressed if a key is asked for.
struct Collector {
    received: mpsc::Sender<Vec<ResourceSpans>>,
    key: Option<&'static str>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let sent = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        if self.key.is_some()
            && (sent("api-key"), sent("grpc-encoding")) != (self.key, Some("gzip"))
        {
            return Err(Status::unauthenticated("who are you?"));
        }
        let spans = request.into_inner().resource_spans;
        self.received.send(spans).await.map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn collector(tasks: &mut Tasks) -> (SocketAddr, mpsc::Receiver<Vec<ResourceSpans>>) {
    collector_for(None, tasks).await
}

async fn collector_for(
    key: Option<&'static str>,
    tasks: &mut Tasks,
) -> (SocketAddr, mpsc::Receiver<Vec<ResourceSpans>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (received, spans) = mpsc::channel(1024);
    tasks.spawn("collector", async move {
        let service = TraceServiceServer::new(Collector { received, key })
            .accept_compressed(CompressionEncoding::Gzip);
        let server = Server::builder().add_service(service);
        server.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("served");
    });
    (address, spans)
}

fn start(endpoint: Option<String>) -> (Spans, Arc<AtomicU64>) {
    start_with(Exporter::default(), endpoint)
}

fn start_with(exporter: Exporter, endpoint: Option<String>) -> (Spans, Arc<AtomicU64>) {
    let dropped = Arc::new(AtomicU64::new(0));
    let resource = vec![KeyValue::new("service.name", "front")];
    (Spans::start(resource, endpoint, exporter, Arc::clone(&dropped)), dropped)
}

/// As a worker does at the end of a turn.
fn send(spans: &Spans, record: &Record) {
    let mut batch = Batch::default();
    batch.extend(record, None);
    spans.take(&mut batch.chunk);
}

/// All spans that arrived so far.
fn arrived(spans: &mut mpsc::Receiver<Vec<ResourceSpans>>) -> Vec<Span> {
    let mut all = Vec::new();
    while let Ok(batch) = spans.try_recv() {
        let scopes = batch.into_iter().flat_map(|resource| resource.scope_spans);
        all.extend(scopes.flat_map(|scope| scope.spans));
    }
    all
}

#[tokio::test]
async fn a_call_over_two_hops_arrives_as_one_tree() {
    let mut tasks = Tasks::new();
    let (address, mut received) = collector(&mut tasks).await;
    let (spans, dropped) = start(Some(format!("http://{address}")));
    let outbound = Record { parent: None, ..sample() };
    let attempt = outbound.attempts.last().expect("two").span_id;
    let inbound = Record {
        direction: Direction::Inbound,
        span: SpanContext { span_id: 0x20, ..outbound.span },
        parent: Some(attempt),
        ..sample()
    };
    send(&spans, &inbound);
    send(&spans, &outbound);
    spans.flush(BOUND).await;

    let batch = received.recv().await.expect("a batch");
    let resource = batch[0].resource.as_ref().expect("a resource");
    assert!(resource.attributes.iter().any(|attribute| attribute.key == "service.name"));
    assert_eq!(batch[0].scope_spans[0].scope.as_ref().expect("a scope").name, "outrigger");
    let tree: Vec<_> = batch[0].scope_spans[0]
        .spans
        .iter()
        .map(|span| {
            assert_eq!(span.trace_id, 0xabc_u128.to_be_bytes());
            assert_eq!(span.trace_state, "a=1");
            let id = |bytes: &[u8]| bytes.iter().fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
            (id(&span.span_id), id(&span.parent_span_id), span.kind())
        })
        .collect();
    assert_eq!(
        tree,
        [
            (0x20, attempt, SpanKind::Server),
            (0x12, 0, SpanKind::Client),
            (0x13, 0x12, SpanKind::Client),
            (0x14, 0x12, SpanKind::Client),
        ]
    );
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_collector_may_change_while_it_runs() {
    let mut tasks = Tasks::new();
    let (first, mut at_first) = collector(&mut tasks).await;
    let (second, mut at_second) = collector(&mut tasks).await;
    let (spans, dropped) = start(None);
    assert!(!spans.is_on());
    let record = sample();
    for (endpoint, expected) in
        [(Some(first), [3, 0]), (Some(second), [0, 3]), (None, [0, 0]), (Some(first), [3, 0])]
    {
        let endpoint = endpoint.map(|address| format!("http://{address}"));
        spans.set_endpoint(endpoint.as_deref());
        assert_eq!(spans.is_on(), endpoint.is_some());
        send(&spans, &record);
        spans.flush(BOUND).await;
        let counts = [arrived(&mut at_first).len(), arrived(&mut at_second).len()];
        assert_eq!(counts, expected, "{endpoint:?}");
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 3, "what came while there was none");
}

#[tokio::test]
async fn a_collector_that_wants_a_key_gets_it_and_what_is_sent_may_be_compressed() {
    let mut tasks = Tasks::new();
    let (address, mut received) = collector_for(Some("a secret"), &mut tasks).await;
    let key = HeaderValue::from_static("a secret");
    let headers = HeaderMap::from_iter([(HeaderName::from_static("api-key"), key)]);
    for (exporter, expected) in
        [(Exporter { headers, gzip: true }, (3, 0)), (Exporter::default(), (0, 3))]
    {
        let (spans, dropped) = start_with(exporter, Some(format!("http://{address}")));
        send(&spans, &sample());
        spans.flush(BOUND).await;
        let counts = (arrived(&mut received).len(), dropped.load(Ordering::Relaxed));
        assert_eq!(counts, expected);
    }
}

#[tokio::test]
async fn many_spans_go_in_few_requests() {
    let mut tasks = Tasks::new();
    let (address, mut received) = collector(&mut tasks).await;
    let (spans, dropped) = start(Some(format!("http://{address}")));
    let mut batch = Batch::default();
    let (mut records, mut bytes) = (0, 0);
    while bytes < EXPORT_BYTES * 3 / 2 {
        (0..100).for_each(|_| batch.extend(&sample(), None));
        (records, bytes) = (records + 100, bytes + batch.chunk.bytes.len());
        spans.take(&mut batch.chunk);
    }
    spans.flush(BOUND).await;
    let (mut all, mut requests) = (0, 0);
    while let Ok(batch) = received.try_recv() {
        requests += 1;
        all += batch[0].scope_spans[0].spans.len();
    }
    assert_eq!((all, requests), (3 * records, 2));
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_queue_that_is_full_loses_spans_and_counts_them() {
    // Nothing runs between these calls on a single-threaded runtime, so nothing is taken out.
    let (spans, dropped) = start(None);
    let (mut batch, mut made) = (Batch::default(), 0);
    while dropped.load(Ordering::Relaxed) == 0 {
        batch.extend(&sample(), None);
        made += 3;
        spans.take(&mut batch.chunk);
        assert!(made < 100_000, "nothing is lost");
    }
    let lost = usize::try_from(dropped.load(Ordering::Relaxed)).expect("few");
    assert_eq!((batch.chunk.count, lost + 3 * QUEUE_CHUNKS_MAX), (0, made));
    assert!(lost > 3, "it was kept for a while");
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_its_spans() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    for endpoint in [format!("http://{address}"), "not a URL".to_owned()] {
        let (spans, dropped) = start(Some(endpoint));
        send(&spans, &sample());
        spans.flush(BOUND).await;
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    }
}
