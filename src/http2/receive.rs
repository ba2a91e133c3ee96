//! The loop over frames: what comes is cut into frames, and each goes to where its kind is
//! understood. Only DATA is handled before its frame is whole; every other frame is at most 16 KiB
//! and stays in the driver's buffer until then.

use std::time::Instant;

use super::{
    Connection, Pending, Role,
    data::Part,
    frame::{FrameHeader, HEADER_LEN, PAYLOAD_MAX, PREFACE, kind},
    streams::Wait,
};
use crate::http::{ConnectionError, ErrorCode, Event};

/// What `receive` is in the middle of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reading {
    /// The client's preface.
    Preface,
    /// Between frames.
    Frame,
    /// Within a DATA frame.
    Data(Part),
}

/// What one look at the input gave.
pub(super) enum Step<'i> {
    /// Something to tell.
    Event(Event<'i>),
    /// Something was taken; look again.
    Again,
    /// More input is needed.
    More,
}

/// A connection error of RFC 9113's kind.
pub(super) fn protocol(what: &'static str) -> ConnectionError {
    ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, what)
}

impl Connection {
    /// Takes from the front of `input` and returns the first thing that happened. `None`: everything
    /// usable was taken; what is left in `input` is given again with more bytes behind it. Also to be
    /// called with empty input after every other call, for what that may have made happen.
    pub fn receive<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Option<Event<'i>> {
        if !input.is_empty() {
            self.timers.read(now);
        }
        self.cancels.at(now);
        if !self.cancels.is_empty() && !self.over {
            self.release_cancels(now);
        }
        loop {
            if let Some(event) = self.pop() {
                return Some(event);
            }
            if self.over {
                *input = &[];
                return None;
            }
            let step = match self.reading {
                Reading::Frame => self.frame(input, now),
                Reading::Data(part) => self.part(part, input, now),
                Reading::Preface => self.preface(input),
            };
            match step {
                Ok(Step::Event(event)) => return Some(event),
                Ok(Step::Again) => {}
                Ok(Step::More) => {
                    self.timers.unfinished(!input.is_empty() || self.unfinished.is_some(), now);
                    return None;
                }
                Err(error) => self.fail(error),
            }
        }
    }

    /// What happened without input.
    #[inline]
    fn pop<'i>(&mut self) -> Option<Event<'i>> {
        if self.pending.is_empty() && self.waiting.is_empty() { None } else { self.pop_some() }
    }

    fn pop_some<'i>(&mut self) -> Option<Event<'i>> {
        match self.pending.pop_front() {
            Some(Pending::Reset(stream, error)) => return Some(Event::Reset { stream, error }),
            Some(Pending::Capacity) => return Some(Event::Capacity),
            Some(Pending::Closed(error)) => return Some(Event::Closed(error)),
            None => {}
        }
        while self.has_room() {
            let stream = self.waiting.pop_front()?;
            if let Some(found) = self.streams.get(stream) {
                found.wait = Wait::Granted;
                return Some(Event::Writable { stream });
            }
        }
        None
    }

    fn preface<'i>(&mut self, input: &mut &'i [u8]) -> Result<Step<'i>, ConnectionError> {
        let length = input.len().min(PREFACE.len());
        if input[..length] != PREFACE[..length] {
            return Err(protocol("no HTTP/2 preface"));
        }
        if length < PREFACE.len() {
            return Ok(Step::More);
        }
        *input = &input[length..];
        self.reading = Reading::Frame;
        Ok(Step::Again)
    }

    #[inline]
    fn frame<'i>(
        &mut self,
        input: &mut &'i [u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        let Some(header) = FrameHeader::parse(input) else { return Ok(Step::More) };
        self.admit(header)?;
        if header.kind == kind::DATA {
            return self.data(header, input, now);
        }
        let Some((frame, rest)) = input.split_at_checked(HEADER_LEN + header.len()) else {
            return Ok(Step::More);
        };
        *input = rest;
        if self.unfinished.is_none() {
            self.timers.progress();
        }
        let payload = &frame[HEADER_LEN..];
        match header.kind {
            kind::HEADERS => return self.headers(header, payload, now),
            kind::CONTINUATION => return self.continuation(header, payload, now),
            kind::WINDOW_UPDATE => self.window_update(header, payload)?,
            kind::RST_STREAM => self.rst_stream(header, payload, now)?,
            kind::SETTINGS => self.settings(header, payload)?,
            kind::PING => self.ping(header, payload)?,
            kind::GOAWAY => self.goaway(header, payload)?,
            kind::PRIORITY => self.priority(header, payload)?,
            kind::PUSH_PROMISE => return Err(protocol("PUSH_PROMISE")),
            _ => self.budget.control(1)?,
        }
        Ok(Step::Again)
    }

    /// Whether a frame may come at this place; looks at its header only.
    #[inline]
    fn admit(&self, header: FrameHeader) -> Result<(), ConnectionError> {
        if header.length > PAYLOAD_MAX {
            let what = "a frame larger than permitted";
            return Err(ConnectionError::Protocol(ErrorCode::FRAME_SIZE_ERROR, what));
        }
        if !self.peer.known && (header.kind != kind::SETTINGS || header.flags & 1 != 0) {
            return Err(protocol("a first frame that is not SETTINGS"));
        }
        match &self.unfinished {
            Some(head) if header.kind != kind::CONTINUATION || header.stream != head.stream => {
                Err(protocol("a frame within a header block"))
            }
            None if header.kind == kind::CONTINUATION => {
                Err(protocol("CONTINUATION without HEADERS"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a frame of this stream can only be of a stream that does not exist yet.
    pub(super) fn is_server(&self) -> bool {
        self.role == Role::Server
    }
}
