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
    headers::{self, Said},
    inbound, outbound,
    plan::Plan,
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
    let Incoming { head, caller } = incoming;
    // With a protocol it is a request as any other (RFC 8441), and its answer a body both ways.
    if head.get(Token::Method) == Some(b"CONNECT") && !head.contains(Token::Protocol) {
        return Box::pin(tunnel::connect(origin, Incoming { head, caller })).await;
    }
    let exchange = Exchange::begin(&origin, head, caller.began());
    let mut telling = Telling { exchange, caller, upstream: None };
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
    Exchange::begin(origin, head, caller.began()).refuse(caller, rejection);
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

/// Until the last byte; an error is what is to be answered instead. What seldom has to wait is boxed
/// where it does, so that the story of a usual request is small.
async fn story(telling: &mut Telling) -> Result<(), Rejection> {
    let Telling { exchange, caller, .. } = telling;
    refuse_loop(&exchange.origin)?;
    settle_authority(exchange)?;
    let deadline = caller_deadline(exchange)?;
    headers::strip_request(&mut exchange.record.head);
    let plan = match recall(exchange) {
        Some(plan) => plan,
        None => match decide(exchange) {
            Some(plan) => plan?,
            None => Box::pin(find(exchange, deadline)).await?,
        },
    };
    exchange.goes(&plan);
    let route = &plan.route;

    let settings = route.settings();
    let end_of = |time: Option<Duration>| time.and_then(|time| exchange.started.checked_add(time));
    let until = Until { deadline, request: end_of(settings.request_timeout) };
    let stream_end = end_of(settings.stream_max);
    let limits = Limits { deadline, stream_end, idle: settings.stream_idle };
    rewrite(exchange, route);

    // Held until the last byte.
    let _permit = match admit(route)? {
        Place::Free => None,
        Place::Taken(permit) => Some(permit),
        Place::Queued(waiter, wait_max) => {
            Some(Box::pin(queue(exchange, route, waiter, wait_max, &until)).await?)
        }
    };
    // What the bulkhead refused loads nobody, and so earns no retries.
    let budget = &route.entry.destination.settings.budget;
    let now = exchange.started + exchange.record.queued;
    route.entry.budget.count_request(budget, now.into_std());
    caller.keep(REPLAY_BYTES_MAX);
    let task = Task { route, caller, until, seen: Cell::new(false) };
    let mut backoff = Duration::ZERO;
    let mut schedule = None;
    let mut arrived = loop {
        let ended = task.attempt(exchange, backoff).await;
        let schedule = schedule.get_or_insert_with(|| plan.schedule.clone());
        match again(&task, exchange, schedule, &ended) {
            Some(pause) => backoff = pause,
            // Whether the request was unseen is a fact about all of its attempts.
            None => {
                let seen = task.seen.get();
                break ended.map_err(|rejection| Rejection { unseen: !seen, ..rejection })?;
            }
        }
        // Let go of the failed attempt's stream before the pause.
        drop(ended);
        if !backoff.is_zero() {
            let watch = &exchange.origin.worker.memory.watch;
            Box::pin(task.until.bound(watch, sleep(backoff))).await?;
        }
    };
    caller.commit();
    arrived.modify(route.response_modifiers());
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
    let Exchange { origin, record, said, .. } = exchange;
    let head = &mut record.head;
    if let Some((service, port)) = origin.side.fixed() {
        let fixed = origin.once.authority.get_or_init(|| format!("{service}:{port}").into());
        if head.get(Token::Authority) != Some(fixed.as_bytes()) {
            let written = head.slice_of(Token::Authority).or_else(|| head.slice_of(Token::Host));
            record.written_authority = Some(written.unwrap_or_default());
            head.set(Token::Authority, fixed.as_bytes());
        }
        return Ok(());
    }
    if !said.has(Said::HOST) && head.contains(Token::Authority) {
        // That it is text is seen when it is read.
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
    if !exchange.said.has(Said::GRPC_TIMEOUT) || !exchange.audience.grpc {
        return Ok(None);
    }
    let Some(value) = exchange.record.head.get(Token::GrpcTimeout) else { return Ok(None) };
    let timeout = deadline::parse_grpc_timeout(value)
        .map_err(|error| Rejection::unseen(Reason::Malformed, error.to_string()))?;
    exchange.record.deadline = Some(timeout);
    Ok(exchange.started.checked_add(timeout))
}

/// Where it goes and on what terms, if a call like it was decided about before.
fn recall(exchange: &Exchange) -> Option<Rc<Plan>> {
    if !exchange.audience.grpc {
        return None;
    }
    let worker = &exchange.origin.worker;
    let running = worker.core.load();
    worker.memory.plans.recall(&exchange.origin, running.as_ref()?, &exchange.record.head)
}

/// Decides about it, if nothing must be asked for.
fn decide(exchange: &mut Exchange) -> Option<Result<Rc<Plan>, Rejection>> {
    let grpc = exchange.audience.grpc;
    let Exchange { origin, record, .. } = exchange;
    let head = match headers::view(&record.head) {
        Ok(head) => head,
        Err(rejection) => return Some(Err(rejection)),
    };
    let core = &origin.worker.core;
    match &origin.side {
        Side::Outbound { fixed } => {
            let plan = outbound::known(origin, &head, grpc)?;
            if plan.is_err()
                && let Some(service) = outbound::meant(core, fixed.as_ref(), head.authority)
            {
                record.destination = service.to_string().into();
            }
            Some(plan)
        }
        Side::Inbound { .. } => {
            let running = core.load();
            Some(inbound::plan(origin, running.as_ref()?, &head, grpc, &mut record.policy))
        }
    }
}

/// Finds it out, and waits for what must be asked for.
async fn find(exchange: &mut Exchange, deadline: Option<Instant>) -> Result<Rc<Plan>, Rejection> {
    let grpc = exchange.audience.grpc;
    let Exchange { origin, record, .. } = exchange;
    let head = headers::view(&record.head)?;
    let core = &origin.worker.core;
    let watch = &origin.worker.memory.watch;
    let until = Until { deadline, request: None };
    let plan = match &origin.side {
        Side::Outbound { fixed } => {
            let plan = until.bound(watch, outbound::find(origin, &head, grpc)).await.flatten();
            if plan.is_err()
                && let Some(service) = outbound::meant(core, fixed.as_ref(), head.authority)
            {
                record.destination = service.to_string().into();
            }
            plan
        }
        Side::Inbound { .. } => {
            let first = core.first_answer(|running| Ok(Some(Arc::clone(running))));
            let running = until.bound(watch, first).await.flatten();
            running.and_then(|running| {
                inbound::plan(origin, &running, &head, grpc, &mut record.policy)
            })
        }
    };
    plan.map_err(|rejection| Rejection { unseen: true, ..rejection })
}

/// Makes the head what every attempt sends, but for a few fields.
fn rewrite(exchange: &mut Exchange, route: &Route) {
    let timed = exchange.record.deadline.is_some();
    let Exchange { origin, record, said, .. } = exchange;
    let head = &mut record.head;
    if let Some(authority) = &route.authority
        && head.get(Token::Authority) != Some(authority.as_bytes())
    {
        record.written_authority = head.slice_of(Token::Authority);
        head.set(Token::Authority, authority.as_bytes());
    }
    let mut edited = false;
    for modifier in route.request_modifiers() {
        headers::modify(head, modifier);
        edited = true;
    }
    // After the route's changes, which can not forge them.
    if edited || said.has(Said::OWN | Said::GRPC_TIMEOUT) {
        headers::strip_own(head, timed);
    }
    if route.to_app
        && let Some(client_cert) = inbound::client_cert(origin)
    {
        // The caller's was taken out before.
        if edited {
            head.remove(Token::XForwardedClientCert);
        }
        head.push_token(Token::XForwardedClientCert, client_cert.as_bytes());
    }
}

/// A place in the bulkhead.
pub(super) enum Place {
    /// None is needed.
    Free,
    /// This one.
    Taken(Permit),
    /// One is waited for, at most so long.
    Queued(Waiter, Duration),
}

/// Takes a place in the bulkhead of a route.
pub(super) fn admit(route: &Route) -> Result<Place, Rejection> {
    let Some((bulkhead, wait_max)) = &route.bulkhead else { return Ok(Place::Free) };
    match bulkhead.try_admit() {
        Admission::Admitted(permit) => Ok(Place::Taken(permit)),
        Admission::Wait(waiter) => Ok(Place::Queued(waiter, *wait_max)),
        Admission::Full => Err(no_place(route, Reason::BulkheadFull, "the queue is full")),
    }
}

fn no_place(route: &Route, reason: Reason, why: &str) -> Rejection {
    let most = route.bulkhead.as_ref().map_or(0, |(bulkhead, _)| bulkhead.concurrent_max());
    let name = &route.entry.name;
    Rejection::unseen(reason, format!("{name}: {most} requests under way and {why}"))
}

/// Waits for a place, at most as long as the bulkhead says.
pub(super) async fn queue(
    exchange: &mut Exchange,
    route: &Route,
    waiter: Waiter,
    wait_max: Duration,
    until: &Until,
) -> Result<Permit, Rejection> {
    let started = Instant::now();
    let watch = &exchange.origin.worker.memory.watch;
    let waited = watch.bound(started.checked_add(wait_max), waiter);
    let waited = until.bound(watch, waited).await;
    exchange.record.queued = started.elapsed();
    waited?.map_err(|_| {
        let why = format!("no place within {}s", wait_max.as_secs_f64());
        no_place(route, Reason::BulkheadWait, &why)
    })
}

/// The pause before another attempt; `None`: what came of this one stands.
fn again(
    task: &Task<'_, '_>,
    exchange: &Exchange,
    schedule: &mut Schedule,
    ended: &Result<Arrived<'_>, Rejection>,
) -> Option<Duration> {
    let outcome = outcome(task, exchange, ended)?;
    let entry = &task.route.entry;
    let situation = Situation {
        now: Instant::now().into_std(),
        deadline: task.until.first().map(Instant::into_std),
        replayable: task.caller.is_whole(),
        budget: &entry.budget,
        budget_settings: &entry.destination.settings.budget,
        random: fastrand::u64(..),
    };
    match retry::decide(schedule, task.route.settings().retry.as_ref(), outcome, &situation) {
        Decision::Retry { after, .. } => Some(after),
        Decision::Stop(stop) => {
            if stop == Stop::Budget {
                exchange.core().telemetry.metrics().retry_budget_exhausted(&entry.name);
            }
            None
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
        Ok(arrived) => arrived.failure(unseen),
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
