//! One attempt of a request: pick an endpoint, take a place on a connection, send, wait for the head,
//! and say what it means for the endpoint and for the request.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Response, response};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::{
    connection::Origin,
    core::Core,
    destination::Entry,
    dial::DialError,
    exchange::Exchange,
    fault,
    headers::{self, Far, Form, Outgoing, TRACEPARENT, TRACESTATE},
    pool::{How, Key, Lease},
    route::Route,
};
use crate::{
    balance::{Choice, InFlight, Member},
    http::{Replay, answer::Rejection, grpc},
    reason::{GrpcCode, Reason},
    resilience::{
        Permit, Verdict, deadline,
        retry::{Failure, Outcome, parse_pushback},
    },
    telemetry::{SpanContext, trace},
};

/// gRFC A6.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What every attempt of one request has in common.
pub(super) struct Task<'a> {
    pub(super) origin: &'a Rc<Origin>,
    pub(super) route: &'a Route,
    pub(super) outgoing: &'a Outgoing,
    pub(super) replay: &'a Replay<Incoming>,
    /// Until when a head must have come.
    pub(super) until: Until,
    /// Whether any attempt may have written a byte towards an application.
    pub(super) seen: &'a Cell<bool>,
}

/// Until when a head must have come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until {
    /// The caller's deadline, which covers the last byte too.
    pub(super) deadline: Option<Instant>,
    /// The end of the route's time for the request.
    pub(super) request: Option<Instant>,
}

impl Until {
    /// Whichever ends first.
    pub(super) fn first(&self) -> Option<Instant> {
        deadline::earlier(self.deadline.map(Instant::into_std), self.request.map(Instant::into_std))
            .map(Instant::from_std)
    }

    /// Why a request is refused at that moment.
    pub(super) fn passed(&self) -> Rejection {
        if self.deadline.is_some() && self.deadline == self.first() {
            Rejection::seen(Reason::Deadline, "the caller's deadline passed")
        } else {
            Rejection::seen(Reason::RequestTimeout, "the request took too long")
        }
    }

    /// Bounds something that is done for the request.
    pub(super) async fn bound<T>(&self, what: impl Future<Output = T>) -> Result<T, Rejection> {
        match self.first() {
            None => Ok(what.await),
            Some(end) => timeout_at(end, what).await.map_err(|_| self.passed()),
        }
    }
}

/// A response head, and what is held for its body.
pub(super) struct Arrived {
    pub(super) parts: response::Parts,
    pub(super) upstream: Incoming,
    pub(super) lease: Lease,
    pub(super) in_flight: InFlight,
    pub(super) tried: Tried,
    pub(super) from_sidecar: bool,
    pub(super) far: Far,
}

/// What a response body holds until its last byte.
pub(super) struct Held {
    pub(super) replay: Replay<Incoming>,
    pub(super) tried: Tried,
    /// Whether a sidecar answered, which is believed.
    pub(super) from_sidecar: bool,
    pub(super) counted: Option<(Option<Permit>, InFlight, Lease)>,
}

impl Held {
    /// Lets go of everything that counts it as under way.
    pub(super) fn cancel(&mut self) {
        self.counted = None;
    }
}

/// An endpoint that was tried, to be told what came of it, once.
pub(super) struct Tried {
    core: Arc<Core>,
    entry: Arc<Entry>,
    member: Member,
    observed: bool,
}

impl Tried {
    /// Tells outlier detection; later calls change nothing.
    pub(super) fn observe(&mut self, verdict: Verdict) {
        if std::mem::replace(&mut self.observed, true) {
            return;
        }
        let settings = &self.entry.destination.settings.outlier;
        let now = Instant::now().into_std();
        if let Some(pause) = self.entry.pool.observe(settings, &self.member, verdict, now) {
            let endpoint = &self.member.endpoint.name;
            tracing::info!(destination = %self.entry.name, endpoint, ?pause, "ejected");
            self.core.telemetry.metrics().ejected(&self.entry.name);
        }
    }

    fn latency(&self, started: Instant, failed: bool) {
        let now = Instant::now();
        self.member.load.observe(now - started, failed, now.into_std());
    }
}

