//! Small meshes, compiled.

use std::{collections::BTreeMap, sync::Arc};

use super::{Context, compile};
use crate::{
    resource::{Problem, ResourceKey, key, pb, yaml},
    snapshot::{Destination, Node, Snapshot},
    units::ServiceName,
};

mod any;
mod inbound;
mod routes;
mod services;
mod settings;
mod together;
mod whole;

/// Resources by key, as `compile` takes them.
#[derive(Debug, Default, Clone)]
struct World {
    resources: BTreeMap<ResourceKey, Arc<pb::Resource>>,
}

impl World {
    fn with(mut self, resource: pb::Resource) -> Self {
        self.resources.insert(key(&resource).expect("a spec"), Arc::new(resource));
        self
    }

    /// As people write them.
    fn and(mut self, text: &str) -> Self {
        let (parsed, problems) = yaml::parse(text, "test.yaml");
        assert_eq!(lines(&problems), [""; 0], "{text}");
        for parsed in parsed {
            self = self.with(parsed.resource);
        }
        self
    }

    fn compile(&self, context: &Context) -> (Snapshot, Vec<Problem>) {
        compile(&self.resources, None, context)
    }

    /// For `web` in `shop`, when these resources are all that there are.
    fn snapshot(&self) -> Snapshot {
        self.compile(&context()).0
    }

    /// The problems in one line each.
    fn problems(&self) -> Vec<String> {
        lines(&self.compile(&context()).1)
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    let line = |problem: &Problem| {
        let key = problem.resource.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{}: {key}: {}: {}", problem.severity, problem.field, problem.message)
    };
    problems.iter().map(line).collect()
}

fn context() -> Context {
    Context {
        node: Node {
            service: ServiceName::new("web", "shop"),
            labels: BTreeMap::new(),
            ports: BTreeMap::new(),
        },
        trust_domain: "mesh.local".into(),
        namespaces: ["shop".into()].into(),
        answered: BTreeMap::new(),
        complete: true,
        revision: 7,
    }
}

fn destination(snapshot: &Snapshot, name: &str) -> Arc<Destination> {
    let found = snapshot.destinations.get(&ServiceName::new(name, "shop"));
    Arc::clone(found.expect("answered").as_ref().expect("exists"))
}

fn resource(name: &str, spec: pb::resource::Spec) -> pb::Resource {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let metadata =
        pb::Metadata { name: name.into(), namespace: namespace.into(), ..pb::Metadata::default() };
    pb::Resource { metadata: Some(metadata), spec: Some(spec), status: None }
}

/// Created so many seconds after 1970.
fn created(mut resource: pb::Resource, seconds: i64) -> pb::Resource {
    let timestamp = prost_types::Timestamp { seconds, nanos: 0 };
    resource.metadata.get_or_insert_default().creation_timestamp = Some(timestamp);
    resource
}

fn labelled(mut resource: pb::Resource, label: &str, value: &str) -> pb::Resource {
    let metadata = resource.metadata.get_or_insert_default();
    metadata.labels.insert(label.into(), value.into());
    resource
}

fn port(number: u32, name: &str, protocol: &str) -> pb::ServicePort {
    pb::ServicePort { name: name.into(), port: number, app_protocol: protocol.into(), mtls: 0 }
}

fn service(name: &str, ports: Vec<pb::ServicePort>) -> pb::Resource {
    selecting(name, ports, &[])
}

fn selecting(name: &str, ports: Vec<pb::ServicePort>, selector: &[(&str, &str)]) -> pb::Resource {
    let selector = selector.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    resource(name, pb::resource::Spec::Service(pb::Service { ports, selector }))
}

/// One with a sidecar.
fn workload(name: &str, service: &str) -> pb::Resource {
    resource(
        name,
        pb::resource::Spec::Workload(pb::Workload {
            service: service.into(),
            address: "127.0.0.1".into(),
            inbound: 15006,
            identity: format!("spiffe://mesh.local/ns/shop/svc/{service}"),
            ..pb::Workload::default()
        }),
    )
}

fn parent(name: &str, port: Option<u32>) -> pb::ParentRef {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    pb::ParentRef {
        group: Some(String::new()),
        kind: Some("Service".into()),
        namespace: namespace.into(),
        name: name.into(),
        section_name: String::new(),
        port,
    }
}

fn backend(name: &str, port: Option<u32>, weight: u32) -> pb::BackendRef {
    pb::BackendRef { name: name.into(), port, weight: Some(weight), ..pb::BackendRef::default() }
}

fn target(kind: &str, name: &str, section: &str) -> pb::TargetRef {
    pb::TargetRef {
        group: None,
        kind: kind.into(),
        name: name.into(),
        section_name: section.into(),
    }
}
