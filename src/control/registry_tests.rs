//! Registrations by example.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Code;

use super::{Registration, Registry, SILENT_MAX};
use crate::{
    clock,
    control::{
        key,
        plan::{Note, Plan},
        sample,
        state::State,
    },
    resource::{
        ResourceKey,
        pb::{self, WorkloadPhase as Phase, resource::Spec},
    },
    spiffe::SpiffeId,
    units::ServiceName,
};

fn registry() -> (TempDir, Arc<State>, Arc<Registry>) {
    let directory = tempfile::tempdir().expect("a directory");
    let state =
        State::open(&directory.path().join("mesh.redb"), "mesh.local", clock::now).expect("opens");
    let registry = Registry::new(Arc::clone(&state));
    (directory, state, registry)
}

fn orders() -> pb::Node {
    pb::Node {
        service: "orders".to_owned(),
        namespace: "shop".to_owned(),
        workload: "orders-1".to_owned(),
        address: "127.0.0.1".to_owned(),
        inbound: 15006,
        ports: HashMap::from([("9090".to_owned(), 9090), ("admin".to_owned(), 8080)]),
        ..Default::default()
    }
}

fn identity(path: &str) -> SpiffeId {
    format!("spiffe://{path}").parse().expect("well-formed")
}

fn own() -> SpiffeId {
    identity("mesh.local/ns/shop/svc/orders")
}

/// "ready", "failing", "unready" or "absent".
fn seen(state: &State) -> &'static str {
    let service = ServiceName::new("orders", "shop");
    let world = state.world();
    let Some(key) = world.workloads(&service).pop() else { return "absent" };
    match &world.get(&key).expect("listed").spec {
        Some(Spec::Workload(pb::Workload { ready: Some(true), .. })) => "ready",
        Some(Spec::Workload(pb::Workload { failing: true, .. })) => "failing",
        _ => "unready",
    }
}

#[tokio::test]
async fn a_workload_lives_as_long_as_its_registration() {
    let (_directory, state, registry) = registry();
    let registration = registry.register(&orders(), &own()).await.expect("registers");
    assert_eq!(seen(&state), "absent");
    registration.report(Phase::Starting);
    assert_eq!(seen(&state), "unready");
    registration.report(Phase::Ready);
    assert_eq!(seen(&state), "ready");
    registration.report(Phase::NotReady);
    assert_eq!(seen(&state), "failing");
    registration.report(Phase::Draining);
    assert_eq!(seen(&state), "unready");
    drop(registration);
    assert_eq!(seen(&state), "absent");
}

#[tokio::test]
async fn the_first_registration_makes_the_service_and_no_revision() {
    let (_directory, state, registry) = registry();
    drop(registry.register(&orders(), &own()).await.expect("registers"));
    let world = state.world();
    let service = world.get(&key::of_service(&ServiceName::new("orders", "shop"))).expect("made");
    let Some(Spec::Service(spec)) = &service.spec else { panic!("{service:?}") };
    let ports: Vec<_> = spec.ports.iter().map(|port| (port.port, port.name.as_str())).collect();
    assert_eq!(ports, [(8080, "admin"), (9090, "port-9090")]);
    assert_eq!(world.revision, 0);
}

#[tokio::test]
async fn a_newer_stream_of_the_same_workload_takes_over() {
    let (_directory, state, registry) = registry();
    let old = registry.register(&orders(), &own()).await.expect("registers");
    old.report(Phase::Ready);
    let new = registry.register(&orders(), &own()).await.expect("registers");
    assert_eq!(seen(&state), "ready");
    old.report(Phase::Starting);
    drop(old);
    assert_eq!(seen(&state), "ready");
    drop(new);
    assert_eq!(seen(&state), "absent");
}

#[tokio::test]
async fn connecting_again_unchanged_gives_the_same_version() {
    let (_directory, state, registry) = registry();
    let mut versions = Vec::new();
    for _ in 0..2 {
        let registration = registry.register(&orders(), &own()).await.expect("registers");
        registration.report(Phase::Ready);
        let workload = state.world();
        versions.push(key::version(workload.get(registration.key()).expect("live")).to_owned());
    }
    assert_eq!(versions[0], versions[1]);
}

#[tokio::test]
async fn a_workload_is_as_old_as_the_first_that_is_known_of_it() {
    let (_directory, state, registry) = registry();
    let born = |registration: &Registration| {
        let world = state.world();
        let metadata = world.get(registration.key()).expect("live").metadata.clone();
        metadata.expect("set").creation_timestamp.expect("has one")
    };
    let old = registry.register(&orders(), &own()).await.expect("registers");
    old.report(Phase::Starting);
    let first = born(&old);
    old.report(Phase::Ready);
    assert_eq!(born(&old), first);
    let new = registry.register(&orders(), &own()).await.expect("registers");
    new.report(Phase::NotReady);
    assert_eq!(born(&new), first, "taken over");
}

