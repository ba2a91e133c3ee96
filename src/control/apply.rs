//! What a write would change: a pure plan made of the mesh as it is and of what was asked, with every
//! problem that is found on the way. Storing and publishing it is [`super::state`]'s.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    difference,
    plan::Plan,
    validate,
    world::{Resources, Shelf, World},
};
use crate::resource::{self, Kind, Problem, ResourceKey, pb};

/// Resources that a control plane keeps.
const RESOURCES_MAX: usize = 50_000;

/// Problems that one answer tells.
const PROBLEMS_MAX: usize = 1000;

/// What a write would do.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// The changes; not to be made when one of the problems is an error.
    pub plan: Plan,
    /// Everything that was found.
    pub problems: Vec<Problem>,
}

impl Planned {
    /// Whether nothing may be written.
    pub(crate) fn is_refused(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }

    /// Adds what the compiler says of the mesh as it would be.
    pub(super) fn validate(
        &mut self,
        world: &World,
        trust_domain: &str,
        touched: BTreeSet<ResourceKey>,
        now: prost_types::Timestamp,
    ) {
        let after = carried_out(world, &self.plan, now);
        let after = World { trust_domain: trust_domain.into(), ..after };
        // What is wrong with a resource alone was found before, in the same words.
        let known: BTreeSet<_> = self.problems.iter().map(validate::name).collect();
        let found = validate::problems(world, &after, &touched);
        self.problems.extend(found.into_iter().filter(|it| !known.contains(&validate::name(it))));
        if let Some(more) = self.problems.len().checked_sub(PROBLEMS_MAX).filter(|more| *more > 0) {
            // The worst first, so that what is left out does not matter.
            self.problems.sort_by_key(|problem| !problem.is_error());
            self.problems.truncate(PROBLEMS_MAX);
            self.problems.push(Problem::warning("", format!("and {more} more problems")));
        }
        self.plan.after = Some(after);
    }

    fn change(&mut self, key: &ResourceKey, kind: pb::ChangeKind, fields: Vec<String>) {
        let change = pb::Change { resource: Some(key.to_pb()), kind: kind.into(), fields };
        self.plan.changes.push(change);
    }
}

/// Plans to write these resources at a time.
pub(crate) fn apply(
    world: &World,
    trust_domain: &str,
    resources: Vec<pb::Resource>,
    now: prost_types::Timestamp,
) -> Planned {
    let mut planned = Planned::default();
    let mut seen = BTreeSet::new();
    for resource in resources {
        let (resource, expected) = as_written(resource);
        planned.problems.extend(resource::check(&resource));
        let Some(key) = resource::key(&resource) else { continue };
        planned.problems.extend(check_against(world, &key));
        if !seen.insert(key.clone()) {
            planned.problems.push(Problem::error("metadata.name", "stands twice").of(&key));
            continue;
        }
        let existing = world.stored.resources.get(&key);
        let adopted = world.registered.contains(&key);
        match existing {
            Some(existing) if !adopted && is_same(existing, &resource) => {
                planned.change(&key, pb::ChangeKind::Unchanged, Vec::new());
                continue;
            }
            Some(existing) => {
                let created = existing.metadata.as_ref().and_then(|it| it.creation_timestamp);
                let mut shown = resource.clone();
                shown.metadata.get_or_insert_default().creation_timestamp = created;
                let fields = difference::fields(existing, &shown);
                planned.change(&key, pb::ChangeKind::Configured, fields);
            }
            None => planned.change(&key, pb::ChangeKind::Created, Vec::new()),
        }
        planned.problems.extend(check_version(existing, &expected, &key));
        planned.plan.put.push(resource);
    }
    let created = planned.plan.put.iter().filter_map(resource::key);
    let created = created.filter(|key| !world.stored.resources.contains_key(key)).count();
    if world.stored.resources.len() + created > RESOURCES_MAX {
        let message = format!("a mesh has {RESOURCES_MAX} resources at most");
        planned.problems.push(Problem::error("", message));
    }
    planned.validate(world, trust_domain, seen, now);
    planned
}

