//! The control plane as its clients see it: over TCP, TLS and gRPC, in this process. Each test opens
//! one in a directory of its own and calls it with credentials of its CA.

mod access;
mod configuration;
mod discovery;
mod history;
mod hostile;
mod joining;
mod lifecycle;
mod rotation;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{ControlPlane, OpenError, Options};
use crate::{
    clock,
    identity::{Authority, Roots, csr, disk::DataDirectory},
    resource::pb::{
        self, admin_service_client::AdminServiceClient, config_service_client::ConfigServiceClient,
        discovery_service_client::DiscoveryServiceClient,
        identity_service_client::IdentityServiceClient, subscribe_request::Message,
    },
    spiffe::{SpiffeId, Svid},
    task,
    tls::{self, ControlTrust},
    units::ServiceName,
};

/// Far longer than anything here takes; only a defect lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// What should come soon.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// A control plane that serves.
struct Plane {
    directory: Arc<TempDir>,
    address: SocketAddr,
    control: ControlPlane,
    stop: CancellationToken,
    serving: JoinHandle<Option<()>>,
}

impl Plane {
    async fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        Self::in_directory(&directory, clock::now).await.expect("opens")
    }

    async fn with_clock(now: fn() -> SystemTime) -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        Self::in_directory(&directory, now).await.expect("opens")
    }

    async fn in_directory(
        directory: &Arc<TempDir>,
        now: fn() -> SystemTime,
    ) -> Result<Self, OpenError> {
        let data = data(directory.path());
        if !data.exists() {
            make_ca(&data);
        }
        let options = Options { now, ..Options::new(data, "mesh.local") };
        let control = ControlPlane::open(options)?;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let serving = Box::pin(control.clone().serve(listener, stop.clone().cancelled_owned()));
        let serving = task::spawn("serve", async move { serving.await.expect("serves") });
        Ok(Self { directory: Arc::clone(directory), address, control, stop, serving })
    }

    /// Ends it and waits until its directory is free.
    async fn stop(self) -> Arc<TempDir> {
        let Self { directory, control, stop, serving, .. } = self;
        stop.cancel();
        soon(serving).await.expect("ends").expect("without a panic");
        drop(control);
        directory
    }

    async fn restart(self) -> Self {
        Self::again(&self.stop().await).await
    }

    /// Starts on a directory whose control plane has ended.
    async fn again(directory: &Arc<TempDir>) -> Self {
        // Tasks of streams hold the store until they have seen the end.
        soon(async {
            loop {
                match Self::in_directory(directory, clock::now).await {
                    Ok(plane) => return plane,
                    Err(OpenError::Data(_) | OpenError::Store(_)) => tokio::task::yield_now().await,
                    Err(other) => unreachable!("{other}"),
                }
            }
        })
        .await
    }

    /// The CA, for certificates that no API would give.
    fn authority(&self) -> Authority {
        let now = clock::now();
        let authority = Authority::load(&data(self.directory.path()), "mesh.local", now);
        authority.expect("loads").expect("is there")
    }

    /// A caller with a credential or none.
    fn caller(&self, svid: Option<&Svid>) -> Caller {
        let trust = ControlTrust::Bundle(self.control.bundle());
        Caller { channel: channel(self.address, tls::control_client(trust, svid)) }
    }

    fn admin(&self) -> Caller {
        let files = self.control.credential();
        let read = |path: &PathBuf| std::fs::read(path).expect("is there");
        let svid = Svid::from_pem(&read(&files.certificate), &read(&files.key), tls::provider());
        self.caller(Some(&svid.expect("a credential")))
    }

    /// A new credential.
    async fn credential(&self, name: &str, role: pb::CredentialRole, namespaces: &[&str]) -> Svid {
        self.try_credential(name, role, namespaces).await.expect("made")
    }

    async fn try_credential(
        &self,
        name: &str,
        role: pb::CredentialRole,
        namespaces: &[&str],
    ) -> Result<Svid, Status> {
        let made = csr::make().expect("made");
        let request = pb::CreateCredentialRequest {
            name: name.to_owned(),
            role: role.into(),
            namespaces: namespaces.iter().map(|it| (*it).to_owned()).collect(),
            ttl: None,
            csr: made.csr,
        };
        let answer = soon(self.admin().tokens().create_credential(request)).await?.into_inner();
        let chain = answer.chain.into_iter().map(Into::into).collect();
        Ok(Svid::new(chain, made.key, tls::provider()).expect("belongs together"))
    }

    /// A caller with a fresh SVID of "shop/orders".
    fn workload(&self, name: &str) -> Caller {
        self.caller(Some(&self.svid(name, clock::now(), Duration::from_secs(3600))))
    }

    /// The SVID of "shop/orders" from a moment on.
    fn svid(&self, name: &str, from: SystemTime, ttl: Duration) -> Svid {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let service = ServiceName::new(name, namespace);
        let id = SpiffeId::of_service("mesh.local", &service).expect("well-formed");
        let request = csr::make().expect("made");
        let issued = self.authority().sign(&request.csr, &id, ttl, from).expect("signed");
        Svid::new(issued.chain, request.key, tls::provider()).expect("belongs together")
    }
}

