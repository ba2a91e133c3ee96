//! The examples of RFC 7541, malformed blocks, and random heads with memory and without.

mod appendix_c;
mod corpus;
mod differential;
mod encoding;
mod malformed;
mod random;

use super::{Decoder, HpackError, Outcome};
use crate::http::HeaderBlock;

const LIST_MAX: usize = 64 * 1024;

type Field = (String, String);

fn fields(block: &HeaderBlock) -> Vec<Field> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    block.iter().map(|field| (text(field.name), text(field.value))).collect()
}

fn pairs(fields: &[(&str, &str)]) -> Vec<Field> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<(Outcome, HeaderBlock), HpackError> {
    let mut into = HeaderBlock::new();
    decoder.decode(block, &mut into, LIST_MAX).map(|outcome| (outcome, into))
}

/// Bytes from hexadecimal digits with any white space.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
}
