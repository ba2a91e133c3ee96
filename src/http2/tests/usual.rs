//! The usual ways of requests between two cores.

use super::{Seen, block, get, pair::Pair, post, status};
use crate::{
    http::{ConnectionError, ErrorCode, StreamError},
    http2::{Config, OpenError},
};

fn ready() -> Pair {
    Pair::ready(&Config::default(), &Config::default())
}

#[test]
fn a_call_goes_there_and_back_whatever_the_pieces() {
    for piece in [1, 2, 3, 7, 9, 10, 64, 16_384, usize::MAX] {
        let mut pair = Pair::new(&Config::default(), &Config::default());
        pair.piece = piece;
        let body = vec![7_u8; 40_000];
        let now = pair.client.now;
        let id = pair.client.core.open(&post(), false, now).expect("room");
        assert_eq!(pair.client.core.send(id, &body, true), 40_000);
        pair.run();
        let seen = pair.seen_by_server();
        assert_eq!(seen[0], Seen::Head(1, post(), false), "in pieces of {piece}");
        let parts = seen[1..].iter().map(|seen| match seen {
            Seen::Data(1, data, end) => (data.clone(), *end),
            other => panic!("{other:?}"),
        });
        let (parts, ends): (Vec<_>, Vec<_>) = parts.unzip();
        assert_eq!(parts.concat(), body);
        assert!(ends.iter().rev().skip(1).all(|end| !end) && ends.last() == Some(&true));

        pair.server.core.inform(id, &status("103"));
        pair.server.core.respond(id, &status("200"), false);
        assert_eq!(pair.server.core.send(id, b"pong", false), 4);
        pair.server.core.trailers(id, &block(&[("grpc-status", "0")]));
        pair.run();
        let seen = pair.seen_by_client();
        let data: Vec<u8> = seen
            .iter()
            .flat_map(|seen| match seen {
                Seen::Data(1, data, false) => data.clone(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(data, b"pong");
        let rest: Vec<_> =
            seen.into_iter().filter(|seen| !matches!(seen, Seen::Data(..))).collect();
        let expected = [
            Seen::Capacity,
            Seen::Informational(1, status("103")),
            Seen::Head(1, status("200"), false),
            Seen::Trailers(1, block(&[("grpc-status", "0")])),
        ];
        assert_eq!(rest, expected);
        assert!(pair.client.core.is_idle() && pair.server.core.is_idle());
    }
}

#[test]
fn a_body_larger_than_every_window_flows_as_credit_comes() {
    let mut pair = ready();
    let now = pair.client.now;
    let id = pair.client.core.open(&post(), false, now).expect("room");
    pair.server.credits = false;
    let body = vec![1_u8; 3 * 1024 * 1024];
    let mut sent = 0;
    let mut received = 0;
    for _ in 0..1_000 {
        sent += pair.client.core.send(id, &body[sent..], true);
        pair.run();
        let got: usize = pair
            .seen_by_server()
            .iter()
            .map(|seen| if let Seen::Data(_, data, _) = seen { data.len() } else { 0 })
            .sum();
        received += got;
        assert!(got <= 256 * 1024, "no more than the window");
        pair.server.core.credit(id, got);
        pair.run();
        if pair.client.core.streams() == 0 || sent == body.len() {
            break;
        }
        assert!(pair.seen_by_client().contains(&Seen::Writable(id)));
    }
    assert_eq!((sent, received), (body.len(), body.len()));
}

#[test]
fn streams_over_the_limit_are_not_opened_and_closed_ones_make_room() {
    let server = Config { streams_max: 2, ..Config::default() };
    let mut pair = Pair::ready(&Config::default(), &server);
    let now = pair.client.now;
    assert_eq!(pair.client.core.room(), 2);
    let first = pair.client.core.open(&get(), true, now).expect("room");
    pair.client.core.open(&get(), true, now).expect("room");
    assert_eq!(pair.client.core.open(&get(), true, now), Err(OpenError::Full));
    pair.run();
    pair.server.core.respond(first, &status("204"), true);
    pair.run();
    assert_eq!(pair.client.core.room(), 1);
}

#[test]
fn a_reset_ends_a_stream_on_both_sides_and_late_data_is_swallowed() {
    let mut pair = ready();
    let now = pair.client.now;
    let id = pair.client.core.open(&get(), true, now).expect("room");
    pair.run();
    pair.seen_by_server();
    pair.server.core.respond(id, &status("200"), false);
    pair.server.core.send(id, &[0; 100_000], false);
    pair.client.core.reset(id, ErrorCode::CANCEL);
    pair.run();
    assert_eq!(pair.seen_by_client(), []);
    let expected = Seen::Reset(id, StreamError::Reset(ErrorCode::CANCEL));
    assert_eq!(pair.seen_by_server(), [expected]);
    assert!(pair.client.core.is_idle() && pair.server.core.is_idle());
}

#[test]
fn a_drained_server_takes_what_crossed_and_then_closes() {
    let mut pair = ready();
    let now = pair.client.now;
    let first = pair.client.core.open(&get(), true, now).expect("room");
    pair.run();
    pair.server.core.drain(now);
    let second = pair.client.core.open(&get(), true, now).expect("room");
    pair.run();
    assert_eq!(pair.client.core.open(&get(), true, now), Err(OpenError::GoingAway));
    assert_eq!(pair.seen_by_client(), [Seen::Capacity]);
    assert_eq!(pair.seen_by_server().len(), 2, "both are heard");
    pair.server.core.respond(first, &status("200"), true);
    pair.server.core.respond(second, &status("200"), true);
    pair.run();
    let gone = ConnectionError::GoAway(ErrorCode::NO_ERROR);
    assert_eq!(pair.seen_by_client().last(), Some(&Seen::Closed(gone)));
    assert_eq!(pair.seen_by_server(), [Seen::Closed(ConnectionError::Local)]);
}

#[test]
fn pieces_of_one_stream_that_wait_together_go_out_as_one_frame() {
    let mut pair = ready();
    let now = pair.client.now;
    let first = pair.client.core.open(&post(), false, now).expect("room");
    let second = pair.client.core.open(&post(), false, now).expect("room");
    let heads = pair.client.core.outgoing().len();
    for (stream, piece, end) in [
        (first, &b"one"[..], false),
        (first, b"two", false),
        (second, b"other", false),
        (first, b"three", false),
        (first, b"", true),
    ] {
        assert_eq!(pair.client.core.send(stream, piece, end), piece.len());
    }
    // Three frames, each with a header of nine bytes.
    assert_eq!(pair.client.core.outgoing().len() - heads, 3 * 9 + 16);
    pair.run();
    let data = |seen: Vec<Seen>| {
        let data = seen.into_iter().filter_map(|seen| match seen {
            Seen::Data(stream, data, end) => Some((stream, data, end)),
            _ => None,
        });
        data.collect::<Vec<_>>()
    };
    let expected = [
        (first, b"onetwo".to_vec(), false),
        (second, b"other".to_vec(), false),
        (first, b"three".to_vec(), true),
    ];
    assert_eq!(data(pair.seen_by_server()), expected);

    // What was written is written: nothing joins it, and no frame gets larger than the peer takes.
    let large = vec![1; 16_384 - 1];
    assert_eq!(pair.client.core.send(second, &large, false), large.len());
    assert_eq!(pair.client.core.send(second, b"ab", true), 2);
    pair.run();
    let expected = [(second, large, false), (second, b"ab".to_vec(), true)];
    assert_eq!(data(pair.seen_by_server()), expected);
}
