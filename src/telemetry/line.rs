//! A line of the access log: one JSON object, written field by field. A serializer that looks at every
//! value's type and formats every number by the general way costs as much as half the request.

use std::time::Duration;

use super::{
    record::{Attempt, Record},
    time::Rfc3339,
};
use crate::reason::Reason;

/// The name of a field that is not the first, as it stands in a line.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// What lines of a kind have in common: what is told of the request, of its only attempt, and of where
/// it went.
pub(super) struct Repeat {
    request: Vec<u8>,
    attempt: Vec<u8>,
    upstream: Vec<u8>,
}

impl Repeat {
    /// Of a record with one attempt at most.
    pub(super) fn of(record: &Record) -> Self {
        let mut repeat = Self { request: Vec::new(), attempt: Vec::new(), upstream: Vec::new() };
        request(&mut repeat.request, record);
        if let Some(only) = record.attempts.first() {
            attempt(&mut repeat.attempt, only);
        }
        upstream(&mut repeat.upstream, record);
        repeat
    }
}

/// Appends the line of `record`, with its end; `repeat` is that of its kind. What is not known is null.
pub(super) fn write(out: &mut Vec<u8>, record: &Record, repeat: Option<&Repeat>) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(&Rfc3339(record.started).bytes());
    out.push(b'"');
    plain(out, name!("direction"), record.direction.name());
    hex(out, name!("trace_id"), { record.span.trace_id }.into());
    hex(out, name!("span_id"), record.span.span_id.into());
    match repeat {
        Some(repeat) => out.extend_from_slice(&repeat.request),
        None => request(out, record),
    }
    out.extend_from_slice(name!("attempts"));
    out.push(b'[');
    for (index, one) in record.attempts.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match repeat {
            Some(repeat) => out.extend_from_slice(&repeat.attempt),
            None => attempt(out, one),
        }
        millis(out, name!("ms"), one.duration);
        out.push(b'}');
    }
    out.push(b']');
    text(out, name!("source_address"), &record.source_address);
    match repeat {
        Some(repeat) => out.extend_from_slice(&repeat.upstream),
        None => upstream(out, record),
    }
    match record.deadline {
        Some(deadline) => millis(out, name!("deadline_ms"), deadline),
        None => null(out, name!("deadline_ms")),
    }
    millis(out, name!("queue_ms"), record.queued);
    millis(out, name!("upstream_ms"), record.upstream);
    millis(out, name!("duration_ms"), record.duration);
    number(out, name!("request_bytes"), record.request_bytes);
    number(out, name!("response_bytes"), record.response_bytes);
    number(out, name!("revision"), record.revision);
    out.extend_from_slice(b"}\n");
}

fn request(out: &mut Vec<u8>, record: &Record) {
    known(out, name!("source"), &record.source);
    known(out, name!("destination"), &record.destination);
    number_if(out, name!("port"), u64::from(record.port));
    plain(out, name!("protocol"), record.protocol);
    text(out, name!("method"), record.method());
    text(out, name!("path"), record.path());
    text(out, name!("authority"), record.authority());
    known(out, name!("route"), record.route.as_ref().map_or("", |id| &id.route));
    known(out, name!("rule"), record.route.as_ref().map_or("", |id| &id.rule));
    known(out, name!("policy"), &record.policy);
    number_if(out, name!("http_status"), u64::from(record.http_status));
    known(out, name!("grpc_status"), record.grpc_status.map_or("", |code| code.name()));
    known(out, name!("reason"), record.reason.map_or("", Reason::name));
}

/// An attempt, but for its duration and its end.
fn attempt(out: &mut Vec<u8>, attempt: &Attempt) {
    out.extend_from_slice(b"{\"endpoint\":");
    quoted(out, &attempt.place.endpoint);
    known(out, name!("reason"), attempt.reason.map_or("", Reason::name));
}

