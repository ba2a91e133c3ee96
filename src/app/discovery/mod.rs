//! The sidecar's side of `DiscoveryService.Subscribe`: what it is told becomes the snapshot that
//! runs, and what runs is told.
//!
//! One task owns all of it. A change is applied, compiled and published; when every worker runs the
//! result, each resource is acknowledged or refused on its own, and the whole goes to disk. Services
//! are asked for when the application first uses them, those to which its routes lead with it, and
//! given up when they have been idle. Without
//! a control plane nothing changes: the proxy serves on with what is published, and this task comes
//! again with jittered pauses. After a renewal the stream moves to a connection with the new
//! certificate before the old one ends, so that the workload is never missing from the mesh.

mod held;
mod link;
mod options;
mod save;
mod uses;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tonic::{Code, Status};

pub use options::{DataPlane, Options};
pub use uses::Wants;

use self::{
    held::Held,
    link::{Link, Pauses},
    save::Saver,
    uses::Uses,
};
use crate::{
    clock,
    resource::{
        Problem, ResourceKey, forget_descriptors,
        pb::{self, WorkloadPhase, subscribe_request::Message},
        understood,
    },
    snapshot::{Node, Snapshot},
    units::ServiceName,
};

/// Between two reports of the state.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How soon the first calls after a quiet time are reported: who has just made one looks for it.
const FIRST_CALLS: Duration = Duration::from_secs(1);
/// How long the workers may take to run a new snapshot; it is acknowledged only then.
const ADOPT_MAX: Duration = Duration::from_secs(5);
/// Messages taken before what they say is compiled.
const BATCH_MAX: usize = 64;

/// How discovery is going.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Whether a stream is open.
    pub connected: bool,
    /// Why not, if something is known.
    pub error: Option<String>,
    /// The phase that was reported last on the stream of now.
    pub reported: Option<WorkloadPhase>,
    /// Resources whose newest form does not run, with their errors.
    pub refused: Arc<BTreeMap<ResourceKey, Vec<Problem>>>,
}

/// Follows the control plane; see the module.
pub struct Discovery {
    options: Options,
    held: Held,
    uses: Uses,
    saver: Arc<Saver>,
    progress: watch::Sender<Progress>,
    /// Calls that were reported last.
    calls: u64,
    /// Whether none were made between the last two reports.
    quiet: bool,
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").field("held", &self.held).finish_non_exhaustive()
    }
}

/// Looks at discovery from outside.
#[derive(Debug, Clone)]
pub struct Watch {
    progress: watch::Receiver<Progress>,
    saver: Arc<Saver>,
}

impl Watch {
    /// How it is going.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until this phase was reported, or there is nobody to report it to; at most `bound`.
    pub async fn reported(&self, phase: WorkloadPhase, bound: Duration) {
        let mut progress = self.progress.clone();
        let reported = progress.wait_for(|it| !it.connected || it.reported == Some(phase));
        let _late_or_gone = timeout(bound, reported).await;
    }

    /// Writes what is not on disk yet.
    pub async fn flush(&self) {
        self.saver.flush().await;
    }
}

/// Why a stream is over.
enum Ended {
    /// It broke, or the control plane ended it.
    Lost(Status),
    /// A new certificate is to be shown; the old stream goes on until the new one is heard.
    Renewed(Box<Link>),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Lost(status)
    }
}

impl Discovery {
    /// Holds nothing yet. The second part looks at it while it runs.
    pub fn new(options: Options) -> (Self, Watch) {
        let node = &options.node;
        let port = |(name, port): (&String, &u32)| Some((name.clone(), u16::try_from(*port).ok()?));
        let compiled_for = Node {
            service: ServiceName::new(&node.service, &node.namespace),
            labels: node.labels.clone().into_iter().collect(),
            ports: node.ports.iter().filter_map(port).collect(),
        };
        let trust_domain = options.identity.id().trust_domain().to_owned();
        let saver = Arc::new(Saver::new(Arc::clone(&options.disk)));
        let (progress, watch) = watch::channel(Progress::default());
        let watch = Watch { progress: watch, saver: Arc::clone(&saver) };
        let held = Held::new(compiled_for, trust_domain);
        let uses = Uses::new(options.pinned.clone(), Instant::now());
        (Self { options, held, uses, saver, progress, calls: 0, quiet: true }, watch)
    }

