//! What RFC 9113 calls an error, case by case, and what has to come of it: GOAWAY or RST_STREAM with
//! a code, or nothing.

use super::{
    Seen, Side,
    battery::http2::{
        GREETING, cancel, frame, get, headers, literal, post, request, settings, window,
    },
    post as post_head,
};
use crate::{
    http::{ConnectionError, ErrorCode, StreamError},
    http2::{
        Config,
        frame::{FrameHeader, kind, number},
    },
};

/// What has to come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Goaway(ErrorCode),
    Rst(u32, ErrorCode),
    /// No error.
    Fine,
}

const PROTOCOL: Answer = Answer::Goaway(ErrorCode::PROTOCOL_ERROR);
const SIZE: Answer = Answer::Goaway(ErrorCode::FRAME_SIZE_ERROR);
const FLOW: Answer = Answer::Goaway(ErrorCode::FLOW_CONTROL_ERROR);
const CLOSED: Answer = Answer::Goaway(ErrorCode::STREAM_CLOSED);

fn rst(stream: u32) -> Answer {
    Answer::Rst(stream, ErrorCode::PROTOCOL_ERROR)
}

/// The first error that a side answered with.
fn answer(output: &[u8]) -> Answer {
    let mut left = output;
    while let Some(header) = FrameHeader::parse(left) {
        let payload = &left[9..9 + header.len()];
        let code = |at: usize| ErrorCode(number(&payload[at..]).expect("a code"));
        match header.kind {
            kind::GOAWAY => return Answer::Goaway(code(4)),
            kind::RST_STREAM => return Answer::Rst(header.stream, code(0)),
            _ => left = &left[9 + header.len()..],
        }
    }
    Answer::Fine
}

/// Feeds a side in pieces of several sizes and checks what it answers, and that events agree.
fn check(name: &str, side: impl Fn() -> Side, bytes: &[u8], expected: Answer) {
    for piece in [1, 5, usize::MAX] {
        let mut side = side();
        side.credits = false;
        let seen = side.drip(bytes, piece);
        assert_eq!(answer(&side.take()), expected, "{name}, in pieces of {piece}: {seen:?}");
        let closed = match seen.last() {
            Some(Seen::Closed(ConnectionError::Protocol(code, _))) => Some(*code),
            _ => None,
        };
        match expected {
            Answer::Goaway(code) => assert_eq!(closed, Some(code), "{name}"),
            Answer::Rst(stream, _) => {
                assert_eq!(closed, None, "{name}");
                assert_eq!(side.core.streams.find(stream), None, "{name}");
                let head = |seen: &Seen| matches!(seen, Seen::Head(id, ..) if *id == stream);
                let reset = |seen: &Seen| matches!(seen, Seen::Reset(id, StreamError::Malformed(_)) if *id == stream);
                if seen.iter().any(head) || !side.core.is_server() {
                    assert!(seen.iter().any(reset), "{name}: {seen:?}");
                }
            }
            Answer::Fine => assert_eq!(closed, None, "{name}"),
        }
    }
}

fn server() -> Side {
    let mut side = Side::server(&Config::default());
    side.feed(&[GREETING, &frame(4, 1, 0, &[])].concat());
    side.take();
    side
}

/// With a POST on stream 1 whose body is open, and a whole one on stream 3.
fn client() -> Side {
    let mut side = Side::client(&Config::default());
    side.feed(&[settings(&[]), frame(4, 1, 0, &[])].concat());
    let now = side.now;
    side.core.open(&post_head(), false, now).expect("room");
    side.core.open(&post_head(), true, now).expect("room");
    side.take();
    side
}

/// A response's head with this status and more fields.
fn response(stream: u32, end: bool, status: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().flat_map(|(name, value)| literal(name, value));
    headers(stream, end, &[literal(":status", status), fields.collect()].concat())
}

