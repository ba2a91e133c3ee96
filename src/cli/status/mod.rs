//! `outrigger status`: how the mesh is, on one screen.

pub(super) mod endpoints;
pub(super) mod findings;
mod render;
mod traffic;

use std::{process::ExitCode, time::Duration};

use tokio::time;

use super::{
    output::{self, Failure, Format, Output},
    remote::{Connected, Remote},
    report, words,
};
use crate::{
    clock,
    resource::{Problem, pb},
};

/// Between two pictures of a watch.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Home, and everything below it erased: less flicker than an empty screen.
const CLEAR: &str = "\x1b[H\x1b[J";

const EXAMPLES: &str = "\
Examples:
  outrigger status
  outrigger status -w                  again and again
  outrigger status inventory.shop      one service with its sidecars
  outrigger status orders-2            one sidecar of the context's namespace
  outrigger status -o json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only this service or sidecar: NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE|WORKLOAD")]
    subject: Option<String>,
    /// Again every two seconds, until it is stopped
    #[arg(short, long, env = "OUTRIGGER_WATCH")]
    watch: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    show(args).await.map_err(|failure| failure.in_format(format))
}

async fn show(args: Args) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    if !args.watch {
        let text = picture(&args, &connected).await?;
        output::out(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let clear = if output::is_terminal() { CLEAR } else { "" };
    let mut shown = false;
    loop {
        // A control plane that is away for a moment ends no watch; programs read pictures alone.
        let text = match picture(&args, &connected).await {
            Ok(text) => text,
            Err(failure) if output::is_terminal() => format!("{}\n", failure.message()),
            Err(failure) if shown => {
                output::note(&format!("{}\n", failure.message()));
                String::new()
            }
            Err(failure) => return Err(failure),
        };
        shown = true;
        if !output::out_to_reader(&format!("{clear}{text}"))? {
            return Ok(ExitCode::SUCCESS);
        }
        time::sleep(WATCH_EVERY).await;
    }
}

/// The mesh as it is now, as it is to be printed.
async fn picture(args: &Args, connected: &Connected) -> Result<String, Failure> {
    let answer = connected.client.config().status(pb::StatusRequest::default()).await;
    let mut status = answer.map_err(|status| connected.failed(&status))?.into_inner();
    if let Some(subject) = &args.subject {
        let subject = match subject.contains('.') {
            true => subject.clone(),
            false => format!("{subject}.{}", connected.namespace),
        };
        if !narrow(&mut status, &subject) {
            let message = format!("the mesh has no service and no sidecar {subject}");
            return Err(Failure::say(message).with_hint("outrigger status lists all of them"));
        }
    }
    let view = render::View {
        server: &connected.server,
        now: clock::now(),
        sidecars: args.subject.is_some() || args.output.format == Format::Wide,
        coloured: output::coloured(),
    };
    args.output.format.text(|| render::render(&status, view), || json(&status))
}

/// Leaves only that service with its sidecars, or that sidecar with its service; whether there is
/// such a one.
fn narrow(status: &mut pb::StatusResponse, subject: &str) -> bool {
    let is = |name: &str, namespace: &str| format!("{name}.{namespace}") == subject;
    if status.services.iter().any(|it| is(&it.name, &it.namespace)) {
        status.services.retain(|it| is(&it.name, &it.namespace));
        status.sidecars.retain(|it| is(&it.service, &it.namespace));
    } else {
        status.sidecars.retain(|it| is(&it.workload, &it.namespace));
        let sidecars = &status.sidecars;
        let served = |it: &pb::ServiceStatus| {
            let of = |sidecar: &pb::SidecarStatus| {
                (&sidecar.service, &sidecar.namespace) == (&it.name, &it.namespace)
            };
            sidecars.iter().any(of)
        };
        status.services.retain(served);
    }
    status.unsound.clear();
    let sidecars = &status.sidecars;
    status.refusals.retain(|it| sidecars.iter().any(|sidecar| sidecar.workload == it.workload));
    !(status.services.is_empty() && status.sidecars.is_empty())
}

fn json(status: &pb::StatusResponse) -> serde_json::Value {
    let findings = findings::all(status, clock::now());
    let problems: Vec<_> = findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "severity": match finding.severity {
                    findings::Severity::Problem => "Problem",
                    findings::Severity::Warning => "Warning",
                },
                "subject": finding.subject,
                "what": finding.what,
                "more": finding.lines,
            })
        })
        .collect();
    serde_json::json!({
        "verdict": render::verdict_word(&findings),
        "findings": problems,
        "revision": status.revision,
        "changedAt": words::time_json(status.changed_at.as_ref()),
        "changedBy": status.changed_by,
        "changeMessage": status.change_message,
        "services": status.services.iter().map(service_json).collect::<Vec<_>>(),
        "sidecars": status.sidecars.iter().map(sidecar_json).collect::<Vec<_>>(),
        "startedAt": words::time_json(status.started_at.as_ref()),
        "rootExpiresAt": words::time_json(status.root_expires_at.as_ref()),
        "storeFailing": status.store_failing,
        "refusals": status.refusals.iter().map(refusal_json).collect::<Vec<_>>(),
        "unsound": status.unsound.iter().map(unsound_json).collect::<Vec<_>>(),
        "version": status.version,
        "tracingUi": status.tracing_ui,
        "trace": status.trace,
    })
}

