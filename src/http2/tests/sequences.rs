//! Random sequences of calls on two cores, with the bytes between them cut anywhere: invariants hold
//! after every step, no byte is lost or made, and in the end all credit is back.

use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::{Seen, block, pair::Pair, post, status};
use crate::{http::ErrorCode, http2::Config};

#[derive(Debug, Clone)]
enum Step {
    Open(bool),
    /// Which stream, how much, whether it ends.
    Send(u8, u32, bool),
    Respond(u8, bool),
    Reply(u8, u32, bool),
    Trailers(u8),
    ResetByClient(u8),
    ResetByServer(u8),
    Window(u32),
    Move(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Open),
        4 => (any::<u8>(), 0_u32..60_000, any::<bool>()).prop_map(|(a, b, c)| Step::Send(a, b, c)),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(a, b)| Step::Respond(a, b)),
        4 => (any::<u8>(), 0_u32..60_000, any::<bool>()).prop_map(|(a, b, c)| Step::Reply(a, b, c)),
        1 => any::<u8>().prop_map(Step::Trailers),
        1 => any::<u8>().prop_map(Step::ResetByClient),
        1 => any::<u8>().prop_map(Step::ResetByServer),
        1 => (0_u32..40_000).prop_map(Step::Window),
        4 => prop_oneof![Just(13_usize), Just(127), Just(1_000), Just(usize::MAX)].prop_map(Step::Move),
    ]
}

/// What the test knows of a stream.
#[derive(Debug, Default, Clone)]
struct Known {
    id: u32,
    heard: bool,
    up: usize,
    up_ended: bool,
    down: usize,
    responded: bool,
    down_ended: bool,
    reset: bool,
    seen_up: usize,
    seen_down: usize,
    seen_up_end: bool,
    seen_down_end: bool,
}

/// Small enough that every bound is met.
fn small() -> Config {
    Config {
        streams_max: 8,
        stream_window: 20_000,
        stream_window_max: 50_000,
        connection_window: 65_535,
        held_max: 100_000,
        output_max: 30_000,
        ..Config::default()
    }
}

struct World {
    pair: Pair,
    streams: Vec<Known>,
}

impl World {
    fn pick(&mut self, which: u8) -> Option<usize> {
        let count = self.streams.len();
        (count > 0).then(|| usize::from(which) % count)
    }

    fn observe(&mut self) {
        for seen in self.pair.seen_by_server() {
            let known = |id: u32, streams: &mut Vec<Known>| {
                streams.iter().position(|known| known.id == id).expect("it was opened")
            };
            match seen {
                Seen::Head(id, _, end) => {
                    let index = known(id, &mut self.streams);
                    self.streams[index].heard = true;
                    self.streams[index].seen_up_end |= end;
                }
                Seen::Data(id, data, end) => {
                    let index = known(id, &mut self.streams);
                    self.streams[index].seen_up += data.len();
                    self.streams[index].seen_up_end |= end;
                }
                Seen::Reset(id, _) => {
                    let index = known(id, &mut self.streams);
                    self.streams[index].reset = true;
                }
                Seen::Writable(_) => {}
                other => panic!("the server saw {other:?}"),
            }
        }
        for seen in self.pair.seen_by_client() {
            let index = |id: u32, streams: &[Known]| {
                streams.iter().position(|known| known.id == id).expect("it was opened")
            };
            match seen {
                Seen::Head(id, _, end) => {
                    let at = index(id, &self.streams);
                    self.streams[at].seen_down_end |= end;
                }
                Seen::Data(id, data, end) => {
                    let at = index(id, &self.streams);
                    self.streams[at].seen_down += data.len();
                    self.streams[at].seen_down_end |= end;
                }
                Seen::Trailers(id, _) => {
                    let at = index(id, &self.streams);
                    self.streams[at].seen_down_end = true;
                }
                Seen::Reset(id, _) => {
                    let at = index(id, &self.streams);
                    self.streams[at].reset = true;
                }
                Seen::Writable(_) | Seen::Capacity => {}
                other => panic!("the client saw {other:?}"),
            }
        }
    }

