//! Heads from bytes, with one meaning or refused (RFC 9112). `httparse` finds the lines; everything
//! that two readers could read differently is refused here: bare LF, several or listed lengths,
//! lengths beside codings, codings other than one `chunked`, a coding in HTTP/1.0, several hosts, a
//! host that is not the target's. What passes is copied once into a [`HeaderBlock`].

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use super::{
    fields::{self, Seen},
    target::Target,
};
use crate::http::{HeaderBlock, StreamError, Token};

/// How many fields a head or trailers may have.
const FIELDS_MAX: usize = 128;
/// The longest method.
const METHOD_BYTES_MAX: usize = 32;

/// How the bytes after a head are to be read (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing follows.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes.
    ToClose,
}

/// What of a request decides how its response is read and written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Whether the peer speaks HTTP/1.0.
    pub(super) http10: bool,
    /// What was asked for.
    pub(super) kind: Kind,
    /// Whether trailers are welcome (`te: trailers`).
    pub(super) trailers: bool,
    /// Whether the body waits for a 100.
    pub(super) expects: bool,
}

/// The requests that differ in framing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// All others.
    #[default]
    Usual,
    /// HEAD: its response has no body.
    Head,
    /// CONNECT: a tunnel after a 2xx.
    Connect,
    /// A protocol change: a tunnel after the 101.
    Upgrade(Box<Upgrade>),
}

impl Kind {
    /// Whether a good answer makes the connection a tunnel.
    pub(super) fn is_tunnel(&self) -> bool {
        matches!(self, Self::Connect | Self::Upgrade(_))
    }
}

/// A protocol change that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Upgrade {
    /// To what, as it was written.
    pub(super) protocol: Vec<u8>,
    /// The `sec-websocket-key`; empty when there is none.
    pub(super) key: Vec<u8>,
}

/// A head that was understood.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// How long the head is, its empty line included.
    pub(super) bytes: usize,
    pub(super) asked: Asked,
    pub(super) framing: Framing,
    /// Whether the client would use the connection again.
    pub(super) keep: bool,
}

/// A response's head that was understood.
#[derive(Debug, Clone)]
pub(super) struct Response {
    /// How long the head is, its empty line included.
    pub(super) bytes: usize,
    pub(super) status: u16,
    pub(super) framing: Framing,
    /// Whether the server would use the connection again.
    pub(super) keep: bool,
    /// Whether it names a protocol to change to.
    pub(super) upgrades: bool,
    /// The `sec-websocket-accept`.
    pub(super) accept: Option<Vec<u8>>,
}

/// Reads a request's head. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// When it has more than one meaning, none, or too many fields.
pub(super) fn request(buf: &[u8], block: &mut HeaderBlock) -> Result<Option<Request>, StreamError> {
    let mut space = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let bytes = match parsed.parse_with_uninit_headers(buf, &mut space) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(wrong(error)),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Ok(None);
    };
    let line_end = fields::offset(buf, target.as_bytes()) + target.len() + " HTTP/1.1".len();
    if buf.get(line_end) != Some(&b'\r') || buf.get(bytes - 2) != Some(&b'\r') {
        return Err(StreamError::Malformed("a line ends with a bare line feed"));
    }
    build_request(Line { method, target, http10: version == 0 }, buf, parsed.headers, block)
        .map(|request| Some(Request { bytes, ..request }))
        .map_err(StreamError::Malformed)
}

struct Line<'a> {
    method: &'a str,
    target: &'a str,
    http10: bool,
}

fn build_request(
    line: Line<'_>,
    buf: &[u8],
    headers: &[Header<'_>],
    block: &mut HeaderBlock,
) -> Result<Request, &'static str> {
    if line.method.len() > METHOD_BYTES_MAX || line.method == "PRI" {
        return Err("the method is none of HTTP/1.1");
    }
    let host = host(headers)?;
    let target = Target::parse(line.method, line.target.as_bytes())?;
    let authority = target.authority(host, line.http10)?;
    block.push_token(Token::Method, line.method.as_bytes());
    if line.method != "CONNECT" {
        block.push_token(Token::Scheme, target.scheme.as_bytes());
    }
    if let Some(authority) = authority {
        block.push_token(Token::Authority, authority);
    }
    if line.method != "CONNECT" {
        block.push_token(Token::Path, &target.path);
    }
    let seen = fields::read(buf, headers, block)?;
    let framing = match seen.framing(line.http10)? {
        Some(framing) => framing,
        None => Framing::None,
    };
    let kind = kind(&line, framing, &seen)?;
    if let Kind::Upgrade(upgrade) = &kind {
        block.set(Token::Method, b"CONNECT");
        block.set(Token::Protocol, &upgrade.protocol);
        block.remove(Token::Upgrade);
        block.remove(Token::SecWebsocketKey);
    }
    if line.http10 && seen.expects {
        block.remove(Token::Expect);
    }
    let keep = !seen.close && (!line.http10 || seen.keep_alive);
    let asked = Asked {
        http10: line.http10,
        kind,
        trailers: seen.trailers && !line.http10,
        expects: seen.expects && !line.http10 && framing != Framing::None,
    };
    Ok(Request { bytes: 0, asked, framing, keep })
}

