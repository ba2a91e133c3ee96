//! What `HTTPRoute` and `GRPCRoute` share: parents, backends, header modifiers and matches of text.
//! Both are read into the one [`Route`], because what runs does not ask which of them it came from.

use regex::{Regex, RegexBuilder};

use super::{
    pb,
    reference::{is_service_group, warn_of_no_weight},
    report::Report,
    traffic_policy::{Retry, Timeouts},
};
use crate::units::ServiceName;

/// A backend that names none takes one share.
pub const WEIGHT: u32 = 1;
/// Gateway API's largest weight.
pub const WEIGHT_MAX: u32 = 1_000_000;
/// Gateway API's limit of rules, backends, matches and filters by list.
pub const LIST_MAX: usize = 64;
/// Gateway API's limit of the matches of all rules of a route together.
pub const MATCHES_MAX: usize = 128;
/// A compiled expression: enough for every path, too little to fill memory by configuration.
const REGEX_BYTES_MAX: usize = 256 << 10;
const REGEX_TEXT_BYTES_MAX: usize = 1024;

/// What a route says.
#[derive(Debug, Clone)]
pub struct Route {
    /// The services it attaches to.
    pub parents: Vec<Parent>,
    /// In the order in which they stand.
    pub rules: Vec<Rule>,
}

/// A service that a route attaches to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Parent {
    /// Its name; in another namespace than the route's it makes a consumer route.
    pub service: ServiceName,
    /// Only this port; `None`: all of them.
    pub port: Option<u16>,
}

/// One rule of a route.
#[derive(Debug, Clone)]
pub struct Rule {
    /// May be empty; then people call it by its number.
    pub name: String,
    /// Any of these; never empty (a rule without matches has one that matches everything).
    pub matches: Vec<Match>,
    /// Changes to the request's head.
    pub request_headers: HeaderModifier,
    /// Changes to the response's head.
    pub response_headers: HeaderModifier,
    /// Where it goes; may be empty.
    pub backends: Vec<Backend>,
    /// The rule's own times.
    pub timeouts: Timeouts,
    /// The rule's own retries.
    pub retry: Option<Retry>,
}

/// All of these must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// The path; `None`: any.
    pub path: Option<PathMatch>,
    /// The HTTP method; `None`: any.
    pub method: Option<String>,
    /// The gRPC method; `None`: any. Every match of a `GRPCRoute` takes gRPC calls only.
    pub grpc: Option<GrpcMatch>,
    /// Header fields by lower-case name.
    pub headers: Vec<(String, TextMatch)>,
    /// Query parameters by name.
    pub query: Vec<(String, TextMatch)>,
}

/// How a path matches.
#[derive(Debug, Clone)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole segments from the start; without a `/` at the end, except `/` itself.
    Prefix(String),
    /// Anchored at both ends.
    Regex(Regex),
}

/// How a value matches.
#[derive(Debug, Clone)]
pub enum TextMatch {
    /// The whole value, byte by byte.
    Exact(String),
    /// Anchored at both ends.
    Regex(Regex),
}

impl PartialEq for PathMatch {
    /// Whether both are written the same.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) | (Self::Prefix(one), Self::Prefix(other)) => {
                one == other
            }
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl PartialEq for TextMatch {
    /// Whether both are written the same.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

/// Which gRPC methods match; a `None` part matches any.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcMatch {
    /// `shop.Orders`
    pub service: Option<TextMatch>,
    /// `Place`
    pub method: Option<TextMatch>,
}

/// Changes to a head. Names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Replaces every value.
    pub set: Vec<(String, String)>,
    /// Adds a value.
    pub add: Vec<(String, String)>,
    /// Removes every value.
    pub remove: Vec<String>,
}

impl HeaderModifier {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// One share of a rule's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The service; `None` for a reference to something else, whose share gets `backend_invalid`.
    pub service: Option<ServiceName>,
    /// Its port.
    pub port: Option<u16>,
    /// Its share.
    pub weight: u32,
    /// Changes to the request's head for this backend only.
    pub request_headers: HeaderModifier,
    /// Changes to the response's head for this backend only.
    pub response_headers: HeaderModifier,
}

