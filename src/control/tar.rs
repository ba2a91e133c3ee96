//! Archives that every `tar` reads, as far as backups need them: regular files with names, modes and
//! bytes, hashed as they pass.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};

/// Bytes of a block; all of an archive is in blocks.
const BLOCK: usize = 512;
/// Bytes of a name.
const NAME_MAX: usize = 100;
/// The largest size that the header's octal digits hold.
const SIZE_MAX: u64 = 0o77_777_777_777;

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Relative, with `/` between its parts.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// In bytes.
    pub size: u64,
}

/// Writes a file into an archive and returns the SHA-256 of its bytes.
///
/// # Errors
/// When reading or writing fails, the file has not that size, or the name or size is too long.
pub(super) fn write(
    archive: &mut impl Write,
    header: &Header,
    modified: u64,
    bytes: &mut impl Read,
) -> io::Result<[u8; 32]> {
    archive.write_all(&encode(header, modified)?)?;
    let mut hashed = Hashed { inner: bytes.take(header.size), hash: Context::new(&SHA256) };
    let copied = io::copy(&mut hashed, archive)?;
    if copied != header.size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file grew shorter"));
    }
    archive.write_all(&vec![0; padding(header.size)])?;
    Ok(hashed.sum())
}

/// Ends an archive.
///
/// # Errors
/// When writing fails.
pub(super) fn finish(archive: &mut impl Write) -> io::Result<()> {
    archive.write_all(&[0; 2 * BLOCK])
}

/// Reads an archive: `each` gets a file's header and its bytes. Returns the SHA-256 of each.
///
/// # Errors
/// When reading fails, `each` does, or it is no such archive or not whole.
pub(super) fn read(
    archive: &mut impl Read,
    mut each: impl FnMut(&Header, &mut dyn Read) -> io::Result<()>,
) -> io::Result<Vec<(Header, [u8; 32])>> {
    let mut found = Vec::new();
    loop {
        let mut block = [0; BLOCK];
        archive.read_exact(&mut block)?;
        if block == [0; BLOCK] {
            return Ok(found);
        }
        let header = decode(&block)?;
        let mut hashed = Hashed { inner: archive.take(header.size), hash: Context::new(&SHA256) };
        each(&header, &mut hashed)?;
        io::copy(&mut hashed, &mut io::sink())?;
        if hashed.inner.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let sum = hashed.sum();
        archive.read_exact(&mut block[..padding(header.size)])?;
        found.push((header, sum));
    }
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Context,
}

impl<R> Hashed<R> {
    fn sum(self) -> [u8; 32] {
        let mut sum = [0; 32];
        sum.copy_from_slice(self.hash.finish().as_ref());
        sum
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Bytes from the end of a file to the next block.
fn padding(size: u64) -> usize {
    let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    usize::try_from(size.wrapping_neg() % block).unwrap_or_default()
}

fn encode(header: &Header, modified: u64) -> io::Result<[u8; BLOCK]> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    if header.name.len() > NAME_MAX || header.size > SIZE_MAX {
        return Err(invalid("a name or file too long for an archive"));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, &header.name);
    put(100, &format!("{:07o}", header.mode & 0o7777));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", header.size));
    put(136, &format!("{:011o}", modified.min(SIZE_MAX)));
    // The sum counts itself as blanks.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\u{0}00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let sum = format!("{sum:06o}\u{0} ");
    block[148..156].copy_from_slice(sum.as_bytes());
    Ok(block)
}

fn decode(block: &[u8; BLOCK]) -> io::Result<Header> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no archive, or a damaged one");
    let text = |from: usize, to: usize| {
        let field = &block[from..to];
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map_err(|_| invalid())
    };
    let number = |from, to| u64::from_str_radix(text(from, to)?.trim(), 8).map_err(|_| invalid());
    let ahead = block[..148].iter().chain(&block[156..]).map(|byte| u64::from(*byte));
    let sum = ahead.sum::<u64>() + 8 * u64::from(b' ');
    let is_file = matches!(block[156], b'0' | 0);
    if number(148, 156)? != sum || !is_file || &block[257..262] != b"ustar" {
        return Err(invalid());
    }
    let name = text(0, NAME_MAX)?.to_owned();
    let mode = u32::try_from(number(100, 108)?).map_err(|_| invalid())?;
    Ok(Header { name, mode, size: number(124, 136)? })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read as _};

    use super::{Header, finish, read, write};
    use crate::spiffe::sha256;

    fn header(name: &str, size: u64) -> Header {
        Header { name: name.to_owned(), mode: 0o600, size }
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, bytes) in files {
            let size = u64::try_from(bytes.len()).expect("small");
            let sum =
                write(&mut archive, &header(name, size), 1, &mut &bytes[..]).expect("written");
            assert_eq!(sum, sha256(bytes));
        }
        finish(&mut archive).expect("written");
        archive
    }

    #[test]
    fn what_is_put_in_comes_out() {
        let large = vec![7; 1000];
        let files: [(&str, &[u8]); 4] =
            [("a.pem", b"x"), ("sub/empty", b""), ("b", &large), ("even", &large[..512])];
        let archive = archive(&files);
        let mut seen = Vec::new();
        let found = read(&mut archive.as_slice(), |header, bytes| {
            let mut all = Vec::new();
            bytes.read_to_end(&mut all)?;
            seen.push((header.name.clone(), all));
            Ok(())
        });
        let found = found.expect("read");
        for (((header, sum), (name, bytes)), (seen_name, seen)) in
            found.iter().zip(files).zip(&seen)
        {
            assert_eq!((header.name.as_str(), header.mode), (name, 0o600));
            assert_eq!((seen_name.as_str(), seen.as_slice(), *sum), (name, bytes, sha256(bytes)));
        }
        // Hashed even when nobody reads the bytes.
        let unread = read(&mut archive.as_slice(), |_, _| Ok(())).expect("read");
        assert_eq!(unread, found);
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_refused() {
        let archive = archive(&[("a", &[1; 600])]);
        for end in [0, 100, 512, 800, 1112, 1536] {
            assert!(read(&mut &archive[..end], |_, _| Ok(())).is_err(), "{end}");
        }
        let mut other = archive.clone();
        other[0] = b'b';
        let error = read(&mut other.as_slice(), |_, _| Ok(())).expect_err("another name");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let long = header(&"x".repeat(101), 0);
        assert!(write(&mut Vec::new(), &long, 0, &mut io::empty()).is_err());
        assert!(write(&mut Vec::new(), &header("a", 2), 0, &mut &b"x"[..]).is_err());
        let mut one = Vec::new();
        (&b"x"[..]).read_to_end(&mut one).expect("read");
    }
}
