//! The picture of a mesh: verdict, causes, table worst first, control plane last.

use std::{cmp::Ordering, time::SystemTime};

use super::{
    endpoints,
    findings::{self, Finding, Severity},
    traffic::Calls,
};
use crate::{
    cli::{output, words},
    resource::pb,
};

/// What the picture depends on besides the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// The control plane's address as the context has it.
    pub(super) server: &'a str,
    pub(super) now: SystemTime,
    /// Whether to add the table of sidecars.
    pub(super) sidecars: bool,
    pub(super) coloured: bool,
}

pub(super) fn render(status: &pb::StatusResponse, view: View<'_>) -> String {
    let findings = findings::all(status, view.now);
    let mut text = verdict(status, &findings, view);
    text.push('\n');
    for finding in &findings {
        text.push_str(&cause(finding, view));
    }
    if !findings.is_empty() {
        text.push('\n');
    }
    if status.services.is_empty() {
        text.push_str("no services yet; outrigger run NAME --app :PORT -- COMMAND adds one\n");
    } else {
        text.push_str(&services(status, &findings));
    }
    if view.sidecars && !status.sidecars.is_empty() {
        text.push('\n');
        text.push_str(&sidecars(status, view.now));
    }
    text.push('\n');
    text.push_str(&control_plane(status, view));
    let trace = Some(&*status.trace).filter(|trace| !trace.is_empty());
    if let Some(link) = trace.and_then(|trace| findings::trace_link(status, trace)) {
        text.push_str(&format!("a trace of the last seconds: {}\n", output::printable(&link)));
    } else if !status.tracing_ui.is_empty() {
        text.push_str(&format!("traces {}\n", output::printable(&status.tracing_ui)));
    }
    text
}

/// The first word of the picture.
pub(super) fn verdict_word(findings: &[Finding]) -> &'static str {
    if findings.iter().any(|finding| finding.severity == Severity::Problem) {
        "DEGRADED"
    } else {
        "HEALTHY"
    }
}

fn verdict(status: &pb::StatusResponse, findings: &[Finding], view: View<'_>) -> String {
    let word = verdict_word(findings);
    let colour = if word == "HEALTHY" { "32" } else { "31" };
    let mut text = paint(word, colour, view.coloured);
    let of = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counts: Vec<String> = [(Severity::Problem, "problem"), (Severity::Warning, "warning")]
        .into_iter()
        .filter(|(severity, _)| of(*severity) > 0)
        .map(|(severity, noun)| words::count(of(severity), noun))
        .collect();
    if !counts.is_empty() {
        text.push_str("  ");
        text.push_str(&counts.join(", "));
    }
    text.push_str("   ");
    text.push_str(&revision(status, view.now));
    let in_sync = status.sidecars.iter().filter(|sidecar| sidecar.in_sync).count();
    if !status.sidecars.is_empty() {
        text.push_str(&format!("   {in_sync}/{} in sync", status.sidecars.len()));
    }
    text.push('\n');
    text
}

/// `rev 42, 3m ago, ana: "inventory canary"`
fn revision(status: &pb::StatusResponse, now: SystemTime) -> String {
    let mut text = format!("rev {}", status.revision);
    let changed =
        words::time(status.changed_at.as_ref()).and_then(|at| now.duration_since(at).ok());
    if let Some(ago) = changed {
        text.push_str(&format!(", {} ago", words::age(ago)));
    }
    let message = output::printable(&status.change_message);
    match (words::who(&status.changed_by), message.as_str()) {
        ("", "") => {}
        (by, "") => text.push_str(&format!(", {by}")),
        ("", message) => text.push_str(&format!(", \"{message}\"")),
        (by, message) => text.push_str(&format!(", {by}: \"{message}\"")),
    }
    text
}

fn cause(finding: &Finding, view: View<'_>) -> String {
    let mark = match finding.severity {
        Severity::Problem => paint("x", "31", view.coloured),
        Severity::Warning => paint("!", "33", view.coloured),
    };
    let what = output::printable(&finding.what);
    let mut text = format!("{mark} {}   {what}\n", output::printable(&finding.subject));
    for line in &finding.lines {
        text.push_str(&format!("    {}\n", output::printable(line)));
    }
    text
}

