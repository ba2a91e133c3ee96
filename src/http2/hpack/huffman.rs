//! The Huffman code for strings (RFC 7541 section 5.2 and appendix B). The code is canonical: the
//! length of each symbol's code gives all of the code, so that only lengths are written down here and
//! the tables are computed from them. The decoder takes ten bits at a time, which are often two
//! symbols; codes that are longer, which are rare, are found by their length.

use super::HpackError;

/// The length of each octet's code in bits (appendix B), and last the one of EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The symbol that ends nothing: it must not be sent.
const EOS: usize = 256;
const LONGEST: usize = 30;
/// How many bits the decoder looks up at once.
const STEP: usize = 10;

struct Code {
    /// By symbol.
    codes: [u32; 257],
    /// Symbols by code.
    symbols: [u16; 257],
    /// By length: the first code, how many there are, and where the symbol of the first is.
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    place: [usize; LONGEST + 1],
}

#[allow(clippy::cast_possible_truncation, reason = "a symbol is at most 256")]
const CODE: Code = {
    let mut code = Code {
        codes: [0; 257],
        symbols: [0; 257],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
    };
    let (mut next, mut placed, mut length) = (0, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.place[length] = placed;
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] as usize == length {
                code.codes[symbol] = next;
                code.symbols[placed] = symbol as u16;
                next += 1;
                placed += 1;
            }
            symbol += 1;
        }
        code.count[length] = next - code.first[length];
        length += 1;
    }
    code
};

/// Codes and their lengths by octet.
#[allow(clippy::cast_possible_truncation, reason = "a code's length is at most 30")]
static ENCODE: [(u32, u8); 256] = {
    let mut table = [(0, 0); 256];
    let mut symbol = 0;
    while symbol < 256 {
        table[symbol] = (CODE.codes[symbol], LENGTHS[symbol]);
        symbol += 1;
    }
    table
};

/// What the next ten bits begin with.
#[derive(Clone, Copy)]
struct Step {
    /// The first symbol, and the second if there is one.
    symbols: [u8; 2],
    /// The length of the first symbol's code; 0 when it is longer than ten bits.
    first: u8,
    /// The length of both.
    both: u8,
}

#[allow(clippy::cast_possible_truncation, reason = "octets, and lengths of at most ten")]
static DECODE: [Step; 1 << STEP] = {
    let mut table = [Step { symbols: [0; 2], first: 0, both: 0 }; 1 << STEP];
    let mut bits = 0;
    while bits < 1 << STEP {
        let (symbol, length) = short(bits, STEP);
        if length > 0 {
            let left = STEP - length;
            let (second, more) = short(bits & ((1 << left) - 1), left);
            let symbols = [symbol as u8, second as u8];
            table[bits] = Step { symbols, first: length as u8, both: (length + more) as u8 };
        }
        bits += 1;
    }
    table
};

/// The symbol that the lowest `width` of `bits` begin with, and the length of its code; a length of 0
/// when there is none that is so short.
const fn short(bits: usize, width: usize) -> (u16, usize) {
    let mut length = 5;
    while length <= width {
        let above = (bits >> (width - length)).wrapping_sub(CODE.first[length] as usize);
        if above < CODE.count[length] as usize {
            return (CODE.symbols[CODE.place[length] + above], length);
        }
        length += 1;
    }
    (0, 0)
}

/// Decodes `input` and appends it to `out`.
pub(super) fn decode(mut input: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let start = out.len();
    // The shortest code has five bits, and a step writes two octets.
    out.resize(start + input.len() * 8 / 5 + 2, 0);
    let mut window = Window { bits: 0, valid: 0 };
    let mut at = start;
    while let Some(next) = input.first_chunk::<8>() {
        input = &input[window.fill(*next)..];
        while window.valid as usize >= LONGEST {
            let step = DECODE[window.next()];
            if step.first == 0 {
                let (symbol, length) = window.long()?;
                out[at] = symbol;
                at += 1;
                window.skip(length);
            } else {
                out[at..at + 2].copy_from_slice(&step.symbols);
                at += 1 + usize::from(step.both > step.first);
                window.skip(u32::from(step.both));
            }
        }
    }
    loop {
        while let (Some((&next, rest)), 0..=56) = (input.split_first(), window.valid) {
            window.push(next);
            input = rest;
        }
        let step = DECODE[window.next()];
        let (symbol, length) = match step.first {
            0 => window.long()?,
            length => (step.symbols[0], u32::from(length)),
        };
        if length > window.valid {
            break;
        }
        out[at] = symbol;
        at += 1;
        window.skip(length);
    }
    out.truncate(at);
    if window.is_padding() { Ok(()) } else { Err(HpackError::Huffman) }
}

/// The next bits of the input, the first one highest.
struct Window {
    bits: u64,
    /// How many were taken from the input. What is below them is zero, or already what comes next.
    valid: u32,
}

