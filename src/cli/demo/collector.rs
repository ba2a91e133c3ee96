//! A small OTLP collector inside the demo: it keeps the spans that sidecars send, so that the demo
//! can check and print a trace without Jaeger, and passes them on to a real collector if there is
//! one.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
    time,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    transport::{Endpoint, Server},
};

use super::trace::{Kind, Span, Trace};
use crate::task::Tasks;

/// Spans kept; the demo's traffic makes far fewer.
const SPANS_MAX: usize = 200_000;
/// Exports that wait for the real collector; more are dropped.
const FORWARD_QUEUE: usize = 1024;
/// How long the real collector may take for one export.
const FORWARD_WITHIN: Duration = Duration::from_secs(5);

/// Where spans come in, and what came.
pub(super) struct Collector {
    /// Where it listens.
    pub(super) address: SocketAddr,
    kept: Arc<Kept>,
    forwarder: Option<Tasks>,
    _server: Tasks,
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    arrived: Notify,
}

impl Collector {
    /// Listens on a free port of the loopback; `forward` is a real collector's address, such as
    /// `http://127.0.0.1:4317`.
    pub(super) async fn start(forward: Option<&str>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("the demo's collector")?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Kept::default());
        let (queue, forwarder) = match forward {
            Some(url) => {
                let (queue, tasks) = forward_to(url)?;
                (Some(queue), Some(tasks))
            }
            None => (None, None),
        };
        let service = TraceServiceServer::new(Receiver { kept: Arc::clone(&kept), forward: queue })
            .accept_compressed(CompressionEncoding::Gzip);
        let mut tasks = Tasks::new();
        tasks.spawn("the demo's collector", async move {
            let incoming = TcpListenerStream::new(listener);
            if let Err(error) =
                Server::builder().add_service(service).serve_with_incoming(incoming).await
            {
                tracing::warn!(%error, "the demo's collector ended");
            }
        });
        Ok(Self { address, kept, forwarder, _server: tasks })
    }

    /// What has arrived of a trace.
    pub(super) fn trace(&self, id: u128) -> Trace {
        let spans = self.kept.spans.lock().unwrap_or_else(PoisonError::into_inner);
        Trace::new(spans.iter().filter(|span| span.trace == id).cloned().collect())
    }

    /// Waits until the trace is as `complete` wants it, at most `bound`; what has arrived then.
    pub(super) async fn wait(
        &self,
        id: u128,
        bound: Duration,
        complete: impl Fn(&Trace) -> bool,
    ) -> Trace {
        let arriving = async {
            loop {
                let mut arrived = std::pin::pin!(self.kept.arrived.notified());
                arrived.as_mut().enable();
                let trace = self.trace(id);
                if complete(&trace) {
                    return trace;
                }
                arrived.await;
            }
        };
        match time::timeout(bound, arriving).await {
            Ok(trace) => trace,
            Err(_) => self.trace(id),
        }
    }

    /// Lets what waits for the real collector go out, at most `bound`.
    pub(super) async fn finish(self, bound: Duration) {
        let Self { forwarder, _server: server, .. } = self;
        // With the server goes the queue's only sender, so the forwarder ends when it is empty.
        drop(server);
        if let Some(mut forwarder) = forwarder {
            forwarder.join(bound).await;
        }
    }
}

/// The gRPC service.
struct Receiver {
    kept: Arc<Kept>,
    forward: Option<mpsc::Sender<ExportTraceServiceRequest>>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let export = request.into_inner();
        {
            let mut kept = self.kept.spans.lock().unwrap_or_else(PoisonError::into_inner);
            let room = SPANS_MAX.saturating_sub(kept.len());
            kept.extend(read(&export).into_iter().take(room));
        }
        self.kept.arrived.notify_waiters();
        if let Some(queue) = &self.forward
            && queue.try_send(export).is_err()
        {
            tracing::warn!("spans were not passed on: the collector is too slow");
        }
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

/// Starts passing exports on.
fn forward_to(url: &str) -> anyhow::Result<(mpsc::Sender<ExportTraceServiceRequest>, Tasks)> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("--otlp {url}"))?
        .connect_timeout(FORWARD_WITHIN)
        .timeout(FORWARD_WITHIN);
    let mut client = TraceServiceClient::new(endpoint.connect_lazy());
    let (sender, mut receiver) = mpsc::channel(FORWARD_QUEUE);
    let mut tasks = Tasks::new();
    tasks.spawn("spans to the collector", async move {
        while let Some(export) = receiver.recv().await {
            if let Err(status) = client.export(export).await {
                tracing::warn!(message = status.message(), "the collector did not take spans");
            }
        }
    });
    Ok((sender, tasks))
}

