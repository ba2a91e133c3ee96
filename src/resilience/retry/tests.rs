//! Tables of what is tried again and what is not.

use std::time::{Duration, Instant};

use super::{
    Decision, Failure, Outcome, Pushback, Schedule, Situation, Stop, decide, parse_pushback,
};
use crate::{
    http::{Fields, Head},
    reason::{GrpcCode, Reason},
    resilience::Budget,
    snapshot::{Retry, RetryBudget, RetryOn},
};

const GRPC: &[(&str, &str)] = &[("content-type", "application/grpc+proto")];
const PLAIN: &[(&str, &str)] = &[];

fn head<'a>(method: &'a str, path: &'a str, fields: &'a dyn Fields) -> Head<'a> {
    Head { method, authority: "orders", path, query: "", fields }
}

fn retry() -> Retry {
    Retry {
        attempts: 2,
        on: RetryOn {
            grpc: vec![GrpcCode::Unavailable],
            http: vec![502, 503],
            reset: false,
            grpc_reset: false,
        },
        methods: ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].map(String::from).to_vec(),
        grpc_methods: Vec::new(),
        backoff_base: Duration::from_millis(25),
        backoff_max: Duration::from_millis(250),
    }
}

fn seen(failure: Failure) -> Outcome {
    Outcome { failure, unseen: false, pushback: None }
}

fn unseen(failure: Failure) -> Outcome {
    Outcome { failure, unseen: true, pushback: None }
}

/// A request and everything around it, generous unless a test changes it.
struct Request {
    schedule: Schedule,
    retry: Option<Retry>,
    now: Instant,
    deadline: Option<Instant>,
    replayable: bool,
    budget: Budget,
    budget_settings: RetryBudget,
    random: u64,
}

impl Request {
    fn new(retry: Option<Retry>, head: &Head<'_>) -> Self {
        let now = tokio::time::Instant::now().into_std();
        Self {
            schedule: Schedule::new(retry.as_ref(), head),
            retry,
            now,
            deadline: None,
            replayable: true,
            budget: Budget::new(now),
            budget_settings: RetryBudget::default(),
            random: 1 << 63,
        }
    }

    fn get(retry: Option<Retry>) -> Self {
        Self::new(retry, &head("GET", "/", &PLAIN))
    }

    fn grpc(retry: Option<Retry>) -> Self {
        Self::new(retry, &head("POST", "/shop.Orders/Place", &GRPC))
    }

    fn after(&mut self, outcome: Outcome) -> Decision {
        let situation = Situation {
            now: self.now,
            deadline: self.deadline,
            replayable: self.replayable,
            budget: &self.budget,
            budget_settings: &self.budget_settings,
            random: self.random,
        };
        decide(&mut self.schedule, self.retry.as_ref(), outcome, &situation)
    }
}

fn again(millis: f64, unseen: bool) -> Decision {
    Decision::Retry { after: Duration::from_secs_f64(millis / 1000.0), unseen }
}

#[test]
fn an_unseen_request_is_retried_twice_without_being_asked() {
    for mut request in [
        Request::get(None),
        Request::grpc(None),
        Request::new(None, &head("POST", "/charge", &PLAIN)),
    ] {
        let outcome = unseen(Failure::Here(Reason::ConnectFailed));
        assert_eq!(request.after(outcome), again(0.0, true));
        assert_eq!(request.after(outcome), again(12.5, true));
        assert_eq!(request.after(outcome), Decision::Stop(Stop::Spent));
        assert_eq!(request.schedule.retries(), 2);
    }
}

#[test]
fn a_seen_request_is_never_retried_without_being_asked() {
    for failure in [
        Failure::Here(Reason::UpstreamReset),
        Failure::Here(Reason::AttemptTimeout),
        Failure::Here(Reason::ConnectFailed),
        Failure::There(Reason::AppUnreachable),
        Failure::Grpc(GrpcCode::Unavailable),
        Failure::Http(503),
    ] {
        for mut request in [Request::get(None), Request::grpc(None)] {
            assert_eq!(request.after(seen(failure)), Decision::Stop(Stop::NotAsked), "{failure:?}");
        }
    }
}

#[test]
fn asked_retries_are_by_status_and_method() {
    let of_one =
        Retry { grpc_methods: vec![("shop.Orders".into(), Some("Get".into()))], ..retry() };
    let of_all = Retry { grpc_methods: vec![("shop.Orders".into(), None)], ..retry() };
    let resets = Retry { on: RetryOn { reset: true, ..retry().on }, ..retry() };
    let unavailable = Failure::Grpc(GrpcCode::Unavailable);
    let post = || Request::new(Some(retry()), &head("POST", "/", &PLAIN));
    for (name, mut request, failure, retried) in [
        ("status", Request::get(Some(retry())), Failure::Http(503), true),
        ("other status", Request::get(Some(retry())), Failure::Http(500), false),
        ("method", post(), Failure::Http(503), false),
        ("grpc status", Request::grpc(Some(retry())), unavailable, true),
        ("other", Request::grpc(Some(retry())), Failure::Grpc(GrpcCode::Internal), false),
        ("grpc status in plain HTTP", Request::get(Some(retry())), unavailable, false),
        ("http status in gRPC", Request::grpc(Some(retry())), Failure::Http(503), true),
        ("unmapped", Request::grpc(Some(retry())), Failure::Http(500), false),
        ("grpc method", Request::grpc(Some(of_one)), unavailable, false),
        ("grpc service", Request::grpc(Some(of_all)), unavailable, true),
        ("reset", Request::get(Some(resets)), Failure::Here(Reason::UpstreamReset), true),
        ("no reset", Request::get(Some(retry())), Failure::Here(Reason::UpstreamReset), false),
        ("timeout", Request::get(Some(retry())), Failure::Here(Reason::AttemptTimeout), false),
        ("connect", Request::get(Some(retry())), Failure::Here(Reason::ConnectFailed), true),
    ] {
        let decision = request.after(seen(failure));
        assert_eq!(matches!(decision, Decision::Retry { unseen: false, .. }), retried, "{name}");
    }
}

