//! A fleet of light sidecars against a built control plane: everything of a sidecar that a control
//! plane sees (a token, a key and an SVID of its own, a TLS connection, the stream with its reports,
//! acknowledgements and jittered reconnections) and nothing of what it does not (no proxy). A
//! thousand of them fit beside the control plane on a small machine.

#![allow(dead_code, reason = "the measurement and the test each use a part of it")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use outrigger::{
    app::{
        client::{Client, Credential, TlsSource},
        context::Contexts,
    },
    identity::{JoinToken, csr},
    resource::{
        pb::{self, subscribe_request::Message},
        understood,
    },
    spiffe::{Svid, TrustBundle},
    tls::{self, ControlTrust},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{self, Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The namespace of everything.
pub(crate) const NAMESPACE: &str = "fleet";
/// The service that every sidecar uses.
pub(crate) const HUB: &str = "hub";
/// Workloads of one service.
pub(crate) const WORKLOADS: usize = 10;
/// Services that a sidecar uses beside the hub.
const USES: usize = 4;
/// As a sidecar reports its state.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// A sidecar's pauses between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Joins at once: whoever starts a thousand machines does not start them in one second either.
const JOINS_MAX: usize = 16;

/// What stands for the sidecars while they run.
pub(crate) struct Fleet {
    pub(crate) sidecars: Vec<Arc<Sidecar>>,
    pub(crate) admin: Client,
    pub(crate) server: String,
    running: JoinSet<()>,
}

/// One of them, as its task tells of it.
pub(crate) struct Sidecar {
    pub(crate) service: String,
    pub(crate) workload: String,
    tls: TlsSource,
    uses: Vec<String>,
    index: usize,
    heard: Mutex<Heard>,
    /// Does not read its stream while set.
    pub(crate) deaf: AtomicBool,
    /// Says that it is ready to take requests.
    pub(crate) ready: AtomicBool,
    /// Names of resources that it refuses.
    pub(crate) refuses: Mutex<Option<String>>,
}

/// What a sidecar was told.
#[derive(Default)]
struct Heard {
    /// Versions by kind and name.
    held: BTreeMap<(String, String), String>,
    /// When it acknowledged which revision first.
    revisions: Vec<(u64, Instant)>,
    connected_at: Option<Instant>,
    spread: Duration,
    counts: Counts,
}

/// What was exchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) streams: u64,
    pub(crate) messages: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
    pub(crate) removed_workloads: u64,
}

impl Sidecar {
    pub(crate) fn counts(&self) -> Counts {
        self.heard.lock().unwrap().counts
    }

    /// When it acknowledged everything up to this revision.
    pub(crate) fn acknowledged(&self, revision: u64) -> Option<Instant> {
        let heard = self.heard.lock().unwrap();
        heard.revisions.iter().find(|(at, _)| *at >= revision).map(|(_, at)| *at)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.heard.lock().unwrap().revisions.last().map_or(0, |(revision, _)| *revision)
    }

    /// Since when its stream has been open and answered.
    pub(crate) fn connected_at(&self) -> Option<Instant> {
        self.heard.lock().unwrap().connected_at
    }

    /// Resources that it holds.
    pub(crate) fn held(&self) -> usize {
        self.heard.lock().unwrap().held.len()
    }

    /// The version that it holds of a resource.
    pub(crate) fn version(&self, kind: &str, name: &str) -> Option<String> {
        self.heard.lock().unwrap().held.get(&(kind.to_owned(), name.to_owned())).cloned()
    }

    /// Runs until it is dropped, as a sidecar does: connects, follows, comes again.
    async fn live(self: Arc<Self>, server: String) {
        let mut longest = PAUSE_FIRST;
        loop {
            let began = Instant::now();
            let _ended = self.stream(&server).await;
            self.heard.lock().unwrap().connected_at = None;
            let spread = self.heard.lock().unwrap().spread;
            let mut within = longest;
            if began.elapsed() > PAUSE_MAX {
                longest = PAUSE_FIRST;
                within = longest.max(spread);
            }
            sleep(within.mul_f64(fastrand::f64())).await;
            longest = (longest * 2).min(PAUSE_MAX.max(spread));
        }
    }

