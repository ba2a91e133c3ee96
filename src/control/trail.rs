//! What changed from one world to the next, in words that a sidecar's stream can compare with what
//! it depends on: so that a change makes those look whom it may concern, and costs the other
//! thousand a few comparisons.
//!
//! A topic too many costs a look; one too few is a defect, and a property test looks for it.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    key, refs,
    world::{Shelf, World},
};
use crate::resource::{Kind, ResourceKey, pb};

/// Steps that are remembered; whoever is further behind looks at everything.
const STEPS_MAX: usize = 512;

/// What one step, from one world to the next, may concern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Everybody.
    all: bool,
    /// Services and routes about which something changed: they themselves, who serves them, what is
    /// attached to them.
    keys: BTreeSet<ResourceKey>,
    /// Namespaces whose workloads may have got other inbound rules.
    namespaces: BTreeSet<String>,
}

/// On what the scope of a viewer depends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interest {
    /// Services and routes, whether they exist or not.
    pub keys: BTreeSet<ResourceKey>,
    /// The viewer's own namespace.
    pub namespace: String,
}

/// The last steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trail {
    /// Counts worlds.
    generation: u64,
    /// The last of them led to `generation`.
    steps: VecDeque<Arc<Step>>,
}

impl Trail {
    /// Which world this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// With one more step.
    pub(crate) fn then(&self, step: Step) -> Self {
        let mut steps = self.steps.clone();
        if steps.len() >= STEPS_MAX {
            steps.pop_front();
        }
        steps.push_back(Arc::new(step));
        Self { generation: self.generation + 1, steps }
    }

    /// Whether anything since that generation may concern somebody.
    pub(crate) fn concerns(&self, interest: &Interest, since: u64) -> bool {
        let behind = usize::try_from(self.generation.saturating_sub(since)).unwrap_or(usize::MAX);
        let Some(known) = self.steps.len().checked_sub(behind) else { return true };
        self.steps.iter().skip(known).any(|step| step.concerns(interest))
    }
}

impl Step {
    /// What changed between two worlds: in what is stored, where what is the same value in both did
    /// not, and of the live workloads those that are named.
    pub(crate) fn between(old: &World, new: &World, live: &[ResourceKey]) -> Self {
        let mut step = Self::default();
        if !Arc::ptr_eq(&old.stored, &new.stored) {
            step.all = old.stored.namespaces() != new.stored.namespaces();
            for (key, before, after) in differences(&old.stored, &new.stored) {
                for resource in before.into_iter().chain(after) {
                    step.add(key, resource, [old, new]);
                }
            }
        }
        for key in live {
            let [was, is] = [old, new].map(|world| world.live.has_namespace(&key.namespace));
            step.all |= was != is;
            for resource in [old, new].iter().filter_map(|world| world.live.get(key)) {
                step.add(key, resource, [old, new]);
            }
        }
        step
    }

    fn add(&mut self, key: &ResourceKey, resource: &pb::Resource, worlds: [&World; 2]) {
        match Kind::of(resource) {
            Some(Kind::Service) => {
                self.keys.insert(key.clone());
                // It may select workloads of its namespace, whose inbound rules it then has a part in.
                if refs::selector(resource).is_some() {
                    self.namespaces.insert(key.namespace.clone());
                }
            }
            Some(Kind::Workload) => {
                // A live one hides a stored one of its name, which may be of another service.
                let named = worlds
                    .iter()
                    .flat_map(|world| [world.live.get(key), world.stored.resources.get(key)]);
                let named = named.flatten().map(|it| &**it);
                let services = named.chain([resource]).filter_map(refs::service_of_workload);
                self.keys.extend(services.map(|service| key::of_service(&service)));
                let selecting = worlds.iter().flat_map(|world| world.selecting(&key.namespace));
                self.keys.extend(selecting.cloned());
            }
            Some(Kind::GrpcRoute | Kind::HttpRoute) => {
                let parents = refs::parents(resource).into_iter();
                self.keys.extend(parents.map(|parent| key::of_service(&parent.service)));
            }
            Some(Kind::TrafficPolicy | Kind::AuthorizationPolicy) => {
                if refs::target_refs(resource).is_empty() {
                    self.namespaces.insert(key.namespace.clone());
                }
                self.keys.extend(refs::targets(resource));
            }
            Some(Kind::Mesh) | None => self.all = true,
        }
    }

    fn concerns(&self, interest: &Interest) -> bool {
        self.all
            || self.namespaces.contains(&interest.namespace)
            || self.keys.iter().any(|key| interest.keys.contains(key))
    }
}

/// The keys under which two shelves hold something else, with what each holds.
fn differences<'a>(
    before: &'a Shelf,
    after: &'a Shelf,
) -> Vec<(&'a ResourceKey, Option<&'a pb::Resource>, Option<&'a pb::Resource>)> {
    let mut found = Vec::new();
    let (mut olds, mut news) =
        (before.resources.iter().peekable(), after.resources.iter().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let old = if order.is_le() { olds.next() } else { None };
        let new = if order.is_ge() { news.next() } else { None };
        match (old, new) {
            (Some((_, old)), Some((_, new))) if Arc::ptr_eq(old, new) => {}
            (Some((key, old)), new) => found.push((key, Some(&**old), new.map(|(_, new)| &**new))),
            (None, Some((key, new))) => found.push((key, None, Some(&**new))),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
#[path = "trail_tests.rs"]
mod tests;
