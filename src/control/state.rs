//! The control plane's state: the store on disk and the mesh in memory, changed together.
//!
//! Writes are serialised: one at a time plans against the newest world, stores, and publishes. All
//! three happen on a blocking thread that owns the writer's lock, so that a caller who goes away in
//! between can not leave the disk ahead of the memory. Readers load the current world and never
//! wait.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};
use tonic::Status;

pub(crate) use super::time::pb_time;
use super::{
    error,
    gone::Gone,
    live,
    plan::{Note, Plan},
    revisions::GUARDS_MAX,
    store::{Batch, Contents, Store, StoreError, Superseded, TokenRow},
    world::{Resources, Shelf, World},
};
use crate::resource::{self, ResourceKey, pb};

/// The store and the world.
#[derive(Debug)]
pub(crate) struct State {
    store: Store,
    store_id: String,
    /// Names the history that revisions count in.
    history: String,
    trust_domain: String,
    now: fn() -> SystemTime,
    writer: Arc<AsyncMutex<Writer>>,
    writes: Writes,
    newest: ArcSwap<pb::Revision>,
    world: ArcSwap<World>,
    /// Guarded writes by revision, also those that have ended.
    guards: ArcSwap<Guards>,
    /// What went lately of what no revision tells of.
    gone: Mutex<Gone>,
    /// Held while a new world is made from the last one.
    publishing: Mutex<()>,
    /// Counts worlds.
    generation: watch::Sender<u64>,
}

/// What only the one who writes may see.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Join tokens by ID.
    pub tokens: BTreeMap<String, TokenRow>,
    /// Certificates that have been renewed, by SHA-256.
    pub superseded: HashMap<String, Superseded>,
}

/// How the store's writes went.
#[derive(Debug)]
struct Writes {
    seconds: Histogram,
    failing: AtomicBool,
}

impl Writes {
    fn new() -> Self {
        let seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
        Self { seconds, failing: AtomicBool::new(false) }
    }

    fn store(&self, took: Duration, ok: bool) {
        self.seconds.observe(took.as_secs_f64());
        self.failing.store(!ok, Ordering::Relaxed);
    }
}

/// Guarded writes by revision.
pub(crate) type Guards = BTreeMap<u64, pb::Guard>;

