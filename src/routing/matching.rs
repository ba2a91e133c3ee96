//! Whether a request matches a matcher, on the bytes that are sent on.

use crate::{
    http::{Fields, Head},
    snapshot::{Matcher, PathMatch, TextMatch},
};

/// What is asked of a head by many matchers, found out once.
pub(super) struct Call<'a> {
    grpc: bool,
    /// Service and method.
    method: Option<(&'a str, &'a str)>,
}

impl<'a> Call<'a> {
    pub(super) fn of(head: &Head<'a>) -> Self {
        Self { grpc: head.is_grpc(), method: head.grpc_method() }
    }
}

/// Whether the parts of the matcher that look at method, path and kind hold.
pub(super) fn call_matches(matcher: &Matcher, head: &Head<'_>, call: &Call<'_>) -> bool {
    matcher.method.as_ref().is_none_or(|method| method == head.method)
        && matcher.path.as_ref().is_none_or(|path| path_matches(path, head.path))
        && grpc_matches(matcher, call)
}

/// Whether its other parts hold.
pub(super) fn rest_matches(matcher: &Matcher, head: &Head<'_>) -> bool {
    matcher.headers.iter().all(|(name, value)| header_matches(head.fields, name, value))
        && matcher.query.iter().all(|(name, value)| query_matches(head.query, name, value))
}

/// A prefix matches whole segments: `/v1` matches `/v1` and `/v1/x` but not `/v10` (Gateway API,
/// `PathMatchPathPrefix`).
fn path_matches(path: &PathMatch, actual: &str) -> bool {
    match path {
        PathMatch::Exact(exact) => exact == actual,
        PathMatch::Prefix(prefix) if prefix == "/" => actual.starts_with('/'),
        PathMatch::Prefix(prefix) => actual
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        PathMatch::Regex(regex) => regex.is_match(actual),
    }
}

/// Only gRPC calls match a `GRPCRoute`, and one with a method only exact `/service/method` paths.
fn grpc_matches(matcher: &Matcher, call: &Call<'_>) -> bool {
    if !matcher.grpc_only && matcher.grpc.is_none() {
        return true;
    }
    if !call.grpc {
        return false;
    }
    let Some(wanted) = &matcher.grpc else { return true };
    let Some((service, method)) = call.method else { return false };
    let part = |wanted: &Option<TextMatch>, actual: &str| {
        wanted.as_ref().is_none_or(|wanted| text_matches(wanted, actual.as_bytes()))
    };
    part(&wanted.service, service) && part(&wanted.method, method)
}

/// Several values of one name are matched as one, joined by commas (RFC 9110 section 5.3).
fn header_matches(fields: &dyn Fields, name: &str, wanted: &TextMatch) -> bool {
    let mut count = 0;
    fields.each(name, &mut |_| count += 1);
    match (count, fields.first(name)) {
        (0, _) | (_, None) => false,
        (1, Some(value)) => text_matches(wanted, value),
        _ => {
            let mut joined = Vec::new();
            fields.each(name, &mut |value| {
                if !joined.is_empty() {
                    joined.push(b',');
                }
                joined.extend_from_slice(value);
            });
            text_matches(wanted, &joined)
        }
    }
}

/// The first parameter of the name counts (Gateway API, `HTTPQueryParamMatch`); both name and value
/// are compared as decoded (WHATWG URL, `application/x-www-form-urlencoded`).
fn query_matches(query: &str, name: &str, wanted: &TextMatch) -> bool {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut decoded = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let found = decoded.find(|(key, _)| decode(key) == name.as_bytes());
    found.is_some_and(|(_, value)| text_matches(wanted, &decode(value)))
}

fn text_matches(wanted: &TextMatch, actual: &[u8]) -> bool {
    match wanted {
        TextMatch::Exact(exact) => exact.as_bytes() == actual,
        TextMatch::Regex(regex) => str::from_utf8(actual).is_ok_and(|text| regex.is_match(text)),
    }
}

/// Undoes percent-encoding and `+`; what is no encoding stays as it is.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let hex = bytes.get(index + 1..index + 3).filter(|_| byte == b'%');
        let value = hex
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        decoded.push(value.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        index += if value.is_some() { 3 } else { 1 };
    }
    decoded
}
