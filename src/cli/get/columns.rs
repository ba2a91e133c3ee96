//! What a table shows of each kind: one short cell for each question that people ask first.

use std::{collections::BTreeSet, time::SystemTime};

use crate::{
    cli::{output, words},
    resource::{
        Kind,
        pb::{self, resource::Spec},
    },
};

/// Names in one cell.
const SHOWN_MAX: usize = 4;

/// What a table depends on besides its rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// Whether to show the namespace.
    pub(super) namespaces: bool,
    /// Whether to show the kind, because there are several.
    pub(super) kinds: bool,
    /// Whether to show more.
    pub(super) wide: bool,
    pub(super) now: SystemTime,
}

/// The headings of a kind's own columns, and of those that a wide table adds.
fn headings(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        Kind::Service => (&["PORTS"], &["MTLS", "SELECTOR"]),
        Kind::Workload => (&["SERVICE", "ADDRESS", "READY"], &["ZONE", "WEIGHT", "IDENTITY"]),
        Kind::HttpRoute | Kind::GrpcRoute => (&["PARENTS", "BACKENDS"], &["RULES"]),
        Kind::TrafficPolicy => (&["TARGETS", "SETS"], &[]),
        Kind::AuthorizationPolicy => (&["TARGETS", "ACTION"], &["RULES"]),
        Kind::Mesh => (&["TRUST DOMAIN", "MTLS", "AUTHORIZATION", "EGRESS"], &["OTLP"]),
    }
}

/// Whether the kind can be refused or not yet run, and that is worth a column.
fn has_conditions(kind: Kind) -> bool {
    !matches!(kind, Kind::Service | Kind::Workload)
}

/// The headings of a kind's table.
pub(super) fn heading_row(kind: Kind, view: View) -> Vec<&'static str> {
    let (own, more) = headings(kind);
    let mut row = Vec::new();
    if view.namespaces && kind.namespaced() {
        row.push("NAMESPACE");
    }
    row.push("NAME");
    row.extend(own);
    if has_conditions(kind) {
        row.extend(["ACCEPTED", "PROGRAMMED"]);
    }
    row.push("AGE");
    if view.wide {
        row.extend(more);
        row.push("LABELS");
        if has_conditions(kind) {
            row.push("WHY");
        }
    }
    row
}

/// A resource's row of its kind's table.
pub(super) fn row(kind: Kind, resource: &pb::Resource, view: View) -> Vec<String> {
    let metadata = resource.metadata.clone().unwrap_or_default();
    let (own, more) = cells(resource);
    let mut row = Vec::new();
    if view.namespaces && kind.namespaced() {
        row.push(metadata.namespace);
    }
    let prefix =
        if view.kinds { format!("{}/", kind.name().to_lowercase()) } else { String::new() };
    row.push(format!("{prefix}{}", metadata.name));
    row.extend(own);
    if has_conditions(kind) {
        row.extend(["Accepted", "Programmed"].map(|it| condition_word(resource, it)));
    }
    let created = words::time(metadata.creation_timestamp.as_ref());
    let age = created.and_then(|created| view.now.duration_since(created).ok());
    row.push(age.map_or_else(dash, words::age));
    if view.wide {
        row.extend(more);
        let mut labels: Vec<_> =
            metadata.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        labels.sort();
        row.push(list(labels));
        if has_conditions(kind) {
            row.push(why(resource));
        }
    }
    row
}

pub(super) fn table(kind: Kind, resources: &[&pb::Resource], view: View) -> String {
    let rows: Vec<_> = resources.iter().map(|resource| row(kind, resource, view)).collect();
    output::table(&heading_row(kind, view), &[], &rows)
}

fn dash() -> String {
    "-".to_owned()
}

