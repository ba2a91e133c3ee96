//! One attempt of a request: pick an endpoint, take a place on a connection, send, wait for the head,
//! and say what it means for the endpoint and for the request.

use std::{cell::Cell, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    core::Core,
    destination::Entry,
    dial::DialError,
    exchange::Exchange,
    fault,
    headers::{self, Far},
    lane::Lane,
    route::Route,
    stream::{Answer, Caller, Upstream},
    watch::Watch,
};
use crate::{
    balance::{Choice, InFlight, Member},
    http::{HeaderBlock, Token, answer::Rejection, grpc},
    reason::{GrpcCode, Reason},
    resilience::{
        Verdict, deadline,
        retry::{Failure, Outcome, parse_pushback},
    },
    telemetry::SpanContext,
};

/// What every attempt of one request has in common.
pub(super) struct Task<'a, 'c> {
    pub(super) route: &'a Route,
    pub(super) caller: &'c Caller,
    /// Until when a head must have come.
    pub(super) until: Until,
    /// Whether any attempt may have written a byte towards an application.
    pub(super) seen: Cell<bool>,
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
        earlier(self.deadline, self.request)
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
    pub(super) async fn bound<T>(
        &self,
        watch: &Watch,
        what: impl Future<Output = T>,
    ) -> Result<T, Rejection> {
        watch.bound(self.first(), what).await.map_err(|_| self.passed())
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    deadline::earlier(one.map(Instant::into_std), other.map(Instant::into_std))
        .map(Instant::from_std)
}

/// A response head, and what is held for its body.
pub(super) struct Arrived<'a> {
    pub(super) head: HeaderBlock,
    /// Whether nothing follows it.
    pub(super) end: bool,
    pub(super) upstream: Upstream,
    pub(super) tried: Tried<'a>,
    /// Whether a sidecar answered, which is believed.
    pub(super) from_sidecar: bool,
    pub(super) far: Far,
    /// When it came.
    pub(super) at: Instant,
    _in_flight: InFlight<'a>,
}

/// An endpoint that was tried, to be told what came of it, once.
pub(super) struct Tried<'a> {
    entry: &'a Entry,
    member: &'a Member,
    observed: bool,
}

impl Tried<'_> {
    /// Tells outlier detection; later calls change nothing.
    pub(super) fn observe(&mut self, core: &Core, verdict: Verdict, now: Instant) {
        if std::mem::replace(&mut self.observed, true) {
            return;
        }
        let settings = &self.entry.destination.settings.outlier;
        let ejected = self.entry.pool.observe(settings, self.member, verdict, now.into_std());
        if let Some(pause) = ejected {
            let endpoint = &self.member.endpoint.name;
            tracing::info!(destination = %self.entry.name, endpoint, ?pause, "ejected");
            core.telemetry.metrics().ejected(&self.entry.name);
        }
    }

    fn latency(&self, started: Instant, failed: bool, now: Instant) {
        self.member.load.observe(now - started, failed, now.into_std());
    }
}

