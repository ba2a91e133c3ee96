//! Whether a failed attempt is tried again.
//!
//! There are two kinds of retry, and they are counted apart. An *unseen* request (no attempt has
//! written a byte of it towards an application) is retried without being asked, at most twice: that is
//! safe for every method (gRFC A6, "Transparent Retries"; HTTP semantics section 9.2.2). Everything
//! else may have been processed, so it is retried only when a route or policy asked for it, by status
//! and by method (gRFC A6; GEP-1731). Both are counted in the destination's budget, and neither begins
//! when the deadline would pass before it.

use std::time::{Duration, Instant};

use super::{Budget, backoff, deadline};
use crate::{
    http::Head,
    reason::{GrpcCode, Reason},
    snapshot::{Retry, RetryBudget},
};

/// Retries of an unseen request that nobody asked for.
const UNSEEN_MAX: u32 = 2;
/// The longest pause before the second retry of an unseen request whose route says nothing; the first
/// one goes at once.
const UNSEEN_BACKOFF: Duration = Duration::from_millis(25);

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// An HTTP status of the upstream.
    Http(u16),
    /// A gRPC status of the upstream, in its response's head (trailers-only).
    Grpc(GrpcCode),
    /// This sidecar ended the attempt.
    Here(Reason),
    /// The far sidecar answered for its application; believed only of an authenticated one.
    There(Reason),
}

/// How an attempt ended without a response head that could be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why.
    pub failure: Failure,
    /// Whether no attempt of the request, this one or an earlier, wrote a byte of it towards an
    /// application.
    pub unseen: bool,
    /// What `grpc-retry-pushback-ms` said (gRFC A6, "Pushback").
    pub pushback: Option<Pushback>,
}

/// A server's word on when to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// After this time instead of the backoff.
    After(Duration),
    /// Not at all.
    Never,
}

/// How often a request has been tried again. One for each request.
#[derive(Debug, Clone)]
pub struct Schedule {
    grpc: bool,
    /// Whether the rule asks for retries of this request's method.
    asked: bool,
    unseen_retries: u32,
    asked_retries: u32,
}

/// What else a retry depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The current time.
    pub now: Instant,
    /// When the request must have ended.
    pub deadline: Option<Instant>,
    /// Whether everything that was sent of it can be sent again.
    pub replayable: bool,
    /// The destination's counts.
    pub budget: &'a Budget,
    /// The destination's limits.
    pub budget_settings: &'a RetryBudget,
    /// Uniform over all of `u64`, for the jitter.
    pub random: u64,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after a pause. The retry is already counted.
    Retry {
        /// The pause.
        after: Duration,
        /// Whether it was permitted because the request is unseen.
        unseen: bool,
    },
    /// Answer the caller with what there is.
    Stop(Stop),
}

/// Why a request is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Nobody asked for a retry of such a failure.
    NotAsked,
    /// It has been tried as often as permitted.
    Spent,
    /// The server said so.
    Pushback,
    /// What was sent can not be sent again.
    NotReplayable,
    /// The deadline would pass before.
    Deadline,
    /// The destination's budget is used up.
    Budget,
}

/// Reads `grpc-retry-pushback-ms`: a number of milliseconds; what is negative or no number means
/// never (gRFC A6).
pub fn parse_pushback(value: &[u8]) -> Pushback {
    let millis = str::from_utf8(value).ok().and_then(|text| text.parse::<u32>().ok());
    let after = millis.map(|millis| Pushback::After(Duration::from_millis(u64::from(millis))));
    after.unwrap_or(Pushback::Never)
}

impl Schedule {
    /// Of a request that matched a rule with this retry.
    pub fn new(retry: Option<&Retry>, head: &Head<'_>) -> Self {
        let grpc = head.is_grpc();
        let asked = retry.is_some_and(|retry| asks_for(retry, head, grpc));
        Self { grpc, asked, unseen_retries: 0, asked_retries: 0 }
    }

    /// Of a connection: it is tried again while nobody has seen a byte of it.
    pub fn of_connection() -> Self {
        Self { grpc: false, asked: false, unseen_retries: 0, asked_retries: 0 }
    }

    /// How often it has been tried again.
    pub fn retries(&self) -> u32 {
        self.unseen_retries + self.asked_retries
    }

    /// Whether anything may ask for another attempt later, so that a body is worth keeping.
    pub fn may_retry(&self, retry: Option<&Retry>) -> bool {
        let asked_left = retry.is_some_and(|retry| self.asked_retries < retry.attempts);
        self.unseen_retries < UNSEEN_MAX || (self.asked && asked_left)
    }
}

/// Decides after a failed attempt. `retry` is the rule's, the same as in [`Schedule::new`].
pub fn decide(
    schedule: &mut Schedule,
    retry: Option<&Retry>,
    outcome: Outcome,
    situation: &Situation<'_>,
) -> Decision {
    let kind = match kind(schedule, retry, outcome) {
        Ok(kind) => kind,
        Err(stop) => return Decision::Stop(stop),
    };
    if !situation.replayable {
        return Decision::Stop(Stop::NotReplayable);
    }
    let after = match (kind, outcome.pushback) {
        (Kind::Asked, Some(Pushback::After(after))) => after,
        _ => pause(schedule, retry, kind, situation.random),
    };
    if !begins_in_time(situation, after) {
        return Decision::Stop(Stop::Deadline);
    }
    if !situation.budget.try_retry(situation.budget_settings, situation.now) {
        return Decision::Stop(Stop::Budget);
    }
    match kind {
        Kind::Unseen => schedule.unseen_retries += 1,
        Kind::Asked => schedule.asked_retries += 1,
    }
    Decision::Retry { after, unseen: kind == Kind::Unseen }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unseen,
    Asked,
}

