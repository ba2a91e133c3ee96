//! Wrong documents: each gives its problem with field, line, column and how to mend it.

use super::{check, parse};
use crate::resource::{
    Problem, Severity,
    samples::{GATEWAY, OURS},
};

/// Everything that is wrong with a text, in the order of the text.
fn problems(text: &str) -> Vec<Problem> {
    let (parsed, mut problems) = parse(text, "mesh.yaml");
    problems.extend(check(&parsed));
    problems.sort_by_key(|problem| problem.at.as_ref().map(|at| (at.line, at.column)));
    problems
}

/// `line:column field: message (value) -> hint`
fn told(text: &str) -> Vec<String> {
    let tell = |problem: Problem| {
        let at = problem.at.expect("every problem has its place");
        let Problem { field, value, message, hint, .. } = problem;
        format!("{}:{} {field}: {message} ({value}) -> {hint}", at.line, at.column)
    };
    problems(text).into_iter().map(tell).collect()
}

/// Takes the `^` out of a text, before which the problem stands, and puts its place before what is
/// expected.
fn placed(marked: &str, expected: &str) -> (String, String) {
    let before = marked.split('^').next().expect("has a first part");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().expect("has a last part").chars().count() + 1;
    (marked.replacen('^', "", 1), format!("{line}:{column} {expected}"))
}

/// Checks that a marked text has one problem, which begins as expected.
pub(super) fn check_one(marked: &str, expected: &str) {
    let (text, expected) = placed(marked, expected);
    let told = told(&text);
    assert!(told.len() == 1 && told[0].starts_with(&expected), "{marked}: {told:#?}\n{expected}");
}

fn policy(spec: &str) -> String {
    let target = "  targetRefs: [{kind: Service, name: x}]";
    format!(
        "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {{name: x}}\nspec:\n{target}\n{spec}\n"
    )
}

#[test]
fn a_problem_looks_as_the_documentation_says() {
    let text = OURS.replace("grpc: [UNAVAILABLE]", "grpc: [CANCELLED, UNAVAILBLE]");
    let shown = problems(&text).iter().map(Problem::to_string).collect::<Vec<_>>();
    let expected = "\
mesh.yaml:29:28: error: TrafficPolicy shop/inventory: spec.retry.on.grpc[1]
  29 |     on: {grpc: [CANCELLED, UNAVAILBLE], http: [502, 503], reset: false}
     |                            ^^^^^^^^^^ not a gRPC status
  mend: UNAVAILABLE";
    assert_eq!(shown, [expected]);
}

