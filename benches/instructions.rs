//! Instructions of the hot functions, counted by valgrind: the same on a busy machine as on an idle
//! one. A call here is what one of the two cores of a proxy does for it: `serve` reads a request and
//! answers it, `open` writes one, `answer` reads what comes back, and `call` is both. What a connection
//! does in its first calls only is done before, by calls of the same kind.
//! Messages are small: valgrind counts a large copy, `rep movsb`, as an instruction for each byte.
//! `cargo bench --bench instructions`; README says what it needs.
#![allow(unused_qualifications, reason = "gungraun's macros write them")]

use std::{hint::black_box, time::Instant};

use gungraun::{
    Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use outrigger::{
    http::{Event, HeaderBlock, Token},
    http1, http2,
    http2::hpack::{Decoder, Encoder},
};

const LIST_MAX: usize = 64 * 1024;
/// How many calls came before the one that is counted.
const BEFORE: u64 = 16;

/// A gRPC call's head; what differs from call to call is of the call with this number.
fn head(call: u64, path: &str) -> HeaderBlock {
    let trace = format!("00-0af7651916cd43dd8448eb211c80319c-{call:016x}-01");
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "orders.shop:9090"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "grpc-go/1.70.0"),
        ("grpc-accept-encoding", "gzip"),
        ("x-tenant", "blue"),
        ("traceparent", &trace),
        ("grpc-timeout", "4999m"),
    ]
    .into_iter()
    .collect()
}

/// Both sides of a connection after some calls, the next head and its block, and room for results.
struct Connection {
    encoder: Encoder,
    decoder: Decoder,
    next: HeaderBlock,
    block: Vec<u8>,
    out: Vec<u8>,
    into: HeaderBlock,
}

/// The next block is written here, or left to the benchmark.
fn connection(
    calls: impl Iterator<Item = HeaderBlock>,
    next: HeaderBlock,
    write: bool,
) -> Box<Connection> {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(4096));
    let (mut block, mut into) = (Vec::with_capacity(1024), HeaderBlock::new());
    let mut send = |head: &HeaderBlock| {
        block.clear();
        into.clear();
        encoder.encode(head, &mut block);
        decoder.decode(&block, &mut into, LIST_MAX).expect("the encoder writes what it reads");
    };
    calls.for_each(|head| send(&head));
    block.clear();
    if write {
        encoder.encode(&next, &mut block);
    }
    into.clear();
    Box::new(Connection { encoder, decoder, next, block, out: Vec::with_capacity(1024), into })
}

/// How the heads of calls differ.
#[derive(Clone, Copy)]
enum Calls {
    /// In nothing.
    Repeated,
    /// By their trace.
    Traced,
    /// By their trace and their path.
    Paths,
}

impl Calls {
    fn head(self, call: u64) -> HeaderBlock {
        match self {
            Self::Repeated => head(1, "/shop.Orders/Place"),
            Self::Traced => head(call, "/shop.Orders/Place"),
            Self::Paths => head(call, &format!("/orders/{call}")),
        }
    }

    fn before(self) -> impl Iterator<Item = HeaderBlock> {
        (0..BEFORE).map(move |call| self.head(call))
    }
}

/// Something to read.
fn read(calls: Calls) -> Box<Connection> {
    connection(calls.before(), calls.head(99), true)
}

/// The first head of a connection to read.
fn read_first() -> Box<Connection> {
    connection(std::iter::empty(), Calls::Traced.head(99), true)
}

/// Something to write.
fn write(calls: Calls) -> Box<Connection> {
    connection(calls.before(), calls.head(99), false)
}

/// The first head of a connection to write.
fn write_first() -> Box<Connection> {
    connection(std::iter::empty(), Calls::Traced.head(99), false)
}

#[library_benchmark]
#[bench::repeated(read(Calls::Repeated))]
#[bench::traced(read(Calls::Traced))]
#[bench::new_path(read(Calls::Paths))]
#[bench::first(read_first())]
fn decode(mut connection: Box<Connection>) -> Box<Connection> {
    let Connection { decoder, block, into, .. } = connection.as_mut();
    let outcome = decoder.decode(black_box(block), into, LIST_MAX);
    assert!(black_box(outcome).is_ok());
    connection
}

