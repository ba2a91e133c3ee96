//! The demo's order, read back from a real Jaeger: one trace with every hop, and in every hop the
//! client, attempt and server spans one within the other.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::Deserialize;

use crate::harness::{Place, Program, SOON, eventually, finish, free_port, get, heavy, peer};

/// A debug build on a busy machine is far from the 20 s of a release build.
const DEMO_MAX: Duration = Duration::from_secs(180);
/// Clocks of one machine agree; microseconds are rounded.
const ROUNDING: u64 = 2;

/// Starts Jaeger on free ports; where it takes OTLP, and where it answers queries.
async fn jaeger(place: &Place) -> Option<(Program, SocketAddr, SocketAddr)> {
    let program = peer("bin/jaeger")?;
    let (otlp, query, unused) = (free_port(), free_port(), free_port());
    let config = format!(
        "service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}}}
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 100000}}}}}}}}
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: \"{query}\"}}
    grpc: {{endpoint: \"{unused}\"}}
receivers: {{otlp: {{protocols: {{grpc: {{endpoint: \"{otlp}\"}}}}}}}}
exporters: {{jaeger_storage_exporter: {{trace_storage: memory}}}}
"
    );
    let config = place.write("jaeger.yaml", &config).display().to_string();
    let jaeger = Program::other(place, "jaeger", &program, &["--config".into(), config]);
    eventually(SOON, async || get(query, "/api/services").await).await;
    Some((jaeger, otlp, query))
}

/// What the query API answers.
#[derive(Debug, Deserialize)]
struct Answer {
    data: Vec<Trace>,
}

#[derive(Debug, Deserialize)]
struct Trace {
    spans: Vec<Span>,
    processes: BTreeMap<String, Process>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
}

/// Times are microseconds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    #[serde(rename = "traceID")]
    trace: String,
    #[serde(rename = "spanID")]
    id: String,
    operation_name: String,
    references: Vec<Reference>,
    start_time: u64,
    duration: u64,
    tags: Vec<Tag>,
    #[serde(rename = "processID")]
    process: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: String,
    #[serde(rename = "spanID")]
    span: String,
}

#[derive(Debug, Deserialize)]
struct Tag {
    key: String,
    value: serde_json::Value,
}

impl Span {
    fn tag(&self, key: &str) -> Option<&serde_json::Value> {
        self.tags.iter().find(|tag| tag.key == key).map(|tag| &tag.value)
    }

    /// `server`, `client`, or `attempt` for a client span that is one attempt of another.
    fn kind(&self) -> &str {
        if self.tag("outrigger.attempt").is_some() {
            return "attempt";
        }
        self.tag("span.kind").and_then(|kind| kind.as_str()).unwrap_or("internal")
    }

    fn parent(&self) -> Option<&str> {
        self.references.first().map(|parent| parent.span.as_str())
    }
}

impl Trace {
    fn service(&self, span: &Span) -> &str {
        &self.processes[&span.process].service_name
    }

    fn span(&self, id: &str) -> Option<&Span> {
        self.spans.iter().find(|span| span.id == id)
    }

    /// The span's line to the root, for people: `orders/client < front/server`.
    fn line(&self, span: &Span) -> String {
        let own = format!("{}/{}", self.service(span), span.kind());
        match span.parent().and_then(|parent| self.span(parent)) {
            Some(parent) => format!("{own} < {}", self.line(parent)),
            None => own,
        }
    }
}

#[tokio::test]
async fn an_order_of_the_demo_is_one_whole_trace_in_jaeger() {
    let _turn = heavy().await;
    let place = Place::new();
    let Some((_jaeger, otlp, query)) = jaeger(&place).await else { return };
    let otlp = format!("http://{otlp}");
    let demo = place.command(env!("CARGO_BIN_EXE_outrigger"), &["demo", "--once", "--otlp", &otlp]);
    let said = finish(demo, DEMO_MAX).await;
    said.assert_done();
    let id = said.stdout.lines().find_map(|line| {
        let rest = line.trim_start_matches("ok").trim_start().strip_prefix("trace")?;
        rest.trim_start().split(',').next()
    });
    let id = id.unwrap_or_else(|| panic!("no trace in {}", said.stdout));

    let trace = eventually(SOON, async || {
        let found = get(query, &format!("/api/traces/{id}")).await?;
        let found: Answer = serde_json::from_str(&found).map_err(|error| error.to_string())?;
        let mut traces = found.data;
        match (traces.pop(), traces.is_empty()) {
            (Some(trace), true) if trace.spans.len() >= 13 => Ok(trace),
            (trace, _) => Err(format!("not whole: {trace:?}")),
        }
    })
    .await;
    check(&trace, id);
}

fn check(trace: &Trace, id: &str) {
    let mut lines: Vec<String> = trace.spans.iter().map(|span| trace.line(span)).collect();
    lines.sort();
    let order = "orders/server < front/attempt < front/client < front/server";
    let mut expected = vec![
        "front/server".to_owned(),
        "front/client < front/server".to_owned(),
        "front/attempt < front/client < front/server".to_owned(),
        order.to_owned(),
    ];
    for service in ["catalog", "inventory", "payments"] {
        expected.push(format!("orders/client < {order}"));
        expected.push(format!("orders/attempt < orders/client < {order}"));
        expected.push(format!("{service}/server < orders/attempt < orders/client < {order}"));
    }
    expected.sort();
    assert_eq!(lines, expected, "every hop once, client around attempt around server");

    for span in &trace.spans {
        assert_eq!(span.trace, id);
        let Some(parent) = span.parent() else {
            assert!(span.operation_name.starts_with("POST"), "the only root: {span:?}");
            assert_eq!(span.tag("url.path"), Some(&"/orders".into()), "{span:?}");
            continue;
        };
        assert_eq!(span.references[0].ref_type, "CHILD_OF");
        let parent = trace.span(parent).expect("no orphan");
        let (begin, end) = (span.start_time, span.start_time + span.duration);
        assert!(parent.start_time <= begin + ROUNDING, "{} before {}", trace.line(span), parent.id);
        let parent_end = parent.start_time + parent.duration;
        assert!(end <= parent_end + ROUNDING, "{} ends after its parent", trace.line(span));
        assert!(span.tag("error").is_none_or(|error| *error == false), "{span:?}");
    }
}
