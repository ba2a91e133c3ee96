//! Guarded writes: a write that is undone by itself when more calls fail than before.
//!
//! The guard lives here and not in the command that asked for it, so that neither a closed laptop nor
//! a restart of the control plane leaves a bad change in place. What callers saw before the write is
//! stored with it in one transaction. From then on the failures that sidecars report of the services
//! concerned are compared with that, reason by reason. What others wrote over meanwhile is not undone.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::{Code, Status};

use super::{
    error,
    fleet::{Fleet, Traffic},
    plan::Note,
    refs, rollback,
    state::{State, Writer, pb_time},
    world::World,
};
use crate::{
    reason::Reason,
    resource::{
        Kind, ResourceKey,
        pb::{self, resource::Spec},
    },
    spiffe,
    units::ServiceName,
};

/// Shorter, and no sidecar has reported twice.
const LASTS_MIN: Duration = Duration::from_secs(10);
/// Longer, and what fails has other causes.
const LASTS_MAX: Duration = Duration::from_hours(1);
/// Guards at once.
const WATCHING_MAX: usize = 16;
/// Between two looks at what sidecars report.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Services that a guard names; beyond that it looks at all.
const SERVICES_MAX: usize = 1000;
/// Fewer failures mean nothing.
const FAILED_MIN: u64 = 5;
/// A smaller rise of the share of failed calls means nothing.
const RISE_MIN: f64 = 0.01;
/// By how many standard errors two shares differ that differ not by chance.
const SIGNIFICANT: f64 = 3.0;

/// Reads how long a guard lasts; `None` for a write without one.
///
/// # Errors
/// INVALID_ARGUMENT outside of 10 s to 1 h.
pub(crate) fn duration(asked: Option<prost_types::Duration>) -> Result<Option<Duration>, Status> {
    let Some(asked) = asked else { return Ok(None) };
    let lasts = Duration::try_from(asked).unwrap_or_default();
    if (LASTS_MIN..=LASTS_MAX).contains(&lasts) {
        return Ok(Some(lasts));
    }
    let (least, most) = (LASTS_MIN.as_secs(), LASTS_MAX.as_secs());
    Err(error::invalid("guard", format!("lasts {least} to {most} seconds")))
}

/// Refuses one guard too many.
///
/// # Errors
/// RESOURCE_EXHAUSTED.
pub(crate) fn check_room(state: &State) -> Result<(), Status> {
    let watching = |guard: &&pb::Guard| guard.state() == pb::GuardState::Watching;
    if state.guards().values().filter(watching).count() < WATCHING_MAX {
        return Ok(());
    }
    let message = format!("{WATCHING_MAX} guards are watching already");
    let pause = Duration::from_secs(10);
    Err(error::later(Code::ResourceExhausted, "GUARDS", &message, pause))
}

/// The guard of a write that is about to be made, with what callers saw until now.
pub(crate) fn begin(
    before: &World,
    after: &World,
    changes: &[pb::Change],
    fleet: &Fleet,
    now: SystemTime,
    lasts: Duration,
) -> pb::Guard {
    let services: Vec<String> = services(before, after, changes)
        .filter(|services| services.len() <= SERVICES_MAX)
        .map(|services| services.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    let seen = fleet.traffic(Instant::now());
    fleet.cut();
    pb::Guard {
        began_at: Some(pb_time(now)),
        ends_at: Some(pb_time(now + lasts)),
        state: pb::GuardState::Watching.into(),
        before: Some(of_services(&seen, &services, seen.reach)),
        services,
        ..Default::default()
    }
}

/// The services whose calls a write can change; `None` for all.
fn services(
    before: &World,
    after: &World,
    changes: &[pb::Change],
) -> Option<BTreeSet<ServiceName>> {
    let mut found = BTreeSet::new();
    let changed = changes.iter().filter(|it| it.kind() != pb::ChangeKind::Unchanged);
    for key in changed.filter_map(|change| ResourceKey::from_pb(change.resource.as_ref()?)) {
        for world in [before, after] {
            if let Some(resource) = world.get(&key) {
                add_services(world, &key, resource, &mut found)?;
            }
        }
    }
    Some(found)
}

fn add_services(
    world: &World,
    key: &ResourceKey,
    resource: &pb::Resource,
    found: &mut BTreeSet<ServiceName>,
) -> Option<()> {
    match &resource.spec {
        Some(Spec::Mesh(_)) | None => return None,
        Some(Spec::Service(_)) => {
            found.insert(ServiceName::new(&key.name, &key.namespace));
        }
        Some(Spec::Workload(_)) => found.extend(refs::service_of_workload(resource)),
        Some(Spec::HttpRoute(_) | Spec::GrpcRoute(_)) => {
            found.extend(refs::parents(resource).into_iter().map(|parent| parent.service));
            found.extend(refs::backends(resource));
        }
        Some(Spec::TrafficPolicy(_) | Spec::AuthorizationPolicy(_)) => {
            if refs::target_refs(resource).is_empty() {
                found.extend(of_namespace(world, &key.namespace));
            }
            for target in refs::targets(resource) {
                if target.kind == Kind::Service.name() {
                    found.insert(ServiceName::new(&target.name, &target.namespace));
                } else if let Some(target_resource) = world.get(&target) {
                    add_services(world, &target, target_resource, found)?;
                }
            }
        }
    }
    Some(())
}

fn of_namespace<'a>(
    world: &'a World,
    namespace: &'a str,
) -> impl Iterator<Item = ServiceName> + 'a {
    let inside = world.all().filter(move |(key, _)| key.namespace == namespace);
    inside.filter_map(|(key, resource)| match &resource.spec {
        Some(Spec::Service(_)) => Some(ServiceName::new(&key.name, &key.namespace)),
        Some(Spec::Workload(_)) => refs::service_of_workload(resource),
        _ => None,
    })
}

