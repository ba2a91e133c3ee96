//! What a worker tells of its requests. Lines and spans are written where the request ended, while
//! everything that they tell is at hand, and go on in chunks. Records that were handed over one by one
//! cost more than the requests: memory that another thread frees, two queues, and on their other side
//! nothing of them in any cache.

use std::{cell::RefCell, mem, sync::Arc};

use super::{
    Telemetry, line, log,
    record::{Direction, Record},
    repeats::Repeats,
    spans::Batch,
};
use crate::clock;

/// A chunk that has grown so large does not wait for the end of the turn.
const CHUNK_BYTES: usize = 16 * 1024;
/// What is kept, in the hope for another turn, while whoever takes chunks takes none.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Tells of the requests of one worker.
pub struct Recorder {
    telemetry: Arc<Telemetry>,
    lines: RefCell<Chunk>,
    spans: RefCell<Batch>,
    repeats: RefCell<Repeats>,
}

/// Lines or spans, one after the other.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// How many there are.
    pub(super) count: usize,
}

impl Recorder {
    /// For one worker.
    pub fn new(telemetry: &Arc<Telemetry>) -> Self {
        let telemetry = Arc::clone(telemetry);
        Self {
            telemetry,
            lines: RefCell::default(),
            spans: RefCell::default(),
            repeats: RefCell::default(),
        }
    }

    /// Counts, logs and traces a request that ended. Never waits, and takes no lock but for labels that
    /// this thread sees for the first time. Returns whether [`Self::hand_over`] is to be called when the
    /// turn ends.
    pub fn finish(&self, record: &mut Record) -> bool {
        let telemetry = &*self.telemetry;
        telemetry.metrics.count(record);
        let logged = log::wanted(telemetry.log_mode(), record);
        let traced = record.span.sampled && telemetry.spans.is_on();
        if traced && record.direction == Direction::Outbound {
            telemetry.metrics.keep_trace(record);
        }
        if !logged && !traced {
            return false;
        }
        if record.started.is_zero() {
            record.started = clock::since_epoch().saturating_sub(record.duration);
        }
        let mut repeats = self.repeats.borrow_mut();
        let repeat = repeats.of(record);
        if logged {
            let mut lines = self.lines.borrow_mut();
            line::write(&mut lines.bytes, record, repeat.map(|repeat| &repeat.line));
            lines.count += 1;
            if lines.bytes.len() >= CHUNK_BYTES {
                telemetry.log.take(&mut lines);
            }
        }
        if traced {
            let mut spans = self.spans.borrow_mut();
            spans.extend(record, repeat.map(|repeat| &repeat.spans));
            if spans.chunk.bytes.len() >= CHUNK_BYTES {
                telemetry.spans.take(&mut spans.chunk);
            }
        }
        true
    }

    /// Hands over what was written since the last time.
    pub fn hand_over(&self) {
        self.telemetry.log.take(&mut self.lines.borrow_mut());
        self.telemetry.spans.take(&mut self.spans.borrow_mut().chunk);
    }
}

/// What nobody could take any more is counted as lost.
impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
        let (lines, spans) = (self.lines.get_mut().count, self.spans.get_mut().chunk.count);
        self.telemetry.log.lose(lines);
        self.telemetry.spans.lose(spans);
    }
}

impl Chunk {
    /// Lets `take` have it, which gives it back when it can not. Returns how many of what is in it were
    /// lost.
    pub(super) fn hand_over(&mut self, take: impl FnOnce(Self) -> Result<(), Self>) -> usize {
        if self.count == 0 {
            return 0;
        }
        // The next turn is usually as large.
        let room = self.bytes.len().min(CHUNK_BYTES);
        match take(mem::take(self)) {
            Ok(()) => self.bytes.reserve(room),
            Err(kept) => *self = kept,
        }
        if self.bytes.len() < KEPT_BYTES_MAX {
            return 0;
        }
        self.bytes.clear();
        mem::take(&mut self.count)
    }
}