fn refusal_json(refusal: &pb::Refusal) -> serde_json::Value {
    let id = refusal.resource.clone().unwrap_or_default();
    let problems = refusal.problems.iter().map(Problem::from_pb);
    serde_json::json!({
        "kind": id.kind,
        "namespace": id.namespace,
        "name": id.name,
        "workload": refusal.workload,
        "since": words::time_json(refusal.since.as_ref()),
        "problems": problems.map(|it| report::problem_json(&it)).collect::<Vec<_>>(),
    })
}

fn service_json(service: &pb::ServiceStatus) -> serde_json::Value {
    let calls = traffic::Calls::of(service);
    serde_json::json!({
        "name": service.name,
        "namespace": service.namespace,
        "ready": service.ready,
        "total": service.total,
        "ejected": service.ejected.iter().map(ejection_json).collect::<Vec<_>>(),
        "windowSeconds": service.window_seconds,
        "calls": calls.total,
        "failed": calls.failed,
        "p50Milliseconds": calls.quantile(0.5),
        "p99Milliseconds": calls.quantile(0.99),
        "traffic": service.traffic.iter().map(|traffic| serde_json::json!({
            "source": traffic.source,
            "destination": traffic.destination,
            "total": traffic.total,
            "failed": traffic.failed,
            "failingSince": traffic.failing_since.iter()
                .map(|(reason, at)| (reason.clone(), words::time_json(Some(at))))
                .collect::<serde_json::Map<_, _>>(),
            "failedTraces": traffic.failed_traces,
        })).collect::<Vec<_>>(),
    })
}

pub(super) fn ejection_json(ejection: &pb::Ejection) -> serde_json::Value {
    serde_json::json!({
        "workload": ejection.endpoint,
        "failures": ejection.failures,
        "cause": ejection.cause,
        "until": words::time_json(ejection.until.as_ref()),
        "sidecars": ejection.sidecars,
    })
}

fn unsound_json(unsound: &pb::Unsound) -> serde_json::Value {
    let id = unsound.resource.clone().unwrap_or_default();
    let condition = unsound.condition.clone().unwrap_or_default();
    serde_json::json!({
        "kind": id.kind,
        "namespace": id.namespace,
        "name": id.name,
        "type": condition.r#type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": words::time_json(condition.last_transition_time.as_ref()),
    })
}

fn sidecar_json(sidecar: &pb::SidecarStatus) -> serde_json::Value {
    serde_json::json!({
        "workload": sidecar.workload,
        "service": sidecar.service,
        "namespace": sidecar.namespace,
        "version": sidecar.version,
        "address": sidecar.address,
        "phase": render::phase(sidecar.phase()),
        "application": sidecar.application,
        "inFlight": sidecar.in_flight,
        "connectedAt": words::time_json(sidecar.connected_at.as_ref()),
        "certificateExpiresAt": words::time_json(sidecar.certificate_expires_at.as_ref()),
        "inSync": sidecar.in_sync,
        "revision": sidecar.revision,
        "behindSince": words::time_json(sidecar.behind_since.as_ref()),
    })
}

#[cfg(test)]
mod tests;
