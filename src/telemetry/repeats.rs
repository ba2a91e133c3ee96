//! What the lines and spans of most requests have in common. Between services the same few calls go
//! again and again, and most of what is told of each is told of all: who called whom, by which route,
//! at which endpoint, how it ended. So a worker keeps what it has written of that, as bytes, and writes
//! anew what differs: ids, times and sizes.

use std::{
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use rustc_hash::FxHasher;

use super::{
    line,
    record::{Direction, Name, Place, Record},
    spans,
};
use crate::{
    reason::{GrpcCode, Reason},
    snapshot::RouteId,
};

/// How many kinds of requests are kept; each has its place by hash.
const PLACES: usize = 32;
/// Of a kind whose texts are longer together nothing is kept, so that all of it stays below 100 KiB.
const TEXT_BYTES_MAX: usize = 512;

/// The kinds of requests that one worker has seen of late.
pub(super) struct Repeats([Kept; PLACES]);

#[derive(Default)]
struct Kept {
    /// The hash of what was looked for here in vain.
    missed: u64,
    repeat: Option<Box<Repeat>>,
}

/// What requests of a kind have in common, as bytes.
pub(super) struct Repeat {
    key: Key,
    pub(super) line: line::Repeat,
    pub(super) spans: spans::Repeat,
}

/// Everything that is in those bytes.
struct Key {
    values: Values,
    names: [Name; 3],
    route: Option<Arc<RouteId>>,
    texts: [Box<str>; 3],
    endpoint: Option<Arc<Place>>,
}

#[derive(PartialEq, Eq)]
struct Values {
    direction: Direction,
    port: u16,
    protocol: &'static str,
    grpc: bool,
    tls: bool,
    revision: u64,
    end: End,
    attempt: Option<End>,
}

type End = (u16, Option<GrpcCode>, Option<Reason>);

impl Default for Repeats {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Kept::default()))
    }
}

impl Repeats {
    /// What a record has in common with others; `None` when that is not kept, because it was not seen
    /// before, is long, or took several attempts.
    pub(super) fn of(&mut self, record: &Record) -> Option<&Repeat> {
        let texts = texts(record);
        if record.attempts.len() > 1 || texts.map(str::len).iter().sum::<usize>() > TEXT_BYTES_MAX {
            return None;
        }
        let hash = hash(record, &texts);
        let place = usize::try_from(hash).unwrap_or_default() % PLACES;
        let Kept { missed, repeat } = self.0.get_mut(place)?;
        if !repeat.as_ref().is_some_and(|repeat| repeat.key.is_of(record, &texts)) {
            // What comes once is not worth keeping.
            if std::mem::replace(missed, hash) != hash {
                return None;
            }
            *repeat = Some(Box::new(Repeat {
                key: Key::of(record, texts),
                line: line::Repeat::of(record),
                spans: spans::Repeat::of(record),
            }));
        }
        repeat.as_deref()
    }
}

fn texts(record: &Record) -> [&str; 3] {
    [record.method(), record.path(), record.authority()]
}

/// Of what usually tells kinds apart.
fn hash(record: &Record, texts: &[&str; 3]) -> u64 {
    let mut hasher = FxHasher::default();
    texts.hash(&mut hasher);
    (&*record.source, record.http_status, record.grpc_status, record.reason).hash(&mut hasher);
    let place = record.attempts.first().map(|attempt| Arc::as_ptr(&attempt.place).addr());
    (place, record.direction).hash(&mut hasher);
    hasher.finish()
}

impl Key {
    fn of(record: &Record, texts: [&str; 3]) -> Self {
        Self {
            values: Values::of(record),
            names: names(record).map(Name::clone),
            route: record.route.clone(),
            texts: texts.map(Box::from),
            endpoint: record.attempts.first().map(|attempt| Arc::clone(&attempt.place)),
        }
    }

    fn is_of(&self, record: &Record, texts: &[&str; 3]) -> bool {
        let same_route = match (&self.route, &record.route) {
            (Some(kept), Some(other)) => Arc::ptr_eq(kept, other),
            (kept, other) => kept.is_none() && other.is_none(),
        };
        let same_endpoint = match (&self.endpoint, record.attempts.first()) {
            (Some(kept), Some(attempt)) => Arc::ptr_eq(kept, &attempt.place),
            (kept, attempt) => kept.is_none() && attempt.is_none(),
        };
        same_route
            && same_endpoint
            && self.values == Values::of(record)
            && self.names.iter().zip(names(record)).all(|(kept, other)| kept == other)
            && self.texts.iter().zip(texts).all(|(kept, other)| **kept == **other)
    }
}

fn names(record: &Record) -> [&Name; 3] {
    [&record.source, &record.destination, &record.policy]
}

