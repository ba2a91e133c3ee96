//! Against another implementation of HTTP/1.1, both ways round: what hyper's client asks for is what
//! our server hears and the other way, for bodies of every framing, on one connection after another.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};

use super::{Config, Connection, fields, now};
use crate::http::{Event, HeaderBlock, Token};

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// The shapes of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    None,
    Counted(usize),
    Chunked(usize),
    Trailers(usize),
}

const SHAPES: [Shape; 8] = [
    Shape::None,
    Shape::Counted(1),
    Shape::Counted(300_000),
    Shape::Chunked(0),
    Shape::Chunked(1),
    Shape::Chunked(700_000),
    Shape::Trailers(0),
    Shape::Trailers(70_000),
];

fn text(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}

fn body(shape: Shape) -> Body {
    let frames = |length: usize, trailers: bool| {
        let parts: Vec<Bytes> = text(length).chunks(9_999).map(Bytes::copy_from_slice).collect();
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "1".parse().expect("a value"));
        let last = trailers.then(|| Frame::trailers(fields));
        let frames = parts.into_iter().map(Frame::data).chain(last).map(Ok);
        StreamBody::new(tokio_stream::iter(frames)).boxed()
    };
    match shape {
        Shape::None => Full::new(Bytes::new()).boxed(),
        Shape::Counted(length) => Full::new(Bytes::from(text(length))).boxed(),
        Shape::Chunked(length) => frames(length, false),
        Shape::Trailers(length) => frames(length, true),
    }
}

/// What a message carried: its body, and the value of its trailer.
type Carried = (Vec<u8>, Option<String>);

fn expected(shape: Shape) -> Carried {
    match shape {
        Shape::None => (Vec::new(), None),
        Shape::Counted(length) | Shape::Chunked(length) => (text(length), None),
        Shape::Trailers(length) => (text(length), Some("1".to_owned())),
    }
}

async fn carried(incoming: Incoming) -> Carried {
    let whole = incoming.collect().await.expect("a whole body");
    let sum = whole.trailers().and_then(|trailers| trailers.get("x-sum"));
    let sum = sum.map(|value| value.to_str().expect("text").to_owned());
    (whole.to_bytes().to_vec(), sum)
}

/// Our end on a pipe.
struct Ours {
    connection: Connection,
    io: DuplexStream,
    left: Vec<u8>,
}

impl Ours {
    async fn flush(&mut self) {
        let bytes = std::mem::take(self.connection.output());
        self.io.write_all(&bytes).await.expect("an open pipe");
        self.connection.flushed(0);
        self.connection.check_invariants();
    }

    /// Reads one whole message; `None` at the end of the connection.
    async fn message(&mut self) -> Option<(HeaderBlock, Carried)> {
        let (mut found, mut got, mut sum) = (None, Vec::new(), None);
        loop {
            let given = std::mem::take(&mut self.left);
            let mut input = &given[..];
            let mut over = false;
            while let Some(event) = self.connection.receive(&mut input, now()) {
                self.connection.check_invariants();
                match event {
                    Event::Head { head, end, .. } => (found, over) = (Some(head), end),
                    Event::Data { stream, data, end } => {
                        got.extend_from_slice(data);
                        over = end;
                        self.connection.credit(stream, data.len());
                    }
                    Event::Trailers { trailers, .. } => {
                        let value = trailers.iter().find(|field| field.is("x-sum"));
                        sum = value.map(|field| String::from_utf8_lossy(field.value).into_owned());
                        over = true;
                    }
                    Event::Closed(_) => return None,
                    Event::Informational { .. } | Event::Writable { .. } | Event::Capacity => {}
                    other => panic!("{other:?}"),
                }
                if over {
                    break;
                }
            }
            self.left = input.to_vec();
            if over {
                return Some((found.expect("a head"), (got, sum)));
            }
            let mut buffer = vec![0; 16 * 1024];
            let read = self.io.read(&mut buffer).await.expect("an open pipe");
            self.left.extend_from_slice(&buffer[..read]);
            if read == 0 {
                self.connection.eof();
            }
        }
    }

    /// Writes a body as the peer takes it.
    async fn body(&mut self, stream: u32, shape: Shape) {
        let (bytes, sum) = expected(shape);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let taken = self.connection.send(stream, &rest[..rest.len().min(30_000)], false);
            rest = &rest[taken..];
            self.flush().await;
        }
        match sum {
            Some(sum) => self.connection.trailers(stream, &fields(&[("x-sum", &sum)])),
            None => assert_eq!(self.connection.send(stream, b"", true), 0),
        }
        self.flush().await;
    }
}

