//! Bodies from bytes: by length, in chunks, until the connection closes, or without an end in a
//! tunnel. Chunk sizes are hexadecimal digits and nothing else; extensions are skipped but must be
//! made of what they may be made of, because servers that read them loosely were smuggled past
//! (CVE-2025-55315).

use super::parse::Framing;
use crate::http::{ConnectionError, ErrorCode};

/// How many bytes of chunk framing may come beyond what honest chunks need (16 bytes each, and as
/// many as twice their data), before it is abuse.
const OVERHEAD_BYTES_MAX: u64 = 16 * 1024;
/// What one chunk's size line may have without being counted.
const LINE_BYTES_FREE: u64 = 16;
/// More digits than these are refused; fewer can not overflow.
const SIZE_DIGITS_MAX: u8 = 15;

/// How the rest of the incoming message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// Nothing is left.
    Done,
    /// So many bytes are left, at least one.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything up to the end of the connection.
    ToClose,
    /// The message was refused: whatever comes is thrown away.
    Refused,
}

/// Where in the chunks the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    left: u64,
    digits: u8,
    overhead: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read<'i> {
    /// More bytes are needed.
    More,
    /// A part of the body, and whether it is the last; not empty unless it is.
    Data(&'i [u8], bool),
    /// The chunks are over and there are trailers, which begin at the front of the input.
    Trailers,
}

impl From<Framing> for Reader {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(left) => Self::Length(left),
            Framing::Chunked => {
                Self::Chunked(Chunks { at: At::Size, left: 0, digits: 0, overhead: 0 })
            }
            Framing::ToClose => Self::ToClose,
        }
    }
}

impl Reader {
    /// How much is left at least, without framing.
    pub(super) fn left(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(chunks) => chunks.left,
            Self::Done | Self::ToClose | Self::Refused => 0,
        }
    }

    /// Takes the next part from the front of `input`.
    ///
    /// # Errors
    /// When chunks are malformed.
    pub(super) fn read<'i>(&mut self, input: &mut &'i [u8]) -> Result<Read<'i>, ConnectionError> {
        if input.is_empty() {
            return Ok(Read::More);
        }
        match self {
            Self::Done => Ok(Read::More),
            Self::Length(left) => {
                let data = take(input, *left);
                *left -= data.len() as u64;
                let end = *left == 0;
                if end {
                    *self = Self::Done;
                }
                Ok(Read::Data(data, end))
            }
            Self::Chunked(chunks) => {
                let read = chunks.read(input)?;
                if matches!(read, Read::Data(_, true)) {
                    *self = Self::Done;
                }
                Ok(read)
            }
            Self::ToClose => Ok(Read::Data(take(input, u64::MAX), false)),
            Self::Refused => {
                take(input, u64::MAX);
                Ok(Read::More)
            }
        }
    }
}

/// Cuts up to `most` bytes off the front.
fn take<'i>(input: &mut &'i [u8], most: u64) -> &'i [u8] {
    let length = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (data, rest) = input.split_at(length);
    *input = rest;
    data
}

const fn malformed(what: &'static str) -> ConnectionError {
    ConnectionError::Protocol(ErrorCode::PROTOCOL_ERROR, what)
}

impl Chunks {
    fn read<'i>(&mut self, input: &mut &'i [u8]) -> Result<Read<'i>, ConnectionError> {
        loop {
            if self.at == At::Data {
                let data = take(input, self.left);
                self.left -= data.len() as u64;
                if self.left > 0 {
                    return Ok(if data.is_empty() { Read::More } else { Read::Data(data, false) });
                }
                self.at = At::DataCr;
                // Saves a further event for the end where it is here already.
                let end = input.strip_prefix(b"\r\n0\r\n\r\n");
                if let Some(rest) = end {
                    *input = rest;
                }
                return Ok(Read::Data(data, end.is_some()));
            }
            if self.at == At::Trailers {
                return Ok(match *input {
                    [b'\r', b'\n', rest @ ..] => {
                        *input = rest;
                        Read::Data(&[], true)
                    }
                    [] | [b'\r'] => Read::More,
                    _ => Read::Trailers,
                });
            }
            let [byte, rest @ ..] = *input else { return Ok(Read::More) };
            self.step(*byte)?;
            *input = rest;
        }
    }

    /// One byte of framing.
    fn step(&mut self, byte: u8) -> Result<(), ConnectionError> {
        self.overhead += 1;
        match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX {
                    return Err(malformed("a chunk's size is too long"));
                }
                self.left = self.left * 16 + u64::from(hex(byte));
            }
            (At::Size, b';') if self.digits > 0 => self.at = At::Extension,
            (At::Size, b'\r') if self.digits > 0 => self.at = At::SizeEnd,
            (At::Size, _) => return Err(malformed("a chunk's size is no number")),
            (At::Extension, b'\r') => self.at = At::SizeEnd,
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => {}
            (At::Extension, _) => return Err(malformed("a chunk's extension is malformed")),
            (At::SizeEnd, b'\n') => {
                let honest = LINE_BYTES_FREE.saturating_add(self.left.saturating_mul(2));
                self.overhead = self.overhead.saturating_sub(honest);
                self.digits = 0;
                self.at = if self.left == 0 { At::Trailers } else { At::Data };
            }
            (At::DataCr, b'\r') => self.at = At::DataLf,
            (At::DataLf, b'\n') => self.at = At::Size,
            _ => return Err(malformed("a chunk ends with no line end")),
        }
        if self.overhead > OVERHEAD_BYTES_MAX {
            return Err(ConnectionError::Abuse("bytes of chunk framing"));
        }
        Ok(())
    }
}

fn hex(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => (byte | 0x20) - b'a' + 10,
    }
}