impl Values {
    fn of(record: &Record) -> Self {
        let attempt = record.attempts.first();
        Self {
            direction: record.direction,
            port: record.port,
            protocol: record.protocol,
            grpc: record.grpc,
            tls: record.tls,
            revision: record.revision,
            end: (record.http_status, record.grpc_status, record.reason),
            attempt: attempt.map(|one| (one.http_status, one.grpc_status, one.reason)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Repeats, TEXT_BYTES_MAX};
    use crate::{
        reason::{GrpcCode, Reason},
        snapshot::RouteId,
        telemetry::{
            Direction, Place, Record, line,
            record::{head, sample},
            spans::Batch,
        },
    };

    /// One attempt, which succeeded.
    fn plain() -> Record {
        let mut record = sample();
        record.attempts = record.attempts.last().cloned().into_iter().collect();
        record
    }

    fn told(record: &Record, repeats: &mut Repeats) -> (Vec<u8>, Vec<u8>) {
        let repeat = repeats.of(record);
        let (mut out, mut batch) = (Vec::new(), Batch::default());
        line::write(&mut out, record, repeat.map(|repeat| &repeat.line));
        batch.extend(record, repeat.map(|repeat| &repeat.spans));
        (out, batch.chunk.bytes)
    }

    /// Every way in which a record can differ from that one.
    fn others(plain: &Record) -> Vec<Record> {
        let plain = || plain.clone();
        let attempt = |change: fn(&mut crate::telemetry::Attempt)| {
            let mut record = plain();
            change(record.attempts.last_mut().expect("one"));
            record
        };
        let place = |endpoint: &str, address: &str| {
            Arc::new(Place { endpoint: endpoint.into(), address: address.into() })
        };
        let mut elsewhere = plain();
        elsewhere.attempts.last_mut().expect("one").place = place("orders-2", "10.0.0.3:15006");
        vec![
            elsewhere,
            attempt(|one| one.http_status = 503),
            attempt(|one| one.grpc_status = Some(GrpcCode::Internal)),
            attempt(|one| one.reason = Some(Reason::ConnectFailed)),
            attempt(|one| one.duration = Duration::from_millis(9)),
            attempt(|one| one.started = Duration::from_millis(9)),
            attempt(|one| one.span_id = 9),
            sample(),
            Record { attempts: [].into_iter().collect(), ..plain() },
            Record { direction: Direction::Inbound, ..plain() },
            Record { started: Duration::from_secs(9), ..plain() },
            Record { parent: None, ..plain() },
            Record { trace_state: String::new(), ..plain() },
            Record { source: "other.shop".into(), ..plain() },
            Record { destination: "other.shop".into(), ..plain() },
            Record { port: 9, ..plain() },
            Record { protocol: "h2", ..plain() },
            Record { head: head("GET", "/shop.Orders/Place"), ..plain() },
            Record { head: head("POST", "/shop.Orders/Other"), ..plain() },
            Record { head: head("POST", &"/x".repeat(TEXT_BYTES_MAX)), ..plain() },
            Record { grpc: false, ..plain() },
            Record { route: None, ..plain() },
            Record {
                route: Some(Arc::new(RouteId { route: "a/b".into(), rule: "1".into() })),
                ..plain()
            },
            Record { policy: "shop/deny".into(), ..plain() },
            Record { http_status: 503, ..plain() },
            Record { grpc_status: None, ..plain() },
            Record { reason: Some(Reason::Deadline), ..plain() },
            Record { source_address: "127.0.0.1:9".into(), ..plain() },
            Record { tls: false, ..plain() },
            Record { deadline: None, ..plain() },
            Record { queued: Duration::from_millis(9), ..plain() },
            Record { upstream: Duration::from_millis(9), ..plain() },
            Record { duration: Duration::from_millis(9), ..plain() },
            Record { request_bytes: 9, ..plain() },
            Record { response_bytes: 9, ..plain() },
            Record { revision: 9, ..plain() },
        ]
    }

    #[test]
    fn what_is_kept_says_what_is_written_anew() {
        let plain = plain();
        for other in others(&plain) {
            let mut repeats = Repeats::default();
            for record in [&plain, &plain, &plain, &other, &other, &other, &plain, &other, &plain] {
                let anew = told(record, &mut Repeats::default());
                assert_eq!(told(record, &mut repeats), anew, "{other:?}");
            }
        }
    }

    #[test]
    fn a_kind_is_kept_from_its_second_time_on() {
        let mut repeats = Repeats::default();
        let record = plain();
        assert!(repeats.of(&record).is_none());
        assert!(repeats.of(&record).is_some());
        let another =
            Record { duration: Duration::ZERO, source_address: "[::1]:1".into(), ..record };
        assert!(repeats.of(&another).is_some(), "of the same kind");
        for rare in
            [sample(), Record { head: head("POST", &"/x".repeat(TEXT_BYTES_MAX)), ..another }]
        {
            assert!((0..3).all(|_| repeats.of(&rare).is_none()), "{rare:?}");
        }
    }
}
