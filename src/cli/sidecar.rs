//! `outrigger sidecar`: the data plane beside one workload, in a container, a unit or by hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind::{NotFound, PermissionDenied},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use super::{output::Failure, role, words};
use crate::{
    app::{
        admin,
        announce::Announce,
        bootstrap,
        probe::{CheckFlag, Checks},
        sidecar::{self, AppFlag, External, Listen, Mode, Options, TelemetryOptions, UpstreamFlag},
    },
    identity::{Files, JoinToken, disk::DataDirectory},
    resource,
    units::ServiceName,
};

/// The largest file of a token that is read.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// systemd's name for the join token among its credentials.
const TOKEN_CREDENTIAL: &str = "outrigger-token";

const EXAMPLES: &str = "\
Examples:
  outrigger sidecar --service orders.shop --app grpc=:9090 \\
      --control-plane 10.0.0.5:15010 --token-file token
  outrigger sidecar --config mesh.yaml --app :9090 \\
      --tls-cert orders.pem --tls-key orders-key.pem --tls-ca ca.pem

With --config there is no control plane: SIGHUP reads the files again, and files with an error are \
not taken.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The service beside it, NAME or NAME.NAMESPACE [with --config, default: the certificate's]
    #[arg(long, value_name = "NAME", required_unless_present = "config")]
    #[arg(value_parser = service, env = "OUTRIGGER_SERVICE")]
    service: Option<ServiceName>,
    #[command(flatten)]
    workload: Workload,
    #[command(flatten)]
    files: StaticFiles,
    /// Where other sidecars come in; only with --app
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15006")]
    #[arg(env = "OUTRIGGER_INBOUND")]
    inbound: SocketAddr,
    /// Where the application goes out: by authority, or as its HTTP proxy
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15001")]
    #[arg(env = "OUTRIGGER_OUTBOUND")]
    outbound: SocketAddr,
    /// For operators on this machine: loopback or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "OUTRIGGER_ADMIN")]
    admin: admin::Address,
    /// Where Prometheus reads /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15020")]
    #[arg(env = "OUTRIGGER_METRICS")]
    metrics: admin::Address,
    /// Where orchestrators ask for /ready and /live
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15021")]
    #[arg(env = "OUTRIGGER_HEALTH")]
    health: admin::Address,
    #[command(flatten)]
    common: role::Common,
}

/// Static mode's flags, which `sidecar` and `run` share.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct StaticFiles {
    /// YAML file with all resources, instead of a control plane; repeatable
    #[arg(long, value_name = "FILE", value_delimiter = ',', env = "OUTRIGGER_CONFIG")]
    #[arg(conflicts_with_all = ["control_plane", "token_file"])]
    #[arg(requires_all = ["tls_cert", "tls_key", "tls_ca"])]
    config: Vec<PathBuf>,
    /// PEM file with the certificate, leaf first; its SPIFFE ID says whose sidecar this is
    #[arg(long, value_name = "FILE", requires = "config", env = "OUTRIGGER_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// PEM file with its key, readable by its owner only
    #[arg(long, value_name = "FILE", requires = "config", env = "OUTRIGGER_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// PEM file with the CA certificates to trust
    #[arg(long, value_name = "FILE", requires = "config", env = "OUTRIGGER_TLS_CA")]
    tls_ca: Option<PathBuf>,
}

impl StaticFiles {
    /// The mode of a sidecar of this service, or of whichever the certificate names, if these flags
    /// are there.
    pub(super) fn mode(&self, service: Option<&ServiceName>) -> Option<Mode> {
        let (Some(certificate), Some(key), Some(ca)) =
            (self.tls_cert.clone(), self.tls_key.clone(), self.tls_ca.clone())
        else {
            return None;
        };
        Some(Mode::Static {
            service: service.cloned(),
            configuration: self.config.clone(),
            certificate: Files { certificate, key, ca },
        })
    }
}

