//! Connections that carry no HTTP: those to ports that are declared `tcp` or `tls`, and whatever else
//! is spoken to a port that is not declared. Their bytes pass between sidecars by mutual TLS, under
//! the protocol `outrigger-tcp`; SNI names the port. The way of a connection is that of a request as
//! far as there is one: decide (outbound: which service; inbound: who may) → admit → \[ pick → connect \]
//! as often as the retry schedule permits → pass bytes until both sides have ended → record.
//!
//! There is no head in which a refusal could be explained: a connection that is refused is reset, and
//! its record says why. Nor is there an orderly end that somebody else than the two applications could
//! bring about, so these connections do not end by age; they end with their peer's certificate and when
//! its root is dropped, like all others.

use std::{
    future::{pending, poll_fn},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    attempt::{Tried, Until, pick},
    bytes::Bytes,
    connection::{Origin, Proof},
    core::Running,
    dial::Dialled,
    ends::OwnSocket,
    exchange::Exchange,
    io::Socket,
    pool::How,
    relay::{Broken, Passed, Relay},
    request::{self, Place},
    route::Route,
    settings::TUNNEL_IDLE_MAX,
    stream::Caller,
    wire::Wire,
};
use crate::{
    balance::InFlight,
    clock,
    http::{HeaderBlock, Token, answer::Rejection},
    reason::Reason,
    resilience::{
        Verdict,
        retry::{self, Decision, Failure, Outcome, Schedule, Situation, Stop},
    },
    routing::choose_port,
    snapshot::Protocol,
    telemetry::Name,
    tls::{Carried, Identity, Role},
    units::ServiceName,
};

/// How often certificates are looked at, which end by a clock that may jump.
const TRUST_LOOK: Duration = Duration::from_secs(30);

/// The side that dialled.
pub(super) enum Near {
    /// A connection.
    Open(Wire),
    /// A tunnel that has not been answered.
    Tunnel(Caller),
}

/// Until when a connection's peer is believed.
pub(super) struct Trust {
    identity: Arc<Identity>,
    chain: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
    role: Role,
}

/// A service's port, on what runs.
pub(super) struct Target {
    pub(super) running: Arc<Running>,
    pub(super) service: ServiceName,
    pub(super) port: Option<u16>,
}

/// A connection that leads there.
struct Connected<'a> {
    far: Wire,
    trust: Option<Trust>,
    tried: Tried<'a>,
    suspect: bool,
    _in_flight: InFlight<'a>,
    _dialled: Option<OwnSocket>,
}

/// What may end a connection before its sides do.
pub(super) struct Limits {
    /// How long neither side may be silent.
    pub(super) idle: Duration,
    /// The end of its longest life.
    pub(super) end: Option<Instant>,
}

/// The record of a connection that came without a head: it is told as the `CONNECT` that it amounts to.
pub(super) fn begin(origin: &Rc<Origin>, authority: &str) -> Exchange {
    let mut head = HeaderBlock::new();
    head.push_token(Token::Method, b"CONNECT");
    head.push_token(Token::Authority, authority.as_bytes());
    Exchange::begin(origin, head, Instant::now())
}

/// Passes a connection of the application to a service.
pub(super) async fn outbound(mut exchange: Exchange, target: Target, near: Near) {
    exchange.record.protocol = "tcp";
    exchange.record.destination = target.service.to_string().into();
    exchange.record.revision = target.running.snapshot.revision;
    match target.route() {
        Ok(route) => carry(&mut exchange, &route, near, None).await,
        Err(rejection) => near.refuse(&mut exchange, &rejection),
    }
}

