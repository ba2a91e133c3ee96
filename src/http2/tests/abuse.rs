//! What honest peers do a lot of is no abuse; hostile upstreams end their own connection only.

use std::time::Duration;

use super::{
    Seen, Side,
    battery::http2::{frame, headers, literal, settings, window},
    get,
    pair::Pair,
    post, status,
};
use crate::{
    http::{ConnectionError, ErrorCode},
    http2::{
        Config,
        frame::{FrameHeader, kind},
    },
};

/// A client that holds no cancel back, and a server that counts them.
fn ready() -> Pair {
    let client = Config { many_callers: true, ..Config::default() };
    Pair::ready(&client, &Config::default())
}

#[test]
fn five_thousand_cancels_a_second_among_successes_are_no_abuse() {
    // A fifth of the calls succeeds; the others are cancelled at once. Two seconds of it.
    let mut pair = ready();
    let start = pair.client.now;
    for n in 0..12_000_u32 {
        let now = start + Duration::from_micros(160) * n;
        (pair.server.now, pair.client.now) = (now, now);
        let id = pair.client.core.open(&get(), true, now).expect("room");
        pair.run();
        if n % 6 == 0 {
            pair.server.core.respond(id, &status("200"), true);
        } else {
            pair.client.core.reset(id, ErrorCode::CANCEL);
        }
        pair.run();
        if n % 1_200 == 0 {
            pair.server.core.tick(now);
        }
    }
    assert!(!pair.server.core.is_closed() && !pair.client.core.is_closed());
}

#[test]
fn cancels_of_calls_that_were_worked_on_are_no_abuse() {
    // No call succeeds: all are cancelled after 50 ms, as many at a time as the limit permits.
    let mut pair = ready();
    for _ in 0..40 {
        let now = pair.client.now;
        let open = |_| pair.client.core.open(&post(), false, now).expect("room");
        let ids: Vec<_> = (0..250).map(open).collect();
        pair.run();
        pair.client.now += Duration::from_millis(50);
        pair.server.now += Duration::from_millis(50);
        let now = pair.client.now;
        ids.iter().for_each(|id| pair.client.core.reset(*id, ErrorCode::CANCEL));
        pair.client.core.tick(now);
        pair.server.core.tick(now);
        pair.run();
        assert!(!pair.server.core.is_closed(), "{:?}", pair.seen_by_server().last());
        pair.seen_by_server();
    }
}

#[test]
fn a_storm_of_cancels_is_no_abuse_of_the_upstream_and_its_late_frames_are_none_either() {
    // To a sidecar; to others so many are not written.
    let config = Config { many_callers: true, ..Config::default() };
    let mut side = Side::client(&config);
    side.feed(&[settings(&[]), frame(4, 1, 0, &[])].concat());
    let mut late = Vec::new();
    for n in 0..10_000_u32 {
        // 5,000 a second.
        side.now += Duration::from_micros(200);
        let now = side.now;
        let id = side.core.open(&get(), true, now).expect("room");
        side.core.reset(id, ErrorCode::CANCEL);
        side.take();
        late.push(id);
        if n % 100 == 99 {
            for id in late.drain(..) {
                let response = [
                    headers(id, false, &[0x88]),
                    frame(0, 0, id, &[0; 100]),
                    window(id, 100),
                    headers(id, true, &literal("grpc-status", "0")),
                ];
                assert_eq!(side.feed(&response.concat()), []);
            }
        }
    }
    assert_eq!(side.core.window.open + side.core.window.owed, side.core.window.size);
}

/// RST_STREAM frames in what was written.
fn resets(mut output: &[u8]) -> usize {
    let mut count = 0;
    while let Some(header) = FrameHeader::parse(output) {
        count += usize::from(header.kind == kind::RST_STREAM);
        output = &output[9 + header.len()..];
    }
    count
}

#[test]
fn requests_that_a_server_may_not_have_read_are_reset_in_small_numbers() {
    for (sidecar, at_once) in [(false, 10), (true, 60)] {
        let config = Config { many_callers: sidecar, ..Config::default() };
        let mut side = Side::client(&config);
        side.feed(&[settings(&[(3, 100)]), frame(4, 1, 0, &[])].concat());
        side.take();
        let now = side.now;
        for _ in 0..60 {
            let id = side.core.open(&get(), true, now).expect("room");
            side.core.reset(id, ErrorCode::CANCEL);
        }
        assert_eq!(resets(&side.take()), at_once);
        assert_eq!((side.core.streams(), side.core.room()), (0, 100 - 60 + at_once));
        // A second goes by, but the server says nothing.
        side.tick(Duration::from_secs(1));
        assert_eq!(resets(&side.take()), 0);
        // It has read what came before it was asked, and is asked again about the rest.
        side.feed(&frame(4, 1, 0, &[]));
        assert_eq!(resets(&side.take()), if sidecar { 0 } else { 11 });
        side.feed(&frame(4, 1, 0, &[]));
        assert_eq!(resets(&side.take()), if sidecar { 0 } else { 39 });
        assert_eq!(side.core.room(), 100);
        // One whose response began was read too.
        let now = side.now;
        let ids: Vec<_> =
            (0..30).map(|_| side.core.open(&get(), true, now).expect("room")).collect();
        side.take();
        for id in ids {
            side.feed(&headers(id, false, &[0x88]));
            side.core.reset(id, ErrorCode::CANCEL);
        }
        assert_eq!(resets(&side.take()), 30);
    }
}

