//! The per-process table: what is known of each destination, shared by all workers. Permits, budget,
//! load and health outlive a change of configuration; what a snapshot says of a destination is
//! replaced, what was counted stays.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

use super::{
    dial::Where,
    lane::{Detour, Lane, Lanes},
    settings::{APP_CONNECT_MAX, EXTERNAL_CONNECT_MAX, Settings},
};
use crate::{
    balance,
    resilience::{Budget, Bulkhead, Ejection},
    routing::Authority,
    snapshot::{
        self, Balancing, BulkheadScope, Destination, DestinationSettings, Endpoint,
        EndpointAddress, InboundPort, OutlierDetection, Port, Readiness, RetryBudget, RouteId,
        RouteSettings, Rule, Snapshot, Transport,
    },
    telemetry::metrics::DestinationState,
    units::ServiceName,
};

/// Callers with a bulkhead of their own; all others share one.
const CALLERS_MAX: usize = 1024;

/// What every name outside the mesh is counted as.
pub(super) const EXTERNAL: &str = "external";

/// Everything that is known of destinations, callers and the application.
#[derive(Debug, Default)]
pub(super) struct Table {
    destinations: FxHashMap<ServiceName, Arc<Entry>>,
    /// The application's ports, by the numbers that callers use.
    apps: FxHashMap<u16, Arc<Entry>>,
    callers: Arc<Callers>,
}

/// One destination with what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    /// `orders.shop`
    pub(super) name: Arc<str>,
    /// As the snapshot has it.
    pub(super) destination: Arc<Destination>,
    /// Its endpoints with load and health.
    pub(super) pool: balance::Pool,
    /// Its requests and retries.
    pub(super) budget: Arc<Budget>,
    /// Its places, where they are counted at the caller's side.
    pub(super) bulkhead: Option<Arc<Bulkhead>>,
    /// The ways to its endpoints.
    lanes: Lanes,
}

impl Table {
    /// The table for `snapshot`, with what this one knows.
    pub(super) fn next(&self, snapshot: &Snapshot, settings: &Settings, now: Instant) -> Self {
        let destinations = snapshot.destinations.iter().filter_map(|(name, destination)| {
            let destination = destination.as_ref()?;
            let known = self.destinations.get(name);
            Some((name.clone(), Entry::next(known, destination, now)))
        });
        let apps = snapshot.inbound.ports.iter().map(|port| {
            let known = self.apps.get(&port.number).filter(|known| is_same_app(known, port));
            let app = || Where::from(&settings.app(port.number, port.local));
            let entry = known.map_or_else(
                || Arc::new(Entry::app(&snapshot.node.service, port, app(), now)),
                Arc::clone,
            );
            (port.number, entry)
        });
        if let Some(limits) = &snapshot.inbound.caller_bulkhead {
            self.callers.set_limits(limits);
        }
        Self {
            destinations: destinations.collect(),
            apps: apps.collect(),
            callers: Arc::clone(&self.callers),
        }
    }

    pub(super) fn destination(&self, name: &ServiceName) -> Option<&Arc<Entry>> {
        self.destinations.get(name)
    }

    pub(super) fn app(&self, number: u16) -> Option<&Arc<Entry>> {
        self.apps.get(&number)
    }

    /// The bulkhead of one caller, which stays the same; takes a lock, so ask once a connection.
    pub(super) fn caller(&self, caller: &str, limits: &snapshot::Bulkhead) -> Arc<Bulkhead> {
        self.callers.get(caller, limits)
    }

    /// For metrics.
    pub(super) fn states(&self, now: Instant) -> Vec<DestinationState> {
        self.destinations.values().map(|entry| entry.state(now)).collect()
    }

    /// For people: every endpoint of every destination, sorted by both.
    pub(super) fn endpoints(&self, now: Instant) -> Vec<EndpointReport> {
        let mut reports: Vec<EndpointReport> =
            self.destinations.values().flat_map(|entry| entry.reports(now)).collect();
        reports.sort_by(|one, other| {
            (&one.destination, &one.endpoint).cmp(&(&other.destination, &other.endpoint))
        });
        reports
    }
}

impl Entry {
    fn next(known: Option<&Arc<Self>>, destination: &Arc<Destination>, now: Instant) -> Arc<Self> {
        let Some(known) = known else {
            let pool = balance::Pool::new(&destination.endpoints, now);
            let budget = Arc::new(Budget::new(now));
            return Arc::new(Self::new(destination, pool, budget, None, None));
        };
        if Arc::ptr_eq(&known.destination, destination) {
            return Arc::clone(known);
        }
        let pool = known.pool.with_endpoints(&destination.endpoints);
        let (budget, bulkhead) = (Arc::clone(&known.budget), known.bulkhead.as_ref());
        Arc::new(Self::new(destination, pool, budget, bulkhead, None))
    }