#[library_benchmark]
#[bench::repeated(write(Calls::Repeated))]
#[bench::traced(write(Calls::Traced))]
#[bench::new_path(write(Calls::Paths))]
#[bench::first(write_first())]
fn encode(mut connection: Box<Connection>) -> Box<Connection> {
    let Connection { encoder, next, out, .. } = connection.as_mut();
    encoder.encode(black_box(next), out);
    connection
}

// Four names, one of them unknown.
#[library_benchmark]
#[bench::four(&["content-type", "grpc-timeout", "x-not-known", ":path"])]
fn token(names: &[&str]) -> usize {
    names.iter().filter(|name| black_box(Token::of(name.as_bytes())) != Token::Other).count()
}

/// Two HTTP/2 cores that are connected, and what the one that is counted is given.
struct Pair {
    client: http2::Connection,
    server: http2::Connection,
    now: Instant,
    /// What the server answers with.
    response: HeaderBlock,
    trailers: HeaderBlock,
    message: Vec<u8>,
    head: HeaderBlock,
    bytes: Vec<u8>,
}

impl Pair {
    fn new(calls: Calls, message_bytes: usize) -> Box<Self> {
        let now = start();
        let config = http2::Config::default();
        let mut pair = Box::new(Self {
            client: http2::Connection::client(&config, now),
            server: http2::Connection::server(&config, now),
            now,
            response: [(":status", "200"), ("content-type", "application/grpc")]
                .into_iter()
                .collect(),
            trailers: [("grpc-status", "0"), ("grpc-message", "")].into_iter().collect(),
            message: vec![7; message_bytes],
            head: calls.head(99),
            bytes: Vec::with_capacity(64 * 1024),
        });
        for head in calls.before() {
            pair.open(&head);
            pair.up();
            pair.serve();
            pair.down();
            pair.answer();
        }
        assert!(pair.client.is_idle() && pair.server.is_idle());
        pair
    }

    /// The client has its bytes taken.
    fn up(&mut self) {
        self.bytes.clone_from(self.client.output());
        self.client.output().clear();
        self.client.flushed(0);
    }

    /// The server has its bytes taken.
    fn down(&mut self) {
        self.bytes.clone_from(self.server.output());
        self.server.output().clear();
        self.server.flushed(0);
    }

    fn open(&mut self, head: &HeaderBlock) {
        let stream = self.client.open(head, false, self.now).expect("room");
        self.client.send(stream, &self.message, true);
    }

    fn serve(&mut self) {
        let mut left = &self.bytes[..];
        while let Some(event) = self.server.receive(&mut left, self.now) {
            match event {
                Event::Head { stream, head, .. } => {
                    self.server.respond(stream, &self.response, false);
                    self.server.recycle(head);
                }
                Event::Data { stream, data, end } => {
                    self.server.credit(stream, data.len());
                    self.server.send(stream, data, false);
                    if end {
                        self.server.trailers(stream, &self.trailers);
                    }
                }
                _ => {}
            }
        }
    }

    fn answer(&mut self) {
        let mut left = &self.bytes[..];
        while let Some(event) = self.client.receive(&mut left, self.now) {
            match event {
                Event::Head { head: block, .. } | Event::Trailers { trailers: block, .. } => {
                    self.client.recycle(block);
                }
                Event::Data { stream, data, .. } => self.client.credit(stream, data.len()),
                _ => {}
            }
        }
    }
}

/// A request waits at the server.
fn asked(calls: Calls, message_bytes: usize) -> Box<Pair> {
    let mut pair = Pair::new(calls, message_bytes);
    let head = std::mem::take(&mut pair.head);
    pair.open(&head);
    pair.up();
    pair
}

/// An answer waits at the client.
fn answered(calls: Calls, message_bytes: usize) -> Box<Pair> {
    let mut pair = asked(calls, message_bytes);
    pair.serve();
    pair.down();
    pair
}

#[library_benchmark]
#[bench::repeated(Pair::new(Calls::Repeated, 105))]
#[bench::traced(Pair::new(Calls::Traced, 105))]
#[bench::new_path(Pair::new(Calls::Paths, 105))]
#[bench::of_1_kib(Pair::new(Calls::Traced, 1024))]
fn h2_open(mut pair: Box<Pair>) -> Box<Pair> {
    let head = std::mem::take(&mut pair.head);
    pair.open(black_box(&head));
    pair.head = head;
    pair
}

