//! Streams that honest peers make and that look like abuse: many small messages to a reader that
//! stalls, thousands of cancels, halves that are closed one after the other.

use std::{future::poll_fn, net::SocketAddr};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, stream};
use h2::{Reason, RecvStream, SendStream, client::SendRequest};
use http::Request;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    Bystanders, check_unharmed,
    wire::{
        self, ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
        frame, settings,
    },
};
use crate::harness::{App, SOON, StaticPair, echo_client, eventually, heavy, metrics};

/// One-byte messages on one stream; a debug build takes its time for each.
fn messages() -> usize {
    let wanted = std::env::var("OUTRIGGER_TEST_MESSAGES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(if cfg!(debug_assertions) { 100_000 } else { 1_000_000 })
}

/// A message of one byte, framed as gRPC does.
const MESSAGE: &[u8] = &[0, 0, 0, 0, 1, b'x'];

/// A client's connection of HTTP/2.
async fn connect(to: SocketAddr) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(to).await.expect("connects");
    socket.set_nodelay(true).expect("a socket");
    let (sender, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn call(method: &str) -> Request<()> {
    let request = Request::post(format!("http://echo:9090/echo.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    request.body(()).expect("a request")
}

/// Sends all of it as the other side gives credit.
async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while bytes.has_remaining() {
        stream.reserve_capacity(bytes.len());
        let given = poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("credit");
        let part = bytes.split_to(given.min(bytes.len()));
        stream.send_data(part, end && bytes.is_empty()).expect("open");
    }
}

/// An application that answers with a million messages of a byte, each in a frame of its own.
async fn chatty(listener: TcpListener) {
    let mut connection = loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        socket.set_nodelay(true).expect("a socket");
        // The sidecar looks first whether anybody is there.
        if let Ok(connection) = h2::server::handshake(socket).await {
            break connection;
        }
    };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.body(()).expect("a response");
            let mut stream = respond.send_response(response, false).expect("open");
            for _ in 0..messages() {
                send_all(&mut stream, Bytes::from_static(MESSAGE), false).await;
            }
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            stream.send_trailers(trailers).expect("open");
        });
    }
}

/// Reads up to so many bytes and gives credit for them.
async fn read(body: &mut RecvStream, most: usize) -> usize {
    let mut all = 0;
    while all < most {
        let Some(data) = timeout(SOON, body.data()).await.expect("goes on") else { break };
        let data = data.expect("whole");
        all += data.len();
        body.flow_control().release_capacity(data.len()).expect("taken");
    }
    all
}

/// Reads the body of stream 1 to its end, and gives credit for it. Libraries do not bear as many frames
/// as their own window lets come.
async fn read_raw(socket: &mut TcpStream) -> usize {
    let (mut all, mut owed) = (0, 0_u32);
    loop {
        let mut head = [0; 9];
        let read = timeout(SOON, socket.read_exact(&mut head)).await.expect("goes on");
        read.expect("open");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.expect("open");
        match head[3] {
            DATA => (all, owed) = (all + payload.len(), owed + length),
            HEADERS if head[4] & END_STREAM > 0 => return all,
            PING if head[4] & ACK == 0 => {
                socket.write_all(&frame(PING, ACK, 0, &payload)).await.expect("open");
            }
            HEADERS | SETTINGS | WINDOW_UPDATE | PING => {}
            other => panic!("a frame of type {other} after {all} bytes: {payload:?}"),
        }
        if owed > 20_000 {
            for stream in [0, 1] {
                let credit = frame(WINDOW_UPDATE, 0, stream, &owed.to_be_bytes());
                socket.write_all(&credit).await.expect("open");
            }
            owed = 0;
        }
    }
}

#[tokio::test]
async fn a_million_messages_survive_a_reader_that_stalls() {
    let _turn = heavy().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(chatty(listener));
    let Some(pair) = StaticPair::start(address).await else { return };
    let mut socket = TcpStream::connect(pair.client.address("outbound")).await.expect("connects");
    let body = frame(DATA, END_STREAM, 1, &[0; 5]);
    let head = frame(HEADERS, END_HEADERS, 1, &wire::call("Count"));
    let acknowledged = frame(SETTINGS, ACK, 0, &[]);
    let start = [PREFACE, &settings(&[]), &acknowledged, &head, &body].concat();
    socket.write_all(&start).await.expect("taken");
    // It reads nothing until nothing moves any more, so that every buffer on the way is full.
    let moved = async || {
        let seen = metrics(pair.server.address("metrics")).await;
        seen.sum("outrigger_requests_in_flight", &[])
    };
    eventually(SOON, async || {
        let before = super::ticks(&pair.server);
        let under_way = moved().await;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let spent = super::ticks(&pair.server) - before;
        if spent <= 4 && under_way >= 1.0 { Ok(()) } else { Err(format!("{spent} {under_way}")) }
    })
    .await;
    assert_eq!(read_raw(&mut socket).await, messages() * MESSAGE.len());
    serving.abort();
    check_unharmed(&pair).await;
}

