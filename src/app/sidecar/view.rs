//! What the admin, metrics and health listeners show of a sidecar. They stand before it has a
//! certificate, so that whoever waits can see what is missing.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::files::Static;
use crate::{
    app::{
        admin::{AdminView, HealthView},
        discovery::Watch,
        logging::Logging,
        probe::Verdict,
    },
    proxy::{EndpointReport, EndpointState, Proxy},
    resource::{self, pb::WorkloadPhase},
    snapshot::{self, Protocol},
    spiffe::{self, certificate_pem},
    task::Ready,
    telemetry::{Rfc3339, Telemetry},
    tls::Identity,
    units::ServiceName,
};

/// What all parts of a sidecar know of it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) service: ServiceName,
    pub(super) workload: String,
    /// Files with keys.
    pub(super) private_files: Vec<PathBuf>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) logging: Option<Arc<Logging>>,
    pub(super) ready: Ready,
    pub(super) phase: watch::Sender<WorkloadPhase>,
    /// What the checks of the application found.
    pub(super) application: watch::Sender<Verdict>,
    /// `POST /drain`
    pub(super) drain_asked: Notify,
    /// Once there is a certificate.
    pub(super) running: OnceLock<Running>,
}

/// What there is once all runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) identity: Arc<Identity>,
    pub(super) snapshots: Arc<snapshot::Handle>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) origin: Origin,
}

/// Where the configuration comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A control plane.
    Live { server: String, watch: Watch },
    /// Files.
    Static(Arc<Static>),
}

impl HealthView for State {
    fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> =
            self.ready.missing().into_iter().map(str::to_owned).collect();
        if *self.phase.borrow() == WorkloadPhase::Draining {
            missing.push("draining".to_owned());
        }
        missing
    }

    fn metrics(&self) -> String {
        self.telemetry.encode()
    }
}

impl State {
    /// Whether the application speaks HTTP/2 at a port of its own, as far as the mesh says.
    pub(super) fn speaks_http2(&self, local: u16) -> bool {
        let snapshot = self.running.get().and_then(|running| running.snapshots.load());
        snapshot.is_some_and(|snapshot| {
            let ports = &snapshot.inbound.ports;
            ports.iter().any(|port| port.local == local && port.protocol == Protocol::Http2)
        })
    }

    /// How it is, in one line.
    pub(super) fn summary(&self) -> String {
        let missing = self.missing();
        let mut text = match missing.as_slice() {
            [] => "ready".to_owned(),
            missing => format!("not ready: {}", missing.join(", ")),
        };
        if let Some(why) = self.application.borrow().why() {
            text.push_str(&format!(", application: {why}"));
        }
        let Some(running) = self.running.get() else { return text };
        if let Some(snapshot) = running.snapshots.load() {
            text.push_str(&format!(", revision {}", snapshot.revision));
        }
        if let Origin::Live { watch, .. } = &running.origin {
            let progress = watch.progress();
            text.push_str(if progress.connected { "" } else { ", no control plane" });
            match progress.refused.len() {
                0 => {}
                refused => text.push_str(&format!(", {refused} resources refused")),
            }
        }
        text
    }
}

impl AdminView for State {
    fn config(&self) -> Value {
        let phase = match *self.phase.borrow() {
            WorkloadPhase::Ready => "ready",
            WorkloadPhase::Draining => "draining",
            WorkloadPhase::NotReady => "not ready",
            WorkloadPhase::Starting | WorkloadPhase::Unspecified => "starting",
        };
        let mut shown = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "service": self.service.to_string(),
            "workload": self.workload,
            "phase": phase,
            "privateFiles": self.private_files,
        });
        if let Some(why) = self.application.borrow().why() {
            shown["application"] = why.into();
        }
        let Some(running) = self.running.get() else { return shown };
        match &running.origin {
            Origin::Live { server, watch } => {
                let progress = watch.progress();
                let refused = progress.refused.iter().map(|(key, problems)| {
                    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    json!({ "resource": key.to_string(), "problems": problems })
                });
                shown["controlPlane"] = json!({
                    "server": server,
                    "connected": progress.connected,
                    "error": progress.error,
                });
                shown["refused"] = refused.collect();
            }
            Origin::Static(files) => {
                let state = files.state().clone();
                let names: Vec<String> =
                    files.configuration.iter().map(|path| path.display().to_string()).collect();
                shown["files"] = json!({ "configuration": names, "error": state.error });
            }
        }
        if let Some(snapshot) = running.snapshots.load() {
            shown["revision"] = snapshot.revision.into();
            shown["namespaces"] = json!(snapshot.namespaces);
            shown["resources"] =
                snapshot.good.values().map(|resource| resource::to_json(resource)).collect();
        }
        shown
    }

    fn endpoints(&self) -> Value {
        let Some(running) = self.running.get() else { return json!([]) };
        running.proxy.endpoints().iter().map(endpoint).collect()
    }

    fn certificates(&self) -> Value {
        let Some(running) = self.running.get() else { return json!({}) };
        let svid = running.identity.svid();
        let leaf = svid.chain().first();
        let roots = running.identity.bundle();
        let root = |root: &rustls_pki_types::CertificateDer<'_>| {
            json!({
                "sha256": spiffe::fingerprint(root),
                "notAfter": spiffe::not_after(root).ok().map(time),
                "pem": certificate_pem(root),
            })
        };
        json!({
            "id": svid.id().as_str(),
            "notBefore": time(svid.not_before()),
            "notAfter": time(svid.not_after()),
            "sha256": leaf.map(|leaf| spiffe::fingerprint(leaf)),
            "pem": svid.chain_pem(),
            "trustDomain": roots.trust_domain(),
            "roots": roots.certificates().map(root).collect::<Vec<_>>(),
        })
    }

    fn logging(&self) -> String {
        self.logging.as_ref().map_or_else(|| "off".to_owned(), |logging| logging.filter())
    }

    fn set_logging(&self, filter: &str) -> Result<(), String> {
        let Some(logging) = &self.logging else {
            return Err("the log is not this sidecar's own".to_owned());
        };
        logging.set(filter).map_err(|error| error.to_string())
    }

    fn drain(&self) {
        self.drain_asked.notify_one();
    }
}

fn time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Rfc3339(since).to_string()
}

fn endpoint(report: &EndpointReport) -> Value {
    let state = match report.state {
        EndpointState::Ready => "ready",
        EndpointState::Weightless => "weightless",
        EndpointState::NotReady => "not ready",
        EndpointState::Failing => "failing its checks",
        EndpointState::Ejected => "ejected",
    };
    json!({
        "destination": report.destination,
        "endpoint": report.endpoint,
        "address": report.address,
        "zone": report.zone,
        "weight": report.weight,
        "state": state,
        "inFlight": report.in_flight,
        "failuresInRow": report.failures_in_row,
        "latencyMs": report.latency.map(|latency| latency.as_secs_f64() * 1000.0),
        "ejection": report.ejection.map(|ejection| json!({
            "failures": ejection.failures,
            "cause": ejection.cause.to_string(),
            "secondsLeft": ejection.left.as_secs_f64(),
        })),
    })
}
