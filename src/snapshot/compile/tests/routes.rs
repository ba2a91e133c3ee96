//! Attachment, precedence, settings and their conflicts.

use std::sync::Arc;

use super::{
    World, backend, context, created, destination, lines, parent, port, resource, service,
};
use crate::{
    http::Head,
    resource::pb,
    routing::{choose_port, select, split},
    snapshot::{Context, Node, Rule, Snapshot},
    units::ServiceName,
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
    let like = |service: &str| {
        let mut like = grpc(service, "", false);
        like.method.get_or_insert_default().r#type = "RegularExpression".into();
        like
    };
    let in_order = [
        ("whole with header", grpc("shop.Orders", "Place", true)),
        ("whole", grpc("shop.Orders", "Place", false)),
        ("service", grpc("shop.Orders", "", false)),
        ("expression", like("shop.Orders|.*a-longer-text")),
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

#[test]
fn a_grpc_route_takes_its_ports_from_http_routes_and_says_so() {
    let http = http_route("http", vec![parent("orders", None)], vec![named("http")]);
    let grpc = grpc_route("grpc", vec![parent("orders", Some(9090))], vec![grpc_named("grpc")]);
    // The age of routes of two kinds decides nothing.
    let world = orders().with(created(http, 10)).with(created(grpc, 20));
    let snapshot = world.snapshot();
    assert_eq!(rule_name(&snapshot, 80, "GET", "/"), "shop/http http");
    assert_eq!(rule_name(&snapshot, 9090, "GET", "/"), "no_route");
    let call = rule(&snapshot, 9090, "POST", "/shop.Orders/Place", true).expect("a rule");
    assert_eq!(*call.id.route, *"shop/grpc");
    assert_eq!(
        world.problems(),
        [
            "warning: HTTPRoute shop/http: spec.parentRefs[0]: Conflicted: GRPCRoute shop/grpc takes port \
         9090 of orders.shop"
        ]
    );
}

#[test]
fn a_consumer_s_route_replaces_the_producer_s_for_its_namespace_alone() {
    let producer = grpc_route("p", vec![parent("orders", None)], vec![grpc_named("p")]);
    let to_orders =
        || pb::BackendRef { namespace: "shop".into(), ..backend("orders", Some(80), 1) };
    let consumer = |name: &str, port: Option<u32>| {
        let rule = pb::HttpRouteRule { backend_refs: vec![to_orders()], ..named("c") };
        http_route(name, vec![parent("shop/orders", port)], vec![rule])
    };
    let world =
        orders().with(producer).with(consumer("away/c", Some(80))).with(consumer("else/c", None));
    let of = |namespace: &str, port: u16| {
        let node = Node { service: ServiceName::new("web", namespace), ..context().node };
        let (snapshot, problems) = world.compile(&Context { node, ..context() });
        let conflicts = lines(&problems);
        assert!(conflicts.is_empty(), "{conflicts:?}");
        let rule = rule(&snapshot, port, "POST", "/a/b", true).expect("a rule");
        rule.id.route.to_string()
    };
    assert_eq!((of("shop", 80), of("shop", 9090)), ("shop/p".into(), "shop/p".into()));
    assert_eq!((of("away", 80), of("away", 9090)), ("away/c".into(), "shop/p".into()));
    assert_eq!((of("else", 80), of("else", 9090)), ("else/c".into(), "else/c".into()));
}

#[test]
fn an_invalid_backend_keeps_its_share_of_the_traffic() {
    let bucket = pb::BackendRef { kind: Some("Bucket".into()), ..backend("b", Some(80), 1) };
    let rule = pb::HttpRouteRule {
        backend_refs: vec![
            backend("orders", Some(80), 5),
            backend("orders", Some(81), 1),
            backend("absent", Some(80), 1),
            bucket,
            backend("orders", None, 1),
            backend("orders-v2", None, 1),
            pb::BackendRef { weight: None, ..backend("orders-v2", Some(80), 0) },
            backend("orders-v2", Some(80), 0),
        ],
        ..named("all")
    };
    let nowhere = pb::HttpRouteRule { backend_refs: Vec::new(), ..named("nowhere") };
    let nowhere = pb::HttpRouteRule { matches: vec![path("Exact", "/nowhere")], ..nowhere };
    let route = http_route("r", vec![parent("orders", None)], vec![rule, nowhere]);
    let world = orders().with(route);
    let snapshot = world.snapshot();
    let all = self::rule(&snapshot, 80, "GET", "/", false).expect("a rule");
    let to = |name: &str, port: u16| Some((ServiceName::new(name, "shop"), port));
    let targets: Vec<_> = all.backends.iter().map(|to| (to.target.clone(), to.weight)).collect();
    assert_eq!(
        targets,
        [
            (to("orders", 80), 5),
            (None, 1),
            (None, 1),
            (None, 1),
            (to("orders", 0), 1),
            (to("orders-v2", 80), 1),
            (to("orders-v2", 80), 1),
            (to("orders-v2", 80), 0),
        ]
    );
    assert_eq!(all.weight_total, 11);
    let nowhere = self::rule(&snapshot, 80, "GET", "/nowhere", false).expect("a rule");
    assert!(split(&nowhere, 7).is_none());

    // What nobody asked for is taken at its word.
    let answered = [(ServiceName::new("orders", "shop"), true)].into();
    let resources = world.resources.into_iter();
    let resources = resources.filter(|(key, _)| key.name != "orders-v2").collect();
    let world = World { resources };
    let snapshot = world.compile(&Context { complete: false, answered, ..context() }).0;
    let all = self::rule(&snapshot, 80, "GET", "/", false).expect("a rule");
    let targets: Vec<_> = all.backends.iter().map(|to| to.target.clone()).collect();
    assert_eq!(targets[2], to("absent", 80));
    assert_eq!((&targets[5], &targets[6]), (&to("orders-v2", 0), &to("orders-v2", 80)));
}

#[test]
fn filters_change_heads_by_rule_and_by_backend() {
    let filter = |request: bool, name: &str| {
        let header = pb::HeaderValue { name: name.into(), value: "1".into() };
        let modifier = pb::HeaderModifier { set: vec![header], ..pb::HeaderModifier::default() };
        let kind = if request { "RequestHeaderModifier" } else { "ResponseHeaderModifier" };
        pb::RouteFilter {
            r#type: kind.into(),
            request_header_modifier: request.then(|| modifier.clone()),
            response_header_modifier: (!request).then_some(modifier),
            ..pb::RouteFilter::default()
        }
    };
    let both = |name: &str| vec![filter(true, name), filter(false, name)];
    let backend = pb::BackendRef { filters: both("X-Backend"), ..backend("orders", Some(80), 1) };
    let rule =
        pb::HttpRouteRule { filters: both("X-Rule"), backend_refs: vec![backend], ..named("r") };
    let route = http_route("r", vec![parent("orders", None)], vec![rule]);
    let rule = self::rule(&orders().with(route).snapshot(), 80, "GET", "/", false).expect("one");
    let set = |name: &str| vec![(name.to_owned(), "1".to_owned())];
    assert_eq!(rule.request_headers.set, set("x-rule"));
    assert_eq!(rule.response_headers.set, set("x-rule"));
    assert_eq!(rule.backends[0].request_headers.set, set("x-backend"));
    assert_eq!(rule.backends[0].response_headers.set, set("x-backend"));
}
