//! What Prometheus reads after requests and events were counted.

use std::{
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use super::{Certificate, Decision, DestinationState, Metrics, Workload};
use crate::{
    reason::{GrpcCode, Reason},
    telemetry::{
        Attempt, Attempts, Direction, Record,
        record::{head, sample},
    },
};

fn metrics() -> Metrics {
    Metrics::new(&Workload {
        service: "front".to_owned(),
        namespace: "shop".to_owned(),
        name: "front-1".to_owned(),
        zone: String::new(),
    })
}

/// The value of exactly that series.
fn value<'a>(text: &'a str, series: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
}

#[track_caller]
fn expect(text: &str, series: &str, expected: &str) {
    assert_eq!(value(text, series), Some(expected), "{series}\nin\n{text}");
}

#[test]
fn a_request_is_one_count_in_each_of_its_families() {
    let metrics = metrics();
    for _ in 0..3 {
        metrics.count(&sample());
    }
    let text = metrics.encode();
    let ends = r#"direction="outbound",source="front.shop",destination="orders.shop""#;
    expect(
        &text,
        &format!(
            r#"outrigger_requests_total{{{ends},destination_port="9090",route="shop/orders",method="shop.Orders/Place",http_status="200",grpc_status="OK",result="success",reason=""}}"#
        ),
        "3",
    );
    let duration = format!(r#"{ends},route="shop/orders",result="success",type="unary""#);
    let name = "outrigger_request_duration_seconds";
    expect(&text, &format!("{name}_count{{{duration}}}"), "3");
    expect(&text, &format!("{name}_sum{{{duration}}}"), "0.036");
    expect(&text, &format!(r#"{name}_bucket{{le="0.01",{duration}}}"#), "0");
    expect(&text, &format!(r#"{name}_bucket{{le="0.025",{duration}}}"#), "3");
    expect(&text, &format!(r#"{name}_bucket{{le="30.0",{duration}}}"#), "3");
    expect(&text, &format!(r#"{name}_bucket{{le="+Inf",{duration}}}"#), "3");
    expect(&text, &format!("outrigger_request_bytes_total{{{ends}}}"), "300");
    expect(&text, &format!("outrigger_response_bytes_total{{{ends}}}"), "600");
    expect(&text, r#"outrigger_proxy_overhead_seconds_count{direction="outbound"}"#, "3");
    let attempts = r#"source="front.shop",destination="orders.shop",route="shop/orders""#;
    expect(&text, &format!(r#"outrigger_attempts_total{{{attempts},outcome="success"}}"#), "3");
    let refused = format!(r#"outrigger_attempts_total{{{attempts},outcome="connect_failed"}}"#);
    expect(&text, &refused, "3");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn failures_carry_their_reason() {
    let metrics = metrics();
    let full = Record {
        reason: Some(Reason::BulkheadFull),
        grpc_status: Some(GrpcCode::Unavailable),
        attempts: Attempts::default(),
        ..sample()
    };
    metrics.count(&full);
    metrics.count(&Record { grpc_status: Some(GrpcCode::Internal), ..sample() });
    let not_found = Record { grpc_status: Some(GrpcCode::NotFound), ..sample() };
    metrics.count(&not_found);
    let text = metrics.encode();
    assert!(
        text.contains(r#"grpc_status="UNAVAILABLE",result="failure",reason="bulkhead_full"} 1"#)
    );
    assert!(text.contains(r#"grpc_status="INTERNAL",result="failure",reason=""} 1"#));
    assert!(text.contains(r#"grpc_status="NOT_FOUND",result="success",reason=""} 1"#));
    let series =
        r#"outrigger_bulkhead_rejected_total{destination="orders.shop",reason="bulkhead_full"}"#;
    expect(&text, series, "1");

    let traffic = metrics.traffic();
    let orders = &traffic[0];
    assert_eq!((traffic.len(), orders.total), (1, 3));
    let failed = [("bulkhead_full", 1), ("grpc_INTERNAL", 1)];
    assert_eq!(orders.failed, failed.map(|(name, n)| (name.to_owned(), n)).into());
    assert_eq!(orders.latency_buckets.iter().sum::<u64>(), 3);
    // 12 ms is at least 1 ms × 2^(7/2) and below 1 ms × 2^(8/2).
    assert_eq!(orders.latency_buckets[8], 3);
}

#[test]
fn only_outbound_requests_between_services_are_traffic() {
    let metrics = metrics();
    metrics.count(&Record { direction: Direction::Inbound, ..sample() });
    metrics.count(&Record { destination: "external".into(), ..sample() });
    assert_eq!(metrics.traffic(), []);
    assert!(!metrics.encode().contains(r#"direction="inbound",source="front.shop",destination="orders.shop",route="shop/orders",outcome"#));
}

#[test]
fn made_up_names_stay_bounded() {
    let metrics = metrics();
    for i in 0..20_000 {
        metrics.count(&Record {
            source: format!("s{i}.shop").into(),
            destination: format!("d{i}.shop").into(),
            head: head("POST", &format!("/a.B/{i}")),
            port: u16::try_from(i).expect("small"),
            reason: (i % 2 == 0).then_some(Reason::UnknownService),
            ..sample()
        });
    }
    let text = metrics.encode();
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(lines <= 10_100, "{lines}");
    let sum: u64 = text
        .lines()
        .filter(|line| line.starts_with("outrigger_requests_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(sum, 20_000, "nothing is lost");
    assert_ne!(value(&text, "outrigger_metric_series_dropped_total"), Some("0"));
}

#[test]
fn every_worker_counts_in_the_same_series() {
    let metrics = metrics();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    metrics.count(&sample());
                }
            });
        }
    });
    assert_eq!(metrics.traffic()[0].total, 4000);
    // Another process's worth of metrics on the same thread is not mixed up with it.
    let other = self::metrics();
    other.count(&sample());
    metrics.count(&sample());
    assert_eq!((other.traffic()[0].total, metrics.traffic()[0].total), (1, 4001));
}

#[test]
fn hostile_label_values_are_escaped() {
    let metrics = metrics();
    metrics.count(&Record { head: head("POST", "/a\"}\n1 b\\"), ..sample() });
    assert!(metrics.encode().contains(r#"method="a\"}\n1 b\\","#));
}

#[test]
fn what_others_tell_is_exposed() {
    let metrics = metrics();
    let request = metrics.in_flight(Direction::Inbound);
    let open = metrics.connection(Direction::Outbound, "h2", true);
    drop(metrics.connection(Direction::Outbound, "h2", true));
    metrics.handshake(Direction::Inbound, None);
    metrics.handshake(Direction::Inbound, Some("peer_identity"));
    metrics.tcp_bytes(Direction::Outbound, "db.shop").fetch_add(7, Ordering::Relaxed);
    metrics.decision(Decision::Denied);
    metrics.ejected("orders.shop");
    metrics.retry_budget_exhausted("orders.shop");
    metrics.certificate(Certificate::Svid, UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    metrics.certificate_renewal(true);
    metrics.control_connected(true);
    metrics.control_contact(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    metrics.config(42, 1);
    metrics.config_rejection();
    metrics.watch_destinations(|| {
        vec![DestinationState {
            destination: "orders.shop".to_owned(),
            ready: 2,
            not_ready: 0,
            ejected: 1,
            bulkhead_in_use: 3,
            bulkhead_limit: 100,
            bulkhead_queued: 4,
        }]
    });
    assert_eq!(metrics.requests_in_flight(), 1);
    let text = metrics.encode();
    for (series, expected) in [
        (r#"outrigger_requests_in_flight{direction="inbound"}"#, "1"),
        (r#"outrigger_connections_open{direction="outbound",protocol="h2",tls="true"}"#, "1"),
        (
            r#"outrigger_connections_opened_total{direction="outbound",protocol="h2",tls="true"}"#,
            "2",
        ),
        (r#"outrigger_tls_handshakes_total{direction="inbound",result="success"}"#, "1"),
        (r#"outrigger_tls_handshakes_total{direction="inbound",result="peer_identity"}"#, "1"),
        (r#"outrigger_tcp_bytes_total{direction="outbound",destination="db.shop"}"#, "7"),
        (r#"outrigger_authorization_decisions_total{decision="denied"}"#, "1"),
        (r#"outrigger_authorization_decisions_total{decision="allowed"}"#, "0"),
        (r#"outrigger_ejections_total{destination="orders.shop"}"#, "1"),
        (r#"outrigger_retry_budget_exhausted_total{destination="orders.shop"}"#, "1"),
        (r#"outrigger_certificate_expiry_timestamp_seconds{kind="svid"}"#, "1800000000"),
        (r#"outrigger_certificate_renewals_total{result="success"}"#, "1"),
        ("outrigger_control_connected", "1"),
        ("outrigger_control_last_contact_timestamp_seconds", "1700000000"),
        ("outrigger_config_revision", "42"),
        ("outrigger_config_rejected_resources", "1"),
        ("outrigger_config_rejections_total", "1"),
        ("outrigger_spans_dropped_total", "0"),
        ("outrigger_metric_series_dropped_total", "0"),
        (r#"outrigger_endpoints{destination="orders.shop",state="ready"}"#, "2"),
        (r#"outrigger_endpoints{destination="orders.shop",state="ejected"}"#, "1"),
        (r#"outrigger_bulkhead_in_use{destination="orders.shop"}"#, "3"),
        (r#"outrigger_bulkhead_limit{destination="orders.shop"}"#, "100"),
        (r#"outrigger_bulkhead_queued{destination="orders.shop"}"#, "4"),
        (
            r#"outrigger_workload_info{service="front",namespace="shop",workload="front-1",zone=""}"#,
            "1",
        ),
    ] {
        expect(&text, series, expected);
    }
    assert!(value(&text, "process_cpu_seconds_total").is_some(), "{text}");
    assert!(value(&text, "process_resident_memory_bytes").is_some_and(|v| v != "0.0"));
    drop((request, open));
    assert_eq!(metrics.requests_in_flight(), 0);
}

#[test]
fn an_attempt_counts_by_how_it_ended() {
    let metrics = metrics();
    let good = sample().attempts.last().expect("two").clone();
    let failing = Attempt { grpc_status: Some(GrpcCode::Unavailable), ..good.clone() };
    metrics.count(&Record { attempts: [failing, good].into_iter().collect(), ..sample() });
    let text = metrics.encode();
    assert!(text.contains(r#"outcome="grpc_UNAVAILABLE"} 1"#), "{text}");
    assert!(text.contains(r#"outcome="success"} 1"#), "{text}");
}