/// Reads what a route attaches to. A parent that is no `Service` belongs to someone else (Gateway
/// API permits several implementations beside each other), unless there is no other.
pub(super) fn read_parents(
    report: &mut Report,
    refs: &[pb::ParentRef],
    namespace: &str,
) -> Vec<Parent> {
    // What is left out means a Gateway, as Gateway API says.
    let ours = |parent: &pb::ParentRef| {
        parent.kind.as_deref() == Some("Service")
            && parent.group.as_deref().is_some_and(is_service_group)
    };
    let alone = !refs.iter().any(ours);
    if refs.is_empty() {
        report.field("parentRefs", |report| {
            report.warn("", "are missing: the route attaches to nothing", SERVICE_REF);
        });
    }
    let mut seen = std::collections::HashSet::new();
    let read = |report: &mut Report, parent: &pb::ParentRef| {
        if !ours(parent) {
            let what = parent.kind.as_deref().unwrap_or("Gateway");
            let message = "not a Service of the mesh, the only parent that this version runs";
            if alone {
                report.wrong(what, message, SERVICE_REF);
            } else {
                report.warn(what, message, "");
            }
            return None;
        }
        if !parent.section_name.is_empty() {
            report.field("sectionName", |report| {
                report.wrong(&parent.section_name, "a Service has no sections", "port: NUMBER");
            });
        }
        let port = parent.port.map(|port| report.field("port", |report| report.port(port)));
        let service = read_service(report, &parent.name, &parent.namespace, namespace);
        let parent = Parent { service, port };
        if !seen.insert(parent.clone()) {
            report.wrong(&parent.service, "stands twice in this route", "leave it out");
        }
        Some(parent)
    };
    report.each("parentRefs", refs, read).into_iter().flatten().collect()
}

const SERVICE_REF: &str = "{group: \"\", kind: Service, name: NAME}";

fn read_service(report: &mut Report, name: &str, own: &str, default: &str) -> ServiceName {
    report.field("name", |report| report.label(name));
    if !own.is_empty() {
        report.field("namespace", |report| report.label(own));
    }
    ServiceName::new(name, if own.is_empty() { default } else { own })
}

/// Reads where a rule's traffic goes.
pub(super) fn read_backends(
    report: &mut Report,
    refs: &[pb::BackendRef],
    namespace: &str,
) -> Vec<Backend> {
    list_length(report, "backendRefs", refs.len());
    warn_of_no_weight(report, refs);
    report.each("backendRefs", refs, |report, backend| {
        let weight = backend.weight.unwrap_or(WEIGHT);
        report.field("weight", |report| report.range(weight, 0, WEIGHT_MAX));
        let (request_headers, response_headers) = read_filters(report, &backend.filters);
        let service = read_service(report, &backend.name, &backend.namespace, namespace);
        let group = is_service_group(backend.group.as_deref().unwrap_or_default());
        let kind = backend.kind.as_deref().unwrap_or("Service");
        if !group || kind != "Service" {
            let message = "not a Service: its share is answered with backend_invalid";
            report.field("kind", |report| report.warn(kind, message, "Service"));
        }
        Backend {
            service: (group && kind == "Service").then_some(service),
            port: backend.port.map(|port| report.field("port", |report| report.port(port))),
            weight,
            request_headers,
            response_headers,
        }
    })
}

/// A list that would take long to search on every request.
pub(super) fn list_length(report: &mut Report, name: &str, length: usize) {
    if length > LIST_MAX {
        report.field(name, |report| {
            report.error(format!("has {length} entries, more than {LIST_MAX}"), "");
        });
    }
}

/// More matches than Gateway API takes.
pub(super) fn matches_total(report: &mut Report, of_rules: impl Iterator<Item = usize>) {
    let total: usize = of_rules.sum();
    if total > MATCHES_MAX {
        report.field("rules", |report| {
            report.error(format!("have {total} matches together, more than {MATCHES_MAX}"), "");
        });
    }
}

