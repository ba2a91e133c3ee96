//! What must hold of any bytes of a peer, for the fuzzer and for the tests that run its inputs: no
//! panic, and the invariants after every step, in either role and in pieces of any size.

use std::time::{Duration, Instant};

use super::{Config, Connection};
use crate::http::{ErrorCode, Event, HeaderBlock};

fn head(fields: &[(&str, &str)]) -> HeaderBlock {
    fields.iter().copied().collect()
}

/// Does with an event what `way` says, as far as that is permitted.
fn react(core: &mut Connection, event: &Event<'_>, server: bool, way: u8) {
    match event {
        Event::Head { stream, .. } if server => match way % 5 {
            0 => core.respond(*stream, &head(&[(":status", "204")]), true),
            1 => {
                core.respond(*stream, &head(&[(":status", "200")]), false);
                core.send(*stream, b"body", way & 64 > 0);
            }
            2 => {
                core.inform(*stream, &head(&[(":status", "103")]));
                let fields = [(":status", "200"), ("content-length", "4")];
                core.respond(*stream, &head(&fields), false);
                core.send(*stream, b"body", true);
            }
            3 => core.reset(*stream, ErrorCode::CANCEL),
            _ => {
                core.respond(*stream, &head(&[(":status", "200")]), false);
                core.trailers(*stream, &head(&[("x-after", "all")]));
            }
        },
        Event::Refused { stream, .. } => core.respond(*stream, &head(&[(":status", "400")]), true),
        Event::Data { stream, data, .. } => core.credit(*stream, data.len()),
        _ => {}
    }
}

/// Takes `data` as what a peer sends: the first byte says which role it speaks to and into which pieces
/// the rest is cut, the second what is done with it.
///
/// # Panics
/// If an invariant does not hold.
pub fn check(data: &[u8]) {
    let [first, way, rest @ ..] = data else { return };
    let mut now = start();
    let server = first & 1 == 0;
    let request = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let mut core = if server {
        Connection::server(&Config::default(), now)
    } else {
        Connection::client(&Config::default(), now)
    };
    let mut buffer = Vec::new();
    for bytes in rest.chunks(usize::from(first >> 1).max(1)) {
        if !server && core.room() > 0 {
            let end = way & 1 > 0;
            if let Ok(stream) = core.open(&head(&request), end, now)
                && !end
            {
                core.send(stream, b"body", way & 2 > 0);
            }
        }
        if !core.wants_input() {
            core.tick(now);
        }
        buffer.extend_from_slice(bytes);
        let mut left = &buffer[..];
        while let Some(event) = core.receive(&mut left, now) {
            react(&mut core, &event, server, *way);
            core.check_invariants();
        }
        let used = buffer.len() - left.len();
        buffer.drain(..used);
        core.output().clear();
        core.flushed(0);
        core.check_invariants();
        now += Duration::from_millis(u64::from(*way));
        core.tick(now);
    }
    core.eof();
    let mut left = &buffer[..];
    while core.receive(&mut left, now).is_some() {}
    core.check_invariants();
}

#[expect(clippy::disallowed_methods, reason = "some instant to count from")]
fn start() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::any, proptest};

    use super::check;

    #[test]
    fn the_fuzzers_inputs_pass() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/http1");
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpus).expect("the corpus is there") {
            let path = entry.expect("it can be listed").path();
            check(&std::fs::read(path).expect("it can be read"));
            inputs += 1;
        }
        assert!(inputs > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_pass(data in vec(any::<u8>(), 0..400)) {
            check(&data);
        }
    }
}
