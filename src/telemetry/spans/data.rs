//! A record as OpenTelemetry's spans, by its conventions for RPC and HTTP.
//!
//! Inbound: one SERVER span, child of the caller's attempt. Outbound: one CLIENT span for what the
//! application asked for, and one CLIENT span below it per attempt; an attempt's id is what travels
//! upstream, so that the next hop hangs below the attempt that reached it.

use std::{borrow::Cow, time::Duration};

use super::{
    super::{
        record::{Attempt, Direction, Record},
        recorder::Chunk,
    },
    wire::{self, Kind, key},
};
use crate::reason::{GrpcCode, Reason};

/// HTTP methods that may stand in a span's name; others are `HTTP` there and `_OTHER` as attribute.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// Spans that go on together, as fields of OTLP's `ScopeSpans`.
#[derive(Default)]
pub(in crate::telemetry) struct Batch {
    pub(in crate::telemetry) chunk: Chunk,
    /// For the span that is being written, whose length stands before it.
    span: Vec<u8>,
}

/// What spans of a kind have in common: that of the request, and that of its only attempt.
pub(in crate::telemetry) struct Repeat {
    request: Vec<u8>,
    attempt: Vec<u8>,
}

impl Repeat {
    /// Of a record with one attempt at most.
    pub(in crate::telemetry) fn of(record: &Record) -> Self {
        let (base, mut repeat) =
            (Base::of(record), Self { request: Vec::new(), attempt: Vec::new() });
        base.request(&mut repeat.request);
        if let Some(only) = record.attempts.first() {
            base.attempt(&mut repeat.attempt, 1, only);
        }
        repeat
    }
}

impl Batch {
    /// Adds the spans of `record`; `repeat` is that of its kind.
    pub(in crate::telemetry) fn extend(&mut self, record: &Record, repeat: Option<&Repeat>) {
        let request = Span {
            id: record.span.span_id,
            parent: record.parent.unwrap_or(0),
            // Whoever it continues told us by a header, be it the application beside us.
            remote: record.parent.is_some(),
            started: Duration::ZERO,
            duration: record.duration,
        };
        self.span(record, &request, |out| {
            match repeat {
                Some(repeat) => out.extend_from_slice(&repeat.request),
                None => Base::of(record).request(out),
            }
            if record.direction == Direction::Inbound {
                peer_address(out, &record.source_address);
            }
        });
        // An inbound request has one attempt, the application, which answers with a span of its own.
        let attempts = record.attempts.iter().filter(|_| record.direction == Direction::Outbound);
        for (number, attempt) in (1..).zip(attempts) {
            let span = Span {
                id: attempt.span_id,
                parent: record.span.span_id,
                remote: false,
                started: attempt.started,
                duration: attempt.duration,
            };
            self.span(record, &span, |out| match repeat {
                Some(repeat) => out.extend_from_slice(&repeat.attempt),
                None => Base::of(record).attempt(out, number, attempt),
            });
        }
    }

    /// Writes a span, of which `more` writes what it has in common with others.
    fn span(&mut self, record: &Record, span: &Span, more: impl FnOnce(&mut Vec<u8>)) {
        let Self { chunk, span: out } = self;
        let start = nanos(record.started.saturating_add(span.started));
        out.clear();
        wire::bytes(out, 1, &{ record.span.trace_id }.to_be_bytes());
        wire::bytes(out, 2, &span.id.to_be_bytes());
        wire::bytes(out, 3, record.trace_state.as_bytes());
        if span.parent != 0 {
            wire::bytes(out, 4, &span.parent.to_be_bytes());
        }
        wire::fixed(out, 7, start);
        wire::fixed(out, 8, start.saturating_add(nanos(span.duration)));
        more(out);
        let remote = if span.remote { IS_REMOTE } else { 0 };
        let flags = HAS_IS_REMOTE | remote | u32::from(record.span.sampled);
        wire::long_fixed_32(out, 16, flags);
        wire::message(&mut chunk.bytes, 2, out);
        chunk.count += 1;
    }
}

/// What the spans of a record are written from.
struct Base<'a> {
    record: &'a Record,
    name: Cow<'a, str>,
    authority: &'a str,
    /// Of the authority.
    host: &'a str,
    path: &'a str,
}

/// What tells spans of a kind apart.
struct Span {
    id: u64,
    parent: u64,
    /// Whether the parent is not of this process.
    remote: bool,
    started: Duration,
    duration: Duration,
}

/// How a request or an attempt ended.
#[derive(Clone, Copy)]
struct End {
    http_status: u16,
    grpc_status: Option<GrpcCode>,
    reason: Option<Reason>,
}

/// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`, `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// `STATUS_CODE_ERROR`
const ERROR: u64 = 2;

