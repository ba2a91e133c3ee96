//! Names, ports, rules and splits by table.

use std::{collections::BTreeMap, sync::Arc};

use proptest::{
    collection::vec,
    option, prop_assert_eq, prop_oneof, proptest,
    strategy::{Just, Strategy},
};
use regex::Regex;
use rustc_hash::FxHashMap;

use super::{Authority, AuthorityError, Resolution, choose, choose_port, resolve, select, split};
use crate::{
    http::Head,
    snapshot::{
        AccessLogMode, Backend, Destination, DestinationSettings, GrpcMethodMatch, HeaderModifier,
        Inbound, Matcher, Mesh, Node, PathMatch, Port, Protocol, RouteId, RouteSettings, Rule,
        RuleMatch, Snapshot, TextMatch, Tracing,
    },
    units::ServiceName,
};

fn rule(name: &str, backends: Vec<Backend>) -> Arc<Rule> {
    Arc::new(Rule {
        id: RouteId { route: "shop/orders".into(), rule: name.into() }.into(),
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
        weight_total: backends.iter().map(|backend| backend.weight).sum(),
        backends,
        settings: RouteSettings {
            request_timeout: None,
            attempt_timeout: None,
            stream_idle: None,
            stream_max: None,
            retry: None,
        },
    })
}

fn port(number: u16, name: &str, rules: Option<Vec<RuleMatch>>) -> Port {
    Port {
        number,
        name: name.into(),
        protocol: Protocol::Detect,
        rules: rules.map(Into::into),
        default_rule: rule("default", Vec::new()),
    }
}

fn destination(name: &str, ports: Vec<Port>) -> Destination {
    Destination {
        name: ServiceName::new(name, "shop"),
        ports,
        endpoints: Vec::new(),
        settings: DestinationSettings::default(),
    }
}

fn snapshot() -> Snapshot {
    let mut destinations = FxHashMap::default();
    for (name, namespace) in [("orders", "shop"), ("refunds", "billing"), ("far", "away")] {
        let known = Arc::new(destination(name, vec![port(9090, "grpc", None)]));
        destinations.insert(ServiceName::new(name, namespace), Some(known));
    }
    for (name, namespace) in [("gone", "shop"), ("gone", "billing"), ("gone", "away")] {
        destinations.insert(ServiceName::new(name, namespace), None);
    }
    Snapshot {
        node: Node {
            service: ServiceName::new("web", "shop"),
            labels: BTreeMap::new(),
            ports: BTreeMap::new(),
        },
        mesh: Mesh {
            trust_domain: "mesh.local".into(),
            authenticated_peers_allowed: true,
            egress_allowed: true,
            tracing: Tracing { sampling: 1.0, per_second_max: 1.0, otlp: None },
            access_log: AccessLogMode::Off,
        },
        namespaces: ["shop", "billing"].map(String::from).into(),
        destinations,
        complete: false,
        inbound: Inbound { ports: Vec::new(), policies: Vec::new(), caller_bulkhead: None },
        revision: 1,
        good: BTreeMap::new(),
    }
}

#[test]
fn names_resolve_as_documented() {
    let snapshot = snapshot();
    let mesh = |name: &str, namespace: &str, port| Resolution::Mesh {
        service: ServiceName::new(name, namespace),
        port,
    };
    let ask = |name: &str, namespace: &str| Resolution::Ask(ServiceName::new(name, namespace));
    let unknown = |name: &str, ns: &str| Resolution::Unknown(ServiceName::new(name, ns));
    let external = |text: &str| Resolution::External(Authority::parse(text).expect("external"));
    for (authority, expected) in [
        ("orders", mesh("orders", "shop", None)),
        ("ORDERS:9090", mesh("orders", "shop", Some(9090))),
        ("orders.shop", mesh("orders", "shop", None)),
        ("orders.shop.", mesh("orders", "shop", None)),
        ("orders.shop.mesh:1", mesh("orders", "shop", Some(1))),
        ("orders.shop.svc", mesh("orders", "shop", None)),
        ("orders.shop.svc.cluster.local:80", mesh("orders", "shop", Some(80))),
        ("refunds.billing", mesh("refunds", "billing", None)),
        ("refunds", ask("refunds", "shop")),
        ("new.billing", ask("new", "billing")),
        ("far.away.mesh", mesh("far", "away", None)),
        ("new.away.mesh", ask("new", "away")),
        ("far.away", external("far.away")),
        ("far.away.svc.cluster.local", external("far.away.svc.cluster.local")),
        ("gone", external("gone")),
        ("gone:80", external("gone:80")),
        ("gone.billing", unknown("gone", "billing")),
        ("gone.shop.mesh", unknown("gone", "shop")),
        ("gone.away.mesh", unknown("gone", "away")),
        ("example.com:443", external("example.com:443")),
        ("a.b.shop.mesh", external("a.b.shop.mesh")),
        ("or_ders.shop", external("or_ders.shop")),
        ("-orders.shop", external("-orders.shop")),
        ("localhost:8080", external("localhost:8080")),
        ("127.0.0.1:8080", external("127.0.0.1:8080")),
        ("[::1]:8080", external("[::1]:8080")),
        ("", Resolution::Malformed(AuthorityError::Host)),
        ("orders:x", Resolution::Malformed(AuthorityError::Port)),
    ] {
        assert_eq!(resolve(&snapshot, authority), expected, "{authority}");
    }
}

