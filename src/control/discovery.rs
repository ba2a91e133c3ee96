//! `DiscoveryService.Subscribe`: one task for each sidecar, which tells it what concerns it and hears
//! what it makes of that.
//!
//! The task owns the stream's place in the fleet and the registry; ending it withdraws the workload,
//! unless its connection just fell silent: then nobody knows whether the workload or the network went,
//! and the registry keeps it for those who have no other. It never queues: while a message waits for a slow sidecar nothing new is
//! computed, and then only what is true at that time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    auth, error,
    fleet::{Fleet, Seat},
    metrics::Metrics,
    refs,
    registry::{Registration, Registry},
    scope::{Viewer, scope},
    stand_in,
    state::State,
    trail::Interest,
    trust::Tenure,
    world::World,
};
use crate::{
    resource::{
        Kind, ResourceKey,
        pb::{self, discovery_service_server::DiscoveryService, subscribe_request::Message},
        understood,
    },
    spiffe::SpiffeId,
    task,
    tls::Peer,
    units::{ServiceName, name::check_label},
};

/// How long a stream may stay without its hello.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// Changes of the mesh that come within this time are told at once.
const BATCH: Duration = Duration::from_millis(10);
/// So much time for each connected sidecar lies between two looks of one at what concerns it: where
/// a thousand connect at once, each of them looks five times a second and not a hundred. The first
/// look after a while waits for nothing but [`BATCH`].
const BETWEEN_EACH: Duration = Duration::from_micros(200);
/// How long the reason for a stream's end waits for a slow sidecar.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);
/// Services that one sidecar may use.
const USES_MAX: usize = 10_000;
/// Problems kept of one refusal.
const PROBLEMS_MAX: usize = 20;
/// Characters kept of each text of a problem.
const TEXT_MAX: usize = 500;

/// The service.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub state: Arc<State>,
    pub registry: Arc<Registry>,
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<Metrics>,
    /// Until then sidecars keep the workloads that they held before this control plane started,
    /// because those need a moment to register again.
    pub grace_until: Instant,
    /// Cancelled when the control plane ends.
    pub ending: CancellationToken,
}

