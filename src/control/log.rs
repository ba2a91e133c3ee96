//! The log of revisions for callers: `History`, and `Diff` between what two revisions had, or
//! between the newest and resources that nobody has applied. What is kept is bounded; a revision that
//! the log does not reach any more is refused by that name.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{
    apply, difference, error,
    state::{State, pb_time},
    store::Content,
};
use crate::resource::{Problem, ResourceKey, pb};

const PAGE_DEFAULT: u32 = 100;
const PAGE_MAX: u32 = 1000;

/// The reason of a refusal: begin anew from what is now.
pub(crate) const TOO_OLD: &str = "REVISION_TOO_OLD";

/// A revision that there never was, or that the log does not reach any more.
pub(crate) fn unreachable(revision: u64, reach: u64, newest: u64) -> Status {
    if revision <= newest {
        let what = format!(
            "revision {revision} is not kept any more; the oldest that can be had is {reach}"
        );
        return too_old(&what, revision, reach, newest);
    }
    let message = format!("there is no revision {revision}; the newest is {newest}");
    out_of_range("NO_SUCH_REVISION", message, revision, reach, newest)
}

/// What was at a revision is not known any more: the caller has to begin anew.
pub(crate) fn too_old(what: &str, revision: u64, reach: u64, newest: u64) -> Status {
    out_of_range(TOO_OLD, what.to_owned(), revision, reach, newest)
}

fn out_of_range(reason: &str, message: String, revision: u64, reach: u64, newest: u64) -> Status {
    let facts = [
        ("revision", revision.to_string()),
        ("oldest", reach.to_string()),
        ("newest", newest.to_string()),
    ];
    error::refused(Code::OutOfRange, reason, message, &facts)
}

