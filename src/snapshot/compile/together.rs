//! What resources that are each right make wrong together: a rule that another route leaves nothing
//! for, routes that lead in a circle, services that disagree about a port of the same instances, an
//! instance that is registered twice, a policy that another one leaves nothing to decide. All of it
//! runs, by the rule that its message names, so all of it is warned of and nothing is refused.
//!
//! Only the control plane and `check` of files ask for it: a sidecar sees a part of the mesh, and what
//! it would say was said when the resources were written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Compiler, mesh,
    precedence::{Precedence, covers},
    read::Entry,
    route::{Ruling, compile_match},
    service::{self, NamedPort, selects},
};
use crate::{
    resource::{
        Kind, Problem, ResourceKey,
        authorization_policy::{Action, AuthorizationPolicy},
        route::Route,
        service::{MtlsMode, Service},
        workload::{Address, Transport, Workload},
    },
    snapshot::Matcher,
    units::ServiceName,
};

/// Matches of one port that are compared with each other; each is compared with all before it.
const MATCHES_MAX: usize = 512;
/// Steps of a circle of routes that is looked for.
const CIRCLE_MAX: usize = 16;
/// Circles that are told.
const CIRCLES_MAX: usize = 100;
/// Ways back that are looked for: where many circles are too long to be told, no more time is spent.
const CIRCLES_TRIED_MAX: usize = 2000;

