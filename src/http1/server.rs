//! The server's side: request heads in, responses out.

use std::time::Instant;

use super::{
    Connection,
    connection::{Exchange, Role},
    parse::{self, Kind},
    reader::Reader,
    upgrade,
    writer::{self, Writer},
};
use crate::http::{Event, HeaderBlock, StreamError, Token, octets};

/// How many empty lines may come before a request line (RFC 9112 section 2.2 asks for one).
const EMPTY_LINES_MAX: u8 = 8;

impl Connection {
    pub(super) fn next_request<'i>(
        &mut self,
        input: &mut &'i [u8],
        now: Instant,
    ) -> Option<Event<'i>> {
        while let [b'\r', b'\n', rest @ ..] = *input {
            *input = rest;
            self.empty_lines += 1;
            self.begin_head(now);
            if self.empty_lines > EMPTY_LINES_MAX {
                return Some(self.refuse(StreamError::Malformed("too many empty lines"), input));
            }
        }
        if input.is_empty() || *input == b"\r" {
            return self.eof.then(|| self.cut()).flatten();
        }
        self.begin_head(now);
        if matches!(input[0], b'\r' | b'\n') {
            let error = StreamError::Malformed("a line ends with a bare line feed");
            return Some(self.refuse(error, input));
        }
        if !self.is_worth_parsing(input) {
            return self.eof.then(|| self.cut()).flatten();
        }
        let mut head = self.block();
        if let Some(request) = self.request.find(input, &mut head) {
            let request = request.clone();
            *input = &input[request.bytes..];
            self.keep = request.keep;
            return Some(self.begin(request, head));
        }
        let head_bytes_max = self.config.head_bytes_max;
        let error = match parse::request(input, &mut head) {
            Ok(Some(request)) if request.bytes <= head_bytes_max => {
                if !request.asked.kind.is_tunnel() {
                    self.request.store(&input[..request.bytes], &head, request.clone());
                }
                *input = &input[request.bytes..];
                self.keep = request.keep;
                return Some(self.begin(request, head));
            }
            Ok(None) if input.len() <= head_bytes_max => {
                self.recycle(head);
                return self.eof.then(|| self.cut()).flatten();
            }
            Ok(_) => StreamError::HeadTooLarge,
            Err(error) => error,
        };
        self.recycle(head);
        Some(self.refuse(error, input))
    }

    fn begin(&mut self, request: parse::Request, head: HeaderBlock) -> Event<'static> {
        // A tunnel's bytes are no body: they wait for the answer.
        let read = Reader::from(request.framing);
        let end = read == Reader::Done && !request.asked.kind.is_tunnel();
        let stream = self.start(Exchange::new(true, request.asked, read, Writer::Head));
        Event::Head { stream, head, end }
    }

    pub(super) fn start(&mut self, exchange: Exchange) -> u32 {
        self.head_is_read();
        self.now = exchange;
        self.fresh = false;
        self.empty_lines = 0;
        self.stream = self.stream.wrapping_add(1).max(1);
        self.stream
    }

    /// Takes nothing more from this peer; the driver answers.
    fn refuse<'i>(&mut self, error: StreamError, input: &mut &'i [u8]) -> Event<'i> {
        let mut head = self.block();
        parse::glimpse(input, &mut head);
        *input = &input[input.len()..];
        self.keep = false;
        let asked = parse::Asked::default();
        let stream = self.start(Exchange::new(true, asked, Reader::Refused, Writer::Head));
        Event::Refused { stream, error, head }
    }

    /// Writes a 1xx response. HTTP/1.0 knows none, so that its clients get none.
    pub fn inform(&mut self, stream: u32, head: &HeaderBlock) {
        let status = head.status();
        let fits = (100..200).contains(&status) && status != 101;
        let now = self.is_current(stream) && self.now.write == Writer::Head;
        if self.role != Role::Server || !now || !fits || self.now.asked.http10 {
            return;
        }
        self.now.continued |= status == 100;
        writer::status_line(&mut self.output, status);
        writer::fields(&mut self.output, head);
        self.output.extend_from_slice(b"\r\n");
    }

    /// Writes the final response's head; `end`: nothing follows.
    pub fn respond(&mut self, stream: u32, head: &HeaderBlock, end: bool) {
        let now = self.is_current(stream) && self.now.write == Writer::Head;
        if self.role != Role::Server || !now {
            return;
        }
        let status = head.status();
        let accepted = match &self.now.asked.kind {
            Kind::Connect => (200..300).contains(&status),
            Kind::Upgrade(_) => (200..300).contains(&status) || status == 101,
            Kind::Usual | Kind::Head => false,
        };
        if accepted {
            return self.accept(head, status, end);
        }
        if !(200..=999).contains(&status) {
            return self
                .close(crate::http::ErrorCode::INTERNAL_ERROR, "a response has no final status");
        }
        self.decide_keep();
        let given = head.get(Token::ContentLength);
        let length = given.and_then(octets::length);
        let (write, length) = self.framing(status, length, end);
        if write == Writer::ToClose {
            self.keep = false;
        }
        writer::status_line(&mut self.output, status);
        writer::fields(&mut self.output, head);
        self.write_framing(write, length);
        self.now.write = write;
        if end || write == Writer::Done {
            self.written_all();
        } else if self.blocked {
            self.blocked = false;
            self.writable = true;
        }
    }

    /// Whether another request may come on the connection after this one.
    fn decide_keep(&mut self) {
        // A client that waits for a 100 may or may not send its body now, and one that was refused a
        // tunnel may have sent bytes of it: what comes can not be told from a request.
        let waits = self.now.asked.expects && !self.now.continued && !self.now.body_seen;
        let unknown = (waits && self.now.read != Reader::Done)
            || self.now.asked.kind.is_tunnel()
            || self.now.read == Reader::Refused;
        self.keep &= !unknown && !self.draining;
    }

    /// How the body is written, and the length that the head gives.
    fn framing(&self, status: u16, length: Option<u64>, end: bool) -> (Writer, Option<u64>) {
        match (status, length) {
            (204, _) => (Writer::Nothing, None),
            (304, length) => (Writer::Nothing, length),
            _ if self.now.asked.kind == Kind::Head => (Writer::Nothing, length),
            _ if end => (Writer::Done, Some(0)),
            (_, Some(length)) => (Writer::Length(length), Some(length)),
            _ if self.now.asked.http10 => (Writer::ToClose, None),
            _ => (Writer::Chunked, None),
        }
    }

    fn write_framing(&mut self, write: Writer, length: Option<u64>) {
        let out = &mut self.output;
        if write == Writer::Chunked {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        } else if let Some(length) = length {
            out.extend_from_slice(b"content-length: ");
            writer::decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        if !self.keep {
            out.extend_from_slice(b"connection: close\r\n");
        } else if self.now.asked.http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Opens the tunnel that was asked for.
    fn accept(&mut self, head: &HeaderBlock, status: u16, end: bool) {
        let out = &mut self.output;
        match &self.now.asked.kind {
            Kind::Upgrade(asked) => {
                writer::status_line(out, 101);
                writer::tunnel_fields(out, head);
                writer::field(out, b"connection", b"upgrade");
                writer::field(out, b"upgrade", &asked.protocol);
                if !asked.key.is_empty() && upgrade::is_websocket(&asked.protocol) {
                    writer::field(out, b"sec-websocket-accept", &upgrade::accept(&asked.key));
                }
            }
            _ => {
                writer::status_line(out, status);
                writer::fields(out, head);
            }
        }
        out.extend_from_slice(b"\r\n");
        self.now.tunnel = true;
        self.now.read = Reader::ToClose;
        self.now.write = Writer::Raw;
        self.open_tunnel(end);
    }

    /// Bytes may pass now.
    pub(super) fn open_tunnel(&mut self, end: bool) {
        self.unhold();
        if end {
            self.written_all();
        } else if std::mem::take(&mut self.blocked) {
            self.writable = true;
        }
    }
}