    fn new(
        destination: &Arc<Destination>,
        pool: balance::Pool,
        budget: Arc<Budget>,
        known: Option<&Arc<Bulkhead>>,
        detour: Option<Detour>,
    ) -> Self {
        let limits = &destination.settings.bulkhead;
        let counted = limits.scope == BulkheadScope::Destination;
        let bulkhead = counted.then(|| {
            let known = known.map_or_else(
                || Bulkhead::new(limits.concurrent_max, limits.queued_max),
                Arc::clone,
            );
            known.set_limits(limits.concurrent_max, limits.queued_max);
            known
        });
        let name = Arc::from(destination.name.to_string());
        let lanes = Lanes::new(destination, detour);
        Self { name, destination: Arc::clone(destination), pool, budget, bulkhead, lanes }
    }

    /// The way to the endpoint at `member` of the pool, by the number and protocol of its port. One
    /// that was not foreseen is put into `made`.
    pub(super) fn lane<'a>(
        &'a self,
        member: usize,
        port: (u16, snapshot::Protocol),
        grpc: bool,
        made: &'a mut Option<Box<Lane>>,
    ) -> Option<&'a Lane> {
        self.lanes.find(&self.destination, member, port, grpc, made)
    }

    /// The own application's port: one endpoint that is never ejected.
    fn app(service: &ServiceName, port: &InboundPort, app: Where, now: Instant) -> Self {
        let address = EndpointAddress::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let ports = vec![(port.number, port.local)];
        let endpoint = plain_endpoint("application".to_owned(), address, ports);
        let detour = Some(Detour::App(app));
        let port = (port.number, port.protocol);
        Self::of_one(service.clone(), port, endpoint, APP_CONNECT_MAX, detour, now)
    }

    /// A name outside the mesh, reached through another proxy or not.
    pub(super) fn external(
        authority: &Authority,
        port: u16,
        by_proxy: Option<String>,
        now: Instant,
    ) -> Self {
        let address = authority
            .ip()
            .map_or_else(|| EndpointAddress::Name(authority.host.clone()), EndpointAddress::Ip);
        let endpoint = plain_endpoint(authority.host.clone(), address, vec![(port, port)]);
        let service = ServiceName::new(authority.host.clone(), EXTERNAL);
        let detour = by_proxy.map(Detour::Proxy);
        let port = (port, snapshot::Protocol::Detect);
        let entry = Self::of_one(service, port, endpoint, EXTERNAL_CONNECT_MAX, detour, now);
        Self { name: Arc::from(EXTERNAL), ..entry }
    }

    fn of_one(
        name: ServiceName,
        (port, protocol): (u16, snapshot::Protocol),
        endpoint: Endpoint,
        connect_timeout: Duration,
        detour: Option<Detour>,
        now: Instant,
    ) -> Self {
        let default_rule = Arc::new(no_rule());
        let port = Port { number: port, name: String::new(), protocol, rules: None, default_rule };
        let settings = DestinationSettings {
            connect_timeout,
            bulkhead: snapshot::Bulkhead {
                concurrent_max: u32::MAX,
                queued_max: 0,
                wait_max: Duration::ZERO,
                scope: BulkheadScope::Caller,
            },
            balancing: Balancing::LeastRequest,
            outlier: OutlierDetection {
                consecutive_failures: 0,
                interval: Duration::from_secs(10),
                base_ejection: Duration::ZERO,
                ejected_max: 0.0,
            },
            budget: RetryBudget::default(),
        };
        let endpoints = vec![Arc::new(endpoint)];
        let pool = balance::Pool::new(&endpoints, now);
        let destination = Arc::new(Destination { name, ports: vec![port], endpoints, settings });
        Self::new(&destination, pool, Arc::new(Budget::new(now)), None, detour)
    }

    fn state(&self, now: Instant) -> DestinationState {
        let mut state = DestinationState {
            destination: self.name.to_string(),
            ready: 0,
            not_ready: 0,
            ejected: 0,
            bulkhead_in_use: 0,
            bulkhead_limit: 0,
            bulkhead_queued: 0,
        };
        for member in self.pool.members() {
            match EndpointState::of(&self.pool, member, now) {
                EndpointState::Ready | EndpointState::Weightless => state.ready += 1,
                EndpointState::NotReady | EndpointState::Failing => state.not_ready += 1,
                EndpointState::Ejected => state.ejected += 1,
            }
        }
        if let Some(bulkhead) = &self.bulkhead {
            let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
            state.bulkhead_in_use = count(bulkhead.in_use());
            state.bulkhead_limit = count(bulkhead.concurrent_max());
            state.bulkhead_queued = count(bulkhead.queued());
        }
        state
    }

    fn reports(&self, now: Instant) -> impl Iterator<Item = EndpointReport> {
        self.pool.members().iter().map(move |member| EndpointReport {
            destination: self.name.to_string(),
            endpoint: member.endpoint.name.clone(),
            address: match (&member.endpoint.address, &member.endpoint.transport) {
                (EndpointAddress::Ip(ip), Transport::Mesh { port, .. }) => {
                    std::net::SocketAddr::new(*ip, *port).to_string()
                }
                (EndpointAddress::Name(name), Transport::Mesh { port, .. }) => {
                    format!("{name}:{port}")
                }
                (EndpointAddress::Ip(ip), Transport::Plain { .. }) => ip.to_string(),
                (EndpointAddress::Name(name), Transport::Plain { .. }) => name.clone(),
            },
            zone: member.endpoint.zone.clone(),
            weight: member.endpoint.weight,
            state: EndpointState::of(&self.pool, member, now),
            in_flight: member.load.in_flight(),
            failures_in_row: member.health.failures_in_row(),
            latency: member.load.latency(now),
            ejection: self.pool.ejection(member, now),
        })
    }
}