/// The fields that say how our own body goes, and whether it has one.
fn head(first: &[(&str, &str)], shape: Shape) -> (HeaderBlock, bool) {
    let mut block = fields(first);
    block.push_token(Token::Te, b"trailers");
    if let Shape::Counted(length) = shape {
        block.push_token(Token::ContentLength, length.to_string().as_bytes());
    }
    (block, shape == Shape::None)
}

#[tokio::test]
async fn our_server_and_hypers_client() {
    let (theirs, io) = duplex(50_000);
    let connection = Connection::server(&Config::default(), now());
    let serve = async {
        let mut ours = Ours { connection, io, left: Vec::new() };
        for (index, shape) in SHAPES.iter().enumerate() {
            let asked = SHAPES[SHAPES.len() - 1 - index];
            let (request, got) = ours.message().await.expect("a request");
            assert_eq!(request.text(Token::Path), Some("/a?b"));
            assert_eq!(got, expected(asked), "{asked:?}");
            let stream = u32::try_from(index + 1).expect("a few");
            let (response, whole) = head(&[(":status", "200"), ("x-a", "b")], *shape);
            ours.connection.respond(stream, &response, whole);
            ours.flush().await;
            if !whole {
                ours.body(stream, *shape).await;
            }
        }
        assert!(ours.message().await.is_none(), "the client has closed");
    };
    let ask = async {
        let (mut sender, running) =
            hyper::client::conn::http1::handshake::<_, Body>(TokioIo::new(theirs))
                .await
                .expect("a start");
        let asks = async move {
            for (index, shape) in SHAPES.iter().enumerate() {
                let asked = SHAPES[SHAPES.len() - 1 - index];
                let mut request =
                    Request::post("/a?b").header("host", "x").header("te", "trailers");
                if matches!(asked, Shape::Trailers(_)) {
                    request = request.header("trailer", "x-sum");
                }
                sender.ready().await.expect("a reusable connection");
                let request = request.body(body(asked)).expect("a request");
                let response = sender.send_request(request).await.expect("a response");
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()["x-a"], "b");
                assert_eq!(carried(response.into_body()).await, expected(*shape), "{shape:?}");
            }
        };
        let (ran, ()) = tokio::join!(running, asks);
        ran.expect("an orderly end");
    };
    timeout(Duration::from_secs(30), async { tokio::join!(serve, ask) }).await.expect("in time");
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let index: usize = request.headers()["x-index"].to_str().expect("text").parse().expect("one");
    assert_eq!(request.headers()["host"], "x:1");
    let asked = SHAPES[SHAPES.len() - 1 - index];
    assert_eq!(carried(request.into_body()).await, expected(asked), "{asked:?}");
    let shape = SHAPES[index];
    let mut response = Response::builder().header("x-a", "b");
    if matches!(shape, Shape::Trailers(_)) {
        response = response.header("trailer", "x-sum");
    }
    Ok(response.body(body(shape)).expect("a response"))
}

#[tokio::test]
async fn our_client_and_hypers_server() {
    let (theirs, io) = duplex(50_000);
    let serve = async {
        let server = hyper::server::conn::http1::Builder::new();
        let served = server.serve_connection(TokioIo::new(theirs), service_fn(answer)).await;
        served.expect("an orderly end");
    };
    let connection = Connection::client(&Config::default(), now());
    let ask = async {
        let mut ours = Ours { connection, io, left: Vec::new() };
        for (index, shape) in SHAPES.iter().enumerate() {
            let asked = SHAPES[SHAPES.len() - 1 - index];
            let first = [
                (":method", "PUT"),
                (":authority", "x:1"),
                (":path", "/a"),
                ("x-index", &index.to_string()),
                ("trailer", "x-sum"),
            ];
            let (request, whole) = head(&first, asked);
            let stream = ours.connection.open(&request, whole, now()).expect("room");
            ours.flush().await;
            if !whole {
                ours.body(stream, asked).await;
            }
            let (response, got) = ours.message().await.expect("a response");
            assert_eq!(response.status(), 200);
            assert_eq!(got, expected(*shape), "{shape:?}");
            assert_eq!(ours.connection.room(), 1);
        }
    };
    timeout(Duration::from_secs(30), async { tokio::join!(serve, ask) }).await.expect("in time");
}
