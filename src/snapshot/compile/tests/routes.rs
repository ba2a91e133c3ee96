//! Attachment, precedence, settings and their conflicts.

use std::sync::Arc;

use super::{World, backend, created, destination, parent, port, resource, service};
use crate::{
    http::Head,
    resource::pb,
    routing::{choose_port, select},
    snapshot::{Rule, Snapshot},
};

fn http_route(
    name: &str,
    parents: Vec<pb::ParentRef>,
    rules: Vec<pb::HttpRouteRule>,
) -> pb::Resource {
    let route = pb::HttpRoute { parent_refs: parents, rules, ..pb::HttpRoute::default() };
    resource(name, pb::resource::Spec::HttpRoute(route))
}

fn grpc_route(
    name: &str,
    parents: Vec<pb::ParentRef>,
    rules: Vec<pb::GrpcRouteRule>,
) -> pb::Resource {
    let route = pb::GrpcRoute { parent_refs: parents, rules, ..pb::GrpcRoute::default() };
    resource(name, pb::resource::Spec::GrpcRoute(route))
}

fn named(name: &str) -> pb::HttpRouteRule {
    pb::HttpRouteRule {
        name: name.into(),
        backend_refs: vec![backend("orders", Some(80), 1)],
        ..pb::HttpRouteRule::default()
    }
}

fn grpc_named(name: &str) -> pb::GrpcRouteRule {
    pb::GrpcRouteRule {
        name: name.into(),
        backend_refs: vec![backend("orders", Some(80), 1)],
        ..pb::GrpcRouteRule::default()
    }
}

