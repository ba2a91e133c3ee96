//! What is wrong with a mesh, out of its status: each finding says what, since when or how much,
//! and one command that leads on.

use std::time::{Duration, SystemTime};

use super::{endpoints, traffic::Calls};
use crate::{
    cli::words,
    reason::{Fault, Reason},
    resource::{ResourceKey, pb},
};

/// From this share of failed calls on a service is a problem and not a remark.
const FAILED_PROBLEM: f64 = 0.01;
/// A certificate is renewed from half its life on; this late, renewals must have failed.
const EXPIRY_WARNING: Duration = Duration::from_hours(1);

/// What the mesh's root is called in findings.
pub(in crate::cli) const ROOT: &str = "root certificate";

/// A sidecar takes milliseconds to run what is new; after this long something holds it up.
const SYNC_MAX: Duration = Duration::from_secs(10);

/// What began so long after a change may have come of it.
const CHANGE_BEFORE_MAX: Duration = Duration::from_mins(10);

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Severity {
    Problem,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Finding {
    pub(in crate::cli) severity: Severity,
    /// `orders.shop`, `orders-1.shop` or `GRPCRoute shop/orders`
    pub(in crate::cli) subject: String,
    pub(in crate::cli) what: String,
    /// Further facts, and at last what to try.
    pub(in crate::cli) lines: Vec<String>,
}

/// Everything found, worst first.
pub(super) fn all(status: &pb::StatusResponse, now: SystemTime) -> Vec<Finding> {
    let services = status.services.iter();
    let mut findings: Vec<Finding> =
        services.filter_map(|service| of_service(service, status, now)).collect();
    findings.extend(status.refusals.iter().map(|refusal| of_refusal(refusal, now)));
    findings.extend(status.unsound.iter().filter_map(|unsound| of_unsound(unsound, now)));
    findings.extend(of_store(status));
    findings.extend(status.sidecars.iter().filter_map(|sidecar| of_sidecar(sidecar, now)));
    findings.extend(behind(status, now));
    findings.extend(of_root(status, now));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn of_service(
    service: &pb::ServiceStatus,
    status: &pb::StatusResponse,
    now: SystemTime,
) -> Option<Finding> {
    let name = format!("{}.{}", service.name, service.namespace);
    let calls = Calls::of(service);
    let endpoints = endpoints::summary(service, status, now);
    let missing = service.ready < service.total || !service.ejected.is_empty();
    let Some((reason, count)) = calls.reasons().first().copied() else {
        return without_failures(service, name, endpoints);
    };
    let failed_share = 1.0 - calls.ok_share().unwrap_or(1.0);
    let callers_fault = Reason::from_name(reason).is_some_and(|r| r.row().fault == Fault::Caller);
    let severity = if failed_share >= FAILED_PROBLEM && !callers_fault {
        Severity::Problem
    } else {
        Severity::Warning
    };
    let since = calls.since.get(reason).copied();
    let when = match since {
        Some(since) => format!("since {}", words::clock_time(since, now)),
        None => {
            let window = Duration::try_from_secs_f64(service.window_seconds).unwrap_or_default();
            format!("in the last {}", words::age(window))
        }
    };
    let what = format!(
        "{reason}: {count} of {} calls failed {when} (from {})",
        calls.total,
        calls.failed_from.join(", "),
    );
    let mut lines = Vec::new();
    if missing || service.total == 0 {
        lines.push(endpoints);
    }
    if let Some(link) = calls.traces.get(reason).and_then(|trace| trace_link(status, trace)) {
        lines.push(format!("one of them: {link}"));
    }
    let before = since.filter(|_| !callers_fault).and_then(|since| change_before(status, since));
    lines.push(match before {
        Some((revision, after)) => format!(
            "began {} after rev {revision}     try: outrigger rollback {} --dry-run",
            words::age(after),
            revision - 1
        ),
        None => format!("try: {}", next_command(reason, service)),
    });
    Some(Finding { severity, subject: name, what, lines })
}

/// The last change before something began, if it was shortly before, and how long before.
fn change_before(status: &pb::StatusResponse, since: SystemTime) -> Option<(u64, Duration)> {
    let newest = (status.revision, status.changed_at.as_ref());
    let known = status.recent.iter().map(|it| (it.revision, it.changed_at.as_ref()));
    let before = known.chain([newest]).filter_map(|(revision, at)| {
        Some((revision, since.duration_since(words::time(at)?).ok()?))
    });
    before
        .filter(|(revision, after)| *revision > 1 && *after <= CHANGE_BEFORE_MAX)
        .min_by_key(|(revision, after)| (*after, std::cmp::Reverse(*revision)))
}

/// Where the traces' user interface shows one: at `/trace/ID`, as Jaeger has it, or where its
/// address says `{trace}`.
pub(super) fn trace_link(status: &pb::StatusResponse, trace: &str) -> Option<String> {
    let ui = status.tracing_ui.as_str();
    match ui {
        "" => None,
        ui if ui.contains("{trace}") => Some(ui.replace("{trace}", trace)),
        ui => Some(format!("{}/trace/{trace}", ui.trim_end_matches('/'))),
    }
}

/// What is wrong with a service though no call failed.
fn without_failures(
    service: &pb::ServiceStatus,
    subject: String,
    endpoints: String,
) -> Option<Finding> {
    let (severity, what, line) = match (service.ready, service.total) {
        (0, 0) if service.leads_elsewhere => return None,
        (0, 0) => {
            let (name, namespace) = (&service.name, &service.namespace);
            let delete =
                format!("if it is not to come back: outrigger delete svc {name} -n {namespace}");
            (Severity::Warning, "no workload serves it", delete)
        }
        (0, _) => (Severity::Problem, "no endpoint is ready", endpoints),
        (ready, total) if ready < total => (Severity::Warning, "not all are ready", endpoints),
        _ if !service.ejected.is_empty() => {
            (Severity::Warning, "callers leave endpoints alone that failed", endpoints)
        }
        _ => return None,
    };
    Some(Finding { severity, subject, what: what.to_owned(), lines: vec![line] })
}

/// One command that shows more of the cause.
fn next_command(reason: &str, service: &pb::ServiceStatus) -> String {
    let (name, namespace) = (&service.name, &service.namespace);
    match Reason::from_name(reason) {
        Some(Reason::Denied | Reason::Unauthenticated) => {
            format!("outrigger get authorizationpolicies -n {namespace}")
        }
        Some(Reason::NoRoute | Reason::BackendInvalid | Reason::UnknownService) => {
            format!("outrigger get grpcroutes,httproutes,services -n {namespace} -o wide")
        }
        Some(Reason::BulkheadFull | Reason::BulkheadWait | Reason::CircuitOpen) => {
            format!("outrigger get trafficpolicies -n {namespace} -o yaml")
        }
        _ => format!("outrigger status {name}.{namespace}"),
    }
}

fn of_refusal(refusal: &pb::Refusal, now: SystemTime) -> Finding {
    let subject = refusal.resource.as_ref().map_or_else(String::new, |id| {
        let namespace = if id.namespace.is_empty() { "" } else { "/" };
        format!("{} {}{namespace}{}", id.kind, id.namespace, id.name)
    });
    let problem = refusal.problems.first();
    let message = problem.map_or("no reason given", |problem| problem.message.as_str());
    let field = problem.map_or("", |problem| problem.field.as_str());
    let mut lines = Vec::new();
    if !field.is_empty() {
        lines.push(format!("at {field}; the last good version stays in use there"));
    }
    lines.extend(problem.filter(|p| !p.hint.is_empty()).map(|p| format!("mend: {}", p.hint)));
    Finding {
        severity: Severity::Problem,
        subject,
        what: format!(
            "refused by {}{}: {message}",
            refusal.workload,
            since(refusal.since.as_ref(), now)
        ),
        lines,
    }
}

/// ` since 03:04:20 UTC`; nothing where that is not known.
fn since(at: Option<&prost_types::Timestamp>, now: SystemTime) -> String {
    let at = words::time(at);
    at.map_or_else(String::new, |at| format!(" since {}", words::clock_time(at, now)))
}

fn of_unsound(unsound: &pb::Unsound, now: SystemTime) -> Option<Finding> {
    let key = ResourceKey::from_pb(unsound.resource.as_ref()?)?;
    let condition = unsound.condition.as_ref()?;
    let what = format!(
        "{} is False{}, {}: {}",
        condition.r#type,
        since(condition.last_transition_time.as_ref(), now),
        condition.reason,
        condition.message
    );
    let namespace = match key.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" -n {namespace}"),
    };
    let kind = key.kind.to_lowercase();
    let lines = vec![format!("try: outrigger describe {kind} {}{namespace}", key.name)];
    Some(Finding { severity: Severity::Warning, subject: key.to_string(), what, lines })
}