fn upstream(out: &mut Vec<u8>, record: &Record) {
    known(out, name!("upstream_address"), record.upstream_address());
    out.extend_from_slice(name!("tls"));
    out.extend_from_slice(if record.tls { b"true" } else { b"false" });
}

#[inline]
fn null(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b"null");
}

/// A word of ours, which has nothing to escape.
#[inline]
fn plain(out: &mut Vec<u8>, name: &[u8], word: &str) {
    out.extend_from_slice(name);
    out.push(b'"');
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

#[inline]
fn text(out: &mut Vec<u8>, name: &[u8], text: &str) {
    out.extend_from_slice(name);
    quoted(out, text);
}

/// A text, or null for an empty one.
#[inline]
fn known(out: &mut Vec<u8>, name: &[u8], value: &str) {
    if value.is_empty() { null(out, name) } else { text(out, name, value) }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    // Nearly never is there any. All bytes are looked at whatever the first ones say, so that many are
    // looked at together.
    if text.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
        escaped(out, text);
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}

#[cold]
fn escaped(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        if is_escaped(byte) { escape(out, byte) } else { out.push(byte) }
    }
}

/// Whether it may not stand in a JSON text as it is (RFC 8259 section 7).
fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x8 => b'b',
        0xc => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&pair(byte));
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn pair(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]
}

/// The last so many digits of a number in base 16.
struct Hex<const N: usize>([u8; N]);

impl From<u128> for Hex<32> {
    fn from(number: u128) -> Self {
        Self(hex_of(&number.to_be_bytes()))
    }
}

impl From<u64> for Hex<16> {
    fn from(number: u64) -> Self {
        Self(hex_of(&number.to_be_bytes()))
    }
}

fn hex_of<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut text = [b'0'; N];
    for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
        digits.copy_from_slice(&pair(*byte));
    }
    text
}

#[inline]
fn hex<const N: usize>(out: &mut Vec<u8>, name: &[u8], number: Hex<N>) {
    out.extend_from_slice(name);
    out.push(b'"');
    out.extend_from_slice(&number.0);
    out.push(b'"');
}

#[inline]
fn number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A number, or null for 0.
#[inline]
fn number_if(out: &mut Vec<u8>, name: &[u8], value: u64) {
    if value == 0 { null(out, name) } else { number(out, name, value) }
}

/// Milliseconds to a microsecond: `4.0`, `73.952`.
#[inline]
fn millis(out: &mut Vec<u8>, name: &[u8], duration: Duration) {
    let micros = duration.subsec_micros();
    let millis = duration.as_secs().saturating_mul(1_000);
    number(out, name, millis.saturating_add(u64::from(micros / 1_000)));
    let digit = |value: u32| b'0' + u8::try_from(value % 10).unwrap_or_default();
    let rest = [b'.', digit(micros / 100), digit(micros / 10), digit(micros)];
    let zeros = rest[2..].iter().rev().take_while(|digit| **digit == b'0').count();
    out.extend_from_slice(&rest[..rest.len() - zeros]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{prop_assert_eq, proptest};

    use super::{millis, quoted, write};
    use crate::telemetry::record::sample;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn milliseconds_are_written_to_a_microsecond() {
        for (micros, expected) in [
            (0, "0.0"),
            (1, "0.001"),
            (10, "0.01"),
            (100, "0.1"),
            (4_000, "4.0"),
            (73_952, "73.952"),
            (73_050, "73.05"),
            (2_000_000, "2000.0"),
        ] {
            let text = written(|out| millis(out, name!("x"), Duration::from_micros(micros)));
            assert_eq!(text, format!(",\"x\":{expected}"));
        }
    }

    #[test]
    fn a_line_is_json() {
        let line = written(|out| write(out, &sample(), None));
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line.as_object().map(serde_json::Map::len), Some(28));
    }

    proptest! {
        #[test]
        fn texts_are_written_as_a_serializer_does(text in ".*") {
            let expected = serde_json::to_string(&text).expect("a text");
            prop_assert_eq!(written(|out| quoted(out, &text)), expected);
        }
    }
}