#[tonic::async_trait]
impl DiscoveryService for Discovery {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let principal = auth::principal(&request)?;
        let peer = principal.workload()?.clone();
        let tenure = Tenure::of(&request)?;
        let inbound = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let start = Start {
            state: Arc::clone(&self.state),
            registry: Arc::clone(&self.registry),
            fleet: Arc::clone(&self.fleet),
            metrics: Arc::clone(&self.metrics),
            grace_until: self.grace_until,
            ending: self.ending.clone(),
            peer,
            tenure,
            inbound,
            sender: sender.clone(),
        };
        let _detached = task::spawn("subscribe", async move {
            let who = start.peer.id.clone();
            let Err(status) = start.run().await else { return };

            match status.code() {
                // How the connection broke is of no interest: a sidecar ends so too.
                Code::Unknown | Code::Cancelled => {
                    tracing::info!(identity = %who, "the sidecar hung up");
                }
                code => {
                    let reason = status.message();
                    tracing::info!(identity = %who, ?code, reason, "stream ended");
                }
            }
            // Its reader may be gone or slow.
            let _told = timeout(LAST_WORD_MAX, sender.send(Err(status))).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A stream before its hello.
struct Start {
    state: Arc<State>,
    registry: Arc<Registry>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    grace_until: Instant,
    ending: CancellationToken,
    peer: Peer,
    tenure: Tenure,
    inbound: Streaming<pb::SubscribeRequest>,
    sender: mpsc::Sender<Result<pb::SubscribeResponse, Status>>,
}

impl Start {
    async fn run(mut self) -> Result<(), Status> {
        let mut stream = self.begin().await?;
        let replaced = stream.seat.session().replaced.clone();
        let ended = tokio::select! {
            ended = stream.run(&mut self.inbound, &self.sender) => ended,
            () = self.ending.cancelled() => return Err(error::later(
                Code::Unavailable,
                "ENDING",
                "the control plane is ending",
                Duration::from_millis(500),
            )),
            () = replaced.cancelled() => return Err(error::refused(
                Code::Aborted,
                "REPLACED",
                "a newer stream of the same workload has taken over",
                &[],
            )),
            why = self.tenure.clone().over() => return Err(why),
        };
        if self.tenure.connection.end.was_silent().await {
            tracing::warn!(
                workload = %stream.seat.session().key,
                "no sign of the sidecar any more; callers use its workload only where there is no other"
            );
            stream.registration.fall_silent();
        }
        ended
    }

    /// Hears the hello and registers what it says.
    async fn begin(&mut self) -> Result<Stream, Status> {
        let first = timeout(HELLO_MAX, self.inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(pb::SubscribeRequest { message: Some(Message::Hello(hello)) }) = first else {
            return Err(error::invalid("hello", "must come first"));
        };
        let node = hello.node.ok_or_else(|| error::invalid("hello.node", "is missing"))?;
        let registration = self.registry.register(&node, &self.peer.id).await?;
        let service = own_service(&self.peer.id)?;
        let seat = self.fleet.join(
            registration.key(),
            &service,
            &hello.version,
            &self.tenure.connection,
            self.state.now(),
        );
        let remote = self.tenure.connection.remote;
        tracing::info!(workload = %seat.session().key, %service, %remote, "sidecar connected");
        let held: BTreeMap<_, _> = hello
            .held
            .into_iter()
            .filter_map(|held| {
                Some((ResourceKey::from_pb(&held.resource?)?, held.resource_version))
            })
            .collect();
        let kept = held.keys().filter(|key| key.kind == Kind::Workload.name()).cloned().collect();
        seat.session().progress().ledger.hold(held);
        let viewer = Viewer { service: Some(service), labels: node.labels, ..Default::default() };
        let mut stream = Stream {
            worlds: self.state.subscribe(),
            state: Arc::clone(&self.state),
            fleet: Arc::clone(&self.fleet),
            metrics: Arc::clone(&self.metrics),
            seat,
            registration,
            viewer,
            kept,
            policy_fields: understood::known_to(&hello.policy_fields),
            denied: BTreeMap::new(),
            grace_until: self.grace_until,
            answered: BTreeMap::new(),
            namespaces: None,
            outgoing: VecDeque::new(),
            due: Some(Instant::now()),
            seen: None,
            looked_at: None,
        };
        for subscription in hello.subscriptions {
            stream.subscribe(subscription)?;
        }
        Ok(stream)
    }
}

fn own_service(identity: &SpiffeId) -> Result<ServiceName, Status> {
    identity.service().ok_or_else(|| error::internal("a workload without a service"))
}

/// A stream after its hello.
struct Stream {
    state: Arc<State>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    // Field order: the workload is withdrawn before its place is given up.
    registration: Registration,
    seat: Seat,
    viewer: Viewer,
    /// Workloads that it held and that may not have registered again yet.
    kept: BTreeSet<ResourceKey>,
    /// The fields of authorization policies that it knows.
    policy_fields: BTreeSet<String>,
    /// Policies that it would not understand, for which others stand, and why.
    denied: BTreeMap<ResourceKey, Vec<pb::Problem>>,
    grace_until: Instant,
    /// What was said of each service: whether it exists.
    answered: BTreeMap<ServiceName, bool>,
    /// As they were sent last.
    namespaces: Option<BTreeSet<String>>,
    /// Messages of the last difference that are still to be sent.
    outgoing: VecDeque<pb::SubscribeResponse>,
    /// When to look for a difference.
    due: Option<Instant>,
    /// The generation of the world that was looked at, and on what the result depends; `None` when
    /// it has to be looked at again whatever changed.
    seen: Option<(u64, Interest)>,
    /// When that was.
    looked_at: Option<Instant>,
    worlds: watch::Receiver<u64>,
}

impl Stream {
    async fn run(
        &mut self,
        inbound: &mut Streaming<pb::SubscribeRequest>,
        sender: &mpsc::Sender<Result<pb::SubscribeResponse, Status>>,
    ) -> Result<(), Status> {
        loop {
            let idle = self.outgoing.is_empty();
            let due = self.due.unwrap_or_else(Instant::now);
            let in_grace = !self.kept.is_empty();
            tokio::select! {
                message = inbound.message() => match message? {
                    Some(message) => self.take(message)?,
                    None => return Ok(()),
                },
                permit = sender.reserve(), if !idle => {
                    let (Ok(permit), Some(message)) = (permit, self.outgoing.pop_front()) else {
                        return Ok(());
                    };
                    permit.send(Ok(message));
                }
                () = sleep_until(due), if idle && self.due.is_some() => self.look(),
                changed = self.worlds.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.look_within(BATCH);
                }
                () = sleep_until(self.grace_until), if in_grace => {
                    self.kept.clear();
                    self.seen = None;
                    self.look_within(Duration::ZERO);
                }
            }
        }
    }

    fn look_within(&mut self, pause: Duration) {
        let at = Instant::now() + pause;
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn take(&mut self, request: pb::SubscribeRequest) -> Result<(), Status> {
        match request.message {
            Some(Message::Hello(_)) => return Err(error::invalid("hello", "comes only once")),
            Some(Message::Subscribe(service)) => self.subscribe(service)?,
            Some(Message::Unsubscribe(service)) => {
                let name = ServiceName::new(service.name, refs::or_default(&service.namespace));
                self.viewer.uses.remove(&name);
                self.answered.remove(&name);
                self.seen = None;
                self.look_within(BATCH);
            }
            Some(Message::Ack(ack)) => self.acknowledge(ack),
            Some(Message::Nack(nack)) => self.refuse(nack),
            Some(Message::State(state)) => self.report(&state),
            // A message of a newer sidecar.
            None => {}
        }
        Ok(())
    }

    fn subscribe(&mut self, service: pb::SubscribeService) -> Result<(), Status> {
        let name = ServiceName::new(service.name, refs::or_default(&service.namespace));
        for label in [&name.name, &name.namespace] {
            check_label(label)
                .map_err(|wrong| error::invalid("subscribe.name", format!("{label:?} {wrong}")))?;
        }
        if self.viewer.uses.len() >= USES_MAX && !self.viewer.uses.contains(&name) {
            return Err(Status::resource_exhausted(format!(
                "a sidecar may use {USES_MAX} services at once"
            )));
        }
        // Asked again, it is answered again.
        self.answered.remove(&name);
        self.viewer.uses.insert(name);
        self.seen = None;
        self.look_within(Duration::ZERO);
        Ok(())
    }

    fn acknowledge(&self, ack: pb::Ack) {
        let answered = {
            let mut progress = self.seat.session().progress();
            for held in ack.resources {
                let Some(key) = held.resource.as_ref().and_then(ResourceKey::from_pb) else {
                    continue;
                };
                match self.denied.get(&key) {
                    // It runs what stands for a policy that it would not understand.
                    Some(why) => {
                        progress.ledger.refuse(&key, &held.resource_version, why.clone());
                    }
                    None => {
                        progress.ledger.acknowledge(&key, &held.resource_version);
                    }
                }
            }
            progress.settle(self.state.now())
        };
        self.has_answered(answered);
    }

    /// Times the revisions for which this sidecar was the last one.
    fn has_answered(&self, revision: Option<u64>) {
        let Some(revision) = revision else { return };
        for took in self.fleet.answered(self.seat.session(), revision, Instant::now()) {
            self.metrics.propagated(took);
        }
    }

    fn refuse(&self, nack: pb::Nack) {
        let Some(key) = nack.resource.as_ref().and_then(ResourceKey::from_pb) else { return };
        let problems: Vec<_> =
            nack.problems.into_iter().take(PROBLEMS_MAX).map(shortened).collect();
        tracing::warn!(
            workload = %self.seat.session().key,
            resource = %key,
            problem = problems.first().map_or("", |problem| &problem.message),
            "sidecar refused a resource"
        );
        let answered = {
            let mut progress = self.seat.session().progress();
            progress.ledger.refuse(&key, &nack.resource_version, problems);
            progress.settle(self.state.now())
        };
        self.has_answered(answered);
    }

    fn report(&self, state: &pb::WorkloadState) {
        // What drains is withdrawn before anything else is done with the report.
        self.registration.report(state.phase());
        self.seat.session().progress().report(state, Instant::now());
        self.fleet.report(self.seat.session(), Instant::now(), &state.traffic);
    }

    /// Looks whether anything changed that concerns the sidecar, and if so computes what it has to be
    /// told now.
    fn look(&mut self) {
        self.due = None;
        self.worlds.mark_unchanged();
        let world = self.state.world();
        if let Some((seen, interest)) = &mut self.seen
            && !world.trail.concerns(interest, *seen)
        {
            *seen = world.trail.generation();
            let answered = {
                let mut progress = self.seat.session().progress();
                progress.seen_revision = world.revision;
                progress.settle(self.state.now())
            };
            return self.has_answered(answered);
        }
        let pause = BETWEEN_EACH * self.fleet.count();
        let now = Instant::now();
        match self.looked_at.map(|at| at + pause).filter(|at| self.seen.is_some() && *at > now) {
            Some(later) => self.due = Some(later),
            None => {
                self.looked_at = Some(now);
                self.compute(&world);
            }
        }
    }

    fn compute(&mut self, world: &World) {
        let (mut wanted, interest) = scope(world, &self.viewer);
        self.seen = Some((world.trail.generation(), interest));
        let version = &self.seat.session().version;
        self.denied = stand_in::put(&mut wanted, &self.policy_fields, version);
        let (delta, answered) = {
            let mut progress = self.seat.session().progress();
            if progress.viewer != self.viewer {
                progress.viewer = self.viewer.clone();
            }
            let delta = progress.ledger.advance(&wanted, &self.kept);
            progress.seen_revision = world.revision;
            (delta, progress.settle(self.state.now()))
        };
        let own = self.viewer.service.as_ref();
        let answers: Vec<_> = own
            .into_iter()
            .chain(self.viewer.uses.iter().filter(|service| Some(*service) != own))
            .map(|service| (service.clone(), world.has_service(service)))
            .filter(|(service, exists)| self.answered.get(service) != Some(exists))
            .collect();
        let namespaces = world.namespaces();
        let namespaces = (self.namespaces.as_ref() != Some(&namespaces)).then_some(namespaces);
        if delta.is_empty() && answers.is_empty() && namespaces.is_none() {
            return self.has_answered(answered);
        }
        let mut messages = delta.into_messages(world.revision);
        // An answer says that all that concerns the service has been sent, so it comes last.
        if let Some(last) = messages.last_mut() {
            last.answered = answers
                .iter()
                .map(|(service, exists)| pb::Answered {
                    name: service.name.clone(),
                    namespace: service.namespace.clone(),
                    exists: *exists,
                })
                .collect();
            last.namespaces = namespaces
                .as_ref()
                .map(|names| pb::Namespaces { names: names.iter().cloned().collect() });
            last.reconnect_within = prost_types::Duration::try_from(self.fleet.spread()).ok();
        }
        self.answered.extend(answers);
        if namespaces.is_some() {
            self.namespaces = namespaces;
        }
        self.outgoing.extend(messages);
    }
}

fn shortened(problem: pb::Problem) -> pb::Problem {
    let short = |text: String| text.chars().take(TEXT_MAX).collect();
    pb::Problem {
        // That of the refusal.
        resource: None,
        field: short(problem.field),
        value: short(problem.value),
        message: short(problem.message),
        hint: short(problem.hint),
        file: short(problem.file),
        ..problem
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::{TEXT_MAX, shortened};
    use crate::resource::pb;

    #[test]
    fn what_is_kept_of_a_refusal_is_bounded() {
        let long = || "x".repeat(1 << 20);
        let resource = Some(pb::ResourceId { kind: long(), namespace: long(), name: long() });
        let problem = pb::Problem {
            resource,
            field: long(),
            value: long(),
            message: long(),
            hint: long(),
            file: long(),
            ..Default::default()
        };
        assert!(shortened(problem).encoded_len() < 6 * TEXT_MAX);
    }
}
