//! One attempt of a request: pick an endpoint, take a place on a connection, send, wait for the head,
//! and say what it means for the endpoint and for the request.

use std::{
    cell::Cell,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{
    core::Core,
    destination::Entry,
    exchange::Exchange,
    fault,
    headers::{self, Far, Said},
    lane::Lane,
    route::Route,
    stream::{Answer, Caller, Lease, Upstream},
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
    snapshot::HeaderModifier,
    telemetry::{Record, SpanContext},
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
    pub(super) status: u16,
    /// The gRPC status that it says, of a gRPC call.
    said: Option<GrpcCode>,
    pub(super) upstream: Upstream,
    pub(super) tried: Tried<'a>,
    /// Whether a sidecar answered, which is believed.
    pub(super) from_sidecar: bool,
    pub(super) far: Far,
    /// When it came.
    pub(super) at: Instant,
    _in_flight: InFlight<'a>,
}

/// A response's head as it came.
struct Got {
    head: HeaderBlock,
    end: bool,
    status: u16,
}

/// An endpoint that was tried, to be told what came of it, once.
pub(super) struct Tried<'a> {
    entry: &'a Entry,
    member: &'a Member,
    observed: bool,
}

impl<'a> Tried<'a> {
    /// An endpoint that is about to be tried.
    pub(super) fn new(entry: &'a Entry, member: &'a Member) -> Self {
        Self { entry, member, observed: false }
    }

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

    /// Tells the balancer how long it took.
    pub(super) fn latency(&self, started: Instant, failed: bool, now: Instant) {
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
        let started = exchange.origin.worker.hub.moment();
        let member = pick(self.route, exchange, started)?;
        let mut made = None;
        let none = || Rejection::unseen(Reason::Internal, "an endpoint without a way to it");
        let lane = self.route.lane(member.place, exchange.audience.grpc, &mut made);
        let lane = lane.ok_or_else(none)?;
        let span = exchange.attempt(Arc::clone(&lane.place), backoff, started);
        // Towards the own application there is no span of the attempt: what the application does
        // hangs on the request itself.
        let span = if self.route.to_app { exchange.record.span } else { span };
        let from_sidecar = lane.is_mesh();
        exchange.record.tls |= from_sidecar;
        let in_flight = member.load.begin();
        let mut tried = Tried::new(&self.route.entry, member);
        let end = self.end(started);
        let lease = match exchange.origin.worker.pool.find(&lane.key, started) {
            Some(lease) if !exchange.said.has(Said::PROTOCOL) => Ok(lease),
            found => Box::pin(self.connect(exchange, lane, started, found)).await,
        };
        let before = self.seen.get();
        let sent = lease.and_then(|lease| self.send(exchange, lease, span, before));
        let got = match sent {
            Ok(mut upstream) => {
                let watch = &exchange.origin.worker.memory.watch;
                let heads = poll_fn(|cx| self.poll_head(cx, &mut upstream, lane, before));
                match watch.bound(end, heads).await {
                    Ok(Ok(got)) => Ok((upstream, got)),
                    Ok(Err(rejection)) => Err(rejection),
                    Err(_) => Err(self.too_late(started)),
                }
            }
            Err(rejection) => Err(rejection),
        };
        let (upstream, got) = match got {
            Ok(got) => got,
            Err(rejection) => {
                let now = Instant::now();
                tried.latency(started, true, now);
                tried.observe(exchange.core(), Verdict::of_reason(rejection.reason), now);
                exchange.attempted(0, None, Some(rejection.reason), now);
                return Err(rejection);
            }
        };
        let Got { mut head, end, status } = got;
        let far = headers::receive(&mut head, from_sidecar);
        self.seen.set(self.seen.get() || !far.unseen);
        let said = if exchange.audience.grpc { grpc::status(&head) } else { None };
        let at = upstream.last();
        let arrived = Arrived {
            head,
            end,
            status,
            said,
            upstream,
            tried,
            from_sidecar,
            far,
            at,
            _in_flight: in_flight,
        };
        Ok(arrived.observed(exchange, started))
    }

    /// Until when the head must have come: the attempt's own time or the request's, whichever ends
    /// first.
    fn end(&self, started: Instant) -> Option<Instant> {
        earlier(self.own_end(started), self.until.first())
    }

    fn own_end(&self, started: Instant) -> Option<Instant> {
        let own = self.route.settings().attempt_timeout;
        own.and_then(|timeout| started.checked_add(timeout))
    }

    fn too_late(&self, started: Instant) -> Rejection {
        let own = self.own_end(started);
        if own.is_some() && own == self.end(started) {
            Rejection::seen(Reason::AttemptTimeout, "the attempt took too long")
        } else {
            self.until.passed()
        }
    }

    /// Takes a place on a connection that has to be opened first, unless one was `found`, or whose peer
    /// has to say first whether it takes such requests.
    async fn connect(
        &self,
        exchange: &Exchange,
        lane: &Lane,
        started: Instant,
        found: Option<Lease>,
    ) -> Result<Lease, Rejection> {
        let bound = self.route.entry.destination.settings.connect_timeout;
        let worker = &exchange.origin.worker;
        let leased = async {
            let lease = match found {
                Some(lease) => lease,
                None => worker.pool.lease(&lane.key, bound).await?,
            };
            if exchange.said.has(Said::PROTOCOL) {
                // In its SETTINGS (RFC 8441 section 3).
                let _in_time = timeout(bound, lease.settled()).await;
            }
            Ok(lease)
        };
        let leased = worker.memory.watch.bound(self.end(started), leased).await;
        let leased = leased.map_err(|_| self.too_late(started))?;
        let draining = || exchange.core().inbound_drain.started();
        leased.map_err(|error| self.route.not_connected(error, draining()))
    }

