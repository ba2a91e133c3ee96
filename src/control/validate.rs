//! What the compiler says of a mesh as it would be. The control plane asks the same function that
//! every sidecar runs, so that what it accepts is what runs; a sidecar's refusal is then a defect or
//! an older program, and not the usual way to find a mistake.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    key, refs,
    world::{Resources, World},
};
use crate::{
    resource::{Problem, ResourceKey, pb},
    snapshot::{Context, Node, compile},
    units::ServiceName,
};

/// Namespaces for whose callers one write is compiled. Beyond the first only consumer routes need
/// one each, and what is missed by the limit are warnings about conflicts between them.
const NAMESPACES_MAX: usize = 8;
/// Stands for the sidecar that would run it.
const SERVICE: &str = "validation";

/// The problems of a write that turns `before` into `after`: all of the resources that it touched,
/// and of the others those that it caused (a backend that goes away, say).
pub(super) fn problems(
    before: &World,
    after: &World,
    trust_domain: &str,
    touched: &BTreeSet<ResourceKey>,
) -> Vec<Problem> {
    let namespaces = namespaces(after, touched);
    let known: BTreeSet<String> =
        compiled(before, trust_domain, &namespaces).iter().map(name).collect();
    let mut found = compiled(after, trust_domain, &namespaces);
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

/// From where one has to look: from anywhere, and from where a touched route has its callers.
fn namespaces(world: &World, touched: &BTreeSet<ResourceKey>) -> Vec<String> {
    let foreign = |route: &pb::Resource| {
        let own = refs::namespace(route);
        refs::parents(route).iter().any(|parent| parent.service.namespace != own)
    };
    let mut namespaces: BTreeSet<&str> = touched
        .iter()
        .filter(|key| key::is_route(key) && world.get(key).is_some_and(|route| foreign(route)))
        .map(|key| key.namespace.as_str())
        .take(NAMESPACES_MAX)
        .collect();
    if namespaces.is_empty() {
        namespaces.insert(refs::or_default(""));
    }
    namespaces.into_iter().map(str::to_owned).collect()
}

fn compiled(world: &World, trust_domain: &str, namespaces: &[String]) -> Vec<Problem> {
    let resources: Resources =
        world.all().map(|(key, resource)| (key.clone(), std::sync::Arc::clone(resource))).collect();
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for namespace in namespaces {
        let context = Context {
            node: Node {
                service: ServiceName::new(SERVICE, namespace),
                labels: BTreeMap::new(),
                ports: BTreeMap::new(),
            },
            trust_domain: trust_domain.to_owned(),
            namespaces: world.namespaces(),
            answered: BTreeMap::new(),
            complete: true,
            revision: world.revision,
        };
        let (_, found) = compile(&resources, None, &context);
        problems.extend(found.into_iter().filter(|problem| seen.insert(name(problem))));
    }
    problems
}
