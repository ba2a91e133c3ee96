//! The stream against a control plane of the test's own, over real TLS.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{
    DataPlane, Discovery, Options, REPORT_EVERY, Wants, Watch,
    sample::{answer, policy, route, service},
};
use crate::{
    app::probe::Verdict,
    clock,
    identity::{Authority, csr, disk::DataDirectory},
    resource::pb::{
        self, WorkloadPhase,
        discovery_service_server::{DiscoveryService, DiscoveryServiceServer},
        subscribe_request::Message,
    },
    snapshot::{self, Snapshot},
    spiffe::{self, SpiffeId, Svid},
    task::Tasks,
    telemetry::{self, Recorder, Telemetry, sample},
    tls::{self, Identity},
    units::ServiceName,
};

const LONG: Duration = Duration::from_secs(20);

/// One stream, from the control plane's side.
struct Heard {
    inbound: Streaming<pb::SubscribeRequest>,
    outbound: mpsc::Sender<Result<pb::SubscribeResponse, Status>>,
}

impl Heard {
    async fn next(&mut self) -> Message {
        let next = timeout(LONG, self.inbound.message()).await.expect("in time");
        next.expect("a live stream").expect("a message").message.expect("known")
    }

    /// The next message but reports.
    async fn news(&mut self) -> Message {
        loop {
            match self.next().await {
                Message::State(_) => {}
                other => return other,
            }
        }
    }

    async fn hello(&mut self) -> pb::Hello {
        match self.news().await {
            Message::Hello(hello) => hello,
            other => panic!("{other:?} before the hello"),
        }
    }

    async fn say(&self, response: pb::SubscribeResponse) {
        self.outbound.send(Ok(response)).await.expect("a live stream");
    }
}

struct Fake {
    streams: mpsc::Sender<Heard>,
}

#[tonic::async_trait]
impl DiscoveryService for Fake {
    type SubscribeStream = ReceiverStream<Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (outbound, receiver) = mpsc::channel(8);
        let heard = Heard { inbound: request.into_inner(), outbound };
        self.streams.send(heard).await.map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// A control plane that does as the test says.
struct Plane {
    authority: Authority,
    streams: mpsc::Receiver<Heard>,
    server: String,
    _tasks: Tasks,
}

impl Plane {
    async fn start() -> Self {
        let authority = Authority::create("mesh.local", clock::now()).expect("a CA");
        let id = spiffe::control_plane("mesh.local").expect("an ID");
        let own = svid(&authority, &id);
        let bundle = Arc::new(authority.bundle().clone());
        let acceptor = TlsAcceptor::from(tls::control_server(&own, &bundle, Arc::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = listener.local_addr().expect("bound").to_string();
        let (sender, streams) = mpsc::channel(8);
        let mut tasks = Tasks::new();
        tasks.spawn("accept", async move {
            let mut connections = Tasks::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, streams) = (acceptor.clone(), sender.clone());
                connections.spawn("connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = DiscoveryServiceServer::new(Fake { streams });
                    let _ended = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                        .await;
                });
            }
        });
        Self { authority, streams, server, _tasks: tasks }
    }

    async fn stream(&mut self) -> Heard {
        timeout(LONG, self.streams.recv()).await.expect("in time").expect("a stream")
    }
}

fn svid(authority: &Authority, id: &SpiffeId) -> Svid {
    let request = csr::make().expect("a key");
    let issued = authority.sign(&request.csr, id, Duration::from_hours(1), clock::now());
    Svid::new(issued.expect("signed").chain, request.key, tls::provider()).expect("an SVID")
}

/// Adopts what it may.
struct Workers {
    adopts: AtomicBool,
}

impl DataPlane for Workers {
    fn adopted(&self, _: Arc<Snapshot>) -> BoxFuture<'_, ()> {
        if self.adopts.load(Ordering::Relaxed) {
            Box::pin(async {})
        } else {
            Box::pin(std::future::pending())
        }
    }

    fn under_way(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn ejected(&self) -> Vec<pb::Ejection> {
        vec![pb::Ejection { endpoint: "orders-1".into(), ..Default::default() }]
    }
}

/// A sidecar without a proxy.
struct Sidecar {
    wants: Arc<Wants>,
    telemetry: Arc<Telemetry>,
    snapshots: Arc<snapshot::Handle>,
    identity: Arc<Identity>,
    phase: watch::Sender<WorkloadPhase>,
    watch: Watch,
    workers: Arc<Workers>,
    restored: bool,
    tasks: Tasks,
}

fn web() -> SpiffeId {
    "spiffe://mesh.local/ns/shop/svc/web".parse().expect("an ID")
}

