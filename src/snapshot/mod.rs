//! What the proxy runs on: immutable compiled types, and `compile` that makes them.
//!
//! A request loads one [`Snapshot`] once and sees nothing else. The types here hold no serde, no
//! protobuf and no defaults to be filled in: what users wrote has become what is meant.

mod compile;
mod destination;
mod handle;
mod inbound;
mod mesh;
mod route;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::FxHashMap;

pub use compile::{Context, check, compile};
pub use destination::{
    Balancing, Bulkhead, BulkheadScope, Destination, DestinationSettings, Endpoint,
    EndpointAddress, OutlierDetection, Port, Protocol, Readiness, RetryBudget, Transport,
};
pub use handle::Handle;
pub use inbound::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Inbound, InboundPort, MtlsMode,
    Source, Target,
};
pub use mesh::{AccessLogMode, Mesh, Tracing};
pub use route::{
    Backend, GrpcMethodMatch, HeaderModifier, Matcher, PathMatch, Retry, RetryOn, RouteId,
    RouteSettings, Rule, RuleMatch, TextMatch,
};
pub use rules::Rules;

pub use crate::resource::ResourceKey;
use crate::{resource::pb, units::ServiceName};

/// For whom a snapshot is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The service beside the sidecar.
    pub service: ServiceName,
    /// Its labels, which selectors of services match.
    pub labels: BTreeMap<String, String>,
    /// The ports that its application serves (name or number in decimal → local port).
    pub ports: BTreeMap<String, u16>,
}

/// Everything that one request may depend on. Never changed once made.
#[derive(Debug)]
pub struct Snapshot {
    /// Whose it is.
    pub node: Node,
    /// What holds for the whole mesh.
    pub mesh: Mesh,
    /// The mesh's namespaces: a name `orders.shop` is of the mesh when `shop` is among them.
    pub namespaces: BTreeSet<String>,
    /// Every service that was answered for; `None`: the mesh has no such service.
    pub destinations: FxHashMap<ServiceName, Option<Arc<Destination>>>,
    /// Whether the mesh has no other services than those, so that there is nobody to ask (a static
    /// file).
    pub complete: bool,
    /// What the inbound listener does.
    pub inbound: Inbound,
    /// The newest revision that it holds.
    pub revision: u64,
    /// The form of each resource that it was made from: for a refused one its last good form.
    pub good: BTreeMap<ResourceKey, Arc<pb::Resource>>,
}

impl Snapshot {
    /// Services that the rules of a service lead to. Who asks for them with the service spares the
    /// first request to them the wait.
    pub fn backends(&self, service: &ServiceName) -> impl Iterator<Item = &ServiceName> {
        let ports = self.destinations.get(service).into_iter().flatten().flat_map(|it| &it.ports);
        let matches = ports.filter_map(|port| port.rules.as_ref()).flatten();
        let backends = matches.flat_map(|found| &found.rule.backends);
        backends.filter_map(|backend| backend.target.as_ref()).map(|(name, _)| name)
    }
}
