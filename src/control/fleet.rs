//! The sidecars that are connected: what each runs, how it is, and what its callers saw.
//!
//! The task of a sidecar's stream writes here; status, resource conditions and metrics read. A
//! sidecar's traffic outlives its stream by the length of the window, so that the failures of what
//! just died are still shown.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    auth::Connection,
    delta::Ledger,
    scope::Viewer,
    state::pb_time,
    traffic::{Counters, WINDOW, Window},
    transitions::Transitions,
};
use crate::{
    resource::{ResourceKey, pb},
    units::ServiceName,
};

/// Revisions that are being rolled out and timed at once; the oldest is given up first.
const ROLLOUTS_MAX: usize = 64;
/// Writes whose times are remembered, to be put beside the times at which calls began to fail.
const WRITES_MAX: usize = 50;
/// Sidecars that come again in one second after a restart of the control plane, on average: each
/// chooses its moment by chance, and no second is to see more than 150.
const RECONNECTIONS_PER_SECOND: u32 = 110;
/// The longest time over which they are spread.
const SPREAD_MAX: Duration = Duration::from_secs(60);
/// Windows kept, of connected sidecars and lately gone ones.
const WINDOWS_MAX: usize = 10_000;
/// Characters kept of a version of whom a sidecar trusts.
const VERSION_MAX: usize = 64;
/// Characters kept of any other text of a report.
const TEXT_MAX: usize = 253;
/// Endpoints kept that one sidecar leaves alone.
const EJECTED_MAX: usize = 50;

/// All connected sidecars.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    sessions: Mutex<BTreeMap<ResourceKey, Arc<Session>>>,
    windows: Mutex<BTreeMap<ResourceKey, Caller>>,
    rollouts: Mutex<VecDeque<Rollout>>,
    writes: Mutex<VecDeque<(u64, Instant)>>,
    next: AtomicU64,
    /// Grows with whatever may change what sidecars make of resources.
    news: AtomicU64,
    transitions: Transitions,
}

/// A revision on its way to those who were connected when it was written.
#[derive(Debug)]
struct Rollout {
    revision: u64,
    since: Instant,
    /// Sessions that have not answered to all of it.
    waiting: HashSet<u64>,
}

/// The traffic that one workload caused.
#[derive(Debug)]
struct Caller {
    service: ServiceName,
    window: Window,
}

/// One sidecar's stream.
#[derive(Debug)]
pub(crate) struct Session {
    /// Unique among all streams since the start.
    pub id: u64,
    /// The workload's key.
    pub key: ResourceKey,
    /// The service beside the sidecar.
    pub service: ServiceName,
    /// The sidecar's program version.
    pub version: String,
    /// Where the stream comes from.
    pub remote: SocketAddr,
    /// The certificates by which it came.
    pub certificates: Option<Arc<[CertificateDer<'static>]>>,
    /// When it began.
    pub connected_at: SystemTime,
    /// Cancelled when a newer stream of the same workload takes over.
    pub replaced: CancellationToken,
    progress: Mutex<Progress>,
}

/// What changes during a stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// As the sidecar last said.
    pub phase: pb::WorkloadPhase,
    /// Requests under way.
    pub in_flight: u32,
    /// As the sidecar last said.
    pub certificate_expires_at: Option<prost_types::Timestamp>,
    /// The version of whom it trusts, as the sidecar last said.
    pub trust_version: String,
    /// What the checks of its application found, while that is not well.
    pub application: String,
    /// Endpoints that it leaves alone.
    pub ejected: Vec<pb::Ejection>,
    /// The trace of a call of it, and when it said so.
    pub trace: Option<(Instant, String)>,
    /// Who it is, for what concerns it.
    pub viewer: Viewer,
    /// What it was sent and what it made of it.
    pub ledger: Ledger,
    /// The newest revision of which it was sent all that concerns it.
    pub seen_revision: u64,
    /// The newest revision of which it runs all that concerns it.
    pub running_revision: u64,
    /// Since when it has not run all that it was sent.
    pub behind_since: Option<SystemTime>,
}

impl Progress {
    /// Notes what the sidecar says of itself, as far as there is room.
    pub(crate) fn report(&mut self, state: &pb::WorkloadState, now: Instant) {
        let short = |text: &str, characters| text.chars().take(characters).collect::<String>();
        self.phase = state.phase();
        self.in_flight = state.in_flight;
        self.certificate_expires_at = state.certificate_expires_at;
        self.trust_version = short(&state.trust_version, VERSION_MAX);
        self.application = short(&state.application, TEXT_MAX);
        let ejected = state.ejected.iter().take(EJECTED_MAX).map(|it| pb::Ejection {
            destination: short(&it.destination, TEXT_MAX),
            endpoint: short(&it.endpoint, TEXT_MAX),
            cause: short(&it.cause, TEXT_MAX),
            ..*it
        });
        self.ejected = ejected.collect();
        let is_trace =
            |text: &&str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(trace) = Some(&*state.trace).filter(is_trace) {
            self.trace = Some((now, trace.to_owned()));
        }
    }

