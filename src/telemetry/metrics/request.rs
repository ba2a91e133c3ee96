//! Counting a request: the one metric update that a record makes.
//!
//! A worker resolves the series of a set of labels once and keeps them in a table of its own thread;
//! from then on a request costs one hash, one look-up and a few additions to numbers of this thread
//! (`own.rs`), and no lock. Before that table stands a small one by address: the texts of usual requests are the very same in memory,
//! but for the method, so that they need not be read.

use std::{
    cell::RefCell,
    hash::{BuildHasher as _, Hasher as _},
    sync::{Arc, atomic::AtomicU64},
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    Inner,
    bounds::Said,
    histogram::nanos,
    names::Family,
    own::{Mine, OwnDurations, OwnNumber},
    traffic::Outcome,
};
use crate::{
    http::Token,
    reason::{GrpcCode, Reason},
    snapshot::RouteId,
    telemetry::record::{Direction, Name, Record},
};

/// Sets of labels that a thread keeps; more than these begin anew.
const CACHED_MAX: usize = 4096;

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Places of the table by address; a power of two.
const RECENT: usize = 128;

/// What one thread has resolved, of one [`super::Metrics`].
#[derive(Default)]
struct Cache {
    owner: u64,
    recent: Vec<Option<Recent>>,
    /// By the hash of their key, where they are in `resolved`.
    series: FxHashMap<u64, usize>,
    resolved: Vec<(OwnedKey, Handles)>,
    mine: Mine,
    usual: Option<Usual>,
}

/// What changes with every request, whatever it is.
pub(super) struct Usual {
    pub(super) in_flight: [Arc<OwnNumber>; 2],
    pub(super) decisions: [Arc<OwnNumber>; 3],
}

/// What was counted lately. It holds the texts, so that their addresses mean nothing else.
struct Recent {
    source: Name,
    destination: Name,
    route: Option<Arc<RouteId>>,
    method: Box<[u8]>,
    rest: Rest,
    resolved: usize,
}

/// What is told apart by and is no text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Rest {
    direction: Direction,
    port: u16,
    grpc: bool,
    http_status: u16,
    grpc_status: Option<GrpcCode>,
    reason: Option<Reason>,
    stream: bool,
}

/// Everything that a request's series are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    direction: Direction,
    source: &'a str,
    destination: &'a str,
    port: u16,
    route: &'a str,
    method: &'a str,
    grpc: bool,
    http_status: u16,
    grpc_status: Option<GrpcCode>,
    reason: Option<Reason>,
    stream: bool,
}

struct OwnedKey {
    direction: Direction,
    source: Box<str>,
    destination: Box<str>,
    port: u16,
    route: Box<str>,
    method: Box<str>,
    grpc: bool,
    http_status: u16,
    grpc_status: Option<GrpcCode>,
    reason: Option<Reason>,
    stream: bool,
}

/// The series of one set of labels.
struct Handles {
    requests: Arc<OwnNumber>,
    duration: Arc<OwnDurations>,
    overhead: Arc<OwnDurations>,
    request_bytes: Arc<OwnNumber>,
    response_bytes: Arc<OwnNumber>,
    /// Of outbound requests between services.
    latency: Option<Arc<OwnDurations>>,
    /// Of those that failed.
    failed: Option<Arc<OwnNumber>>,
    /// Of those that a bulkhead refused.
    bulkhead: Option<Arc<OwnNumber>>,
    /// Of outbound requests; resolved when an outcome is first seen.
    attempts: Vec<(Outcome, Arc<OwnNumber>)>,
}

/// Counts `record` in everything that is measured by request.
pub(super) fn count(metrics: &Inner, record: &Record) {
    let counted = CACHE.try_with(|cache| {
        let Ok(mut cache) = cache.try_borrow_mut() else { return false };
        if cache.owner != metrics.id || cache.resolved.len() > CACHED_MAX {
            *cache = Cache::of(metrics.id);
        }
        let Some(place) = cache.find(metrics, record) else { return false };
        let Cache { resolved, mine, .. } = &mut *cache;
        let Some((_, handles)) = resolved.get_mut(place) else { return false };
        handles.count(metrics, mine, record);
        true
    });
    // Two sets of labels with one hash, or a thread that is ending: the long way is as right.
    if !matches!(counted, Ok(true)) {
        let mut mine = Mine::default();
        let mut handles = Handles::resolve(metrics, &mut mine, Key::of(record), record);
        handles.count(metrics, &mut mine, record);
    }
}

