//! How the encoder writes one field, and what it keeps of it. Strings that are written once, because
//! the table or the memory holds them afterwards, are Huffman-coded; those that come on each request
//! are written as they are, which costs a few bytes and saves both sides the coding.

use std::borrow::Cow;

use super::{
    lookup::{Key, Lookup, name_hash},
    policy::{Class, Credit, Habits, Seen, class, is_secret},
    sent::Plan,
    statics,
    table::{Entry, Table},
    wire,
};
use crate::http::{Field, HeaderBlock, Token};

/// The flags of an indexed field and of literals (RFC 7541 sections 6.1 and 6.2).
const INDEXED: u8 = 0x80;
const WITH_INDEXING: u8 = 0x40;
const NEVER_INDEXED: u8 = 0x10;
const WITHOUT_INDEXING: u8 = 0x00;
/// The first index of the static table whose name is `:path`.
const PATH: usize = 4;
/// The largest field that is indexed for the sake of its name.
const NAME_ENTRY_MAX: usize = 512;

/// The encoder's table and what it learnt of the connection's fields.
pub(super) struct Fields {
    table: Table,
    lookup: Lookup,
    seen: Seen,
    habits: Habits,
    credit: Credit,
}

/// How a path is written.
#[derive(Clone, Copy)]
pub(super) enum Path {
    Indexed(usize),
    Literal,
    /// It enters the table.
    New,
}

impl Path {
    /// Writes a path that does not enter the table.
    pub(super) fn write(self, value: &[u8], out: &mut Vec<u8>) {
        if let Self::Indexed(index) = self {
            return wire::integer::<7>(INDEXED, index, out);
        }
        wire::integer::<4>(WITHOUT_INDEXING, PATH, out);
        wire::plain(value, out);
    }
}

impl Fields {
    pub(super) fn new(table_max: usize) -> Self {
        Self {
            table: Table::new(table_max),
            lookup: Lookup::default(),
            seen: Seen::default(),
            habits: Habits::default(),
            credit: Credit::default(),
        }
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn resize(&mut self, size_max: usize) {
        self.table.resize(size_max);
        self.lookup.cut(&self.table);
    }

    /// A block begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.credit.earn();
        self.habits.age();
    }

    /// How to write a head that is not remembered.
    pub(super) fn plan(&self, head: &HeaderBlock) -> Plan {
        Plan::of(head, |field| match class(field.token) {
            Class::Steady => false,
            Class::Fleeting => true,
            Class::Unknown => {
                !self.habits.is_empty()
                    && !field.token.is_pseudo()
                    && self.habits.is_fleeting(name_hash(field.token, field.name))
            }
        })
    }

    /// How much memory it holds besides itself, in bytes.
    pub(super) fn memory(&self) -> usize {
        let learnt = self.seen.memory() + self.habits.memory();
        self.table.memory() + self.lookup.memory() + learnt
    }

    /// Writes a field that may be indexed. Returns whether it would be written alike if it came again
    /// at once.
    pub(super) fn field(&mut self, field: &Field<'_>, out: &mut Vec<u8>) -> bool {
        let name = lower(field);
        let (entry, key) = entry_of(field, &name);
        if is_secret(field) {
            self.habits.secret(key.name);
            self.literal(NEVER_INDEXED, entry, key, wire::short, out);
            return true;
        }
        if let Some(index) = self.index(entry, key) {
            self.habits.hit(key.name);
            wire::integer::<7>(INDEXED, index, out);
            return true;
        }
        if self.pays(entry, key) {
            self.habits.hit(key.name);
            self.insert(entry, key, wire::short, out);
            return true;
        }
        let known = self.seen.contains(key.pair);
        if known {
            self.habits.hit(key.name);
        } else {
            self.habits.miss(key.name);
            self.seen.note(key.pair);
        }
        let string = if field.token == Token::Path { wire::plain } else { wire::short };
        self.literal(WITHOUT_INDEXING, entry, key, string, out);
        known
    }

