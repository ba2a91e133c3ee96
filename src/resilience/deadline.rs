//! `grpc-timeout` read and written (gRPC over HTTP/2, "Requests": at most 8 digits and a unit), and
//! what is left of a deadline. A value that is no timeout is an error and never "no deadline", so
//! that a request which asked for a limit can not run without one.

use std::time::{Duration, Instant};

/// The most digits that a `TimeoutValue` has.
const DIGITS_MAX: usize = 8;
/// The greatest `TimeoutValue`.
const VALUE_MAX: u64 = 99_999_999;
/// The units with their nanoseconds, finest first.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Why a header value is no `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutError {
    /// It has no digit, more than eight, or something else among them.
    #[error("grpc-timeout needs 1 to 8 digits before its unit")]
    Digits,
    /// It does not end in `H`, `M`, `S`, `m`, `u` or `n`.
    #[error("grpc-timeout ends in none of H, M, S, m, u, n")]
    Unit,
}

/// Reads a `grpc-timeout` header. Zero is accepted: it is a deadline that has passed.
///
/// # Errors
/// When the value is not 1 to 8 digits and a unit.
pub fn parse_grpc_timeout(value: &[u8]) -> Result<Duration, TimeoutError> {
    let (unit, digits) = value.split_last().ok_or(TimeoutError::Digits)?;
    let (_, nanos) = UNITS.iter().find(|(name, _)| name == unit).ok_or(TimeoutError::Unit)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return Err(TimeoutError::Digits);
    }
    let number = digits.iter().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    Ok(from_nanos(number * nanos))
}

/// A `grpc-timeout` as it is sent, without an allocation.
#[derive(Debug, Clone, Copy)]
pub struct GrpcTimeout {
    text: [u8; DIGITS_MAX + 1],
    start: usize,
}

impl GrpcTimeout {
    /// What is left of a deadline, in the finest unit that holds it in eight digits and rounded down,
    /// so that a deadline only shrinks from hop to hop (by a hundred-thousandth at most). Nothing left
    /// is `0n`; more than 11,400 years is `99999999H`.
    pub fn new(left: Duration) -> Self {
        // What does not fit has some 584 years: the same in hours.
        let (mut number, unit) = match u64::try_from(left.as_nanos()) {
            Ok(nanos) => {
                let fitting = UNITS.iter().find_map(|(name, unit)| {
                    let number = nanos / u64::try_from(*unit).unwrap_or(u64::MAX);
                    (number <= VALUE_MAX).then_some((number, *name))
                });
                fitting.unwrap_or((VALUE_MAX, b'H'))
            }
            Err(_) => ((left.as_secs() / 3600).min(VALUE_MAX), b'H'),
        };
        let mut text = [b'0'; DIGITS_MAX + 1];
        text[DIGITS_MAX] = unit;
        let mut start = DIGITS_MAX;
        while number > 0 || start == DIGITS_MAX {
            start -= 1;
            text[start] += u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
        }
        Self { text, start }
    }

    /// The header's value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// When a timeout that starts at `now` ends; `None` when that is beyond what the clock can say, which
/// is as good as never.
pub fn after(now: Instant, timeout: Duration) -> Option<Instant> {
    now.checked_add(timeout)
}

/// The earlier of two deadlines, where `None` is never.
pub fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What is left at `now`; `None` when the deadline has passed.
pub fn left(deadline: Instant, now: Instant) -> Option<Duration> {
    deadline.checked_duration_since(now).filter(|left| !left.is_zero())
}

fn from_nanos(nanos: u128) -> Duration {
    let second = 1_000_000_000;
    let seconds = u64::try_from(nanos / second).unwrap_or(u64::MAX);
    Duration::new(seconds, u32::try_from(nanos % second).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{GrpcTimeout, TimeoutError, after, earlier, left, parse_grpc_timeout};

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("1n", Ok(Duration::from_nanos(1))),
            ("20u", Ok(Duration::from_micros(20))),
            ("250m", Ok(Duration::from_millis(250))),
            ("3S", Ok(Duration::from_secs(3))),
            ("4M", Ok(Duration::from_secs(240))),
            ("5H", Ok(Duration::from_secs(18_000))),
            ("0n", Ok(Duration::ZERO)),
            ("00000001S", Ok(Duration::from_secs(1))),
            ("99999999H", Ok(Duration::from_secs(99_999_999 * 3600))),
            ("", Err(TimeoutError::Digits)),
            ("S", Err(TimeoutError::Digits)),
            ("000000001S", Err(TimeoutError::Digits)),
            ("999999999H", Err(TimeoutError::Digits)),
            ("-1S", Err(TimeoutError::Digits)),
            ("+1S", Err(TimeoutError::Digits)),
            ("1.5S", Err(TimeoutError::Digits)),
            (" 1S", Err(TimeoutError::Digits)),
            ("\u{661}S", Err(TimeoutError::Digits)),
            ("1", Err(TimeoutError::Unit)),
            ("1s", Err(TimeoutError::Unit)),
            ("1h", Err(TimeoutError::Unit)),
            ("1S ", Err(TimeoutError::Unit)),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_left_is_written_in_the_finest_unit_that_fits() {
        for (left, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(5), "5000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::from_secs(60 * 100_000_000), "1666666H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(GrpcTimeout::new(left).as_bytes(), expected.as_bytes(), "{left:?}");
        }
    }

    #[test]
    fn a_deadline_never_grows_when_it_is_passed_on() {
        let mut nanos = 1_u64;
        while nanos < u64::MAX / 7 {
            let left = Duration::from_nanos(nanos);
            let read = parse_grpc_timeout(GrpcTimeout::new(left).as_bytes()).expect("our own");
            assert!(read <= left && left - read <= left / 99_999, "{left:?} {read:?}");
            nanos = nanos * 7 + 3;
        }
    }

    #[test]
    fn what_is_left_ends_at_the_deadline() {
        let now = tokio::time::Instant::now().into_std();
        let second = Duration::from_secs(1);
        let deadline = after(now, second).expect("a second");
        assert_eq!(left(deadline, now), Some(second));
        assert_eq!(left(deadline, deadline), None);
        assert_eq!(left(now, deadline), None);
        assert_eq!(after(now, Duration::MAX), None);
        assert_eq!(earlier(Some(deadline), None), Some(deadline));
        assert_eq!(earlier(Some(deadline), Some(now)), Some(now));
        assert_eq!(earlier(None, None), None);
    }
}
