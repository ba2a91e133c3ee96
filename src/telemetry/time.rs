//! Wall-clock times as text, without a calendar library.

use std::{fmt, time::Duration};

/// A time since the Unix epoch, displayed in UTC as RFC 3339 has it, to the microsecond:
/// `2026-11-23T12:04:00.123000Z`.
#[derive(Debug, Clone, Copy)]
pub struct Rfc3339(pub Duration);

impl Rfc3339 {
    /// The text; years from 10000 on are cut.
    pub(super) fn bytes(&self) -> [u8; 27] {
        let seconds = self.0.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut put = |end: usize, digits: usize, mut value: u64| {
            for place in text[end - digits..end].iter_mut().rev() {
                *place = b'0' + u8::try_from(value % 10).unwrap_or_default();
                value /= 10;
            }
        };
        put(4, 4, year);
        put(7, 2, month);
        put(10, 2, day);
        put(13, 2, seconds / 3_600 % 24);
        put(16, 2, seconds / 60 % 60);
        put(19, 2, seconds % 60);
        put(26, 6, self.0.subsec_micros().into());
        text
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.bytes()).unwrap_or_default())
    }
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar, counted in
/// eras of 400 years that begin on a first of March (Howard Hinnant, `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Rfc3339;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_795_435_440, "2026-11-23T12:04:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
        ] {
            assert_eq!(Rfc3339(Duration::from_secs(seconds)).to_string(), expected);
        }
        let micros = Duration::from_micros(1_000_001);
        assert_eq!(Rfc3339(micros).to_string(), "1970-01-01T00:00:01.000001Z");
    }
}
