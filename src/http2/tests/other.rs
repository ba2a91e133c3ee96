//! Against another implementation: the h2 crate as client and as server, over pipes in memory.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::{Seen, Side, block, post};
use crate::{http::HeaderBlock, http2::Config};

/// Moves bytes between a core and a pipe, and hands each event to `react`, until the pipe ends or
/// `react` says so.
async fn drive(
    mut side: Side,
    mut pipe: DuplexStream,
    mut react: impl FnMut(&mut Side, Option<Seen>) -> bool,
) {
    let mut buffer = vec![0; 8_192];
    loop {
        let bytes = side.take();
        if pipe.write_all(&bytes).await.is_err() || side.core.is_closed() {
            return;
        }
        let mut seen = side.events();
        if seen.is_empty() && side.core.output().is_empty() {
            let read = pipe.read(&mut buffer);
            let Ok(read) = tokio::time::timeout(Duration::from_secs(20), read).await else {
                panic!("nothing came for a long time");
            };
            match read {
                Ok(0) | Err(_) => return,
                Ok(length) => seen = side.feed(&buffer[..length]),
            }
        }
        for event in seen {
            if react(&mut side, Some(event)) {
                return;
            }
        }
        if react(&mut side, None) {
            return;
        }
    }
}

/// Bodies that still have to be sent, by stream.
#[derive(Default)]
struct Outbox(Vec<(u32, Vec<u8>, Option<HeaderBlock>)>);

impl Outbox {
    fn flush(&mut self, side: &mut Side) {
        self.0.retain_mut(|(id, body, trailers)| {
            let taken = side.core.send(*id, body, trailers.is_none());
            body.drain(..taken);
            if body.is_empty()
                && let Some(trailers) = trailers
            {
                side.core.trailers(*id, trailers);
            }
            !body.is_empty()
        });
    }
}

fn request(uri: &str) -> http::Request<()> {
    http::Request::builder()
        .method("POST")
        .uri(uri)
        .header("te", "trailers")
        .header("x-thing", "value")
        .body(())
        .expect("valid")
}

/// Sends a body through h2, with its flow control.
async fn h2_send(mut stream: h2::SendStream<Bytes>, body: &[u8], trailers: bool) {
    let mut left = body;
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = room.expect("open").expect("open").min(left.len());
        stream.send_data(Bytes::copy_from_slice(&left[..room]), false).expect("open");
        left = &left[room..];
    }
    if trailers {
        let mut fields = http::HeaderMap::new();
        fields.insert("grpc-status", http::HeaderValue::from_static("0"));
        stream.send_trailers(fields).expect("open");
    } else {
        stream.send_data(Bytes::new(), true).expect("open");
    }
}

async fn h2_read(mut body: h2::RecvStream) -> (Vec<u8>, Option<http::HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("no error");
        body.flow_control().release_capacity(data.len()).expect("held");
        all.extend_from_slice(&data);
    }
    (all, body.trailers().await.expect("no error"))
}

/// Lengths around every bound: frames, windows.
const LENGTHS: [usize; 9] = [0, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 300_000, 2_000_000];

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(tokio::task::LocalSet::new().run_until(test));
}

/// A server that sends each body back while it comes, and ends with trailers.
fn echo() -> impl FnMut(&mut Side, Option<Seen>) -> bool {
    let mut outbox = Outbox::default();
    move |side, seen| {
        match seen {
            Some(Seen::Head(id, head, _)) => {
                assert_eq!(head.get(crate::http::Token::Te), Some(&b"trailers"[..]));
                side.core.inform(id, &block(&[(":status", "103")]));
                side.core.respond(id, &block(&[(":status", "200"), ("x-echo", "1")]), false);
            }
            Some(Seen::Data(id, data, end)) => {
                let trailers = end.then(|| block(&[("grpc-status", "0")]));
                match outbox.0.iter_mut().find(|entry| entry.0 == id) {
                    Some(entry) => {
                        entry.1.extend_from_slice(&data);
                        entry.2 = trailers;
                    }
                    None => outbox.0.push((id, data, trailers)),
                }
            }
            Some(Seen::Trailers(id, trailers)) => {
                match outbox.0.iter_mut().find(|entry| entry.0 == id) {
                    Some(entry) => entry.2 = Some(trailers),
                    None => outbox.0.push((id, Vec::new(), Some(trailers))),
                }
            }
            Some(Seen::Closed(_)) => return true,
            Some(_) => {}
            // A body goes out while it comes in: its end is not known yet.
            None => outbox.0.retain_mut(|(id, body, trailers)| {
                let taken = side.core.send(*id, body, false);
                body.drain(..taken);
                if body.is_empty()
                    && let Some(trailers) = trailers.take()
                {
                    side.core.trailers(*id, &trailers);
                    return false;
                }
                !body.is_empty()
            }),
        }
        false
    }
}

