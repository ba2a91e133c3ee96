//! One end of a connection: what both roles share. The exchange under way is a reader of the incoming
//! message and a writer of the outgoing one; each event leaves both in a state that says what may come
//! next, and an exchange is over when both are done.

use std::time::Instant;

use super::{
    Config,
    life::Clock,
    parse::{self, Asked},
    reader::{Read, Reader},
    recall::Recall,
    writer::{self, Writer},
};
use crate::http::{ConnectionError, ErrorCode, Event, HeaderBlock, StreamError};

/// Which end of the connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// One end of an HTTP/1.1 connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) config: Config,
    pub(super) output: Vec<u8>,
    /// Output that the driver holds and has not written yet.
    pub(super) outside: usize,
    /// How much output waited when the driver last looked at it.
    pub(super) shown: usize,
    /// The exchange under way, or the last one.
    pub(super) stream: u32,
    pub(super) now: Exchange,
    /// Whether the peer would use the connection again after this exchange.
    pub(super) keep: bool,
    pub(super) draining: bool,
    /// The peer sends no more.
    pub(super) eof: bool,
    /// Server: the first byte of the next head is here.
    pub(super) begun: bool,
    /// Server: whether no request has come yet.
    pub(super) fresh: bool,
    /// Server: how many empty lines came before the next head.
    pub(super) empty_lines: u8,
    /// How much of an unfinished head was parsed, and searched for its end, already.
    tried: (usize, usize),
    /// Input waits for the end of the exchange.
    pub(super) held: bool,
    /// `send` took less than it was given.
    pub(super) blocked: bool,
    /// To be reported.
    pub(super) writable: bool,
    pub(super) reset: Option<StreamError>,
    pub(super) over: Option<ConnectionError>,
    pub(super) told: bool,
    pub(super) lingers: bool,
    pub(super) clock: Clock,
    /// Server: the last request's head that is none of a tunnel.
    pub(super) request: Recall<parse::Request>,
    /// Client: the last response's final head, if what was asked was nothing special.
    pub(super) response: Recall<parse::Response>,
    spare: Option<HeaderBlock>,
}

/// The exchange under way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) open: bool,
    pub(super) asked: Asked,
    pub(super) read: Reader,
    pub(super) write: Writer,
    /// Bytes pass as they are, both ways.
    pub(super) tunnel: bool,
    /// Client: the final head is here.
    pub(super) headed: bool,
    /// Server: a 100 was sent.
    pub(super) continued: bool,
    /// A byte of the body is here.
    pub(super) body_seen: bool,
    /// Reported and not yet passed on.
    pub(super) owed: usize,
    /// Thrown away after the response.
    drained: u64,
    /// Client: how many 1xx came.
    pub(super) informed: u8,
    /// Client: a byte of the request was written.
    pub(super) sent: bool,
}

impl Exchange {
    pub(super) fn new(open: bool, asked: Asked, read: Reader, write: Writer) -> Self {
        Self {
            open,
            asked,
            read,
            write,
            tunnel: false,
            headed: false,
            continued: false,
            body_seen: false,
            owed: 0,
            drained: 0,
            informed: 0,
            sent: false,
        }
    }
}

impl Connection {
    /// The server's end.
    pub fn server(config: &Config, now: Instant) -> Self {
        Self::new(Role::Server, config, now)
    }

    /// The client's end.
    pub fn client(config: &Config, now: Instant) -> Self {
        Self::new(Role::Client, config, now)
    }

    fn new(role: Role, config: &Config, now: Instant) -> Self {
        Self {
            role,
            config: config.clone(),
            output: Vec::new(),
            outside: 0,
            shown: 0,
            stream: 0,
            now: Exchange::new(false, Asked::default(), Reader::Done, Writer::Done),
            keep: true,
            draining: false,
            eof: false,
            begun: false,
            fresh: true,
            empty_lines: 0,
            tried: (0, 0),
            held: false,
            blocked: false,
            writable: false,
            reset: None,
            over: None,
            told: false,
            lingers: false,
            clock: Clock::new(now),
            request: Recall::new(),
            response: Recall::new(),
            spare: None,
        }
    }

