//! The access log: one JSON object a line for each request that is to be logged.
//!
//! Lines are made and written by a thread of their own behind a bounded queue: a pipe that nobody
//! reads, or a slow disk, costs log lines, which are counted, and never a request.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::oneshot;

use super::{record::Record, time::Rfc3339};
use crate::{reason::Reason, snapshot::AccessLogMode, task};

/// Lines that may wait. A record is a few hundred bytes; its texts are cut before they come here.
const QUEUE_LINES_MAX: usize = 4096;

/// Hands records to the writing thread.
#[derive(Debug)]
pub(super) struct AccessLog {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Arc<Record>),
    /// Write everything out, then say so.
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Starts the thread that writes to `out`. What is lost is counted in `dropped`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(out: Box<dyn Write + Send>, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(QUEUE_LINES_MAX);
        let lost = Arc::clone(&dropped);
        let _detached = task::thread("access-log", move || write_all(&lines, out, &lost))?;
        Ok(Self { queue, dropped })
    }

    /// Queues a line; never waits.
    pub(super) fn log(&self, record: &Arc<Record>) {
        if self.queue.try_send(Message::Line(Arc::clone(record))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was queued before is written, at most `bound`. May be cancelled.
    pub(super) async fn flush(&self, bound: Duration) {
        let (done, written) = oneshot::channel();
        // A full queue has a writer that is stuck, for which waiting does nothing.
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _in_time = tokio::time::timeout(bound, written).await;
        }
    }
}

/// Whether `record` is logged under `mode`.
pub(super) fn wanted(mode: AccessLogMode, record: &Record) -> bool {
    match mode {
        AccessLogMode::Off => false,
        AccessLogMode::Errors => !record.succeeded(),
        AccessLogMode::All => true,
    }
}

fn write_all(lines: &Receiver<Message>, out: Box<dyn Write + Send>, dropped: &AtomicU64) {
    let mut out = io::BufWriter::new(out);
    let mut failing = false;
    while let Some(message) = next(lines, &mut out) {
        let result = match message {
            Message::Line(record) => write_line(&mut out, &record)
                .inspect_err(|_| _ = dropped.fetch_add(1, Ordering::Relaxed)),
            Message::Flush(done) => {
                let flushed = out.flush();
                let _nobody_waits = done.send(());
                flushed
            }
        };
        if let Err(error) = &result
            && !failing
        {
            tracing::warn!(%error, "the access log can not be written");
        }
        failing = result.is_err();
    }
}

/// The next message; flushes before it waits. `None`: nobody will send more.
fn next(lines: &Receiver<Message>, out: &mut impl Write) -> Option<Message> {
    match lines.recv_timeout(Duration::ZERO) {
        Ok(message) => Some(message),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            // An error shows again at the next line, where it is counted.
            let _shown_later = out.flush();
            lines.recv().ok()
        }
    }
}

fn write_line(out: &mut impl Write, record: &Record) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line::from(record))?;
    out.write_all(b"\n")
}

/// The fields of a line, in their order. What is not known is null.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    direction: &'static str,
    trace_id: String,
    span_id: String,
    source: Option<&'a str>,
    destination: Option<&'a str>,
    port: Option<u16>,
    protocol: &'static str,
    method: &'a str,
    path: &'a str,
    authority: &'a str,
    route: Option<&'a str>,
    rule: Option<&'a str>,
    policy: Option<&'a str>,
    http_status: Option<u16>,
    grpc_status: Option<&'static str>,
    reason: Option<&'static str>,
    attempts: Vec<AttemptLine<'a>>,
    source_address: &'a str,
    upstream_address: Option<&'a str>,
    tls: bool,
    deadline_ms: Option<f64>,
    queue_ms: f64,
    upstream_ms: f64,
    duration_ms: f64,
    request_bytes: u64,
    response_bytes: u64,
    revision: u64,
}

#[derive(Serialize)]
struct AttemptLine<'a> {
    endpoint: &'a str,
    reason: Option<&'static str>,
    ms: f64,
}

