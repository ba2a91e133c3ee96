//! The picture as a whole, against what it should look like.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost_types::Timestamp;

use super::render::{View, render};
use crate::resource::pb;

const NOW: u64 = 1_795_435_200;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn at(seconds_from_now: i64) -> Option<Timestamp> {
    let now = i64::try_from(NOW).expect("small");
    Some(Timestamp { seconds: now + seconds_from_now, nanos: 0 })
}

fn service(
    name: &str,
    ready: u32,
    total: u32,
    calls: u64,
    failed: &[(&str, u64)],
) -> pb::ServiceStatus {
    let failed: HashMap<String, u64> =
        failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    pb::ServiceStatus {
        name: name.into(),
        namespace: "shop".into(),
        ready,
        total,
        traffic: vec![pb::Traffic {
            source: "orders.shop".into(),
            destination: format!("{name}.shop"),
            total: calls,
            failed,
            latency_buckets: vec![0, 0, 0, 0, calls],
            ..Default::default()
        }],
        window_seconds: 300.0,
        leads_elsewhere: false,
        ejected: Vec::new(),
    }
}

fn sidecar(workload: &str, service: &str, expires: i64) -> pb::SidecarStatus {
    pb::SidecarStatus {
        workload: workload.into(),
        service: service.into(),
        namespace: "shop".into(),
        version: "0.1.0".into(),
        address: "127.0.0.1:15006".into(),
        phase: pb::WorkloadPhase::Ready.into(),
        in_flight: 0,
        connected_at: at(-600),
        certificate_expires_at: at(expires),
        in_sync: true,
        revision: 42,
        behind_since: None,
        application: String::new(),
    }
}

fn status() -> pb::StatusResponse {
    pb::StatusResponse {
        revision: 42,
        changed_at: at(-180),
        changed_by: "spiffe://mesh.local/credential/ana".into(),
        change_message: "inventory canary".into(),
        services: vec![
            service("catalog", 1, 1, 3000, &[]),
            service("inventory", 1, 3, 412, &[("no_endpoint", 61)]),
        ],
        sidecars: vec![
            sidecar("orders-2", "orders", 41 * 60),
            sidecar("catalog-1", "catalog", 80_000),
        ],
        started_at: at(-9 * 86_400),
        root_expires_at: at(9 * 365 * 86_400),
        version: "0.1.0".into(),
        tracing_ui: "http://127.0.0.1:16686".into(),
        refusals: Vec::new(),
        now: at(0),
        ..Default::default()
    }
}

fn picture(status: &pb::StatusResponse) -> String {
    let view = View { server: "localhost:15010", now: now(), sidecars: false, coloured: false };
    render(status, view)
}

#[test]
fn what_is_wrong_comes_first_and_worst_first() {
    let expected = "\
DEGRADED  1 problem, 1 warning   rev 42, 3m ago, ana: \"inventory canary\"   2/2 in sync

x inventory.shop   no_endpoint: 61 of 412 calls failed in the last 5m (from orders.shop)
    3 endpoints: 1 ready
    try: outrigger status inventory.shop
! orders-2.shop   certificate expires in 41m
    try: outrigger check orders-2.shop

SERVICE         READY  RPS      OK  P50  P99  REASONS 5m      REV
inventory.shop    1/3  1.4  85.19%  3ms  4ms  no_endpoint 61  -
catalog.shop      1/1   10    100%  3ms  4ms  -               42

control plane localhost:15010  up 9d  store ok  root expires in 9y  version 0.1.0
traces http://127.0.0.1:16686
";
    assert_eq!(picture(&status()), expected);
}

