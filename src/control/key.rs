//! What the control plane needs of resource keys beyond what all do: an order of kinds in which
//! sidecars learn of them, the name under which a resource is stored, and its version.

use crate::{
    resource::{Kind, ResourceKey, pb},
    units::ServiceName,
};

/// The name of the one resource without a namespace.
const MESH_NAME: &str = "mesh";

/// Every kind, in the order in which a sidecar should learn of them: what is referred to comes
/// before what refers to it.
const ORDER: [Kind; 7] = [
    Kind::Mesh,
    Kind::Service,
    Kind::Workload,
    Kind::TrafficPolicy,
    Kind::AuthorizationPolicy,
    Kind::HttpRoute,
    Kind::GrpcRoute,
];

/// Where a resource's kind stands in that order.
pub(crate) fn rank(resource: &pb::Resource) -> usize {
    let kind = Kind::of(resource);
    ORDER.iter().position(|known| Some(*known) == kind).unwrap_or(ORDER.len())
}

/// Whether a key is of this kind.
pub(crate) fn is(key: &ResourceKey, kind: Kind) -> bool {
    key.kind == kind.name()
}

/// Whether a key is that of a route.
pub(crate) fn is_route(key: &ResourceKey) -> bool {
    is(key, Kind::HttpRoute) || is(key, Kind::GrpcRoute)
}

/// The key of the mesh's own resource.
pub(crate) fn of_mesh() -> ResourceKey {
    ResourceKey::new(Kind::Mesh, "", MESH_NAME)
}

/// The key of a service.
pub(crate) fn of_service(name: &ServiceName) -> ResourceKey {
    ResourceKey::new(Kind::Service, &name.namespace, &*name.name)
}

/// As the store names it: sorted as keys are.
pub(crate) fn text(key: &ResourceKey) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

/// The version that the control plane gave a resource; empty for one that has none yet.
pub(crate) fn version(resource: &pb::Resource) -> &str {
    resource.metadata.as_ref().map_or("", |metadata| &metadata.resource_version)
}