impl<'a> Base<'a> {
    fn of(record: &'a Record) -> Self {
        let (authority, path) = (record.authority(), record.path());
        let (host, _) = host_and_port(authority);
        Self { record, name: name(record, path), authority, host, path }
    }

    fn request(&self, out: &mut Vec<u8>) {
        let record = self.record;
        let end = End {
            http_status: record.http_status,
            grpc_status: record.grpc_status,
            reason: record.reason,
        };
        let inbound = record.direction == Direction::Inbound;
        let (kind, peer) = if inbound {
            (Kind::Server, &record.source)
        } else {
            (Kind::Client, &record.destination)
        };
        self.span(out, kind, end, peer);
        if let Some(id) = &record.route {
            wire::parts(out, key!("outrigger.route"), &[&id.route, "/", &id.rule]);
        }
        if !record.policy.is_empty() {
            wire::text(out, key!("outrigger.policy"), &record.policy);
        }
        if !inbound {
            peer_address(out, record.upstream_address());
        }
    }

    fn attempt(&self, out: &mut Vec<u8>, number: i64, attempt: &Attempt) {
        let end = End {
            http_status: attempt.http_status,
            grpc_status: attempt.grpc_status,
            reason: attempt.reason,
        };
        self.span(out, Kind::Client, end, &attempt.place.endpoint);
        wire::integer(out, key!("outrigger.attempt"), number);
        if !self.record.grpc && number > 1 {
            wire::integer(out, key!("http.request.resend_count"), number - 1);
        }
        peer_address(out, &attempt.place.address);
    }

    /// What says how it ended, and all that a request and its attempts have in common.
    fn span(&self, out: &mut Vec<u8>, kind: Kind, end: End, peer: &str) {
        let error = end.error(self.record.grpc, kind);
        wire::bytes(out, 5, self.name.as_bytes());
        wire::number(out, 6, kind as u64);
        self.attributes(out, kind, end, error.as_deref(), peer);
        if error.is_some() {
            let why = end.reason.map_or("", Reason::name);
            let mut status = Vec::with_capacity(why.len() + 4);
            wire::bytes(&mut status, 2, why.as_bytes());
            wire::number(&mut status, 3, ERROR);
            wire::message(out, 15, &status);
        }
    }

    fn attributes(&self, out: &mut Vec<u8>, kind: Kind, end: End, error: Option<&str>, peer: &str) {
        let record = self.record;
        if record.grpc {
            wire::text(out, key!("rpc.system.name"), "grpc");
            wire::text(out, key!("rpc.method"), grpc_method(self.path));
            if let Some(code) = end.grpc_status {
                wire::text(out, key!("rpc.response.status_code"), code.name());
            }
        } else {
            let known = METHODS.iter().find(|method| **method == record.method());
            wire::text(out, key!("http.request.method"), known.copied().unwrap_or("_OTHER"));
            if known.is_none() {
                wire::text(out, key!("http.request.method_original"), record.method());
            }
            if kind == Kind::Server {
                wire::text(out, key!("url.scheme"), "http");
                wire::text(out, key!("url.path"), self.path);
            } else {
                let parts = ["http://", self.authority, self.path];
                wire::parts(out, key!("url.full"), &parts);
            }
            if end.http_status != 0 {
                wire::integer(out, key!("http.response.status_code"), end.http_status.into());
            }
        }
        wire::text(out, key!("server.address"), self.host);
        if record.port != 0 {
            wire::integer(out, key!("server.port"), record.port.into());
        }
        if record.protocol != "tcp" {
            let version = if record.protocol == "http/1.1" { "1.1" } else { "2" };
            wire::text(out, key!("network.protocol.version"), version);
        }
        if let Some(error) = error {
            wire::text(out, key!("error.type"), error);
        }
        wire::text(out, key!("outrigger.direction"), record.direction.name());
        let revision = i64::try_from(record.revision).unwrap_or(i64::MAX);
        wire::integer(out, key!("outrigger.revision"), revision);
        if let Some(reason) = end.reason {
            wire::text(out, key!("outrigger.reason"), reason.name());
        }
        if !peer.is_empty() {
            wire::text(out, key!("outrigger.peer"), peer);
        }
    }
}