#[test]
fn where_there_is_nobody_to_ask_a_missing_name_is_answered() {
    let snapshot = Snapshot { complete: true, ..snapshot() };
    let unknown = |name: &str, ns: &str| Resolution::Unknown(ServiceName::new(name, ns));
    assert_eq!(resolve(&snapshot, "new.billing"), unknown("new", "billing"));
    assert_eq!(resolve(&snapshot, "new.away.mesh"), unknown("new", "away"));
    assert!(matches!(resolve(&snapshot, "new"), Resolution::External(_)));
}

#[test]
fn a_port_is_the_named_one_or_the_only_one() {
    let one = || destination("orders", vec![port(9090, "grpc", None)]);
    let two = || destination("orders", vec![port(80, "", None), port(9090, "grpc", None)]);
    let any = || destination("orders", vec![port(0, "", None)]);
    for (name, destination, asked, expected) in [
        ("named", one(), Some(9090), Ok(9090)),
        ("none", one(), None, Ok(9090)),
        ("scheme's", one(), Some(80), Ok(9090)),
        ("scheme's", one(), Some(443), Ok(9090)),
        ("other", one(), Some(81), Err("orders.shop has no port 81; its ports are 9090 (grpc)")),
        ("named", two(), Some(80), Ok(80)),
        (
            "several",
            two(),
            None,
            Err("no port named for orders.shop; its ports are 80, 9090 (grpc)"),
        ),
        (
            "several",
            two(),
            Some(443),
            Err("orders.shop has no port 443; its ports are 80, 9090 (grpc)"),
        ),
        ("any", any(), Some(1234), Ok(1234)),
        ("any", any(), Some(80), Ok(80)),
        ("any", any(), None, Err("no port named for orders.shop")),
    ] {
        let chosen = choose_port(&destination, asked).map(|chosen| chosen.number);
        let chosen = chosen.map_err(|error| error.to_string());
        assert_eq!(chosen, expected.map_err(String::from), "{name} {asked:?}");
    }
}

fn regex(text: &str) -> Regex {
    Regex::new(&format!("^(?:{text})$")).expect("a pattern")
}

fn check(matcher: &Matcher, head: &Head<'_>, expected: bool, name: &str) {
    let rules = vec![RuleMatch { matcher: matcher.clone(), rule: rule("0", Vec::new()) }];
    let port = port(80, "", Some(rules));
    assert_eq!(select(&port, head).is_some(), expected, "{name}: {matcher:?}");
}

#[test]
fn paths_match_exactly_by_segment_or_by_pattern() {
    let exact = PathMatch::Exact("/v1/x".into());
    let prefix = PathMatch::Prefix("/v1".into());
    let all = PathMatch::Prefix("/".into());
    let pattern = PathMatch::Regex(regex("/v[0-9]+"));
    for (path, actual, expected) in [
        (&exact, "/v1/x", true),
        (&exact, "/v1/x/", false),
        (&exact, "/V1/x", false),
        (&prefix, "/v1", true),
        (&prefix, "/v1/", true),
        (&prefix, "/v1/x", true),
        (&prefix, "/v10", false),
        (&prefix, "/v", false),
        (&all, "/", true),
        (&all, "/anything", true),
        (&pattern, "/v12", true),
        (&pattern, "/v12/x", false),
        (&pattern, "/x/v12", false),
    ] {
        let matcher = Matcher { path: Some(path.clone()), ..Matcher::default() };
        let fields: &[(&str, &str)] = &[];
        let head =
            Head { method: "GET", authority: "orders", path: actual, query: "", fields: &fields };
        check(&matcher, &head, expected, actual);
    }
}