/// Passes a sidecar's connection to the application.
pub(super) async fn inbound(origin: Rc<Origin>, wire: Wire, proof: Proof) {
    let authority = origin.side.sni().map(ToString::to_string).unwrap_or_default();
    let authority = authority.split_once('.').map(|(port, name)| format!("{name}:{port}"));
    let mut exchange = begin(&origin, &authority.unwrap_or_default());
    exchange.record.protocol = "tcp";
    let trust = Trust::of_caller(proof, &wire);
    let near = Near::Open(wire);
    let mut policy = Name::default();
    let route = super::inbound::connection(&origin, &mut policy).await;
    exchange.record.policy = policy;
    match route {
        Ok(route) => carry(&mut exchange, &route, near, Some(trust)).await,
        Err(rejection) => near.refuse(&mut exchange, &rejection),
    }
}

impl Target {
    /// Whether the port takes bytes and nothing else.
    pub(super) fn is_opaque(&self) -> bool {
        let entry = self.running.table.destination(&self.service);
        let chosen = entry.and_then(|entry| choose_port(&entry.destination, self.port).ok());
        chosen.is_some_and(|chosen| chosen.port.protocol == Protocol::Opaque)
    }

    fn route(&self) -> Result<Route, Rejection> {
        let Self { running, service, port } = self;
        let unknown = || Rejection::unseen(Reason::UnknownService, format!("{service} is gone"));
        let entry = running.table.destination(service).ok_or_else(unknown)?;
        let no_route = |what: String| Rejection::unseen(Reason::NoRoute, what);
        let chosen = choose_port(&entry.destination, *port)
            .map_err(|no_port| no_route(no_port.to_string()))?;
        let number = chosen.number;
        match chosen.port.protocol {
            Protocol::Opaque => {}
            // Where routes are attached, what matches none goes nowhere.
            Protocol::Detect if chosen.port.rules.is_none() => {}
            Protocol::Detect | Protocol::Http1 | Protocol::Http2 => {
                let what = format!("{service}:{number} takes HTTP, and something else was spoken");
                return Err(no_route(what));
            }
        }
        let wait_max = entry.destination.settings.bulkhead.wait_max;
        Ok(Route {
            entry: Arc::clone(entry),
            port: number,
            protocol: chosen.port.protocol,
            rule: Some(Arc::clone(&chosen.port.default_rule)),
            backend: None,
            bulkhead: entry.bulkhead.as_ref().map(|bulkhead| (Arc::clone(bulkhead), wait_max)),
            to_app: false,
            authority: None,
            revision: running.snapshot.revision,
        })
    }
}

impl Near {
    /// Its bytes. A tunnel is told that it is open.
    fn accept(self) -> Wire {
        match self {
            Self::Open(wire) => wire,
            Self::Tunnel(caller) => {
                let mut head = HeaderBlock::new();
                head.push_token(Token::Status, b"200");
                caller.respond(&head, false);
                Wire::plain(Socket::Other(Box::new(Bytes::new(caller))), Vec::new())
            }
        }
    }

    fn refuse(self, exchange: &mut Exchange, rejection: &Rejection) {
        tracing::debug!(
            address = %exchange.origin.address, reason = %rejection.reason, what = rejection.what,
            "a connection was refused",
        );
        match self {
            Self::Open(wire) => {
                // What should have been HTTP is closed in order, as broken HTTP is.
                if rejection.reason != Reason::NoRoute {
                    wire.abort();
                }
                exchange.refused(rejection);
                exchange.end();
            }
            Self::Tunnel(caller) => exchange.refuse(&caller, rejection),
        }
    }
}

