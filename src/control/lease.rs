//! The live workloads on disk, so that a restart of the control plane is no end of the mesh: the next
//! start takes them up, and they stay until their sidecars have had the time to come again.
//!
//! The file is a help and no record: it is written a moment after the registry changed, without
//! waiting for the disk, and one that is broken or missing means that endpoints appear when their
//! sidecars do. An end in order adds which workloads went lately, so that a watch goes on over the
//! restart; the next start takes that out first, since it would not hold after another end.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{gone::Gone, live::Live, registry::Registry, state::State, world::Resources};
use crate::resource::{self, Kind, ResourceKey, pb};

/// The file in the data directory.
const FILE: &str = "workloads.bin";
/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// How long workloads stay after a start whose sidecars do not come: at the least, since a sidecar
/// tries again within 5 s and a busy one takes some seconds more.
const GRACE_MIN: Duration = Duration::from_secs(15);
/// More for each of them, since a thousand sidecars do not come at once.
const GRACE_EACH: Duration = Duration::from_millis(10);
/// Between two looks at who has been silent for too long.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The file: a `ListResponse`, and more.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    workloads: Vec<pb::Resource>,
    #[prost(message, optional, tag = "15")]
    went: Option<Went>,
}

/// What went lately of what no revision tells of.
#[derive(Clone, PartialEq, prost::Message)]
struct Went {
    /// In which history the revisions count, and the newest of it.
    #[prost(string, tag = "1")]
    history: String,
    #[prost(uint64, tag = "2")]
    newest: u64,
    /// The first revision since which all are known.
    #[prost(uint64, tag = "3")]
    from: u64,
    #[prost(message, repeated, tag = "4")]
    names: Vec<Name>,
}

/// One of them, with the revision that was the newest then.
#[derive(Clone, PartialEq, prost::Message)]
struct Name {
    #[prost(uint64, tag = "1")]
    revision: u64,
    #[prost(message, optional, tag = "2")]
    resource: Option<pb::ResourceId>,
}

impl Went {
    fn of(state: &State) -> Self {
        let gone = state.gone();
        let name = |(revision, key): &(u64, ResourceKey)| Name {
            revision: *revision,
            resource: Some(key.to_pb()),
        };
        Self {
            history: state.history().to_owned(),
            newest: state.world().revision,
            from: gone.from(),
            names: gone.names().map(name).collect(),
        }
    }

    /// `None` when the store is another one by now.
    fn again(self, state: &State) -> Option<Gone> {
        if self.history != state.history() || self.newest != state.world().revision {
            return None;
        }
        let name = |it: Name| Some((it.revision, ResourceKey::from_pb(&it.resource?)?));
        let names: Option<Vec<_>> = self.names.into_iter().map(name).collect();
        Some(Gone::again(self.from, names?))
    }
}

/// Keeps the live workloads.
#[derive(Debug)]
pub(crate) struct Leases {
    path: PathBuf,
    state: Arc<State>,
    registry: Arc<Registry>,
    /// Until when the workloads of the last run stay.
    until: Instant,
    /// Held while the file is written.
    writing: Arc<Mutex<()>>,
}

impl Leases {
    /// Takes up the workloads of the last run.
    pub(crate) fn open(data: &Path, state: &Arc<State>, registry: &Arc<Registry>) -> Self {
        let path = data.join(FILE);
        let (workloads, went) = match read(&path) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the workloads of the last run are lost");
                Default::default()
            }
        };
        let live =
            Live::default().with(workloads.clone().into_iter().map(|(key, it)| (key, Some(it))));
        // What can not be taken out of the file can not be relied on.
        if let Some(gone) = went.and_then(|went| went.again(state))
            && write(&path, &live, None).is_ok()
        {
            *state.gone() = gone;
        }
        let count = u32::try_from(workloads.len()).unwrap_or(u32::MAX);
        let until = Instant::now() + GRACE_MIN + GRACE_EACH * count.min(10_000);
        if count > 0 {
            tracing::info!(count, "workloads of the last run stay until they come again");
            registry.lease(workloads);
        }
        let (state, registry) = (Arc::clone(state), Arc::clone(registry));
        Self { path, state, registry, until, writing: Arc::default() }
    }

    /// Until when sidecars keep workloads that have not come again.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Writes changes and ends the time of grace and that of silence, until the future is dropped.
    pub(crate) async fn run(&self) -> Infallible {
        let mut worlds = self.state.subscribe();
        let mut written = Arc::clone(&self.state.world().live);
        let mut ended = false;
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {
                    let lost = self.registry.end_silent(Instant::now());
                    if lost > 0 {
                        tracing::warn!(lost, "workloads whose sidecars were silent for long are withdrawn");
                    }
                }
                () = sleep_until(self.until), if !ended => {
                    ended = true;
                    let lost = self.registry.end_leases();
                    if lost > 0 {
                        tracing::warn!(lost, "workloads of the last run did not come again");
                    }
                }
                _ = worlds.changed() => {
                    let live = Arc::clone(&self.state.world().live);
                    if !Arc::ptr_eq(&written, &live) {
                        written = live;
                        self.write(Arc::clone(&written), None).await;
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Writes what lives now, and what went lately, when nothing changes any more.
    pub(crate) async fn save(&self) {
        let went = Went::of(&self.state);
        self.write(Arc::clone(&self.state.world().live), Some(went)).await;
    }

    async fn write(&self, live: Arc<Live>, went: Option<Went>) {
        let (path, writing) = (self.path.clone(), Arc::clone(&self.writing));
        let write = move || {
            // One that nobody waits for any more may still be at it.
            let _alone = writing.lock().unwrap_or_else(PoisonError::into_inner);
            write(&path, &live, went)
        };
        let written = spawn_blocking(write).await;
        if let Ok(Err(error)) = written {
            let path = self.path.display();
            tracing::warn!(%path, %error, "can not keep the workloads for the next start");
        }
    }
}

fn read(path: &Path) -> io::Result<(Resources, Option<Went>)> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        read => read?,
    };
    let Kept { workloads, went } = Kept::decode(&*bytes).map_err(io::Error::other)?;
    let workloads = workloads.into_iter().filter(|it| Kind::of(it) == Some(Kind::Workload));
    let keyed = workloads.filter_map(|it| Some((resource::key(&it)?, Arc::new(it))));
    Ok((keyed.collect(), went))
}

