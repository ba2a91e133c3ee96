//! OTLP's protobuf, written straight from records: making the SDK's spans, the protocol's messages and
//! then their bytes costs ten times as much, and more than all else that is done for a request. Field
//! numbers are those of opentelemetry-proto 1.x (`trace.proto`, `common.proto`, `resource.proto`,
//! `trace_service.proto`).

use opentelemetry::KeyValue;

/// The wire type of strings, bytes and messages, and that of eight bytes.
const LENGTH: u8 = 2;
const FIXED_64: u8 = 1;
const FIXED_32: u8 = 5;
const VARINT: u8 = 0;

/// `Span.attributes`, `Resource.attributes`.
pub(super) const SPAN_ATTRIBUTES: u8 = 9;
const RESOURCE_ATTRIBUTES: u8 = 1;

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server = 2,
    Client = 3,
}

fn tag(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

/// Field numbers from 16 on take two bytes.
fn long_tag(field: u8, wire: u8) -> [u8; 2] {
    let number = u16::from(field) << 3 | u16::from(wire);
    let [low, _] = number.to_le_bytes();
    [low | 0x80, u8::try_from(number >> 7).unwrap_or_default()]
}

/// Writes a number in groups of seven bits.
pub(super) fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn varint_length(number: u64) -> usize {
    usize::try_from((70 - (number | 1).leading_zeros()) / 7).unwrap_or_default()
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or_default()
}

/// How long a field of this length is, with tag and length.
fn field_length(length: usize) -> usize {
    1 + varint_length(wide(length)) + length
}

fn begin(out: &mut Vec<u8>, field: u8, length: usize) {
    out.push(tag(field, LENGTH));
    varint(out, wide(length));
}

/// Writes a field of bytes; an empty one is left out.
pub(super) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        begin(out, field, value.len());
        out.extend_from_slice(value);
    }
}

/// Writes a number.
pub(super) fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(tag(field, VARINT));
    varint(out, value);
}

/// Writes eight bytes.
pub(super) fn fixed(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(tag(field, FIXED_64));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes four bytes under a field from 16 on.
pub(super) fn long_fixed_32(out: &mut Vec<u8>, field: u8, value: u32) {
    out.extend_from_slice(&long_tag(field, FIXED_32));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes a `KeyValue` of a text, whose parts follow each other.
pub(super) fn text(out: &mut Vec<u8>, field: u8, key: &str, parts: &[&str]) {
    let length = parts.iter().map(|part| part.len()).sum();
    let any = field_length(length);
    begin(out, field, field_length(key.len()) + field_length(any));
    bytes(out, 1, key.as_bytes());
    begin(out, 2, any);
    begin(out, 1, length);
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// Writes a `KeyValue` of a number.
pub(super) fn integer(out: &mut Vec<u8>, field: u8, key: &str, value: i64) {
    let value = value.cast_unsigned();
    let any = 1 + varint_length(value);
    begin(out, field, field_length(key.len()) + field_length(any));
    bytes(out, 1, key.as_bytes());
    begin(out, 2, any);
    number(out, 3, value);
}

/// Writes a message that is there already.
pub(super) fn message(out: &mut Vec<u8>, field: u8, message: &[u8]) {
    begin(out, field, message.len());
    out.extend_from_slice(message);
}

/// A `Resource`.
pub(super) fn resource<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Vec<u8> {
    let mut out = Vec::new();
    for KeyValue { key, value, .. } in attributes {
        text(&mut out, RESOURCE_ATTRIBUTES, key.as_str(), &[&value.as_str()]);
    }
    out
}

/// An `InstrumentationScope`.
pub(super) fn scope(name: &str, version: &str) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, version.as_bytes());
    out
}

/// An `ExportTraceServiceRequest` of one resource and one scope; `spans` are fields of `ScopeSpans`.
pub(super) fn request(resource: &[u8], scope: &[u8], spans: &[u8]) -> Vec<u8> {
    let scope_spans = field_length(scope.len()) + spans.len();
    let resource_spans = field_length(resource.len()) + field_length(scope_spans);
    let mut out = Vec::with_capacity(field_length(resource_spans));
    begin(&mut out, 1, resource_spans);
    message(&mut out, 1, resource);
    begin(&mut out, 2, scope_spans);
    message(&mut out, 1, scope);
    out.extend_from_slice(spans);
    out
}
