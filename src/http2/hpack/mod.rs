//! HPACK, the compression of header fields (RFC 7541). Both directions keep to the RFC's tables, and
//! both also remember whole blocks, because the heads of one connection are mostly the same: a block
//! whose bytes were seen before is not decoded again, and a head that was sent before is not encoded
//! again. What is remembered holds for one state of the dynamic table and is forgotten when the table
//! changes; a block that itself changed the table is never remembered, since not to decode it (or not
//! to send it) would put the two sides' tables out of step.

#[cfg(any(test, fuzzing))]
mod check;
mod decoder;
mod encoder;
mod fields;
mod huffman;
mod lookup;
mod policy;
mod recall;
mod sent;
mod slots;
mod statics;
mod table;
#[cfg(test)]
mod tests;
mod valid;
mod wire;

#[cfg(any(test, fuzzing))]
pub(super) use check::by_name;
#[cfg(any(test, fuzzing))]
pub use check::check;
pub use decoder::Decoder;
pub use encoder::Encoder;
pub(super) use recall::Verdict;

/// The dynamic table's size until settings say otherwise, in bytes as RFC 7541 section 4.1 counts
/// them.
pub const TABLE_DEFAULT: usize = 4096;

/// What became of a block that was decoded. In each case the tables are in step and the connection
/// can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every field was appended. Names and values keep to RFC 9113 section 8.2.1: names are in lower
    /// case and of the characters that RFC 9110 permits, values are free of control characters and of
    /// white space around them, and a name that begins with a colon is a known pseudo-header field.
    /// Which fields there are, and in what order, is for the caller to judge.
    Decoded,
    /// The list is larger than permitted; the fields that fitted were appended.
    TooLarge,
    /// A name or value holds what none may; fields were appended, but must not be used.
    Malformed(&'static str),
}

/// Why a block can not be decoded: a connection error of type COMPRESSION_ERROR (RFC 9113 section
/// 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends within a field.
    #[error("a header block ends within a field")]
    Truncated,
    /// An integer is larger than any that makes sense (RFC 7541 section 5.1).
    #[error("an integer in a header block is too large")]
    Integer,
    /// Index zero, or one that neither table holds (section 2.3.3).
    #[error("a header block names an index that is not in the tables")]
    Index,
    /// Padding of more than seven bits or not of ones, or the EOS symbol (section 5.2).
    #[error("a Huffman-coded string in a header block is malformed")]
    Huffman,
    /// A size above what settings permit (section 6.3).
    #[error("a table size update exceeds the setting")]
    SizeAboveLimit,
    /// After a field, or more than the two that can be needed (section 4.2).
    #[error("a table size update is not at the beginning of a header block")]
    SizeMisplaced,
    /// The setting was lowered, and the next block does not say so first (section 4.2).
    #[error("a table size update is missing")]
    SizeMissing,
}
