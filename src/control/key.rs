//! Resource keys: from a resource or an ID of the API and back, with the default namespace filled
//! in, so that no two parts of the control plane can disagree about which resource is meant.

use crate::{
    resource::pb::{self, resource::Spec},
    snapshot::ResourceKey,
    units::ServiceName,
};

/// The namespace of what names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";
/// The one kind without a namespace.
pub(crate) const MESH: &str = "Mesh";
/// A service.
pub(crate) const SERVICE: &str = "Service";
/// An instance of a service.
pub(crate) const WORKLOAD: &str = "Workload";
/// A Gateway API HTTP route.
pub(crate) const HTTP_ROUTE: &str = "HTTPRoute";
/// A Gateway API gRPC route.
pub(crate) const GRPC_ROUTE: &str = "GRPCRoute";
/// Timeouts, retries and limits.
pub(crate) const TRAFFIC_POLICY: &str = "TrafficPolicy";
/// Who may call what.
pub(crate) const AUTHORIZATION_POLICY: &str = "AuthorizationPolicy";

/// Every kind, in the order in which a sidecar should learn of them: what is referred to comes
/// before what refers to it.
pub(crate) const KINDS: [&str; 7] =
    [MESH, SERVICE, WORKLOAD, TRAFFIC_POLICY, AUTHORIZATION_POLICY, HTTP_ROUTE, GRPC_ROUTE];

/// Where a kind stands in [`KINDS`].
pub(crate) fn rank(kind: &str) -> usize {
    KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len())
}

/// The kind of that name, exactly as it is written.
pub(crate) fn kind(name: &str) -> Option<&'static str> {
    KINDS.into_iter().find(|kind| *kind == name)
}

/// The kind of a spec.
pub(crate) fn kind_of(spec: &Spec) -> &'static str {
    match spec {
        Spec::Service(_) => SERVICE,
        Spec::Workload(_) => WORKLOAD,
        Spec::HttpRoute(_) => HTTP_ROUTE,
        Spec::GrpcRoute(_) => GRPC_ROUTE,
        Spec::TrafficPolicy(_) => TRAFFIC_POLICY,
        Spec::AuthorizationPolicy(_) => AUTHORIZATION_POLICY,
        Spec::Mesh(_) => MESH,
    }
}

/// The key of a resource; `None` without a spec or metadata.
pub(crate) fn of(resource: &pb::Resource) -> Option<ResourceKey> {
    let kind = kind_of(resource.spec.as_ref()?);
    let metadata = resource.metadata.as_ref()?;
    Some(new(kind, &metadata.namespace, &metadata.name))
}

/// The key of an ID; `None` for a kind that the mesh does not have.
pub(crate) fn from_id(id: &pb::ResourceId) -> Option<ResourceKey> {
    Some(new(kind(&id.kind)?, &id.namespace, &id.name))
}

/// The key of these parts, with the default namespace where one is missing.
pub(crate) fn new(kind: &'static str, namespace: &str, name: &str) -> ResourceKey {
    let namespace = match (kind, namespace) {
        (MESH, _) => "",
        (_, "") => DEFAULT_NAMESPACE,
        (_, namespace) => namespace,
    };
    ResourceKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}

/// The key of a service.
pub(crate) fn of_service(name: &ServiceName) -> ResourceKey {
    new(SERVICE, &name.namespace, &name.name)
}

/// As the API names it.
pub(crate) fn to_id(key: &ResourceKey) -> pb::ResourceId {
    pb::ResourceId {
        kind: key.kind.to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// As the store names it, and sorted as lists are.
pub(crate) fn text(key: &ResourceKey) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

/// The version that the control plane gave it; empty for one that has none yet.
pub(crate) fn version(resource: &pb::Resource) -> &str {
    resource.metadata.as_ref().map_or("", |metadata| &metadata.resource_version)
}

#[cfg(test)]
mod tests {
    use super::{from_id, kind, to_id};
    use crate::resource::pb;

    #[test]
    fn a_missing_namespace_is_the_default_one_except_for_the_mesh() {
        for (id, expected) in [
            (("Service", "", "a"), ("default", "a")),
            (("Service", "shop", "a"), ("shop", "a")),
            (("Mesh", "shop", "mesh"), ("", "mesh")),
        ] {
            let id = pb::ResourceId {
                kind: id.0.to_owned(),
                namespace: id.1.to_owned(),
                name: id.2.to_owned(),
            };
            let key = from_id(&id).expect("a known kind");
            assert_eq!((key.namespace.as_str(), key.name.as_str()), expected);
            assert_eq!(from_id(&to_id(&key)), Some(key));
        }
        assert_eq!(kind("service"), None);
    }
}
