//! One request and its one record: opened when the head is read, closed exactly once, at the last byte
//! or when the request is dropped. Whoever ends a request does it through here, so that the answer
//! and what is counted, logged and traced can not disagree.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Response, request};
use tokio::time::Instant;

use super::{
    connection::{Origin, Side},
    core::Core,
    headers::{TRACEPARENT, TRACESTATE},
};
use crate::{
    clock,
    http::{
        Fields as _, Head,
        answer::{self, Audience, Rejection},
    },
    reason::{GrpcCode, Reason},
    telemetry::{Attempt, Direction, Record, metrics::InFlight, trace},
};

/// A request under way.
pub(super) struct Exchange {
    core: Arc<Core>,
    record: Option<Box<Record>>,
    started: Instant,
    audience: Audience,
    _in_flight: InFlight,
}

impl Exchange {
    /// Begins with a head.
    pub(super) fn begin(origin: &Origin, parts: &request::Parts) -> Self {
        let core = Arc::clone(&origin.worker.core);
        let fields = &parts.headers;
        let head =
            Head { method: parts.method.as_str(), authority: "", path: "/", query: "", fields };
        let grpc = head.is_grpc();
        let started = clock::since_epoch();
        let parent = parent(fields);
        let begun =
            core.telemetry.begin(origin.side.direction(), parent, started, || fastrand::u64(..));
        let authenticated = origin.side.peer().is_some();
        let inbound = matches!(origin.side, Side::Inbound { .. });
        let audience = Audience {
            grpc,
            head: parts.method == http::Method::HEAD,
            details: authenticated || !inbound,
            sidecar: authenticated,
            trace_id: begun.place.span.trace_id,
        };
        let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
        let host = || fields.first("host").map(|host| String::from_utf8_lossy(host).into_owned());
        let own = Arc::clone(&core.own_name);
        let source = match origin.side.direction() {
            Direction::Outbound => Arc::clone(&own),
            Direction::Inbound => Arc::clone(&origin.caller),
        };
        let record = Record {
            direction: origin.side.direction(),
            started,
            span: begun.place.span,
            parent: begun.place.parent,
            trace_state: state(fields, parent.is_some()),
            source,
            destination: if inbound { own } else { Arc::default() },
            port: 0,
            protocol: if grpc { "grpc" } else { origin.protocol() },
            method: parts.method.as_str().to_owned(),
            authority: authority.or_else(host).unwrap_or_default(),
            path: parts.uri.path().to_owned(),
            grpc,
            route: None,
            policy: Arc::default(),
            http_status: 0,
            grpc_status: None,
            reason: None,
            attempts: Vec::new(),
            source_address: origin.address.to_string(),
            upstream_address: String::new(),
            tls: authenticated,
            deadline: None,
            queued: Duration::ZERO,
            upstream: Duration::ZERO,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            stream: false,
            revision: 0,
        };
        Self {
            core,
            record: Some(Box::new(record)),
            started: Instant::now(),
            audience,
            _in_flight: begun.in_flight,
        }
    }

    /// The record, until the exchange has ended.
    pub(super) fn record(&mut self) -> &mut Record {
        self.record.as_mut().expect("only `refuse` and `end` take it, and they take the exchange")
    }

    /// When the head was read.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// To whom answers go.
    pub(super) fn audience(&self) -> Audience {
        self.audience
    }

    /// What all workers share.
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Notes an attempt that begins.
    pub(super) fn attempt(&mut self, endpoint: &str, address: String, backoff: Duration) -> u64 {
        let started = self.started.elapsed();
        let span_id = trace::span_id(|| fastrand::u64(..));
        let record = self.record();
        record.upstream_address.clone_from(&address);
        record.attempts.push(Attempt {
            span_id,
            endpoint: endpoint.into(),
            address,
            started,
            duration: Duration::ZERO,
            backoff,
            http_status: 0,
            grpc_status: None,
            reason: None,
        });
        span_id
    }

    /// Notes how the last attempt went.
    pub(super) fn attempted(
        &mut self,
        http_status: u16,
        grpc_status: Option<GrpcCode>,
        reason: Option<Reason>,
    ) {
        let now = self.started.elapsed();
        let record = self.record();
        let Some(attempt) = record.attempts.last_mut() else { return };
        attempt.duration = now.saturating_sub(attempt.started);
        attempt.http_status = http_status;
        attempt.grpc_status = grpc_status;
        attempt.reason = reason;
        record.upstream = attempt.duration;
    }

    /// Ends it with an answer of the mesh.
    pub(super) fn refuse(mut self, rejection: &Rejection) -> Response<Bytes> {
        let response = answer::respond(rejection, self.audience);
        let record = self.record();
        record.reason = Some(rejection.reason);
        record.http_status = response.status().as_u16();
        record.grpc_status = record.grpc.then_some(rejection.grpc);
        record.response_bytes = u64::try_from(response.body().len()).unwrap_or(u64::MAX);
        self.close();
        response
    }

    /// Ends it: whatever is in the record stands.
    pub(super) fn end(mut self) {
        self.close();
    }

    /// Ends it without a trace: what it began is counted otherwise.
    pub(super) fn forget(mut self) {
        self.record = None;
    }

    fn close(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.duration = self.started.elapsed();
        if let Some(attempt) = record.attempts.last_mut()
            && attempt.duration.is_zero()
        {
            attempt.duration = record.duration.saturating_sub(attempt.started);
        }
        self.core.telemetry.finish(*record);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(record) = &mut self.record {
            let panicking = std::thread::panicking();
            let why = if panicking { Reason::Internal } else { Reason::CallerGone };
            record.reason.get_or_insert(why);
        }
        self.close();
    }
}

/// The caller's span; more than one is none.
fn parent(fields: &HeaderMap) -> Option<crate::telemetry::SpanContext> {
    let mut values = fields.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => trace::parse_traceparent(only.as_bytes()),
        _ => None,
    }
}

/// Without a parent it means nothing.
fn state(fields: &HeaderMap, has_parent: bool) -> String {
    if !has_parent {
        return String::new();
    }
    trace::tracestate(fields.get_all(TRACESTATE).iter().map(http::HeaderValue::as_bytes))
}
