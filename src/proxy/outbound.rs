//! From the application: which service its authority means, which rule matches, which backend the
//! request gets. The first use of a service asks for it and waits a bounded time.

use std::{rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::{
    connection::Origin,
    core::{Core, Running},
    destination::Entry,
    memory::Meaning,
    plan::Plan,
    route::Route,
};
use crate::{
    http::{Head, answer::Rejection},
    reason::Reason,
    routing::{self, Authority, Resolution, Selected},
    snapshot::{Protocol, Rule},
    units::ServiceName,
};

/// What an authority leads to.
pub(super) enum Destination {
    /// A service of the mesh.
    Mesh { running: Arc<Running>, service: ServiceName, port: Option<u16> },
    /// Something else, which may pass.
    External { running: Arc<Running>, authority: Authority },
}

/// Finds out what an authority means, or takes the service that the listener leads to.
///
/// # Errors
/// When it is malformed, unknown, not permitted, or not answered in time.
pub(super) async fn resolve(
    core: &Core,
    fixed: Option<&(ServiceName, u16)>,
    authority: &str,
) -> Result<Destination, Rejection> {
    let mut wanted = None;
    let found = |running: &Arc<Running>| match look_up(running, fixed, authority) {
        Resolution::Mesh { service, port } => {
            let running = Arc::clone(running);
            Ok(Some(Destination::Mesh { running, service, port }))
        }
        Resolution::Ask(service) => {
            want(core, &mut wanted, service);
            Ok(None)
        }
        Resolution::Unknown(service) => Err(Rejection::unseen(
            Reason::UnknownService,
            format!("the mesh has no service {service}"),
        )),
        Resolution::External(authority) if running.snapshot.mesh.egress_allowed => {
            let running = Arc::clone(running);
            Ok(Some(Destination::External { running, authority }))
        }
        Resolution::External(authority) => Err(Rejection::unseen(
            Reason::Denied,
            format!("{authority} is outside the mesh and egress is denied"),
        )),
        Resolution::Malformed(error) => {
            Err(Rejection::unseen(Reason::Malformed, format!("the authority {error}")))
        }
    };
    core.first_answer(found).await
}

fn look_up(running: &Running, fixed: Option<&(ServiceName, u16)>, authority: &str) -> Resolution {
    let Some((service, port)) = fixed else {
        return routing::resolve(&running.snapshot, authority);
    };
    match running.snapshot.destinations.get(service) {
        Some(Some(_)) => Resolution::Mesh { service: service.clone(), port: Some(*port) },
        Some(None) => Resolution::Unknown(service.clone()),
        None if running.snapshot.complete => Resolution::Unknown(service.clone()),
        None => Resolution::Ask(service.clone()),
    }
}

/// The service that a refused request meant, for its record.
pub(super) fn meant(
    core: &Core,
    fixed: Option<&(ServiceName, u16)>,
    authority: &str,
) -> Option<ServiceName> {
    match look_up(&*core.running()?, fixed, authority) {
        Resolution::Mesh { service, .. } | Resolution::Unknown(service) => Some(service),
        Resolution::Ask(_) | Resolution::External(_) | Resolution::Malformed(_) => None,
    }
}

/// Asks for a service once.
fn want(core: &Core, wanted: &mut Option<ServiceName>, service: ServiceName) {
    if wanted.as_ref() != Some(&service) {
        core.discover.want(&service);
        *wanted = Some(service);
    }
}

/// Where a request from the application goes. Where a listener leads to one service, `head` has that
/// service's authority. `None`: what the authority means was not found out on this configuration, or
/// something is to be asked for.
///
/// # Errors
/// Whatever keeps it from going anywhere.
pub(super) fn known(
    origin: &Origin,
    head: &Head<'_>,
    grpc: bool,
) -> Option<Result<Rc<Plan>, Rejection>> {
    let running = origin.worker.core.load();
    let running = running.as_ref()?;
    let fixed = origin.side.fixed().is_some();
    let found = |meaning: &Meaning| mesh(running, meaning, head, fastrand::u64(..));
    match origin.worker.memory.recall(running, fixed, head.authority, found)? {
        Ok(Found::Route { route, by_call }) => {
            Some(Ok(note(origin, running, head, grpc && by_call, route)))
        }
        Ok(Found::Ask(_)) => None,
        Err(rejection) => Some(Err(rejection)),
    }
}

fn note(
    origin: &Origin,
    running: &Arc<Running>,
    head: &Head<'_>,
    always: bool,
    route: Route,
) -> Rc<Plan> {
    let plan = Rc::new(Plan::new(route, head));
    if always {
        origin.worker.memory.plans.note(origin, running, head, &plan);
    }
    plan
}

/// The same, whatever must be asked for.
///
/// # Errors
/// Whatever keeps it from going anywhere.
pub(super) async fn find(
    origin: &Origin,
    head: &Head<'_>,
    grpc: bool,
) -> Result<Rc<Plan>, Rejection> {
    let random = fastrand::u64(..);
    let core = &origin.worker.core;
    let fixed = origin.side.fixed();
    match resolve(core, fixed, head.authority).await? {
        Destination::External { running, authority } => {
            let route = external(core, &running, &authority)?;
            Ok(Rc::new(Plan::new(route, head)))
        }
        Destination::Mesh { service, port, .. } => {
            // A route may lead to services that nobody has asked for yet.
            let mut wanted = None;
            let found = |running: &Arc<Running>| {
                let entry = running.table.destination(&service);
                let unknown =
                    || Rejection::unseen(Reason::UnknownService, format!("{service} is gone"));
                let entry = Arc::clone(entry.ok_or_else(unknown)?);
                let meaning = Meaning { entry, port };
                let memory = &origin.worker.memory;
                memory.note(running, fixed.is_some(), head.authority, &meaning);
                match mesh(running, &meaning, head, random)? {
                    Found::Route { route, by_call } => {
                        Ok(Some(note(origin, running, head, grpc && by_call, route)))
                    }
                    Found::Ask(backend) => {
                        want(core, &mut wanted, backend);
                        Ok(None)
                    }
                }
            };
            core.first_answer(found).await
        }
    }
}

enum Found {
    Route {
        route: Route,
        /// Whether every request with the same method, path and kind gets the same.
        by_call: bool,
    },
    Ask(ServiceName),
}

fn mesh(
    running: &Running,
    meaning: &Meaning,
    head: &Head<'_>,
    random: u64,
) -> Result<Found, Rejection> {
    let Meaning { entry, port: asked } = meaning;
    let service = &entry.destination.name;
    let chosen = routing::choose_port(&entry.destination, *asked)
        .map_err(|no_port| Rejection::unseen(Reason::NoRoute, no_port.to_string()))?;
    let Selected { rule, by_call } = routing::choose(chosen.port, head);
    let rule = rule.ok_or_else(|| {
        let what = format!("no rule of {service}:{} matches {}", chosen.number, head.path);
        Rejection::unseen(Reason::NoRoute, what)
    })?;
    let route = |entry: &Arc<Entry>, port: u16, protocol, backend| {
        let bulkhead = entry.bulkhead.as_ref();
        let wait_max = entry.destination.settings.bulkhead.wait_max;
        let one = rule.backends.iter().filter(|backend| backend.weight > 0).count() <= 1;
        let route = Route {
            entry: Arc::clone(entry),
            port,
            protocol,
            rule: Some(Arc::clone(rule)),
            backend,
            bulkhead: bulkhead.map(|bulkhead| (Arc::clone(bulkhead), wait_max)),
            to_app: false,
            authority: None,
            revision: running.snapshot.revision,
        };
        Found::Route { route, by_call: by_call && one }
    };
    if chosen.port.rules.is_none() {
        opaque(chosen.port.protocol, service, chosen.number)?;
        return Ok(route(entry, chosen.number, chosen.port.protocol, None));
    }
    let backend = routing::split(rule, random);
    let target = backend.and_then(|backend| backend.target.as_ref());
    let index = backend
        .and_then(|backend| rule.backends.iter().position(|other| std::ptr::eq(other, backend)));
    let (name, port) = target.ok_or_else(|| invalid(rule, "a backend that does not exist"))?;
    let backend = if name == service {
        entry
    } else {
        match running.snapshot.destinations.get(name) {
            None => return Ok(Found::Ask(name.clone())),
            Some(None) => return Err(invalid(rule, &format!("{name}, which does not exist"))),
            Some(Some(_)) => {
                let found = running.table.destination(name);
                found.ok_or_else(|| invalid(rule, &format!("{name}, gone")))?
            }
        }
    };
    let asked = if *port == 0 { asked.or(Some(chosen.number)) } else { Some(*port) };
    let port = routing::choose_port(&backend.destination, asked)
        .map_err(|no_port| invalid(rule, &no_port.to_string()))?;
    opaque(port.port.protocol, name, port.number)?;
    Ok(route(backend, port.number, port.port.protocol, index))
}

fn invalid(rule: &Rule, what: &str) -> Rejection {
    let what = format!("{} rule {} leads to {what}", rule.id.route, rule.id.rule);
    Rejection::unseen(Reason::BackendInvalid, what)
}

/// Opaque bytes have no requests.
fn opaque(protocol: Protocol, service: &ServiceName, port: u16) -> Result<(), Rejection> {
    if protocol == Protocol::Opaque {
        let what = format!("{service}:{port} is an opaque port and takes no HTTP requests");
        return Err(Rejection::unseen(Reason::NoRoute, what));
    }
    Ok(())
}

/// A request to a name outside the mesh, in plaintext: `http_proxy` clients send it so.
fn external(core: &Core, running: &Running, authority: &Authority) -> Result<Route, Rejection> {
    let port = authority.port.unwrap_or(80);
    if Some(port) == core.settings.outbound.map(|own| own.port())
        && authority.ip().is_some_and(|ip| ip.is_loopback())
    {
        let what = format!("{authority} is this proxy; name a service in the authority");
        return Err(Rejection::unseen(Reason::NoRoute, what));
    }
    let proxy = proxy_for(core, &authority.host);
    let entry = Entry::external(authority, port, proxy, Instant::now().into_std());
    Ok(Route {
        entry: Arc::new(entry),
        port,
        protocol: Protocol::Detect,
        rule: None,
        backend: None,
        bulkhead: None,
        to_app: false,
        authority: Some(authority.to_string()),
        revision: running.snapshot.revision,
    })
}

/// The inherited proxy, unless the host is reached without it.
pub(super) fn proxy_for(core: &Core, host: &str) -> Option<String> {
    let direct = core.settings.external_direct.iter().any(|direct| {
        let domain = direct.trim_start_matches('.');
        direct == "*"
            || host == domain
            || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    });
    core.settings.external_proxy.clone().filter(|_| !direct)
}
