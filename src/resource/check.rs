//! What can be said of one resource alone: its metadata, and its spec by kind. What depends on
//! others (does the backend exist?) is said by `snapshot::compile`.

use super::{
    Kind, NAMESPACE_DEFAULT, Problem, authorization_policy, grpc_route, http_route, key, mesh, pb,
    report::Report, service, traffic_policy, workload,
};

/// What is wrong with a resource alone, errors and warnings, each with its key and field path and
/// without a place in a text.
pub fn check(resource: &pb::Resource) -> Vec<Problem> {
    let (Some(kind), Some(key)) = (Kind::of(resource), key(resource)) else {
        return vec![Problem::error("spec", "is missing")];
    };
    let meta = resource.metadata.clone().unwrap_or_default();
    let mut problems = check_metadata(kind, &meta);
    problems.extend(check_spec(resource, &key.namespace));
    problems.into_iter().map(|problem| problem.of(&key)).collect()
}

fn check_spec(resource: &pb::Resource, namespace: &str) -> Vec<Problem> {
    let namespace = if namespace.is_empty() { NAMESPACE_DEFAULT } else { namespace };
    match &resource.spec {
        None => Vec::new(),
        Some(pb::resource::Spec::Service(spec)) => service::check(spec),
        Some(pb::resource::Spec::Workload(spec)) => workload::check(spec),
        Some(pb::resource::Spec::HttpRoute(spec)) => http_route::check(spec, namespace),
        Some(pb::resource::Spec::GrpcRoute(spec)) => grpc_route::check(spec, namespace),
        Some(pb::resource::Spec::TrafficPolicy(spec)) => traffic_policy::check(spec),
        Some(pb::resource::Spec::AuthorizationPolicy(spec)) => {
            authorization_policy::check(spec, namespace)
        }
        Some(pb::resource::Spec::Mesh(spec)) => mesh::check(spec),
    }
}

/// The longest value of a label (Kubernetes).
const LABEL_VALUE_BYTES_MAX: usize = 63;
/// All annotations together (Kubernetes).
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;

fn check_metadata(kind: Kind, meta: &pb::Metadata) -> Vec<Problem> {
    let ((), problems) = Report::collect("metadata", |report| {
        report.field("name", |report| match kind {
            Kind::Mesh if meta.name != mesh::MESH_NAME => {
                report.wrong(&meta.name, "not the name of the one Mesh", mesh::MESH_NAME);
            }
            _ => report.label(&meta.name),
        });
        report.field("namespace", |report| match &*meta.namespace {
            "" => {}
            namespace if !kind.namespaced() => {
                report.wrong(namespace, format!("{kind} has no namespace"), "leave it out");
            }
            namespace => report.label(namespace),
        });
        report.field("labels", |report| {
            for (key, value) in sorted(&meta.labels) {
                report.entry(key, |report| check_label(report, key, value));
            }
        });
        report.field("annotations", |report| {
            for (key, _) in sorted(&meta.annotations) {
                report.entry(key, |report| check_label_key(report, key));
            }
            let length = |(key, value): (&String, &String)| key.len() + value.len();
            if meta.annotations.iter().map(length).sum::<usize>() > ANNOTATIONS_BYTES_MAX {
                report.error("have more than 256KiB together", "");
            }
        });
    });
    problems
}

fn sorted(
    map: &std::collections::HashMap<String, String>,
) -> std::collections::BTreeMap<&String, &String> {
    map.iter().collect()
}

/// What is wrong with a label that stands outside of a resource, if anything is.
pub fn check_one_label(key: &str, value: &str) -> Option<Problem> {
    let ((), problems) = Report::collect("", |report| check_label(report, key, value));
    problems.into_iter().next()
}

fn check_label(report: &mut Report, key: &str, value: &str) {
    check_label_key(report, key);
    if value.len() > LABEL_VALUE_BYTES_MAX || !(value.is_empty() || is_qualified(value)) {
        report.wrong(
            value,
            "not the value of a label",
            "up to 63 letters, digits, '-', '_' or '.'",
        );
    }
}

/// Kubernetes' qualified names: `example.com/name` or `name`.
fn check_label_key(report: &mut Report, key: &str) {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let named = name.len() <= LABEL_VALUE_BYTES_MAX && is_qualified(name);
    let prefixed = prefix.is_none_or(|prefix| {
        prefix.len() <= 253
            && prefix.split('.').all(|label| crate::units::name::check_label(label).is_ok())
    });
    if !named || !prefixed {
        report.wrong(key, "not the key of a label", "name or example.com/name");
    }
}

fn is_qualified(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
}