/// Connects and passes bytes until both sides have ended.
async fn carry(exchange: &mut Exchange, route: &Route, near: Near, trust: Option<Trust>) {
    exchange.record.port = route.port;
    exchange.record.revision = route.revision;
    exchange.record.route = route.rule.as_ref().map(|rule| Arc::clone(&rule.id));
    let connected = async {
        let until = Until { deadline: None, request: None };
        let permit = match request::admit(route)? {
            Place::Free => None,
            Place::Taken(permit) => Some(permit),
            Place::Queued(waiter, wait_max) => {
                Some(request::queue(exchange, route, waiter, wait_max, &until).await?)
            }
        };
        let budget = &route.entry.destination.settings.budget;
        route.entry.budget.count_request(budget, Instant::now().into_std());
        Ok((permit, connect(exchange, route).await?))
    };
    let (_permit, connected) = match connected.await {
        Ok(connected) => connected,
        Err(rejection) => return near.refuse(exchange, &rejection),
    };
    let worker = Rc::clone(&exchange.origin.worker);
    let metrics = worker.core.telemetry.metrics();
    let direction = exchange.origin.side.direction();
    let _open = metrics.connection(direction, "tcp", exchange.origin.side.peer().is_some());
    let passed = Passed::new(metrics.tcp_bytes(direction, &exchange.record.destination));
    exchange.record.http_status = 200;
    exchange.record.stream = true;
    let Connected { far, trust: of_far, mut tried, suspect, .. } = connected;
    let mut relay = Relay::new(&worker.hub, near.accept(), far, suspect, &passed);
    let limits = Limits {
        idle: route.settings().stream_idle.unwrap_or(TUNNEL_IDLE_MAX),
        end: route.settings().stream_max.and_then(|max| exchange.started.checked_add(max)),
    };
    let moving = poll_fn(|cx| {
        let moved = relay.poll(cx);
        if passed.down.get() > 0 || matches!(moved, std::task::Poll::Ready(Ok(()))) {
            tried.observe(&worker.core, Verdict::Healthy, Instant::now());
        }
        moved
    });
    let ended = tokio::select! {
        ended = moving => ended.map_err(|broken| broken.rejection(route.to_app)),
        rejection = limits.over(&passed) => Err(rejection),
        () = untrusted(trust) => Err(distrusted(Reason::Unauthenticated)),
        () = worker.core.cut_off.signalled() => {
            Err(Rejection::seen(Reason::Draining, request::DRAINING))
        }
        () = untrusted(of_far) => Err(distrusted(Reason::PeerIdentity)),
    };
    drop(relay);
    let record = &mut exchange.record;
    (record.request_bytes, record.response_bytes) = (passed.up.get(), passed.down.get());
    if let Err(rejection) = ended {
        tried.observe(&worker.core, Verdict::of_reason(rejection.reason), Instant::now());
        tracing::debug!(
            address = %exchange.origin.address, reason = %rejection.reason, what = rejection.what,
            "a connection was cut",
        );
        exchange.refused(&rejection);
    }
    exchange.end();
}

/// Connects to an endpoint, or to another one.
async fn connect<'a>(
    exchange: &mut Exchange,
    route: &'a Route,
) -> Result<Connected<'a>, Rejection> {
    let mut schedule = Schedule::of_connection();
    let mut backoff = Duration::ZERO;
    loop {
        let rejection = match try_once(exchange, route, backoff).await {
            Ok(connected) => return Ok(connected),
            Err(rejection) if route.to_app => return Err(rejection),
            Err(rejection) => rejection,
        };
        let failure = Failure::Here(rejection.reason);
        let outcome = Outcome { failure, unseen: true, pushback: None };
        let situation = Situation {
            now: Instant::now().into_std(),
            deadline: None,
            replayable: true,
            budget: &route.entry.budget,
            budget_settings: &route.entry.destination.settings.budget,
            random: fastrand::u64(..),
        };
        match retry::decide(&mut schedule, None, outcome, &situation) {
            Decision::Retry { after, .. } => backoff = after,
            Decision::Stop(stop) => {
                if stop == Stop::Budget {
                    let metrics = exchange.core().telemetry.metrics();
                    metrics.retry_budget_exhausted(&route.entry.name);
                }
                return Err(rejection);
            }
        }
        if !backoff.is_zero() {
            sleep(backoff).await;
        }
    }
}

