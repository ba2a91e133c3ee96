//! The encoder (RFC 7541 section 6): from slices of a head straight into a connection's output. What
//! differs on each request comes last and without indexing, so that the table settles after a few
//! requests and both sides write and read nearly all of a head from memory. Strings that are written
//! once, because the table or the memory holds them afterwards, are Huffman-coded; those that come on
//! each request are written as they are, which costs a few bytes and saves both sides the coding.

use std::borrow::Cow;

use super::{
    TABLE_DEFAULT,
    lookup::{Key, Lookup},
    policy::{Class, Credit, Habits, Seen, class, is_secret},
    sent::{Plan, Sent},
    statics,
    table::{Entry, Table},
    wire,
};
use crate::http::{Field, HeaderBlock, Token};

/// The flags of literals (RFC 7541 section 6.2).
const WITHOUT_INDEXING: u8 = 0x00;
const NEVER_INDEXED: u8 = 0x10;
const WITH_INDEXING: u8 = 0x40;
/// An indexed field, and a size update.
const INDEXED: u8 = 0x80;
const SIZE_UPDATE: u8 = 0x20;
/// The largest field that is indexed for the sake of its name.
const NAME_ENTRY_MAX: usize = 512;

/// Encodes the header blocks of one connection, in the order they are written.
pub struct Encoder {
    table: Table,
    lookup: Lookup,
    sent: Sent,
    seen: Seen,
    habits: Habits,
    credit: Credit,
    /// The smallest maximum since the last block, and the last one, if the peer has to be told.
    resize: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with a table of [`TABLE_DEFAULT`].
    pub fn new() -> Self {
        Self {
            table: Table::new(TABLE_DEFAULT),
            lookup: Lookup::default(),
            sent: Sent::default(),
            seen: Seen::default(),
            habits: Habits::default(),
            credit: Credit::default(),
            resize: None,
        }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE, as soon as it came. The table never grows over
    /// [`TABLE_DEFAULT`]; the next block tells the peer of a change (RFC 7541 section 4.2).
    pub fn set_table_max(&mut self, peer: usize) {
        let size = peer.min(TABLE_DEFAULT);
        let lowest =
            self.resize.map_or_else(|| self.table.size_max(), |(lowest, _)| lowest).min(size);
        let is_change = lowest < self.table.size_max() || size != self.table.size_max();
        self.resize = is_change.then_some((lowest, size));
    }

    /// Appends `head` to `out` as one block. Names are written in lower case. Fields of different
    /// names may change places, but for pseudo-header fields, which stay first; those of one name
    /// keep their order.
    pub fn encode(&mut self, head: &HeaderBlock, out: &mut Vec<u8>) {
        self.credit.earn();
        self.habits.age();
        if let Some((lowest, last)) = self.resize.take() {
            self.update_size(lowest, last, out);
        }
        let plan = Plan::of(head, &self.habits);
        if !self.repeat(head, &plan, out) {
            self.write(head, &plan, out);
        }
        let mut last = plan.last;
        while last != 0 {
            let place = last.trailing_zeros() as usize;
            last &= last - 1;
            self.fleeting(head.at(place), out);
        }
    }

    /// Gives back the memory of remembered heads, as for a connection that is idle.
    pub fn release(&mut self) {
        self.sent.release();
    }

    /// How much memory it holds besides itself, in bytes.
    pub fn memory(&self) -> usize {
        let learnt = self.seen.memory() + self.habits.memory();
        self.table.memory() + self.lookup.memory() + self.sent.memory() + learnt
    }

    fn update_size(&mut self, lowest: usize, last: usize, out: &mut Vec<u8>) {
        if lowest < last.min(self.table.size_max()) {
            wire::integer::<5>(SIZE_UPDATE, lowest, out);
        }
        wire::integer::<5>(SIZE_UPDATE, last, out);
        self.table.resize(lowest);
        self.table.resize(last);
        self.lookup.cut(&self.table);
        self.sent.forget();
    }

    /// Writes what is steady of a head from memory, if it was written before and its path does not
    /// enter the table now.
    fn repeat(&mut self, head: &HeaderBlock, plan: &Plan, out: &mut Vec<u8>) -> bool {
        let Some((before, after)) = self.sent.find(head, plan) else { return false };
        let Some(place) = plan.path else {
            out.extend_from_slice(before);
            out.extend_from_slice(after);
            return true;
        };
        let path = head.at(place);
        if is_secret(&path) {
            return false;
        }
        if let Some(index) = statics::pair(Token::Path, path.value) {
            out.extend_from_slice(before);
            wire::integer::<7>(INDEXED, index, out);
            out.extend_from_slice(after);
            return true;
        }
        let (entry, key) = entry_of(&path, &[]);
        if let Some(age) = self.lookup.pair(&self.table, key, entry) {
            out.extend_from_slice(before);
            wire::integer::<7>(INDEXED, statics::COUNT + 1 + age, out);
        } else {
            if self.pays(entry, key) {
                return false;
            }
            self.seen.note(key.pair);
            out.extend_from_slice(before);
            let name = statics::name(Token::Path).unwrap_or_default();
            wire::integer::<4>(WITHOUT_INDEXING, name, out);
            wire::plain(path.value, out);
        }
        out.extend_from_slice(after);
        true
    }

    /// Writes what is steady of a head field by field, and remembers it unless the table changed or
    /// would change if the head came again.
    fn write(&mut self, head: &HeaderBlock, plan: &Plan, out: &mut Vec<u8>) {
        let (start, inserted) = (out.len(), self.table.inserted());
        let (mut path, mut settled) = (None, true);
        for (place, field) in head.iter().enumerate() {
            if plan.is_last(place) {
                continue;
            }
            let at = out.len();
            let known = self.field(&field, out);
            if plan.path == Some(place) {
                path = Some((at, out.len()));
            } else {
                settled &= known;
            }
        }
        if self.table.inserted() != inserted {
            self.sent.forget();
        }
        if self.table.inserted() != inserted || !settled {
            return;
        }
        let (before, after) = path.unwrap_or((out.len(), out.len()));
        self.sent.store(head, plan, &out[start..before], &out[after..]);
    }

    /// Writes a field that may be indexed. Returns whether it would be written alike if it came again
    /// at once.
    fn field(&mut self, field: &Field<'_>, out: &mut Vec<u8>) -> bool {
        let name = lower(field);
        let (entry, key) = entry_of(field, &name);
        if is_secret(field) {
            self.habits.secret(key.name);
            self.literal(NEVER_INDEXED, entry, key, wire::short, out);
            return true;
        }
        let age = || self.lookup.pair(&self.table, key, entry);
        let index = statics::pair(field.token, field.value);
        if let Some(index) = index.or_else(|| age().map(|age| statics::COUNT + 1 + age)) {
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

    /// Writes a field whose value will not come again.
    fn fleeting(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let name = lower(&field);
        let (entry, key) = entry_of(&field, &name);
        if is_secret(&field) {
            return self.literal(NEVER_INDEXED, entry, key, wire::plain, out);
        }
        let names = self.credit.is_left()
            && statics::name(field.token).is_none()
            && entry.size() <= NAME_ENTRY_MAX.min(self.table.size_max())
            && self.lookup.name(&self.table, key, entry).is_none();
        if names {
            self.insert(entry, key, wire::plain, out);
            self.sent.forget();
        } else {
            self.literal(WITHOUT_INDEXING, entry, key, wire::plain, out);
        }
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
        let dynamic =
            || self.lookup.name(&self.table, key, entry).map(|age| age + statics::COUNT + 1);
        let index = statics::name(entry.token).or_else(dynamic).unwrap_or(0);
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

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
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
