//! Since when each condition of a resource is as it is (`lastTransitionTime`).
//!
//! Conditions are worked out when somebody asks, so that they are never out of date. Their times can
//! not be: somebody has to look when they change. A task looks at the stored resources after every
//! change of the mesh, and once a second at most; who asks meanwhile and sees something new has seen
//! the change first. A status that comes and goes between two looks is no transition, and neither is
//! a restart: the times are on disk, and what sidecars run is not judged before they had the time to
//! come again.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use super::{
    conditions,
    fleet::{Fleet, Session},
    key,
    state::{State, pb_time},
    world::World,
};
use crate::{
    clock,
    resource::{Kind, ResourceKey, pb},
};

/// The file in the data directory.
const FILE: &str = "conditions.json";
/// Between two looks, and two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// The times of all conditions.
#[derive(Debug)]
pub(crate) struct Transitions {
    book: Mutex<Book>,
    now: fn() -> SystemTime,
}

#[derive(Debug, Default)]
struct Book {
    pages: BTreeMap<ResourceKey, Page>,
    /// Sidecars of the last run may not have come again, so that who is connected says little.
    settling: bool,
    /// Whether the disk has something else.
    changed: bool,
}

/// The conditions of one resource.
#[derive(Debug, Default, PartialEq)]
struct Page {
    /// When the resource was made: another one of its name begins anew.
    made: Option<i64>,
    /// By type, and for whose they are where they are a parent's or a target's.
    since: BTreeMap<String, (String, SystemTime)>,
}

impl Default for Transitions {
    fn default() -> Self {
        Self { book: Mutex::default(), now: clock::now }
    }
}