#[library_benchmark]
#[bench::repeated(asked(Calls::Repeated, 105))]
#[bench::traced(asked(Calls::Traced, 105))]
#[bench::new_path(asked(Calls::Paths, 105))]
#[bench::of_1_kib(asked(Calls::Traced, 1024))]
fn h2_serve(mut pair: Box<Pair>) -> Box<Pair> {
    pair.serve();
    pair
}

#[library_benchmark]
#[bench::traced(answered(Calls::Traced, 105))]
#[bench::of_1_kib(answered(Calls::Traced, 1024))]
fn h2_answer(mut pair: Box<Pair>) -> Box<Pair> {
    pair.answer();
    pair
}

/// An HTTP/1.1 connection, and what it is given.
struct Plain {
    core: http1::Connection,
    now: Instant,
    head: HeaderBlock,
    bytes: Vec<u8>,
}

const GET: &str = "GET /orders/1 HTTP/1.1\r\nHost: orders.shop:8080\r\nUser-Agent: curl/8.5.0\r\n\
                   Accept: */*\r\nX-Tenant: blue\r\n\r\n";

fn plain(mut core: http1::Connection, bytes: Vec<u8>, head: HeaderBlock) -> Box<Plain> {
    core.output().reserve(4096);
    Box::new(Plain { core, now: start(), head, bytes })
}

fn plain_response() -> HeaderBlock {
    let fields = [(":status", "200"), ("Content-Type", "text/plain"), ("Content-Length", "100")];
    fields.into_iter().collect()
}

fn plain_server() -> Box<Plain> {
    let core = http1::Connection::server(&http1::Config::default(), start());
    let mut plain = plain(core, GET.into(), plain_response());
    (0..BEFORE).for_each(|_| plain.serve());
    plain
}

fn plain_client() -> Box<Plain> {
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "orders.shop:8080"),
        (":path", "/orders/1"),
        ("User-Agent", "curl/8.5.0"),
        ("Accept", "*/*"),
        ("X-Tenant", "blue"),
    ];
    let core = http1::Connection::client(&http1::Config::default(), start());
    let mut bytes =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n".to_vec();
    bytes.extend_from_slice(&[b'x'; 100]);
    let mut plain = plain(core, bytes, head.into_iter().collect());
    (0..BEFORE).for_each(|_| plain.call());
    plain
}

impl Plain {
    fn serve(&mut self) {
        let mut left = &self.bytes[..];
        let mut answered = 0;
        while let Some(event) = self.core.receive(&mut left, self.now) {
            if let Event::Head { stream, head, .. } = event {
                self.core.respond(stream, &self.head, false);
                answered += self.core.send(stream, &[b'x'; 100], true);
                self.core.recycle(head);
            }
        }
        assert_eq!(answered, 100);
        self.core.output().clear();
        self.core.flushed(0);
    }

    fn call(&mut self) {
        self.core.open(&self.head, true, self.now).expect("room");
        self.core.output().clear();
        self.core.flushed(0);
        let (mut left, mut taken) = (&self.bytes[..], 0);
        while let Some(event) = self.core.receive(&mut left, self.now) {
            match event {
                Event::Head { head, .. } => self.core.recycle(head),
                Event::Data { stream, data, .. } => {
                    taken += data.len();
                    self.core.credit(stream, data.len());
                }
                _ => {}
            }
        }
        assert_eq!(taken, 100);
    }
}

#[library_benchmark]
#[bench::get(plain_server())]
fn h1_serve(mut plain: Box<Plain>) -> Box<Plain> {
    plain.serve();
    plain
}

// A request written and its answer read.
#[library_benchmark]
#[bench::get(plain_client())]
fn h1_call(mut plain: Box<Plain>) -> Box<Plain> {
    plain.call();
    plain
}

#[expect(clippy::disallowed_methods, reason = "some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

library_benchmark_group!(name = words, benchmarks = [token]);
library_benchmark_group!(name = hpack, benchmarks = [decode, encode]);
library_benchmark_group!(name = h2, benchmarks = [h2_open, h2_serve, h2_answer]);
library_benchmark_group!(name = h1, benchmarks = [h1_serve, h1_call]);
main!(
    // Instructions only: caches are simulated without what surrounds a function in a proxy.
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = [words, hpack, h2, h1]
);