/// Adds to one of this thread's usual numbers, or says that it can not.
pub(super) fn add(metrics: &Inner, which: impl FnOnce(&Usual) -> &OwnNumber, more: u64) -> bool {
    let added = CACHE.try_with(|cache| {
        let Ok(mut cache) = cache.try_borrow_mut() else { return false };
        if cache.owner != metrics.id {
            *cache = Cache::of(metrics.id);
        }
        let Cache { usual, mine, .. } = &mut *cache;
        let usual = usual.get_or_insert_with(|| Usual {
            in_flight: metrics.in_flight.each_ref().map(|gauge| mine.gauge(&metrics.own, gauge)),
            decisions: metrics.decisions.each_ref().map(|one| mine.counter(&metrics.own, one)),
        });
        which(usual).add(more);
        true
    });
    matches!(added, Ok(true))
}

impl Cache {
    fn of(owner: u64) -> Self {
        let recent = std::iter::repeat_with(|| None).take(RECENT).collect();
        Self { owner, recent, ..Self::default() }
    }

    /// Where its series are in `resolved`.
    fn find(&mut self, metrics: &Inner, record: &Record) -> Option<usize> {
        let (method, rest) = (method(record), Rest::of(record));
        let place = place(record, method, rest);
        let recent = self.recent[place].as_ref();
        match recent.filter(|recent| recent.is(record, method, rest)) {
            Some(recent) => Some(recent.resolved),
            None => {
                let resolved = self.resolve(metrics, record)?;
                self.recent[place] = Some(Recent {
                    source: record.source.clone(),
                    destination: record.destination.clone(),
                    route: record.route.clone(),
                    method: method.into(),
                    rest,
                    resolved,
                });
                Some(resolved)
            }
        }
    }

    /// By the texts themselves; `None`: others have the same hash.
    fn resolve(&mut self, metrics: &Inner, record: &Record) -> Option<usize> {
        let key = Key::of(record);
        let place = *self.series.entry(FxBuildHasher.hash_one(key)).or_insert_with(|| {
            let handles = Handles::resolve(metrics, &mut self.mine, key, record);
            self.resolved.push((OwnedKey::from(key), handles));
            self.resolved.len() - 1
        });
        (self.resolved[place].0.borrow() == key).then_some(place)
    }
}

impl Recent {
    fn is(&self, record: &Record, method: &[u8], rest: Rest) -> bool {
        self.rest == rest
            && self.source.address() == record.source.address()
            && self.destination.address() == record.destination.address()
            && self.route.as_ref().map(Arc::as_ptr) == record.route.as_ref().map(Arc::as_ptr)
            && *self.method == *method
    }
}

impl Rest {
    fn of(record: &Record) -> Self {
        Self {
            direction: record.direction,
            port: record.port,
            grpc: record.grpc,
            http_status: record.http_status,
            grpc_status: record.grpc_status,
            reason: record.reason,
            stream: record.stream,
        }
    }
}

/// What the method's label is made of, unread: of a gRPC call with its query, should it have one.
fn method(record: &Record) -> &[u8] {
    let token = if record.grpc { Token::Path } else { Token::Method };
    record.head.get(token).unwrap_or_default()
}

fn place(record: &Record, method: &[u8], rest: Rest) -> usize {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(method);
    hasher.write_usize(record.destination.address().addr());
    hasher.write_usize(record.source.address().addr());
    hasher.write_usize(record.route.as_ref().map_or(0, |id| Arc::as_ptr(id).addr()));
    hasher.write_u16(rest.http_status);
    hasher.write_u8(rest.grpc_status.map_or(u8::MAX, |code| code as u8));
    usize::try_from(hasher.finish() >> 32).unwrap_or_default() % RECENT
}

impl<'a> Key<'a> {
    fn of(record: &'a Record) -> Self {
        let path = || record.path().strip_prefix('/').unwrap_or_else(|| record.path());
        Self {
            direction: record.direction,
            source: &record.source,
            destination: &record.destination,
            port: record.port,
            route: record.route.as_ref().map_or("", |id| &id.route),
            method: if record.grpc { path() } else { record.method() },
            grpc: record.grpc,
            http_status: record.http_status,
            grpc_status: record.grpc_status,
            reason: record.reason,
            stream: record.stream,
        }
    }
}

impl From<Key<'_>> for OwnedKey {
    fn from(key: Key<'_>) -> Self {
        Self {
            direction: key.direction,
            source: key.source.into(),
            destination: key.destination.into(),
            port: key.port,
            route: key.route.into(),
            method: key.method.into(),
            grpc: key.grpc,
            http_status: key.http_status,
            grpc_status: key.grpc_status,
            reason: key.reason,
            stream: key.stream,
        }
    }
}