    /// Notes what follows from the ledger. Returns the newest revision to which it has answered, be
    /// it with refusals; `None` while an answer is outstanding.
    pub(crate) fn settle(&mut self, now: SystemTime) -> Option<u64> {
        if self.ledger.is_settled() {
            self.running_revision = self.seen_revision;
            self.behind_since = None;
        } else {
            self.behind_since.get_or_insert(now);
        }
        self.ledger.is_answered().then_some(self.seen_revision)
    }

    /// Whether it runs all that concerns it of this revision.
    pub(crate) fn in_sync(&self, revision: u64) -> bool {
        self.seen_revision >= revision && self.ledger.is_settled()
    }
}

impl Session {
    /// What it runs and how it is. Never held across an await.
    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place among the connected; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    fleet: Arc<Fleet>,
    session: Arc<Session>,
}

impl Seat {
    /// The session.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.fleet.news.fetch_add(1, Ordering::Relaxed);
        let mut sessions = lock(&self.fleet.sessions);
        let is_own = |session: &Arc<Session>| session.id == self.session.id;
        if sessions.get(&self.session.key).is_some_and(is_own) {
            sessions.remove(&self.session.key);
        }
        drop(sessions);
        // Nobody waits for who is gone. What it was the last to hold up was never run by all.
        lock(&self.fleet.rollouts).retain_mut(|rollout| {
            !(rollout.waiting.remove(&self.session.id) && rollout.waiting.is_empty())
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// Since when conditions are as they are.
    pub(crate) fn transitions(&self) -> &Transitions {
        &self.transitions
    }

    /// With those.
    #[cfg(test)]
    pub(crate) fn with_transitions(transitions: Transitions) -> Self {
        Self { transitions, ..Self::default() }
    }

    /// A number that is another one when sidecars came, went or answered meanwhile.
    pub(crate) fn news(&self) -> u64 {
        self.news.load(Ordering::Relaxed)
    }

    /// Seats a new stream; an older one of the same workload is told that it is replaced.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: &ResourceKey,
        service: &ServiceName,
        version: &str,
        connection: &Connection,
        now: SystemTime,
    ) -> Seat {
        let session = Arc::new(Session {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            key: key.clone(),
            service: service.clone(),
            version: version.chars().take(64).collect(),
            remote: connection.remote,
            certificates: connection.certificates.clone(),
            connected_at: now,
            replaced: CancellationToken::new(),
            progress: Mutex::default(),
        });
        self.news.fetch_add(1, Ordering::Relaxed);
        let before = lock(&self.sessions).insert(key.clone(), Arc::clone(&session));
        if let Some(before) = before {
            before.replaced.cancel();
        }
        Seat { fleet: Arc::clone(self), session }
    }

    /// Those connected now, by workload.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).values().cloned().collect()
    }

