//! The client's end: requests as they are written, responses as they are framed.

use super::{End, fields};
use crate::http::{ErrorCode, OpenError};

const GET: &[(&str, &str)] = &[(":method", "GET"), (":authority", "x"), (":path", "/a")];

fn post() -> Vec<(&'static str, &'static str)> {
    vec![(":method", "POST"), (":authority", "x"), (":path", "/a")]
}

/// A client's end with a written request.
fn asked(request: &[(&str, &str)], end: bool) -> End {
    let mut client = End::client();
    client.connection.open(&fields(request), end, client.now).expect("room");
    client.written();
    client
}

#[test]
fn requests_are_written_as_their_heads_say() {
    type Case = (&'static [(&'static str, &'static str)], bool, &'static str);
    let cases: &[Case] = &[
        (&[("Accept", "*/*"), ("x", "1")], true, "GET /a|host: x|Accept: */*|x: 1"),
        (&[(":method", "POST")], true, "POST /a|host: x|content-length: 0"),
        (&[(":method", "DELETE")], true, "DELETE /a|host: x"),
        (&[("content-length", "3")], true, "GET /a|host: x|content-length: 0"),
        (&[("content-length", "003")], false, "GET /a|host: x|content-length: 3"),
        (&[("content-length", "3,3")], false, "GET /a|host: x|transfer-encoding: chunked"),
        (
            &[("transfer-encoding", "gzip"), ("connection", "a"), ("keep-alive", "1")],
            false,
            "GET /a|host: x|transfer-encoding: chunked",
        ),
        (&[("host", "evil"), ("a", "1\r\nhost: evil")], true, "GET /a|host: x"),
        (&[("te", "gzip, trailers")], true, "GET /a|host: x|te: trailers|connection: te"),
        (&[("te", "gzip")], true, "GET /a|host: x"),
        (&[(":path", "*"), (":method", "OPTIONS")], true, "OPTIONS *|host: x"),
        (&[("expect", "100-continue")], true, "GET /a|host: x|expect: 100-continue"),
        (&[(":method", "CONNECT"), (":authority", "x:1")], false, "CONNECT x:1|host: x:1"),
    ];
    for (changes, whole, expected) in cases {
        let mut head = fields(GET);
        for (name, value) in *changes {
            match crate::http::Token::of(name.as_bytes()) {
                token if token.is_pseudo() => head.set(token, value.as_bytes()),
                _ => head.push(name.as_bytes(), value.as_bytes()),
            }
        }
        let mut end = End::client();
        assert_eq!(end.connection.open(&head, *whole, end.now), Ok(1));
        let expected = expected.replacen('|', " HTTP/1.1\r\n", 1).replace('|', "\r\n");
        assert_eq!(end.written(), format!("{expected}\r\n\r\n"));
        assert_eq!(end.connection.open(&head, *whole, end.now), Err(OpenError::Full));
    }
    let config = crate::http1::Config { absolute_form: true, ..Default::default() };
    for (path, expected) in [("/a", "GET http://x/a "), ("*", "OPTIONS http://x ")] {
        let mut end = End::client();
        end.connection = crate::http1::Connection::client(&config, end.now);
        let method = expected.split(' ').next().expect("a method");
        let head = [(":method", method), (":authority", "x"), (":path", path)];
        end.connection.open(&fields(&head), true, end.now).expect("room");
        assert!(end.written().starts_with(expected));
    }
}

#[test]
fn requests_of_two_meanings_are_not_written() {
    for head in [
        [(":method", "GET "), (":authority", "x"), (":path", "/")],
        [(":method", ""), (":authority", "x"), (":path", "/")],
        [(":method", "GET"), (":authority", "x\r\n"), (":path", "/")],
        [(":method", "GET"), (":authority", "x"), (":path", "/ HTTP/1.1\r\nx: y")],
        [(":method", "GET"), (":authority", "x"), (":path", "")],
        [(":method", "GET"), (":authority", "x"), (":path", "a")],
        [(":method", "GET"), (":authority", "x"), (":path", "*")],
        [(":method", "CONNECT"), (":authority", ""), ("a", "b")],
    ] {
        let mut end = End::client();
        let opened = end.connection.open(&fields(&head), true, end.now);
        assert!(matches!(opened, Err(OpenError::Malformed(_))), "{head:?}");
        assert_eq!(end.written(), "");
        assert_eq!(end.connection.room(), 1);
    }
}