impl Compiler<'_> {
    /// Everything that only all resources together can say, but for what depends on a caller.
    pub(super) fn check_together(&self, problems: &mut Vec<Problem>) {
        self.check_names(problems);
        self.check_circles(problems);
        self.check_workloads(problems);
        self.check_ports(problems);
        self.check_authorization(problems);
    }

    /// A name by which metrics, logs and policies call two routes.
    fn check_names(&self, problems: &mut Vec<Problem>) {
        let (grpc, http): (Vec<_>, Vec<_>) =
            self.read.routes.iter().partition(|route| route.is_grpc());
        let grpc: BTreeSet<_> = grpc.iter().map(|route| &route.key).collect();
        for Entry { key, .. } in http {
            let other = ResourceKey::new(Kind::GrpcRoute, &key.namespace, &*key.name);
            if grpc.contains(&other) {
                let message = format!("Overlapping: metrics and logs call {other} the same");
                let problem = Problem::warning("metadata.name", message).with_value(&*key.name);
                problems.push(problem.with_hint("another name for one of them").of(key));
            }
        }
    }

    /// Warns of matches that a route of another name takes everything from, for callers in a
    /// namespace: the ports of a service have one order of matches for all of its routes.
    pub(super) fn check_shadowed(
        &self,
        service: &ServiceName,
        caller: &str,
        problems: &mut Vec<Problem>,
    ) {
        let attached = self.attached(service, caller);
        if attached.len() < 2 {
            return;
        }
        for NamedPort { number, .. } in service::ports(self.read, service) {
            let Ruling { routes, .. } = Self::ruling(&attached, service, number);
            if routes.len() < 2 {
                continue;
            }
            let all = in_order(&routes);
            for (index, later) in all.iter().enumerate() {
                let other = |it: &&Placed<'_>| it.route.key != later.route.key;
                let taken = |it: &&Placed<'_>| covers(&it.matcher, &later.matcher);
                let Some(by) = all[..index].iter().filter(other).find(taken) else { continue };
                let port = if number == 0 { String::new() } else { format!("port {number} of ") };
                let message = format!(
                    "never matches for {port}{service}: rules[{}] of {} takes everything it would",
                    by.rule, by.route.key
                );
                let problem = Problem::warning(later.field(), message).of(&later.route.key);
                let hint = "leave one of them out, or narrow the other's match";
                let said =
                    |it: &Problem| it.resource == problem.resource && it.field == problem.field;
                if !problems.iter().any(said) {
                    problems.push(problem.with_hint(hint));
                }
            }
        }
    }

    /// Routes that lead to each other. A request is routed once, so none goes round; but whoever
    /// writes it thinks of one that is routed again.
    fn check_circles(&self, problems: &mut Vec<Problem>) {
        let mut leads: BTreeMap<&ServiceName, BTreeSet<&ServiceName>> = BTreeMap::new();
        for route in &self.read.routes {
            for (parent, backend, _) in ways(route) {
                leads.entry(parent).or_default().insert(backend);
            }
        }
        keep_circles(&mut leads);
        let (mut told, mut tried) = (0, 0);
        for route in &self.read.routes {
            let mut rules = BTreeSet::new();
            for (parent, backend, rule) in ways(route) {
                if !(leads.contains_key(parent) && leads.contains_key(backend)) {
                    continue;
                }
                tried += 1;
                if tried > CIRCLES_TRIED_MAX {
                    return;
                }
                let circle = way(&leads, backend, parent).filter(|_| rules.insert(rule));
                let Some(circle) = circle else { continue };
                let names: Vec<_> = circle.iter().map(ToString::to_string).collect();
                let message = format!(
                    "Circle: {parent} -> {}; a request is routed once and ends at {backend}",
                    names.join(" -> ")
                );
                let hint = format!("name the service that is to answer instead of {backend}");
                let problem = Problem::warning(format!("spec.rules[{rule}]"), message);
                problems.push(problem.with_hint(hint).of(&route.key));
                told += 1;
                if told >= CIRCLES_MAX {
                    return;
                }
            }
        }
    }

    /// Instances that take two shares, and services none of whose instances takes one.
    fn check_workloads(&self, problems: &mut Vec<Problem>) {
        let mut places: BTreeMap<(ServiceName, String), &ResourceKey> = BTreeMap::new();
        let mut takes: BTreeMap<ServiceName, bool> = BTreeMap::new();
        for workload in &self.read.workloads {
            let service = service_of(workload);
            *takes.entry(service.clone()).or_default() |= workload.spec.weight > 0;
            let place = place(&workload.spec);
            if let Some(other) = places.get(&(service.clone(), place.clone())) {
                let message =
                    format!("Overlapping: {other} is the same place, which takes two shares");
                let problem = Problem::warning("spec.address", message).with_value(place);
                problems.push(problem.with_hint("delete one of them").of(&workload.key));
            } else {
                places.insert((service, place), &workload.key);
            }
        }
        for workload in &self.read.workloads {
            let service = service_of(workload);
            if takes.get(&service) == Some(&false) {
                let message = format!(
                    "NoWeight: no workload of {service} takes traffic: its callers get no_endpoint"
                );
                let problem = Problem::warning("spec.weight", message).with_value("0");
                problems.push(problem.with_hint("1").of(&workload.key));
            }
        }
    }

    /// Services that say different things of the same port of the same instances, of which there is
    /// one listener.
    fn check_ports(&self, problems: &mut Vec<Problem>) {
        let mesh = mesh::written(self.read);
        let mut by_port: BTreeMap<(&str, u16), Vec<Listener<'_>>> = BTreeMap::new();
        for (name, service) in &self.read.services {
            let default = mesh.namespaces.get(&name.namespace).copied().unwrap_or(mesh.mtls);
            for (index, port) in service.ports.iter().enumerate() {
                let mtls = port.mtls.unwrap_or(default);
                let listener = Listener { name, service, index, mtls };
                by_port.entry((&name.namespace, port.number)).or_default().push(listener);
            }
        }
        for ((namespace, number), listeners) in by_port {
            let mut modes = listeners.iter().map(|it| it.mtls);
            let first = modes.next();
            // Nearly always all agree, and then nobody need be looked at.
            if modes.any(|mode| Some(mode) != first) {
                self.check_listeners(namespace, number, &listeners, problems);
            }
        }
    }

    /// For each workload of the namespace: those who have a say in it, against each other.
    fn check_listeners(
        &self,
        namespace: &str,
        number: u16,
        listeners: &[Listener<'_>],
        problems: &mut Vec<Problem>,
    ) {
        let named: BTreeMap<&str, _> = listeners.iter().map(|it| (&*it.name.name, it)).collect();
        let selecting: Vec<_> =
            listeners.iter().filter(|it| !it.service.selector.is_empty()).collect();
        let mut told = BTreeSet::new();
        let own = |workload: &&Entry<Workload>| workload.key.namespace == namespace;
        for workload in self.read.workloads.iter().filter(own) {
            let own = named.get(&*workload.spec.service).copied();
            let others = selecting.iter().copied().filter(|it| {
                it.name.name != workload.spec.service && selects(it.service, &workload.labels)
            });
            let all: Vec<_> = own.into_iter().chain(others).collect();
            for (index, one) in all.iter().enumerate() {
                for other in &all[..index] {
                    if let Some(problem) = disagreement(other, one, number)
                        && told.insert((other.name, one.name))
                    {
                        problems.push(problem);
                    }
                }
            }
        }
    }

    /// Policies that decide nothing: one that denies everything stands before every other, and an
    /// identity of another trust domain is nobody's here.
    fn check_authorization(&self, problems: &mut Vec<Problem>) {
        let everything = |policy: &&Entry<AuthorizationPolicy>| {
            let all = |rule: &crate::resource::authorization_policy::Rule| {
                rule.from.is_empty() && rule.to.is_empty()
            };
            policy.spec.action == Action::Deny && policy.spec.rules.iter().any(all)
        };
        let denying: Vec<_> = self.read.authorization.iter().filter(everything).collect();
        for policy in &self.read.authorization {
            self.check_identities(policy, problems);
            if policy.spec.action != Action::Allow {
                continue;
            }
            let targets = &policy.spec.services;
            let covers = |deny: &&&Entry<AuthorizationPolicy>| {
                let over = &deny.spec.services;
                let each = !targets.is_empty() && targets.iter().all(|it| over.contains(it));
                deny.key.namespace == policy.key.namespace && (over.is_empty() || each)
            };
            if let Some(deny) = denying.iter().find(covers) {
                let message = format!("never holds: {} denies everything there first", deny.key);
                let problem = Problem::warning("spec.rules", message);
                let hint = "leave the denying one out: what no policy allows is denied";
                problems.push(problem.with_hint(hint).of(&policy.key));
            }
        }
    }

    fn check_identities(&self, policy: &Entry<AuthorizationPolicy>, problems: &mut Vec<Problem>) {
        let own = &self.context.trust_domain;
        for (rule, written) in policy.spec.rules.iter().enumerate() {
            for (place, source) in written.from.iter().enumerate() {
                let whole = source.identities.iter().map(|id| id.as_str());
                let all = whole.chain(source.identity_prefixes.iter().map(String::as_str));
                let domain = |id: &str| {
                    let rest = id.strip_prefix("spiffe://")?;
                    Some(rest.split('/').next().unwrap_or_default().to_owned())
                };
                for id in all.filter(|id| domain(id).is_some_and(|domain| domain != *own)) {
                    let field = format!("spec.rules[{rule}].from[{place}].identities");
                    let message = format!("never holds: the mesh's trust domain is {own}");
                    let problem = Problem::warning(field, message).with_value(id);
                    problems.push(problem.with_hint(format!("spiffe://{own}/…")).of(&policy.key));
                }
            }
        }
    }
}

