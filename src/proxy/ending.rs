//! From a response's head to the last byte. Everything that counts a request as under way (permit,
//! load, lease, record) is held until then, and the stream ends when its time is up: a gRPC call by
//! trailers that say why, everything else by a reset or a missing last chunk.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    attempt::{Arrived, Tried},
    fault,
    headers::receive_trailers,
    request::{DRAINING, Telling},
    stream::{Caller, Upstream},
    watch::Watch,
};
use crate::{
    http::{
        ErrorCode, HeaderBlock,
        answer::{self, Audience, Rejection},
        grpc,
    },
    reason::Reason,
    resilience::Verdict,
};

/// Until when a body may go on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// The caller's deadline.
    pub(super) deadline: Option<Instant>,
    /// The end of the stream's longest life.
    pub(super) stream_end: Option<Instant>,
    /// How long neither side may be silent.
    pub(super) idle: Option<Duration>,
}

impl Limits {
    /// When to look again, if something last moved at `moved`.
    fn next_look(&self, moved: Instant) -> Option<Instant> {
        let idle = self.idle.and_then(|idle| moved.checked_add(idle));
        [self.deadline, self.stream_end, idle].into_iter().flatten().min()
    }

    /// Why the stream must end at that moment, if it must.
    fn over(&self, moved: Instant, now: Instant) -> Option<Rejection> {
        let passed = |end: Option<Instant>| end.is_some_and(|end| now >= end);
        if passed(self.deadline) {
            return Some(Rejection::seen(Reason::Deadline, "the caller's deadline passed"));
        }
        if passed(self.stream_end) {
            let what = "the stream reached its longest life";
            return Some(Rejection::seen(Reason::RequestTimeout, what));
        }
        if passed(self.idle.and_then(|idle| moved.checked_add(idle))) {
            let what = "neither side sent anything for too long";
            return Some(Rejection::seen(Reason::IdleTimeout, what));
        }
        None
    }
}

/// Hands the response over, to its last byte.
pub(super) async fn pass_on(telling: &mut Telling, arrived: Arrived<'_>, limits: Limits) {
    let grpc_status = arrived.grpc_status(telling.exchange.audience.grpc);
    let Arrived { mut head, end, status, upstream, mut tried, from_sidecar, far, at, .. } = arrived;
    let Telling { exchange, caller, upstream: passing } = telling;
    exchange.record.http_status = status;
    exchange.record.grpc_status = grpc_status;
    exchange.record.reason = far.reason;
    exchange.announce_end(&mut head);
    let upstream = passing.insert(upstream);
    caller.respond(&head, end);
    upstream.recycle(head);
    let ended = if end {
        Ok(None)
    } else {
        upstream.pass_on(caller);
        last_byte(&exchange.origin.worker.memory.watch, upstream, caller, limits, at).await
    };
    match ended {
        Ok(trailers) => finish(telling, &mut tried, trailers, from_sidecar),
        Err(rejection) => fail(telling, &mut tried, &rejection),
    }
}

/// Waits until the last byte was handed over.
async fn last_byte(
    watch: &Watch,
    upstream: &mut Upstream,
    caller: &Caller,
    limits: Limits,
    mut moved: Instant,
) -> Result<Option<HeaderBlock>, Rejection> {
    loop {
        let error = match watch.bound(limits.next_look(moved), upstream.end()).await {
            Ok(Ok(trailers)) => return Ok(trailers),
            Ok(Err(error)) => error,
            Err(_) => {
                for passed in [upstream.passed(), caller.received()] {
                    moved = moved.max(Instant::from_std(passed.last));
                }
                match limits.over(moved, Instant::now()) {
                    Some(rejection) => return Err(rejection),
                    None => continue,
                }
            }
        };
        return Err(if caller.broken() {
            Rejection::seen(Reason::CallerGone, fault::BODY_BROKEN)
        } else {
            Rejection { unseen: false, ..upstream.fault(error) }
        });
    }
}

