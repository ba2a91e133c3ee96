//! `GRPCRoute` of Gateway API, mesh use.

use std::collections::BTreeSet;

use super::{
    Problem, pb,
    reference::warn_of_hostnames,
    report::Report,
    route::{
        GrpcMatch, Match, Route, Rule, TextMatch, check_rule_name, list_length, matches_total,
        read_backends, read_filters, read_headers, read_parents, read_regex, read_type,
    },
    traffic_policy::Timeouts,
};

/// Reads the spec of a route that stands in `namespace`.
///
/// # Errors
/// Every problem, when one of them is an error.
pub fn parse(spec: &pb::GrpcRoute, namespace: &str) -> Result<Route, Vec<Problem>> {
    let (parsed, problems) = read(spec, namespace);
    parsed.ok_or(problems)
}

/// What is wrong with the spec, warnings too.
pub fn check(spec: &pb::GrpcRoute, namespace: &str) -> Vec<Problem> {
    read(spec, namespace).1
}

fn read(spec: &pb::GrpcRoute, namespace: &str) -> (Option<Route>, Vec<Problem>) {
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

fn read_rule(report: &mut Report, spec: &pb::GrpcRouteRule, namespace: &str) -> Rule {
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
        timeouts: Timeouts::default(),
        retry: None,
    }
}

fn read_match(report: &mut Report, spec: &pb::GrpcRouteMatch) -> Match {
    let method =
        spec.method.as_ref().map(|method| report.field("method", |r| read_method(r, method)));
    Match {
        grpc: method.flatten(),
        headers: read_headers(report, &spec.headers),
        ..Match::default()
    }
}

/// A service without its package never matches, but can not be told from one that has none.
fn read_method(report: &mut Report, spec: &pb::GrpcMethodMatch) -> Option<GrpcMatch> {
    // Gateway API: an empty text is one that was left out.
    let part = |part: &Option<String>| part.clone().filter(|text| !text.is_empty());
    let (service, method) = (part(&spec.service), part(&spec.method));
    if service.is_none() && method.is_none() {
        report.error("names nothing", "service, method or both");
    }
    let regex =
        read_type(report, &spec.r#type, &[("Exact", false), ("RegularExpression", true)], false)?;
    let mut read = |name: &str, text: Option<String>, dots: bool| {
        let text = text?;
        report.field(name, |report| {
            if regex {
                return read_regex(report, &text).map(TextMatch::Regex);
            }
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || (dots && c == '.');
            if !text.chars().all(letter) || text.starts_with(|c: char| c.is_ascii_digit()) {
                let hint = if dots { "package.Service" } else { "Method" };
                report.wrong(&text, format!("not a gRPC {name}"), hint);
            }
            Some(TextMatch::Exact(text))
        })
    };
    let (service, method) = (read("service", service, true), read("method", method, false));
    Some(GrpcMatch { service, method })
}
