//! What the user writes: heads, data, trailers and resets become frames in one output buffer. Data
//! is taken as far as both windows and the bound of the output permit; streams that could not send
//! all take turns.

use std::{cmp::min, time::Instant};

use super::{
    Connection, Role,
    frame::{FrameHeader, HEADER_LEN, PAYLOAD_MAX, STREAM_MAX, flag, kind},
    ids::Mark,
    streams::{Method, Receiving, Sending, Stream, Wait},
};
use crate::http::{HeaderBlock, Token};

/// Output beyond which no more input is read: heads for a peer that does not read.
const OUTPUT_PAUSE: usize = 1024 * 1024;
/// The output buffer's memory is given back above this.
const OUTPUT_KEPT: usize = 64 * 1024;

/// Why no stream can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// As many are open as the peer, or this side, permits.
    #[error("no room for another stream")]
    Full,
    /// The connection is ending.
    #[error("the connection is going away")]
    GoingAway,
    /// All identifiers were used.
    #[error("the stream identifiers are used up")]
    Exhausted,
    /// The peer does not take extended CONNECT.
    #[error("the peer does not take extended CONNECT")]
    Unsupported,
}

/// The DATA frame that the output ends with, if it does: what follows on its stream joins it. Frames
/// of a few bytes cost their reader more than they hold, and readers end connections over them (the
/// `h2` crate since RUSTSEC-2026-0258).
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tail {
    /// 0 for none.
    stream: u32,
    /// Where in the output it begins and ends.
    start: usize,
    end: usize,
}