#[test]
fn an_h2_client_is_echoed() {
    local(async {
        let (near, far) = duplex(50_000);
        let server = drive(Side::server(&Config::default()), far, echo());
        let client = async {
            let (send, connection) = h2::client::handshake(near).await.expect("handshake");
            tokio::task::spawn_local(connection);
            let calls = LENGTHS.into_iter().enumerate().map(|(n, length)| {
                let send = send.clone();
                async move {
                    let mut send = send.ready().await.expect("room");
                    let body: Vec<u8> = (0..length)
                        .map(|at| u8::try_from((at + n) % 251).expect("small"))
                        .collect();
                    let (response, stream) =
                        send.send_request(request("http://orders/echo"), false).expect("open");
                    let write = h2_send(stream, &body, n % 2 == 0);
                    let read = async {
                        let response = response.await.expect("a response");
                        assert_eq!(
                            response.headers().get("x-echo").map(http::HeaderValue::as_bytes),
                            Some(&b"1"[..])
                        );
                        h2_read(response.into_body()).await
                    };
                    let ((), (echoed, trailers)) = tokio::join!(write, read);
                    assert_eq!(echoed.len(), length);
                    assert!(echoed == body, "{length} bytes came back changed");
                    assert!(trailers.is_some_and(|trailers| trailers.contains_key("grpc-status")));
                }
            });
            for call in calls.collect::<Vec<_>>() {
                call.await;
            }
            drop(send);
        };
        tokio::join!(server, client);
    });
}

#[test]
fn an_h2_server_is_called() {
    local(async {
        let (near, far) = duplex(50_000);
        let server = async {
            let mut connection = h2::server::handshake(far).await.expect("handshake");
            while let Some(request) = connection.accept().await {
                let (request, mut respond) = request.expect("a request");
                tokio::task::spawn_local(async move {
                    let (body, trailers) = h2_read(request.into_body()).await;
                    let response = http::Response::builder().header("x-echo", "1").body(());
                    let stream = respond.send_response(response.expect("valid"), false);
                    h2_send(stream.expect("open"), &body, trailers.is_some()).await;
                });
            }
        };
        let mut outbox = Outbox::default();
        let mut left = LENGTHS.to_vec();
        let mut heads = 0;
        let mut echoed = 0;
        let mut open = 0;
        let client = drive(Side::client(&Config::default()), near, move |side, seen| {
            match seen {
                Some(Seen::Head(_, head, _)) => {
                    assert_eq!(head.status(), 200);
                    heads += 1;
                }
                Some(Seen::Data(_, data, end)) => {
                    echoed += data.len();
                    open -= usize::from(end);
                }
                Some(Seen::Trailers(..)) => open -= 1,
                Some(Seen::Reset(id, error)) => panic!("{id}: {error}"),
                Some(Seen::Closed(error)) => panic!("{error}"),
                Some(_) => {}
                None => {
                    let now = side.now;
                    while let Some(length) = left.pop() {
                        let id = side.core.open(&post(), false, now).expect("room");
                        let trailers = (length % 2 == 0).then(|| block(&[("grpc-status", "0")]));
                        if length == 0 {
                            side.core.send(id, &[], true);
                        } else {
                            outbox.0.push((id, vec![3; length], trailers));
                        }
                        open += 1;
                    }
                    outbox.flush(side);
                    if open == 0 {
                        assert_eq!((heads, echoed), (LENGTHS.len(), LENGTHS.iter().sum()));
                        let now = side.now;
                        side.core.drain(now);
                        return true;
                    }
                }
            }
            false
        });
        tokio::join!(server, client);
    });
}
