//! What a write is: changes of resources as they are planned, what the log says of them, and the rows
//! that the store gets for both. Nothing here touches the disk or the mesh in memory; [`State`] does.
//!
//! [`State`]: super::state::State

use std::time::SystemTime;

use prost_types::Timestamp;

use super::{
    revisions::{Past, UndoRow},
    store::Batch,
    time::{pb_time, registered_version},
    world::World,
};
use crate::resource::{self, ResourceKey, pb};

/// What the log says of a write besides its changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note {
    /// Who makes it.
    pub by: String,
    /// Why.
    pub message: String,
    /// The revision that it brings back.
    pub rollback_to: Option<u64>,
    /// Caller and request ID; empty without one.
    pub request: String,
    /// SHA-256 of what was asked for.
    pub request_sha256: Vec<u8>,
    /// A guard that begins with this write, or one that ends by it.
    pub guard: Option<pb::Guard>,
}

/// Changes of resources, planned and not yet made.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What changes, for people.
    pub changes: Vec<pb::Change>,
    /// Resources to write; versions are given when they are. A time of creation is kept.
    pub put: Vec<pb::Resource>,
    /// Resources to delete.
    pub delete: Vec<ResourceKey>,
    /// Of the deleted ones: services that are those of a registration again, as these.
    pub register: Vec<pb::Resource>,
    /// The mesh as it would be, once the compiler has been asked about it.
    pub after: Option<World>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.put.is_empty() && self.delete.is_empty()
    }

    /// The rows of it, as one transaction; `store` is the store's ID.
    pub(crate) fn batch(self, note: Note, world: &World, store: &str, now: SystemTime) -> Batch {
        let user_wrote = |key: &ResourceKey| !world.registered.contains(key);
        // Services that registrations made are in no revision, so forgetting one makes none either.
        let makes_revision = !self.put.is_empty() || self.delete.iter().any(user_wrote);
        let revision = world.revision + u64::from(makes_revision);
        let stamped = |resources: Vec<_>, version: &str| -> Vec<_> {
            let version = format!("{version}-{store}");
            resources.into_iter().map(|it| stamped(it, &version, world, pb_time(now))).collect()
        };
        let put = stamped(self.put, &revision.to_string());
        let register = stamped(self.register, &registered_version(now));
        let touched = || put.iter().filter_map(resource::key).chain(self.delete.iter().cloned());
        let unregister: Vec<_> = touched().filter(|key| world.registered.contains(key)).collect();
        let past = |key: ResourceKey| Past {
            id: Some(key.to_pb()),
            before: world.stored.resources.get(&key).map(|it| pb::Resource::clone(it)),
            registered: world.registered.contains(&key),
        };
        let undo = UndoRow {
            past: touched().map(past).collect(),
            request: note.request,
            request_sha256: note.request_sha256,
        };
        let changed = |change: &pb::Change| change.kind() != pb::ChangeKind::Unchanged;
        let entry = makes_revision.then(|| pb::Revision {
            revision,
            changed_at: Some(pb_time(now)),
            changed_by: note.by,
            message: note.message,
            changes: self.changes.into_iter().filter(changed).collect(),
            rollback_to: note.rollback_to,
            guard: None,
        });
        let guard = note.guard.map(|mut guard| {
            match guard.state() {
                pb::GuardState::Watching => guard.revision = revision,
                _ => guard.rolled_back_by = Some(revision),
            }
            guard
        });
        Batch {
            put,
            delete: self.delete,
            unregister,
            register,
            revision: entry,
            undo,
            put_guards: guard.into_iter().collect(),
            ..Default::default()
        }
    }
}

/// With the version and the time of creation that it gets by being written.
fn stamped(
    mut resource: pb::Resource,
    version: &str,
    world: &World,
    now: Timestamp,
) -> pb::Resource {
    let existing = resource::key(&resource).and_then(|key| world.stored.resources.get(&key));
    let created = existing.and_then(|it| it.metadata.as_ref()?.creation_timestamp);
    if let Some(metadata) = &mut resource.metadata {
        version.clone_into(&mut metadata.resource_version);
        let created = metadata.creation_timestamp.or(created);
        metadata.creation_timestamp = Some(created.unwrap_or(now));
    }
    resource
}
