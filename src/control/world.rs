//! The mesh as it is now: everything stored and everything alive, as one immutable value that
//! readers load once. A change makes a new one; the two halves and their indexes are shared with the
//! old one when they did not change, and of the live half all that did not.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, OnceLock},
};

use super::{
    key,
    live::{self, Live},
    refs,
    trail::{Step, Trail},
};
use crate::{
    resource::{Kind, Problem, ResourceKey, pb},
    snapshot,
    units::ServiceName,
};

/// Resources by key.
pub(crate) type Resources = BTreeMap<ResourceKey, Arc<pb::Resource>>;

/// The mesh at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    /// The newest revision of what users wrote.
    pub revision: u64,
    /// What users wrote, and the services that registrations made.
    pub stored: Arc<Shelf>,
    /// Workloads whose sidecar is connected.
    pub live: Arc<Live>,
    /// Which of the stored services users did not write: they belong to no revision.
    pub registered: Arc<BTreeSet<ResourceKey>>,
    /// How it came to be from the worlds before it.
    pub trail: Arc<Trail>,
    /// The mesh's trust domain.
    pub trust_domain: Arc<str>,
    /// What is wrong with it, once somebody has asked.
    pub checked: Arc<OnceLock<Checked>>,
}

/// What the compiler says of all resources together, by resource.
pub(crate) type Problems = BTreeMap<ResourceKey, Vec<Problem>>;

/// That, with the halves of the world that it was said of.
#[derive(Debug)]
pub(crate) struct Checked {
    of: (Arc<Shelf>, Arc<Live>),
    problems: Arc<Problems>,
}

/// Resources with the questions that are asked of them answered beforehand.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// All of them.
    pub resources: Resources,
    index: Arc<Index>,
}

/// The answers. They say nothing of versions, so that two shelves may share them.
#[derive(Debug, Default)]
struct Index {
    /// Workloads by the service under which they are registered.
    workloads: HashMap<ServiceName, Vec<ResourceKey>>,
    /// Routes by parent service, policies by target.
    attached: HashMap<ResourceKey, Vec<ResourceKey>>,
    /// Authorization policies without a target, by namespace.
    of_namespace: HashMap<String, Vec<ResourceKey>>,
    /// Services with a selector, by namespace.
    selecting: HashMap<String, Vec<ResourceKey>>,
    /// Namespaces in which there is anything.
    namespaces: BTreeSet<String>,
}

impl Shelf {
    /// Takes the resources and indexes them.
    pub(crate) fn new(resources: Resources) -> Self {
        let mut index = Index::default();
        for (key, resource) in &resources {
            index.add(key, resource);
        }
        Self { resources, index: Arc::new(index) }
    }

    /// The same resources in other versions.
    pub(crate) fn again(&self, resources: Resources) -> Self {
        Self { resources, index: Arc::clone(&self.index) }
    }

    /// Namespaces in which there is anything.
    pub(super) fn namespaces(&self) -> &BTreeSet<String> {
        &self.index.namespaces
    }
}

impl Index {
    fn add(&mut self, key: &ResourceKey, resource: &pb::Resource) {
        if !key.namespace.is_empty() {
            self.namespaces.insert(key.namespace.clone());
        }
        if let Some(service) = refs::service_of_workload(resource) {
            self.workloads.entry(service).or_default().push(key.clone());
        }
        if refs::selector(resource).is_some() {
            self.selecting.entry(key.namespace.clone()).or_default().push(key.clone());
        }
        if key::is(key, Kind::AuthorizationPolicy) && refs::target_refs(resource).is_empty() {
            self.of_namespace.entry(key.namespace.clone()).or_default().push(key.clone());
        }
        let parents = refs::parents(resource).into_iter().map(|to| key::of_service(&to.service));
        for target in parents.chain(refs::targets(resource)) {
            let attached = self.attached.entry(target).or_default();
            if attached.last() != Some(key) {
                attached.push(key.clone());
            }
        }
    }
}

impl World {
    /// The next world after this one, in which something else is stored.
    pub(crate) fn then(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = Self { checked: Arc::default(), ..self.clone() };
        change(&mut next);
        next.trail = Arc::new(self.trail.then(Step::between(self, &next, &[])));
        next
    }

    /// The next world after this one, in which other workloads live.
    pub(crate) fn then_live(&self, changes: Vec<live::Change>) -> Self {
        let keys: Vec<_> = changes.iter().map(|(key, _)| key.clone()).collect();
        let live = Arc::new(self.live.with(changes));
        let mut next = Self { checked: Arc::default(), live, ..self.clone() };
        next.trail = Arc::new(self.trail.then(Step::between(self, &next, &keys)));
        next
    }

    /// What the compiler says of these resources together, be it the one that every sidecar runs. It
    /// is worked out once for a world.
    pub(crate) fn problems(&self) -> Arc<Problems> {
        let check = || {
            let mut problems = Problems::new();
            for problem in snapshot::check(self.all(), &self.trust_domain) {
                if let Some(key) = &problem.resource {
                    problems.entry(key.clone()).or_default().push(problem);
                }
            }
            Arc::new(problems)
        };
        let of = || (Arc::clone(&self.stored), Arc::clone(&self.live));
        let checked = self.checked.get_or_init(|| Checked { of: of(), problems: check() });
        // A world that was made of this one by hand shares its answer without being it.
        let same =
            Arc::ptr_eq(&checked.of.0, &self.stored) && Arc::ptr_eq(&checked.of.1, &self.live);
        if same { Arc::clone(&checked.problems) } else { check() }
    }