/// Nothing is said about times and retries.
pub(super) const NO_SETTINGS: RouteSettings = RouteSettings {
    request_timeout: None,
    attempt_timeout: None,
    stream_idle: None,
    stream_max: None,
    retry: None,
};

/// The rule of a port that no route speaks of.
pub(super) fn no_rule() -> Rule {
    Rule {
        id: Arc::new(RouteId { route: Arc::from("default"), rule: Arc::from("0") }),
        request_headers: snapshot::HeaderModifier::default(),
        response_headers: snapshot::HeaderModifier::default(),
        backends: Vec::new(),
        weight_total: 0,
        settings: NO_SETTINGS,
    }
}

fn plain_endpoint(name: String, address: EndpointAddress, ports: Vec<(u16, u16)>) -> Endpoint {
    let transport = Transport::Plain { ports };
    Endpoint {
        name,
        address,
        transport,
        weight: 1,
        zone: String::new(),
        readiness: Readiness::Ready,
    }
}

fn is_same_app(known: &Entry, port: &InboundPort) -> bool {
    let same = |other: &Port| other.protocol == port.protocol;
    known.destination.ports.first().is_some_and(same)
        && known.destination.endpoints.first().is_some_and(|endpoint| {
            endpoint.transport == Transport::Plain { ports: vec![(port.number, port.local)] }
        })
}

/// The bulkheads of callers, made when they first call.
#[derive(Debug, Default)]
struct Callers {
    by_name: Mutex<FxHashMap<String, Arc<Bulkhead>>>,
}

impl Callers {
    fn get(&self, caller: &str, limits: &snapshot::Bulkhead) -> Arc<Bulkhead> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let full = by_name.len() >= CALLERS_MAX && !by_name.contains_key(caller);
        let caller = if full { "" } else { caller };
        if let Some(known) = by_name.get(caller) {
            if known.concurrent_max() != limits.concurrent_max {
                known.set_limits(limits.concurrent_max, limits.queued_max);
            }
            return Arc::clone(known);
        }
        let made = Bulkhead::new(limits.concurrent_max, limits.queued_max);
        by_name.insert(caller.to_owned(), Arc::clone(&made));
        made
    }

    /// Whoever has called keeps its bulkhead, and finds it so.
    fn set_limits(&self, limits: &snapshot::Bulkhead) {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for known in by_name.values() {
            known.set_limits(limits.concurrent_max, limits.queued_max);
        }
    }
}

/// What one endpoint looks like to this proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointReport {
    /// `orders.shop`
    pub destination: String,
    /// Its name.
    pub endpoint: String,
    /// Where it is dialled.
    pub address: String,
    /// Where it stands.
    pub zone: String,
    /// Its share.
    pub weight: u32,
    /// Whether it takes traffic.
    pub state: EndpointState,
    /// Requests of this proxy under way to it.
    pub in_flight: u32,
    /// Failures since the last success.
    pub failures_in_row: u32,
    /// Its moving average; `None` before the first answer.
    pub latency: Option<Duration>,
    /// Why it is left alone, while it is.
    pub ejection: Option<Ejection>,
}

/// Whether an endpoint takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// It does.
    Ready,
    /// It would, but has weight 0.
    Weightless,
    /// Its sidecar does not say that it is ready.
    NotReady,
    /// Its sidecar's checks of the application fail; it takes what nobody else can.
    Failing,
    /// It failed too often.
    Ejected,
}

impl EndpointState {
    /// `ready`
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Weightless => "weightless",
            Self::NotReady => "not_ready",
            Self::Failing => "failing",
            Self::Ejected => "ejected",
        }
    }

    fn of(pool: &balance::Pool, member: &balance::Member, now: Instant) -> Self {
        match member.endpoint.readiness {
            Readiness::Ready => {}
            Readiness::Failing => return Self::Failing,
            Readiness::NotReady => return Self::NotReady,
        }
        if pool.is_ejected(member, now) {
            Self::Ejected
        } else if member.endpoint.weight == 0 {
            Self::Weightless
        } else {
            Self::Ready
        }
    }
}