#[test]
fn prefaces() {
    let side = || Side::server(&Config::default());
    let preface = &GREETING[..24];
    check("a preface of another protocol", side, b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n", PROTOCOL);
    check("HTTP/1.1", side, b"GET / HTTP/1.1\r\n\r\n", PROTOCOL);
    check("PING before SETTINGS", side, &[preface, &frame(6, 0, 0, &[0; 8])].concat(), PROTOCOL);
    check("an acknowledgement first", side, &[preface, &frame(4, 1, 0, &[])].concat(), PROTOCOL);
    check("a greeting", side, GREETING, Answer::Fine);
    let side = || {
        let mut side = Side::client(&Config::default());
        side.take();
        side
    };
    check("a server that begins with PING", side, &frame(6, 0, 0, &[0; 8]), PROTOCOL);
    check("a server that speaks HTTP/1.1", side, b"HTTP/1.1 400 Bad Request\r\n\r\n", SIZE);
}

#[test]
fn frames_of_a_wrong_size_or_place() {
    let head = request(0x82);
    let dependent = [&1_u32.to_be_bytes()[..], &[0]].concat();
    for (name, bytes, expected) in [
        ("4.2 a frame over 16,384", frame(0, 0, 1, &[0; 16_385]), SIZE),
        (
            "4.3 an undecodable block",
            headers(1, true, &[0x80]),
            Answer::Goaway(ErrorCode::COMPRESSION_ERROR),
        ),
        ("5.1 DATA on an idle stream", frame(0, 1, 1, b"x"), PROTOCOL),
        ("5.1 RST_STREAM on an idle stream", cancel(1), PROTOCOL),
        ("5.1 WINDOW_UPDATE on an idle stream", window(1, 1), PROTOCOL),
        ("5.1.1 an even stream", get(2), PROTOCOL),
        ("5.1.1 a lower stream", [get(5), get(3)].concat(), PROTOCOL),
        (
            "5.3.1 HEADERS that depend on themselves",
            { frame(1, 0x25, 1, &[&dependent[..], &head].concat()) },
            rst(1),
        ),
        ("6.1 DATA on stream 0", frame(0, 0, 0, b"x"), PROTOCOL),
        ("6.1 padding as long as DATA", [post(1), frame(0, 8, 1, &[2, 0])].concat(), PROTOCOL),
        ("6.1 DATA all padding", [post(1), frame(0, 8, 1, &[1, 0])].concat(), Answer::Fine),
        ("6.1 padded DATA without length", [post(1), frame(0, 8, 1, &[])].concat(), SIZE),
        ("6.2 HEADERS on stream 0", get(0), PROTOCOL),
        ("6.2 padding longer than HEADERS", frame(1, 0xd, 1, &[200, 0x82]), PROTOCOL),
        ("6.2 HEADERS shorter than priority", frame(1, 0x25, 1, &[0; 4]), SIZE),
        ("6.3 PRIORITY on stream 0", frame(2, 0, 0, &[0; 5]), PROTOCOL),
        (
            "6.3 PRIORITY of 4 bytes",
            [post(1), frame(2, 0, 1, &[0; 4])].concat(),
            Answer::Rst(1, ErrorCode::FRAME_SIZE_ERROR),
        ),
        ("6.3 PRIORITY of an idle stream", frame(2, 0, 77, &[0; 5]), Answer::Fine),
        ("6.4 RST_STREAM on stream 0", cancel(0), PROTOCOL),
        ("6.4 RST_STREAM of 3 bytes", [post(1), frame(3, 0, 1, &[0; 3])].concat(), SIZE),
    ] {
        check(name, server, &bytes, expected);
    }
}

#[test]
fn frames_of_the_connection_that_are_wrong() {
    let head = request(0x82);
    for (name, bytes, expected) in [
        ("6.5 SETTINGS on a stream", frame(4, 0, 1, &[]), PROTOCOL),
        ("6.5 SETTINGS of 5 bytes", frame(4, 0, 0, &[0; 5]), SIZE),
        ("6.5 an acknowledgement with settings", frame(4, 1, 0, &[0; 6]), SIZE),
        ("6.5.2 ENABLE_PUSH 2", settings(&[(2, 2)]), PROTOCOL),
        ("6.5.2 INITIAL_WINDOW_SIZE 2^31", settings(&[(4, 1 << 31)]), FLOW),
        ("6.5.2 MAX_FRAME_SIZE 16,383", settings(&[(5, 16_383)]), PROTOCOL),
        ("6.5.2 MAX_FRAME_SIZE 2^24", settings(&[(5, 1 << 24)]), PROTOCOL),
        ("6.5.2 an unknown setting", settings(&[(0x77, 1)]), Answer::Fine),
        ("6.6 PUSH_PROMISE", frame(5, 4, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("6.7 PING on a stream", frame(6, 0, 1, &[0; 8]), PROTOCOL),
        ("6.7 PING of 7 bytes", frame(6, 0, 0, &[0; 7]), SIZE),
        ("6.8 GOAWAY on a stream", frame(7, 0, 1, &[0; 8]), PROTOCOL),
        ("6.8 GOAWAY of 7 bytes", frame(7, 0, 0, &[0; 7]), SIZE),
        ("6.9 WINDOW_UPDATE by 0", window(0, 0), PROTOCOL),
        ("6.9 WINDOW_UPDATE of a stream by 0", [post(1), window(1, 0)].concat(), rst(1)),
        ("6.9 WINDOW_UPDATE of 3 bytes", frame(8, 0, 0, &[0; 3]), SIZE),
        ("6.9.1 the connection's window over 2^31-1", window(0, 0x7fff_ffff), FLOW),
        (
            "6.9.1 a stream's window over 2^31-1",
            [post(1), window(1, 0x7fff_ffff)].concat(),
            Answer::Rst(1, ErrorCode::FLOW_CONTROL_ERROR),
        ),
        (
            "6.9.2 settings that overflow a window",
            [post(1), window(1, 0x7fff_0000), settings(&[(4, 0x7fff_ffff)])].concat(),
            FLOW,
        ),
        ("6.10 CONTINUATION without HEADERS", frame(9, 4, 1, &head), PROTOCOL),
        (
            "6.10 CONTINUATION after a whole block",
            [post(1), frame(9, 4, 1, &head)].concat(),
            PROTOCOL,
        ),
        (
            "6.10 DATA within a block",
            [frame(1, 0, 1, &head), frame(0, 0, 1, b"x")].concat(),
            PROTOCOL,
        ),
        (
            "6.10 an unknown frame within a block",
            [frame(1, 0, 1, &head), frame(0xee, 0, 1, b"x")].concat(),
            PROTOCOL,
        ),
        (
            "6.10 CONTINUATION of another stream",
            [frame(1, 0, 1, &head), frame(9, 4, 3, &[])].concat(),
            PROTOCOL,
        ),
        (
            "6.10 CONTINUATION",
            [frame(1, 1, 1, &head[..2]), frame(9, 4, 1, &head[2..])].concat(),
            Answer::Fine,
        ),
        ("5.5 an unknown frame", frame(0xee, 0xff, 7, b"x"), Answer::Fine),
        ("4.1 undefined flags", frame(6, 0xfe, 0, &[0; 8]), Answer::Fine),
    ] {
        check(name, server, &bytes, expected);
    }
}

/// A POST's fields and these.
fn with_fields(more: &[(&str, &str)]) -> Vec<u8> {
    let more = more.iter().flat_map(|(name, value)| literal(name, value)).collect();
    [request(0x83), more].concat()
}

#[test]
fn messages_that_are_malformed() {
    for (name, bytes, expected) in [
        (
            "8.1 HEADERS without an end after a request",
            [post(1), headers(1, false, &literal("x", "1"))].concat(),
            rst(1),
        ),
        ("8.1 trailers", [post(1), headers(1, true, &literal("x", "1"))].concat(), Answer::Fine),
        (
            "8.1 pseudo-header fields in trailers",
            [post(1), headers(1, true, &literal(":path", "/"))].concat(),
            rst(1),
        ),
        ("8.2.1 a name with capitals", headers(1, true, &with_fields(&[("X", "1")])), rst(1)),
        ("8.2.1 a name with a space", headers(1, true, &with_fields(&[("x y", "1")])), rst(1)),
        ("8.2.1 an empty name", headers(1, true, &with_fields(&[("", "1")])), rst(1)),
        ("8.2.1 a value with CR", headers(1, true, &with_fields(&[("x", "a\rb")])), rst(1)),
        ("8.2.1 a value with LF", headers(1, true, &with_fields(&[("x", "a\nb")])), rst(1)),
        ("8.2.1 a value with NUL", headers(1, true, &with_fields(&[("x", "a\0b")])), rst(1)),
        (
            "8.2.1 a value that begins with a space",
            headers(1, true, &with_fields(&[("x", " a")])),
            rst(1),
        ),
        ("8.2.2 connection", headers(1, true, &with_fields(&[("connection", "close")])), rst(1)),
        ("8.2.2 te", headers(1, true, &with_fields(&[("te", "gzip")])), rst(1)),
        ("8.2.2 te: trailers", headers(1, true, &with_fields(&[("te", "trailers")])), Answer::Fine),
    ] {
        check(name, server, &bytes, expected);
    }
}

#[test]
fn pseudo_header_fields_that_are_malformed() {
    for (name, bytes, expected) in [
        (
            "8.3 an unknown pseudo-header field",
            headers(1, true, &with_fields(&[(":x", "1")])),
            rst(1),
        ),
        (
            "8.3 a pseudo-header field after others",
            headers(1, true, &[literal("x", "1"), request(0x82)].concat()),
            rst(1),
        ),
        ("8.3.1 :path twice", headers(1, true, &[&[0x84][..], &request(0x82)].concat()), rst(1)),
        (
            "8.3.1 without :method",
            headers(1, true, &[&[0x86, 0x84][..], &literal(":authority", "a")].concat()),
            rst(1),
        ),
        ("8.3.1 :status", headers(1, true, &[&[0x88][..], &request(0x82)].concat()), rst(1)),
    ] {
        check(name, server, &bytes, expected);
    }
}

#[test]
fn lengths_that_are_malformed() {
    for (name, bytes, expected) in [
        (
            "8.1.1 content-length without body",
            headers(1, true, &with_fields(&[("content-length", "1")])),
            rst(1),
        ),
        (
            "8.1.1 less than content-length",
            [headers(1, false, &with_fields(&[("content-length", "3")])), frame(0, 1, 1, b"ab")]
                .concat(),
            rst(1),
        ),
        (
            "8.1.1 more than content-length",
            [headers(1, false, &with_fields(&[("content-length", "1")])), frame(0, 0, 1, b"ab")]
                .concat(),
            rst(1),
        ),
        (
            "8.1.1 less, then trailers",
            [
                headers(1, false, &with_fields(&[("content-length", "3")])),
                frame(0, 0, 1, b"ab"),
                headers(1, true, &literal("x", "1")),
            ]
            .concat(),
            rst(1),
        ),
        (
            "8.1.1 exactly content-length",
            [
                headers(1, false, &with_fields(&[("content-length", "2")])),
                frame(0, 0, 1, b"ab"),
                frame(0, 1, 1, &[]),
            ]
            .concat(),
            Answer::Fine,
        ),
        (
            "8.5 CONNECT with :path",
            headers(
                1,
                false,
                &[literal(":method", "CONNECT"), literal(":authority", "a:1"), vec![0x84]].concat(),
            ),
            rst(1),
        ),
        (
            "8.5 CONNECT",
            headers(
                1,
                false,
                &[literal(":method", "CONNECT"), literal(":authority", "a:1")].concat(),
            ),
            Answer::Fine,
        ),
    ] {
        check(name, server, &bytes, expected);
    }
}

#[test]
fn flow_control_is_enforced_on_the_peer() {
    let full = frame(0, 0, 1, &[0; 16_384]);
    let window = [post(1), full.repeat(16)].concat();
    check("a whole window", server, &window, Answer::Fine);
    let over = Answer::Rst(1, ErrorCode::FLOW_CONTROL_ERROR);
    check("a byte more", server, &[window, frame(0, 0, 1, b"x")].concat(), over);
    let connection = || {
        let config = Config { connection_window: 65_535, held_max: 0, ..Config::default() };
        let mut side = Side::server(&config);
        side.feed(&[GREETING, &frame(4, 1, 0, &[])].concat());
        side.take();
        side
    };
    let most = [post(1), full.repeat(3), frame(0, 0, 1, &[0; 16_383])].concat();
    check("the connection's window", connection, &most, Answer::Fine);
    check("a byte more than it", connection, &[most, frame(0, 0, 1, b"x")].concat(), FLOW);
}

#[test]
fn servers_that_break_the_protocol() {
    let ok = |end, fields: &[(&str, &str)]| response(3, end, "200", fields);
    for (name, bytes, expected) in [
        ("a push", frame(5, 4, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("ENABLE_PUSH 1", settings(&[(2, 1)]), PROTOCOL),
        ("a response to nothing", response(5, true, "200", &[]), PROTOCOL),
        ("a stream of its own", response(2, true, "200", &[]), PROTOCOL),
        ("DATA before the head", frame(0, 0, 3, b"x"), rst(3)),
        ("a request", headers(3, true, &request(0x82)), rst(3)),
        ("101", response(3, false, "101", &[]), rst(3)),
        ("an informational response that ends", response(3, true, "103", &[]), rst(3)),
        ("no status", headers(3, true, &literal("x", "1")), rst(3)),
        ("a status of two digits", response(3, true, "20", &[]), rst(3)),
        ("too many informational responses", response(3, false, "103", &[]).repeat(17), rst(3)),
        (
            "trailers that end nothing",
            [ok(false, &[]), headers(3, false, &literal("x", "1"))].concat(),
            rst(3),
        ),
        ("a second response", [ok(false, &[]), ok(true, &[])].concat(), rst(3)),
        ("less than content-length", ok(true, &[("content-length", "1")]), rst(3)),
        (
            "204 with a body",
            [response(3, false, "204", &[]), frame(0, 1, 3, b"x")].concat(),
            rst(3),
        ),
        ("304 with a length", response(3, true, "304", &[("content-length", "9")]), Answer::Fine),
        ("DATA after the end", [ok(true, &[]), frame(0, 0, 3, b"x")].concat(), CLOSED),
        ("HEADERS after the end", [ok(true, &[]), ok(true, &[])].concat(), CLOSED),
        (
            "DATA after the end of half a call",
            [response(1, true, "200", &[]), frame(0, 0, 1, b"x")].concat(),
            Answer::Rst(1, ErrorCode::STREAM_CLOSED),
        ),
        ("trailers", [ok(false, &[]), headers(3, true, &literal("x", "1"))].concat(), Answer::Fine),
        ("a second setting of extended CONNECT", settings(&[(8, 1), (8, 0)]), PROTOCOL),
    ] {
        check(name, client, &bytes, expected);
    }
}