impl Connection {
    /// Bytes to be written. The driver takes some from the front, or all of them, and then says by
    /// [`Connection::flushed`] what became of them before it calls anything else.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.lent = self.output.len();
        self.tail = Tail::default();
        &mut self.output
    }

    /// What [`Connection::output`] would give, to look at.
    pub fn outgoing(&self) -> &Vec<u8> {
        &self.output
    }

    /// After a write: how many bytes of output were not written, those included that the driver has
    /// taken away. They count as never seen by the peer, so rather too few than too many.
    pub fn flushed(&mut self, left: usize) {
        let before = self.taken + self.output.len().max(self.lent);
        let written = before.saturating_sub(left);
        self.taken = left.saturating_sub(self.output.len());
        self.tail = Tail::default();
        self.lent = self.output.len();
        self.flushed += u64::try_from(written).unwrap_or(0);
        self.answers = self.answers.saturating_sub(written);
        self.timers.wrote(written > 0);
        if left == 0 && self.output.capacity() > OUTPUT_KEPT {
            self.output = Vec::new();
        }
    }

    /// Output bytes that were not written.
    pub(super) fn unwritten(&self) -> usize {
        self.taken + self.output.len()
    }

    /// False while so much output waits that nothing more should be read.
    pub fn wants_input(&self) -> bool {
        self.unwritten() < OUTPUT_PAUSE
    }

    /// Whether data of a stream can go out now, as far as the connection is concerned.
    pub(super) fn has_room(&self) -> bool {
        self.send_window.open() > 0 && self.unwritten() < self.config.output_max && !self.over
    }

    /// How many streams [`Connection::open`] would take now.
    pub fn room(&self) -> usize {
        let spent = self.cancels.is_spent();
        if self.over || self.going.closes() || self.role == Role::Server || spent {
            return 0;
        }
        let ids = (STREAM_MAX + 2).saturating_sub(self.streams.ids.next()) / 2;
        let streams_max = min(min(self.peer.streams_max, self.config.streams_max), ids);
        (streams_max as usize).saturating_sub(self.streams.len() + self.cancels.len())
    }

    /// Whether bodies wait for the connection's window, so that those of new streams would too.
    pub fn is_held_up(&self) -> bool {
        self.send_window.open() == 0 && !self.waiting.is_empty()
    }

    /// Client: opens a stream with a request's head.
    pub fn open(&mut self, head: &HeaderBlock, end: bool, now: Instant) -> Result<u32, OpenError> {
        self.release_cancels(now);
        let id = self.streams.ids.next();
        if self.over || self.going.closes() {
            return Err(OpenError::GoingAway);
        }
        if id > STREAM_MAX {
            return Err(OpenError::Exhausted);
        }
        if self.room() == 0 {
            return Err(OpenError::Full);
        }
        if head.contains(Token::Protocol) && !self.peer.extended_connect {
            return Err(OpenError::Unsupported);
        }
        let method = match head.get(Token::Method) {
            Some(b"HEAD") => Method::Head,
            Some(b"CONNECT") => Method::Connect,
            _ => Method::Plain,
        };
        let sending = if end { Sending::Ended } else { Sending::Body };
        let stream = Stream {
            head_at: self.flushed + u64::try_from(self.unwritten()).unwrap_or(0),
            ..self.fresh(id, Receiving::Head, sending, method, now)
        };
        self.streams.insert(stream);
        self.write_head(id, head, end);
        Ok(id)
    }

    /// Server: writes the final head of a response. For a stream that is over nothing happens.
    pub fn respond(&mut self, stream: u32, head: &HeaderBlock, end: bool) {
        let Some(slot) = self.streams.find(stream) else { return };
        let found = self.streams.at(slot);
        debug_assert_eq!(found.sending, Sending::Head, "one final head");
        found.sending = Sending::Body;
        self.write_head(stream, head, end);
        if end {
            self.sent_all(slot);
        }
    }

    /// Server: writes a 1xx response; left out when the peer does not read.
    pub fn inform(&mut self, stream: u32, head: &HeaderBlock) {
        if self.unwritten() < self.config.output_max && self.streams.find(stream).is_some() {
            self.write_head(stream, head, false);
        }
    }

    /// Writes trailers, which end the stream.
    pub fn trailers(&mut self, stream: u32, trailers: &HeaderBlock) {
        let Some(slot) = self.streams.find(stream) else { return };
        debug_assert_eq!(self.streams.at(slot).sending, Sending::Body, "after the head");
        self.write_head(stream, trailers, true);
        self.sent_all(slot);
    }

    /// Writes as much of `data` as windows and room permit, and returns how much. `end` counts when
    /// all was taken. After less, `Event::Writable` says when there is room. For a stream that is
    /// over everything is taken and dropped.
    pub fn send(&mut self, stream: u32, data: &[u8], end: bool) -> usize {
        let Some(slot) = self.streams.find(stream) else { return data.len() };
        let sending = self.streams.at(slot).sending;
        debug_assert_eq!(sending, Sending::Body, "between head and end");
        if sending != Sending::Body {
            return data.len();
        }
        if data.is_empty() {
            if end {
                self.write_data(stream, data, true);
                self.sent_all(slot);
            }
            return 0;
        }
        let taken = self.admit_data(slot, data.len());
        let ends = end && taken == data.len();
        self.write_data(stream, &data[..taken], ends);
        let bytes = u32::try_from(taken).unwrap_or(u32::MAX);
        self.send_window.take(bytes);
        self.budget.sent(bytes);
        let found = self.streams.at(slot);
        found.send.take(bytes);
        found.slow_taken = found.slow_taken.saturating_add(bytes);
        if taken == data.len() {
            found.wait = Wait::No;
            self.budget.body();
        } else if found.wait != Wait::Queued {
            // One that is in the queue stays there, also when its window has closed meanwhile.
            if found.send.open() == 0 {
                found.wait = Wait::Window;
            } else {
                found.wait = Wait::Queued;
                self.waiting.push_back(stream);
            }
        }
        if ends {
            self.sent_all(slot);
        }
        taken
    }

    /// How much of `length` bytes may go out now.
    fn admit_data(&mut self, slot: u16, length: usize) -> usize {
        let stream = self.streams.at(slot);
        let (wait, open) = (stream.wait, stream.send.open());
        // Streams that were there first have their turn first.
        if wait == Wait::Queued || (wait != Wait::Granted && !self.waiting.is_empty()) {
            return 0;
        }
        let room = self.config.output_max.saturating_sub(self.unwritten());
        min(min(length, room), min(open, self.send_window.open()))
    }

    #[inline]
    fn write_data(&mut self, stream: u32, data: &[u8], end: bool) {
        if data.len() > self.peer.payload_max as usize {
            return self.write_frames(stream, data, end);
        }
        if data.is_empty() && !end {
            return;
        }
        let joined = self.tail.stream == stream && self.tail.end == self.output.len();
        if joined && self.join_data(data, end) {
            return;
        }
        let length = u32::try_from(data.len()).unwrap_or(PAYLOAD_MAX);
        let flags = if end { flag::END_STREAM } else { 0 };
        let start = self.output.len();
        self.output.reserve(HEADER_LEN + data.len());
        FrameHeader { length, kind: kind::DATA, flags, stream }.write(&mut self.output);
        self.output.extend_from_slice(data);
        self.tail = Tail { stream, start, end: self.output.len() };
    }

    /// Adds to the frame that the output ends with; false when it would get too large.
    fn join_data(&mut self, data: &[u8], end: bool) -> bool {
        let Tail { stream, start, end: at } = self.tail;
        let length = at - start - HEADER_LEN + data.len();
        if length > self.peer.payload_max as usize {
            return false;
        }
        let length = u32::try_from(length).unwrap_or(PAYLOAD_MAX);
        let flags = if end { flag::END_STREAM } else { 0 };
        let header = FrameHeader { length, kind: kind::DATA, flags, stream };
        self.output[start..start + HEADER_LEN].copy_from_slice(&header.bytes());
        self.output.extend_from_slice(data);
        self.tail.end = self.output.len();
        true
    }

    /// The same with more than one frame.
    fn write_frames(&mut self, stream: u32, data: &[u8], end: bool) {
        let payload_max = self.peer.payload_max as usize;
        let mut left = data;
        while !left.is_empty() {
            let (payload, rest) = left.split_at(min(left.len(), payload_max));
            self.output.reserve(HEADER_LEN + payload.len());
            let last = end && rest.is_empty();
            let length = u32::try_from(payload.len()).unwrap_or(PAYLOAD_MAX);
            let flags = if last { flag::END_STREAM } else { 0 };
            FrameHeader { length, kind: kind::DATA, flags, stream }.write(&mut self.output);
            self.output.extend_from_slice(payload);
            left = rest;
            if left.is_empty() {
                return;
            }
        }
    }

    /// Appends HEADERS, and CONTINUATION when a block is larger than the peer's frames.
    fn write_head(&mut self, stream: u32, head: &HeaderBlock, end: bool) {
        let at = self.output.len();
        let ends = if end { flag::END_STREAM } else { 0 };
        let header = |kind, flags, length: usize| FrameHeader {
            length: u32::try_from(length).unwrap_or(PAYLOAD_MAX),
            kind,
            flags,
            stream,
        };
        header(kind::HEADERS, 0, 0).write(&mut self.output);
        self.encoder.encode(head, &mut self.output);
        let length = self.output.len() - at - HEADER_LEN;
        let payload_max = self.peer.payload_max as usize;
        if length <= payload_max {
            let start = header(kind::HEADERS, ends | flag::END_HEADERS, length).bytes();
            self.output[at..at + HEADER_LEN].copy_from_slice(&start);
            return;
        }
        let block = self.output.split_off(at + HEADER_LEN);
        self.output.truncate(at);
        let last = length.div_ceil(payload_max) - 1;
        for (index, piece) in block.chunks(payload_max).enumerate() {
            let (kind, flags) =
                if index == 0 { (kind::HEADERS, ends) } else { (kind::CONTINUATION, 0) };
            let flags = if index == last { flags | flag::END_HEADERS } else { flags };
            header(kind, flags, piece.len()).write(&mut self.output);
            self.output.extend_from_slice(piece);
        }
    }

    /// This side ended a stream.
    fn sent_all(&mut self, slot: u16) {
        let stream = self.streams.at(slot);
        let before = std::mem::replace(&mut stream.wait, Wait::No);
        stream.sending = Sending::Ended;
        let (id, over) = (stream.id, stream.receiving == Receiving::Ended);
        if before == Wait::Queued {
            self.waiting.retain(|waiting| *waiting != id);
        }
        if over {
            self.complete(slot);
        }
    }

    /// Removes a stream that this side has reset. What the peer may have sent before it knows is
    /// swallowed, which is as much as its window was open.
    pub(super) fn cut(&mut self, slot: u16) {
        let stream = self.streams.at(slot);
        let mark = if stream.receiving == Receiving::Ended {
            Mark::Ended
        } else {
            self.late += u64::try_from(stream.window.open).unwrap_or(0);
            Mark::Cut
        };
        self.remove(slot, mark);
    }

    /// Both sides ended a stream.
    pub(super) fn complete(&mut self, slot: u16) {
        self.budget.completed();
        self.remove(slot, Mark::Ended);
    }

    /// Removes a stream from everything.
    pub(super) fn remove(&mut self, slot: u16, mark: Mark) {
        let stream = self.streams.at(slot);
        let (id, wait) = (stream.id, stream.wait);
        if wait == Wait::Queued {
            self.waiting.retain(|waiting| *waiting != id);
        }
        self.forget_part(id);
        self.streams.remove(slot, mark);
        if self.streams.len() == 0 {
            self.settle();
        }
    }
}
