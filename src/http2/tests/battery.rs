//! The battery of attacks against the core in memory. Over the wire it runs in `tests/it`.

#[path = "../../../tests/battery/http2.rs"]
pub(super) mod http2;

use super::{Seen, Side};
use crate::{http::ConnectionError, http2::Config};
use http2::{Attack, End, GREETING, attacks};

/// How many repetitions it took, and the end.
fn run(attack: &Attack) -> (u32, Option<ConnectionError>) {
    let mut server = Side::server(&Config::default());
    let mut seen = server.feed(&[GREETING, &[0, 0, 0, 4, 1, 0, 0, 0, 0]].concat());
    seen.extend(server.feed(&attack.first));
    for n in 0..attack.times {
        seen.extend(server.feed(&(attack.again)(n)));
        let waiting = server.take().len();
        assert!(waiting < 64 * 1024, "{}: {waiting} bytes of answers", attack.name);
        if let Some(Seen::Closed(error)) = seen.last() {
            return (n + 1, Some(*error));
        }
        seen.clear();
    }
    (attack.times, None)
}

#[test]
fn every_attack_ends_as_it_has_to() {
    let attacks = attacks();
    assert!(attacks.len() >= 30);
    for attack in &attacks {
        let (times, end) = run(attack);
        match attack.end {
            End::Cut(within) => {
                assert!(end.is_some(), "{}: never cut", attack.name);
                assert!(times <= within, "{}: cut after {times}: {end:?}", attack.name);
            }
            End::Harmless => assert_eq!(end, None, "{}: after {times}", attack.name),
        }
    }
}

#[test]
fn a_peer_that_never_reads_can_not_make_answers_pile_up() {
    for attack in attacks().iter().filter(|attack| attack.times > 1) {
        let mut server = Side::server(&Config::default());
        server.feed(GREETING);
        server.feed(&attack.first);
        for n in 0..attack.times {
            let seen = server.feed(&(attack.again)(n));
            let length = server.core.output().len();
            server.core.flushed(length);
            assert!(length < 128 * 1024, "{}: {length} bytes", attack.name);
            if matches!(seen.last(), Some(Seen::Closed(_))) {
                break;
            }
        }
    }
}