#[test]
fn what_does_not_fit_the_message_is_shown_where_it_stands() {
    for (marked, expected) in [
        ("  ^retries: {}", "spec.retries: unknown field (retries) -> retry"),
        (
            "  ^load_balancing: {}",
            "spec.load_balancing: unknown field (load_balancing) -> loadBalancing",
        ),
        (
            "  bulkhead: {maxConcurrent: ^-1}",
            "spec.bulkhead.maxConcurrent: not a whole number (-1) -> 0 to 4294967295",
        ),
        (
            "  bulkhead: {maxConcurrent: ^1.5}",
            "spec.bulkhead.maxConcurrent: not a whole number (1.5) -> 0 to 4294967295",
        ),
        (
            "  bulkhead: {maxConcurrent: ^4294967296}",
            "spec.bulkhead.maxConcurrent: not a whole number (4294967296) -> 0 to 4294967295",
        ),
        (
            "  bulkhead: {maxConcurrent: ^'5'}",
            "spec.bulkhead.maxConcurrent: not a whole number (5) -> 5 without quotes",
        ),
        ("  bulkhead: ^[1]", "spec.bulkhead: not a map () -> name: value"),
        ("  bulkhead: ^5", "spec.bulkhead: not a map (5) -> name: value"),
        (
            "  bulkhead: {per: ^caller}",
            "spec.bulkhead.per: not one of the values of BulkheadScope (caller) -> Caller",
        ),
        (
            "  bulkhead: {per: ^BULKHEAD_SCOPE_CALLER}",
            "spec.bulkhead.per: not one of the values of BulkheadScope (BULKHEAD_SCOPE_CALLER) -> Destination, Caller",
        ),
        (
            "  bulkhead: {per: ^Unspecified}",
            "spec.bulkhead.per: not one of the values of BulkheadScope (Unspecified) -> Destination, Caller",
        ),
        ("  bulkhead: {maxWait: ^5}", "spec.bulkhead.maxWait: not a text (5) -> 5s"),
        ("  bulkhead: {maxWait: ^true}", "spec.bulkhead.maxWait: not a text (true) -> \"true\""),
        ("  bulkhead: {maxWait: ^[1s]}", "spec.bulkhead.maxWait: not a text () -> "),
        (
            "  retry: {on: {reset: ^yes}}",
            "spec.retry.on.reset: not true or false (yes) -> true or false, without quotes",
        ),
        (
            "  retry: {on: {reset: ^'true'}}",
            "spec.retry.on.reset: not true or false (true) -> true without quotes",
        ),
        (
            "  retry: {on: {grpc: ^UNAVAILABLE}}",
            "spec.retry.on.grpc: not a list (UNAVAILABLE) -> [UNAVAILABLE]",
        ),
        (
            "  retry: {on: {grpc: [UNAVAILABLE, ^~]}}",
            "spec.retry.on.grpc[1]: is missing () -> \"\" is an empty text",
        ),
        (
            "  timeouts:\n    request: 1s\n    attempt: 1s\n    ^request: 2s",
            "spec.timeouts.request: stands twice (request) -> one of the two",
        ),
        (
            "  ^<<: {}",
            "spec[\"<<\"]: unknown field (<<) -> targetRefs, timeouts, retry, bulkhead, loadBalancing, outlierDetection",
        ),
    ] {
        let (text, expected) = placed(&policy(marked), expected);
        assert_eq!(told(&text), [expected], "{marked}");
    }
}

#[test]
fn what_means_nothing_is_shown_where_it_stands() {
    let duration = "not a duration";
    for (marked, expected) in [
        ("  timeouts: {request: ^2}", "spec.timeouts.request: not a text (2)"),
        ("  timeouts: {request: ^2sec}", &format!("spec.timeouts.request: {duration} (2sec)")),
        ("  timeouts: {connect: ^0s}", "spec.timeouts.connect: must be longer than 0s (0s)"),
        (
            "  timeouts: {request: 1s, attempt: ^2s}",
            "spec.timeouts.attempt: longer than the whole request may take (2s)",
        ),
        ("  retry: {attempts: ^11, on: {}}", "spec.retry.attempts: not in 0 to 10 (11)"),
        ("  retry: {on: {grpc: [^OK]}}", "spec.retry.on.grpc[0]: not a failure (OK)"),
        ("  retry: {on: {http: [502, ^200]}}", "spec.retry.on.http[1]: not in 400 to 599 (200)"),
        (
            "  retry: {on: {}, methods: [^get]}",
            "spec.retry.methods[0]: not an HTTP method (get) -> GET",
        ),
        (
            "  retry: {on: {}, grpcMethods: [^shop.Inventory]}",
            "spec.retry.grpcMethods[0]: not a gRPC method (shop.Inventory)",
        ),
        (
            "  retry: {on: {}, backoff: {base: 1s, max: ^1ms}}",
            "spec.retry.backoff.max: shorter than base (1ms) -> 1s",
        ),
        (
            "  retry: {on: {}, budget: {ratio: ^120%}}",
            "spec.retry.budget.ratio: not a share (120%)",
        ),
        ("  retry: {on: {}, budget: {minRate: ^10}}", "spec.retry.budget.minRate: not a text (10)"),
        (
            "  retry: {on: {}, budget: {interval: ^2m}}",
            "spec.retry.budget.interval: not in 1s to 1m (2m)",
        ),
        ("  bulkhead: {maxConcurrent: ^0}", "spec.bulkhead.maxConcurrent: not in 1 to 1000000 (0)"),
        (
            "  loadBalancing: {policy: ^Maglev}",
            "spec.loadBalancing.policy: not run by this version: Maglev ()",
        ),
        (
            "  outlierDetection: {interval: ^0s}",
            "spec.outlierDetection.interval: must be longer than 0s (0s)",
        ),
        (
            "  outlierDetection: {maxEjected: ^0.5}",
            "spec.outlierDetection.maxEjected: not a text (0.5)",
        ),
    ] {
        check_one(&policy(marked), expected);
    }
}

