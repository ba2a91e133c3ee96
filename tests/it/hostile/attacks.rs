//! A battery of attacks on HTTP/2 through both listeners: as an application, and as a sidecar of the mesh
//! with a valid certificate. Each runs on a connection of its own; those that are nothing but abuse have
//! to be cut, the others may be cut or borne.

use std::net::SocketAddr;

use futures_util::{StreamExt as _, stream};

use super::{
    Bystanders, check_unharmed, check_unharmed_by,
    wire::{
        ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
        PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, attack, call, field, frame,
        open, settings, whole,
    },
};
use crate::harness::{App, Relay, StaticPair, heavy};

/// What has to become of an attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection is ended by the program.
    Cut,
    /// It may be borne; the attacker goes when it is done, and reads until then.
    Borne,
    /// The same, and it never reads.
    Unread,
}

struct Attack {
    name: &'static str,
    end: End,
    /// How many parts there are.
    parts: u32,
    part: Box<dyn Fn(u32) -> Vec<u8> + Send + Sync>,
}

fn attack_of(
    name: &'static str,
    end: End,
    parts: u32,
    part: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> Attack {
    Attack { name, end, parts, part: Box::new(part) }
}

/// The n-th stream of a client.
fn id(index: u32) -> u32 {
    2 * index + 1
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Floods: much of what costs work and does none.
fn floods() -> Vec<Attack> {
    use End::{Borne, Cut, Unread};
    let ping = || frame(PING, 0, 0, &[7; 8]);
    vec![
        attack_of("rapid reset", Cut, 5_000, |n| [open(id(n)), reset(id(n))].concat()),
        attack_of("rapid reset of whole calls", Cut, 5_000, |n| {
            [whole(id(n)), reset(id(n))].concat()
        }),
        attack_of("rapid reset in large writes", Cut, 50, |n| {
            (0..100)
                .flat_map(|m| [open(id(n * 100 + m)), reset(id(n * 100 + m))].concat())
                .collect()
        }),
        attack_of("PING flood", Cut, 200, move |_| ping().repeat(100)),
        attack_of("PING flood, unread", Unread, 500, move |_| ping().repeat(100)),
        attack_of("SETTINGS flood", Cut, 200, |_| settings(&[(3, 100)]).repeat(100)),
        attack_of("SETTINGS flood, unread", Unread, 500, |_| settings(&[(3, 100)]).repeat(100)),
        attack_of("empty SETTINGS flood", Cut, 200, |_| settings(&[]).repeat(100)),
        attack_of("PRIORITY flood", Cut, 200, |n| {
            frame(PRIORITY, 0, id(n + 1), &[0, 0, 0, 0, 9]).repeat(100)
        }),
        attack_of("WINDOW_UPDATE flood", Cut, 200, |_| window(0, 1).repeat(100)),
        attack_of("empty DATA flood", Cut, 200, |n| match n {
            0 => open(1),
            _ => frame(DATA, 0, 1, &[]).repeat(100),
        }),
        attack_of("padding flood", Borne, 200, |n| match n {
            0 => open(1),
            _ => frame(DATA, PADDED, 1, &[&[255][..], &[0; 255]].concat()).repeat(20),
        }),
        attack_of("CONTINUATION flood", Cut, 2_000, |n| match n {
            0 => frame(HEADERS, 0, 1, &call("Unary")),
            n => frame(CONTINUATION, 0, 1, &field(&format!("x-{n}"), "1")),
        }),
        attack_of("empty CONTINUATION flood", Cut, 2_000, |n| match n {
            0 => frame(HEADERS, 0, 1, &call("Unary")),
            _ => frame(CONTINUATION, 0, 1, &[]),
        }),
        attack_of("CONTINUATION flood of full frames", Cut, 200, |n| match n {
            0 => frame(HEADERS, 0, 1, &call("Unary")),
            _ => frame(CONTINUATION, 0, 1, &field("x", &"y".repeat(16_000))),
        }),
        attack_of("header flood", Borne, 100, |n| {
            let fields: Vec<u8> =
                (0..100).flat_map(|m| field(&format!("x-{m}"), &"y".repeat(100))).collect();
            frame(HEADERS, END_HEADERS, id(n), &[call("Unary"), fields].concat())
        }),
        attack_of("more streams than permitted", Borne, 100, |n| {
            (0..100).flat_map(|m| open(id(n * 100 + m))).collect()
        }),
        attack_of("unknown frames", Borne, 200, |_| frame(0xfa, 0, 0, &[0; 50]).repeat(100)),
        attack_of("GOAWAY flood", Borne, 200, |_| frame(GOAWAY, 0, 0, &[0; 8]).repeat(100)),
        attack_of("window size to and fro", Borne, 200, |n| match n {
            0 => (0..50).flat_map(|m| open(id(m))).collect(),
            n => settings(&[(4, if n % 2 == 0 { 0 } else { 1 << 30 })]),
        }),
    ]
}

/// What a client makes the program reset.
fn provoked() -> Vec<Attack> {
    use End::{Borne, Cut};
    let uppercase = || field("Upper-Case", "1");
    vec![
        attack_of("a window update of nothing", Cut, 2_000, |n| {
            [open(id(n)), window(id(n), 0)].concat()
        }),
        attack_of("windows that overflow", Cut, 2_000, |n| {
            [open(id(n)), window(id(n), 0x7fff_ffff)].concat()
        }),
        attack_of("data behind the end", Cut, 2_000, |n| {
            [whole(id(n)), frame(DATA, END_STREAM, id(n), b"more")].concat()
        }),
        attack_of("more than the content-length", Cut, 2_000, |n| {
            let head = [call("Unary"), field("content-length", "1")].concat();
            let head = frame(HEADERS, END_HEADERS, id(n), &head);
            [head, frame(DATA, END_STREAM, id(n), b"12345")].concat()
        }),
        attack_of("a PRIORITY of four bytes", Cut, 2_000, |n| {
            [open(id(n)), frame(PRIORITY, 0, id(n), &[0; 4])].concat()
        }),
        attack_of("capitals in names", Cut, 2_000, move |n| {
            frame(HEADERS, END_HEADERS, id(n), &[call("Unary"), uppercase()].concat())
        }),
        attack_of("fields of HTTP/1.1", Cut, 2_000, |n| {
            let fields = [call("Unary"), field("connection", "close")].concat();
            frame(HEADERS, END_HEADERS, id(n), &fields)
        }),
        attack_of("line ends in values", Cut, 2_000, |n| {
            let fields = [call("Unary"), field("x", "1\r\nhost: evil")].concat();
            frame(HEADERS, END_HEADERS, id(n), &fields)
        }),
        attack_of("trailers with a method", Borne, 300, |n| {
            let trailers =
                frame(HEADERS, END_HEADERS | END_STREAM, id(n), &field(":method", "GET"));
            [open(id(n)), trailers].concat()
        }),
    ]
}

/// Windows and heads that hold memory.
fn held() -> Vec<Attack> {
    use End::{Borne, Cut, Unread};
    // One entry of 4,000 bytes in the table, and then one byte for each time it is meant.
    let bomb = |n| {
        let entry = [&[0x40, 1, b'x', 127, 0xa1, 0x1e][..], &[b'y'; 4_000]].concat();
        let block = match n {
            0 => [call("Unary"), entry].concat(),
            _ => [call("Unary"), vec![0x80 | 62; 15_000]].concat(),
        };
        frame(HEADERS, END_HEADERS, id(n), &block)
    };
    let crumbs = |n| {
        let entry = [&[0x40, 6][..], b"cookie", &[0]].concat();
        let block = match n {
            0 => [call("Unary"), entry].concat(),
            _ => [call("Unary"), vec![0x80 | 62; 15_000]].concat(),
        };
        frame(HEADERS, END_HEADERS, id(n), &block)
    };
    let count = |stream| {
        let message = [0, 0, 0, 0, 7, 10, 5, b'1', b'0', b'0', b'0', b'0'];
        let head = frame(HEADERS, END_HEADERS, stream, &call("Count"));
        [head, frame(DATA, END_STREAM, stream, &message)].concat()
    };
    vec![
        attack_of("HPACK bomb", Borne, 60, bomb),
        attack_of("cookie crumbs", Borne, 60, crumbs),
        attack_of("table sizes to and fro", Cut, 2, |n| {
            let sizes = [0x20, 0x3f, 0xe1, 0x1f].repeat(1_000);
            frame(HEADERS, END_HEADERS, id(n), &[sizes, call("Unary")].concat())
        }),
        attack_of("windows of zero", Unread, 100, move |n| match n {
            0 => settings(&[(4, 0)]),
            n => count(id(n)),
        }),
        attack_of("windows of one byte", Borne, 300, move |n| match n {
            0 => settings(&[(4, 1)]),
            n if n < 50 => count(id(n)),
            n => (1..50).flat_map(|m| window(id(m), 1 + n % 2)).collect(),
        }),
        attack_of("a slow reader of 100 streams", Unread, 100, move |n| match n {
            0 => [settings(&[(4, 0x7fff_ffff)]), window(0, 0x7fff_0000)].concat(),
            n => count(id(n)),
        }),
        attack_of("a head byte by byte", Borne, 150, |n| {
            let head = open(1);
            head.get(n as usize).map_or_else(Vec::new, |byte| vec![*byte])
        }),
        attack_of("half a frame", Unread, 1, |_| open(1)[..20].to_vec()),
        attack_of("data beyond every window", Borne, 2_000, |n| match n {
            0 => open(1),
            _ => frame(DATA, 0, 1, &[0; 16_384]),
        }),
    ]
}

/// Frames that the protocol does not permit at all.
fn forbidden() -> Vec<Attack> {
    let one = |name, bytes: Vec<u8>| attack_of(name, End::Cut, 1, move |_| bytes.clone());
    vec![
        one("RST_STREAM on an idle stream", reset(5)),
        one("an even stream", open(2)),
        one("a stream below the last", [whole(5), open(3)].concat()),
        one("DATA on stream 0", frame(DATA, 0, 0, b"x")),
        one("DATA on an idle stream", frame(DATA, 0, 7, b"x")),
        one("HEADERS on stream 0", frame(HEADERS, END_HEADERS, 0, &call("Unary"))),
        one("an oversized frame", frame(DATA, 0, 1, &[0; 16_385])),
        one("an oversized unknown frame", frame(0xfa, 0, 0, &vec![0; 100_000])),
        one("SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        one("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        one("an ACK with content", frame(SETTINGS, ACK, 0, &[0; 6])),
        one("a window size above all", settings(&[(4, 0x8000_0000)])),
        one("a frame size below all", settings(&[(5, 1)])),
        one("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        one("padding longer than its frame", [open(1), frame(DATA, PADDED, 1, &[9, 0])].concat()),
        one("WINDOW_UPDATE of nothing", window(0, 0)),
        one("a connection window that overflows", window(0, 0x7fff_ffff).repeat(2)),
        one("a PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
        one("a PING on a stream", frame(PING, 0, 1, &[0; 8])),
        one("an RST_STREAM of three bytes", [open(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat()),
        one("bad Huffman", frame(HEADERS, END_HEADERS, 1, &[0, 0x81, 0xff, 0x81, 0xff])),
        one("an index that nothing has", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x7f])),
        one("an integer without an end", frame(HEADERS, END_HEADERS, 1, &[0xff; 100])),
        one(
            "another frame within a head",
            [frame(HEADERS, 0, 1, &call("Unary")), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        one("a CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &[])),
    ]
}

#[tokio::test]
async fn attackers_harm_nobody() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let outbound = pair.client.address("outbound");
    battery(outbound, outbound, |_| false).await;
    check_unharmed(&pair).await;
}

#[tokio::test]
async fn attackers_with_a_certificate_harm_nobody_either() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let relay = Relay::start(&pair).await;
    // The cancels of a sidecar are those of its many callers, and it has cut off those who abuse them.
    let borne = |name: &str| name.starts_with("rapid reset");
    let attacks = battery(relay.address, pair.client.address("outbound"), borne).await;
    check_unharmed_by(&pair, attacks).await;
}

/// Runs all attacks while honest callers call through `beside`, and returns how many there were.
async fn battery(on: SocketAddr, beside: SocketAddr, borne: fn(&str) -> bool) -> usize {
    let bystanders = Bystanders::start(beside, "echo:9090", 4);
    bystanders.go_on("before").await;
    let mut attacks: Vec<Attack> =
        [floods(), provoked(), held(), forbidden()].into_iter().flatten().collect();
    assert!(attacks.len() >= 30, "{}", attacks.len());
    for attack in attacks.iter_mut().filter(|attack| borne(attack.name)) {
        attack.end = End::Borne;
    }
    for together in attacks.chunks(6) {
        let names: Vec<_> = together.iter().map(|one| one.name).collect();
        let uncut = run(on, together).await;
        assert!(uncut.is_empty(), "not cut: {uncut:?}");
        bystanders.go_on(&format!("{names:?}")).await;
    }
    bystanders.end().await;
    attacks.len()
}

/// Runs these at once and returns those that were not ended.
async fn run(on: SocketAddr, attacks: &[Attack]) -> Vec<&'static str> {
    let tries = attacks.iter().map(|one| async move {
        let parts = (0..one.parts).map(|index| (one.part)(index));
        let start = [PREFACE.to_vec(), settings(&[])].into_iter();
        // Who is done says so, unless it has to be told.
        let last = (one.end == End::Borne).then(|| b"PRI * none of any protocol".to_vec());
        let (_, ended) = attack(on, start.chain(parts).chain(last), one.end == End::Unread).await;
        (one.end != End::Unread && !ended).then_some(one.name)
    });
    stream::iter(tries).buffer_unordered(6).filter_map(std::future::ready).collect().await
}
