//! One end of a connection: what both roles share. The exchange under way is a reader of the incoming
//! message and a writer of the outgoing one; each event leaves both in a state that says what may come
//! next, and an exchange is over when both are done.

use std::time::{Duration, Instant};

use super::{
    Config,
    parse::{self, Asked},
    reader::{Read, Reader},
    writer::{self, Writer},
};
use crate::http::{ConnectionError, ErrorCode, Event, HeaderBlock, StreamError};

/// Memory for output and leftovers above this is given back when a connection is idle.
const IDLE_BYTES_MAX: usize = 4 * 1024;

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
    outside: usize,
    /// How much output waited when the driver last looked at it.
    shown: usize,
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
    held: bool,
    /// `send` took less than it was given.
    pub(super) blocked: bool,
    /// To be reported.
    pub(super) writable: bool,
    reset: Option<StreamError>,
    over: Option<ConnectionError>,
    told: bool,
    lingers: bool,
    clock: Clock,
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

/// What `tick` compares.
#[derive(Debug, Default)]
struct Clock {
    /// Since when this end waits for a head; `None`: the next look at the time says.
    waiting: Option<Instant>,
    /// Bytes read and written so far, and written so far.
    moved: u64,
    written: u64,
    /// What they were, and since when they are the same.
    seen_moved: (u64, Option<Instant>),
    seen_written: (u64, Option<Instant>),
}

/// For how long a count has been the same.
fn still(seen: &mut (u64, Option<Instant>), count: u64, now: Instant) -> Duration {
    match seen.1 {
        Some(since) if seen.0 == count => now.saturating_duration_since(since),
        _ => {
            *seen = (count, Some(now));
            Duration::ZERO
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
            clock: Clock { waiting: Some(now), ..Clock::default() },
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
    fn lose(&mut self, stream: StreamError, error: ConnectionError) {
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

    /// The peer has closed its sending half in order; what was received before is still to be given
    /// to [`Self::receive`], and then an empty input.
    pub fn eof(&mut self) {
        self.eof = true;
    }

    /// The transport broke: nothing can be read or written any more. Other than after [`Self::eof`],
    /// a body that ends with the connection counts as cut off.
    pub fn broken(&mut self) {
        self.eof = true;
        let unseen = self.role == Role::Client && !self.now.sent;
        let error = StreamError::Connection(ConnectionError::Eof);
        let unprocessed = StreamError::Unprocessed(ErrorCode::REFUSED_STREAM);
        self.lose(if unseen { unprocessed } else { error }, ConnectionError::Eof);
        self.output.clear();
    }

    /// Bytes to write. The driver takes them from the front, or takes the whole vector.
    pub fn output(&mut self) -> &mut Vec<u8> {
        self.shown = self.shown.max(self.waiting());
        &mut self.output
    }

    /// After a write: how much of what was taken out, or is still in the output, is not written.
    pub fn flushed(&mut self, left: usize) {
        self.outside = left.saturating_sub(self.output.len());
        let written = self.shown.saturating_sub(left);
        self.shown = left;
        self.clock.written += written as u64;
        self.clock.moved += written as u64;
        self.now.sent |= written > 0 || left == 0;
        if self.blocked && left <= self.config.output_bytes_max / 2 && self.now.takes() {
            self.blocked = false;
            self.writable = true;
        }
    }

    /// Body bytes that were reported by `Data` and went on.
    pub fn credit(&mut self, stream: u32, bytes: usize) {
        if self.is_current(stream) {
            self.now.owed = self.now.owed.saturating_sub(bytes);
        }
    }

    /// Whether reading goes on: not while what was read is not passed on, nor while the next request
    /// waits for the end of this one.
    pub fn wants_input(&self) -> bool {
        !self.eof && self.over.is_none() && !self.held && self.now.owed < self.config.window_bytes
    }

    /// Whether nothing is under way and the connection can still be used.
    pub fn is_idle(&self) -> bool {
        !self.now.open && !self.begun && self.over.is_none()
    }

    /// How many streams are open: none or one.
    pub fn streams(&self) -> usize {
        usize::from(self.is_live())
    }

    /// Whether the connection is over: what is in the output is to be written, nothing is read.
    pub fn is_closed(&self) -> bool {
        self.over.is_some()
    }

    /// Whether the peer may still be sending when the connection is over. The driver then shuts down
    /// its sending half and throws away what comes for a bounded time before it closes, because
    /// closing at once could take the response away from the peer (RFC 9112 section 9.6).
    pub fn lingers(&self) -> bool {
        self.lingers
    }

    /// Whether a tunnel's outgoing half has ended: once the output is written, the driver shuts down
    /// its sending half and reads on.
    pub fn ends_output(&self) -> bool {
        self.now.open && self.now.tunnel && self.now.write == Writer::Done
    }

    /// Ends the connection in order: a server after the response under way, a client after its
    /// exchange; at once if there is none.
    pub fn drain(&mut self, _now: Instant) {
        self.draining = true;
        if self.is_idle() {
            self.end(ConnectionError::Local);
        }
    }

    /// Ends the connection as soon as the output is written. HTTP/1.1 has no words for why.
    pub fn close(&mut self, _code: ErrorCode, _why: &'static str) {
        self.lose(StreamError::Connection(ConnectionError::Local), ConnectionError::Local);
    }

    /// Looks at the time; to be called about once a second. What it found is reported by the next
    /// `receive`, also with an empty input.
    pub fn tick(&mut self, now: Instant) {
        if self.over.is_some() {
            return;
        }
        let waiting = self.waiting() > 0;
        let (moved, written) = (self.clock.moved, self.clock.written);
        let unread = still(&mut self.clock.seen_written, written, now);
        if !waiting {
            self.clock.seen_written.1 = Some(now);
        } else if unread >= self.config.reader_idle_max {
            self.output.clear();
            self.lose_to_time("reading");
            return;
        }
        let unmoved = still(&mut self.clock.seen_moved, moved, now);
        let reading = self.role == Role::Server
            && !self.now.tunnel
            && !matches!(self.now.read, Reader::Done | Reader::Refused)
            && self.now.owed < self.config.window_bytes
            && !waiting;
        if self.now.open && reading && unmoved >= self.config.body_idle_max {
            return self.fail(ConnectionError::Timeout("a request's body"));
        }
        let since = *self.clock.waiting.get_or_insert(now);
        if self.role == Role::Server && !self.now.open {
            self.check_head(now.saturating_duration_since(since));
        }
        if self.is_idle() && self.output.is_empty() && self.output.capacity() > IDLE_BYTES_MAX {
            self.output = Vec::new();
        }
    }

    fn lose_to_time(&mut self, what: &'static str) {
        let error = ConnectionError::Timeout(what);
        self.lose(StreamError::Connection(error), error);
    }

    fn check_head(&mut self, waited: Duration) {
        if self.begun && waited >= self.config.head_max {
            self.refuse_now(408);
            self.end(ConnectionError::Timeout("a request's head"));
        } else if self.fresh && waited >= self.config.head_max {
            self.end(ConnectionError::Timeout("the first request"));
        } else if waited >= self.config.idle_max {
            self.end(ConnectionError::Timeout("the next request"));
        }
    }

    /// The first byte of a head is here.
    pub(super) fn begin_head(&mut self, now: Instant) {
        if !self.begun {
            self.begun = true;
            if !self.fresh {
                self.clock.waiting = Some(now);
            }
        }
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
    fn takes(&self) -> bool {
        !matches!(self.write, Writer::Head | Writer::Waiting | Writer::Done)
    }
}
