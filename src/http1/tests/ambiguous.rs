//! Messages that two readers could read in two ways: each is refused, however its bytes arrive, and
//! nothing behind it is taken for a request. The list of requests is that of the tests that send them
//! to the program.

use super::{End, fields};

const REQUESTS: &str = include_str!("../../../tests/http1/ambiguous.txt");

/// The bytes that a line of the list means.
fn bytes(written: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), written.chars());
    while let Some(character) = rest.next() {
        if character != '\\' {
            bytes.push(u8::try_from(character).expect("ASCII"));
            continue;
        }
        bytes.push(match rest.next().expect("an escape") {
            'r' => b'\r',
            'n' => b'\n',
            't' => b'\t',
            '0' => 0,
            '"' => b'"',
            'x' => {
                let digits: String = rest.by_ref().take(2).collect();
                u8::from_str_radix(&digits, 16).expect("two digits")
            }
            other => panic!("\\{other}"),
        });
    }
    bytes
}

fn requests() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let lines = REQUESTS.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let (name, written) = line.split_once('\t').expect("a tab");
        (name, bytes(written))
    })
}

fn is_refusal(event: &str) -> bool {
    event.starts_with("refused ") || (event.starts_with("reset ") && !event.contains("closed by"))
}

#[test]
fn ambiguous_requests_are_refused() {
    assert!(requests().count() >= 80, "{}", requests().count());
    for (name, request) in requests() {
        for step in [request.len(), 1, 7] {
            let mut end = End::server();
            let mut events = Vec::new();
            for part in request.chunks(step) {
                events.extend(end.give(part));
            }
            events.extend(end.give(b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert!(events.iter().any(|event| is_refusal(event)), "{name}: {events:?}");
            assert!(!events.iter().any(|event| event.contains("smuggled")), "{name}: {events:?}");
            end.connection.respond(1, &fields(&[(":status", "400")]), true);
            end.give(b"");
            assert!(end.connection.is_closed(), "{name}");
            let written = end.written();
            assert!(written.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{name}: {written}");
            assert!(written.contains("connection: close\r\n"), "{name}: {written}");
            assert_eq!(written.matches("HTTP/1.1").count(), 1, "{name}: {written}");
        }
    }
}

#[test]
fn unusual_requests_that_have_one_meaning_are_taken() {
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nhost:x\r\n\r\n", ":authority=x :path=/."),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", ":authority=x :path=/."),
        ("GET / HTTP/1.1\r\nHost:\t x \t\r\nA:\r\nB: \x7e \r\n\r\n", ":path=/ A= B=~."),
        ("GET http://X:80/a HTTP/1.1\r\nHost: x\r\n\r\n", ":authority=X:80 :path=/a."),
        (
            "GET https://x?y HTTP/1.1\r\nHost: x:443\r\n\r\n",
            ":scheme=https :authority=x :path=/?y.",
        ),
        ("GET http://[::1]:8 HTTP/1.1\r\nHost: [::1]:8\r\n\r\n", ":authority=[::1]:8 :path=/."),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", ":path=*."),
        ("OPTIONS http://x HTTP/1.1\r\nHost: x\r\n\r\n", ":authority=x :path=*."),
        ("GET //a/../%2f;b?{|}\\^\" HTTP/1.1\r\nHost: x\r\n\r\n", ":path=//a/../%2f;b?{|}\\^\"."),
        ("M-SEARCH / HTTP/1.1\r\nHost: x\r\n\r\n", ":method=M-SEARCH"),
        ("get / HTTP/1.1\r\nHost: x\r\n\r\n", ":method=get"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", ":method=GET :scheme=http :path=/."),
        ("GET / HTTP/1.0\r\n\r\n", ":method=GET :scheme=http :path=/."),
        ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 000\r\n\r\n", "Content-Length=000."),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", ":method=CONNECT :authority=x:1"),
    ] {
        let mut end = End::server();
        let events = end.give(request.as_bytes());
        assert_eq!(events.len(), 1, "{request:?}: {events:?}");
        assert!(events[0].starts_with("head ") && events[0].contains(expected), "{events:?}");
    }
}

#[test]
fn ambiguous_responses_are_refused() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let mut cases: Vec<Vec<u8>> = [
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "Content-Length: 1, 1\r\n\r\na",
        "Content-Length: +1\r\n\r\na",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Content-Length : 1\r\n\r\na",
        "A: 1\r\n B: 1\r\n\r\n",
        "A: 1\nB: 2\r\n\r\n",
        "A: 1\r\n\n",
        "A: \0\r\n\r\n",
        "Transfer_Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\nab0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\nHost: a\r\n\r\n",
    ]
    .iter()
    .map(|rest| format!("{ok}{rest}").into_bytes())
    .collect();
    for line in [
        "HTTP/1.1 200 OK\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n",
        "HTTP/1.1 099 Low\r\n",
        "HTTP/1.1 20 OK\r\n",
        "HTTP/1.1 2000 OK\r\n",
        "HTTP/1.1 +20 OK\r\n",
        "HTTP/1.1  200 OK\r\n",
        "HTTP/1.1\t200 OK\r\n",
        "HTTP/2.0 200 OK\r\n",
        "HTTP/1.1 200 O\x01K\r\n",
        "HTTP/1.1 200 O\0K\r\n",
        "\r\nHTTP/1.1 200 OK\r\n",
        "ICY 200 OK\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n",
    ] {
        cases.push(format!("{line}\r\n").into_bytes());
    }
    for response in cases {
        for step in [response.len(), 1] {
            let mut end = End::client();
            let get = [(":method", "GET"), (":authority", "x"), (":path", "/")];
            end.connection.open(&fields(&get), true, end.now).expect("room");
            end.written();
            let mut events = Vec::new();
            for part in response.chunks(step) {
                events.extend(end.give(part));
            }
            let text = String::from_utf8_lossy(&response);
            assert!(events.iter().any(|event| is_refusal(event)), "{text:?}: {events:?}");
            assert!(end.connection.is_closed() && end.connection.room() == 0, "{text:?}");
        }
    }
}
