//! The one record of a request.

use std::{ops::Deref, sync::Arc, time::Duration};

use crate::{
    http::{HeaderBlock, Slice, Token},
    reason::{GrpcCode, Reason},
    snapshot::RouteId,
};

/// What of a path, an authority or a method is told.
const TEXT_BYTES_MAX: usize = 2048;

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

/// W3C trace context of one span. Aligned as everything around it: whatever holds one would be
/// allocated in a slower way otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(Rust, packed(8))]
pub struct SpanContext {
    /// Never zero.
    pub trace_id: u128,
    /// Never zero.
    pub span_id: u64,
    /// Whether spans of this trace are sent.
    pub sampled: bool,
}

/// A name that many records share. Empty: not known, which costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Name(Option<Arc<str>>);

impl Name {
    /// Where it is in memory; null for an empty one.
    pub(in crate::telemetry) fn address(&self) -> *const u8 {
        self.0.as_ref().map_or(std::ptr::null(), |text| text.as_ptr())
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl From<Arc<str>> for Name {
    fn from(text: Arc<str>) -> Self {
        Self(Some(text).filter(|text| !text.is_empty()))
    }
}

impl From<&Arc<str>> for Name {
    fn from(text: &Arc<str>) -> Self {
        Arc::clone(text).into()
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Arc::<str>::from(text).into()
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Arc::<str>::from(text).into()
    }
}

/// Everything about one request that is counted, logged or traced. Durations are measured from
/// `started`.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which listener.
    pub direction: Direction,
    /// When its head was read, since the Unix epoch; zero: `duration` before it is handed over, which
    /// spares the requests that nobody looks at a look at the clock.
    pub started: Duration,
    /// Its span.
    pub span: SpanContext,
    /// The span that it continues; `None`: it started the trace.
    pub parent: Option<u64>,
    /// `tracestate`, as it came.
    pub trace_state: String,
    /// `orders.shop`; empty: not known.
    pub source: Name,
    /// `inventory.shop`; `external` for names outside the mesh; empty: not known.
    pub destination: Name,
    /// The service's port; 0: not known.
    pub port: u16,
    /// `http/1.1`, `h2`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// The request's head, of which `:method`, `:path` and `:authority` are told.
    pub head: HeaderBlock,
    /// The authority as the caller wrote it, where the head has another one by now.
    pub written_authority: Option<Slice>,
    /// Whether it is a gRPC call.
    pub grpc: bool,
    /// Which rule it matched.
    pub route: Option<Arc<RouteId>>,
    /// Which policy decided, `shop/payments`; empty: none.
    pub policy: Name,
    /// The status sent to the caller; 0: none was.
    pub http_status: u16,
    /// The gRPC status, from the head or the trailers.
    pub grpc_status: Option<GrpcCode>,
    /// Why, when the mesh ended it.
    pub reason: Option<Reason>,
    /// Every attempt, first to last.
    pub attempts: Attempts,
    /// Who dialled.
    pub source_address: Arc<str>,
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

/// Where an attempt goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The endpoint's name.
    pub endpoint: Box<str>,
    /// Where it is dialled.
    pub address: Box<str>,
}

/// One attempt of a request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its span.
    pub span_id: u64,
    /// The endpoint.
    pub place: Arc<Place>,
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

/// The attempts of a request, first to last. Almost every request has one, which is not allocated.
#[derive(Debug, Clone, Default)]
pub struct Attempts {
    first: Option<Attempt>,
    more: Vec<Attempt>,
}

impl Attempts {
    /// Adds one at the end.
    pub fn push(&mut self, attempt: Attempt) {
        match self.first {
            None => self.first = Some(attempt),
            Some(_) => self.more.push(attempt),
        }
    }

    /// The first one.
    pub fn first(&self) -> Option<&Attempt> {
        self.first.as_ref()
    }

    /// The last one so far.
    pub fn last(&self) -> Option<&Attempt> {
        self.more.last().or(self.first.as_ref())
    }

    /// The last one so far.
    pub fn last_mut(&mut self) -> Option<&mut Attempt> {
        self.more.last_mut().or(self.first.as_mut())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.first.iter().chain(&self.more)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// Whether there was none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl FromIterator<Attempt> for Attempts {
    fn from_iter<T: IntoIterator<Item = Attempt>>(attempts: T) -> Self {
        let mut all = Self::default();
        attempts.into_iter().for_each(|attempt| all.push(attempt));
        all
    }
}

impl Record {
    /// HTTP method; empty for what is no text.
    pub fn method(&self) -> &str {
        cut(self.head.text(Token::Method).unwrap_or_default())
    }

    /// Authority as written.
    pub fn authority(&self) -> &str {
        cut(match self.written_authority {
            Some(written) => str::from_utf8(self.head.slice(written)).unwrap_or_default(),
            None => self.head.text(Token::Authority).unwrap_or_default(),
        })
    }

    /// Path without query; for gRPC `/service/method`.
    pub fn path(&self) -> &str {
        let path = self.head.text(Token::Path).unwrap_or_default();
        cut(path.split_once('?').map_or(path, |(path, _)| path))
    }

    /// The last endpoint's address; empty: none was tried.
    pub fn upstream_address(&self) -> &str {
        self.attempts.last().map_or("", |attempt| &attempt.place.address)
    }

    /// Whether the caller got what it asked for: no reason of the mesh, a status below 500, and for
    /// gRPC a status that is none of the server's failures.
    pub fn succeeded(&self) -> bool {
        succeeded(self.reason, self.http_status, self.grpc_status)
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
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

/// A request's head to `orders:9090`, for tests.
#[cfg(test)]
pub(in crate::telemetry) fn head(method: &str, path: &str) -> HeaderBlock {
    let fields = [(":method", method), (":authority", "orders:9090"), (":path", path)];
    fields.into_iter().collect()
}

/// A gRPC call from `front` to `orders` whose first attempt could not connect, for tests.
#[cfg(test)]
pub(crate) fn sample() -> Record {
    let attempt = |span_id, started, reason: Option<Reason>| Attempt {
        span_id,
        place: Arc::new(Place { endpoint: "orders-1".into(), address: "10.0.0.2:15006".into() }),
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
        head: head("POST", "/shop.Orders/Place"),
        written_authority: None,
        grpc: true,
        route: Some(Arc::new(RouteId { route: "shop/orders".into(), rule: "0".into() })),
        policy: "".into(),
        http_status: 200,
        grpc_status: Some(GrpcCode::Ok),
        reason: None,
        attempts: [attempt(0x13, 1, Some(Reason::ConnectFailed)), attempt(0x14, 6, None)]
            .into_iter()
            .collect(),
        source_address: "127.0.0.1:40000".into(),
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
