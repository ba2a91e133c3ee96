//! What an encoder remembers: heads that it wrote, without the values of the path and of fields that
//! differ on each request, and the bytes they became. One method after another of a service is then
//! written from one memory.

use super::slots::{Remembered, Slots};
use crate::http::{Field, HeaderBlock, Token};

/// Larger heads are not remembered.
const LIST_MAX: usize = 4096;

/// How a head is written: which of its fields go where, a bit for each.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// The place of the path, if there is one.
    pub(super) path: Option<usize>,
    /// Fields that are written last.
    pub(super) last: u64,
}

impl Plan {
    /// How many fields a head may have whose fields are put in another order; larger ones are written
    /// as they are, and not remembered.
    const FIELDS_MAX: usize = 64;

    /// How to write `head`, of which `is_fleeting` says what to write last.
    pub(super) fn of(head: &HeaderBlock, is_fleeting: impl Fn(&Field<'_>) -> bool) -> Self {
        let mut plan = Self { path: None, last: 0 };
        if head.len() > Self::FIELDS_MAX {
            return plan;
        }
        for (place, field) in head.iter().enumerate() {
            if is_fleeting(&field) {
                plan.last |= 1 << place;
            } else if field.token == Token::Path && plan.path.is_none() && !field.sensitive {
                plan.path = Some(place);
            }
        }
        plan
    }

    /// Whether the field at `place` is written last.
    pub(super) fn is_last(&self, place: usize) -> bool {
        place < Self::FIELDS_MAX && self.last >> place & 1 == 1
    }

    /// The fields whose values are not remembered.
    fn free(&self) -> u64 {
        self.last | self.path.map_or(0, |place| 1 << place)
    }
}

/// Heads that were written since the table last changed.
#[derive(Default)]
pub(super) struct Sent(Slots<Slot>);

/// A head and its bytes.
#[derive(Default)]
pub(super) struct Slot {
    /// The fields, without the values of those that are free.
    template: HeaderBlock,
    free: u64,
    /// The place of the path.
    pub(super) path: Option<usize>,
    /// The bytes of what is steady.
    bytes: Vec<u8>,
    /// Where among them the path belongs.
    path_at: usize,
    /// The last path that was in a table, and its index; 0 if there was none yet.
    pub(super) last_path: Vec<u8>,
    pub(super) path_index: usize,
    /// What is written last.
    pub(super) last: Vec<Last>,
    /// Whether each of those has an index for its name.
    pub(super) names_are_known: bool,
}

/// A field that is written last.
#[derive(Clone, Copy)]
pub(super) struct Last {
    /// Its place in the head.
    pub(super) place: usize,
    /// The index of its name, or 0.
    pub(super) name: usize,
}

impl Slot {
    /// The bytes before the path.
    pub(super) fn before(&self) -> &[u8] {
        &self.bytes[..self.path_at]
    }

    /// The bytes after it.
    pub(super) fn after(&self) -> &[u8] {
        &self.bytes[self.path_at..]
    }
}

impl Remembered for Slot {
    fn held(&self) -> usize {
        self.template.size() + self.bytes.len()
    }

    fn memory(&self) -> usize {
        self.template.memory()
            + self.bytes.capacity()
            + self.last_path.capacity()
            + self.last.capacity() * size_of::<Last>()
    }
}

impl Sent {
    /// What is remembered of `head`.
    #[inline]
    pub(super) fn find(&mut self, head: &HeaderBlock) -> Option<&mut Slot> {
        self.0.live_mut().iter_mut().find(|slot| head.matches(&slot.template, slot.free))
    }

    /// Remembers a head that was written without a change of the table: the bytes before its path and
    /// after it, and what is written last.
    pub(super) fn store(
        &mut self,
        head: &HeaderBlock,
        plan: Plan,
        (before, after): (&[u8], &[u8]),
        last: &[Last],
    ) {
        if head.len() > Plan::FIELDS_MAX || head.size() > LIST_MAX {
            return;
        }
        let size = head.size() + before.len() + after.len();
        let Some(place) = self.0.place(size) else { return };
        let slot = &mut self.0.live_mut()[place];
        slot.free = plan.free();
        slot.path = plan.path;
        slot.template.clear();
        for (place, field) in head.iter().enumerate() {
            let value = if slot.free >> place & 1 == 1 { &[] } else { field.value };
            slot.template.append(field.token, field.name, value, field.sensitive);
        }
        slot.bytes.clear();
        slot.bytes.extend_from_slice(before);
        slot.bytes.extend_from_slice(after);
        slot.path_at = before.len();
        slot.path_index = 0;
        slot.last.clear();
        slot.last.extend_from_slice(last);
        slot.names_are_known = last.iter().all(|last| last.name > 0);
    }

    /// The table changed: nothing holds any more. The memory is kept.
    pub(super) fn forget(&mut self) {
        self.0.forget();
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.0.memory()
    }
}
