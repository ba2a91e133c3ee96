//! `outrigger delete`: deletes all of what is named, or nothing.

use std::{path::PathBuf, process::ExitCode};

use super::{
    manifest::{Manifest, Namespace},
    output::{Failure, Output},
    remote::Remote,
    repeat,
    report::{Concerned, Report},
    select::{self, Selection},
    writing::{Ending, Guarding, Writing, finish},
};
use crate::resource::{Problem, ResourceKey, pb};

const EXAMPLES: &str = "\
Examples:
  outrigger delete grpcroute orders -n shop
  outrigger delete tp/inventory tp/payments -n shop --dry-run
  outrigger delete -f mesh.yaml
  outrigger delete gr orders -n shop --guard 2m

With one resource among them that can not be deleted nothing is. --guard is as that of apply.";

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
    /// Refuse unless the one resource named has this version (`get -o json` shows it)
    #[arg(
        long,
        value_name = "VERSION",
        env = "OUTRIGGER_EXPECT_VERSION",
        conflicts_with = "files"
    )]
    expect_version: Option<String>,
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
    let expect_versions = expected(&keys, args.expect_version.as_deref())?;
    let count = keys.len().max(manifest.count());
    if manifest.is_refused() {
        let report = Report {
            problems: manifest.problems(),
            resources: count,
            changes: &[],
            revision: None,
            dry_run: args.writing.dry_run,
            concerned: Concerned::default(),
        };
        return finish(&report, args.output.format);
    }
    let request = pb::DeleteRequest {
        resources: keys.iter().map(ResourceKey::to_pb).collect(),
        dry_run: args.writing.dry_run,
        expect_revision: args.writing.expect_revision,
        message: args.writing.message.clone().unwrap_or_default(),
        request_id: repeat::request_id(),
        guard: args.guarding.to_pb()?,
        expect_versions,
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
        dry_run: args.writing.dry_run,
        concerned: Concerned { named: &answer.sidecars, total: answer.sidecars_total },
    };
    let ending = Ending { report, guard: answer.guard.clone(), keys };
    args.writing.end(&connected, ending, args.output.format).await
}

/// The version that the one resource must still have, where one was asked for. What is in files has
/// none: what the mesh adds is dropped when they are read.
fn expected(keys: &[ResourceKey], version: Option<&str>) -> Result<Vec<pb::Held>, Failure> {
    match (version, keys) {
        (None, _) => Ok(Vec::new()),
        (Some(version), [only]) => Ok(vec![pb::Held {
            resource: Some(only.to_pb()),
            resource_version: version.to_owned(),
        }]),
        (Some(_), _) => Err(Failure::usage("--expect-version is of one resource")),
    }
}
