//! `AuthorizationPolicy`: who may call what.

use super::{
    Kind, Problem, pb,
    reference::{GrpcMethod, grpc_method, http_method, targets},
    report::Report,
};
use crate::{
    spiffe::SpiffeId,
    units::{ServiceName, name::check_label},
};

/// What a policy says.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthorizationPolicy {
    /// Services of the own namespace; none: every workload of the namespace.
    pub services: Vec<String>,
    /// What it does.
    pub action: Action,
    /// Any of these; none: nothing matches.
    pub rules: Vec<Rule>,
}

/// What a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allows what matches; where one applies, what none allows is denied.
    Allow,
    /// Denies what matches, before any Allow.
    Deny,
    /// Decides nothing; what it would not allow is logged and counted.
    Audit,
}

/// `from` and `to` must both hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Any of these; none: any authenticated peer.
    pub from: Vec<Source>,
    /// Any of these; none: everything.
    pub to: Vec<Target>,
}

/// Who calls. All parts that are not empty must hold; within one, any.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Services, with their namespace.
    pub services: Vec<ServiceName>,
    /// Whole identities.
    pub identities: Vec<SpiffeId>,
    /// What stands before the star of an identity with one.
    pub identity_prefixes: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
}

/// What is called. All parts that are set must hold; within one, any.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// gRPC methods; empty: not asked.
    pub grpc: Vec<GrpcMethod>,
    /// Requests that are no gRPC.
    pub http: Option<HttpTarget>,
}

/// Which HTTP requests; empty parts are not asked.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpTarget {
    /// HTTP methods.
    pub methods: Vec<String>,
    /// Paths.
    pub paths: Vec<PathPattern>,
}

/// A path, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPattern {
    /// The whole path.
    Exact(String),
    /// What stands before the star.
    Prefix(String),
}

/// Reads the spec of a policy that stands in `namespace`.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(
    spec: &pb::AuthorizationPolicy,
    namespace: &str,
) -> Result<AuthorizationPolicy, Vec<Problem>> {
    let (parsed, problems) = read(spec, namespace);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::AuthorizationPolicy, namespace: &str) -> Vec<Problem> {
    read(spec, namespace).1
}

fn read(
    spec: &pb::AuthorizationPolicy,
    namespace: &str,
) -> (Option<AuthorizationPolicy>, Vec<Problem>) {
    Report::read("spec", |report| {
        let targets = targets(report, &spec.target_refs, &[Kind::Service]);
        let action = match report.enumerator("action", spec.action) {
            pb::AuthorizationAction::Unspecified | pb::AuthorizationAction::Allow => Action::Allow,
            pb::AuthorizationAction::Deny => Action::Deny,
            pb::AuthorizationAction::Audit => Action::Audit,
        };
        if spec.rules.is_empty() {
            let message = match action {
                Action::Allow => "are missing: such a policy allows nothing at all",
                Action::Deny | Action::Audit => "are missing: such a policy does nothing",
            };
            report.field("rules", |report| report.warn("", message, "[{}] matches everything"));
        }
        let rules = report.each("rules", &spec.rules, |report, rule| Rule {
            from: report.each("from", &rule.from, |r, source| read_source(r, source, namespace)),
            to: report.each("to", &rule.to, read_target),
        });
        let services = targets.into_iter().map(|target| target.name).collect();
        AuthorizationPolicy { services, action, rules }
    })
}

/// An entry that names nothing would match every peer, which nobody writes on purpose: for that
/// `from` is left out.
fn read_source(report: &mut Report, spec: &pb::AuthorizationSource, namespace: &str) -> Source {
    if spec.services.is_empty() && spec.identities.is_empty() && spec.namespaces.is_empty() {
        report.error("names nobody", "services, identities or namespaces");
    }
    let services = report.each("services", &spec.services, |report, text| {
        report.name(text, ServiceName::parse(text, namespace))
    });
    let mut source = Source {
        services: services.into_iter().flatten().collect(),
        identities: Vec::new(),
        identity_prefixes: Vec::new(),
        namespaces: spec.namespaces.clone(),
    };
    report.each("identities", &spec.identities, |report, text| match text.strip_suffix('*') {
        Some(prefix) if is_prefix(prefix) => source.identity_prefixes.push(prefix.to_owned()),
        Some(_) => {
            let message = "not the beginning of a SPIFFE ID with its whole trust domain";
            report.wrong(text, message, "spiffe://TRUST-DOMAIN/ns/NAMESPACE/*");
        }
        None => match text.parse() {
            Ok(identity) => source.identities.push(identity),
            Err(error) => report.wrong(
                text,
                format!("not a SPIFFE ID: {error}"),
                "spiffe://TRUST-DOMAIN/ns/NAMESPACE/svc/SERVICE, or a beginning and *",
            ),
        },
    });
    report.each("namespaces", &spec.namespaces, |r, text| r.name(text, check_label(text)));
    source
}

/// A star may stand for the rest of a path only: one within the trust domain would let in domains
/// that nobody thought of.
fn is_prefix(prefix: &str) -> bool {
    let id = format!("{prefix}x").parse::<SpiffeId>();
    id.is_ok_and(|id| !id.path().is_empty())
}

fn read_target(report: &mut Report, spec: &pb::AuthorizationTarget) -> Target {
    if spec.grpc.is_empty() && spec.http.is_none() {
        report.error("names nothing", "grpc or http");
    }
    if !spec.grpc.is_empty() && spec.http.is_some() {
        let message = "never holds: no request is gRPC and plain HTTP at once";
        report.error(message, "two entries, one with grpc and one with http");
    }
    let grpc = report.each("grpc", &spec.grpc, |report, text| grpc_method(report, text));
    Target {
        grpc: grpc.into_iter().flatten().collect(),
        http: spec.http.as_ref().map(|http| report.field("http", |r| read_http(r, http))),
    }
}

fn read_http(report: &mut Report, spec: &pb::AuthorizationHttp) -> HttpTarget {
    HttpTarget {
        methods: report.each("methods", &spec.methods, |report, text| http_method(report, text)),
        paths: report.each("paths", &spec.paths, |report, text| {
            let (path, pattern) = match text.strip_suffix('*') {
                Some(prefix) => (prefix, PathPattern::Prefix(prefix.to_owned())),
                None => (&**text, PathPattern::Exact(text.clone())),
            };
            if !path.starts_with('/') || path.contains(['*', '?', '#']) {
                report.wrong(text, "not a path", "/like/this, or a beginning and * as in /v1/*");
            }
            pattern
        }),
    }
}