impl<'a> From<&'a Record> for Line<'a> {
    fn from(record: &'a Record) -> Self {
        let attempts = record.attempts.iter().map(|attempt| AttemptLine {
            endpoint: &attempt.place.endpoint,
            reason: attempt.reason.map(Reason::name),
            ms: ms(attempt.duration),
        });
        Self {
            time: Rfc3339(record.started).to_string(),
            direction: record.direction.name(),
            trace_id: format!("{:032x}", record.span.trace_id),
            span_id: format!("{:016x}", record.span.span_id),
            source: known(&record.source),
            destination: known(&record.destination),
            port: Some(record.port).filter(|port| *port != 0),
            protocol: record.protocol,
            method: record.method(),
            path: record.path(),
            authority: record.authority(),
            route: record.route.as_ref().map(|id| &*id.route),
            rule: record.route.as_ref().map(|id| &*id.rule),
            policy: known(&record.policy),
            http_status: Some(record.http_status).filter(|status| *status != 0),
            grpc_status: record.grpc_status.map(|code| code.name()),
            reason: record.reason.map(Reason::name),
            attempts: attempts.collect(),
            source_address: &record.source_address,
            upstream_address: known(record.upstream_address()),
            tls: record.tls,
            deadline_ms: record.deadline.map(ms),
            queue_ms: ms(record.queued),
            upstream_ms: ms(record.upstream),
            duration_ms: ms(record.duration),
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            revision: record.revision,
        }
    }
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Milliseconds to a microsecond.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{
            Arc, Mutex,
            atomic::{AtomicU64, Ordering},
            mpsc,
        },
        time::Duration,
    };

    use super::{AccessLog, QUEUE_LINES_MAX, wanted};
    use crate::{
        reason::{GrpcCode, Reason},
        snapshot::AccessLogMode,
        telemetry::{
            Direction, Record,
            record::{head, sample},
        },
    };

    const BOUND: Duration = Duration::from_secs(20);

    /// A writer whose content can be looked at.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn lines(records: &[Record]) -> Vec<String> {
        let out = Shared::default();
        let log = AccessLog::start(Box::new(out.clone()), Arc::default()).expect("started");
        for record in records {
            log.log(&Arc::new(record.clone()));
        }
        log.flush(BOUND).await;
        let bytes = out.0.lock().expect("whole").clone();
        let text = String::from_utf8(bytes).expect("text");
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_line_has_all_fields_in_order() {
        let expected = concat!(
            r#"{"time":"2026-11-23T12:04:00.123000Z","direction":"outbound","#,
            r#""trace_id":"00000000000000000000000000000abc","span_id":"0000000000000012","#,
            r#""source":"front.shop","destination":"orders.shop","port":9090,"protocol":"grpc","#,
            r#""method":"POST","path":"/shop.Orders/Place","authority":"orders:9090","#,
            r#""route":"shop/orders","rule":"0","policy":null,"http_status":200,"#,
            r#""grpc_status":"OK","reason":null,"#,
            r#""attempts":[{"endpoint":"orders-1","reason":"connect_failed","ms":4.0},"#,
            r#"{"endpoint":"orders-1","reason":null,"ms":4.0}],"#,
            r#""source_address":"127.0.0.1:40000","upstream_address":"10.0.0.2:15006","tls":true,"#,
            r#""deadline_ms":2000.0,"queue_ms":0.0,"upstream_ms":4.0,"duration_ms":12.0,"#,
            r#""request_bytes":100,"response_bytes":200,"revision":42}"#,
        );
        assert_eq!(lines(&[sample()]).await, [expected]);
    }

    #[tokio::test]
    async fn what_is_not_known_is_null_and_what_is_hostile_stays_in_its_field() {
        let record = Record {
            direction: Direction::Inbound,
            source: "".into(),
            port: 0,
            route: None,
            policy: "shop/payments".into(),
            http_status: 0,
            grpc_status: None,
            reason: Some(Reason::Denied),
            head: head("POST", "/a\"\n{\"reason\":\"\u{1b}[31m"),
            deadline: None,
            ..sample()
        };
        let lines = lines(&[record.clone(), sample()]).await;
        assert_eq!(lines.len(), 2, "a line stays a line");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
        assert_eq!(line["path"], *record.path());
        assert!(!lines[0].contains('\u{1b}'), "no escape sequence reaches a terminal");
        assert_eq!((&line["reason"], &line["policy"]), (&"denied".into(), &"shop/payments".into()));
        for field in ["source", "port", "route", "http_status", "grpc_status", "deadline_ms"] {
            assert!(line[field].is_null(), "{field}");
        }
    }

    #[test]
    fn modes_choose() {
        let failed = Record { grpc_status: Some(GrpcCode::Unavailable), ..sample() };
        for (mode, of_success, of_failure) in [
            (AccessLogMode::Off, false, false),
            (AccessLogMode::Errors, false, true),
            (AccessLogMode::All, true, true),
        ] {
            assert_eq!(wanted(mode, &sample()), of_success, "{mode:?}");
            assert_eq!(wanted(mode, &failed), of_failure, "{mode:?}");
        }
    }

    /// Blocks every write until the sender is dropped.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _released = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_costs_lines_and_nothing_else() {
        let (release, stuck) = mpsc::channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let log = AccessLog::start(Box::new(Stuck(stuck)), Arc::clone(&dropped)).expect("started");
        let record = Arc::new(sample());
        let lines = 4 * u64::try_from(QUEUE_LINES_MAX).expect("small");
        for _ in 0..lines {
            log.log(&record);
        }
        let lost = dropped.load(Ordering::Relaxed);
        assert!(lost > 0 && lost < lines, "{lost}");
        log.flush(Duration::from_millis(1)).await;
        drop(release);
    }
}