#[tokio::test]
async fn a_million_messages_are_taken_from_a_caller() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let mut sender = connect(pair.client.address("outbound")).await;
    let (response, mut stream) = sender.send_request(call("Chat"), false).expect("open");
    let count = messages() / 10;
    let send = async {
        // An empty text each: five bytes that a library writes one by one.
        for _ in 0..count {
            send_all(&mut stream, Bytes::from_static(&[0; 5]), false).await;
        }
        send_all(&mut stream, Bytes::from_static(&[0; 5]), true).await;
    };
    let hear = async {
        let mut body = response.await.expect("a head").into_body();
        read(&mut body, usize::MAX).await
    };
    let ((), all) = tokio::join!(send, hear);
    assert_eq!(all, (count + 1) * 5);
    check_unharmed(&pair).await;
}

#[tokio::test]
async fn thousands_of_cancels_end_no_connection() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let outbound = pair.client.address("outbound");
    let bystanders = Bystanders::start(outbound, "echo:9090", 2);
    let sender = connect(outbound).await;
    // As a client that has seen enough: most streams are given up when they have begun.
    let count = Bytes::from_static(&[0, 0, 0, 0, 7, 10, 5, b'1', b'0', b'0', b'0', b'0', b'0']);
    let tries = (0..5_000).map(|index| {
        let (mut sender, count) = (sender.clone(), count.clone());
        async move {
            sender = sender.ready().await.expect("the connection stays");
            let method = if index % 8 > 0 { "Count" } else { "Unary" };
            let message = if index % 8 > 0 { count } else { Bytes::from_static(&[0; 5]) };
            let sent = sender.send_request(call(method), false);
            let (response, mut stream) = sent.expect("the connection stays");
            send_all(&mut stream, message, true).await;
            let mut body =
                timeout(SOON, response).await.expect("in time").expect("a head").into_body();
            if index % 8 > 0 {
                stream.send_reset(Reason::CANCEL);
            } else {
                assert_eq!(read(&mut body, usize::MAX).await, 5);
            }
        }
    });
    stream::iter(tries).buffer_unordered(64).collect::<Vec<()>>().await;
    bystanders.end().await;
    eventually(SOON, async || {
        let seen = metrics(pair.client.address("metrics")).await;
        let under_way = seen.sum("outrigger_requests_in_flight", &[]);
        if under_way < 0.5 { Ok(()) } else { Err(format!("{under_way} are under way")) }
    })
    .await;
    check_unharmed(&pair).await;
}

#[tokio::test]
async fn halves_are_closed_one_after_the_other() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let outbound = pair.client.address("outbound");
    // The caller's half first: its messages come back after it.
    let mut client = echo_client(outbound, "echo:9090");
    let texts: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    let mut request = tonic::Request::new(stream::iter(texts.clone()));
    request.metadata_mut().insert("echo-delay", "5".parse().expect("ASCII"));
    let back = client.chat(request).await.expect("a head").into_inner();
    let back: Vec<_> = back.map(|text| text.expect("a message")).collect().await;
    assert_eq!(back, texts);
    // The application's half first: a call that is answered before it is whole.
    let mut sender = connect(outbound).await;
    let (response, mut stream) = sender.send_request(call("Nothing"), false).expect("open");
    let response = timeout(SOON, response).await.expect("in time").expect("a head");
    assert_eq!(response.headers()["grpc-status"], "12");
    drop(response);
    stream.send_reset(Reason::CANCEL);
    // HTTP/1.1 that says it is the last request, and pipelined ones before it.
    let request = |more: &str| format!("GET / HTTP/1.1\r\nHost: echo:9090\r\n{more}\r\n");
    let mut socket = TcpStream::connect(outbound).await.expect("connects");
    let all = [request(""), request(""), request("Connection: close\r\n")].concat();
    socket.write_all(all.as_bytes()).await.expect("taken");
    let mut came = String::new();
    timeout(SOON, socket.read_to_string(&mut came)).await.expect("in time").expect("an end");
    assert_eq!(came.matches("HTTP/1.1 200 OK").count(), 3, "{came}");
    check_unharmed(&pair).await;
}
