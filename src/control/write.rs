//! How a write is made: refused when the mesh has moved on from what its caller saw, answered as
//! before when it comes a second time, planned against the newest world, stored as one transaction,
//! and timed on its way to the sidecars. A dry run does the same up to the point of storing, beside
//! the writers and not among them.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::Instant};
use tonic::{Code, Status};

use super::{
    apply::Planned,
    config::Config,
    error,
    fleet::Fleet,
    guard,
    plan::Note,
    scope::scope,
    state::{State, Writer},
    world::World,
};
use crate::{
    resource::{self, Problem, ResourceKey, pb},
    spiffe::sha256,
};

/// Resources in one write.
const WRITE_MAX: usize = 10_000;
/// Bytes of the message that is kept with a revision.
const MESSAGE_BYTES_MAX: usize = 1024;
/// Bytes of a request ID.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Sidecars that a dry run names.
const CONCERNED_MAX: usize = 1000;

/// How a write is to be made.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    pub dry_run: bool,
    pub expect_revision: Option<u64>,
    pub by: String,
    pub message: String,
    /// Empty without one.
    pub request_id: String,
    /// SHA-256 of what is asked for; only with a request ID.
    pub asked_sha256: Vec<u8>,
    pub guard: Option<Duration>,
    pub rollback_to: Option<u64>,
}

/// What became of a write.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub revision: u64,
    pub problems: Vec<pb::Problem>,
    pub changes: Vec<pb::Change>,
    pub sidecars: Vec<pb::Concerned>,
    pub sidecars_total: u32,
    pub repeated: bool,
    pub guard: Option<pb::Guard>,
}

impl Writing {
    fn check(&self) -> Result<(), Status> {
        let bounded = [
            ("message", &self.message, MESSAGE_BYTES_MAX),
            ("request_id", &self.request_id, REQUEST_ID_BYTES_MAX),
        ];
        for (field, text, most) in bounded {
            if text.len() > most {
                return Err(error::invalid(field, format!("has more than {most} bytes")));
            }
        }
        Ok(())
    }

    /// Under which the store finds it again; empty without a request ID.
    fn request(&self) -> String {
        match self.request_id.as_str() {
            "" => String::new(),
            id => format!("{}\0{id}", self.by),
        }
    }
}

/// Makes a write, or says what it would do.
///
/// # Errors
/// When it is malformed, expects another revision, or the store fails. A write that was refused for
/// its problems is no error.
pub(crate) async fn write(
    config: &Config,
    writing: Writing,
    plan: impl FnOnce(&World, &State) -> Result<Planned, Status> + Send + 'static,
) -> Result<Written, Status> {
    writing.check()?;
    if writing.dry_run {
        let (state, fleet) = (Arc::clone(&config.state), Arc::clone(&config.fleet));
        let tried = spawn_blocking(move || try_out(&state, &fleet, &writing, plan)).await;
        return tried.unwrap_or_else(|_| Err(error::internal("a dry run panicked")));
    }
    let fleet = Arc::clone(&config.fleet);
    let write = move |state: &State, writer: &mut Writer| {
        if let Some(done) = repeated(state, &writing)? {
            return Ok(done);
        }
        let world = state.world();
        check_expected(&world, writing.expect_revision)?;
        if writing.guard.is_some() {
            guard::check_room(state)?;
        }
        let planned = plan(&world, state)?;
        carry_out(state, writer, &fleet, planned, writing)
    };
    config.state.write(write).await
}

fn try_out(
    state: &State,
    fleet: &Fleet,
    writing: &Writing,
    plan: impl FnOnce(&World, &State) -> Result<Planned, Status>,
) -> Result<Written, Status> {
    let world = state.world();
    check_expected(&world, writing.expect_revision)?;
    let planned = plan(&world, state)?;
    let sidecars = match &planned.plan.after {
        Some(after) if !planned.is_refused() => concerned(&world, after, fleet),
        _ => Vec::new(),
    };
    Ok(Written {
        sidecars_total: u32::try_from(sidecars.len()).unwrap_or(u32::MAX),
        sidecars: sidecars.into_iter().take(CONCERNED_MAX).collect(),
        ..told(world.revision, &planned)
    })
}

fn told(revision: u64, planned: &Planned) -> Written {
    Written {
        revision,
        problems: planned.problems.iter().map(Problem::to_pb).collect(),
        changes: planned.plan.changes.clone(),
        ..Written::default()
    }
}

