//! A mesh in one process: a CA, sidecars, and configuration as users write it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use crate::{
    clock,
    identity::{Authority, csr},
    proxy::{Address, App, Discover, Proxy, Settings, Shared},
    resource,
    snapshot::{Context, Handle, Node, Snapshot, compile},
    spiffe::{SpiffeId, Svid},
    telemetry::{Options, Telemetry, metrics::Workload},
    tls::{self, Identity},
    units::ServiceName,
};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// `orders` beside `app`, and `web`, which calls it under these policies.
pub(super) async fn pair(app: SocketAddr, policies: &str) -> (World, Sidecar, Sidecar) {
    let world = World::new();
    let orders = world.server("orders", app).await;
    let web = world.client("web").await;
    let yaml = grpc("orders", &[orders.inbound()]);
    orders.configure(&yaml).await;
    web.configure(&format!("{yaml}{policies}")).await;
    (world, orders, web)
}

/// The mesh.
pub(super) struct World {
    ca: Authority,
}

/// One sidecar.
pub(super) struct Sidecar {
    pub(super) proxy: Proxy,
    pub(super) identity: Arc<Identity>,
    pub(super) wanted: Arc<Wanted>,
    handle: Arc<Handle>,
    node: Node,
    telemetry: Arc<Telemetry>,
    log: Log,
}

/// What a sidecar asked for.
#[derive(Default)]
pub(super) struct Wanted(pub(super) Mutex<Vec<String>>);

impl Wanted {
    fn shared() -> (Arc<Self>, Arc<dyn Discover>) {
        let wanted = Arc::new(Self::default());
        (Arc::clone(&wanted), wanted)
    }
}

impl Discover for Wanted {
    fn want(&self, service: &ServiceName) {
        self.0.lock().expect("whole").push(service.to_string());
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `orders` or `orders.billing`; without a namespace it is `shop`.
pub(super) fn service(name: &str) -> ServiceName {
    name.split_once('.').map_or_else(
        || ServiceName::new(name, "shop"),
        |(name, namespace)| ServiceName::new(name, namespace),
    )
}

/// `service` with one gRPC port 9090 and these endpoints behind sidecars.
pub(super) fn grpc(service: &str, endpoints: &[SocketAddr]) -> String {
    let mut yaml = format!(
        "---
apiVersion: outrigger.dev/v1
kind: Service
metadata: {{name: {service}, namespace: shop}}
spec: {{ports: [{{name: grpc, port: 9090, appProtocol: grpc}}]}}
"
    );
    for (number, address) in (1..).zip(endpoints) {
        yaml.push_str(&workload(service, number, *address));
    }
    yaml
}

/// One endpoint behind a sidecar.
pub(super) fn workload(service: &str, number: usize, inbound: SocketAddr) -> String {
    let (ip, port) = (inbound.ip(), inbound.port());
    format!(
        "---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: {{name: {service}-{number}, namespace: shop}}
spec:
  service: {service}
  address: {ip}
  inbound: {port}
  identity: spiffe://mesh.local/ns/shop/svc/{service}
"
    )
}

/// A `TrafficPolicy` of a service.
pub(super) fn policy(service: &str, spec: &str) -> String {
    let mut yaml = format!(
        "---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {{name: {service}, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: {service}}}]
"
    );
    for line in spec.lines() {
        writeln!(yaml, "  {line}").expect("written");
    }
    yaml
}

const MESH: &str = "---
apiVersion: outrigger.dev/v1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomain: mesh.local, accessLog: {mode: All}}
";

impl World {
    pub(super) fn new() -> Self {
        Self { ca: Authority::create("mesh.local", clock::now()).expect("a CA") }
    }

    pub(super) fn svid(&self, service: &ServiceName, ttl: Duration) -> Svid {
        let id = SpiffeId::of_service("mesh.local", service).expect("an identity");
        let request = csr::make().expect("a key");
        let issued = self.ca.sign(&request.csr, &id, ttl, clock::now()).expect("signed");
        Svid::new(issued.chain, request.key, tls::provider()).expect("an SVID")
    }

    pub(super) fn identity(&self, service: &ServiceName, ttl: Duration) -> Arc<Identity> {
        let identity = Identity::new(self.svid(service, ttl), self.ca.bundle().clone());
        Arc::new(identity.expect("of one trust domain"))
    }

    /// The sidecar of an application that serves 9090.
    pub(super) async fn server(&self, name: &str, app: SocketAddr) -> Sidecar {
        self.server_of(name, &[("9090", Address::Tcp(app))]).await
    }

    /// The sidecar of an application with these ports.
    pub(super) async fn server_of(&self, name: &str, ports: &[(&str, Address)]) -> Sidecar {
        let mut settings = settings(name);
        settings.inbound = Some(loopback());
        settings.apps = ports
            .iter()
            .map(|(port, address)| App { port: (*port).to_owned(), address: address.clone() })
            .collect();
        self.start(settings, HOUR).await
    }

    /// The sidecar of an application that only calls.
    pub(super) async fn client(&self, name: &str) -> Sidecar {
        let mut settings = settings(name);
        settings.outbound = Some(loopback());
        self.start(settings, HOUR).await
    }

