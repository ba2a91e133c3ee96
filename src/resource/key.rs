//! What names a resource: kind, namespace and name.

use std::fmt;

use super::{Kind, pb};

/// The namespace of a resource that names none.
pub const NAMESPACE_DEFAULT: &str = "default";

/// The kind, namespace and name of a resource, as a map key and for messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// `Service`, `GRPCRoute` …
    pub kind: &'static str,
    /// Empty for `Mesh`.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ResourceKey {
    /// Names a resource of a kind; the namespace is dropped for a kind without one, and the default
    /// one stands for an empty one.
    pub fn new(kind: Kind, namespace: &str, name: impl Into<String>) -> Self {
        let namespace = match (kind.namespaced(), namespace) {
            (false, _) => "",
            (true, "") => NAMESPACE_DEFAULT,
            (true, namespace) => namespace,
        };
        Self { kind: kind.name(), namespace: namespace.to_owned(), name: name.into() }
    }

    /// As it travels.
    pub fn to_pb(&self) -> pb::ResourceId {
        pb::ResourceId {
            kind: self.kind.to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// As it travelled; `None` for an unknown kind.
    pub fn from_pb(id: &pb::ResourceId) -> Option<Self> {
        Some(Self::new(Kind::from_name(&id.kind)?, &id.namespace, &*id.name))
    }
}

impl fmt::Display for ResourceKey {
    /// `TrafficPolicy shop/inventory`, `Mesh mesh`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind, self.namespace, self.name)
    }
}

/// What names this resource; `None` when it has no spec, and so no kind.
pub fn key(resource: &pb::Resource) -> Option<ResourceKey> {
    let kind = Kind::of(resource)?;
    let (namespace, name) =
        resource.metadata.as_ref().map_or(("", ""), |meta| (&*meta.namespace, &*meta.name));
    Some(ResourceKey::new(kind, namespace, name))
}

#[cfg(test)]
mod tests {
    use super::{ResourceKey, key};
    use crate::resource::{Kind, pb};

    #[test]
    fn a_key_is_what_people_call_the_resource() {
        for (kind, namespace, shown) in [
            (Kind::GrpcRoute, "shop", "GRPCRoute shop/x"),
            (Kind::Service, "", "Service default/x"),
            (Kind::Mesh, "shop", "Mesh x"),
        ] {
            let key = ResourceKey::new(kind, namespace, "x");
            assert_eq!(key.to_string(), shown);
            assert_eq!(ResourceKey::from_pb(&key.to_pb()), Some(key));
        }
    }

    #[test]
    fn a_resource_without_a_spec_has_no_key() {
        assert_eq!(key(&pb::Resource::default()), None);
        let spec = Some(pb::resource::Spec::Mesh(pb::Mesh::default()));
        let named = key(&pb::Resource { spec, ..Default::default() });
        assert_eq!(named, Some(ResourceKey::new(Kind::Mesh, "", "")));
    }
}
