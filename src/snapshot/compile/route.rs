//! The rules of a service's ports: which routes attach, in which order their matches are tried, and
//! what becomes of a request that one of them takes.

use std::sync::Arc;

use super::{
    Compiler, Presence,
    precedence::{Precedence, covers},
    read::Entry,
    service::{self, NamedPort},
};
use crate::{
    resource::{
        Problem,
        route::{self, Route},
        traffic_policy::{self, RETRY_HTTP_STATUSES, Timeout, Timeouts},
    },
    snapshot::{
        Backend, HeaderModifier, Matcher, Retry, RetryOn, RouteId, RouteSettings, Rule, RuleMatch,
    },
    units::ServiceName,
};

/// Makes the rules of one service's ports.
pub(super) struct Rules<'a> {
    compiler: &'a Compiler<'a>,
    service: &'a ServiceName,
    /// The routes that count for this node, the oldest first.
    routes: Vec<&'a Entry<Route>>,
}

impl Compiler<'_> {
    pub(super) fn rules<'a>(&'a self, service: &'a ServiceName) -> Rules<'a> {
        let routes = self.attached(service, &self.context.node.service.namespace);
        Rules { compiler: self, service, routes }
    }

    /// The routes that attach to a service for callers in a namespace: its producer's and that
    /// namespace's own.
    pub(super) fn attached(&self, service: &ServiceName, caller: &str) -> Vec<&Entry<Route>> {
        let counts = |namespace: &str| namespace == service.namespace || namespace == caller;
        self.read.attached(service).filter(|route| counts(&route.key.namespace)).collect()
    }

    /// Which routes rule a port: consumer routes replace producer routes (GEP-1426), and of what is
    /// left a `GRPCRoute` takes the port from every `HTTPRoute` (Gateway API, "Cross Serving").
    pub(super) fn ruling<'a>(
        routes: &[&'a Entry<Route>],
        service: &ServiceName,
        port: u16,
    ) -> Ruling<'a> {
        let on_port = |route: &&&Entry<Route>| {
            route.spec.parents.iter().any(|parent| is_of(parent, service, port))
        };
        let routes: Vec<&Entry<Route>> = routes.iter().filter(on_port).copied().collect();
        let (producers, consumers): (Vec<_>, Vec<_>) =
            routes.into_iter().partition(|route| route.key.namespace == service.namespace);
        let routes = if consumers.is_empty() { producers } else { consumers };
        let (grpc, http): (Vec<_>, Vec<_>) = routes.into_iter().partition(|r| r.is_grpc());
        if grpc.is_empty() {
            Ruling { routes: http, losers: Vec::new() }
        } else {
            Ruling { routes: grpc, losers: http }
        }
    }

    /// Warns of routes that lose a port of a service to others, for callers in a namespace.
    pub(super) fn check_conflicts(
        &self,
        service: &ServiceName,
        caller: &str,
        problems: &mut Vec<Problem>,
    ) {
        let routes = self.attached(service, caller);
        for NamedPort { number, .. } in service::ports(self.read, service) {
            let Ruling { routes, losers } = Self::ruling(&routes, service, number);
            let Some(winner) = routes.first() else { continue };
            let of_port = if number == 0 { String::new() } else { format!(" port {number} of") };
            let message = format!("Conflicted: {} takes{of_port} {service}", winner.key);
            for loser in losers {
                let parents = loser.spec.parents.iter();
                let index = parents.take_while(|it| !is_of(it, service, number)).count();
                let field = format!("spec.parentRefs[{index}]");
                let problem = Problem::warning(field, &*message).of(&loser.key);
                // Callers of several namespaces may see the same conflict.
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
}

fn is_of(parent: &route::Parent, service: &ServiceName, port: u16) -> bool {
    parent.service == *service && parent.port.is_none_or(|only| only == port)
}

/// Who rules a port, and who would without them.
pub(super) struct Ruling<'a> {
    pub(super) routes: Vec<&'a Entry<Route>>,
    losers: Vec<&'a Entry<Route>>,
}

impl Rules<'_> {
    /// The rules of a port in the order in which they are tried; `None` when no route attaches.
    pub(super) fn of_port(&self, port: u16) -> Option<Vec<RuleMatch>> {
        let Ruling { routes, .. } = Compiler::ruling(&self.routes, self.service, port);
        if routes.is_empty() {
            return None;
        }
        let mut matches = Vec::new();
        for route in routes {
            for (index, written) in route.spec.rules.iter().enumerate() {
                let rule = self.rule(route, index, written);
                for (place, matcher) in written.matches.iter().enumerate() {
                    let matcher = compile_match(matcher, route.is_grpc());
                    let precedence = Precedence::new(&matcher, &route.age, index, place);
                    matches.push((precedence, RuleMatch { matcher, rule: Arc::clone(&rule) }));
                }
            }
        }
        matches.sort_by(|(one, _), (other, _)| one.cmp(other));
        Some(matches.into_iter().map(|(_, rule)| rule).collect())
    }

    /// The rule of a service that no route attaches to: everything goes to the service itself.
    pub(super) fn default_rule(&self, port: u16) -> Arc<Rule> {
        let backend = Backend {
            target: Some((self.service.clone(), port)),
            weight: 1,
            request_headers: HeaderModifier::default(),
            response_headers: HeaderModifier::default(),
        };
        let layer = self.compiler.policies.of_service(self.service);
        Arc::new(Rule {
            id: Arc::new(RouteId { route: "default".into(), rule: "0".into() }),
            request_headers: HeaderModifier::default(),
            response_headers: HeaderModifier::default(),
            backends: vec![backend],
            weight_total: 1,
            settings: settings(layer.timeouts, layer.retry.clone(), None),
        })
    }

    fn rule(&self, route: &Entry<Route>, index: usize, written: &route::Rule) -> Arc<Rule> {
        let named = (!written.name.is_empty()).then_some(written.name.as_str());
        let rule = named.map_or_else(|| index.to_string(), String::from);
        let policies = self.compiler.policies;
        let of_rule = named.map(|name| policies.of_route(route, Some(name)));
        let below = [of_rule, Some(policies.of_route(route, None))];
        let service = policies.of_service(self.service);
        let (mut timeouts, mut retry) = (written.timeouts, written.retry.clone());
        for layer in below.into_iter().flatten().chain([service]) {
            timeouts = timeouts.over(layer.timeouts);
            retry = match (retry, layer.retry.clone()) {
                (Some(own), Some(below)) => Some(own.over(below)),
                (own, below) => own.or(below),
            };
        }
        let backends: Vec<Backend> =
            written.backends.iter().map(|backend| self.compiler.backend(backend)).collect();
        Arc::new(Rule {
            id: Arc::new(RouteId { route: route.name().into(), rule: rule.into() }),
            request_headers: written.request_headers.clone(),
            response_headers: written.response_headers.clone(),
            weight_total: backends.iter().map(|backend| backend.weight).sum(),
            backends,
            settings: settings(timeouts, retry, Some(written)),
        })
    }
}