    async fn stream(&self, server: &str) -> Result<(), Status> {
        let client = Client::new(server, Arc::clone(&self.tls))
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(64);
        let send = async |message| {
            let request = pb::SubscribeRequest { message: Some(message) };
            sender.send(request).await.map_err(|_| Status::unavailable("ended"))
        };
        send(Message::Hello(self.hello())).await?;
        let mut discovery = client.discovery();
        let open = discovery.subscribe(ReceiverStream::new(receiver));
        let mut inbound = timeout(Duration::from_secs(15), open)
            .await
            .map_err(|_| Status::unavailable("late"))??
            .into_inner();
        self.heard.lock().unwrap().counts.streams += 1;
        let mut reports = time::interval(REPORT_EVERY);
        let mut said = self.ready.load(Ordering::Relaxed);
        let mut looks = time::interval(Duration::from_millis(50));
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let hears = !self.deaf.load(Ordering::Relaxed);
            tokio::select! {
                message = inbound.message(), if hears => match message? {
                    Some(change) => {
                        for answer in self.take(change) {
                            send(answer).await?;
                        }
                    }
                    None => return Ok(()),
                },
                _ = reports.tick() => send(self.state()).await?,
                _ = looks.tick() => {
                    let ready = self.ready.load(Ordering::Relaxed);
                    if ready != said {
                        said = ready;
                        send(self.state()).await?;
                    }
                }
            }
        }
    }

    fn hello(&self) -> pb::Hello {
        let held = self.heard.lock().unwrap().held.clone();
        let held = held.into_iter().map(|((kind, name), version)| pb::Held {
            resource: Some(id(&kind, &name)),
            resource_version: version,
        });
        let octets = [self.index / 62_500 % 250, self.index / 250 % 250, self.index % 250 + 1];
        pb::Hello {
            node: Some(pb::Node {
                service: self.service.clone(),
                namespace: NAMESPACE.to_owned(),
                workload: self.workload.clone(),
                address: format!("10.{}.{}.{}", octets[0], octets[1], octets[2]),
                inbound: 15006,
                ports: [("grpc".to_owned(), 9090)].into(),
                labels: [("version".to_owned(), "v1".to_owned())].into(),
                zone: format!("zone-{}", self.index % 3),
                ..Default::default()
            }),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            held: held.collect(),
            policy_fields: understood::known().into_iter().collect(),
            subscriptions: self
                .uses
                .iter()
                .map(|name| pb::SubscribeService {
                    name: name.clone(),
                    namespace: NAMESPACE.to_owned(),
                })
                .collect(),
        }
    }

    fn state(&self) -> Message {
        let phase = match self.ready.load(Ordering::Relaxed) {
            true => pb::WorkloadPhase::Ready,
            false => pb::WorkloadPhase::Draining,
        };
        let traffic = self.uses.iter().map(|name| pb::Traffic {
            source: format!("{}.{NAMESPACE}", self.service),
            destination: format!("{name}.{NAMESPACE}"),
            total: 1000,
            latency_buckets: vec![0, 10, 500, 490],
            ..Default::default()
        });
        Message::State(pb::WorkloadState {
            phase: phase.into(),
            traffic: traffic.collect(),
            ..Default::default()
        })
    }

    /// Takes up a change as a sidecar that can run everything, and says what is to be answered.
    fn take(&self, change: pb::SubscribeResponse) -> Vec<Message> {
        let refuses = self.refuses.lock().unwrap().clone();
        let mut heard = self.heard.lock().unwrap();
        heard.counts.messages += 1;
        let (mut answers, mut runs) = (Vec::new(), Vec::new());
        for resource in change.changed {
            let Some(metadata) = &resource.metadata else { continue };
            let kind = kind(&resource);
            heard.counts.changed += 1;
            let version = metadata.resource_version.clone();
            let id = id(kind, &metadata.name);
            if refuses.as_ref() == Some(&metadata.name) {
                let message = "this sidecar does not know that".to_owned();
                let problems = vec![pb::Problem { message, ..Default::default() }];
                let (resource, resource_version) = (Some(id), version);
                answers.push(Message::Nack(pb::Nack { resource, resource_version, problems }));
                continue;
            }
            heard.held.insert((kind.to_owned(), metadata.name.clone()), version.clone());
            runs.push(pb::Held { resource: Some(id), resource_version: version });
        }
        for id in change.removed {
            heard.counts.removed += 1;
            heard.counts.removed_workloads += u64::from(id.kind == "Workload");
            heard.held.remove(&(id.kind, id.name));
        }
        if let Some(within) = change.reconnect_within {
            heard.spread = within.try_into().expect("a time");
        }
        let now = Instant::now();
        heard.connected_at.get_or_insert(now);
        if heard.revisions.last().is_none_or(|(revision, _)| *revision < change.revision) {
            heard.revisions.push((change.revision, now));
        }
        if !runs.is_empty() {
            answers.push(Message::Ack(pb::Ack { resources: runs }));
        }
        answers
    }
}

