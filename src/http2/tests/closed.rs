//! Frames for streams that are over (RFC 9113 section 5.1): what this side has reset may still be
//! spoken to for a while, what the peer has ended may not; GOAWAY both ways; heads that are too large.

use std::time::Duration;

use super::{
    Seen, Side,
    battery::http2::{
        GREETING, cancel, frame, get, headers, literal, post, request, settings, window,
    },
    block, get as get_head,
    pair::Pair,
    post as post_head, status,
};
use crate::{
    http::{ConnectionError, ErrorCode, StreamError, Token},
    http2::{Config, OpenError},
};

fn server() -> Side {
    let mut side = Side::server(&Config::default());
    side.feed(&[GREETING, &frame(4, 1, 0, &[])].concat());
    side.take();
    side
}

fn is_closed_with(seen: &[Seen], expected: ErrorCode) -> bool {
    matches!(seen.last(), Some(Seen::Closed(ConnectionError::Protocol(code, _))) if *code == expected)
}

#[test]
fn a_stream_that_was_reset_here_swallows_what_was_on_its_way() {
    let late: [(&str, Vec<u8>); 5] = [
        ("DATA", frame(0, 0, 1, &[0; 10_000])),
        ("the end", frame(0, 1, 1, &[])),
        ("trailers", headers(1, true, &literal("x", "1"))),
        ("WINDOW_UPDATE", window(1, 0)),
        ("RST_STREAM", cancel(1)),
    ];
    for (name, bytes) in late {
        let mut side = server();
        side.feed(&post(1));
        side.core.reset(1, ErrorCode::INTERNAL_ERROR);
        side.take();
        assert_eq!(side.feed(&bytes), [], "{name}");
        assert!(side.take().is_empty(), "{name}");
        assert_eq!(side.feed(&get(3)).len(), 1, "{name}: the connection goes on");
    }
}

#[test]
fn what_is_swallowed_is_bounded_by_the_window_and_its_credit_returns() {
    let mut side = server();
    side.feed(&post(1));
    side.core.reset(1, ErrorCode::INTERNAL_ERROR);
    let full = frame(0, 0, 1, &[0; 16_384]);
    for _ in 0..16 {
        assert_eq!(side.feed(&full), []);
    }
    assert_eq!(side.core.window.open + side.core.window.owed, side.core.window.size);
    let seen = side.feed(&frame(0, 0, 1, b"x"));
    assert!(is_closed_with(&seen, ErrorCode::FLOW_CONTROL_ERROR), "{seen:?}");
}

#[test]
fn a_reset_within_a_frame_swallows_the_rest_of_it() {
    let mut side = server();
    side.feed(&post(1));
    let data = frame(0, 1, 1, &[7; 1_000]);
    assert_eq!(side.feed(&data[..509]).len(), 1);
    side.core.reset(1, ErrorCode::CANCEL);
    side.core.check_invariants();
    assert_eq!(side.feed(&data[509..]), []);
    assert_eq!(side.core.window.open + side.core.window.owed, side.core.window.size);
    assert_eq!(side.feed(&get(3)).len(), 1);
}

#[test]
fn what_a_peer_ended_it_may_not_speak_on() {
    for (name, before, bytes, connection) in [
        ("DATA after both ends", true, frame(0, 0, 1, b"x"), true),
        ("HEADERS after both ends", true, headers(1, true, &request(0x82)), true),
        ("DATA after its reset", false, [cancel(1), frame(0, 0, 1, b"x")].concat(), true),
        ("HEADERS after its reset", false, [cancel(1), get(1)].concat(), true),
        ("DATA after its end", false, frame(0, 0, 1, b"x"), false),
        ("HEADERS after its end", false, get(1), false),
    ] {
        let mut side = server();
        side.feed(&get(1));
        if before {
            side.core.respond(1, &status("200"), true);
        }
        side.take();
        let seen = side.feed(&bytes);
        assert_eq!(is_closed_with(&seen, ErrorCode::STREAM_CLOSED), connection, "{name}: {seen:?}");
        if !connection {
            assert_eq!(side.take(), frame(3, 0, 1, &5_u32.to_be_bytes()), "{name}");
        }
    }
    for bytes in [window(1, 5), window(1, 0x7fff_ffff), cancel(1), frame(2, 0, 1, &[0; 5])] {
        let mut side = server();
        side.feed(&get(1));
        side.core.respond(1, &status("200"), true);
        side.take();
        assert_eq!(side.feed(&bytes), []);
        assert!(side.take().is_empty());
    }
}

