//! A record as OpenTelemetry's span data, by its conventions for RPC and HTTP spans.
//!
//! Inbound: one SERVER span, child of the caller's attempt. Outbound: one CLIENT span for what the
//! application asked for, and one CLIENT span below it per attempt; an attempt's id is what travels
//! upstream, so that the next hop hangs below the attempt that reached it.

use std::{
    borrow::Cow,
    str::FromStr as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::super::record::{Attempt, Direction, Record};
use crate::reason::{GrpcCode, Reason};

/// HTTP methods that may stand in a span's name; others are `HTTP` there and `_OTHER` as attribute.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

/// The attempts that have a span: of outbound requests only.
pub(super) fn attempts(record: &Record) -> impl Iterator<Item = &Attempt> {
    record.attempts.iter().filter(|_| record.direction == Direction::Outbound)
}

/// Adds the spans of `record` to `batch`.
pub(super) fn extend(batch: &mut Vec<SpanData>, record: &Record, scope: &InstrumentationScope) {
    let trace_state = TraceState::from_str(&record.trace_state).unwrap_or_default();
    let base = Base { record, scope, name: name(record), trace_state };
    batch.push(base.request());
    let attempts = (1..).zip(attempts(record));
    batch.extend(attempts.map(|(number, attempt)| base.attempt(number, attempt)));
}

/// What all spans of a record share.
struct Base<'a> {
    record: &'a Record,
    scope: &'a InstrumentationScope,
    name: Cow<'static, str>,
    trace_state: TraceState,
}

/// How a request or an attempt ended.
#[derive(Clone, Copy)]
struct End {
    http_status: u16,
    grpc_status: Option<GrpcCode>,
    reason: Option<Reason>,
}

impl Base<'_> {
    fn request(&self) -> SpanData {
        let record = self.record;
        let end = End {
            http_status: record.http_status,
            grpc_status: record.grpc_status,
            reason: record.reason,
        };
        let kind = match record.direction {
            Direction::Inbound => SpanKind::Server,
            Direction::Outbound => SpanKind::Client,
        };
        let peer = match record.direction {
            Direction::Inbound => &record.source,
            Direction::Outbound => &record.destination,
        };
        let mut attributes = self.attributes(&kind, end, peer);
        if let Some(id) = &record.route {
            let route = format!("{}/{}", id.route, id.rule);
            attributes.push(KeyValue::new("outrigger.route", route));
        }
        if !record.policy.is_empty() {
            attributes.push(KeyValue::new("outrigger.policy", record.policy.to_string()));
        }
        let address = match record.direction {
            Direction::Inbound => &*record.source_address,
            Direction::Outbound => record.upstream_address(),
        };
        attributes.extend(peer_address(address));
        let parent = record.parent.map_or(SpanId::INVALID, id);
        SpanData {
            // Whoever it continues told us by a header, be it the application beside us.
            parent_span_is_remote: record.parent.is_some(),
            ..self.span(
                record.span.span_id,
                parent,
                kind,
                attributes,
                end,
                (Duration::ZERO, record.duration),
            )
        }
    }

    fn attempt(&self, number: i64, attempt: &Attempt) -> SpanData {
        let end = End {
            http_status: attempt.http_status,
            grpc_status: attempt.grpc_status,
            reason: attempt.reason,
        };
        let mut attributes = self.attributes(&SpanKind::Client, end, &attempt.place.endpoint);
        attributes.push(KeyValue::new("outrigger.attempt", number));
        if !self.record.grpc && number > 1 {
            attributes.push(KeyValue::new("http.request.resend_count", number - 1));
        }
        attributes.extend(peer_address(&attempt.place.address));
        let parent = id(self.record.span.span_id);
        let times = (attempt.started, attempt.duration);
        self.span(attempt.span_id, parent, SpanKind::Client, attributes, end, times)
    }

    fn span(
        &self,
        span_id: u64,
        parent_span_id: SpanId,
        span_kind: SpanKind,
        attributes: Vec<KeyValue>,
        end: End,
        (started, duration): (Duration, Duration),
    ) -> SpanData {
        let status = match end.error(self.record.grpc, &span_kind) {
            None => Status::Unset,
            Some(_) => Status::error(end.reason.map_or("", Reason::name)),
        };
        let start_time = time(self.record.started.saturating_add(started));
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(self.record.span.trace_id),
                id(span_id),
                if self.record.span.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
                false,
                self.trace_state.clone(),
            ),
            parent_span_id,
            parent_span_is_remote: false,
            span_kind,
            name: self.name.clone(),
            start_time,
            end_time: start_time.checked_add(duration).unwrap_or(start_time),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }

    /// What a request and its attempts have in common.
    fn attributes(&self, kind: &SpanKind, end: End, peer: &str) -> Vec<KeyValue> {
        let record = self.record;
        let mut attributes = Vec::with_capacity(20);
        let mut put = |key: &'static str, value: opentelemetry::Value| {
            attributes.push(KeyValue::new(key, value));
        };
        if record.grpc {
            put("rpc.system.name", "grpc".into());
            put("rpc.method", grpc_method(record).to_owned().into());
            if let Some(code) = end.grpc_status {
                put("rpc.response.status_code", code.name().into());
            }
        } else {
            let known = METHODS.iter().find(|method| **method == record.method());
            put("http.request.method", known.copied().unwrap_or("_OTHER").into());
            if known.is_none() {
                put("http.request.method_original", record.method().to_owned().into());
            }
            if *kind == SpanKind::Server {
                put("url.scheme", "http".into());
                put("url.path", record.path().to_owned().into());
            } else {
                put("url.full", format!("http://{}{}", record.authority(), record.path()).into());
            }
            if end.http_status != 0 {
                put("http.response.status_code", i64::from(end.http_status).into());
            }
        }
        let (host, _) = host_and_port(record.authority());
        put("server.address", host.to_owned().into());
        if record.port != 0 {
            put("server.port", i64::from(record.port).into());
        }
        if record.protocol != "tcp" {
            let version = if record.protocol == "http/1.1" { "1.1" } else { "2" };
            put("network.protocol.version", version.into());
        }
        if let Some(error) = end.error(record.grpc, kind) {
            put("error.type", error.into());
        }
        put("outrigger.direction", record.direction.name().into());
        put("outrigger.revision", i64::try_from(record.revision).unwrap_or(i64::MAX).into());
        if let Some(reason) = end.reason {
            put("outrigger.reason", reason.name().into());
        }
        if !peer.is_empty() {
            put("outrigger.peer", peer.to_owned().into());
        }
        attributes
    }
}

