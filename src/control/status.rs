//! `Status`: how the mesh is, for people. It is put together when somebody asks, from the newest
//! world, the connected sidecars and what callers saw in the last minutes.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use tokio::time::Instant;
use tonic::Status;

use super::{
    ca::Ca,
    conditions, error,
    fleet::{Fleet, Traffic},
    key, refs,
    state::{State, pb_time},
    world::World,
};
use crate::{
    resource::{
        Kind, ResourceKey,
        pb::{self, resource::Spec},
    },
    units::ServiceName,
};

/// Services that callers ask for and the mesh does not have, as far as they are shown.
const UNKNOWN_MAX: usize = 100;
/// Resources that do not do what they say, as far as they are shown.
const UNSOUND_MAX: usize = 100;

/// What does not change while the control plane runs.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// When it started.
    pub started_at: SystemTime,
    /// Which knows when the root, or a CA certificate below it, ends.
    pub ca: Arc<Ca>,
    /// Where the API listens.
    pub listen: String,
    /// Where Prometheus reads; empty: nowhere.
    pub metrics: String,
}

/// Reads the service that is asked for; `None` for all.
///
/// # Errors
/// INVALID_ARGUMENT when it is no name.
pub(crate) fn only(service: &str) -> Result<Option<ServiceName>, Status> {
    if service.is_empty() {
        return Ok(None);
    }
    let name = ServiceName::parse(service, refs::or_default(""));
    name.map(Some).map_err(|wrong| error::invalid("service", wrong.to_string()))
}

/// The answer.
pub(crate) fn of(
    state: &State,
    fleet: &Fleet,
    facts: &Facts,
    only: Option<ServiceName>,
    now: Instant,
) -> pb::StatusResponse {
    let (world, newest) = (state.world(), state.newest());
    let asked = |service: &ServiceName| only.as_ref().is_none_or(|only| only == service);
    let traffic = fleet.traffic(now);
    let clock = state.now();
    let wall = |at: Instant| pb_time(clock - now.saturating_duration_since(at));
    let mut services = services(&world, &traffic, &wall);
    for ((destination, _), ejection) in fleet.ejected(clock) {
        let Ok(name) = ServiceName::parse(&destination, "") else { continue };
        if let Some(service) = services.get_mut(&name) {
            service.ejected.push(ejection);
        }
    }
    services.retain(|service, _| asked(service));
    let mut sidecars = fleet.statuses(world.revision);
    sidecars.retain(|it| asked(&ServiceName::new(&it.service, &it.namespace)));
    pb::StatusResponse {
        revision: world.revision,
        changed_at: newest.changed_at,
        changed_by: newest.changed_by.clone(),
        change_message: newest.message.clone(),
        services: services.into_values().collect(),
        sidecars,
        started_at: Some(pb_time(facts.started_at)),
        root_expires_at: Some(pb_time(facts.ca.not_after())),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        tracing_ui: tracing_ui(&world),
        refusals: refusals(fleet, asked),
        unsound: if only.is_none() { unsound(&world, fleet) } else { Vec::new() },
        store_failing: !state.is_healthy(),
        trace: fleet.trace().unwrap_or_default(),
        caller: None,
        listen: facts.listen.clone(),
        metrics: facts.metrics.clone(),
        now: Some(pb_time(clock)),
        recent: fleet
            .writes()
            .into_iter()
            .map(|(revision, at)| pb::Revision {
                revision,
                changed_at: Some(wall(at)),
                ..Default::default()
            })
            .collect(),
    }
}

/// Tells when a moment was.
type Wall<'a> = &'a dyn Fn(Instant) -> prost_types::Timestamp;

/// Every service of the mesh, and those that callers ask for in vain.
fn services(
    world: &World,
    traffic: &Traffic,
    wall: Wall<'_>,
) -> BTreeMap<ServiceName, pb::ServiceStatus> {
    let known = world.services();
    let unknown = traffic
        .by_destination
        .keys()
        .filter_map(|destination| {
            let (name, namespace) = destination.split_once('.')?;
            Some(ServiceName::new(name, namespace))
        })
        .filter(|service| !known.contains(service))
        .take(UNKNOWN_MAX)
        .collect::<Vec<_>>();
    let all = known.iter().cloned().chain(unknown);
    all.map(|service| (service.clone(), service_status(world, traffic, &service, wall))).collect()
}

fn service_status(
    world: &World,
    traffic: &Traffic,
    service: &ServiceName,
    wall: Wall<'_>,
) -> pb::ServiceStatus {
    let workloads = world.workloads(service);
    let ready = workloads.iter().filter(|at| {
        let spec = world.get(at).and_then(|workload| workload.spec.as_ref());
        matches!(spec, Some(Spec::Workload(workload)) if workload.ready != Some(false))
    });
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let destination = service.to_string();
    let by_source = traffic.by_destination.get(&destination);
    pb::ServiceStatus {
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        ready: count(ready.count()),
        total: count(workloads.len()),
        traffic: by_source
            .into_iter()
            .flatten()
            .map(|(source, counters)| counters.to_pb(source, &destination, wall))
            .collect(),
        window_seconds: traffic.reach.as_secs_f64(),
        leads_elsewhere: leads_elsewhere(world, service),
        ejected: Vec::new(),
    }
}

/// Whether it has routes, none of which leads to itself.
fn leads_elsewhere(world: &World, service: &ServiceName) -> bool {
    let at = ResourceKey::new(Kind::Service, &service.namespace, &service.name);
    let attached = world.attached(&at).iter().filter_map(|key| world.get(key));
    let mut routes = attached.filter(|it| !refs::parents(it).is_empty()).peekable();
    routes.peek().is_some() && routes.all(|route| !refs::backends(route).contains(service))
}

fn tracing_ui(world: &World) -> String {
    match world.get(&key::of_mesh()).and_then(|mesh| mesh.spec.as_ref()) {
        Some(Spec::Mesh(mesh)) => mesh.tracing.as_ref().map(|it| it.ui.clone()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// What the compiler finds in them makes them do less than they say.
fn unsound(world: &World, fleet: &Fleet) -> Vec<pb::Unsound> {
    let problems = world.problems();
    let found = problems.iter().filter_map(|(at, problems)| {
        let status = conditions::of_itself(at, world.get(at)?, problems);
        let mut condition = status.conditions.into_iter().find(|it| it.status == "False")?;
        let since = fleet.transitions().since(at, &condition.r#type);
        condition.last_transition_time = since.map(pb_time);
        Some(pb::Unsound { resource: Some(at.to_pb()), condition: Some(condition) })
    });
    found.take(UNSOUND_MAX).collect()
}

fn refusals(fleet: &Fleet, asked: impl Fn(&ServiceName) -> bool) -> Vec<pb::Refusal> {
    let mut refusals = Vec::new();
    for session in fleet.sessions().iter().filter(|session| asked(&session.service)) {
        let progress = session.progress();
        refusals.extend(progress.ledger.entries().filter_map(|(at, entry)| {
            Some(pb::Refusal {
                resource: Some(at.to_pb()),
                workload: session.key.name.clone(),
                problems: entry.refused.clone()?,
                since: fleet.transitions().since(at, "Programmed").map(pb_time),
            })
        }));
    }
    refusals
}
