//! HEADERS and CONTINUATION (RFC 9113 sections 6.2 and 6.10): the pieces of a block are gathered
//! within bounds, every block is decoded whatever becomes of its stream (the compression table is
//! the connection's), and what it says moves the stream.

use std::time::Instant;

use super::{
    Connection,
    data::strip_padding,
    flow::{SendWindow, StreamWindow},
    frame::{FrameHeader, PAYLOAD_MAX, flag, number},
    hpack::{Outcome, Verdict},
    ids::{Found, Mark},
    receive::{Step, protocol},
    streams::{Method, Receiving, Sending, Stream, Wait},
    validate,
};
use crate::http::{ConnectionError, ErrorCode, Event, HeaderBlock, StreamError, Token};

/// CONTINUATION frames of one block. Full frames carry more than the largest list of fields; a flood
/// of small ones is an attack.
const CONTINUATIONS_MAX: u8 = 4;
/// 1xx responses before a final one.
const INFORMATIONAL_MAX: u8 = 16;

/// A header block whose CONTINUATION frames are still to come.
pub(super) struct Unfinished {
    pub(super) stream: u32,
    end: bool,
    depends_on_itself: bool,
    frames: u8,
    block: Vec<u8>,
}

/// To whom a block belongs.
enum Target {
    Request,
    Refused,
    Response(u16),
    Trailers(u16),
    /// The peer had ended it.
    Ended,
    /// It is decoded and forgotten.
    Nobody,
}

