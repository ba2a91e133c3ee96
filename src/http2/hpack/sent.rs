//! What an encoder remembers: heads that it wrote, without the path and without fields that differ on
//! each request, and the bytes they became. One method after another of a service is then written from
//! one memory.

use super::{
    lookup::name_hash,
    policy::{Class, Habits, class},
};
use crate::http::{Field, HeaderBlock, Token};

const SLOTS: usize = 8;
/// Larger heads are not remembered.
const LIST_MAX: usize = 4096;
/// How much may be remembered of all heads, in bytes.
const HELD_MAX: usize = 16 * 1024;
/// Once all slots are taken, one in so many misses replaces one.
const REPLACE: u8 = 4;

/// How a head is written: which of its fields go where.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// The place of the path, if there is one.
    pub(super) path: Option<usize>,
    /// A bit for each field that is written last.
    pub(super) last: u128,
    /// The number of the others, which are steady.
    steady: usize,
    /// The size of their values.
    size: usize,
    /// Tokens and lengths of what is steady, mixed.
    signature: u64,
}

impl Plan {
    /// The most fields of a head whose fields are put in another order and remembered.
    const FIELDS_MAX: usize = 128;

    /// How to write `head`; a head of too many fields is written as it is.
    pub(super) fn of(head: &HeaderBlock, habits: &Habits) -> Self {
        let mut plan = Self { path: None, last: 0, steady: 0, size: 0, signature: 0 };
        if head.len() > Self::FIELDS_MAX {
            return Self { size: usize::MAX, ..plan };
        }
        for (place, field) in head.iter().enumerate() {
            let length = field.value.len();
            if is_fleeting(&field, habits) {
                plan.last |= 1 << place;
            } else if field.token == Token::Path && plan.path.is_none() {
                plan.path = Some(place);
                plan.mix(1 << 63);
            } else {
                plan.steady += 1;
                plan.size += length;
                plan.mix(field.token as u64 | (length as u64) << 8);
            }
        }
        plan
    }

    fn mix(&mut self, what: u64) {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.signature = (self.signature.rotate_left(5) ^ what).wrapping_mul(ODD);
    }

    /// Whether the field at `place` is written last.
    pub(super) fn is_last(&self, place: usize) -> bool {
        place < Self::FIELDS_MAX && self.last >> place & 1 == 1
    }

    /// What is steady of `head`, without the path.
    fn steady<'h>(&self, head: &'h HeaderBlock) -> impl Iterator<Item = Field<'h>> {
        let (last, path) = (self.last, self.path);
        let fields = head.iter().enumerate();
        fields
            .filter(move |(place, _)| last >> place & 1 == 0 && Some(*place) != path)
            .map(|(_, field)| field)
    }
}

/// Heads that were written since the table last changed.
#[derive(Default)]
pub(super) struct Sent {
    slots: Vec<Slot>,
    /// How many of the slots are in use; the memory of the others is kept.
    live: usize,
    misses: u8,
    next: usize,
}

/// What is steady of a head, and its bytes.
#[derive(Default)]
struct Slot {
    signature: u64,
    head: HeaderBlock,
    bytes: Vec<u8>,
    /// Where among the bytes the path belongs.
    path_at: usize,
}

impl Sent {
    /// The bytes of what is steady of `head`: those before its path, and those after.
    pub(super) fn find(&self, head: &HeaderBlock, plan: &Plan) -> Option<(&[u8], &[u8])> {
        let slots = self.slots[..self.live].iter();
        let slot = slots
            .filter(|slot| slot.signature == plan.signature && slot.head.len() == plan.steady)
            .find(|slot| {
                slot.head.iter().zip(plan.steady(head)).all(|(one, other)| same(one, other))
            })?;
        Some(slot.bytes.split_at(slot.path_at))
    }

    /// Remembers a head that was written without a change of the table.
    pub(super) fn store(&mut self, head: &HeaderBlock, plan: &Plan, before: &[u8], after: &[u8]) {
        if plan.size > LIST_MAX {
            return;
        }
        if self.held() + plan.size + before.len() + after.len() > HELD_MAX {
            self.live = 0;
        }
        let Some(place) = self.place() else { return };
        let slot = &mut self.slots[place];
        slot.signature = plan.signature;
        slot.head.clear();
        for field in plan.steady(head) {
            slot.head.append(field.token, field.name, field.value, field.sensitive);
        }
        slot.bytes.clear();
        slot.bytes.extend_from_slice(before);
        slot.bytes.extend_from_slice(after);
        slot.path_at = before.len();
    }

    fn place(&mut self) -> Option<usize> {
        if self.live < SLOTS {
            if self.live == self.slots.len() {
                self.slots.push(Slot::default());
            }
            self.live += 1;
            return Some(self.live - 1);
        }
        self.misses = (self.misses + 1) % REPLACE;
        if self.misses > 0 {
            return None;
        }
        self.next = (self.next + 1) % SLOTS;
        Some(self.next)
    }

    fn held(&self) -> usize {
        self.slots[..self.live].iter().map(|slot| slot.head.size() + slot.bytes.len()).sum()
    }

    /// The table changed: nothing holds any more. The memory is kept.
    pub(super) fn forget(&mut self) {
        self.live = 0;
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        let slots = self.slots.iter().map(|slot| slot.head.memory() + slot.bytes.capacity());
        self.slots.capacity() * size_of::<Slot>() + slots.sum::<usize>()
    }
}

/// Whether a field is written last, by its name.
#[inline]
fn is_fleeting(field: &Field<'_>, habits: &Habits) -> bool {
    match class(field.token) {
        Class::Steady => false,
        Class::Fleeting => true,
        Class::Unknown => {
            !habits.is_empty()
                && !field.token.is_pseudo()
                && habits.is_fleeting(name_hash(field.token, field.name))
        }
    }
}

/// Whether two fields are written alike.
#[inline]
fn same(one: Field<'_>, other: Field<'_>) -> bool {
    one.token == other.token
        && one.sensitive == other.sensitive
        && one.value == other.value
        && (one.token != Token::Other || one.name == other.name)
}