/// The CA of a mesh, old enough for the certificates that tests make of days gone by.
fn make_ca(data: &Path) {
    let days_ago = clock::now() - Duration::from_hours(100);
    DataDirectory::open(data).expect("made");
    Roots::open(data, "mesh.local", None, days_ago).expect("made");
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn channel(address: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connector = service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("https://localhost").connect_with_connector_lazy(connector)
}

/// A client of the API.
#[derive(Clone)]
struct Caller {
    channel: Channel,
}

impl Caller {
    fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel.clone())
    }

    fn tokens(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    fn identity(&self) -> IdentityServiceClient<Channel> {
        IdentityServiceClient::new(self.channel.clone())
    }

    async fn apply(&self, resources: Vec<pb::Resource>) -> pb::ApplyResponse {
        let request = pb::ApplyRequest { resources, ..Default::default() };
        soon(self.config().apply(request)).await.expect("applied").into_inner()
    }

    async fn delete(&self, ids: Vec<pb::ResourceId>) -> pb::DeleteResponse {
        let request = pb::DeleteRequest { resources: ids, ..Default::default() };
        soon(self.config().delete(request)).await.expect("deleted").into_inner()
    }

    async fn get(&self, kind: &str, name: &str) -> Result<pb::Resource, Status> {
        let request = pb::GetRequest { resource: Some(id(kind, name)) };
        Ok(soon(self.config().get(request)).await?.into_inner())
    }

    async fn status(&self) -> pb::StatusResponse {
        let mut client = self.config();
        soon(client.status(pb::StatusRequest::default())).await.expect("a status").into_inner()
    }

    /// Asks for the status until it is as expected.
    async fn status_when(&self, expected: impl Fn(&pb::StatusResponse) -> bool) {
        let ask = async {
            loop {
                if expected(&self.status().await) {
                    return;
                }
            }
        };
        if timeout(PATIENCE, ask).await.is_err() {
            unreachable!("the status stays {:#?}", self.status().await);
        }
    }

    /// Subscribes and says hello.
    async fn sidecar(&self, hello: pb::Hello) -> Sidecar {
        let (sender, receiver) = mpsc::channel(64);
        let first = pb::SubscribeRequest { message: Some(Message::Hello(hello)) };
        sender.send(first).await.expect("room");
        let mut client = DiscoveryServiceClient::new(self.channel.clone());
        let stream = soon(client.subscribe(ReceiverStream::new(receiver))).await;
        Sidecar { sender, stream: stream.expect("accepted").into_inner() }
    }
}

/// A sidecar's end of its stream.
struct Sidecar {
    sender: mpsc::Sender<pb::SubscribeRequest>,
    stream: Streaming<pb::SubscribeResponse>,
}

impl Sidecar {
    async fn say(&self, message: Message) {
        let request = pb::SubscribeRequest { message: Some(message) };
        soon(self.sender.send(request)).await.expect("open");
    }

    async fn report(&self, phase: pb::WorkloadPhase) {
        self.say(Message::State(pb::WorkloadState { phase: phase.into(), ..Default::default() }))
            .await;
    }

    async fn next(&mut self) -> Result<pb::SubscribeResponse, Status> {
        Ok(soon(self.stream.message()).await?.expect("not the end"))
    }

    /// The next message in words: "+Service shop/orders@version" without the version, "-" for what
    /// is removed, "!" for answers and "?" for answers that there is none.
    async fn hear(&mut self) -> Vec<String> {
        words(&self.next().await.expect("a message"))
    }

    /// Hears messages until one says this.
    async fn hear_until(&mut self, word: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while !heard.iter().any(|it| it == word) {
            heard.extend(self.hear().await);
        }
        heard
    }
}

fn words(message: &pb::SubscribeResponse) -> Vec<String> {
    let key = |id: &pb::ResourceId| format!("{} {}/{}", id.kind, id.namespace, id.name);
    let changed = message.changed.iter().filter_map(crate::resource::key);
    let changed = changed.map(|it| format!("+{}", key(&it.to_pb())));
    let removed = message.removed.iter().map(|id| format!("-{}", key(id)));
    let answered = message.answered.iter().map(|it| {
        let mark = if it.exists { '!' } else { '?' };
        format!("{mark}{}.{}", it.name, it.namespace)
    });
    changed.chain(removed).chain(answered).collect()
}

/// The name of a resource from its kind and "shop/orders".
fn id(kind: &str, name: &str) -> pb::ResourceId {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    pb::ResourceId { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}

/// What a sidecar of "shop/orders" with this workload name says first.
fn hello(service: &str, workload: &str) -> pb::Hello {
    let (namespace, service) = service.split_once('/').expect("namespace/name");
    let node = pb::Node {
        service: service.to_owned(),
        namespace: namespace.to_owned(),
        workload: workload.to_owned(),
        address: "127.0.0.1".to_owned(),
        inbound: 15006,
        ports: [("9090".to_owned(), 9090)].into(),
        ..Default::default()
    };
    pb::Hello { node: Some(node), version: "test".to_owned(), ..Default::default() }
}

fn subscription(name: &str) -> pb::SubscribeService {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    pb::SubscribeService { name: name.to_owned(), namespace: namespace.to_owned() }
}