/// Plans to delete these resources, some of which are expected to have a version.
pub(crate) fn delete(
    world: &World,
    trust_domain: &str,
    ids: &[pb::ResourceId],
    expected: &[pb::Held],
    now: prost_types::Timestamp,
) -> Planned {
    let mut planned = Planned::default();
    let mut seen = BTreeSet::new();
    let expected: BTreeMap<_, _> = expected
        .iter()
        .filter_map(|it| {
            Some((ResourceKey::from_pb(it.resource.as_ref()?)?, &*it.resource_version))
        })
        .collect();
    for id in ids {
        let Some(key) = ResourceKey::from_pb(id) else {
            let problem = Problem::error("kind", "not a kind").with_value(&*id.kind);
            let known: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            planned.problems.push(problem.with_hint(known.join(", ")));
            continue;
        };
        if !seen.insert(key.clone()) {
            continue;
        }
        if world.live.contains(&key) {
            let problem = Problem::error("", "is alive: it goes when its sidecar does");
            planned.problems.push(problem.of(&key));
        } else if let Some(existing) = world.stored.resources.get(&key) {
            let version = expected.get(&key).copied().unwrap_or_default();
            planned.problems.extend(check_version(Some(existing), version, &key));
            planned.change(&key, pb::ChangeKind::Deleted, Vec::new());
            planned.plan.delete.push(key);
        } else {
            planned.problems.push(Problem::error("", "does not exist").of(&key));
        }
    }
    planned.validate(world, trust_domain, seen, now);
    planned
}

/// The mesh as it would be with the plan carried out.
fn carried_out(world: &World, plan: &Plan, now: prost_types::Timestamp) -> World {
    let mut resources: Resources = world.stored.resources.clone();
    for key in &plan.delete {
        resources.remove(key);
    }
    for resource in plan.put.iter().chain(&plan.register) {
        let Some(key) = resource::key(resource) else { continue };
        let mut resource = resource.clone();
        // Of two that conflict the older one wins.
        let existing = resources.get(&key).and_then(|it| it.metadata.as_ref());
        let created = existing.and_then(|metadata| metadata.creation_timestamp);
        let metadata = resource.metadata.get_or_insert_default();
        let created = metadata.creation_timestamp.or(created);
        metadata.creation_timestamp = Some(created.unwrap_or(now));
        resources.insert(key, Arc::new(resource));
    }
    let stored = Arc::new(Shelf::new(resources));
    World { stored, checked: Arc::default(), ..world.clone() }
}

/// Without what only the mesh writes, and with the default namespace. Also the version that the
/// caller expects to write over; empty for any.
fn as_written(mut resource: pb::Resource) -> (pb::Resource, String) {
    resource.status = None;
    let namespace = resource::key(&resource).map(|key| key.namespace);
    let metadata = resource.metadata.get_or_insert_default();
    let expected = std::mem::take(&mut metadata.resource_version);
    metadata.creation_timestamp = None;
    // What a Mesh says about a namespace that it can not have is said by its check.
    if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
        metadata.namespace = namespace;
    }
    (resource, expected)
}

/// Whoever read a resource, changed it and writes it must not write over what others wrote meanwhile.
fn check_version(
    existing: Option<&Arc<pb::Resource>>,
    expected: &str,
    key: &ResourceKey,
) -> Option<Problem> {
    let stored = existing.map(|existing| super::key::version(existing));
    if expected.is_empty() || stored == Some(expected) {
        return None;
    }
    let message = match stored {
        Some(stored) => format!("was changed meanwhile: its version is {stored}"),
        None => "was deleted meanwhile".to_owned(),
    };
    let problem = Problem::error("metadata.resourceVersion", message).with_value(expected);
    Some(problem.with_hint("read it again; without a version any will do").of(key))
}

/// What only this control plane can say about a resource.
fn check_against(world: &World, key: &ResourceKey) -> Option<Problem> {
    world.live.contains(key).then(|| {
        let message = "a live workload has this name; its sidecar says all there is of it";
        Problem::error("metadata.name", message).with_value(&*key.name).of(key)
    })
}

fn is_same(existing: &pb::Resource, written: &pb::Resource) -> bool {
    let metadata = |resource: &pb::Resource| {
        let metadata = resource.metadata.clone().unwrap_or_default();
        let sorted = |map: std::collections::HashMap<String, String>| {
            map.into_iter().collect::<BTreeMap<_, _>>()
        };
        (sorted(metadata.labels), sorted(metadata.annotations))
    };
    existing.spec == written.spec && metadata(existing) == metadata(written)
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
