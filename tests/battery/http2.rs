//! Attacks on an HTTP/2 server as bytes, and how each has to end: the known ones (CVE-2019-9511 to
//! 9518, CVE-2023-44487, CVE-2025-8671, the CONTINUATION floods of 2024, HPACK bombs) and the cheap
//! variations of them. Without dependencies, so that the same table runs against the core in memory
//! and against a listener over the wire.

/// The client's preface, and SETTINGS that say nothing.
pub(crate) const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How an attack has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection is cut after at most so many repetitions.
    Cut(u32),
    /// It changes nothing: each stream is answered or reset, and the connection lives.
    Harmless,
}

/// One attack: what comes after the greeting, once and then again and again.
pub(crate) struct Attack {
    /// What is done.
    pub(crate) name: &'static str,
    /// Once.
    pub(crate) first: Vec<u8>,
    /// The n-th repetition, counted from 0.
    pub(crate) again: Box<dyn Fn(u32) -> Vec<u8>>,
    /// How many.
    pub(crate) times: u32,
    /// How it has to end.
    pub(crate) end: End,
}

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// A field that is in no table.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("small")], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The fields of `GET /` (0x82) or `POST /` (0x83).
pub(crate) fn request(method: u8) -> Vec<u8> {
    [vec![method, 0x86, 0x84], literal(":authority", "orders")].concat()
}

/// HEADERS with the whole block.
pub(crate) fn headers(stream: u32, end: bool, block: &[u8]) -> Vec<u8> {
    frame(1, if end { 5 } else { 4 }, stream, block)
}

/// A whole `GET`.
pub(crate) fn get(stream: u32) -> Vec<u8> {
    headers(stream, true, &request(0x82))
}

/// A `POST` whose body is still to come.
pub(crate) fn post(stream: u32) -> Vec<u8> {
    headers(stream, false, &request(0x83))
}

/// RST_STREAM with CANCEL.
pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &8_u32.to_be_bytes())
}

/// WINDOW_UPDATE.
pub(crate) fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(8, 0, stream, &by.to_be_bytes())
}

/// SETTINGS with these entries.
pub(crate) fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(4, 0, 0, &entries.iter().flat_map(entry).collect::<Vec<_>>())
}

/// The n-th stream of a client.
pub(crate) fn nth(n: u32) -> u32 {
    2 * n + 1
}

fn attack(
    name: &'static str,
    end: End,
    times: u32,
    first: Vec<u8>,
    again: impl Fn(u32) -> Vec<u8> + 'static,
) -> Attack {
    Attack { name, first, again: Box::new(again), times, end }
}

/// All of them.
pub(crate) fn attacks() -> Vec<Attack> {
    [resets(), provoked(), floods(), heads(), once()].into_iter().flatten().collect()
}

/// Requests that are cancelled at once.
fn resets() -> Vec<Attack> {
    let none = Vec::new;
    vec![
        attack("rapid reset", End::Cut(250), 5_000, none(), |n| {
            [get(nth(n)), cancel(nth(n))].concat()
        }),
        attack("rapid reset of requests with a body", End::Cut(250), 5_000, none(), |n| {
            [post(nth(n)), cancel(nth(n))].concat()
        }),
        attack("rapid reset, one behind", End::Cut(250), 5_000, get(1), |n| {
            [get(nth(n + 1)), cancel(nth(n))].concat()
        }),
        attack("rapid reset with NO_ERROR", End::Cut(250), 5_000, none(), |n| {
            [get(nth(n)), frame(3, 0, nth(n), &[0; 4])].concat()
        }),
        attack(
            "resets of a closed stream",
            End::Cut(1_100),
            5_000,
            [get(1), cancel(1)].concat(),
            |_| cancel(1),
        ),
        attack("streams beyond the limit", End::Cut(2_000), 10_000, none(), |n| post(nth(n))),
    ]
}

/// Requests that the server is made to reset (CVE-2025-8671).
fn provoked() -> Vec<Attack> {
    let made =
        |name, again: fn(u32) -> Vec<u8>| attack(name, End::Cut(200), 5_000, Vec::new(), again);
    vec![
        made("WINDOW_UPDATE by 0", |n| [post(nth(n)), window(nth(n), 0)].concat()),
        made("a window over the largest", |n| [post(nth(n)), window(nth(n), 0x7fff_ffff)].concat()),
        made("DATA after the end", |n| [get(nth(n)), frame(0, 0, nth(n), b"x")].concat()),
        made("HEADERS after the end", |n| [get(nth(n)), get(nth(n))].concat()),
        made("a stream that depends on itself", |n| {
            let id = nth(n).to_be_bytes();
            [post(nth(n)), frame(2, 0, nth(n), &[&id[..], &[0]].concat())].concat()
        }),
        made("PRIORITY of a wrong length", |n| {
            [post(nth(n)), frame(2, 0, nth(n), &[0; 4])].concat()
        }),
        made("more DATA than content-length", |n| {
            let block = [request(0x83), literal("content-length", "1")].concat();
            [headers(nth(n), false, &block), frame(0, 1, nth(n), b"two")].concat()
        }),
        made("a name with capitals", |n| {
            headers(nth(n), true, &[request(0x82), literal("X-A", "1")].concat())
        }),
        made("a connection-specific field", |n| {
            headers(nth(n), true, &[request(0x82), literal("connection", "close")].concat())
        }),
        made("heads without any field", |n| headers(nth(n), true, &[])),
        made("trailers that end nothing", |n| [post(nth(n)), headers(nth(n), false, &[])].concat()),
    ]
}

