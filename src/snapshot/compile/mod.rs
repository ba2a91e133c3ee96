//! From what users wrote to what the proxy runs on: one pure function for the control plane, the
//! sidecar, static files and `explain`.
//!
//! A resource that does not compile keeps its last good form and is reported; it never holds back
//! another one. What has no good form yet refuses traffic rather than let it through: a broken
//! authorization policy denies, a broken `Mesh` allows nothing by default.
//!
//! The order is that of dependence: each resource is read alone, policies are put together by what
//! they target, and then every destination and the inbound side are built from both.

mod authorization;
mod inbound;
mod mesh;
mod policy;
mod precedence;
mod read;
mod reference;
mod route;
mod service;
mod together;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use self::{
    policy::Policies,
    read::{Entry, Read},
};
use super::{Destination, Node, Snapshot};
use crate::{
    resource::{Problem, ResourceKey, pb, route::Route},
    units::ServiceName,
};

/// What a snapshot depends on beside the resources.
#[derive(Debug, Clone)]
pub struct Context {
    /// For whom it is compiled.
    pub node: Node,
    /// The mesh's trust domain, as certificates have it. A `Mesh` that says otherwise is refused.
    pub trust_domain: String,
    /// The mesh's namespaces; those of the node and of the services among the resources are added.
    pub namespaces: BTreeSet<String>,
    /// Services that were asked for and answered, and whether they existed then. One whose `Service`
    /// or `Workload` is among the resources exists whatever stands here.
    pub answered: BTreeMap<ServiceName, bool>,
    /// Whether the resources are all that there are (a static file, validation): what is not among
    /// them does not exist, and nobody need be asked.
    pub complete: bool,
    /// The newest revision among the resources.
    pub revision: u64,
}

/// What is wrong with these resources together when they are all that there are, whoever runs them:
/// what [`compile`] says, as callers in every namespace see it. Each problem has its resource.
pub fn check<'a>(
    resources: impl IntoIterator<Item = (&'a ResourceKey, &'a Arc<pb::Resource>)>,
    trust_domain: &str,
) -> Vec<Problem> {
    let context = Context {
        node: Node {
            service: ServiceName::new("", ""),
            labels: BTreeMap::new(),
            ports: BTreeMap::new(),
        },
        trust_domain: trust_domain.to_owned(),
        namespaces: BTreeSet::new(),
        answered: BTreeMap::new(),
        complete: true,
        revision: 0,
    };
    let mut problems = Vec::new();
    let read = Read::new(resources, None, &context, &mut problems);
    let policies = Policies::new(&read, &mut problems);
    let compiler =
        Compiler { read: &read, policies: &policies, context: &context, last_good: None };
    compiler.check_references(&mut problems);
    let attached = |route: &Entry<Route>| {
        let namespace = route.key.namespace.clone();
        let parents = route.spec.parents.clone().into_iter();
        parents.map(move |parent| (parent.service, namespace.clone()))
    };
    let pairs: BTreeSet<(ServiceName, String)> = read.routes.iter().flat_map(attached).collect();
    for (service, caller) in &pairs {
        compiler.check_conflicts(service, caller, &mut problems);
        compiler.check_shadowed(service, caller, &mut problems);
    }
    compiler.check_together(&mut problems);
    problems
}

/// Compiles `resources` for a node. The problems are those of resources that were refused (errors)
/// and of references and conflicts between them (warnings); what is wrong with one resource alone
/// but harmless is said by `resource::check`.
pub fn compile(
    resources: &BTreeMap<ResourceKey, Arc<pb::Resource>>,
    last_good: Option<&Snapshot>,
    context: &Context,
) -> (Snapshot, Vec<Problem>) {
    let mut problems = Vec::new();
    let read = Read::new(resources, last_good, context, &mut problems);
    let policies = Policies::new(&read, &mut problems);
    let compiler = Compiler { read: &read, policies: &policies, context, last_good };

    compiler.check_references(&mut problems);
    let destinations = compiler.destinations();
    for service in destinations.keys().collect::<BTreeSet<_>>() {
        compiler.check_conflicts(service, &context.node.service.namespace, &mut problems);
    }
    let mut namespaces = context.namespaces.clone();
    namespaces.insert(context.node.service.namespace.clone());
    namespaces.extend(read.known.iter().map(|service| service.namespace.clone()));
    let snapshot = Snapshot {
        node: context.node.clone(),
        mesh: mesh::compile(&read, context),
        namespaces,
        destinations,
        complete: context.complete,
        inbound: compiler.inbound(),
        revision: context.revision,
        good: read.good,
    };
    (snapshot, problems)
}

/// What every part of the compilation reads.
struct Compiler<'a> {
    read: &'a Read,
    policies: &'a Policies,
    context: &'a Context,
    last_good: Option<&'a Snapshot>,
}

/// What is known of a service that something refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It exists.
    Here,
    /// It does not.
    Missing,
    /// Nobody has asked yet.
    NotAsked,
}

impl Compiler<'_> {
    /// Every service that was answered for, or every one that there is.
    fn destinations(&self) -> FxHashMap<ServiceName, Option<Arc<Destination>>> {
        let answered = self.context.answered.keys();
        let known = self.read.known.iter().filter(|_| self.context.complete);
        let names: BTreeSet<&ServiceName> = answered.chain(known).collect();
        let mut destinations = FxHashMap::default();
        for name in names {
            let here = self.presence(name) == Presence::Here;
            let destination = here.then(|| self.kept(self.destination(name)));
            destinations.insert(name.clone(), destination);
        }
        destinations
    }

    /// The very destination of the last snapshot if nothing about it changed, so that whoever keeps
    /// counts for it sees that by the pointer.
    fn kept(&self, destination: Destination) -> Arc<Destination> {
        let last = self.last_good.and_then(|last| last.destinations.get(&destination.name));
        match last {
            Some(Some(last)) if **last == destination => Arc::clone(last),
            _ => Arc::new(destination),
        }
    }

    fn presence(&self, name: &ServiceName) -> Presence {
        if self.read.known.contains(name) {
            Presence::Here
        } else if self.context.complete || self.context.answered.contains_key(name) {
            Presence::Missing
        } else {
            Presence::NotAsked
        }
    }
}

#[cfg(test)]
mod tests;