fn id(kind: &str, name: &str) -> pb::ResourceId {
    let namespace = if kind == "Mesh" { "" } else { NAMESPACE };
    pb::ResourceId { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}

fn kind(resource: &pb::Resource) -> &'static str {
    outrigger::resource::Kind::of(resource).map_or("", outrigger::resource::Kind::name)
}

impl Fleet {
    /// Joins `count` sidecars to the control plane at `server` and starts them; the administrator's
    /// credential is that of the current context of the file.
    pub(crate) async fn start(server: &str, contexts: &Path, count: usize) -> Self {
        let context = Contexts::load(Some(contexts)).expect("a contexts file");
        let context = context.choose(None).expect("a current context").context;
        let credential = Credential::load(&context).expect("a credential");
        let admin = Client::new(server, credential.tls()).expect("an address");
        let room = Arc::new(Semaphore::new(JOINS_MAX));
        let mut joining = JoinSet::new();
        let services = count.div_ceil(WORKLOADS);
        for first in (0..count).step_by(WORKLOADS) {
            let service = service(first / WORKLOADS);
            let token = create_token(&admin, &service).await;
            for index in first..count.min(first + WORKLOADS) {
                let (room, server, token) = (Arc::clone(&room), server.to_owned(), token.clone());
                let service = service.clone();
                let others =
                    (1..=USES).map(|step| self::service((first / WORKLOADS + step) % services));
                let mut uses: Vec<_> = others.chain([HUB.to_owned()]).collect();
                uses.sort();
                uses.dedup();
                joining.spawn(async move {
                    let _place = room.acquire().await.expect("never closed");
                    let tls = join(&server, &token).await;
                    Arc::new(Sidecar {
                        workload: format!("{service}-{index}"),
                        service,
                        tls,
                        uses,
                        index,
                        heard: Mutex::default(),
                        deaf: AtomicBool::new(false),
                        ready: AtomicBool::new(true),
                        refuses: Mutex::default(),
                    })
                });
            }
        }
        let mut sidecars = joining.join_all().await;
        sidecars.sort_by_key(|sidecar| sidecar.index);
        let mut running = JoinSet::new();
        for sidecar in &sidecars {
            running.spawn(Arc::clone(sidecar).live(server.to_owned()));
        }
        Self { sidecars, admin, server: server.to_owned(), running }
    }

    /// Writes and returns the revision.
    pub(crate) async fn apply(&self, resources: Vec<pb::Resource>) -> u64 {
        let request = pb::ApplyRequest { resources, ..Default::default() };
        let answer = self.admin.config().apply(request).await.expect("applied").into_inner();
        let errors: Vec<_> = answer.problems.iter().map(|problem| &problem.message).collect();
        assert!(answer.revision > 0, "{errors:?}");
        answer.revision
    }

    /// Goes back to a revision and returns the new one.
    pub(crate) async fn rollback(&self, to: u64) -> u64 {
        let request = pb::RollbackRequest { revision: to, ..Default::default() };
        let answer = self.admin.config().rollback(request).await.expect("rolled back").into_inner();
        assert!(answer.revision > to, "{:?}", answer.problems);
        answer.revision
    }

    /// As the control plane sees it.
    pub(crate) async fn status(&self) -> pb::StatusResponse {
        let asked = self.admin.config().status(pb::StatusRequest::default()).await;
        asked.expect("a status").into_inner()
    }

