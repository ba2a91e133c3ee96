//! Sizes in bytes, in binary units only: `64KiB` has one meaning, `64KB` has two.

use std::{fmt, str::FromStr};

use super::UnitError;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize {
    bytes: u64,
}

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const ERROR: UnitError =
    UnitError::new("not a size", "a whole number with KiB, MiB or GiB (or B), like 64KiB");

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self { bytes }
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    /// Reads `64KiB`, `10MiB`, `1GiB`, `512B`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .or_else(|| Some((text.strip_suffix('B')?, 1)))
            .ok_or(ERROR)?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ERROR);
        }
        let number = number.parse::<u64>().map_err(|_| ERROR)?;
        Ok(Self { bytes: number.checked_mul(factor).ok_or(ERROR)? })
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole =
            |(_, factor): &&(&str, u64)| self.bytes != 0 && self.bytes.is_multiple_of(*factor);
        match UNITS.iter().find(whole) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.bytes / factor),
            None => write!(f, "{}B", self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn sizes_are_read_and_written_in_binary_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("512B", 512),
            ("64KiB", 65_536),
            ("10MiB", 10_485_760),
            ("1GiB", 1 << 30),
            ("1025B", 1025),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
            assert_eq!(ByteSize::new(bytes).to_string(), text);
        }
        assert_eq!(ByteSize::new(2048).to_string(), "2KiB");
    }

    #[test]
    fn other_sizes_are_refused() {
        for text in [
            "",
            "64",
            "64KB",
            "64kB",
            "64K",
            "64kib",
            "1.5MiB",
            "-1B",
            "+1B",
            " 1B",
            "1 KiB",
            "KiB",
            "B",
            "18446744073709551615GiB",
            "99999999999999999999B",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
