//! Times, retries and limits: defaults, policies by target, and the fields of rules over them.

use std::time::Duration;

use super::{World, context, created, destination, lines};
use crate::{
    reason::GrpcCode,
    resource::{pb, yaml},
    snapshot::{
        Balancing, Bulkhead, BulkheadScope, Context, Destination, DestinationSettings, Node,
        OutlierDetection, Retry, RetryBudget, RetryOn, RouteSettings, Snapshot,
    },
    units::ServiceName,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

const ORDERS: &str = "
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: grpc, port: 9090}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: '', name: orders, port: 80}]
  rules:
    - name: own
      matches: [{path: {value: /own}}]
      backendRefs: [{name: orders, port: 80}]
      timeouts: {request: 1s}
      retry: {attempts: 1, codes: [500], backoff: 5ms}
    - name: post
      matches: [{path: {value: /post}, method: POST}]
      backendRefs: [{name: orders, port: 80}]
      timeouts: {request: 0s}
      retry: {}
    - name: plain
      backendRefs: [{name: orders, port: 80}]
";

fn world() -> World {
    World::default().and(ORDERS)
}

/// A `TrafficPolicy` of `shop` on these targets.
fn policy(name: &str, targets: &str, spec: &str) -> pb::Resource {
    let text = format!(
        "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{targetRefs: [{targets}], {spec}}}\n"
    );
    let (parsed, problems) = yaml::parse(&text, "test.yaml");
    assert_eq!(lines(&problems), [""; 0], "{text}");
    parsed.into_iter().next().expect("one").resource
}

const SERVICE: &str = "{kind: Service, name: orders}";
const ROUTE: &str = "{kind: HTTPRoute, name: r}";
const RULE: &str = "{kind: HTTPRoute, name: r, sectionName: own}";

fn of_rule(snapshot: &Snapshot, name: &str) -> RouteSettings {
    let orders = destination(snapshot, "orders");
    let rules = orders.ports[0].rules.as_ref().expect("a route");
    let found = rules.iter().find(|found| &*found.rule.id.rule == name).expect("a rule");
    found.rule.settings.clone()
}

fn of_default(orders: &Destination) -> RouteSettings {
    orders.ports[1].default_rule.settings.clone()
}

#[test]
fn without_policies_the_defaults_hold() {
    let snapshot = world().snapshot();
    let orders = destination(&snapshot, "orders");
    assert_eq!(
        of_default(&orders),
        RouteSettings {
            request_timeout: None,
            attempt_timeout: None,
            stream_idle: Some(SECOND * 300),
            stream_max: None,
            retry: None,
        }
    );
    assert_eq!(of_rule(&snapshot, "plain"), of_default(&orders));
    assert_eq!(
        orders.settings,
        DestinationSettings {
            connect_timeout: SECOND,
            bulkhead: Bulkhead {
                concurrent_max: 1024,
                queued_max: 256,
                wait_max: SECOND,
                scope: BulkheadScope::Destination,
            },
            balancing: Balancing::PeakEwma,
            outlier: OutlierDetection {
                consecutive_failures: 5,
                interval: SECOND * 10,
                base_ejection: SECOND * 30,
                ejected_max: 0.5,
            },
            budget: RetryBudget { ratio: 0.2, rate_min: 10.0, interval: SECOND * 10 },
        }
    );
}