fn path(kind: &str, value: &str) -> pb::HttpRouteMatch {
    pb::HttpRouteMatch {
        path: Some(pb::HttpPathMatch { r#type: kind.into(), value: Some(value.into()) }),
        ..pb::HttpRouteMatch::default()
    }
}

fn orders() -> World {
    World::default()
        .with(service("orders", vec![port(80, "web", ""), port(9090, "grpc", "grpc")]))
        .with(service("orders-v2", vec![port(80, "", "")]))
}

/// The rule that takes a request to `orders`.
fn rule(snapshot: &Snapshot, port: u16, method: &str, path: &str, grpc: bool) -> Option<Arc<Rule>> {
    let fields: &[(&str, &str)] =
        if grpc { &[("content-type", "application/grpc"), ("x", "1")] } else { &[("x", "1")] };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let head = Head { method, authority: "orders", path, query, fields: &fields };
    let orders = destination(snapshot, "orders");
    let port = choose_port(&orders, Some(port)).expect("a port").port;
    select(port, &head).cloned()
}

fn rule_name(snapshot: &Snapshot, port: u16, method: &str, path: &str) -> String {
    let rule = rule(snapshot, port, method, path, false);
    rule.map_or_else(|| "no_route".into(), |rule| format!("{} {}", rule.id.route, rule.id.rule))
}

#[test]
fn an_attached_route_replaces_the_default_on_its_ports() {
    let all = http_route(
        "all",
        vec![parent("orders", None)],
        vec![pb::HttpRouteRule { matches: vec![path("", "/a")], ..named("") }],
    );
    let one = http_route(
        "one",
        vec![parent("orders", Some(80))],
        vec![pb::HttpRouteRule { matches: vec![path("", "/b")], ..named("b") }],
    );
    let snapshot = orders().with(all).with(one).snapshot();
    for (port, path, expected) in [
        (80, "/a", "shop/all 0"),
        (80, "/b", "shop/one b"),
        (80, "/c", "no_route"),
        (9090, "/a", "shop/all 0"),
        (9090, "/b", "no_route"),
    ] {
        assert_eq!(rule_name(&snapshot, port, "GET", path), expected, "{port} {path}");
    }
    assert_eq!(rule_name(&orders().snapshot(), 80, "GET", "/a"), "default 0");
}

#[test]
fn matches_are_tried_in_gateway_api_s_precedence() {
    let header = |count: usize| -> Vec<pb::HeaderMatch> {
        let header = |index: usize| pb::HeaderMatch {
            name: ["x", "absent"][index].into(),
            r#type: if index == 0 { "Exact" } else { "RegularExpression" }.into(),
            value: "1".into(),
        };
        (0..count).map(header).collect()
    };
    let query =
        vec![pb::QueryParamMatch { name: "q".into(), value: "1".into(), ..Default::default() }];
    let in_order = [
        ("exact", path("Exact", "/a/b")),
        ("regex", path("RegularExpression", "/a/.")),
        ("longer", path("PathPrefix", "/a/b")),
        ("method", pb::HttpRouteMatch { method: "GET".into(), ..path("PathPrefix", "/a") }),
        ("header", pb::HttpRouteMatch { headers: header(1), ..path("PathPrefix", "/a") }),
        ("query", pb::HttpRouteMatch { query_params: query, ..path("PathPrefix", "/a") }),
        ("shorter", path("PathPrefix", "/a")),
        ("nothing", pb::HttpRouteMatch::default()),
    ];
    // Written the other way around, all of them match; the first that is left must be taken.
    for first in 0..in_order.len() {
        let rules = in_order[first..].iter().rev();
        let rule = |(name, matching): &(&str, pb::HttpRouteMatch)| pb::HttpRouteRule {
            matches: vec![matching.clone()],
            ..named(name)
        };
        let route = http_route("r", vec![parent("orders", None)], rules.map(rule).collect());
        let snapshot = orders().with(route).snapshot();
        let expected = format!("shop/r {}", in_order[first].0);
        assert_eq!(rule_name(&snapshot, 80, "GET", "/a/b?q=1"), expected);
    }
}

#[test]
fn of_equal_matches_the_older_route_then_the_name_then_the_order_decides() {
    let route = |name: &str, rules: &[&str]| {
        http_route(name, vec![parent("orders", None)], rules.iter().map(|n| named(n)).collect())
    };
    let of = |world: World| rule_name(&world.snapshot(), 80, "GET", "/");
    let (a, b) = (route("a", &["one", "two"]), route("b", &["one"]));
    assert_eq!(of(orders().with(a.clone()).with(b.clone())), "shop/a one");
    assert_eq!(of(orders().with(created(a, 20)).with(created(b, 10))), "shop/b one");
}

#[test]
fn grpc_matches_are_tried_by_the_length_of_service_and_method() {
    let grpc = |service: &str, method: &str, header: bool| {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let method = pb::GrpcMethodMatch {
            r#type: String::new(),
            service: part(service),
            method: part(method),
        };
        let x = pb::HeaderMatch { name: "x".into(), value: "1".into(), ..Default::default() };
        pb::GrpcRouteMatch {
            method: (method.service.is_some() || method.method.is_some()).then_some(method),
            headers: if header { vec![x] } else { Vec::new() },
        }
    };
    let in_order = [
        ("whole with header", grpc("shop.Orders", "Place", true)),
        ("whole", grpc("shop.Orders", "Place", false)),
        ("service", grpc("shop.Orders", "", false)),
        ("method", grpc("", "Place", false)),
        ("header", grpc("", "", true)),
        ("nothing", grpc("", "", false)),
    ];
    for first in 0..in_order.len() {
        let written = |(name, matching): &(&str, pb::GrpcRouteMatch)| pb::GrpcRouteRule {
            matches: vec![matching.clone()],
            ..grpc_named(&name.replace(' ', "-"))
        };
        let rules = in_order[first..].iter().rev().map(written).collect();
        let route = grpc_route("r", vec![parent("orders", None)], rules);
        let snapshot = orders().with(route).snapshot();
        let found = rule(&snapshot, 80, "POST", "/shop.Orders/Place", true).expect("a rule");
        assert_eq!(*found.id.rule, in_order[first].0.replace(' ', "-"));
        assert!(rule(&snapshot, 80, "GET", "/", false).is_none(), "only gRPC calls match");
    }
}