#[test]
fn an_upstream_that_refuses_or_goes_has_not_processed() {
    let mut side = Side::client(&Config::default());
    side.feed(&[settings(&[]), frame(4, 1, 0, &[])].concat());
    let now = side.now;
    let ids: Vec<_> =
        (0..4).map(|_| side.core.open(&post_head(), false, now).expect("room")).collect();
    side.take();
    let seen = side.feed(&frame(3, 0, ids[0], &7_u32.to_be_bytes()));
    let unprocessed = |id, code| Seen::Reset(id, StreamError::Unprocessed(code));
    assert_eq!(seen, [unprocessed(ids[0], ErrorCode::REFUSED_STREAM)]);

    let goaway = frame(7, 0, 0, &[&ids[1].to_be_bytes()[..], &[0; 4], b"later"].concat());
    let seen = side.feed(&goaway);
    let none = ErrorCode::NO_ERROR;
    assert_eq!(seen, [unprocessed(ids[2], none), unprocessed(ids[3], none), Seen::Capacity]);
    assert_eq!(side.core.open(&post_head(), false, now), Err(OpenError::GoingAway));
    assert_eq!((side.core.room(), side.core.streams()), (0, 1));
    side.core.send(ids[1], b"x", true);
    let seen = side.feed(&headers(ids[1], true, &[0x88]));
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1], Seen::Closed(ConnectionError::GoAway(none)));
}

#[test]
fn a_request_of_which_nothing_was_written_is_unprocessed() {
    let mut side = Side::client(&Config::default());
    let now = side.now;
    let first = side.core.open(&get_head(), true, now).expect("room");
    side.take();
    let second = side.core.open(&get_head(), true, now).expect("room");
    side.core.eof();
    let expected = [
        Seen::Reset(first, StreamError::Connection(ConnectionError::Eof)),
        Seen::Reset(second, StreamError::Unprocessed(ErrorCode::NO_ERROR)),
        Seen::Closed(ConnectionError::Eof),
    ];
    assert_eq!(side.events(), expected);
    assert!(side.core.is_closed());
}

#[test]
fn after_the_second_goaway_new_streams_are_not_heard() {
    let mut side = server();
    side.feed(&post(1));
    let now = side.now;
    side.core.drain(now);
    assert_eq!(side.feed(&get(3)).len(), 1, "between the two it is");
    side.tick(Duration::from_secs(5));
    side.take();
    assert_eq!(side.feed(&get(5)), []);
    assert_eq!(side.feed(&[post(7), frame(0, 1, 7, &[0; 1_000])].concat()), []);
    assert!(side.take().is_empty());
    side.core.respond(3, &status("200"), true);
    side.core.respond(1, &status("200"), true);
    assert_eq!(side.feed(&frame(0, 1, 1, &[])).last(), Some(&Seen::Closed(ConnectionError::Local)));
}

#[test]
fn a_head_over_the_limit_can_be_answered_and_the_table_stays_in_step() {
    let config = Config { head_max: 1_000, ..Config::default() };
    let mut pair = Pair::ready(&Config::default(), &config);
    let mut large = get_head();
    large.push(b"x-same", b"kept");
    large.push(b"x-large", &[b'a'; 2_000]);
    let now = pair.client.now;
    let id = pair.client.core.open(&large, true, now).expect("room");
    pair.run();
    assert_eq!(pair.seen_by_server(), [Seen::Refused(id, StreamError::HeadTooLarge)]);
    pair.server.core.respond(id, &status("431"), true);
    let mut small = get_head();
    small.push(b"x-same", b"kept");
    let next = pair.client.core.open(&small, true, now).expect("room");
    pair.run();
    assert_eq!(pair.seen_by_client(), [Seen::Head(id, status("431"), true)]);
    assert_eq!(pair.seen_by_server(), [Seen::Head(next, small, true)]);

    let mut trailers = block(&[("x", "1")]);
    trailers.push(b"x-large", &[b'a'; 2_000]);
    let id = pair.client.core.open(&post_head(), false, now).expect("room");
    pair.client.core.trailers(id, &trailers);
    pair.run();
    assert_eq!(pair.seen_by_server()[1], Seen::Reset(id, StreamError::HeadTooLarge));
}

#[test]
fn a_head_larger_than_a_frame_goes_in_several() {
    let mut pair = Pair::ready(&Config::default(), &Config::default());
    let mut head = post_head();
    for n in 0..8 {
        head.push(format!("x-large-{n}").as_bytes(), &[b'a'; 6_000]);
    }
    let now = pair.client.now;
    let id = pair.client.core.open(&head, true, now).expect("room");
    assert!(pair.client.core.output().len() > 20_000);
    pair.run();
    assert_eq!(pair.seen_by_server(), [Seen::Head(id, head, true)]);
}