    /// Sends it. What is seen of it is not known until there is an answer.
    fn send(
        &self,
        exchange: &mut Exchange,
        lease: Lease,
        span: SpanContext,
        before: bool,
    ) -> Result<Upstream, Rejection> {
        let sent = self.write(exchange, span, |head| {
            self.seen.set(true);
            lease.send(head, self.caller)
        })?;
        sent.map_err(|error| self.failed(fault::of_stream(error), before))
    }

    fn failed(&self, rejection: Rejection, before: bool) -> Rejection {
        let rejection = self.broken().unwrap_or(rejection);
        // An attempt that is known to be unseen takes back what was assumed while it ran.
        self.seen.set(before || !rejection.unseen);
        rejection
    }

    /// Waits for the head, and passes on what comes before it.
    fn poll_head(
        &self,
        cx: &Context<'_>,
        upstream: &mut Upstream,
        lane: &Lane,
        before: bool,
    ) -> Poll<Result<Got, Rejection>> {
        loop {
            let (mut head, end) = match ready!(upstream.poll_head(cx)) {
                Ok(Answer::Final { head, end }) => (head, Some(end)),
                Ok(Answer::Informational(head)) => (head, None),
                Err(error) => return Poll::Ready(Err(self.failed(upstream.fault(error), before))),
            };
            match (head.status(), end) {
                (102..=199, None) | (100, None) => {
                    headers::receive(&mut head, false);
                    self.caller.inform(&head);
                }
                (status @ 200.., Some(end)) => {
                    // Until the head has been read it is not known whether the far sidecar saw it.
                    self.seen.set(before);
                    return Poll::Ready(Ok(Got { head, end, status }));
                }
                (status, _) => {
                    let what = format!("{} answered {status}", lane.key.to);
                    let rejection = Rejection::seen(Reason::UpstreamProtocol, what);
                    return Poll::Ready(Err(rejection));
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
        let Record { head, trace_state, .. } = &mut exchange.record;
        let mark = head.mark();
        let until = self.until.deadline.map(|deadline| (deadline, Instant::now()));
        let sent = headers::write_own(head, &span, trace_state, until).map(|()| send(head));
        head.truncate(mark);
        sent
    }

    /// A caller that breaks its body off ends the attempt too, and the endpoint is not to blame.
    fn broken(&self) -> Option<Rejection> {
        self.caller.broken().then(|| Rejection::seen(Reason::CallerGone, fault::BODY_BROKEN))
    }
}

/// An endpoint, another one than those tried before where there is one.
pub(super) fn pick<'a>(
    route: &'a Route,
    exchange: &Exchange,
    now: Instant,
) -> Result<&'a Member, Rejection> {
    let attempts = &exchange.record.attempts;
    let tried: Vec<&str> = if attempts.is_empty() {
        Vec::new()
    } else {
        attempts.iter().map(|attempt| &*attempt.place.endpoint).collect()
    };
    let choice = Choice {
        balancing: route.entry.destination.settings.balancing,
        tried: &tried,
        now: now.into_std(),
        random: fastrand::u64(..),
    };
    route.entry.pool.pick(&choice).map_err(|none| {
        let what = format!("{} has {none}", route.entry.name);
        Rejection::unseen(Reason::NoEndpoint, what)
    })
}

impl Arrived<'_> {
    /// Tells the record and the endpoint what the head says.
    fn observed(mut self, exchange: &mut Exchange, started: Instant) -> Self {
        let is_grpc = exchange.audience.grpc;
        let code = self.grpc_status(is_grpc);
        exchange.attempted(self.status, code, self.far.reason, self.at);
        let verdict = match (self.far.reason, code) {
            (Some(reason), _) => Some(Verdict::of_reason(reason)),
            (None, Some(code)) => Some(Verdict::of_grpc(code)),
            // The status of a gRPC call comes with its last byte.
            (None, None) if is_grpc => None,
            (None, None) => Some(Verdict::of_http(self.status)),
        };
        self.tried.latency(started, matches!(verdict, Some(Verdict::Failing(_))), self.at);
        if let Some(verdict) = verdict {
            self.tried.observe(exchange.core(), verdict, self.at);
        }
        self
    }

    /// Makes a route's changes to the head.
    pub(super) fn modify<'m>(&mut self, modifiers: impl Iterator<Item = &'m HeaderModifier>) {
        for modifier in modifiers {
            headers::modify(&mut self.head, modifier);
            if self.said.is_some() {
                self.said = grpc::status(&self.head);
            }
        }
    }

    /// The status of a gRPC call that has ended with its head.
    pub(super) fn grpc_status(&self, is_grpc: bool) -> Option<GrpcCode> {
        if !is_grpc {
            return None;
        }
        self.said.or_else(|| (self.status != 200).then(|| grpc::from_http(self.status)))
    }

    /// Why another attempt might do better, if one might.
    pub(super) fn failure(&self, unseen: bool) -> Option<Outcome> {
        let failure = match (self.far.reason, self.said) {
            (Some(reason), _) => Failure::There(reason),
            (None, Some(GrpcCode::Ok)) => return None,
            (None, Some(code)) => Failure::Grpc(code),
            (None, None) if (400..600).contains(&self.status) => Failure::Http(self.status),
            (None, None) => return None,
        };
        // gRFC A6.
        let pushback = self.head.get(Token::GrpcRetryPushbackMs).map(parse_pushback);
        Some(Outcome { failure, unseen, pushback })
    }
}
