//! One request and its one record: opened when the head is read, closed exactly once, at the last byte
//! or when the request is dropped. Whoever ends a request does it through here, so that the answer
//! and what is counted, logged and traced can not disagree.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    connection::{Origin, Side},
    core::Core,
    headers::Said,
    plan::Plan,
    stream::Caller,
};
use crate::{
    clock,
    http::{
        HeaderBlock, Token,
        answer::{self, Audience, Rejection},
        grpc,
    },
    reason::{GrpcCode, Reason},
    telemetry::{Attempt, Attempts, Name, Place, Record, SpanContext, trace},
};

/// A request under way.
pub(super) struct Exchange {
    /// From where it comes.
    pub(super) origin: Rc<Origin>,
    /// What is known of it, and its head: what is sent on is made of it where it lies.
    pub(super) record: Record,
    /// What the head had as it came.
    pub(super) said: Said,
    /// When the head was read.
    pub(super) started: Instant,
    /// To whom answers go.
    pub(super) audience: Audience,
    closed: bool,
}

impl Exchange {
    /// Begins with a head that was read at `started`.
    pub(super) fn begin(origin: &Rc<Origin>, head: HeaderBlock, started: Instant) -> Self {
        let core = &origin.worker.core;
        let said = Said::of(&head);
        let grpc = is_grpc(&head);
        let parent = if said.has(Said::TRACEPARENT) { parent(&head) } else { None };
        let direction = origin.side.direction();
        let telemetry = &core.telemetry;
        let place = telemetry.begin(direction, parent, clock::since_epoch, || fastrand::u64(..));
        let authenticated = origin.side.peer().is_some();
        let inbound = matches!(origin.side, Side::Inbound { .. });
        let audience = Audience {
            grpc,
            head: !grpc && head.get(Token::Method) == Some(b"HEAD"),
            details: authenticated || !inbound,
            sidecar: authenticated,
            trace_id: place.span.trace_id,
        };
        let own = &core.own_name;
        let source = if inbound { &origin.caller } else { own };
        let record = Record {
            direction,
            started: Duration::ZERO,
            span: place.span,
            parent: place.parent,
            trace_state: if parent.is_some() { state(&head) } else { String::new() },
            source: source.into(),
            destination: if inbound { own.into() } else { Name::default() },
            port: 0,
            protocol: if grpc { "grpc" } else { origin.protocol() },
            head,
            written_authority: None,
            grpc,
            route: None,
            policy: Name::default(),
            http_status: 0,
            grpc_status: None,
            reason: None,
            attempts: Attempts::default(),
            source_address: Arc::clone(&origin.address),
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
        Self { origin: Rc::clone(origin), record, said, started, audience, closed: false }
    }

    /// What all workers share.
    pub(super) fn core(&self) -> &Core {
        &self.origin.worker.core
    }

    /// Notes where it goes.
    pub(super) fn goes(&mut self, plan: &Plan) {
        let Plan { route, destination, policy, decisions, .. } = plan;
        let metrics = self.origin.worker.core.telemetry.metrics();
        decisions.iter().for_each(|decision| metrics.decision(*decision));
        let record = &mut self.record;
        if !route.to_app {
            record.destination = destination.clone();
        }
        record.policy = policy.clone();
        record.port = route.port;
        record.route = route.rule.as_ref().map(|rule| Arc::clone(&rule.id));
        record.revision = route.revision;
    }

    /// Notes an attempt that begins now, and gives its span.
    pub(super) fn attempt(
        &mut self,
        place: Arc<Place>,
        backoff: Duration,
        now: Instant,
    ) -> SpanContext {
        let span_id = trace::span_id(|| fastrand::u64(..));
        self.record.attempts.push(Attempt {
            span_id,
            place,
            started: now.saturating_duration_since(self.started),
            duration: Duration::ZERO,
            backoff,
            http_status: 0,
            grpc_status: None,
            reason: None,
        });
        SpanContext { span_id, ..self.record.span }
    }

    /// Notes how the last attempt went.
    pub(super) fn attempted(
        &mut self,
        http_status: u16,
        grpc_status: Option<GrpcCode>,
        reason: Option<Reason>,
        now: Instant,
    ) {
        let passed = now.saturating_duration_since(self.started);
        let Some(attempt) = self.record.attempts.last_mut() else { return };
        attempt.duration = passed.saturating_sub(attempt.started);
        attempt.http_status = http_status;
        attempt.grpc_status = grpc_status;
        attempt.reason = reason;
        self.record.upstream = attempt.duration;
    }

    /// Ends it with an answer of the mesh.
    pub(super) fn refuse(&mut self, caller: &Caller, rejection: &Rejection) {
        if self.closed {
            return;
        }
        let (mut head, body) = answer::respond(rejection, self.audience);
        self.announce_end(&mut head);
        self.refused(rejection);
        self.record.http_status = head.status();
        self.record.response_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
        caller.answer(&head, body.as_bytes());
        self.end();
    }

    /// Notes why the mesh ends it.
    pub(super) fn refused(&mut self, rejection: &Rejection) {
        self.record.reason = Some(rejection.reason);
        self.record.grpc_status = self.record.grpc.then_some(rejection.grpc);
    }

    /// A connection that was open and unused when draining began ends with its first request.
    pub(super) fn announce_end(&self, head: &mut HeaderBlock) {
        if !self.origin.http2 && self.origin.counts.guard.draining() {
            head.push_token(Token::Connection, b"close");
        }
    }

    /// Ends it: whatever is in the record stands.
    pub(super) fn end(&mut self) {
        self.end_at(Instant::now());
    }

    /// The same at a time that is known.
    pub(super) fn end_at(&mut self, now: Instant) {
        self.end_after(now.saturating_duration_since(self.started));
    }

    /// The same after a time that is known.
    pub(super) fn end_after(&mut self, duration: Duration) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let record = &mut self.record;
        record.duration = duration;
        if let Some(attempt) = record.attempts.last_mut()
            && attempt.duration.is_zero()
        {
            attempt.duration = record.duration.saturating_sub(attempt.started);
        }
        let worker = &self.origin.worker;
        if worker.recorder.finish(record) {
            worker.hub.end_turn();
        }
    }

    /// Ends one that nobody has ended: whoever asked is gone, or its story panicked.
    pub(super) fn end_if_gone(&mut self) {
        if !self.closed {
            let panicking = std::thread::panicking();
            let why = if panicking { Reason::Internal } else { Reason::CallerGone };
            self.record.reason.get_or_insert(why);
            self.end();
        }
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.closed
    }

    /// Ends it without a trace: what it began is counted otherwise.
    pub(super) fn forget(&mut self) {
        self.closed = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end_if_gone();
        self.core().telemetry.end(self.record.direction);
    }
}

/// As [`crate::http::Head::is_grpc`] says it.
fn is_grpc(head: &HeaderBlock) -> bool {
    head.get(Token::Method) == Some(b"POST")
        && head.get(Token::ContentType).is_some_and(grpc::is_content_type)
}

/// The caller's span; more than one is none.
fn parent(head: &HeaderBlock) -> Option<SpanContext> {
    let mut values = head.all(Token::Traceparent);
    match (values.next(), values.next()) {
        (Some(only), None) => trace::parse_traceparent(only),
        _ => None,
    }
}

fn state(head: &HeaderBlock) -> String {
    if !head.contains(Token::Tracestate) {
        return String::new();
    }
    trace::tracestate(head.all(Token::Tracestate))
}
