//! The live workloads on disk, so that a restart of the control plane is no end of the mesh: the next
//! start takes them up, and they stay until their sidecars have had the time to come again.
//!
//! The file is a help and no record: it is written a moment after the registry changed, without
//! waiting for the disk, and one that is broken or missing means that endpoints appear when their
//! sidecars do.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    registry::Registry,
    state::State,
    world::{Resources, Shelf},
};
use crate::resource::{self, Kind, pb};

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

/// Keeps the live workloads.
#[derive(Debug)]
pub(crate) struct Leases {
    path: PathBuf,
    state: Arc<State>,
    registry: Arc<Registry>,
    /// Until when the workloads of the last run stay.
    until: Instant,
}

impl Leases {
    /// Takes up the workloads of the last run.
    pub(crate) fn open(data: &Path, state: &Arc<State>, registry: &Arc<Registry>) -> Self {
        let path = data.join(FILE);
        let workloads = match read(&path) {
            Ok(workloads) => workloads,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the workloads of the last run are lost");
                Resources::new()
            }
        };
        let count = u32::try_from(workloads.len()).unwrap_or(u32::MAX);
        let until = Instant::now() + GRACE_MIN + GRACE_EACH * count.min(10_000);
        if count > 0 {
            tracing::info!(count, "workloads of the last run stay until they come again");
            registry.lease(workloads);
        }
        Self { path, state: Arc::clone(state), registry: Arc::clone(registry), until }
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
                        self.write(Arc::clone(&written)).await;
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Writes what lives now.
    pub(crate) async fn save(&self) {
        self.write(Arc::clone(&self.state.world().live)).await;
    }

    async fn write(&self, live: Arc<Shelf>) {
        let path = self.path.clone();
        let written = spawn_blocking(move || write(&path, &live.resources)).await;
        if let Ok(Err(error)) = written {
            let path = self.path.display();
            tracing::warn!(%path, %error, "can not keep the workloads for the next start");
        }
    }
}

fn read(path: &Path) -> io::Result<Resources> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Resources::new()),
        read => read?,
    };
    let listed = pb::ListResponse::decode(&*bytes).map_err(io::Error::other)?;
    let workloads = listed.resources.into_iter().filter(|it| Kind::of(it) == Some(Kind::Workload));
    Ok(workloads.filter_map(|it| Some((resource::key(&it)?, Arc::new(it)))).collect())
}

/// By a new file that takes the old one's place, so that a reader never sees half of it.
fn write(path: &Path, workloads: &Resources) -> io::Result<()> {
    let resources = workloads.values().map(|it| pb::Resource::clone(it)).collect();
    let listed = pb::ListResponse { resources, ..Default::default() };
    let new = path.with_extension("new");
    fs::write(&new, listed.encode_to_vec())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use tokio::time::{Instant, sleep_until};

    use super::{FILE, Leases};
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
        state.world().live.resources.keys().map(|key| key.name.clone()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn workloads_outlive_a_restart_by_the_time_of_grace() {
        let data = tempfile::tempdir().expect("a directory");
        let (leases, state) = open(data.path());
        assert!(live(&state).is_empty());
        let alive = [workload("shop/orders-1", "orders", ""), workload("shop/web-1", "web", "")];
        state.update_live(|live| live.extend(resources(alive)));
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
    async fn a_broken_file_is_no_obstacle() {
        let data = tempfile::tempdir().expect("a directory");
        fs::write(data.path().join(FILE), b"\xff\xff\xff").expect("written");
        let (_, state) = open(data.path());
        assert!(live(&state).is_empty());
    }
}