/// The stream ends as upstream meant it to.
fn finish(
    telling: &mut Telling,
    tried: &mut Tried<'_>,
    mut trailers: Option<HeaderBlock>,
    from_sidecar: bool,
) {
    let now = telling.exchange.origin.worker.hub.moment();
    let far = trailers.as_mut().and_then(|trailers| receive_trailers(trailers, from_sidecar));
    telling.count_bodies();
    let Telling { exchange, .. } = telling;
    let record = &mut exchange.record;
    record.reason = record.reason.or(far);
    let verdict = if record.grpc {
        let said = trailers.as_ref().and_then(grpc::status).or(record.grpc_status);
        let status = said.unwrap_or_else(|| grpc::from_http(record.http_status));
        record.grpc_status = Some(status);
        if let Some(attempt) = record.attempts.last_mut() {
            attempt.grpc_status = Some(status);
            attempt.reason = attempt.reason.or(far);
        }
        far.map_or_else(|| Verdict::of_grpc(status), after_head)
    } else {
        Verdict::of_http(record.http_status)
    };
    let passed = end_attempt(telling, now);
    tried.observe(telling.exchange.core(), verdict, now);
    if let Some(trailers) = trailers {
        telling.caller.trailers(&trailers);
        if let Some(upstream) = &telling.upstream {
            upstream.recycle(trailers);
        }
    }
    telling.exchange.end_after(passed);
}

/// The stream ends otherwise: what it holds is let go, and the caller is told as far as can be.
fn fail(telling: &mut Telling, tried: &mut Tried<'_>, rejection: &Rejection) {
    let now = Instant::now();
    telling.count_bodies();
    telling.upstream = None;
    telling.exchange.refused(rejection);
    if let Some(attempt) = telling.exchange.record.attempts.last_mut() {
        attempt.reason = Some(rejection.reason);
    }
    let passed = end_attempt(telling, now);
    tried.observe(telling.exchange.core(), after_head(rejection.reason), now);
    say_why(telling.exchange.audience, &telling.caller, rejection);
    telling.exchange.end_after(passed);
}

/// The time to end in order is up.
pub(super) fn cut_off(telling: &mut Telling) {
    let untried = telling.exchange.record.attempts.is_empty();
    let rejection = Rejection { unseen: untried, ..Rejection::seen(Reason::Draining, DRAINING) };
    let Telling { exchange, caller, upstream } = telling;
    if upstream.is_none() {
        return exchange.refuse(caller, &rejection);
    }
    exchange.refused(&rejection);
    say_why(exchange.audience, caller, &rejection);
    exchange.end();
}

/// Ends a response whose head is out.
fn say_why(audience: Audience, caller: &Caller, rejection: &Rejection) {
    if audience.grpc {
        caller.trailers(&answer::trailers(rejection, audience));
    } else {
        caller.reset(ErrorCode::INTERNAL_ERROR);
    }
}

/// The last attempt lasts to the last byte; gives how long the request took until then.
fn end_attempt(telling: &mut Telling, now: Instant) -> Duration {
    let passed = now.saturating_duration_since(telling.exchange.started);
    if let Some(attempt) = telling.exchange.record.attempts.last_mut() {
        attempt.duration = passed.saturating_sub(attempt.started);
    }
    passed
}

/// What the end of a stream says about its endpoint. It has answered, and how long a stream goes on is
/// not for it alone to say: a stream that its caller's time ends is no failure.
fn after_head(reason: Reason) -> Verdict {
    match reason {
        Reason::Deadline | Reason::RequestTimeout => Verdict::Silent,
        other => Verdict::of_reason(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Limits;
    use crate::reason::Reason;

    #[test]
    fn a_stream_ends_by_whichever_limit_comes_first() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for (deadline, stream_end, idle, look, reason) in [
            (None, None, None, None, None),
            (Some(2), Some(3), Some(4), Some(2), Reason::Deadline.into()),
            (Some(2), Some(1), None, Some(1), Reason::RequestTimeout.into()),
            (None, Some(9), Some(4), Some(4), Reason::IdleTimeout.into()),
        ] {
            let limits = Limits {
                deadline: deadline.map(at),
                stream_end: stream_end.map(at),
                idle: idle.map(Duration::from_secs),
            };
            assert_eq!(limits.next_look(now), look.map(at));
            assert!(limits.over(now, now).is_none());
            let over = look.and_then(|look| limits.over(now, at(look)));
            assert_eq!(over.map(|rejection| rejection.reason), reason);
        }
        let limits = Limits { idle: Some(Duration::from_secs(4)), ..Limits::default() };
        assert!(limits.over(at(1), at(4)).is_none(), "something moved in between");
    }
}