impl Connection {
    pub(super) fn headers<'i>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        if header.stream == 0 {
            return Err(protocol("HEADERS on stream 0"));
        }
        let mut block = payload;
        if header.has(flag::PADDED) {
            block = strip_padding(block)?;
        }
        let mut depends_on_itself = false;
        if header.has(flag::PRIORITY) {
            let Some((priority, rest)) = block.split_at_checked(5) else {
                let what = "HEADERS too short for its priority";
                return Err(ConnectionError::Protocol(ErrorCode::FRAME_SIZE_ERROR, what));
            };
            depends_on_itself = number(priority).map(|id| id & 0x7fff_ffff) == Some(header.stream);
            block = rest;
        }
        let end = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.block(header.stream, end, depends_on_itself, block, now);
        }
        let stream = header.stream;
        let block = block.to_vec();
        self.unfinished = Some(Unfinished { stream, end, depends_on_itself, frames: 0, block });
        Ok(Step::Again)
    }

    pub(super) fn continuation<'i>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        let Some(mut head) = self.unfinished.take() else { return Ok(Step::Again) };
        let last = header.has(flag::END_HEADERS);
        head.frames += 1;
        if head.frames > CONTINUATIONS_MAX {
            return Err(ConnectionError::Abuse("CONTINUATION frames"));
        }
        if payload.is_empty() && !last {
            self.budget.empty()?;
        }
        head.block.extend_from_slice(payload);
        if !last {
            self.unfinished = Some(head);
            return Ok(Step::Again);
        }
        self.block(head.stream, head.end, head.depends_on_itself, &head.block, now)
    }

    /// A whole block.
    fn block<'i>(
        &mut self,
        id: u32,
        end: bool,
        depends_on_itself: bool,
        block: &[u8],
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        let target = self.target(id)?;
        let mut head = self.spare.pop().unwrap_or_default();
        let mut large = false;
        let mut flaw = depends_on_itself.then_some("a stream that depends on itself");
        match self.decoder.decode(block, &mut head, self.config.head_max) {
            Ok(Outcome::Decoded) => {}
            Ok(Outcome::TooLarge) => large = true,
            Ok(Outcome::Malformed(what)) => flaw = Some(what),
            Err(_) => {
                let what = "a header block that can not be decoded";
                return Err(ConnectionError::Protocol(ErrorCode::COMPRESSION_ERROR, what));
            }
        }
        if let Some(what) = flaw
            && matches!(target, Target::Request | Target::Response(_) | Target::Trailers(_))
        {
            if matches!(target, Target::Request) {
                self.pass(id, end);
            }
            self.recycle(head);
            return self.stream_error(id, ErrorCode::PROTOCOL_ERROR, what);
        }
        match target {
            Target::Request => self.request(id, head, end, large, now),
            Target::Response(slot) => self.response(slot, head, end, large),
            Target::Trailers(slot) => self.trailing(slot, head, end, large),
            Target::Refused => {
                self.recycle(head);
                self.pass(id, end);
                self.budget.excess()?;
                self.answer_reset(id, ErrorCode::REFUSED_STREAM)?;
                Ok(Step::Again)
            }
            Target::Ended => {
                self.recycle(head);
                let what = "HEADERS after the end of its stream";
                self.stream_error(id, ErrorCode::STREAM_CLOSED, what)
            }
            Target::Nobody => {
                self.recycle(head);
                if end {
                    self.cancels.forget(id);
                }
                Ok(Step::Again)
            }
        }
    }

    fn target(&mut self, id: u32) -> Result<Target, ConnectionError> {
        match self.streams.ids.find(id) {
            Found::Open(slot) => Ok(match self.streams.at(slot).receiving {
                Receiving::Head => Target::Response(slot),
                Receiving::Body => Target::Trailers(slot),
                Receiving::Ended => Target::Ended,
            }),
            Found::Idle if !self.is_server() => Err(protocol("HEADERS on an idle stream")),
            Found::Idle if id.is_multiple_of(2) => Err(protocol("a request on an even stream")),
            Found::Idle if self.going.refuses(id) => {
                self.streams.ids.pass(id, Mark::Cut);
                self.late += u64::from(self.stream_window);
                Ok(Target::Nobody)
            }
            Found::Idle if self.streams.len() >= self.config.streams_max as usize => {
                Ok(Target::Refused)
            }
            Found::Idle => Ok(Target::Request),
            Found::Skipped => Err(protocol("a stream identifier below an earlier one")),
            Found::Ended => {
                let what = "HEADERS on a closed stream";
                Err(ConnectionError::Protocol(ErrorCode::STREAM_CLOSED, what))
            }
            Found::Cut | Found::Forgotten => {
                self.budget.control(1)?;
                Ok(Target::Nobody)
            }
        }
    }

    /// Uses an identifier for a stream that is refused: what the peer sends before it knows is
    /// swallowed.
    fn pass(&mut self, id: u32, end: bool) {
        self.streams.ids.pass(id, if end { Mark::Ended } else { Mark::Cut });
        if !end {
            self.late += u64::from(self.stream_window);
        }
    }

    fn request<'i>(
        &mut self,
        id: u32,
        mut head: HeaderBlock,
        end: bool,
        large: bool,
        now: Instant,
    ) -> Result<Step<'i>, ConnectionError> {
        let mut method = Method::Plain;
        let mut length = None;
        if !large {
            let request = match self.judge_request(&mut head) {
                Ok(request) if end && Self::is_short(request.length, request.method) => {
                    Err("less DATA than content-length")
                }
                other => other,
            };
            match request {
                Ok(request) => (method, length) = (request.method, request.length),
                Err(what) => {
                    self.recycle(head);
                    self.pass(id, end);
                    return self.stream_error(id, ErrorCode::PROTOCOL_ERROR, what);
                }
            }
        }
        let receiving = if end { Receiving::Ended } else { Receiving::Body };
        let stream = Stream {
            length: if method == Method::Connect { None } else { length },
            ..self.fresh(id, receiving, Sending::Head, method, now)
        };
        self.streams.insert(stream);
        let error = StreamError::HeadTooLarge;
        Ok(Step::Event(if large {
            Event::Refused { stream: id, error, head }
        } else {
            Event::Head { stream: id, head, end }
        }))
    }

    /// Whether a request's head is well-formed; what was seen before is not looked at again.
    fn judge_request(&mut self, head: &mut HeaderBlock) -> Result<validate::Request, &'static str> {
        let again = self.decoder.again();
        let known = again.and_then(|(fields, found)| validate::request_again(head, fields, &found));
        if let Some(request) = known {
            return Ok(request);
        }
        // One with a host is changed, so that it is not what comes from memory the next time.
        let changes = head.contains(Token::Host);
        let request = validate::request(head, self.config.extended_connect)?;
        if !changes {
            let validate::Request { method, length } = request;
            self.decoder.note(Verdict::Request { method, length });
        }
        Ok(request)
    }

    fn judge_response(&mut self, head: &HeaderBlock) -> Result<(u16, Option<u64>), &'static str> {
        let again = self.decoder.again();
        let known =
            again.and_then(|(fields, found)| validate::response_again(head, fields, &found));
        if let Some(response) = known {
            return Ok(response);
        }
        let (status, length) = validate::response(head)?;
        self.decoder.note(Verdict::Response { status, length });
        Ok((status, length))
    }

    fn judge_trailers(&mut self, trailers: &HeaderBlock) -> Result<(), &'static str> {
        let again = self.decoder.again();
        if again
            .is_some_and(|(fields, found)| validate::are_trailers_again(trailers, fields, &found))
        {
            return Ok(());
        }
        validate::trailers(trailers)?;
        // Two content lengths would have to be compared.
        if !trailers.contains(Token::ContentLength) {
            self.decoder.note(Verdict::Trailers);
        }
        Ok(())
    }

    /// A stream as it begins.
    pub(super) fn fresh(
        &self,
        id: u32,
        receiving: Receiving,
        sending: Sending,
        method: Method,
        now: Instant,
    ) -> Stream {
        Stream {
            id,
            receiving,
            sending,
            method,
            wait: Wait::No,
            informational: 0,
            window: StreamWindow::new(self.stream_window),
            send: SendWindow::new(self.peer.window),
            length: None,
            opened: now,
            head_at: 0,
            slow_since: None,
            slow_taken: 0,
        }
    }

    fn response<'i>(
        &mut self,
        slot: u16,
        head: HeaderBlock,
        end: bool,
        large: bool,
    ) -> Result<Step<'i>, ConnectionError> {
        let checked = if large { Err("") } else { self.judge_response(&head) };
        let stream = self.streams.at(slot);
        let id = stream.id;
        if large {
            self.recycle(head);
            return self.too_large(id);
        }
        let flaw = match checked {
            Err(what) => what,
            Ok((100..=199, _)) if end => "an informational response that ends its stream",
            Ok((100..=199, _)) => {
                stream.informational += 1;
                if stream.informational <= INFORMATIONAL_MAX {
                    return Ok(Step::Event(Event::Informational { stream: id, head }));
                }
                "too many informational responses"
            }
            Ok((status, length)) => {
                stream.receiving = Receiving::Body;
                stream.length = match (stream.method, status) {
                    (Method::Head, _) | (_, 204 | 304) => Some(0),
                    (Method::Connect, 200..=299) => None,
                    _ => length,
                };
                if !end {
                    return Ok(Step::Event(Event::Head { stream: id, head, end }));
                }
                if !Self::is_short(stream.length, stream.method) {
                    self.received_all(slot);
                    return Ok(Step::Event(Event::Head { stream: id, head, end }));
                }
                "less DATA than content-length"
            }
        };
        self.recycle(head);
        self.stream_error(id, ErrorCode::PROTOCOL_ERROR, flaw)
    }

    fn trailing<'i>(
        &mut self,
        slot: u16,
        trailers: HeaderBlock,
        end: bool,
        large: bool,
    ) -> Result<Step<'i>, ConnectionError> {
        let stream = *self.streams.at(slot);
        if large {
            self.recycle(trailers);
            return self.too_large(stream.id);
        }
        let flaw = if !end {
            Some("trailers that do not end their stream")
        } else if stream.method == Method::Connect && stream.sending != Sending::Head {
            Some("trailers on a tunnel")
        } else if Self::is_short(stream.length, stream.method) {
            Some("less DATA than content-length")
        } else {
            self.judge_trailers(&trailers).err()
        };
        match flaw {
            Some(what) => {
                self.recycle(trailers);
                self.stream_error(stream.id, ErrorCode::PROTOCOL_ERROR, what)
            }
            None => {
                self.received_all(slot);
                Ok(Step::Event(Event::Trailers { stream: stream.id, trailers }))
            }
        }
    }

    fn too_large<'i>(&mut self, id: u32) -> Result<Step<'i>, ConnectionError> {
        self.break_off(id, ErrorCode::ENHANCE_YOUR_CALM, StreamError::HeadTooLarge)?;
        Ok(Step::Again)
    }
}

const _: () = assert!(PAYLOAD_MAX == 16_384, "CONTINUATIONS_MAX is chosen for it");
