//! Counting a request: the one metric update that a record makes.
//!
//! A worker resolves the series of a set of labels once and keeps them in a table of its own thread;
//! from then on a request costs one hash, one look-up and a few atomic additions, and no lock. Before
//! that table stands a small one by address: the texts of usual requests are the very same in memory,
//! but for the method, so that they need not be read.

use std::{
    cell::RefCell,
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    Inner,
    bounds::Said,
    histogram::Histogram,
    names::Family,
    traffic::{Outcome, Pair},
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
    requests: Arc<AtomicU64>,
    duration: Arc<Histogram>,
    overhead: Arc<Histogram>,
    request_bytes: Arc<AtomicU64>,
    response_bytes: Arc<AtomicU64>,
    /// Of outbound requests between services.
    pair: Option<Arc<Pair>>,
    /// Of those that failed.
    failed: Option<Arc<AtomicU64>>,
    /// Of those that a bulkhead refused.
    bulkhead: Option<Arc<AtomicU64>>,
    /// Of outbound requests; resolved when an outcome is first seen.
    attempts: Vec<(Outcome, Arc<AtomicU64>)>,
}

/// Counts `record` in everything that is measured by request.
pub(super) fn count(metrics: &Inner, record: &Record) {
    let counted = CACHE.try_with(|cache| {
        let Ok(mut cache) = cache.try_borrow_mut() else { return false };
        if cache.owner != metrics.id || cache.resolved.len() > CACHED_MAX {
            *cache = Cache::of(metrics.id);
        }
        let Some(handles) = cache.find(metrics, record) else { return false };
        handles.count(metrics, record);
        true
    });
    // Two sets of labels with one hash, or a thread that is ending: the long way is as right.
    if !matches!(counted, Ok(true)) {
        Handles::resolve(metrics, Key::of(record), record).count(metrics, record);
    }
}

impl Cache {
    fn of(owner: u64) -> Self {
        let recent = std::iter::repeat_with(|| None).take(RECENT).collect();
        Self { owner, recent, ..Self::default() }
    }

    fn find(&mut self, metrics: &Inner, record: &Record) -> Option<&mut Handles> {
        let (method, rest) = (method(record), Rest::of(record));
        let place = place(record, method, rest);
        let recent = self.recent[place].as_ref();
        let resolved = match recent.filter(|recent| recent.is(record, method, rest)) {
            Some(recent) => recent.resolved,
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
                resolved
            }
        };
        self.resolved.get_mut(resolved).map(|(_, handles)| handles)
    }

    /// By the texts themselves; `None`: others have the same hash.
    fn resolve(&mut self, metrics: &Inner, record: &Record) -> Option<usize> {
        let key = Key::of(record);
        let place = *self.series.entry(FxBuildHasher.hash_one(key)).or_insert_with(|| {
            self.resolved.push((OwnedKey::from(key), Handles::resolve(metrics, key, record)));
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

/// What the method's label is made of, unread.
fn method(record: &Record) -> &[u8] {
    if !record.grpc {
        return record.head.get(Token::Method).unwrap_or_default();
    }
    let path = record.head.get(Token::Path).unwrap_or_default();
    path.split(|byte| *byte == b'?').next().unwrap_or_default()
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
    fn resolve(metrics: &Inner, key: Key<'_>, record: &Record) -> Self {
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
        Self {
            requests: store.counter(
                Family::Requests,
                &[
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
                ],
            ),
            duration: store.histogram(
                Family::RequestDuration,
                &[direction, source, destination, key.route, result, kind],
            ),
            overhead: store.histogram(Family::ProxyOverhead, &[direction]),
            request_bytes: store.counter(Family::RequestBytes, &ends),
            response_bytes: store.counter(Family::ResponseBytes, &ends),
            failed: failed.map(|pair| pair.failed(outcome)),
            pair,
            bulkhead: bulkhead
                .then(|| store.counter(Family::BulkheadRejected, &[destination, reason])),
            attempts: Vec::new(),
        }
    }

    fn count(&mut self, metrics: &Inner, record: &Record) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.duration.observe(record.duration);
        if let Some(first) = record.attempts.first() {
            self.overhead.observe(first.started.saturating_sub(record.queued));
        }
        self.request_bytes.fetch_add(record.request_bytes, Ordering::Relaxed);
        self.response_bytes.fetch_add(record.response_bytes, Ordering::Relaxed);
        if let Some(pair) = &self.pair {
            // How long an opaque connection lives says nothing about who is slow.
            let opaque = record.protocol == "tcp";
            pair.latency.observe(if opaque { record.upstream } else { record.duration });
        }
        for counter in [&self.failed, &self.bulkhead].into_iter().flatten() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if record.direction == Direction::Outbound {
            for attempt in record.attempts.iter() {
                self.count_attempt(metrics, record, Outcome::of_attempt(attempt));
            }
        }
    }

    fn count_attempt(&mut self, metrics: &Inner, record: &Record, outcome: Outcome) {
        if let Some((_, counter)) = self.attempts.iter().find(|(seen, _)| *seen == outcome) {
            counter.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let source = metrics.bounds.source(&record.source);
        let destination = metrics.bounds.destination(&record.destination);
        let route = record.route.as_ref().map_or("", |id| &id.route);
        let values = [source, destination, route, &outcome.to_string()];
        let counter = metrics.store.counter(Family::Attempts, &values);
        counter.fetch_add(1, Ordering::Relaxed);
        self.attempts.push((outcome, counter));
    }
}

/// Whether a destination is a service of the mesh, `name.namespace`.
fn is_service(destination: &str) -> bool {
    destination.contains('.')
}
