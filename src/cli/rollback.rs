//! `outrigger rollback`: makes the configuration what it was at a revision, by a new revision.

use std::process::ExitCode;

use super::{
    output::{Failure, Output},
    remote::Remote,
    repeat,
    report::{Concerned, Report},
    writing::{Ending, Writing},
};
use crate::resource::{Problem, ResourceKey, pb};

const EXAMPLES: &str = "\
Examples:
  outrigger history                     which revisions there are
  outrigger diff 41                     what has changed since one of them
  outrigger rollback 41 --dry-run       what going back to it would change, and for whom
  outrigger rollback 41 --wait

What users wrote becomes what it was. Live workloads, and services that registrations made, belong to \
no revision and stay as they are. Without -m the new revision says 'rollback to 41'.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The revision whose content is brought back
    revision: u64,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    rollback(args).await.map_err(|failure| failure.in_format(format))
}

async fn rollback(args: Args) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let request = pb::RollbackRequest {
        revision: args.revision,
        dry_run: args.writing.dry_run,
        expect_revision: args.writing.expect_revision,
        message: args.writing.message.clone().unwrap_or_default(),
        request_id: repeat::request_id(),
    };
    let answer =
        repeat::until_answered(async || connected.client.config().rollback(request.clone()).await);
    let answer = answer.await.map_err(|status| connected.failed(&status))?.into_inner();
    let problems: Vec<Problem> = answer.problems.iter().map(Problem::from_pb).collect();
    let report = Report {
        problems: &problems,
        resources: answer.changes.len(),
        changes: &answer.changes,
        revision: Some(answer.revision),
        dry_run: args.writing.dry_run,
        concerned: Concerned { named: &answer.sidecars, total: answer.sidecars_total },
    };
    let changed = answer.changes.iter().filter_map(|change| change.resource.as_ref());
    let keys = changed.filter_map(ResourceKey::from_pb).collect();
    let ending = Ending { report, guard: None, keys };
    args.writing.end(&connected, ending, args.output.format).await
}
