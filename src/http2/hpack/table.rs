//! The dynamic table (RFC 7541 sections 2.3.2 and 4), the same for both directions: entries in the
//! order they came, in one arena of bytes, so that an insertion seldom allocates.

use std::collections::VecDeque;

use crate::http::{FIELD_OVERHEAD, Token};

/// How many bytes of evicted entries may stay in the arena.
const WASTE: usize = 1024;

/// Entries by their age.
#[derive(Default)]
pub(super) struct Table {
    /// The names of unknown tokens and all values, oldest first.
    arena: Vec<u8>,
    /// The place of the arena's first byte, counted over the connection's life.
    base: usize,
    /// The newest first.
    entries: VecDeque<Slot>,
    size: usize,
    size_max: usize,
    inserted: u32,
}

struct Slot {
    start: usize,
    name: usize,
    value: usize,
    token: Token,
    malformed: bool,
}

/// A field in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) token: Token,
    /// Empty unless the token is [`Token::Other`].
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// Whether name or value holds what none may; a head with it is malformed each time.
    pub(super) malformed: bool,
}

impl Entry<'_> {
    /// Its size as section 4.1 counts it.
    pub(super) fn size(&self) -> usize {
        name_len(self.token, self.name) + self.value.len() + FIELD_OVERHEAD
    }
}

/// The length of a name, which is given only for an unknown token.
pub(super) fn name_len(token: Token, name: &[u8]) -> usize {
    if token == Token::Other { name.len() } else { token.name().len() }
}

impl Table {
    pub(super) fn new(size_max: usize) -> Self {
        Self { size_max, ..Self::default() }
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The maximum in force.
    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    /// How many entries were ever inserted, modulo 2^32.
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Slot>()
    }

    /// The entry that is `age` entries older than the newest.
    #[inline]
    pub(super) fn get(&self, age: usize) -> Option<Entry<'_>> {
        let slot = self.entries.get(age)?;
        let name_at = slot.start - self.base;
        let value_at = name_at + slot.name;
        Some(Entry {
            token: slot.token,
            name: &self.arena[name_at..value_at],
            value: &self.arena[value_at..value_at + slot.value],
            malformed: slot.malformed,
        })
    }

    /// Inserts an entry and evicts what no longer fits; one that is larger than the table empties it
    /// (section 4.4).
    pub(super) fn insert(&mut self, entry: Entry<'_>) {
        let size = entry.size();
        self.inserted = self.inserted.wrapping_add(1);
        self.evict(self.size_max.saturating_sub(size));
        if size > self.size_max {
            return;
        }
        let Entry { token, name, value, malformed } = entry;
        let start = self.base + self.arena.len();
        self.arena.extend_from_slice(name);
        self.arena.extend_from_slice(value);
        let slot = Slot { start, name: name.len(), value: value.len(), token, malformed };
        self.entries.push_front(slot);
        self.size += size;
    }

    /// Sets the maximum and evicts what no longer fits.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(size_max);
    }

    fn evict(&mut self, size_max: usize) {
        while self.size > size_max {
            let Some(oldest) = self.entries.len().checked_sub(1) else { return };
            self.size -= self.get(oldest).map_or(0, |entry| entry.size());
            self.entries.truncate(oldest);
        }
        let first = self.entries.back().map_or(self.base + self.arena.len(), |slot| slot.start);
        let waste = first - self.base;
        if waste > WASTE || self.entries.is_empty() {
            self.arena.drain(..waste);
            self.base = first;
        }
    }

    /// The sum of the entries' sizes, counted anew.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let sizes = (0..self.len()).filter_map(|age| self.get(age)).map(|entry| entry.size());
        assert_eq!(self.size, sizes.sum::<usize>());
        assert!(self.size <= self.size_max);
        assert!(self.arena.len() <= self.size + WASTE);
    }

    /// What it holds, the newest first.
    #[cfg(test)]
    pub(super) fn list(&self) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entries = (0..self.len()).filter_map(|age| self.get(age));
        let name = |entry: &Entry<'_>| match entry.token {
            Token::Other => text(entry.name),
            token => token.name().to_owned(),
        };
        entries.map(|entry| (name(&entry), text(entry.value))).collect()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Table};
    use crate::http::Token;

    fn entry(value: &[u8]) -> Entry<'_> {
        Entry { token: Token::Other, name: b"x", value, malformed: false }
    }

    #[test]
    fn the_oldest_are_evicted() {
        let mut table = Table::new(100);
        table.insert(entry(b"1"));
        table.insert(entry(b"22"));
        assert_eq!((table.len(), table.size()), (2, 69));
        table.insert(entry(b"333"));
        assert_eq!((table.len(), table.size()), (2, 71));
        assert!(table.get(0) == Some(entry(b"333")) && table.get(1) == Some(entry(b"22")));
        assert!(table.get(2).is_none());
        table.resize(40);
        assert_eq!((table.len(), table.size()), (1, 36));
        table.insert(entry(&[b'4'; 8]));
        assert_eq!(table.len(), 0, "one that is too large empties the table");
        assert_eq!(table.inserted(), 4);
        table.check_invariants();
    }

    #[test]
    fn the_arena_stays_small() {
        let mut table = Table::new(4096);
        for round in 0_u32..10_000 {
            let value = vec![b'v'; (round % 700) as usize];
            table.insert(entry(&value));
            table.check_invariants();
        }
        assert!(table.memory() < 16_384, "{}", table.memory());
        table.resize(0);
        assert_eq!((table.len(), table.arena.len()), (0, 0));
    }
}