#[test]
fn a_connection_on_which_much_was_cancelled_takes_no_more_and_answers_make_room() {
    let mut side = Side::client(&Config::default());
    side.feed(&[settings(&[]), frame(4, 1, 0, &[])].concat());
    side.take();
    let cancel = |side: &mut Side| {
        let now = side.now;
        let id = side.core.open(&get(), false, now).expect("room");
        side.feed(&headers(id, false, &[0x88]));
        side.core.reset(id, ErrorCode::CANCEL);
        id
    };
    for _ in 0..150 {
        assert!(!side.core.is_spent());
        cancel(&mut side);
    }
    assert_eq!(resets(&side.take()), 150);
    let held = cancel(&mut side);
    assert_eq!((side.core.is_spent(), side.core.room(), resets(&side.take())), (true, 0, 0));
    // What it says of that stream is nobody's business, and its end makes the reset needless.
    assert_eq!(side.feed(&frame(0, 0, held, b"more")), []);
    assert_eq!(side.feed(&headers(held, true, &literal("grpc-status", "0"))), []);
    assert_eq!((side.core.is_spent(), side.core.room()), (false, 256));
    cancel(&mut side);
    assert!(side.core.is_spent());
    side.tick(Duration::from_millis(200));
    assert_eq!((side.core.is_spent(), resets(&side.take())), (false, 1));
}

#[test]
fn small_messages_and_their_credit_are_no_abuse() {
    // Messages of one byte up, and as many down; the peer answers each with two WINDOW_UPDATEs and a PING.
    let mut pair = ready();
    let now = pair.client.now;
    let id = pair.client.core.open(&post(), false, now).expect("room");
    pair.run();
    let message = frame(0, 0, id, b"x").repeat(1_000);
    let credit = [window(0, 1), window(id, 1), frame(6, 0, 0, &[1; 8])].concat();
    pair.server.core.respond(id, &status("200"), false);
    for n in 0..100 {
        let seen = pair.server.feed(&message);
        assert_eq!(seen.len(), 1_000, "after {n} thousand: {:?}", seen.last());
        pair.server.take();
    }
    for n in 0..20_000 {
        assert_eq!(pair.server.core.send(id, b"y", false), 1);
        assert_eq!(pair.server.feed(&credit), [], "after {n}");
        pair.server.take();
    }
}

#[test]
fn calls_that_end_with_empty_data_are_no_abuse() {
    let mut pair = ready();
    let now = pair.client.now;
    for _ in 0..10_000 {
        let id = pair.client.core.open(&post(), false, now).expect("room");
        pair.client.core.send(id, &[], true);
        pair.run();
        pair.server.core.respond(id, &status("200"), false);
        pair.server.core.send(id, &[], true);
        pair.run();
        assert_eq!((pair.client.core.streams(), pair.server.core.streams()), (0, 0));
    }
}

#[test]
fn a_hostile_upstream_ends_its_connection() {
    type Again = fn(u32) -> Vec<u8>;
    let attacks: [(&str, u32, Again); 9] =
        [
            ("PING", 1_100, |_| frame(6, 0, 0, &[0; 8])),
            ("SETTINGS", 200, |_| settings(&[])),
            ("WINDOW_UPDATE", 1_100, |_| window(0, 1)),
            ("WINDOW_UPDATE of a stream", 1_100, |_| window(1, 1)),
            ("empty DATA", 110, |n| {
                if n == 0 { headers(1, false, &[0x88]) } else { frame(0, 0, 1, &[]) }
            }),
            ("unknown frames", 1_100, |_| frame(0xbb, 0, 0, &[])),
            ("CONTINUATION", 6, |n| frame(if n == 0 { 1 } else { 9 }, 0, 1, &literal("x", "1"))),
            ("GOAWAY", 110, |_| frame(7, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
            ("RST_STREAM", 1_100, |_| frame(3, 0, 3, &[0; 4])),
        ];
    for (name, within, again) in attacks {
        let mut side = Side::client(&Config::default());
        side.feed(&[settings(&[]), frame(4, 1, 0, &[])].concat());
        let now = side.now;
        side.core.open(&post(), false, now).expect("room");
        side.core.open(&post(), false, now).expect("room");
        side.take();
        let cut = (0..within).find_map(|n| {
            let seen = side.feed(&again(n));
            side.take();
            seen.into_iter().find(|seen| matches!(seen, Seen::Closed(_)))
        });
        let abuse = matches!(cut, Some(Seen::Closed(ConnectionError::Abuse(_))));
        assert!(abuse, "{name}: {cut:?}");
    }
}

#[test]
fn a_response_window_of_drips_is_paid_from_a_budget() {
    let small = Config { stream_window: 65_535, stream_window_max: 65_535, ..Config::default() };
    let mut pair = Pair::ready(&small, &Config::default());
    let now = pair.client.now;
    let id = pair.client.core.open(&get(), true, now).expect("room");
    pair.run();
    pair.server.core.respond(id, &status("200"), false);
    let mut body = 65_535;
    assert_eq!(pair.server.core.send(id, &vec![0; 100_000], false), body);
    let cut = (0..2_000).find(|_| {
        let seen = pair.server.feed(&[window(0, 1), window(id, 1)].concat());
        body += pair.server.core.send(id, &[0; 100], false);
        matches!(seen.last(), Some(Seen::Closed(ConnectionError::Abuse(_))))
    });
    assert!(cut.is_some_and(|cut| cut < 600), "{cut:?} after {body} bytes");
}