#[test]
fn a_failure_is_put_beside_the_change_before_it() {
    let mut status = status();
    status.sidecars.clear();
    let traffic = &mut status.services[1].traffic[0];
    traffic.failing_since.insert("no_endpoint".into(), at(-160).expect("set"));
    traffic.failed_traces.insert("no_endpoint".into(), "4bf92f3577b34da6a3ce929d0e0e4736".into());
    let expected = "\
x inventory.shop   no_endpoint: 61 of 412 calls failed since SINCE UTC (from orders.shop)
    3 endpoints: 1 ready
    one of them: http://127.0.0.1:16686/trace/4bf92f3577b34da6a3ce929d0e0e4736
    began 20s after rev 42     try: outrigger rollback 41 --dry-run
";
    let since = at(-160).expect("set").to_string();
    assert!(
        picture(&status).contains(&expected.replace("SINCE", &since[11..19])),
        "{}",
        picture(&status)
    );
    // A later change is not the cause, and one of an hour before is none that a person would ask.
    status.recent = vec![
        pb::Revision { revision: 41, changed_at: at(-200), ..Default::default() },
        pb::Revision { revision: 42, changed_at: at(-100), ..Default::default() },
    ];
    status.changed_at = at(-100);
    assert!(picture(&status).contains("began 40s after rev 41     try: outrigger rollback 40"));
    status.recent.clear();
    status.changed_at = at(-3600);
    assert!(picture(&status).contains("    try: outrigger status inventory.shop\n"));
}

#[test]
fn an_empty_mesh_says_what_to_do() {
    let status = pb::StatusResponse { started_at: at(-5), ..Default::default() };
    let expected = "\
HEALTHY   rev 0

no services yet; outrigger run NAME --app :PORT -- COMMAND adds one

control plane localhost:15010  up 5s  store ok
";
    assert_eq!(picture(&status), expected);
}

#[test]
fn a_refusal_names_who_refused_what_and_how_to_mend_it() {
    let id = pb::ResourceId {
        kind: "GRPCRoute".into(),
        namespace: "shop".into(),
        name: "orders".into(),
    };
    let problem = pb::Problem {
        field: "spec.rules[0]".into(),
        message: "no such filter".into(),
        hint: "update the sidecar".into(),
        ..Default::default()
    };
    let refusal = pb::Refusal {
        resource: Some(id),
        workload: "web-1".into(),
        problems: vec![problem],
        since: None,
    };
    let status = pb::StatusResponse { refusals: vec![refusal], ..Default::default() };
    let picture = picture(&status);
    let expected = "\
x GRPCRoute shop/orders   refused by web-1: no such filter
    at spec.rules[0]; the last good version stays in use there
    mend: update the sidecar
";
    assert!(picture.contains(expected), "{picture}");
}

#[test]
fn the_caller_s_own_mistakes_are_no_problem_of_the_service() {
    let status = pb::StatusResponse {
        services: vec![service("payments", 1, 1, 10, &[("denied", 5)])],
        ..Default::default()
    };
    let picture = picture(&status);
    assert!(picture.starts_with("HEALTHY  1 warning"), "{picture}");
    assert!(picture.contains("try: outrigger get authorizationpolicies -n shop"), "{picture}");
}

#[test]
fn a_service_that_nobody_serves_is_no_health() {
    for (ready, total, elsewhere, expected) in [
        (0, 0, false, "HEALTHY  1 warning"),
        (0, 0, true, "HEALTHY   rev"),
        (0, 2, false, "DEGRADED  1 problem"),
        (1, 2, false, "HEALTHY  1 warning"),
        (2, 2, false, "HEALTHY   rev"),
    ] {
        let mut orders = service("orders", ready, total, 0, &[]);
        orders.leads_elsewhere = elsewhere;
        let status = pb::StatusResponse { services: vec![orders], ..Default::default() };
        let picture = picture(&status);
        assert!(picture.starts_with(expected), "{ready}/{total}: {picture}");
    }
}

#[test]
fn a_subject_is_a_service_or_a_sidecar() {
    for (subject, services, sidecars) in [
        ("catalog.shop", vec!["catalog"], vec!["catalog-1"]),
        ("catalog-1.shop", vec!["catalog"], vec!["catalog-1"]),
        ("inventory.shop", vec!["inventory"], vec![]),
        ("orders-2.shop", vec![], vec!["orders-2"]),
        ("nothing.shop", vec![], vec![]),
    ] {
        let mut status = status();
        let found = super::narrow(&mut status, subject);
        assert_eq!(found, subject != "nothing.shop", "{subject}");
        let names: Vec<_> = status.services.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, services, "{subject}");
        let names: Vec<_> = status.sidecars.iter().map(|it| it.workload.as_str()).collect();
        assert_eq!(names, sidecars, "{subject}");
    }
}

