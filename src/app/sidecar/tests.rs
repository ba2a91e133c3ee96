//! Whole sidecars in this process, against a real control plane or files, with real sockets.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use super::{Listen, Mode, Options, Sidecar, StartError};
use crate::{
    app::joining::{JoinError, Joining},
    clock,
    control::{self, ControlPlane},
    identity::{
        Authority, Files, JoinToken, Roots, csr,
        disk::{DataDirectory, write_private},
    },
    net,
    spiffe::{SpiffeId, Svid},
    task::Tasks,
    tls,
    units::ServiceName,
};

const LONG: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LONG, what).await.expect("in time")
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn shop(name: &str) -> ServiceName {
    ServiceName::new(name, "shop")
}

/// An application that answers every request with `hello`.
async fn application(tasks: &mut Tasks) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tasks.spawn("application", async move {
        let mut connections = Tasks::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn("connection", async move {
                let hello = service_fn(|_| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), hello);
                let _ended = connection.await;
            });
        }
    });
    address
}

/// Everything that comes back for a GET.
async fn get(address: &str, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.expect("text");
    answer
}

async fn call(sidecar: &Sidecar, host: &str) -> String {
    get(sidecar.addresses().outbound.as_deref().expect("it listens"), host, "/").await
}

async fn admin(sidecar: &Sidecar, path: &str) -> String {
    get(sidecar.addresses().admin.as_deref().expect("it listens"), "localhost", path).await
}

fn options(mode: Mode, app: Option<SocketAddr>) -> Options {
    let operators = || Some("127.0.0.1:0".parse().expect("an address"));
    Options {
        apps: app.map(|app| format!("80={app}").parse().expect("an app")).into_iter().collect(),
        listen: Listen {
            inbound: Some(loopback()),
            outbound: Some(loopback()),
            admin: operators(),
            metrics: None,
            health: operators(),
        },
        workers: Some(1),
        access_log: Box::new(io::sink()),
        ..Options::new(mode)
    }
}

/// A control plane, and room for the data of its sidecars.
struct Mesh {
    root: TempDir,
    control: ControlPlane,
    server: String,
    serving: Tasks,
}

impl Mesh {
    async fn start() -> Self {
        Self::with_clock(clock::now).await
    }

    async fn with_clock(now: fn() -> SystemTime) -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let data = root.path().join("control");
        DataDirectory::open(&data).expect("made");
        // Old enough for certificates of days gone by.
        Roots::open(&data, "mesh.local", None, clock::now() - Duration::from_hours(100))
            .expect("made");
        let options = control::Options::new(data, "mesh.local");
        let control = ControlPlane::open(control::Options { now, ..options }).expect("opened");
        let listener = net::listen(loopback()).expect("a port");
        let server = listener.local_addr().expect("bound").to_string();
        let mut serving = Tasks::new();
        let clone = control.clone();
        serving.spawn("control plane", async move {
            clone.serve(listener, std::future::pending()).await.expect("serves");
        });
        Self { root, control, server, serving }
    }

    async fn token(&self, service: &ServiceName) -> JoinToken {
        let hour = Duration::from_hours(1);
        let text = self.control.create_token(service.clone(), 1, hour, "test").await;
        JoinToken::parse(&text.expect("made")).expect("a token")
    }

    fn mode(&self, service: &ServiceName, token: Option<JoinToken>) -> Mode {
        let data = self.root.path().join(service.to_string());
        Mode::Live {
            server: self.server.clone(),
            service: service.clone(),
            token,
            data: DataDirectory::open(&data).expect("free"),
            patience: Some(LONG),
        }
    }

    async fn sidecar(&self, name: &str, app: Option<SocketAddr>) -> Sidecar {
        let service = shop(name);
        let token = self.token(&service).await;
        let mode = self.mode(&service, Some(token));
        let sidecar = soon(Sidecar::start(options(mode, app))).await.expect("started");
        soon(sidecar.ready()).await;
        sidecar
    }
}

