//! Which resources concern a sidecar: a pure function of the mesh and of who looks at it.
//!
//! A sidecar gets what governs its own inbound side, and for each service that its application uses
//! what is needed to call it. Nothing else travels, so that memory and traffic grow with what a
//! workload uses and not with the mesh. Which of the resources apply is decided by `compile` alone;
//! here one too many costs bytes and one too few is a defect.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    key, refs,
    trail::Interest,
    world::{Resources, World},
};
use crate::{
    resource::{Kind, ResourceKey, pb},
    units::ServiceName,
};

/// Who looks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Viewer {
    /// The service beside the sidecar; `None` for nothing but what all have.
    pub service: Option<ServiceName>,
    /// The workload's labels.
    pub labels: HashMap<String, String>,
    /// The services that its application uses.
    pub uses: BTreeSet<ServiceName>,
}

/// Everything that concerns the viewer, and on what that depends.
pub(crate) fn scope(world: &World, viewer: &Viewer) -> (Resources, Interest) {
    let mut scope = Scope { world, found: Resources::new(), interest: Interest::default() };
    scope.add(&key::of_mesh());
    if let Some(own) = &viewer.service {
        scope.interest.namespace.clone_from(&own.namespace);
        scope.inbound(own, &viewer.labels);
        for service in &viewer.uses {
            scope.outbound(service, &own.namespace);
        }
    }
    (scope.found, scope.interest)
}

struct Scope<'a> {
    world: &'a World,
    found: Resources,
    interest: Interest,
}

impl Scope<'_> {
    fn add(&mut self, key: &ResourceKey) -> Option<Arc<pb::Resource>> {
        let resource = self.world.get(key)?;
        self.found.insert(key.clone(), Arc::clone(resource));
        Some(Arc::clone(resource))
    }

    /// What governs the sidecar's inbound side.
    fn inbound(&mut self, own: &ServiceName, labels: &HashMap<String, String>) {
        for service in self.world.services_of(own, labels) {
            let service = key::of_service(&service);
            self.add(&service);
            self.attached(&service, Kind::AuthorizationPolicy);
            self.attached(&service, Kind::TrafficPolicy);
            self.interest.keys.insert(service);
        }
        for policy in self.world.namespace_policies(&own.namespace) {
            self.add(policy);
        }
    }

    /// What is needed to call a service from a namespace: that of its producer, and what the
    /// caller's own namespace says about it (a consumer route).
    fn outbound(&mut self, service: &ServiceName, caller_namespace: &str) {
        self.callee(service);
        let world = self.world;
        for route in world.attached(&key::of_service(service)) {
            let producer = route.namespace == service.namespace;
            if !key::is_route(route) || !(producer || route.namespace == caller_namespace) {
                continue;
            }
            self.interest.keys.insert(route.clone());
            let Some(resource) = self.add(route) else { continue };
            self.attached(route, Kind::TrafficPolicy);
            for backend in refs::backends(&resource) {
                self.callee(&backend);
            }
        }
    }

    /// A service, who serves it, and how calls to it are limited.
    fn callee(&mut self, service: &ServiceName) {
        let key = key::of_service(service);
        self.interest.keys.insert(key.clone());
        if !self.world.has_service(service) {
            return;
        }
        self.add(&key);
        for workload in self.world.workloads(service) {
            self.add(&workload);
        }
        self.attached(&key, Kind::TrafficPolicy);
    }

    fn attached(&mut self, target: &ResourceKey, kind: Kind) {
        let world = self.world;
        for key in world.attached(target).iter().filter(|key| key::is(key, kind)) {
            self.add(key);
        }
    }
}

#[cfg(test)]
#[path = "scope_tests.rs"]
mod tests;
