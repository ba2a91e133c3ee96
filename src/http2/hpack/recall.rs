//! What a decoder remembers: whole blocks and what they say. A block with the same bytes says the same
//! while the dynamic table is the same; and of a block that only begins with the same bytes, what ends
//! at the end of a field need not be decoded again either. Our own encoder puts what differs between
//! requests last, so that this is nearly all of a head.

use crate::http::{HeaderBlock, Mark};

const SLOTS: usize = 8;
/// Longer blocks are not remembered, nor larger lists.
const BLOCK_MAX: usize = 1024;
const LIST_MAX: usize = 4096;
/// How much may be remembered of all blocks, in bytes.
const HELD_MAX: usize = 16 * 1024;
/// Once all slots are taken, one in so many misses replaces one: heads that never come back cost
/// little then, and more heads than there are slots still leave some of them remembered.
const REPLACE: u8 = 4;

/// Blocks that were decoded since the table last changed.
#[derive(Default)]
pub(super) struct Recall {
    slots: Vec<Slot>,
    /// How many of the slots are in use; the memory of the others is kept.
    live: usize,
    misses: u8,
    next: usize,
    /// Where the fields of the block end that is being decoded.
    ends: Vec<End>,
}

#[derive(Default)]
struct Slot {
    block: Vec<u8>,
    head: HeaderBlock,
    ends: Vec<End>,
}

/// Where a field ends in its block, and the size of the list up to there.
#[derive(Clone, Copy)]
struct End {
    at: usize,
    size: usize,
}

/// What was appended from memory.
#[derive(Clone, Copy, Default)]
pub(super) struct Found {
    /// How many bytes of the block that was.
    pub(super) at: usize,
    /// The size of the list.
    pub(super) size: usize,
    fields: usize,
}

impl Recall {
    /// Appends what `block` begins with, as far as it is remembered and no larger than `list_max`.
    pub(super) fn find(&mut self, block: &[u8], into: &mut HeaderBlock, list_max: usize) -> Found {
        self.ends.clear();
        let slots = &self.slots[..self.live];
        let same = |slot: &&Slot| slot.block.len() == block.len() && slot.block == block;
        let found = match slots.iter().find(same) {
            Some(slot) => Some((slot, slot.ends.len())),
            None => begins(slots, block),
        };
        let Some((slot, fields)) = found else { return Found::default() };
        let Some(end) = slot.ends[..fields].last() else { return Found::default() };
        if end.size > list_max {
            return Found::default();
        }
        into.extend_from(&slot.head, Mark::default(), fields);
        if end.at < block.len() {
            self.ends.extend_from_slice(&slot.ends[..fields]);
        }
        Found { at: end.at, size: end.size, fields }
    }

    /// A field of the block ends.
    #[inline]
    pub(super) fn end(&mut self, at: usize, size: usize) {
        if at <= BLOCK_MAX {
            self.ends.push(End { at, size });
        }
    }

    /// Remembers a block that was decoded whole, without a change of the table, to the fields that
    /// `head` got since `from`. Not worth it if most of them were remembered already.
    pub(super) fn store(&mut self, block: &[u8], found: Found, head: &HeaderBlock, from: Mark) {
        let fields = self.ends.len();
        let Some(end) = self.ends.last() else { return };
        let fits = end.at == block.len() && end.size <= LIST_MAX;
        if !fits || found.fields * 2 >= fields {
            return;
        }
        if self.held() + block.len() + end.size > HELD_MAX {
            self.live = 0;
        }
        let Some(place) = self.place() else { return };
        let slot = &mut self.slots[place];
        slot.block.clear();
        slot.block.extend_from_slice(block);
        slot.head.clear();
        slot.head.extend_from(head, from, fields);
        slot.ends.clear();
        slot.ends.extend_from_slice(&self.ends);
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
        let slots = self.slots[..self.live].iter();
        slots.map(|slot| slot.block.len() + slot.ends.last().map_or(0, |end| end.size)).sum()
    }

    /// The table changed: nothing holds any more. The memory is kept.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.live = 0;
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        let ends = |ends: &Vec<End>| ends.capacity() * size_of::<End>();
        let slot = |slot: &Slot| slot.block.capacity() + slot.head.memory() + ends(&slot.ends);
        ends(&self.ends)
            + self.slots.capacity() * size_of::<Slot>()
            + self.slots.iter().map(slot).sum::<usize>()
    }
}

/// The slot that has the most bytes in common with the beginning of `block`, and how many fields these
/// are.
fn begins<'a>(slots: &'a [Slot], block: &[u8]) -> Option<(&'a Slot, usize)> {
    let (mut best, mut longest) = (None, 0);
    for slot in slots {
        // One that differs no later than the best did is no better.
        if slot.block.len() > longest && slot.block.get(longest) == block.get(longest) {
            let common = common(&slot.block, block);
            if common > longest {
                (best, longest) = (Some(slot), common);
            }
        }
    }
    let slot = best?;
    let fields = slot.ends.iter().take_while(|end| end.at <= longest).count();
    (fields > 0).then_some((slot, fields))
}

/// With how many equal bytes both begin.
fn common(one: &[u8], other: &[u8]) -> usize {
    const WORD: usize = 8;
    let mut at = 0;
    while let (Some(word), Some(another)) =
        (one[at..].first_chunk::<WORD>(), other[at..].first_chunk::<WORD>())
    {
        let differ = u64::from_le_bytes(*word) ^ u64::from_le_bytes(*another);
        if differ != 0 {
            return at + differ.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    at + one[at..].iter().zip(&other[at..]).take_while(|(byte, other)| byte == other).count()
}

#[cfg(test)]
mod tests {
    use super::common;

    #[test]
    fn common_beginnings_are_counted() {
        let cases: [(&[u8], &[u8], usize); 7] = [
            (b"", b"", 0),
            (b"abc", b"", 0),
            (b"abc", b"abd", 2),
            (b"12345678", b"12345678", 8),
            (b"1234567890", b"123456789", 9),
            (b"1234567_", b"12345678", 7),
            (b"12345678123456781", b"1234567812345678_", 16),
        ];
        for (one, other, expected) in cases {
            assert_eq!(common(one, other), expected);
            assert_eq!(common(other, one), expected);
        }
    }
}
