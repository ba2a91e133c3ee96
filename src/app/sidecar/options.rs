//! What a sidecar is started with, and why it does not start.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{AppFlag, External, FileError, TelemetryOptions, UpstreamFlag};
use crate::{
    app::{admin, client::ConnectError, joining::JoinError, logging::Logging, probe::Checks},
    identity::{
        Files, JoinToken,
        disk::{DataDirectory, DiskError},
    },
    proxy,
    task::{Condition, Ready},
    units::{NameError, ServiceName},
};

/// What a sidecar is started with.
pub struct Options {
    /// Where identity and configuration come from.
    pub mode: Mode,
    /// Its name in the mesh; by default one that is made once and kept in the data directory.
    pub workload: Option<String>,
    /// The application's ports; none: it serves nothing, and there is no inbound listener.
    pub apps: Vec<AppFlag>,
    /// Local addresses that lead to one service each.
    pub upstreams: Vec<UpstreamFlag>,
    /// Its listeners.
    pub listen: Listen,
    /// The host that peers dial; by default the inbound listener's own or, when that stands on all,
    /// the local end of the way to the control plane.
    pub advertise: Option<String>,
    /// The workload's labels.
    pub labels: BTreeMap<String, String>,
    /// Where it stands: `eu-1/a`.
    pub zone: String,
    /// Its share of the requests beside other workloads; by default 1.
    pub weight: Option<u32>,
    /// Threads of the proxy; by default one per core.
    pub workers: Option<usize>,
    /// The longest life of a connection to or from another sidecar; by default an hour.
    pub connection_age_max: Option<Duration>,
    /// What is known of telemetry before any configuration.
    pub telemetry: TelemetryOptions,
    /// Where the access log goes.
    pub access_log: Box<dyn Write + Send>,
    /// How names outside the mesh are reached.
    pub external: External,
    /// The program's log, for the admin page.
    pub logging: Option<Arc<Logging>>,
    /// Conditions of the caller's own: the workload is ready when these hold too.
    pub ready: Ready,
    /// How it looks whether the application is well.
    pub checks: Checks,
    /// Set while the application is well, if the caller made that a condition of being ready.
    pub application: Option<Condition>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("mode", &self.mode)
            .field("apps", &self.apps)
            .field("upstreams", &self.upstreams)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// With a default for everything else: no application, no listeners.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            workload: None,
            apps: Vec::new(),
            upstreams: Vec::new(),
            listen: Listen::default(),
            advertise: None,
            labels: BTreeMap::new(),
            zone: String::new(),
            weight: None,
            workers: None,
            connection_age_max: None,
            telemetry: TelemetryOptions::default(),
            access_log: Box::new(io::stdout()),
            external: External::default(),
            logging: None,
            ready: Ready::new(),
            checks: Checks::default(),
            application: None,
        }
    }
}

/// Where identity and configuration come from.
#[derive(Debug)]
pub enum Mode {
    /// A control plane.
    Live {
        /// `127.0.0.1:15010`
        server: String,
        /// The service beside it.
        service: ServiceName,
        /// For the first join.
        token: Option<JoinToken>,
        /// Where identity and configuration are kept; held while the sidecar lives.
        data: DataDirectory,
        /// How long an absent control plane is waited for at the first join; `None`: for ever.
        patience: Option<Duration>,
    },
    /// Files.
    Static {
        /// The service, which must be that of the certificate; `None`: whichever that is.
        service: Option<ServiceName>,
        /// YAML files with resources.
        configuration: Vec<PathBuf>,
        /// PEM files.
        certificate: Files,
    },
}

/// Where a sidecar listens; `None`: there is no such listener. Port 0 is a free one.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// Other sidecars.
    pub inbound: Option<SocketAddr>,
    /// The application.
    pub outbound: Option<SocketAddr>,
    /// Operators of this machine.
    pub admin: Option<admin::Address>,
    /// Prometheus.
    pub metrics: Option<admin::Address>,
    /// Orchestrators.
    pub health: Option<admin::Address>,
}

/// Why a sidecar does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener for operators.
    #[error(transparent)]
    Bind(#[from] admin::BindError),
    /// The proxy's listeners or workers.
    #[error(transparent)]
    Proxy(#[from] proxy::StartError),
    /// There is no identity.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The control plane's address.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The data directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Static mode's files.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The certificate is for something else than a service.
    #[error("{0} is no service's identity: spiffe://DOMAIN/ns/NAMESPACE/svc/SERVICE")]
    NoService(String),
    /// The certificate is another service's.
    #[error("the certificate is for {certificate}, not for {service}")]
    OtherService {
        /// Whom the certificate names.
        certificate: ServiceName,
        /// Who was to be started.
        service: ServiceName,
    },
    /// The workload's name.
    #[error("the workload's name {name:?} {why}")]
    Workload {
        /// As given.
        name: String,
        /// What is wrong.
        why: NameError,
    },
    /// The access log's thread.
    #[error("telemetry: {0}")]
    Telemetry(io::Error),
}