impl<'a> Task<'a, '_> {
    /// Makes one attempt, `backoff` after the last one.
    pub(super) async fn attempt(
        &self,
        exchange: &mut Exchange,
        backoff: Duration,
    ) -> Result<Arrived<'a>, Rejection> {
        let started = Instant::now();
        let grpc = exchange.audience.grpc;
        let member = self.pick(exchange, started)?;
        let mut made = None;
        let none = || Rejection::unseen(Reason::Internal, "an endpoint without a way to it");
        let lane = self.route.lane(member.place, grpc, &mut made).ok_or_else(none)?;
        let span = exchange.attempt(Arc::clone(&lane.place), backoff, started);
        // Towards the own application there is no span of the attempt: what the application does
        // hangs on the request itself.
        let span = if self.route.to_app { exchange.record.span } else { span };
        exchange.record.tls |= lane.is_mesh();
        let in_flight = member.load.begin();
        let mut tried = Tried { entry: &self.route.entry, member, observed: false };
        let got = self.heads_in_time(exchange, lane, span, started).await;
        let now = Instant::now();
        let (upstream, mut head, end) = match got {
            Ok(got) => got,
            Err(rejection) => {
                tried.latency(started, true, now);
                tried.observe(exchange.core(), Verdict::of_reason(rejection.reason), now);
                exchange.attempted(0, None, Some(rejection.reason), now);
                return Err(rejection);
            }
        };
        let from_sidecar = lane.is_mesh();
        let far = headers::receive(&mut head, from_sidecar);
        self.seen.set(self.seen.get() || !far.unseen);
        let arrived = Arrived {
            head,
            end,
            upstream,
            tried,
            from_sidecar,
            far,
            at: now,
            _in_flight: in_flight,
        };
        Ok(arrived.observed(exchange, started))
    }

    fn pick(&self, exchange: &Exchange, now: Instant) -> Result<&'a Member, Rejection> {
        let attempts = exchange.record.attempts.iter();
        let tried: Vec<&str> = attempts.map(|attempt| &*attempt.place.endpoint).collect();
        let choice = Choice {
            balancing: self.route.entry.destination.settings.balancing,
            tried: &tried,
            now: now.into_std(),
            random: fastrand::u64(..),
        };
        self.route.entry.pool.pick(&choice).map_err(|none| {
            let what = format!("{} has {none}", self.route.entry.name);
            Rejection::unseen(Reason::NoEndpoint, what)
        })
    }

    /// Bounds the exchange of heads by the attempt's own time and by the request's.
    async fn heads_in_time(
        &self,
        exchange: &mut Exchange,
        lane: &Lane,
        span: SpanContext,
        started: Instant,
    ) -> Result<(Upstream, HeaderBlock, bool), Rejection> {
        let own = self.route.settings().attempt_timeout;
        let own = own.and_then(|timeout| started.checked_add(timeout));
        let end = earlier(own, self.until.first());
        let worker = std::rc::Rc::clone(&exchange.origin.worker);
        let heads = self.exchange_heads(exchange, lane, span);
        worker.memory.watch.bound(end, heads).await.unwrap_or_else(|_| {
            Err(if own.is_some() && own == end {
                Rejection::seen(Reason::AttemptTimeout, "the attempt took too long")
            } else {
                self.until.passed()
            })
        })
    }

    /// Connects, sends and waits for the head.
    async fn exchange_heads(
        &self,
        exchange: &mut Exchange,
        lane: &Lane,
        span: SpanContext,
    ) -> Result<(Upstream, HeaderBlock, bool), Rejection> {
        let bound = self.route.entry.destination.settings.connect_timeout;
        let leased = exchange.origin.worker.pool.lease(&lane.key, bound).await;
        let lease = leased.map_err(|error| self.not_connected(error))?;
        let before = self.seen.get();
        let sent = self.write(exchange, span, |head| {
            self.seen.set(true);
            lease.send(head, self.caller)
        })?;
        let failed = |rejection: Rejection| {
            let rejection = self.broken().unwrap_or(rejection);
            // An attempt that is known to be unseen takes back what was assumed while it ran.
            self.seen.set(before || !rejection.unseen);
            rejection
        };
        let mut upstream = sent.map_err(|error| failed(fault::of_stream(error)))?;
        loop {
            let answer = upstream.head().await;
            let (mut head, end) = match answer {
                Ok(Answer::Final { head, end }) => (head, Some(end)),
                Ok(Answer::Informational(head)) => (head, None),
                Err(error) => return Err(failed(upstream.fault(error))),
            };
            match (head.status(), end) {
                (102..=199, None) | (100, None) => {
                    headers::receive(&mut head, false);
                    self.caller.inform(&head);
                }
                (200.., Some(end)) => {
                    // Until the head has been read it is not known whether the far sidecar saw it.
                    self.seen.set(before);
                    return Ok((upstream, head, end));
                }
                (status, _) => {
                    let what = format!("{} answered {status}", lane.key.to);
                    return Err(Rejection::seen(Reason::UpstreamProtocol, what));
                }
            }
        }
    }

    /// Sends the head with the fields of this attempt, which are then taken out of it again.
    fn write<T>(
        &self,
        exchange: &mut Exchange,
        span: SpanContext,
        send: impl FnOnce(&HeaderBlock) -> T,
    ) -> Result<T, Rejection> {
        let Exchange { head, record, .. } = exchange;
        let mark = head.mark();
        let until = self.until.deadline.map(|deadline| (deadline, Instant::now()));
        let sent = headers::write_own(head, &span, &record.trace_state, until).map(|()| send(head));
        head.truncate(mark);
        sent
    }

    /// A caller that breaks its body off ends the attempt too, and the endpoint is not to blame.
    fn broken(&self) -> Option<Rejection> {
        self.caller.broken().then(|| Rejection::seen(Reason::CallerGone, fault::BODY_BROKEN))
    }

    fn not_connected(&self, error: DialError) -> Rejection {
        let reason = match error.reason {
            Reason::ConnectFailed | Reason::ConnectTimeout if self.route.to_app => {
                Reason::AppUnreachable
            }
            other => other,
        };
        Rejection::unseen(reason, error.what)
    }
}

impl Arrived<'_> {
    /// Tells the record and the endpoint what the head says.
    fn observed(mut self, exchange: &mut Exchange, started: Instant) -> Self {
        let is_grpc = exchange.audience.grpc;
        let status = self.head.status();
        let code = self.grpc_status(is_grpc);
        exchange.attempted(status, code, self.far.reason, self.at);
        let verdict = match (self.far.reason, code) {
            (Some(reason), _) => Some(Verdict::of_reason(reason)),
            (None, Some(code)) => Some(Verdict::of_grpc(code)),
            // The status of a gRPC call comes with its last byte.
            (None, None) if is_grpc => None,
            (None, None) => Some(Verdict::of_http(status)),
        };
        self.tried.latency(started, matches!(verdict, Some(Verdict::Failing(_))), self.at);
        if let Some(verdict) = verdict {
            self.tried.observe(exchange.core(), verdict, self.at);
        }
        self
    }

    /// The status of a gRPC call that has ended with its head.
    pub(super) fn grpc_status(&self, is_grpc: bool) -> Option<GrpcCode> {
        if !is_grpc {
            return None;
        }
        let status = self.head.status();
        grpc::status(&self.head).or_else(|| (status != 200).then(|| grpc::from_http(status)))
    }

    /// Why another attempt might do better, if one might.
    pub(super) fn failure(&self, is_grpc: bool, unseen: bool) -> Option<Outcome> {
        let status = self.head.status();
        let code = grpc::status(&self.head).filter(|_| is_grpc);
        let failure = match (self.far.reason, code) {
            (Some(reason), _) => Failure::There(reason),
            (None, Some(GrpcCode::Ok)) => return None,
            (None, Some(code)) => Failure::Grpc(code),
            (None, None) if (400..600).contains(&status) => Failure::Http(status),
            (None, None) => return None,
        };
        // gRFC A6.
        let pushback = self.head.get(Token::GrpcRetryPushbackMs).map(parse_pushback);
        Some(Outcome { failure, unseen, pushback })
    }
}