/// By a new file that takes the old one's place, so that a reader never sees half of it.
fn write(path: &Path, live: &Live, went: Option<Went>) -> io::Result<()> {
    let workloads = live.iter().map(|(_, it)| pb::Resource::clone(it)).collect();
    let new = path.with_extension("new");
    fs::write(&new, Kept { workloads, went }.encode_to_vec())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use tokio::time::{Instant, sleep_until};

    use super::{FILE, Gone, Leases};
    use crate::{
        clock,
        control::{
            registry::Registry,
            sample::{resources, workload},
            state::State,
        },
    };

    fn open(data: &std::path::Path) -> (Leases, Arc<State>) {
        // Each time another store, since only one may have it open.
        let file = data.join(format!("{}.redb", fastrand::u64(..)));
        let state = State::open(&file, "mesh.local", clock::now).expect("opens");
        let registry = Registry::new(Arc::clone(&state));
        (Leases::open(data, &state, &registry), state)
    }

    fn live(state: &State) -> Vec<String> {
        state.world().live.iter().map(|(key, _)| key.name.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn workloads_outlive_a_restart_by_the_time_of_grace() {
        let data = tempfile::tempdir().expect("a directory");
        let (leases, state) = open(data.path());
        assert!(live(&state).is_empty());
        let alive = [workload("shop/orders-1", "orders", ""), workload("shop/web-1", "web", "")];
        state.update_live(resources(alive).into_iter().map(|(key, it)| (key, Some(it))));
        leases.save().await;

        let (leases, state) = open(data.path());
        assert_eq!(live(&state), ["orders-1", "web-1"]);
        let until = leases.until();
        assert!(until > Instant::now());
        // One whose stream ended before it said anything is not held for that.
        let gone = async {
            sleep_until(until).await;
            let mut worlds = state.subscribe();
            while !live(&state).is_empty() {
                worlds.changed().await.expect("the state lives");
            }
        };
        tokio::select! {
            never = leases.run() => match never {},
            () = gone => {}
        }
    }

    #[tokio::test]
    async fn what_went_is_known_again_only_after_an_end_in_order_and_once() {
        let data = tempfile::tempdir().expect("a directory");
        let file = data.path().join("mesh.redb");
        let start = || {
            let state = State::open(&file, "mesh.local", clock::now).expect("opens");
            let registry = Registry::new(Arc::clone(&state));
            (Leases::open(data.path(), &state, &registry), state)
        };
        let (leases, state) = start();
        let alive = resources([workload("shop/a", "s", ""), workload("shop/b", "s", "")]);
        let gone = alive.keys().next().expect("two").clone();
        state.update_live(alive.into_iter().map(|(key, it)| (key, Some(it))));
        // As if it were known since the beginning.
        *state.gone() = Gone::again(0, []);
        state.update_live([(gone.clone(), None)]);
        leases.save().await;
        drop((leases, state));

        let (leases, state) = start();
        assert_eq!(live(&state), ["b"]);
        assert_eq!(state.gone().since(0), Some(vec![gone]));
        drop((leases, state));
        // That one ended without a word.
        let (_leases, state) = start();
        assert_eq!(live(&state), ["b"]);
        assert_eq!(state.gone().since(0), None);
    }

    #[tokio::test]
    async fn a_broken_file_is_no_obstacle() {
        let data = tempfile::tempdir().expect("a directory");
        fs::write(data.path().join(FILE), b"\xff\xff\xff").expect("written");
        let (_, state) = open(data.path());
        assert!(live(&state).is_empty());
    }
}