impl OwnedKey {
    fn borrow(&self) -> Key<'_> {
        Key {
            direction: self.direction,
            source: &self.source,
            destination: &self.destination,
            port: self.port,
            route: &self.route,
            method: &self.method,
            grpc: self.grpc,
            http_status: self.http_status,
            grpc_status: self.grpc_status,
            reason: self.reason,
            stream: self.stream,
        }
    }
}

impl Handles {
    fn resolve(metrics: &Inner, mine: &mut Mine, key: Key<'_>, record: &Record) -> Self {
        let nowhere = matches!(key.reason, Some(Reason::UnknownService | Reason::NoRoute));
        let names = metrics.bounds.names(&Said {
            source: key.source,
            destination: key.destination,
            destination_exists: key.reason != Some(Reason::UnknownService),
            method: key.method,
            grpc: key.grpc,
            method_exists: key.grpc_status != Some(GrpcCode::Unimplemented),
        });
        let direction = key.direction.name();
        let outcome = Outcome::of_record(record);
        let result = if outcome == Outcome::Success { "success" } else { "failure" };
        let reason = key.reason.map_or("", Reason::name);
        // Any number may be dialled where nothing is: no label value of it.
        let port = if key.port == 0 || nowhere { String::new() } else { key.port.to_string() };
        let http = if key.http_status == 0 { String::new() } else { key.http_status.to_string() };
        let grpc = key.grpc_status.map_or("", GrpcCode::name);
        let kind = if key.stream { "stream" } else { "unary" };
        let ends = [direction, names.source, names.destination];
        let [_, source, destination] = ends;
        let store = &metrics.store;
        let pair = (key.direction == Direction::Outbound && is_service(key.destination))
            .then(|| metrics.traffic.pair(source, destination));
        let failed = pair.as_ref().filter(|_| outcome != Outcome::Success);
        let bulkhead = matches!(key.reason, Some(Reason::BulkheadFull | Reason::BulkheadWait));
        let requests = [
            direction,
            source,
            destination,
            &port,
            key.route,
            names.method,
            &http,
            grpc,
            result,
            reason,
        ];
        let duration = [direction, source, destination, key.route, result, kind];
        let all = &metrics.own;
        let durations = store.histogram(Family::RequestDuration, &duration);
        let overhead = store.histogram(Family::ProxyOverhead, &[direction]);
        let mut counter = |series: Arc<AtomicU64>| mine.counter(all, &series);
        Self {
            requests: counter(store.counter(Family::Requests, &requests)),
            request_bytes: counter(store.counter(Family::RequestBytes, &ends)),
            response_bytes: counter(store.counter(Family::ResponseBytes, &ends)),
            failed: failed.map(|pair| counter(pair.failed(outcome))),
            bulkhead: bulkhead
                .then(|| counter(store.counter(Family::BulkheadRejected, &[destination, reason]))),
            duration: mine.durations(all, &durations),
            overhead: mine.durations(all, &overhead),
            latency: pair.map(|pair| mine.durations(all, &pair.latency)),
            attempts: Vec::new(),
        }
    }

    fn count(&mut self, metrics: &Inner, mine: &mut Mine, record: &Record) {
        self.requests.add(1);
        let duration = nanos(record.duration);
        self.duration.observe(duration);
        if let Some(first) = record.attempts.first() {
            self.overhead.observe(nanos(first.started.saturating_sub(record.queued)));
        }
        self.request_bytes.add(record.request_bytes);
        self.response_bytes.add(record.response_bytes);
        if let Some(latency) = &self.latency {
            // How long an opaque connection lives says nothing about who is slow.
            let opaque = record.protocol == "tcp";
            latency.observe(if opaque { nanos(record.upstream) } else { duration });
        }
        for counter in [&self.failed, &self.bulkhead].into_iter().flatten() {
            counter.add(1);
        }
        if record.direction == Direction::Outbound {
            for attempt in record.attempts.iter() {
                self.count_attempt(metrics, mine, record, Outcome::of_attempt(attempt));
            }
        }
    }

    fn count_attempt(
        &mut self,
        metrics: &Inner,
        mine: &mut Mine,
        record: &Record,
        outcome: Outcome,
    ) {
        if let Some((_, counter)) = self.attempts.iter().find(|(seen, _)| *seen == outcome) {
            return counter.add(1);
        }
        let source = metrics.bounds.source(&record.source);
        let destination = metrics.bounds.destination(&record.destination);
        let route = record.route.as_ref().map_or("", |id| &id.route);
        let values = [source, destination, route, &outcome.to_string()];
        let counter = mine.counter(&metrics.own, &metrics.store.counter(Family::Attempts, &values));
        counter.add(1);
        self.attempts.push((outcome, counter));
    }
}

/// Whether a destination is a service of the mesh, `name.namespace`.
fn is_service(destination: &str) -> bool {
    destination.contains('.')
}