#[test]
fn responses_are_framed_as_their_heads_say() {
    type Case = (&'static str, &'static str, &'static [&'static str], bool);
    let cases: &[Case] = &[
        (
            "GET",
            "200 OK\r\nContent-Length: 2\r\n\r\nab",
            &["200 Content-Length=2", "data ab."],
            true,
        ),
        ("GET", "200 OK\r\nContent-Length: 0\r\n\r\n", &["200 Content-Length=0."], true),
        ("GET", "200\r\nContent-Length: 0\r\n\r\n", &["200 Content-Length=0."], true),
        ("GET", "200 \r\nContent-Length: 0\r\n\r\n", &["200 Content-Length=0."], true),
        ("GET", "200 Sch\u{f6}n\r\nContent-Length: 0\r\n\r\n", &["200 Content-Length=0."], true),
        (
            "GET",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            &["200 Transfer-Encoding=chunked", "data a."],
            true,
        ),
        (
            "GET",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nb: c\r\n\r\n",
            &["200 Transfer-Encoding=chunked", "data a", "trailers b=c."],
            true,
        ),
        ("HEAD", "200 OK\r\nContent-Length: 2\r\n\r\n", &["200 Content-Length=2."], true),
        (
            "HEAD",
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            &["200 Transfer-Encoding=chunked."],
            true,
        ),
        ("GET", "204 No\r\n\r\n", &["204."], true),
        (
            "GET",
            "204 No\r\nContent-Length: 2\r\n\r\n",
            &["204 Content-Length=2.", "closed here"],
            false,
        ),
        ("GET", "304 No\r\nContent-Length: 2\r\n\r\n", &["304 Content-Length=2."], true),
        (
            "GET",
            "103 Hints\r\na: b\r\n\r\nHTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\n\r\n",
            &["103 a=b", "100", "204."],
            true,
        ),
        (
            "GET",
            "200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            &["200 Connection=close Content-Length=0.", "closed here"],
            false,
        ),
    ];
    for (method, response, expected, again) in cases {
        let mut end = asked(&[(":method", method), (":authority", "x"), (":path", "/")], true);
        let told = end.give(format!("HTTP/1.1 {response}").as_bytes());
        let short = |text: &String| {
            let text = text.replace("head :status=", "").replace("informational :status=", "");
            text.replace("closed closed", "closed")
        };
        let told: Vec<_> = told.iter().map(short).collect();
        assert_eq!(told, *expected, "{method} {response}");
        assert_eq!(end.connection.room() == 1, *again, "{response}");
        assert_eq!(end.connection.is_idle(), *again, "{response}");
    }
}

#[test]
fn http10_servers_close_unless_they_say_otherwise() {
    for (fields, again) in [("", false), ("Connection: keep-alive\r\n", true)] {
        let mut end = asked(GET, true);
        end.give(format!("HTTP/1.0 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").as_bytes());
        assert_eq!(end.connection.room() == 1, again);
    }
}

#[test]
fn a_body_to_the_close_ends_with_it() {
    let mut end = asked(GET, true);
    assert_eq!(end.give(b"HTTP/1.1 200 OK\r\n\r\nab"), ["head :status=200", "data ab"]);
    end.connection.eof();
    assert_eq!(end.give(b""), ["data .", "closed closed here"]);

    let mut end = asked(GET, true);
    end.give(b"HTTP/1.1 200 OK\r\n\r\nab");
    end.connection.broken();
    let reset = "reset the connection ended: closed by the peer";
    assert_eq!(end.give(b""), [reset, "closed closed by the peer"]);
}

#[test]
fn an_end_in_the_middle_is_told() {
    for bytes in [
        "",
        "HTTP/1.1 20",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        "HTTP/1.1 100 \r\n\r\n",
    ] {
        let mut end = asked(GET, true);
        end.give(bytes.as_bytes());
        end.connection.eof();
        let reset = "reset the connection ended: closed by the peer";
        assert_eq!(end.give(b""), [reset, "closed closed by the peer"], "{bytes}");
    }
    let mut end = End::client();
    end.connection.open(&fields(GET), true, end.now).expect("room");
    end.connection.eof();
    let unseen = "reset not processed by the peer (REFUSED_STREAM)";
    assert_eq!(end.give(b"")[0], unseen, "nothing of it was written");
    let mut end = End::client();
    end.connection.eof();
    assert_eq!(end.give(b""), ["closed the peer is going away (NO_ERROR)"]);
}