impl Sidecar {
    fn start(plane: &Plane, directory: &Path) -> Self {
        let bundle = plane.authority.bundle().clone();
        let identity = Identity::new(svid(&plane.authority, &web()), bundle).expect("one domain");
        let identity = Arc::new(identity);
        let telemetry = Telemetry::new(telemetry::Options {
            workload: telemetry::metrics::Workload::default(),
            resource: Vec::new(),
            otlp: None,
            exporter: Default::default(),
            sampling: None,
            access_log: Box::new(std::io::sink()),
        });
        let telemetry = Arc::new(telemetry.expect("telemetry"));
        let (phase, phases) = watch::channel(WorkloadPhase::Starting);
        let wants = Arc::new(Wants::default());
        let snapshots = Arc::new(snapshot::Handle::new());
        let workers = Arc::new(Workers { adopts: AtomicBool::new(true) });
        let data_plane: Arc<dyn DataPlane> = Arc::<Workers>::clone(&workers);
        let (mut discovery, watch) = Discovery::new(Options {
            server: plane.server.clone(),
            identity: Arc::clone(&identity),
            node: pb::Node {
                service: "web".into(),
                namespace: "shop".into(),
                workload: "web-1".into(),
                ..Default::default()
            },
            pinned: BTreeSet::new(),
            disk: Arc::new(DataDirectory::open(directory).expect("free")),
            wants: Arc::clone(&wants),
            snapshots: Arc::clone(&snapshots),
            telemetry: Arc::clone(&telemetry),
            data_plane,
            phase: phases,
            application: watch::channel(Verdict::Starting("refused".into())).1,
        });
        let restored = discovery.restore();
        let mut tasks = Tasks::new();
        tasks.spawn("discovery", async move {
            discovery.run().await;
        });
        Self { wants, telemetry, snapshots, identity, phase, watch, workers, restored, tasks }
    }

    async fn snapshot(&self, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut published = self.snapshots.subscribe();
        loop {
            if let Some(snapshot) = self.snapshots.load().filter(|it| wanted(it)) {
                return snapshot;
            }
            timeout(LONG, published.changed()).await.expect("in time").expect("alive");
        }
    }

    async fn stop(mut self) {
        self.watch.flush().await;
        self.tasks.join(Duration::ZERO).await;
    }
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn orders(revision: u64, version: &str) -> pb::SubscribeResponse {
    pb::SubscribeResponse {
        revision,
        changed: vec![service("orders", version)],
        answered: vec![answer("web", true), answer("orders", true)],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_first_use_is_asked_for_compiled_and_acknowledged() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    let hello = stream.hello().await;
    assert_eq!((hello.held.len(), hello.subscriptions.len()), (0, 0));
    sidecar.wants.want(&ServiceName::new("orders", "shop"));
    let Message::Subscribe(asked) = stream.news().await else { panic!("not asked for") };
    assert_eq!((asked.name.as_str(), asked.namespace.as_str()), ("orders", "shop"));
    stream.say(orders(3, "1")).await;
    let snapshot = sidecar.snapshot(|it| it.revision == 3).await;
    assert!(snapshot.destinations[&ServiceName::new("orders", "shop")].is_some());
    let Message::Ack(ack) = stream.news().await else { panic!("not acknowledged") };
    assert_eq!(ack.resources[0].resource_version, "1");
    assert!(sidecar.watch.progress().connected);
}

#[tokio::test]
async fn where_routes_lead_is_asked_for_before_the_first_request() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    stream.hello().await;
    sidecar.wants.want(&ServiceName::new("orders", "shop"));
    let Message::Subscribe(_) = stream.news().await else { panic!("not asked for") };
    let mut change = orders(1, "1");
    change.changed.push(route("orders", &["orders", "orders-v2"], "1"));
    stream.say(change).await;
    let Message::Subscribe(asked) = stream.news().await else { panic!("not asked for") };
    assert_eq!((asked.name.as_str(), asked.namespace.as_str()), ("orders-v2", "shop"));
}

#[tokio::test]
async fn a_refused_resource_is_told_with_its_problems() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    stream.hello().await;
    let changed = vec![policy("orders", "9", "soon"), service("web", "1")];
    let answered = vec![answer("web", true)];
    stream
        .say(pb::SubscribeResponse { revision: 1, changed, answered, ..Default::default() })
        .await;
    let Message::Nack(nack) = stream.news().await else { panic!("not refused") };
    assert_eq!((nack.resource_version.as_str(), nack.problems.len()), ("9", 1));
    let Message::Ack(ack) = stream.news().await else { panic!("held back") };
    assert_eq!(ack.resources.len(), 1);
    assert_eq!(sidecar.watch.progress().refused.len(), 1);
}

#[tokio::test]
async fn nothing_is_acknowledged_before_the_workers_run_it() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    sidecar.workers.adopts.store(false, Ordering::Relaxed);
    let mut stream = plane.stream().await;
    stream.hello().await;
    stream.say(orders(1, "1")).await;
    sidecar.snapshot(|it| it.revision == 1).await;
    let acknowledged = async { while !matches!(stream.next().await, Message::Ack(_)) {} };
    assert!(timeout(Duration::from_millis(200), acknowledged).await.is_err());
    sidecar.workers.adopts.store(true, Ordering::Relaxed);
    let Message::Ack(ack) = stream.news().await else { panic!("not acknowledged") };
    assert_eq!(ack.resources[0].resource_version, "1", "without another change");
}