/// A page of the log. Blocks on the disk.
///
/// # Errors
/// INVALID_ARGUMENT with the field that is wrong; when the store fails.
pub(crate) fn history(
    state: &State,
    request: &pb::HistoryRequest,
) -> Result<pb::HistoryResponse, Status> {
    let size = match request.page_size {
        0 => PAGE_DEFAULT,
        size if size <= PAGE_MAX => size,
        _ => return Err(error::invalid("page_size", format!("more than {PAGE_MAX}"))),
    };
    if let Some(revision) = request.revision {
        return one(state, revision);
    }
    let before = match request.page_token.as_str() {
        "" => None,
        token => Some(
            before(token)
                .ok_or_else(|| error::invalid("page_token", "is not that of the page before"))?,
        ),
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let page = state.store().page(before, request.resource.as_ref(), size);
    let page = page.map_err(|error| error::store(&error))?;
    let guards = state.guards();
    let with_guard = |mut entry: pb::Revision| {
        entry.guard = guards.get(&entry.revision).cloned();
        entry
    };
    let token = |next: u64| URL_SAFE_NO_PAD.encode(next.to_be_bytes());
    Ok(pb::HistoryResponse {
        revisions: page.entries.into_iter().map(with_guard).collect(),
        next_page_token: page.next.map(token).unwrap_or_default(),
        oldest_reachable: page.reach,
        newest: page.newest,
    })
}

fn one(state: &State, revision: u64) -> Result<pb::HistoryResponse, Status> {
    let page = state.store().page(Some(revision.saturating_add(1)), None, 1);
    let page = page.map_err(|error| error::store(&error))?;
    match page.entries.into_iter().find(|entry| entry.revision == revision) {
        Some(mut entry) => {
            entry.guard = state.guards().get(&revision).cloned();
            Ok(pb::HistoryResponse {
                revisions: vec![entry],
                oldest_reachable: page.reach,
                newest: page.newest,
                ..Default::default()
            })
        }
        None => Err(unreachable(revision, page.reach + 1, page.newest)),
    }
}

fn before(token: &str) -> Option<u64> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// A difference, ready to be told.
#[derive(Debug)]
pub(crate) struct Difference {
    head: pb::DiffResponse,
    before: Content,
    after: Content,
}

impl Difference {
    /// Between two revisions, the newest by default. Blocks on the disk.
    ///
    /// # Errors
    /// OUT_OF_RANGE for one that the log does not reach; when the store fails.
    pub(crate) fn of_revisions(
        state: &State,
        from: Option<u64>,
        to: Option<u64>,
    ) -> Result<Self, Status> {
        let newest = state.newest().revision;
        let at = [from.unwrap_or(newest), to.unwrap_or(newest)];
        let contents = state.store().contents(at).map_err(|error| error::store(&error))?;
        let head = pb::DiffResponse {
            from_revision: at[0],
            to_revision: Some(at[1]),
            ..Default::default()
        };
        match contents {
            ([Some(before), Some(after)], _) => Ok(Self { head, before, after }),
            ([None, _], reach) => Err(unreachable(at[0], reach, newest)),
            ([_, None], reach) => Err(unreachable(at[1], reach, newest)),
        }
    }

    /// Between what is now and what applying these would make.
    pub(crate) fn of_resources(state: &State, resources: Vec<pb::Resource>) -> Self {
        let world = state.world();
        let planned = apply::apply(&world, state.trust_domain(), resources, pb_time(state.now()));
        let mut head = pb::DiffResponse { from_revision: world.revision, ..Default::default() };
        head.problems = planned.problems.iter().map(Problem::to_pb).collect();
        let (mut before, mut after) = (Content::new(), Content::new());
        if planned.is_refused() {
            return Self { head, before, after };
        }
        for mut resource in planned.plan.put {
            let Some(key) = crate::resource::key(&resource) else { continue };
            let stored = world.stored.resources.get(&key);
            if let Some(stored) = stored.filter(|_| !world.registered.contains(&key)) {
                let created = stored.metadata.as_ref().and_then(|it| it.creation_timestamp);
                resource.metadata.get_or_insert_default().creation_timestamp = created;
                before.insert(key.clone(), pb::Resource::clone(stored));
            }
            after.insert(key, resource);
        }
        Self { head, before, after }
    }

    /// Tells it, the head first and then one resource after the other.
    pub(crate) async fn tell(self, sender: mpsc::Sender<Result<pb::DiffResponse, Status>>) {
        let Self { head, mut before, mut after } = self;
        if sender.send(Ok(head)).await.is_err() {
            return;
        }
        let keys: BTreeSet<ResourceKey> = before.keys().chain(after.keys()).cloned().collect();
        for key in keys {
            let (old, new) = (before.remove(&key), after.remove(&key));
            let (kind, fields) = match (&old, &new) {
                (Some(old), Some(new)) => {
                    (pb::ChangeKind::Configured, difference::fields(old, new))
                }
                (None, _) => (pb::ChangeKind::Created, Vec::new()),
                (_, None) => (pb::ChangeKind::Deleted, Vec::new()),
            };
            if kind == pb::ChangeKind::Configured && fields.is_empty() {
                continue;
            }
            let change = pb::Change { resource: Some(key.to_pb()), kind: kind.into(), fields };
            let shown = |resource: Option<pb::Resource>| resource.as_ref().map(difference::shown);
            let told = pb::DiffResponse {
                change: Some(change),
                before: shown(old),
                after: shown(new),
                ..Default::default()
            };
            if sender.send(Ok(told)).await.is_err() {
                return;
            }
        }
    }
}

/// What a guarded write has come to.
///
/// # Errors
/// NOT_FOUND when that revision was not guarded, or too long ago.
pub(crate) fn guard(state: &Arc<State>, revision: u64) -> Result<pb::Guard, Status> {
    state.guards().get(&revision).cloned().ok_or_else(|| {
        let facts = [("revision", revision.to_string())];
        let message = format!("revision {revision} has no guard");
        error::refused(Code::NotFound, "NO_SUCH_GUARD", message, &facts)
    })
}