/// The first few, with how many more there are.
fn list(items: Vec<String>) -> String {
    let more = items.len().saturating_sub(SHOWN_MAX);
    let mut shown = items.into_iter().take(SHOWN_MAX).collect::<Vec<_>>().join(",");
    if more > 0 {
        shown.push_str(&format!(",+{more}"));
    }
    if shown.is_empty() { dash() } else { shown }
}

/// Each once, in the order of their first time.
fn distinct(items: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut distinct: Vec<String> = Vec::new();
    for item in items {
        if !distinct.contains(&item) {
            distinct.push(item);
        }
    }
    distinct
}

/// `True`, or the reason why not; `-` when nobody has said.
fn condition_word(resource: &pb::Resource, kind: &str) -> String {
    let found = conditions(resource).find(|condition| condition.r#type == kind);
    match found {
        None => dash(),
        Some(condition) if condition.status == "True" => "True".to_owned(),
        Some(condition) if condition.reason.is_empty() => condition.status.clone(),
        Some(condition) => condition.reason.clone(),
    }
}

fn conditions(resource: &pb::Resource) -> impl Iterator<Item = &pb::Condition> {
    resource.status.iter().flat_map(|status| &status.conditions)
}

/// What the first condition says that does not hold.
fn why(resource: &pb::Resource) -> String {
    let broken = conditions(resource).find(|condition| condition.status != "True");
    broken.map(|it| it.message.clone()).filter(|it| !it.is_empty()).unwrap_or_else(dash)
}

/// The cells of the kind's own columns, and of those that a wide table adds.
fn cells(resource: &pb::Resource) -> (Vec<String>, Vec<String>) {
    let metadata = resource.metadata.as_ref();
    let own = metadata.map_or("", |metadata| metadata.namespace.as_str());
    match &resource.spec {
        Some(Spec::Service(service)) => service_cells(service),
        Some(Spec::Workload(workload)) => workload_cells(workload),
        Some(Spec::HttpRoute(route)) => {
            let rules = route.rules.iter().map(|rule| rule.backend_refs.as_slice());
            route_cells(&route.parent_refs, rules.collect(), own)
        }
        Some(Spec::GrpcRoute(route)) => {
            let rules = route.rules.iter().map(|rule| rule.backend_refs.as_slice());
            route_cells(&route.parent_refs, rules.collect(), own)
        }
        Some(Spec::TrafficPolicy(policy)) => {
            let sets = [
                ("timeouts", policy.timeouts.is_some()),
                ("retry", policy.retry.is_some()),
                ("bulkhead", policy.bulkhead.is_some()),
                ("loadBalancing", policy.load_balancing.is_some()),
                ("outlierDetection", policy.outlier_detection.is_some()),
            ];
            let sets = sets.into_iter().filter(|(_, set)| *set).map(|(name, _)| name);
            let sets: Vec<_> = sets.collect();
            let sets = if sets.is_empty() { dash() } else { sets.join(",") };
            (vec![targets(&policy.target_refs), sets], Vec::new())
        }
        Some(Spec::AuthorizationPolicy(policy)) => {
            let targets = match policy.target_refs.as_slice() {
                [] => "(namespace)".to_owned(),
                refs => targets(refs),
            };
            let action = match policy.action() {
                pb::AuthorizationAction::Unspecified => "Allow".to_owned(),
                action => word(action.as_str_name(), "AUTHORIZATION_ACTION_"),
            };
            (vec![targets, action], vec![policy.rules.len().to_string()])
        }
        Some(Spec::Mesh(mesh)) => mesh_cells(mesh),
        None => Default::default(),
    }
}

fn service_cells(service: &pb::Service) -> (Vec<String>, Vec<String>) {
    let port = |port: &pb::ServicePort| {
        let name = if port.name.is_empty() { "" } else { ":" };
        let protocol = if port.app_protocol.is_empty() { "" } else { "/" };
        format!("{}{name}{}{protocol}{}", port.name, port.port, port.app_protocol)
    };
    let mtls = service.ports.iter().map(|port| word(port.mtls().as_str_name(), "MTLS_MODE_"));
    let mtls = distinct(mtls.filter(|mode| mode != "-"));
    let mut selector: Vec<_> =
        service.selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    selector.sort();
    (vec![list(service.ports.iter().map(port).collect())], vec![list(mtls), list(selector)])
}

fn workload_cells(workload: &pb::Workload) -> (Vec<String>, Vec<String>) {
    let text = |text: &str| if text.is_empty() { dash() } else { text.to_owned() };
    let ports = match workload.inbound {
        // Without a sidecar: the ports of the application.
        0 => workload.ports.values().copied().collect(),
        port => BTreeSet::from([port]),
    };
    let ports = ports.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let address = match (ports.as_str(), workload.address.contains(':')) {
        ("", _) => text(&workload.address),
        _ if workload.address.is_empty() => dash(),
        (ports, false) => format!("{}:{ports}", workload.address),
        (ports, true) => format!("[{}]:{ports}", workload.address),
    };
    let ready =
        workload.ready.map_or_else(dash, |ready| if ready { "True" } else { "False" }.into());
    (
        vec![text(&workload.service), address, ready],
        vec![
            text(&workload.zone),
            workload.weight.unwrap_or(1).to_string(),
            text(&workload.identity),
        ],
    )
}

fn route_cells(
    parents: &[pb::ParentRef],
    rules: Vec<&[pb::BackendRef]>,
    own: &str,
) -> (Vec<String>, Vec<String>) {
    let place = |name: &str, namespace: &str, port: Option<u32>| {
        let dot = if namespace.is_empty() || namespace == own { "" } else { "." };
        let namespace = if dot.is_empty() { "" } else { namespace };
        let port = port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{name}{dot}{namespace}{port}")
    };
    let parents = parents.iter().map(|it| place(&it.name, &it.namespace, it.port));
    // A split shows its weights; a single backend takes everything.
    let backends = rules.iter().flat_map(|backends| {
        backends.iter().map(move |backend| {
            let name = place(&backend.name, &backend.namespace, None);
            match backends.len() {
                1 => name,
                _ => format!("{name}={}", backend.weight.unwrap_or(1)),
            }
        })
    });
    let cells = vec![list(distinct(parents)), list(distinct(backends))];
    (cells, vec![rules.len().to_string()])
}

fn targets(refs: &[pb::TargetRef]) -> String {
    let target = |target: &pb::TargetRef| {
        let kind = match target.kind.as_str() {
            "" | "Service" => String::new(),
            kind => format!("{kind}/"),
        };
        let section = if target.section_name.is_empty() { "" } else { "#" };
        format!("{kind}{}{section}{}", target.name, target.section_name)
    };
    list(refs.iter().map(target).collect())
}

fn mesh_cells(mesh: &pb::Mesh) -> (Vec<String>, Vec<String>) {
    let or = |word: String, default: &str| if word == "-" { default.to_owned() } else { word };
    let authorization = mesh.default_authorization().as_str_name();
    let otlp = mesh.tracing.as_ref().map_or("", |tracing| tracing.otlp.as_str());
    (
        vec![
            if mesh.trust_domain.is_empty() { dash() } else { mesh.trust_domain.clone() },
            or(word(mesh.mtls().as_str_name(), "MTLS_MODE_"), "Strict"),
            or(word(authorization, "DEFAULT_AUTHORIZATION_"), "Allow"),
            or(word(mesh.egress().as_str_name(), "EGRESS_"), "Allow"),
        ],
        vec![if otlp.is_empty() { dash() } else { otlp.to_owned() }],
    )
}

/// `MTLS_MODE_STRICT` as users write it: `Strict`; `-` when not set.
fn word(name: &str, prefix: &str) -> String {
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => dash(),
        word => {
            let mut letters = word.chars();
            letters.next().into_iter().chain(letters.map(|c| c.to_ascii_lowercase())).collect()
        }
    }
}
