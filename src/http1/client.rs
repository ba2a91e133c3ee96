//! The client's side: requests out, responses in.

use std::time::Instant;

use super::{
    Connection,
    connection::{Exchange, Role},
    parse::{self, Asked, Kind, Upgrade},
    reader::Reader,
    upgrade,
    writer::{self, Writer},
};
use crate::http::{
    ConnectionError, ErrorCode, Event, HeaderBlock, OpenError, StreamError, Token, octets,
};

/// How many 1xx responses a server may send before the final one.
const INFORMATIONAL_MAX: u8 = 32;

/// A request's line.
struct Line<'a> {
    method: &'a [u8],
    authority: &'a [u8],
    path: &'a [u8],
}

impl Connection {
    /// How many streams [`Self::open`] would take now.
    pub fn room(&self) -> usize {
        usize::from(self.can_open().is_ok())
    }

    fn can_open(&self) -> Result<(), OpenError> {
        if self.role != Role::Client || self.is_closed() || self.draining || self.eof {
            return Err(OpenError::GoingAway);
        }
        if self.now.open { Err(OpenError::Full) } else { Ok(()) }
    }

    /// Writes a request's head; `end`: nothing follows.
    ///
    /// # Errors
    /// When another request is under way, the connection ends, or the head can not be written without
    /// a second meaning.
    pub fn open(&mut self, head: &HeaderBlock, end: bool, _now: Instant) -> Result<u32, OpenError> {
        self.can_open()?;
        let get = |token| head.get(token).unwrap_or_default();
        let asked = asked(head);
        let line = Line {
            method: if matches!(asked.kind, Kind::Upgrade(_)) {
                b"GET"
            } else {
                get(Token::Method)
            },
            authority: get(Token::Authority),
            path: get(Token::Path),
        };
        check(&line, &asked.kind)?;
        self.write_line(&line, &asked.kind);
        writer::field(&mut self.output, b"host", line.authority);
        let write = match &asked.kind {
            Kind::Upgrade(asked) => {
                writer::tunnel_fields(&mut self.output, head);
                write_upgrade(&mut self.output, head, asked);
                Writer::Waiting
            }
            Kind::Connect => {
                writer::fields(&mut self.output, head);
                Writer::Waiting
            }
            Kind::Usual | Kind::Head => {
                writer::fields(&mut self.output, head);
                self.write_body_fields(&line, head, end, asked.trailers)
            }
        };
        self.output.extend_from_slice(b"\r\n");
        let write = if end { Writer::Done } else { write };
        Ok(self.start(Exchange::new(true, asked, Reader::Done, write)))
    }

    fn write_line(&mut self, line: &Line<'_>, kind: &Kind) {
        let out = &mut self.output;
        out.extend_from_slice(line.method);
        out.push(b' ');
        if *kind == Kind::Connect {
            out.extend_from_slice(line.authority);
        } else {
            if self.config.absolute_form {
                out.extend_from_slice(b"http://");
                out.extend_from_slice(line.authority);
            }
            if !self.config.absolute_form || line.path != b"*" {
                out.extend_from_slice(line.path);
            }
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
    }

    /// Writes the fields that frame the body and says how it is written.
    fn write_body_fields(
        &mut self,
        line: &Line<'_>,
        head: &HeaderBlock,
        end: bool,
        trailers: bool,
    ) -> Writer {
        let out = &mut self.output;
        if trailers {
            out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
        }
        let given = head.get(Token::ContentLength).and_then(octets::length);
        let length = match (end, given) {
            (true, Some(_)) => Some(0),
            // Servers want to be told that nothing comes where something usually does.
            (true, None) if matches!(line.method, b"POST" | b"PUT" | b"PATCH") => Some(0),
            (true, None) => return Writer::Done,
            (false, given) => given,
        };
        match length {
            Some(length) => {
                out.extend_from_slice(b"content-length: ");
                writer::decimal(out, length);
                out.extend_from_slice(b"\r\n");
                Writer::Length(length)
            }
            None => {
                out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                Writer::Chunked
            }
        }
    }

    /// Nothing was asked, so nothing may come but the end.
    pub(super) fn unasked<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        if !input.is_empty() {
            *input = &input[input.len()..];
            let error = "the server sent what nobody asked for";
            self.end(ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, error));
            return None;
        }
        self.eof.then(|| self.cut()).flatten()
    }

    pub(super) fn response<'i>(&mut self, input: &mut &'i [u8]) -> Option<Event<'i>> {
        match *input {
            [] => return self.eof.then(|| self.cut()).flatten(),
            // It can not be the answer to this request.
            _ if !self.now.sent => {
                self.fail_with(StreamError::Malformed("a response came before its request"));
                return None;
            }
            [b'\r' | b'\n', ..] => {
                self.fail_with(StreamError::Malformed("a response begins with an empty line"));
                return None;
            }
            _ => {}
        }
        if !self.is_worth_parsing(input) {
            return self.eof.then(|| self.cut()).flatten();
        }
        let mut head = self.block();
        let head_bytes_max = self.config.head_bytes_max;
        // What a response says depends on what was asked, when that was not the usual.
        let usual = self.now.asked.kind == Kind::Usual;
        if usual && let Some(response) = self.response.find(input, &mut head) {
            let response = response.clone();
            *input = &input[response.bytes..];
            self.head_is_read();
            return self.take_response(&response, head);
        }
        let error = match parse::response(input, &self.now.asked, &mut head) {
            Ok(Some(response)) if response.bytes <= head_bytes_max => {
                if usual && response.status >= 200 {
                    self.response.store(&input[..response.bytes], &head, response.clone());
                }
                *input = &input[response.bytes..];
                self.head_is_read();
                return self.take_response(&response, head);
            }
            Ok(None) if input.len() <= head_bytes_max => {
                self.recycle(head);
                return self.eof.then(|| self.cut()).flatten();
            }
            Ok(_) => StreamError::HeadTooLarge,
            Err(error) => error,
        };
        self.recycle(head);
        self.fail_with(error);
        None
    }

    fn take_response<'i>(
        &mut self,
        response: &parse::Response,
        mut head: HeaderBlock,
    ) -> Option<Event<'i>> {
        let stream = self.stream;
        match (response.status, &self.now.asked.kind) {
            (101, Kind::Upgrade(asked)) => {
                if let Some(what) = wrong_switch(response, asked) {
                    self.fail_with(StreamError::Malformed(what));
                    return None;
                }
                head.set(Token::Status, b"200");
                head.remove(Token::Upgrade);
                head.remove(Token::SecWebsocketAccept);
                Some(self.take_tunnel(head))
            }
            (101, _) => {
                self.fail_with(StreamError::Malformed("a protocol change that nobody asked for"));
                None
            }
            (100..200, _) => {
                self.now.informed += 1;
                if self.now.informed > INFORMATIONAL_MAX {
                    self.fail(ConnectionError::Abuse("informational responses"));
                    return None;
                }
                Some(Event::Informational { stream, head })
            }
            (200..300, Kind::Connect) => Some(self.take_tunnel(head)),
            (200..300, Kind::Upgrade(_)) => {
                self.fail_with(StreamError::Malformed("the server did not change the protocol"));
                None
            }
            _ => {
                if self.now.asked.kind.is_tunnel() {
                    self.keep = false;
                    self.now.write = Writer::Done;
                    self.blocked = false;
                }
                self.now.headed = true;
                self.keep = response.keep && self.keep && !self.eof;
                self.now.read = Reader::from(response.framing);
                let end = self.now.read == Reader::Done;
                if end {
                    self.read_all();
                }
                Some(Event::Head { stream, head, end })
            }
        }
    }

    fn take_tunnel<'i>(&mut self, head: HeaderBlock) -> Event<'i> {
        self.now.headed = true;
        self.now.tunnel = true;
        self.now.read = Reader::ToClose;
        let end = self.now.write == Writer::Done;
        if !end {
            self.now.write = Writer::Raw;
        }
        self.open_tunnel(end);
        Event::Head { stream: self.stream, head, end: false }
    }
}

