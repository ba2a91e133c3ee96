//! HTTP/1.1 and HTTP/2 as one: what a connection speaks is decided once, and everything above calls
//! the same methods. A match and no table, so that the usual calls are inlined.

use std::time::Instant;

use crate::{
    http::{ErrorCode, Event, HeaderBlock, OpenError},
    http1, http2,
};

/// What a connection speaks.
pub(super) enum Codec {
    /// HTTP/1.1.
    Http1(Box<http1::Connection>),
    /// HTTP/2.
    Http2(Box<http2::Connection>),
}

macro_rules! both {
    ($self:ident, $codec:ident => $call:expr) => {
        match $self {
            Self::Http1($codec) => $call,
            Self::Http2($codec) => $call,
        }
    };
}

impl Codec {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self, Self::Http2(_))
    }

    pub(super) fn receive<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Option<Event<'i>> {
        both!(self, codec => codec.receive(input, now))
    }

    pub(super) fn eof(&mut self) {
        both!(self, codec => codec.eof());
    }

    /// The transport broke.
    pub(super) fn broken(&mut self) {
        match self {
            Self::Http1(codec) => codec.broken(),
            Self::Http2(codec) => codec.eof(),
        }
    }

    /// Whether the sending half is to be shut down once the output is written.
    pub(super) fn ends_output(&self) -> bool {
        match self {
            Self::Http1(codec) => codec.ends_output(),
            Self::Http2(_) => false,
        }
    }

    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        both!(self, codec => codec.output())
    }

    /// What `output` would give, to look at.
    #[inline]
    pub(super) fn outgoing(&self) -> &Vec<u8> {
        both!(self, codec => codec.outgoing())
    }

    pub(super) fn flushed(&mut self, left: usize) {
        both!(self, codec => codec.flushed(left));
    }

    pub(super) fn open(
        &mut self,
        head: &HeaderBlock,
        end: bool,
        now: Instant,
    ) -> Result<u32, OpenError> {
        match self {
            Self::Http1(codec) => codec.open(head, end, now),
            Self::Http2(codec) => codec.open(head, end, now).map_err(|error| match error {
                http2::OpenError::Full => OpenError::Full,
                http2::OpenError::GoingAway | http2::OpenError::Exhausted => OpenError::GoingAway,
                http2::OpenError::Unsupported => {
                    OpenError::Malformed("the peer takes no extended CONNECT")
                }
            }),
        }
    }

    pub(super) fn room(&self) -> usize {
        both!(self, codec => codec.room())
    }

    /// Whether it is known what the peer permits.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::Http1(_) => true,
            Self::Http2(codec) => codec.is_settled(),
        }
    }

    /// Whether the peer may hold back the rest of a message until what came of it is acknowledged. Who
    /// speaks HTTP/2 does not (as all known implementations set `TCP_NODELAY`).
    pub(super) fn is_amid(&self) -> bool {
        match self {
            Self::Http1(codec) => codec.is_amid(),
            Self::Http2(_) => false,
        }
    }

    /// Whether the peer takes no requests at all for now, on whatever connection.
    pub(super) fn is_shut(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(codec) => codec.is_shut(),
        }
    }

    /// Whether bodies wait for a window that all streams share.
    pub(super) fn is_held_up(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(codec) => codec.is_held_up(),
        }
    }

    /// Whether so much was cancelled on it that new requests had better go elsewhere.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(codec) => codec.is_spent(),
        }
    }

    pub(super) fn respond(&mut self, stream: u32, head: &HeaderBlock, end: bool) {
        both!(self, codec => codec.respond(stream, head, end));
    }

    pub(super) fn inform(&mut self, stream: u32, head: &HeaderBlock) {
        both!(self, codec => codec.inform(stream, head));
    }

    pub(super) fn send(&mut self, stream: u32, data: &[u8], end: bool) -> usize {
        both!(self, codec => codec.send(stream, data, end))
    }

    pub(super) fn trailers(&mut self, stream: u32, trailers: &HeaderBlock) {
        both!(self, codec => codec.trailers(stream, trailers));
    }

    pub(super) fn reset(&mut self, stream: u32, code: ErrorCode) {
        both!(self, codec => codec.reset(stream, code));
    }

    pub(super) fn credit(&mut self, stream: u32, bytes: usize) {
        both!(self, codec => codec.credit(stream, bytes));
    }

    /// Changes what the peer may have under way on each stream; HTTP/1.1 has no such window.
    pub(super) fn set_stream_window(&mut self, size: u32, now: Instant) {
        match self {
            Self::Http1(_) => {}
            Self::Http2(codec) => codec.set_stream_window(size, now),
        }
    }

    pub(super) fn wants_input(&self) -> bool {
        both!(self, codec => codec.wants_input())
    }

    pub(super) fn drain(&mut self, now: Instant) {
        both!(self, codec => codec.drain(now));
    }

    pub(super) fn is_idle(&self) -> bool {
        both!(self, codec => codec.is_idle())
    }

    pub(super) fn is_closed(&self) -> bool {
        both!(self, codec => codec.is_closed())
    }

    pub(super) fn tick(&mut self, now: Instant) {
        both!(self, codec => codec.tick(now));
    }

    pub(super) fn recycle(&mut self, block: HeaderBlock) {
        both!(self, codec => codec.recycle(block));
    }
}
