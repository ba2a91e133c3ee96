//! The way of one request, as one story from top to bottom. Outbound and inbound differ by the route
//! that they answer with, and by nothing else:
//!
//! read the head → route (and authorize) → admit → \[ pick → forward → observe \] as often as the retry
//! schedule permits → pass the response on → record.
//!
//! The story is told by one future. Usually every step of it runs at once; what must wait parks this
//! request and nothing else. Bodies flow by themselves, between the two connections. When the caller
//! goes, the future is dropped where it stands, and that is recorded too.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    attempt::{Arrived, Task, Until},
    connection::{Origin, Side},
    ending::{self, Limits},
    exchange::Exchange,
    headers, inbound, outbound,
    route::Route,
    settings::REPLAY_BYTES_MAX,
    stream::{Caller, Incoming, Upstream},
    tunnel,
};
use crate::{
    http::{HeaderBlock, Token, answer::Rejection},
    reason::Reason,
    resilience::{
        Admission, Permit, Waiter, deadline,
        retry::{self, Decision, Failure, Outcome, Schedule, Situation, Stop},
    },
};

/// Answers one request; the answer may be the mesh's own.
pub(super) async fn serve(origin: Rc<Origin>, incoming: Incoming) {
    origin.requests.set(origin.requests.get() + 1);
    // With a protocol it is a request as any other (RFC 8441), and its answer a body both ways.
    let plain = !incoming.head.contains(Token::Protocol);
    if plain && incoming.head.get(Token::Method) == Some(b"CONNECT") {
        return Box::pin(tunnel::connect(origin, incoming)).await;
    }
    let exchange = Exchange::begin(&origin, incoming.head);
    let mut telling = Telling { exchange, caller: incoming.caller, upstream: None };
    if let Err(rejection) = story(&mut telling).await {
        telling.count_bodies();
        telling.exchange.refuse(&telling.caller, &rejection);
    }
}

/// Refuses and records a request whose head was read and of which nothing more becomes.
pub(super) fn refuse(
    origin: &Rc<Origin>,
    head: HeaderBlock,
    caller: &Caller,
    rejection: &Rejection,
) {
    origin.requests.set(origin.requests.get() + 1);
    Exchange::begin(origin, head).refuse(caller, rejection);
}

/// What is said of a request for which a draining proxy has no more time.
pub(super) const DRAINING: &str = "the sidecar is ending";

/// A request with the two ends between which its bodies flow.
pub(super) struct Telling {
    pub(super) exchange: Exchange,
    pub(super) caller: Caller,
    /// Whose response is passed on.
    pub(super) upstream: Option<Upstream>,
}