impl Task<'_> {
    /// Makes one attempt. `tried` are the names of endpoints that were tried before; the one that is
    /// picked is added.
    pub(super) async fn attempt(
        &self,
        exchange: &mut Exchange,
        tried: &mut Vec<String>,
        backoff: Duration,
    ) -> Result<Arrived, Rejection> {
        let started = Instant::now();
        let member = self.pick(tried)?.clone();
        tried.push(member.endpoint.name.clone());
        let grpc = exchange.audience().grpc;
        let key = self.route.key(&member.endpoint, grpc);
        let span_id = exchange.attempt(&member.endpoint.name, key.to.to_string(), backoff);
        let request = exchange.record().span;
        // Towards the own application there is no span of the attempt: what the application does
        // hangs on the request itself.
        let span = match self.route.app {
            Some(_) => request,
            None => SpanContext { span_id, ..request },
        };
        exchange.record().tls |= matches!(key.how, How::Mesh(_));
        let trace_state = exchange.record().trace_state.clone();
        let in_flight = member.load.begin();
        let mut endpoint = Tried {
            core: Arc::clone(exchange.core()),
            entry: Arc::clone(&self.route.entry),
            member,
            observed: false,
        };
        let end = self.route.settings().attempt_timeout.map(|timeout| started + timeout);
        let heads = within(end, self.exchange_heads(&key, span, &trace_state));
        let (response, lease) = match self.until.bound(heads).await.flatten() {
            Ok(done) => done,
            Err(rejection) => {
                endpoint.latency(started, true);
                endpoint.observe(Verdict::of_reason(rejection.reason));
                exchange.attempted(0, None, Some(rejection.reason));
                return Err(rejection);
            }
        };
        let (mut parts, upstream) = response.into_parts();
        let from_sidecar = matches!(key.how, How::Mesh(_));
        let far = headers::receive(&mut parts, from_sidecar);
        self.seen.set(self.seen.get() || !far.unseen);
        let arrived =
            Arrived { parts, upstream, lease, in_flight, tried: endpoint, from_sidecar, far };
        Ok(arrived.observed(exchange, started, grpc))
    }

    fn pick(&self, tried: &[String]) -> Result<&Member, Rejection> {
        let tried: Vec<&str> = tried.iter().map(String::as_str).collect();
        let choice = Choice {
            balancing: self.route.entry.destination.settings.balancing,
            tried: &tried,
            now: Instant::now().into_std(),
            random: fastrand::u64(..),
        };
        self.route.entry.pool.pick(&choice).map_err(|none| {
            let what = format!("{} has {none}", self.route.entry.name);
            Rejection::unseen(Reason::NoEndpoint, what)
        })
    }

    /// Connects, sends and waits for the head.
    async fn exchange_heads(
        &self,
        key: &Key,
        span: SpanContext,
        trace_state: &str,
    ) -> Result<(Response<Incoming>, Lease), Rejection> {
        let bound = self.route.entry.destination.settings.connect_timeout;
        let leased = self.origin.worker.pool.lease(key, bound).await;
        let mut lease = leased.map_err(|error| self.not_connected(error))?;
        let form = match (lease.is_http2(), &self.route.by_proxy) {
            (true, _) => Form::Http2,
            (false, Some(_)) => Form::Absolute,
            (false, None) => Form::Origin,
        };
        let request =
            self.outgoing.request(form, self.own_fields(span, trace_state)?, self.replay.attempt());
        let before = self.seen.replace(true);
        let sent = lease.send(request).await;
        let response = sent.map_err(|failed| {
            let rejection = self.broken().unwrap_or_else(|| fault::of_send(&failed));
            // An attempt that is known to be unseen takes back what was assumed while it ran.
            self.seen.set(before || !rejection.unseen);
            rejection
        })?;
        if response.status().is_informational() {
            let what = format!("{} answered {}", key.to, response.status());
            return Err(Rejection::seen(Reason::UpstreamProtocol, what));
        }
        // Until the head has been read it is not known whether the far sidecar saw it.
        self.seen.set(before);
        Ok((response, lease))
    }

    /// A caller that breaks its body off ends the attempt too, and the endpoint is not to blame.
    fn broken(&self) -> Option<Rejection> {
        self.replay.is_broken().then(|| Rejection::seen(Reason::CallerGone, fault::BODY_BROKEN))
    }

    fn not_connected(&self, error: DialError) -> Rejection {
        let reason = match error.reason {
            Reason::ConnectFailed | Reason::ConnectTimeout if self.route.app.is_some() => {
                Reason::AppUnreachable
            }
            other => other,
        };
        Rejection::unseen(reason, error.what)
    }

    /// Trace context and what is left of the deadline.
    fn own_fields(
        &self,
        span: SpanContext,
        trace_state: &str,
    ) -> Result<impl Iterator<Item = (http::HeaderName, HeaderValue)>, Rejection> {
        let traceparent = HeaderValue::from_str(trace::format(&span).as_str()).ok();
        let state = Some(trace_state).filter(|state| !state.is_empty());
        let state = state.and_then(|state| HeaderValue::from_str(state).ok());
        let timeout = match self.until.deadline {
            None => None,
            Some(end) => {
                let left = deadline::left(end.into_std(), Instant::now().into_std());
                let left = left.ok_or_else(|| {
                    Rejection::unseen(Reason::Deadline, "the caller's deadline passed")
                })?;
                HeaderValue::try_from(deadline::format_grpc_timeout(left)).ok()
            }
        };
        let fields = [(TRACEPARENT, traceparent), (TRACESTATE, state), (grpc::TIMEOUT, timeout)];
        Ok(fields.into_iter().filter_map(|(name, value)| Some((name, value?))))
    }
}