#[test]
fn asked_retries_back_off_and_end() {
    let mut request = Request::get(Some(retry()));
    let outcome = seen(Failure::Http(503));
    assert_eq!(request.after(outcome), again(12.5, false));
    assert_eq!(request.after(outcome), again(25.0, false));
    assert_eq!(request.after(outcome), Decision::Stop(Stop::Spent));
    assert!(request.schedule.may_retry(request.retry.as_ref()), "it may still be unseen later");
}

#[test]
fn what_was_asked_for_follows_what_was_not() {
    let mut request = Request::get(Some(retry()));
    let outcome = unseen(Failure::Here(Reason::ConnectFailed));
    let kinds: Vec<_> = (0..5).map(|_| request.after(outcome)).collect();
    let unseen = |decision: &Decision| matches!(decision, Decision::Retry { unseen: true, .. });
    assert_eq!(kinds.iter().filter(|d| unseen(d)).count(), 2);
    assert!(matches!(kinds[3], Decision::Retry { unseen: false, .. }));
    assert_eq!(kinds[4], Decision::Stop(Stop::Spent));
}

#[test]
fn refusals_that_hold_everywhere_are_not_retried() {
    for failure in [
        Failure::Here(Reason::NoEndpoint),
        Failure::Here(Reason::NotReady),
        Failure::Here(Reason::Overloaded),
        Failure::Here(Reason::BulkheadFull),
        Failure::Here(Reason::Deadline),
        Failure::Here(Reason::CallerGone),
        Failure::There(Reason::Denied),
        Failure::There(Reason::Unauthenticated),
        Failure::There(Reason::BulkheadFull),
        Failure::There(Reason::RateLimited),
        Failure::There(Reason::Malformed),
    ] {
        let mut request = Request::get(Some(retry()));
        assert_eq!(request.after(unseen(failure)), Decision::Stop(Stop::NotAsked), "{failure:?}");
    }
    for reason in [Reason::Draining, Reason::Overloaded, Reason::NotReady, Reason::AppUnreachable] {
        let decision = Request::get(None).after(unseen(Failure::There(reason)));
        assert_eq!(decision, again(0.0, true), "{reason}");
    }
}

#[test]
fn a_retry_never_begins_at_or_after_the_deadline() {
    let mut request = Request::get(Some(retry()));
    request.deadline = Some(request.now + Duration::from_micros(12_500));
    assert_eq!(request.after(seen(Failure::Http(503))), Decision::Stop(Stop::Deadline));
    request.deadline = Some(request.now + Duration::from_micros(12_501));
    assert_eq!(request.after(seen(Failure::Http(503))), again(12.5, false));
    let mut request = Request::get(None);
    request.deadline = Some(request.now);
    let outcome = unseen(Failure::Here(Reason::ConnectFailed));
    assert_eq!(request.after(outcome), Decision::Stop(Stop::Deadline));
}

#[test]
fn what_can_not_be_sent_again_is_not() {
    let mut request = Request::get(Some(retry()));
    request.replayable = false;
    for outcome in [seen(Failure::Http(503)), unseen(Failure::Here(Reason::ConnectFailed))] {
        assert_eq!(request.after(outcome), Decision::Stop(Stop::NotReplayable));
    }
}

#[test]
fn both_kinds_are_counted_in_the_budget() {
    let mut request = Request::get(Some(retry()));
    request.budget_settings.rate_min = 0.1;
    let outcome = unseen(Failure::Here(Reason::ConnectFailed));
    assert_eq!(request.after(outcome), again(0.0, true));
    assert_eq!(request.after(outcome), Decision::Stop(Stop::Budget));
    assert_eq!(request.after(seen(Failure::Http(503))), Decision::Stop(Stop::Budget));
    assert_eq!(request.schedule.retries(), 1, "a refused retry is not counted");
}

#[test]
fn a_server_says_when_to_come_again() {
    let outcome = |pushback| Outcome { pushback: Some(pushback), ..seen(Failure::Http(503)) };
    for (text, expected) in [
        ("100", again(100.0, false)),
        ("0", again(0.0, false)),
        ("-1", Decision::Stop(Stop::Pushback)),
        ("soon", Decision::Stop(Stop::Pushback)),
        ("", Decision::Stop(Stop::Pushback)),
        ("99999999999", Decision::Stop(Stop::Pushback)),
    ] {
        let mut request = Request::get(Some(retry()));
        assert_eq!(request.after(outcome(parse_pushback(text.as_bytes()))), expected, "{text:?}");
    }
    assert_eq!(parse_pushback(b"\xff"), Pushback::Never);
}
