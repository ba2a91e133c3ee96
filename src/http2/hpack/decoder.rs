//! The decoder (RFC 7541 section 3.2): a block to fields, in one pass, straight into the arena of a
//! head. A block that is refused as a head for its size or its characters is still decoded to its end,
//! because the table has to stay in step with the peer's.

use super::{
    HpackError, Outcome, TABLE_DEFAULT,
    recall::{Recall, Verdict},
    statics,
    table::{Entry, Table, name_len},
    valid,
    wire::Reader,
};
use crate::http::{FIELD_OVERHEAD, HeaderBlock, Token};

/// How many size updates a block may begin with: the smallest since the last block, and the last
/// (RFC 7541 section 4.2).
const UPDATES_MAX: usize = 2;

/// Decodes the header blocks of one connection, in the order they came.
pub struct Decoder {
    table: Table,
    /// The most that the peer may set as the table's maximum.
    limit: usize,
    /// The setting was lowered below the maximum in force: what the next block must set first.
    due: Option<usize>,
    recall: Recall,
}

impl Decoder {
    /// A decoder whose peer may use a table of `table_max` bytes: SETTINGS_HEADER_TABLE_SIZE as the
    /// peer knows it, so [`TABLE_DEFAULT`] until it acknowledged another.
    pub fn new(table_max: usize) -> Self {
        Self {
            table: Table::new(table_max.min(TABLE_DEFAULT)),
            limit: table_max,
            due: None,
            recall: Recall::default(),
        }
    }

    /// The peer acknowledged another SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_table_max(&mut self, table_max: usize) {
        self.limit = table_max;
        if table_max < self.table.size_max() {
            self.due = Some(self.due.map_or(table_max, |due| due.min(table_max)));
        }
    }

    /// Decodes one whole block and appends its fields to `into`. `list_max` bounds the list as RFC
    /// 9113 section 6.5.2 counts it.
    ///
    /// # Errors
    /// When the tables are no longer in step; the connection can not go on.
    pub fn decode(
        &mut self,
        block: &[u8],
        into: &mut HeaderBlock,
        list_max: usize,
    ) -> Result<Outcome, HpackError> {
        let from = into.mark();
        if self.due.is_some() && !block.first().is_some_and(|first| is_update(*first)) {
            return Err(HpackError::SizeMissing);
        }
        let found = self.recall.find(block, into, list_max);
        if found.at == block.len() {
            return Ok(Outcome::Decoded);
        }
        let reader = Reader::new(block, found.at);
        let mut pass = Pass {
            table: &mut self.table,
            reader,
            into,
            size: found.size,
            list_max,
            outcome: Outcome::Decoded,
            changed: false,
        };
        let mut first = pass.reader.next();
        if found.at == 0 {
            first = pass.updates(first, self.limit, &mut self.due)?;
        }
        while let Some(byte) = first {
            pass.field(byte)?;
            self.recall.end(pass.reader.at(), pass.size);
            first = pass.reader.next();
        }
        let (outcome, changed) = (pass.outcome, pass.changed);
        if changed {
            self.recall.forget();
        } else if outcome == Outcome::Decoded {
            self.recall.store(block, found, into, from);
        }
        Ok(outcome)
    }

    /// How many fields the last block began with that were decoded before, and what was found of the
    /// block that they are of. They are those of that block, bit for bit.
    #[inline]
    pub(in crate::http2) fn again(&self) -> Option<(usize, Verdict)> {
        self.recall.again()
    }

    /// Notes what was found of the last block, for when it comes again.
    pub(in crate::http2) fn note(&mut self, verdict: Verdict) {
        self.recall.note(verdict);
    }

    /// Gives back the memory of remembered blocks, as for a connection that is idle.
    pub fn release(&mut self) {
        self.recall.release();
    }

    /// How much memory it holds besides itself, in bytes.
    pub fn memory(&self) -> usize {
        self.table.memory() + self.recall.memory()
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

fn is_update(first: u8) -> bool {
    first & 0xe0 == 0x20
}

/// One block on its way.
struct Pass<'a> {
    table: &'a mut Table,
    reader: Reader<'a>,
    into: &'a mut HeaderBlock,
    /// The size of the list so far, with what did not fit.
    size: usize,
    list_max: usize,
    outcome: Outcome,
    /// Whether the block changed the table.
    changed: bool,
}

