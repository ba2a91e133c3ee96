//! The streams that are open: a slab, found by identifier through [`Ids`].

use std::time::Instant;

use super::{
    flow::{SendWindow, StreamWindow},
    ids::{Found, Ids, Mark},
};

/// Slots that are kept when no stream is open; a burst's memory goes back.
const SLOTS_KEPT: usize = 32;

/// How far the peer is with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// Client: the final head is still to come.
    Head,
    /// DATA or trailers may come.
    Body,
    /// It ended.
    Ended,
}

/// How far this side is with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Server: the final head was not written yet.
    Head,
    /// Data or trailers may be written.
    Body,
    /// It ended.
    Ended,
}

/// Why a stream that had more to send does not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// It has not: all was taken.
    No,
    /// Its own window is closed.
    Window,
    /// It is in the queue for the connection's window and room in the output.
    Queued,
    /// It was told that there is room.
    Granted,
}

/// What a request's method says about the bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Nothing.
    Plain,
    /// The response has no body.
    Head,
    /// The stream becomes a tunnel.
    Connect,
}

/// One stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    /// 0 in a free slot.
    pub(super) id: u32,
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    pub(super) wait: Wait,
    pub(super) method: Method,
    /// 1xx responses that came.
    pub(super) informational: u8,
    pub(super) window: StreamWindow,
    pub(super) send: SendWindow,
    /// What is missing of the announced content length.
    pub(super) length: Option<u64>,
    pub(super) opened: Instant,
    /// Client: where in all that was ever put into the output its head begins.
    pub(super) head_at: u64,
    /// Since when its reader has been slow, and what it has taken since.
    pub(super) slow_since: Option<Instant>,
    pub(super) slow_taken: u32,
}

impl Stream {
    /// Whether data or trailers may be written.
    pub(super) fn is_sending(&self) -> bool {
        self.sending == Sending::Body
    }
}

/// All streams of a connection.
pub(super) struct Streams {
    pub(super) ids: Ids,
    slots: Vec<Stream>,
    free: Vec<u16>,
}

impl Streams {
    /// None yet; identifiers begin with 1.
    pub(super) fn new() -> Self {
        Self { ids: Ids::new(1), slots: Vec::new(), free: Vec::new() }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// An open one's place by identifier.
    pub(super) fn find(&self, id: u32) -> Option<u16> {
        match self.ids.find(id) {
            Found::Open(slot) => Some(slot),
            _ => None,
        }
    }

    /// An open one by identifier.
    pub(super) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        self.find(id).map(|slot| self.at(slot))
    }

    /// The one at a place, which is taken.
    pub(super) fn at(&mut self, slot: u16) -> &mut Stream {
        &mut self.slots[usize::from(slot)]
    }

    /// All open ones.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter().filter(|stream| stream.id != 0)
    }

    /// All open ones, to change them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut().filter(|stream| stream.id != 0)
    }

    /// Adds one whose identifier is idle; `Config::streams_max` bounds them.
    pub(super) fn insert(&mut self, stream: Stream) -> u16 {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[usize::from(slot)] = stream;
                slot
            }
            None => {
                self.slots.push(stream);
                u16::try_from(self.slots.len() - 1).expect("streams_max is at most 10,000")
            }
        };
        self.ids.open(stream.id, slot);
        slot
    }

    /// Removes one.
    pub(super) fn remove(&mut self, slot: u16, mark: Mark) {
        let stream = &mut self.slots[usize::from(slot)];
        self.ids.close(stream.id, mark);
        stream.id = 0;
        self.free.push(slot);
        if self.len() == 0 && self.slots.len() > SLOTS_KEPT {
            self.slots.clear();
            self.free.clear();
            self.slots.shrink_to(SLOTS_KEPT);
            self.free.shrink_to(SLOTS_KEPT);
        }
    }
}
