//! What the compiler says of a mesh as it would be. The control plane asks the same function that
//! every sidecar runs, so that what it accepts is what runs; a sidecar's refusal is then a defect or
//! an older program, and not the usual way to find a mistake.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    key,
    world::{Resources, World},
};
use crate::{
    resource::{Problem, ResourceKey},
    snapshot,
};

/// The problems of a write that turns `before` into `after`: all of the resources that it touched,
/// and of the others those that it caused (a backend that goes away, say).
pub(super) fn problems(
    before: &World,
    after: &World,
    trust_domain: &str,
    touched: &BTreeSet<ResourceKey>,
) -> Vec<Problem> {
    let known: BTreeSet<String> = checked(before, trust_domain).iter().map(name).collect();
    let mut found = checked(after, trust_domain);
    found.retain(|problem| {
        problem.resource.as_ref().is_some_and(|key| touched.contains(key))
            || !known.contains(&name(problem))
    });
    found
}

/// Tells problems apart.
pub(super) fn name(problem: &Problem) -> String {
    let key = problem.resource.as_ref().map(key::text).unwrap_or_default();
    format!("{key}\0{}\0{}", problem.field, problem.message)
}

fn checked(world: &World, trust_domain: &str) -> Vec<Problem> {
    let resources: Resources =
        world.all().map(|(key, resource)| (key.clone(), Arc::clone(resource))).collect();
    let mut seen = BTreeSet::new();
    let mut problems = snapshot::check(&resources, trust_domain);
    problems.retain(|problem| seen.insert(name(problem)));
    problems
}
