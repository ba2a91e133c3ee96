//! What the encoder writes: what is indexed, what never is, and in which order.

use super::{decode, fields, pairs};
use crate::{
    http::{HeaderBlock, Token},
    http2::hpack::{Decoder, Encoder, Outcome},
};

/// Both ends of a connection.
struct Pair {
    encoder: Encoder,
    decoder: Decoder,
}

impl Pair {
    fn new() -> Self {
        Self { encoder: Encoder::new(), decoder: Decoder::new(4096) }
    }

    /// Sends a head and returns its block and what arrived.
    fn send(&mut self, head: &HeaderBlock) -> (Vec<u8>, HeaderBlock) {
        let mut out = b"before".to_vec();
        self.encoder.encode(head, &mut out);
        let block = out.split_off(6);
        let (outcome, head) = decode(&mut self.decoder, &block).expect("we encode what we decode");
        assert_eq!(outcome, Outcome::Decoded);
        assert_eq!(self.encoder.table().list(), self.decoder.table().list());
        (block, head)
    }
}

fn grpc(path: &str, traceparent: &str) -> HeaderBlock {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "orders.shop:9090"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("traceparent", traceparent),
        ("te", "trailers"),
        ("user-agent", "grpc-go/1.70.0"),
        ("grpc-timeout", "4999m"),
        ("grpc-accept-encoding", "gzip"),
        ("x-tenant", "blue"),
    ]
    .into_iter()
    .collect()
}

#[test]
fn a_repeated_call_is_a_few_bytes() {
    let mut pair = Pair::new();
    let lengths: Vec<usize> = (0..4)
        .map(|call| {
            let trace = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033{call:02}-01");
            let (block, head) = pair.send(&grpc("/shop.Orders/Place", &trace));
            assert_eq!(head.get(Token::Traceparent), Some(trace.as_bytes()));
            assert_eq!(head.len(), 11);
            block.len()
        })
        .collect();
    // Nine fields by index, two literals with an indexed name.
    assert_eq!(lengths[3], 9 + (2 + 1 + 55) + (2 + 1 + 5), "{lengths:?}");
    assert!(lengths[0] < 300, "{lengths:?}");
}

#[test]
fn what_differs_comes_last_and_names_keep_their_order() {
    let mut pair = Pair::new();
    let head: HeaderBlock = [
        (":status", "200"),
        ("set-cookie", "a=1"),
        ("x", "1"),
        ("date", "Mon, 23 Nov 2026 16:00:00 GMT"),
        ("X", "2"),
        ("set-cookie", "b=2"),
        ("x", "1"),
    ]
    .into_iter()
    .collect();
    let expected = pairs(&[
        (":status", "200"),
        ("x", "1"),
        ("x", "2"),
        ("x", "1"),
        ("set-cookie", "a=1"),
        ("date", "Mon, 23 Nov 2026 16:00:00 GMT"),
        ("set-cookie", "b=2"),
    ]);
    for _ in 0..4 {
        assert_eq!(fields(&pair.send(&head).1), expected);
    }
}

#[test]
fn secrets_are_never_indexed() {
    let mut pair = Pair::new();
    let mut head: HeaderBlock = [
        (":status", "200"),
        ("authorization", "Bearer x"),
        ("proxy-authorization", "Basic y"),
        ("cookie", "short=1"),
        ("cookie", "session=a-cookie-that-is-not-short"),
    ]
    .into_iter()
    .collect();
    head.append(Token::Other, b"x-secret", b"z", true);
    head.append(Token::ContentType, b"content-type", b"text/html", true);
    head.append(Token::Path, b":path", b"/secret", true);
    for _ in 0..4 {
        let (_, arrived) = pair.send(&head);
        let secret =
            |field: &crate::http::Field<'_>| field.token != Token::Status && field.value.len() < 30;
        assert!(arrived.iter().all(|field| field.sensitive == secret(&field)), "{arrived:?}");
        assert_eq!(arrived.len(), 8);
        assert!(pair.encoder.table().list().is_empty());
    }
}