/// Calls to these services, or to all when none is named.
fn of_services(seen: &Traffic, services: &[String], over: Duration) -> pb::GuardTraffic {
    let mut traffic = pb::GuardTraffic { seconds: over.as_secs_f64(), ..Default::default() };
    for (destination, by_source) in &seen.by_destination {
        if !services.is_empty() && !services.contains(destination) {
            continue;
        }
        for counters in by_source.values() {
            traffic.total = traffic.total.saturating_add(counters.total);
            for (reason, count) in &counters.failed {
                // A caller who went away says nothing about whom he called.
                if reason != Reason::CallerGone.row().name {
                    let failed = traffic.failed.entry(reason.clone()).or_default();
                    *failed = failed.saturating_add(*count);
                }
            }
        }
    }
    traffic
}

/// The reasons for which more calls fail than before, as people read them; empty when none does.
fn risen(before: &pb::GuardTraffic, after: &pb::GuardTraffic) -> Vec<String> {
    let all = |traffic: &pb::GuardTraffic| traffic.failed.values().sum::<u64>();
    // One reason instead of another is no rise.
    if !has_risen([all(before), all(after)], [before.total, after.total]) {
        return Vec::new();
    }
    let reasons: BTreeMap<_, _> = after.failed.iter().collect();
    let rise = |(reason, count): (&String, &u64)| {
        let earlier = before.failed.get(reason).copied().unwrap_or_default();
        has_risen([earlier, *count], [before.total, after.total]).then(|| {
            let shares = [share(earlier, before.total), share(*count, after.total)];
            let [was, is] = shares.map(|share| format!("{:.2}%", share * 100.0));
            format!("{reason} {was} -> {is}")
        })
    };
    let risen: Vec<_> = reasons.into_iter().filter_map(rise).collect();
    if risen.is_empty() { vec!["failures of several reasons".to_owned()] } else { risen }
}

/// Whether the share of failed calls has risen, and not by chance: the test of two proportions.
fn has_risen(failed: [u64; 2], total: [u64; 2]) -> bool {
    let [was, is] = [share(failed[0], total[0]), share(failed[1], total[1])];
    if failed[1] < FAILED_MIN || is - was < RISE_MIN {
        return false;
    }
    if total[0] == 0 {
        return true;
    }
    let together = share(failed[0].saturating_add(failed[1]), total[0].saturating_add(total[1]));
    let error = together * (1.0 - together) * (1.0 / float(total[0]) + 1.0 / float(total[1]));
    is - was >= SIGNIFICANT * error.sqrt()
}

fn share(failed: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { float(failed) / float(total) }
}

#[allow(clippy::cast_precision_loss, reason = "a share of counts needs no more than 52 bits")]
fn float(count: u64) -> f64 {
    count as f64
}

