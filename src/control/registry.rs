//! The registry: which workloads are alive. A live `Subscribe` stream is the registration; its guard
//! here puts the workload among the live ones and takes it out when the stream ends, however it ends.
//!
//! A workload appears with its first report of its state and not with its hello, so that a sidecar
//! that connects again after a restart of the control plane never looks unready in between.
//!
//! The end of the control plane is no end of a workload: what is alive then is found again by the
//! next start and stays for a time of grace, in which its sidecar connects again and takes it over.
//! Only what has not come back by then is withdrawn.
//!
//! Nor is silence: a machine without power looks like a network that was cut, behind which calls go on.
//! A workload whose connection fell silent stays as one that fails its checks, which callers use where
//! they have no other, and is withdrawn only after a while; and nobody is while most are silent, since
//! then it is the network. Else the first sidecar that is reached again would learn that all others
//! are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    error, key, refs,
    state::{State, pb_time},
    world::Resources,
};
use crate::{
    resource::{
        Kind, ResourceKey, pb,
        workload::{self, WEIGHT_MAX},
    },
    spiffe::SpiffeId,
    units::{ServiceName, name::check_label},
};

/// Ports that one workload may serve.
const PORTS_MAX: usize = 64;
/// Labels that one workload may carry.
const LABELS_MAX: usize = 64;
/// Bytes of a label or zone, or shown of an address.
const TEXT_BYTES_MAX: usize = 253;

/// How long a workload stays whose sidecar fell silent.
const SILENT_MAX: Duration = Duration::from_mins(10);

/// The live workloads and whose they are.
#[derive(Debug)]
pub(crate) struct Registry {
    state: Arc<State>,
    owners: Mutex<Owners>,
    next: AtomicU64,
    /// The control plane ends, and with it the streams, but not the workloads.
    frozen: AtomicBool,
}

#[derive(Debug, Default)]
struct Owners {
    /// Whose stream each workload is.
    streams: BTreeMap<ResourceKey, Owner>,
    /// Workloads of the time before this start whose sidecars have not said anything yet.
    leased: BTreeSet<ResourceKey>,
    /// Workloads whose sidecars fell silent, and since when.
    silent: BTreeMap<ResourceKey, Instant>,
}

#[derive(Debug)]
struct Owner {
    id: u64,
    service: ServiceName,
}

/// One workload's registration; dropping it withdraws the workload, unless a newer stream of the
/// same workload has taken it over.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    id: u64,
    key: ResourceKey,
    /// As it is published, but for readiness; `None` when it serves nothing.
    workload: Option<pb::Resource>,
    /// Its sidecar fell silent.
    silent: bool,
}

impl Registry {
    pub(crate) fn new(state: Arc<State>) -> Arc<Self> {
        let (owners, next) = (Mutex::default(), AtomicU64::new(1));
        Arc::new(Self { state, owners, next, frozen: AtomicBool::new(false) })
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the workloads that were alive when the control plane ended.
    pub(crate) fn lease(&self, workloads: Resources) {
        let mut owners = self.owners();
        owners.leased = workloads.keys().cloned().collect();
        self.state.update_live(workloads.into_iter().map(|(key, it)| (key, Some(it))));
    }

    /// Withdraws those of them that have not come back. Returns how many.
    pub(crate) fn end_leases(&self) -> usize {
        let mut owners = self.owners();
        let lost = std::mem::take(&mut owners.leased);
        if !lost.is_empty() {
            self.withdraw(&lost);
        }
        lost.len()
    }

    fn withdraw(&self, lost: &BTreeSet<ResourceKey>) {
        self.state.update_live(lost.iter().map(|key| (key.clone(), None)));
    }

    /// Withdraws those whose sidecars have been silent for too long. While more are silent than speak,
    /// nobody's time runs. Returns how many were withdrawn.
    pub(crate) fn end_silent(&self, now: Instant) -> usize {
        let mut owners = self.owners();
        let Owners { streams, silent, .. } = &mut *owners;
        if silent.len() > streams.len() {
            silent.values_mut().for_each(|since| *since = now);
            return 0;
        }
        let over = |_: &ResourceKey, since: &mut Instant| {
            now.saturating_duration_since(*since) >= SILENT_MAX
        };
        let lost: BTreeSet<_> = silent.extract_if(.., over).map(|(key, _)| key).collect();
        if !lost.is_empty() {
            self.withdraw(&lost);
        }
        lost.len()
    }

    /// From now on the end of a stream withdraws nothing.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Registers the workload of a hello under the identity that its stream has proven. The first
    /// registration of a service stores that service with the ports it declares.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a malformed hello, PERMISSION_DENIED when it speaks for another service,
    /// ALREADY_EXISTS when the workload's name belongs to another service of the namespace.
    pub(crate) async fn register(
        self: &Arc<Self>,
        node: &pb::Node,
        identity: &SpiffeId,
    ) -> Result<Registration, Status> {
        check(node)?;
        let service = ServiceName::new(&node.service, refs::or_default(&node.namespace));
        if identity.service().as_ref() != Some(&service)
            || identity.trust_domain() != self.state.trust_domain()
        {
            return Err(error::refused(
                Code::PermissionDenied,
                "IDENTITY_MISMATCH",
                format!("{identity} can not register a workload of {service}"),
                &[("identity", identity.to_string()), ("service", service.to_string())],
            ));
        }
        let key = ResourceKey::new(Kind::Workload, &service.namespace, &*node.workload);
        self.check_free(&key, &service)?;
        let serves = !node.address.is_empty();
        if serves && self.state.world().get(&key::of_service(&service)).is_none() {
            let made = service_of(node, &service);
            self.state
                .write(move |state, _| {
                    state.register_service(made).map_err(|error| error::store(&error))
                })
                .await?;
        }
        let workload = serves.then(|| workload_of(node, &service, identity));
        // Last, because it takes the workload over from an older stream. From here on the guard
        // undoes what was done.
        let id = self.own(&key, &service)?;
        Ok(Registration { registry: Arc::clone(self), id, key, workload, silent: false })
    }

    /// Whether the name may be that of a workload of the service. One that somebody wrote for
    /// another service would else be hidden.
    fn check_free(&self, key: &ResourceKey, service: &ServiceName) -> Result<(), Status> {
        let world = self.state.world();
        let written = world.stored.resources.get(key).and_then(|it| refs::service_of_workload(it));
        let owners = self.owners();
        let live = owners.streams.get(key).map(|owner| &owner.service);
        if written.iter().chain(live).any(|other| other != service) {
            return Err(name_taken(key));
        }
        Ok(())
    }

    fn own(&self, key: &ResourceKey, service: &ServiceName) -> Result<u64, Status> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut owners = self.owners();
        if owners.streams.get(key).is_some_and(|owner| owner.service != *service) {
            return Err(name_taken(key));
        }
        owners.streams.insert(key.clone(), Owner { id, service: service.clone() });
        Ok(id)
    }
}