    /// Waits until every sidecar has acknowledged a revision; returns when each did, in order.
    pub(crate) async fn acknowledged(&self, revision: u64, bound: Duration) -> Vec<Instant> {
        let end = Instant::now() + bound;
        loop {
            let found: Vec<_> =
                self.sidecars.iter().filter_map(|it| it.acknowledged(revision)).collect();
            if found.len() == self.sidecars.len() {
                let mut found = found;
                found.sort();
                return found;
            }
            let (have, all) = (found.len(), self.sidecars.len());
            assert!(Instant::now() < end, "{have} of {all} have revision {revision}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until as many sidecars are connected as there are and the control plane says that all of
    /// them are in sync and ready.
    pub(crate) async fn in_sync(&self, bound: Duration) {
        let end = Instant::now() + bound;
        loop {
            let connected = self.sidecars.iter().filter(|it| it.connected_at().is_some()).count();
            let mut synced = 0;
            if connected == self.sidecars.len() {
                let status = self.status().await;
                let good =
                    |it: &&pb::SidecarStatus| it.in_sync && it.phase() == pb::WorkloadPhase::Ready;
                synced = status.sidecars.iter().filter(good).count();
                if synced == connected {
                    return;
                }
            }
            let all = self.sidecars.len();
            assert!(
                Instant::now() < end,
                "{connected} of {all} are connected, {synced} are in sync"
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What all were told, together.
    pub(crate) fn counts(&self) -> Counts {
        self.sidecars.iter().map(|it| it.counts()).fold(Counts::default(), |sum, it| Counts {
            streams: sum.streams + it.streams,
            messages: sum.messages + it.messages,
            changed: sum.changed + it.changed,
            removed: sum.removed + it.removed,
            removed_workloads: sum.removed_workloads + it.removed_workloads,
        })
    }
}

/// The service of that number; the first is the hub.
pub(crate) fn service(number: usize) -> String {
    if number == 0 { HUB.to_owned() } else { format!("service-{number}") }
}

async fn create_token(admin: &Client, service: &str) -> String {
    let request = pb::CreateTokenRequest {
        service: service.to_owned(),
        namespace: NAMESPACE.to_owned(),
        uses: Some(0),
        ..Default::default()
    };
    admin.admin().create_token(request).await.expect("a token").into_inner().token
}

/// Joins with a key of its own.
async fn join(server: &str, token: &str) -> TlsSource {
    static RETRIES: AtomicU64 = AtomicU64::new(0);
    let parsed = JoinToken::parse(token).expect("a token");
    let config = tls::control_client(ControlTrust::RootHash(parsed.root_hash()), None);
    let request = csr::make().expect("a key");
    let client = Client::new(server, Arc::new(move || Arc::clone(&config))).expect("an address");
    let answer = loop {
        let join = pb::JoinRequest { token: token.to_owned(), csr: request.csr.clone() };
        match client.identity().join(join).await {
            Ok(answer) => break answer.into_inner(),
            Err(status) => {
                assert!(RETRIES.fetch_add(1, Ordering::Relaxed) < 1000, "{status}");
                sleep(PAUSE_FIRST).await;
            }
        }
    };
    let owned = |der: Vec<Vec<u8>>| der.into_iter().map(Into::into).collect();
    let bundle = answer.bundle.expect("roots");
    let bundle = TrustBundle::new(&bundle.trust_domain, owned(bundle.roots)).expect("roots");
    let svid = Svid::new(owned(answer.chain), request.key, tls::provider()).expect("an SVID");
    let config = tls::control_client(ControlTrust::Bundle(Arc::new(bundle)), Some(&svid));
    Arc::new(move || Arc::clone(&config))
}

/// A policy of a service: what is written again and again.
pub(crate) fn policy(service: &str, milliseconds: usize) -> pb::Resource {
    let target = pb::TargetRef {
        kind: "Service".to_owned(),
        name: service.to_owned(),
        ..Default::default()
    };
    let request = format!("{milliseconds}ms");
    let spec = pb::TrafficPolicy {
        target_refs: vec![target],
        timeouts: Some(pb::Timeouts { request, ..Default::default() }),
        ..Default::default()
    };
    pb::Resource {
        metadata: Some(pb::Metadata {
            name: service.to_owned(),
            namespace: NAMESPACE.to_owned(),
            ..Default::default()
        }),
        spec: Some(pb::resource::Spec::TrafficPolicy(spec)),
        status: None,
    }
}
