//! The live workloads, with the questions that are asked of them answered beforehand. They change one
//! at a time and often, when a sidecar comes, goes, or says how its application is; so a change makes
//! only what differs, and what it costs hardly grows with how many others there are.

use std::{ops::Bound, sync::Arc};

use super::{
    refs,
    tree::{Range, Tree},
};
use crate::{
    resource::{Kind, ResourceKey, pb},
    units::ServiceName,
};

/// What becomes of one workload: its new form, or nothing.
pub(crate) type Change = (ResourceKey, Option<Arc<pb::Resource>>);

/// The live workloads at one moment.
#[derive(Debug, Default)]
pub(crate) struct Live {
    workloads: Tree<ResourceKey, Arc<pb::Resource>>,
    /// By the service under which they are registered.
    of_service: Tree<(ServiceName, ResourceKey), ()>,
    /// How many there are in each namespace that has any.
    namespaces: Tree<String, usize>,
}

impl Live {
    /// After these changes.
    pub(crate) fn with(&self, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = Self {
            workloads: self.workloads.clone(),
            of_service: self.of_service.clone(),
            namespaces: self.namespaces.clone(),
        };
        for (key, workload) in changes {
            next.change(key, workload);
        }
        next
    }

    fn change(&mut self, key: ResourceKey, workload: Option<Arc<pb::Resource>>) {
        let before = self.workloads.get(&key).cloned();
        let (was, is) = (before.as_deref(), workload.as_deref());
        let service = |it: Option<&pb::Resource>| it.and_then(refs::service_of_workload);
        let (left, entered) = (service(was), service(is));
        if left != entered {
            if let Some(service) = left {
                self.of_service = self.of_service.without(&(service, key.clone()));
            }
            if let Some(service) = entered {
                self.of_service = self.of_service.with((service, key.clone()), ());
            }
        }
        let count = self.namespaces.get(&key.namespace).copied().unwrap_or(0);
        let now = (count + usize::from(is.is_some())).saturating_sub(usize::from(was.is_some()));
        if now == 0 {
            self.namespaces = self.namespaces.without(&key.namespace);
        } else if now != count {
            self.namespaces = self.namespaces.with(key.namespace.clone(), now);
        }
        self.workloads = match workload {
            Some(workload) => self.workloads.with(key, workload),
            None => self.workloads.without(&key),
        };
    }

    /// The workload of that key.
    pub(crate) fn get(&self, key: &ResourceKey) -> Option<&Arc<pb::Resource>> {
        self.workloads.get(key)
    }

    /// Whether there is one of that key.
    pub(crate) fn contains(&self, key: &ResourceKey) -> bool {
        self.get(key).is_some()
    }

    /// All in the order of their keys.
    pub(crate) fn iter(&self) -> Range<'_, ResourceKey, Arc<pb::Resource>> {
        self.workloads.iter()
    }

    /// As [`Self::iter`], from a key on.
    pub(crate) fn range(
        &self,
        from: Bound<&ResourceKey>,
    ) -> Range<'_, ResourceKey, Arc<pb::Resource>> {
        self.workloads.range(from)
    }

    /// The workloads registered under a service's name.
    pub(crate) fn of<'a>(
        &'a self,
        service: &ServiceName,
    ) -> impl Iterator<Item = &'a ResourceKey> + use<'a> {
        // A workload is in its service's namespace.
        let first = ResourceKey::new(Kind::Workload, &service.namespace, "");
        let first = (service.clone(), first);
        let from = self.of_service.range(Bound::Included(&first)).map(|(entry, ())| entry);
        from.take_while(move |(of, _)| *of == first.0).map(|(_, key)| key)
    }

    /// Whether there is one of that service.
    pub(crate) fn has_service(&self, service: &ServiceName) -> bool {
        self.of(service).next().is_some()
    }

    /// The services that have any; one several times over where it has several.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.of_service.iter().map(|((service, _), ())| service)
    }

    /// The namespaces that have any.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.iter().map(|(namespace, _)| namespace)
    }

    /// Whether a namespace has any.
    pub(crate) fn has_namespace(&self, namespace: &String) -> bool {
        self.namespaces.get(namespace).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::tree::tests::fresh, Live};
    use crate::{
        control::sample::{live, resources, workload},
        units::ServiceName,
    };

    fn of(live: &Live, service: &str) -> Vec<String> {
        let keys = live.of(&ServiceName::new(service, "shop"));
        keys.map(|key| key.name.clone()).collect()
    }

    #[test]
    fn what_is_asked_of_them_follows_each_change() {
        let live = live([
            workload("shop/a-1", "a", ""),
            workload("shop/a-2", "a", ""),
            workload("bank/b-1", "b", ""),
        ]);
        assert_eq!(of(&live, "a"), ["a-1", "a-2"]);
        assert!(live.namespaces().eq(["bank", "shop"]));
        // One moves to another service, one goes, and with it its namespace.
        let put = resources([workload("shop/a-2", "c", "")]);
        let gone = resources([workload("bank/b-1", "b", "")]);
        let changes = put.into_iter().map(|(key, it)| (key, Some(it)));
        let next = live.with(changes.chain(gone.into_keys().map(|key| (key, None))));
        assert_eq!((of(&next, "a"), of(&next, "c")), (vec!["a-1".into()], vec!["a-2".into()]));
        assert!(next.namespaces().eq(["shop"]));
        assert!(!next.has_service(&ServiceName::new("b", "bank")));
        assert_eq!((live.iter().count(), next.iter().count()), (3, 2));
        assert_eq!(of(&live, "a"), ["a-1", "a-2"], "the old one is as it was");
    }

    #[test]
    fn one_change_makes_little_whatever_the_number_of_others() {
        for (count, most) in [(10, 20), (10_000, 120)] {
            let name = |i: usize| format!("shop/w-{i}");
            let all = (0..count).map(|i| workload(&name(i), &format!("s-{}", i % 100), ""));
            let live = live(all);
            let mut ready = resources([workload(&name(count / 2), "s-1", "v=2")]);
            let (key, ready) = ready.pop_first().expect("one");
            for next in [
                live.with([(key.clone(), Some(Arc::clone(&ready)))]),
                live.with([(key.clone(), None)]),
                live.with(
                    resources([workload("shop/new", "new", "")])
                        .into_iter()
                        .map(|(key, it)| (key, Some(it))),
                ),
            ] {
                let made = fresh(&live.workloads, &next.workloads)
                    + fresh(&live.of_service, &next.of_service)
                    + fresh(&live.namespaces, &next.namespaces);
                assert!(made <= most, "{made} of {count}");
            }
        }
    }
}
