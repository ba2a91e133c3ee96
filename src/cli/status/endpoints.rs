//! Which endpoints of a service take no calls, and why: their sidecars say so, or callers leave them
//! alone because they failed.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{cli::words, resource::pb};

/// Workloads that are named; the others are counted.
const NAMED_MAX: usize = 3;

/// `3 endpoints: 1 ready, 2 ejected (5x UNAVAILABLE), next probe 03:09:30 UTC`
pub(super) fn summary(
    service: &pb::ServiceStatus,
    status: &pb::StatusResponse,
    now: SystemTime,
) -> String {
    let total = usize::try_from(service.total).unwrap_or(usize::MAX);
    let ready = taking_calls(service);
    let mut text = format!("{}: {ready} ready", words::count(total, "endpoint"));
    let own = status.sidecars.iter().filter(|sidecar| {
        sidecar.service == service.name && sidecar.namespace == service.namespace
    });
    let mut reasons = BTreeMap::<&str, Vec<String>>::new();
    for sidecar in own {
        let name = match sidecar.application.as_str() {
            "" => sidecar.workload.clone(),
            why => format!("{}: {why}", sidecar.workload),
        };
        let word = match sidecar.phase() {
            pb::WorkloadPhase::Starting => "starting",
            pb::WorkloadPhase::Draining => "draining",
            pb::WorkloadPhase::NotReady => "not ready",
            pb::WorkloadPhase::Ready | pb::WorkloadPhase::Unspecified => continue,
        };
        reasons.entry(word).or_default().push(name);
    }
    for (word, names) in reasons {
        text.push_str(&format!(", {} {word} ({})", names.len(), some(&names)));
    }
    if let Some(first) = service.ejected.iter().max_by_key(|ejection| ejection.failures) {
        let count = service.ejected.len();
        text.push_str(&format!(", {count} ejected ({}x {})", first.failures, cause(&first.cause)));
        let until = service.ejected.iter().filter_map(|it| words::time(it.until.as_ref())).min();
        if let Some(until) = until {
            text.push_str(&format!(", next probe {}", words::clock_time(until, now)));
        }
    }
    text
}

/// How many take calls from everybody.
pub(super) fn taking_calls(service: &pb::ServiceStatus) -> u32 {
    service.ready.saturating_sub(u32::try_from(service.ejected.len()).unwrap_or(u32::MAX))
}

/// `UNAVAILABLE`, `HTTP 503`, `connect_failed`
pub(in crate::cli) fn cause(cause: &str) -> String {
    match (cause.strip_prefix("grpc_"), cause.strip_prefix("http_")) {
        (Some(status), _) => status.to_owned(),
        (_, Some(status)) => format!("HTTP {status}"),
        _ => cause.to_owned(),
    }
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
