//! What the transport, the driver and the clock do to a connection: its end, its output and credit,
//! and peers that are slow or silent.

use std::time::{Duration, Instant};

use super::{
    Connection,
    connection::{Exchange, Role},
    reader::Reader,
    writer::Writer,
};
use crate::http::{ConnectionError, ErrorCode, StreamError};

/// Memory for output above this is given back when a connection is idle. Bytes.
const IDLE_BYTES_MAX: usize = 4 * 1024;

/// What `tick` compares.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Since when this end waits for a head; `None`: the next look at the time says.
    pub(super) waiting: Option<Instant>,
    /// Bytes read and written so far, and written so far.
    pub(super) moved: u64,
    pub(super) written: u64,
    /// What they were, and since when they are the same.
    seen_moved: (u64, Option<Instant>),
    seen_written: (u64, Option<Instant>),
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self { waiting: Some(now), ..Self::default() }
    }
}

/// For how long a count has been the same.
fn still(seen: &mut (u64, Option<Instant>), count: u64, now: Instant) -> Duration {
    match seen.1 {
        Some(since) if seen.0 == count => now.saturating_duration_since(since),
        _ => {
            *seen = (count, Some(now));
            Duration::ZERO
        }
    }
}

impl Connection {
    /// The peer has closed its sending half in order; what was received before is still to be given
    /// to [`Self::receive`], and then an empty input.
    pub fn eof(&mut self) {
        self.eof = true;
    }

    /// The transport broke: nothing can be read or written any more. Other than after [`Self::eof`],
    /// a body that ends with the connection counts as cut off.
    pub fn broken(&mut self) {
        self.eof = true;
        let unseen = self.role == Role::Client && !self.now.sent;
        let error = StreamError::Connection(ConnectionError::Eof);
        let unprocessed = StreamError::Unprocessed(ErrorCode::REFUSED_STREAM);
        self.lose(if unseen { unprocessed } else { error }, ConnectionError::Eof);
        self.output.clear();
    }

    /// Bytes to write. The driver takes them from the front, or takes the whole vector.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.shown = self.shown.max(self.waiting());
        &mut self.output
    }

    /// What [`Self::output`] would give, to look at.
    pub fn outgoing(&self) -> &Vec<u8> {
        &self.output
    }

    /// After a write: how much of what was taken out, or is still in the output, is not written.
    pub fn flushed(&mut self, left: usize) {
        self.outside = left.saturating_sub(self.output.len());
        let written = self.shown.saturating_sub(left);
        self.shown = left;
        self.clock.written += written as u64;
        self.clock.moved += written as u64;
        self.now.sent |= written > 0 || left == 0;
        if self.blocked && left <= self.config.output_bytes_max / 2 && self.now.takes() {
            self.blocked = false;
            self.writable = true;
        }
    }

    /// Body bytes that were reported by `Data` and went on.
    pub fn credit(&mut self, stream: u32, bytes: usize) {
        if self.is_current(stream) {
            self.now.owed = self.now.owed.saturating_sub(bytes);
        }
    }

    /// Whether reading goes on: not while what was read is not passed on, nor while the next request
    /// waits for the end of this one.
    pub fn wants_input(&self) -> bool {
        !self.eof && self.over.is_none() && !self.held && self.now.owed < self.config.window_bytes
    }

    /// Whether nothing is under way and the connection can still be used.
    pub fn is_idle(&self) -> bool {
        !self.now.open && !self.begun && self.over.is_none()
    }

    /// Whether a message has begun whose rest has not come, tunnels left aside.
    pub fn is_amid(&self) -> bool {
        let Exchange { open, headed, tunnel, read, .. } = &self.now;
        let body = !matches!(read, Reader::Done | Reader::Refused);
        match self.role {
            Role::Server if !open => self.begun,
            Role::Server => body && !tunnel,
            Role::Client => *open && !tunnel && (body || !headed),
        }
    }

    /// How many streams are open: none or one.
    pub fn streams(&self) -> usize {
        usize::from(self.is_live())
    }

    /// Whether the connection is over: what is in the output is to be written, nothing is read.
    pub fn is_closed(&self) -> bool {
        self.over.is_some()
    }

    /// Whether the peer may still be sending when the connection is over. The driver then shuts down
    /// its sending half and throws away what comes for a bounded time before it closes, because
    /// closing at once could take the response away from the peer (RFC 9112 section 9.6).
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// Whether a tunnel's outgoing half has ended: once the output is written, the driver shuts down
    /// its sending half and reads on.
    pub fn ends_output(&self) -> bool {
        self.now.open && self.now.tunnel && self.now.write == Writer::Done
    }

    /// Ends the connection in order: a server after the response under way, a client after its
    /// exchange; at once if there is none.
    pub fn drain(&mut self, _now: Instant) {
        self.draining = true;
        if self.is_idle() {
            self.end(ConnectionError::Local);
        }
    }

    /// Ends the connection as soon as the output is written. HTTP/1.1 has no words for why.
    pub fn close(&mut self, _code: ErrorCode, _why: &'static str) {
        self.lose(StreamError::Connection(ConnectionError::Local), ConnectionError::Local);
    }

    /// Looks at the time; to be called about once a second. What it found is reported by the next
    /// `receive`, also with an empty input.
    pub fn tick(&mut self, now: Instant) {
        if self.over.is_some() {
            return;
        }
        let waiting = self.waiting() > 0;
        let (moved, written) = (self.clock.moved, self.clock.written);
        let unread = still(&mut self.clock.seen_written, written, now);
        if !waiting {
            self.clock.seen_written.1 = Some(now);
        } else if unread >= self.config.reader_idle_max {
            self.output.clear();
            self.lose_to_time("reading");
            return;
        }
        let unmoved = still(&mut self.clock.seen_moved, moved, now);
        let reading = self.role == Role::Server
            && !self.now.tunnel
            && !matches!(self.now.read, Reader::Done | Reader::Refused)
            && self.now.owed < self.config.window_bytes
            && !waiting;
        if self.now.open && reading && unmoved >= self.config.body_idle_max {
            return self.fail(ConnectionError::Timeout("a request's body"));
        }
        let since = *self.clock.waiting.get_or_insert(now);
        if self.role == Role::Server && !self.now.open {
            self.check_head(now.saturating_duration_since(since));
        }
        if self.is_idle() && self.output.is_empty() && self.output.capacity() > IDLE_BYTES_MAX {
            self.output = Vec::new();
        }
    }

    fn lose_to_time(&mut self, what: &'static str) {
        let error = ConnectionError::Timeout(what);
        self.lose(StreamError::Connection(error), error);
    }

    fn check_head(&mut self, waited: Duration) {
        if self.begun && waited >= self.config.head_max {
            self.refuse_now(408);
            self.end(ConnectionError::Timeout("a request's head"));
        } else if self.fresh && waited >= self.config.head_max {
            self.end(ConnectionError::Timeout("the first request"));
        } else if waited >= self.config.idle_max {
            self.end(ConnectionError::Timeout("the next request"));
        }
    }

    /// The first byte of a head is here.
    pub(super) fn begin_head(&mut self, now: Instant) {
        if !self.begun {
            self.begun = true;
            if !self.fresh {
                self.clock.waiting = Some(now);
            }
        }
    }
}