impl Telling {
    /// Notes what has flowed so far.
    pub(super) fn count_bodies(&mut self) {
        let record = &mut self.exchange.record;
        let received = self.caller.received();
        record.request_bytes = received.bytes;
        record.stream = received.many;
        if let Some(upstream) = &self.upstream {
            let passed = upstream.passed();
            record.response_bytes = passed.bytes;
            record.stream |= passed.many;
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if !self.exchange.is_over() {
            self.count_bodies();
            if self.exchange.core().cut_off.started() && !std::thread::panicking() {
                ending::cut_off(self);
            }
        }
        self.exchange.end_if_gone();
        self.caller.recycle(std::mem::take(&mut self.exchange.record.head));
    }
}

/// Until the last byte; an error is what is to be answered instead.
async fn story(telling: &mut Telling) -> Result<(), Rejection> {
    let Telling { exchange, caller, .. } = telling;
    refuse_loop(&exchange.origin)?;
    settle_authority(exchange)?;
    let deadline = caller_deadline(exchange)?;
    headers::strip_request(&mut exchange.head);
    let (route, mut schedule) = route(exchange, deadline).await?;

    let settings = route.settings();
    let end_of = |time: Option<Duration>| time.and_then(|time| exchange.started.checked_add(time));
    let until = Until { deadline, request: end_of(settings.request_timeout) };
    let stream_end = end_of(settings.stream_max);
    let limits = Limits { deadline, stream_end, idle: settings.stream_idle };
    rewrite(exchange, &route);

    // Held until the last byte.
    let _permit = admit(exchange, &route, &until).await?;
    // What the bulkhead refused loads nobody, and so earns no retries.
    let budget = &route.entry.destination.settings.budget;
    let now = exchange.started + exchange.record.queued;
    route.entry.budget.count_request(budget, now.into_std());
    caller.keep(REPLAY_BYTES_MAX);
    let task = Task { route: &route, caller, until, seen: Cell::new(false) };
    let mut arrived = attempts(&task, exchange, &mut schedule).await.map_err(|rejection| {
        // Whether the request was unseen is a fact about all of its attempts.
        Rejection { unseen: !task.seen.get(), ..rejection }
    })?;
    caller.commit();

    for modifier in route.response_modifiers() {
        headers::modify(&mut arrived.head, modifier);
    }
    ending::pass_on(telling, arrived, limits).await;
    Ok(())
}

fn refuse_loop(origin: &Origin) -> Result<(), Rejection> {
    if origin.looped {
        let what = "the connection comes from this proxy itself: an address leads back to it";
        return Err(Rejection::unseen(Reason::Loop, what));
    }
    Ok(())
}

/// Leaves in the head the one authority that the request is for: the listener's, where it leads to
/// one service.
fn settle_authority(exchange: &mut Exchange) -> Result<(), Rejection> {
    let Exchange { origin, head, record, .. } = exchange;
    if let Some((service, port)) = origin.side.fixed() {
        let fixed = origin.once.authority.get_or_init(|| format!("{service}:{port}").into());
        let written = head.text(Token::Authority).or_else(|| head.text(Token::Host));
        if head.get(Token::Authority) != Some(fixed.as_bytes()) {
            record.written_authority = Some(written.unwrap_or_default().into());
            head.set(Token::Authority, fixed.as_bytes());
        }
        return Ok(());
    }
    let authority = headers::authority(head)?;
    if !head.contains(Token::Authority) {
        let authority = authority.to_owned();
        head.set(Token::Authority, authority.as_bytes());
    }
    Ok(())
}

/// The deadline that the request came with.
fn caller_deadline(exchange: &mut Exchange) -> Result<Option<Instant>, Rejection> {
    let value = exchange.head.get(Token::GrpcTimeout).filter(|_| exchange.audience.grpc);
    let Some(value) = value else { return Ok(None) };
    let timeout = deadline::parse_grpc_timeout(value)
        .map_err(|error| Rejection::unseen(Reason::Malformed, error.to_string()))?;
    exchange.record.deadline = Some(timeout);
    Ok(exchange.started.checked_add(timeout))
}

/// Finds out where it goes and on what terms, and how often it may be tried again.
async fn route(
    exchange: &mut Exchange,
    deadline: Option<Instant>,
) -> Result<(Route, Schedule), Rejection> {
    let Exchange { origin, head, record, .. } = exchange;
    let authority = head.text(Token::Authority).unwrap_or_default();
    let head = headers::view(head, authority)?;
    let core = &origin.worker.core;
    let watch = &origin.worker.memory.watch;
    let until = Until { deadline, request: None };
    let route = match &origin.side {
        Side::Outbound { fixed } => {
            let route = until.bound(watch, outbound::route(origin, &head)).await.flatten();
            if route.is_err()
                && let Some(service) = outbound::meant(core, fixed.as_ref(), authority)
            {
                record.destination = service.to_string().into();
            }
            route
        }
        Side::Inbound { .. } => {
            let route = inbound::route(origin, &head, &mut record.policy);
            until.bound(watch, route).await.flatten()
        }
    };
    let route = route.map_err(|rejection| Rejection { unseen: true, ..rejection })?;
    if !route.to_app {
        record.destination = (&route.entry.name).into();
    }
    record.port = route.port;
    record.route = route.rule.as_ref().map(|rule| Arc::clone(&rule.id));
    record.revision = route.revision;
    let schedule = Schedule::new(route.settings().retry.as_ref(), &head);
    Ok((route, schedule))
}

/// Makes the head what every attempt sends, but for a few fields.
fn rewrite(exchange: &mut Exchange, route: &Route) {
    let timed = exchange.record.deadline.is_some();
    let Exchange { origin, head, record, .. } = exchange;
    if let Some(authority) = &route.authority
        && head.get(Token::Authority) != Some(authority.as_bytes())
    {
        record.written_authority = head.text(Token::Authority).map(Into::into);
        head.set(Token::Authority, authority.as_bytes());
    }
    for modifier in route.request_modifiers() {
        headers::modify(head, modifier);
    }
    // After the route's changes, which can not forge them.
    headers::strip_own(head, timed);
    if route.to_app
        && let Some(client_cert) = inbound::client_cert(origin)
    {
        head.set(Token::XForwardedClientCert, client_cert.as_bytes());
    }
}

/// Takes a place in the bulkhead.
pub(super) async fn admit(
    exchange: &mut Exchange,
    route: &Route,
    until: &Until,
) -> Result<Option<Permit>, Rejection> {
    let Some((bulkhead, wait_max)) = &route.bulkhead else { return Ok(None) };
    let refused = |reason, why: &str| {
        let (name, most) = (&route.entry.name, bulkhead.concurrent_max());
        Rejection::unseen(reason, format!("{name}: {most} requests under way and {why}"))
    };
    match bulkhead.try_admit() {
        Admission::Admitted(permit) => Ok(Some(permit)),
        Admission::Full => Err(refused(Reason::BulkheadFull, "the queue is full")),
        Admission::Wait(waiter) => {
            let permit = Box::pin(queue(exchange, waiter, *wait_max, until)).await?;
            let waited_too_long = || {
                let why = format!("no place within {}s", wait_max.as_secs_f64());
                refused(Reason::BulkheadWait, &why)
            };
            permit.ok_or_else(waited_too_long).map(Some)
        }
    }
}

/// Waits for a place, at most as long as the bulkhead says; `None`: that was too short.
async fn queue(
    exchange: &mut Exchange,
    waiter: Waiter,
    wait_max: Duration,
    until: &Until,
) -> Result<Option<Permit>, Rejection> {
    let started = Instant::now();
    let watch = &exchange.origin.worker.memory.watch;
    let waited = watch.bound(started.checked_add(wait_max), waiter);
    let waited = until.bound(watch, waited).await;
    exchange.record.queued = started.elapsed();
    Ok(waited?.ok())
}

/// Attempts until a head comes that is passed on, or nothing more may be tried.
async fn attempts<'a>(
    task: &Task<'a, '_>,
    exchange: &mut Exchange,
    schedule: &mut Schedule,
) -> Result<Arrived<'a>, Rejection> {
    let settings = task.route.settings();
    let mut backoff = Duration::ZERO;
    loop {
        let ended = task.attempt(exchange, backoff).await;
        let Some(outcome) = outcome(task, exchange, &ended) else { return ended };
        let entry = &task.route.entry;
        let situation = Situation {
            now: Instant::now().into_std(),
            deadline: task.until.first().map(Instant::into_std),
            replayable: task.caller.is_whole(),
            budget: &entry.budget,
            budget_settings: &entry.destination.settings.budget,
            random: fastrand::u64(..),
        };
        match retry::decide(schedule, settings.retry.as_ref(), outcome, &situation) {
            Decision::Retry { after, .. } => backoff = after,
            Decision::Stop(stop) => {
                if stop == Stop::Budget {
                    exchange.core().telemetry.metrics().retry_budget_exhausted(&entry.name);
                }
                return ended;
            }
        }
        // Let go of the failed attempt's stream before the pause.
        drop(ended);
        if !backoff.is_zero() {
            let watch = &exchange.origin.worker.memory.watch;
            Box::pin(task.until.bound(watch, sleep(backoff))).await?;
        }
    }
}

/// What is to be said about a failed attempt; `None`: its answer stands.
fn outcome(
    task: &Task<'_, '_>,
    exchange: &Exchange,
    ended: &Result<Arrived<'_>, Rejection>,
) -> Option<Outcome> {
    let unseen = !task.seen.get();
    match ended {
        Ok(arrived) => arrived.failure(exchange.audience.grpc, unseen),
        // Its own application is not reached better a moment later; another instance's may be.
        Err(Rejection { reason: Reason::AppUnreachable | Reason::Draining, .. }) => None,
        // The caller's sidecar tries again by itself, and knows other instances: tries at both
        // ends would multiply.
        Err(_) if task.route.to_app && exchange.audience.sidecar => None,
        Err(rejection) => {
            let failure = Failure::Here(rejection.reason);
            Some(Outcome { failure, unseen, pushback: None })
        }
    }
}