/// The flags that `sidecar` and `run` share.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Workload {
    /// A port of the application: [PORT_NAME_OR_NUMBER=]ADDRESS, such as :9090, grpc=:9090 or
    /// 9090=unix:PATH; repeatable
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', env = "OUTRIGGER_APP")]
    pub(super) app: Vec<AppFlag>,
    /// How it looks whether the application is well: [PORT=]auto, tcp, grpc, grpc:SERVICE, http:/PATH
    /// or none; auto is a connection and, where the port speaks gRPC, its health service if it has
    /// one; repeatable [default: auto]
    #[arg(long, value_name = "CHECK", value_delimiter = ',', env = "OUTRIGGER_APP_CHECK")]
    pub(super) app_check: Vec<CheckFlag>,
    /// Between two looks at an application that is well
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = positive)]
    #[arg(env = "OUTRIGGER_APP_CHECK_INTERVAL")]
    pub(super) app_check_interval: Duration,
    /// How long one look may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = positive)]
    #[arg(env = "OUTRIGGER_APP_CHECK_TIMEOUT")]
    pub(super) app_check_timeout: Duration,
    /// Looks in a row that fail before callers go elsewhere
    #[arg(long, value_name = "N", default_value = "3", env = "OUTRIGGER_APP_CHECK_FAILURES")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) app_check_failures: u32,
    /// A local address that leads to one service: SERVICE[.NAMESPACE]:PORT[=LOCAL_ADDRESS], by
    /// default a free port; repeatable
    #[arg(long, value_name = "SERVICE:PORT", value_delimiter = ',', env = "OUTRIGGER_UPSTREAM")]
    pub(super) upstream: Vec<UpstreamFlag>,
    /// The control plane's API, HOST:PORT
    #[arg(long, value_name = "ADDRESS", env = "OUTRIGGER_CONTROL_PLANE")]
    #[arg(value_parser = words::server)]
    pub(super) control_plane: Option<String>,
    /// File with a join token, for the first start [default under systemd: its credential
    /// outrigger-token]
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The host or IP address by which other sidecars reach this one [default: that of --inbound, or
    /// the local address of the connection to the control plane]
    #[arg(long, value_name = "ADDRESS", env = "OUTRIGGER_ADVERTISE")]
    #[arg(value_parser = words::reachable_host)]
    pub(super) advertise: Option<String>,
    /// A label of the workload, KEY=VALUE; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    #[arg(env = "OUTRIGGER_LABEL")]
    pub(super) label: Vec<(String, String)>,
    /// Where it stands, such as eu-1/a
    #[arg(long, value_name = "ZONE", env = "OUTRIGGER_ZONE", default_value = "")]
    #[arg(hide_default_value = true)]
    pub(super) zone: String,
    /// Its share of the requests beside other workloads of the service, 0 to 1000 [default: 1]
    #[arg(long, value_name = "N", env = "OUTRIGGER_WEIGHT")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) weight: Option<u32>,
    /// Its name in the mesh [default: made at the first start, and kept]
    #[arg(long, value_name = "NAME", env = "OUTRIGGER_WORKLOAD")]
    pub(super) workload: Option<String>,
    /// Where certificate and last configuration are kept [default: NAMESPACE.SERVICE in the state
    /// directory, or the next free one]
    #[arg(long, value_name = "DIR", env = "OUTRIGGER_DATA")]
    pub(super) data: Option<PathBuf>,
    /// Where spans go by OTLP over gRPC, such as http://127.0.0.1:4317 [default:
    /// OTEL_EXPORTER_OTLP_ENDPOINT, else as the mesh says]
    #[arg(long, value_name = "URL", env = "OUTRIGGER_OTLP", value_parser = words::collector)]
    pub(super) otlp: Option<String>,
    /// Threads of the proxy [default: one per core]
    #[arg(long, value_name = "N", env = "OUTRIGGER_WORKERS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) workers: Option<u16>,
    /// How long a connection to or from another sidecar is used, so that both sides prove anew who
    /// they are; less up to a tenth, so that not all end at once. At least 1s
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = connection_age)]
    #[arg(env = "OUTRIGGER_CONNECTION_AGE_MAX")]
    pub(super) connection_age_max: Duration,
}

fn connection_age(text: &str) -> Result<Duration, String> {
    let age = words::duration(text)?;
    if age < Duration::from_secs(1) { Err("shorter than 1s".to_owned()) } else { Ok(age) }
}

/// A service as flags name it.
pub(super) fn service(text: &str) -> Result<ServiceName, String> {
    ServiceName::parse(text, "default").map_err(|error| format!("{text:?} {error}"))
}

/// A duration that is not nothing.
fn positive(text: &str) -> Result<Duration, String> {
    let duration = words::duration(text)?;
    if duration.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(duration) }
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or_else(|| format!("{text:?} is no KEY=VALUE"))?;
    match resource::check_one_label(key, value) {
        Some(wrong) => Err(format!("{:?} is {}; {}", wrong.value, wrong.message, wrong.hint)),
        None => Ok((key.to_owned(), value.to_owned())),
    }
}

