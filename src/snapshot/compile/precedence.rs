//! The order in which matches are tried (Gateway API, `HTTPRouteRule.matches` and
//! `GRPCRouteRule.matches`), and which of them can never be reached.

use std::cmp::Reverse;

use super::read::Age;
use crate::snapshot::{Matcher, PathMatch, TextMatch};

/// Sorts a match before those that it precedes. For HTTP: an exact path, then (where Gateway API
/// leaves it open, as Envoy Gateway does) an expression, then the longest prefix; a method; the most
/// headers; the most query parameters. For gRPC: the longest service, before any expression; the
/// longest method likewise; the most headers. Then for both the older route, its name, and the order in which rules and matches stand.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    path: (u8, Reverse<usize>),
    http_method: Reverse<bool>,
    grpc_service: (u8, Reverse<usize>),
    grpc_method: (u8, Reverse<usize>),
    headers: Reverse<usize>,
    query: Reverse<usize>,
    route: Age,
    rule: usize,
    matcher: usize,
}

impl Precedence {
    /// Of the match at these places of a route.
    pub(super) fn new(matcher: &Matcher, route: &Age, rule: usize, place: usize) -> Self {
        let path = match &matcher.path {
            Some(PathMatch::Exact(path)) => (0, Reverse(path.len())),
            Some(PathMatch::Regex(regex)) => (1, Reverse(regex.as_str().len())),
            Some(PathMatch::Prefix(prefix)) => (2, Reverse(prefix.len())),
            // What names no path has the prefix `/` (Gateway API's default).
            None => (2, Reverse(1)),
        };
        let part = |text: Option<&TextMatch>| match text {
            Some(TextMatch::Exact(text)) => (0, Reverse(text.len())),
            Some(TextMatch::Regex(regex)) => (1, Reverse(regex.as_str().len())),
            None => (2, Reverse(0)),
        };
        let grpc = matcher.grpc.as_ref();
        Self {
            path,
            http_method: Reverse(matcher.method.is_some()),
            grpc_service: part(grpc.and_then(|grpc| grpc.service.as_ref())),
            grpc_method: part(grpc.and_then(|grpc| grpc.method.as_ref())),
            headers: Reverse(matcher.headers.len()),
            query: Reverse(matcher.query.len()),
            route: route.clone(),
            rule,
            matcher: place,
        }
    }
}

/// Whether everything that `later` takes is taken by `earlier`, as far as that can be seen.
pub(super) fn covers(earlier: &Matcher, later: &Matcher) -> bool {
    let path = match (&earlier.path, &later.path) {
        (None, _) => true,
        (Some(PathMatch::Prefix(prefix)), _) if prefix == "/" => true,
        (
            Some(PathMatch::Prefix(prefix)),
            Some(PathMatch::Exact(path) | PathMatch::Prefix(path)),
        ) => path.strip_prefix(prefix.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/')),
        (one, other) => one == other,
    };
    let method = earlier.method.is_none() || earlier.method == later.method;
    let grpc_part =
        |one: Option<&TextMatch>, other: Option<&TextMatch>| one.is_none() || one == other;
    let (one, other) = (earlier.grpc.as_ref(), later.grpc.as_ref());
    let grpc = (!earlier.grpc_only || later.grpc_only)
        && grpc_part(one.and_then(|g| g.service.as_ref()), other.and_then(|g| g.service.as_ref()))
        && grpc_part(one.and_then(|g| g.method.as_ref()), other.and_then(|g| g.method.as_ref()));
    let all = |earlier: &[(String, TextMatch)], later: &[(String, TextMatch)]| {
        let found = |(name, text): &(String, TextMatch)| {
            later.iter().any(|(other, wanted)| other == name && text == wanted)
        };
        earlier.iter().all(found)
    };
    path && method
        && grpc
        && all(&earlier.headers, &later.headers)
        && all(&earlier.query, &later.query)
}
