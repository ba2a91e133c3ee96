//! Bytes mean the same however they are cut, and any bytes at all leave a connection in order.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{End, fields};
use crate::http::{ErrorCode, HeaderBlock};

/// Joins what was only cut differently.
fn joined(events: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for event in events {
        match all.last_mut() {
            Some(last) if last.starts_with("data ") && event.starts_with("data ") => {
                last.push_str(&event["data ".len()..]);
            }
            _ => all.push(event),
        }
    }
    all.retain(|event| event != "data ");
    all
}

/// What a server tells of these requests, when each is answered as soon as it is whole.
fn served<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> (Vec<String>, String) {
    let mut end = End::server();
    let (mut events, mut stream) = (Vec::new(), 0);
    for part in parts {
        let mut told = end.give(part);
        while !told.is_empty() {
            let whole = told.last().is_some_and(|event| event.ends_with('.'));
            stream += told.iter().filter(|event| event.starts_with("head ")).count();
            events.append(&mut told);
            if whole && end.connection.streams() == 1 {
                let stream = u32::try_from(stream).expect("a few streams");
                end.connection.respond(stream, &fields(&[(":status", "204")]), true);
                told = end.give(b"");
            }
        }
    }
    end.connection.eof();
    events.extend(end.give(b""));
    (joined(events), end.written())
}

/// What a client tells of this response.
fn answered<'b>(parts: impl IntoIterator<Item = &'b [u8]>) -> Vec<String> {
    let mut end = End::client();
    let get = [(":method", "GET"), (":authority", "x"), (":path", "/")];
    end.connection.open(&fields(&get), true, end.now).expect("room");
    end.written();
    let mut events = Vec::new();
    for part in parts {
        events.extend(end.give(part));
    }
    end.connection.eof();
    events.extend(end.give(b""));
    joined(events)
}

const REQUESTS: &[u8] = b"\r\nGET /a HTTP/1.1\r\nHost: x\r\nA:\r\n\r\n\
    POST / HTTP/1.1\r\nhost: x\r\nContent-Length: 7\r\n\r\nab\r\n\r\nc\
    POST / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
    5;a=b\r\n\r\n0\r\n\r\n1\r\nx\r\n0\r\nT: u\r\nV: w\r\n\r\n\
    PUT / HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: chunked\r\n\r\n000\r\n\r\n\
    GET http://x/b?c HTTP/1.1\r\nHost: X\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n";

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 103 \r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;b\r\nbc\r\n0\r\nT: u\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nuntil\r\n\r\nthe end",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
];

#[test]
fn a_cut_changes_nothing() {
    let whole = served([REQUESTS]);
    assert_eq!(whole.0.iter().filter(|event| event.starts_with("head")).count(), 5, "{whole:?}");
    assert_eq!(whole.1.matches("HTTP/1.1 204").count(), 5);
    assert_eq!(served(REQUESTS.chunks(1)), whole);
    for cut in 0..REQUESTS.len() {
        let (one, other) = REQUESTS.split_at(cut);
        assert_eq!(served([one, other]), whole, "cut at {cut}");
    }
    for response in RESPONSES {
        let whole = answered([*response]);
        assert_eq!(answered(response.chunks(1)), whole);
        for cut in 0..response.len() {
            let (one, other) = response.split_at(cut);
            assert_eq!(answered([one, other]), whole, "cut at {cut}");
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,12}".prop_filter("framing", |name| {
        let lower = name.to_ascii_lowercase();
        !["te", "host", "upgrade", "expect", "connection", "trailer"].contains(&lower.as_str())
    })
}

fn list() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((name(), "([!-~]([ -~\\t]{0,20}[!-~])?)?"), 0..8)
}

fn with(first: &[(&str, &str)], rest: &[(String, String)]) -> HeaderBlock {
    let rest = rest.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    first.iter().copied().chain(rest).collect()
}

