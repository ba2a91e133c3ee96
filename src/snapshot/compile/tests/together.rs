//! What resources make wrong together, by example: each case is a few resources and what is said of
//! them, which is nothing where they only look alike.

use super::{super::check, World, lines};

fn route(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: \
         shop}}\nspec:\n{spec}\n---\n"
    )
}

/// `GRPCRoute NAME` that leads from one service to others.
fn leads(name: &str, from: &str, to: &str) -> String {
    let backends: Vec<_> = to.split(' ').map(|to| format!("{{name: {to}}}")).collect();
    let spec = format!(
        "  parentRefs: [{{kind: Service, group: '', name: {from}}}]\n  rules: [{{backendRefs: [{}]}}]",
        backends.join(", ")
    );
    route("GRPCRoute", name, &spec)
}

/// `HTTPRoute NAME` on `orders` with these prefixes, each a rule.
fn prefixes(name: &str, prefixes: &str) -> String {
    let rules: Vec<_> = prefixes
        .split(' ')
        .map(|it| {
            format!("{{matches: [{{path: {{value: {it}}}}}], backendRefs: [{{name: orders}}]}}")
        })
        .collect();
    let spec = format!(
        "  parentRefs: [{{kind: Service, group: '', name: orders}}]\n  rules: [{}]",
        rules.join(", ")
    );
    route("HTTPRoute", name, &spec)
}

fn ours(kind: &str, name: &str, more: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop{more}}}\n\
         spec: {{{spec}}}\n---\n"
    )
}

fn services(names: &str) -> String {
    names.split(' ').map(|name| ours("Service", name, "", "ports: [{port: 9090}]")).collect()
}

fn workload(name: &str, service: &str, labels: &str, more: &str) -> String {
    let spec = format!("service: {service}, address: 10.0.0.1{more}");
    ours("Workload", name, &format!(", labels: {{{labels}}}"), &spec)
}

#[track_caller]
fn is_said(text: &[String], expected: &[&str]) {
    let world = World::default().and(text.concat().trim_end_matches("---\n"));
    let mut said = lines(&check(&world.resources, "mesh.local"));
    said.sort();
    assert_eq!(said, expected);
}

#[test]
fn a_rule_that_another_route_takes_everything_from_is_named() {
    is_said(
        &[services("orders"), prefixes("a-old", "/v1 /v2"), prefixes("b-new", "/v1 /v1/deep /v3")],
        &[
            "warning: HTTPRoute shop/b-new: spec.rules[0]: never matches for port 9090 of orders.shop: \
           rules[0] of HTTPRoute shop/a-old takes everything it would",
        ],
    );
    is_said(
        &[services("orders"), prefixes("a-old", "/v1"), prefixes("b-new", "/v2 /v1/deep")],
        &[],
    );
}

#[test]
fn routes_that_lead_in_a_circle_are_named_with_it() {
    is_said(
        &[
            services("orders cart"),
            leads("a", "orders", "orders cart"),
            leads("b", "cart", "orders"),
        ],
        &[
            "warning: GRPCRoute shop/a: spec.rules[0]: Circle: orders.shop -> cart.shop -> \
             orders.shop; a request is routed once and ends at cart.shop",
            "warning: GRPCRoute shop/b: spec.rules[0]: Circle: cart.shop -> orders.shop -> \
             cart.shop; a request is routed once and ends at orders.shop",
        ],
    );
    let chain = ["a b", "b c", "c d", "c b"].map(|way| way.split_once(' ').expect("a way"));
    let chain = chain.map(|(from, to)| leads(&format!("{from}-{to}"), from, to)).concat();
    is_said(
        &[services("a b c d"), chain],
        &[
            "warning: GRPCRoute shop/b-c: spec.rules[0]: Circle: b.shop -> c.shop -> b.shop; a \
             request is routed once and ends at c.shop",
            "warning: GRPCRoute shop/c-b: spec.rules[0]: Circle: c.shop -> b.shop -> c.shop; a \
             request is routed once and ends at b.shop",
            "warning: GRPCRoute shop/c-d: spec.rules[0]: never matches for port 9090 of c.shop: \
             rules[0] of GRPCRoute shop/c-b takes everything it would",
        ],
    );
    is_said(&[services("a b c"), leads("a", "a", "a b"), leads("b", "b", "c")], &[]);
}