impl Arrived {
    /// Tells the record and the endpoint what the head says.
    fn observed(mut self, exchange: &mut Exchange, started: Instant, is_grpc: bool) -> Self {
        let status = self.parts.status.as_u16();
        let code = self.grpc_status(is_grpc);
        exchange.attempted(status, code, self.far.reason);
        let verdict = match (self.far.reason, code) {
            (Some(reason), _) => Some(Verdict::of_reason(reason)),
            (None, Some(code)) => Some(Verdict::of_grpc(code)),
            // The status of a gRPC call comes with its last byte.
            (None, None) if is_grpc => None,
            (None, None) => Some(Verdict::of_http(status)),
        };
        self.tried.latency(started, verdict == Some(Verdict::Failing));
        if let Some(verdict) = verdict {
            self.tried.observe(verdict);
        }
        self
    }

    /// The status of a gRPC call that has ended with its head.
    pub(super) fn grpc_status(&self, is_grpc: bool) -> Option<GrpcCode> {
        let ok = self.parts.status == http::StatusCode::OK;
        let said = grpc::status(&self.parts.headers).filter(|_| is_grpc);
        said.or_else(|| (is_grpc && !ok).then(|| grpc::from_http(self.parts.status.as_u16())))
    }

    /// Why another attempt might do better, if one might.
    pub(super) fn failure(&self, is_grpc: bool, unseen: bool) -> Option<Outcome> {
        let status = self.parts.status;
        let code = grpc::status(&self.parts.headers).filter(|_| is_grpc);
        let failure = match (self.far.reason, code) {
            (Some(reason), _) => Failure::There(reason),
            (None, Some(GrpcCode::Ok)) => return None,
            (None, Some(code)) => Failure::Grpc(code),
            (None, None) if status.is_client_error() || status.is_server_error() => {
                Failure::Http(status.as_u16())
            }
            (None, None) => return None,
        };
        let pushback = self.parts.headers.get(PUSHBACK);
        let pushback = pushback.map(|value| parse_pushback(value.as_bytes()));
        Some(Outcome { failure, unseen, pushback })
    }
}

/// Bounds an attempt.
async fn within<T>(
    end: Option<Instant>,
    attempt: impl Future<Output = Result<T, Rejection>>,
) -> Result<T, Rejection> {
    let Some(end) = end else { return attempt.await };
    timeout_at(end, attempt).await.unwrap_or_else(|_| {
        Err(Rejection::seen(Reason::AttemptTimeout, "the attempt took too long"))
    })
}
