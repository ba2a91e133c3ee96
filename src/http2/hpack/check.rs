//! What must hold of any bytes, for the fuzzer and for the tests that run its inputs.

use super::{Decoder, Encoder, Outcome};
use crate::http::HeaderBlock;

/// The bounds of lists that are tried.
const LIST_MAX: [usize; 4] = [64, 256, 4096, 64 * 1024];

/// Takes `data` as header blocks, each behind a byte that says its length in its lower seven bits and,
/// by the highest, whether the setting of the table's size is changed first.
///
/// # Panics
/// If a decoder that remembers differs from one that does not, or if what was decoded does not come
/// back after it was encoded.
pub fn check(data: &[u8]) {
    let (mut with, mut without) = (Decoder::new(4096), Decoder::new(4096));
    let mut far = Far::default();
    let mut rest = data;
    while let Some((&length, after)) = rest.split_first() {
        let (block, after) = after.split_at(after.len().min(usize::from(length & 0x7f)));
        rest = after;
        if length & 0x80 != 0 {
            let table_max = usize::from(length & 0x0f) * 512;
            with.set_table_max(table_max);
            without.set_table_max(table_max);
            far.set_table_max(table_max);
        }
        without.release();
        let list_max = LIST_MAX[usize::from(length >> 4 & 3)];
        let (mut one, mut other) = (HeaderBlock::new(), HeaderBlock::new());
        let outcome = with.decode(block, &mut one, list_max);
        assert_eq!(outcome, without.decode(block, &mut other, list_max));
        let Ok(outcome) = outcome else { return };
        assert_eq!(one, other);
        assert!(one.size() <= list_max);
        if outcome == Outcome::Decoded {
            far.send(&one);
        }
    }
}

/// The next connection on a request's way.
struct Far {
    encoder: Encoder,
    with: Decoder,
    without: Decoder,
}

impl Default for Far {
    fn default() -> Self {
        Self { encoder: Encoder::new(), with: Decoder::new(4096), without: Decoder::new(4096) }
    }
}

impl Far {
    fn set_table_max(&mut self, table_max: usize) {
        self.encoder.set_table_max(table_max);
        self.with.set_table_max(table_max);
        self.without.set_table_max(table_max);
    }

    fn send(&mut self, head: &HeaderBlock) {
        let mut block = Vec::new();
        self.encoder.encode(head, &mut block);
        self.without.release();
        let (mut one, mut other) = (HeaderBlock::new(), HeaderBlock::new());
        let outcome = self.with.decode(&block, &mut one, usize::MAX);
        assert_eq!(outcome, Ok(Outcome::Decoded));
        assert_eq!(outcome, self.without.decode(&block, &mut other, usize::MAX));
        assert_eq!(one, other);
        assert_eq!(by_name(&one), by_name(head));
    }
}

/// The fields by name; those of one name in order.
pub(in crate::http2) fn by_name(head: &HeaderBlock) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields: Vec<_> =
        head.iter().map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec())).collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}
