//! The inbound side: ports, modes and who may call.

use super::{World, context, lines, port, resource, selecting, service, target};
use crate::{
    resource::pb,
    snapshot::{AuthorizationAction, Context, Inbound, InboundPort, MtlsMode, Node, Protocol},
    units::ServiceName,
};

/// For `orders` in `shop`, labelled v2, whose application serves `grpc` on 50051 and 8080 on itself.
fn node() -> Context {
    Context {
        node: Node {
            service: ServiceName::new("orders", "shop"),
            labels: [("version".into(), "v2".into())].into(),
            ports: [("grpc".into(), 50_051), ("8080".into(), 8080)].into(),
        },
        ..context()
    }
}

fn inbound(world: &World) -> Inbound {
    world.compile(&node()).0.inbound
}

fn on(number: u16, local: u16, protocol: Protocol, mtls: MtlsMode) -> InboundPort {
    InboundPort { number, local, protocol, mtls }
}

fn strict(mut port: pb::ServicePort, mtls: pb::MtlsMode) -> pb::ServicePort {
    port.mtls = mtls.into();
    port
}

fn mesh(spec: pb::Mesh) -> pb::Resource {
    let mut resource = resource("mesh", pb::resource::Spec::Mesh(spec));
    resource.metadata.get_or_insert_default().namespace.clear();
    resource
}

fn authorization(
    name: &str,
    action: pb::AuthorizationAction,
    targets: &[&str],
    rules: Vec<pb::AuthorizationRule>,
) -> pb::Resource {
    let policy = pb::AuthorizationPolicy {
        target_refs: targets.iter().map(|name| target("Service", name, "")).collect(),
        action: action.into(),
        rules,
    };
    resource(name, pb::resource::Spec::AuthorizationPolicy(policy))
}

#[test]
fn ports_are_those_of_every_service_that_selects_the_workload() {
    let both = MtlsMode::Strict;
    let world = World::default();
    assert_eq!(
        inbound(&world).ports,
        [on(8080, 8080, Protocol::Detect, both), on(50_051, 50_051, Protocol::Detect, both)],
        "what no service lists is served under its own numbers"
    );
    let world = world
        .with(service("orders", vec![port(9090, "grpc", "grpc"), port(7000, "absent", "http")]));
    assert_eq!(
        inbound(&world).ports,
        [on(8080, 8080, Protocol::Detect, both), on(9090, 50_051, Protocol::Http2, both)],
        "by name; what the application does not serve is left out"
    );
    let world = world
        .with(selecting("orders-v2", vec![port(80, "grpc", "")], &[("version", "v2")]))
        .with(selecting("orders-v1", vec![port(81, "grpc", "")], &[("version", "v1")]))
        .with(selecting("away/orders-v2", vec![port(82, "grpc", "")], &[("version", "v2")]));
    let numbers: Vec<u16> = inbound(&world).ports.iter().map(|port| port.number).collect();
    assert_eq!(numbers, [80, 8080, 9090]);
}

#[test]
fn of_two_services_on_a_number_the_own_one_leads_and_the_stricter_mode_holds() {
    let disabled = |name, number| strict(port(number, name, "http"), pb::MtlsMode::Disabled);
    let world = World::default()
        .with(service("orders", vec![disabled("grpc", 80)]))
        .with(selecting("a", vec![disabled("8080", 80)], &[("version", "v2")]));
    let of_80 = |world: &World| inbound(world).ports.into_iter().find(|port| port.number == 80);
    let expected = on(80, 50_051, Protocol::Http1, MtlsMode::Disabled);
    assert_eq!(of_80(&world), Some(expected));
    let permissive = strict(port(80, "8080", ""), pb::MtlsMode::Permissive);
    let world = world.with(selecting("b", vec![permissive], &[("version", "v2")]));
    let expected = on(80, 50_051, Protocol::Http1, MtlsMode::Permissive);
    assert_eq!(of_80(&world), Some(expected));
}

#[test]
fn a_port_says_its_mode_or_the_namespace_or_the_mesh() {
    let defaults = |mode: pb::MtlsMode| pb::NamespaceDefaults { mtls: mode.into() };
    let of = |mesh: Option<pb::Mesh>| {
        let own = strict(port(80, "8080", ""), pb::MtlsMode::Disabled);
        let world = World::default().with(service("orders", vec![port(9090, "grpc", ""), own]));
        let world = match mesh {
            Some(spec) => world.with(self::mesh(spec)),
            None => world,
        };
        let modes: Vec<MtlsMode> = inbound(&world).ports.iter().map(|port| port.mtls).collect();
        modes
    };
    let permissive = || pb::Mesh { mtls: pb::MtlsMode::Permissive.into(), ..pb::Mesh::default() };
    let namespaces = |name: &str| [(name.into(), defaults(pb::MtlsMode::Disabled))].into();
    assert_eq!(of(None), [MtlsMode::Disabled, MtlsMode::Strict]);
    assert_eq!(of(Some(permissive())), [MtlsMode::Disabled, MtlsMode::Permissive]);
    let mesh = pb::Mesh { namespaces: namespaces("shop"), ..permissive() };
    assert_eq!(of(Some(mesh)), [MtlsMode::Disabled, MtlsMode::Disabled]);
    let mesh = pb::Mesh { namespaces: namespaces("away"), ..permissive() };
    assert_eq!(of(Some(mesh)), [MtlsMode::Disabled, MtlsMode::Permissive]);
}

#[test]
fn policies_of_every_selecting_service_and_of_the_namespace_hold() {
    let allow = pb::AuthorizationAction::Unspecified;
    let policy = |name: &str, targets: &[&str]| authorization(name, allow, targets, Vec::new());
    let world = World::default()
        .with(selecting("orders-v2", vec![port(80, "grpc", "")], &[("version", "v2")]))
        .with(service("other", Vec::new()))
        .with(policy("own", &["orders"]))
        .with(policy("selecting", &["other", "orders-v2"]))
        .with(policy("other", &["other"]))
        .with(policy("namespace", &[]))
        .with(policy("away/namespace", &[]))
        .with(policy("away/orders", &["orders"]));
    let found = inbound(&world).policies;
    let names: Vec<&str> = found.iter().map(|policy| &*policy.name).collect();
    assert_eq!(names, ["shop/namespace", "shop/own", "shop/selecting"]);
    assert!(found.iter().all(|policy| policy.action == AuthorizationAction::Allow));
}

#[test]
fn a_refused_policy_without_a_good_form_denies_what_it_targets() {
    let bad = || {
        vec![pb::AuthorizationRule {
            from: vec![pb::AuthorizationSource {
                identities: vec!["no identity".into()],
                ..pb::AuthorizationSource::default()
            }],
            to: Vec::new(),
        }]
    };
    let allow = pb::AuthorizationAction::Allow;
    for (targets, denied) in [(&["orders"][..], true), (&[], true), (&["other"], false)] {
        let world = World::default().with(authorization("p", allow, targets, bad()));
        let (snapshot, problems) = world.compile(&node());
        assert_eq!(problems.len(), 1, "{:?}", lines(&problems));
        let policies = snapshot.inbound.policies;
        let denies = policies.iter().any(|policy| {
            policy.action == AuthorizationAction::Deny
                && policy.rules.iter().any(|rule| rule.from.is_empty() && rule.to.is_empty())
        });
        assert_eq!(denies, denied, "{targets:?}");
    }
}
