//! Bytes of an HTTP/1.1 peer from anywhere, to either role, in pieces of any size: no panic, and the
//! invariants hold after every step.
#![no_main]

use std::time::{Duration, Instant};

use outrigger::{
    http::{ErrorCode, Event, HeaderBlock},
    http1::{Config, Connection},
};

fn head(fields: &[(&str, &str)]) -> HeaderBlock {
    fields.iter().copied().collect()
}

/// Does with an event what its first byte says, as far as that is permitted.
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

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [first, way, rest @ ..] = data else { return };
    let mut now = Instant::now();
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
});
