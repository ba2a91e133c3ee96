//! HTTP/1.1 without I/O (RFC 9112): bytes in, events and bytes out, and the time is an argument. One
//! [`Connection`] is one end of a connection, server or client; it has the same methods and the same
//! events as HTTP/2's, so that whoever moves requests need not know which is which. One request is
//! under way at a time; bytes of the next one stay in the input until its turn.
//!
//! What comes has one meaning or is refused (smuggling; RFC 9112 section 11.2). What goes is framed
//! by what is really written: `connection`, `content-length`, `transfer-encoding`, `te`, `upgrade`
//! and `host` of a block are not copied but made anew.
//!
//! * A response is framed by its `content-length`, else in chunks, else (HTTP/1.0) to the close. A
//!   request without a length that has a body goes in chunks.
//! * Trailers of a response go out only in chunks and to a client that said `te: trailers`, as a
//!   recipient that did not ask may not look for them; those of a request in chunks always.
//! * A protocol change (`GET` with `connection: upgrade`) is told as an extended CONNECT (RFC 8441),
//!   whose 2xx becomes the 101 and the other way round; WebSocket keys are made anew on each
//!   connection (RFC 6455 section 4). After it, and after CONNECT's 2xx, bytes are passed as they are
//!   in both directions, each with an end of its own. Until then not one byte of the tunnel is read
//!   or written (CVE-2026-2833, CVE-2026-73548). Requests to change to HTTP/2, and those of other
//!   methods, are answered as if they had not asked.
//! * A response that is whole before its request's body: a bounded rest is read and thrown away,
//!   else the connection closes.
//! * A client that closed its sending half still gets its answer.

mod check;
mod client;
mod connection;
mod fields;
mod life;
mod parse;
mod reader;
mod recall;
mod sending;
mod server;
mod target;
#[cfg(test)]
mod tests;
mod upgrade;
mod writer;

use std::time::Duration;

pub use check::check;
pub use connection::Connection;

/// What a connection permits its peer.
#[derive(Debug, Clone)]
pub struct Config {
    /// The longest head, request line included, and the longest trailers. Bytes.
    pub head_bytes_max: usize,
    /// How much of a body may be reported and not passed on before reading stops. Bytes.
    pub window_bytes: usize,
    /// How much output may wait to be written before `send` takes no more. Bytes.
    pub output_bytes_max: usize,
    /// How much of a request's body is thrown away after its response, to keep the connection. Bytes.
    pub drain_bytes_max: u64,
    /// From a connection's start, or a head's first byte, to the head's end.
    pub head_max: Duration,
    /// Between two requests.
    pub idle_max: Duration,
    /// Without any byte of a request's body while the caller waits for nothing.
    pub body_idle_max: Duration,
    /// Without the peer taking any byte of the output.
    pub reader_idle_max: Duration,
    /// Whether a client that closed its sending half still waits for its response. If not, it counts
    /// as gone.
    pub half_close: bool,
    /// Client: whether targets are written in absolute form, for a server that is a proxy.
    pub absolute_form: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            head_bytes_max: 64 * 1024,
            window_bytes: 256 * 1024,
            output_bytes_max: 256 * 1024,
            drain_bytes_max: 64 * 1024,
            head_max: Duration::from_secs(10),
            idle_max: Duration::from_secs(3600),
            body_idle_max: Duration::from_secs(300),
            reader_idle_max: Duration::from_secs(300),
            half_close: true,
            absolute_form: false,
        }
    }
}