fn name_taken(key: &ResourceKey) -> Status {
    error::refused(
        Code::AlreadyExists,
        "WORKLOAD_NAME_TAKEN",
        format!("a workload of another service is registered as {key}"),
        &[("workload", key.name.clone())],
    )
}

impl Registration {
    /// The workload's key.
    pub(crate) fn key(&self) -> &ResourceKey {
        &self.key
    }

    /// Publishes whether the workload takes requests. Does nothing for a workload that serves nothing
    /// or that a newer stream has taken over.
    pub(crate) fn report(&self, phase: pb::WorkloadPhase) {
        if self.workload.is_none() {
            return;
        }
        // Held until the change is published, so that two streams of one workload can not cross.
        let mut owners = self.registry.owners();
        if owners.streams.get(&self.key).is_none_or(|owner| owner.id != self.id) {
            return;
        }
        owners.leased.remove(&self.key);
        owners.silent.remove(&self.key);
        self.publish(phase);
    }

    /// Its connection has ended, and nobody said why: dropping it then only stops callers from using
    /// the workload while there is another.
    pub(crate) fn fall_silent(&mut self) {
        self.silent = true;
    }

    /// Whether callers may be using the workload: what drains or has not begun is not missed.
    fn is_used(&self) -> bool {
        let world = self.registry.state.world();
        let live = world.live.get(&self.key);
        let spec = live.and_then(|it| it.spec.as_ref());
        let Some(pb::resource::Spec::Workload(it)) = spec else { return false };
        it.ready == Some(true) || it.failing
    }

    fn publish(&self, phase: pb::WorkloadPhase) {
        let Some(workload) = &self.workload else { return };
        let state = &self.registry.state;
        let mut published = in_phase(workload.clone(), phase);
        let before = state.world().live.get(&self.key).cloned();
        if before.as_ref().is_some_and(|it| key::version(it) == key::version(&published)) {
            return;
        }
        // It is as old as the first that is known of it, over changes and restarts.
        let created = before.and_then(|it| it.metadata.as_ref()?.creation_timestamp);
        if let Some(metadata) = &mut published.metadata {
            metadata.creation_timestamp = Some(created.unwrap_or_else(|| pb_time(state.now())));
        }
        state.update_live([(self.key.clone(), Some(Arc::new(published)))]);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut owners = self.registry.owners();
        if owners.streams.get(&self.key).is_none_or(|owner| owner.id != self.id) {
            return;
        }
        owners.streams.remove(&self.key);
        if self.registry.frozen.load(Ordering::Relaxed) {
            return;
        }
        owners.leased.remove(&self.key);
        owners.silent.remove(&self.key);
        if self.silent && self.is_used() {
            owners.silent.insert(self.key.clone(), Instant::now());
            return self.publish(pb::WorkloadPhase::NotReady);
        }
        if self.registry.state.world().live.contains(&self.key) {
            self.registry.state.update_live([(self.key.clone(), None)]);
        }
    }
}

