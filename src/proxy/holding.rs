//! What a stream holds of a body: bytes that wait for their reader, and bytes that were passed on and
//! may be needed again. Both count against the memory of the worker and of the process.

use super::link::Link;

/// Bytes that wait.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
}

/// What was passed on and may be needed again.
#[derive(Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// How much may be kept; 0 when nothing is.
    max: usize,
    /// Whether something that passed is not here.
    lost: bool,
    /// How much of it the current attempt has got.
    replayed: usize,
}

impl Inbox {
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    pub(super) fn push(&mut self, data: &[u8], link: &Link) {
        if self.bytes.capacity() == 0 {
            self.bytes = link.hub.scrap(data.len());
        }
        self.bytes.extend_from_slice(data);
        link.hub.wait(data.len());
    }

    pub(super) fn take(&mut self, length: usize, link: &Link) {
        self.start += length;
        link.hub.went(length);
        if self.start == self.bytes.len() {
            self.start = 0;
            link.hub.give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Kept {
    /// Keeps what passes from now on, up to `max` bytes.
    pub(super) fn begin(&mut self, max: usize) {
        self.max = max;
    }

    /// Keeps nothing any more. What the current attempt has not got yet stays until it has.
    pub(super) fn commit(&mut self, link: &Link) {
        self.max = 0;
        if self.replayed == self.bytes.len() {
            self.forget(link);
        }
    }

    /// Keeps nothing, and nobody needs it.
    pub(super) fn give_up(&mut self, link: &Link) {
        self.max = 0;
        self.forget(link);
    }

    fn forget(&mut self, link: &Link) {
        self.lost |= !self.bytes.is_empty();
        self.replayed = 0;
        link.hub.went(self.bytes.len());
        link.hub.give(std::mem::take(&mut self.bytes));
    }

    /// Whether everything that passed is here.
    pub(super) fn is_whole(&self) -> bool {
        !self.lost
    }

    /// How much is here.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What the current attempt has not got.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.replayed..]
    }

    /// Begins another attempt.
    pub(super) fn rewind(&mut self) {
        self.replayed = 0;
    }

    /// The current attempt has got so much more of it. Returns whether that was all.
    pub(super) fn replayed(&mut self, taken: usize, link: &Link) -> bool {
        self.replayed += taken;
        let all = self.rest().is_empty();
        if all && self.max == 0 {
            self.forget(link);
        }
        all
    }

    /// Keeps what just passed, if it is to be kept.
    pub(super) fn passed(&mut self, data: &[u8], link: &Link) {
        if self.lost || data.is_empty() {
            return;
        }
        if self.bytes.len() + data.len() > self.max {
            self.lost = true;
            self.forget(link);
            return;
        }
        if self.bytes.capacity() == 0 {
            self.bytes = link.hub.scrap(data.len());
        }
        self.bytes.extend_from_slice(data);
        self.replayed = self.bytes.len();
        link.hub.wait(data.len());
    }
}