impl Pass<'_> {
    /// Takes the size updates that the block begins with, `first` on, and returns the byte after them.
    fn updates(
        &mut self,
        mut first: Option<u8>,
        limit: usize,
        due: &mut Option<usize>,
    ) -> Result<Option<u8>, HpackError> {
        for _ in 0..UPDATES_MAX {
            let Some(byte) = first.filter(|byte| is_update(*byte)) else { break };
            let size = self.reader.integer::<5>(byte)?;
            if size > limit {
                return Err(HpackError::SizeAboveLimit);
            }
            if due.take().is_some_and(|due| size > due) {
                return Err(HpackError::SizeMissing);
            }
            self.table.resize(size);
            self.changed = true;
            first = self.reader.next();
        }
        Ok(first)
    }

    /// Takes the field that begins with `first`.
    fn field(&mut self, first: u8) -> Result<(), HpackError> {
        match first {
            0x80.. => {
                let index = self.reader.integer::<7>(first)?;
                self.indexed(index)
            }
            0x40.. => {
                let name = self.reader.integer::<6>(first)?;
                self.literal(name, true, false)
            }
            0x20.. => Err(HpackError::SizeMisplaced),
            _ => {
                let name = self.reader.integer::<4>(first)?;
                self.literal(name, false, first & 0x10 != 0)
            }
        }
    }

    fn indexed(&mut self, index: usize) -> Result<(), HpackError> {
        if let Some((token, value)) = statics::get(index) {
            if self.fits(token.name().len() + value.len()) {
                self.into.append_decoded(token, &[], value.as_bytes(), false);
            }
            return Ok(());
        }
        let entry = dynamic(self.table, index)?;
        self.size += entry.size();
        if entry.malformed {
            self.outcome = Outcome::Malformed("a header field holds a forbidden character");
        }
        if self.size <= self.list_max {
            self.into.append_decoded(entry.token, entry.name, entry.value, false);
        } else {
            too_large(&mut self.outcome);
        }
        Ok(())
    }

    fn literal(&mut self, index: usize, insert: bool, never: bool) -> Result<(), HpackError> {
        let mark = self.into.mark();
        let arena = self.into.arena();
        let start = arena.len();
        let (token, bad_name) = read_name(&mut self.reader, self.table, index, arena)?;
        let name = arena.len() - start;
        self.reader.string(arena)?;
        let (name_bytes, value) = arena[start..].split_at(name);
        let bad_value = !valid::value(value);
        if bad_name {
            self.outcome = Outcome::Malformed("a header field's name holds a forbidden character");
        } else if bad_value {
            self.outcome = Outcome::Malformed("a header field's value holds a forbidden character");
        }
        if insert {
            let malformed = bad_name || bad_value;
            self.table.insert(Entry { token, name: name_bytes, value, malformed });
            self.changed = true;
        }
        let length = name_len(token, name_bytes) + value.len();
        self.into.commit(token, start, name, never);
        if !self.fits(length) {
            self.into.truncate(mark);
        }
        Ok(())
    }

    /// Counts a field and says whether the list may still have it.
    fn fits(&mut self, length: usize) -> bool {
        self.size += length + FIELD_OVERHEAD;
        let fits = self.size <= self.list_max;
        if !fits {
            too_large(&mut self.outcome);
        }
        fits
    }
}

fn too_large(outcome: &mut Outcome) {
    if *outcome == Outcome::Decoded {
        *outcome = Outcome::TooLarge;
    }
}

fn dynamic(table: &Table, index: usize) -> Result<Entry<'_>, HpackError> {
    let age = index.checked_sub(statics::COUNT + 1).ok_or(HpackError::Index)?;
    table.get(age).ok_or(HpackError::Index)
}

/// The name of a literal: its token, with its bytes appended to `arena` if it is unknown, and whether
/// it is malformed.
fn read_name(
    reader: &mut Reader<'_>,
    table: &Table,
    index: usize,
    arena: &mut Vec<u8>,
) -> Result<(Token, bool), HpackError> {
    if index == 0 {
        let start = arena.len();
        reader.string(arena)?;
        let name = &arena[start..];
        let token = Token::of(name);
        if token != Token::Other && token.name().as_bytes() == name {
            arena.truncate(start);
            return Ok((token, false));
        }
        // A known name with capitals is malformed, so it is not taken for the known one.
        return Ok((Token::Other, !valid::name(name)));
    }
    if let Some((token, _)) = statics::get(index) {
        return Ok((token, false));
    }
    let entry = dynamic(table, index)?;
    arena.extend_from_slice(entry.name);
    let bad = entry.malformed && entry.token == Token::Other && !valid::name(entry.name);
    Ok((entry.token, bad))
}