#[tokio::test]
async fn nothing_runs_before_all_that_protects_the_workload_is_there() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    stream.hello().await;
    let changed = vec![service("web", "1")];
    stream.say(pb::SubscribeResponse { revision: 1, changed, ..Default::default() }).await;
    // The state after what was said was taken.
    while !sidecar.watch.progress().connected {
        stream.next().await;
    }
    sidecar.phase.send_replace(WorkloadPhase::Ready);
    sidecar.watch.reported(WorkloadPhase::Ready, LONG).await;
    assert!(sidecar.snapshots.load().is_none());
    stream.say(orders(2, "1")).await;
    let snapshot = sidecar.snapshot(|_| true).await;
    assert_eq!((snapshot.revision, snapshot.good.len()), (2, 2));
}

#[tokio::test]
async fn phases_are_reported_as_they_change() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    stream.hello().await;
    stream.say(orders(1, "1")).await;
    for phase in [WorkloadPhase::Ready, WorkloadPhase::Draining] {
        sidecar.phase.send_replace(phase);
        loop {
            if let Message::State(state) = stream.next().await
                && state.phase() == phase
            {
                assert!(state.certificate_expires_at.is_some());
                assert_eq!((&*state.application, state.ejected.len()), ("refused", 1));
                break;
            }
        }
        sidecar.watch.reported(phase, LONG).await;
        assert_eq!(sidecar.watch.progress().reported, Some(phase));
    }
}

#[tokio::test]
async fn the_first_calls_after_a_quiet_time_are_reported_at_once() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    stream.hello().await;
    let mut reported = async || loop {
        if let Message::State(state) = stream.next().await {
            return state.traffic.iter().map(|pair| pair.total).sum::<u64>();
        }
    };
    assert_eq!(reported().await, 0);
    let made = Instant::now();
    Recorder::new(&sidecar.telemetry).finish(&mut sample());
    assert_eq!(reported().await, 1);
    assert!(made.elapsed() < REPORT_EVERY * 3 / 4, "{:?}", made.elapsed());
    sidecar.stop().await;
}

#[tokio::test]
async fn a_lost_control_plane_changes_nothing_and_is_found_again() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut stream = plane.stream().await;
    stream.hello().await;
    sidecar.wants.want(&ServiceName::new("orders", "shop"));
    stream.news().await;
    stream.say(orders(1, "1")).await;
    let before = sidecar.snapshot(|it| it.revision == 1).await;
    drop(stream);
    let mut stream = plane.stream().await;
    let hello = stream.hello().await;
    assert_eq!(hello.held[0].resource_version, "1");
    assert_eq!(hello.subscriptions[0].name, "orders");
    assert!(Arc::ptr_eq(&before, &sidecar.snapshots.load().expect("published")));
}

#[tokio::test]
async fn a_restarted_sidecar_serves_from_its_disk() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    assert!(!sidecar.restored);
    let mut stream = plane.stream().await;
    stream.hello().await;
    sidecar.wants.want(&ServiceName::new("orders", "shop"));
    stream.news().await;
    stream.say(orders(5, "1")).await;
    sidecar.snapshot(|it| it.revision == 5).await;
    sidecar.stop().await;
    drop(stream);

    let sidecar = Sidecar::start(&plane, root.path());
    assert!(sidecar.restored);
    let snapshot = sidecar.snapshots.load().expect("published before anything was heard");
    assert!(snapshot.destinations[&ServiceName::new("orders", "shop")].is_some());
    let hello = plane.stream().await.hello().await;
    assert_eq!((hello.held.len(), hello.subscriptions.len()), (1, 1));
}

#[tokio::test]
async fn a_broken_file_on_disk_is_no_reason_not_to_start() {
    let (mut plane, root) = (Plane::start().await, directory());
    std::fs::write(root.path().join("last-good"), b"\xff\xff\xff").expect("written");
    let sidecar = Sidecar::start(&plane, root.path());
    assert!(!sidecar.restored);
    plane.stream().await.hello().await;
}

#[tokio::test]
async fn after_a_renewal_the_new_stream_is_there_before_the_old_one_ends() {
    let (mut plane, root) = (Plane::start().await, directory());
    let sidecar = Sidecar::start(&plane, root.path());
    let mut first = plane.stream().await;
    first.hello().await;
    first.say(orders(1, "1")).await;
    sidecar.snapshot(|it| it.revision == 1).await;
    sidecar.identity.replace_svid(svid(&plane.authority, &web())).expect("the same identity");
    let mut second = plane.stream().await;
    second.hello().await;
    assert!(!first.outbound.is_closed(), "the old stream lives until the new one is heard");
    second.say(orders(2, "2")).await;
    timeout(LONG, first.outbound.closed()).await.expect("then it ends");
    sidecar.snapshot(|it| it.revision == 2).await;
}