#[test]
fn a_sidecar_that_stays_behind_is_a_warning() {
    for (changed, refused, expected) in
        [(-180, false, true), (-3, false, false), (-180, true, false)]
    {
        let mut status = pb::StatusResponse { changed_at: at(changed), ..status() };
        status.services.clear();
        status.sidecars = vec![sidecar("web-1", "web", 80_000)];
        status.sidecars[0].in_sync = false;
        status.sidecars[0].revision = 40;
        if refused {
            let workload = "web-1".to_owned();
            status.refusals = vec![pb::Refusal { workload, ..Default::default() }];
        }
        let picture = picture(&status);
        let said = picture
            .contains("! web-1.shop   still runs rev 40\n    try: outrigger check web-1.shop\n");
        assert_eq!(said, expected, "{picture}");
    }
}

#[test]
fn endpoints_that_take_no_calls_say_why_and_until_when() {
    let mut status = status();
    status.services = vec![service("inventory", 2, 4, 400, &[])];
    let until = at(61);
    status.services[0].ejected = vec![pb::Ejection {
        destination: "inventory.shop".into(),
        endpoint: "inventory-1".into(),
        failures: 5,
        cause: "grpc_UNAVAILABLE".into(),
        until,
        sidecars: 2,
    }];
    status.sidecars = vec![
        sidecar("inventory-1", "inventory", 80_000),
        pb::SidecarStatus {
            phase: pb::WorkloadPhase::NotReady.into(),
            application: "127.0.0.1:9090: connection refused".into(),
            ..sidecar("inventory-2", "inventory", 80_000)
        },
        pb::SidecarStatus {
            phase: pb::WorkloadPhase::Draining.into(),
            ..sidecar("inventory-3", "inventory", 80_000)
        },
    ];
    let next = &until.expect("set").to_string()[11..19];
    let expected = format!(
        "! inventory.shop   not all are ready\n    4 endpoints: 1 ready, 1 draining \
         (inventory-3), 1 not ready (inventory-2: 127.0.0.1:9090: connection refused), 1 ejected \
         (5x UNAVAILABLE), next probe {next} UTC\n"
    );
    let picture = picture(&status);
    assert!(picture.contains(&expected), "{picture}");
    assert!(picture.contains("inventory.shop    1/4"), "{picture}");
}

#[test]
fn a_resource_that_does_less_than_it_says_is_named_with_since_when() {
    let condition = pb::Condition {
        r#type: "ResolvedRefs".into(),
        status: "False".into(),
        reason: "BackendNotFound".into(),
        message: "there is no service orders-v2.shop".into(),
        last_transition_time: at(-20),
    };
    let resource = pb::ResourceId {
        kind: "GRPCRoute".into(),
        namespace: "shop".into(),
        name: "orders".into(),
    };
    let unsound = pb::Unsound { resource: Some(resource), condition: Some(condition) };
    let status = pb::StatusResponse {
        unsound: vec![unsound],
        store_failing: true,
        tracing_ui: "http://jaeger/".into(),
        trace: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        ..Default::default()
    };
    let since = &at(-20).expect("set").to_string()[11..19];
    let picture = picture(&status);
    let expected = format!(
        "x store   takes no writes; what is there is served on\n    the control plane's log says why: \
         a full or broken disk\n! GRPCRoute shop/orders   ResolvedRefs is False since {since} UTC, \
         BackendNotFound: there is no service orders-v2.shop\n    try: outrigger describe grpcroute \
         orders -n shop\n"
    );
    assert!(picture.contains(&expected), "{picture}");
    let last = picture.lines().last();
    let link = "a trace of the last seconds: http://jaeger/trace/4bf92f3577b34da6a3ce929d0e0e4736";
    assert_eq!(last, Some(link));
}
