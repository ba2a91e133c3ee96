//! `outrigger status`: how the mesh is, on one screen.

mod findings;
mod render;
mod traffic;

use std::process::ExitCode;

use super::{
    output::{self, Failure, Format},
    remote::Remote,
    words,
};
use crate::{clock, resource::pb};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this service: NAME or NAME.NAMESPACE
    service: Option<String>,
    #[command(flatten)]
    remote: Remote,
    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table", env = "OUTRIGGER_OUTPUT")]
    output: Format,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output;
    show(args).await.map_err(|failure| failure.in_format(format))
}

async fn show(args: Args) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let wanted = args.service.unwrap_or_default();
    let service = match wanted.split_once('.') {
        None if !wanted.is_empty() => format!("{wanted}.{}", connected.namespace),
        _ => wanted,
    };
    let request = pb::StatusRequest { service: service.clone() };
    let mut status = connected.client.config().status(request).await?.into_inner();
    if !service.is_empty() {
        let of = |name: &str, namespace: &str| format!("{name}.{namespace}") == service;
        status.services.retain(|other| of(&other.name, &other.namespace));
        status.sidecars.retain(|other| of(&other.service, &other.namespace));
        if status.services.is_empty() {
            return Err(Failure::new(anyhow::anyhow!("the mesh has no service {service}")));
        }
    }
    let view = render::View {
        server: &connected.server,
        now: clock::now(),
        sidecars: !service.is_empty() || args.output == Format::Wide,
        coloured: output::coloured(),
    };
    args.output.print(|| render::render(&status, view), || json(&status))
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
        "version": status.version,
        "tracingUi": status.tracing_ui,
    })
}

fn service_json(service: &pb::ServiceStatus) -> serde_json::Value {
    let calls = traffic::Calls::of(service);
    serde_json::json!({
        "name": service.name,
        "namespace": service.namespace,
        "ready": service.ready,
        "total": service.total,
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
        })).collect::<Vec<_>>(),
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
        "inFlight": sidecar.in_flight,
        "connectedAt": words::time_json(sidecar.connected_at.as_ref()),
        "certificateExpiresAt": words::time_json(sidecar.certificate_expires_at.as_ref()),
        "inSync": sidecar.in_sync,
        "revision": sidecar.revision,
    })
}

#[cfg(test)]
mod tests;
