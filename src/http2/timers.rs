//! What is due by time. The driver calls `tick` about once a second; there is no timer per stream or
//! frame, because none of these limits has to be exact.

use std::time::{Duration, Instant};

use super::{
    Connection, Role, flow::WINDOW_MAX, frame, goaway::KEEPALIVE, settings, streams::Wait,
};
use crate::http::{ConnectionError, ErrorCode, StreamError};

/// A reader that takes this much within its time is not slow.
const READER_BYTES: u32 = 4_096;

/// What a connection waits for, and since when.
pub(super) struct Timers {
    opened: Instant,
    ticked: Instant,
    /// When something came last.
    read: Instant,
    /// Since when a head or a frame other than DATA is incomplete.
    unfinished: Option<Instant>,
    /// When an incomplete DATA frame grew last.
    data: Option<Instant>,
    /// When the settings went out that were not acknowledged yet.
    settings: Option<Instant>,
    /// When a PING went out that was not answered yet.
    ping: Option<Instant>,
    /// Since when nothing of the output was taken, and whether some was since the last tick.
    stalled: Option<Instant>,
    wrote: bool,
    /// Since when there is no stream, and the next identifier at that time.
    idle: Option<(Instant, u32)>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            opened: now,
            ticked: now,
            read: now,
            unfinished: None,
            data: None,
            settings: Some(now),
            ping: None,
            stalled: None,
            wrote: false,
            idle: None,
        }
    }

    /// Something came.
    #[inline]
    pub(super) fn read(&mut self, now: Instant) {
        self.read = now;
    }

    /// Whether what came last is incomplete.
    pub(super) fn unfinished(&mut self, unfinished: bool, now: Instant) {
        if unfinished {
            self.unfinished.get_or_insert(now);
        } else {
            self.unfinished = None;
        }
    }

    /// A frame was complete.
    #[inline]
    pub(super) fn progress(&mut self) {
        self.unfinished = None;
    }

    /// A part of a DATA frame came; whether more of it is to come.
    #[inline]
    pub(super) fn within_data(&mut self, more: bool, now: Instant) {
        self.data = more.then_some(now);
    }

    pub(super) fn settings_acknowledged(&mut self, all: bool) {
        if all {
            self.settings = None;
        }
    }

    /// A PING was answered; whether one was asked.
    pub(super) fn answered(&mut self) -> bool {
        self.ping.take().is_some()
    }

    /// Output was written, if `some`.
    pub(super) fn wrote(&mut self, some: bool) {
        self.wrote |= some;
    }
}

impl Connection {
    /// What is due by time; to be called about once a second. May produce output and events.
    pub fn tick(&mut self, now: Instant) {
        if self.over {
            return;
        }
        let elapsed = now.saturating_duration_since(self.timers.ticked);
        self.timers.ticked = now;
        self.budget.elapse(elapsed);
        if let Some(what) = self.overdue(now) {
            return self.fail(ConnectionError::Timeout(what));
        }
        self.release_cancels(now);
        self.slow_readers(now);
        self.keepalive(now);
        self.drain_due(now);
        self.idle(now);
    }

    /// What the connection has waited for too long.
    fn overdue(&mut self, now: Instant) -> Option<&'static str> {
        let config = self.config;
        let unwritten = self.unwritten() > 0;
        let timers = &mut self.timers;
        if !unwritten || std::mem::take(&mut timers.wrote) {
            timers.stalled = None;
        }
        if unwritten {
            timers.stalled.get_or_insert(now);
        }
        let over = |since: Option<Instant>, time: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= time)
        };
        let server = self.role == Role::Server;
        let unknown = (!self.peer.known).then_some(timers.opened);
        let without = (server && self.streams.ids.next() == 1).then_some(timers.opened);
        let limits = [
            (unknown, config.head_time, "the preface"),
            (timers.unfinished, config.head_time, "an unfinished head"),
            (without, config.first_request_time, "the first request"),
            (timers.data, config.stalled_time, "an unfinished DATA frame"),
            (timers.stalled, config.stalled_time, "reading what was written"),
            (timers.settings, config.answer_time, "the answer to SETTINGS"),
            (timers.ping, config.answer_time, "the answer to PING"),
        ];
        limits.iter().find(|(since, time, _)| over(*since, *time)).map(|(_, _, what)| *what)
    }

    /// Resets streams whose reader takes next to nothing of what waits for it.
    fn slow_readers(&mut self, now: Instant) {
        let time = self.config.slow_reader_time;
        let mut slow = Vec::new();
        for stream in self.streams.iter_mut() {
            let waits = matches!(stream.wait, Wait::Window | Wait::Queued);
            match stream.slow_since {
                Some(since) if waits && stream.slow_taken < READER_BYTES => {
                    if now.saturating_duration_since(since) >= time {
                        slow.push(stream.id);
                    }
                }
                _ => {
                    stream.slow_since = waits.then_some(now);
                    stream.slow_taken = 0;
                }
            }
        }
        for id in slow {
            let error = StreamError::Connection(ConnectionError::Timeout("reading a body"));
            self.pending.push_back(super::Pending::Reset(id, error));
            self.reset(id, ErrorCode::CANCEL);
        }
    }

    fn keepalive(&mut self, now: Instant) {
        if let Some(after) = self.config.keepalive_after
            && self.timers.ping.is_none()
            && now.saturating_duration_since(self.timers.read) >= after
        {
            self.timers.ping = Some(now);
            frame::ping(&mut self.output, 0, KEEPALIVE);
        }
    }

    fn idle(&mut self, now: Instant) {
        let next = self.streams.ids.next();
        match self.timers.idle {
            Some((since, at)) if at == next && self.streams.len() == 0 => {
                let time = self.config.idle_time;
                if self.role == Role::Server
                    && time.is_some_and(|time| now.saturating_duration_since(since) >= time)
                {
                    self.drain(now);
                }
            }
            _ => self.timers.idle = (self.streams.len() == 0).then_some((now, next)),
        }
    }

    /// Changes what the window of new streams is, and moves that of open ones as far: less when
    /// memory is short. Holds from when the peer acknowledges it.
    pub fn set_stream_window(&mut self, size: u32, now: Instant) {
        let size = size.clamp(1, WINDOW_MAX);
        let last = self.stream_window_next.back().copied().unwrap_or(self.stream_window);
        // One change at a time, so that a peer which never acknowledges costs nothing.
        if self.over || size == last || self.stream_window_next.len() > 1 {
            return;
        }
        self.config.stream_window_max = self.config.stream_window_max.max(size);
        self.stream_window_next.push_back(size);
        self.timers.settings.get_or_insert(now);
        settings::announce_window(&mut self.output, size);
    }
}
