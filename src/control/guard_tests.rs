//! Guards: what counts as a rise, whom a write concerns, and how a write is undone.

use std::{cell::Cell, collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, advance};

use super::{begin, duration, has_risen, look, risen, services};
use crate::{
    clock,
    control::{
        apply,
        auth::Connection,
        fleet::{Fleet, Seat},
        plan::Note,
        sample::{authorization, mesh, route, service, traffic_policy, workload, world},
        state::{State, pb_time},
        world::World,
    },
    resource::{self, Kind, ResourceKey, pb},
    units::ServiceName,
};

#[test]
fn only_a_rise_that_is_none_by_chance_counts() {
    for (failed, total, expected) in [
        // Nothing failed before.
        ([0, 5], [100, 100], false),
        ([0, 10], [100, 100], true),
        ([0, 4], [100, 4], false),
        // As bad as before, a little worse, much worse.
        ([10, 10], [100, 100], false),
        ([10, 14], [100, 100], false),
        ([10, 35], [100, 100], true),
        // Much traffic, but a rise below one percent.
        ([0, 900], [100_000, 100_000], false),
        ([0, 1100], [100_000, 100_000], true),
        // Nobody had called before.
        ([0, 5], [0, 10], true),
        ([0, 0], [0, 0], false),
        // All fail, as they did.
        ([50, 50], [50, 50], false),
    ] {
        assert_eq!(has_risen(failed, total), expected, "{failed:?} of {total:?}");
    }
}

fn traffic(total: u64, failed: &[(&str, u64)]) -> pb::GuardTraffic {
    let failed = failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    pb::GuardTraffic { seconds: 60.0, total, failed }
}

#[test]
fn the_reasons_that_rose_are_named() {
    let before = traffic(1000, &[("UNAVAILABLE", 20)]);
    let rose = risen(&before, &traffic(500, &[("UNAVAILABLE", 11), ("denied", 250)]));
    assert_eq!(rose, ["denied 0.00% -> 50.00%"]);
    // One reason instead of another.
    let swapped = risen(&traffic(1000, &[("a", 100)]), &traffic(1000, &[("b", 100)]));
    assert_eq!(swapped, Vec::<String>::new());
}

#[test]
fn a_guard_lasts_ten_seconds_to_an_hour() {
    let of = |seconds| duration(Some(prost_types::Duration { seconds, nanos: 0 }));
    assert_eq!(duration(None).expect("none"), None);
    assert_eq!(of(120).expect("accepted"), Some(Duration::from_secs(120)));
    for seconds in [-1, 0, 9, 3601] {
        assert!(of(seconds).is_err(), "{seconds}");
    }
}

#[test]
fn the_services_that_a_write_concerns() {
    let full = world(
        [
            mesh(),
            service("shop/orders", ""),
            route("shop/r", "orders", &["v1", "other/v2"]),
            traffic_policy("shop/of-route", Kind::GrpcRoute, "r"),
            traffic_policy("shop/of-service", Kind::Service, "orders"),
            authorization("shop/of-all", &[]),
        ],
        [workload("shop/w-1", "web", "")],
    );
    let of = |kind: Kind, name: &str| {
        let key = ResourceKey::new(kind, if kind == Kind::Mesh { "" } else { "shop" }, name);
        let change = pb::Change {
            resource: Some(key.to_pb()),
            kind: pb::ChangeKind::Configured.into(),
            fields: Vec::new(),
        };
        let found = services(&full, &World::default(), &[change]);
        found.map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    };
    for (kind, name, expected) in [
        (Kind::Service, "orders", Some("orders.shop")),
        (Kind::GrpcRoute, "r", Some("orders.shop v1.shop v2.other")),
        (Kind::TrafficPolicy, "of-route", Some("orders.shop v1.shop v2.other")),
        (Kind::TrafficPolicy, "of-service", Some("orders.shop")),
        (Kind::AuthorizationPolicy, "of-all", Some("orders.shop web.shop")),
        (Kind::Workload, "w-1", Some("web.shop")),
        (Kind::Mesh, "mesh", None),
    ] {
        let mut found: Option<Vec<String>> =
            of(kind, name).map(|it| it.split(' ').map(str::to_owned).collect());
        found.iter_mut().for_each(|found| found.sort());
        let expected: Option<Vec<String>> =
            expected.map(|it| it.split(' ').map(str::to_owned).collect());
        assert_eq!(found, expected, "{kind:?} {name}");
    }
}

/// A mesh with one caller of `orders`.
struct Scene {
    _directory: tempfile::TempDir,
    state: Arc<State>,
    fleet: Arc<Fleet>,
    caller: Seat,
    calls: (u64, u64),
    /// When the last write was made.
    wrote: Cell<Instant>,
}

