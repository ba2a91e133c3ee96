//! A line of the access log: one JSON object, written field by field. A serializer that looks at every
//! value's type and formats every number by the general way costs as much as half the request.

use std::time::Duration;

use super::{
    record::{Attempt, Record},
    time::Rfc3339,
};
use crate::reason::Reason;

/// Appends the line of `record`, with its end. What is not known is null.
pub(super) fn write(out: &mut Vec<u8>, record: &Record) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(&Rfc3339(record.started).bytes());
    out.push(b'"');
    plain(out, "direction", record.direction.name());
    hex(out, "trace_id", &{ record.span.trace_id }.to_be_bytes());
    hex(out, "span_id", &record.span.span_id.to_be_bytes());
    known(out, "source", &record.source);
    known(out, "destination", &record.destination);
    number_if(out, "port", u64::from(record.port));
    plain(out, "protocol", record.protocol);
    text(out, "method", record.method());
    text(out, "path", record.path());
    text(out, "authority", record.authority());
    known(out, "route", record.route.as_ref().map_or("", |id| &id.route));
    known(out, "rule", record.route.as_ref().map_or("", |id| &id.rule));
    known(out, "policy", &record.policy);
    number_if(out, "http_status", u64::from(record.http_status));
    known(out, "grpc_status", record.grpc_status.map_or("", |code| code.name()));
    known(out, "reason", record.reason.map_or("", Reason::name));
    attempts(out, record);
    text(out, "source_address", &record.source_address);
    known(out, "upstream_address", record.upstream_address());
    name(out, "tls");
    out.extend_from_slice(if record.tls { b"true" } else { b"false" });
    match record.deadline {
        Some(deadline) => millis(out, "deadline_ms", deadline),
        None => null(out, "deadline_ms"),
    }
    millis(out, "queue_ms", record.queued);
    millis(out, "upstream_ms", record.upstream);
    millis(out, "duration_ms", record.duration);
    number(out, "request_bytes", record.request_bytes);
    number(out, "response_bytes", record.response_bytes);
    number(out, "revision", record.revision);
    out.extend_from_slice(b"}\n");
}

fn attempts(out: &mut Vec<u8>, record: &Record) {
    name(out, "attempts");
    out.push(b'[');
    for (index, Attempt { place, reason, duration, .. }) in record.attempts.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"{\"endpoint\":" } else { b",{\"endpoint\":" });
        quoted(out, &place.endpoint);
        known(out, "reason", reason.map_or("", Reason::name));
        millis(out, "ms", *duration);
        out.push(b'}');
    }
    out.push(b']');
}

/// Begins a field that is not the first.
fn name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn null(out: &mut Vec<u8>, field: &str) {
    name(out, field);
    out.extend_from_slice(b"null");
}

/// A word of ours, which has nothing to escape.
fn plain(out: &mut Vec<u8>, field: &str, word: &str) {
    name(out, field);
    out.push(b'"');
    out.extend_from_slice(word.as_bytes());
    out.push(b'"');
}

fn text(out: &mut Vec<u8>, field: &str, text: &str) {
    name(out, field);
    quoted(out, text);
}

/// A text, or null for an empty one.
fn known(out: &mut Vec<u8>, field: &str, value: &str) {
    if value.is_empty() { null(out, field) } else { text(out, field, value) }
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(place) = rest.iter().position(|byte| ESCAPED[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..place]);
        escape(out, rest[place]);
        rest = &rest[place + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// What may not stand in a JSON text as it is (RFC 8259 section 7).
static ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

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

fn hex(out: &mut Vec<u8>, field: &str, bytes: &[u8]) {
    name(out, field);
    out.push(b'"');
    bytes.iter().for_each(|byte| out.extend_from_slice(&pair(*byte)));
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, field: &str, value: u64) {
    name(out, field);
    digits(out, value);
}

/// A number, or null for 0.
fn number_if(out: &mut Vec<u8>, field: &str, value: u64) {
    if value == 0 { null(out, field) } else { number(out, field, value) }
}

fn digits(out: &mut Vec<u8>, mut value: u64) {
    let mut text = [0; 20];
    let mut from = text.len();
    loop {
        from -= 1;
        text[from] = digit(value);
        value /= 10;
        if value == 0 {
            return out.extend_from_slice(&text[from..]);
        }
    }
}

/// The last one.
fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value % 10).unwrap_or_default()
}

/// Milliseconds to a microsecond: `4.0`, `73.952`.
fn millis(out: &mut Vec<u8>, field: &str, duration: Duration) {
    name(out, field);
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    digits(out, micros / 1_000);
    let rest = [b'.', digit(micros / 100), digit(micros / 10), digit(micros)];
    let zeros = rest[2..].iter().rev().take_while(|digit| **digit == b'0').count();
    out.extend_from_slice(&rest[..rest.len() - zeros]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{prop_assert_eq, proptest};

    use super::{digits, millis, quoted, write};
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
            let text = written(|out| millis(out, "x", Duration::from_micros(micros)));
            assert_eq!(text, format!(",\"x\":{expected}"));
        }
    }

    #[test]
    fn a_line_is_json() {
        let line = written(|out| write(out, &sample()));
        let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(line.as_object().map(serde_json::Map::len), Some(28));
    }

    proptest! {
        #[test]
        fn texts_and_numbers_are_written_as_a_serializer_does(text in ".*", number: u64) {
            let expected = serde_json::to_string(&text).expect("a text");
            prop_assert_eq!(written(|out| quoted(out, &text)), expected);
            prop_assert_eq!(written(|out| digits(out, number)), number.to_string());
        }
    }
}
