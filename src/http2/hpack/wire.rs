//! Integers and strings as HPACK writes them (RFC 7541 section 5).

use super::{HpackError, huffman};

/// What is left of a block.
pub(super) struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(block: &'a [u8], at: usize) -> Self {
        Self { block, at }
    }

    /// How many bytes were taken.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte, which begins a field.
    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// An integer whose lowest `BITS` bits are the end of `first`, which was taken. At most five bytes
    /// may follow, and the value is below 2^32.
    #[inline]
    pub(super) fn integer<const BITS: u32>(&mut self, first: u8) -> Result<usize, HpackError> {
        let most = (1 << BITS) - 1;
        let value = usize::from(first) & most;
        if value < most { Ok(value) } else { self.long_integer(most) }
    }

    fn long_integer(&mut self, most: usize) -> Result<usize, HpackError> {
        let mut value = u64::try_from(most).map_err(|_| HpackError::Integer)?;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.next().ok_or(HpackError::Truncated)?;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let value = u32::try_from(value).map_err(|_| HpackError::Integer)?;
                return Ok(value as usize);
            }
        }
        Err(HpackError::Integer)
    }

    /// A string, decoded to the end of `out`.
    pub(super) fn string(&mut self, out: &mut Vec<u8>) -> Result<(), HpackError> {
        let first = self.next().ok_or(HpackError::Truncated)?;
        let length = self.integer::<7>(first)?;
        let left = self.block.get(self.at..).unwrap_or_default();
        let text = left.get(..length).ok_or(HpackError::Truncated)?;
        self.at += length;
        if first & 0x80 != 0 {
            return huffman::decode(text, out);
        }
        out.extend_from_slice(text);
        Ok(())
    }
}

/// Writes an integer with `BITS` bits in the first byte, whose other bits are `flags`.
#[inline]
pub(super) fn integer<const BITS: u32>(flags: u8, value: usize, out: &mut Vec<u8>) {
    let most = (1_u8 << BITS) - 1;
    match u8::try_from(value) {
        Ok(short) if short < most => out.push(flags | short),
        _ => {
            out.push(flags | most);
            long_integer(value - usize::from(most), out);
        }
    }
}

fn long_integer(mut rest: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(rest & 0x7f).expect("it has seven bits");
        rest >>= 7;
        if rest == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// Writes a string as it is: for what is written once, on every request, and read once.
pub(super) fn plain(text: &[u8], out: &mut Vec<u8>) {
    integer::<7>(0, text.len(), out);
    out.extend_from_slice(text);
}

/// Writes a string with the Huffman code if that is shorter.
pub(super) fn short(text: &[u8], out: &mut Vec<u8>) {
    let length = huffman::encoded_len(text);
    if length >= text.len() {
        return plain(text, out);
    }
    integer::<7>(0x80, length, out);
    huffman::encode(text, out);
}

#[cfg(test)]
mod tests {
    use super::{HpackError, Reader, integer};

    #[test]
    fn integers_are_those_of_appendix_c_1() {
        let mut out = Vec::new();
        integer::<5>(0, 10, &mut out);
        integer::<5>(0, 1337, &mut out);
        integer::<7>(0x80, 42, &mut out);
        assert_eq!(out, [0x0a, 0x1f, 0x9a, 0x0a, 0xaa]);
        let mut reader = Reader::new(&out, 0);
        let mut read = |bits| {
            let first = reader.next().expect("there is one");
            if bits == 5 { reader.integer::<5>(first) } else { reader.integer::<7>(first) }
        };
        assert_eq!([read(5), read(5), read(7)], [Ok(10), Ok(1337), Ok(42)]);
    }

    #[test]
    fn integers_come_back() {
        for value in [0, 1, 30, 31, 32, 126, 127, 128, 254, 255, 256, 16_383, 16_510, 4_294_967_295]
        {
            let mut out = Vec::new();
            integer::<4>(0x10, value, &mut out);
            let mut reader = Reader::new(&out, 1);
            assert_eq!(reader.integer::<4>(out[0]), Ok(value));
            assert_eq!(reader.at(), out.len());
        }
    }

    #[test]
    fn integers_that_overflow_or_break_off_are_refused() {
        let cases: [(&[u8], _); 6] = [
            (&[0xff], HpackError::Truncated),
            (&[0xff, 0x80], HpackError::Truncated),
            (&[0xff, 0x81, 0xff, 0xff, 0xff, 0x0f], HpackError::Integer),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], HpackError::Integer),
            (&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], HpackError::Integer),
            (
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                HpackError::Integer,
            ),
        ];
        for (bytes, error) in cases {
            let mut reader = Reader::new(bytes, 1);
            assert_eq!(reader.integer::<7>(bytes[0]), Err(error), "{bytes:x?}");
        }
        let mut reader = Reader::new(&[0xff, 0x80, 0xff, 0xff, 0xff, 0x0f], 1);
        assert_eq!(reader.integer::<7>(0xff), Ok(0xffff_ffff));
    }
}