#[tokio::test]
async fn a_joined_service_is_called_by_name_until_it_drains() {
    let mut tasks = Tasks::new();
    let app = application(&mut tasks).await;
    let mesh = Mesh::start().await;
    let orders = mesh.sidecar("orders", Some(app)).await;
    let web = mesh.sidecar("web", None).await;
    assert!(web.addresses().inbound.is_none(), "it serves nothing");
    let answer = call(&web, "orders").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    assert!(admin(&web, "/endpoints").await.contains(orders.workload()));
    let config = admin(&web, "/config").await;
    assert!(config.contains("\"connected\": true") && config.contains("\"orders\""), "{config}");

    assert_eq!(soon(orders.drain(LONG)).await, 0);
    assert!(admin(&orders, "/ready").await.contains("draining"));
    let answer = call(&web, "orders").await;
    assert!(answer.contains("outrigger-reason: no_endpoint"), "{answer}");
    soon(orders.stop()).await;
    let answer = call(&web, "orders").await;
    assert!(answer.contains("outrigger-reason: no_endpoint"), "{answer}");
}

#[tokio::test]
async fn a_restarted_sidecar_has_its_name_and_serves_without_the_control_plane() {
    let mut tasks = Tasks::new();
    let app = application(&mut tasks).await;
    let mut mesh = Mesh::start().await;
    let _orders = mesh.sidecar("orders", Some(app)).await;
    let web = mesh.sidecar("web", None).await;
    let name = web.workload().to_owned();
    assert!(call(&web, "orders").await.ends_with("hello"));
    soon(web.stop()).await;
    mesh.serving.join(Duration::ZERO).await;

    // Its tasks let go of the data directory a moment after the sidecar is gone.
    let path = mesh.root.path().join(shop("web").to_string());
    let end = Instant::now() + LONG;
    while DataDirectory::open(&path).is_err() {
        assert!(Instant::now() < end, "the directory stays in use");
        sleep(Duration::from_millis(1)).await;
    }
    let mode = mesh.mode(&shop("web"), None);
    let web = soon(Sidecar::start(options(mode, None))).await.expect("from disk");
    soon(web.ready()).await;
    assert_eq!(web.workload(), name);
    assert!(call(&web, "orders").await.ends_with("hello"));
}

#[tokio::test]
async fn a_workload_is_ready_when_its_caller_says_so_too() {
    let mesh = Mesh::start().await;
    let service = shop("web");
    let token = mesh.token(&service).await;
    let options = options(mesh.mode(&service, Some(token)), None);
    let application = options.ready.condition("application");
    let ready = options.ready.clone();
    let sidecar = soon(Sidecar::start(options)).await.expect("started");
    soon(ready.wait_for_others("application")).await;
    let missing = admin(&sidecar, "/ready").await;
    assert!(missing.ends_with("not ready: application\n"), "{missing}");
    application.set(true);
    soon(sidecar.ready()).await;
    assert!(admin(&sidecar, "/ready").await.ends_with("ready\n"));
}

#[tokio::test]
async fn another_services_token_is_refused() {
    let mesh = Mesh::start().await;
    let token = mesh.token(&shop("orders")).await;
    let options = options(mesh.mode(&shop("web"), Some(token)), None);
    let refused = soon(Sidecar::start(options)).await.expect_err("not its own").to_string();
    assert_eq!(refused, "the join token is for orders.shop, not for web.shop");
}

/// A directory with certificates for static mode.
struct Place {
    root: TempDir,
    authority: Authority,
}

impl Place {
    fn new() -> Self {
        let authority = Authority::create("mesh.local", clock::now()).expect("a CA");
        let root = tempfile::tempdir().expect("a temporary directory");
        let place = Self { root, authority };
        place.write("ca.pem", &place.authority.bundle().to_pem());
        place
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root.path().join(name);
        write_private(&path, text.as_bytes()).expect("written");
        path
    }

    fn certificate(&self, service: &str) -> Files {
        let id = format!("spiffe://mesh.local/ns/shop/svc/{service}").parse().expect("an ID");
        let request = csr::make().expect("a key");
        let hour = Duration::from_hours(1);
        let issued = self.authority.sign(&request.csr, &id, hour, clock::now()).expect("signed");
        let svid = Svid::new(issued.chain, request.key, tls::provider()).expect("an SVID");
        Files {
            certificate: self.write(&format!("{service}.pem"), &svid.chain_pem()),
            key: self.write(&format!("{service}-key.pem"), &svid.key_pem()),
            ca: self.root.path().join("ca.pem"),
        }
    }

