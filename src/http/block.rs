//! A head's fields as the data plane holds them: one arena of bytes and a list of places in it. A
//! decoder writes it once, decisions read slices of it, and an encoder reads it again; nothing in it
//! is allocated field by field. HTTP/2's pseudo-header fields come first in it, also when it was read
//! from HTTP/1.1, so that a request is the same whatever brought it.

use std::fmt;

use super::{Fields, name::Token};

/// What every field adds to a head's size (RFC 9113 section 6.5.2).
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// The fields of a head or of trailers, in order.
#[derive(Clone, Default)]
pub struct HeaderBlock {
    bytes: Vec<u8>,
    fields: Vec<Entry>,
}

/// Where a field is. Known names in lower case are not in the arena.
#[derive(Clone, Copy)]
struct Entry {
    start: u32,
    name: u32,
    value: u32,
    token: Token,
    sensitive: bool,
}

impl Entry {
    fn value_at(&self) -> usize {
        self.start as usize + self.name as usize
    }

    fn end(&self) -> usize {
        self.value_at() + self.value as usize
    }
}

/// A place between two fields, for what a codec appends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    fields: usize,
    bytes: usize,
}

/// Where a value is. It can be read there until the block is cleared, also when its field has been
/// removed or replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slice {
    start: u32,
    length: u32,
}

/// One field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name, if it is a known one.
    pub token: Token,
    /// Its name as it was written: in HTTP/1.1 possibly with capitals.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// Whether it may never enter a compression table (RFC 7541 section 7.1.3).
    pub sensitive: bool,
}