/// Frames that carry nothing.
fn floods() -> Vec<Attack> {
    let flood = |name, first: Vec<u8>, again: fn(u32) -> Vec<u8>| {
        attack(name, End::Cut(1_100), 20_000, first, again)
    };
    let empty =
        |name, again: fn(u32) -> Vec<u8>| attack(name, End::Cut(110), 5_000, post(1), again);
    let entries = vec![(0x4, 65_535); 2_000];
    vec![
        flood("PING", Vec::new(), |n| frame(6, 0, 0, &u64::from(n).to_be_bytes())),
        flood("answers to no PING", Vec::new(), |_| frame(6, 1, 0, &[0; 8])),
        flood("SETTINGS", Vec::new(), |_| settings(&[])),
        flood("SETTINGS that move windows", post(1), |n| settings(&[(0x4, n % 2 * 1_000)])),
        attack("SETTINGS with many entries", End::Cut(20), 5_000, Vec::new(), move |_| {
            settings(&entries)
        }),
        flood("answers to no SETTINGS", Vec::new(), |_| frame(4, 1, 0, &[])),
        flood("WINDOW_UPDATE of the connection", Vec::new(), |_| window(0, 1)),
        flood("WINDOW_UPDATE of a stream", post(1), |_| window(1, 1)),
        flood("WINDOW_UPDATE of a closed stream", [get(1), cancel(1)].concat(), |_| window(1, 1)),
        flood("PRIORITY", Vec::new(), |n| frame(2, 0, nth(n), &[0, 0, 0, 0, 1])),
        flood("frames of an unknown type", Vec::new(), |_| frame(0xbe, 0, 0, b"?")),
        flood("GOAWAY", post(1), |_| frame(7, 0, 0, &[0; 8])),
        empty("DATA without data", |_| frame(0, 0, 1, &[])),
        empty("DATA of padding", |_| frame(0, 8, 1, &[3, 0, 0, 0])),
    ]
}

/// Heads that are costly to hold.
fn heads() -> Vec<Attack> {
    let start = || frame(1, 1, 1, &request(0x82));
    // One large field enters the table, and then one byte stands for it.
    let size = 4_000_usize;
    let length = [0x7f, 0x80 | u8::try_from((size - 127) % 128).expect("7 bits"), 30];
    let large = [&[0x40, 1, b'x'][..], &length, &vec![b'a'; size]].concat();
    let bomb = [request(0x82), large].concat();
    let crumbs = [request(0x82), vec![0x60, 1, b'='], vec![0xbe; 16_000]].concat();
    vec![
        attack("CONTINUATION", End::Cut(5), 5_000, start(), |n| {
            frame(9, 0, 1, &literal(&format!("x-{n}"), "1"))
        }),
        attack("CONTINUATION without bytes", End::Cut(5), 5_000, start(), |_| frame(9, 0, 1, &[])),
        attack("full CONTINUATION", End::Cut(5), 100, start(), |_| {
            frame(9, 0, 1, &literal("x", "1").repeat(3_276))
        }),
        attack("an HPACK bomb", End::Harmless, 50, headers(1, true, &bomb), |n| {
            let block = [request(0x82), vec![0xbe; 10_000]].concat();
            [headers(nth(n + 1), true, &block), cancel(nth(n + 1))].concat()
        }),
        attack("cookie crumbs", End::Harmless, 50, Vec::new(), move |n| {
            [headers(nth(n), true, &crumbs), cancel(nth(n))].concat()
        }),
    ]
}

/// What ends the connection at once.
fn once() -> Vec<Attack> {
    let once =
        |name, bytes: Vec<u8>| attack(name, End::Cut(1), 1, Vec::new(), move |_| bytes.clone());
    vec![
        once("a push by the client", frame(5, 4, 1, &[0, 0, 0, 2, 0x82])),
        once("a stream of the server", get(2)),
        once("a stream below an earlier one", [get(5), get(3)].concat()),
        once("a frame of 16 MiB", vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]),
        once("a frame within a head", [frame(1, 0, 1, &request(0x82)), window(0, 1)].concat()),
        once("a table larger than permitted", headers(1, true, &[0x3f, 0xe2, 0x1f])),
        once("an index of nothing", headers(1, true, &[0xff, 0xff, 0xff, 0xff, 0x0f])),
        once("an endless integer", headers(1, true, &[0xff; 20])),
        once(
            "a Huffman code that is none",
            headers(1, true, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]),
        ),
        once(
            "a window over the largest, twice",
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
        ),
        once("padding longer than its frame", [post(1), frame(0, 8, 1, &[9, 0])].concat()),
        once("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n".to_vec()),
    ]
}
