//! Each resource read alone into its typed form, or its last good one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Context;
use crate::{
    resource::{
        Kind, Problem, ResourceKey,
        authorization_policy::{self, AuthorizationPolicy},
        grpc_route, http_route,
        mesh::{self, MESH_NAME, Mesh},
        pb,
        route::Route,
        service::{self, Service},
        traffic_policy::{self, TrafficPolicy},
        workload::{self, Workload},
    },
    snapshot::Snapshot,
    units::ServiceName,
};

/// Every resource in the form that runs.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) services: BTreeMap<ServiceName, Service>,
    /// Services without a good form, which stand among the others with their selector alone.
    pub(super) services_refused: BTreeSet<ServiceName>,
    /// Sorted by key.
    pub(super) workloads: Vec<Entry<Workload>>,
    /// Of both kinds, the oldest first.
    pub(super) routes: Vec<Entry<Route>>,
    /// The oldest first.
    pub(super) policies: Vec<Entry<TrafficPolicy>>,
    /// Sorted by key.
    pub(super) authorization: Vec<Entry<AuthorizationPolicy>>,
    /// Authorization policies without a good form, with the names that they seem to target.
    pub(super) authorization_refused: Vec<(ResourceKey, Vec<String>)>,
    pub(super) mesh: MeshForm,
    /// Every service that there is: one with a `Service`, be it a refused one, or a `Workload`.
    pub(super) known: BTreeSet<ServiceName>,
    pub(super) good: BTreeMap<ResourceKey, Arc<pb::Resource>>,
    /// Where in `workloads` those stand that are registered under a service.
    registered: BTreeMap<ServiceName, Vec<usize>>,
    /// Where in `routes` those stand that name a service as their parent.
    attached: BTreeMap<ServiceName, Vec<usize>>,
}

/// The `Mesh`, if there is one.
#[derive(Debug, Default)]
pub(super) enum MeshForm {
    #[default]
    Absent,
    Refused,
    Good(Box<Mesh>),
}

/// A resource in its typed form.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) key: ResourceKey,
    pub(super) age: Age,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) spec: T,
}

/// Sorts the older before the newer, and of the same age by namespace and name (Gateway API,
/// "Conflicts").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    seconds: i64,
    nanos: i32,
    name: String,
}

enum Form {
    Service(Service),
    Workload(Workload),
    Route(Route),
    Traffic(Box<TrafficPolicy>),
    Authorization(AuthorizationPolicy),
    Mesh(Box<Mesh>),
}

impl Read {
    /// Reads resources in the order of their keys.
    pub(super) fn new<'a>(
        resources: impl IntoIterator<Item = (&'a ResourceKey, &'a Arc<pb::Resource>)>,
        last_good: Option<&Snapshot>,
        context: &Context,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut read = Self::default();
        for (key, resource) in resources {
            if key.kind == Kind::Service.name() {
                read.known.insert(ServiceName::new(&*key.name, &*key.namespace));
            }
            let form = match parse(key, resource, context) {
                Ok(form) => Some((form, resource)),
                Err(found) => {
                    problems.extend(found.into_iter().map(|problem| problem.of(key)));
                    let last = last_good.and_then(|snapshot| snapshot.good.get(key));
                    last.and_then(|last| Some((parse(key, last, context).ok()?, last)))
                }
            };
            match form {
                Some((form, resource)) => {
                    read.good.insert(key.clone(), Arc::clone(resource));
                    read.insert(key, resource, form);
                }
                None => read.refuse(key, resource.spec.as_ref()),
            }
        }
        read.routes.sort_by(|one, other| one.age.cmp(&other.age));
        read.policies.sort_by(|one, other| one.age.cmp(&other.age));
        read.index();
        read
    }

    fn index(&mut self) {
        for (place, workload) in self.workloads.iter().enumerate() {
            let service = ServiceName::new(&*workload.spec.service, &*workload.key.namespace);
            self.registered.entry(service).or_default().push(place);
        }
        for (place, route) in self.routes.iter().enumerate() {
            let parents: BTreeSet<_> =
                route.spec.parents.iter().map(|parent| &parent.service).collect();
            for service in parents {
                self.attached.entry(service.clone()).or_default().push(place);
            }
        }
    }

    /// The workloads that are registered under a service, sorted by key.
    pub(super) fn registered(
        &self,
        service: &ServiceName,
    ) -> impl Iterator<Item = &Entry<Workload>> {
        self.registered.get(service).into_iter().flatten().map(|place| &self.workloads[*place])
    }

    /// The routes that name a service as their parent, the oldest first.
    pub(super) fn attached(&self, service: &ServiceName) -> impl Iterator<Item = &Entry<Route>> {
        self.attached.get(service).into_iter().flatten().map(|place| &self.routes[*place])
    }

    fn insert(&mut self, key: &ResourceKey, resource: &pb::Resource, form: Form) {
        match form {
            Form::Service(spec) => {
                self.services.insert(ServiceName::new(&*key.name, &*key.namespace), spec);
            }
            Form::Workload(spec) => {
                self.known.insert(ServiceName::new(&*spec.service, &*key.namespace));
                self.workloads.push(Entry::new(key, resource, spec));
            }
            Form::Route(spec) => self.routes.push(Entry::new(key, resource, spec)),
            Form::Traffic(spec) => self.policies.push(Entry::new(key, resource, *spec)),
            Form::Authorization(spec) => self.authorization.push(Entry::new(key, resource, spec)),
            Form::Mesh(mesh) => self.mesh = MeshForm::Good(mesh),
        }
    }

    /// Without a good form: what protects must not be missing because it is broken. Whom a service
    /// selects can be read in any case, and the policies that target it hold there.
    fn refuse(&mut self, key: &ResourceKey, spec: Option<&pb::resource::Spec>) {
        match spec {
            Some(pb::resource::Spec::Service(spec)) => {
                let name = ServiceName::new(&*key.name, &*key.namespace);
                let selector = spec.selector.clone().into_iter().collect();
                self.services.insert(name.clone(), Service { ports: Vec::new(), selector });
                self.services_refused.insert(name);
            }
            // Audit decides nothing, so nothing is lost with it.
            Some(pb::resource::Spec::AuthorizationPolicy(spec))
                if spec.action() != pb::AuthorizationAction::Audit =>
            {
                let names = spec.target_refs.iter().map(|target| target.name.clone()).collect();
                self.authorization_refused.push((key.clone(), names));
            }
            Some(pb::resource::Spec::Mesh(_)) if key.name == MESH_NAME => {
                self.mesh = MeshForm::Refused;
            }
            _ => {}
        }
    }
}

