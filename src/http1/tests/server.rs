//! The server's end: exchanges in the order of their bytes.

use std::time::Duration;

use super::{End, fields};
use crate::http::{ErrorCode, Event};

const GET: &[u8] = b"GET /a?b HTTP/1.1\r\nHost: x:1\r\nX-Mine: 1\r\n\r\n";
const HEAD: &str = "head :method=GET :scheme=http :authority=x:1 :path=/a?b X-Mine=1.";

fn ok() -> crate::http::HeaderBlock {
    fields(&[(":status", "200"), ("Content-Type", "a"), ("connection", "x"), ("x", "1")])
}

#[test]
fn a_request_is_answered_and_the_connection_used_again() {
    let mut end = End::server();
    for stream in 1..3 {
        assert_eq!(end.give(GET), [HEAD]);
        assert_eq!(end.connection.streams(), 1);
        end.connection.respond(stream, &ok(), false);
        assert_eq!(end.connection.send(stream, b"hello", false), 5);
        assert_eq!(end.connection.send(stream, b"", true), 0);
        assert_eq!(
            end.written(),
            "HTTP/1.1 200 OK\r\nContent-Type: a\r\nx: 1\r\ntransfer-encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n"
        );
        assert!(end.connection.is_idle());
    }
}

#[test]
fn responses_are_framed_as_head_and_peer_permit() {
    type Case = (&'static str, &'static [(&'static str, &'static str)], bool, &'static str);
    let cases: &[Case] = &[
        ("GET / HTTP/1.1", &[(":status", "200")], true, "200 OK|content-length: 0"),
        (
            "GET / HTTP/1.1",
            &[(":status", "200"), ("content-length", "5")],
            false,
            "200 OK|content-length: 5||hello",
        ),
        ("GET / HTTP/1.1", &[(":status", "204"), ("content-length", "5")], true, "204 No Content"),
        (
            "GET / HTTP/1.1",
            &[(":status", "304"), ("content-length", "5")],
            false,
            "304 Not Modified|content-length: 5",
        ),
        (
            "HEAD / HTTP/1.1",
            &[(":status", "200"), ("content-length", "5")],
            true,
            "200 OK|content-length: 5",
        ),
        ("HEAD / HTTP/1.1", &[(":status", "200")], false, "200 OK"),
        (
            "GET / HTTP/1.1",
            &[(":status", "200"), ("transfer-encoding", "gzip")],
            false,
            "200 OK|transfer-encoding: chunked||5|hello|0|",
        ),
        ("GET / HTTP/1.0", &[(":status", "299")], false, "299 |connection: close||hello"),
        (
            "GET / HTTP/1.0\r\nConnection: Keep-Alive",
            &[(":status", "200"), ("content-length", "5")],
            false,
            "200 OK|content-length: 5|connection: keep-alive||hello",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: x, close",
            &[(":status", "404"), ("content-length", "+5")],
            false,
            "404 Not Found|transfer-encoding: chunked|connection: close||5|hello|0|",
        ),
        (
            "GET / HTTP/1.1",
            &[(":status", "200"), ("a", "1\r\nb: 2"), ("c d", "1"), ("e", "2\n"), ("f", "\0")],
            true,
            "200 OK|content-length: 0",
        ),
    ];
    for (request, response, whole, expected) in cases {
        let mut end = End::server();
        let events = end.give(format!("{request}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(events.len(), 1, "{events:?}");
        end.connection.respond(1, &fields(response), *whole);
        end.connection.send(1, b"hello", true);
        let mut expected = expected.replace('|', "\r\n");
        if !expected.contains("\r\n\r\n") {
            expected.push_str("\r\n\r\n");
        } else if expected.ends_with("0\r\n") {
            expected.push_str("\r\n");
        }
        assert_eq!(end.written(), format!("HTTP/1.1 {expected}"), "{request} {response:?}");
        let closes = expected.contains("close");
        assert_eq!(end.connection.is_closed(), closes, "{request} {response:?}");
        assert_eq!(end.connection.streams(), 0);
    }
}

#[test]
fn pipelined_requests_wait_for_their_turn() {
    let mut end = End::server();
    assert_eq!(end.give(&[GET, GET, GET].concat()), [HEAD]);
    for stream in 1..4 {
        assert_eq!(end.connection.wants_input(), stream == 3, "{stream}");
        end.connection.respond(stream, &ok(), true);
        assert!(end.connection.wants_input());
        let expected: &[&str] = if stream < 3 { &[HEAD] } else { &[] };
        assert_eq!(end.give(b""), expected);
    }
}

#[test]
fn a_client_that_only_stopped_sending_is_answered() {
    let mut end = End::server();
    assert_eq!(end.give(&[GET, GET].concat()), [HEAD]);
    end.connection.eof();
    assert!(end.give(b"").is_empty());
    end.connection.respond(1, &ok(), true);
    assert_eq!(end.give(b""), [HEAD]);
    end.connection.respond(2, &ok(), true);
    assert_eq!(end.give(b""), ["closed closed here"]);
    assert_eq!(end.written().matches("200 OK").count(), 2);
}

#[test]
fn an_end_in_the_middle_is_told() {
    for (bytes, expected) in [
        (&b""[..], "closed the peer is going away (NO_ERROR)"),
        (b"\r\n", "closed closed by the peer"),
        (b"GET / HT", "closed closed by the peer"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel",
            "reset the connection ended",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: ",
            "reset the connection ended",
        ),
    ] {
        let mut end = End::server();
        end.give(bytes);
        end.connection.eof();
        let events = end.give(b"");
        assert!(events[0].starts_with(expected), "{events:?}");
        assert!(events.last().expect("events").starts_with("closed"), "{events:?}");
        assert!(end.connection.is_closed());
    }
}

#[test]
fn a_body_waits_when_it_is_not_passed_on() {
    let mut end = End::server();
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    assert_eq!(end.give(head).len(), 1);
    let mut input = &[b'x'; 256 * 1024][..];
    let event = end.connection.receive(&mut input, end.now);
    assert!(matches!(event, Some(Event::Data { data, .. }) if data.len() == 256 * 1024));
    assert!(!end.connection.wants_input());
    end.connection.credit(1, 1);
    assert!(end.connection.wants_input());
}

#[test]
fn a_slow_reader_slows_its_writer() {
    let mut end = End::server();
    assert_eq!(end.give(GET), [HEAD]);
    end.connection.respond(1, &ok(), false);
    let data = vec![b'x'; 300 * 1024];
    let taken = end.connection.send(1, &data, true);
    assert!(taken < 256 * 1024, "{taken}");
    assert_eq!(end.connection.send(1, &data[taken..], true), 0);
    assert!(end.give(b"").is_empty());
    let waiting = end.connection.output().len();
    let keep = end.connection.output().split_off(waiting - 1000);
    *end.connection.output() = keep;
    end.connection.flushed(1000);
    assert_eq!(end.give(b""), ["writable"]);
    let rest = end.connection.send(1, &data[taken..], true);
    assert_eq!(taken + rest, data.len());
    assert!(end.connection.is_idle());
}

#[test]
fn a_body_that_is_not_as_long_as_its_head_said_is_never_whole() {
    for (data, end_now) in [("toolong", false), ("shrt", true)] {
        let mut end = End::server();
        assert_eq!(end.give(GET), [HEAD]);
        end.connection.respond(1, &fields(&[(":status", "200"), ("content-length", "5")]), false);
        end.connection.send(1, data.as_bytes(), end_now);
        assert!(end.connection.is_closed());
        assert!(end.written().ends_with("5\r\n\r\n"));
    }
}

#[test]
fn trailers_go_to_those_who_asked() {
    for (te, expected) in [("te: trailers\r\n", "0\r\nb: 1\r\n\r\n"), ("", "0\r\n\r\n")] {
        let mut end = End::server();
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{te}\r\n");
        assert_eq!(end.give(request.as_bytes()).len(), 1);
        end.connection.respond(1, &ok(), false);
        end.connection.trailers(1, &fields(&[("b", "1"), ("content-length", "1")]));
        let written = end.written();
        assert!(written.ends_with(&format!("\r\n\r\n{expected}")), "{written:?}");
        assert!(end.connection.is_idle());
    }
}

#[test]
fn a_request_in_chunks_is_read() {
    let mut end = End::server();
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n";
    let events = end.give(
        format!("{head}5;a=\"b\"\r\nhello\r\n00a\r\n0123456789\r\n0\r\nA: 1\r\nb:2\r\n\r\n")
            .as_bytes(),
    );
    assert_eq!(&events[1..], ["data hello", "data 0123456789", "trailers A=1 b=2."]);
    end.connection.respond(1, &ok(), true);
    let events = end.give(format!("{head}5\r\nhello\r\n0\r\n\r\n").as_bytes());
    assert_eq!(&events[1..], ["data hello."]);
    end.connection.respond(2, &ok(), true);
    let events = end.give(format!("{head}0\r\n\r\n").as_bytes());
    assert_eq!(&events[1..], ["data ."]);
}

#[test]
fn who_waits_for_100_gets_it_or_a_close() {
    let request =
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut end = End::server();
    assert!(end.give(request)[0].contains("Expect=100-continue"));
    end.connection.inform(1, &fields(&[(":status", "100")]));
    assert_eq!(end.written(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(end.give(b"ab"), ["data ab."]);
    end.connection.respond(1, &ok(), true);
    assert!(end.connection.is_idle());

    let mut end = End::server();
    end.give(request);
    end.connection.respond(1, &fields(&[(":status", "417")]), true);
    assert!(end.written().contains("connection: close"));
    assert_eq!(end.give(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), ["closed closed here"]);
}

#[test]
fn other_informational_responses_pass() {
    let mut end = End::server();
    end.give(GET);
    end.connection.inform(1, &fields(&[(":status", "103"), ("link", "</a>")]));
    end.connection.inform(1, &fields(&[(":status", "101")]));
    end.connection.respond(1, &ok(), true);
    end.connection.inform(1, &fields(&[(":status", "103")]));
    let written = end.written();
    assert!(written.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200"));
    assert_eq!(written.matches("HTTP/1.1").count(), 2);

    let mut end = End::server();
    end.give(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n");
    end.connection.inform(1, &fields(&[(":status", "103")]));
    assert_eq!(end.written(), "");
}

#[test]
fn the_rest_of_a_request_is_thrown_away_after_its_response() {
    let head = |length: usize| {
        format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n").into_bytes()
    };
    let mut end = End::server();
    assert_eq!(end.give(&head(5)).len(), 1);
    end.connection.respond(1, &ok(), true);
    assert_eq!(end.give(b"hel"), [""; 0]);
    assert_eq!(end.give(&[b"lo", GET].concat()), [HEAD]);
    end.connection.respond(2, &ok(), true);

    assert_eq!(end.give(&head(1_000_000)).len(), 1);
    end.connection.respond(3, &ok(), true);
    assert_eq!(end.give(&[b'x'; 1000]), ["closed closed here"]);
    assert!(end.connection.lingers());

    let mut end = End::server();
    end.give(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    end.connection.respond(1, &ok(), true);
    assert_eq!(end.give(b"20000\r\n"), [""; 0]);
    assert_eq!(end.give(&[b'x'; 0x10001]), ["closed closed here"]);
}

#[test]
fn a_reset_response_has_no_last_chunk() {
    let mut end = End::server();
    end.give(GET);
    end.connection.respond(1, &ok(), false);
    end.connection.send(1, b"a", false);
    end.connection.reset(1, ErrorCode::INTERNAL_ERROR);
    assert_eq!(end.give(b""), ["closed closed here"]);
    assert!(end.written().ends_with("1\r\na\r\n"));
}

#[test]
fn a_refused_head_is_answered_by_the_driver() {
    let mut end = End::server();
    let events = end.give(b"GET /here HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\nGET /");
    assert_eq!(events, ["refused the request has more than one Host"]);
    end.connection.respond(1, &fields(&[(":status", "400"), ("content-length", "2")]), false);
    end.connection.send(1, b"no", true);
    assert_eq!(end.give(b"more"), ["closed closed here"]);
    let expected = "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    assert_eq!(end.written(), expected);
    assert!(end.connection.lingers());
}

#[test]
fn large_heads_are_refused_with_what_is_known() {
    let field = |index: usize| format!("x-{index}: 1\r\n");
    let many: String = (0..200).map(field).collect();
    let long = format!("x: {}\r\n", "y".repeat(70_000));
    for fields in [format!("{many}\r\n"), format!("{long}\r\n"), long, many + &"y".repeat(66_000)] {
        let mut end = End::server();
        let now = end.now;
        let request = format!("PUT /here HTTP/1.1\r\nHost: x\r\n{fields}");
        let mut input = request.as_bytes();
        let event = end.connection.receive(&mut input, now);
        let Some(Event::Refused { head, error, .. }) = event else { panic!("{event:?}") };
        assert_eq!(error, crate::http::StreamError::HeadTooLarge);
        assert_eq!(head.text(crate::http::Token::Path), Some("/here"));
    }
}

#[test]
fn slow_and_silent_peers_are_cut() {
    let seconds = Duration::from_secs;
    type Case = (&'static [u8], u64, &'static str, &'static str);
    let cases: &[Case] = &[
        (b"", 10, "closed the first request took too long", ""),
        (b"GET / HT", 10, "closed a request's head took too long", "HTTP/1.1 408"),
        (b"\r\n", 10, "closed a request's head took too long", "HTTP/1.1 408"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel",
            300,
            "closed a request's body took too long",
            "HTTP/1.1 408",
        ),
    ];
    for (bytes, after, expected, written) in cases {
        let mut end = End::server();
        let start = end.now;
        end.give(bytes);
        for second in 0..*after {
            end.connection.tick(start + seconds(second));
            assert_eq!(end.give(b""), [""; 0], "{second} {bytes:?}");
        }
        end.connection.tick(start + seconds(*after));
        assert_eq!(end.give(b"").last().expect("an event"), expected);
        assert!(end.written().starts_with(written));
    }
    let mut end = End::server();
    let start = end.now;
    end.give(GET);
    end.connection.respond(1, &ok(), true);
    end.connection.tick(start + seconds(1));
    end.connection.tick(start + seconds(301));
    assert_eq!(end.give(b""), ["closed reading took too long"]);

    let mut end = End::server();
    end.give(GET);
    end.connection.respond(1, &ok(), true);
    end.written();
    for second in [1, 302, 3600] {
        end.connection.tick(start + seconds(second));
        assert!(!end.connection.is_closed(), "{second}");
    }
    end.connection.tick(start + seconds(3601));
    assert_eq!(end.give(b""), ["closed the next request took too long"]);
}

#[test]
fn draining_ends_after_the_response_under_way() {
    let mut end = End::server();
    end.connection.drain(end.now);
    assert_eq!(end.give(b""), ["closed closed here"]);

    let mut end = End::server();
    end.give(GET);
    end.connection.drain(end.now);
    assert!(!end.connection.is_closed());
    end.connection.respond(1, &ok(), true);
    assert!(end.written().contains("connection: close\r\n"));
    assert_eq!(end.give(b""), ["closed closed here"]);
}

#[test]
fn a_websocket_is_an_extended_connect() {
    let mut end = End::server();
    let request = b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nearly";
    assert_eq!(
        end.give(request),
        ["head :method=CONNECT :scheme=http :authority=x :path=/chat :protocol=websocket \
          Connection=Upgrade Sec-WebSocket-Version=13"]
    );
    assert!(!end.connection.wants_input(), "not before the answer");
    end.connection.respond(1, &fields(&[(":status", "200"), ("a", "1")]), false);
    assert_eq!(
        end.written(),
        "HTTP/1.1 101 Switching Protocols\r\na: 1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    assert_eq!(end.give(b"\0"), ["data early\0"]);
    assert_eq!(end.connection.send(1, b"raw", true), 3);
    assert!(end.connection.ends_output());
    assert_eq!(end.give(b"more"), ["data more"]);
    end.connection.eof();
    assert_eq!(end.give(b""), ["data .", "closed closed here"]);
    assert_eq!(end.written(), "raw");
}

#[test]
fn a_refused_tunnel_closes() {
    for request in [
        &b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"[..],
        b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n",
    ] {
        let mut end = End::server();
        assert!(end.give(request)[0].starts_with("head :method=CONNECT"));
        end.connection.respond(1, &fields(&[(":status", "403")]), true);
        assert!(end.written().contains("connection: close"));
        assert_eq!(end.give(GET), ["closed closed here"]);
    }
}

#[test]
fn other_upgrades_are_as_if_they_had_not_asked() {
    for fields in [
        "GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\n",
        "POST / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
        "GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n",
    ] {
        let mut end = End::server();
        let events = end.give(format!("{fields}Host: x\r\n\r\n").as_bytes());
        assert!(!events[0].contains("CONNECT") && events[0].ends_with('.'), "{events:?}");
    }
}

#[test]
fn a_connect_becomes_a_tunnel() {
    let mut end = End::server();
    let events = end.give(b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n");
    assert_eq!(events, ["head :method=CONNECT :authority=x:443"]);
    end.connection.respond(1, &fields(&[(":status", "200"), ("content-length", "3")]), false);
    assert_eq!(end.written(), "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(end.give(b"abc"), ["data abc"]);
    end.connection.eof();
    assert_eq!(end.give(b""), ["data ."]);
    assert_eq!(end.connection.send(1, b"last", true), 4);
    assert_eq!(end.give(b""), ["closed closed here"]);
    assert_eq!(end.written(), "last");
}
