//! Routes, compiled: rules in the order in which they are tried, with everything they need.

use std::{sync::Arc, time::Duration};

pub use crate::resource::route::{
    GrpcMatch as GrpcMethodMatch, HeaderModifier, PathMatch, TextMatch,
};
use crate::{reason::GrpcCode, units::ServiceName};

/// Which rule of which route, as metrics, logs, spans and `explain` name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteId {
    /// `shop/orders` for a route, `default` for a service without one.
    pub route: Arc<str>,
    /// The rule's name, or its number in decimal.
    pub rule: Arc<str>,
}

/// One match of one rule of a route, with the rule behind it. A rule of two matches stands twice,
/// each at its own place in Gateway API's precedence.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleMatch {
    /// What must hold.
    pub matcher: Matcher,
    /// The rule.
    pub rule: Arc<Rule>,
}

/// All of these must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matcher {
    /// The path; `None`: any.
    pub path: Option<PathMatch>,
    /// The HTTP method; `None`: any.
    pub method: Option<String>,
    /// The gRPC method; only gRPC calls match when it is set.
    pub grpc: Option<GrpcMethodMatch>,
    /// Only gRPC calls match (every match of a `GRPCRoute`).
    pub grpc_only: bool,
    /// Header fields by lower-case name.
    pub headers: Vec<(String, TextMatch)>,
    /// Query parameters by name.
    pub query: Vec<(String, TextMatch)>,
}

/// What happens to a request that matched.
#[derive(Debug, PartialEq)]
pub struct Rule {
    /// Its name for people.
    pub id: Arc<RouteId>,
    /// Changes to the request's head before it is sent on.
    pub request_headers: HeaderModifier,
    /// Changes to the response's head before it is passed on.
    pub response_headers: HeaderModifier,
    /// Where it goes; empty: nowhere, which is `backend_invalid`.
    pub backends: Vec<Backend>,
    /// The sum of the backends' weights; zero is `backend_invalid`.
    pub weight_total: u32,
    /// Times and retries: the rule's own over those of policies, field by field.
    pub settings: RouteSettings,
}

/// One share of a rule's traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The service and its port, 0 for the number that the caller asked for; `None` for one that does
    /// not exist or may not be used: its share gets `backend_invalid` and is not spread over the
    /// others.
    pub target: Option<(ServiceName, u16)>,
    /// Its share of `weight_total`.
    pub weight: u32,
    /// Changes to the request's head for this backend only.
    pub request_headers: HeaderModifier,
    /// Changes to the response's head for this backend only.
    pub response_headers: HeaderModifier,
}

/// Times and retries of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSettings {
    /// From the request's head to the response's, over all attempts.
    pub request_timeout: Option<Duration>,
    /// From an attempt's start to its response head.
    pub attempt_timeout: Option<Duration>,
    /// Without a byte in either direction after the response head.
    pub stream_idle: Option<Duration>,
    /// A stream's whole life.
    pub stream_max: Option<Duration>,
    /// What was asked to be retried; unseen requests are retried whatever stands here.
    pub retry: Option<Retry>,
}

/// What was asked to be retried.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Beyond the first.
    pub attempts: u32,
    /// On what.
    pub on: RetryOn,
    /// HTTP methods to which `on.http` and `on.reset` apply.
    pub methods: Vec<String>,
    /// gRPC methods to which `on.grpc` and `on.grpc_reset` apply: service and method, `None` for any;
    /// empty: all.
    pub grpc_methods: Vec<(String, Option<String>)>,
    /// The pause before the first retry, doubled for each further one.
    pub backoff_base: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

/// The outcomes of an attempt that are tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// gRPC statuses, when they come in the response's head (trailers-only).
    pub grpc: Vec<GrpcCode>,
    /// HTTP statuses.
    pub http: Vec<u16>,
    /// The upstream broke the stream of an HTTP request before its response head.
    pub reset: bool,
    /// The same of a gRPC call, which is a POST and so is not repeated as easily.
    pub grpc_reset: bool,
}
