//! How a connection ends (RFC 9113 section 6.8): in order, where every request is either answered or
//! known to be unseen; at once, with GOAWAY saying why; or because the transport ended.

use std::time::{Duration, Instant};

use super::{
    Connection, Pending, Reading, Role,
    frame::{self, FrameHeader, STREAM_MAX, number},
    receive::protocol,
    streams::{Stream, Streams},
};
use crate::http::{ConnectionError, ErrorCode, StreamError};

/// The payload of the PING whose answer shows that the peer has read the first GOAWAY.
const DRAIN: [u8; 8] = *b"outr-bye";
/// The payload of the PING that asks whether the peer is there.
pub(super) const KEEPALIVE: [u8; 8] = *b"outr-ask";
/// How long that answer is waited for.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How far a connection is on its way to its end.
#[derive(Debug, Default)]
pub(super) struct Going {
    /// Whether `drain` was called.
    draining: bool,
    /// When the first GOAWAY went out, until the second did.
    first: Option<Instant>,
    /// The last stream that the second GOAWAY named.
    last: Option<u32>,
    /// What the peer's GOAWAY said.
    peer: Option<ErrorCode>,
}

impl Going {
    /// Whether no stream is opened any more.
    pub(super) fn closes(&self) -> bool {
        self.draining || self.peer.is_some()
    }

    /// Whether the peer was told that this stream will not be looked at.
    pub(super) fn refuses(&self, id: u32) -> bool {
        self.last.is_some_and(|last| id > last)
    }
}

impl Connection {
    /// Ends the connection in order. Server: the peer is told to open no more streams, and after one
    /// round trip which was the last; a request that crossed it is not lost. Client: nothing more is
    /// opened. In both cases `Closed` comes after the last stream.
    pub fn drain(&mut self, now: Instant) {
        if self.over || self.going.draining {
            return;
        }
        self.going.draining = true;
        if self.role == Role::Server {
            self.going.first = Some(now);
            frame::goaway(&mut self.output, STREAM_MAX, ErrorCode::NO_ERROR, "");
            frame::ping(&mut self.output, 0, DRAIN);
        }
        self.settle();
    }

    /// The second GOAWAY: the peer has read the first one, or had its time to.
    fn drain_on(&mut self) {
        if self.going.first.take().is_some() {
            let last = self.last_seen();
            self.going.last = Some(last);
            frame::goaway(&mut self.output, last, ErrorCode::NO_ERROR, "");
            self.settle();
        }
    }

    pub(super) fn drain_due(&mut self, now: Instant) {
        let due = |first: Instant| now.saturating_duration_since(first) >= DRAIN_TIME;
        if self.going.first.is_some_and(due) {
            self.drain_on();
        }
    }

    /// An answer to a PING; whether it was asked for.
    pub(super) fn ping_answered(&mut self, payload: [u8; 8]) -> bool {
        match payload {
            DRAIN if self.going.first.is_some() => {
                self.drain_on();
                true
            }
            KEEPALIVE => self.timers.answered(),
            _ => false,
        }
    }

    /// The peer's last stream that was looked at; streams of a client's peer do not exist.
    fn last_seen(&self) -> u32 {
        match self.role {
            Role::Server => self.streams.ids.next().saturating_sub(2),
            Role::Client => 0,
        }
    }

    pub(super) fn goaway(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        if header.stream != 0 {
            return Err(protocol("GOAWAY on a stream"));
        }
        let (Some(last), Some(code)) = (number(payload), payload.get(4..).and_then(number)) else {
            let what = "GOAWAY of a wrong length";
            return Err(ConnectionError::Protocol(ErrorCode::FRAME_SIZE_ERROR, what));
        };
        self.budget.control(10)?;
        let code = ErrorCode(code);
        if self.role == Role::Client {
            self.unprocessed_above(last & STREAM_MAX, code);
            if !self.going.closes() {
                self.pending.push_back(Pending::Capacity);
            }
        }
        self.going.peer = Some(code);
        self.settle();
        Ok(())
    }

    fn unprocessed_above(&mut self, last: u32, code: ErrorCode) {
        let above: Vec<u32> =
            self.streams.iter().map(|stream| stream.id).filter(|id| *id > last).collect();
        for id in above {
            self.pending.push_back(Pending::Reset(id, StreamError::Unprocessed(code)));
            if let Some(slot) = self.streams.find(id) {
                self.cut(slot);
            }
        }
    }

    /// Ends the connection now, with GOAWAY.
    pub fn close(&mut self, code: ErrorCode, why: &'static str) {
        if !self.over {
            let last = self.last_seen();
            frame::goaway(&mut self.output, last, code, why);
            let error = match code {
                ErrorCode::NO_ERROR => ConnectionError::Local,
                _ => ConnectionError::Protocol(code, why),
            };
            self.finish(error);
        }
    }

    /// The transport ended: each open stream is reported by `receive`, then the end.
    pub fn eof(&mut self) {
        let error = self.going.peer.map_or(ConnectionError::Eof, ConnectionError::GoAway);
        self.finish(error);
    }

    /// The peer made it impossible to go on.
    pub(super) fn fail(&mut self, error: ConnectionError) {
        let code = match error {
            ConnectionError::Protocol(code, _) => code,
            ConnectionError::Abuse(_) => ErrorCode::ENHANCE_YOUR_CALM,
            ConnectionError::Timeout("the answer to SETTINGS") => ErrorCode::SETTINGS_TIMEOUT,
            _ => ErrorCode::NO_ERROR,
        };
        if !self.over {
            let debug = error.to_string();
            let last = self.last_seen();
            frame::goaway(&mut self.output, last, code, &debug);
        }
        self.finish(error);
    }

    /// Whether a connection that is going has nothing left to do.
    pub(super) fn settle(&mut self) {
        if self.over || self.streams.len() > 0 {
            return;
        }
        if self.going.closes() {
            self.release_all_cancels();
        }
        match (self.role, self.going.peer) {
            (Role::Server, None) if self.going.last.is_some() => {
                self.finish(ConnectionError::Local);
            }
            (Role::Client, None) if self.going.draining => {
                frame::goaway(&mut self.output, 0, ErrorCode::NO_ERROR, "");
                self.finish(ConnectionError::Local);
            }
            (_, Some(code)) => {
                let last = self.last_seen();
                frame::goaway(&mut self.output, last, ErrorCode::NO_ERROR, "");
                let here = self.going.draining;
                self.finish(if here {
                    ConnectionError::Local
                } else {
                    ConnectionError::GoAway(code)
                });
            }
            _ => {}
        }
    }

    fn finish(&mut self, error: ConnectionError) {
        if self.over {
            return;
        }
        self.over = true;
        let streams = std::mem::replace(&mut self.streams, Streams::new());
        for stream in streams.iter() {
            let error = self.fate(stream, error);
            self.pending.push_back(Pending::Reset(stream.id, error));
        }
        self.waiting = std::collections::VecDeque::new();
        self.reading = Reading::Frame;
        self.unfinished = None;
        self.pending.push_back(Pending::Closed(error));
    }

    /// A request of which nothing was written can be made again whatever it is.
    fn fate(&self, stream: &Stream, error: ConnectionError) -> StreamError {
        if self.role == Role::Client && stream.head_at >= self.flushed {
            return StreamError::Unprocessed(ErrorCode::NO_ERROR);
        }
        StreamError::Connection(error)
    }
}