fn of_store(status: &pb::StatusResponse) -> Option<Finding> {
    status.store_failing.then(|| Finding {
        severity: Severity::Problem,
        subject: "store".to_owned(),
        what: "takes no writes; what is there is served on".to_owned(),
        lines: vec!["the control plane's log says why: a full or broken disk".to_owned()],
    })
}

pub(in crate::cli) fn of_sidecar(sidecar: &pb::SidecarStatus, now: SystemTime) -> Option<Finding> {
    let expires = words::time(sidecar.certificate_expires_at.as_ref())?;
    let left = expires.duration_since(now);
    let (severity, what) = match left {
        Err(_) => (Severity::Problem, "certificate has expired".to_owned()),
        Ok(left) if left < EXPIRY_WARNING => {
            (Severity::Warning, format!("certificate expires in {}", words::age(left)))
        }
        Ok(_) => return None,
    };
    let subject = format!("{}.{}", sidecar.workload, sidecar.namespace);
    let lines = vec![format!("try: outrigger check {subject}")];
    Some(Finding { severity, subject, what, lines })
}

/// Sidecars that should run the newest revision by now. One that refuses something has a finding of
/// its own.
fn behind(status: &pb::StatusResponse, now: SystemTime) -> Vec<Finding> {
    let long_ago = |at: Option<&prost_types::Timestamp>| {
        let ago = words::time(at).and_then(|at| now.duration_since(at).ok());
        ago.is_some_and(|ago| ago >= SYNC_MAX)
    };
    let is_behind = |sidecar: &&pb::SidecarStatus| {
        let refuses = status.refusals.iter().any(|refusal| refusal.workload == sidecar.workload);
        !sidecar.in_sync
            && !refuses
            && sidecar.phase() != pb::WorkloadPhase::Draining
            && long_ago(sidecar.connected_at.as_ref())
            && long_ago(status.changed_at.as_ref())
    };
    let finding = |sidecar: &pb::SidecarStatus| {
        let subject = format!("{}.{}", sidecar.workload, sidecar.namespace);
        Finding {
            severity: Severity::Warning,
            what: match words::time(sidecar.behind_since.as_ref()).map(|at| now.duration_since(at))
            {
                Some(Ok(lag)) => {
                    format!("still runs rev {}, behind for {}", sidecar.revision, words::age(lag))
                }
                _ => format!("still runs rev {}", sidecar.revision),
            },
            lines: vec![format!("try: outrigger check {subject}")],
            subject,
        }
    };
    status.sidecars.iter().filter(is_behind).map(finding).collect()
}

/// The mesh's root is replaced by people, so they are told in time.
pub(in crate::cli) fn of_root(status: &pb::StatusResponse, now: SystemTime) -> Option<Finding> {
    const WARNING: Duration = Duration::from_hours(60 * 24);
    let expires = words::time(status.root_expires_at.as_ref())?;
    let left = expires.duration_since(now).unwrap_or_default();
    (left < WARNING).then(|| Finding {
        severity: if left.is_zero() { Severity::Problem } else { Severity::Warning },
        subject: ROOT.to_owned(),
        what: format!("expires in {}", words::age(left)),
        lines: vec!["every identity of the mesh ends with it".to_owned()],
    })
}
