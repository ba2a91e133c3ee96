//! Times, shares and counts as people read them at a glance.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use crate::{resource::workload, spiffe::CREDENTIAL_PATH, units};

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

/// The same, from `least` to `most`.
pub(super) fn within(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let asked = duration(text)?;
        if asked < duration(least)? || asked > duration(most)? {
            return Err(format!("not from {least} to {most}"));
        }
        Ok(asked)
    }
}

/// What is left of a time that was asked for a moment ago: the moment is not to be seen.
pub(super) fn left(duration: Duration) -> String {
    age(duration + Duration::from_millis(999))
}

/// The address of a server, HOST:PORT. Port 0 is none.
pub(super) fn server(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':');
    let whole = parts
        .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|it| it > 0));
    if whole { Ok(text.to_owned()) } else { Err("no HOST:PORT".to_owned()) }
}

/// Whether it can be a host's name or address; an IPv6 address may stand in brackets.
fn is_host(text: &str) -> bool {
    let text = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(text);
    rustls_pki_types::ServerName::try_from(text).is_ok()
}

/// The name or address by which others reach this machine.
pub(super) fn reachable_host(text: &str) -> Result<String, String> {
    match workload::address(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(wrong) => Err(format!("{}; name {}", wrong.what, wrong.hint)),
    }
}

/// Where spans go.
pub(super) fn collector(text: &str) -> Result<String, String> {
    let uri = text.parse::<http::Uri>().ok();
    let whole = uri.is_some_and(|uri| {
        uri.host().is_some_and(|host| !host.is_empty())
            && matches!(uri.scheme_str(), Some("http" | "https"))
    });
    if whole { Ok(text.to_owned()) } else { Err("no URL such as http://127.0.0.1:4317".to_owned()) }
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

    use super::{
        age, clock_time, collector, count, latency, left, reachable_host, server, who, within,
    };

    #[test]
    fn what_a_flag_names_is_looked_at_before_it_is_used() {
        type Parse = fn(&str) -> Result<String, String>;
        for (parse, text, expected) in [
            (server as Parse, "a:1", true),
            (server, "[::1]:15010", true),
            (server, "a:0", false),
            (server, ":1", false),
            (server, "a", false),
            (server, "a b:1", false),
            (reachable_host, "10.0.0.1", true),
            (reachable_host, "::1", true),
            (reachable_host, "mesh.example", true),
            (reachable_host, "0.0.0.0", false),
            (reachable_host, "::", false),
            (reachable_host, "239.1.1.1", false),
            (reachable_host, "10.1", false),
            (reachable_host, "a b", false),
            (collector, "http://127.0.0.1:4317", true),
            (collector, "https://otel.example/v1", true),
            (collector, "otel:4317", false),
            (collector, "http://", false),
        ] {
            assert_eq!(parse(text).is_ok(), expected, "{text}");
        }
        let ttl = within("1s", "720h");
        for (text, expected) in
            [("1s", true), ("720h", true), ("0s", false), ("721h", false), ("soon", false)]
        {
            assert_eq!(ttl(text).is_ok(), expected, "{text}");
        }
        assert_eq!(left(Duration::from_millis(3_599_990)), "60m");
    }

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
