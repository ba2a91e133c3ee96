//! The rules of a port, in the order in which they are tried, and an index by path: of many rules only
//! those are looked at whose path could be the request's. What a look-up gives is still tried in
//! order and in full, so that the index can leave rules out but never choose one.

use std::ops::Deref;

use rustc_hash::FxHashMap;

use super::{Matcher, PathMatch, RuleMatch, TextMatch};

/// The rules of a port, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<RuleMatch>,
    /// Places of rules that match one path only, by that path.
    paths: FxHashMap<Box<str>, Vec<usize>>,
    /// Places of rules that match only paths that begin with one segment, by that segment.
    segments: FxHashMap<Box<str>, Vec<usize>>,
    /// Places of all others.
    others: Vec<usize>,
}

/// What a path must be for a matcher to match.
enum Needs<'a> {
    Path(String),
    Segment(&'a str),
    Nothing,
}

impl Rules {
    /// The rules that may match a request for `path`, in order: all that do are among them.
    pub fn candidates(&self, path: &str) -> impl Iterator<Item = &RuleMatch> {
        let by_path = self.paths.get(path).map(Vec::as_slice).unwrap_or_default();
        let by_segment = first_segment(path).and_then(|segment| self.segments.get(segment));
        let by_segment = by_segment.map(Vec::as_slice).unwrap_or_default();
        let mut lists = [by_path, by_segment, &self.others];
        std::iter::from_fn(move || {
            let next = lists.iter().filter_map(|list| list.first()).min().copied()?;
            for list in &mut lists {
                if list.first() == Some(&next) {
                    *list = &list[1..];
                }
            }
            self.rules.get(next)
        })
    }
}

impl From<Vec<RuleMatch>> for Rules {
    fn from(rules: Vec<RuleMatch>) -> Self {
        let mut index = Self::default();
        for (place, rule) in rules.iter().enumerate() {
            let list = match needs(&rule.matcher) {
                Needs::Path(path) => index.paths.entry(path.into()).or_default(),
                Needs::Segment(segment) => index.segments.entry(segment.into()).or_default(),
                Needs::Nothing => &mut index.others,
            };
            list.push(place);
        }
        Self { rules, ..index }
    }
}

fn needs(matcher: &Matcher) -> Needs<'_> {
    match &matcher.path {
        Some(PathMatch::Exact(path)) => return Needs::Path(path.clone()),
        Some(PathMatch::Prefix(prefix)) => {
            if let Some(segment) = first_segment(prefix).filter(|segment| !segment.is_empty()) {
                return Needs::Segment(segment);
            }
        }
        Some(PathMatch::Regex(_)) | None => {}
    }
    let grpc = matcher.grpc.as_ref();
    match grpc.map(|grpc| (&grpc.service, &grpc.method)) {
        Some((Some(TextMatch::Exact(service)), Some(TextMatch::Exact(method)))) => {
            Needs::Path(format!("/{service}/{method}"))
        }
        Some((Some(TextMatch::Exact(service)), _)) => Needs::Segment(service),
        _ => Needs::Nothing,
    }
}

/// `a` of `/a/b`.
fn first_segment(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next()
}

impl Deref for Rules {
    type Target = [RuleMatch];

    fn deref(&self) -> &[RuleMatch] {
        &self.rules
    }
}

impl<'a> IntoIterator for &'a Rules {
    type Item = &'a RuleMatch;
    type IntoIter = std::slice::Iter<'a, RuleMatch>;

    fn into_iter(self) -> Self::IntoIter {
        self.rules.iter()
    }
}

/// The index follows from the rules.
impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}
