//! References between resources, and words that several kinds share: targets of policies, gRPC
//! methods and HTTP methods.

use super::{Kind, pb, report::Report};

/// What a policy attaches to, in its own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// `Service`, `HttpRoute` or `GrpcRoute`.
    pub kind: Kind,
    /// The resource's name.
    pub name: String,
    /// One rule of a route by its name; `None`: the whole of it.
    pub section: Option<String>,
}

/// The groups that mean our `Service`: Kubernetes' own, written two ways, and ours.
const SERVICE_GROUPS: [&str; 3] = ["", "core", "outrigger.dev"];
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Whether a group that a reference to a `Service` names means ours.
pub(super) fn is_service_group(group: &str) -> bool {
    SERVICE_GROUPS.contains(&group)
}

/// Reads the `targetRefs` of a policy that may attach to `kinds`.
pub(super) fn targets(report: &mut Report, refs: &[pb::TargetRef], kinds: &[Kind]) -> Vec<Target> {
    report
        .each("targetRefs", refs, |report, target| target_ref(report, target, kinds))
        .into_iter()
        .flatten()
        .collect()
}

fn target_ref(report: &mut Report, target: &pb::TargetRef, kinds: &[Kind]) -> Option<Target> {
    let words = kinds.iter().map(|kind| (kind.name(), *kind)).collect::<Vec<_>>();
    let kind = report.field("kind", |report| {
        report.word(&target.kind, "not a kind that this policy attaches to", &words)
    });
    report.field("name", |report| report.label(&target.name));
    let kind = kind?;
    if let Some(group) = &target.group {
        let known = match kind {
            Kind::Service => is_service_group(group),
            _ => group == GATEWAY_GROUP,
        };
        if !known {
            let right = if kind == Kind::Service { "outrigger.dev" } else { GATEWAY_GROUP };
            report.field("group", |report| {
                report.wrong(group, format!("not the group of {kind}"), right);
            });
        }
    }
    let section = (!target.section_name.is_empty()).then(|| target.section_name.clone());
    if section.is_some() && kind == Kind::Service {
        report.field("sectionName", |report| {
            report.wrong(
                &target.section_name,
                "names a rule, which a Service has not",
                "leave it out",
            );
        });
    }
    Some(Target { kind, name: target.name.clone(), section })
}

/// A gRPC service and one of its methods, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcMethod {
    /// `shop.Inventory`
    pub service: String,
    /// `Reserve`; `None`: every method.
    pub method: Option<String>,
}

/// Reads `shop.Inventory/Reserve` or `shop.Inventory/*`.
pub(super) fn grpc_method(report: &mut Report, text: &str) -> Option<GrpcMethod> {
    let identifier = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parsed = text.split_once('/').and_then(|(service, method)| {
        let whole = method == "*" || identifier(method);
        (service.split('.').all(identifier) && whole).then(|| GrpcMethod {
            service: service.to_owned(),
            method: (method != "*").then(|| method.to_owned()),
        })
    });
    if parsed.is_none() {
        report.wrong(text, "not a gRPC method", "package.Service/Method or package.Service/*");
    }
    parsed
}

/// The HTTP methods that a match or a policy may name (Gateway API's).
const HTTP_METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Reads the name of an HTTP method.
pub(super) fn http_method(report: &mut Report, text: &str) -> String {
    let words = HTTP_METHODS.map(|method| (method, ()));
    report.word(text, "not an HTTP method", &words);
    text.to_owned()
}

/// A rule none of whose backends takes anything.
pub(super) fn warn_of_no_weight(report: &mut Report, refs: &[pb::BackendRef]) {
    if !refs.is_empty() && refs.iter().all(|backend| backend.weight == Some(0)) {
        let message = "have no weight: what the rule takes is answered with backend_invalid";
        report.field("backendRefs", |report| report.warn("", message, "weight: 1"));
    }
}

/// A mesh's route attaches to a Service by its `parentRefs`; of host names it asks nothing.
pub(super) fn warn_of_hostnames(report: &mut Report, hostnames: &[String]) {
    if let Some(first) = hostnames.first() {
        report.field("hostnames", |report| {
            let message = "do nothing for a Service as the parent, which is asked for by its name";
            report.warn(first, message, "leave them out");
        });
    }
}