    fn apply(&mut self, step: &Step) {
        let now = self.pair.client.now;
        match step {
            Step::Open(end) => {
                if let Ok(id) = self.pair.client.core.open(&post(), *end, now) {
                    self.streams.push(Known { id, up_ended: *end, ..Known::default() });
                }
            }
            Step::Send(which, bytes, end) => {
                if let Some(index) = self.pick(*which) {
                    let known = &mut self.streams[index];
                    if !known.up_ended && !known.reset {
                        let data = vec![1; *bytes as usize];
                        let taken = self.pair.client.core.send(known.id, &data, *end);
                        known.up += taken;
                        known.up_ended = *end && taken == data.len();
                    }
                }
            }
            Step::Respond(which, end) => {
                if let Some(index) = self.pick(*which) {
                    let known = &mut self.streams[index];
                    if known.heard && !known.responded && !known.reset {
                        self.pair.server.core.respond(known.id, &status("200"), *end);
                        (known.responded, known.down_ended) = (true, *end);
                    }
                }
            }
            Step::Reply(which, bytes, end) => {
                if let Some(index) = self.pick(*which) {
                    let known = &mut self.streams[index];
                    if known.responded && !known.down_ended && !known.reset {
                        let data = vec![2; *bytes as usize];
                        let taken = self.pair.server.core.send(known.id, &data, *end);
                        known.down += taken;
                        known.down_ended = *end && taken == data.len();
                    }
                }
            }
            Step::Trailers(which) => {
                if let Some(index) = self.pick(*which) {
                    let known = &mut self.streams[index];
                    if known.responded && !known.down_ended && !known.reset {
                        self.pair.server.core.trailers(known.id, &block(&[("x", "1")]));
                        known.down_ended = true;
                    }
                }
            }
            Step::ResetByClient(which) => {
                if let Some(index) = self.pick(*which) {
                    self.streams[index].reset = true;
                    self.pair.client.core.reset(self.streams[index].id, ErrorCode::CANCEL);
                }
            }
            Step::ResetByServer(which) => {
                if let Some(index) = self.pick(*which)
                    && self.streams[index].heard
                {
                    self.streams[index].reset = true;
                    self.pair.server.core.reset(self.streams[index].id, ErrorCode::INTERNAL_ERROR);
                }
            }
            Step::Window(size) => self.pair.server.core.set_stream_window(*size, now),
            Step::Move(piece) => {
                self.pair.piece = *piece;
                self.pair.run();
            }
        }
        self.pair.client.core.check_invariants();
        self.pair.server.core.check_invariants();
        self.observe();
    }

    /// All that was sent arrived, and all credit is back.
    fn settle(&mut self) {
        self.pair.piece = usize::MAX;
        self.pair.client.tick(Duration::from_millis(50));
        self.pair.run();
        self.observe();
        for known in &self.streams {
            assert!(known.reset || known.heard, "{known:?}");
            if !known.reset {
                let up = (known.seen_up, known.seen_up_end);
                assert_eq!(up, (known.up, known.up_ended), "{known:?}");
                let down = (known.seen_down, known.seen_down_end);
                assert_eq!(down, (known.down, known.down_ended), "{known:?}");
            }
        }
        for side in [&self.pair.client, &self.pair.server] {
            let window = &side.core.window;
            assert_eq!((window.held, window.late), (0, 0), "credit that was lost");
            assert_eq!(window.open + window.owed, window.size);
        }
        let open = self
            .streams
            .iter()
            .filter(|known| !(known.reset || known.up_ended && known.down_ended));
        let open = open.count();
        assert_eq!(self.pair.client.core.streams(), open);
        assert_eq!(self.pair.server.core.streams(), open);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_in_any_order(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world =
            World { pair: Pair::ready(&small(), &small()), streams: Vec::new() };
        for step in &steps {
            world.apply(step);
        }
        world.settle();
    }

    /// Whatever comes, neither role panics or breaks an invariant.
    #[test]
    fn no_bytes_break_it(
        frames in proptest::collection::vec(
            (0_u8..12, any::<u8>(), 0_u32..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..60,
        ),
        piece in 1_usize..50,
    ) {
        let mut server = super::Side::server(&Config::default());
        let mut client = super::Side::client(&Config::default());
        server.feed(super::battery::http2::GREETING);
        client.feed(&super::battery::http2::settings(&[]));
        let now = client.now;
        client.core.open(&post(), false, now).expect("room");
        for (kind, flags, stream, payload) in frames {
            let bytes = super::battery::http2::frame(kind, flags, stream, &payload);
            server.drip(&bytes, piece);
            client.drip(&bytes, piece);
        }
    }
}