/// The spans of one export.
fn read(export: &ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in &export.resource_spans {
        let attributes = resource.resource.as_ref().map_or(&[][..], |found| &found.attributes);
        let service = text(attributes, "service.name");
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            spans.push(Span {
                trace: number(&span.trace_id),
                id: number(&span.span_id),
                parent: Some(number(&span.parent_span_id)).filter(|parent| *parent != 0),
                service: service.clone(),
                name: match text(&span.attributes, "url.path") {
                    // Of an HTTP request without a route the name is only its method.
                    path if path.is_empty() || span.name.contains('/') => span.name.clone(),
                    path => format!("{} {path}", span.name),
                },
                kind: match span.kind {
                    2 => Kind::Server,
                    3 => Kind::Client,
                    _ => Kind::Internal,
                },
                attempt: span.attributes.iter().any(|known| known.key == "outrigger.attempt"),
                started: Duration::from_nanos(span.start_time_unix_nano),
                ended: Duration::from_nanos(span.end_time_unix_nano),
            });
        }
    }
    spans
}

/// An ID as a number; the bytes are big-endian.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().take(16).fold(0, |number, byte| (number << 8) | u128::from(*byte))
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.as_ref()) {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::{
        collector::trace::v1::{
            ExportTraceServiceRequest, trace_service_client::TraceServiceClient,
        },
        common::v1::{AnyValue, KeyValue, any_value::Value},
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };
    use tonic::codec::CompressionEncoding;

    use super::Collector;
    use crate::cli::demo::trace::Kind;

    fn export() -> ExportTraceServiceRequest {
        let value = AnyValue { value: Some(Value::StringValue("front".into())) };
        let attribute =
            KeyValue { key: "service.name".into(), value: Some(value), ..KeyValue::default() };
        let span = Span {
            trace_id: 7_u128.to_be_bytes().to_vec(),
            span_id: 9_u64.to_be_bytes().to_vec(),
            name: "POST /orders".into(),
            kind: 2,
            start_time_unix_nano: 1_000,
            end_time_unix_nano: 3_000,
            ..Span::default()
        };
        let resource = Resource { attributes: vec![attribute], ..Resource::default() };
        let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
        let spans = ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() };
        ExportTraceServiceRequest { resource_spans: vec![spans] }
    }

    #[tokio::test]
    async fn spans_are_kept_and_passed_on() {
        let real = Collector::start(None).await.expect("starts");
        let forward = format!("http://{}", real.address);
        let demo = Collector::start(Some(&forward)).await.expect("starts");
        let mut client = TraceServiceClient::connect(format!("http://{}", demo.address))
            .await
            .expect("connects")
            .send_compressed(CompressionEncoding::Gzip);
        client.export(export()).await.expect("exported");
        drop(client);

        for collector in [&demo, &real] {
            let bound = Duration::from_secs(5);
            let trace = collector.wait(7, bound, |trace| !trace.spans().is_empty()).await;
            let [span] = trace.spans() else { panic!("one span, not {:?}", trace.spans()) };
            assert_eq!((span.id, span.parent, span.kind), (9, None, Kind::Server));
            assert_eq!((span.service.as_str(), span.name.as_str()), ("front", "POST /orders"));
            assert_eq!(span.ended - span.started, Duration::from_micros(2));
        }
        assert!(demo.trace(8).spans().is_empty());
        demo.finish(Duration::from_secs(5)).await;
    }
}