#[test]
fn a_policy_sets_everything_of_its_service() {
    let spec = "
  timeouts: {connect: 2s, request: 3s, attempt: 500ms, streamIdle: 0s, maxStream: 1h},
  retry: {attempts: 3, on: {grpc: [UNAVAILABLE], http: [503], reset: true}, methods: [GET],
    grpcMethods: [shop.Orders/*], backoff: {base: 10ms, max: 20ms},
    budget: {ratio: 50%, minRate: 1/s, interval: 5s}},
  bulkhead: {maxConcurrent: 10, maxQueued: 0, maxWait: 100ms},
  loadBalancing: {policy: RoundRobin},
  outlierDetection: {consecutiveFailures: 2, interval: 1s, baseEjection: 3s, maxEjected: 100%}";
    let snapshot = world().with(policy("p", SERVICE, spec)).snapshot();
    let orders = destination(&snapshot, "orders");
    let expected = RouteSettings {
        request_timeout: Some(SECOND * 3),
        attempt_timeout: Some(MILLI * 500),
        stream_idle: None,
        stream_max: Some(SECOND * 3600),
        retry: Some(Retry {
            attempts: 3,
            on: RetryOn {
                grpc: vec![GrpcCode::Unavailable],
                http: vec![503],
                reset: true,
                grpc_reset: true,
            },
            methods: vec!["GET".into()],
            grpc_methods: vec![("shop.Orders".into(), None)],
            backoff_base: MILLI * 10,
            backoff_max: MILLI * 20,
        }),
    };
    assert_eq!(of_default(&orders), expected);
    assert_eq!(of_rule(&snapshot, "plain"), expected, "a rule that says nothing");
    assert_eq!(
        orders.settings,
        DestinationSettings {
            connect_timeout: SECOND * 2,
            bulkhead: Bulkhead {
                concurrent_max: 10,
                queued_max: 0,
                wait_max: MILLI * 100,
                scope: BulkheadScope::Destination,
            },
            balancing: Balancing::RoundRobin,
            outlier: OutlierDetection {
                consecutive_failures: 2,
                interval: SECOND,
                base_ejection: SECOND * 3,
                ejected_max: 1.0,
            },
            budget: RetryBudget { ratio: 0.5, rate_min: 1.0, interval: SECOND * 5 },
        }
    );
}

#[test]
fn a_rule_is_asked_before_its_policy_its_route_s_and_its_service_s() {
    let timeouts = |request: &str, attempt: &str, idle: &str, most: &str| {
        let field = |name: &str, value: &str| match value {
            "" => String::new(),
            value => format!("{name}: {value}, "),
        };
        let fields = [("request", request), ("attempt", attempt), ("streamIdle", idle)];
        let fields = fields.into_iter().chain([("maxStream", most)]);
        let fields: String = fields.map(|(name, value)| field(name, value)).collect();
        format!("timeouts: {{{fields}}}, retry: {{on: {{http: [503]}}, attempts: 9}}")
    };
    let world = world()
        .with(policy("service", SERVICE, &timeouts("8s", "800ms", "80s", "8h")))
        .with(policy("route", ROUTE, &timeouts("7s", "700ms", "70s", "")))
        .with(policy("rule", RULE, &timeouts("6s", "600ms", "", "")));
    assert_eq!(world.problems(), [""; 0]);
    let snapshot = world.snapshot();
    let found = |name: &str| {
        let settings = of_rule(&snapshot, name);
        let limits = [settings.request_timeout, settings.attempt_timeout, settings.stream_idle];
        let attempts = settings.retry.map(|retry| retry.attempts);
        (limits.map(|limit| limit.map(|limit| limit.as_millis())), settings.stream_max, attempts)
    };
    let most = Some(SECOND * 8 * 3600);
    assert_eq!(found("own"), ([Some(1000), Some(600), Some(70_000)], most, Some(1)));
    assert_eq!(found("post"), ([None, Some(700), Some(70_000)], most, Some(9)), "0s is none");
    assert_eq!(found("plain"), ([Some(7000), Some(700), Some(70_000)], most, Some(9)));
    let orders = destination(&snapshot, "orders");
    assert_eq!(of_default(&orders).request_timeout, Some(SECOND * 8));
}

#[test]
fn a_rule_s_own_retry_asks_for_what_gateway_api_says() {
    let of = |world: &World, rule: &str| of_rule(&world.snapshot(), rule).retry.expect("a retry");
    let safe = ["DELETE", "GET", "HEAD", "OPTIONS", "PUT"];

    let own = of(&world(), "own");
    assert_eq!((own.attempts, &*own.on.http, &*own.on.grpc), (1, &[500][..], &[][..]));
    assert_eq!((own.on.reset, own.on.grpc_reset), (true, false), "a gRPC call is a POST");
    assert_eq!(own.methods, safe);
    assert_eq!((own.backoff_base, own.backoff_max), (MILLI * 5, MILLI * 250));

    let post = of(&world(), "post");
    assert_eq!((post.attempts, &*post.on.http), (2, &[502, 503, 504][..]));
    assert!(post.on.reset && post.on.grpc_reset, "whoever names POST means it");
    assert_eq!(post.methods, ["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"]);

    let asked = world().with(policy("p", SERVICE, "retry: {on: {grpc: [UNAVAILABLE]}}"));
    let plain = of(&asked, "plain");
    assert_eq!((&*plain.on.grpc, &*plain.on.http), (&[GrpcCode::Unavailable][..], &[][..]));
    assert!(!plain.on.reset && !plain.on.grpc_reset, "a policy asks for what it names");
    assert_eq!(of(&asked, "own").on.grpc, [GrpcCode::Unavailable], "over the policy, by field");
    // A base beyond the default maximum moves that.
    let slow =
        world().with(policy("p", SERVICE, "retry: {on: {http: [503]}, backoff: {base: 1s}}"));
    assert_eq!(of(&slow, "plain").backoff_max, SECOND);
}

#[test]
fn of_two_policies_on_one_target_the_older_one_says_each_field() {
    let older = policy("z", SERVICE, "timeouts: {request: 1s}, bulkhead: {maxConcurrent: 1}");
    let newer = policy(
        "a",
        &format!("{SERVICE}, {SERVICE}"),
        "timeouts: {request: 2s, attempt: 2s}, bulkhead: {maxConcurrent: 2, per: Caller}",
    );
    let world = world().with(created(older, 10)).with(created(newer, 20));
    let snapshot = world.snapshot();
    let orders = destination(&snapshot, "orders");
    let settings = of_default(&orders);
    assert_eq!(settings.request_timeout, Some(SECOND));
    assert_eq!(settings.attempt_timeout, Some(SECOND * 2));
    assert_eq!(orders.settings.bulkhead.concurrent_max, 1);
    let problems = world.problems();
    let conflict = "warning: TrafficPolicy shop/a: spec.timeouts.request: Conflicted: TrafficPolicy \
                    shop/z is older and says it for the same target";
    assert!(problems.iter().all(|problem| problem == conflict), "{problems:?}");
    assert!(!problems.is_empty());
}

#[test]
fn a_bulkhead_per_caller_is_the_destination_s_own() {
    let world = world().with(policy("p", SERVICE, "bulkhead: {maxConcurrent: 7, per: Caller}"));
    let orders = destination(&world.snapshot(), "orders");
    assert_eq!(orders.settings.bulkhead, Bulkhead::default(), "nothing at the caller");
    let node = Node { service: ServiceName::new("orders", "shop"), ..context().node };
    let context = Context { node, ..context() };
    let inbound = world.compile(&context).0.inbound;
    let found = inbound.caller_bulkhead.map(|limits| (limits.concurrent_max, limits.scope));
    assert_eq!(found, Some((7, BulkheadScope::Caller)));
    assert_eq!(world.snapshot().inbound.caller_bulkhead, None, "not of web");
}