/// Looks after all guards, for ever.
pub(crate) async fn run(state: &Arc<State>, fleet: &Arc<Fleet>) -> Infallible {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Counted from the first look, by a clock that nobody sets.
    let mut since: BTreeMap<u64, Instant> = BTreeMap::new();
    loop {
        let now = looks.tick().await;
        let guards = state.guards();
        let watching = |guard: &pb::Guard| guard.state() == pb::GuardState::Watching;
        since.retain(|revision, _| guards.get(revision).is_some_and(watching));
        for guard in guards.values().filter(|guard| watching(guard)) {
            let since = *since.entry(guard.revision).or_insert(now);
            look(state, fleet, guard, since).await;
        }
    }
}

async fn look(state: &Arc<State>, fleet: &Arc<Fleet>, guard: &pb::Guard, since: Instant) {
    let ends = guard.ends_at.and_then(|it| SystemTime::try_from(it).ok());
    let is_over = ends.is_none_or(|ends| state.now() >= ends);
    let elapsed = since.elapsed();
    let seen = fleet.traffic_since(Instant::now(), elapsed);
    let over = elapsed.min(seen.reach);
    let after = of_services(&seen, &guard.services, over);
    let risen = risen(&guard.before.clone().unwrap_or_default(), &after);
    let guard = pb::Guard { after: Some(after), ..guard.clone() };
    let done = if !risen.is_empty() {
        let why = risen.join(", ");
        state.write(move |state, writer| roll_back(state, writer, guard, &why)).await.map(|by| {
            if let Some(revision) = by {
                fleet.wrote(revision, Instant::now());
            }
        })
    } else if is_over {
        let guard = pb::Guard {
            state: pb::GuardState::Passed.into(),
            message: "no more calls failed than before".to_owned(),
            ..guard
        };
        tracing::info!(revision = guard.revision, "the guarded write stays");
        state.write(move |state, writer| end(state, writer, guard)).await
    } else {
        Ok(())
    };
    if let Err(failure) = done {
        tracing::error!(%failure, "a guard could not be ended; it goes on watching");
    }
}

fn end(state: &State, writer: &mut Writer, guard: pb::Guard) -> Result<(), Status> {
    state.write_guard(writer, guard).map_err(|error| error::store(&error))
}

/// Undoes the guarded write; returns the revision that did.
fn roll_back(
    state: &State,
    writer: &mut Writer,
    guard: pb::Guard,
    why: &str,
) -> Result<Option<u64>, Status> {
    let number = guard.revision;
    let failed = |writer: &mut Writer, guard: pb::Guard, message: String| {
        tracing::error!(revision = number, message, "a guarded write could not be undone");
        let state_now = pb::GuardState::Failed.into();
        end(state, writer, pb::Guard { state: state_now, message, ..guard }).map(|()| None)
    };
    let world = state.world();
    let Some((entry, row)) = state.store().undo(number).map_err(|error| error::store(&error))?
    else {
        return failed(writer, guard, format!("{why}; the log does not reach it any more"));
    };
    let past = row.past.into_iter();
    let past = past.filter_map(|past| Some((ResourceKey::from_pb(past.id.as_ref()?)?, past)));
    let now = pb_time(state.now());
    let (planned, over) = rollback::undo(&world, state.trust_domain(), &entry, past.collect(), now);
    if planned.is_refused() {
        let problem = planned.problems.iter().find(|problem| problem.is_error());
        let problem = problem.map(ToString::to_string).unwrap_or_default();
        return failed(writer, guard, format!("{why}; what was before is refused: {problem}"));
    }
    if planned.plan.is_empty() {
        return failed(writer, guard, format!("{why}; all of it was written over since"));
    }
    let mut message = why.to_owned();
    if !over.is_empty() {
        let names: Vec<_> = over.iter().map(ToString::to_string).collect();
        message.push_str(&format!("; not undone, because written since: {}", names.join(", ")));
    }
    let alone = world.revision == number && over.is_empty();
    let by = spiffe::control_plane(state.trust_domain()).map(|id| id.to_string());
    let note = Note {
        by: by.unwrap_or_default(),
        message: format!("guard of revision {number}: {message}"),
        rollback_to: alone.then(|| number.saturating_sub(1)),
        guard: Some(pb::Guard {
            state: pb::GuardState::RolledBack.into(),
            message: message.clone(),
            ..guard
        }),
        ..Note::default()
    };
    let by = state.commit(writer, planned.plan, note).map_err(|error| error::store(&error))?;
    tracing::warn!(revision = number, rolled_back_by = by, message, "guarded write undone");
    Ok(Some(by))
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
