//! Which protocol a connection speaks, by the first bytes that its client sends. The bytes are kept
//! and read again by whoever serves the protocol.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use super::{io::Rewind, settings::HANDSHAKE_MAX};

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A TLS record that carries a handshake begins so (RFC 8446 section 5.1).
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];
/// The longest method of an HTTP/1.1 request line.
const METHOD_BYTES_MAX: usize = 32;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// HTTP/2 in plaintext.
    Http2,
    /// HTTP/1.1 in plaintext.
    Http1,
    /// TLS.
    Tls,
    /// Something else.
    Other,
}

/// Why it could not be seen.
#[derive(Debug, thiserror::Error)]
pub(super) enum DetectError {
    /// The connection ended before it said anything.
    #[error("the connection closed before its first request")]
    Closed,
    /// It said too little for too long.
    #[error("the connection was silent")]
    Silent,
    /// It broke.
    #[error("the connection broke")]
    Broken(#[from] io::Error),
}

/// Reads until it is clear what the client speaks.
pub(super) async fn detect<I>(mut io: I) -> Result<(Spoken, Rewind<I>), DetectError>
where
    I: AsyncRead + Unpin,
{
    let mut first = BytesMut::with_capacity(1024);
    let spoken = timeout(HANDSHAKE_MAX, async {
        loop {
            if io.read_buf(&mut first).await? == 0 {
                return Err(DetectError::Closed);
            }
            if let Some(spoken) = classify(&first) {
                return Ok(spoken);
            }
        }
    });
    let spoken = spoken.await.unwrap_or(Err(DetectError::Silent))?;
    Ok((spoken, Rewind::new(Bytes::from(first), io)))
}

/// What a client speaks by its first bytes; `None`: more of them are needed.
pub(super) fn classify(first: &[u8]) -> Option<Spoken> {
    if first.is_empty() || (first.len() == 1 && first[0] == TLS_HANDSHAKE[0]) {
        return None;
    }
    if first.starts_with(&TLS_HANDSHAKE) {
        return Some(Spoken::Tls);
    }
    if first.starts_with(HTTP2_PREFACE) {
        return Some(Spoken::Http2);
    }
    if HTTP2_PREFACE.starts_with(first) {
        return None;
    }
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = first.iter().take_while(|byte| token(byte)).count();
    match first.get(method) {
        // An empty line before the request line is to be ignored (RFC 9112 section 2.2).
        Some(b'\r' | b'\n') if method == 0 => Some(Spoken::Http1),
        Some(b' ') if (1..=METHOD_BYTES_MAX).contains(&method) && is_request_line(first) => {
            Some(Spoken::Http1)
        }
        None if method <= METHOD_BYTES_MAX => None,
        _ => Some(Spoken::Other),
    }
}

/// Whether the first line, as far as it came, can be a request line: one that is whole and names no
/// version of HTTP is of no use to answer in HTTP.
fn is_request_line(first: &[u8]) -> bool {
    let Some(end) = first.iter().position(|byte| *byte == b'\n') else { return true };
    first[..end].windows(6).any(|part| part == b" HTTP/")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::{DetectError, HTTP2_PREFACE, Spoken, classify, detect};

    #[test]
    fn the_first_bytes_tell() {
        for (bytes, spoken) in [
            (&b""[..], None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (HTTP2_PREFACE, Some(Spoken::Http2)),
            (b"PRI * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GE", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"CONNECT a:1 HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\r\nGET /", Some(Spoken::Http1)),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Spoken::Tls)),
            (b"\x16\x04", Some(Spoken::Other)),
            (b"\x00\x00", Some(Spoken::Other)),
            (b"SSH-2.0\r\n", Some(Spoken::Other)),
            (b"INVALID CONNECTION PREF", Some(Spoken::Http1)),
            (b" GET", Some(Spoken::Other)),
            (b"INVALID CONNECTION PREFACE\r\n", Some(Spoken::Other)),
            (b"GET /\r\n", Some(Spoken::Other)),
            (&[b'A'; 33], Some(Spoken::Other)),
        ] {
            assert_eq!(classify(bytes), spoken, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again() {
        let (mut near, far) = duplex(64);
        near.write_all(b"GET / HTTP/1.1\r\n").await.expect("room");
        near.shutdown().await.expect("open");
        let (spoken, mut again) = detect(far).await.expect("detected");
        let mut text = String::new();
        again.read_to_string(&mut text).await.expect("text");
        assert_eq!((spoken, text.as_str()), (Spoken::Http1, "GET / HTTP/1.1\r\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_or_closed_connection_is_not_waited_for() {
        let (near, far) = duplex(64);
        assert!(matches!(detect(far).await, Err(DetectError::Silent)));
        drop(near);
        let (near, far) = duplex(64);
        drop(near);
        assert!(matches!(detect(far).await, Err(DetectError::Closed)));
    }
}
