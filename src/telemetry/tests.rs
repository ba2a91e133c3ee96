//! One record, three outcomes: what is counted, logged and traced.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{
    Direction, Options, Record, Recorder, SpanContext, Telemetry,
    metrics::Workload,
    record::{head, sample},
};
use crate::snapshot::{AccessLogMode, Mesh, Tracing};

const BOUND: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn telemetry(out: &Out) -> Arc<Telemetry> {
    let telemetry = Telemetry::new(Options {
        workload: Workload::default(),
        resource: Vec::new(),
        otlp: None,
        exporter: Default::default(),
        sampling: None,
        access_log: Box::new(out.clone()),
    });
    Arc::new(telemetry.expect("started"))
}

/// As a worker whose turn ends.
fn finish(telemetry: &Arc<Telemetry>, mut record: Record) {
    let recorder = Recorder::new(telemetry);
    if recorder.finish(&mut record) {
        recorder.hand_over();
    }
}

fn mesh(sampling: f64, access_log: AccessLogMode) -> Mesh {
    Mesh {
        trust_domain: "mesh.local".to_owned(),
        authenticated_peers_allowed: true,
        egress_allowed: true,
        tracing: Tracing { sampling, per_second_max: 50.0, otlp: None },
        access_log,
    }
}

async fn text(telemetry: &Telemetry, out: &Out) -> String {
    telemetry.shutdown(BOUND).await;
    let bytes = out.0.lock().expect("whole").clone();
    String::from_utf8(bytes).expect("text")
}

#[tokio::test]
async fn a_request_is_counted_always_and_logged_as_configured() {
    let out = Out::default();
    let telemetry = telemetry(&out);
    finish(&telemetry, sample());
    assert_eq!(text(&telemetry, &out).await, "", "only errors are logged at first");
    finish(&telemetry, Record { http_status: 503, ..sample() });
    assert_eq!(text(&telemetry, &out).await.lines().count(), 1);
    telemetry.configure(&mesh(1.0, AccessLogMode::All));
    finish(&telemetry, sample());
    assert_eq!(text(&telemetry, &out).await.lines().count(), 2);
    telemetry.configure(&mesh(1.0, AccessLogMode::Off));
    finish(&telemetry, Record { http_status: 503, ..sample() });
    assert_eq!(text(&telemetry, &out).await.lines().count(), 2);
    assert_eq!(telemetry.traffic()[0].total, 4);
    assert!(telemetry.encode().contains("outrigger_spans_dropped_total 0"));
}

#[tokio::test]
async fn texts_are_cut_at_a_character() {
    let out = Out::default();
    let telemetry = telemetry(&out);
    let head = head("POST", &"/ä".repeat(5000));
    finish(&telemetry, Record { head, http_status: 503, ..sample() });
    let line: serde_json::Value =
        serde_json::from_str(&text(&telemetry, &out).await).expect("JSON");
    let path = line["path"].as_str().expect("text");
    assert!((2040..=2048).contains(&path.len()), "{}", path.len());
}

#[tokio::test]
async fn a_request_begins_below_its_parent_or_as_the_mesh_samples() {
    let telemetry = telemetry(&Out::default());
    let parent = SpanContext { trace_id: 5, span_id: 6, sampled: true };
    let begun = telemetry.begin(Direction::Inbound, Some(parent), || Duration::ZERO, || 9);
    assert_eq!((begun.span.trace_id, begun.parent), (5, Some(6)));
    assert_eq!(telemetry.metrics().requests_in_flight(), 1);
    telemetry.end(Direction::Inbound);
    assert_eq!(telemetry.metrics().requests_in_flight(), 0);
    for (share, sampled) in [(1.0, true), (0.0, false)] {
        telemetry.configure(&mesh(share, AccessLogMode::Off));
        let begun = telemetry.begin(Direction::Outbound, None, || Duration::ZERO, || 9);
        assert_eq!(begun.span.sampled, sampled);
    }
}
