//! Instructions of the hot functions, counted by valgrind: the same on a busy machine as on an idle
//! one. `cargo bench --bench instructions`; it needs valgrind, and `cargo install gungraun-runner` of
//! the version in Cargo.lock.
#![allow(unused_qualifications, reason = "gungraun's macros write them")]

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use outrigger::{
    http::{HeaderBlock, Token},
    http2::hpack::{Decoder, Encoder},
};

const LIST_MAX: usize = 64 * 1024;

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

fn after(calls: impl Iterator<Item = HeaderBlock>, next: HeaderBlock) -> Box<Connection> {
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
    encoder.encode(&next, &mut block);
    into.clear();
    Box::new(Connection { encoder, decoder, next, block, out: Vec::with_capacity(1024), into })
}

/// The very head that came before.
fn repeated() -> Box<Connection> {
    after((0..16).map(|_| head(1, "/shop.Orders/Place")), head(1, "/shop.Orders/Place"))
}

/// The same method with another trace.
fn traced() -> Box<Connection> {
    after((0..16).map(|call| head(call, "/shop.Orders/Place")), head(99, "/shop.Orders/Place"))
}

/// A path that never came before.
fn new_path() -> Box<Connection> {
    let path = |call: u64| format!("/orders/{call}");
    after((0..16).map(|call| head(call, &path(call))), head(99, &path(99)))
}

/// The first head of a connection.
fn first() -> Box<Connection> {
    after(std::iter::empty(), head(1, "/shop.Orders/Place"))
}

#[library_benchmark]
#[bench::repeated(repeated())]
#[bench::traced(traced())]
#[bench::new_path(new_path())]
#[bench::first(first())]
fn decode(mut connection: Box<Connection>) -> Box<Connection> {
    let Connection { decoder, block, into, .. } = connection.as_mut();
    let outcome = decoder.decode(black_box(block), into, LIST_MAX);
    assert!(black_box(outcome).is_ok());
    connection
}

#[library_benchmark]
#[bench::repeated(repeated())]
#[bench::traced(traced())]
#[bench::new_path(new_path())]
fn encode(mut connection: Box<Connection>) -> Box<Connection> {
    let Connection { encoder, next, out, .. } = connection.as_mut();
    encoder.encode(black_box(next), out);
    connection
}

#[library_benchmark]
#[bench::known(&["content-type", "grpc-timeout", "x-not-known", ":path"])]
fn token(names: &[&str]) -> usize {
    names.iter().filter(|name| black_box(Token::of(name.as_bytes())) != Token::Other).count()
}

library_benchmark_group!(name = hpack, benchmarks = [decode, encode, token]);
main!(library_benchmark_groups = hpack);
