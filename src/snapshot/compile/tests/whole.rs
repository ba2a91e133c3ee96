//! Whole meshes: nothing at all, the shop, one snapshot after another, and what is said of resources
//! together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{super::check, World, compile, context, destination, lines, port, service, workload};
use crate::{
    resource::pb,
    routing::{Resolution, resolve},
    snapshot::{AccessLogMode, Context, MtlsMode, Node, Snapshot},
    units::ServiceName,
};

fn context_of(service: &str) -> Context {
    let node = Node { service: ServiceName::new(service, "shop"), ..context().node };
    Context { node, ..context() }
}

#[test]
fn an_empty_configuration_is_secure_and_asks() {
    let node = Node { ports: [("9090".into(), 9090)].into(), ..context().node };
    let context = Context { node, complete: false, ..context() };
    let (snapshot, problems) = compile(&BTreeMap::new(), None, &context);
    assert_eq!(lines(&problems), [""; 0]);
    let orders = ServiceName::new("orders", "shop");
    for (authority, expected) in
        [("orders:9090", Resolution::Ask(orders.clone())), ("orders.shop", Resolution::Ask(orders))]
    {
        assert_eq!(resolve(&snapshot, authority), expected, "{authority}");
    }
    assert!(matches!(resolve(&snapshot, "example.com"), Resolution::External(_)));
    let mesh = &snapshot.mesh;
    assert_eq!(mesh.trust_domain, "mesh.local");
    assert!(mesh.authenticated_peers_allowed && mesh.egress_allowed);
    assert_eq!(mesh.access_log, AccessLogMode::Errors);
    let modes: Vec<MtlsMode> = snapshot.inbound.ports.iter().map(|port| port.mtls).collect();
    assert_eq!(modes, [MtlsMode::Strict]);
    assert!(snapshot.inbound.policies.is_empty());
}

/// The shapes of the example shop's configuration.
const SHOP: &str = "
apiVersion: outrigger.dev/v1
kind: Mesh
metadata: {name: mesh}
spec:
  tracing: {sampling: 100%, maxPerSecond: 100/s}
  accessLog: {mode: Errors}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: front, namespace: shop}
spec: {ports: [{name: http, port: 8080, appProtocol: http, mtls: Permissive}]}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: inventory, namespace: shop}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: payments, namespace: shop}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders-v1, namespace: shop}
spec:
  ports: [{name: grpc, port: 9090, appProtocol: grpc}]
  selector: {app: orders, version: v1}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders-v2, namespace: shop}
