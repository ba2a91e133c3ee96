//! What resources say of each other: references to what does not exist, and rules that can never be
//! reached. All of it is warned of and nothing is refused for it: what is referred to may come later.
//! A message begins with the reason by which Gateway API's conditions call it, where it has one; the
//! control plane makes a resource's conditions of these problems.

use std::collections::BTreeMap;

use super::{Compiler, Presence, read::Entry, route, service};
use crate::{
    resource::{
        Kind, Problem, ResourceKey,
        reference::Target,
        route::{Parent, Route},
    },
    units::ServiceName,
};

impl Compiler<'_> {
    pub(super) fn check_references(&self, problems: &mut Vec<Problem>) {
        for entry in &self.read.routes {
            self.check_route(entry, problems);
            route::unreachable(entry, problems);
        }
        let routes = self.read.routes.iter().map(|route| (&route.key, route)).collect();
        for policy in &self.read.policies {
            for (index, target) in policy.spec.targets.iter().enumerate() {
                if let Some(message) = self.target_problem(&routes, target, &policy.key.namespace) {
                    let field = format!("spec.targetRefs[{index}]");
                    problems.push(Problem::warning(field, message).of(&policy.key));
                }
            }
        }
        for policy in &self.read.authorization {
            for (index, name) in policy.spec.services.iter().enumerate() {
                let service = ServiceName::new(&**name, &*policy.key.namespace);
                if self.presence(&service) == Presence::Missing {
                    let message = format!("TargetNotFound: no Service {service}");
                    let field = format!("spec.targetRefs[{index}]");
                    problems.push(Problem::warning(field, message).of(&policy.key));
                }
            }
        }
    }

    fn check_route(&self, route: &Entry<Route>, problems: &mut Vec<Problem>) {
        for (index, parent) in route.spec.parents.iter().enumerate() {
            if let Some(message) = self.parent_problem(parent) {
                let field = format!("spec.parentRefs[{index}]");
                problems.push(Problem::warning(field, message).of(&route.key));
            }
        }
        for (rule, written) in route.spec.rules.iter().enumerate() {
            for (place, backend) in written.backends.iter().enumerate() {
                // What is no Service at all was said when the route was read.
                let Some(Err(message)) = backend.service.as_ref().map(|_| self.target(backend))
                else {
                    continue;
                };
                let field = format!("spec.rules[{rule}].backendRefs[{place}]");
                let message = format!("{message}; its share is answered with backend_invalid");
                problems.push(Problem::warning(field, message).of(&route.key));
            }
        }
    }

    fn parent_problem(&self, Parent { service, port }: &Parent) -> Option<String> {
        match self.presence(service) {
            Presence::NotAsked => return None,
            Presence::Missing => return Some(format!("NoMatchingParent: no Service {service}")),
            Presence::Here => {}
        }
        let port = (*port)?;
        let ports = service::ports(self.read, service);
        match ports.as_slice() {
            // Workloads may say it, and not all of them are known here.
            [any] if any.number == 0 => self
                .context
                .complete
                .then(|| format!("NoMatchingParent: {service} does not say which ports it has")),
            _ if ports.iter().any(|known| known.number == port) => None,
            _ => Some(format!("NoMatchingParent: {service} has no port {port}")),
        }
    }

    /// A route that is not among the resources is missing only where they are all that there are.
    fn target_problem(
        &self,
        routes: &BTreeMap<&ResourceKey, &Entry<Route>>,
        target: &Target,
        namespace: &str,
    ) -> Option<String> {
        if target.kind == Kind::Service {
            let service = ServiceName::new(&*target.name, namespace);
            let missing = self.presence(&service) == Presence::Missing;
            return missing.then(|| format!("TargetNotFound: no Service {service}"));
        }
        let key = ResourceKey::new(target.kind, namespace, &*target.name);
        match (routes.get(&key), &target.section) {
            (None, _) if self.context.complete => Some(format!("TargetNotFound: no {key}")),
            (Some(route), Some(section)) => {
                let missing = route.spec.rules.iter().all(|rule| rule.name != *section);
                let message = format!("TargetNotFound: {} has no rule {section}", route.key);
                missing.then_some(message)
            }
            _ => None,
        }
    }
}
