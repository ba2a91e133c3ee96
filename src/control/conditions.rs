//! The `status` of a resource: what the mesh says of it, made when somebody asks. Conditions have
//! Gateway API's types and reasons where it has some; `Programmed` is ours for every kind.
//!
//! What is wrong with a resource is not found here: it is what the compiler says, which is also what
//! an Apply answers and what a sidecar runs by. Here that becomes conditions, by the field that it is
//! about.

use std::sync::Arc;

use super::{
    fleet::{Fleet, Session},
    key, refs, related,
    state::pb_time,
    world::World,
};
use crate::{
    resource::{Kind, Problem, ResourceKey, pb},
    units::ServiceName,
};

/// A resource with its status, which says what these sidecars of the fleet make of it.
pub(crate) fn with_status(
    world: &World,
    fleet: &Fleet,
    sessions: &[Arc<Session>],
    at: &ResourceKey,
    resource: &pb::Resource,
) -> pb::Resource {
    let problems = world.problems();
    let problems = problems.get(at).map_or(&[][..], Vec::as_slice);
    let mut status = of_itself(at, resource, problems);
    status.related = related::of(world, at, resource).iter().map(ResourceKey::to_pb).collect();
    status.conditions.push(programmed(world, sessions, at, resource, &mut status.sidecars));
    fleet.transitions().stamp(at, resource, &mut status);
    pb::Resource { status: Some(status), ..resource.clone() }
}

/// Everything of a status that does not depend on sidecars: what the compiler says, as conditions.
pub(crate) fn of_itself(
    at: &ResourceKey,
    resource: &pb::Resource,
    problems: &[Problem],
) -> pb::Status {
    let mut status = pb::Status {
        parents: parents(at, resource, problems),
        ancestors: ancestors(at, resource, problems),
        ..Default::default()
    };
    status.conditions.push(accepted(&status, problems));
    if key::is_route(at) {
        status.conditions.push(resolved(resource, problems));
    }
    status.conditions.extend(partly(problems));
    status
}

/// Whether a resource was written after this revision, so that who has not looked further can not
/// know it. What no user wrote belongs to no revision, and everybody is told of it at once.
pub(crate) fn is_newer(resource: &pb::Resource, revision: u64) -> bool {
    let written = key::version(resource).split('-').next().and_then(|text| text.parse().ok());
    written.is_some_and(|written: u64| written > revision)
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

/// A problem as the condition that it makes false: reason and message.
fn said(problem: &Problem, or: &'static str) -> (String, String) {
    match problem.message.split_once(": ") {
        Some((reason, message)) if reason.bytes().all(|b| b.is_ascii_alphabetic()) => {
            (reason.to_owned(), message.to_owned())
        }
        _ => (or.to_owned(), problem.message.clone()),
    }
}

/// The first problem with one field.
fn with_field<'a>(problems: &'a [Problem], field: &str) -> Option<&'a Problem> {
    problems.iter().find(|problem| problem.field == field)
}

