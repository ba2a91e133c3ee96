//! The encoder (RFC 7541 section 6): from slices of a head straight into a connection's output. What
//! differs on each request comes last and without indexing, so that the table settles after a few
//! requests and both sides write and read nearly all of a head from memory.

use super::{
    TABLE_DEFAULT,
    fields::{Fields, Path},
    sent::{Last, Plan, Sent, Slot},
    wire,
};
use crate::http::HeaderBlock;

const SIZE_UPDATE: u8 = 0x20;

/// Encodes the header blocks of one connection, in the order they are written.
pub struct Encoder {
    fields: Fields,
    sent: Sent,
    /// The smallest maximum since the last block, and the last one, if the peer has to be told.
    resize: Option<(usize, usize)>,
    /// What was written last of the head that is being written.
    last: Vec<Last>,
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
            fields: Fields::new(TABLE_DEFAULT),
            sent: Sent::default(),
            resize: None,
            last: Vec::new(),
        }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE, as soon as it came. The table never grows over
    /// [`TABLE_DEFAULT`]; the next block tells the peer of a change (RFC 7541 section 4.2).
    pub fn set_table_max(&mut self, peer: usize) {
        let (size, now) = (peer.min(TABLE_DEFAULT), self.fields.table().size_max());
        let lowest = self.resize.map_or(now, |(lowest, _)| lowest).min(size);
        self.resize = (lowest < now || size != now).then_some((lowest, size));
    }

    /// Appends `head` to `out` as one block. Names are written in lower case. Fields of different
    /// names may change places, but for pseudo-header fields, which stay first; those of one name
    /// keep their order.
    pub fn encode(&mut self, head: &HeaderBlock, out: &mut Vec<u8>) {
        if let Some((lowest, last)) = self.resize.take() {
            self.update_size(lowest, last, out);
        }
        self.fields.begin();
        if !self.repeat(head, out) {
            self.write(head, out);
        }
    }

    /// Gives back the memory of remembered heads, as for a connection that is idle.
    pub fn release(&mut self) {
        self.sent.release();
    }

    /// How much memory it holds besides itself, in bytes.
    pub fn memory(&self) -> usize {
        let last = self.last.capacity() * size_of::<Last>();
        self.fields.memory() + self.sent.memory() + last
    }

    fn update_size(&mut self, lowest: usize, last: usize, out: &mut Vec<u8>) {
        if lowest < last.min(self.fields.table().size_max()) {
            wire::integer::<5>(SIZE_UPDATE, lowest, out);
        }
        wire::integer::<5>(SIZE_UPDATE, last, out);
        self.fields.resize(lowest);
        self.fields.resize(last);
        self.sent.forget();
    }

    /// Writes a head from memory, if it was written before and its path does not enter the table now.
    fn repeat(&mut self, head: &HeaderBlock, out: &mut Vec<u8>) -> bool {
        let Some(slot) = self.sent.find(head) else { return false };
        let path = match slot.path {
            Some(place) => match known_path(&mut self.fields, slot, head.at(place).value) {
                Path::New => return false,
                path => Some((path, head.at(place).value)),
            },
            None => None,
        };
        out.extend_from_slice(slot.before());
        if let Some((path, value)) = path {
            path.write(value, out);
        }
        out.extend_from_slice(slot.after());
        if slot.names_are_known {
            for Last { place, name } in &slot.last {
                Fields::write_last(*name, &head.at(*place), out);
            }
            return true;
        }
        let inserted = self.fields.table().inserted();
        for Last { place, .. } in &slot.last {
            self.fields.last(&head.at(*place), out);
        }
        if self.fields.table().inserted() != inserted {
            self.sent.forget();
        }
        true
    }

    /// Writes a head field by field. It is remembered unless it changed the table or would be written
    /// otherwise if it came again.
    fn write(&mut self, head: &HeaderBlock, out: &mut Vec<u8>) {
        let plan = self.fields.plan(head);
        let (start, inserted) = (out.len(), self.fields.table().inserted());
        let (mut path, mut settled) = (None, true);
        for (place, field) in head.iter().enumerate() {
            if plan.is_last(place) {
                continue;
            }
            let at = out.len();
            let known = self.fields.field(&field, out);
            if plan.path == Some(place) {
                path = Some((at, out.len()));
            } else {
                settled &= known;
            }
        }
        let steady = out.len();
        self.last.clear();
        for place in plan.places() {
            let name = self.fields.last(&head.at(place), out);
            self.last.push(Last { place, name });
        }
        if self.fields.table().inserted() != inserted {
            self.sent.forget();
        } else if settled {
            let (before, after) = path.unwrap_or((steady, steady));
            let bytes = (&out[start..before], &out[after..steady]);
            self.sent.store(head, plan, bytes, &self.last);
        }
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &super::table::Table {
        self.fields.table()
    }
}

/// How to write the path of a head that is remembered. One that is in the table is remembered too:
/// calls of one method often follow one another.
fn known_path(fields: &mut Fields, slot: &mut Slot, path: &[u8]) -> Path {
    if slot.path_index > 0 && slot.last_path == path {
        return Path::Indexed(slot.path_index);
    }
    let found = fields.path(path);
    if let Path::Indexed(index) = found {
        slot.last_path.clear();
        slot.last_path.extend_from_slice(path);
        slot.path_index = index;
    }
    found
}

impl Plan {
    /// The places of what is written last, in order.
    fn places(self) -> impl Iterator<Item = usize> {
        let mut left = self.last;
        std::iter::from_fn(move || {
            let place = (left != 0).then(|| left.trailing_zeros() as usize)?;
            left &= left - 1;
            Some(place)
        })
    }
}