impl Window {
    /// Takes as many whole octets as there is room for and returns how many.
    fn fill(&mut self, next: [u8; 8]) -> usize {
        self.bits |= u64::from_be_bytes(next) >> self.valid;
        let octets = (63 - self.valid) / 8;
        self.valid += octets * 8;
        octets as usize
    }

    fn push(&mut self, octet: u8) {
        self.bits |= u64::from(octet) << (56 - self.valid);
        self.valid += 8;
    }

    /// The first ten bits.
    fn next(&self) -> usize {
        usize::try_from(self.bits >> (64 - STEP)).expect("it has ten bits")
    }

    fn skip(&mut self, length: u32) {
        self.bits <<= length;
        self.valid -= length;
    }

    /// The symbol whose code has more than ten bits, and the length of its code.
    #[cold]
    fn long(&self) -> Result<(u8, u32), HpackError> {
        for length in STEP + 1..=LONGEST {
            let code = usize::try_from(self.bits >> (64 - length)).expect("it has 30 bits at most");
            let above = code.wrapping_sub(CODE.first[length] as usize);
            if above < CODE.count[length] as usize {
                let symbol = CODE.symbols[CODE.place[length] + above];
                let length = u32::try_from(length).expect("it is at most 30");
                return Ok((u8::try_from(symbol).map_err(|_| HpackError::Huffman)?, length));
            }
        }
        Err(HpackError::Huffman)
    }

    /// Whether what is left is less than an octet of ones.
    fn is_padding(&self) -> bool {
        self.valid < 8 && self.bits.leading_ones() >= self.valid
    }
}

/// How many octets `text` takes when encoded.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|octet| usize::from(LENGTHS[usize::from(*octet)])).sum();
    bits.div_ceil(8)
}

/// Encodes `text` and appends it to `out`.
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    // The lowest `waiting` bits of `bits` are still to be written.
    let (mut bits, mut waiting) = (0_u64, 0_u32);
    for octet in text {
        let (code, length) = ENCODE[usize::from(*octet)];
        bits = bits << length | u64::from(code);
        waiting += u32::from(length);
        if waiting >= 32 {
            waiting -= 32;
            let word = u32::try_from(bits >> waiting & 0xffff_ffff).expect("it is masked");
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    if waiting > 0 {
        let padded = bits << (64 - waiting) | u64::MAX >> waiting;
        out.extend_from_slice(&padded.to_be_bytes()[..waiting.div_ceil(8) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::{CODE, EOS, HpackError, decode, encode, encoded_len};

    fn decoded(input: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut out = b"before".to_vec();
        decode(input, &mut out).map(|()| out.split_off(6))
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        let expected: [(usize, u32); 9] = [
            (usize::from(b'0'), 0x0),
            (usize::from(b'a'), 0x3),
            (usize::from(b' '), 0x14),
            (usize::from(b'X'), 0xfc),
            (usize::from(b'~'), 0x1ffd),
            (0, 0x1ff8),
            (10, 0x3fff_fffc),
            (255, 0x3ff_ffee),
            (EOS, 0x3fff_ffff),
        ];
        for (symbol, code) in expected {
            assert_eq!(CODE.codes[symbol], code, "{symbol}");
        }
    }

    #[test]
    fn strings_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        let twice: Vec<u8> = (0..=255).rev().flat_map(|octet| [octet, b'a', octet]).collect();
        for text in [&b""[..], b"a", b"www.example.com", &all, &twice, &[10; 40], &[b'0'; 99]] {
            let mut encoded = Vec::new();
            encode(text, &mut encoded);
            assert_eq!(encoded.len(), encoded_len(text));
            assert_eq!(decoded(&encoded).as_deref(), Ok(text));
        }
    }

    #[test]
    fn every_pair_of_octets_comes_back() {
        for first in 0..=255 {
            for second in 0..=255 {
                let mut encoded = Vec::new();
                encode(&[first, second], &mut encoded);
                assert_eq!(decoded(&encoded).as_deref(), Ok(&[first, second][..]));
            }
        }
    }

    #[test]
    fn bad_ends_are_refused() {
        let cases: [(&str, &[u8]); 7] = [
            ("padding of zeros", &[0x18]),
            ("padding of eight ones", &[0x1f, 0xff]),
            ("only padding", &[0xff]),
            ("EOS", &[0xff, 0xff, 0xff, 0xff]),
            ("EOS after a symbol", &[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f]),
            ("a code that breaks off", &[0x1f, 0xfe]),
            ("zeros after a code", &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01]),
        ];
        for (why, input) in cases {
            assert_eq!(decoded(input), Err(HpackError::Huffman), "{why}");
        }
        assert_eq!(decoded(&[0x1f]).as_deref(), Ok(&b"a"[..]));
    }
}