/// A match with where it stands.
struct Placed<'a> {
    precedence: Precedence,
    route: &'a Entry<Route>,
    rule: usize,
    /// Which match of the rule; `None` where it is the only one.
    place: Option<usize>,
    matcher: Matcher,
}

impl Placed<'_> {
    fn field(&self) -> String {
        let place = self.place.map_or_else(String::new, |place| format!(".matches[{place}]"));
        format!("spec.rules[{}]{place}", self.rule)
    }
}

/// The matches of these routes in the order in which they are tried.
fn in_order<'a>(routes: &[&'a Entry<Route>]) -> Vec<Placed<'a>> {
    let mut all = Vec::new();
    for route in routes.iter().copied() {
        for (rule, written) in route.spec.rules.iter().enumerate() {
            let several = written.matches.len() > 1;
            for (place, matcher) in written.matches.iter().enumerate() {
                let matcher = compile_match(matcher, route.is_grpc());
                let precedence = Precedence::new(&matcher, &route.age, rule, place);
                let place = several.then_some(place);
                all.push(Placed { precedence, route, rule, place, matcher });
            }
        }
    }
    all.sort_by(|one, other| one.precedence.cmp(&other.precedence));
    all.truncate(MATCHES_MAX);
    all
}

/// Where a route leads from and to, and by which rule; not what it leaves with its own service.
fn ways(route: &Entry<Route>) -> impl Iterator<Item = (&ServiceName, &ServiceName, usize)> {
    route.spec.parents.iter().flat_map(|parent| {
        let rules = route.spec.rules.iter().enumerate();
        let ways = rules.flat_map(move |(rule, written)| {
            let taken = written.backends.iter().filter(|backend| backend.weight > 0);
            taken.filter_map(move |backend| Some((backend.service.as_ref()?, rule)))
        });
        let away = ways.filter(|(backend, _)| **backend != parent.service);
        away.map(|(backend, rule)| (&parent.service, backend, rule))
    })
}

