//! Small resources for this module's tests.

use std::collections::BTreeMap;

use crate::{resource::pb, snapshot::Node, units::ServiceName};

pub(super) fn node(service: &str) -> Node {
    let service = ServiceName::new(service, "shop");
    Node { service, labels: BTreeMap::new(), ports: BTreeMap::new() }
}

fn metadata(name: &str, version: &str) -> Option<pb::Metadata> {
    Some(pb::Metadata {
        name: name.into(),
        namespace: "shop".into(),
        resource_version: version.into(),
        ..Default::default()
    })
}

pub(super) fn service(name: &str, version: &str) -> pb::Resource {
    let ports = vec![pb::ServicePort { port: 9090, ..Default::default() }];
    let spec = pb::Service { ports, ..Default::default() };
    pb::Resource {
        metadata: metadata(name, version),
        spec: Some(pb::resource::Spec::Service(spec)),
        status: None,
    }
}

pub(super) fn policy(target: &str, version: &str, request: &str) -> pb::Resource {
    let target =
        pb::TargetRef { kind: "Service".into(), name: target.into(), ..Default::default() };
    let name = target.name.clone();
    let spec = pb::TrafficPolicy {
        target_refs: vec![target],
        timeouts: Some(pb::Timeouts { request: request.into(), ..Default::default() }),
        ..Default::default()
    };
    pb::Resource {
        metadata: metadata(&name, version),
        spec: Some(pb::resource::Spec::TrafficPolicy(spec)),
        status: None,
    }
}

/// A route of one service that splits its traffic among others.
pub(super) fn route(parent: &str, backends: &[&str], version: &str) -> pb::Resource {
    let parent = pb::ParentRef {
        kind: Some("Service".into()),
        group: Some(String::new()),
        name: parent.into(),
        ..Default::default()
    };
    let name = parent.name.clone();
    let backend = |name: &&str| pb::BackendRef {
        name: (*name).into(),
        port: Some(9090),
        ..Default::default()
    };
    let rule = pb::GrpcRouteRule {
        backend_refs: backends.iter().map(backend).collect(),
        ..Default::default()
    };
    let spec = pb::GrpcRoute { parent_refs: vec![parent], rules: vec![rule], ..Default::default() };
    pb::Resource {
        metadata: metadata(&name, version),
        spec: Some(pb::resource::Spec::GrpcRoute(spec)),
        status: None,
    }
}

pub(super) fn answer(name: &str, exists: bool) -> pb::Answered {
    pb::Answered { name: name.into(), namespace: "shop".into(), exists }
}
