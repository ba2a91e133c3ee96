//! Durations as Gateway API writes them (GEP-2257): `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, nothing else,
//! so that a manifest means the same here as with any other implementation.

use std::time::Duration;

use super::UnitError;

/// The longest duration that `format` writes: 99999h59m59s999ms.
pub const DURATION_MAX: Duration = Duration::from_millis(MILLISECONDS_MAX);

const MILLISECONDS_MAX: u64 = ((99_999 * 60 + 59) * 60 + 59) * 1000 + 999;
const PARTS_MAX: usize = 4;
const DIGITS_MAX: usize = 5;
/// Longest first where one unit begins another.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

const ERROR: UnitError = UnitError::new(
    "not a duration",
    "a whole number with h, m, s or ms, up to four of them, like 250ms or 1h30m",
);

/// Reads `250ms`, `1h30m`, `0s`. Parts may come in any order and repeat, as the expression of
/// GEP-2257 permits.
///
/// # Errors
/// When the text is no such duration: a sign, a fraction, a missing unit, a space, `us`, `d` …
pub fn parse(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text;
    let mut milliseconds = 0;
    for _ in 0..PARTS_MAX {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > DIGITS_MAX {
            return Err(ERROR);
        }
        let (number, tail) = rest.split_at(digits);
        let number = number.parse::<u64>().map_err(|_| ERROR)?;
        let (unit, length) = UNITS.iter().find(|(unit, _)| tail.starts_with(unit)).ok_or(ERROR)?;
        milliseconds += number * length;
        rest = &tail[unit.len()..];
        if rest.is_empty() {
            return Ok(Duration::from_millis(milliseconds));
        }
    }
    Err(ERROR)
}

/// Writes a duration with its largest units first and without empty ones: `1h30m`, `1s500ms`, `0s`.
/// What is finer than a millisecond is cut off, and what is longer than [`DURATION_MAX`] becomes
/// that.
pub fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(MILLISECONDS_MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, length) in UNITS.iter().rev() {
        if rest >= *length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{DURATION_MAX, format, parse};

    #[test]
    fn durations_are_those_of_gateway_api() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("0ms", 0),
            ("0h0m0s0ms", 0),
            ("1h", 3_600_000),
            ("30m", 1_800_000),
            ("10s", 10_000),
            ("500ms", 500),
            ("2h30m", 9_000_000),
            ("150m", 9_000_000),
            ("7230s", 7_230_000),
            ("1h30m10s", 5_410_000),
            ("10s30m1h", 5_410_000),
            ("100ms200ms300ms", 600),
            ("99999h99999m99999s99999ms", 366_096_438_999),
        ] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(parse(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            " ",
            "1",
            "s",
            "ms",
            "1m1",
            "1d",
            "1H",
            "1 s",
            " 1s",
            "1s ",
            "-1s",
            "+1s",
            "1.5s",
            "1us",
            "1ns",
            "1µs",
            "1h30m10s20ms50h",
            "999999h",
            "1,5s",
            "1mss",
            "1sm",
            "0",
            "１s",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().starts_with("not a duration; expected a whole"), "{text}");
        }
    }

    #[test]
    fn durations_are_written_shortly_and_read_back() {
        for (milliseconds, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1500, "1s500ms"),
            (60_000, "1m"),
            (5_400_000, "1h30m"),
            (3_600_001, "1h1ms"),
        ] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(format(duration), text);
            assert_eq!(parse(text), Ok(duration));
        }
        assert_eq!(format(Duration::from_micros(1999)), "1ms");
        assert_eq!(format(Duration::MAX), "99999h59m59s999ms");
        assert_eq!(parse(&format(Duration::MAX)), Ok(DURATION_MAX));
    }
}
