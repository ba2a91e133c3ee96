//! Tests of whole connections: two cores back to back, a core against raw frames, and a core against
//! another implementation.

mod abuse;
mod again;
mod battery;
mod closed;
mod malformed;
mod other;
mod pair;
mod sequences;
mod times;
mod usual;

use std::time::{Duration, Instant};

use super::{Config, Connection};
use crate::http::{ConnectionError, Event, HeaderBlock, StreamError};

/// An event that owns its data.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Head(u32, HeaderBlock, bool),
    Refused(u32, StreamError),
    Informational(u32, HeaderBlock),
    Data(u32, Vec<u8>, bool),
    Trailers(u32, HeaderBlock),
    Reset(u32, StreamError),
    Writable(u32),
    Capacity,
    Closed(ConnectionError),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Head { stream, head, end } => Self::Head(stream, head, end),
            Event::Refused { stream, error, .. } => Self::Refused(stream, error),
            Event::Informational { stream, head } => Self::Informational(stream, head),
            Event::Data { stream, data, end } => Self::Data(stream, data.to_vec(), end),
            Event::Trailers { stream, trailers } => Self::Trailers(stream, trailers),
            Event::Reset { stream, error } => Self::Reset(stream, error),
            Event::Writable { stream } => Self::Writable(stream),
            Event::Capacity => Self::Capacity,
            Event::Closed(error) => Self::Closed(error),
        }
    }
}

/// A head from literals.
fn block(fields: &[(&str, &str)]) -> HeaderBlock {
    fields.iter().copied().collect()
}

fn get() -> HeaderBlock {
    block(&[(":method", "GET"), (":scheme", "http"), (":authority", "orders"), (":path", "/")])
}

fn post() -> HeaderBlock {
    block(&[(":method", "POST"), (":scheme", "http"), (":authority", "orders"), (":path", "/")])
}

fn status(code: &str) -> HeaderBlock {
    block(&[(":status", code)])
}

/// One core with the bytes on their way to it, as a driver keeps them.
struct Side {
    core: Connection,
    input: Vec<u8>,
    now: Instant,
    /// Give body bytes back as soon as they are seen.
    credits: bool,
}

impl Side {
    #[expect(clippy::disallowed_methods, reason = "some instant to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn server(config: &Config) -> Self {
        let now = Self::start();
        Self { core: Connection::server(config, now), input: Vec::new(), now, credits: true }
    }

    fn client(config: &Config) -> Self {
        let now = Self::start();
        Self { core: Connection::client(config, now), input: Vec::new(), now, credits: true }
    }

    /// What it wrote.
    fn take(&mut self) -> Vec<u8> {
        let bytes = std::mem::take(self.core.output());
        self.core.flushed(0);
        bytes
    }

    /// Gives it bytes and returns what happened.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Seen> {
        self.input.extend_from_slice(bytes);
        let input = std::mem::take(&mut self.input);
        let mut left = &input[..];
        let mut seen = Vec::new();
        while let Some(event) = self.core.receive(&mut left, self.now) {
            let event = Seen::from(event);
            if let Seen::Data(stream, data, _) = &event
                && self.credits
            {
                self.core.credit(*stream, data.len());
            }
            seen.push(event);
            self.core.check_invariants();
        }
        self.core.check_invariants();
        self.input = left.to_vec();
        seen
    }

    /// Gives it bytes piece by piece.
    fn drip(&mut self, bytes: &[u8], piece: usize) -> Vec<Seen> {
        bytes.chunks(piece).flat_map(|piece| self.feed(piece)).collect()
    }

    /// What happened without bytes.
    fn events(&mut self) -> Vec<Seen> {
        self.feed(&[])
    }

    fn tick(&mut self, after: Duration) -> Vec<Seen> {
        self.now += after;
        self.core.tick(self.now);
        self.events()
    }
}
