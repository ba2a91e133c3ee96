//! Cancels towards a server. Servers defend themselves against rapid reset by closing connections on
//! which requests are reset before they were looked at (h2 after 20 in one read), and a mesh's
//! connection is shared: one caller that cancels at once, again and again, would cost the others
//! their calls. So the resets of young requests are spaced: the caller is rid of its stream at once,
//! the frame follows when a server will take it as what it is. Until then the stream counts, because
//! for the server it is open. Sidecars are told at once: they know how sidecars cancel.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Connection, Role, frame,
    streams::{Receiving, Stream},
};
use crate::http::ErrorCode;

/// A request that is as old as this, or whose response has begun, was looked at.
const YOUNG: Duration = Duration::from_millis(25);
/// Resets of young requests in one burst, and how long one takes to be earned again.
const BURST: u32 = 10;
const EVERY: Duration = Duration::from_millis(1);

/// A reset that is still to be written.
struct Cancel {
    stream: u32,
    code: ErrorCode,
    opened: Instant,
}

/// Resets that wait, oldest first, and how many may go at once.
pub(super) struct Cancels {
    held: VecDeque<Cancel>,
    left: u32,
    earned: Instant,
    /// The time of the last call that said it.
    now: Instant,
}

impl Cancels {
    pub(super) fn new(now: Instant) -> Self {
        Self { held: VecDeque::new(), left: BURST, earned: now, now }
    }

    /// How many streams the server still counts.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Time passed.
    pub(super) fn at(&mut self, now: Instant) {
        self.now = now;
    }

    /// Whether the reset of a young request may go now.
    fn admit(&mut self) -> bool {
        let since = self.now.saturating_duration_since(self.earned).as_millis();
        if let earned @ 1.. = u32::try_from(since / EVERY.as_millis()).unwrap_or(BURST) {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.earned = self.now;
        }
        let admitted = self.left > 0;
        self.left -= u32::from(admitted);
        admitted
    }

    fn is_young(&self, opened: Instant) -> bool {
        self.now.saturating_duration_since(opened) < YOUNG
    }
}

impl Connection {
    /// Ends a stream at once. Nothing is reported for it any more.
    pub fn reset(&mut self, stream: u32, code: ErrorCode) {
        let Some(slot) = self.streams.find(stream) else { return };
        let found = *self.streams.at(slot);
        self.budget.cancelled_here();
        if self.holds(&found) {
            let cancel = Cancel { stream, code, opened: found.opened };
            self.cancels.held.push_back(cancel);
        } else {
            frame::rst_stream(&mut self.output, stream, code);
        }
        self.cut(slot);
    }

    fn holds(&mut self, stream: &Stream) -> bool {
        self.role == Role::Client
            && !self.config.many_callers
            && stream.receiving == Receiving::Head
            && self.cancels.is_young(stream.opened)
            && (!self.cancels.is_empty() || !self.cancels.admit())
    }

    /// Writes the resets that may go now.
    pub(super) fn release_cancels(&mut self, now: Instant) {
        self.cancels.at(now);
        while let Some(cancel) = self.cancels.held.front() {
            if self.cancels.is_young(cancel.opened) && !self.cancels.admit() {
                return;
            }
            self.write_cancel();
        }
    }

    /// Writes all of them: the connection ends.
    pub(super) fn release_all_cancels(&mut self) {
        while !self.cancels.is_empty() {
            self.write_cancel();
        }
    }

    fn write_cancel(&mut self) {
        if let Some(cancel) = self.cancels.held.pop_front() {
            frame::rst_stream(&mut self.output, cancel.stream, cancel.code);
        }
    }
}
