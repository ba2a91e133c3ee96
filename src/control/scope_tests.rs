//! Scopes by example: one mesh, and what each viewer must get of it, no more and no less.

use super::{Viewer, scope};
use crate::{
    control::{
        key,
        sample::{authorization, labels, mesh, route, service, traffic_policy, workload, world},
        world::World,
    },
    resource::Kind,
    units::ServiceName,
};

fn shop() -> World {
    world(
        [
            mesh(),
            service("shop/orders", ""),
            service("shop/catalog", ""),
            service("shop/catalog-v2", "version=v2"),
            service("bank/payments", ""),
            workload("bank/payments-vm", "payments", ""),
            route("shop/catalog", "catalog", &["catalog", "catalog-v2", "bank/payments"]),
            route("web/catalog", "shop/catalog", &["shop/catalog"]),
            route("bank/catalog", "shop/catalog", &["shop/catalog"]),
            traffic_policy("shop/orders", Kind::Service, "orders"),
            traffic_policy("shop/catalog", Kind::Service, "catalog"),
            traffic_policy("shop/catalog-route", Kind::GrpcRoute, "catalog"),
            traffic_policy("bank/payments", Kind::Service, "payments"),
            authorization("shop/all", &[]),
            authorization("shop/orders", &["orders"]),
            authorization("shop/catalog-v2", &["catalog-v2"]),
            authorization("bank/all", &[]),
        ],
        [
            workload("shop/orders-1", "orders", ""),
            workload("shop/catalog-1", "catalog", "version=v1"),
            workload("shop/catalog-2", "catalog", "version=v2"),
            workload("bank/payments-1", "payments", "version=v2"),
        ],
    )
}

fn check(viewer: (&str, &str), with: &str, uses: &[(&str, &str)], expected: &[&str]) {
    let viewer = Viewer {
        service: Some(ServiceName::new(viewer.1, viewer.0)),
        labels: labels(with),
        uses: uses.iter().map(|(namespace, name)| ServiceName::new(*name, *namespace)).collect(),
    };
    let found: Vec<_> = scope(&shop(), &viewer).0.keys().map(key::text).collect();
    let mut expected: Vec<_> = expected.iter().map(|text| (*text).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected, "{viewer:?}");
}

#[test]
fn who_uses_nothing_gets_its_own_inbound_side() {
    check(
        ("shop", "orders"),
        "",
        &[],
        &[
            "Mesh//mesh",
            "Service/shop/orders",
            "TrafficPolicy/shop/orders",
            "AuthorizationPolicy/shop/all",
            "AuthorizationPolicy/shop/orders",
        ],
    );
}

#[test]
fn a_service_that_selects_the_workload_governs_it_too() {
    check(
        ("shop", "catalog"),
        "version=v2",
        &[],
        &[
            "Mesh//mesh",
            "Service/shop/catalog",
            "Service/shop/catalog-v2",
            "TrafficPolicy/shop/catalog",
            "AuthorizationPolicy/shop/all",
            "AuthorizationPolicy/shop/catalog-v2",
        ],
    );
    check(
        ("shop", "catalog"),
        "version=v1",
        &[],
        &[
            "Mesh//mesh",
            "Service/shop/catalog",
            "TrafficPolicy/shop/catalog",
            "AuthorizationPolicy/shop/all",
        ],
    );
}

#[test]
fn a_used_service_brings_its_routes_backends_and_policies() {
    check(
        ("web", "web"),
        "",
        &[("shop", "catalog")],
        &[
            "Mesh//mesh",
            "Service/shop/catalog",
            "Workload/shop/catalog-1",
            "Workload/shop/catalog-2",
            "TrafficPolicy/shop/catalog",
            "GRPCRoute/shop/catalog",
            "TrafficPolicy/shop/catalog-route",
            "Service/shop/catalog-v2",
            "Service/bank/payments",
            "Workload/bank/payments-1",
            "Workload/bank/payments-vm",
            "TrafficPolicy/bank/payments",
            // The consumer's own route; that of `bank` is for callers from there.
            "GRPCRoute/web/catalog",
        ],
    );
}

#[test]
fn what_the_mesh_does_not_have_brings_nothing() {
    check(("web", "web"), "", &[("shop", "nothing")], &["Mesh//mesh"]);
}

#[test]
fn what_guards_a_workload_stays_when_its_service_is_deleted_or_selects_others() {
    let viewer = Viewer { service: Some(ServiceName::new("orders", "shop")), ..Viewer::default() };
    let policy = || authorization("shop/orders", &["orders"]);
    for service in [vec![], vec![service("shop/orders", "version=v9")]] {
        let world = world(service.into_iter().chain([policy()]), []);
        let (found, _) = scope(&world, &viewer);
        assert!(found.keys().any(|key| key::is(key, Kind::AuthorizationPolicy)), "{found:?}");
    }
}

#[test]
fn a_workload_that_somebody_wrote_needs_no_service() {
    let world = world([workload("shop/vm", "orders", "")], []);
    let orders = ServiceName::new("orders", "shop");
    let viewer = Viewer {
        service: Some(ServiceName::new("web", "shop")),
        uses: [orders.clone()].into(),
        ..Viewer::default()
    };
    assert_eq!(
        scope(&world, &viewer).0.keys().map(key::text).collect::<Vec<_>>(),
        ["Workload/shop/vm"]
    );
    assert!(world.has_service(&orders) && world.services().contains(&orders));
}