#[test]
fn methods_headers_and_queries_must_all_hold() {
    let fields: &[(&str, &str)] = &[("version", "v2"), ("tag", "a"), ("tag", "b"), ("n", "42")];
    let head = Head {
        method: "GET",
        authority: "orders",
        path: "/",
        query: "a=1&b=x%20y&a=2&c&d=1+1&%65=e",
        fields: &fields,
    };
    let exact = |name: &str, value: &str| vec![(name.into(), TextMatch::Exact(value.into()))];
    let like = |name: &str, value: &str| vec![(name.into(), TextMatch::Regex(regex(value)))];
    let any = Matcher::default;
    for (name, matcher, expected) in [
        ("any", any(), true),
        ("method", Matcher { method: Some("GET".into()), ..any() }, true),
        ("other method", Matcher { method: Some("get".into()), ..any() }, false),
        ("header", Matcher { headers: exact("version", "v2"), ..any() }, true),
        ("other value", Matcher { headers: exact("version", "v1"), ..any() }, false),
        ("no header", Matcher { headers: exact("absent", ""), ..any() }, false),
        ("joined", Matcher { headers: exact("tag", "a,b"), ..any() }, true),
        ("only the first", Matcher { headers: exact("tag", "a"), ..any() }, false),
        ("only the last", Matcher { headers: exact("tag", "b"), ..any() }, false),
        ("pattern", Matcher { headers: like("n", "[0-9]+"), ..any() }, true),
        ("anchored", Matcher { headers: like("n", "[0-9]"), ..any() }, false),
        ("query", Matcher { query: exact("a", "1"), ..any() }, true),
        ("second value", Matcher { query: exact("a", "2"), ..any() }, false),
        ("decoded", Matcher { query: exact("b", "x y"), ..any() }, true),
        ("plus", Matcher { query: exact("d", "1 1"), ..any() }, true),
        ("decoded name", Matcher { query: exact("e", "e"), ..any() }, true),
        ("without a value", Matcher { query: exact("c", ""), ..any() }, true),
        ("no such", Matcher { query: exact("z", ""), ..any() }, false),
        (
            "one of two",
            Matcher { headers: exact("version", "v2"), query: exact("a", "9"), ..any() },
            false,
        ),
    ] {
        check(&matcher, &head, expected, name);
    }
}

#[test]
fn grpc_methods_match_exact_paths_of_grpc_calls_only() {
    let exact = |text: &str| Some(TextMatch::Exact(text.into()));
    let only = Matcher { grpc_only: true, ..Matcher::default() };
    let grpc = |service, method| Matcher {
        grpc: Some(GrpcMethodMatch { service, method }),
        grpc_only: true,
        ..Matcher::default()
    };
    let place = grpc(exact("shop.Orders"), exact("Place"));
    let service = grpc(exact("shop.Orders"), None);
    let method = grpc(None, exact("Place"));
    let pattern = grpc(Some(TextMatch::Regex(regex("shop\\..*"))), None);
    let call = "application/grpc+proto";
    for (name, matcher, path, content_type, expected) in [
        ("any call", &only, "/x/y", call, true),
        ("any call", &only, "/", call, true),
        ("no call", &only, "/x/y", "application/json", false),
        ("no call", &only, "/x/y", "application/grpc-web", false),
        ("method", &place, "/shop.Orders/Place", call, true),
        ("no call", &place, "/shop.Orders/Place", "text/plain", false),
        ("case", &place, "/shop.orders/Place", call, false),
        ("more", &place, "/shop.Orders/Place/", call, false),
        ("less", &place, "/shop.Orders", call, false),
        ("doubled", &place, "//shop.Orders/Place", call, false),
        ("service", &service, "/shop.Orders/Get", call, true),
        ("other", &service, "/shop.Payments/Get", call, false),
        ("of any service", &method, "/shop.Payments/Place", call, true),
        ("pattern", &pattern, "/shop.Payments/Get", call, true),
        ("pattern", &pattern, "/bank.Payments/Get", call, false),
    ] {
        let fields: &[(&str, &str)] = &[("content-type", content_type)];
        let head = Head { method: "POST", authority: "orders", path, query: "", fields: &fields };
        check(matcher, &head, expected, name);
    }
}

#[test]
fn the_first_match_wins_and_no_match_is_no_route() {
    let matcher = |prefix: &str| Matcher {
        path: Some(PathMatch::Prefix(prefix.into())),
        ..Matcher::default()
    };
    let rules = ["/a", "/a/b", "/c"]
        .map(|prefix| RuleMatch { matcher: matcher(prefix), rule: rule(prefix, Vec::new()) });
    let routed = port(80, "", Some(rules.to_vec()));
    for (path, expected) in [("/a/b", Some("/a")), ("/c", Some("/c")), ("/d", None)] {
        let fields: &[(&str, &str)] = &[];
        let head = Head { method: "GET", authority: "orders", path, query: "", fields: &fields };
        assert_eq!(select(&routed, &head).map(|rule| &*rule.id.rule), expected, "{path}");
        let unrouted = select(&port(80, "", None), &head).map(|rule| rule.id.rule.to_string());
        assert_eq!(unrouted.as_deref(), Some("default"));
    }
}

fn backend(name: &str, weight: u32) -> Backend {
    let target = (!name.is_empty()).then(|| (ServiceName::new(name, "shop"), 80));
    Backend {
        target,
        weight,
        request_headers: HeaderModifier::default(),
        response_headers: HeaderModifier::default(),
    }
}