#[test]
fn paths_that_never_come_again_stay_out_of_the_table() {
    let mut pair = Pair::new();
    for call in 0..1000 {
        let (_, head) = pair.send(&grpc(&format!("/orders/{call}"), "00-1-2-01"));
        assert_eq!(head.text(Token::Path), Some(&*format!("/orders/{call}")));
    }
    assert!(pair.encoder.table().list().iter().all(|(name, _)| name != ":path"));
    assert!(pair.encoder.table().inserted() < 12);
}

#[test]
fn values_that_come_twice_only_do_not_turn_the_table_over() {
    let mut pair = Pair::new();
    let mut sent = 0;
    for call in 0..2000_u32 {
        let head: HeaderBlock =
            [(":status", "200"), ("x", &*(call / 2).to_string())].into_iter().collect();
        let (_, arrived) = pair.send(&head);
        assert_eq!(fields(&arrived)[1].1, (call / 2).to_string());
        sent += 1;
    }
    assert!(pair.encoder.table().inserted() < 64 + sent / 4 + 2);
}

#[test]
fn table_sizes_are_announced() {
    let block = |pair: &mut Pair, maxima: &[usize]| {
        maxima.iter().for_each(|table_max| pair.encoder.set_table_max(*table_max));
        maxima.iter().for_each(|table_max| pair.decoder.set_table_max(*table_max));
        pair.send(&[(":status", "200"), ("server", "x")].into_iter().collect()).0
    };
    let mut pair = Pair::new();
    assert_eq!(block(&mut pair, &[65_536]).first(), Some(&0x88), "never above the default");
    assert_eq!(block(&mut pair, &[]), [0x88, 0xbe]);
    assert_eq!(
        block(&mut pair, &[100, 4096]),
        [&[0x3f, 0x45, 0x3f, 0xe1, 0x1f, 0x88, 0xbe][..]].concat()
    );
    assert_eq!(block(&mut pair, &[0])[..2], [0x20, 0x88]);
    assert!(pair.encoder.table().list().is_empty());
    assert_eq!(block(&mut pair, &[4096])[..4], [0x3f, 0xe1, 0x1f, 0x88]);
    assert_eq!(block(&mut pair, &[0, 4096])[..4], [0x20, 0x3f, 0xe1, 0x1f]);
    assert_eq!(block(&mut pair, &[]), [0x88, 0xbe]);
}

#[test]
fn many_fields_are_written_as_they_are() {
    let mut pair = Pair::new();
    let names: Vec<String> = (0..300).map(|field| format!("x-{}", field % 7)).collect();
    let mut head: HeaderBlock = [(":status", "200"), ("date", "today")].into_iter().collect();
    names.iter().for_each(|name| head.push(name.as_bytes(), b"v"));
    head.push(b"date", b"tomorrow");
    for _ in 0..3 {
        assert_eq!(fields(&pair.send(&head).1), fields(&head));
    }
}

#[test]
fn memory_is_bounded_and_given_back() {
    let mut pair = Pair::new();
    for call in 0..500_usize {
        let value = "v".repeat(call * 7 % 3000);
        let path = format!("/{}", call % 50);
        let mut head = grpc(&path, "00-1-2-01");
        head.set_named("x-large", value.as_bytes());
        pair.send(&head);
    }
    assert!(pair.encoder.memory() < 96 * 1024, "{}", pair.encoder.memory());
    assert!(pair.decoder.memory() < 96 * 1024, "{}", pair.decoder.memory());
    pair.encoder.release();
    pair.decoder.release();
    assert!(pair.encoder.memory() < 20 * 1024, "{}", pair.encoder.memory());
    assert!(pair.decoder.memory() < 20 * 1024, "{}", pair.decoder.memory());
    pair.send(&grpc("/", "00-1-2-01"));
}
