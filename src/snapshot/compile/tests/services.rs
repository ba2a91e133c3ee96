//! Destinations, last good forms and references.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    World, backend, compile, context, destination, labelled, lines, parent, port, resource,
    selecting, service, target, workload,
};
use crate::{
    resource::pb,
    snapshot::{Context, EndpointAddress, Protocol, Readiness, Transport},
    units::ServiceName,
};

fn plain(name: &str, service: &str, ports: &[(&str, u32)]) -> pb::Resource {
    resource(
        name,
        pb::resource::Spec::Workload(pb::Workload {
            service: service.into(),
            address: "db.example".into(),
            ports: ports.iter().map(|(key, port)| ((*key).into(), *port)).collect(),
            weight: Some(3),
            zone: "a".into(),
            ready: Some(false),
            ..pb::Workload::default()
        }),
    )
}

#[test]
fn a_service_has_its_ports_and_its_workloads() {
    let world = World::default()
        .with(service("orders", vec![port(80, "web", "http"), port(9090, "grpc", "grpc")]))
        .with(workload("orders-2", "orders"))
        .with(workload("orders-1", "orders"))
        .with(plain("orders-3", "orders", &[("grpc", 50051), ("80", 8080)]))
        .with(workload("away/orders-9", "orders"))
        .with(workload("other-1", "other"));
    let orders = destination(&world.snapshot(), "orders");
    let ports: Vec<_> = orders.ports.iter().map(|p| (p.number, &*p.name, p.protocol)).collect();
    assert_eq!(ports, [(80, "web", Protocol::Http1), (9090, "grpc", Protocol::Http2)]);
    let names: Vec<&str> = orders.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
    assert_eq!(names, ["orders-1", "orders-2", "orders-3"]);

    let [first, _, last] = &orders.endpoints[..] else { panic!("three") };
    assert_eq!(first.address, EndpointAddress::Ip(IpAddr::from([127, 0, 0, 1])));
    let identity = "spiffe://mesh.local/ns/shop/svc/orders".parse().expect("an identity");
    assert_eq!(first.transport, Transport::Mesh { port: 15006, identity });
    assert_eq!((first.weight, first.readiness), (1, Readiness::Ready));
    assert_eq!(last.address, EndpointAddress::Name("db.example".into()));
    assert_eq!(last.transport, Transport::Plain { ports: vec![(80, 8080), (9090, 50051)] });
    assert_eq!((last.weight, last.readiness, &*last.zone), (3, Readiness::NotReady, "a"));
}

#[test]
fn a_selector_replaces_the_name() {
    let world = World::default()
        .with(selecting("orders-v2", vec![port(80, "", "")], &[("version", "v2")]))
        .with(labelled(workload("orders-1", "orders"), "version", "v1"))
        .with(labelled(workload("orders-2", "orders"), "version", "v2"))
        .with(labelled(workload("away/orders-3", "orders"), "version", "v2"))
        .with(workload("orders-v2-1", "orders-v2"));
    let selected = destination(&world.snapshot(), "orders-v2");
    let names: Vec<&str> = selected.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
    assert_eq!(names, ["orders-2"]);
}

#[test]
fn ports_that_nobody_lists_come_from_workloads_or_are_any() {
    let world = World::default()
        .with(plain("a-1", "a", &[("9090", 9090), ("80", 8080), ("named", 1)]))
        .with(service("b", Vec::new()));
    let snapshot = world.snapshot();
    let numbers = |name: &str| -> Vec<u16> {
        destination(&snapshot, name).ports.iter().map(|port| port.number).collect()
    };
    assert_eq!(numbers("a"), [80, 9090]);
    assert_eq!(numbers("b"), [0]);
    let b = destination(&snapshot, "b");
    assert!(b.ports[0].is_any() && b.endpoints.is_empty());
    let backend = &b.ports[0].default_rule.backends[0];
    assert_eq!(backend.target, Some((ServiceName::new("b", "shop"), 0)));
}

#[test]
fn only_what_was_answered_is_there_unless_the_resources_are_all() {
    let world = World::default()
        .with(service("orders", vec![port(80, "", "")]))
        .with(service("unasked", vec![port(80, "", "")]));
    let name = |name: &str| ServiceName::new(name, "shop");
    let answered = BTreeMap::from([(name("orders"), true), (name("gone"), false)]);
    let context = Context { complete: false, answered, ..context() };
    let (snapshot, _) = world.compile(&context);
    let found: Vec<_> = ["orders", "gone", "unasked"]
        .map(|service| snapshot.destinations.get(&name(service)).map(Option::is_some))
        .into();
    assert_eq!(found, [Some(true), Some(false), None]);
    assert_eq!((snapshot.complete, snapshot.revision), (false, 7));

    let snapshot = world.snapshot();
    assert_eq!(snapshot.destinations.len(), 2);
    assert!(snapshot.complete);
}