fn services(status: &pb::StatusResponse, findings: &[Finding]) -> String {
    let mut rows: Vec<(u8, Calls, &pb::ServiceStatus)> = status
        .services
        .iter()
        .map(|service| {
            let subject = format!("{}.{}", service.name, service.namespace);
            let worst = findings
                .iter()
                .filter(|finding| finding.subject == subject)
                .map(|finding| match finding.severity {
                    Severity::Problem => 0,
                    Severity::Warning => 1,
                })
                .min();
            (worst.unwrap_or(2), Calls::of(service), service)
        })
        .collect();
    rows.sort_by(|(a_rank, a_calls, a), (b_rank, b_calls, b)| {
        let share = |calls: &Calls| calls.ok_share().unwrap_or(1.0);
        let by_share = share(a_calls).partial_cmp(&share(b_calls)).unwrap_or(Ordering::Equal);
        let by_name = || (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name));
        a_rank.cmp(b_rank).then(by_share).then_with(by_name)
    });
    let cells: Vec<Vec<String>> =
        rows.iter().map(|(_, calls, service)| row(calls, service, status)).collect();
    let headings = ["SERVICE", "READY", "RPS", "OK", "P50", "P99", "REASONS 5m", "REV"];
    output::table(&headings, &[1, 2, 3, 4, 5], &cells)
}

fn row(calls: &Calls, service: &pb::ServiceStatus, status: &pb::StatusResponse) -> Vec<String> {
    let dash = || "-".to_owned();
    let reasons: Vec<String> =
        calls.reasons().iter().take(3).map(|(reason, count)| format!("{reason} {count}")).collect();
    let own = |sidecar: &&pb::SidecarStatus| {
        sidecar.service == service.name && sidecar.namespace == service.namespace
    };
    let oldest = status.sidecars.iter().filter(own).map(|sidecar| sidecar.revision).min();
    vec![
        format!("{}.{}", service.name, service.namespace),
        format!("{}/{}", endpoints::taking_calls(service), service.total),
        rate(calls.total, service.window_seconds),
        calls.ok_share().map_or_else(dash, share_text),
        calls.quantile(0.5).map_or_else(dash, words::latency),
        calls.quantile(0.99).map_or_else(dash, words::latency),
        if reasons.is_empty() { dash() } else { reasons.join(", ") },
        oldest.map_or_else(dash, |revision| revision.to_string()),
    ]
}

/// `100%` only when all of them were; below that two digits after the point.
fn share_text(share: f64) -> String {
    if share >= 1.0 {
        return "100%".to_owned();
    }
    format!("{:.2}%", (share * 10_000.0).floor() / 100.0)
}

#[allow(clippy::cast_precision_loss, reason = "counts of calls are far below 2^52")]
fn rate(total: u64, window_seconds: f64) -> String {
    if window_seconds <= 0.0 {
        return "-".to_owned();
    }
    match total as f64 / window_seconds {
        rate if rate > 0.0 && rate < 9.95 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

fn sidecars(status: &pb::StatusResponse, now: SystemTime) -> String {
    let dash = || "-".to_owned();
    let cells: Vec<Vec<String>> = status
        .sidecars
        .iter()
        .map(|sidecar| {
            let left = words::time(sidecar.certificate_expires_at.as_ref())
                .map(|expires| expires.duration_since(now).unwrap_or_default());
            let up = words::time(sidecar.connected_at.as_ref())
                .and_then(|connected| now.duration_since(connected).ok());
            let revision = sidecar.revision.to_string();
            vec![
                format!("{}.{}", sidecar.workload, sidecar.namespace),
                sidecar.service.clone(),
                phase(sidecar.phase()).to_owned(),
                if sidecar.address.is_empty() { dash() } else { sidecar.address.clone() },
                sidecar.in_flight.to_string(),
                left.map_or_else(dash, words::age),
                up.map_or_else(dash, words::age),
                if sidecar.in_sync { revision } else { format!("{revision} behind") },
                sidecar.version.clone(),
            ]
        })
        .collect();
    let headings =
        ["WORKLOAD", "SERVICE", "PHASE", "ADDRESS", "IN FLIGHT", "CERT", "UP", "REV", "VERSION"];
    output::table(&headings, &[4, 5, 6], &cells)
}

pub(super) fn phase(phase: pb::WorkloadPhase) -> &'static str {
    match phase {
        pb::WorkloadPhase::Unspecified => "unknown",
        pb::WorkloadPhase::Starting => "starting",
        pb::WorkloadPhase::Ready => "ready",
        pb::WorkloadPhase::Draining => "draining",
        pb::WorkloadPhase::NotReady => "not ready",
    }
}

fn control_plane(status: &pb::StatusResponse, view: View<'_>) -> String {
    let mut text = format!("control plane {}", view.server);
    let up = words::time(status.started_at.as_ref());
    if let Some(up) = up.and_then(|at| view.now.duration_since(at).ok()) {
        text.push_str(&format!("  up {}", words::age(up)));
    }
    text.push_str(if status.store_failing { "  store failing" } else { "  store ok" });
    let root = words::time(status.root_expires_at.as_ref());
    if let Some(left) = root.and_then(|at| at.duration_since(view.now).ok()) {
        text.push_str(&format!("  root expires in {}", words::age(left)));
    }
    if !status.version.is_empty() {
        text.push_str(&format!("  version {}", output::printable(&status.version)));
    }
    text.push('\n');
    text
}

fn paint(text: &str, colour: &str, coloured: bool) -> String {
    if coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}