    async fn sidecar(
        &self,
        service: &str,
        configuration: &Path,
        app: Option<SocketAddr>,
    ) -> Result<Sidecar, StartError> {
        let mode = Mode::Static {
            service: None,
            configuration: vec![configuration.to_owned()],
            certificate: self.certificate(service),
        };
        soon(Sidecar::start(options(mode, app))).await
    }
}

const SERVICE: &str = "apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{port: 80}]}
---
";

fn workload(inbound: &str) -> String {
    let (host, port) = inbound.rsplit_once(':').expect("an address");
    format!(
        "{SERVICE}apiVersion: outrigger.dev/v1
kind: Workload
metadata: {{name: orders-1, namespace: shop}}
spec: {{service: orders, address: {host}, inbound: {port}, identity: \
         \"spiffe://mesh.local/ns/shop/svc/orders\"}}
"
    )
}

#[tokio::test]
async fn two_sidecars_with_files_and_a_reload_that_is_not_taken() {
    let mut tasks = Tasks::new();
    let app = application(&mut tasks).await;
    let place = Place::new();
    let own = place.write("orders.yaml", SERVICE);
    let orders = place.sidecar("orders", &own, Some(app)).await.expect("started");
    let inbound = orders.addresses().inbound.clone().expect("it serves");
    let known = place.write("web.yaml", &workload(&inbound));
    let web = place.sidecar("web", &known, None).await.expect("started");
    soon(web.ready()).await;
    assert!(call(&web, "orders").await.ends_with("hello"));
    let external = call(&web, "nobody.shop").await;
    assert!(external.contains("outrigger-reason: unknown_service"), "{external}");

    place.write("web.yaml", &workload(&inbound).replace("inbound: ", "inbund: "));
    let refused = web.reload().await.expect_err("misspelt").to_string();
    assert!(refused.contains("web.yaml:9:") && refused.contains("inbund"), "{refused}");
    assert!(call(&web, "orders").await.ends_with("hello"), "the last good one runs on");
    assert!(admin(&web, "/config").await.contains("inbund"));
    assert!(admin(&web, "/metrics").await.contains("outrigger_config_rejected_resources 1"));

    place.write("web.yaml", SERVICE);
    let before = admin(&web, "/certificates").await;
    place.certificate("web");
    web.reload().await.expect("taken");
    assert!(admin(&web, "/config").await.contains("\"revision\": 2"));
    assert_ne!(admin(&web, "/certificates").await, before, "the certificate too");
    let snapshot_runs =
        async { while !call(&web, "orders").await.contains("outrigger-reason: no_endpoint") {} };
    soon(snapshot_runs).await;
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_taken_by_a_reload() {
    let place = Place::new();
    let own = place.write("orders.yaml", SERVICE);
    let orders = place.sidecar("orders", &own, None).await.expect("started");
    let other = place.certificate("payments");
    for (from, to) in [(&other.certificate, "orders.pem"), (&other.key, "orders-key.pem")] {
        let text = std::fs::read_to_string(from).expect("readable");
        place.write(to, &text);
    }
    let refused = orders.reload().await.expect_err("another identity").to_string();
    assert!(refused.contains("svc/payments"), "{refused}");
    assert!(admin(&orders, "/certificates").await.contains("svc/orders"));
}

#[tokio::test]
async fn broken_files_are_a_reason_not_to_start() {
    let place = Place::new();
    let bad = place.write("bad.yaml", "kind: Service\nmetadata: {nmae: x}\n");
    let absent = place.root.path().join("absent.yaml");
    for (file, expected) in [(&bad, "bad.yaml:"), (&absent, "absent.yaml: ")] {
        let refused = place.sidecar("orders", file, None).await.expect_err("broken").to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    let trust = "apiVersion: outrigger.dev/v1\nkind: Mesh\nmetadata: {name: mesh}\nspec: {trustDomain: other.org}\n";
    let other = place.write("mesh.yaml", trust);
    let refused = place.sidecar("orders", &other, None).await.expect_err("refused").to_string();
    assert!(refused.contains("mesh.yaml:4:") && refused.contains("trustDomain"), "{refused}");
    let mode = Mode::Static {
        service: Some(shop("web")),
        configuration: Vec::new(),
        certificate: place.certificate("orders"),
    };
    let refused = Sidecar::start(options(mode, None)).await.expect_err("not its own").to_string();
    assert_eq!(refused, "the certificate is for orders.shop, not for web.shop");
}

#[tokio::test]
async fn what_is_left_in_the_directory_does_not_run_beside_a_new_identity() {
    let mesh = Mesh::start().await;
    let service = shop("web");
    let path = mesh.root.path().join(service.to_string());
    let data = DataDirectory::open(&path).expect("free");
    data.save_last_good(b"of another mesh").expect("stored");
    for file in ["svid.pem", "bundle.pem"] {
        write_private(&path.join(file), b"cut off").expect("stored");
    }
    let joining = |token| Joining {
        server: &mesh.server,
        service: &service,
        token,
        disk: &data,
        patience: Some(LONG),
    };
    let refused = soon(joining(None).identity()).await.expect_err("nothing to join with");
    assert!(matches!(refused, JoinError::Disk(_)), "{refused}");
    let token = mesh.token(&service).await;
    let identity = soon(joining(Some(&token)).identity()).await.expect("joined anew");
    assert_eq!(identity.id().service().as_ref(), Some(&service));
    assert_eq!(data.load_last_good().expect("readable"), None);
    assert!(soon(joining(None).identity()).await.is_ok(), "from disk");
}

/// The SVID of a service that ended an hour ago, as its sidecar has it on disk.
fn store_ended_svid(mesh: &Mesh, service: &ServiceName, disk: &DataDirectory) {
    let (now, hour) = (clock::now(), Duration::from_hours(1));
    let control = mesh.root.path().join("control");
    let authority = Authority::load(&control, "mesh.local", now).expect("loads").expect("is there");
    let id = SpiffeId::of_service("mesh.local", service).expect("an ID");
    let request = csr::make().expect("a key");
    let issued = authority.sign(&request.csr, &id, hour, now - 2 * hour).expect("signed");
    let svid = Svid::new(issued.chain, request.key, tls::provider()).expect("an SVID");
    disk.save_bundle(authority.bundle()).expect("stored");
    disk.save_svid(&svid).expect("stored");
}

#[tokio::test]
async fn a_stored_certificate_that_is_refused_does_not_stand_in_a_tokens_way() {
    static AHEAD_SECONDS: AtomicU64 = AtomicU64::new(0);
    fn now() -> SystemTime {
        clock::now() + Duration::from_secs(AHEAD_SECONDS.load(Ordering::Relaxed))
    }
    let mesh = Mesh::with_clock(now).await;
    let service = shop("web");
    let open = |name: &str| DataDirectory::open(&mesh.root.path().join(name)).expect("free");
    let (data, copy) = (open("web"), open("copy"));
    for disk in [&data, &copy] {
        store_ended_svid(&mesh, &service, disk);
    }
    std::fs::copy(data.path().join("svid.pem"), copy.path().join("svid.pem")).expect("copied");
    let joining = |disk, token| Joining {
        server: &mesh.server,
        service: &service,
        token,
        disk,
        patience: Some(LONG),
    };
    // A machine that was put back from a copy: the certificate was renewed elsewhere since.
    soon(joining(&copy, None).identity()).await.expect("renewed");
    AHEAD_SECONDS.store(11 * 60, Ordering::Relaxed);
    let refused = soon(joining(&data, None).identity()).await.expect_err("superseded");
    assert!(matches!(refused, JoinError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("join again with a token"), "{refused}");
    let token = mesh.token(&service).await;
    let identity = soon(joining(&data, Some(&token)).identity()).await.expect("joined anew");
    assert_eq!(identity.id().service().as_ref(), Some(&service));
    assert!(identity.svid().not_after() > clock::now());
}
