//! The parts of a sidecar's start, in the order in which they happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::{self, Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{
    AppFlag, FileError, Listen, Mode, Options, StartError, TelemetryOptions,
    files::Static,
    flags::local_port,
    view::{Origin, Running, State},
};
use crate::{
    app::{
        admin::{Listener, Server, Surface},
        announce::Addresses,
        client,
        discovery::{self, DataPlane, Discovery, Wants},
        joining::Joining,
        keeping::{self, Renewer},
        probe,
    },
    clock,
    identity::{
        JoinToken,
        disk::{self, DataDirectory},
        rotation::{self, Outcome, Sources, Wish},
    },
    proxy::{Discover, EndpointReport, Proxy, Settings, Shared},
    resilience::Ejection,
    resource::pb::{self, WorkloadPhase},
    snapshot::{self, Node, Snapshot},
    task::{Condition, Tasks},
    telemetry::{self, Telemetry, metrics::Workload},
    tls::Identity,
    units::{ServiceName, name::check_label},
};

/// The file that keeps a workload's name.
const WORKLOAD_FILE: &str = "workload";
/// Endpoints left alone of which the mesh is told.
const EJECTED_MAX: usize = 50;

/// Whose sidecar it is, and its identity where that is there already.
pub(super) fn identity(mode: &Mode) -> Result<(ServiceName, Option<Arc<Identity>>), StartError> {
    match mode {
        Mode::Live { service, .. } => Ok((service.clone(), None)),
        Mode::Static { service, certificate, .. } => {
            let load = certificate.load(clock::now()).map_err(FileError::from)?;
            let identity = Identity::new(load.0, load.1).map_err(FileError::from)?;
            let id = identity.id();
            let found = id.service().ok_or_else(|| StartError::NoService(id.to_string()))?;
            if let Some(service) = service.as_ref().filter(|service| **service != found) {
                let (certificate, service) = (found, service.clone());
                return Err(StartError::OtherService { certificate, service });
            }
            Ok((found, Some(Arc::new(identity))))
        }
    }
}

/// Files with keys, for whoever asks whether others can read them.
pub(super) fn private_files(mode: &Mode) -> Vec<PathBuf> {
    match mode {
        Mode::Live { data, .. } => vec![absolute(&data.svid_file())],
        Mode::Static { certificate, .. } => vec![absolute(&certificate.key)],
    }
}

