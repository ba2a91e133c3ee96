//! `outrigger apply`: writes all of the resources, or none.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use super::{
    guard as guarded,
    manifest::{Manifest, Namespace},
    output::{self, Failure, Format, Output},
    remote::{Connected, Remote},
    repeat,
    report::{Concerned, Report},
    settle::settle,
    words,
};
use crate::resource::{ResourceKey, pb};

const EXAMPLES: &str = "\
Examples:
  outrigger apply -f mesh.yaml -m 'inventory canary'
  outrigger apply -f routes/ -f policies/ --dry-run
  kustomize build . | outrigger apply -f - --wait --timeout 10s
  outrigger apply -f mesh.yaml --expect-revision 41 -o json
  outrigger apply -f canary.yaml --guard 2m

With --guard the control plane compares, for that long, how many calls to the services concerned fail
with how many did before, and rolls the write back when they are more. It does so on its own: Ctrl-C
ends this command and not the guard.

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
    /// Roll back by itself when more calls fail than before; shows both, for this long (10s to 1h)
    #[arg(long, value_name = "DURATION", value_parser = words::duration)]
    #[arg(env = "OUTRIGGER_GUARD", conflicts_with_all = ["dry_run", "wait"])]
    guard: Option<Duration>,
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
        request_id: repeat::request_id(),
        guard: guard_of(args.guard)?,
    };
    let answer = if manifest.is_refused() {
        // What is wrong is wrong in any case; the control plane can still say more.
        tried(&connected, request).await
    } else {
        let answer =
            repeat::until_answered(async || connected.client.config().apply(request.clone()).await);
        Some(answer.await.map_err(|status| connected.failed(&status))?.into_inner())
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
        concerned: answer.as_ref().map_or_else(Concerned::default, |answer| Concerned {
            named: &answer.sidecars,
            total: answer.sidecars_total,
        }),
    };
    if report.is_refused() {
        let report = Report { changes: &[], ..report };
        return finish(&report, args.output.format);
    }
    if let Some(guard) = answer.as_ref().and_then(|answer| answer.guard.clone()) {
        return guarded::follow(&connected, &report, guard, args.output.format).await;
    }
    if !args.wait || args.dry_run {
        return finish(&report, args.output.format);
    }
    settled(&connected, &manifest.keys(), &report, args.timeout, args.output.format).await
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

/// Says how a write ended, and waits until every sidecar runs it.
pub(super) async fn settled(
    connected: &Connected,
    keys: &[ResourceKey],
    report: &Report<'_>,
    timeout: Duration,
    format: Format,
) -> Result<ExitCode, Failure> {
    let revision = report.revision.unwrap_or_default();
    if !is_for_programs(format) {
        finish(report, format)?;
    }
    let settled = settle(connected, revision, keys, timeout).await?;
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

fn guard_of(asked: Option<Duration>) -> Result<Option<prost_types::Duration>, Failure> {
    let Some(asked) = asked else { return Ok(None) };
    let guard = prost_types::Duration::try_from(asked);
    guard.map(Some).map_err(|_| Failure::usage("--guard: too long"))
}

pub(super) fn is_for_programs(format: Format) -> bool {
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