/// The answer to a request that was carried out before.
fn repeated(state: &State, writing: &Writing) -> Result<Option<Written>, Status> {
    if writing.request_id.is_empty() {
        return Ok(None);
    }
    let done = state.store().done(&writing.request()).map_err(|error| error::store(&error))?;
    let Some(done) = done else { return Ok(None) };
    if done.request_sha256 != writing.asked_sha256 {
        let what = format!("was used for another write, revision {}", done.entry.revision);
        return Err(error::invalid("request_id", what));
    }
    let guard = state.guards().get(&done.entry.revision).cloned();
    Ok(Some(Written {
        revision: done.entry.revision,
        changes: done.entry.changes,
        repeated: true,
        guard,
        ..Written::default()
    }))
}

fn check_expected(world: &World, expected: Option<u64>) -> Result<(), Status> {
    let newest = world.revision;
    match expected {
        Some(expected) if expected != newest => Err(error::refused(
            Code::Aborted,
            "REVISION",
            format!("the newest revision is {newest}, not {expected}; look again at what changed"),
            &[("newest", newest.to_string()), ("expected", expected.to_string())],
        )),
        _ => Ok(()),
    }
}

fn carry_out(
    state: &State,
    writer: &mut Writer,
    fleet: &Fleet,
    planned: Planned,
    writing: Writing,
) -> Result<Written, Status> {
    let before = state.world();
    let mut written = told(before.revision, &planned);
    if planned.is_refused() {
        return Ok(written);
    }
    let began = Instant::now();
    let guard = match (writing.guard, &planned.plan.after) {
        (Some(lasts), Some(after)) if !planned.plan.is_empty() => {
            Some(guard::begin(&before, after, &planned.plan.changes, fleet, state.now(), lasts))
        }
        _ => None,
    };
    let note = Note {
        request: writing.request(),
        request_sha256: writing.asked_sha256,
        by: writing.by,
        message: writing.message,
        rollback_to: writing.rollback_to,
        guard,
    };
    let (by, message) = (note.by.clone(), note.message.clone());
    let revision =
        state.commit(writer, planned.plan, note).map_err(|error| error::store(&error))?;
    if revision > before.revision {
        fleet.wrote(revision, began);
        written.guard = state.guards().get(&revision).cloned();
        let guarded = written.guard.is_some();
        tracing::info!(revision, by, message, guarded, "configuration written");
    }
    Ok(Written { revision, ..written })
}

/// The connected sidecars that get something else in one world than in the other.
fn concerned(before: &World, after: &World, fleet: &Fleet) -> Vec<pb::Concerned> {
    let mut found = Vec::new();
    for session in fleet.sessions() {
        let viewer = session.progress().viewer.clone();
        let ((old, _), (new, _)) = (scope(before, &viewer), scope(after, &viewer));
        let same = old.len() == new.len()
            && old.iter().all(|(key, it)| new.get(key).is_some_and(|new| Arc::ptr_eq(it, new)));
        if !same {
            found.push(pb::Concerned {
                workload: session.key.name.clone(),
                service: session.service.name.clone(),
                namespace: session.service.namespace.clone(),
            });
        }
    }
    found
}

/// Refuses more than a write may name.
///
/// # Errors
/// INVALID_ARGUMENT with the field.
pub(crate) fn check_count(field: &str, count: usize) -> Result<(), Status> {
    if count > WRITE_MAX {
        return Err(error::invalid(field, format!("more than {WRITE_MAX} at once")));
    }
    Ok(())
}

/// SHA-256 of resources and of how they are to be written; the same for the same request, however
/// its maps were ordered on the way.
pub(crate) fn asked_to_write(resources: &[pb::Resource], how: &str) -> Vec<u8> {
    let mut text = format!("write {how}");
    for resource in resources {
        text.push('\n');
        text.push_str(&resource::to_json(resource).to_string());
    }
    sha256(text.as_bytes()).to_vec()
}

/// As [`asked_to_write`] for a deletion.
pub(crate) fn asked_to_delete(ids: &[pb::ResourceId], how: &str) -> Vec<u8> {
    let mut text = format!("delete {how}");
    for id in ids {
        text.push('\n');
        let key = ResourceKey::from_pb(id);
        text.push_str(&key.map_or_else(|| format!("{id:?}"), |key| key.to_string()));
    }
    sha256(text.as_bytes()).to_vec()
}