/// Filters that Gateway API knows and this version does not run.
const FILTERS_NOT_RUN: [&str; 6] =
    ["RequestMirror", "RequestRedirect", "URLRewrite", "ExtensionRef", "CORS", "ExternalAuth"];
const REQUEST_HEADERS: &str = "RequestHeaderModifier";
const RESPONSE_HEADERS: &str = "ResponseHeaderModifier";

/// Reads filters into what they change of requests and responses. Each kind may stand once (Gateway
/// API), and what a filter does not carry by its `type` is refused.
pub(super) fn read_filters(
    report: &mut Report,
    filters: &[pb::RouteFilter],
) -> (HeaderModifier, HeaderModifier) {
    let (mut request, mut response) = (None, None);
    list_length(report, "filters", filters.len());
    report.each("filters", filters, |report, filter| {
        let (name, modifier, slot) = match &*filter.r#type {
            REQUEST_HEADERS => {
                ("requestHeaderModifier", &filter.request_header_modifier, &mut request)
            }
            RESPONSE_HEADERS => {
                ("responseHeaderModifier", &filter.response_header_modifier, &mut response)
            }
            known if FILTERS_NOT_RUN.contains(&known) => {
                return report.field("type", |report| report.not_run(known));
            }
            other => {
                let words = [(REQUEST_HEADERS, ()), (RESPONSE_HEADERS, ())];
                report.field("type", |report| report.word(other, "not a filter", &words));
                return;
            }
        };
        refuse_others(report, filter, name);
        if slot.is_some() {
            report.field("type", |r| r.wrong(&filter.r#type, "stands twice in this list", ""));
        }
        match modifier {
            None => report.field(name, |report| report.error("is missing: the type says so", "")),
            Some(spec) => {
                *slot = Some(report.field(name, |report| read_modifier(report, spec)));
            }
        }
    });
    (request.unwrap_or_default(), response.unwrap_or_default())
}

fn refuse_others(report: &mut Report, filter: &pb::RouteFilter, own: &str) {
    for (field, set) in [
        ("requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("requestMirror", filter.request_mirror.is_some()),
        ("requestRedirect", filter.request_redirect.is_some()),
        ("urlRewrite", filter.url_rewrite.is_some()),
        ("extensionRef", filter.extension_ref.is_some()),
        ("cors", filter.cors.is_some()),
    ] {
        if set && field != own {
            report.field(field, |report| {
                report.error(format!("does not belong to type {}", filter.r#type), own);
            });
        }
    }
}

fn read_modifier(report: &mut Report, spec: &pb::HeaderModifier) -> HeaderModifier {
    let mut seen = std::collections::BTreeSet::new();
    let mut once = |report: &mut Report, name: &str| {
        let lower = header_name(report, name);
        if FRAMING.contains(&&*lower) || lower.starts_with("grpc-") {
            report.wrong(name, "frames the message, so it can not be changed", "another name");
        }
        if !seen.insert(lower.clone()) {
            report.wrong(name, "stands twice in this modifier", "");
        }
        lower
    };
    let mut pair = |report: &mut Report, header: &pb::HeaderValue| {
        let name = report.field("name", |report| once(report, &header.name));
        report.field("value", |report| check_header_value(report, &header.value));
        (name, header.value.clone())
    };
    HeaderModifier {
        set: report.each("set", &spec.set, &mut pair),
        add: report.each("add", &spec.add, &mut pair),
        remove: report.each("remove", &spec.remove, |report, name| once(report, name)),
    }
}

/// Reads the name of a header field that users may match and change.
fn header_name(report: &mut Report, name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    if lower.parse::<http::HeaderName>().is_err() {
        report.wrong(name, "not the name of a header field", "letters, digits and -");
    } else if lower.starts_with("outrigger-") {
        report.wrong(name, "belongs to the mesh", "another name");
    }
    lower
}

/// Header fields that frame a message or belong to one connection: whoever changes them breaks it.
/// So do those of gRPC itself, whose deadline and status the mesh keeps.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn check_header_value(report: &mut Report, value: &str) {
    if value.parse::<http::HeaderValue>().is_err() {
        report.wrong(value, "not the value of a header field", "text without control characters");
    }
}

const TEXT_TYPES: [(&str, bool); 2] = [("Exact", false), ("RegularExpression", true)];

/// Reads header matches. Of several for one name the first counts (Gateway API), so further ones
/// are refused: they do nothing.
pub(super) fn read_headers(
    report: &mut Report,
    headers: &[pb::HeaderMatch],
) -> Vec<(String, TextMatch)> {
    let mut seen = std::collections::BTreeSet::new();
    list_length(report, "headers", headers.len());
    let read = |report: &mut Report, header: &pb::HeaderMatch| {
        let name = report.field("name", |report| {
            let name = header_name(report, &header.name);
            if !seen.insert(name.clone()) {
                report.wrong(&header.name, "stands twice in this match", "");
            }
            name
        });
        Some((name, read_text(report, &header.r#type, &header.value, "value")?))
    };
    report.each("headers", headers, read).into_iter().flatten().collect()
}

/// Reads matches of query parameters.
pub(super) fn read_query(
    report: &mut Report,
    query: &[pb::QueryParamMatch],
) -> Vec<(String, TextMatch)> {
    let mut seen = std::collections::BTreeSet::new();
    list_length(report, "queryParams", query.len());
    let read = |report: &mut Report, param: &pb::QueryParamMatch| {
        report.field("name", |report| {
            if param.name.is_empty() {
                report.error("is missing", "");
            } else if !seen.insert(param.name.clone()) {
                report.wrong(&param.name, "stands twice in this match", "");
            }
        });
        let text = read_text(report, &param.r#type, &param.value, "value")?;
        Some((param.name.clone(), text))
    };
    report.each("queryParams", query, read).into_iter().flatten().collect()
}

/// Reads a match of a value by its type; `Exact` when none is named.
pub(super) fn read_text(
    report: &mut Report,
    kind: &str,
    value: &str,
    field: &str,
) -> Option<TextMatch> {
    if read_type(report, kind, &TEXT_TYPES, false)? {
        return report.field(field, |report| read_regex(report, value)).map(TextMatch::Regex);
    }
    Some(TextMatch::Exact(value.to_owned()))
}

/// Reads the `type` of a match.
pub(super) fn read_type<T: Copy>(
    report: &mut Report,
    kind: &str,
    types: &[(&'static str, T)],
    default: T,
) -> Option<T> {
    report.field("type", |report| match kind {
        "" => Some(default),
        kind => report.word(kind, "not a type of match", types),
    })
}

/// Compiles an expression that must match the whole of a value.
pub(super) fn read_regex(report: &mut Report, text: &str) -> Option<Regex> {
    if text.is_empty() || text.len() > REGEX_TEXT_BYTES_MAX {
        let message = format!("not 1 to {REGEX_TEXT_BYTES_MAX} bytes long");
        report.wrong(text, message, "");
        return None;
    }
    // Compiled alone first: `a)|(b` would change its meaning within the anchored group.
    let plain = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build();
    let anchored = format!(r"\A(?:{text})\z");
    match plain.and_then(|_| RegexBuilder::new(&anchored).size_limit(REGEX_BYTES_MAX).build()) {
        Ok(regex) => Some(regex),
        Err(regex::Error::CompiledTooBig(_)) => {
            report.wrong(text, "a regular expression that is too large", "fewer repetitions");
            None
        }
        Err(error) => {
            // The library draws the expression again; its last line says what is wrong.
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            report.wrong(text, format!("not a regular expression: {why}"), "RE2 syntax");
            None
        }
    }
}

/// Reads what rules of both kinds have beside their matches.
pub(super) fn check_rule_name(
    report: &mut Report,
    name: &str,
    seen: &mut std::collections::BTreeSet<String>,
) {
    if name.is_empty() {
        return;
    }
    report.field("name", |report| {
        // Gateway API's SectionName: labels with dots between them.
        for label in name.split('.') {
            report.name(name, crate::units::name::check_label(label));
        }
        if !seen.insert(name.to_owned()) {
            report.wrong(name, "stands twice in this route", "");
        }
    });
}