/// By which permission it may be retried. The one that needs no asking comes first, so that what was
/// asked for is kept for attempts that need it.
fn kind(schedule: &Schedule, retry: Option<&Retry>, outcome: Outcome) -> Result<Kind, Stop> {
    if !another_may_do_better(outcome.failure) {
        return Err(Stop::NotAsked);
    }
    let helps_unseen = outcome.unseen;
    if helps_unseen && schedule.unseen_retries < UNSEEN_MAX {
        return Ok(Kind::Unseen);
    }
    let asked =
        retry.filter(|retry| schedule.asked && names(retry, schedule.grpc, outcome.failure));
    match asked {
        None if helps_unseen => Err(Stop::Spent),
        None => Err(Stop::NotAsked),
        Some(_) if outcome.pushback == Some(Pushback::Never) => Err(Stop::Pushback),
        Some(retry) if schedule.asked_retries >= retry.attempts => Err(Stop::Spent),
        Some(_) => Ok(Kind::Asked),
    }
}

/// Whether another endpoint, or the same one a little later, could answer differently. What this
/// sidecar decided by itself stands, and so do the far sidecar's refusals that hold everywhere: a
/// caller that is denied or over its limit is so at every instance.
fn another_may_do_better(failure: Failure) -> bool {
    let reason = match failure {
        Failure::Http(_) | Failure::Grpc(_) => return true,
        Failure::Here(reason) if reason.is_final() => return false,
        Failure::Here(reason) | Failure::There(reason) => reason,
    };
    matches!(
        reason,
        Reason::NotReady
            | Reason::Draining
            | Reason::NoEndpoint
            | Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::PeerIdentity
            | Reason::AppUnreachable
            | Reason::StreamRefused
            | Reason::ConnectionClosing
            | Reason::UpstreamReset
            | Reason::UpstreamProtocol
            | Reason::AttemptTimeout
            | Reason::Overloaded
            | Reason::Internal
    )
}

/// Whether the rule asked for retries of this request's method.
fn asks_for(retry: &Retry, head: &Head<'_>, grpc: bool) -> bool {
    if !grpc {
        return retry.methods.iter().any(|method| method == head.method);
    }
    let Some((service, method)) = head.grpc_method() else { return false };
    let is_named = |(named, of_it): &(String, Option<String>)| {
        named == service && of_it.as_ref().is_none_or(|of_it| of_it == method)
    };
    retry.grpc_methods.is_empty() || retry.grpc_methods.iter().any(is_named)
}

/// Whether the rule asked for retries of this failure. A reason counts as the status that the caller
/// would see for it, except that a broken stream is retried only by `reset`.
fn names(retry: &Retry, grpc: bool, failure: Failure) -> bool {
    let (http, code) = match failure {
        Failure::Http(status) => (status, grpc_of_http(status)),
        Failure::Grpc(code) => return grpc && retry.on.grpc.contains(&code),
        Failure::Here(reason) | Failure::There(reason) => {
            if matches!(reason, Reason::UpstreamReset | Reason::UpstreamProtocol) {
                return if grpc { retry.on.grpc_reset } else { retry.on.reset };
            }
            (reason.row().http, reason.row().grpc)
        }
    };
    if grpc { retry.on.grpc.contains(&code) } else { retry.on.http.contains(&http) }
}

/// What a gRPC client makes of an HTTP status without a gRPC one (gRPC, "HTTP to gRPC Status Code
/// Mapping").
fn grpc_of_http(status: u16) -> GrpcCode {
    match status {
        400 => GrpcCode::Internal,
        401 => GrpcCode::Unauthenticated,
        403 => GrpcCode::PermissionDenied,
        404 => GrpcCode::Unimplemented,
        429 | 502..=504 => GrpcCode::Unavailable,
        _ => GrpcCode::Unknown,
    }
}

fn pause(schedule: &Schedule, retry: Option<&Retry>, kind: Kind, random: u64) -> Duration {
    match kind {
        Kind::Unseen if schedule.unseen_retries == 0 => Duration::ZERO,
        Kind::Unseen => {
            let base = retry.map_or(UNSEEN_BACKOFF, |retry| retry.backoff_base);
            backoff::full_jitter(base, base, 0, random)
        }
        Kind::Asked => retry.map_or(Duration::ZERO, |retry| {
            let (base, max) = (retry.backoff_base, retry.backoff_max);
            backoff::full_jitter(base, max, schedule.asked_retries, random)
        }),
    }
}

fn begins_in_time(situation: &Situation<'_>, after: Duration) -> bool {
    let left = |at| deadline::left(at, situation.now);
    situation.deadline.is_none_or(|at| left(at).is_some_and(|left| after < left))
}

#[cfg(test)]
mod tests;
