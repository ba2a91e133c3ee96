//! `outrigger apply`: writes all of the resources, or none.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use super::{
    manifest::{Manifest, Namespace},
    output::{self, Failure, Format, Output},
    remote::{Connected, Remote},
    report::Report,
    settle::settle,
    words,
};
use crate::resource::pb;

const EXAMPLES: &str = "\
Examples:
  outrigger apply -f mesh.yaml -m 'inventory canary'
  outrigger apply -f routes/ -f policies/ --dry-run
  kustomize build . | outrigger apply -f - --wait --timeout 10s
  outrigger apply -f mesh.yaml --expect-revision 41 -o json

Problems are shown with file, line and column. With one error among them nothing is written.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A file, a directory (its *.yaml, *.yml and *.json, by name), or - for stdin; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-", required = true)]
    #[arg(value_delimiter = ',', env = "OUTRIGGER_FILE")]
    files: Vec<PathBuf>,
    /// The namespace of resources that name none; one that names another is refused
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    /// Say what would change and write nothing
    #[arg(long, env = "OUTRIGGER_DRY_RUN")]
    dry_run: bool,
    /// Refuse unless this is the newest revision
    #[arg(long, value_name = "REVISION", env = "OUTRIGGER_EXPECT_REVISION")]
    expect_revision: Option<u64>,
    /// Why; kept with the revision and shown by status
    #[arg(short, long, value_name = "TEXT", env = "OUTRIGGER_MESSAGE")]
    message: Option<String>,
    /// Wait until every sidecar concerned runs it
    #[arg(long, env = "OUTRIGGER_WAIT")]
    wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = words::duration)]
    #[arg(env = "OUTRIGGER_TIMEOUT")]
    timeout: Duration,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    apply(args).await.map_err(|failure| failure.in_format(format))
}

async fn apply(args: Args) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let namespace = match &args.namespace {
        Some(asked) => Namespace::Asked(asked),
        None => Namespace::Context(&connected.namespace),
    };
    let mut manifest = Manifest::read(&args.files, namespace)?;
    let request = pb::ApplyRequest {
        resources: manifest.resources(),
        dry_run: args.dry_run || manifest.is_refused(),
        expect_revision: args.expect_revision,
        message: args.message.clone().unwrap_or_default(),
    };
    let answer = if manifest.is_refused() {
        // What is wrong is wrong in any case; the control plane can still say more.
        tried(&connected, request).await
    } else {
        let answer = connected.client.config().apply(request).await;
        Some(answer.map_err(|status| connected.failed(&status))?.into_inner())
    };
    if let Some(answer) = &answer {
        manifest.take(&answer.problems);
    }
    let report = Report {
        problems: manifest.problems(),
        resources: manifest.count(),
        changes: answer.as_ref().map_or(&[], |answer| &answer.changes),
        revision: answer.as_ref().map(|answer| answer.revision),
        dry_run: args.dry_run,
    };
    if report.is_refused() {
        let report = Report { changes: &[], ..report };
        return finish(&report, args.output.format);
    }
    if !args.wait || args.dry_run {
        return finish(&report, args.output.format);
    }
    wait(&connected, &manifest, &report, &args).await
}

/// What the control plane says of the part that could be read, and its revision; `None` when it can
/// not be asked.
async fn tried(connected: &Connected, request: pb::ApplyRequest) -> Option<pb::ApplyResponse> {
    let mut client = connected.client.config();
    if !request.resources.is_empty()
        && let Ok(answer) = client.apply(request).await
    {
        return Some(answer.into_inner());
    }
    let newest = client.list(pb::ListRequest { page_size: 1, ..Default::default() }).await.ok()?;
    Some(pb::ApplyResponse { revision: newest.into_inner().revision, ..Default::default() })
}

async fn wait(
    connected: &Connected,
    manifest: &Manifest,
    report: &Report<'_>,
    args: &Args,
) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    let revision = report.revision.unwrap_or_default();
    if !is_for_programs(format) {
        finish(report, format)?;
    }
    let settled = settle(connected, revision, &manifest.keys(), args.timeout).await?;
    if is_for_programs(format) {
        output::note(&report.problems_text());
        let mut value = report.json();
        value["settled"] = settled.json();
        format.print(String::new, || value)?;
    } else if settled.is_done() {
        output::out(&settled.text(revision))?;
    }
    if settled.is_done() {
        return Ok(ExitCode::SUCCESS);
    }
    output::note(&format!("error: {}\n  try: outrigger check\n", settled.text(revision)));
    Ok(ExitCode::FAILURE)
}

fn is_for_programs(format: Format) -> bool {
    matches!(format, Format::Json | Format::Yaml)
}

/// Says how a write ended.
pub(super) fn finish(report: &Report<'_>, format: Format) -> Result<ExitCode, Failure> {
    output::note(&report.problems_text());
    let refused = report.is_refused();
    if is_for_programs(format) {
        format.print(String::new, || report.json())?;
    } else if !refused {
        output::out(&report.changes_text())?;
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