impl End {
    /// `error.type`, if by the conventions it is an error: for a gRPC client every status but OK,
    /// for a gRPC server those that are its own fault; for an HTTP client from 400, for a server
    /// from 500; and whatever the mesh ended.
    fn error(self, grpc: bool, kind: Kind) -> Option<Cow<'static, str>> {
        let reason = self.reason.map(|reason| Cow::Borrowed(reason.name()));
        let server = kind == Kind::Server;
        if grpc {
            return match self.grpc_status {
                Some(GrpcCode::Ok) => reason,
                Some(code) if reason.is_some() || !server || of_server(code) => {
                    Some(code.name().into())
                }
                // Without a gRPC status the answer was none, or HTTP's.
                None if self.http_status >= 400 => Some(self.http_status.to_string().into()),
                Some(_) | None => reason,
            };
        }
        let failed_from = if server { 500 } else { 400 };
        if self.http_status >= failed_from || (reason.is_some() && self.http_status >= 400) {
            return Some(self.http_status.to_string().into());
        }
        reason
    }
}

fn of_server(code: GrpcCode) -> bool {
    use GrpcCode::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

/// `shop.Orders/Place`, or `POST shop/orders`: never a path, of which there may be any number.
fn name<'a>(record: &'a Record, path: &'a str) -> Cow<'a, str> {
    if record.grpc {
        return grpc_method(path).into();
    }
    let method = METHODS.iter().find(|method| **method == record.method());
    let method = method.copied().unwrap_or("HTTP");
    match &record.route {
        Some(id) if &*id.route != "default" => format!("{method} {}", id.route).into(),
        Some(_) | None => method.into(),
    }
}

fn grpc_method(path: &str) -> &str {
    path.strip_prefix('/').unwrap_or(path)
}

/// `network.peer.address` and `network.peer.port`.
fn peer_address(out: &mut Vec<u8>, address: &str) {
    let (host, port) = host_and_port(address);
    if !host.is_empty() {
        wire::text(out, key!("network.peer.address"), host);
    }
    if let Some(port) = port {
        wire::integer(out, key!("network.peer.port"), port.into());
    }
}

/// `[::1]:80` is `::1` and 80; what has no port has none.
fn host_and_port(address: &str) -> (&str, Option<u16>) {
    let colon = address.bytes().rposition(|byte| byte == b':');
    let (host, port) = match colon.map(|at| (&address[..at], &address[at + 1..])) {
        Some((host, port)) if host.ends_with(']') || !host.as_bytes().contains(&b':') => {
            (host, port.parse().ok())
        }
        Some(_) | None => (address, None),
    };
    let host = host.strip_prefix('[').unwrap_or(host);
    (host.strip_suffix(']').unwrap_or(host), port)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::{
        common::v1::any_value::Value,
        trace::v1::{ScopeSpans, Span, span::SpanKind, status::StatusCode},
    };
    use prost::Message as _;

    use super::{Batch, host_and_port};
    use crate::{
        reason::{GrpcCode, Reason},
        snapshot::RouteId,
        telemetry::{
            Direction, Record,
            record::{head, sample},
        },
    };

    /// As a collector reads them.
    fn spans(record: &Record) -> Vec<Span> {
        let mut batch = Batch::default();
        batch.extend(record, None);
        let spans = ScopeSpans::decode(batch.chunk.bytes.as_slice()).expect("OTLP").spans;
        assert_eq!(batch.chunk.count, spans.len());
        spans
    }

    #[track_caller]
    fn expect(span: &Span, key: &str, expected: &str) {
        let found = span.attributes.iter().find(|attribute| attribute.key == key);
        let value = found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
        let value = value.map_or(String::new(), |value| match value {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        });
        assert_eq!(value, expected, "{key}");
    }

    /// The message of an error; `None`: there was none.
    fn error(span: &Span) -> Option<&str> {
        let status = span.status.as_ref()?;
        assert_eq!(status.code(), StatusCode::Error);
        Some(&status.message)
    }

    fn id(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |id, byte| id << 8 | u64::from(*byte))
    }

    fn http(direction: Direction) -> Record {
        Record {
            direction,
            grpc: false,
            protocol: "http/1.1",
            head: head("POST", "/orders"),
            grpc_status: None,
            ..sample()
        }
    }

    #[test]
    fn an_outbound_call_is_a_client_span_with_its_attempts_below() {
        let spans = spans(&sample());
        let ids: Vec<_> =
            spans.iter().map(|span| (id(&span.span_id), id(&span.parent_span_id))).collect();
        assert_eq!(ids, [(0x12, 0x11), (0x13, 0x12), (0x14, 0x12)]);
        for span in &spans {
            assert_eq!(span.name, "shop.Orders/Place");
            assert_eq!(span.kind(), SpanKind::Client);
            assert_eq!(span.trace_id, 0xabc_u128.to_be_bytes());
            assert_eq!(span.trace_state, "a=1");
            assert!(span.start_time_unix_nano >= spans[0].start_time_unix_nano);
            assert!(span.end_time_unix_nano <= spans[0].end_time_unix_nano);
            expect(span, "rpc.system.name", "grpc");
            expect(span, "rpc.method", "shop.Orders/Place");
            expect(span, "server.address", "orders");
            expect(span, "server.port", "9090");
            expect(span, "outrigger.direction", "outbound");
            expect(span, "outrigger.revision", "42");
        }
        assert_eq!((spans[0].flags, spans[1].flags), (0x301, 0x101));
        let start = 1_795_435_440_123_000_000;
        assert_eq!(
            (spans[0].start_time_unix_nano, spans[0].end_time_unix_nano),
            (start, start + 12_000_000)
        );
        let errors: Vec<_> = spans.iter().map(error).collect();
        assert_eq!(errors, [None, Some("connect_failed"), None]);
        expect(&spans[0], "outrigger.route", "shop/orders/0");
        expect(&spans[0], "outrigger.peer", "orders.shop");
        expect(&spans[0], "rpc.response.status_code", "OK");
        expect(&spans[0], "network.peer.address", "10.0.0.2");
        expect(&spans[1], "outrigger.attempt", "1");
        expect(&spans[1], "outrigger.peer", "orders-1");
        expect(&spans[1], "error.type", "connect_failed");
        expect(&spans[1], "network.peer.port", "15006");
        expect(&spans[2], "outrigger.attempt", "2");
        expect(&spans[2], "error.type", "");
    }

    #[test]
    fn an_inbound_call_is_one_server_span() {
        let spans = spans(&Record { direction: Direction::Inbound, ..sample() });
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].kind(), SpanKind::Server);
        expect(&spans[0], "outrigger.peer", "front.shop");
        expect(&spans[0], "network.peer.address", "127.0.0.1");
    }

    #[test]
    fn a_trace_that_starts_here_has_a_root() {
        let spans = spans(&Record { parent: None, ..sample() });
        assert!(spans[0].parent_span_id.is_empty());
        assert_eq!(spans[0].flags, 0x101);
    }

    #[test]
    fn http_spans_are_named_by_method_and_route() {
        let default = RouteId { route: "default".into(), rule: "0".into() };
        for (method, route, name, attribute) in [
            ("POST", sample().route, "POST shop/orders", "POST"),
            ("POST", Some(default.into()), "POST", "POST"),
            ("POST", None, "POST", "POST"),
            ("BREW", None, "HTTP", "_OTHER"),
        ] {
            let head = head(method, "/orders");
            let record = Record { head, route, ..http(Direction::Outbound) };
            let spans = spans(&record);
            assert_eq!(spans[0].name, name);
            expect(&spans[0], "http.request.method", attribute);
            expect(&spans[0], "url.full", "http://orders:9090/orders");
            expect(&spans[0], "http.response.status_code", "200");
            expect(&spans[0], "network.protocol.version", "1.1");
            expect(&spans[2], "http.request.resend_count", "1");
        }
        let inbound = spans(&http(Direction::Inbound));
        expect(&inbound[0], "url.path", "/orders");
        expect(&inbound[0], "url.full", "");
    }

    #[test]
    fn errors_are_those_of_the_conventions() {
        let code = |code| Record { grpc_status: Some(code), ..sample() };
        let status = |http_status, direction| Record { http_status, ..http(direction) };
        let inbound = |record| Record { direction: Direction::Inbound, ..record };
        let denied = Record { reason: Some(Reason::Denied), ..code(GrpcCode::PermissionDenied) };
        let gone =
            Record { reason: Some(Reason::CallerGone), http_status: 0, ..http(Direction::Inbound) };
        for (record, expected) in [
            (code(GrpcCode::NotFound), "NOT_FOUND"),
            (inbound(code(GrpcCode::NotFound)), ""),
            (inbound(code(GrpcCode::Internal)), "INTERNAL"),
            (inbound(denied), "PERMISSION_DENIED"),
            (Record { grpc_status: None, http_status: 404, ..sample() }, "404"),
            (Record { grpc_status: None, ..sample() }, ""),
            (status(404, Direction::Outbound), "404"),
            (status(404, Direction::Inbound), ""),
            (status(503, Direction::Inbound), "503"),
            (status(302, Direction::Outbound), ""),
            (gone, "caller_gone"),
        ] {
            let span = &spans(&record)[0];
            expect(span, "error.type", expected);
            assert_eq!(error(span).is_none(), expected.is_empty(), "{expected}");
        }
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (address, expected) in [
            ("10.0.0.1:80", ("10.0.0.1", Some(80))),
            ("[::1]:80", ("::1", Some(80))),
            ("::1", ("::1", None)),
            ("[::1]", ("::1", None)),
            ("orders", ("orders", None)),
            ("", ("", None)),
        ] {
            assert_eq!(host_and_port(address), expected, "{address}");
        }
    }
}
