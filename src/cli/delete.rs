//! `outrigger delete`: deletes all of what is named, or nothing.

use std::{path::PathBuf, process::ExitCode};

use super::{
    apply::finish,
    manifest::{Manifest, Namespace},
    output::{Failure, Output},
    remote::Remote,
    repeat,
    report::{Concerned, Report},
    select::{self, Selection},
};
use crate::resource::{Problem, ResourceKey, pb};

const EXAMPLES: &str = "\
Examples:
  outrigger delete grpcroute orders -n shop
  outrigger delete tp/inventory tp/payments -n shop --dry-run
  outrigger delete -f mesh.yaml

With one resource among them that can not be deleted nothing is.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// As grpcroute or gr; or KIND/NAME
    #[arg(required_unless_present = "files", conflicts_with = "files")]
    kind: Option<String>,
    /// Which ones
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Delete what this file, directory or - (stdin) names; repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    #[arg(value_delimiter = ',', env = "OUTRIGGER_FILE")]
    files: Vec<PathBuf>,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    /// Say what would be deleted and delete nothing
    #[arg(long, env = "OUTRIGGER_DRY_RUN")]
    dry_run: bool,
    /// Refuse unless this is the newest revision
    #[arg(long, value_name = "REVISION", env = "OUTRIGGER_EXPECT_REVISION")]
    expect_revision: Option<u64>,
    /// Why; kept with the revision and shown by status
    #[arg(short, long, value_name = "TEXT", env = "OUTRIGGER_MESSAGE")]
    message: Option<String>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    delete(args).await.map_err(|failure| failure.in_format(format))
}

async fn delete(args: Args) -> Result<ExitCode, Failure> {
    // What is wrong with the words is said whether there is a control plane or not.
    let selection = if args.files.is_empty() {
        Some(select::parse(args.kind.as_deref(), &args.names)?)
    } else {
        None
    };
    let connected = args.remote.connect()?;
    let asked = args.namespace.as_deref();
    let namespace = asked.unwrap_or(&connected.namespace);
    let mut manifest = Manifest::default();
    let keys: Vec<ResourceKey> = match selection {
        Some(Selection::Named(named)) => {
            named.into_iter().map(|(kind, name)| ResourceKey::new(kind, namespace, name)).collect()
        }
        Some(Selection::Kinds(_)) => {
            return Err(Failure::usage("which ones? outrigger delete KIND NAME"));
        }
        None => {
            let namespace =
                asked.map_or(Namespace::Context(&connected.namespace), Namespace::Asked);
            manifest = Manifest::read(&args.files, namespace)?;
            manifest.keys()
        }
    };
    let count = keys.len().max(manifest.count());
    if manifest.is_refused() {
        let report = Report {
            problems: manifest.problems(),
            resources: count,
            changes: &[],
            revision: None,
            dry_run: args.dry_run,
            concerned: Concerned::default(),
        };
        return finish(&report, args.output.format);
    }
    let request = pb::DeleteRequest {
        resources: keys.iter().map(ResourceKey::to_pb).collect(),
        dry_run: args.dry_run,
        expect_revision: args.expect_revision,
        message: args.message.unwrap_or_default(),
        request_id: repeat::request_id(),
        guard: None,
    };
    let answer =
        repeat::until_answered(async || connected.client.config().delete(request.clone()).await);
    let answer = answer.await.map_err(|status| connected.failed(&status))?.into_inner();
    let problems: Vec<Problem> = answer.problems.iter().map(Problem::from_pb).collect();
    let report = Report {
        problems: &problems,
        resources: count,
        changes: &answer.changes,
        revision: Some(answer.revision),
        dry_run: args.dry_run,
        concerned: Concerned { named: &answer.sidecars, total: answer.sidecars_total },
    };
    finish(&report, args.output.format)
}
