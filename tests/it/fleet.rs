//! A hundred light sidecars against the built control plane: who is told what, and how often.
//! `cargo bench --bench fleet` measures the same with a thousand.

use std::{sync::atomic::Ordering, time::Duration};

use crate::harness::{Mesh, SOON, eventually, heavy};

#[path = "../../benches/fleet/sim.rs"]
mod sim;

use sim::{Fleet, HUB, NAMESPACE, policy};

const SIDECARS: usize = 100;
/// A debug build signs a hundred certificates in this time, beside other tests.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_told_what_concerns_him_once_and_nothing_else() {
    let _turn = heavy().await;
    let mut mesh = Mesh::start().await;
    let server = mesh.control.address("listen").to_string();
    let contexts = mesh.place.path("config/outrigger/config.yaml");
    let fleet = Fleet::start(&server, &contexts, SIDECARS).await;
    fleet.in_sync(LONG).await;

    // What concerns all reaches all, once.
    let before = fleet.counts();
    let revision = fleet.apply(vec![policy(HUB, 1000)]).await;
    fleet.acknowledged(revision, LONG).await;
    fleet.in_sync(LONG).await;
    let after = fleet.counts();
    assert_eq!(after.changed - before.changed, SIDECARS as u64);
    assert_eq!((after.removed, after.streams), (before.removed, SIDECARS as u64));

    // What concerns a few reaches those.
    let few = sim::service(1);
    let before = fleet.counts();
    let revision = fleet.apply(vec![policy(&few, 1000)]).await;
    fleet.in_sync(LONG).await;
    let status = fleet.status().await;
    assert!(status.sidecars.iter().all(|it| it.revision == revision), "all know of it");
    let concerned = fleet.sidecars.iter().filter(|it| it.version("TrafficPolicy", &few).is_some());
    let concerned = concerned.count();
    // Its own ten workloads, and those of the four services before it.
    assert_eq!(concerned, 5 * sim::WORKLOADS);
    assert_eq!(fleet.counts().changed - before.changed, concerned as u64);

    // One that refuses a resource keeps everything else, and everyone else is in sync.
    let stubborn = &fleet.sidecars[SIDECARS - 1];
    *stubborn.refuses.lock().unwrap() = Some(HUB.to_owned());
    let refused = fleet.apply(vec![policy(HUB, 1001)]).await;
    fleet.acknowledged(refused, LONG).await;
    let status = eventually(SOON, async || {
        let status = fleet.status().await;
        let behind = status.sidecars.iter().filter(|it| !it.in_sync).count();
        if status.refusals.len() == 1 && behind == 1 {
            Ok(status)
        } else {
            Err(format!("{} refusals, {behind} behind", status.refusals.len()))
        }
    })
    .await;
    assert_eq!(status.refusals[0].workload, stubborn.workload);
    *stubborn.refuses.lock().unwrap() = None;
    let revision = fleet.apply(vec![policy(HUB, 1002)]).await;
    fleet.acknowledged(revision, LONG).await;
    fleet.in_sync(LONG).await;

    // A hundred writes at once: the last one counts, and one who does not read comes to it too.
    let deaf = &fleet.sidecars[1];
    deaf.deaf.store(true, Ordering::Relaxed);
    let mut revision = revision;
    for number in 0..30 {
        revision = fleet.apply(vec![policy(HUB, 2000 + number)]).await;
    }
    deaf.deaf.store(false, Ordering::Relaxed);
    fleet.acknowledged(revision, LONG).await;
    fleet.in_sync(LONG).await;
    let hub = fleet.sidecars[0].version("TrafficPolicy", HUB);
    assert!(fleet.sidecars.iter().all(|it| it.version("TrafficPolicy", HUB) == hub));

    // After a restart of the control plane nobody is told anything again, and no workload is missing
    // for a moment.
    let before = fleet.counts();
    mesh.restart_control().await;
    fleet.in_sync(LONG).await;
    let after = fleet.counts();
    let told = (after.changed - before.changed, after.removed - before.removed);
    assert_eq!(told, (0, 0), "resources sent and taken away");
    let services = fleet.status().await.services;
    let all: Vec<_> =
        services.iter().map(|it| (it.namespace.as_str(), it.ready, it.total)).collect();
    assert_eq!(all, vec![(NAMESPACE, 10, 10); SIDECARS / sim::WORKLOADS]);
}