fn check(node: &pb::Node) -> Result<(), Status> {
    let label = |field: &str, text: &str| {
        check_label(text).map_err(|wrong| error::invalid(field, format!("{text:?} {wrong}")))
    };
    label("hello.node.service", &node.service)?;
    label("hello.node.namespace", refs::or_default(&node.namespace))?;
    label("hello.node.workload", &node.workload)?;
    if !node.address.is_empty() {
        workload::address(&node.address).map_err(|wrong| {
            let text: String = node.address.chars().take(TEXT_BYTES_MAX).collect();
            let what = format!("{text:?} is {}; it has to be {}", wrong.what, wrong.hint);
            error::invalid("hello.node.address", what)
        })?;
        port("hello.node.inbound", node.inbound)?;
    }
    if node.ports.len() > PORTS_MAX {
        return Err(error::invalid("hello.node.ports", format!("more than {PORTS_MAX}")));
    }
    for (name, number) in &node.ports {
        label("hello.node.ports", name)?;
        port("hello.node.ports", *number)?;
    }
    let short = |text: &str| text.len() <= TEXT_BYTES_MAX;
    if node.labels.len() > LABELS_MAX || !node.labels.iter().all(|(n, v)| short(n) && short(v)) {
        return Err(error::invalid(
            "hello.node.labels",
            format!("more than {LABELS_MAX}, or long"),
        ));
    }
    if node.weight.is_some_and(|weight| weight > WEIGHT_MAX) {
        return Err(error::invalid("hello.node.weight", format!("more than {WEIGHT_MAX}")));
    }
    if !short(&node.zone) {
        return Err(error::invalid("hello.node.zone", "too long"));
    }
    Ok(())
}

fn port(field: &str, number: u32) -> Result<(), Status> {
    match u16::try_from(number) {
        Ok(1..) => Ok(()),
        Ok(0) | Err(_) => Err(error::invalid(field, format!("{number} is no port"))),
    }
}

/// The service that a first registration makes: one port for each that the workload declares.
fn service_of(node: &pb::Node, service: &ServiceName) -> pb::Resource {
    let mut ports: Vec<_> = node
        .ports
        .iter()
        .map(|(name, local)| match name.parse::<u16>() {
            Ok(number) => (u32::from(number), String::new()),
            Err(_) => (*local, name.clone()),
        })
        .collect();
    ports.sort();
    ports.dedup_by_key(|(number, _)| *number);
    let several = ports.len() > 1;
    let ports = ports
        .into_iter()
        .map(|(port, name)| pb::ServicePort {
            // A port without a name is permitted only where there is no other.
            name: if several && name.is_empty() { format!("port-{port}") } else { name },
            port,
            ..Default::default()
        })
        .collect();
    pb::Resource {
        metadata: Some(pb::Metadata {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            ..Default::default()
        }),
        spec: Some(pb::resource::Spec::Service(pb::Service { ports, ..Default::default() })),
        status: None,
    }
}

fn workload_of(node: &pb::Node, service: &ServiceName, identity: &SpiffeId) -> pb::Resource {
    pb::Resource {
        metadata: Some(pb::Metadata {
            name: node.workload.clone(),
            namespace: service.namespace.clone(),
            labels: node.labels.clone(),
            ..Default::default()
        }),
        spec: Some(pb::resource::Spec::Workload(pb::Workload {
            service: service.name.clone(),
            address: node.address.clone(),
            ports: node.ports.clone(),
            inbound: node.inbound,
            identity: identity.to_string(),
            weight: node.weight,
            zone: node.zone.clone(),
            ready: None,
            failing: false,
        })),
        status: None,
    }
}

/// The workload with its readiness and a version made of its contents: a sidecar that connects again
/// after a restart of the control plane, with the same workload as before, is no change for anyone.
fn in_phase(mut resource: pb::Resource, phase: pb::WorkloadPhase) -> pb::Resource {
    let Some(pb::resource::Spec::Workload(workload)) = &mut resource.spec else { return resource };
    let ready = phase == pb::WorkloadPhase::Ready;
    workload.ready = Some(ready);
    workload.failing = phase == pb::WorkloadPhase::NotReady;
    let mut text = format!(
        "{:?}",
        (
            &workload.service,
            &workload.address,
            workload.inbound,
            &workload.identity,
            &workload.zone,
            workload.weight,
            ready
        )
    );
    let ports: BTreeMap<_, _> = workload.ports.iter().collect();
    text.push_str(&format!("{ports:?}"));
    if workload.failing {
        text.push_str("failing");
    }
    if let Some(metadata) = &mut resource.metadata {
        let labels: BTreeMap<_, _> = metadata.labels.iter().collect();
        text.push_str(&format!("{labels:?}"));
        let hash = digest(&SHA256, text.as_bytes());
        metadata.resource_version =
            hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    }
    resource
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
