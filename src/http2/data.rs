//! DATA (RFC 9113 section 6.1): reported as it comes, before its frame is complete. What arrives for
//! a stream that this side has reset is swallowed, and its credit returned, because the peer could
//! not know; what arrives after the peer's own end is an error.

use std::time::Instant;

use super::{
    Connection,
    flow::Overflow,
    frame::{self, FrameHeader, HEADER_LEN, flag},
    ids::Found,
    receive::{Reading, Step, protocol},
    streams::{Method, Receiving, Sending},
};
use crate::http::{ConnectionError, ErrorCode, Event};

/// The rest of a DATA frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// 0 when it is swallowed.
    pub(super) stream: u32,
    slot: u16,
    pub(super) left: u32,
    end: bool,
}

const OVERFLOW: ConnectionError =
    ConnectionError::Protocol(ErrorCode::FLOW_CONTROL_ERROR, "more DATA than the window permits");

impl Connection {
    pub(super) fn data<'i>(
        &mut self,
        header: FrameHeader,
        input: &mut &'i [u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        if header.stream == 0 {
            return Err(protocol("DATA on stream 0"));
        }
        if header.has(flag::PADDED) {
            return self.padded(header, input, now);
        }
        *input = &input[HEADER_LEN..];
        self.timers.progress();
        let end = header.has(flag::END_STREAM);
        let Some(slot) = self.begin(header, header.length)? else {
            if header.length > 0 {
                let left = header.length;
                self.reading = Reading::Data(Part { stream: 0, slot: 0, left, end: false });
            }
            return Ok(Step::Again);
        };
        if header.length == 0 {
            return Ok(if end { Step::Event(self.deliver(slot, &[], true)) } else { Step::Again });
        }
        self.part(Part { stream: header.stream, slot, left: header.length, end }, input, now)
    }

    /// A padded frame waits until it is whole.
    fn padded<'i>(
        &mut self,
        header: FrameHeader,
        input: &mut &'i [u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        let Some((frame, rest)) = input.split_at_checked(HEADER_LEN + header.len()) else {
            return Ok(Step::More);
        };
        *input = rest;
        self.timers.read(now);
        self.timers.progress();
        let data = strip_padding(&frame[HEADER_LEN..])?;
        let length = u32::try_from(data.len()).unwrap_or(header.length);
        let padding = header.length - length;
        let end = header.has(flag::END_STREAM);
        let slot = self.begin(header, length)?;
        self.window.refund(if slot.is_some() { padding } else { header.length });
        self.announce_window();
        let Some(slot) = slot else { return Ok(Step::Again) };
        self.streams.at(slot).window.refund(padding);
        self.announce_stream_window(slot);
        if data.is_empty() && !end {
            return Ok(Step::Again);
        }
        Ok(Step::Event(self.deliver(slot, data, end)))
    }

    /// Accounts for a frame with `length` bytes of data; `None` when it is to be swallowed.
    fn begin(&mut self, header: FrameHeader, length: u32) -> Result<Option<u16>, ConnectionError> {
        self.window.receive(header.length).map_err(|Overflow| OVERFLOW)?;
        let end = header.has(flag::END_STREAM);
        if length == 0 && !end {
            self.budget.empty()?;
        } else {
            self.budget.body();
        }
        let slot = match self.streams.ids.find(header.stream) {
            Found::Open(slot) => slot,
            Found::Idle => return Err(protocol("DATA on an idle stream")),
            Found::Skipped | Found::Ended => {
                let what = "DATA on a closed stream";
                return Err(ConnectionError::Protocol(ErrorCode::STREAM_CLOSED, what));
            }
            Found::Cut | Found::Forgotten => {
                let late = self.late.checked_sub(u64::from(header.length)).ok_or(OVERFLOW)?;
                self.late = late;
                if end {
                    self.cancels.forget(header.stream);
                }
                return Ok(None);
            }
        };
        let stream = self.streams.at(slot);
        let flaw = if stream.receiving == Receiving::Ended {
            Some((ErrorCode::STREAM_CLOSED, "DATA after the end of its stream"))
        } else if stream.receiving == Receiving::Head {
            Some((ErrorCode::PROTOCOL_ERROR, "DATA before a response's head"))
        } else if stream.window.receive(header.length).is_err() {
            Some((ErrorCode::FLOW_CONTROL_ERROR, "more DATA than the stream's window permits"))
        } else {
            let left = stream.length.map(|left| left.checked_sub(u64::from(length)));
            match left {
                Some(None) => Some((ErrorCode::PROTOCOL_ERROR, "more DATA than content-length")),
                Some(Some(1..)) if end => {
                    Some((ErrorCode::PROTOCOL_ERROR, "less DATA than content-length"))
                }
                other => {
                    stream.length = other.flatten();
                    None
                }
            }
        };
        match flaw {
            None => Ok(Some(slot)),
            Some((code, what)) => {
                self.stream_error(header.stream, code, what)?;
                // What it may still send shrank by this frame before the stream was cut.
                Ok(None)
            }
        }
    }

    /// The next part of a frame.
    pub(super) fn part<'i>(
        &mut self,
        mut part: Part,
        input: &mut &'i [u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        if input.is_empty() {
            self.reading = Reading::Data(part);
            return Ok(Step::More);
        }
        let (data, rest) = input.split_at(input.len().min(part.left as usize));
        *input = rest;
        let length = u32::try_from(data.len()).unwrap_or(part.left);
        part.left -= length;
        self.timers.within_data(part.left > 0, now);
        self.reading = if part.left == 0 { Reading::Frame } else { Reading::Data(part) };
        if part.stream == 0 {
            self.window.refund(length);
            self.announce_window();
            return Ok(Step::Again);
        }
        Ok(Step::Event(self.deliver(part.slot, data, part.end && part.left == 0)))
    }

    fn deliver<'i>(&mut self, slot: u16, data: &'i [u8], end: bool) -> Event<'i> {
        let length = u32::try_from(data.len()).unwrap_or(0);
        self.window.hold(length);
        self.announce_window();
        let found = self.streams.at(slot);
        let stream = found.id;
        found.window.hold(length);
        if end {
            self.received_all(slot);
        }
        Event::Data { stream, data, end }
    }

    /// The peer ended a stream.
    pub(super) fn received_all(&mut self, slot: u16) {
        let stream = self.streams.at(slot);
        stream.receiving = Receiving::Ended;
        if stream.sending == Sending::Ended {
            self.complete(slot);
        }
    }

    /// Gives back body bytes that went on. For a stream that is over they count for the connection.
    pub fn credit(&mut self, stream: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.window.release(bytes);
        self.announce_window();
        if let Some(slot) = self.streams.find(stream) {
            self.streams.at(slot).window.release(bytes);
            self.announce_stream_window(slot);
        }
    }

    /// Tells the peer of the connection's window when enough of it has gathered.
    fn announce_window(&mut self) {
        if let Some(increment) = self.window.announce()
            && !self.over
        {
            frame::window_update(&mut self.output, 0, increment);
        }
    }

    fn announce_stream_window(&mut self, slot: u16) {
        let size_max = self.config.stream_window_max;
        let stream = self.streams.at(slot);
        if stream.receiving != Receiving::Ended
            && let Some(increment) = stream.window.announce(size_max)
        {
            frame::window_update(&mut self.output, stream.id, increment);
        }
    }

    /// A stream is over: what comes of the frame that it is in the middle of is swallowed.
    pub(super) fn forget_part(&mut self, id: u32) {
        if let Reading::Data(part) = &mut self.reading
            && part.stream == id
        {
            part.stream = 0;
        }
    }

    /// What is left of an announced content length when a body ends without DATA.
    pub(super) fn is_short(length: Option<u64>, method: Method) -> bool {
        method != Method::Connect && length.is_some_and(|left| left > 0)
    }
}

/// The payload without its padding (RFC 9113 section 6.1).
pub(super) fn strip_padding(payload: &[u8]) -> Result<&[u8], ConnectionError> {
    let wrong = protocol("padding as long as its frame");
    let (padding, rest) = payload.split_first().ok_or(ConnectionError::Protocol(
        ErrorCode::FRAME_SIZE_ERROR,
        "a padded frame without its length of padding",
    ))?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(wrong)?;
    Ok(&rest[..length])
}