    /// Publishes what ran before the last restart, if it is on disk. Returns whether it was.
    pub fn restore(&mut self) -> bool {
        let path = self.options.disk.path().display();
        let stored = match self.options.disk.load_last_good() {
            Ok(Some(stored)) => stored,
            Ok(None) => return false,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the stored configuration can not be read");
                return false;
            }
        };
        match self.held.restore(&stored) {
            Ok(used) => {
                let node = &self.options.node;
                let own = ServiceName::new(&node.service, &node.namespace);
                for service in used.into_iter().filter(|service| *service != own) {
                    self.used(service);
                }
            }
            Err(error) => {
                tracing::warn!(%error, directory = %path, "not using the stored configuration");
                return false;
            }
        }
        let snapshot = self.publish();
        tracing::info!(revision = snapshot.revision, "serving with the configuration on disk");
        true
    }

    /// Follows the control plane until the future is dropped.
    pub async fn run(mut self) -> Infallible {
        let saver = Arc::clone(&self.saver);
        tokio::select! {
            never = saver.run() => never,
            never = self.follow() => never,
        }
    }

    async fn follow(&mut self) -> Infallible {
        let mut pauses = Pauses::new();
        let mut last = None;
        let mut said = None;
        loop {
            let status = match self.stream(&mut last, &mut pauses).await {
                Ended::Renewed(link) => {
                    last = Some(link);
                    continue;
                }
                Ended::Lost(status) => status,
            };
            let message = status.message().to_owned();
            let was = self.progress.borrow().connected;
            // One that went away is said once, however it shows; one that refuses has a reason.
            let away = status.code() == Code::Unavailable && said.is_some();
            if was || !(away || said.as_ref() == Some(&message)) {
                tracing::warn!(
                    server = self.options.server,
                    code = ?status.code(),
                    error = message,
                    "no control plane; serving on with what is known"
                );
            }
            said = Some(message.clone());
            self.options.telemetry.metrics().control_connected(false);
            self.progress.send_modify(|progress| {
                (progress.connected, progress.reported) = (false, None);
                progress.error = Some(message);
            });
            sleep(pauses.next(fastrand::f64(), Instant::now())).await;
        }
    }

    /// One stream, from hello to end. `last` is one that it replaces.
    async fn stream(&mut self, last: &mut Option<Box<Link>>, pauses: &mut Pauses) -> Ended {
        let svid = self.options.identity.svid();
        let mut renewed = self.options.identity.subscribe();
        let mut phase = self.options.phase.clone();
        for service in self.options.wants.take() {
            self.used(service);
        }
        let hello = self.hello();
        let mut link = match Link::open(&self.options.server, &self.options.identity, hello).await {
            Ok(link) => link,
            Err(status) => return Ended::Lost(status),
        };
        let mut reports = interval(REPORT_EVERY);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(FIRST_CALLS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                message = link.inbound.message() => {
                    match message {
                        Ok(Some(change)) => {
                            pauses.heard(Instant::now());
                            if let Some(within) = change.reconnect_within {
                                pauses.spread(within.try_into().unwrap_or_default());
                            }
                            *last = None;
                            self.take(change, &mut link).await
                        }
                        Ok(None) => Err(Status::unavailable("the control plane ended the stream")),
                        Err(status) => Err(status),
                    }
                }
                asked = self.options.wants.next() => self.ask(asked, &link).await,
                _ = reports.tick() => self.report(&link, &mut phase).await,
                _ = looks.tick(), if self.quiet => {
                    match calls(&self.options.telemetry.traffic()) == self.calls {
                        true => Ok(()),
                        false => self.report(&link, &mut phase).await,
                    }
                }
                Ok(()) = phase.changed() => self.report(&link, &mut phase).await,
                Ok(()) = renewed.changed() => {
                    if !Arc::ptr_eq(&self.options.identity.svid(), &svid) {
                        return Ended::Renewed(Box::new(link));
                    }
                    self.report(&link, &mut phase).await
                }
            };
            if let Err(status) = done {
                return Ended::Lost(status);
            }
        }
    }

    /// Uses a service from the next stream on.
    fn used(&mut self, service: ServiceName) {
        if let (_, Some(other)) = self.uses.add(service, Instant::now()) {
            self.held.forget(&other);
        }
    }

    fn hello(&mut self) -> pb::Hello {
        let subscription = |service: &ServiceName| pb::SubscribeService {
            name: service.name.clone(),
            namespace: service.namespace.clone(),
        };
        let known = understood::known();
        forget_descriptors();
        pb::Hello {
            node: Some(self.options.node.clone()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            held: self.held.begin(),
            subscriptions: self.uses.services().map(subscription).collect(),
            policy_fields: known.into_iter().collect(),
        }
    }

    /// Takes up what the control plane says, and all that it has said meanwhile.
    async fn take(&mut self, change: pb::SubscribeResponse, link: &mut Link) -> Result<(), Status> {
        self.heard();
        let uses = &self.uses;
        self.held.apply(change, |service| uses.contains(service));
        let mut ended = Ok(());
        for _ in 1..BATCH_MAX {
            match link.inbound.message().now_or_never() {
                Some(Ok(Some(change))) => self.held.apply(change, |service| uses.contains(service)),
                Some(Ok(None)) | None => break,
                Some(Err(status)) => {
                    ended = Err(status);
                    break;
                }
            }
        }
        if !self.held.is_whole() {
            return ended;
        }
        let snapshot = self.publish();
        if ended.is_ok() {
            self.ask(self.uses.led_to(&snapshot), link).await?;
        }
        let adopted = self.options.data_plane.adopted(snapshot);
        if timeout(ADOPT_MAX, adopted).await.is_err() {
            tracing::warn!("the workers do not run the new configuration yet");
            return ended;
        }
        ended?;
        self.tell(link).await
    }

    /// Says what was made of it.
    async fn tell(&mut self, link: &Link) -> Result<(), Status> {
        let verdicts = self.held.verdicts();
        for nack in verdicts.refused {
            self.options.telemetry.metrics().config_rejection();
            let resource = nack.resource.as_ref().and_then(ResourceKey::from_pb);
            let problem = nack.problems.first();
            tracing::warn!(
                resource = resource.map(|key| key.to_string()),
                field = problem.map(|problem| &*problem.field),
                problem = problem.map(|problem| &*problem.message),
                "refused a resource; its last good form runs on"
            );
            link.send(Message::Nack(nack)).await?;
        }
        if !verdicts.runs.is_empty() {
            link.send(Message::Ack(pb::Ack { resources: verdicts.runs })).await?;
        }
        Ok(())
    }

    /// Compiles what is held and makes it run.
    fn publish(&mut self) -> Arc<Snapshot> {
        let snapshot = self.held.compile();
        self.options.snapshots.publish(Arc::clone(&snapshot));
        let metrics = self.options.telemetry.metrics();
        metrics.config(snapshot.revision, self.held.refused().len());
        let refused = Arc::new(self.held.refused().clone());
        self.progress.send_modify(|progress| progress.refused = refused);
        if let Some(stored) = self.held.stored() {
            self.saver.put(stored);
        }
        snapshot
    }

    /// The control plane is there.
    fn heard(&self) {
        let metrics = self.options.telemetry.metrics();
        metrics.control_connected(true);
        metrics.control_contact(clock::now());
        if !self.progress.borrow().connected {
            tracing::info!(server = self.options.server, "connected to the control plane");
            self.progress.send_modify(|progress| {
                (progress.connected, progress.error) = (true, None);
            });
        }
    }

    /// Asks for services that are used, or may be led to, for the first time.
    async fn ask(&mut self, asked: BTreeSet<ServiceName>, link: &Link) -> Result<(), Status> {
        for service in asked {
            let ServiceName { name, namespace } = service.clone();
            let (new, room) = self.uses.add(service, Instant::now());
            if let Some(other) = room {
                self.give_up(&other, link).await?;
            }
            if new {
                tracing::debug!(service = name, namespace, "used for the first time");
                let subscribe = pb::SubscribeService { name, namespace };
                link.send(Message::Subscribe(subscribe)).await?;
            }
        }
        Ok(())
    }

    async fn give_up(&mut self, service: &ServiceName, link: &Link) -> Result<(), Status> {
        self.held.forget(service);
        let ServiceName { name, namespace } = service.clone();
        tracing::debug!(service = name, namespace, "used no more");
        link.send(Message::Unsubscribe(pb::UnsubscribeService { name, namespace })).await
    }

    /// Says how the workload is, and gives up what it does not use any more.
    async fn report(
        &mut self,
        link: &Link,
        phase: &mut watch::Receiver<WorkloadPhase>,
    ) -> Result<(), Status> {
        let telemetry = Arc::clone(&self.options.telemetry);
        let phase = *phase.borrow_and_update();
        let traffic = telemetry.traffic();
        let calls = calls(&traffic);
        (self.quiet, self.calls) = (calls == self.calls, calls);
        let now = Instant::now();
        let running = self.held.running().map(Arc::clone);
        let running = running.as_deref();
        self.uses.note(&traffic, self.options.data_plane.under_way(), running, now);
        let state = pb::WorkloadState {
            phase: phase.into(),
            in_flight: telemetry.metrics().requests_in_flight().try_into().unwrap_or(u32::MAX),
            traffic,
            certificate_expires_at: Some(timestamp(self.options.identity.svid().not_after())),
            trust_version: self.options.identity.trust_version().to_string(),
            application: self.options.application.borrow().why().unwrap_or_default().to_owned(),
            ejected: self.options.data_plane.ejected(),
            trace: telemetry
                .metrics()
                .take_trace()
                .map_or_else(String::new, |it| format!("{it:032x}")),
        };
        link.send(Message::State(state)).await?;
        if self.progress.borrow().connected {
            telemetry.metrics().control_contact(clock::now());
        }
        self.progress.send_modify(|progress| progress.reported = Some(phase));
        let given_up = self.uses.give_up(running, now);
        for service in &given_up {
            self.give_up(service, link).await?;
        }
        if !given_up.is_empty() {
            self.publish();
        }
        // What the workers took too long to run may run by now.
        if let Some(running) = self.held.running().map(Arc::clone)
            && self.options.data_plane.adopted(running).now_or_never().is_some()
        {
            self.tell(link).await?;
        }
        Ok(())
    }
}

/// How many were made, to whomever.
fn calls(traffic: &[pb::Traffic]) -> u64 {
    traffic.iter().map(|pair| pair.total).sum()
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
