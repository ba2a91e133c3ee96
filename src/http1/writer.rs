//! Messages into bytes: heads with the fields of one hop made anew, and bodies framed as the head and
//! the peer permit. A field whose value could end its line is not written, whatever brought it: the
//! codecs refuse such values already, and the next server must not depend on that.

use super::fields::digits;
use crate::http::{Field, HeaderBlock, Token, octets};

/// How the body of the outgoing message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// No final head is out.
    Head,
    /// So many bytes are still to come, at least one.
    Length(u64),
    /// Chunks.
    Chunked,
    /// As it comes; its end is that of the connection.
    ToClose,
    /// There is none to write, whatever comes (HEAD, 204, 304).
    Nothing,
    /// A tunnel that the peer has not opened yet: not one byte may go before its answer.
    Waiting,
    /// A tunnel.
    Raw,
    /// All is written.
    Done,
}

/// The reason phrase of a status (RFC 9110 section 15); empty for others.
fn phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// Appends a status line.
pub(super) fn status_line(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&digits(status));
    out.push(b' ');
    out.extend_from_slice(phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends one field, if it is fit to be written.
pub(super) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    if !is_value(value) {
        return;
    }
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the fields that go from hop to hop.
pub(super) fn fields(out: &mut Vec<u8>, head: &HeaderBlock) {
    fields_but(out, head, is_of_this_hop);
}

/// The same for a protocol change, whose keys are made anew too.
pub(super) fn tunnel_fields(out: &mut Vec<u8>, head: &HeaderBlock) {
    let keys = |token| matches!(token, Token::SecWebsocketKey | Token::SecWebsocketAccept);
    fields_but(out, head, |token| is_of_this_hop(token) || keys(token));
}

fn fields_but(out: &mut Vec<u8>, head: &HeaderBlock, but: impl Fn(Token) -> bool) {
    for Field { token, name, value, .. } in head.iter() {
        if token.is_pseudo() || but(token) {
            continue;
        }
        if token == Token::Other && !octets::is_token(name) {
            continue;
        }
        field(out, name, value);
    }
}

/// Appends the fields of trailers and their end.
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &HeaderBlock) {
    fields(out, trailers);
    out.extend_from_slice(b"\r\n");
}

/// What is made anew on each connection. The fields that frame a message come from what is really
/// written, so that the two can not differ.
fn is_of_this_hop(token: Token) -> bool {
    matches!(
        token,
        Token::Connection
            | Token::KeepAlive
            | Token::ProxyConnection
            | Token::TransferEncoding
            | Token::ContentLength
            | Token::Te
            | Token::Upgrade
            | Token::Http2Settings
            | Token::Host
    )
}

/// Whether a value can stand in a line: no CR, LF or NUL in it.
pub(super) fn is_value(value: &[u8]) -> bool {
    // Without a branch in the loop, so that it is done many bytes at a time.
    !value.iter().fold(false, |found, byte| found | matches!(byte, b'\r' | b'\n' | 0))
}

/// Whether a target or authority can stand in a request line: visible ASCII only.
pub(super) fn is_visible(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().fold(true, |all, byte| all & byte.is_ascii_graphic())
}

/// Appends a number.
pub(super) fn decimal(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Appends one chunk; `data` is not empty.
pub(super) fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    let (mut text, mut at, mut size) = ([0_u8; 18], 16, data.len());
    text[16..].copy_from_slice(b"\r\n");
    while size > 0 {
        at -= 1;
        text[at] = b"0123456789abcdef"[size % 16];
        size /= 16;
    }
    out.reserve(data.len() + 20);
    out.extend_from_slice(&text[at..]);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}