impl State {
    /// Opens the store at `path` and makes the first world of it; `now` is the wall clock.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(crate) fn open(
        path: &Path,
        trust_domain: &str,
        now: fn() -> SystemTime,
    ) -> Result<Arc<Self>, StoreError> {
        let (store, contents) = Store::open(path, trust_domain)?;
        Ok(Self::of(store, contents, now))
    }

    /// On an open store.
    pub(super) fn of(store: Store, contents: Contents, now: fn() -> SystemTime) -> Arc<Self> {
        let (store_id, trust_domain) = (contents.id.clone(), contents.trust_domain.clone());
        let history = contents.history.clone();
        let Read { world, newest, writer, guards } = read(contents);
        Arc::new(Self {
            store,
            store_id,
            history,
            trust_domain,
            now,
            writer: Arc::new(AsyncMutex::new(writer)),
            writes: Writes::new(),
            newest: ArcSwap::from_pointee(newest),
            gone: Mutex::new(Gone::after(world.revision)),
            world: ArcSwap::from_pointee(world),
            guards: ArcSwap::from_pointee(guards),
            publishing: Mutex::new(()),
            generation: watch::Sender::new(0),
        })
    }

    /// The mesh's trust domain.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Names the history that revisions count in; another one after a restore.
    pub(crate) fn history(&self) -> &str {
        &self.history
    }

    /// What is on disk. Its calls block.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Guarded writes by revision, also those that have ended.
    pub(crate) fn guards(&self) -> Arc<Guards> {
        self.guards.load_full()
    }

    /// What went lately of what no revision tells of: live workloads and the services of registrations.
    pub(crate) fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wall clock's time.
    pub(crate) fn now(&self) -> SystemTime {
        (self.now)()
    }

    /// The mesh as it is now.
    pub(crate) fn world(&self) -> Arc<World> {
        self.world.load_full()
    }

    /// The newest entry of the log.
    pub(crate) fn newest(&self) -> Arc<pb::Revision> {
        self.newest.load_full()
    }

    /// Says that there is another world than the one last seen.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Runs `write` alone and off the asynchronous runtime. It runs to its end even when the
    /// returned future is dropped.
    ///
    /// # Errors
    /// Those of `write`, and INTERNAL when it panicked.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        write: impl FnOnce(&Self, &mut Writer) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let state = Arc::clone(self);
        let write = move || {
            state.heal(&mut writer).map_err(|error| error::store(&error))?;
            write(&state, &mut writer)
        };
        tokio::task::spawn_blocking(write)
            .await
            .unwrap_or_else(|_| Err(error::internal("a write panicked")))
    }

    /// Goes on after a failure of the store with what is on disk.
    fn heal(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if !self.store.is_broken() {
            return Ok(());
        }
        let contents = self.store.reopen()?;
        tracing::warn!("the store was opened again after a failure");
        let Read { world: read, newest, writer: identities, guards } = read(contents);
        *writer = identities;
        self.newest.store(Arc::new(newest));
        self.guards.store(Arc::new(guards));
        self.publish(|world| {
            let live = Arc::clone(&world.live);
            *world = World { live, ..read };
        });
        Ok(())
    }

    /// Stores the plan as a new revision and publishes it; a plan that changes nothing makes none.
    /// Returns the newest revision.
    ///
    /// # Errors
    /// When the store failed; then nothing changed.
    pub(crate) fn commit(
        &self,
        _writer: &mut Writer,
        mut plan: Plan,
        note: Note,
    ) -> Result<u64, StoreError> {
        let world = self.world();
        if plan.is_empty() {
            return Ok(world.revision);
        }
        let planned = plan.after.take();
        let batch = plan.batch(note, &world, &self.store_id, self.now());
        self.store_write(&batch)?;
        let revision = batch.revision.as_ref().map_or(world.revision, |entry| entry.revision);
        if let Some(entry) = batch.revision {
            self.newest.store(Arc::new(entry));
        }
        self.remember(&batch.put_guards);
        self.publish(|world| {
            let mut resources = world.stored.resources.clone();
            for key in &batch.delete {
                resources.remove(key);
            }
            if !(batch.unregister.is_empty() && batch.register.is_empty()) {
                let mut registered = BTreeSet::clone(&world.registered);
                registered.retain(|key| !batch.unregister.contains(key));
                registered.extend(batch.register.iter().filter_map(resource::key));
                world.registered = Arc::new(registered);
            }
            resources.extend(keyed(batch.put));
            resources.extend(keyed(batch.register));
            world.revision = revision;
            world.stored = Arc::new(match &planned {
                Some(planned) => planned.stored.again(resources),
                None => Shelf::new(resources),
            });
            if let Some(planned) = &planned {
                world.is_as(planned);
            }
        });
        Ok(revision)
    }

    /// Writes what became of a guard without a revision.
    ///
    /// # Errors
    /// When the store failed; then nothing changed.
    pub(crate) fn write_guard(
        &self,
        _writer: &mut Writer,
        guard: pb::Guard,
    ) -> Result<(), StoreError> {
        let batch = Batch { put_guards: vec![guard], ..Default::default() };
        self.store_write(&batch)?;
        self.remember(&batch.put_guards);
        Ok(())
    }

    fn remember(&self, guards: &[pb::Guard]) {
        if !guards.is_empty() {
            let mut all = Guards::clone(&self.guards.load());
            all.extend(guards.iter().map(|guard| (guard.revision, guard.clone())));
            let ended = |guard: &pb::Guard| guard.state() != pb::GuardState::Watching;
            // As the store forgets them.
            if u64::try_from(all.len()).is_ok_and(|count| count > GUARDS_MAX)
                && let Some(oldest) = all.values().find(|it| ended(it)).map(|it| it.revision)
            {
                all.remove(&oldest);
            }
            self.guards.store(Arc::new(all));
        }
    }

    /// Stores the service of a first registration, unless there is one of that name by now.
    ///
    /// # Errors
    /// When the store failed.
    pub(crate) fn register_service(&self, service: pb::Resource) -> Result<(), StoreError> {
        let world = self.world();
        let Some(key) = resource::key(&service).filter(|key| world.get(key).is_none()) else {
            return Ok(());
        };
        let plan = Plan { register: vec![service], ..Plan::default() };
        let batch = plan.batch(Note::default(), &world, &self.store_id, self.now());
        self.store_write(&batch)?;
        self.publish(|world| {
            let mut resources = world.stored.resources.clone();
            resources.extend(keyed(batch.register));
            world.stored = Arc::new(Shelf::new(resources));
            let mut registered = BTreeSet::clone(&world.registered);
            registered.insert(key);
            world.registered = Arc::new(registered);
        });
        Ok(())
    }

    /// Changes live workloads. What that costs hardly grows with how many others there are.
    pub(crate) fn update_live(&self, changes: impl IntoIterator<Item = live::Change>) {
        let changes: Vec<_> = changes.into_iter().collect();
        let keys: Vec<_> = changes.iter().map(|(key, _)| key.clone()).collect();
        self.publish_next(&keys, |world| world.then_live(changes));
    }

    /// Writes what concerns tokens and certificates; the caller holds the writer and changes its maps
    /// afterwards.
    ///
    /// # Errors
    /// When the store failed; then nothing changed.
    pub(crate) fn write_identities(&self, batch: &Batch) -> Result<(), StoreError> {
        self.store_write(batch)
    }

    fn store_write(&self, batch: &Batch) -> Result<(), StoreError> {
        let began = Instant::now();
        let written = self.store.write(batch);
        self.writes.store(began.elapsed(), written.is_ok());
        written
    }

    /// Whether the store took the last write.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.writes.failing.load(Ordering::Relaxed)
    }

    /// How long writes took.
    pub(crate) fn write_seconds(&self) -> &Histogram {
        &self.writes.seconds
    }

    fn publish(&self, change: impl FnOnce(&mut World)) {
        self.publish_next(&[], |world| world.then(change));
    }

    /// `live` are the live workloads that change.
    fn publish_next(&self, live: &[ResourceKey], next: impl FnOnce(&World) -> World) {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.world.load_full();
        let world = next(&before);
        self.gone().note(&before, &world, live);
        self.world.store(Arc::new(world));
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// What the contents of a store mean.
struct Read {
    world: World,
    newest: pb::Revision,
    writer: Writer,
    guards: Guards,
}

fn read(contents: Contents) -> Read {
    let newest = contents.newest.unwrap_or_default();
    let registered: Resources = keyed(contents.registered).collect();
    let registered_keys = registered.keys().cloned().collect();
    let mut stored = registered;
    stored.extend(keyed(contents.resources));
    let world = World {
        revision: newest.revision,
        stored: Arc::new(Shelf::new(stored)),
        live: Arc::default(),
        registered: Arc::new(registered_keys),
        trust_domain: contents.trust_domain.into(),
        ..World::default()
    };
    let tokens = contents
        .tokens
        .into_iter()
        .filter_map(|row| Some((row.info.as_ref()?.id.clone(), row)))
        .collect();
    let superseded = contents.superseded.into_iter().collect();
    let guards = contents.guards.into_iter().map(|guard| (guard.revision, guard)).collect();
    Read { world, newest, writer: Writer { tokens, superseded }, guards }
}

fn keyed(resources: Vec<pb::Resource>) -> impl Iterator<Item = (ResourceKey, Arc<pb::Resource>)> {
    resources.into_iter().filter_map(|resource| {
        let key = resource::key(&resource)?;
        Some((key, Arc::new(resource)))
    })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