pub(super) fn document(kind: &str, name: &str, spec: &str) -> String {
    let gateway = kind.ends_with("Route");
    let version = if gateway { "gateway.networking.k8s.io/v1" } else { "outrigger.dev/v1" };
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn the_envelope_is_checked() {
    for (text, expected) in [
        ("- a\n", vec!["1:1 : not a map () -> name: value"]),
        ("hello\n", vec!["1:1 : not a map (hello) -> name: value"]),
        (
            "kind: 5\n",
            vec![
                "1:7 kind: unknown kind (5) -> Service, Workload, HTTPRoute, GRPCRoute, TrafficPolicy, AuthorizationPolicy, Mesh",
            ],
        ),
        (
            "metadata: {name: a}\n",
            vec![
                "1:1 kind: is missing () -> Service, Workload, HTTPRoute, GRPCRoute, TrafficPolicy, AuthorizationPolicy, Mesh",
            ],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: TraficPolicy\n",
            vec!["2:7 kind: unknown kind (TraficPolicy) -> TrafficPolicy"],
        ),
        (
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n",
            vec!["2:7 kind: not run by this version: Gateway (Gateway) -> "],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
            vec!["1:13 apiVersion: not that of Service (v1) -> outrigger.dev/v1"],
        ),
        (
            "kind: Service\nmetadata: {name: a}\n",
            vec!["1:1 apiVersion: is missing () -> outrigger.dev/v1"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {nam: a}\n",
            vec!["3:12 metadata.nam: unknown field (nam) -> name"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Service\n",
            vec!["1:1 metadata.name: not a name: is empty () -> 1 to 63 of a-z, 0-9 and -"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {name: a}\nspecs: {}\n",
            vec!["4:1 specs: unknown field (specs) -> spec"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Service\nkind: Service\nmetadata: {name: a}\n",
            vec!["3:1 kind: stands twice (kind) -> one of the two"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Mesh\nmetadata: {name: other}\n",
            vec!["3:18 metadata.name: not the name of the one Mesh (other) -> mesh"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Mesh\nmetadata: {name: mesh, namespace: a}\n",
            vec!["3:35 metadata.namespace: Mesh has no namespace (a) -> leave it out"],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {name: a, labels: {a b: c}}\n",
            vec![
                "3:35 metadata.labels[\"a b\"]: not the key of a label (a b) -> name or example.com/name",
            ],
        ),
        (
            "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {name: a, labels: {v: 1}}\n",
            vec!["3:33 metadata.labels.v: not a text (1) -> \"1\""],
        ),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
}

#[test]
fn every_problem_comes_at_once() {
    let text = "apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: A, labels: {v: 1}}
spec:
  targetRefs: [{kind: Service, name: x}]
  timeouts: {request: soon, unknown: 1s}
  bulkhead: {maxConcurrent: many, maxWait: 5m5}
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: a
---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 0}]}
";
    let fields = problems(text).into_iter().map(|problem| problem.field).collect::<Vec<_>>();
    let expected = [
        "metadata.name",
        "metadata.labels.v",
        "spec.timeouts.request",
        "spec.timeouts.unknown",
        "spec.bulkhead.maxConcurrent",
        "spec.bulkhead.maxWait",
        "",
        "spec.ports[0].port",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_wrong_word_does_not_bring_more_problems_with_it() {
    let text = policy("").replace("targetRefs", "targetRef");
    assert_eq!(told(&text), ["5:3 spec.targetRef: unknown field (targetRef) -> targetRefs"]);
}

#[test]
fn one_name_twice_is_an_error_at_the_second() {
    let text = format!("{}---\n{}", policy(""), policy(""));
    assert_eq!(
        told(&text),
        ["10:18 metadata.name: stands twice (x) -> the first is at mesh.yaml:3:18"]
    );
}

#[test]
fn warnings_do_not_refuse() {
    for (kind, spec, expected) in [
        ("HTTPRoute", "{}", "spec.parentRefs"),
        (
            "HTTPRoute",
            "{parentRefs: [{group: '', kind: Service, name: a}, {name: gw}]}",
            "spec.parentRefs[1]",
        ),
        (
            "HTTPRoute",
            "{parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{kind: Bucket, name: a, port: 1}]}]}",
            "spec.rules[0].backendRefs[0].kind",
        ),
        ("TrafficPolicy", "{targetRefs: [{kind: Service, name: a}], retry: {}}", "spec.retry.on"),
        ("AuthorizationPolicy", "{}", "spec.rules"),
    ] {
        let (parsed, problems) = parse(&document(kind, "x", spec), "mesh.yaml");
        assert_eq!((parsed.len(), problems.len()), (1, 0), "{kind} {spec}");
        let warnings = check(&parsed);
        let [warning] = warnings.as_slice() else { panic!("{kind} {spec}: {warnings:?}") };
        assert_eq!((warning.severity, &*warning.field), (Severity::Warning, expected));
        assert!(warning.at.is_some());
    }
}

#[test]
fn lists_and_what_servers_add_are_read() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
      {"apiVersion": "outrigger.dev/v1", "kind": "Service", "status": {"conditions": []},
       "metadata": {"name": "a", "uid": "x", "generation": 2, "managedFields": [{}],
                    "resourceVersion": "5", "creationTimestamp": null},
       "spec": {"ports": [{"port": 0}]}}]}"#;
    let (parsed, problems) = parse(text, "list.json");
    assert_eq!((parsed.len(), problems), (1, Vec::new()));
    assert_eq!(told(text), ["5:36 spec.ports[0].port: not a port (0) -> 1 to 65535"]);
}

#[test]
fn a_place_is_found_for_every_field_and_for_what_is_missing() {
    let (parsed, _) = parse(GATEWAY, "routes.yaml");
    let source = &parsed[0].source;
    assert_eq!(source.file_name(), "routes.yaml");
    for (field, line, column) in [
        ("", 1, 1),
        ("metadata.name", 4, 9),
        ("metadata.labels[\"app.kubernetes.io/name\"]", 6, 36),
        ("spec.parentRefs", 9, 3),
        ("spec.parentRefs[0]", 10, 5),
        ("spec.parentRefs[0].sectionName", 10, 5),
        ("spec.parentRefs[7].name", 9, 3),
        ("spec.rules[0].matches[0].path.value", 18, 39),
        ("nonsense..[", 1, 1),
    ] {
        let at = source.location(field);
        assert_eq!((at.line, at.column), (line, column), "{field}");
    }
}

#[test]
fn nothing_that_is_cut_short_or_mangled_breaks_the_reader() {
    for text in [OURS, GATEWAY] {
        for end in (0..text.len()).step_by(7).filter(|end| text.is_char_boundary(*end)) {
            for problem in problems(&text[..end]) {
                assert!(problem.at.is_some(), "{end}: {problem}");
                assert!(!problem.to_string().is_empty());
            }
        }
        for (from, to) in
            [(":", ""), ("{", "["), ("}", ""), ("\n", " "), (" ", "\t"), ("e", "\u{0}")]
        {
            for problem in problems(&text.replace(from, to)) {
                assert!(problem.at.is_some(), "{from:?}: {problem}");
            }
        }
    }
}