    /// Takes from the front of `input` and returns the first thing that happened. `None`: more bytes,
    /// or the end of the exchange, are needed; what is left in `input` is to be given again, with what
    /// came since behind it, when there is more or [`Self::wants_input`] has become true.
    pub fn receive<'i>(&mut self, input: &mut &'i [u8], now: Instant) -> Option<Event<'i>> {
        loop {
            if let Some(event) = self.pending() {
                return Some(event);
            }
            if self.is_closed() {
                *input = &input[input.len()..];
                return None;
            }
            let (left, open) = (input.len(), self.now.open);
            let event = match (self.role, self.now.open) {
                (Role::Server, false) => self.next_request(input, now),
                (Role::Client, false) => self.unasked(input),
                (Role::Client, true) if !self.now.headed => self.response(input),
                (_, true) if self.now.read == Reader::Done => self.wait(input),
                (_, true) => self.body(input),
            };
            self.clock.moved += (left - input.len()) as u64;
            if event.is_some() {
                return event;
            }
            let idle = left == input.len() && open == self.now.open;
            if idle && self.reset.is_none() && self.over.is_none() {
                return None;
            }
        }
    }

    fn pending<'i>(&mut self) -> Option<Event<'i>> {
        let stream = self.stream;
        if let Some(error) = self.reset.take() {
            return Some(Event::Reset { stream, error });
        }
        if std::mem::take(&mut self.writable) && self.now.open {
            return Some(Event::Writable { stream });
        }
        let over = self.over.filter(|_| !self.told)?;
        self.told = true;
        Some(Event::Closed(over))
    }

    /// The incoming message is whole; the next one has to wait.
    fn wait<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        self.held = !input.is_empty();
        if self.eof && !self.now.tunnel && !self.config.half_close {
            self.lose(StreamError::Connection(ConnectionError::Eof), ConnectionError::Eof);
        }
        None
    }

    fn body<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        let stream = self.stream;
        match self.now.read.read(input) {
            Ok(Read::More) if self.eof && input.is_empty() => self.cut(),
            Ok(Read::More) => None,
            Ok(Read::Data(data, end)) => {
                self.now.body_seen = true;
                if self.discards() {
                    self.discard(data.len(), end);
                    return None;
                }
                self.now.owed += data.len();
                if end {
                    self.read_all();
                }
                Some(Event::Data { stream, data, end })
            }
            Ok(Read::Trailers) => self.trailers_in(input),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    fn trailers_in<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        let stream = self.stream;
        if !self.is_worth_parsing(input) {
            return self.eof.then(|| self.cut()).flatten();
        }
        let mut trailers = self.block();
        match parse::trailers(input, &mut trailers) {
            Ok(Some(bytes)) if bytes <= self.config.head_bytes_max => {
                *input = &input[bytes..];
                self.tried = (0, 0);
                if self.discards() {
                    self.recycle(trailers);
                    self.discard(bytes, true);
                    return None;
                }
                self.read_all();
                return Some(Event::Trailers { stream, trailers });
            }
            Ok(None) if input.len() <= self.config.head_bytes_max => {
                self.recycle(trailers);
                return self.eof.then(|| self.cut()).flatten();
            }
            Ok(_) => self.fail_with(StreamError::HeadTooLarge),
            Err(error) => self.fail_with(error),
        }
        None
    }

    /// Whether an unfinished head should be parsed again: at its end, or when it has doubled, so that
    /// a peer that sends byte by byte costs no more than one that does not.
    pub(super) fn is_worth_parsing(&mut self, input: &[u8]) -> bool {
        let (parsed, searched) = self.tried;
        let fresh = &input[searched.saturating_sub(3).min(input.len())..];
        let ends = || {
            let line_ends = fresh.windows(2).any(|pair| pair == b"\n\n");
            line_ends || fresh.windows(3).any(|three| three == b"\n\r\n")
        };
        let worth = parsed == 0
            || input.len() >= parsed.saturating_mul(2)
            || input.len() > self.config.head_bytes_max
            || ends();
        self.tried = (if worth { input.len() } else { parsed }, input.len());
        worth
    }

    /// A head is whole or refused: the next one is looked at from its beginning.
    pub(super) fn head_is_read(&mut self) {
        self.tried = (0, 0);
    }

    /// Whether what comes belongs to a request whose response is out.
    fn discards(&self) -> bool {
        self.role == Role::Server && !self.now.tunnel && self.now.write == Writer::Done
    }

    fn discard(&mut self, bytes: usize, end: bool) {
        self.now.drained += bytes as u64;
        if end {
            self.read_all();
        } else if self.now.drained > self.config.drain_bytes_max {
            self.lingers = true;
            self.end(ConnectionError::Local);
        }
    }

    /// The incoming message is whole.
    pub(super) fn read_all(&mut self) {
        self.now.read = Reader::Done;
        if self.now.write == Writer::Done || (self.role == Role::Client && !self.now.tunnel) {
            self.finish();
        }
    }

    /// The outgoing message is whole.
    pub(super) fn written_all(&mut self) {
        self.now.write = Writer::Done;
        self.blocked = false;
        let left = self.now.read.left();
        match (self.now.read, self.role) {
            (Reader::Done, Role::Client) if !self.now.headed => {}
            (Reader::Done, _) => self.finish(),
            _ if self.role == Role::Client || self.now.tunnel => {}
            _ if !self.keep || left > self.config.drain_bytes_max => {
                self.lingers = true;
                self.end(ConnectionError::Local);
            }
            // The rest of the request is thrown away.
            _ => self.now.owed = 0,
        }
    }

    /// Both messages are whole, or a client's response is.
    fn finish(&mut self) {
        let whole = self.now.write == Writer::Done;
        // Requests that came before the end of the input are still answered.
        let last = self.eof && !self.held;
        self.now.open = false;
        self.now.owed = 0;
        self.held = false;
        self.blocked = false;
        self.begun = false;
        self.clock.waiting = None;
        if !whole || !self.keep || self.draining || self.now.tunnel || last {
            self.end(ConnectionError::Local);
        }
    }

    /// The peer sends no more, in the middle of something.
    pub(super) fn cut<'i>(&mut self) -> Option<Event<'i>> {
        let stream = self.stream;
        if self.now.open && self.now.headed_or_server(self.role) && self.now.read == Reader::ToClose
        {
            self.read_all();
            return Some(Event::Data { stream, data: &[], end: true });
        }
        if self.now.open && self.now.read == Reader::Refused {
            return None;
        }
        let error = StreamError::Connection(ConnectionError::Eof);
        let unseen = self.role == Role::Client && !self.now.sent;
        let error =
            if unseen { StreamError::Unprocessed(ErrorCode::REFUSED_STREAM) } else { error };
        let idle = !self.now.open && !self.begun;
        self.lose(
            error,
            if idle { ConnectionError::GoAway(ErrorCode::NO_ERROR) } else { ConnectionError::Eof },
        );
        None
    }

    /// The peer broke the protocol or was too slow, in the middle of a message.
    pub(super) fn fail(&mut self, error: ConnectionError) {
        let (stream, status) = match error {
            ConnectionError::Protocol(_, what) => (StreamError::Malformed(what), 400),
            ConnectionError::Timeout(_) => (StreamError::Connection(error), 408),
            _ => (StreamError::Connection(error), 400),
        };
        if self.role == Role::Server && self.now.open && self.now.write == Writer::Head {
            self.refuse_now(status);
        }
        self.lose(stream, error);
    }

    /// The same by the error of the stream.
    pub(super) fn fail_with(&mut self, error: StreamError) {
        let what = match error {
            StreamError::Malformed(what) => what,
            _ => "the header fields are larger than permitted",
        };
        let server = self.role == Role::Server && self.now.open;
        if server && self.now.write == Writer::Head {
            self.refuse_now(if error == StreamError::HeadTooLarge { 431 } else { 400 });
        }
        self.lose(error, ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, what));
    }

    /// An answer of the codec's own, for what can not be answered by anyone else.
    pub(super) fn refuse_now(&mut self, status: u16) {
        self.lingers = true;
        writer::status_line(&mut self.output, status);
        self.output.extend_from_slice(b"content-length: 0\r\nconnection: close\r\n\r\n");
    }

    /// Ends the connection under whatever is under way.
    pub(super) fn lose(&mut self, stream: StreamError, error: ConnectionError) {
        if self.is_live() {
            self.reset = Some(stream);
        }
        self.end(error);
    }

    /// Ends the connection; what is in the output is still to be written.
    pub(super) fn end(&mut self, error: ConnectionError) {
        self.now.open = false;
        self.now.owed = 0;
        self.held = false;
        self.blocked = false;
        self.over.get_or_insert(error);
    }

    /// Whether the driver waits for something of the stream.
    pub(super) fn is_live(&self) -> bool {
        let done = match self.role {
            _ if self.now.tunnel => self.now.write == Writer::Done && self.now.read == Reader::Done,
            Role::Server => self.now.write == Writer::Done,
            Role::Client => self.now.headed && self.now.read == Reader::Done,
        };
        self.now.open && !done
    }

    /// What was held may be read now.
    pub(super) fn unhold(&mut self) {
        self.held = false;
    }

    /// Whether `stream` is the exchange under way.
    pub(super) fn is_current(&self, stream: u32) -> bool {
        self.now.open && self.stream == stream
    }

    /// Output that is not written yet. Bytes.
    pub(super) fn waiting(&self) -> usize {
        self.outside + self.output.len()
    }

    /// Gives a block's memory back.
    pub fn recycle(&mut self, block: HeaderBlock) {
        self.spare = Some(block);
    }

    /// An empty block.
    pub(super) fn block(&mut self) -> HeaderBlock {
        let mut block = self.spare.take().unwrap_or_default();
        block.clear();
        block
    }

    /// Panics, where that is looked for, when the state contradicts itself.
    pub fn check_invariants(&self) {
        let now = &self.now;
        debug_assert!(now.open || now.owed == 0, "credit is owed to nobody");
        debug_assert!(!now.open || self.over.is_none(), "a stream outlived its connection");
        debug_assert!(self.over.is_none() || !self.wants_input(), "a closed connection reads");
        debug_assert!(now.open || !self.held, "input waits for nothing");
        let finished = now.write == Writer::Done && now.read == Reader::Done;
        let waits = self.role == Role::Client && !now.headed;
        debug_assert!(!now.open || !finished || waits, "a finished exchange is open");
        debug_assert!(!now.open || self.stream > 0, "a stream has no id");
        debug_assert!(!self.blocked || now.open, "nobody waits for room");
    }
}

impl Exchange {
    fn headed_or_server(&self, role: Role) -> bool {
        role == Role::Server || self.headed
    }

    /// Whether a body can be written now.
    pub(super) fn takes(&self) -> bool {
        !matches!(self.write, Writer::Head | Writer::Waiting | Writer::Done)
    }
}
