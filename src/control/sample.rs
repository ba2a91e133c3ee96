//! Resources for tests, in as few words as the tests need.

use std::{collections::HashMap, sync::Arc};

use super::{
    live::Live,
    world::{Resources, Shelf, World},
};
use crate::resource::{
    self, Kind,
    pb::{self, resource::Spec},
};

/// "shop/orders" as namespace and name.
fn split(name: &str) -> (&str, &str) {
    name.split_once('/').expect("namespace/name")
}

pub(crate) fn labels(text: &str) -> HashMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

pub(crate) fn resource(name: &str, spec: Spec) -> pb::Resource {
    let (namespace, name) = split(name);
    pb::Resource {
        metadata: Some(pb::Metadata {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ..Default::default()
        }),
        spec: Some(spec),
        status: None,
    }
}

pub(crate) fn mesh() -> pb::Resource {
    resource("/mesh", Spec::Mesh(pb::Mesh::default()))
}

pub(crate) fn service(name: &str, selector: &str) -> pb::Resource {
    resource(
        name,
        Spec::Service(pb::Service {
            ports: vec![pb::ServicePort { port: 9090, ..Default::default() }],
            selector: labels(selector),
        }),
    )
}

pub(crate) fn workload(name: &str, service: &str, with: &str) -> pb::Resource {
    let mut workload = resource(
        name,
        Spec::Workload(pb::Workload {
            service: service.to_owned(),
            address: "127.0.0.1".to_owned(),
            inbound: 15006,
            identity: format!("spiffe://mesh.local/ns/{}/svc/{service}", split(name).0),
            ..Default::default()
        }),
    );
    workload.metadata.as_mut().expect("set").labels = labels(with);
    workload
}

/// A route of `kind` from a parent service to backends, each "orders" or "shop/orders".
pub(crate) fn route(name: &str, parent: &str, backends: &[&str]) -> pb::Resource {
    let target = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (String::new(), text.to_owned()),
    };
    let (namespace, parent) = target(parent);
    resource(
        name,
        Spec::GrpcRoute(pb::GrpcRoute {
            parent_refs: vec![pb::ParentRef {
                group: Some(String::new()),
                kind: Some(Kind::Service.name().to_owned()),
                namespace,
                name: parent,
                ..Default::default()
            }],
            rules: vec![pb::GrpcRouteRule {
                backend_refs: backends
                    .iter()
                    .map(|text| {
                        let (namespace, name) = target(text);
                        pb::BackendRef { name, namespace, port: Some(9090), ..Default::default() }
                    })
                    .collect(),
                ..Default::default()
            }],
            ..Default::default()
        }),
    )
}

fn targets(kind: Kind, names: &[&str]) -> Vec<pb::TargetRef> {
    names
        .iter()
        .map(|name| pb::TargetRef {
            kind: kind.name().to_owned(),
            name: (*name).to_owned(),
            ..Default::default()
        })
        .collect()
}

pub(crate) fn traffic_policy(name: &str, kind: Kind, target: &str) -> pb::Resource {
    resource(
        name,
        Spec::TrafficPolicy(pb::TrafficPolicy {
            target_refs: targets(kind, &[target]),
            ..Default::default()
        }),
    )
}

pub(crate) fn authorization(name: &str, services: &[&str]) -> pb::Resource {
    resource(
        name,
        Spec::AuthorizationPolicy(pb::AuthorizationPolicy {
            target_refs: targets(Kind::Service, services),
            ..Default::default()
        }),
    )
}

/// As they are stored: with the version "1" when they have none.
pub(crate) fn resources(list: impl IntoIterator<Item = pb::Resource>) -> Resources {
    let stored = |mut resource: pb::Resource| {
        let metadata = resource.metadata.as_mut().expect("set");
        if metadata.resource_version.is_empty() {
            metadata.resource_version = "1".to_owned();
        }
        (resource::key(&resource).expect("has a spec"), Arc::new(resource))
    };
    list.into_iter().map(stored).collect()
}

/// Live workloads.
pub(crate) fn live(list: impl IntoIterator<Item = pb::Resource>) -> Live {
    Live::default().with(resources(list).into_iter().map(|(key, it)| (key, Some(it))))
}

pub(crate) fn world(
    stored: impl IntoIterator<Item = pb::Resource>,
    live: impl IntoIterator<Item = pb::Resource>,
) -> World {
    World {
        revision: 1,
        stored: Arc::new(Shelf::new(resources(stored))),
        live: Arc::new(self::live(live)),
        ..Default::default()
    }
}
