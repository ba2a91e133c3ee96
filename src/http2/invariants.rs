//! What always holds between two calls, counted. Tests and fuzzers call it after every step.

use std::collections::BTreeSet;

use super::{
    Connection,
    flow::WINDOW_MAX,
    ids::Found,
    receive::Reading,
    streams::{Receiving, Sending, Wait},
};

impl Connection {
    /// Panics when credit was lost or made, a stream is at two places or at none, or a bound does not
    /// hold.
    pub fn check_invariants(&self) {
        if self.over {
            assert!(self.streams.len() == 0 && self.waiting.is_empty(), "nothing is left open");
            return;
        }
        let (partial, left) = match self.reading {
            Reading::Data(part) => (part.stream, part.left),
            _ => (0, 0),
        };
        let window = &self.window;
        assert_eq!(
            u64::from(window.open)
                + u64::from(window.owed)
                + u64::from(window.late)
                + u64::from(left),
            u64::from(window.size),
            "the connection's credit"
        );
        assert!(u64::from(window.late) <= window.held, "what is late is held");
        let mut held = 0;
        let mut queued = BTreeSet::new();
        for stream in self.streams.iter() {
            let found = self.streams.ids.find(stream.id);
            assert!(matches!(found, Found::Open(_)), "stream {} is {found:?}", stream.id);
            let part = if partial == stream.id { left } else { 0 };
            if stream.receiving != Receiving::Ended {
                let sum = stream.window.open
                    + i64::from(stream.window.held + stream.window.owed)
                    + i64::from(part);
                assert_eq!(sum, i64::from(stream.window.size), "credit of {}", stream.id);
            }
            assert!(stream.window.size <= WINDOW_MAX);
            held += u64::from(stream.window.held);
            let ended = stream.receiving == Receiving::Ended && stream.sending == Sending::Ended;
            assert!(!ended, "stream {} is over", stream.id);
            if stream.wait == Wait::Queued {
                queued.insert(stream.id);
            }
            if stream.wait != Wait::No {
                assert_eq!(stream.sending, Sending::Body, "{} waits to send", stream.id);
            }
        }
        let open = self.streams.len() + self.cancels.len();
        assert!(open <= self.config.streams_max as usize, "the limit of streams");
        assert!(held <= window.held, "what streams hold, the connection holds");
        let waiting: BTreeSet<_> = self.waiting.iter().copied().collect();
        assert_eq!(waiting.len(), self.waiting.len(), "no stream waits twice");
        assert_eq!(waiting, queued, "the queue is of those that wait");
        if partial != 0 {
            assert!(self.streams.find(partial).is_some(), "DATA of a stream that is open");
        }
    }
}