    /// Takes over what was said of another world, which has the same resources but for their versions:
    /// asking costs more than all else about a write.
    pub(crate) fn is_as(&mut self, other: &Self) {
        let asked = other.checked.get().filter(|_| Arc::ptr_eq(&self.live, &other.live));
        let Some(problems) = asked.map(|checked| Arc::clone(&checked.problems)) else { return };
        let of = (Arc::clone(&self.stored), Arc::clone(&self.live));
        self.checked = Arc::new(OnceLock::from(Checked { of, problems }));
    }

    /// The resource of that key; a live workload hides a stored one of its name.
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<&Arc<pb::Resource>> {
        self.live.get(key).or_else(|| self.stored.resources.get(key))
    }

    /// All resources in the order of their keys, each key once.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<pb::Resource>)> {
        self.range(Bound::Unbounded)
    }

    /// As [`Self::all`], from a key on.
    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&'a ResourceKey>,
    ) -> impl Iterator<Item = (&'a ResourceKey, &'a Arc<pb::Resource>)> {
        let range = (from, Bound::Unbounded);
        let stored = self.stored.resources.range::<ResourceKey, _>(range);
        let stored = stored.filter(|(key, _)| !self.live.contains(key));
        merge(stored, self.live.range(from))
    }

    /// Whether the mesh has that service: a `Service`, or a workload registered under its name.
    pub(crate) fn has_service(&self, name: &ServiceName) -> bool {
        self.stored.resources.contains_key(&key::of_service(name))
            || self.stored.index.workloads.contains_key(name)
            || self.live.has_service(name)
    }

    /// Every service that the mesh has.
    pub(crate) fn services(&self) -> BTreeSet<ServiceName> {
        let written = self.stored.resources.keys().filter(|key| key::is(key, Kind::Service));
        let named = written.map(|key| ServiceName::new(&*key.name, &*key.namespace));
        let registered = self.stored.index.workloads.keys().chain(self.live.services());
        named.chain(registered.cloned()).collect()
    }

    /// What is attached to a service or route: routes and policies of every namespace.
    pub(crate) fn attached(&self, target: &ResourceKey) -> &[ResourceKey] {
        self.stored.index.attached.get(target).map_or(&[], Vec::as_slice)
    }

    /// Authorization policies that hold for a whole namespace.
    pub(crate) fn namespace_policies(&self, namespace: &str) -> &[ResourceKey] {
        self.stored.index.of_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// The workloads that serve a service: by its selector, or those registered under its name.
    pub(crate) fn workloads(&self, service: &ServiceName) -> Vec<ResourceKey> {
        let selector =
            self.stored.resources.get(&key::of_service(service)).and_then(|it| refs::selector(it));
        let Some(selector) = selector else {
            let mut keys: Vec<_> = self.live.of(service).cloned().collect();
            keys.extend(self.stored.index.workloads.get(service).into_iter().flatten().cloned());
            keys.sort();
            keys.dedup();
            return keys;
        };
        let first = ResourceKey::new(Kind::Workload, &service.namespace, "");
        self.range(Bound::Included(&first))
            .take_while(|(key, _)| key.kind == first.kind && key.namespace == first.namespace)
            .filter(|(_, workload)| selects(selector, workload))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// The services whose inbound rules hold for a workload: the one under which it is registered,
    /// whether there is a `Service` of that name and whatever that selects, and every service of
    /// its namespace that selects it. One too few would let in whom a policy keeps out.
    pub(crate) fn services_of(
        &self,
        service: &ServiceName,
        labels: &HashMap<String, String>,
    ) -> Vec<ServiceName> {
        let mut found = vec![service.clone()];
        let selecting = self.stored.index.selecting.get(&service.namespace);
        for key in selecting.into_iter().flatten() {
            let selector = self.stored.resources.get(key).and_then(|it| refs::selector(it));
            let name = ServiceName::new(&key.name, &key.namespace);
            if name != *service && selector.is_some_and(|selector| matches(selector, labels)) {
                found.push(name);
            }
        }
        found
    }

    /// The services of a namespace that have a selector.
    pub(crate) fn selecting(&self, namespace: &str) -> &[ResourceKey] {
        self.stored.index.selecting.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// Every namespace in which there is anything.
    pub(crate) fn namespaces(&self) -> BTreeSet<String> {
        self.stored.index.namespaces.iter().chain(self.live.namespaces()).cloned().collect()
    }
}

/// Whether all labels of the selector are there with the same values.
fn matches(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn selects(selector: &HashMap<String, String>, workload: &pb::Resource) -> bool {
    workload.metadata.as_ref().is_some_and(|metadata| matches(selector, &metadata.labels))
}

/// Two iterators sorted by key as one.
fn merge<'a, T: 'a>(
    left: impl Iterator<Item = (&'a ResourceKey, T)>,
    right: impl Iterator<Item = (&'a ResourceKey, T)>,
) -> impl Iterator<Item = (&'a ResourceKey, T)> {
    let (mut left, mut right) = (left.peekable(), right.peekable());
    std::iter::from_fn(move || match (left.peek(), right.peek()) {
        (Some((a, _)), Some((b, _))) if a > b => right.next(),
        (Some(_), _) => left.next(),
        (None, _) => right.next(),
    })
}
