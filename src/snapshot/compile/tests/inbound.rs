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

#[test]
fn a_refused_service_keeps_its_policies_and_takes_no_plaintext() {
    let broken = selecting("orders-v2", vec![port(0, "", "")], &[("version", "v2")]);
    let world = World::default()
        .with(mesh(pb::Mesh { mtls: pb::MtlsMode::Disabled.into(), ..pb::Mesh::default() }))
        .with(authorization("p", pb::AuthorizationAction::Deny, &["orders-v2"], Vec::new()));
    let found = inbound(&world);
    assert!(found.ports.iter().all(|port| port.mtls == MtlsMode::Disabled));
    assert!(found.policies.is_empty());
    let found = inbound(&world.with(broken));
    assert_eq!(found.policies.len(), 1);
    assert!(found.ports.iter().all(|port| port.mtls == MtlsMode::Strict));
}

#[test]
fn what_a_newer_version_means_is_refused_and_not_taken_for_its_default() {
    let all = vec![pb::AuthorizationRule::default()];
    let mut policy = authorization("p", pb::AuthorizationAction::Allow, &["orders"], all);
    if let Some(pb::resource::Spec::AuthorizationPolicy(spec)) = &mut policy.spec {
        spec.action = 99;
    }
    let world = World::default().with(policy);
    let (snapshot, problems) = world.compile(&node());
    assert_eq!(
        lines(&problems),
        ["error: AuthorizationPolicy shop/p: spec.action: not a value that this version knows"]
    );
    assert_eq!(snapshot.inbound.policies[0].action, AuthorizationAction::Deny);
}

#[test]
fn a_refused_audit_denies_nobody() {
    let rule =
        pb::AuthorizationRule { from: vec![pb::AuthorizationSource::default()], to: Vec::new() };
    let audit = pb::AuthorizationAction::Audit;
    let world = World::default().with(authorization("p", audit, &["orders"], vec![rule]));
    assert_eq!(world.compile(&node()).1.len(), 1);
    assert!(inbound(&world).policies.is_empty());
}

#[test]
fn a_policy_s_words_become_identities_methods_and_paths() {
    let world = World::default().and(
        "
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec:
  action: Audit
  rules:
    - from:
        - services: [web, refunds.billing]
        - identities: ['spiffe://other/x', 'spiffe://mesh.local/ns/shop/*']
          namespaces: [billing]
      to:
        - grpc: [shop.Orders/Place, shop.Admin/*]
        - http: {methods: [GET], paths: [/health, /v1/*]}
",
    );
    let policies = inbound(&world).policies;
    let [policy] = &policies[..] else { panic!("one") };
    assert_eq!((&*policy.name, policy.action), ("shop/p", AuthorizationAction::Audit));
    let [rule] = &policy.rules[..] else { panic!("one") };
    let id = |text: &str| text.parse::<crate::spiffe::SpiffeId>().expect("an identity");
    let [first, second] = &rule.from[..] else { panic!("two") };
    assert_eq!(
        first.services,
        [
            id("spiffe://mesh.local/ns/shop/svc/web"),
            id("spiffe://mesh.local/ns/billing/svc/refunds"),
        ]
    );
    assert!(first.identities.is_empty() && first.namespaces.is_empty());
    assert_eq!(second.identities, [id("spiffe://other/x")]);
    assert_eq!(second.identity_prefixes, ["spiffe://mesh.local/ns/shop/"]);
    assert_eq!(second.namespaces, ["billing"]);
    let [grpc, http] = &rule.to[..] else { panic!("two") };
    let place = ("shop.Orders".to_owned(), Some("Place".to_owned()));
    assert_eq!((&grpc.grpc[..], grpc.http), (&[place, ("shop.Admin".into(), None)][..], false));
    assert_eq!((&http.methods[..], http.http), (&["GET".to_owned()][..], true));
    assert_eq!(http.paths, [("/health".to_owned(), false), ("/v1/".to_owned(), true)]);
}
