//! What ends by time.

use std::time::Duration;

use super::{Seen, Side, get, pair::Pair, post, status};
use crate::{
    http::{ConnectionError, ErrorCode, StreamError},
    http2::{Config, frame::PREFACE},
};

const SECOND: Duration = Duration::from_secs(1);

fn timeout(what: &'static str) -> Seen {
    Seen::Closed(ConnectionError::Timeout(what))
}

/// Ticks until something happens; how long it took, and what it was.
fn wait(side: &mut Side, at_most: u64) -> (u64, Vec<Seen>) {
    for second in 1..=at_most {
        let seen = side.tick(SECOND);
        if !seen.is_empty() {
            return (second, seen);
        }
    }
    (at_most, Vec::new())
}

/// A server that has a client's preface and settings.
fn greeted(config: &Config) -> Side {
    let mut server = Side::server(config);
    server.feed(PREFACE);
    server.feed(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    server.feed(&[0, 0, 0, 4, 1, 0, 0, 0, 0]);
    server.take();
    server
}

#[test]
fn silent_and_slow_peers_are_cut_in_time() {
    let config = Config { first_request_time: SECOND * 15, ..Config::default() };
    let mut silent = Side::server(&config);
    silent.take();
    assert_eq!(wait(&mut silent, 60), (10, vec![timeout("the preface")]));

    let mut idle = greeted(&config);
    assert_eq!(wait(&mut idle, 60), (15, vec![timeout("the first request")]));

    // One byte of a HEADERS frame each second.
    let mut slow = greeted(&config);
    let mut seconds = 0;
    let seen = loop {
        let seen = slow.feed(&[0]);
        assert_eq!(seen, []);
        seconds += 1;
        let seen = slow.tick(SECOND);
        if !seen.is_empty() || seconds > 60 {
            break seen;
        }
        if slow.input.len() == 2 {
            slow.feed(&[100, 1, 4, 0, 0, 0, 1]);
        }
    };
    assert_eq!((seconds, seen), (10, vec![timeout("an unfinished head")]));
}

#[test]
fn a_peer_that_reads_nothing_is_cut() {
    let mut pair = Pair::ready(&Config::default(), &Config::default());
    let now = pair.client.now;
    let id = pair.client.core.open(&get(), true, now).expect("room");
    pair.run();
    pair.server.core.respond(id, &status("200"), true);
    let length = pair.server.core.output().len();
    pair.server.core.flushed(length);
    let (seconds, seen) = wait(&mut pair.server, 60);
    assert_eq!((seconds, seen), (31, vec![timeout("reading what was written")]));
}

#[test]
fn a_stream_whose_reader_gives_no_credit_is_reset_alone() {
    let client = Config { stream_window: 1_000, stream_window_max: 1_000, ..Config::default() };
    let mut pair = Pair::ready(&client, &Config::default());
    pair.client.credits = false;
    let now = pair.client.now;
    let slow = pair.client.core.open(&post(), false, now).expect("room");
    let other = pair.client.core.open(&post(), false, now).expect("room");
    pair.run();
    pair.server.core.respond(slow, &status("200"), false);
    pair.server.core.respond(other, &status("200"), false);
    assert_eq!(pair.server.core.send(slow, &[0; 2_000], false), 1_000);
    pair.run();
    let (seconds, seen) = wait(&mut pair.server, 400);
    let error = StreamError::Connection(ConnectionError::Timeout("reading a body"));
    assert_eq!((seconds, seen), (301, vec![Seen::Reset(slow, error)]));
    assert_eq!(pair.server.core.streams(), 1);
    pair.seen_by_client();
    pair.run();
    let expected = Seen::Reset(slow, StreamError::Reset(ErrorCode::CANCEL));
    assert_eq!(pair.seen_by_client(), [expected]);
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    let config = Config { keepalive_after: Some(SECOND * 30), ..Config::default() };
    let mut pair = Pair::ready(&config, &Config::default());
    for _ in 0..4 {
        assert_eq!(wait(&mut pair.client, 30), (30, vec![]));
        pair.run();
        assert_eq!(pair.seen_by_client(), [], "it answered");
    }
    let (seconds, seen) = wait(&mut pair.client, 100);
    assert_eq!((seconds, seen), (50, vec![timeout("the answer to PING")]));
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    let config = Config { idle_time: Some(SECOND * 60), ..Config::default() };
    let mut pair = Pair::ready(&Config::default(), &config);
    let now = pair.client.now;
    for _ in 0..3 {
        let id = pair.client.core.open(&get(), true, now).expect("room");
        pair.run();
        pair.server.core.respond(id, &status("200"), true);
        pair.run();
        assert_eq!(wait(&mut pair.server, 50), (50, vec![]), "idle from the next tick on");
    }
    assert_eq!(wait(&mut pair.server, 12), (12, vec![]), "it drains");
    pair.seen_by_server();
    pair.run();
    assert_eq!(pair.seen_by_server(), [Seen::Closed(ConnectionError::Local)]);
    assert!(pair.client.core.is_closed());
}

#[test]
fn a_peer_that_never_acknowledges_settings_is_cut() {
    let config = Config { first_request_time: SECOND * 100, ..Config::default() };
    let mut patient = Side::server(&config);
    patient.feed(PREFACE);
    patient.feed(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    patient.take();
    assert_eq!(wait(&mut patient, 60), (20, vec![timeout("the answer to SETTINGS")]));
}