    /// How many are connected now.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(lock(&self.sessions).len()).unwrap_or(u32::MAX)
    }

    /// Takes a sidecar's report of its traffic.
    pub(crate) fn report(&self, session: &Session, now: Instant, traffic: &[pb::Traffic]) {
        let mut windows = lock(&self.windows);
        if !windows.contains_key(&session.key) {
            let connected = lock(&self.sessions);
            windows.retain(|key, caller| {
                caller.window.forget(now);
                connected.contains_key(key) || !caller.window.is_empty()
            });
            if windows.len() >= WINDOWS_MAX {
                return;
            }
        }
        let new = || Caller { service: session.service.clone(), window: Window::default() };
        let caller = windows.entry(session.key.clone()).or_insert_with(new);
        caller.service.clone_from(&session.service);
        caller.window.report(now, traffic);
    }

    /// What callers of each destination saw, by caller, and how far back that reaches.
    pub(crate) fn traffic(&self, now: Instant) -> Traffic {
        self.traffic_since(now, WINDOW)
    }

    /// What is reported from now on is told apart from what was before.
    pub(crate) fn cut(&self) {
        lock(&self.windows).values_mut().for_each(|caller| caller.window.cut());
    }

    /// As [`Self::traffic`], of what was reported within this time.
    pub(crate) fn traffic_since(&self, now: Instant, within: Duration) -> Traffic {
        let mut traffic = Traffic::default();
        for caller in lock(&self.windows).values() {
            traffic.reach = traffic.reach.max(caller.window.reach(now));
            for (destination, counters) in caller.window.sums_of(now, within) {
                let of = traffic.by_destination.entry(destination.to_owned()).or_default();
                of.entry(caller.service.to_string()).or_default().add(&counters);
            }
        }
        traffic
    }

    /// A revision was written: from now on its way to the sidecars is timed.
    pub(crate) fn wrote(&self, revision: u64, now: Instant) {
        let mut writes = lock(&self.writes);
        if writes.len() >= WRITES_MAX {
            writes.pop_front();
        }
        writes.push_back((revision, now));
        drop(writes);
        let mut rollouts = lock(&self.rollouts);
        // With the list locked: who answers meanwhile is either seen here or takes itself out below.
        let sessions = self.sessions();
        let behind = sessions.iter().filter(|it| it.progress().running_revision < revision);
        let waiting: HashSet<u64> = behind.map(|session| session.id).collect();
        if waiting.is_empty() {
            return;
        }
        if rollouts.len() >= ROLLOUTS_MAX {
            rollouts.pop_front();
        }
        rollouts.push_back(Rollout { revision, since: now, waiting });
    }

    /// The last revisions that were written, the newest last.
    pub(crate) fn writes(&self) -> Vec<(u64, Instant)> {
        lock(&self.writes).iter().copied().collect()
    }

    /// A sidecar has answered to everything up to a revision. Returns how long those revisions took
    /// for which it was the last one.
    pub(crate) fn answered(&self, session: &Session, revision: u64, now: Instant) -> Vec<Duration> {
        self.news.fetch_add(1, Ordering::Relaxed);
        let mut took = Vec::new();
        lock(&self.rollouts).retain_mut(|rollout| {
            let last = rollout.revision <= revision
                && rollout.waiting.remove(&session.id)
                && rollout.waiting.is_empty();
            if last {
                took.push(now.duration_since(rollout.since));
            }
            !last
        });
        took
    }

    /// Within which time sidecars should come again after they lost their streams, each at a random
    /// moment, so that not all of them come at once.
    pub(crate) fn spread(&self) -> Duration {
        (Duration::from_secs(1) / RECONNECTIONS_PER_SECOND * self.count()).min(SPREAD_MAX)
    }

    /// Endpoints that connected sidecars leave alone until after `now`, by destination and workload:
    /// by how many, and of the others' words the ones that hold the longest.
    pub(crate) fn ejected(&self, now: SystemTime) -> BTreeMap<(String, String), pb::Ejection> {
        let now = pb_time(now);
        let later = |a: &prost_types::Timestamp, b: &prost_types::Timestamp| {
            (a.seconds, a.nanos) > (b.seconds, b.nanos)
        };
        let mut all = BTreeMap::<_, pb::Ejection>::new();
        for session in self.sessions() {
            for ejection in &session.progress().ejected {
                let Some(until) = ejection.until.filter(|until| later(until, &now)) else {
                    continue;
                };
                let name = (ejection.destination.clone(), ejection.endpoint.clone());
                let known = all.entry(name).or_default();
                let sidecars = known.sidecars + 1;
                if known.until.is_none_or(|known| later(&until, &known)) {
                    known.clone_from(ejection);
                }
                known.sidecars = sidecars;
            }
        }
        all
    }

    /// The trace of a call that was reported last.
    pub(crate) fn trace(&self) -> Option<String> {
        let traces = self.sessions().into_iter().filter_map(|it| it.progress().trace.clone());
        traces.max_by_key(|(at, _)| *at).map(|(_, trace)| trace)
    }

    /// Every connected sidecar for `status`.
    pub(crate) fn statuses(&self, revision: u64) -> Vec<pb::SidecarStatus> {
        let status = |session: &Arc<Session>| {
            let progress = session.progress();
            pb::SidecarStatus {
                workload: session.key.name.clone(),
                service: session.service.name.clone(),
                namespace: session.service.namespace.clone(),
                version: session.version.clone(),
                address: session.remote.to_string(),
                phase: progress.phase.into(),
                in_flight: progress.in_flight,
                connected_at: Some(pb_time(session.connected_at)),
                certificate_expires_at: progress.certificate_expires_at,
                in_sync: progress.in_sync(revision),
                revision: progress.running_revision,
                behind_since: progress.behind_since.map(pb_time),
                application: progress.application.clone(),
            }
        };
        self.sessions().iter().map(status).collect()
    }
}

