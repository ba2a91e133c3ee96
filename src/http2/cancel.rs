//! Cancels towards a server. Servers defend themselves against rapid reset by closing connections: h2
//! when twenty requests were reset before it had looked at them, nghttp2 after a thousand resets and 33
//! more each second, Envoy after 500 of young streams, Netty after 200 in half a minute. A mesh's
//! connection is shared: one caller that cancels again and again would cost the others their calls. So
//! two things are seen to. A request that the server may not have read yet is reset only in small
//! numbers; before more of them are, the server is asked by SETTINGS, whose acknowledgement shows that
//! it has read all that came before (RFC 9113 section 6.5.3; a PING would do as well, but servers count
//! those too). And a connection has a budget of resets. The caller is rid of its stream at once in
//! either case; the frame follows when it may. Until then the stream counts, because for the server it
//! is open, and a connection whose budget is spent takes no new ones: the next requests go to another
//! one. A server that answers meanwhile needs no reset any more. Sidecars are told at once: they know
//! how sidecars cancel.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    Connection, Role, frame, settings,
    streams::{Receiving, Stream},
};
use crate::http::ErrorCode;

/// Resets of requests that the server may not have read: below h2's 20.
const UNREAD_MAX: u32 = 10;
/// A request this old was read, or else nobody reads.
const READ_AFTER: Duration = Duration::from_secs(5);
/// The budget, and how fast it is earned again: below all of those above.
const RESETS_MAX: u32 = 150;
const RESETS_PER_SECOND: u32 = 5;

/// A reset that is still to be written.
struct Cancel {
    stream: u32,
    code: ErrorCode,
    opened: Instant,
    /// Whether its response's head has not come.
    unanswered: bool,
}

/// Resets that wait, oldest first, and how many may go.
pub(super) struct Cancels {
    held: VecDeque<Cancel>,
    /// Resets of unread requests that may go before the server has said what it read.
    unread_left: u32,
    /// Requests below this identifier were read.
    read_below: u32,
    /// What the server was asked: how many of its acknowledgements are to come, and what the last of
    /// them says was read.
    asked: Option<(usize, u32)>,
    left: u32,
    earned: Instant,
    /// The time of the last call that said it.
    now: Instant,
}

impl Cancels {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            held: VecDeque::new(),
            unread_left: UNREAD_MAX,
            read_below: 0,
            asked: None,
            left: RESETS_MAX,
            earned: now,
            now,
        }
    }

    /// How many streams the server still counts.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether resets wait for the budget.
    pub(super) fn is_spent(&self) -> bool {
        self.left == 0 && !self.held.is_empty()
    }

    /// Time passed.
    pub(super) fn at(&mut self, now: Instant) {
        self.now = now;
    }

    fn earn(&mut self) {
        let passed = self.now.saturating_duration_since(self.earned).as_millis();
        let earned = passed * u128::from(RESETS_PER_SECOND) / 1_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(RESETS_MAX);
            self.left = self.left.saturating_add(earned).min(RESETS_MAX);
            self.earned = self.now;
        }
    }

    fn is_unread(&self, stream: u32, opened: Instant, unanswered: bool) -> bool {
        let age = self.now.saturating_duration_since(opened);
        unanswered && stream >= self.read_below && age < READ_AFTER
    }

    /// Whether a reset may go now; then it has.
    fn admit(&mut self, unread: bool) -> bool {
        self.earn();
        let admitted = self.left > 0 && (!unread || self.unread_left > 0);
        if admitted {
            self.left -= 1;
            self.unread_left -= u32::from(unread);
        }
        admitted
    }

    /// The server has ended a stream by itself.
    pub(super) fn forget(&mut self, stream: u32) {
        if !self.held.is_empty() {
            self.held.retain(|cancel| cancel.stream != stream);
        }
    }

    /// SETTINGS were acknowledged.
    fn acknowledged(&mut self) {
        let Some((left, below)) = &mut self.asked else { return };
        *left -= 1;
        if *left == 0 {
            self.read_below = *below;
            self.unread_left = UNREAD_MAX;
            self.asked = None;
        }
    }
}

impl Connection {
    /// Ends a stream at once. Nothing is reported for it any more.
    pub fn reset(&mut self, stream: u32, code: ErrorCode) {
        let Some(slot) = self.streams.find(stream) else { return };
        let found = *self.streams.at(slot);
        self.budget.cancelled_here();
        if self.holds(&found) {
            let unanswered = found.receiving == Receiving::Head;
            let cancel = Cancel { stream, code, opened: found.opened, unanswered };
            self.cancels.held.push_back(cancel);
        } else {
            frame::rst_stream(&mut self.output, stream, code);
        }
        self.cut(slot);
    }

    fn holds(&mut self, stream: &Stream) -> bool {
        if self.role == Role::Server || self.config.many_callers {
            return false;
        }
        let unanswered = stream.receiving == Receiving::Head;
        let unread = self.cancels.is_unread(stream.id, stream.opened, unanswered);
        if self.cancels.is_empty() && self.cancels.admit(unread) {
            return false;
        }
        if unread {
            self.ask();
        }
        true
    }

    /// Asks the server what it has read, by telling it once more what the window of new streams is.
    fn ask(&mut self) {
        if self.cancels.asked.is_none() && !self.over {
            let size = self.stream_window_next.back().copied().unwrap_or(self.stream_window);
            self.stream_window_next.push_back(size);
            settings::announce_window(&mut self.output, size);
            self.cancels.asked = Some((self.stream_window_next.len(), self.streams.ids.next()));
        }
    }

    /// SETTINGS were acknowledged: some requests may be known to have been read.
    pub(super) fn cancels_were_read(&mut self) {
        self.cancels.acknowledged();
        self.release_cancels(self.cancels.now);
    }

    /// Writes the resets that may go now.
    pub(super) fn release_cancels(&mut self, now: Instant) {
        self.cancels.at(now);
        while let Some(cancel) = self.cancels.held.front() {
            let unread = self.cancels.is_unread(cancel.stream, cancel.opened, cancel.unanswered);
            if !self.cancels.admit(unread) {
                if unread {
                    self.ask();
                }
                return;
            }
            self.write_cancel();
        }
    }

    /// Whether so many requests were cancelled that others had better go elsewhere.
    pub fn is_spent(&self) -> bool {
        self.cancels.is_spent()
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