    /// How to write a path that is no secret. One that is not in the table is noted.
    pub(super) fn path(&mut self, value: &[u8]) -> Path {
        let entry = Entry { token: Token::Path, name: &[], value, malformed: false };
        let key = Key::of(Token::Path, &[], value);
        if let Some(index) = self.index(entry, key) {
            Path::Indexed(index)
        } else if self.pays(entry, key) {
            Path::New
        } else {
            self.seen.note(key.pair);
            Path::Literal
        }
    }

    /// Writes a field whose value will not come again, and returns the index of its name, or 0 if
    /// there was none before.
    pub(super) fn last(&mut self, field: &Field<'_>, out: &mut Vec<u8>) -> usize {
        let name = lower(field);
        let (entry, key) = entry_of(field, &name);
        let index = self.name(entry, key).unwrap_or(0);
        let indexes = index == 0
            && !is_secret(field)
            && self.credit.is_left()
            && entry.size() <= NAME_ENTRY_MAX.min(self.table.size_max());
        if indexes {
            self.insert(entry, key, wire::plain, out);
        } else {
            let flags = if is_secret(field) { NEVER_INDEXED } else { WITHOUT_INDEXING };
            self.literal(flags, entry, key, wire::plain, out);
        }
        index
    }

    /// Writes the same if the index of its name is known.
    #[inline]
    pub(super) fn write_last(name: usize, field: &Field<'_>, out: &mut Vec<u8>) {
        let flags = if is_secret(field) { NEVER_INDEXED } else { WITHOUT_INDEXING };
        wire::integer::<4>(flags, name, out);
        wire::plain(field.value, out);
    }

    fn index(&self, entry: Entry<'_>, key: Key) -> Option<usize> {
        let found =
            || self.lookup.pair(&self.table, key, entry).map(|age| statics::COUNT + 1 + age);
        statics::pair(entry.token, entry.value).or_else(found)
    }

    fn name(&self, entry: Entry<'_>, key: Key) -> Option<usize> {
        let found =
            || self.lookup.name(&self.table, key, entry).map(|age| statics::COUNT + 1 + age);
        statics::name(entry.token).or_else(found)
    }

    /// Whether a field that is not in the table should enter it.
    fn pays(&self, entry: Entry<'_>, key: Key) -> bool {
        let comes_again = class(entry.token) == Class::Steady || self.seen.contains(key.pair);
        comes_again && self.credit.is_left() && entry.size() <= self.table.size_max() / 2
    }

    /// Writes a field and inserts it into the table.
    fn insert(
        &mut self,
        entry: Entry<'_>,
        key: Key,
        string: fn(&[u8], &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        self.literal(WITH_INDEXING, entry, key, string, out);
        self.table.insert(entry);
        self.lookup.add(&self.table, key);
        self.credit.spend();
    }

    /// Writes a field as a literal, its name by index if some table has it.
    fn literal(
        &self,
        flags: u8,
        entry: Entry<'_>,
        key: Key,
        string: fn(&[u8], &mut Vec<u8>),
        out: &mut Vec<u8>,
    ) {
        let index = self.name(entry, key).unwrap_or(0);
        if flags == WITH_INDEXING {
            wire::integer::<6>(flags, index, out);
        } else {
            wire::integer::<4>(flags, index, out);
        }
        if index == 0 {
            let known = entry.token.name().as_bytes();
            wire::short(if entry.token == Token::Other { entry.name } else { known }, out);
        }
        string(entry.value, out);
    }
}

/// The name in lower case; of a known one nothing, since its token says it.
fn lower<'a>(field: &Field<'a>) -> Cow<'a, [u8]> {
    if field.token != Token::Other {
        Cow::Borrowed(&[])
    } else if field.name.iter().any(u8::is_ascii_uppercase) {
        Cow::Owned(field.name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(field.name)
    }
}

fn entry_of<'a>(field: &Field<'a>, name: &'a [u8]) -> (Entry<'a>, Key) {
    let Field { token, value, .. } = *field;
    (Entry { token, name, value, malformed: false }, Key::of(token, name, value))
}
