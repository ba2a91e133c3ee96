//! `outrigger check`: what is wrong, looked for from here towards the mesh: context, files, credential,
//! reachability, TLS, the API, permissions, clocks, versions, sidecars, certificates, refused
//! resources, ports. With `--sidecar` it asks a sidecar on this machine instead, which needs no
//! context. Each line says what to do, and what can not be looked at because of an earlier failure is
//! left out.

mod beside;
mod files;
mod here;
mod mesh;
mod ports;
mod report;

use std::process::ExitCode;

use super::{
    get::Filter,
    output::{self, Failure, Output},
    remote::Remote,
};
use crate::{
    app::admin,
    clock,
    resource::{Kind, pb},
};
use report::{Line, Report};

const EXAMPLES: &str = "\
Examples:
  outrigger check
  outrigger check orders-2.shop       only what concerns this sidecar or service
  outrigger check --sidecar           the sidecar on this machine, without a context
  outrigger check -o json

Exit code 1 when something fails; warnings alone are 0.";

/// Kinds whose conditions say whether they do anything.
const CONFIGURING: [Kind; 5] =
    [Kind::HttpRoute, Kind::GrpcRoute, Kind::TrafficPolicy, Kind::AuthorizationPolicy, Kind::Mesh];

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only this sidecar or service: NAME or NAME.NAMESPACE
    #[arg(value_name = "WORKLOAD|SERVICE")]
    subject: Option<String>,
    /// Ask the sidecar on this machine by its --admin address [default: 127.0.0.1:15000]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, env = "OUTRIGGER_SIDECAR")]
    #[arg(default_missing_value = "127.0.0.1:15000", conflicts_with = "subject")]
    sidecar: Option<admin::Address>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    let mut report = Report::default();
    match &args.sidecar {
        Some(admin) => beside::look(admin, clock::now(), &mut report).await,
        None => look(&args, &mut report).await,
    }
    let coloured = output::coloured();
    format.print(|| report.text(coloured), || report.json())?;
    Ok(if report.is_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Looks as far as it gets.
async fn look(args: &Args, report: &mut Report) {
    let Some((context, contexts)) = here::context(&args.remote, report) else { return };
    files::of_context(&context, &contexts, report);
    let credential = here::credential(&context, clock::now(), report);
    if !here::reach(&context.server, report).await {
        return;
    }
    let Some(credential) = credential else { return };
    here::tls(&context.server, &credential, clock::now(), report).await;
    let connected = match args.remote.connect() {
        Ok(connected) => connected,
        Err(failure) => return report.add(Line::failure("api", &failure)),
    };
    let Some(status) = here::api(&connected, report).await else { return };
    let subject = args.subject.as_deref().map(|subject| match subject.split_once('.') {
        Some(_) => subject.to_owned(),
        None => format!("{subject}.{}", connected.namespace),
    });
    here::permissions(&status, report);
    mesh::versions(&status, report);
    mesh::sidecars(&status, subject.as_deref(), report);
    mesh::certificates(&status, subject.as_deref(), clock::now(), report);
    mesh::refusals(&status, report);
    if subject.is_none() {
        ports::of_control_plane(&context.server, &status, report).await;
    }
    let everything = Filter { kinds: &CONFIGURING, namespace: None, selector: "" };
    match everything.fetch(&connected).await {
        Ok(resources) => mesh::conditions(&resources, report),
        Err(failure) => report.add(Line::failure("resources", &failure)),
    }
    let workloads = Filter { kinds: &[Kind::Workload], namespace: None, selector: "" };
    match workloads.fetch(&connected).await {
        Ok(workloads) => ports::look(&workloads, subject.as_deref(), report).await,
        Err(failure) => report.add(Line::failure("ports", &failure)),
    }
}

/// Whether a sidecar is the one asked about, or of the service asked about.
fn concerns(sidecar: &pb::SidecarStatus, subject: Option<&str>) -> bool {
    subject.is_none_or(|subject| {
        [&sidecar.workload, &sidecar.service]
            .into_iter()
            .any(|name| format!("{name}.{}", sidecar.namespace) == subject)
    })
}
