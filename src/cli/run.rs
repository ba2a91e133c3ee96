//! `outrigger run`: an application with its sidecar, started, signalled and ended as one.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, anyhow};

use super::{
    output::Failure,
    remote::Remote,
    role,
    sidecar::{StaticFiles, Workload},
};
use crate::{
    app::{
        admin,
        child::EXIT_OWN_FAILURE,
        client,
        context::NamedContext,
        environment,
        logging::Logging,
        run::{self, Entry, Options},
        sidecar::{Listen, Mode},
    },
    units::ServiceName,
};

const EXAMPLES: &str = "\
Examples:
  outrigger run orders --app :9090 -- ./orders
  outrigger run web --app :0 -- npm start             # a free port, told as PORT
  outrigger run orders --app :9090 --upstream catalog:9090=:7001 -- ./orders

The command finds the mesh by proxy variables that gRPC and HTTP clients honour, by \
OUTRIGGER_OUTBOUND_ADDRESS, and by OUTRIGGER_UPSTREAM_<SERVICE> for each --upstream. \
Exits with the command's code, or 128 and the signal that ended it; 125: the sidecar failed, 126:
the command can not be executed, 127: it is not found.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The service that the command is, NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    workload: Workload,
    #[command(flatten)]
    files: StaticFiles,
    /// Where other sidecars come in [default: a free port of the address that it advertises]
    #[arg(long, value_name = "ADDRESS", env = "OUTRIGGER_INBOUND")]
    inbound: Option<SocketAddr>,
    /// Where the command goes out
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    #[arg(env = "OUTRIGGER_OUTBOUND")]
    outbound: SocketAddr,
    /// For operators on this machine: loopback or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", env = "OUTRIGGER_ADMIN")]
    admin: admin::Address,
    /// Where Prometheus reads /metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", env = "OUTRIGGER_METRICS")]
    metrics: admin::Address,
    /// Where orchestrators ask for /ready and /live
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", env = "OUTRIGGER_HEALTH")]
    health: admin::Address,
    /// What the command finds in its environment: proxy variables too, or none of them
    #[arg(long = "env", value_name = "proxy|none", default_value_t, env = "OUTRIGGER_ENV")]
    environment: environment::Mode,
    /// The sidecar's own log and access log [default: stderr]
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_LOG_FILE")]
    log_file: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    common: role::Common,
}

/// Every failure of our own has one exit code, so that it is never taken for the command's.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let logging = args.common.start_log(args.log_file.as_deref());
    let logging = logging.map_err(|failure| failure.with_code(EXIT_OWN_FAILURE))?;
    args.workload.check()?;
    role::run(async {
        let own = |failure: Failure| failure.with_code(EXIT_OWN_FAILURE);
        let options = args.options(logging).await.map_err(own)?;
        match run::run(options).await {
            Ok(code) => Ok(ExitCode::from(code)),
            Err(error) => {
                let code = error.exit_code();
                Err(Failure::new(error).with_code(code))
            }
        }
    })
}

impl Args {
    async fn options(&self, logging: Arc<Logging>) -> Result<Options, Failure> {
        let context = self.remote.context();
        let namespace = context.as_ref().map_or("default", |named| named.context.namespace());
        let service = ServiceName::parse(&self.service, namespace)
            .map_err(|error| anyhow!("SERVICE {:?} {error}", self.service))?;
        let (mode, ip) = match self.files.mode(Some(&service)) {
            Some(mode) => (mode, IpAddr::from([127, 0, 0, 1])),
            None => self.enter(service, context).await?,
        };
        let advertised = self.workload.advertise.as_deref().and_then(|host| host.parse().ok());
        let inbound = self.inbound.unwrap_or_else(|| (advertised.unwrap_or(ip), 0).into());
        let mut sidecar = self.workload.options(mode);
        sidecar.listen = Listen {
            inbound: Some(inbound),
            outbound: Some(self.outbound),
            admin: Some(self.admin.clone()),
            metrics: Some(self.metrics.clone()),
            health: Some(self.health.clone()),
        };
        sidecar.logging = Some(logging);
        // Stdout is the command's.
        sidecar.access_log = match &self.log_file {
            None => Box::new(io::stderr()),
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.with_context(|| path.display().to_string())?)
            }
        };
        Ok(Options {
            sidecar,
            command: self.command.clone(),
            environment: self.environment,
            announce: self.common.announce(),
        })
    }

    /// Into the mesh by flags where they lead to a control plane, else by the context; and this
    /// machine's address on the way there, by which others are told to come.
    async fn enter(
        &self,
        service: ServiceName,
        context: Result<NamedContext, Failure>,
    ) -> Result<(Mode, IpAddr), Failure> {
        let data = self.workload.open_data(&service)?;
        let token = self.workload.token(&data)?;
        // A context of another control plane has nothing to say about the one that was named.
        let leads = |named: &NamedContext| {
            let server = &self.workload.control_plane;
            server.as_ref().is_none_or(|server| *server == named.context.server)
        };
        let entry = match (&self.workload.control_plane, token, context) {
            (_, None, Ok(named)) if leads(&named) => {
                Entry::by_context(&named.context, &service, &data).await?
            }
            (Some(server), token, _) => Entry::given(server.clone(), token),
            (None, token, Ok(named)) => Entry::given(named.context.server, token),
            (None, _, Err(failure)) => return Err(failure),
        };
        let ip = client::local_address_towards(&entry.server).await?;
        let Entry { server, token, patience } = entry;
        Ok((Mode::Live { server, service, token, data, patience }, ip))
    }
}