#[test]
fn extended_connect_needs_the_peers_consent() {
    let mut head =
        block(&[(":method", "CONNECT"), (":scheme", "http"), (":authority", "a"), (":path", "/")]);
    head.set(Token::Protocol, b"websocket");
    for offered in [true, false] {
        let config = Config { extended_connect: offered, ..Config::default() };
        let mut pair = Pair::new(&Config::default(), &config);
        let now = pair.client.now;
        assert_eq!(pair.client.core.open(&head, false, now), Err(OpenError::Unsupported));
        pair.run();
        assert_eq!(pair.client.core.takes_extended_connect(), offered);
        assert_eq!(pair.client.core.open(&head, false, now).is_ok(), offered);
        pair.run();
        assert_eq!(pair.seen_by_server().len(), usize::from(offered));
    }
}

#[test]
fn windows_move_both_ways_with_settings() {
    let mut side = server();
    side.feed(&get(1));
    side.core.respond(1, &status("200"), false);
    assert_eq!(side.core.send(1, &[0; 60_000], false), 60_000);
    side.feed(&settings(&[(4, 0)]));
    assert_eq!(side.core.send(1, b"abc", false), 0);
    assert_eq!(side.feed(&window(1, 59_999)), [], "still below zero");
    assert_eq!(side.feed(&window(1, 2)), [Seen::Writable(1)]);
    assert_eq!(side.core.send(1, b"abc", false), 1);
    assert_eq!(side.feed(&settings(&[(4, 1)])), [Seen::Writable(1)]);
    assert_eq!(side.core.send(1, b"bc", true), 1);

    let mut pair = Pair::ready(&Config::default(), &Config::default());
    pair.server.credits = false;
    let now = pair.client.now;
    let id = pair.client.core.open(&post_head(), false, now).expect("room");
    assert_eq!(pair.client.core.send(id, &[0; 100_000], false), 100_000);
    pair.server.core.set_stream_window(50_000, now);
    pair.run();
    assert_eq!(pair.client.core.send(id, b"x", false), 0);
    pair.server.core.credit(id, 100_000);
    pair.run();
    assert!(pair.seen_by_client().contains(&Seen::Writable(id)));
    // It is read as fast as it comes, and so has a larger window again.
    assert_eq!(pair.client.core.send(id, &[0; 200_000], false), 100_000);
}

#[test]
fn a_stream_in_the_queue_stays_there_when_its_window_closes() {
    let mut side = server();
    side.feed(&[get(1), get(3), window(1, 1_000_000), window(3, 60_000)].concat());
    for id in [1, 3] {
        side.core.respond(id, &status("200"), false);
    }
    assert_eq!(side.core.send(1, &[0; 65_536], false), 65_535, "the connection's window");
    assert_eq!(side.core.send(3, b"x", false), 0);
    // 60,000 was 125,535; now it is closed.
    side.feed(&settings(&[(4, 0)]));
    side.core.streams.get(3).expect("open").send.take(60_000);
    assert_eq!(side.core.send(3, b"x", false), 0);
    side.core.check_invariants();
    assert_eq!(side.feed(&window(0, 10)), [Seen::Writable(1), Seen::Writable(3)]);
}

#[test]
fn a_shrunk_limit_of_streams_counts_those_that_are_open() {
    let mut side = Side::client(&Config::default());
    side.feed(&settings(&[(3, 10)]));
    let now = side.now;
    let ids: Vec<_> =
        (0..4).map(|_| side.core.open(&get_head(), true, now).expect("room")).collect();
    assert_eq!(side.core.room(), 6);
    assert_eq!(side.feed(&settings(&[(3, 2)])), [Seen::Capacity]);
    assert_eq!(side.core.room(), 0);
    for id in &ids[..3] {
        side.feed(&headers(*id, true, &[0x88]));
    }
    assert_eq!(side.core.room(), 1);
}

#[test]
fn identifiers_are_used_up_and_never_twice() {
    let mut side = Side::client(&Config::default());
    side.feed(&settings(&[]));
    let now = side.now;
    side.core.streams.ids.pass(0x7fff_fffd, crate::http2::ids::Mark::Ended);
    assert_eq!(side.core.room(), 1);
    assert_eq!(side.core.open(&get_head(), true, now), Ok(0x7fff_ffff));
    assert_eq!(side.core.room(), 0);
    assert_eq!(side.core.open(&get_head(), true, now), Err(OpenError::Exhausted));
    let seen = side.feed(&headers(0x7fff_ffff, true, &[0x88]));
    assert_eq!(seen.len(), 1);
}
