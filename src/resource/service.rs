//! `Service`: a name in the mesh, the ports it serves and who serves it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Problem, pb, report::Report};

/// What a service says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its ports; none when nobody said.
    pub ports: Vec<ServicePort>,
    /// Labels of the workloads that serve it; empty: those registered under its name.
    pub selector: BTreeMap<String, String>,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// As callers write it.
    pub number: u16,
    /// Its name; may be empty on a service of one port.
    pub name: String,
    /// What the application speaks there.
    pub protocol: AppProtocol,
    /// What the inbound listener takes; `None`: as the namespace or the mesh says.
    pub mtls: Option<MtlsMode>,
}

/// What an application's port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppProtocol {
    /// Not said.
    Detect,
    /// `grpc`
    Grpc,
    /// `http`
    Http,
    /// `kubernetes.io/h2c`
    H2c,
    /// `kubernetes.io/ws`
    WebSocket,
    /// `tls`
    Tls,
    /// `tcp`
    Tcp,
}

const PROTOCOLS: [(&str, AppProtocol); 6] = [
    ("grpc", AppProtocol::Grpc),
    ("http", AppProtocol::Http),
    ("kubernetes.io/h2c", AppProtocol::H2c),
    ("kubernetes.io/ws", AppProtocol::WebSocket),
    ("tls", AppProtocol::Tls),
    ("tcp", AppProtocol::Tcp),
];

/// What an inbound listener takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Mutual TLS only.
    #[default]
    Strict,
    /// Mutual TLS, and plaintext from callers without an identity.
    Permissive,
    /// Plaintext only.
    Disabled,
}

impl MtlsMode {
    /// `None` when it was left out.
    pub(super) fn from_pb(mode: pb::MtlsMode) -> Option<Self> {
        match mode {
            pb::MtlsMode::Unspecified => None,
            pb::MtlsMode::Strict => Some(Self::Strict),
            pb::MtlsMode::Permissive => Some(Self::Permissive),
            pb::MtlsMode::Disabled => Some(Self::Disabled),
        }
    }
}

/// Reads the spec of a service.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(spec: &pb::Service) -> Result<Service, Vec<Problem>> {
    let (parsed, problems) = read(spec);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::Service) -> Vec<Problem> {
    read(spec).1
}

fn read(spec: &pb::Service) -> (Option<Service>, Vec<Problem>) {
    Report::read("spec", |report| {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        let several = spec.ports.len() > 1;
        let ports = report.each("ports", &spec.ports, |report, port| {
            let parsed = read_port(report, port);
            if !numbers.insert(parsed.number) {
                report.field("port", |r| r.wrong(port.port, "stands twice in this service", ""));
            }
            if parsed.name.is_empty() && several {
                report.field("name", |r| r.error("is needed where there are several ports", ""));
            } else if !parsed.name.is_empty() && !names.insert(&port.name) {
                report.field("name", |r| r.wrong(&port.name, "stands twice in this service", ""));
            }
            parsed
        });
        let selector = spec.selector.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Service { ports, selector }
    })
}

fn read_port(report: &mut Report, port: &pb::ServicePort) -> ServicePort {
    if !port.name.is_empty() {
        report.field("name", |report| report.label(&port.name));
    }
    let protocol = report.field("appProtocol", |report| match &*port.app_protocol {
        "" => Some(AppProtocol::Detect),
        text => report.word(text, "not a protocol", &PROTOCOLS),
    });
    ServicePort {
        number: report.field("port", |report| report.port(port.port)),
        name: port.name.clone(),
        protocol: protocol.unwrap_or(AppProtocol::Detect),
        mtls: MtlsMode::from_pb(report.enumerator("mtls", port.mtls)),
    }
}
