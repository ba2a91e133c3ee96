//! The `status` of a resource: what the mesh says of it, made when somebody asks. Conditions have
//! Gateway API's types and reasons where it has some; `Programmed` is ours for every kind.

use std::sync::Arc;

use super::{fleet::Session, key, refs, world::World};
use crate::{
    resource::{
        Kind, ResourceKey,
        pb::{self, resource::Spec},
    },
    units::ServiceName,
};

/// A resource with its status, which says what these sidecars make of it.
pub(crate) fn with_status(
    world: &World,
    sessions: &[Arc<Session>],
    at: &ResourceKey,
    resource: &pb::Resource,
) -> pb::Resource {
    let mut status = pb::Status {
        parents: parents(world, at, resource),
        ancestors: ancestors(world, at, resource),
        ..Default::default()
    };
    status.conditions.push(accepted(&status));
    if key::is_route(at) {
        status.conditions.push(resolved(world, at, resource));
    }
    status.conditions.push(programmed(world, sessions, at, &mut status.sidecars));
    pb::Resource { status: Some(status), ..resource.clone() }
}

fn condition(kind: &str, holds: Option<bool>, reason: &str, message: String) -> pb::Condition {
    let status = match holds {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    pb::Condition {
        r#type: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: None,
    }
}

/// Of the resource as a whole: accepted when it is by every parent and target.
fn accepted(status: &pb::Status) -> pb::Condition {
    let of = status.parents.iter().chain(&status.ancestors);
    let refused = of
        .flat_map(|parent| &parent.conditions)
        .find(|it| it.r#type == "Accepted" && it.status != "True");
    refused.cloned().unwrap_or_else(|| condition("Accepted", Some(true), "Accepted", String::new()))
}

fn parents(world: &World, at: &ResourceKey, resource: &pb::Resource) -> Vec<pb::ParentStatus> {
    refs::parents(resource)
        .into_iter()
        .map(|parent| {
            let service = key::of_service(&parent.service);
            let verdict = match missing(world, &parent.service, parent.port) {
                None => conflict(world, at, &parent),
                Some(message) => condition("Accepted", Some(false), "NoMatchingParent", message),
            };
            pb::ParentStatus {
                parent: Some(service.to_pb()),
                conditions: vec![verdict, resolved(world, at, resource)],
            }
        })
        .collect()
}

/// A GRPCRoute beats an HTTPRoute on one service and port, for the same callers (Gateway API).
fn conflict(world: &World, at: &ResourceKey, parent: &refs::Parent) -> pb::Condition {
    let service = key::of_service(&parent.service);
    let is_producer = |route: &ResourceKey| route.namespace == parent.service.namespace;
    let winner = world.attached(&service).iter().find(|other| {
        let callers = other.namespace == at.namespace || is_producer(other) && is_producer(at);
        key::is(at, Kind::HttpRoute)
            && key::is(other, Kind::GrpcRoute)
            && callers
            && world.get(other).is_some_and(|route| {
                refs::parents(route).iter().any(|its| {
                    let overlap =
                        its.port.is_none() || parent.port.is_none() || its.port == parent.port;
                    its.service == parent.service && overlap
                })
            })
    });
    match winner {
        None => condition("Accepted", Some(true), "Accepted", String::new()),
        Some(winner) => {
            let message = format!("{winner} has the same parent and goes before it");
            condition("Accepted", Some(false), "Conflicted", message)
        }
    }
}

fn resolved(world: &World, at: &ResourceKey, resource: &pb::Resource) -> pb::Condition {
    let no =
        |reason: &str, message: String| condition("ResolvedRefs", Some(false), reason, message);
    for backend in refs::backend_refs(resource) {
        let kind = backend.kind.as_deref().unwrap_or_else(|| Kind::Service.name());
        if kind != Kind::Service.name() {
            return no("InvalidKind", format!("a backend of kind {kind} can not be used"));
        }
        let namespace =
            if backend.namespace.is_empty() { &at.namespace } else { &backend.namespace };
        let name = ServiceName::new(&backend.name, namespace);
        if let Some(message) = missing(world, &name, backend.port) {
            return no("BackendNotFound", message);
        }
    }
    condition("ResolvedRefs", Some(true), "ResolvedRefs", String::new())
}

/// What is not there of a service and a port of it. A service that names no ports has any.
fn missing(world: &World, name: &ServiceName, port: Option<u32>) -> Option<String> {
    if !world.has_service(name) {
        return Some(format!("there is no service {name}"));
    }
    let Some(Spec::Service(service)) = &world.get(&key::of_service(name))?.spec else {
        return None;
    };
    let absent =
        |port: &u32| !service.ports.is_empty() && service.ports.iter().all(|it| it.port != *port);
    port.filter(absent).map(|port| format!("the service {name} has no port {port}"))
}

fn ancestors(world: &World, at: &ResourceKey, resource: &pb::Resource) -> Vec<pb::ParentStatus> {
    refs::target_refs(resource)
        .iter()
        .map(|target| {
            let found = Kind::from_name(&target.kind)
                .map(|kind| ResourceKey::new(kind, &at.namespace, &*target.name))
                .filter(|target| is_there(world, target));
            let verdict = match &found {
                None => {
                    let (kind, name, space) = (&target.kind, &target.name, &at.namespace);
                    let message = format!("there is no {kind} {space}/{name}");
                    condition("Accepted", Some(false), "TargetNotFound", message)
                }
                Some(key) if !has_section(world, key, &target.section_name) => {
                    let message = format!("{key} has no rule named {}", target.section_name);
                    condition("Accepted", Some(false), "TargetNotFound", message)
                }
                Some(_) => condition("Accepted", Some(true), "Accepted", String::new()),
            };
            let parent = pb::ResourceId {
                kind: target.kind.clone(),
                namespace: at.namespace.clone(),
                name: target.name.clone(),
            };
            pb::ParentStatus { parent: Some(parent), conditions: vec![verdict] }
        })
        .collect()
}

/// A service is there with its first workload, as the compiler sees it.
fn is_there(world: &World, target: &ResourceKey) -> bool {
    world.get(target).is_some()
        || key::is(target, Kind::Service)
            && world.has_service(&ServiceName::new(&*target.name, &*target.namespace))
}

/// Whether a route has a rule of that name; no name means the whole target.
fn has_section(world: &World, target: &ResourceKey, section: &str) -> bool {
    if section.is_empty() {
        return true;
    }
    match world.get(target).and_then(|target| target.spec.as_ref()) {
        Some(Spec::HttpRoute(route)) => route.rules.iter().any(|rule| rule.name == section),
        Some(Spec::GrpcRoute(route)) => route.rules.iter().any(|rule| rule.name == section),
        _ => false,
    }
}

fn programmed(
    world: &World,
    sessions: &[Arc<Session>],
    at: &ResourceKey,
    sidecars: &mut Vec<pb::SidecarVersion>,
) -> pb::Condition {
    let (mut running, mut pending, mut refused) = (0, Vec::new(), Vec::new());
    for session in sessions {
        let progress = session.progress();
        let workload = session.key.name.clone();
        let Some(entry) = progress.ledger.entry(at) else {
            // Whether it concerns this one is not known before it was looked at.
            if progress.seen_revision < world.revision {
                pending.push(workload);
            }
            continue;
        };
        sidecars.push(pb::SidecarVersion {
            workload: workload.clone(),
            resource_version: entry.running.clone(),
            refused: entry.refused.clone().unwrap_or_default(),
        });
        let current = world.get(at).is_none_or(|it| key::version(it) == entry.sent);
        if let Some(problems) = &entry.refused {
            let why = problems.first().map_or("", |problem| &problem.message);
            refused.push(format!("{workload}: {why}"));
        } else if entry.is_running() && current {
            running += 1;
        } else {
            pending.push(workload);
        }
    }
    let say = |holds, reason: &str, message| condition("Programmed", holds, reason, message);
    if !refused.is_empty() {
        return say(Some(false), "Refused", format!("refused by {}", some(&refused)));
    }
    if !pending.is_empty() {
        return say(None, "Pending", format!("not yet run by {}", some(&pending)));
    }
    match running {
        0 => say(Some(true), "NoSidecars", "concerns no connected sidecar".to_owned()),
        1 => say(Some(true), "Programmed", "runs in 1 sidecar".to_owned()),
        many => say(Some(true), "Programmed", format!("runs in {many} sidecars")),
    }
}

/// The first few of a list and how many more there are.
fn some(list: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = list.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match list.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