impl Field<'_> {
    /// Whether the name is `name`, which is in lower case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl HeaderBlock {
    /// An empty one with room for a usual head.
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(512), fields: Vec::with_capacity(16) }
    }

    /// Forgets the fields and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    /// Becomes a copy of `other`, in the memory that it has.
    pub(crate) fn assign(&mut self, other: &Self) {
        self.bytes.clone_from(&other.bytes);
        self.fields.clone_from(&other.fields);
    }

    /// Appends a field whose name may be any.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.append(Token::of(name), name, value, false);
    }

    /// Appends a field by token, in lower case.
    pub fn push_token(&mut self, token: Token, value: &[u8]) {
        self.append_decoded(token, &[], value, false);
    }

    /// Appends a field whose token is known already; `name` is looked at for [`Token::Other`] and for
    /// its case.
    pub fn append(&mut self, token: Token, name: &[u8], value: &[u8], sensitive: bool) {
        let known = token != Token::Other && token.name().as_bytes() == name;
        self.append_decoded(token, if known { &[] } else { name }, value, sensitive);
    }

    /// The same when the name is either that of `token`, and then not given again, or unknown.
    pub(crate) fn append_decoded(
        &mut self,
        token: Token,
        name: &[u8],
        value: &[u8],
        sensitive: bool,
    ) {
        let start = self.bytes.len();
        self.bytes.reserve(name.len() + value.len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.commit(token, start, name.len(), sensitive);
    }

    /// Where a decoder writes a field's bytes before it calls [`Self::commit`].
    pub(crate) fn arena(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Makes a field of what was written to the arena since it was `start` bytes long: `name` bytes of
    /// name, none for a token's own, and then the value.
    #[inline]
    pub(crate) fn commit(&mut self, token: Token, start: usize, name: usize, sensitive: bool) {
        let value = self.bytes.len() - start - name;
        let (start, name, value) = (short(start), short(name), short(value));
        self.fields.push(Entry { start, name, value, token, sensitive });
    }

    /// Appends the first `count` fields that `other` got since `from`; they were appended one by one
    /// and not edited since.
    pub(crate) fn extend_from(&mut self, other: &Self, from: Mark, count: usize) {
        let fields = &other.fields[from.fields..from.fields + count];
        let end = fields.last().map_or(from.bytes, Entry::end);
        let (old, new) = (short(from.bytes), short(self.bytes.len()));
        self.bytes.extend_from_slice(&other.bytes[from.bytes..end]);
        if old == new {
            return self.fields.extend_from_slice(fields);
        }
        self.fields
            .extend(fields.iter().map(|entry| Entry { start: entry.start - old + new, ..*entry }));
    }

    /// Whether the fields are those of `template`, written alike, but for the values of those whose
    /// place is a bit of `free`: there the template's are empty. The template was appended field by
    /// field and not edited since, so that many fields are compared at once.
    pub(crate) fn matches(&self, template: &Self, free: u64) -> bool {
        if self.fields.len() != template.fields.len() {
            return false;
        }
        // The bytes up to these places, so many, are in one piece in both arenas and not compared yet.
        let (mut mine, mut its, mut length) = (0_usize, 0_usize, 0_usize);
        let same = |mine: usize, its: usize, length: usize| {
            self.bytes.get(mine - length..mine) == template.bytes.get(its - length..its)
        };
        let mut free = free;
        for (field, other) in self.fields.iter().zip(&template.fields) {
            let alike = field.token == other.token
                && field.sensitive == other.sensitive
                && field.name == other.name
                && (free & 1 == 1 || field.value == other.value);
            if !alike {
                return false;
            }
            free >>= 1;
            let start = field.start as usize;
            if start != mine {
                if !same(mine, its, length) {
                    return false;
                }
                (mine, length) = (start, 0);
            }
            let more = (other.name + other.value) as usize;
            (mine, its, length) = (mine + more, its + more, length + more);
        }
        same(mine, its, length)
    }

    /// A field by its place.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> Field<'_> {
        self.field(&self.fields[index])
    }

    /// How much memory it holds, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<Entry>()
    }

    /// An empty one with room for so many bytes and fields.
    pub fn with_capacity(bytes: usize, fields: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), fields: Vec::with_capacity(fields) }
    }

    /// Its end as it is now, to come back to by [`truncate`](Self::truncate).
    pub fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), fields: self.fields.len() }
    }

    /// Forgets what was appended since `mark`. Nothing else may have been changed in between.
    pub fn truncate(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.fields.truncate(mark.fields);
    }

    /// How many fields there are, pseudo-header fields included.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Its size as RFC 9113 section 6.5.2 counts it.
    pub fn size(&self) -> usize {
        let field = |entry: &Entry| {
            let name = if entry.name == 0 { entry.token.name().len() } else { entry.name as usize };
            name + entry.value as usize + FIELD_OVERHEAD
        };
        self.fields.iter().map(field).sum()
    }

    /// All fields in order.
    #[inline]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Field<'_>> + ExactSizeIterator {
        self.fields.iter().map(|entry| self.field(entry))
    }

    #[inline]
    fn field(&self, entry: &Entry) -> Field<'_> {
        let value_at = entry.value_at();
        let name = if entry.name == 0 {
            entry.token.name().as_bytes()
        } else {
            &self.bytes[entry.start as usize..value_at]
        };
        let value = &self.bytes[value_at..entry.end()];
        Field { token: entry.token, name, value, sensitive: entry.sensitive }
    }

    /// The tokens of all fields in order, which are cheaper to look at than the fields.
    #[inline]
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        self.fields.iter().map(|entry| entry.token)
    }

    /// Keeps the fields whose token `keep` says.
    #[inline]
    pub fn retain_tokens(&mut self, mut keep: impl FnMut(Token) -> bool) {
        self.fields.retain(|entry| keep(entry.token));
    }

    /// The first value of a known field.
    pub fn get(&self, token: Token) -> Option<&[u8]> {
        self.fields.iter().find(|entry| entry.token == token).map(|entry| self.field(entry).value)
    }

    /// The same as text; a value that is no UTF-8 is none.
    pub fn text(&self, token: Token) -> Option<&str> {
        self.get(token).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Where the first value of a known field is.
    pub fn slice_of(&self, token: Token) -> Option<Slice> {
        let entry = self.fields.iter().find(|entry| entry.token == token)?;
        Some(Slice { start: entry.start + entry.name, length: entry.value })
    }

    /// What is there.
    pub fn slice(&self, slice: Slice) -> &[u8] {
        let start = slice.start as usize;
        self.bytes.get(start..start + slice.length as usize).unwrap_or_default()
    }

    /// All values of a known field, in order.
    pub fn all(&self, token: Token) -> impl Iterator<Item = &[u8]> {
        let same = self.fields.iter().filter(move |entry| entry.token == token);
        same.map(|entry| self.field(entry).value)
    }

    /// Whether there is a known field.
    pub fn contains(&self, token: Token) -> bool {
        self.fields.iter().any(|entry| entry.token == token)
    }

    /// The status of a response; 0 when there is none.
    pub fn status(&self) -> u16 {
        let digits = self.get(Token::Status).filter(|status| status.len() == 3);
        let number = digits.into_iter().flatten().try_fold(0, |number, digit| {
            let digit = digit.wrapping_sub(b'0');
            (digit < 10).then(|| number * 10 + u16::from(digit))
        });
        number.unwrap_or(0)
    }

    /// Replaces a known field: its place becomes the end, but for pseudo-header fields, which stay.
    pub fn set(&mut self, token: Token, value: &[u8]) {
        if token.is_pseudo() {
            return self.set_pseudo(token, value);
        }
        self.remove(token);
        self.push_token(token, value);
    }

    fn set_pseudo(&mut self, token: Token, value: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let (start, value) = (short(start), short(value.len()));
        let entry = Entry { start, name: 0, value, token, sensitive: false };
        match self.fields.iter().position(|entry| entry.token == token) {
            Some(index) => self.fields[index] = entry,
            None => {
                let pseudo = self.fields.iter().take_while(|entry| entry.token.is_pseudo()).count();
                self.fields.insert(pseudo, entry);
            }
        }
    }

    /// Replaces a field whose name, in lower case, may be any.
    pub fn set_named(&mut self, name: &str, value: &[u8]) {
        self.remove_named(name);
        self.push(name.as_bytes(), value);
    }

    /// Removes every value of a known field.
    pub fn remove(&mut self, token: Token) {
        self.fields.retain(|entry| entry.token != token);
    }

    /// Removes every value of a field whose name may be any.
    pub fn remove_named(&mut self, name: &str) {
        match Token::of(name.as_bytes()) {
            Token::Other => self.retain(|field| !field.is(name)),
            token => self.remove(token),
        }
    }

    /// Keeps the fields that `keep` says. The arena is not compacted: a head lives for one request.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.retain(|entry| keep(self.field(entry)));
        self.fields = fields;
    }
}

