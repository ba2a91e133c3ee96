//! What must hold of any bytes and any calls, for the fuzzers and for the tests that run their
//! inputs: no panic, invariants after every step, output that stays in proportion, and between two
//! cores nothing lost.

use std::time::{Duration, Instant};

use super::{Config, Connection};
use crate::http::{ErrorCode, Event, HeaderBlock};

/// Small bounds, so that short inputs reach them.
fn config() -> Config {
    Config {
        streams_max: 8,
        stream_window: 1_000,
        stream_window_max: 4_000,
        connection_window: 65_535,
        held_max: 4_000,
        output_max: 2_000,
        head_max: 1_000,
        ..Config::default()
    }
}

fn head(fields: &[(&str, &str)]) -> HeaderBlock {
    fields.iter().copied().collect()
}

pub(super) fn request() -> HeaderBlock {
    head(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")])
}

/// Takes `data` as what a peer sends: the first byte says which role it speaks to and into which
/// pieces the rest is cut.
///
/// # Panics
/// If an invariant does not hold, or if a connection that ended does not stay so.
pub fn check(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let mut now = start();
    let mut core = if first & 1 == 0 {
        Connection::server(&config(), now)
    } else {
        let mut core = Connection::client(&config(), now);
        for end in [true, false] {
            core.open(&request(), end, now).expect("nothing is open yet");
        }
        core
    };
    let piece = usize::from(first >> 1).max(1);
    let mut buffer = Vec::new();
    for bytes in rest.chunks(piece) {
        buffer.extend_from_slice(bytes);
        let mut left = &buffer[..];
        while let Some(event) = core.receive(&mut left, now) {
            react(&mut core, &event);
            core.check_invariants();
        }
        let used = buffer.len() - left.len();
        buffer.drain(..used);
        assert!(buffer.len() < 16_384 + 9, "at most a frame waits");
        now += Duration::from_millis(50);
        core.tick(now);
        core.check_invariants();
        let left = core.output().len() / 2;
        core.output().drain(left..);
        core.flushed(left);
    }
    core.eof();
    while core.receive(&mut &[][..], now).is_some() {}
    assert!(core.is_closed() && core.streams() == 0);
}

/// What a user might do.
fn react(core: &mut Connection, event: &Event<'_>) {
    match event {
        Event::Head { stream, end, .. } => {
            core.respond_if_server(*stream, stream % 3 == 0);
            if *end && stream % 5 == 0 {
                core.reset(*stream, ErrorCode::CANCEL);
            }
        }
        Event::Refused { stream, .. } => core.respond_if_server(*stream, true),
        Event::Data { stream, data, .. } => {
            core.credit(*stream, data.len());
            core.send_if_open(*stream, data, false);
        }
        Event::Trailers { stream, .. } | Event::Writable { stream } => {
            core.send_if_open(*stream, &[7; 300], stream % 2 == 0);
        }
        Event::Informational { .. } | Event::Reset { .. } | Event::Capacity | Event::Closed(_) => {}
    }
}

impl Connection {
    fn respond_if_server(&mut self, stream: u32, end: bool) {
        if self.is_server() {
            self.respond(stream, &head(&[(":status", "200")]), end);
        }
    }

    fn send_if_open(&mut self, stream: u32, data: &[u8], end: bool) {
        if self.streams.get(stream).is_some_and(|found| found.is_sending()) {
            self.send(stream, data, end);
        }
    }
}

/// Takes `data` as calls on a client and a server that are connected, two bytes each: what, and how
/// much or on which stream.
///
/// # Panics
/// If an invariant does not hold, if either side finds the other at fault, or if in the end credit
/// is missing.
pub fn check_calls(data: &[u8]) {
    let mut now = start();
    let (mut client, mut server) =
        (Connection::client(&config(), now), Connection::server(&config(), now));
    let mut ids: Vec<u32> = Vec::new();
    exchange(&mut client, &mut server, now);
    for call in data.chunks_exact(2) {
        let (what, how) = (call[0], usize::from(call[1]));
        let id = ids.get(how % ids.len().max(1)).copied().unwrap_or(0);
        match what % 10 {
            0 => ids.extend(client.open(&request(), how % 2 == 0, now)),
            1 => client.send_if_open(id, &vec![1; how * 16], what & 0x80 != 0),
            2 => server.send_if_open(id, &vec![2; how * 16], what & 0x80 != 0),
            3 => client.reset(id, ErrorCode::CANCEL),
            4 => server.reset(id, ErrorCode::INTERNAL_ERROR),
            5 => server.set_stream_window(u32::from(call[1]) * 16, now),
            6 => client.set_stream_window(u32::from(call[1]) * 16, now),
            7 => {
                now += Duration::from_millis(100);
                client.tick(now);
                server.tick(now);
            }
            8 if client.streams.get(id).is_some_and(|found| found.is_sending()) => {
                client.trailers(id, &head(&[("x", "1")]));
            }
            _ => exchange(&mut client, &mut server, now),
        }
        client.check_invariants();
        server.check_invariants();
    }
    exchange(&mut client, &mut server, now);
    for side in [&client, &server] {
        let window = &side.window;
        assert_eq!((window.held, window.late), (0, 0), "what was passed on is not held");
        assert_eq!(window.open + window.owed, window.size, "all credit is back");
    }
}

/// Moves bytes both ways until none are left.
fn exchange(client: &mut Connection, server: &mut Connection, now: Instant) {
    while !(client.output().is_empty() && server.output().is_empty()) {
        let up = std::mem::take(client.output());
        client.flushed(0);
        hear(server, &up, now);
        let down = std::mem::take(server.output());
        server.flushed(0);
        hear(client, &down, now);
    }
}

fn hear(core: &mut Connection, bytes: &[u8], now: Instant) {
    let mut left = bytes;
    while let Some(event) = core.receive(&mut left, now) {
        match event {
            Event::Head { stream, .. } => core.respond_if_server(stream, false),
            Event::Data { stream, data, .. } => core.credit(stream, data.len()),
            // A client that cancels as fast as fuzzers do is cut, and that is all that may happen.
            Event::Closed(error) => {
                let abuse = matches!(
                    error,
                    crate::http::ConnectionError::Abuse("resets")
                        | crate::http::ConnectionError::GoAway(ErrorCode::ENHANCE_YOUR_CALM)
                );
                assert!(abuse, "{error}");
            }
            _ => {}
        }
        core.check_invariants();
    }
    assert!(left.is_empty(), "whole frames were sent");
}

#[expect(clippy::disallowed_methods, reason = "some instant to count from")]
pub(super) fn start() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{check, check_calls};
    use crate::http2::agree;

    fn run(corpus: &str, mut check: impl FnMut(&[u8])) {
        let corpus = format!("{}/fuzz/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus).expect("the corpus is there") {
            let path = entry.expect("it can be listed").path();
            check(&std::fs::read(path).expect("it can be read"));
            inputs += 1;
        }
        assert!(inputs > 0);
    }

    #[test]
    fn the_fuzzers_inputs_pass() {
        run("http2", check);
        run("http2_calls", check_calls);
    }

    #[test]
    fn h2_reads_the_same_out_of_the_fuzzers_inputs() {
        let mut read_by_both = 0;
        run("http2", |data| read_by_both += agree(data));
        assert!(read_by_both >= 30, "{read_by_both} messages");
    }

    proptest! {
        #[test]
        fn any_calls_pass(data in vec(any::<u8>(), 0..400)) {
            check_calls(&data);
        }

        #[test]
        fn any_bytes_pass(data in vec(any::<u8>(), 0..400)) {
            check(&data);
        }
    }
}
