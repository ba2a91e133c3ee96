//! `Mesh`: what holds for the whole mesh. There is one, named `mesh`; without it its defaults hold,
//! which are those of [`Mesh::default`].

use std::collections::BTreeMap;

use super::{Problem, pb, report::Report, service::MtlsMode};
use crate::{
    spiffe::SpiffeId,
    units::{Percent, Rate, name::check_label},
};

/// The only name of a `Mesh`.
pub const MESH_NAME: &str = "mesh";

/// What the mesh says, with its defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    /// `mesh.local`; `None`: as the control plane was started.
    pub trust_domain: Option<String>,
    /// What inbound listeners take where neither service nor namespace says.
    pub mtls: MtlsMode,
    /// The same by namespace, over `mtls`.
    pub namespaces: BTreeMap<String, MtlsMode>,
    /// Whether a peer with an identity may do what no policy speaks of.
    pub authenticated_peers_allowed: bool,
    /// Whether names outside the mesh pass through.
    pub egress_allowed: bool,
    /// Which traces start here and where spans go.
    pub tracing: Tracing,
    /// Which requests are logged.
    pub access_log: AccessLog,
}

impl Default for Mesh {
    /// Secure between services and open to the outside, so that an application that is put into the
    /// mesh goes on working.
    fn default() -> Self {
        Self {
            trust_domain: None,
            mtls: MtlsMode::Strict,
            namespaces: BTreeMap::new(),
            authenticated_peers_allowed: true,
            egress_allowed: true,
            tracing: Tracing::default(),
            access_log: AccessLog::Errors,
        }
    }
}

/// Which traces start here and where spans go.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracing {
    /// Share of the traces that start here.
    pub sampling: Percent,
    /// At most so many started by one sidecar.
    pub rate_max: Rate,
    /// OTLP over gRPC, `http://127.0.0.1:4317`; `None`: no spans are sent.
    pub otlp: Option<String>,
    /// Where a person looks at traces.
    pub ui: Option<String>,
}

impl Default for Tracing {
    /// One in a hundred shows what is usual, and fifty a second is what a collector bears of many.
    fn default() -> Self {
        Self { sampling: Percent::new(1), rate_max: Rate::of_second(50), otlp: None, ui: None }
    }
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that failed or were denied.
    Errors,
    /// All.
    All,
}

/// Reads the spec of the mesh.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(spec: &pb::Mesh) -> Result<Mesh, Vec<Problem>> {
    let (parsed, problems) = read(spec);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::Mesh) -> Vec<Problem> {
    read(spec).1
}

fn read(spec: &pb::Mesh) -> (Option<Mesh>, Vec<Problem>) {
    Report::read("spec", |report| {
        let trust_domain =
            report.field("trustDomain", |r| read_trust_domain(r, &spec.trust_domain));
        let default = Mesh::default();
        let access_log = spec.access_log.unwrap_or_default();
        Mesh {
            trust_domain,
            mtls: MtlsMode::from_pb(report.enumerator("mtls", spec.mtls)).unwrap_or(default.mtls),
            namespaces: report.field("namespaces", |report| read_namespaces(report, spec)),
            authenticated_peers_allowed: match report
                .enumerator("defaultAuthorization", spec.default_authorization)
            {
                pb::DefaultAuthorization::Unspecified | pb::DefaultAuthorization::Allow => true,
                pb::DefaultAuthorization::Deny => false,
            },
            egress_allowed: match report.enumerator("egress", spec.egress) {
                pb::Egress::Unspecified | pb::Egress::Allow => true,
                pb::Egress::Deny => false,
            },
            tracing: spec.tracing.as_ref().map_or_else(Tracing::default, |tracing| {
                report.field("tracing", |report| read_tracing(report, tracing))
            }),
            access_log: match report
                .field("accessLog", |report| report.enumerator("mode", access_log.mode))
            {
                pb::AccessLogMode::Unspecified | pb::AccessLogMode::Errors => AccessLog::Errors,
                pb::AccessLogMode::Off => AccessLog::Off,
                pb::AccessLogMode::All => AccessLog::All,
            },
        }
    })
}

fn read_trust_domain(report: &mut Report, text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let id = format!("spiffe://{text}").parse::<SpiffeId>();
    if !id.is_ok_and(|id| id.trust_domain() == text) {
        report.wrong(text, "not a trust domain", "a-z, 0-9, '.', '-' and '_', like mesh.local");
    }
    Some(text.to_owned())
}

fn read_namespaces(report: &mut Report, spec: &pb::Mesh) -> BTreeMap<String, MtlsMode> {
    let sorted = spec.namespaces.iter().collect::<BTreeMap<_, _>>();
    let read = |(namespace, defaults): (&String, &pb::NamespaceDefaults)| {
        let mode = report.entry(namespace, |report| {
            report.name(namespace, check_label(namespace))?;
            MtlsMode::from_pb(report.enumerator("mtls", defaults.mtls))
        });
        Some((namespace.clone(), mode?))
    };
    sorted.into_iter().filter_map(read).collect()
}

fn read_tracing(report: &mut Report, spec: &pb::Tracing) -> Tracing {
    let default = Tracing::default();
    Tracing {
        sampling: report
            .field("sampling", |report| report.unit(&spec.sampling, str::parse))
            .unwrap_or(default.sampling),
        rate_max: report
            .field("maxPerSecond", |report| report.unit(&spec.max_per_second, str::parse))
            .unwrap_or(default.rate_max),
        otlp: report.field("otlp", |report| read_url(report, &spec.otlp)),
        ui: report.field("ui", |report| read_url(report, &spec.ui)),
    }
}

fn read_url(report: &mut Report, text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let graphic = text.bytes().all(|b| b.is_ascii_graphic());
    if !graphic || rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        report.wrong(text, "not a URL", "http://HOST:PORT or https://HOST:PORT");
    }
    Some(text.to_owned())
}
