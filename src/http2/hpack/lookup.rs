//! Finds fields in the encoder's dynamic table. Two hash tables of chains, by name and by name with
//! value, run from the newest entry to older ones; a chain ends where its next entry was evicted, so
//! that eviction has nothing to do here. A peer that makes hashes collide makes a chain as long as
//! the table has entries, which is little more than a hundred.

use std::{collections::VecDeque, hash::Hasher as _};

use super::table::{Entry, Table};
use crate::http::Token;

const BUCKETS: u32 = 64;

/// The hashes of a field.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: u32,
    pub(super) pair: u32,
}

impl Key {
    /// Those of a field.
    pub(super) fn of(token: Token, name: &[u8], value: &[u8]) -> Self {
        let name = name_hash(token, name);
        let mut hasher = rustc_hash::FxHasher::default();
        hasher.write_u32(name);
        hasher.write(value);
        Self { name, pair: high(hasher.finish()) }
    }
}

/// The hash of a name in whatever case.
pub(super) fn name_hash(token: Token, name: &[u8]) -> u32 {
    const ODD: u32 = 0x9e37_79b1;
    let mix =
        |hash: u32, octet: u8| (hash.rotate_left(5) ^ u32::from(octet | 0x20)).wrapping_mul(ODD);
    let seed = (token as u32 + 1).wrapping_mul(ODD);
    let bytes = if token == Token::Other { name } else { &[] };
    let hash = bytes.iter().fold(seed, |hash, octet| mix(hash, *octet));
    // The highest bits are the best mixed; the buckets take the lowest.
    hash.rotate_left(16)
}

fn high(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

/// The chains. An entry is named by the number of insertions up to it, modulo 2^32.
#[derive(Default)]
pub(super) struct Lookup {
    names: Vec<u32>,
    pairs: Vec<u32>,
    /// One for each entry of the table, the newest first.
    links: VecDeque<Link>,
}

struct Link {
    key: Key,
    name_next: u32,
    pair_next: u32,
}

impl Lookup {
    /// The age of an entry with the name and the value.
    pub(super) fn pair(&self, table: &Table, key: Key, entry: Entry<'_>) -> Option<usize> {
        let first = *self.pairs.get((key.pair % BUCKETS) as usize)?;
        self.walk(
            table,
            first,
            |link| link.pair_next,
            |link, found| link.key.pair == key.pair && found == entry,
        )
    }

    /// The age of an entry with the name.
    pub(super) fn name(&self, table: &Table, key: Key, entry: Entry<'_>) -> Option<usize> {
        let first = *self.names.get((key.name % BUCKETS) as usize)?;
        self.walk(
            table,
            first,
            |link| link.name_next,
            |link, found| {
                link.key.name == key.name && found.token == entry.token && found.name == entry.name
            },
        )
    }

    fn walk(
        &self,
        table: &Table,
        mut number: u32,
        next: impl Fn(&Link) -> u32,
        is: impl Fn(&Link, Entry<'_>) -> bool,
    ) -> Option<usize> {
        for _ in 0..table.len() {
            let age = table.inserted().wrapping_sub(number) as usize;
            let (link, found) = (self.links.get(age)?, table.get(age)?);
            if is(link, found) {
                return Some(age);
            }
            number = next(link);
        }
        None
    }

    /// Notes the entry that was just inserted.
    pub(super) fn add(&mut self, table: &Table, key: Key) {
        self.names.resize(BUCKETS as usize, 0);
        self.pairs.resize(BUCKETS as usize, 0);
        let number = table.inserted();
        let name = &mut self.names[(key.name % BUCKETS) as usize];
        let pair = &mut self.pairs[(key.pair % BUCKETS) as usize];
        let (name_next, pair_next) =
            (std::mem::replace(name, number), std::mem::replace(pair, number));
        self.links.push_front(Link { key, name_next, pair_next });
        self.links.truncate(table.len());
    }

    /// Forgets what the table evicted.
    pub(super) fn cut(&mut self, table: &Table) {
        self.links.truncate(table.len());
    }

    /// How much memory it holds, in bytes.
    pub(super) fn memory(&self) -> usize {
        let buckets = self.names.capacity() + self.pairs.capacity();
        buckets * size_of::<u32>() + self.links.capacity() * size_of::<Link>()
    }
}