/// A place or length in an arena. Codecs bound heads at a few hundred kilobytes.
#[inline]
fn short(length: usize) -> u32 {
    u32::try_from(length).expect("a head is far smaller than 4 GiB")
}

/// The same fields in the same order, however they came to be.
impl PartialEq for HeaderBlock {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for HeaderBlock {}

impl Fields for HeaderBlock {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        match Token::of(name.as_bytes()) {
            Token::Other => {
                self.iter().filter(|field| field.is(name)).for_each(|field| found(field.value));
            }
            token => self.all(token).for_each(found),
        }
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        match Token::of(name.as_bytes()) {
            Token::Other => self.iter().find(|field| field.is(name)).map(|field| field.value),
            token => self.get(token),
        }
    }
}

impl fmt::Debug for HeaderBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lossy = |bytes| String::from_utf8_lossy(bytes);
        f.debug_map()
            .entries(self.iter().map(|field| (lossy(field.name), lossy(field.value))))
            .finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for HeaderBlock {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(fields: T) -> Self {
        let mut block = Self::new();
        for (name, value) in fields {
            block.push(name.as_bytes(), value.as_bytes());
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderBlock, Token};
    use crate::http::Fields as _;

    fn list(block: &HeaderBlock) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        block.iter().map(|field| (text(field.name), text(field.value))).collect()
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn fields_come_back_in_order_and_case() {
        let fields = [(":path", "/"), ("Content-Type", "a"), ("X-Mine", "1"), ("x-mine", "2")];
        let block: HeaderBlock = fields.into_iter().collect();
        assert_eq!(list(&block), pairs(&fields));
        assert_eq!(block.get(Token::ContentType), Some(&b"a"[..]));
        assert_eq!(block.first("x-mine"), Some(&b"1"[..]));
        let mut values = Vec::new();
        block.each("x-mine", &mut |value| values.push(value.to_vec()));
        assert_eq!(values, [b"1".to_vec(), b"2".to_vec()]);
        assert_eq!(block.size(), 5 + 1 + 12 + 1 + 7 + 7 + 4 * 32);
    }

    #[test]
    fn fields_are_replaced_and_removed() {
        let fields = [(":path", "/a"), ("te", "x"), ("TE", "y"), ("b", "1"), ("B", "2")];
        let mut block: HeaderBlock = fields.into_iter().collect();
        block.set(Token::Te, b"trailers");
        block.set(Token::Path, b"/longer");
        block.set(Token::Authority, b"orders");
        block.set_named("b", b"3");
        let expected =
            [(":path", "/longer"), (":authority", "orders"), ("te", "trailers"), ("b", "3")];
        assert_eq!(list(&block), pairs(&expected));
        block.remove(Token::Te);
        block.remove_named("b");
        block.retain(|field| field.token != Token::Authority);
        assert_eq!(list(&block), pairs(&[(":path", "/longer")]));
        block.clear();
        assert!(block.is_empty());
    }

    #[test]
    fn what_was_appended_can_be_taken_back() {
        let mut block: HeaderBlock = [(":path", "/a"), ("te", "trailers")].into_iter().collect();
        let before = list(&block);
        for _ in 0..2 {
            let mark = block.mark();
            block.push(b"x-mine", b"1");
            block.push_token(Token::Traceparent, b"00");
            assert_eq!(block.len(), 4);
            block.truncate(mark);
            assert_eq!(list(&block), before);
        }
    }

    #[test]
    fn a_head_matches_what_differs_only_where_it_may() {
        let base =
            [(":path", "/a"), ("te", "x"), ("x-mine", "y"), ("X-Mine", "z"), ("date", "now")];
        let template = |values: [&str; 5]| -> HeaderBlock {
            base.iter().zip(values).map(|((name, _), value)| (*name, value)).collect()
        };
        let head: HeaderBlock = base.into_iter().collect();
        assert!(head.matches(&template(["/a", "x", "y", "z", "now"]), 0));
        assert!(head.matches(&template(["", "x", "y", "z", ""]), 0b10001));
        assert!(head.matches(&template(["", "", "", "", ""]), 0b11111));
        assert!(!head.matches(&template(["", "x", "y", "z", "new"]), 0b00001));
        assert!(!head.matches(&template(["", "y", "y", "z", ""]), 0b10001));
        assert!(!head.matches(&template(["", "x", "y", "zz", ""]), 0b10001));
        assert!(!head.matches(&HeaderBlock::new(), 0));
        let mut other = head.clone();
        other.set(Token::Path, b"/longer");
        assert!(other.matches(&template(["", "x", "y", "z", ""]), 0b10001));
        assert!(other.matches(&template(["/longer", "x", "y", "z", "now"]), 0));
        assert!(!other.matches(&template(["/longes", "x", "y", "z", "now"]), 0));
        other.set(Token::Te, b"x");
        assert!(!other.matches(&template(["", "x", "y", "z", ""]), 0b10001));
        let named: HeaderBlock = [("x-a", "1"), ("x-b", "1")].into_iter().collect();
        for (name, expected) in [("x-b", true), ("x-c", false), ("X-b", false)] {
            let template: HeaderBlock = [("x-a", "1"), (name, "")].into_iter().collect();
            assert_eq!(named.matches(&template, 0b10), expected, "{name}");
        }
    }

    #[test]
    fn a_status_is_a_number() {
        for (status, expected) in [("200", 200), ("099", 99), ("x", 0), ("2000", 0), ("2x0", 0)] {
            assert_eq!(
                [(":status", status)].into_iter().collect::<HeaderBlock>().status(),
                expected
            );
        }
        assert_eq!(HeaderBlock::new().status(), 0);
    }
}
