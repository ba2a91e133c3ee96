//! The one record of a request.

use std::{sync::Arc, time::Duration};

use crate::{
    reason::{GrpcCode, Reason},
    snapshot::RouteId,
};

/// Which listener a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the application.
    Outbound,
    /// To the application.
    Inbound,
}

impl Direction {
    /// As in metrics, log lines and spans.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// W3C trace context of one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    /// Never zero.
    pub trace_id: u128,
    /// Never zero.
    pub span_id: u64,
    /// Whether spans of this trace are sent.
    pub sampled: bool,
}

/// Everything about one request that is counted, logged or traced. Durations are measured from
/// `started`.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which listener.
    pub direction: Direction,
    /// When its head was read, since the Unix epoch.
    pub started: Duration,
    /// Its span.
    pub span: SpanContext,
    /// The span that it continues; `None`: it started the trace.
    pub parent: Option<u64>,
    /// `tracestate`, as it came.
    pub trace_state: String,
    /// `orders.shop`; empty: not known.
    pub source: Arc<str>,
    /// `inventory.shop`; `external` for names outside the mesh; empty: not known.
    pub destination: Arc<str>,
    /// The service's port; 0: not known.
    pub port: u16,
    /// `http/1.1`, `h2` or `grpc`.
    pub protocol: &'static str,
    /// HTTP method.
    pub method: String,
    /// Authority as written.
    pub authority: String,
    /// Path without query; for gRPC `/service/method`.
    pub path: String,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Which rule it matched.
    pub route: Option<RouteId>,
    /// Which policy decided, `shop/payments`; empty: none.
    pub policy: Arc<str>,
    /// The status sent to the caller; 0: none was.
    pub http_status: u16,
    /// The gRPC status, from the head or the trailers.
    pub grpc_status: Option<GrpcCode>,
    /// Why, when the mesh ended it.
    pub reason: Option<Reason>,
    /// Every attempt, first to last.
    pub attempts: Vec<Attempt>,
    /// Who dialled.
    pub source_address: String,
    /// The last endpoint's address.
    pub upstream_address: String,
    /// Whether mutual TLS carried it between sidecars.
    pub tls: bool,
    /// The deadline that it came with.
    pub deadline: Option<Duration>,
    /// Time spent waiting for a place in the bulkhead.
    pub queued: Duration,
    /// Time from the last attempt's start to its response head.
    pub upstream: Duration,
    /// From head to last byte.
    pub duration: Duration,
    /// Body bytes from the caller.
    pub request_bytes: u64,
    /// Body bytes to the caller.
    pub response_bytes: u64,
    /// Whether more than one message went either way, as far as that was seen.
    pub stream: bool,
    /// The configuration that it ran under.
    pub revision: u64,
}

/// One attempt of a request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its span.
    pub span_id: u64,
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// Where it was dialled.
    pub address: String,
    /// From the record's start.
    pub started: Duration,
    /// Until its response head, its failure, or, for the last one, the last byte.
    pub duration: Duration,
    /// The backoff before it.
    pub backoff: Duration,
    /// HTTP status; 0: none came.
    pub http_status: u16,
    /// gRPC status, if known.
    pub grpc_status: Option<GrpcCode>,
    /// Why it failed in this proxy's eyes.
    pub reason: Option<Reason>,
}

impl Record {
    /// Whether the caller got what it asked for: no reason of the mesh, a status below 500, and for
    /// gRPC a status that is none of the server's failures.
    pub fn succeeded(&self) -> bool {
        succeeded(self.reason, self.http_status, self.grpc_status)
    }
}

impl Attempt {
    /// The same of one attempt.
    pub fn succeeded(&self) -> bool {
        succeeded(self.reason, self.http_status, self.grpc_status)
    }
}

fn succeeded(reason: Option<Reason>, http_status: u16, grpc_status: Option<GrpcCode>) -> bool {
    use GrpcCode::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    let grpc_failed = matches!(
        grpc_status,
        Some(Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
    );
    reason.is_none() && (1..500).contains(&http_status) && !grpc_failed
}

/// A gRPC call from `front` to `orders` whose first attempt could not connect, for tests.
#[cfg(test)]
pub(in crate::telemetry) fn sample() -> Record {
    let attempt = |span_id, started, reason: Option<Reason>| Attempt {
        span_id,
        endpoint: "orders-1".into(),
        address: "10.0.0.1:15006".to_owned(),
        started: Duration::from_millis(started),
        duration: Duration::from_millis(4),
        backoff: Duration::ZERO,
        http_status: if reason.is_some() { 0 } else { 200 },
        grpc_status: reason.is_none().then_some(GrpcCode::Ok),
        reason,
    };
    Record {
        direction: Direction::Outbound,
        started: Duration::from_millis(1_795_435_440_123),
        span: SpanContext { trace_id: 0xabc, span_id: 0x12, sampled: true },
        parent: Some(0x11),
        trace_state: "a=1".to_owned(),
        source: "front.shop".into(),
        destination: "orders.shop".into(),
        port: 9090,
        protocol: "grpc",
        method: "POST".to_owned(),
        authority: "orders:9090".to_owned(),
        path: "/shop.Orders/Place".to_owned(),
        grpc: true,
        route: Some(RouteId { route: "shop/orders".into(), rule: "0".into() }),
        policy: "".into(),
        http_status: 200,
        grpc_status: Some(GrpcCode::Ok),
        reason: None,
        attempts: vec![attempt(0x13, 1, Some(Reason::ConnectFailed)), attempt(0x14, 6, None)],
        source_address: "127.0.0.1:40000".to_owned(),
        upstream_address: "10.0.0.2:15006".to_owned(),
        tls: true,
        deadline: Some(Duration::from_secs(2)),
        queued: Duration::ZERO,
        upstream: Duration::from_millis(4),
        duration: Duration::from_millis(12),
        request_bytes: 100,
        response_bytes: 200,
        stream: false,
        revision: 42,
    }
}
