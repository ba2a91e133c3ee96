//! What a decoder remembers: whole blocks and what they say. A block with the same bytes says the same
//! while the dynamic table is the same; and of a block that only begins with the same bytes, what ends
//! at the end of a field need not be decoded again either. Our own encoder puts what differs between
//! requests last, so that this is nearly all of a head.

use super::slots::{Remembered, Slots};
use crate::{
    http::{HeaderBlock, Mark},
    http2::streams::Method,
};

/// Longer blocks are not remembered, nor larger lists.
const BLOCK_MAX: usize = 1024;
const LIST_MAX: usize = 4096;

/// What was found of a block that is remembered: that its fields, as they were decoded, are a
/// well-formed section of one kind. The next block like it need not be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http2) enum Verdict {
    /// A request's, without a field that changes another.
    Request {
        /// What its method says.
        method: Method,
        /// Its content length.
        length: Option<u64>,
    },
    /// A response's.
    Response {
        /// Its status.
        status: u16,
        /// Its content length.
        length: Option<u64>,
    },
    /// Trailers, without a content length.
    Trailers,
}

/// Blocks that were decoded since the table last changed.
#[derive(Default)]
pub(super) struct Recall {
    slots: Slots<Slot>,
    /// Where the fields of the block end that is being decoded.
    ends: Vec<End>,
    /// Where the last block is remembered, if it is as a whole.
    last: Option<usize>,
    /// How many fields the last block began with that were remembered, and what of.
    again: Option<(usize, Verdict)>,
}

#[derive(Default)]
struct Slot {
    block: Vec<u8>,
    head: HeaderBlock,
    ends: Vec<End>,
    verdict: Option<Verdict>,
}

impl Remembered for Slot {
    fn held(&self) -> usize {
        self.block.len() + self.ends.last().map_or(0, |end| end.size)
    }

    fn memory(&self) -> usize {
        self.block.capacity() + self.head.memory() + self.ends.capacity() * size_of::<End>()
    }
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
        (self.last, self.again) = (None, None);
        let slots = self.slots.live();
        let same = |slot: &Slot| slot.block.len() == block.len() && slot.block == block;
        let (place, fields) = match slots.iter().position(same) {
            Some(place) => (place, slots[place].ends.len()),
            None => {
                self.ends.clear();
                match begins(slots, block) {
                    Some(found) => found,
                    None => return Found::default(),
                }
            }
        };
        let slot = &slots[place];
        let Some(end) = slot.ends[..fields].last() else { return Found::default() };
        if end.size > list_max {
            self.ends.clear();
            return Found::default();
        }
        into.extend_from(&slot.head, Mark::default(), fields);
        self.again = slot.verdict.map(|verdict| (fields, verdict));
        if end.at < block.len() {
            self.ends.extend_from_slice(&slot.ends[..fields]);
        } else {
            self.last = Some(place);
        }
        Found { at: end.at, size: end.size, fields }
    }

    /// How many fields the last block began with that were remembered, and what was found of the
    /// block that they are of.
    #[inline]
    pub(super) fn again(&self) -> Option<(usize, Verdict)> {
        self.again
    }

    /// Notes what was found of the last block, whose fields are as they were decoded.
    pub(super) fn note(&mut self, verdict: Verdict) {
        let slot = self.last.and_then(|place| self.slots.live_mut().get_mut(place));
        if let Some(slot) = slot {
            slot.verdict = Some(verdict);
        }
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
        let Some(place) = self.slots.place(block.len() + end.size) else { return };
        let slot = &mut self.slots.live_mut()[place];
        slot.block.clear();
        slot.block.extend_from_slice(block);
        slot.head.clear();
        slot.head.extend_from(head, from, fields);
        slot.ends.clear();
        slot.ends.extend_from_slice(&self.ends);
        slot.verdict = None;
        self.last = Some(place);
    }

    /// The table changed: nothing holds any more. The memory is kept.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.slots.forget();
        self.last = None;
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn release(&mut self) {
        *self = Self::default();
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.ends.capacity() * size_of::<End>() + self.slots.memory()
    }
}

/// The place of the block that has the most bytes in common with the beginning of `block`, and how many
/// fields these are.
fn begins(slots: &[Slot], block: &[u8]) -> Option<(usize, usize)> {
    let (mut best, mut longest) = (None, 0);
    for (place, slot) in slots.iter().enumerate() {
        // One that differs no later than the best did is no better.
        if slot.block.len() > longest && slot.block.get(longest) == block.get(longest) {
            let common = common(&slot.block, block);
            if common > longest {
                (best, longest) = (Some(place), common);
            }
        }
    }
    let place = best?;
    let fields = slots[place].ends.iter().take_while(|end| end.at <= longest).count();
    (fields > 0).then_some((place, fields))
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
