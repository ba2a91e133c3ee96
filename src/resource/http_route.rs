//! `HTTPRoute` of Gateway API, mesh use.

use std::collections::BTreeSet;

use super::{
    Problem, pb,
    reference::{http_method, warn_of_hostnames},
    report::Report,
    route::{
        Match, PathMatch, Route, Rule, check_rule_name, list_length, matches_total, read_backends,
        read_filters, read_headers, read_parents, read_query, read_regex, read_type,
    },
    traffic_policy::{Retry, Timeouts, check_attempt, read_attempts, read_statuses, timeout},
};
use crate::units::duration;

/// Reads the spec of a route that stands in `namespace`.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(spec: &pb::HttpRoute, namespace: &str) -> Result<Route, Vec<Problem>> {
    let (parsed, problems) = read(spec, namespace);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::HttpRoute, namespace: &str) -> Vec<Problem> {
    read(spec, namespace).1
}

fn read(spec: &pb::HttpRoute, namespace: &str) -> (Option<Route>, Vec<Problem>) {
    Report::read("spec", |report| {
        if !spec.use_default_gateways.is_empty() {
            report.field("useDefaultGateways", |r| r.not_run("default gateways"));
        }
        warn_of_hostnames(report, &spec.hostnames);
        let mut names = BTreeSet::new();
        list_length(report, "rules", spec.rules.len());
        matches_total(report, spec.rules.iter().map(|rule| rule.matches.len()));
        Route {
            parents: read_parents(report, &spec.parent_refs, namespace),
            rules: report.each("rules", &spec.rules, |report, rule| {
                check_rule_name(report, &rule.name, &mut names);
                read_rule(report, rule, namespace)
            }),
        }
    })
}

fn read_rule(report: &mut Report, spec: &pb::HttpRouteRule, namespace: &str) -> Rule {
    if spec.session_persistence.is_some() {
        report.field("sessionPersistence", |report| report.not_run("session persistence"));
    }
    list_length(report, "matches", spec.matches.len());
    let mut matches = report.each("matches", &spec.matches, read_match);
    if matches.is_empty() {
        matches.push(Match::default());
    }
    let (request_headers, response_headers) = read_filters(report, &spec.filters);
    Rule {
        name: spec.name.clone(),
        matches,
        request_headers,
        response_headers,
        backends: read_backends(report, &spec.backend_refs, namespace),
        timeouts: spec.timeouts.as_ref().map_or_else(Timeouts::default, |timeouts| {
            report.field("timeouts", |report| read_timeouts(report, timeouts))
        }),
        retry: spec
            .retry
            .as_ref()
            .map(|retry| report.field("retry", |report| read_retry(report, retry))),
    }
}

fn read_timeouts(report: &mut Report, spec: &pb::HttpRouteTimeouts) -> Timeouts {
    let timeouts = Timeouts {
        request: timeout(report, "request", &spec.request),
        attempt: timeout(report, "backendRequest", &spec.backend_request),
        ..Timeouts::default()
    };
    check_attempt(report, "backendRequest", &timeouts, &spec.backend_request);
    timeouts
}

fn read_retry(report: &mut Report, spec: &pb::HttpRouteRetry) -> Retry {
    let codes = read_statuses(report, "codes", &spec.codes);
    Retry {
        attempts: read_attempts(report, spec.attempts),
        on_http: (!codes.is_empty()).then_some(codes),
        backoff_base: report.field("backoff", |r| r.unit(&spec.backoff, duration::parse)),
        ..Retry::default()
    }
}

fn read_match(report: &mut Report, spec: &pb::HttpRouteMatch) -> Match {
    let path = spec.path.as_ref().map(|path| report.field("path", |r| read_path(r, path)));
    let method = (!spec.method.is_empty())
        .then(|| report.field("method", |report| http_method(report, &spec.method)));
    Match {
        path: path.flatten(),
        method,
        grpc: None,
        headers: read_headers(report, &spec.headers),
        query: read_query(report, &spec.query_params),
    }
}

#[derive(Clone, Copy)]
enum PathType {
    Exact,
    Prefix,
    Regex,
}

const PATH_TYPES: [(&str, PathType); 3] = [
    ("Exact", PathType::Exact),
    ("PathPrefix", PathType::Prefix),
    ("RegularExpression", PathType::Regex),
];
/// Gateway API's longest path.
const PATH_BYTES_MAX: usize = 1024;

fn read_path(report: &mut Report, spec: &pb::HttpPathMatch) -> Option<PathMatch> {
    let value = spec.value.as_deref().unwrap_or("/");
    let kind = read_type(report, &spec.r#type, &PATH_TYPES, PathType::Prefix)?;
    report.field("value", |report| match kind {
        PathType::Regex => read_regex(report, value).map(PathMatch::Regex),
        PathType::Exact => {
            check_path(report, value);
            Some(PathMatch::Exact(value.to_owned()))
        }
        PathType::Prefix => {
            check_path(report, value);
            // `/v1/` and `/v1` take the same requests (Gateway API).
            let prefix = value.trim_end_matches('/');
            Some(PathMatch::Prefix(if prefix.is_empty() { "/" } else { prefix }.to_owned()))
        }
    })
}

/// What Gateway API refuses in a path that is no expression: it could never match a request, or
/// would mean something else after normalization.
fn check_path(report: &mut Report, value: &str) {
    let segment = value.split('/').any(|segment| matches!(segment, "." | ".."));
    let slashes = value.contains("//");
    let lower = value.to_ascii_lowercase();
    let encoded = lower.contains("%2f");
    let strange = !value.bytes().all(|b| b.is_ascii_graphic()) || value.contains(['#', '?']);
    if !value.starts_with('/') || value.len() > PATH_BYTES_MAX {
        report.wrong(value, "not a path", "begins with / and has at most 1024 bytes");
    } else if segment || slashes || encoded || strange {
        let message = "not a normal path: it has //, /./, /../, %2F, #, ? or a space";
        report.wrong(value, message, "");
    }
}