/// The one Host, if there is any.
fn host<'b>(headers: &[Header<'b>]) -> Result<Option<&'b [u8]>, &'static str> {
    let mut found = None;
    for header in headers {
        if header.name.len() == 4 && header.name.eq_ignore_ascii_case("host") {
            if found.is_some() {
                return Err("the request has more than one Host");
            }
            found = Some(header.value);
        }
    }
    Ok(found)
}

fn kind(line: &Line<'_>, framing: Framing, seen: &Seen<'_>) -> Result<Kind, &'static str> {
    let bodiless = matches!(framing, Framing::None | Framing::Length(0));
    match line.method {
        "HEAD" => Ok(Kind::Head),
        "CONNECT" | "TRACE" if !bodiless => Err("the method permits no body"),
        "CONNECT" => Ok(Kind::Connect),
        "GET" if bodiless && !line.http10 => Ok(match seen.protocol() {
            Some(protocol) => {
                let key = seen.websocket_key.unwrap_or_default().to_vec();
                Kind::Upgrade(Box::new(Upgrade { protocol: protocol.to_vec(), key }))
            }
            None => Kind::Usual,
        }),
        _ => Ok(Kind::Usual),
    }
}

/// What of a request can be told when its head is refused, for the record: method and path.
pub(super) fn glimpse(buf: &[u8], block: &mut HeaderBlock) {
    block.clear();
    let mut parsed = httparse::Request::new(&mut []);
    if let Ok(Status::Complete(_)) = parsed.parse(buf) {}
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return };
    if let Ok(target) = Target::parse(method, target.as_bytes()) {
        block.push_token(Token::Method, method.as_bytes());
        block.push_token(Token::Scheme, target.scheme.as_bytes());
        block.push_token(Token::Path, &target.path);
    }
}

/// Reads a response's head; `asked` is what it answers. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// When it has more than one meaning, none, or too many fields.
pub(super) fn response(
    buf: &[u8],
    asked: &Asked,
    block: &mut HeaderBlock,
) -> Result<Option<Response>, StreamError> {
    let mut space = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let bytes = match config.parse_response_with_uninit_headers(&mut parsed, buf, &mut space) {
        Ok(Status::Complete(bytes)) => bytes,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(wrong(error)),
    };
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else { return Ok(None) };
    let line_end = buf.iter().position(|byte| *byte == b'\n').unwrap_or_default();
    if line_end == 0 || buf[line_end - 1] != b'\r' || buf.get(bytes - 2) != Some(&b'\r') {
        return Err(StreamError::Malformed("a line ends with a bare line feed"));
    }
    if status < 100 {
        return Err(StreamError::Malformed("the status is none"));
    }
    block.push_token(Token::Status, &fields::digits(status));
    let seen = fields::read(buf, parsed.headers, block).map_err(StreamError::Malformed)?;
    let given = seen.framing(version == 0).map_err(StreamError::Malformed)?;
    let framing = match (status, &asked.kind) {
        (100..200 | 204 | 304, _) | (_, Kind::Head) | (200..300, Kind::Connect) => Framing::None,
        _ => given.unwrap_or(Framing::ToClose),
    };
    // Bytes that a 204 announces would be read as the next response by some, so there is none.
    let odd = status == 204 && !matches!(given, None | Some(Framing::Length(0)));
    let keep = !seen.close && (version == 1 || seen.keep_alive) && !odd;
    Ok(Some(Response {
        bytes,
        status,
        framing,
        keep: keep && framing != Framing::ToClose,
        upgrades: seen.protocol().is_some(),
        accept: seen.websocket_accept.map(<[u8]>::to_vec),
    }))
}

/// Reads the trailers after the last chunk. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// When they are malformed, have too many fields, or say what only a head may.
pub(super) fn trailers(buf: &[u8], block: &mut HeaderBlock) -> Result<Option<usize>, StreamError> {
    let mut space = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let (bytes, headers) = match httparse::parse_headers(buf, &mut space) {
        Ok(Status::Complete(found)) => found,
        Ok(Status::Partial) => return Ok(None),
        Err(error) => return Err(wrong(error)),
    };
    // The whole of it may be a line feed.
    if bytes.checked_sub(2).and_then(|at| buf.get(at)) != Some(&b'\r') {
        return Err(StreamError::Malformed("a line ends with a bare line feed"));
    }
    let seen = fields::read(buf, headers, block).map_err(StreamError::Malformed)?;
    if seen.length.is_some() || seen.coding.is_some() || host(headers) != Ok(None) {
        return Err(StreamError::Malformed("the trailers say what only a head may"));
    }
    Ok(Some(bytes))
}

fn wrong(error: httparse::Error) -> StreamError {
    StreamError::Malformed(match error {
        httparse::Error::TooManyHeaders => return StreamError::HeadTooLarge,
        httparse::Error::HeaderName => "a field's name is malformed",
        httparse::Error::HeaderValue => "a field's value is malformed",
        httparse::Error::NewLine => "a line's end is malformed",
        httparse::Error::Status => "the status line is malformed",
        httparse::Error::Token => "the request line is malformed",
        httparse::Error::Version => "the version is none of HTTP/1",
    })
}
