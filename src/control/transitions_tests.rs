//! Times of conditions: what changes them, and what does not.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{FILE, Observer, Transitions, observe};
use crate::{
    clock,
    control::{
        auth::Connection,
        conditions::with_status,
        fleet::{Fleet, Seat},
        sample::{resources, route, service, world},
        state::State,
        world::World,
    },
    resource::{self, Kind, ResourceKey, pb},
    units::ServiceName,
};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW.get())
}

fn fleet() -> Arc<Fleet> {
    let transitions = Transitions { now, ..Transitions::default() };
    Arc::new(Fleet::with_transitions(transitions))
}

fn shop(backend: &str) -> World {
    world(
        [
            service("shop/orders", ""),
            service("shop/catalog", ""),
            route("shop/r", "orders", &[backend]),
        ],
        [],
    )
}

fn join(fleet: &Arc<Fleet>) -> Seat {
    let workload = ResourceKey::new(Kind::Workload, "shop", "web-1");
    let web = ServiceName::new("web", "shop");
    let remote = ([127, 0, 0, 1], 1).into();
    let connection =
        Connection { remote, certificates: None, verdict: Arc::default(), end: Arc::default() };
    fleet.join(&workload, &web, "0.1.0", &connection, UNIX_EPOCH)
}

/// The conditions of the route as a whole: type, status, and since when.
fn seen(fleet: &Fleet, world: &World) -> Vec<(String, String, i64)> {
    let at = ResourceKey::new(Kind::GrpcRoute, "shop", "r");
    let route = world.get(&at).expect("there");
    let status = with_status(world, fleet, &fleet.sessions(), &at, route).status.expect("set");
    let time = |it: &pb::Condition| it.last_transition_time.expect("stamped").seconds;
    for parent in &status.parents {
        assert!(parent.conditions.iter().all(|it| it.last_transition_time.is_some()));
    }
    status.conditions.iter().map(|it| (it.r#type.clone(), it.status.clone(), time(it))).collect()
}

fn check(fleet: &Fleet, world: &World, expected: [(&str, i64); 3]) {
    let found = seen(fleet, world);
    let found: Vec<_> = found.iter().map(|it| (it.1.as_str(), it.2)).collect();
    assert_eq!(found, expected, "Accepted, ResolvedRefs, Programmed");
}

#[test]
fn only_a_changed_status_changes_the_time() {
    let fleet = fleet();
    NOW.set(10);
    observe(&shop("catalog"), &fleet);
    NOW.set(20);
    check(&fleet, &shop("catalog"), [("True", 10), ("True", 10), ("True", 10)]);
    observe(&shop("nothing"), &fleet);
    NOW.set(30);
    observe(&shop("nowhere"), &fleet);
    check(&fleet, &shop("nowhere"), [("True", 10), ("False", 20), ("True", 10)]);
    // Who asks may be the first to see it.
    check(&fleet, &shop("catalog"), [("True", 10), ("True", 30), ("True", 10)]);
    NOW.set(40);
    observe(&shop("catalog"), &fleet);
    check(&fleet, &shop("catalog"), [("True", 10), ("True", 30), ("True", 10)]);
}

#[test]
fn what_sidecars_make_of_it_is_noted_when_it_is_seen() {
    let fleet = fleet();
    let world = shop("catalog");
    let at = ResourceKey::new(Kind::GrpcRoute, "shop", "r");
    let route = pb::Resource::clone(world.get(&at).expect("there"));
    NOW.set(10);
    observe(&world, &fleet);
    let seat = join(&fleet);
    {
        let mut progress = seat.session().progress();
        progress.ledger.advance(&resources([route]), &BTreeSet::new());
        progress.ledger.refuse(&at, "1", vec![pb::Problem::default()]);
        progress.seen_revision = 1;
    }
    NOW.set(20);
    observe(&world, &fleet);
    check(&fleet, &world, [("True", 10), ("True", 10), ("False", 20)]);
    assert_eq!(
        fleet.transitions().since(&at, "Programmed"),
        Some(UNIX_EPOCH + Duration::from_secs(20))
    );
    seat.session().progress().ledger.acknowledge(&at, "1");
    NOW.set(30);
    check(&fleet, &world, [("True", 10), ("True", 10), ("True", 30)]);
}

#[test]
fn another_resource_of_its_name_begins_anew() {
    let fleet = fleet();
    let made = |seconds| {
        let mut route = route("shop/r", "orders", &[]);
        let metadata = route.metadata.as_mut().expect("set");
        metadata.creation_timestamp = Some(prost_types::Timestamp { seconds, nanos: 0 });
        world([service("shop/orders", ""), route], [])
    };
    NOW.set(10);
    observe(&made(5), &fleet);
    NOW.set(20);
    check(&fleet, &made(5), [("True", 10), ("True", 10), ("True", 10)]);
    check(&fleet, &made(15), [("True", 20), ("True", 20), ("True", 20)]);
    // And what is gone is forgotten.
    observe(&world([service("shop/orders", "")], []), &fleet);
    let at = ResourceKey::new(Kind::GrpcRoute, "shop", "r");
    assert_eq!(fleet.transitions().since(&at, "Accepted"), None);
}

fn open(data: &Path, fleet: &Arc<Fleet>) -> Observer {
    let file = data.join(format!("{}.redb", fastrand::u64(..)));
    let state = State::open(&file, "mesh.local", clock::now).expect("opens");
    Observer::open(data, &state, fleet, Instant::now())
}

#[tokio::test]
async fn a_restart_is_no_transition() {
    let data = tempfile::tempdir().expect("a directory");
    let first = fleet();
    let observer = open(data.path(), &first);
    let world = shop("catalog");
    let at = ResourceKey::new(Kind::GrpcRoute, "shop", "r");
    let seat = join(&first);
    {
        let mut progress = seat.session().progress();
        let route = pb::Resource::clone(world.get(&at).expect("there"));
        progress.ledger.advance(&resources([route]), &BTreeSet::new());
        progress.ledger.refuse(&at, "1", vec![pb::Problem::default()]);
        progress.seen_revision = 1;
    }
    NOW.set(10);
    observe(&world, &first);
    observer.save().await;
    let text = fs::read_to_string(data.path().join(FILE)).expect("written");
    assert!(text.contains("\"Accepted Service/shop/orders\""), "{text}");

    let second = fleet();
    let _observer = open(data.path(), &second);
    NOW.set(100);
    // The sidecar that refuses has not come again: that says nothing about the resource.
    observe(&world, &second);
    second.transitions().book().settling = false;
    let again = join(&second);
    {
        let mut progress = again.session().progress();
        let route = pb::Resource::clone(world.get(&at).expect("there"));
        progress.ledger.advance(&resources([route]), &BTreeSet::new());
        progress.ledger.refuse(&at, "1", vec![pb::Problem::default()]);
        progress.seen_revision = 1;
    }
    observe(&world, &second);
    check(&second, &world, [("True", 10), ("True", 10), ("False", 10)]);
}

#[tokio::test]
async fn a_broken_file_is_no_obstacle() {
    let data = tempfile::tempdir().expect("a directory");
    fs::write(data.path().join(FILE), "[1, 2").expect("written");
    let fleet = fleet();
    let _observer = open(data.path(), &fleet);
    NOW.set(10);
    check(&fleet, &shop("catalog"), [("True", 10), ("True", 10), ("True", 10)]);
    assert!(resource::key(&service("shop/orders", "")).is_some());
}
