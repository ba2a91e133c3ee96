//! `Watch`: what matches now, then every change. Like the sidecars' stream it is level-triggered:
//! nothing queues up for a slow reader, who then sees the newest state and not each step to it. Whoever
//! was away goes on from the revision that it saw last: the log says what there was then.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    conditions::with_status, error, filter::Filter, fleet::Fleet, key, log, state::State,
    world::World,
};
use crate::resource::{
    Kind, ResourceKey,
    pb::{self, watch_response::Event},
};

/// One stream.
#[derive(Debug)]
pub(crate) struct Watch {
    state: Arc<State>,
    fleet: Arc<Fleet>,
    filter: Filter,
    sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    /// Versions as they were sent.
    sent: BTreeMap<ResourceKey, String>,
}

/// The reader is gone.
struct Gone;

impl Watch {
    /// A stream of what the filter takes.
    pub(crate) fn new(
        state: &Arc<State>,
        fleet: &Arc<Fleet>,
        filter: Filter,
        sender: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    ) -> Self {
        let (state, fleet) = (Arc::clone(state), Arc::clone(fleet));
        Self { state, fleet, filter, sender, sent: BTreeMap::new() }
    }

    /// Goes on after a revision of an earlier stream instead of telling all. Blocks on the disk.
    ///
    /// # Errors
    /// OUT_OF_RANGE when what was then is not known any more; when the store fails.
    pub(crate) fn resume(&mut self, revision: u64, history: &str) -> Result<(), Status> {
        let newest = self.state.newest().revision;
        let reach = self.state.store().reach().map_err(|error| error::store(&error))?;
        if !history.is_empty() && history != self.state.history() {
            return Err(log::too_old(
                "the store was put back from a copy since; its revisions count something else",
                revision,
                reach,
                newest,
            ));
        }
        let contents = self.state.store().contents([revision, revision]);
        let ([Some(content), _], _) = contents.map_err(|error| error::store(&error))? else {
            return Err(log::unreachable(revision, reach, newest));
        };
        self.sent = content
            .iter()
            .filter(|(key, resource)| self.filter.takes(key, resource))
            .map(|(key, resource)| (key.clone(), key::version(resource).to_owned()))
            .collect();
        if [Kind::Workload, Kind::Service].iter().any(|kind| self.filter.takes_kind(*kind)) {
            let gone = self.state.gone().since(revision).ok_or_else(|| {
                let what = "which live workloads went since that revision is not known any more";
                log::too_old(what, revision, reach, newest)
            })?;
            for key in gone.into_iter().filter(|key| self.filter.takes_key(key)) {
                self.sent.entry(key).or_default();
            }
        }
        Ok(())
    }

    /// Tells changes until the reader is gone, `over` says that his right is, or `ending` is cancelled.
    pub(crate) async fn run(
        mut self,
        over: impl Future<Output = Status>,
        ending: CancellationToken,
    ) {
        let last = self.sender.clone();
        let why = tokio::select! {
            Gone = self.tell_all() => return,
            () = ending.cancelled() => Status::unavailable("the control plane is ending"),
            why = over => why,
        };
        // A reader too slow for it sees the stream end without a reason.
        let _told = last.try_send(Err(why));
    }

    async fn tell_all(&mut self) -> Gone {
        let mut worlds = self.state.subscribe();
        let mut synced = false;
        loop {
            worlds.mark_unchanged();
            let world = self.state.world();
            if let Err(gone) = self.tell(&world).await {
                return gone;
            }
            if !synced {
                synced = true;
                if let Err(gone) = self.send(&world, Event::Synced(true)).await {
                    return gone;
                }
            }
            tokio::select! {
                changed = worlds.changed() => if changed.is_err() { return Gone },
                () = self.sender.closed() => return Gone,
            }
        }
    }

    /// Tells what differs from what was told before.
    async fn tell(&mut self, world: &World) -> Result<(), Gone> {
        let new: Vec<_> = world
            .all()
            .filter(|(key, resource)| self.filter.takes(key, resource))
            .filter(|(at, resource)| {
                self.sent.get(*at).is_none_or(|sent| sent != key::version(resource))
            })
            .map(|(key, resource)| (key.clone(), Arc::clone(resource)))
            .collect();
        let is_gone = |at: &ResourceKey| {
            world.get(at).is_none_or(|resource| !self.filter.takes(at, resource))
        };
        let removed: Vec<_> = self.sent.keys().filter(|at| is_gone(at)).cloned().collect();
        let sessions = self.fleet.sessions();
        for (at, resource) in new {
            let event = Event::Changed(with_status(world, &self.fleet, &sessions, &at, &resource));
            self.send(world, event).await?;
            self.sent.insert(at, key::version(&resource).to_owned());
        }
        for at in removed {
            self.send(world, Event::Removed(at.to_pb())).await?;
            self.sent.remove(&at);
        }
        Ok(())
    }

    async fn send(&self, world: &World, event: Event) -> Result<(), Gone> {
        let message = pb::WatchResponse {
            revision: world.revision,
            event: Some(event),
            store: self.state.history().to_owned(),
        };
        self.sender.send(Ok(message)).await.map_err(|_| Gone)
    }
}
