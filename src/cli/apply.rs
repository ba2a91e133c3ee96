//! `outrigger apply`: writes all of the resources, or none.

use std::{path::PathBuf, process::ExitCode};

use super::{
    manifest::{Manifest, Namespace},
    output::{Failure, Output},
    remote::{Connected, Remote},
    repeat,
    report::{Concerned, Report},
    writing::{Ending, Guarding, Writing},
};
use crate::resource::pb;

const EXAMPLES: &str = "\
Examples:
  outrigger apply -f mesh.yaml -m 'inventory canary'
  outrigger apply -f routes/ -f policies/ --dry-run
  kustomize build . | outrigger apply -f - --wait --timeout 10s
  outrigger apply -f mesh.yaml --expect-revision 41 -o json
  outrigger apply -f canary.yaml --guard 2m

With --guard the control plane compares, for that long, how many calls to the services concerned fail \
with how many did before, and rolls the write back when they are more. It does so on its own: Ctrl-C \
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
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    guarding: Guarding,
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
        dry_run: args.writing.dry_run || manifest.is_refused(),
        expect_revision: args.writing.expect_revision,
        message: args.writing.message.clone().unwrap_or_default(),
        request_id: repeat::request_id(),
        guard: args.guarding.to_pb()?,
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
        dry_run: args.writing.dry_run,
        concerned: answer.as_ref().map_or_else(Concerned::default, |answer| Concerned {
            named: &answer.sidecars,
            total: answer.sidecars_total,
        }),
    };
    let guard = answer.as_ref().and_then(|answer| answer.guard.clone());
    let ending = Ending { report, guard, keys: manifest.keys() };
    args.writing.end(&connected, ending, args.output.format).await
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