#[test]
fn what_nobody_asked_for_ends_the_connection() {
    let mut end = asked(GET, true);
    end.give(b"HTTP/1.1 204 \r\n\r\n");
    assert!(end.give(b"HTTP/1.1 200 OK\r\n\r\n")[0].starts_with("closed PROTOCOL_ERROR"));

    let mut end = End::client();
    end.connection.open(&fields(GET), true, end.now).expect("room");
    let events = end.give(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(events[0], "reset a response came before its request");

    let mut end = asked(GET, true);
    let events = end.give(&b"HTTP/1.1 100 \r\n\r\n".repeat(33));
    assert_eq!(events.last().expect("events"), "closed too many informational responses");
}

#[test]
fn a_body_goes_on_after_the_response_began() {
    let mut end = asked(&post(), false);
    assert_eq!(end.connection.send(1, b"ab", false), 2);
    assert_eq!(end.give(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").len(), 2);
    assert_eq!(end.connection.send(1, b"cd", true), 2);
    assert_eq!(end.written(), "2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n");
    assert_eq!(end.give(b"b"), ["data b."]);
    assert_eq!(end.connection.room(), 1);

    let mut end = asked(&post(), false);
    let events = end.give(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(events.last().expect("events"), "closed closed here", "the request is not whole");
}

#[test]
fn trailers_go_out_in_chunks_only() {
    let mut end = asked(&post(), false);
    end.connection.trailers(1, &fields(&[("a", "1"), ("transfer-encoding", "x")]));
    assert_eq!(end.written(), "0\r\na: 1\r\n\r\n");
    let mut head = post();
    head.push(("content-length", "2"));
    let mut end = asked(&head, false);
    end.connection.send(1, b"ab", false);
    end.connection.trailers(1, &fields(&[("a", "1")]));
    assert_eq!(end.written(), "ab");
    assert!(!end.connection.is_closed());
}

#[test]
fn a_reset_closes_at_once() {
    let mut end = asked(&post(), false);
    end.connection.send(1, b"ab", false);
    end.connection.reset(1, ErrorCode::CANCEL);
    assert_eq!(end.written(), "");
    assert_eq!(end.give(b"HTTP/1.1 204 \r\n\r\n"), ["closed closed here"]);
}

#[test]
fn a_websocket_opens_when_its_key_is_answered() {
    let connect = [
        (":method", "CONNECT"),
        (":authority", "x"),
        (":path", "/c"),
        (":protocol", "websocket"),
        ("sec-websocket-key", "theirs"),
    ];
    for right in [true, false] {
        let mut end = End::client();
        end.connection.open(&fields(&connect), false, end.now).expect("room");
        assert_eq!(end.connection.send(1, b"early", false), 0, "not before the answer");
        let request = end.written();
        assert!(request.starts_with("GET /c HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n"));
        assert!(request.contains("sec-websocket-version: 13\r\n") && !request.contains("theirs"));
        let key = request.split("key: ").nth(1).expect("a key").split('\r').next();
        let key = if right { key.expect("a key") } else { "other" };
        let accept = crate::http1::upgrade::accept(key.as_bytes());
        let response = format!(
            "HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\nhi",
            String::from_utf8(accept).expect("text")
        );
        let events = end.give(response.as_bytes());
        if right {
            assert_eq!(events, ["head :status=200 Connection=upgrade", "writable", "data hi"]);
            assert_eq!(end.connection.send(1, b"early", true), 5);
            assert!(end.connection.ends_output());
            end.connection.eof();
            assert_eq!(end.give(b""), ["data .", "closed closed here"]);
            assert_eq!(end.written(), "early");
        } else {
            assert_eq!(events[0], "reset the WebSocket key is not answered");
        }
    }
    for (response, expected) in [
        ("200 OK\r\nContent-Length: 0", "reset the server did not change the protocol"),
        ("101 Go\r\nUpgrade: websocket", "reset the 101 names no protocol"),
        ("403 No\r\nContent-Length: 0", "head :status=403 Content-Length=0."),
    ] {
        let mut end = asked(&connect, false);
        assert_eq!(end.give(format!("HTTP/1.1 {response}\r\n\r\n").as_bytes())[0], expected);
        assert!(end.connection.is_closed());
    }
}

#[test]
fn a_connect_opens_with_a_2xx() {
    let connect = [(":method", "CONNECT"), (":authority", "x:1")];
    let mut end = asked(&connect, false);
    assert_eq!(end.connection.send(1, b"early", false), 0);
    let events = end.give(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
    assert_eq!(events, ["head :status=200 Content-Length=5", "writable", "data ab"]);
    assert_eq!(end.connection.send(1, b"late", false), 4);
    assert_eq!(end.written(), "late");
}

#[test]
fn a_drained_client_opens_nothing() {
    let mut end = asked(GET, true);
    end.connection.drain(end.now);
    assert_eq!(end.connection.room(), 0);
    let events = end.give(b"HTTP/1.1 204 \r\n\r\n");
    assert_eq!(events, ["head :status=204.", "closed closed here"]);
}

#[test]
fn it_is_known_whether_more_of_a_message_must_come() {
    let mut end = asked(GET, true);
    for (bytes, amid) in [
        ("HTTP/1.1 20", true),
        ("0 OK\r\nContent-Length: 5\r\n\r\n", true),
        ("hel", true),
        ("lo", false),
    ] {
        end.give(bytes.as_bytes());
        assert_eq!(end.connection.is_amid(), amid, "{bytes}");
    }
    let mut server = End::server();
    for (bytes, amid) in [
        ("POST / HTTP/1.1\r\nHost: x\r\n", true),
        ("Content-Length: 2\r\n\r\n", true),
        ("a", true),
        ("b", false),
    ] {
        server.give(bytes.as_bytes());
        assert_eq!(server.connection.is_amid(), amid, "{bytes}");
    }
    let mut server = End::server();
    server.give(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(!server.connection.is_amid());
}