impl Scene {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let state = State::open(&directory.path().join("mesh.redb"), "mesh.local", clock::now);
        let state = state.expect("opens");
        let fleet = Arc::new(Fleet::default());
        let key = ResourceKey::new(Kind::Workload, "shop", "web-1");
        let of = ServiceName::new("web", "shop");
        let now = state.now();
        let remote = ([127, 0, 0, 1], 1).into();
        let connection =
            Connection { remote, certificates: None, verdict: Arc::default(), end: Arc::default() };
        let caller = fleet.join(&key, &of, "test", &connection, now);
        fleet.report(caller.session(), Instant::now(), &[]);
        Self {
            _directory: directory,
            state,
            fleet,
            caller,
            calls: (0, 0),
            wrote: Cell::new(Instant::now()),
        }
    }

    /// More calls, of which some failed.
    async fn calls(&mut self, total: u64, failed: u64) {
        advance(Duration::from_secs(5)).await;
        self.calls = (self.calls.0 + total, self.calls.1 + failed);
        let report = pb::Traffic {
            destination: "orders.shop".to_owned(),
            total: self.calls.0,
            failed: HashMap::from([("denied".to_owned(), self.calls.1)]),
            ..Default::default()
        };
        self.fleet.report(self.caller.session(), Instant::now(), &[report]);
    }

    /// Writes, guarded for so long.
    async fn write(&self, resources: Vec<pb::Resource>, lasts: Option<Duration>) -> u64 {
        let fleet = Arc::clone(&self.fleet);
        let write = self.state.write(move |state, writer| {
            let world = state.world();
            let now = pb_time(state.now());
            let planned = apply::apply(&world, "mesh.local", resources, now);
            assert!(!planned.is_refused(), "{:?}", planned.problems);
            let after = planned.plan.after.as_ref().expect("planned");
            let changes = &planned.plan.changes;
            let guard = lasts.map(|it| begin(&world, after, changes, &fleet, state.now(), it));
            let note = Note { by: "a test".to_owned(), guard, ..Note::default() };
            state
                .commit(writer, planned.plan, note)
                .map_err(|error| crate::control::error::store(&error))
        });
        advance(Duration::from_millis(1)).await;
        self.wrote.set(Instant::now());
        write.await.expect("written")
    }

    async fn look(&self, revision: u64) -> pb::Guard {
        let guard = self.state.guards().get(&revision).cloned().expect("guarded");
        look(&self.state, &self.fleet, &guard, self.wrote.get()).await;
        self.state.guards().get(&revision).cloned().expect("guarded")
    }

    fn names(&self) -> Vec<String> {
        let world = self.state.world();
        world.all().map(|(key, _)| key.name.clone()).collect()
    }
}

const LONG: Duration = Duration::from_secs(120);

#[tokio::test(start_paused = true)]
async fn failures_after_the_write_undo_it_and_those_before_do_not() {
    let mut scene = Scene::start();
    scene.write(vec![service("shop/orders", "")], None).await;
    scene.calls(100, 10).await;
    let guarded = scene.write(vec![authorization("shop/a", &["orders"])], Some(LONG)).await;
    let guard = scene.look(guarded).await;
    assert_eq!(guard.state(), pb::GuardState::Watching);
    assert_eq!(guard.before.as_ref().map(|it| (it.total, it.failed["denied"])), Some((100, 10)));
    scene.calls(100, 10).await;
    assert_eq!(scene.look(guarded).await.state(), pb::GuardState::Watching);
    scene.calls(100, 90).await;
    let guard = scene.look(guarded).await;
    assert_eq!((guard.state(), guard.rolled_back_by), (pb::GuardState::RolledBack, Some(3)));
    assert_eq!(guard.message, "denied 10.00% -> 50.00%");
    assert_eq!(scene.names(), ["orders"]);
    let newest = scene.state.newest();
    assert_eq!((newest.revision, newest.rollback_to), (3, Some(1)));
    assert!(newest.changed_by.starts_with("spiffe://mesh.local/"), "{newest:?}");
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_meanwhile_stays() {
    let mut scene = Scene::start();
    let guarded = scene
        .write(vec![authorization("shop/a", &["orders"]), service("shop/orders", "")], Some(LONG))
        .await;
    let mut mine = service("shop/orders", "");
    mine.metadata.as_mut().expect("set").labels.insert("mine".into(), "yes".into());
    scene.write(vec![mine, service("shop/new", "")], None).await;
    scene.calls(100, 100).await;
    let guard = scene.look(guarded).await;
    assert_eq!(guard.state(), pb::GuardState::RolledBack);
    assert!(guard.message.ends_with("written since: Service shop/orders"), "{guard:?}");
    assert_eq!(scene.names(), ["new", "orders"]);
    assert_eq!(scene.state.newest().rollback_to, None);
}

#[tokio::test(start_paused = true)]
async fn a_guard_outlives_a_restart_and_ends_with_its_time() {
    let mut scene = Scene::start();
    let guarded = scene.write(vec![service("shop/orders", "")], Some(LONG)).await;
    scene.calls(100, 0).await;
    let Scene { _directory: directory, state, .. } = scene;
    drop(state);
    let later = || clock::now() + LONG;
    let path = directory.path().join("mesh.redb");
    let state = State::open(&path, "mesh.local", later).expect("opens again");
    let fleet = Arc::new(Fleet::default());
    let guard = state.guards().get(&guarded).cloned().expect("remembered");
    assert_eq!(guard.state(), pb::GuardState::Watching);
    look(&state, &fleet, &guard, Instant::now()).await;
    let guard = state.guards().get(&guarded).cloned().expect("remembered");
    assert_eq!(guard.state(), pb::GuardState::Passed);
    let key = resource::key(&service("shop/orders", "")).expect("has a spec");
    assert!(state.world().get(&key).is_some());
}