#[test]
fn traffic_is_split_by_weight_and_missing_backends_keep_their_share() {
    let weights = [("a", 90), ("zero", 0), ("", 10)];
    let rule_of = |weights: &[(&str, u32)]| {
        rule("0", weights.iter().map(|(name, weight)| backend(name, *weight)).collect())
    };
    let rule = rule_of(&weights);
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    let step = u64::MAX / 1000;
    for index in 0..1000 {
        let backend = split(&rule, index * step).expect("a share");
        let name = backend.target.as_ref().map(|(service, _)| service.name.clone());
        *shares.entry(name.unwrap_or_default()).or_default() += 1;
    }
    // The first random number of each step falls to the share before it.
    assert!(shares["a"].abs_diff(900) <= 1 && shares[""].abs_diff(100) <= 1, "{shares:?}");
    assert!(!shares.contains_key("zero"));
    assert_eq!(split(&rule, u64::MAX).map(|backend| &backend.target), Some(&None));
    for none in [&[][..], &[("a", 0)][..]] {
        assert!(split(&rule_of(none), 0).is_none() && split(&rule_of(none), u64::MAX).is_none());
    }
}

/// Few names, so that matchers and requests often meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("a/b"), Just(""), Just("A")].prop_map(String::from)
}

fn path() -> impl Strategy<Value = String> {
    let path = vec(name(), 0..4).prop_map(|segments| format!("/{}", segments.join("/")));
    prop_oneof![8 => path, 1 => Just("*".to_owned())]
}

fn text() -> impl Strategy<Value = TextMatch> {
    let pattern = prop_oneof![Just("a|b"), Just("[ab]+"), Just(".*")];
    prop_oneof![
        3 => name().prop_map(TextMatch::Exact),
        1 => pattern.prop_map(|pattern| TextMatch::Regex(regex(pattern))),
    ]
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let pattern = prop_oneof![Just("/a.*"), Just("/.*/b"), Just("/[ab]")];
    let prefix = prop_oneof![4 => path(), 1 => Just(String::new()), 1 => Just("a".to_owned())];
    let path = prop_oneof![
        path().prop_map(PathMatch::Exact),
        prefix.prop_map(PathMatch::Prefix),
        pattern.prop_map(|pattern| PathMatch::Regex(regex(pattern))),
    ];
    let grpc = (option::of(text()), option::of(text()));
    let grpc = grpc.prop_map(|(service, method)| GrpcMethodMatch { service, method });
    let method = prop_oneof![Just("GET".to_owned()), Just("POST".to_owned())];
    let pairs = || vec((Just("x".to_owned()), text()), 0..2);
    let rest = (option::weighted(0.3, method), proptest::bool::ANY, pairs(), pairs());
    (option::of(path), option::of(grpc), rest).prop_map(|(path, grpc, rest)| {
        let (method, grpc_only, headers, query) = rest;
        Matcher { path, method, grpc, grpc_only, headers, query }
    })
}

proptest! {
    #[test]
    fn the_index_changes_no_choice(
        matchers in vec(any_matcher(), 0..24),
        requests in vec((path(), proptest::bool::ANY, option::of(name()), option::of(name())), 1..24),
    ) {
        let names = (0..matchers.len()).map(|index| index.to_string());
        let rules: Vec<RuleMatch> = names
            .zip(matchers)
            .map(|(name, matcher)| RuleMatch { matcher, rule: rule(&name, Vec::new()) })
            .collect();
        let indexed = port(80, "", Some(rules.clone()));
        for (path, grpc, field, query) in requests {
            let (method, kind) = if grpc { ("POST", "application/grpc") } else { ("GET", "a") };
            let mut fields = vec![("content-type", kind)];
            fields.extend(field.as_deref().map(|value| ("x", value)));
            let query = query.map_or_else(String::new, |value| format!("x={value}"));
            let fields = fields.as_slice();
            let head = Head { method, authority: "orders", path: &path, query: &query, fields: &fields };
            let call = super::matching::Call::of(&head);
            let plain = rules.iter().find(|rule| {
                super::matching::call_matches(&rule.matcher, &head, &call)
                    && super::matching::rest_matches(&rule.matcher, &head)
            });
            let chosen = choose(&indexed, &head);
            let id = |rule: &Arc<Rule>| rule.id.rule.to_string();
            prop_assert_eq!(chosen.rule.map(id), plain.map(|plain| id(&plain.rule)));
            if chosen.by_call {
                let bare: &[(&str, &str)] = &[("content-type", kind)];
                let other = Head { query: "", fields: &bare, ..head };
                prop_assert_eq!(choose(&indexed, &other).rule.map(id), chosen.rule.map(id));
            }
        }
    }
}