#[test]
fn namespaces_are_those_of_the_mesh_of_the_node_and_of_services() {
    let world = World::default().with(service("billing/refunds", Vec::new()));
    let context = Context { namespaces: ["away".into()].into(), ..context() };
    let namespaces: Vec<String> = world.compile(&context).0.namespaces.into_iter().collect();
    assert_eq!(namespaces, ["away", "billing", "shop"]);
}

#[test]
fn what_does_not_compile_keeps_its_last_good_form() {
    let good = World::default()
        .with(service("orders", vec![port(80, "", "")]))
        .with(service("payments", vec![port(80, "", "")]));
    let snapshot = good.snapshot();
    let bad = good.clone().with(service("orders", vec![port(70_000, "", "")]));
    let (next, problems) = compile(&bad.resources, Some(&snapshot), &context());
    assert_eq!(lines(&problems), ["error: Service shop/orders: spec.ports[0].port: not a port"]);
    assert_eq!(destination(&next, "orders").ports[0].number, 80);
    assert_eq!(next.good, good.resources, "what is good is handed on");

    // Once more, from the snapshot that already held on to it; and then it is mended, and removed.
    let (again, _) = compile(&bad.resources, Some(&next), &context());
    assert_eq!(destination(&again, "orders").ports[0].number, 80);
    let mended = good.clone().with(service("orders", vec![port(81, "", "")]));
    let (next, problems) = compile(&mended.resources, Some(&again), &context());
    assert_eq!((destination(&next, "orders").ports[0].number, problems.len()), (81, 0));
    let (empty, _) = compile(&BTreeMap::new(), Some(&next), &context());
    assert!(empty.destinations.is_empty() && empty.good.is_empty());
}

#[test]
fn without_a_good_form_a_service_exists_all_the_same() {
    let world = World::default().with(service("orders", vec![port(0, "", "")]));
    let (snapshot, problems) = world.compile(&context());
    assert_eq!(problems.len(), 1);
    assert!(destination(&snapshot, "orders").ports[0].is_any());
}

#[test]
fn the_same_resources_make_the_same_snapshot() {
    let world = World::default()
        .with(service("orders", vec![port(80, "", "")]))
        .with(workload("orders-1", "orders"))
        .with(workload("orders-2", "orders"));
    let shown = || format!("{:?}", destination(&world.snapshot(), "orders"));
    assert_eq!(shown(), shown());
}

#[test]
fn references_to_what_is_missing_are_warned_of() {
    let route = pb::HttpRoute {
        parent_refs: vec![parent("orders", None), parent("nobody", None)],
        rules: vec![pb::HttpRouteRule {
            name: "all".into(),
            backend_refs: vec![
                backend("orders", Some(80), 1),
                backend("orders", Some(81), 1),
                backend("absent", Some(80), 1),
            ],
            ..pb::HttpRouteRule::default()
        }],
        ..pb::HttpRoute::default()
    };
    let policy = |targets: Vec<pb::TargetRef>| {
        pb::resource::Spec::TrafficPolicy(pb::TrafficPolicy {
            target_refs: targets,
            ..pb::TrafficPolicy::default()
        })
    };
    let authorization = pb::AuthorizationPolicy {
        target_refs: vec![target("Service", "absent", "")],
        rules: vec![pb::AuthorizationRule::default()],
        ..pb::AuthorizationPolicy::default()
    };
    let targets = vec![
        target("Service", "orders", ""),
        target("Service", "absent", ""),
        target("HTTPRoute", "orders", "all"),
        target("HTTPRoute", "orders", "none"),
        target("GRPCRoute", "orders", ""),
    ];
    let world = World::default()
        .with(service("orders", vec![port(80, "", "")]))
        .with(resource("orders", pb::resource::Spec::HttpRoute(route)))
        .with(resource("p", policy(targets)))
        .with(resource("a", pb::resource::Spec::AuthorizationPolicy(authorization)));
    assert_eq!(
        world.problems(),
        [
            "warning: HTTPRoute shop/orders: spec.parentRefs[1]: NoMatchingParent: no Service nobody.shop",
            "warning: HTTPRoute shop/orders: spec.rules[0].backendRefs[1]: BackendNotFound: orders.shop \
         has no port 81; its share is answered with backend_invalid",
            "warning: HTTPRoute shop/orders: spec.rules[0].backendRefs[2]: BackendNotFound: no Service \
         absent.shop; its share is answered with backend_invalid",
            "warning: TrafficPolicy shop/p: spec.targetRefs[1]: TargetNotFound: no Service absent.shop",
            "warning: TrafficPolicy shop/p: spec.targetRefs[3]: TargetNotFound: HTTPRoute shop/orders \
         has no rule none",
            "warning: TrafficPolicy shop/p: spec.targetRefs[4]: TargetNotFound: no GRPCRoute shop/orders",
            "warning: AuthorizationPolicy shop/a: spec.targetRefs[0]: TargetNotFound: no Service \
         absent.shop",
        ]
    );
    let (_, problems) = world.compile(&Context { complete: false, ..context() });
    let sure = lines(&problems);
    assert_eq!(sure.len(), 2, "what nobody asked for may well be there: {sure:?}");
}
