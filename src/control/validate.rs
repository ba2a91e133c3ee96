//! What the compiler says of a mesh as it would be. The control plane asks the same code that every
//! sidecar runs, so that what it accepts is what runs; a sidecar's refusal is then a defect or an
//! older program, and not the usual way to find a mistake.

use std::collections::{BTreeSet, HashSet};

use super::{key, world::World};
use crate::resource::{Problem, ResourceKey};

/// The problems of a write that turns `before` into `after`: all of the resources that it touched,
/// and of the others those that it caused (a backend that goes away, say).
pub(super) fn problems(
    before: &World,
    after: &World,
    touched: &BTreeSet<ResourceKey>,
) -> Vec<Problem> {
    let before = before.problems();
    let known: &HashSet<String> = &before.values().flatten().map(name).collect();
    let found = after.problems();
    let new = found.iter().flat_map(|(key, problems)| {
        let touched = touched.contains(key);
        problems.iter().filter(move |problem| touched || !known.contains(&name(problem)))
    });
    new.cloned().collect()
}

/// Tells problems apart.
pub(super) fn name(problem: &Problem) -> String {
    let key = problem.resource.as_ref().map(key::text).unwrap_or_default();
    format!("{key}\0{}\0{}", problem.field, problem.message)
}
