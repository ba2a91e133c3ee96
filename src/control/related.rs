//! Who has to do with whom, for people: which routes and policies hold for a service, and for which
//! services a route or a policy holds.

use std::collections::BTreeSet;

use super::{key, refs, world::World};
use crate::{
    resource::{
        Kind, ResourceKey,
        pb::{self, resource::Spec},
    },
    units::ServiceName,
};

/// More of them are not told.
const RELATED_MAX: usize = 1000;

/// For a service what holds for it, for anything else the services for which it holds.
pub(crate) fn of(world: &World, at: &ResourceKey, resource: &pb::Resource) -> Vec<ResourceKey> {
    let found = match &resource.spec {
        Some(Spec::Service(_)) => holding_for(world, at),
        Some(Spec::Workload(_)) => served(world, resource),
        Some(Spec::HttpRoute(_) | Spec::GrpcRoute(_)) => of_parents(resource).collect(),
        Some(Spec::TrafficPolicy(_) | Spec::AuthorizationPolicy(_)) => hit(world, at, resource),
        Some(Spec::Mesh(_)) | None => BTreeSet::new(),
    };
    found.into_iter().take(RELATED_MAX).collect()
}

/// The routes and policies of a service, those of its routes, and those of its whole namespace.
fn holding_for(world: &World, service: &ResourceKey) -> BTreeSet<ResourceKey> {
    let attached = world.attached(service);
    let routes = attached.iter().filter(|key| key::is_route(key));
    let of_routes = routes.flat_map(|route| world.attached(route));
    let of_namespace = world.namespace_policies(&service.namespace);
    attached.iter().chain(of_routes).chain(of_namespace).cloned().collect()
}

/// The services of a workload: that of its name, and those that select it.
fn served(world: &World, workload: &pb::Resource) -> BTreeSet<ResourceKey> {
    let labels = workload.metadata.as_ref().map(|metadata| metadata.labels.clone());
    let own = refs::service_of_workload(workload);
    let services = own.map(|own| world.services_of(&own, &labels.unwrap_or_default()));
    services.into_iter().flatten().map(|service| key::of_service(&service)).collect()
}

fn of_parents(route: &pb::Resource) -> impl Iterator<Item = ResourceKey> {
    refs::parents(route).into_iter().map(|parent| key::of_service(&parent.service))
}

/// The services that a policy hits: its targets, the parents of routes that it targets, or all of
/// its namespace.
fn hit(world: &World, at: &ResourceKey, policy: &pb::Resource) -> BTreeSet<ResourceKey> {
    if refs::target_refs(policy).is_empty() {
        let all = world.services().into_iter();
        let own = all.filter(|service| service.namespace == at.namespace);
        return own.map(|service| key::of_service(&service)).collect();
    }
    let mut found = BTreeSet::new();
    for target in refs::targets(policy) {
        if key::is(&target, Kind::Service) {
            let name = ServiceName::new(&*target.name, &*target.namespace);
            found.extend(world.has_service(&name).then_some(target));
        } else if let Some(route) = world.get(&target) {
            found.extend(of_parents(route));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::{
        control::sample::{authorization, route, service, traffic_policy, workload, world},
        resource::{self, Kind, pb},
    };

    #[test]
    fn services_name_what_holds_for_them_and_policies_whom_they_hit() {
        let canary = service("shop/canary", "version=v2");
        let of_route = traffic_policy("shop/of-route", Kind::GrpcRoute, "orders");
        let all: Vec<pb::Resource> = vec![
            service("shop/orders", ""),
            canary,
            service("bank/payments", ""),
            route("shop/orders", "orders", &["canary"]),
            of_route,
            traffic_policy("shop/orders", Kind::Service, "orders"),
            traffic_policy("shop/nobody", Kind::Service, "nothing"),
            authorization("shop/all", &[]),
            authorization("shop/canary", &["canary"]),
            workload("shop/orders-2", "orders", "version=v2"),
        ];
        let world = world(all.clone(), []);
        let check = |kind: Kind, name: &str, expected: &[&str]| {
            let is = |it: &&pb::Resource| {
                let key = resource::key(it).expect("has a spec");
                key.kind == kind.name() && format!("{}/{}", key.namespace, key.name) == name
            };
            let resource = all.iter().find(is).expect("one of them");
            let key = resource::key(resource).expect("has a spec");
            let found: Vec<_> =
                of(&world, &key, resource).iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name}");
        };
        check(
            Kind::Service,
            "shop/orders",
            &[
                "AuthorizationPolicy shop/all",
                "GRPCRoute shop/orders",
                "TrafficPolicy shop/of-route",
                "TrafficPolicy shop/orders",
            ],
        );
        check(
            Kind::Service,
            "shop/canary",
            &["AuthorizationPolicy shop/all", "AuthorizationPolicy shop/canary"],
        );
        check(Kind::Service, "bank/payments", &[]);
        check(Kind::TrafficPolicy, "shop/of-route", &["Service shop/orders"]);
        check(Kind::TrafficPolicy, "shop/nobody", &[]);
        check(
            Kind::AuthorizationPolicy,
            "shop/all",
            &["Service shop/canary", "Service shop/orders"],
        );
        check(Kind::GrpcRoute, "shop/orders", &["Service shop/orders"]);
        check(Kind::Workload, "shop/orders-2", &["Service shop/canary", "Service shop/orders"]);
    }
}
