//! The live workloads, with the questions that are asked of them answered beforehand. They change one
//! at a time and often, when a sidecar comes, goes, or says how its application is; so a change makes
//! only what differs, and what it costs hardly grows with how many others there are.

use std::{ops::Bound, sync::Arc};

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use super::refs;
use crate::{
    resource::{Kind, ResourceKey, pb},
    units::ServiceName,
};

/// What becomes of one workload: its new form, or nothing.
pub(crate) type Change = (ResourceKey, Option<Arc<pb::Resource>>);

/// The live workloads at one moment. Trees of which a changed one shares all but a path with the one
/// before.
#[derive(Debug, Default, Clone)]
pub(crate) struct Live {
    workloads: RedBlackTreeMapSync<ResourceKey, Arc<pb::Resource>>,
    /// By the service under which they are registered.
    of_service: RedBlackTreeSetSync<(ServiceName, ResourceKey)>,
    /// How many there are in each namespace that has any.
    namespaces: RedBlackTreeMapSync<String, usize>,
}

impl Live {
    /// After these changes.
    pub(crate) fn with(&self, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = self.clone();
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
                self.of_service.remove_mut(&(service, key.clone()));
            }
            if let Some(service) = entered {
                self.of_service.insert_mut((service, key.clone()));
            }
        }
        let count = self.namespaces.get(&key.namespace).copied().unwrap_or(0);
        let now = (count + usize::from(is.is_some())).saturating_sub(usize::from(was.is_some()));
        if now == 0 {
            self.namespaces.remove_mut(&key.namespace);
        } else if now != count {
            self.namespaces.insert_mut(key.namespace.clone(), now);
        }
        match workload {
            Some(workload) => self.workloads.insert_mut(key, workload),
            None => drop(self.workloads.remove_mut(&key)),
        }
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
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<pb::Resource>)> {
        self.workloads.iter()
    }

    /// As [`Self::iter`], from a key on.
    pub(crate) fn range<'a>(
        &'a self,
        from: Bound<&'a ResourceKey>,
    ) -> impl Iterator<Item = (&'a ResourceKey, &'a Arc<pb::Resource>)> {
        self.workloads.range((from, Bound::Unbounded))
    }

    /// The workloads registered under a service's name.
    pub(crate) fn of<'a>(
        &'a self,
        service: &ServiceName,
    ) -> impl Iterator<Item = &'a ResourceKey> + use<'a> {
        // A workload is in its service's namespace.
        let first = ResourceKey::new(Kind::Workload, &service.namespace, "");
        let (service, first) = (service.clone(), (service.clone(), first));
        let from = self.of_service.range(first..);
        from.take_while(move |(of, _)| *of == service).map(|(_, key)| key)
    }

    /// Whether there is one of that service.
    pub(crate) fn has_service(&self, service: &ServiceName) -> bool {
        self.of(service).next().is_some()
    }

    /// The services that have any; one several times over where it has several.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.of_service.iter().map(|(service, _)| service)
    }

    /// The namespaces that have any.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.namespaces.keys()
    }

    /// Whether a namespace has any.
    pub(crate) fn has_namespace(&self, namespace: &String) -> bool {
        self.namespaces.contains_key(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::Live;
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
}