async fn try_once<'a>(
    exchange: &mut Exchange,
    route: &'a Route,
    backoff: Duration,
) -> Result<Connected<'a>, Rejection> {
    let started = Instant::now();
    let member = pick(route, exchange, started)?;
    let mut made = None;
    let none = || Rejection::unseen(Reason::Internal, "an endpoint without a way to it");
    let lane = route.lane(member.place, false, &mut made).ok_or_else(none)?;
    exchange.attempt(Arc::clone(&lane.place), backoff, started);
    let in_flight = member.load.begin();
    let mut tried = Tried::new(&route.entry, member);
    let bound = route.entry.destination.settings.connect_timeout;
    let expected = match &lane.key.how {
        How::Mesh(expected) => Some(expected),
        How::Http1 | How::Http2 | How::Proxy => None,
    };
    let worker = Rc::clone(&exchange.origin.worker);
    let core = &worker.core;
    let dialling = core.dialer.dial_for(Carried::Bytes, &lane.key.to, expected, bound);
    let dialled = worker.hub.paced(dialling).await;
    let now = Instant::now();
    tried.latency(started, dialled.is_err(), now);
    let Dialled { socket, tls, proof, own } = match dialled {
        Ok(dialled) => dialled,
        Err(error) => {
            let rejection = route.not_connected(error, core.inbound_drain.started());
            tried.observe(core, Verdict::of_reason(rejection.reason), now);
            exchange.attempted(0, None, Some(rejection.reason), now);
            return Err(rejection);
        }
    };
    exchange.attempted(200, None, None, now);
    exchange.record.tls |= tls.is_some();
    let far = match tls {
        Some(tls) => Wire::sealed(socket, tls.into(), Vec::new()),
        None => Wire::plain(socket, Vec::new()),
    };
    let trust = core.identity.as_ref().zip(proof).map(|(identity, proof)| Trust {
        identity: Arc::clone(identity),
        chain: far.peer_certificates().to_vec(),
        not_after: proof.not_after,
        role: Role::Server,
    });
    let suspect = route.to_app && route.protocol != Protocol::Opaque;
    Ok(Connected { far, trust, tried, suspect, _in_flight: in_flight, _dialled: own })
}

impl Limits {
    /// Waits until one of them is reached.
    pub(super) async fn over(&self, passed: &Passed) -> Rejection {
        loop {
            let silent = passed.moved.get().checked_add(self.idle);
            let next = [silent, self.end].into_iter().flatten().min();
            let Some(next) = next else { return pending().await };
            sleep_until(next).await;
            let now = Instant::now();
            if self.end.is_some_and(|end| now >= end) {
                let what = "the connection reached its longest life";
                return Rejection::seen(Reason::RequestTimeout, what);
            }
            if passed.moved.get().checked_add(self.idle).is_some_and(|end| now >= end) {
                let what = "neither side sent anything for too long";
                return Rejection::seen(Reason::IdleTimeout, what);
            }
        }
    }
}

impl Broken {
    /// Why it ended, as records say it.
    pub(super) fn rejection(&self, to_app: bool) -> Rejection {
        match self {
            Self::Near(error) => Rejection::seen(Reason::CallerGone, error.to_string()),
            Self::Far(error) => {
                let whose = if to_app { "the application" } else { "the far side" };
                Rejection::seen(Reason::UpstreamReset, format!("{whose} broke it off: {error}"))
            }
            Self::Http => {
                let what = "HTTP as opaque bytes to a port that takes requests";
                Rejection::seen(Reason::Denied, what)
            }
        }
    }
}

fn distrusted(reason: Reason) -> Rejection {
    Rejection::seen(reason, "the peer's certificate is not trusted any more")
}

impl Trust {
    fn of_caller(proof: Proof, wire: &Wire) -> Self {
        let Proof { identity, not_after } = proof;
        let chain = wire.peer_certificates().to_vec();
        Self { identity, chain, not_after, role: Role::Client }
    }
}

/// Waits until the peer's certificates would not be accepted any more.
async fn untrusted(trust: Option<Trust>) {
    let Some(Trust { identity, chain, not_after, role }) = trust else { return pending().await };
    let mut changes = identity.subscribe();
    loop {
        let left = not_after.duration_since(clock::now()).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(left.min(TRUST_LOOK)) => {}
            _ = changes.changed() => {
                if identity.standing(&chain, role, clock::now()).is_err() {
                    return;
                }
            }
        }
    }
}
