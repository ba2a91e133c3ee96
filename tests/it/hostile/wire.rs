//! A client that may write any bytes at all, and frames of HTTP/2 to write.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

/// What a client of HTTP/2 says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// A SETTINGS frame.
pub(super) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let pair =
        |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &values.iter().flat_map(pair).collect::<Vec<_>>())
}

/// A field that no table remembers (RFC 7541 section 6.2.2), without Huffman.
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        match u8::try_from(text.len()) {
            Ok(length) if length < 127 => bytes.push(length),
            _ => {
                bytes.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    bytes.push(u8::try_from(rest % 128).expect("seven bits") | 128);
                    rest /= 128;
                }
                bytes.push(u8::try_from(rest).expect("seven bits"));
            }
        }
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The fields of a call.
pub(super) fn call(method: &str) -> Vec<u8> {
    [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":authority", "echo:9090"),
        field(":path", &format!("/echo.Echo/{method}")),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ]
    .concat()
}

/// The head of a call whose body is to follow.
pub(super) fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &call("Unary"))
}

/// A whole call: one empty message.
pub(super) fn whole(stream: u32) -> Vec<u8> {
    [open(stream), frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// How long the other side may take to end a connection or to take bytes.
const BOUND: Duration = Duration::from_secs(20);

/// Writes all of these, or as many as the other side takes, and says what came back and whether the
/// other side ended the connection. `hold`: nothing is read while bytes are written, and the end is
/// not waited for.
pub(super) async fn attack(
    to: SocketAddr,
    parts: impl IntoIterator<Item = Vec<u8>>,
    hold: bool,
) -> (Vec<u8>, bool) {
    let socket = TcpStream::connect(to).await.expect("connects");
    socket.set_nodelay(true).expect("a socket");
    let (mut reading, mut writing) = socket.into_split();
    let write = async {
        for part in parts {
            // Who does not read is soon not read from.
            let bound = if hold { Duration::from_millis(300) } else { BOUND };
            match timeout(bound, writing.write_all(&part)).await {
                Ok(Ok(())) => {}
                _ => break,
            }
        }
        writing
    };
    if hold {
        let writing = write.await;
        drop((reading, writing));
        return (Vec::new(), false);
    }
    let mut came = Vec::new();
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match timeout(BOUND, reading.read(&mut buffer)).await {
                Ok(Ok(0)) => break true,
                Ok(Ok(length)) => came.extend_from_slice(&buffer[..length]),
                Ok(Err(error)) => break error.kind() != io::ErrorKind::TimedOut,
                Err(_) => break false,
            }
        }
    };
    let (ended, writing) = tokio::join!(read, write);
    drop(writing);
    (came, ended)
}
