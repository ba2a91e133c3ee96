//! What a decoder remembers must not make a section well-formed, or malformed, that would be judged
//! otherwise by itself: every pair of sections gets the same answer with a memory of the first one as
//! without.

use super::{
    Seen, Side,
    battery::http2::{GREETING, frame, headers, literal, settings},
    post,
};
use crate::http2::Config;

type Fields = &'static [(&'static str, &'static str)];

/// What may follow the usual fields of a section: nothing, what is fine, and what is not.
const ENDINGS: &[Fields] = &[
    &[],
    &[("traceparent", "00-1")],
    &[("traceparent", "00-2"), ("x-other", "1")],
    &[("content-length", "0")],
    &[("content-length", "5")],
    &[("content-length", "5"), ("content-length", "6")],
    &[("content-length", "0"), ("x-more", "1")],
    &[("x-more", "1"), ("content-length", "0")],
    &[("content-length", "")],
    &[("host", "orders")],
    &[("host", "others")],
    &[("host", "orders"), ("x-more", "1")],
    &[("te", "trailers")],
    &[("te", "gzip")],
    &[("te", "trailers"), ("te", "gzip")],
    &[("connection", "close")],
    &[("x-more", "1"), ("upgrade", "h2c")],
    &[(":path", "/other")],
    &[(":status", "200")],
    &[("x-more", "1"), (":status", "200")],
    &[(":protocol", "websocket")],
];

/// How sections begin: requests, responses and trailers.
const BEGINNINGS: &[Fields] = &[
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "orders")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "orders"),
        ("a", "1"),
    ],
    &[(":method", "HEAD"), (":scheme", "http"), (":path", "/"), ("x-first", "1")],
    &[(":method", "CONNECT"), (":authority", "orders:1"), ("x-first", "1")],
    &[(":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "orders")],
    &[(":status", "200"), ("server", "x")],
    &[(":status", "103"), ("server", "x")],
    &[(":status", "204")],
    &[("grpc-status", "0")],
    &[],
];

fn section(beginning: Fields, ending: Fields) -> Vec<u8> {
    beginning.iter().chain(ending).flat_map(|(name, value)| literal(name, value)).collect()
}

/// What becomes of `block` on a stream of its own, without the stream's number.
fn of_request(side: &mut Side, stream: u32, end: bool, block: &[u8]) -> String {
    told(side.feed(&headers(stream, end, block)))
}

fn told(seen: Vec<Seen>) -> String {
    let one = |seen: Seen| match seen {
        Seen::Head(_, head, end) => format!("head {head:?} {end}"),
        Seen::Informational(_, head) => format!("informational {head:?}"),
        Seen::Trailers(_, head) => format!("trailers {head:?}"),
        Seen::Reset(_, error) => format!("reset {error}"),
        other => format!("{other:?}"),
    };
    seen.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

fn server() -> Side {
    let mut side = Side::server(&Config::default());
    side.feed(&[GREETING, &frame(4, 1, 0, &[])].concat());
    side
}

/// With an open body on stream 1, 3 and 5, of which 3 and 5 wait for their responses if it is a client.
fn client() -> Side {
    let mut side = Side::client(&Config::default());
    side.feed(&[settings(&[]), frame(4, 1, 0, &[])].concat());
    let now = side.now;
    for _ in 0..3 {
        side.core.open(&post(), false, now).expect("room");
    }
    side
}

#[test]
fn a_section_is_judged_alike_with_and_without_a_memory_of_others() {
    let mut endings_that_matter = 0;
    for beginning in BEGINNINGS {
        for first in ENDINGS {
            for second in ENDINGS {
                let (first, second) = (section(beginning, first), section(beginning, second));
                let (mut with, mut without) = (server(), server());
                let first_told = of_request(&mut with, 1, true, &first);
                let again = of_request(&mut with, 3, true, &first);
                assert_eq!(first_told, again, "{beginning:?}");
                let remembered = of_request(&mut with, 5, true, &second);
                assert_eq!(remembered, of_request(&mut without, 1, true, &second));
                endings_that_matter += usize::from(remembered.starts_with("head"));
                let (mut with, mut without) = (client(), client());
                let told = [1, 3].map(|stream| of_request(&mut with, stream, false, &first));
                assert_eq!(told[0], told[1], "{beginning:?}");
                let remembered = of_request(&mut with, 5, false, &second);
                assert_eq!(remembered, of_request(&mut without, 5, false, &second));
                endings_that_matter += usize::from(remembered.starts_with("head"));
            }
        }
    }
    assert!(endings_that_matter > 500, "{endings_that_matter} are fine");
}

#[test]
fn trailers_are_judged_alike_with_and_without_a_memory_of_others() {
    let request = section(BEGINNINGS[0], &[]);
    let open = |side: &mut Side| {
        for stream in [1, 3, 5] {
            side.feed(&headers(stream, false, &request));
        }
    };
    for beginning in [&[][..], &[("grpc-status", "0")]] {
        for first in ENDINGS {
            for second in ENDINGS {
                let (first, second) = (section(beginning, first), section(beginning, second));
                let (mut with, mut without) = (server(), server());
                open(&mut with);
                open(&mut without);
                let told = [1, 3].map(|stream| of_request(&mut with, stream, true, &first));
                assert_eq!(told[0], told[1]);
                let remembered = of_request(&mut with, 5, true, &second);
                assert_eq!(remembered, of_request(&mut without, 5, true, &second));
            }
        }
    }
}