/// What the request's response depends on.
fn asked(head: &HeaderBlock) -> Asked {
    let trailers = |value: &[u8]| {
        value
            .split(|byte| *byte == b',')
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    };
    let kind = match (head.get(Token::Method), head.get(Token::Protocol)) {
        (Some(b"CONNECT"), Some(protocol)) => {
            let key = if upgrade::is_websocket(protocol) { upgrade::key() } else { Vec::new() };
            Kind::Upgrade(Box::new(Upgrade { protocol: protocol.to_vec(), key }))
        }
        (Some(b"CONNECT"), None) => Kind::Connect,
        (Some(b"HEAD"), _) => Kind::Head,
        _ => Kind::Usual,
    };
    let trailers = head.all(Token::Te).any(trailers);
    Asked { kind, trailers, ..Asked::default() }
}

/// Whether a request line can be written with one meaning.
fn check(line: &Line<'_>, kind: &Kind) -> Result<(), OpenError> {
    if !octets::is_token(line.method) {
        return Err(OpenError::Malformed("the method is none"));
    }
    if !line.authority.is_empty() && !writer::is_visible(line.authority) {
        return Err(OpenError::Malformed("the authority is none"));
    }
    match kind {
        Kind::Connect if line.authority.is_empty() => {
            Err(OpenError::Malformed("a CONNECT says not where to"))
        }
        Kind::Upgrade(asked) if !writer::is_visible(&asked.protocol) => {
            Err(OpenError::Malformed("the protocol is none"))
        }
        Kind::Connect => Ok(()),
        _ if !writer::is_visible(line.path) => Err(OpenError::Malformed("the path is none")),
        _ if line.path[0] == b'/' || (line.path == b"*" && line.method == b"OPTIONS") => Ok(()),
        _ => Err(OpenError::Malformed("the path is none")),
    }
}

/// Writes what asks for another protocol.
fn write_upgrade(out: &mut Vec<u8>, head: &HeaderBlock, asked: &Upgrade) {
    writer::field(out, b"connection", b"upgrade");
    writer::field(out, b"upgrade", &asked.protocol);
    if !asked.key.is_empty() {
        writer::field(out, b"sec-websocket-key", &asked.key);
        if !head.contains(Token::SecWebsocketVersion) {
            writer::field(out, b"sec-websocket-version", b"13");
        }
    }
}

/// What is wrong with a 101.
fn wrong_switch(response: &parse::Response, asked: &Upgrade) -> Option<&'static str> {
    let accept = response.accept.as_deref().unwrap_or_default();
    if !response.upgrades {
        Some("the 101 names no protocol")
    } else if !asked.key.is_empty() && upgrade::accept(&asked.key) != accept {
        Some("the WebSocket key is not answered")
    } else {
        None
    }
}