async fn silent(registry: &Arc<Registry>, phase: Phase) {
    let mut registration = registry.register(&orders(), &own()).await.expect("registers");
    registration.report(phase);
    registration.fall_silent();
}

#[tokio::test(start_paused = true)]
async fn one_who_falls_silent_stays_for_those_who_have_no_other() {
    let (_directory, state, registry) = registry();
    let over = SILENT_MAX + Duration::from_secs(1);
    silent(&registry, Phase::Ready).await;
    assert_eq!(seen(&state), "failing");
    // All are silent: it is the network, however long.
    assert_eq!(registry.end_silent(Instant::now() + over), 0);

    let other = pb::Node { workload: "orders-0".to_owned(), ..orders() };
    let _speaks = registry.register(&other, &own()).await.expect("registers");
    assert_eq!(registry.end_silent(Instant::now() + over), 0, "its time runs from then on");
    assert_eq!(registry.end_silent(Instant::now() + over * 2), 1);
    assert_eq!(seen(&state), "absent");

    // One who comes again is as new, and one who says that he goes, goes.
    silent(&registry, Phase::NotReady).await;
    assert_eq!(seen(&state), "failing");
    let again = registry.register(&orders(), &own()).await.expect("registers");
    again.report(Phase::Ready);
    assert_eq!(registry.end_silent(Instant::now() + over * 4), 0);
    assert_eq!(seen(&state), "ready");
    drop(again);
    assert_eq!(seen(&state), "absent");
    for phase in [Phase::Starting, Phase::Draining] {
        silent(&registry, phase).await;
        assert_eq!(seen(&state), "absent", "{phase:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let (_directory, state, registry) = registry();
    let _held = registry.register(&orders(), &own()).await.expect("registers");
    let node = |change: fn(&mut pb::Node)| {
        let mut node = orders();
        change(&mut node);
        node
    };
    let other = identity("mesh.local/ns/shop/svc/other");
    for (node, by, code) in [
        (orders(), other.clone(), Code::PermissionDenied),
        (orders(), identity("else.where/ns/shop/svc/orders"), Code::PermissionDenied),
        (node(|it| it.namespace.clear()), own(), Code::PermissionDenied),
        (node(|it| it.service = "other".to_owned()), other, Code::AlreadyExists),
        (node(|it| it.workload = "a.b".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.address = "a b".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.address = "10.1".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.address = "0.0.0.0".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.address = "::".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.address = "255.255.255.255".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.address = "ff02::1".to_owned()), own(), Code::InvalidArgument),
        (node(|it| it.inbound = 0), own(), Code::InvalidArgument),
        (node(|it| it.inbound = 70_000), own(), Code::InvalidArgument),
        (node(|it| it.ports = HashMap::from([("x".to_owned(), 0)])), own(), Code::InvalidArgument),
    ] {
        let refused = registry.register(&node, &by).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{refused:?}");
    }
    assert_eq!(seen(&state), "absent");
}

async fn commit(state: &Arc<State>, put: Vec<pb::Resource>, delete: Vec<ResourceKey>) {
    let plan = Plan { put, delete, ..Default::default() };
    let write = |state: &State, writer: &mut _| {
        state.commit(writer, plan, Note::default()).expect("stored");
        Ok(())
    };
    state.write(write).await.expect("written");
}

#[tokio::test]
async fn no_sidecar_hides_what_was_written_for_another_service() {
    let (_directory, state, registry) = registry();
    let of = |service| vec![sample::workload("shop/orders-1", service, "")];
    commit(&state, of("payments"), Vec::new()).await;
    let refused = registry.register(&orders(), &own()).await.expect_err("refused");
    assert_eq!(refused.code(), Code::AlreadyExists);
    commit(&state, of("orders"), Vec::new()).await;
    drop(registry.register(&orders(), &own()).await.expect("its own"));
}

#[tokio::test]
async fn a_stream_that_comes_to_nothing_withdraws_nobody() {
    let (_directory, state, registry) = registry();
    let held = registry.register(&orders(), &own()).await.expect("registers");
    held.report(Phase::Ready);
    let service = key::of_service(&ServiceName::new("orders", "shop"));
    commit(&state, Vec::new(), vec![service]).await;
    // Its service is to be stored first, and it goes away before that is done.
    assert!(registry.register(&orders(), &own()).now_or_never().is_none());
    assert_eq!(seen(&state), "ready");
}
