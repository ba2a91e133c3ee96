//! Nobody may miss a change: random worlds, a random change, and every viewer whom the step does not
//! concern must see the same before and after it.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use super::{Interest, Step, Trail};
use crate::{
    control::{
        sample::{
            self, authorization, labels, mesh, resources, route, service, traffic_policy, workload,
        },
        scope::{Viewer, scope},
        world::{Shelf, World},
    },
    resource::{Kind, ResourceKey, pb},
    units::ServiceName,
};

const SPACES: [&str; 2] = ["shop", "bank"];
const NAMES: [&str; 3] = ["a", "b", "c"];
const LABELS: [&str; 3] = ["", "v=1", "v=2"];

/// A small resource of any kind, of which two are often about the same.
fn any_resource() -> impl Strategy<Value = pb::Resource> {
    (0..8_usize, 0..2_usize, 0..3_usize, 0..3_usize, 0..2_usize, 0..3_usize).prop_map(
        |(kind, space, name, other, other_space, with)| {
            let own = format!("{}/{}", SPACES[space], NAMES[name]);
            let there = format!("{}/{}", SPACES[other_space], NAMES[other]);
            match kind {
                0 => service(&own, LABELS[with]),
                1 | 2 => workload(&own, NAMES[other], LABELS[with]),
                3 => route(&own, &there, &[NAMES[with]]),
                4 => traffic_policy(&own, Kind::Service, NAMES[other]),
                5 => traffic_policy(&own, Kind::GrpcRoute, NAMES[other]),
                6 => authorization(&own, &[NAMES[other]][..with.min(1)]),
                _ => mesh(),
            }
        },
    )
}

/// Live workloads are workloads.
fn any_world() -> impl Strategy<Value = World> {
    (vec(any_resource(), 0..10), vec(any_resource(), 0..4)).prop_map(|(stored, live)| {
        let is_workload =
            |it: &pb::Resource| matches!(it.spec, Some(pb::resource::Spec::Workload(_)));
        World {
            stored: Arc::new(Shelf::new(resources(stored))),
            live: Arc::new(sample::live(live.into_iter().filter(is_workload))),
            ..World::default()
        }
    })
}

/// The world with one resource put in place or taken away.
fn changed(world: &World, resource: &pb::Resource, put: bool, live: bool) -> World {
    let is_workload = matches!(resource.spec, Some(pb::resource::Spec::Workload(_)));
    let mut new = world.clone();
    let (key, resource) = resources([resource.clone()]).pop_first().expect("one");
    if live && is_workload {
        new.live = Arc::new(new.live.with([(key, put.then_some(resource))]));
        return new;
    }
    let mut all = new.stored.resources.clone();
    if put {
        all.insert(key, resource)
    } else {
        all.remove(&key)
    };
    new.stored = Arc::new(Shelf::new(all));
    new
}

fn viewers() -> impl Iterator<Item = Viewer> {
    let names = || SPACES.iter().flat_map(|space| NAMES.map(|name| ServiceName::new(name, *space)));
    names().flat_map(move |own| {
        names().zip(LABELS.iter().cycle()).map(move |(used, with)| Viewer {
            service: Some(own.clone()),
            labels: labels(with),
            uses: [used].into(),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whom_a_step_does_not_concern_sees_the_same(
        old in any_world(),
        resource in any_resource(),
        put in any::<bool>(),
        live in any::<bool>(),
    ) {
        let new = changed(&old, &resource, put, live);
        let key = crate::resource::key(&resource).expect("has a spec");
        let step = Step::between(&old, &new, &[key]);
        for viewer in viewers() {
            let (before, interest) = scope(&old, &viewer);
            if step.concerns(&interest) {
                continue;
            }
            let (after, _) = scope(&new, &viewer);
            prop_assert_eq!(&before, &after, "{:?} by {:?}", viewer, resource);
            for service in viewer.uses.iter().chain(&viewer.service) {
                prop_assert_eq!(old.has_service(service), new.has_service(service));
            }
            prop_assert_eq!(old.namespaces(), new.namespaces());
        }
    }
}

#[test]
fn who_is_too_far_behind_is_concerned_by_everything() {
    let key = |name| ResourceKey::new(Kind::Service, "shop", name);
    let interest = Interest { keys: [key("a")].into(), namespace: "shop".to_owned() };
    let step = |name| Step { keys: [key(name)].into(), ..Step::default() };
    let mut trail = Trail::default();
    assert!(!trail.concerns(&interest, 0));
    trail = trail.then(step("a"));
    for _ in 1..super::STEPS_MAX {
        trail = trail.then(step("b"));
    }
    assert!(trail.concerns(&interest, 0) && !trail.concerns(&interest, 1));
    trail = trail.then(step("b"));
    assert!(trail.concerns(&interest, 0), "forgotten");
    assert!(!trail.concerns(&interest, 1));
}
