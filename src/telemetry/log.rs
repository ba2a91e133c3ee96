//! The access log: one JSON object a line for each request that is to be logged.
//!
//! They are written by a thread of its own behind a bounded queue: a pipe that nobody reads, or a slow
//! disk, costs log lines, which are counted, and never a request.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{record::Record, recorder::Chunk};
use crate::{snapshot::AccessLogMode, task};

/// Chunks of lines that may wait, each of about 16 KiB at most.
const QUEUE_CHUNKS_MAX: usize = 256;

/// Lines are written together up to so many bytes.
const BATCH_BYTES: usize = 64 * 1024;
/// How long the first of them waits for others.
const GATHER: Duration = Duration::from_millis(5);

/// Hands lines to the writing thread.
#[derive(Debug)]
pub(super) struct AccessLog {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Lines(Chunk),
    /// Write everything out, then say so.
    Flush(oneshot::Sender<()>),
}

impl AccessLog {
    /// Starts the thread that writes to `out`. What is lost is counted in `dropped`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(out: Box<dyn Write + Send>, dropped: Arc<AtomicU64>) -> io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel(QUEUE_CHUNKS_MAX);
        let lost = Arc::clone(&dropped);
        let _detached = task::thread("access-log", move || write_all(&lines, out, &lost))?;
        Ok(Self { queue, dropped })
    }

    /// Queues what is in `lines`, or leaves it there; never waits.
    pub(super) fn take(&self, lines: &mut Chunk) {
        let lost = lines.hand_over(|lines| match self.queue.try_send(Message::Lines(lines)) {
            Err(TrySendError::Full(Message::Lines(lines))) => Err(lines),
            Ok(()) | Err(_) => Ok(()),
        });
        self.lose(lost);
    }

    /// Counts lines that nobody will write.
    pub(super) fn lose(&self, lines: usize) {
        self.dropped.fetch_add(u64::try_from(lines).unwrap_or(u64::MAX), Ordering::Relaxed);
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
    let mut writer = Writer { out, lines: Vec::new(), count: 0 };
    let mut failing = false;
    loop {
        let message = match lines.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => return,
            // Nothing else comes for now.
            Err(TryRecvError::Empty) => {
                writer.flush_into(dropped, &mut failing);
                let Ok(message) = lines.recv() else { return };
                // Others follow, and each of them would wake this thread if it waited for them.
                thread::park_timeout(GATHER);
                message
            }
        };
        match message {
            Message::Lines(lines) => {
                writer.lines.extend_from_slice(&lines.bytes);
                writer.count += u64::try_from(lines.count).unwrap_or(u64::MAX);
                if writer.lines.len() >= BATCH_BYTES {
                    writer.flush_into(dropped, &mut failing);
                }
            }
            Message::Flush(done) => {
                writer.flush_into(dropped, &mut failing);
                let _nobody_waits = done.send(());
            }
        }
    }
}

/// Lines that are written together.
struct Writer {
    out: Box<dyn Write + Send>,
    lines: Vec<u8>,
    count: u64,
}

impl Writer {
    fn flush_into(&mut self, dropped: &AtomicU64, failing: &mut bool) {
        if self.count == 0 {
            return;
        }
        let written = self.out.write_all(&self.lines).and_then(|()| self.out.flush());
        if let Err(error) = &written {
            dropped.fetch_add(self.count, Ordering::Relaxed);
            if !*failing {
                tracing::warn!(%error, "the access log can not be written");
            }
        }
        *failing = written.is_err();
        self.lines.clear();
        self.count = 0;
    }
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

    use super::{AccessLog, Chunk, QUEUE_CHUNKS_MAX, wanted};
    use crate::{
        reason::{GrpcCode, Reason},
        snapshot::AccessLogMode,
        telemetry::{
            Direction, Record, line,
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

    fn log(log: &AccessLog, chunk: &mut Chunk, record: &Record) {
        line::write(&mut chunk.bytes, record, None);
        chunk.count += 1;
        log.take(chunk);
    }

    async fn lines(records: &[Record]) -> Vec<String> {
        let out = Shared::default();
        let started = AccessLog::start(Box::new(out.clone()), Arc::default()).expect("started");
        for record in records {
            log(&started, &mut Chunk::default(), record);
        }
        started.flush(BOUND).await;
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
        let stuck = Box::new(Stuck(stuck));
        let started = AccessLog::start(stuck, Arc::clone(&dropped)).expect("started");
        let lines = 4 * QUEUE_CHUNKS_MAX;
        let mut chunk = Chunk::default();
        for _ in 0..lines {
            log(&started, &mut chunk, &sample());
        }
        let lost = usize::try_from(dropped.load(Ordering::Relaxed)).expect("few");
        assert!(lost > 0 && lost + chunk.count < lines, "{lost} and {}", chunk.count);
        started.flush(Duration::from_millis(1)).await;
        drop(release);
    }
}