spec:
  ports: [{name: grpc, port: 9090, appProtocol: grpc}]
  selector: {app: orders, version: v2}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: orders}]
  rules:
    - name: canary
      backendRefs:
        - {name: orders-v1, port: 9090, weight: 90}
        - {name: orders-v2, port: 9090, weight: 10}
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: catalog, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: catalog}]
  retry:
    attempts: 2
    on: {grpc: [UNAVAILABLE]}
    grpcMethods: [shop.Catalog/*]
    backoff: {base: 5ms, max: 50ms}
    budget: {ratio: 20%, minRate: 10/s, interval: 10s}
  bulkhead: {maxConcurrent: 20, maxQueued: 0, per: Destination}
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: inventory, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: inventory}]
  outlierDetection: {consecutiveFailures: 5, interval: 500ms, baseEjection: 3s, maxEjected: 50%}
---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {name: payments, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: payments}]
  action: Allow
  rules:
    - from: [{services: [orders]}]
      to: [{grpc: [shop.Payments/Charge]}]
";

#[test]
fn the_shop_compiles_for_each_of_its_services_without_a_word() {
    let world = World::default().and(SHOP);
    assert_eq!(lines(&check(&world.resources, "mesh.local")), [""; 0]);
    for name in ["front", "orders", "catalog", "inventory", "payments"] {
        let context = context_of(name);
        let labels = [("app", name), ("version", "v1")];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        let key = if name == "front" { "http" } else { "grpc" };
        let node = Node { labels, ports: [(key.into(), 40_000)].into(), ..context.node };
        let (snapshot, problems) = world.compile(&Context { node, ..context });
        assert_eq!(lines(&problems), [""; 0], "{name}");
        assert_eq!(snapshot.destinations.len(), 7);
        let [port] = &snapshot.inbound.ports[..] else { panic!("one port of {name}") };
        let mode = if name == "front" { MtlsMode::Permissive } else { MtlsMode::Strict };
        let number = if name == "front" { 8080 } else { 9090 };
        assert_eq!((port.number, port.local, port.mtls), (number, 40_000, mode), "{name}");
        assert_eq!(snapshot.inbound.policies.len(), usize::from(name == "payments"));
    }
    let snapshot = world.snapshot();
    let orders = destination(&snapshot, "orders");
    let [canary] = &orders.ports[0].rules.as_ref().expect("a route")[..] else { panic!("one") };
    let backends: Vec<_> = canary.rule.backends.iter().map(|to| (&to.target, to.weight)).collect();
    let to = |name: &str| Some((ServiceName::new(name, "shop"), 9090));
    assert_eq!(backends, [(&to("orders-v1"), 90), (&to("orders-v2"), 10)]);
}

#[test]
fn what_did_not_change_stays_the_very_same_destination() {
    let world = World::default()
        .and(SHOP)
        .with(workload("orders-1", "orders"))
        .with(service("other", vec![port(80, "", "")]));
    let (first, _) = compile(&world.resources, None, &context());
    let next = |world: &World| compile(&world.resources, Some(&first), &context()).0;
    let same = |next: &Snapshot, name: &str| {
        Arc::ptr_eq(&destination(&first, name), &destination(next, name))
    };
    let again = next(&world);
    assert!(["orders", "catalog", "other"].iter().all(|name| same(&again, name)));
    let more = next(&world.clone().with(workload("orders-2", "orders")));
    assert!(!same(&more, "orders") && same(&more, "catalog") && same(&more, "other"));
    assert_eq!(destination(&more, "orders").endpoints.len(), 2);
}

#[test]
fn backends_that_nobody_asked_for_are_known_by_name() {
    let orders = ServiceName::new("orders", "shop");
    let world = World::default().and(SHOP);
    let answered = BTreeMap::from([(orders.clone(), true)]);
    let context = Context { complete: false, answered, ..context() };
    let snapshot = world.compile(&context).0;
    let names: BTreeSet<&str> = snapshot.backends(&orders).map(|name| &*name.name).collect();
    assert_eq!(names, BTreeSet::from(["orders-v1", "orders-v2"]));
    assert_eq!(snapshot.backends(&ServiceName::new("nobody", "shop")).count(), 0);
}

#[test]
fn a_broken_mesh_is_the_strictest_and_another_name_means_nothing() {
    let mesh = |name: &str, spec: pb::Mesh| {
        let mut mesh = super::resource(name, pb::resource::Spec::Mesh(spec));
        mesh.metadata.get_or_insert_default().namespace.clear();
        mesh
    };
    let other_domain = pb::Mesh { trust_domain: "other".into(), ..pb::Mesh::default() };
    let unknown = pb::Mesh { default_authorization: 99, ..pb::Mesh::default() };
    let open = pb::Mesh { mtls: pb::MtlsMode::Disabled.into(), ..pb::Mesh::default() };
    for (name, spec, problem, allowed) in [
        ("mesh", other_domain, "spec.trustDomain: not the mesh's trust domain", false),
        ("mesh", unknown, "spec.defaultAuthorization: not a value that this version", false),
        ("mash", open, "metadata.name: not the name of the one Mesh", true),
    ] {
        let world = World::default().with(mesh(name, spec));
        let (snapshot, problems) = world.compile(&context());
        let said = lines(&problems).concat();
        assert!(said.contains(problem), "{said}");
        let found = (snapshot.mesh.authenticated_peers_allowed, snapshot.mesh.egress_allowed);
        assert_eq!(found, (allowed, allowed), "{name}");
        // With a good form to go back to, that one holds.
        let good = World::default().with(mesh("mesh", pb::Mesh::default())).snapshot();
        let next = compile(&world.resources, Some(&good), &context()).0;
        assert!(next.mesh.authenticated_peers_allowed);
    }
}

#[test]
fn resources_are_checked_together_as_callers_of_every_namespace_see_them() {
    let route = |kind: &str, namespace: &str, name: &str, port: u16| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs: [{{kind: \
             Service, group: '', name: orders, namespace: shop, port: {port}}}]\n  rules: \
             [{{backendRefs: [{{name: orders, namespace: shop, port: 9090}}]}}, {{name: second}}]\n---\n"
        )
    };
    let world = World::default()
        .and(SHOP)
        .and(&route("HTTPRoute", "shop", "web", 9090))
        .and(&route("HTTPRoute", "away", "web", 9090))
        .and(&route("GRPCRoute", "away", "calls", 9090))
        .and(&route("HTTPRoute", "else", "web", 81));
    let second = |key: &str| {
        format!("warning: {key}: spec.rules[1]: never matches: rules[0] takes everything it would")
    };
    let mut said = lines(&check(&world.resources, "mesh.local"));
    said.sort();
    let taken = "spec.parentRefs[0]: Conflicted: GRPCRoute";
    let mut expected = vec![
        second("GRPCRoute away/calls"),
        second("HTTPRoute away/web"),
        second("HTTPRoute else/web"),
        second("HTTPRoute shop/web"),
        format!("warning: HTTPRoute away/web: {taken} away/calls takes port 9090 of orders.shop"),
        format!("warning: HTTPRoute shop/web: {taken} shop/orders takes port 9090 of orders.shop"),
        "warning: HTTPRoute else/web: spec.parentRefs[0]: NoMatchingParent: orders.shop has no port 81"
            .to_owned(),
    ];
    expected.sort();
    assert_eq!(said, expected);
}
