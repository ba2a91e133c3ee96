//! Times, shares and counts as people read them at a glance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use crate::{spiffe::CREDENTIAL_PATH, units};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// `45s`, `12m`, `3h`, `9d`, `2y`: the largest unit of which there are two, rounded down.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (size, unit) = match seconds {
        0..120 => (1, "s"),
        120..7200 => (MINUTE, "m"),
        7200..172_800 => (HOUR, "h"),
        172_800..63_072_000 => (DAY, "d"),
        _ => (YEAR, "y"),
    };
    format!("{}{unit}", seconds / size)
}

/// `0.4ms`, `4ms`, `1.2s`
pub(super) fn latency(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms < 1.0 => format!("{ms:.1}ms"),
        ms if ms < 1000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}

/// A duration of the command line: `30s`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::duration::parse(text).map_err(|error| format!("{}; {}", error.message, error.expected))
}

/// Whoever did something, as people call him: a credential's name, or a whole identity.
pub(super) fn who(identity: &str) -> &str {
    identity.split_once(CREDENTIAL_PATH).map_or(identity, |(_, name)| name)
}

/// `1 problem`, `2 problems`
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// A point in time of the API; `None` for one that is absent or before 1970.
pub(super) fn time(timestamp: Option<&Timestamp>) -> Option<SystemTime> {
    let timestamp = timestamp?;
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanoseconds = u32::try_from(timestamp.nanos).ok()?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// The time of a day, in UTC: `03:04:20 UTC`; with its date when that is not `now`'s.
pub(super) fn clock_time(at: SystemTime, now: SystemTime) -> String {
    let text = Timestamp::from(at).to_string();
    let (date, rest) = text.split_once('T').unwrap_or(("", text.as_str()));
    let time = rest.get(..8).unwrap_or(rest);
    match Timestamp::from(now).to_string().starts_with(date) {
        true => format!("{time} UTC"),
        false => format!("{date} {time} UTC"),
    }
}

/// As JSON has it: `2026-11-23T12:00:00Z`; null when absent.
pub(super) fn time_json(timestamp: Option<&Timestamp>) -> serde_json::Value {
    timestamp.map_or(serde_json::Value::Null, |timestamp| timestamp.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{age, clock_time, count, latency, who};

    #[test]
    fn a_moment_of_today_needs_no_date() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_402_060);
        let later = |seconds| at + Duration::from_secs(seconds);
        assert_eq!(clock_time(at, later(60)), "02:47:40 UTC");
        assert_eq!(clock_time(at, later(86_400)), "2026-11-23 02:47:40 UTC");
    }

    #[test]
    fn a_credential_is_called_by_its_name() {
        for (identity, expected) in [
            ("spiffe://mesh.local/credential/admin", "admin"),
            ("spiffe://mesh.local/ns/a/svc/b", "spiffe://mesh.local/ns/a/svc/b"),
            ("", ""),
        ] {
            assert_eq!(who(identity), expected);
        }
    }

    #[test]
    fn ages_have_one_unit() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (7200, "2h"),
            (172_800, "2d"),
            (86_400 * 400, "400d"),
            (86_400 * 3650, "10y"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn latencies_have_no_more_digits_than_they_mean() {
        for (milliseconds, expected) in
            [(0.44, "0.4ms"), (4.2, "4ms"), (999.0, "999ms"), (1249.0, "1.2s")]
        {
            assert_eq!(latency(milliseconds), expected);
        }
        assert_eq!(
            (count(1, "problem"), count(2, "problem")),
            ("1 problem".into(), "2 problems".into())
        );
    }
}
