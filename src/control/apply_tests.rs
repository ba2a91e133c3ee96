//! Plans by example.

use std::{collections::BTreeSet, sync::Arc};

use super::{Planned, apply, delete};
use crate::{
    control::{
        sample::{mesh, route, service, workload, world},
        world::World,
    },
    resource::{
        Kind, ResourceKey,
        pb::{self, resource::Spec},
    },
};

const NOW: prost_types::Timestamp = prost_types::Timestamp { seconds: 1_000_000, nanos: 0 };

fn shop() -> World {
    let registered = ResourceKey::new(Kind::Service, "shop", "registered");
    World {
        registered: Arc::new(BTreeSet::from([registered])),
        ..world(
            [mesh(), service("shop/orders", ""), service("shop/registered", "")],
            [workload("shop/orders-1", "orders", "")],
        )
    }
}

fn summary(planned: &Planned) -> Vec<String> {
    let changes = planned.plan.changes.iter().map(|change| {
        let id = change.resource.clone().unwrap_or_default();
        format!("{:?} {} {}/{}", change.kind(), id.kind, id.namespace, id.name)
    });
    let problems = planned.problems.iter().map(|problem| {
        let key = problem.resource.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{}: {key} {}: {}", problem.severity, problem.field, problem.message)
    });
    changes.chain(problems).collect()
}

#[test]
fn what_is_the_same_stays_and_the_rest_is_written() {
    let mut labelled = service("shop/orders", "");
    labelled.metadata.as_mut().expect("set").labels.insert("a".to_owned(), "b".to_owned());
    for (written, expected, puts) in [
        (service("shop/orders", ""), "Unchanged Service shop/orders", 0),
        (labelled, "Configured Service shop/orders", 1),
        (service("shop/new", ""), "Created Service shop/new", 1),
        // What a registration made becomes the user's by being written.
        (service("shop/registered", ""), "Configured Service shop/registered", 1),
    ] {
        let planned = apply(&shop(), "mesh.local", vec![written], NOW);
        assert_eq!(summary(&planned), [expected]);
        assert_eq!(planned.plan.put.len(), puts);
    }
}

#[test]
fn what_the_mesh_writes_is_dropped_from_what_users_write() {
    let mut written = service("shop/new", "");
    written.status = Some(pb::Status::default());
    let metadata = written.metadata.as_mut().expect("set");
    metadata.namespace.clear();
    metadata.creation_timestamp = Some(prost_types::Timestamp::default());
    let planned = apply(&shop(), "mesh.local", vec![written], NOW);
    let put = &planned.plan.put[0];
    let metadata = put.metadata.as_ref().expect("set");
    assert_eq!(put.status, None);
    assert_eq!((metadata.namespace.as_str(), metadata.resource_version.as_str()), ("default", ""));
    assert_eq!(metadata.creation_timestamp, None);
}

#[test]
fn every_problem_is_found_at_once() {
    let other = pb::Resource {
        spec: Some(Spec::Mesh(pb::Mesh {
            trust_domain: "other.local".to_owned(),
            ..Default::default()
        })),
        ..mesh()
    };
    let planned = apply(
        &shop(),
        "mesh.local",
        vec![
            other,
            service("shop/Wrong", ""),
            service("shop/twice", ""),
            service("shop/twice", ""),
            workload("shop/orders-1", "orders", ""),
            pb::Resource::default(),
        ],
        NOW,
    );
    assert!(planned.is_refused());
    let problems: Vec<_> =
        planned.problems.iter().filter(|it| it.is_error()).map(|it| it.field.as_str()).collect();
    for field in ["spec.trustDomain", "metadata.name", "spec"] {
        assert!(problems.contains(&field), "{field} in {problems:?}");
    }
    assert!(problems.len() >= 5, "{problems:?}");
}

#[test]
fn only_what_is_stored_is_deleted() {
    let id = |kind: &str, name: &str| pb::ResourceId {
        kind: kind.to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    let planned = delete(
        &shop(),
        "mesh.local",
        &[id("Service", "orders"), id("Service", "orders")],
        &[],
        NOW,
    );
    assert_eq!(summary(&planned), ["Deleted Service shop/orders"]);
    for (refused, message) in [
        (id("Workload", "orders-1"), "is alive"),
        (id("Service", "nothing"), "does not exist"),
        (id("service", "orders"), "not a kind"),
    ] {
        let planned = delete(&shop(), "mesh.local", &[refused], &[], NOW);
        assert!(planned.is_refused());
        assert!(planned.problems[0].message.contains(message), "{:?}", planned.problems);
    }
}

#[test]
fn a_route_to_what_does_not_exist_yet_is_no_error() {
    let planned = apply(&shop(), "mesh.local", vec![route("shop/r", "orders", &["later"])], NOW);
    assert!(!planned.is_refused(), "{:?}", planned.problems);
}

#[test]
fn what_has_another_version_than_expected_is_not_deleted() {
    let mut orders = service("shop/orders", "");
    orders.metadata.as_mut().expect("set").resource_version = "7-x".to_owned();
    let world = world([orders, service("shop/other", "")], []);
    let id = |name: &str| pb::ResourceId {
        kind: "Service".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    let held = |version: &str| pb::Held {
        resource: Some(id("orders")),
        resource_version: version.to_owned(),
    };
    for (expected, refused) in [
        (vec![], false),
        (vec![held("7-x")], false),
        (vec![held("6-x")], true),
        (vec![held("")], false),
    ] {
        let ids = [id("orders"), id("other")];
        let planned = delete(&world, "mesh.local", &ids, &expected, NOW);
        assert_eq!(planned.is_refused(), refused, "{expected:?}");
        let said = planned.problems.iter().find(|problem| problem.is_error());
        assert_eq!(said.map(|it| &*it.field), refused.then_some("metadata.resourceVersion"));
    }
}