impl Workload {
    /// What is right in each of these flags and wrong in all of them together.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let name = |app: &AppFlag| {
            let number = || app.address.port().map(|port| port.to_string());
            app.port.clone().or_else(number).unwrap_or_default()
        };
        let names: Vec<_> = self.app.iter().map(name).collect();
        // Free ports are told apart by nothing yet.
        if let Some(twice) = twice(names.iter().filter(|name| *name != "0")) {
            return Err(Failure::usage(format!("--app names port {twice} twice")));
        }
        if let Some(twice) = twice(self.label.iter().map(|(key, _)| key)) {
            return Err(Failure::usage(format!("--label names {twice} twice")));
        }
        let checked = self.app_check.iter().filter_map(|check| check.port.as_ref());
        match checked.into_iter().find(|port| !names.contains(port)) {
            Some(port) => {
                Err(Failure::usage(format!("--app-check {port}=…: no --app has this port")))
            }
            None => Ok(()),
        }
    }

    /// What these flags say, for a sidecar in this mode.
    pub(super) fn options(&self, mode: Mode) -> Options {
        let labels: BTreeMap<String, String> = self.label.iter().cloned().collect();
        Options {
            workload: self.workload.clone(),
            apps: self.app.clone(),
            upstreams: self.upstream.clone(),
            advertise: self.advertise.clone(),
            labels,
            zone: self.zone.clone(),
            weight: self.weight,
            workers: self.workers.map(usize::from),
            connection_age_max: Some(self.connection_age_max),
            telemetry: TelemetryOptions::new(self.otlp.clone(), &bootstrap::variable),
            external: External::new(&bootstrap::variable),
            checks: Checks {
                how: self.app_check.clone(),
                interval: self.app_check_interval,
                timeout: self.app_check_timeout,
                failures: self.app_check_failures,
            },
            ..Options::new(mode)
        }
    }

    /// The data directory: the one that was named, or the next free one of the service.
    pub(super) fn open_data(&self, service: &ServiceName) -> Result<DataDirectory, Failure> {
        if let Some(path) = &self.data {
            return Ok(DataDirectory::open(path)?);
        }
        let name = format!("{}.{}", service.namespace, service.name);
        Ok(bootstrap::open_free_directory(&bootstrap::state_directory()?.join(name))?)
    }

    /// The join token, if there is one. A file that is gone, or may not be read any more, does no harm
    /// to who has joined already.
    pub(super) fn token(&self, data: &DataDirectory) -> Result<Option<JoinToken>, Failure> {
        let credential = || {
            let path =
                Path::new(&bootstrap::variable("CREDENTIALS_DIRECTORY")?).join(TOKEN_CREDENTIAL);
            // One that is there and may not be looked at is no missing one.
            path.try_exists().unwrap_or(true).then_some(path)
        };
        let Some(path) = self.token_file.clone().or_else(credential) else { return Ok(None) };
        let text = match bootstrap::read_text(&path, TOKEN_BYTES_MAX) {
            Ok(text) => text,
            Err(error) => {
                let passes = matches!(error.kind(), NotFound | PermissionDenied);
                if passes && data.load_svid()?.is_some() {
                    return Ok(None);
                }
                return Err(anyhow!(error).context(path.display().to_string()).into());
            }
        };
        let token = JoinToken::parse(text.trim()).with_context(|| path.display().to_string())?;
        Ok(Some(token))
    }
}

fn twice<'a>(names: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

impl Args {
    fn mode(&self) -> Result<Mode, Failure> {
        if let Some(mode) = self.files.mode(self.service.as_ref()) {
            return Ok(mode);
        }
        let missing = "--control-plane ADDRESS, or --config FILE with certificates, is missing";
        let server = self.workload.control_plane.clone();
        let server = server.ok_or_else(|| Failure::usage(missing))?;
        let service = self.service.clone();
        let service = service.ok_or_else(|| Failure::usage("--service NAME is missing"))?;
        let data = self.workload.open_data(&service)?;
        let token = self.workload.token(&data)?;
        Ok(Mode::Live { server, service, token, data, patience: None })
    }

    fn listen(&self) -> Listen {
        Listen {
            inbound: Some(self.inbound),
            outbound: Some(self.outbound),
            admin: Some(self.admin.clone()),
            metrics: Some(self.metrics.clone()),
            health: Some(self.health.clone()),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let logging = args.common.start_log(None)?;
    args.workload.check()?;
    if let Some(app) = args.workload.app.iter().find(|app| app.address.port() == Some(0)) {
        let address = &app.address;
        let why = format!("--app {address}: the application listens on no port 0");
        return Err(Failure::usage(why));
    }
    let mut options = args.workload.options(args.mode()?);
    options.listen = args.listen();
    options.logging = Some(Arc::clone(&logging));
    let announce = Announce { stdout: true, ..args.common.announce() };
    role::small_pages();
    role::run(async {
        let served = sidecar::serve(options, announce).await.map_err(Failure::new);
        let is_static = !args.files.config.is_empty();
        served.map_err(|failure| if is_static { failure.in_lines() } else { failure })?;
        Ok(ExitCode::SUCCESS)
    })
}