impl<T> Entry<T> {
    fn new(key: &ResourceKey, resource: &pb::Resource, spec: T) -> Self {
        let meta = resource.metadata.as_ref();
        let created = meta.and_then(|meta| meta.creation_timestamp).unwrap_or_default();
        let name = [&*key.namespace, "/", &*key.name].concat();
        let age = Age { seconds: created.seconds, nanos: created.nanos, name };
        let labels = meta.into_iter().flat_map(|meta| meta.labels.clone()).collect();
        Self { key: key.clone(), age, labels, spec }
    }

    /// `shop/orders`
    pub(super) fn name(&self) -> &str {
        &self.age.name
    }
}

impl Entry<Route> {
    pub(super) fn is_grpc(&self) -> bool {
        self.key.kind == Kind::GrpcRoute.name()
    }
}

fn parse(
    key: &ResourceKey,
    resource: &pb::Resource,
    context: &Context,
) -> Result<Form, Vec<Problem>> {
    let namespace = &*key.namespace;
    match &resource.spec {
        None => Err(vec![Problem::error("spec", "is missing")]),
        Some(pb::resource::Spec::Service(spec)) => service::parse(spec).map(Form::Service),
        Some(pb::resource::Spec::Workload(spec)) => workload::parse(spec).map(Form::Workload),
        Some(pb::resource::Spec::HttpRoute(spec)) => {
            http_route::parse(spec, namespace).map(Form::Route)
        }
        Some(pb::resource::Spec::GrpcRoute(spec)) => {
            grpc_route::parse(spec, namespace).map(Form::Route)
        }
        Some(pb::resource::Spec::TrafficPolicy(spec)) => {
            traffic_policy::parse(spec).map(Box::new).map(Form::Traffic)
        }
        Some(pb::resource::Spec::AuthorizationPolicy(spec)) => {
            authorization_policy::parse(spec, namespace).map(Form::Authorization)
        }
        Some(pb::resource::Spec::Mesh(spec)) => parse_mesh(&key.name, spec, context),
    }
}

fn parse_mesh(name: &str, spec: &pb::Mesh, context: &Context) -> Result<Form, Vec<Problem>> {
    if name != MESH_NAME {
        let problem = Problem::error("metadata.name", "not the name of the one Mesh");
        return Err(vec![problem.with_value(name).with_hint(MESH_NAME)]);
    }
    let mesh = mesh::parse(spec)?;
    match &mesh.trust_domain {
        Some(other) if *other != context.trust_domain => {
            let message = "not the mesh's trust domain, which is fixed at the first start";
            let problem = Problem::error("spec.trustDomain", message).with_value(other);
            Err(vec![problem.with_hint(&context.trust_domain)])
        }
        _ => Ok(Form::Mesh(Box::new(mesh))),
    }
}
