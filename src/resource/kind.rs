//! The kinds of resources: one table from which the command line takes its plurals and short names,
//! YAML its `apiVersion`, and messages their words.

use std::fmt;

use super::pb;

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the kinds' own names")]
pub enum Kind {
    Service,
    Workload,
    HttpRoute,
    GrpcRoute,
    TrafficPolicy,
    AuthorizationPolicy,
    Mesh,
}

/// What is ours.
pub const API_VERSION: &str = "outrigger.dev/v1";
/// What is Gateway API's.
pub const GATEWAY_API_VERSION: &str = "gateway.networking.k8s.io/v1";

struct Row {
    name: &'static str,
    plural: &'static str,
    short: &'static str,
    api_version: &'static str,
    /// The field of `Resource.spec`.
    field: &'static str,
}

const fn row(
    name: &'static str,
    plural: &'static str,
    short: &'static str,
    api_version: &'static str,
    field: &'static str,
) -> Row {
    Row { name, plural, short, api_version, field }
}

/// In the order of the kinds.
const TABLE: [Row; 7] = [
    row("Service", "services", "svc", API_VERSION, "service"),
    row("Workload", "workloads", "wl", API_VERSION, "workload"),
    row("HTTPRoute", "httproutes", "hr", GATEWAY_API_VERSION, "http_route"),
    row("GRPCRoute", "grpcroutes", "gr", GATEWAY_API_VERSION, "grpc_route"),
    row("TrafficPolicy", "trafficpolicies", "tp", API_VERSION, "traffic_policy"),
    row("AuthorizationPolicy", "authorizationpolicies", "ap", API_VERSION, "authorization_policy"),
    row("Mesh", "meshes", "", API_VERSION, "mesh"),
];

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Service,
        Self::Workload,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TrafficPolicy,
        Self::AuthorizationPolicy,
        Self::Mesh,
    ];

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// `HTTPRoute`, as in YAML.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// `httproutes`
    pub fn plural(self) -> &'static str {
        self.row().plural
    }

    /// `hr`; empty for a kind without one.
    pub fn short_name(self) -> &'static str {
        self.row().short
    }

    /// `gateway.networking.k8s.io/v1`
    pub fn api_version(self) -> &'static str {
        self.row().api_version
    }

    /// Whether resources of it live in a namespace: all but `Mesh`.
    pub fn namespaced(self) -> bool {
        self != Self::Mesh
    }

    /// The field of `Resource.spec` that holds it: `http_route`.
    pub fn field(self) -> &'static str {
        self.row().field
    }

    /// The kind of that name exactly as YAML writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind that a user means on the command line: name, plural or short name in any case.
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let row = kind.row();
            !word.is_empty()
                && (row.name.to_ascii_lowercase() == word
                    || row.plural == word
                    || row.short == word)
        })
    }

    /// The kind of a resource by the spec that is set.
    pub fn of(resource: &pb::Resource) -> Option<Self> {
        Some(match resource.spec.as_ref()? {
            pb::resource::Spec::Service(_) => Self::Service,
            pb::resource::Spec::Workload(_) => Self::Workload,
            pb::resource::Spec::HttpRoute(_) => Self::HttpRoute,
            pb::resource::Spec::GrpcRoute(_) => Self::GrpcRoute,
            pb::resource::Spec::TrafficPolicy(_) => Self::TrafficPolicy,
            pb::resource::Spec::AuthorizationPolicy(_) => Self::AuthorizationPolicy,
            pb::resource::Spec::Mesh(_) => Self::Mesh,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, TABLE};

    #[test]
    fn the_table_is_in_the_order_of_the_kinds() {
        for (row, kind) in TABLE.iter().zip(Kind::ALL) {
            assert_eq!(row.name.to_lowercase(), format!("{kind:?}").to_lowercase());
        }
    }

    #[test]
    fn every_word_for_a_kind_is_understood() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            for word in [kind.name(), kind.plural(), &kind.name().to_lowercase()] {
                assert_eq!(Kind::from_word(word), Some(kind), "{word}");
            }
        }
        for (word, kind) in [
            ("gr", Kind::GrpcRoute),
            ("hr", Kind::HttpRoute),
            ("tp", Kind::TrafficPolicy),
            ("ap", Kind::AuthorizationPolicy),
            ("svc", Kind::Service),
            ("WL", Kind::Workload),
        ] {
            assert_eq!(Kind::from_word(word), Some(kind), "{word}");
        }
        for word in ["", "pods", "route"] {
            assert_eq!(Kind::from_word(word), None, "{word}");
        }
    }
}