/// What callers saw.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// By destination, then by source.
    pub by_destination: BTreeMap<String, BTreeMap<String, Counters>>,
    /// How long it was counted, at most.
    pub reach: Duration,
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::Arc,
        time::{Duration, UNIX_EPOCH},
    };

    use tokio::time::{Instant, advance};

    use super::{Fleet, Seat};
    use crate::{
        control::{
            auth::Connection,
            sample::{resources, service},
        },
        resource::{Kind, ResourceKey, pb},
        units::ServiceName,
    };

    fn join(fleet: &Arc<Fleet>, workload: &str) -> Seat {
        let key = ResourceKey::new(Kind::Workload, "shop", workload);
        let service = ServiceName::new("orders", "shop");
        let remote = ([127, 0, 0, 1], 1).into();
        let connection =
            Connection { remote, certificates: None, verdict: Arc::default(), end: Arc::default() };
        fleet.join(&key, &service, "0.1.0", &connection, UNIX_EPOCH)
    }

    #[test]
    fn a_newer_stream_replaces_the_older_one_and_outlives_it() {
        let fleet = Arc::new(Fleet::default());
        let old = join(&fleet, "orders-1");
        let new = join(&fleet, "orders-1");
        assert!(old.session().replaced.is_cancelled() && !new.session().replaced.is_cancelled());
        drop(old);
        assert_eq!(fleet.sessions().len(), 1);
        drop(new);
        assert!(fleet.sessions().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_revision_is_rolled_out_when_all_have_answered() {
        let fleet = Arc::new(Fleet::default());
        let seats = [join(&fleet, "orders-1"), join(&fleet, "orders-2")];
        fleet.wrote(3, Instant::now());
        for seat in &seats {
            let mut progress = seat.session().progress();
            let wanted = resources([service("shop/orders", "")]);
            progress.ledger.advance(&wanted, &BTreeSet::new());
            progress.seen_revision = 3;
            assert_eq!(progress.settle(UNIX_EPOCH), None);
            assert!(!progress.in_sync(3) && progress.behind_since.is_some());
        }
        let key = ResourceKey::new(Kind::Service, "shop", "orders");
        for (seat, rolled_out) in seats.iter().zip([vec![], vec![Duration::from_secs(2)]]) {
            advance(Duration::from_secs(1)).await;
            let answered = {
                let mut progress = seat.session().progress();
                progress.ledger.acknowledge(&key, "1");
                let answered = progress.settle(UNIX_EPOCH).expect("all answered");
                assert!(progress.in_sync(3) && !progress.in_sync(4));
                answered
            };
            assert_eq!(fleet.answered(seat.session(), answered, Instant::now()), rolled_out);
        }
        assert!(fleet.statuses(3).iter().all(|status| status.in_sync && status.revision == 3));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_sidecar_that_is_gone_or_refuses() {
        let fleet = Arc::new(Fleet::default());
        let (stays, goes) = (join(&fleet, "orders-1"), join(&fleet, "orders-2"));
        fleet.wrote(1, Instant::now());
        drop(goes);
        let answered = {
            let mut progress = stays.session().progress();
            let wanted = resources([service("shop/orders", "")]);
            progress.ledger.advance(&wanted, &BTreeSet::new());
            progress.seen_revision = 1;
            let key = ResourceKey::new(Kind::Service, "shop", "orders");
            progress.ledger.refuse(&key, "1", vec![pb::Problem::default()]);
            progress.settle(UNIX_EPOCH).expect("a refusal is an answer")
        };
        assert!(!stays.session().progress().in_sync(1));
        let took = fleet.answered(stays.session(), answered, Instant::now());
        assert_eq!(took, [Duration::ZERO]);
    }

    #[test]
    fn a_thousand_sidecars_come_again_over_some_seconds_and_a_few_at_once() {
        let fleet = Arc::new(Fleet::default());
        assert_eq!(fleet.spread(), Duration::ZERO);
        let _seats: Vec<_> =
            (0..12).map(|number| join(&fleet, &format!("orders-{number}"))).collect();
        let spread = fleet.spread();
        assert!(spread < Duration::from_millis(110), "{spread:?}");
        assert!(spread * 1000 / 12 < Duration::from_millis(9_500));
    }

    #[tokio::test(start_paused = true)]
    async fn the_traffic_of_what_just_died_is_still_shown() {
        let fleet = Arc::new(Fleet::default());
        let seat = join(&fleet, "orders-1");
        let traffic = |total| pb::Traffic {
            source: "somebody-else.shop".to_owned(),
            destination: "catalog.shop".to_owned(),
            total,
            ..Default::default()
        };
        fleet.report(seat.session(), Instant::now(), &[]);
        advance(Duration::from_secs(10)).await;
        fleet.report(seat.session(), Instant::now(), &[traffic(8)]);
        drop(seat);
        let seen = fleet.traffic(Instant::now());
        assert_eq!(seen.by_destination["catalog.shop"]["orders.shop"].total, 8);
        assert_eq!(seen.reach, Duration::from_secs(10));
        advance(Duration::from_secs(400)).await;
        assert!(fleet.traffic(Instant::now()).by_destination.is_empty());
    }
}
