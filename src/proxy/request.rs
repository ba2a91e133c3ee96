//! The way of one request, as one story from top to bottom. Outbound and inbound differ by the route
//! that they answer with, and by nothing else:
//!
//! read the head → route (and authorize) → admit → \[ pick → forward → observe \] as often as the retry
//! schedule permits → pass the response on → record.

use std::{cell::Cell, convert::Infallible, rc::Rc, time::Duration};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header::CONNECTION, request};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout};

use super::{
    attempt::{Arrived, Held, Task, Until},
    body::{Body, Limits},
    connection::{Origin, Side},
    exchange::Exchange,
    headers::{self, Outgoing},
    inbound, outbound,
    route::Route,
    settings::REPLAY_BYTES_MAX,
    tunnel,
};
use crate::{
    http::{Fields as _, Replay, answer::Rejection, fields::CLIENT_CERT, grpc},
    reason::Reason,
    resilience::{
        Admission, Permit, deadline,
        retry::{self, Decision, Failure, Outcome, Schedule, Situation, Stop},
    },
};

/// Answers one request; the answer may be the mesh's own.
pub(super) async fn serve(
    origin: Rc<Origin>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    origin.requests.set(origin.requests.get() + 1);
    if request.method() == Method::CONNECT {
        return Ok(tunnel::connect(origin, request).await.map(Body::whole));
    }
    let (parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(&origin, &parts);
    let replay = Replay::new(body, REPLAY_BYTES_MAX);
    let story = Box::pin(story(&origin, &mut exchange, parts, &replay));
    let mut response = match story.await {
        Ok(told) => pass_on(&origin, exchange, replay, told),
        Err(rejection) => {
            exchange.record().request_bytes = replay.bytes();
            exchange.refuse(&rejection).map(Body::whole)
        }
    };
    // A connection that was open and unused when draining began ends with its first request.
    if !origin.http2 && origin.counts.guard.draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A response head that is passed on, and everything its body needs.
struct Told {
    arrived: Arrived,
    permit: Option<Permit>,
    limits: Limits,
}

async fn story(
    origin: &Rc<Origin>,
    exchange: &mut Exchange,
    parts: request::Parts,
    replay: &Replay<Incoming>,
) -> Result<Told, Rejection> {
    if origin.looped {
        let what = "the connection comes from this proxy itself: an address leads back to it";
        return Err(Rejection::unseen(Reason::Loop, what));
    }
    let authority = match origin.side.fixed() {
        Some((service, port)) => format!("{service}:{port}"),
        None => headers::authority(&parts)?,
    };
    let until = caller_deadline(exchange, &parts.headers)?;
    let route = route(origin, exchange, &parts, &authority, until).await?;
    note(exchange, &route);

    let settings = route.settings();
    let request_end =
        settings.request_timeout.and_then(|time| exchange.started().checked_add(time));
    let until = Until { deadline: until, request: request_end };
    let head = headers::head(&parts, &authority);
    let mut schedule = Schedule::new(settings.retry.as_ref(), &head);
    let outgoing = outgoing(parts, &route)?;

    let permit = admit(exchange, &route, &until).await?;
    // What the bulkhead refused loads nobody, and so earns no retries.
    let budget = &route.entry.destination.settings.budget;
    route.entry.budget.count_request(budget, Instant::now().into_std());
    let seen = Cell::new(false);
    let task = Task { origin, route: &route, outgoing: &outgoing, replay, until, seen: &seen };
    let mut arrived = attempts(&task, exchange, &mut schedule).await.map_err(|rejection| {
        // Whether the request was unseen is a fact about all of its attempts.
        Rejection { unseen: !seen.get(), ..rejection }
    })?;
    replay.commit();
    for modifier in route.response_modifiers() {
        headers::modify(&mut arrived.parts.headers, modifier);
    }
    let limits = Limits {
        deadline: until.deadline,
        stream_end: settings.stream_max.and_then(|time| exchange.started().checked_add(time)),
        idle: settings.stream_idle,
    };
    Ok(Told { arrived, permit, limits })
}

/// The deadline that the request came with.
fn caller_deadline(
    exchange: &mut Exchange,
    fields: &HeaderMap,
) -> Result<Option<Instant>, Rejection> {
    let value = fields.first(grpc::TIMEOUT.as_str()).filter(|_| exchange.audience().grpc);
    let Some(value) = value else { return Ok(None) };
    let timeout = deadline::parse_grpc_timeout(value)
        .map_err(|error| Rejection::unseen(Reason::Malformed, error.to_string()))?;
    exchange.record().deadline = Some(timeout);
    Ok(exchange.started().checked_add(timeout))
}

async fn route(
    origin: &Origin,
    exchange: &mut Exchange,
    parts: &request::Parts,
    authority: &str,
    until: Option<Instant>,
) -> Result<Route, Rejection> {
    let head = headers::head(parts, authority);
    let core = &origin.worker.core;
    let until = Until { deadline: until, request: None };
    match &origin.side {
        Side::Outbound { fixed } => {
            let fixed = fixed.as_ref();
            let route = until.bound(outbound::route(core, fixed, &head)).await.flatten();
            if let (Err(_), Some(service)) = (&route, outbound::meant(core, fixed, authority)) {
                exchange.record().destination = service.to_string().into();
            }
            route
        }
        side @ Side::Inbound { .. } => {
            let mut policy = std::sync::Arc::default();
            let route = inbound::route(core, side, &origin.caller, &head, &mut policy);
            let route = until.bound(route).await.flatten();
            exchange.record().policy = policy;
            route
        }
    }
    .map_err(|rejection| Rejection { unseen: true, ..rejection })
}

/// Puts into the record what is known with the route.
fn note(exchange: &mut Exchange, route: &Route) {
    let record = exchange.record();
    if route.app.is_none() {
        record.destination = std::sync::Arc::clone(&route.entry.name);
    }
    record.port = route.port;
    record.route = route.rule.as_ref().map(|rule| rule.id.clone());
    record.revision = route.running.snapshot.revision;
}

/// The head as every attempt sends it.
fn outgoing(parts: request::Parts, route: &Route) -> Result<Outgoing, Rejection> {
    let mut outgoing = Outgoing::new(parts, &route.authority)?;
    for modifier in route.request_modifiers() {
        outgoing.modify(modifier);
    }
    // After the route's changes, which can not forge it.
    if let Some(client_cert) = &route.client_cert {
        outgoing.set(CLIENT_CERT, client_cert);
    }
    Ok(outgoing)
}

/// Waits for a place in the bulkhead, at most as long as it says.
async fn admit(
    exchange: &mut Exchange,
    route: &Route,
    until: &Until,
) -> Result<Option<Permit>, Rejection> {
    let entry = &route.entry;
    let Some((bulkhead, wait_max)) = &route.bulkhead else { return Ok(None) };
    let refused = |reason, why: &str| {
        let most = bulkhead.concurrent_max();
        Rejection::unseen(reason, format!("{}: {most} requests under way and {why}", entry.name))
    };
    let waiter = match bulkhead.try_admit() {
        Admission::Admitted(permit) => return Ok(Some(permit)),
        Admission::Full => return Err(refused(Reason::BulkheadFull, "the queue is full")),
        Admission::Wait(waiter) => waiter,
    };
    let started = Instant::now();
    let waited = until.bound(timeout(*wait_max, waiter)).await;
    exchange.record().queued = started.elapsed();
    let permit = waited?.map_err(|_| {
        let why = format!("no place within {}s", wait_max.as_secs_f64());
        refused(Reason::BulkheadWait, &why)
    })?;
    Ok(Some(permit))
}

/// Attempts until a head comes that is passed on, or nothing more may be tried.
async fn attempts(
    task: &Task<'_>,
    exchange: &mut Exchange,
    schedule: &mut Schedule,
) -> Result<Arrived, Rejection> {
    let settings = task.route.settings();
    let (mut tried, mut backoff) = (Vec::new(), Duration::ZERO);
    let grpc = exchange.audience().grpc;
    loop {
        let ended = task.attempt(exchange, &mut tried, backoff).await;
        let unseen = !task.seen.get();
        let outcome = match &ended {
            Ok(arrived) => arrived.failure(grpc, unseen),
            // Its own application is not reached better a moment later; another instance's may be.
            Err(rejection) if rejection.reason == Reason::AppUnreachable => None,
            // The caller's sidecar tries again by itself, and knows other instances: tries at both
            // ends would multiply.
            Err(_) if task.route.app.is_some() && exchange.audience().sidecar => None,
            Err(rejection) => {
                let failure = Failure::Here(rejection.reason);
                Some(Outcome { failure, unseen, pushback: None })
            }
        };
        let Some(outcome) = outcome else { return ended };
        let entry = &task.route.entry;
        let situation = Situation {
            now: Instant::now().into_std(),
            deadline: task.until.first().map(Instant::into_std),
            replayable: task.replay.is_whole(),
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
            task.until.bound(sleep(backoff)).await?;
        }
    }
}

/// Hands the response over, with everything that counts until its last byte.
fn pass_on(
    origin: &Origin,
    mut exchange: Exchange,
    replay: Replay<Incoming>,
    told: Told,
) -> Response<Body> {
    let Told { arrived, permit, limits } = told;
    let grpc = exchange.audience().grpc;
    let grpc_status = arrived.grpc_status(grpc);
    let record = exchange.record();
    record.http_status = arrived.parts.status.as_u16();
    record.grpc_status = grpc_status;
    record.reason = arrived.far.reason;
    let Arrived { mut parts, upstream, lease, in_flight, tried, from_sidecar, .. } = arrived;
    parts.version = http::Version::default();
    let held = Held { replay, tried, from_sidecar, counted: Some((permit, in_flight, lease)) };
    Response::from_parts(
        parts,
        Body::forward(upstream, exchange, held, limits, &origin.worker.watch),
    )
}