/// Of the resource as a whole: accepted when it compiles and is by every parent and target.
fn accepted(status: &pb::Status, problems: &[Problem]) -> pb::Condition {
    if let Some(error) = problems.iter().find(|problem| problem.is_error()) {
        let message = format!("{}: {}", error.field, error.message);
        return condition("Accepted", Some(false), "Invalid", message);
    }
    let of = status.parents.iter().chain(&status.ancestors);
    let refused = of
        .flat_map(|parent| &parent.conditions)
        .find(|it| it.r#type == "Accepted" && it.status != "True");
    refused.cloned().unwrap_or_else(|| condition("Accepted", Some(true), "Accepted", String::new()))
}

/// By whoever is referred to in this field.
fn accepted_by(problems: &[Problem], field: &str, or: &'static str) -> pb::Condition {
    match with_field(problems, field).map(|problem| said(problem, or)) {
        None => condition("Accepted", Some(true), "Accepted", String::new()),
        Some((reason, message)) => condition("Accepted", Some(false), &reason, message),
    }
}

fn parents(
    at: &ResourceKey,
    resource: &pb::Resource,
    problems: &[Problem],
) -> Vec<pb::ParentStatus> {
    let parents = refs::parent_refs(resource).iter().enumerate();
    let status = parents.map(|(index, parent)| {
        let namespace = parent.namespace.as_str();
        let namespace = if namespace.is_empty() { &at.namespace } else { namespace };
        let field = format!("spec.parentRefs[{index}]");
        let accepted = accepted_by(problems, &field, "NoMatchingParent");
        pb::ParentStatus {
            parent: Some(key::of_service(&ServiceName::new(&*parent.name, namespace)).to_pb()),
            conditions: vec![accepted, resolved(resource, problems)],
        }
    });
    status.collect()
}

fn resolved(resource: &pb::Resource, problems: &[Problem]) -> pb::Condition {
    let no = |reason: &str, message| condition("ResolvedRefs", Some(false), reason, message);
    // That is said when the resource is written, of the resource alone.
    let kinds = refs::backend_refs(resource).into_iter().filter_map(|it| it.kind.as_deref());
    if let Some(kind) = kinds.into_iter().find(|kind| *kind != Kind::Service.name()) {
        return no("InvalidKind", format!("a backend of kind {kind} can not be used"));
    }
    match problems.iter().find(|problem| problem.field.contains(".backendRefs[")) {
        None => condition("ResolvedRefs", Some(true), "ResolvedRefs", String::new()),
        Some(problem) => {
            let (reason, message) = said(problem, "BackendNotFound");
            no(&reason, message)
        }
    }
}

fn ancestors(
    at: &ResourceKey,
    resource: &pb::Resource,
    problems: &[Problem],
) -> Vec<pb::ParentStatus> {
    let targets = refs::target_refs(resource).iter().enumerate();
    let status = targets.map(|(index, target)| {
        let parent = pb::ResourceId {
            kind: target.kind.clone(),
            namespace: at.namespace.clone(),
            name: target.name.clone(),
        };
        let field = format!("spec.targetRefs[{index}]");
        let accepted = accepted_by(problems, &field, "TargetNotFound");
        pb::ParentStatus { parent: Some(parent), conditions: vec![accepted] }
    });
    status.collect()
}

/// What of a resource does nothing though the rest of it holds: a rule that is never reached, a field
/// that an older policy says for the same target.
fn partly(problems: &[Problem]) -> Option<pb::Condition> {
    let whole = |field: &str| {
        ["spec.parentRefs[", "spec.targetRefs["].iter().any(|whose| field.starts_with(whose))
            || field.contains(".backendRefs[")
    };
    let mut lost = problems.iter().filter(|it| !it.is_error() && !whole(&it.field)).peekable();
    let (reason, _) = said(lost.peek()?, "NeverMatches");
    let texts: Vec<_> =
        lost.map(|problem| format!("{}: {}", problem.field, said(problem, "").1)).collect();
    Some(condition("PartiallyInvalid", Some(true), &reason, some(&texts)))
}

fn programmed(
    world: &World,
    sessions: &[Arc<Session>],
    at: &ResourceKey,
    resource: &pb::Resource,
    sidecars: &mut Vec<pb::SidecarVersion>,
) -> pb::Condition {
    let (mut running, mut pending, mut refused) = (0, Vec::new(), Vec::new());
    for session in sessions {
        let progress = session.progress();
        let workload = session.key.name.clone();
        let Some(entry) = progress.ledger.entry(at) else {
            // Whether it concerns this one is not known before it was looked at.
            if is_newer(resource, progress.seen_revision) {
                pending.push(workload);
            }
            continue;
        };
        let current = world.get(at).is_none_or(|it| key::version(it) == entry.sent);
        let behind = !(current && entry.is_running());
        sidecars.push(pb::SidecarVersion {
            workload: workload.clone(),
            namespace: session.key.namespace.clone(),
            resource_version: entry.running.clone(),
            refused: entry.refused.clone().unwrap_or_default(),
            behind_since: progress.behind_since.filter(|_| behind).map(pb_time),
        });
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
