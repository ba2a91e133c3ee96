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
const SPAN_ATTRIBUTES: u8 = 9;
const RESOURCE_ATTRIBUTES: u8 = 1;

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Server = 2,
    Client = 3,
}

#[inline]
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
#[inline]
pub(super) fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

#[inline]
fn varint_length(number: u64) -> usize {
    usize::try_from((70 - (number | 1).leading_zeros()) / 7).unwrap_or_default()
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or_default()
}

/// How long a field of this length is, with tag and length.
#[inline]
fn field_length(length: usize) -> usize {
    1 + varint_length(wide(length)) + length
}

#[inline]
fn begin(out: &mut Vec<u8>, field: u8, length: usize) {
    out.push(tag(field, LENGTH));
    varint(out, wide(length));
}

/// Writes a field of bytes; an empty one is left out.
#[inline]
pub(super) fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    if !value.is_empty() {
        begin(out, field, value.len());
        out.extend_from_slice(value);
    }
}

/// Writes a number.
#[inline]
pub(super) fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(tag(field, VARINT));
    varint(out, value);
}

/// Writes eight bytes.
#[inline]
pub(super) fn fixed(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(tag(field, FIXED_64));
    out.extend_from_slice(&value.to_le_bytes());
}

/// Writes four bytes under a field from 16 on.
pub(super) fn long_fixed_32(out: &mut Vec<u8>, field: u8, value: u32) {
    out.extend_from_slice(&long_tag(field, FIXED_32));
    out.extend_from_slice(&value.to_le_bytes());
}

/// `KeyValue.key` and the tag of `KeyValue.value`.
pub(super) const fn key_bytes<const N: usize>(name: &str) -> [u8; N] {
    let (name, mut key) = (name.as_bytes(), [0; N]);
    assert!(N == name.len() + 3 && N < 0x80, "a length of one byte");
    key[0] = 1 << 3 | LENGTH;
    key[1] = (N - 3).to_le_bytes()[0];
    let mut at = 0;
    while at < name.len() {
        key[at + 2] = name[at];
        at += 1;
    }
    key[N - 1] = 2 << 3 | LENGTH;
    key
}

/// An attribute's key as [`text`] and [`integer`] take it, made when this is compiled.
macro_rules! key {
    ($name:literal) => {{
        const KEY: &[u8] = &$crate::telemetry::spans::wire::key_bytes::<{ $name.len() + 3 }>($name);
        KEY
    }};
}
pub(super) use key;

/// Writes an attribute of a text.
#[inline]
pub(super) fn text(out: &mut Vec<u8>, key: &[u8], text: &str) {
    begin_text(out, key, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// Writes an attribute of a text, whose parts follow each other.
pub(super) fn parts(out: &mut Vec<u8>, key: &[u8], parts: &[&str]) {
    begin_text(out, key, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

#[inline]
fn begin_text(out: &mut Vec<u8>, key: &[u8], length: usize) {
    let any = field_length(length);
    begin(out, SPAN_ATTRIBUTES, key.len() + varint_length(wide(any)) + any);
    out.extend_from_slice(key);
    varint(out, wide(any));
    begin(out, 1, length);
}

/// Writes an attribute of a number.
#[inline]
pub(super) fn integer(out: &mut Vec<u8>, key: &[u8], value: i64) {
    let value = value.cast_unsigned();
    let any = 1 + varint_length(value);
    begin(out, SPAN_ATTRIBUTES, key.len() + varint_length(wide(any)) + any);
    out.extend_from_slice(key);
    varint(out, wide(any));
    number(out, 3, value);
}

/// Writes a message that is there already.
pub(super) fn message(out: &mut Vec<u8>, field: u8, message: &[u8]) {
    begin(out, field, message.len());
    out.extend_from_slice(message);
}

/// A `Resource`.
pub(super) fn resource<'a>(attributes: impl Iterator<Item = &'a KeyValue>) -> Vec<u8> {
    let (mut out, mut pair, mut any) = (Vec::new(), Vec::new(), Vec::new());
    for KeyValue { key, value, .. } in attributes {
        pair.clear();
        any.clear();
        bytes(&mut any, 1, value.as_str().as_bytes());
        bytes(&mut pair, 1, key.as_str().as_bytes());
        message(&mut pair, 2, &any);
        message(&mut out, RESOURCE_ATTRIBUTES, &pair);
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

/// How an `ExportTraceServiceRequest` of one resource and one scope begins; so many bytes of spans,
/// which are fields of `ScopeSpans`, follow it and are its end.
pub(super) fn request(resource: &[u8], scope: &[u8], spans: usize) -> Vec<u8> {
    let scope_spans = field_length(scope.len()) + spans;
    let resource_spans = field_length(resource.len()) + field_length(scope_spans);
    let mut out = Vec::with_capacity(field_length(resource_spans) - spans);
    begin(&mut out, 1, resource_spans);
    message(&mut out, 1, resource);
    begin(&mut out, 2, scope_spans);
    message(&mut out, 1, scope);
    out
}
