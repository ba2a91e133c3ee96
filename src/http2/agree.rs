//! Whether this implementation and the `h2` crate read the same out of the same bytes, for the fuzzer
//! and for the tests that run its inputs. A proxy that reads something else than what stands behind it
//! is how requests are smuggled. Each may refuse what the other takes; what both take has to be the
//! same message.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Config, Connection,
    check::{request, start},
    hpack::by_name,
};
use crate::http::Event;

/// Fields by name; those of one name in order.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What was read of one message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    head: Fields,
    body: Vec<u8>,
    trailers: Fields,
    /// Whether it came whole.
    end: bool,
}

type Messages = BTreeMap<u32, Message>;

/// Takes `data` as what a peer sends, as [`super::check()`] does: the first byte says which role it
/// speaks to and into which pieces the rest is cut. Returns how many messages both have read.
///
/// # Panics
/// If a message that both read is not the same.
pub fn agree(data: &[u8]) -> usize {
    let Some((&first, rest)) = data.split_first() else { return 0 };
    let pieces = rest.chunks(usize::from(first >> 1).max(1));
    let (ours, theirs) = if first & 1 == 0 {
        (read(Connection::server(&Config::default(), start()), pieces.clone()), serve(pieces))
    } else {
        (read(client(start()), pieces.clone()), call(pieces))
    };
    let mut read_by_both = 0;
    for (stream, ours) in &ours {
        let Some(theirs) = theirs.get(stream) else { continue };
        assert_eq!(ours.head, theirs.head, "the head of stream {stream}");
        let both = ours.body.len().min(theirs.body.len());
        assert_eq!(ours.body[..both], theirs.body[..both], "the body of stream {stream}");
        if ours.end && theirs.end {
            assert_eq!(ours, theirs, "the end of stream {stream}");
        }
        read_by_both += 1;
    }
    read_by_both
}

/// A client with two streams open, the second of which has not ended its request.
fn client(now: Instant) -> Connection {
    let mut core = Connection::client(&Config::default(), now);
    for end in [true, false] {
        core.open(&request(), end, now).expect("nothing is open yet");
    }
    core
}

/// What this implementation reads.
fn read<'a>(mut core: Connection, pieces: impl Iterator<Item = &'a [u8]>) -> Messages {
    let now = start();
    let mut messages = Messages::new();
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut left = &buffer[..];
        while let Some(event) = core.receive(&mut left, now) {
            match event {
                Event::Head { stream, head, end } => {
                    let head = by_name(&head);
                    messages.insert(stream, Message { head, end, ..Message::default() });
                }
                Event::Data { stream, data, end } => {
                    core.credit(stream, data.len());
                    if let Some(message) = messages.get_mut(&stream) {
                        message.body.extend_from_slice(data);
                        message.end = end;
                    }
                }
                Event::Trailers { stream, trailers } => {
                    if let Some(message) = messages.get_mut(&stream) {
                        message.trailers = by_name(&trailers);
                        message.end = true;
                    }
                }
                _ => {}
            }
        }
        let used = buffer.len() - left.len();
        buffer.drain(..used);
        core.output().clear();
        core.flushed(0);
    }
    messages
}

/// What h2 reads as a server.
fn serve<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Messages {
    let wire = Wire::default();
    let cx = &mut Context::from_waker(Waker::noop());
    let mut handshake =
        Box::pin(h2::server::Builder::new().enable_connect_protocol().handshake(wire.clone()));
    let mut connection = None;
    // The streams stay open until all was read, as they do on the other side.
    let (mut requests, mut responses) = (Vec::new(), Vec::new());
    for piece in pieces {
        wire.0.borrow_mut().extend(piece);
        if connection.is_none() {
            match handshake.as_mut().poll(cx) {
                Poll::Ready(Ok(ready)) => connection = Some(ready),
                Poll::Ready(Err(_)) => break,
                Poll::Pending => {}
            }
        }
        let Some(connection): Option<&mut h2::server::Connection<Wire, Bytes>> =
            connection.as_mut()
        else {
            continue;
        };
        while let Poll::Ready(Some(Ok((request, response)))) = connection.poll_accept(cx) {
            requests.push(request);
            responses.push(response);
        }
    }
    let message = |request: http::Request<h2::RecvStream>| {
        let (parts, body) = request.into_parts();
        let stream = body.stream_id().as_u32();
        let mut head = fields(&parts.headers);
        let protocol = parts.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
        let pseudo = [
            (":method", Some(parts.method.as_str())),
            (":authority", parts.uri.authority().map(http::uri::Authority::as_str)),
            (":path", parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str)),
            (":scheme", parts.uri.scheme_str()),
            (":protocol", protocol),
        ];
        for (name, value) in pseudo {
            head.extend(value.map(|value| (name.into(), value.into())));
        }
        head.sort_by(|one, other| one.0.cmp(&other.0));
        (stream, rest(head, body, cx))
    };
    requests.into_iter().map(message).collect()
}

/// What h2 reads as a client with two streams open.
fn call<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Messages {
    let wire = Wire::default();
    let cx = &mut Context::from_waker(Waker::noop());
    let handshake = std::pin::pin!(h2::client::handshake(wire.clone()));
    let Poll::Ready(Ok((mut sender, connection))) = handshake.poll(cx) else {
        return Messages::new();
    };
    let mut connection: Pin<Box<h2::client::Connection<Wire, Bytes>>> = Box::pin(connection);
    let mut calls = Vec::new();
    for end in [true, false] {
        let request = http::Request::post("http://a/").body(()).expect("valid");
        calls.extend(sender.send_request(request, end));
        if connection.as_mut().poll(cx).is_ready() {
            return Messages::new();
        }
    }
    for piece in pieces {
        wire.0.borrow_mut().extend(piece);
        if connection.as_mut().poll(cx).is_ready() {
            break;
        }
    }
    let mut messages = Messages::new();
    for (mut response, _request) in calls {
        let stream = response.stream_id().as_u32();
        if let Poll::Ready(Ok(response)) = Pin::new(&mut response).poll(cx) {
            let (parts, body) = response.into_parts();
            let mut head = fields(&parts.headers);
            head.push((b":status".into(), parts.status.as_str().into()));
            head.sort_by(|one, other| one.0.cmp(&other.0));
            messages.insert(stream, rest(head, body, cx));
        }
    }
    messages
}

/// What follows a head.
fn rest(head: Fields, mut body: h2::RecvStream, cx: &mut Context<'_>) -> Message {
    let mut message = Message { head, ..Message::default() };
    while let Poll::Ready(Some(Ok(data))) = body.poll_data(cx) {
        message.body.extend_from_slice(&data);
    }
    if let Poll::Ready(Ok(trailers)) = body.poll_trailers(cx) {
        message.trailers = trailers.as_ref().map(fields).unwrap_or_default();
        message.end = true;
    }
    message
}

fn fields(map: &http::HeaderMap) -> Fields {
    let mut fields: Fields =
        map.iter().map(|(name, value)| (name.as_str().into(), value.as_bytes().into())).collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

/// A transport that has what was put there, and takes everything.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<VecDeque<u8>>>);

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = self.0.borrow_mut();
        if bytes.is_empty() {
            return Poll::Pending;
        }
        let count = bytes.len().min(buffer.remaining());
        for byte in bytes.drain(..count) {
            buffer.put_slice(&[byte]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