#[test]
fn names_that_overlap_are_named() {
    is_said(
        &[services("orders cart"), prefixes("same", "/"), leads("same", "cart", "cart")],
        &[
            "warning: HTTPRoute shop/same: metadata.name: Overlapping: metrics and logs call GRPCRoute \
           shop/same the same",
        ],
    );
}

#[test]
fn instances_that_stand_twice_or_take_nothing_are_named() {
    let port = ", ports: {'9090': 4000}";
    is_said(
        &[
            services("orders cart"),
            workload("a", "orders", "", port),
            workload("b", "orders", "", port),
            workload("c", "cart", "", port),
        ],
        &[
            "warning: Workload shop/b: spec.address: Overlapping: Workload shop/a is the same place, \
           which takes two shares",
        ],
    );
    is_said(
        &[
            services("orders"),
            workload("a", "orders", "", ", ports: {'9090': 1}, weight: 0"),
            workload("b", "orders", "", ", ports: {'9090': 2}, weight: 0"),
        ],
        &[
            "warning: Workload shop/a: spec.weight: NoWeight: no workload of orders.shop takes \
             traffic: its callers get no_endpoint",
            "warning: Workload shop/b: spec.weight: NoWeight: no workload of orders.shop takes \
             traffic: its callers get no_endpoint",
        ],
    );
}

#[test]
fn services_that_disagree_about_the_same_listener_are_named() {
    let service = |name: &str, mtls: &str, selector: &str| {
        let spec = format!("ports: [{{port: 9090{mtls}}}], selector: {{{selector}}}");
        ours("Service", name, "", &spec)
    };
    let instance = || workload("orders-1", "orders", "version: v1", ", ports: {'9090': 4000}");
    is_said(
        &[
            service("orders", "", ""),
            service("orders-v1", ", mtls: Permissive", "version: v1"),
            service("orders-v2", ", mtls: Disabled", "version: v2"),
            instance(),
        ],
        &[
            "warning: Service shop/orders-v1: spec.ports[0].mtls: Conflicted: Service shop/orders has \
           Strict for port 9090 of the same workloads, and the stricter holds",
        ],
    );
    is_said(
        &[service("orders", ", mtls: Strict", ""), service("v1", "", "version: v1"), instance()],
        &[],
    );
}

#[test]
fn policies_that_decide_nothing_are_named() {
    let policy = |name: &str, spec: &str| ours("AuthorizationPolicy", name, "", spec);
    let orders = "targetRefs: [{kind: Service, name: orders}]";
    let allow = format!("{orders}, rules: [{{from: [{{services: [web]}}]}}]");
    is_said(
        &[
            services("orders cart"),
            policy("allow", &allow),
            policy("deny", &format!("{orders}, action: Deny, rules: [{{}}]")),
            policy("other", &allow.replace("orders", "cart")),
        ],
        &["warning: AuthorizationPolicy shop/allow: spec.rules: never holds: AuthorizationPolicy \
           shop/deny denies everything there first"],
    );
    let foreign = "spiffe://other.local/ns/shop/svc/web, spiffe://mesh.local/ns/shop/svc/web";
    is_said(
        &[
            services("orders"),
            policy("allow", &format!("{orders}, rules: [{{from: [{{identities: [{foreign}]}}]}}]")),
        ],
        &[
            "warning: AuthorizationPolicy shop/allow: spec.rules[0].from[0].identities: never holds: \
           the mesh's trust domain is mesh.local",
        ],
    );
}

#[test]
fn what_is_said_of_resources_together_comes_with_what_to_do() {
    let text = [
        services("orders cart"),
        leads("a", "orders", "cart"),
        leads("b", "cart", "orders"),
        prefixes("a", "/"),
    ];
    let world = World::default().and(text.concat().trim_end_matches("---\n"));
    let mut count = 0;
    for problem in check(&world.resources, "mesh.local") {
        if !problem.message.starts_with("Conflicted") {
            assert!(!problem.hint.is_empty(), "{problem:?}");
            count += 1;
        }
    }
    assert_eq!(count, 3);
}
