//! Two cores back to back: all bytes of one go to the other, in pieces of any size.

use super::{Seen, Side};
use crate::http2::Config;

/// A client and a server.
pub(super) struct Pair {
    pub(super) client: Side,
    pub(super) server: Side,
    /// Into how large pieces the bytes between the two are cut.
    pub(super) piece: usize,
    pub(super) at_client: Vec<Seen>,
    pub(super) at_server: Vec<Seen>,
}

impl Pair {
    pub(super) fn new(client: &Config, server: &Config) -> Self {
        Self {
            client: Side::client(client),
            server: Side::server(server),
            piece: usize::MAX,
            at_client: Vec::new(),
            at_server: Vec::new(),
        }
    }

    /// With settings exchanged and events forgotten.
    pub(super) fn ready(client: &Config, server: &Config) -> Self {
        let mut pair = Self::new(client, server);
        pair.run();
        assert_eq!(pair.seen_by_client(), [Seen::Capacity]);
        assert_eq!(pair.seen_by_server(), []);
        pair
    }

    /// Moves bytes until none are left.
    pub(super) fn run(&mut self) {
        for _ in 0..10_000 {
            let events = self.client.events();
            self.at_client.extend(events);
            let events = self.server.events();
            self.at_server.extend(events);
            let (up, down) = (self.client.take(), self.server.take());
            if up.is_empty() && down.is_empty() {
                return;
            }
            let events = self.server.drip(&up, self.piece);
            self.at_server.extend(events);
            let events = self.client.drip(&down, self.piece);
            self.at_client.extend(events);
        }
        panic!("the two never come to rest");
    }

    pub(super) fn seen_by_client(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.at_client)
    }

    pub(super) fn seen_by_server(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.at_server)
    }
}