impl Compiler<'_> {
    fn backend(&self, written: &route::Backend) -> Backend {
        Backend {
            target: self.target(written).ok(),
            weight: written.weight,
            request_headers: written.request_headers.clone(),
            response_headers: written.response_headers.clone(),
        }
    }

    /// The service and port that a backend means, or why it means none. A service that nobody has
    /// asked for yet is taken at its word; a port that is not named is the only one, or the one that
    /// the caller asked for (0).
    pub(super) fn target(&self, backend: &route::Backend) -> Result<(ServiceName, u16), String> {
        let service = backend.service.clone().ok_or_else(|| "not a Service".to_owned())?;
        match self.presence(&service) {
            Presence::NotAsked => return Ok((service, backend.port.unwrap_or(0))),
            Presence::Missing => return Err(format!("BackendNotFound: no Service {service}")),
            Presence::Here => {}
        }
        let ports = service::ports(self.read, &service);
        let numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
        match (backend.port, numbers.as_slice()) {
            (None, [only]) => Ok((service, *only)),
            (None, _) => Ok((service, 0)),
            (Some(port), numbers) if numbers == [0] || numbers.contains(&port) => {
                Ok((service, port))
            }
            (Some(port), _) => Err(format!("BackendNotFound: {service} has no port {port}")),
        }
    }
}