/// The bytes of a body as its reader tells it.
fn body(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// Gives `bytes` in pieces of these lengths, over and over.
fn give_cut(end: &mut End, bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let (mut rest, mut events, mut cuts) = (bytes, Vec::new(), cuts.iter().cycle());
    while !rest.is_empty() {
        let length = cuts.next().copied().unwrap_or(rest.len()).clamp(1, rest.len());
        let (part, after) = rest.split_at(length);
        events.extend(end.give(part));
        rest = after;
    }
    joined(events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_one_end_writes_the_other_reads(
        request in list(),
        response in list(),
        trailers in list(),
        parts in vec(vec(b'a'..=b'z', 1..40), 0..6),
        counted in any::<bool>(),
        cuts in vec(1_usize..60, 1..5),
    ) {
        let mut length = vec![("te", "trailers")];
        let text = body(&parts).len().to_string();
        if counted {
            length.push(("content-length", &text));
        }
        let (mut client, mut server) = (End::client(), End::server());
        for stream in 1..3 {
            let first = [(":method", "POST"), (":authority", "x:1"), (":path", "/a")];
            let head = with(&[&first[..], &length].concat(), &request);
            client.connection.open(&head, false, client.now).expect("room");
            let shown = |block: &HeaderBlock| {
                let kept = block.iter().filter(|field| {
                    !field.token.is_pseudo()
                        && !field.is("content-length")
                        && !field.is("transfer-encoding")
                        && !field.is("te")
                        && !field.is("connection")
                });
                let mut fields = HeaderBlock::new();
                kept.for_each(|field| fields.push(field.name, field.value));
                super::block(&fields)
            };
            for part in &parts {
                assert_eq!(client.connection.send(stream, part, false), part.len());
            }
            client.connection.trailers(stream, &with(&[], &trailers));
            let written = client.written();
            let events = give_cut(&mut server, written.as_bytes(), &cuts);
            prop_assert!(events[0].contains(&shown(&head)), "{events:?}");
            check_body(&events[1..], &parts, &trailers, counted)?;

            let head = with(&[&[(":status", "200")][..], &length].concat(), &response);
            server.connection.respond(stream, &head, false);
            for part in &parts {
                assert_eq!(server.connection.send(stream, part, false), part.len());
            }
            server.connection.trailers(stream, &with(&[], &trailers));
            let written = server.written();
            let events = give_cut(&mut client, written.as_bytes(), &cuts);
            prop_assert!(events[0].contains(&shown(&head)), "{events:?}");
            check_body(&events[1..], &parts, &trailers, counted)?;
            prop_assert!(client.connection.is_idle() && server.connection.is_idle());
        }
    }

    #[test]
    fn any_bytes_leave_a_connection_in_order(
        parts in vec(select(PIECES), 0..30),
        noise in vec(any::<u8>(), 0..4),
        at in 0_usize..400,
        answers in vec(0_u8..6, 0..10),
        cut in 1_usize..40,
    ) {
        let mut bytes = parts.concat();
        let at = at.min(bytes.len());
        bytes.splice(at..at, noise);
        let (mut server, mut client) = (End::server(), End::client());
        let mut stream = 0;
        let mut answers = answers.iter().cycle();
        for part in bytes.chunks(cut) {
            for event in server.give(part) {
                stream += u32::from(event.starts_with("head ") || event.starts_with("refused "));
            }
            act(&mut server, stream, answers.next().copied().unwrap_or_default());
            let get = [(":method", "POST"), (":authority", "x"), (":path", "/")];
            if client.connection.open(&fields(&get), false, client.now).is_ok() {
                client.written();
            }
            client.give(part);
        }
        for mut end in [server, client] {
            end.connection.eof();
            end.give(b"");
            end.connection.broken();
            end.give(b"");
            prop_assert!(end.connection.is_closed() && end.connection.streams() == 0);
        }
    }
}

fn act(server: &mut End, stream: u32, what: u8) {
    let connection = &mut server.connection;
    match what {
        0 => connection.respond(stream, &fields(&[(":status", "200")]), true),
        1 => connection.respond(stream, &fields(&[(":status", "200")]), false),
        2 => assert!(connection.send(stream, b"hello", false) <= 5),
        3 => assert!(connection.send(stream, b"hello", true) <= 5),
        4 => connection.trailers(stream, &fields(&[("a", "b")])),
        _ => connection.reset(stream, ErrorCode::CANCEL),
    }
    connection.check_invariants();
}

/// Of these, requests and responses are made that are nearly right.
const PIECES: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\n",
    b"POST /a HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 101 \r\n",
    b"HTTP/1.1 100 \r\n\r\n",
    b"Host: x\r\n",
    b"Upgrade: a\r\n",
    b"Connection: upgrade\r\n",
    b"Connection: keep-alive, close\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"\r\n5\r\nhello\r\n",
    b"5;a=b\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\na: b\r\n\r\n",
    b"hello",
];

fn check_body(
    events: &[String],
    parts: &[Vec<u8>],
    trailers: &[(String, String)],
    counted: bool,
) -> Result<(), TestCaseError> {
    let text = String::from_utf8(body(parts)).expect("letters");
    let told: String = events.iter().filter_map(|event| event.strip_prefix("data ")).collect();
    prop_assert_eq!(told.trim_end_matches('.'), text);
    let last = events.last().cloned().unwrap_or_else(|| ".".to_owned());
    prop_assert!(last.ends_with('.'));
    if !counted && !trailers.is_empty() {
        let expected = super::block(&with(&[], trailers));
        prop_assert_eq!(last, format!("trailers {expected}."));
    }
    Ok(())
}
