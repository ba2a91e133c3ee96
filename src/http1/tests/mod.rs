//! Whole connections, byte by byte, and what each message means.

mod ambiguous;
mod client;
mod cut;
mod differential;
mod server;

use std::time::Instant;

use super::{Config, Connection};
use crate::http::{Event, HeaderBlock};

/// What happened, as text: easy to write down in a table and to compare.
pub(super) fn told(event: &Event<'_>) -> String {
    match event {
        Event::Head { head, end, .. } => format!("head {}{}", block(head), dot(*end)),
        Event::Refused { error, .. } => format!("refused {error}"),
        Event::Informational { head, .. } => format!("informational {}", block(head)),
        Event::Data { data, end, .. } => {
            format!("data {}{}", String::from_utf8_lossy(data), dot(*end))
        }
        Event::Trailers { trailers, .. } => format!("trailers {}.", block(trailers)),
        Event::Reset { error, .. } => format!("reset {error}"),
        Event::Writable { .. } => "writable".to_owned(),
        Event::Capacity => "capacity".to_owned(),
        Event::Closed(error) => format!("closed {error}"),
    }
}

fn dot(end: bool) -> &'static str {
    if end { "." } else { "" }
}

fn block(block: &HeaderBlock) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let fields = block.iter().map(|field| format!("{}={}", text(field.name), text(field.value)));
    fields.collect::<Vec<_>>().join(" ")
}

/// One end and the bytes that it has not taken yet.
pub(super) struct End {
    pub(super) connection: Connection,
    pub(super) left: Vec<u8>,
    pub(super) now: Instant,
}

impl End {
    pub(super) fn server() -> Self {
        let now = now();
        Self { connection: Connection::server(&Config::default(), now), left: Vec::new(), now }
    }

    pub(super) fn client() -> Self {
        let now = now();
        Self { connection: Connection::client(&Config::default(), now), left: Vec::new(), now }
    }

    /// Everything that `bytes`, behind what was left, bring about.
    pub(super) fn give(&mut self, bytes: &[u8]) -> Vec<String> {
        self.left.extend_from_slice(bytes);
        let given = std::mem::take(&mut self.left);
        let (mut input, mut events) = (&given[..], Vec::new());
        while let Some(event) = self.connection.receive(&mut input, self.now) {
            events.push(told(&event));
            if let Event::Data { stream, data, .. } = &event {
                self.connection.credit(*stream, data.len());
            }
            self.connection.check_invariants();
        }
        self.connection.check_invariants();
        self.left = input.to_vec();
        events
    }

    /// What is written, all at once.
    pub(super) fn written(&mut self) -> String {
        let written = std::mem::take(self.connection.output());
        self.connection.flushed(0);
        self.connection.check_invariants();
        String::from_utf8(written).expect("text")
    }
}

/// The tests' time; it stands still unless they move it.
#[allow(
    clippy::disallowed_methods,
    reason = "any instant will do, and there is no other way to one"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A block of these fields.
pub(super) fn fields(fields: &[(&str, &str)]) -> HeaderBlock {
    fields.iter().copied().collect()
}