impl End {
    /// `error.type`, if by the conventions it is an error: for a gRPC client every status but OK,
    /// for a gRPC server those that are its own fault; for an HTTP client from 400, for a server
    /// from 500; and whatever the mesh ended.
    fn error(self, grpc: bool, kind: &SpanKind) -> Option<Cow<'static, str>> {
        let reason = self.reason.map(|reason| Cow::Borrowed(reason.name()));
        let server = *kind == SpanKind::Server;
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
fn name(record: &Record) -> Cow<'static, str> {
    if record.grpc {
        return grpc_method(record).to_owned().into();
    }
    let method = METHODS.iter().find(|method| **method == record.method());
    let method = method.copied().unwrap_or("HTTP");
    match &record.route {
        Some(id) if &*id.route != "default" => format!("{method} {}", id.route).into(),
        Some(_) | None => method.into(),
    }
}

fn grpc_method(record: &Record) -> &str {
    record.path().strip_prefix('/').unwrap_or_else(|| record.path())
}

/// `network.peer.address` and `network.peer.port`.
fn peer_address(address: &str) -> impl Iterator<Item = KeyValue> {
    let (host, port) = host_and_port(address);
    let host = (!host.is_empty()).then(|| KeyValue::new("network.peer.address", host.to_owned()));
    let port = port.map(|port| KeyValue::new("network.peer.port", i64::from(port)));
    host.into_iter().chain(port)
}

/// `[::1]:80` is `::1` and 80; what has no port has none.
fn host_and_port(address: &str) -> (&str, Option<u16>) {
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().ok())
        }
        Some(_) | None => (address, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn id(span_id: u64) -> SpanId {
    SpanId::from(span_id)
}

fn time(since_epoch: Duration) -> SystemTime {
    UNIX_EPOCH.checked_add(since_epoch).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanKind, Status},
    };
    use opentelemetry_sdk::trace::SpanData;

    use super::{extend, host_and_port};
    use crate::{
        reason::{GrpcCode, Reason},
        snapshot::RouteId,
        telemetry::{
            Direction, Record,
            record::{head, sample},
        },
    };

    fn spans(record: &Record) -> Vec<SpanData> {
        let mut batch = Vec::new();
        extend(&mut batch, record, &InstrumentationScope::default());
        batch
    }

    #[track_caller]
    fn expect(span: &SpanData, key: &str, expected: &str) {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
        assert_eq!(found.map_or(String::new(), |a| a.value.to_string()), expected, "{key}");
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
        let ids: Vec<_> = spans
            .iter()
            .map(|span| (span.span_context.span_id().to_string(), span.parent_span_id.to_string()))
            .collect();
        let id = |n: u64| format!("{n:016x}");
        assert_eq!(ids, [(id(0x12), id(0x11)), (id(0x13), id(0x12)), (id(0x14), id(0x12))]);
        for span in &spans {
            assert_eq!(span.name, "shop.Orders/Place");
            assert_eq!(span.span_kind, SpanKind::Client);
            assert_eq!(span.span_context.trace_id().to_string(), format!("{:032x}", 0xabc));
            assert_eq!(span.span_context.trace_state().header(), "a=1");
            assert!(span.start_time >= spans[0].start_time && span.end_time <= spans[0].end_time);
            expect(span, "rpc.system.name", "grpc");
            expect(span, "rpc.method", "shop.Orders/Place");
            expect(span, "server.address", "orders");
            expect(span, "server.port", "9090");
            expect(span, "outrigger.direction", "outbound");
            expect(span, "outrigger.revision", "42");
        }
        assert!(spans[0].parent_span_is_remote && !spans[1].parent_span_is_remote);
        assert_eq!(spans[0].status, Status::Unset);
        assert_eq!(spans[1].status, Status::error("connect_failed"));
        assert_eq!(spans[2].status, Status::Unset);
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
        assert_eq!(spans[0].span_kind, SpanKind::Server);
        expect(&spans[0], "outrigger.peer", "front.shop");
        expect(&spans[0], "network.peer.address", "127.0.0.1");
    }

    #[test]
    fn a_trace_that_starts_here_has_a_root() {
        let spans = spans(&Record { parent: None, ..sample() });
        assert_eq!(spans[0].parent_span_id, opentelemetry::trace::SpanId::INVALID);
        assert!(!spans[0].parent_span_is_remote);
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
            assert_eq!(span.status == Status::Unset, expected.is_empty(), "{expected}");
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