/// Takes out what leads nowhere, and then what leads only there: neither is in a circle.
fn keep_circles(leads: &mut BTreeMap<&ServiceName, BTreeSet<&ServiceName>>) {
    let mut from: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (service, to) in &*leads {
        for next in to {
            from.entry(*next).or_default().push(*service);
        }
    }
    let mut ends: Vec<_> = from.keys().copied().filter(|it| !leads.contains_key(it)).collect();
    while let Some(end) = ends.pop() {
        for service in from.remove(end).into_iter().flatten() {
            let Some(to) = leads.get_mut(service) else { continue };
            to.remove(end);
            if to.is_empty() {
                leads.remove(service);
                ends.push(service);
            }
        }
    }
}

/// The shortest way from one service to another, both among what is returned.
fn way<'a>(
    leads: &BTreeMap<&'a ServiceName, BTreeSet<&'a ServiceName>>,
    from: &'a ServiceName,
    to: &'a ServiceName,
) -> Option<Vec<&'a ServiceName>> {
    let mut seen = BTreeSet::from([from]);
    let mut ways = VecDeque::from([vec![from]]);
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        if *last == to {
            return Some(way);
        }
        if way.len() >= CIRCLE_MAX {
            continue;
        }
        for next in leads.get(last).into_iter().flatten() {
            if seen.insert(next) {
                ways.push_back(way.iter().copied().chain([*next]).collect());
            }
        }
    }
    None
}

fn service_of(workload: &Entry<Workload>) -> ServiceName {
    ServiceName::new(&*workload.spec.service, &*workload.key.namespace)
}

/// Where a workload is dialled.
fn place(workload: &Workload) -> String {
    let address = match &workload.address {
        Address::Ip(ip) => ip.to_string(),
        Address::Name(name) => name.clone(),
    };
    match &workload.transport {
        Transport::Mesh { port, .. } => format!("{address}:{port}"),
        Transport::Plain => {
            let ports: Vec<_> = workload.ports.values().map(ToString::to_string).collect();
            format!("{address}:{}", ports.join(","))
        }
    }
}

/// What a service says of one of its ports.
struct Listener<'a> {
    name: &'a ServiceName,
    service: &'a Service,
    /// Which of its ports.
    index: usize,
    mtls: MtlsMode,
}

/// In what two services differ about a port, told of the one that does not hold.
fn disagreement(one: &Listener<'_>, other: &Listener<'_>, number: u16) -> Option<Problem> {
    let strictness = |listener: &Listener<'_>| match listener.mtls {
        MtlsMode::Disabled => 0,
        MtlsMode::Permissive => 1,
        MtlsMode::Strict => 2,
    };
    if one.mtls == other.mtls {
        return None;
    }
    let (loser, holds) =
        if strictness(one) < strictness(other) { (one, other) } else { (other, one) };
    let (namespace, name) = (&*holds.name.namespace, &*holds.name.name);
    let key = |name: &ServiceName| ResourceKey::new(Kind::Service, &name.namespace, &*name.name);
    let message = format!(
        "Conflicted: {} has {:?} for port {number} of the same workloads, and the stricter holds",
        ResourceKey::new(Kind::Service, namespace, name),
        holds.mtls
    );
    let problem = Problem::warning(format!("spec.ports[{}].mtls", loser.index), message);
    let problem = problem.with_value(format!("{:?}", loser.mtls));
    Some(problem.with_hint(format!("{:?}", holds.mtls)).of(&key(loser.name)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::keep_circles;
    use crate::units::ServiceName;

    /// A pass over all for each that is taken out would take hours.
    #[test]
    fn long_ways_into_and_out_of_a_circle_are_taken_out_at_once() {
        let services: Vec<_> =
            (0..20_000).map(|number| ServiceName::new(format!("s{number}"), "shop")).collect();
        let mut leads: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for pair in services.windows(2) {
            leads.entry(&pair[0]).or_default().insert(&pair[1]);
        }
        leads.entry(&services[2]).or_default().insert(&services[0]);
        keep_circles(&mut leads);
        let kept: Vec<_> = leads.iter().map(|(from, to)| (&*from.name, to.len())).collect();
        assert_eq!(kept, [("s0", 1), ("s1", 1), ("s2", 1)]);
    }
}