    pub(super) async fn start(&self, settings: Settings, ttl: Duration) -> Sidecar {
        let identity = self.identity(&settings.service, ttl);
        start(settings, Some(identity), Wanted::shared()).await
    }

    /// A sidecar that shows something else than its own certificate.
    pub(super) async fn start_as(&self, settings: Settings, identity: Arc<Identity>) -> Sidecar {
        start(settings, Some(identity), Wanted::shared()).await
    }

    /// A sidecar that asks somebody else for services.
    pub(super) async fn start_with(
        &self,
        settings: Settings,
        discover: Arc<dyn Discover>,
    ) -> Sidecar {
        let identity = self.identity(&settings.service, HOUR);
        start(settings, Some(identity), (Arc::default(), discover)).await
    }

    /// A sidecar without a certificate.
    pub(super) async fn start_without(&self, settings: Settings) -> Sidecar {
        start(settings, None, Wanted::shared()).await
    }
}

async fn start(
    settings: Settings,
    identity: Option<Arc<Identity>>,
    (wanted, discover): (Arc<Wanted>, Arc<dyn Discover>),
) -> Sidecar {
    let log = Log::default();
    let telemetry = Telemetry::new(Options {
        workload: Workload::default(),
        resource: Vec::new(),
        otlp: None,
        exporter: Default::default(),
        sampling: None,
        access_log: Box::new(log.clone()),
    });
    let telemetry = Arc::new(telemetry.expect("a thread"));
    let ports = settings.apps.iter().map(|app| {
        let number = app.port.parse().expect("a number");
        (app.port.clone(), app.address.port().unwrap_or(number))
    });
    let node =
        Node { service: settings.service.clone(), labels: BTreeMap::new(), ports: ports.collect() };
    let handle = Arc::new(Handle::new());
    let shared = Shared {
        snapshots: Arc::clone(&handle),
        identity: identity.clone(),
        discover,
        telemetry: Arc::clone(&telemetry),
    };
    let proxy = Proxy::start(settings, shared).await.expect("started");
    let identity = identity.unwrap_or_else(|| World::new().identity(&node.service, HOUR));
    Sidecar { proxy, identity, wanted, handle, node, telemetry, log }
}

/// Small, on loopback.
pub(super) fn settings(name: &str) -> Settings {
    Settings { workers: 2, ..Settings::new(service(name)) }
}

pub(super) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

impl Sidecar {
    pub(super) fn inbound(&self) -> SocketAddr {
        self.proxy.addresses().inbound.expect("it has one")
    }

    pub(super) fn outbound(&self) -> SocketAddr {
        self.proxy.addresses().outbound.expect("it has one")
    }

    /// Runs on this configuration, which is all that there is.
    pub(super) async fn configure(&self, yaml: &str) {
        self.publish(snapshot(&self.node, yaml, None)).await;
    }

    /// Runs on this configuration, with these answers to what it asked for.
    pub(super) async fn configure_with(&self, yaml: &str, answered: &[(&str, bool)]) {
        self.publish(snapshot(&self.node, yaml, Some(answered))).await;
    }

    async fn publish(&self, snapshot: Arc<Snapshot>) {
        self.handle.publish(Arc::clone(&snapshot));
        let runs = || self.proxy.running().is_some_and(|runs| Arc::ptr_eq(&runs, &snapshot));
        super::until("the configuration runs", runs).await;
    }

    /// The access log of all that came so far, which has a moment to end.
    pub(super) async fn log(&self) -> Vec<Value> {
        let idle =
            |line: &str| !line.starts_with("outrigger_requests_in_flight{") || line.ends_with(" 0");
        super::until("nothing is under way", || self.metrics().lines().all(idle)).await;
        self.telemetry.shutdown(super::BOUND).await;
        let bytes = self.log.0.lock().expect("whole").clone();
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Its metrics.
    pub(super) fn metrics(&self) -> String {
        self.telemetry.encode()
    }
}

fn snapshot(node: &Node, yaml: &str, answered: Option<&[(&str, bool)]>) -> Arc<Snapshot> {
    let mesh = if yaml.contains("kind: Mesh\n") { "" } else { MESH };
    let (parsed, problems) = resource::yaml::parse(&format!("{mesh}{yaml}"), "mesh.yaml");
    assert!(problems.is_empty(), "{problems:?}");
    let resources = parsed.into_iter().map(|parsed| {
        let key = resource::key(&parsed.resource).expect("a kind");
        (key, Arc::new(parsed.resource))
    });
    let context = Context {
        node: node.clone(),
        trust_domain: "mesh.local".to_owned(),
        namespaces: ["shop".to_owned()].into(),
        answered: answered
            .unwrap_or_default()
            .iter()
            .map(|(name, here)| (service(name), *here))
            .collect(),
        complete: answered.is_none(),
        revision: 7,
    };
    let (snapshot, problems) = compile(&resources.collect(), None, &context);
    assert!(problems.iter().all(|problem| !problem.is_error()), "{problems:?}");
    Arc::new(snapshot)
}