pub(super) fn compile_match(written: &route::Match, grpc_only: bool) -> Matcher {
    Matcher {
        path: written.path.clone(),
        method: written.method.clone(),
        grpc: written.grpc.clone(),
        grpc_only,
        headers: written.headers.clone(),
        query: written.query.clone(),
    }
}

/// Fills in what nobody said. A time limit of `0s` is none.
fn settings(
    timeouts: Timeouts,
    retry: Option<traffic_policy::Retry>,
    rule: Option<&route::Rule>,
) -> RouteSettings {
    let limit = |written: Option<Timeout>| written.and_then(Timeout::duration);
    let idle = timeouts.stream_idle.unwrap_or(Timeout::After(traffic_policy::STREAM_IDLE));
    RouteSettings {
        request_timeout: limit(timeouts.request),
        attempt_timeout: limit(timeouts.attempt),
        stream_idle: idle.duration(),
        stream_max: limit(timeouts.stream_max),
        retry: retry.map(|retry| compile_retry(retry, rule)),
    }
}

/// A rule with a retry of its own asks for what Gateway API says such a rule retries: the statuses
/// of gateways, and broken connections. It asks for the methods that may be repeated, and for those
/// that its own matches name: whoever writes a retry on a rule for POST means POST, and a gRPC call
/// is one.
fn compile_retry(retry: traffic_policy::Retry, rule: Option<&route::Rule>) -> Retry {
    let own = rule.filter(|rule| rule.retry.is_some());
    let methods = retry.methods.unwrap_or_else(|| {
        let named = own.iter().flat_map(|rule| &rule.matches).filter_map(|m| m.method.clone());
        let mut methods: Vec<String> = traffic_policy::RETRY_METHODS.map(String::from).to_vec();
        methods.extend(named);
        methods.sort();
        methods.dedup();
        methods
    });
    let statuses = || own.map_or_else(Vec::new, |_| RETRY_HTTP_STATUSES.to_vec());
    let asks_for_post = own.is_some() && methods.iter().any(|method| method == "POST");
    let grpc_methods = retry.grpc_methods.unwrap_or_default();
    let base = retry.backoff_base.unwrap_or(traffic_policy::BACKOFF_BASE);
    Retry {
        attempts: retry.attempts.unwrap_or(traffic_policy::RETRY_ATTEMPTS),
        on: RetryOn {
            grpc: retry.on_grpc.unwrap_or_default(),
            http: retry.on_http.unwrap_or_else(statuses),
            reset: retry.on_reset.unwrap_or_else(|| own.is_some()),
            grpc_reset: retry.on_reset.unwrap_or(asks_for_post),
        },
        methods,
        grpc_methods: grpc_methods.into_iter().map(|grpc| (grpc.service, grpc.method)).collect(),
        backoff_base: base,
        backoff_max: retry.backoff_max.unwrap_or(traffic_policy::BACKOFF_MAX).max(base),
    }
}

/// Warns of matches that can never be reached, because one before them takes everything.
pub(super) fn unreachable(route: &Entry<Route>, problems: &mut Vec<Problem>) {
    let mut matches = Vec::new();
    for (rule, written) in route.spec.rules.iter().enumerate() {
        for (place, matcher) in written.matches.iter().enumerate() {
            let matcher = compile_match(matcher, route.is_grpc());
            matches.push((
                Precedence::new(&matcher, &route.age, rule, place),
                rule,
                place,
                matcher,
            ));
        }
    }
    matches.sort_by(|one, other| one.0.cmp(&other.0));
    for (index, (_, rule, place, later)) in matches.iter().enumerate() {
        let earlier = matches[..index].iter().find(|(_, _, _, earlier)| covers(earlier, later));
        let Some((_, by, _, _)) = earlier else { continue };
        let alone = route.spec.rules[*rule].matches.len() == 1;
        let place = if alone { String::new() } else { format!(".matches[{place}]") };
        let message = format!("never matches: rules[{by}] takes everything it would");
        problems
            .push(Problem::warning(format!("spec.rules[{rule}]{place}"), message).of(&route.key));
    }
}