impl Transitions {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts times to the conditions of a resource, noting those that have changed.
    pub(crate) fn stamp(&self, at: &ResourceKey, resource: &pb::Resource, status: &mut pb::Status) {
        let now = (self.now)();
        let created = resource.metadata.as_ref().and_then(|it| it.creation_timestamp.as_ref());
        let made =
            created.map(|at| at.seconds.saturating_mul(1000) + i64::from(at.nanos) / 1_000_000);
        let mut book = self.book();
        let book = &mut *book;
        if book.pages.get(at).is_none_or(|page| page.made != made) {
            book.pages.insert(at.clone(), Page { made, since: BTreeMap::new() });
        }
        let Some(page) = book.pages.get_mut(at) else { return };
        let mut next = BTreeMap::new();
        let own = status.conditions.iter_mut().map(|it| (it.r#type.clone(), it));
        let others = status.parents.iter_mut().chain(&mut status.ancestors).flat_map(|parent| {
            let whose = parent.parent.as_ref().and_then(ResourceKey::from_pb);
            let whose = whose.map_or_else(String::new, |key| key::text(&key));
            parent.conditions.iter_mut().map(move |it| (format!("{} {whose}", it.r#type), it))
        });
        for (name, condition) in own.chain(others) {
            let known = page.since.get(&name);
            let (said, since) = match known {
                Some((said, since)) if *said == condition.status => (said.clone(), *since),
                Some(known) if book.settling && condition.r#type == "Programmed" => {
                    condition.last_transition_time = Some(pb_time(now));
                    next.insert(name, known.clone());
                    continue;
                }
                _ => (condition.status.clone(), now),
            };
            condition.last_transition_time = Some(pb_time(since));
            next.insert(name, (said, since));
        }
        if page.since != next {
            page.since = next;
            book.changed = true;
        }
    }

    /// Since when a condition of a resource as a whole is as it is, as far as that was seen.
    pub(crate) fn since(&self, at: &ResourceKey, kind: &str) -> Option<SystemTime> {
        self.book().pages.get(at)?.since.get(kind).map(|(_, since)| *since)
    }

    /// Forgets what is gone.
    fn retain(&self, world: &World) {
        let mut book = self.book();
        let before = book.pages.len();
        book.pages.retain(|at, _| world.get(at).is_some());
        book.changed |= book.pages.len() != before;
    }
}

/// Looks at the stored resources, so that what has changed is noted.
fn observe(world: &World, fleet: &Fleet) {
    let problems = world.problems();
    let runs = Runs::of(&fleet.sessions());
    for (at, resource) in &world.stored.resources {
        let problems = problems.get(at).map_or(&[][..], Vec::as_slice);
        let mut status = conditions::of_itself(at, resource, problems);
        status.conditions.push(pb::Condition {
            r#type: "Programmed".to_owned(),
            status: runs.programmed(at, resource).to_owned(),
            ..Default::default()
        });
        fleet.transitions().stamp(at, resource, &mut status);
    }
    fleet.transitions().retain(world);
}

/// What all sidecars together make of each resource: enough for a condition's status.
struct Runs {
    /// How many of them have something else than what was sent last, and how many refuse it.
    not_running: HashMap<ResourceKey, (usize, usize)>,
    /// The oldest revision up to which a sidecar was looked at.
    seen: Option<u64>,
}

impl Runs {
    fn of(sessions: &[Arc<Session>]) -> Self {
        let mut runs = Self { not_running: HashMap::new(), seen: None };
        for session in sessions {
            let progress = session.progress();
            let seen = progress.seen_revision;
            runs.seen = Some(runs.seen.map_or(seen, |oldest| oldest.min(seen)));
            for (at, entry) in progress.ledger.entries().filter(|(_, entry)| !entry.is_running()) {
                let (pending, refused) = runs.not_running.entry(at.clone()).or_default();
                *if entry.refused.is_some() { refused } else { pending } += 1;
            }
        }
        runs
    }

    fn programmed(&self, at: &ResourceKey, resource: &pb::Resource) -> &'static str {
        let unseen = self.seen.is_some_and(|seen| conditions::is_newer(resource, seen));
        match self.not_running.get(at) {
            Some((_, refused)) if *refused > 0 => "False",
            Some(_) => "Unknown",
            None if unseen => "Unknown",
            None => "True",
        }
    }
}

/// Looks after every change, and keeps what was seen for the next start.
#[derive(Debug)]
pub(crate) struct Observer {
    path: PathBuf,
    state: Arc<State>,
    fleet: Arc<Fleet>,
    /// Until when sidecars of the last run may come again.
    until: Instant,
}

impl Observer {
    /// Takes up what the last run saw. A file that is broken is no obstacle: times begin anew.
    pub(crate) fn open(
        data: &Path,
        state: &Arc<State>,
        fleet: &Arc<Fleet>,
        until: Instant,
    ) -> Self {
        let path = data.join(FILE);
        match read(&path) {
            Ok(pages) => {
                let mut book = fleet.transitions().book();
                book.settling = !pages.is_empty();
                book.pages = pages;
            }
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "since when conditions hold is not known any more");
            }
        }
        Self { path, state: Arc::clone(state), fleet: Arc::clone(fleet), until }
    }

    /// Looks and writes, until the future is dropped.
    pub(crate) async fn run(&self) -> Infallible {
        let mut seen = None;
        loop {
            if Instant::now() >= self.until {
                self.fleet.transitions().book().settling = false;
            }
            let now = (self.state.world().trail.generation(), self.fleet.news());
            if seen != Some(now) {
                let (state, fleet) = (Arc::clone(&self.state), Arc::clone(&self.fleet));
                if spawn_blocking(move || observe(&state.world(), &fleet)).await.is_err() {
                    tracing::error!("looking at the conditions panicked");
                }
                self.save().await;
                // What settles is looked at again when it has.
                let settling = self.fleet.transitions().book().settling;
                seen = Some(now).filter(|_| !settling);
            }
            sleep(PAUSE).await;
        }
    }

    /// Writes what is not on disk.
    pub(crate) async fn save(&self) {
        let (path, fleet) = (self.path.clone(), Arc::clone(&self.fleet));
        let save = move || {
            let mut book = fleet.transitions().book();
            if !std::mem::take(&mut book.changed) {
                return Ok(());
            }
            let text = to_text(&book.pages);
            drop(book);
            // By a new file that takes the old one's place, so that a reader never sees half of it.
            let new = path.with_extension("new");
            fs::write(&new, text).and_then(|()| fs::rename(&new, &path))
        };
        if let Ok(Err(error)) = spawn_blocking(save).await {
            let path = self.path.display();
            tracing::warn!(%path, %error, "can not keep since when conditions hold");
            self.fleet.transitions().book().changed = true;
        }
    }
}

/// One JSON array a line: kind, namespace, name, when it was made, and of each condition its name,
/// status and time in milliseconds.
fn to_text(pages: &BTreeMap<ResourceKey, Page>) -> String {
    let millis = |at: &SystemTime| {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    };
    let mut text = String::new();
    for (at, page) in pages {
        let since = page.since.iter().map(|(name, (said, at))| json!([name, said, millis(at)]));
        let line = json!([at.kind, at.namespace, at.name, page.made, since.collect::<Vec<_>>()]);
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text
}

fn read(path: &Path) -> io::Result<BTreeMap<ResourceKey, Page>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        read => read?,
    };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "is broken");
    text.lines().map(|line| page(line).ok_or_else(broken)).collect()
}

fn page(line: &str) -> Option<(ResourceKey, Page)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let [kind, namespace, name, made, since] = value.as_array()?.as_slice() else { return None };
    let at =
        ResourceKey::new(Kind::from_name(kind.as_str()?)?, namespace.as_str()?, name.as_str()?);
    let since = since.as_array()?.iter().map(|condition| {
        let [name, said, at] = condition.as_array()?.as_slice() else { return None };
        let at = UNIX_EPOCH.checked_add(Duration::from_millis(at.as_u64()?))?;
        Some((name.as_str()?.to_owned(), (said.as_str()?.to_owned(), at)))
    });
    Some((at, Page { made: made.as_i64(), since: since.collect::<Option<_>>()? }))
}

#[cfg(test)]
#[path = "transitions_tests.rs"]
mod tests;
