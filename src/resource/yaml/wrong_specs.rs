//! Wrong specs of every kind. A `^` marks where the problem must stand, and the text beside it is
//! how the problem must begin: its field and its message.

use super::tests::{check_one, document};

const KINDS: &[(&str, &str, &str)] = &[
    ("Service", "{ports: [{port: ^0}]}", "spec.ports[0].port: not a port (0)"),
    ("Service", "{ports: [{port: ^65536}]}", "spec.ports[0].port: not a port (65536)"),
    (
        "Service",
        "{ports: [{name: ^A, port: 1}]}",
        "spec.ports[0].name: not a name: has other characters",
    ),
    (
        "Service",
        "{ports: [{port: 1, appProtocol: ^http2}]}",
        "spec.ports[0].appProtocol: not a protocol (http2) -> http",
    ),
    (
        "Service",
        "{ports: [{port: 1, name: a}, {port: ^1, name: b}]}",
        "spec.ports[1].port: stands twice in this service (1)",
    ),
    (
        "Service",
        "{ports: [{port: 1, name: a}, {port: 2, name: ^a}]}",
        "spec.ports[1].name: stands twice in this service (a)",
    ),
    (
        "Service",
        "{ports: [{port: 1, name: a}, ^{port: 2}]}",
        "spec.ports[1].name: is needed where there are several ports",
    ),
    ("Workload", "^{address: 127.0.0.1}", "spec.service: not a name: is empty"),
    (
        "Workload",
        "{service: a, address: ^'127.0.0.1:80'}",
        "spec.address: not an address (127.0.0.1:80)",
    ),
    (
        "Workload",
        "{service: a, address: ^127.0.0.256}",
        "spec.address: not an address (127.0.0.256)",
    ),
    ("Workload", "^{service: a}", "spec.address: not an address ()"),
    (
        "Workload",
        "{service: a, address: ^0.0.0.0, ports: {a: 1}}",
        "spec.address: an address to which nobody can connect (0.0.0.0)",
    ),
    (
        "Workload",
        "{service: a, address: ^\"::ffff:224.0.0.1\", ports: {a: 1}}",
        "spec.address: an address to which nobody can connect (::ffff:224.0.0.1)",
    ),
    ("Workload", "{service: a, address: h, weight: ^1001}", "spec.weight: not in 0 to 1000 (1001)"),
    ("Workload", "{service: a, address: h, ports: {080: ^1}}", "spec.ports.080: not a port (080)"),
    ("Workload", "{service: a, address: h, ports: {grpc: ^0}}", "spec.ports.grpc: not a port (0)"),
    (
        "Workload",
        "^{service: a, address: h, inbound: 15006}",
        "spec.identity: is missing: what inbound",
    ),
    (
        "Workload",
        "^{service: a, address: h, identity: 'spiffe://a/b'}",
        "spec.inbound: is missing: identity needs",
    ),
    (
        "Workload",
        "{service: a, address: h, inbound: 1, identity: ^x}",
        "spec.identity: not a SPIFFE ID: ",
    ),
    ("TrafficPolicy", "^{}", "spec.targetRefs: names nothing"),
    (
        "TrafficPolicy",
        "{targetRefs: [{kind: ^Pod, name: a}]}",
        "spec.targetRefs[0].kind: not a kind that this policy attaches to (Pod)",
    ),
    (
        "TrafficPolicy",
        "{targetRefs: [{kind: Service, name: a, sectionName: ^r}]}",
        "spec.targetRefs[0].sectionName: names a rule",
    ),
    (
        "TrafficPolicy",
        "{targetRefs: [{group: ^apps, kind: Service, name: a}]}",
        "spec.targetRefs[0].group: not the group of Service (apps)",
    ),
    (
        "TrafficPolicy",
        "{targetRefs: [{kind: GRPCRoute, name: a}], bulkhead: ^{}}",
        "spec.bulkhead: holds for a Service as a whole",
    ),
    ("AuthorizationPolicy", "{rules: [{from: [^{}]}]}", "spec.rules[0].from[0]: names nobody"),
    ("AuthorizationPolicy", "{rules: [{to: [^{}]}]}", "spec.rules[0].to[0]: names nothing"),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{services: [^a.b.c]}]}]}",
        "spec.rules[0].from[0].services[0]: not a name",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{identities: [^'spiffe://a*']}]}]}",
        "spec.rules[0].from[0].identities[0]: not the beginning",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{identities: [^'*']}]}]}",
        "spec.rules[0].from[0].identities[0]: not the beginning",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{from: [{namespaces: [^A]}]}]}",
        "spec.rules[0].from[0].namespaces[0]: not a name",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{to: [{grpc: [^Charge]}]}]}",
        "spec.rules[0].to[0].grpc[0]: not a gRPC method",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{to: [^{grpc: [a.B/*], http: {}}]}]}",
        "spec.rules[0].to[0]: never holds",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{to: [{http: {paths: [^v1]}}]}]}",
        "spec.rules[0].to[0].http.paths[0]: not a path",
    ),
    (
        "AuthorizationPolicy",
        "{rules: [{to: [{http: {paths: [^'/*/x']}}]}]}",
        "spec.rules[0].to[0].http.paths[0]: not a path",
    ),
    (
        "AuthorizationPolicy",
        "{targetRefs: [{kind: ^HTTPRoute, name: a}], rules: [{}]}",
        "spec.targetRefs[0].kind: not a kind",
    ),
    ("Mesh", "{trustDomain: ^Mesh.local}", "spec.trustDomain: not a trust domain"),
    ("Mesh", "{namespaces: {A: ^{mtls: Strict}}}", "spec.namespaces.A: not a name"),
    ("Mesh", "{tracing: {sampling: ^1}}", "spec.tracing.sampling: not a text (1)"),
    ("Mesh", "{tracing: {otlp: ^'localhost:4317'}}", "spec.tracing.otlp: not a URL"),
    (
        "Mesh",
        "{accessLog: {mode: ^error}}",
        "spec.accessLog.mode: not one of the values of AccessLogMode (error) -> Errors",
    ),
];

#[test]
fn every_kind_is_checked() {
    for (kind, marked, expected) in KINDS {
        let name = if *kind == "Mesh" { "mesh" } else { "x" };
        check_one(&document(kind, name, marked), expected);
    }
}

const ROUTES: &[(&str, &str, &str)] = &[
    ("HTTPRoute", "{parentRefs: [^{name: a}]}", "spec.parentRefs[0]: not a Service of the mesh"),
    (
        "HTTPRoute",
        "{parentRefs: [^{kind: Service, name: a}]}",
        "spec.parentRefs[0]: not a Service of the mesh",
    ),
    (
        "HTTPRoute",
        "{P, useDefaultGateways: ^All}",
        "spec.useDefaultGateways: not run by this version",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{sessionPersistence: ^{}}]}",
        "spec.rules[0].sessionPersistence: not run by this version",
    ),
    (
        "GRPCRoute",
        "{P, rules: [{sessionPersistence: ^{}}]}",
        "spec.rules[0].sessionPersistence: not run by this version",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{filters: [{type: ^URLRewrite, urlRewrite: {}}]}]}",
        "spec.rules[0].filters[0].type: not run by this version: URLRewrite",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{filters: [{type: ^Rewrite}]}]}",
        "spec.rules[0].filters[0].type: not a filter (Rewrite)",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{filters: [^{type: RequestHeaderModifier}]}]}",
        "spec.rules[0].filters[0].requestHeaderModifier: is missing",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: ^'a b', value: c}]}}]}]}",
        "spec.rules[0].filters[0].requestHeaderModifier.set[0].name: not the name of a header",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [^Outrigger-Unseen]}}]}]}",
        "spec.rules[0].filters[0].requestHeaderModifier.remove[0]: belongs to the mesh",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: ^TE, value: x}]}}]}]}",
        "spec.rules[0].filters[0].requestHeaderModifier.set[0].name: frames the message",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{path: {type: ^Prefix, value: /}}]}]}",
        "spec.rules[0].matches[0].path.type: not a type of match (Prefix) -> PathPrefix",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{path: {value: ^v1}}]}]}",
        "spec.rules[0].matches[0].path.value: not a path (v1)",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{path: {value: ^/a/../b}}]}]}",
        "spec.rules[0].matches[0].path.value: not a normal path",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{path: {type: RegularExpression, value: ^'('}}]}]}",
        "spec.rules[0].matches[0].path.value: not a regular expression: unclosed group",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{path: {type: RegularExpression, value: ^'a)|(b'}}]}]}",
        "spec.rules[0].matches[0].path.value: not a regular expression: un",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{path: {type: RegularExpression, value: ^'((a{100}){100}){100}'}}]}]}",
        "spec.rules[0].matches[0].path.value: a regular expression that is too large",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{method: ^get}]}]}",
        "spec.rules[0].matches[0].method: not an HTTP method (get) -> GET",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{matches: [{headers: [{name: a, value: b}, {name: ^A, value: c}]}]}]}",
        "spec.rules[0].matches[0].headers[1].name: stands twice",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{backendRefs: [{name: a, port: 1, weight: ^1000001}]}]}",
        "spec.rules[0].backendRefs[0].weight: not in 0 to 1000000",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{backendRefs: ^[{name: a, weight: 0}, {name: b, weight: 0}]}]}",
        "spec.rules[0].backendRefs: have no weight: what the rule takes is answered with backend_i",
    ),
    (
        "GRPCRoute",
        "{P, hostnames: ^[a.example], rules: [{backendRefs: [{name: a}]}]}",
        "spec.hostnames: do nothing for a Service as the parent",
    ),
    (
        "GRPCRoute",
        "{parentRefs: [{group: '', kind: Service, name: a}, ^{group: '', kind: Service, name: a}]}",
        "spec.parentRefs[1]: stands twice in this route (a.default) -> leave it out",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{backendRefs: [{name: a, port: ^70000}]}]}",
        "spec.rules[0].backendRefs[0].port: not a port (70000)",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{timeouts: {request: 1s, backendRequest: ^2s}}]}",
        "spec.rules[0].timeouts.backendRequest: longer than the whole request",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{retry: {codes: [^200]}}]}",
        "spec.rules[0].retry.codes[0]: not in 400 to 599",
    ),
    (
        "HTTPRoute",
        "{P, rules: [{name: a}, {name: ^a}]}",
        "spec.rules[1].name: stands twice in this route",
    ),
    (
        "GRPCRoute",
        "{P, rules: [{matches: [{method: ^{}}]}]}",
        "spec.rules[0].matches[0].method: names nothing",
    ),
    (
        "GRPCRoute",
        "{P, rules: [{matches: [{method: {service: ^a/b}}]}]}",
        "spec.rules[0].matches[0].method.service: not a gRPC service",
    ),
    (
        "GRPCRoute",
        "{P, rules: [{matches: [{^path: {}}]}]}",
        "spec.rules[0].matches[0].path: unknown field (path)",
    ),
];

#[test]
fn what_is_wrong_with_a_route_is_shown_where_it_stands() {
    let parent = "parentRefs: [{group: '', kind: Service, name: a}]";
    for (kind, marked, expected) in ROUTES {
        check_one(
            &document(kind, "x", &marked.replacen("{P", &format!("{{{parent}"), 1)),
            expected,
        );
    }
}
