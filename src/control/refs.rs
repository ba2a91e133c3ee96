//! What a resource refers to: the parents and backends of routes, the targets of policies. Only
//! references that can mean something in the mesh are returned; what is wrong with the others is
//! said by the checks, not here.

use std::collections::HashMap;

use crate::{
    resource::{
        Kind, NAMESPACE_DEFAULT, ResourceKey,
        pb::{self, resource::Spec},
    },
    units::ServiceName,
};

/// A route's parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent {
    /// The service.
    pub service: ServiceName,
    /// Only this port of it.
    pub port: Option<u32>,
}

/// The namespace of a resource, with the default filled in.
pub(crate) fn namespace(resource: &pb::Resource) -> &str {
    or_default(resource.metadata.as_ref().map_or("", |metadata| &metadata.namespace))
}

/// The default namespace for an empty one.
pub(crate) fn or_default(namespace: &str) -> &str {
    or(namespace, NAMESPACE_DEFAULT)
}

/// Every parent reference of a route, whatever it means.
pub(crate) fn parent_refs(resource: &pb::Resource) -> &[pb::ParentRef] {
    match &resource.spec {
        Some(Spec::HttpRoute(route)) => &route.parent_refs,
        Some(Spec::GrpcRoute(route)) => &route.parent_refs,
        _ => &[],
    }
}

/// The services to which a route attaches; none for another kind.
pub(crate) fn parents(resource: &pb::Resource) -> Vec<Parent> {
    parent_refs(resource)
        .iter()
        .filter(|parent| {
            parent.kind.as_deref() == Some(Kind::Service.name())
                && is_service_group(parent.group.as_deref())
        })
        .map(|parent| Parent {
            service: ServiceName::new(&parent.name, or(&parent.namespace, namespace(resource))),
            port: parent.port,
        })
        .collect()
}

/// The services among which a route splits traffic, in the order of its text and each once.
pub(crate) fn backends(resource: &pb::Resource) -> Vec<ServiceName> {
    let mut found = Vec::new();
    for backend in backend_refs(resource) {
        if backend.kind.as_deref().is_some_and(|kind| kind != Kind::Service.name())
            || !is_service_group(backend.group.as_deref())
        {
            continue;
        }
        let name = ServiceName::new(&backend.name, or(&backend.namespace, namespace(resource)));
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Every backend reference of a route, whatever it means.
pub(crate) fn backend_refs(resource: &pb::Resource) -> Vec<&pb::BackendRef> {
    match &resource.spec {
        Some(Spec::HttpRoute(route)) => {
            route.rules.iter().flat_map(|rule| &rule.backend_refs).collect()
        }
        Some(Spec::GrpcRoute(route)) => {
            route.rules.iter().flat_map(|rule| &rule.backend_refs).collect()
        }
        _ => Vec::new(),
    }
}

/// What a policy attaches to, in its own namespace; none for another kind and for a policy of its
/// whole namespace.
pub(crate) fn targets(resource: &pb::Resource) -> Vec<ResourceKey> {
    target_refs(resource)
        .iter()
        .filter_map(|target| {
            Some(ResourceKey::new(
                Kind::from_name(&target.kind)?,
                namespace(resource),
                &*target.name,
            ))
        })
        .collect()
}

/// Every target reference of a policy, whatever it means.
pub(crate) fn target_refs(resource: &pb::Resource) -> &[pb::TargetRef] {
    match &resource.spec {
        Some(Spec::TrafficPolicy(policy)) => &policy.target_refs,
        Some(Spec::AuthorizationPolicy(policy)) => &policy.target_refs,
        _ => &[],
    }
}

/// The service that a workload is registered under.
pub(crate) fn service_of_workload(resource: &pb::Resource) -> Option<ServiceName> {
    match &resource.spec {
        Some(Spec::Workload(workload)) => {
            Some(ServiceName::new(&workload.service, namespace(resource)))
        }
        _ => None,
    }
}

/// A service's selector, when it has one.
pub(crate) fn selector(resource: &pb::Resource) -> Option<&HashMap<String, String>> {
    match &resource.spec {
        Some(Spec::Service(service)) if !service.selector.is_empty() => Some(&service.selector),
        _ => None,
    }
}

/// Gateway API says "core" as the empty group; ours is accepted beside it.
fn is_service_group(group: Option<&str>) -> bool {
    matches!(group, None | Some("" | "core" | "outrigger.dev"))
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}