/// As it is written where the system does not say where this is.
fn absolute(path: &Path) -> PathBuf {
    path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The name given, the one kept, or a new one that is kept from now on.
pub(super) fn workload_name(
    options: &Options,
    service: &ServiceName,
) -> Result<String, StartError> {
    let checked = |name: String| match check_label(&name) {
        Ok(()) => Ok(name),
        Err(why) => Err(StartError::Workload { name, why }),
    };
    if let Some(name) = &options.workload {
        return checked(name.clone());
    }
    let new = || {
        // Without letters that look alike; a name of a service may be as long as a label.
        let letters = b"bcdfghjkmnpqrstvwxz2456789";
        let letter = || char::from(letters[fastrand::usize(..letters.len())]);
        let tail: String = (0..6).map(|_| letter()).collect();
        let head: String = service.name.chars().take(56).collect();
        format!("{}-{tail}", head.trim_end_matches('-'))
    };
    let Mode::Live { data, .. } = &options.mode else { return Ok(new()) };
    let path = data.path().join(WORKLOAD_FILE);
    let kept = disk::read(&path, 256)?.and_then(|name| String::from_utf8(name).ok());
    match kept.map(|name| name.trim().to_owned()).filter(|name| check_label(name).is_ok()) {
        Some(name) => Ok(name),
        None => {
            let name = new();
            disk::write_private(&path, name.as_bytes())?;
            Ok(name)
        }
    }
}

pub(super) fn telemetry(
    options: &mut Options,
    service: &ServiceName,
    workload: &str,
) -> Result<Arc<Telemetry>, StartError> {
    let TelemetryOptions { otlp, exporter, sampling, resource } =
        std::mem::take(&mut options.telemetry);
    let telemetry = Telemetry::new(telemetry::Options {
        workload: Workload {
            service: service.name.clone(),
            namespace: service.namespace.clone(),
            name: workload.to_owned(),
            zone: options.zone.clone(),
        },
        resource,
        otlp,
        exporter,
        sampling,
        access_log: std::mem::replace(&mut options.access_log, Box::new(io::sink())),
    });
    telemetry.map(Arc::new).map_err(StartError::Telemetry)
}

/// The listeners for operators; they serve from now on.
pub(super) async fn operators(
    listen: &Listen,
    state: &Arc<State>,
    addresses: &mut Addresses,
) -> Result<Vec<Server>, StartError> {
    let mut servers = Vec::new();
    let state = || Arc::clone(state);
    for (address, surface, told) in [
        (&listen.admin, Surface::Admin(state()), &mut addresses.admin),
        (&listen.metrics, Surface::Metrics(state()), &mut addresses.metrics),
        (&listen.health, Surface::Health(state()), &mut addresses.health),
    ] {
        let Some(address) = address else { continue };
        let server = Server::start(Listener::bind(address).await?, surface)?;
        *told = Some(server.address().to_string());
        servers.push(server);
    }
    Ok(servers)
}

/// The proxy, and where it listens.
async fn proxy(
    options: &Options,
    state: &State,
    identity: &Arc<Identity>,
    snapshots: &Arc<snapshot::Handle>,
    discover: Arc<dyn Discover>,
    addresses: &mut Addresses,
) -> Result<Arc<Proxy>, StartError> {
    let namespace = &state.service.namespace;
    let mut settings = Settings::new(state.service.clone());
    settings.apps = options.apps.iter().map(AppFlag::app).collect();
    settings.inbound = options.listen.inbound.filter(|_| !options.apps.is_empty());
    settings.outbound = options.listen.outbound;
    settings.upstreams = options.upstreams.iter().map(|it| it.upstream(namespace)).collect();
    settings.external_proxy = options.external.proxy_beside(options.listen.outbound);
    settings.external_direct.clone_from(&options.external.direct);
    if let Some(workers) = options.workers {
        settings.workers = workers.max(1);
    }
    if let Some(age) = options.connection_age_max {
        settings.connection_age_max = age;
    }
    let apps = settings.apps.iter().map(|app| (app.port.clone(), app.address.to_string()));
    addresses.app = apps.collect();
    let shared = Shared {
        snapshots: Arc::clone(snapshots),
        identity: Some(Arc::clone(identity)),
        discover,
        telemetry: Arc::clone(&state.telemetry),
    };
    let proxy = Proxy::start(settings, shared).await?;
    let bound = proxy.addresses();
    addresses.inbound = bound.inbound.map(|address| address.to_string());
    addresses.outbound = bound.outbound.map(|address| address.to_string());
    let named = options.upstreams.iter().zip(&bound.upstreams);
    addresses.upstreams =
        named.map(|(flag, bound)| (flag.name.clone(), bound.listen.to_string())).collect();
    Ok(Arc::new(proxy))
}

/// Looks after the application until the workload drains: then nobody is sent there any more.
pub(super) fn checks(
    options: &Options,
    state: &Arc<State>,
    condition: Option<Condition>,
    tasks: &mut Tasks,
) {
    let port = |flag: &AppFlag| {
        let app = flag.app();
        let (state, local) = (Arc::clone(state), local_port(&app));
        let named = app.port == "grpc" || app.port.starts_with("grpc-");
        let grpc = move || named || state.speaks_http2(local);
        probe::Port::new(&app.port, &app.address, &options.checks, grpc)
    };
    let ports: Vec<_> = options.apps.iter().map(port).collect();
    let (checks, state) = (options.checks.clone(), Arc::clone(state));
    if let Some(condition) = condition {
        let mut verdict = state.application.subscribe();
        tasks.spawn("application", async move {
            loop {
                condition.set(verdict.borrow_and_update().is_well());
                if verdict.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    tasks.spawn("application checks", async move {
        let mut phase = state.phase.subscribe();
        tokio::select! {
            () = probe::watch(ports, &checks, &state.application) => {}
            _ = phase.wait_for(|phase| *phase == WorkloadPhase::Draining) => {}
        }
    });
}

/// The application's ports, by the service's name or number for them.
fn ports(options: &Options) -> BTreeMap<String, u16> {
    let apps = options.apps.iter().map(AppFlag::app);
    apps.map(|app| (app.port.clone(), local_port(&app))).collect()
}

/// There is nobody to ask: files are all that there is.
struct Nobody;

impl Discover for Nobody {
    fn want(&self, _: &ServiceName) {}
}

impl Discover for Wants {
    fn want(&self, service: &ServiceName) {
        Self::want(self, service);
    }
}

pub(super) async fn files(
    options: Options,
    state: &State,
    identity: Arc<Identity>,
    addresses: &mut Addresses,
) -> Result<(), StartError> {
    let snapshots = Arc::new(snapshot::Handle::new());
    let Mode::Static { configuration, certificate, .. } = &options.mode else { return Ok(()) };
    let files = Static {
        configuration: configuration.clone(),
        certificate: certificate.clone(),
        identity: Arc::clone(&identity),
        node: Node {
            service: state.service.clone(),
            labels: options.labels.clone(),
            ports: ports(&options),
        },
        snapshots: Arc::clone(&snapshots),
        telemetry: Arc::clone(&state.telemetry),
        state: std::sync::Mutex::default(),
    };
    files.start()?;
    let nobody = Arc::new(Nobody);
    let proxy = proxy(&options, state, &identity, &snapshots, nobody, addresses).await?;
    if let Some(snapshot) = snapshots.load() {
        proxy.runs(&snapshot).await;
    }
    let origin = Origin::Static(Arc::new(files));
    let _set_once = state.running.set(Running { identity, snapshots, proxy, origin });
    Ok(())
}

pub(super) async fn live(
    options: Options,
    state: &State,
    addresses: &mut Addresses,
    tasks: &mut Tasks,
) -> Result<(), StartError> {
    let Mode::Live { server, token, data, patience, .. } = &options.mode else { return Ok(()) };
    let joining = Joining {
        server,
        service: &state.service,
        token: token.as_ref(),
        disk: data,
        patience: *patience,
    };
    let identity = Arc::new(joining.identity().await?);
    let (wants, snapshots) = (Arc::new(Wants::default()), Arc::new(snapshot::Handle::new()));
    let discover: Arc<dyn Discover> = Arc::<Wants>::clone(&wants);
    let proxy = proxy(&options, state, &identity, &snapshots, discover, addresses).await?;
    let node = node(&options, state, server, proxy.addresses().inbound).await?;
    let namespace = &state.service.namespace;
    let pinned: BTreeSet<_> = options.upstreams.iter().map(|it| it.service(namespace)).collect();
    let Mode::Live { server, token, data, .. } = options.mode else { return Ok(()) };
    let disk = Arc::new(data);
    let (mut discovery, watch) = Discovery::new(discovery::Options {
        server: server.clone(),
        identity: Arc::clone(&identity),
        node,
        pinned,
        disk: Arc::clone(&disk),
        wants,
        snapshots: Arc::clone(&snapshots),
        telemetry: Arc::clone(&state.telemetry),
        data_plane: Arc::new(Workers(Arc::clone(&proxy))),
        phase: state.phase.subscribe(),
        application: state.application.subscribe(),
    });
    discovery.restore();
    tasks.spawn("discovery", async move {
        discovery.run().await;
    });
    keep_fresh(&server, token, &identity, &disk, &state.telemetry, tasks);
    let origin = Origin::Live { server, watch };
    let _set_once = state.running.set(Running { identity, snapshots, proxy, origin });
    Ok(())
}

/// Renews the certificate and follows the roots.
fn keep_fresh(
    server: &str,
    token: Option<JoinToken>,
    identity: &Arc<Identity>,
    disk: &Arc<DataDirectory>,
    telemetry: &Arc<Telemetry>,
    tasks: &mut Tasks,
) {
    let renewer = Renewer::new(server, identity, token);
    let (wish, wished) = watch::channel(Wish::default());
    let (subject, stored) = (Arc::clone(identity), Some(Arc::clone(disk)));
    let telemetry = Arc::clone(telemetry);
    tasks.spawn("renewal", async move {
        let observe = |outcome: Outcome| {
            let renewed = matches!(outcome, Outcome::Renewed { .. });
            telemetry.metrics().certificate_renewal(renewed);
            if renewed {
                tracing::info!("the certificate was renewed");
            }
        };
        rotation::keep(subject, renewer, stored, Sources::REAL, wished, observe).await;
    });
    let (server, identity) = (server.to_owned(), Arc::clone(identity));
    let disk = Arc::clone(disk);
    tasks.spawn("trust bundle", async move {
        keeping::keep_trust(&server, identity, disk, wish).await;
    });
}

/// The workload as it registers. One without an application serves nothing and has no address.
async fn node(
    options: &Options,
    state: &State,
    server: &str,
    inbound: Option<SocketAddr>,
) -> Result<pb::Node, StartError> {
    let address = match (&options.advertise, inbound) {
        (_, None) => String::new(),
        (Some(host), Some(_)) => host.clone(),
        (None, Some(inbound)) if !inbound.ip().is_unspecified() => inbound.ip().to_string(),
        (None, Some(_)) => client::local_address_towards(server).await?.to_string(),
    };
    let ports = ports(options).into_iter().map(|(name, port)| (name, port.into()));
    Ok(pb::Node {
        service: state.service.name.clone(),
        namespace: state.service.namespace.clone(),
        workload: state.workload.clone(),
        address,
        inbound: inbound.map_or(0, |inbound| inbound.port().into()),
        ports: ports.collect(),
        labels: options.labels.clone().into_iter().collect(),
        zone: options.zone.clone(),
        weight: options.weight,
    })
}

/// The proxy, as discovery sees it.
struct Workers(Arc<Proxy>);

impl DataPlane for Workers {
    fn adopted(&self, snapshot: Arc<Snapshot>) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.runs(&snapshot).await })
    }

    fn under_way(&self) -> BTreeSet<String> {
        let endpoints = self.0.endpoints().into_iter().filter(|endpoint| endpoint.in_flight > 0);
        endpoints.map(|endpoint| endpoint.destination).collect()
    }

    fn ejected(&self) -> Vec<pb::Ejection> {
        let (now, reports) = (clock::now(), self.0.endpoints());
        let ejected = reports.into_iter().filter_map(|report| Some((report.ejection?, report)));
        let ejection = |(ejection, report): (Ejection, EndpointReport)| pb::Ejection {
            destination: report.destination,
            endpoint: report.endpoint,
            failures: ejection.failures,
            cause: ejection.cause.to_string(),
            until: Some((now + ejection.left).into()),
            sidecars: 0,
        };
        ejected.map(ejection).take(EJECTED_MAX).collect()
    }
}
