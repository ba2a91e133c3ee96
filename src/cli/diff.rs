//! `outrigger diff`: what differs between two revisions, or between the mesh and files. Exits as
//! `kubectl diff` does: 0 nothing differs, 1 something does, 2 trouble.

use std::{path::PathBuf, process::ExitCode};

use super::{
    lines,
    manifest::{Manifest, Namespace},
    output::{self, Failure, Format, Output},
    remote::{Connected, Remote},
    report::{self, Concerned, Report},
};
use crate::resource::{self, pb};

const EXAMPLES: &str = "\
Examples:
  outrigger diff -f mesh.yaml        what applying this would change
  outrigger diff 41                  what has changed since a revision
  outrigger diff 41 42               between two revisions

Exit codes: 0 nothing differs, 1 something does, 2 trouble.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The older revision
    #[arg(value_name = "FROM", required_unless_present = "files", conflicts_with = "files")]
    from: Option<u64>,
    /// The newer revision [default: the newest]
    #[arg(value_name = "TO")]
    to: Option<u64>,
    /// Compare the mesh with this file, directory or - (stdin); repeatable
    #[arg(short = 'f', long = "file", value_name = "FILE|DIR|-")]
    #[arg(value_delimiter = ',', env = "OUTRIGGER_FILE")]
    files: Vec<PathBuf>,
    /// The namespace of resources that name none
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

/// What trouble exits with, so that 1 means a difference and nothing else.
const TROUBLE: u8 = 2;

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    diff(args).await.map_err(|failure| failure.with_code(TROUBLE).in_format(format))
}

/// A difference as it was told.
#[derive(Debug, Default)]
struct Told {
    head: pb::DiffResponse,
    resources: Vec<pb::DiffResponse>,
}

async fn diff(args: Args) -> Result<ExitCode, Failure> {
    let connected = args.remote.connect()?;
    let format = args.output.format;
    if args.files.is_empty() {
        let request = pb::DiffRequest {
            from_revision: args.from,
            to_revision: args.to,
            resources: Vec::new(),
        };
        return show(&ask(&connected, request).await?, format);
    }
    let namespace = match &args.namespace {
        Some(asked) => Namespace::Asked(asked),
        None => Namespace::Context(&connected.namespace),
    };
    let mut manifest = Manifest::read(&args.files, namespace)?;
    let mut told = Told::default();
    if !manifest.is_refused() {
        let resources = manifest.resources();
        told = ask(&connected, pb::DiffRequest { resources, ..Default::default() }).await?;
        manifest.take(&told.head.problems);
    }
    let report = Report {
        problems: manifest.problems(),
        resources: manifest.count(),
        changes: &[],
        revision: (told.head.from_revision > 0).then_some(told.head.from_revision),
        dry_run: true,
        concerned: Concerned::default(),
    };
    output::note(&report.problems_text());
    if report.is_refused() {
        if matches!(format, Format::Json | Format::Yaml) {
            format.print(String::new, || report.json())?;
        }
        return Ok(ExitCode::from(TROUBLE));
    }
    show(&told, format)
}

async fn ask(connected: &Connected, request: pb::DiffRequest) -> Result<Told, Failure> {
    let failed = |status| connected.failed(&status);
    let mut stream = connected.client.config().diff(request).await.map_err(failed)?.into_inner();
    let Some(head) = stream.message().await.map_err(failed)? else {
        return Err(Failure::say("the control plane ended the difference before it began"));
    };
    let mut told = Told { head, ..Told::default() };
    while let Some(next) = stream.message().await.map_err(failed)? {
        told.resources.push(next);
    }
    Ok(told)
}

fn show(told: &Told, format: Format) -> Result<ExitCode, Failure> {
    format.print(
        || match format {
            Format::Name => names(told),
            _ => text(told, output::coloured()),
        },
        || json(told),
    )?;
    Ok(if told.resources.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn name(one: &pb::DiffResponse) -> String {
    let id = one.change.as_ref().and_then(|change| change.resource.as_ref());
    id.map_or_else(String::new, report::name)
}

fn names(told: &Told) -> String {
    told.resources.iter().map(|one| format!("{}\n", name(one))).collect()
}

/// As `diff -u` writes it, one file for each resource.
fn text(told: &Told, coloured: bool) -> String {
    let head = &told.head;
    let from = format!("revision {}", head.from_revision);
    let to = head.to_revision.map_or_else(|| "applied".to_owned(), |to| format!("revision {to}"));
    let yaml = |resource: &Option<pb::Resource>| {
        resource.as_ref().map(resource::to_yaml).unwrap_or_default()
    };
    let side = |resource: &Option<pb::Resource>, name: &str, of: &str| match resource {
        Some(_) => format!("{name} ({of})"),
        None => "/dev/null".to_owned(),
    };
    let one = |one: &pb::DiffResponse| {
        let name = name(one);
        let names = [side(&one.before, &name, &from), side(&one.after, &name, &to)];
        lines::unified(&yaml(&one.before), &yaml(&one.after), &names, coloured)
    };
    told.resources.iter().map(one).collect()
}

fn json(told: &Told) -> serde_json::Value {
    let one = |one: &pb::DiffResponse| {
        let change = one.change.clone().unwrap_or_default();
        let id = change.resource.clone().unwrap_or_default();
        serde_json::json!({
            "kind": id.kind,
            "namespace": id.namespace,
            "name": id.name,
            "change": report::word(change.kind()),
            "fields": change.fields,
            "before": one.before.as_ref().map(resource::to_json),
            "after": one.after.as_ref().map(resource::to_json),
        })
    };
    serde_json::json!({
        "fromRevision": told.head.from_revision,
        "toRevision": told.head.to_revision,
        "differs": !told.resources.is_empty(),
        "resources": told.resources.iter().map(one).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Told, text};
    use crate::resource::{Kind, ResourceKey, pb, yaml};

    fn service(port: u16) -> pb::Resource {
        let text = format!(
            "{{apiVersion: outrigger.dev/v1, kind: Service, metadata: {{name: orders, \
             namespace: shop}}, spec: {{ports: [{{port: {port}}}]}}}}"
        );
        yaml::parse(&text, "x").0.remove(0).resource
    }

    #[test]
    fn a_difference_looks_as_diff_writes_it() {
        let one = |before: Option<pb::Resource>, after: Option<pb::Resource>| pb::DiffResponse {
            change: Some(pb::Change {
                resource: Some(ResourceKey::new(Kind::Service, "shop", "orders").to_pb()),
                ..Default::default()
            }),
            before,
            after,
            ..Default::default()
        };
        let told = Told {
            head: pb::DiffResponse {
                from_revision: 41,
                to_revision: Some(42),
                ..Default::default()
            },
            resources: vec![one(Some(service(9090)), Some(service(9091)))],
        };
        let expected = "\
--- Service shop/orders (revision 41)
+++ Service shop/orders (revision 42)
@@ -5,4 +5,4 @@
   namespace: shop
 spec:
   ports:
-  - port: 9090
+  - port: 9091
";
        assert_eq!(text(&told, false), expected);
        let told = Told {
            head: pb::DiffResponse { from_revision: 41, ..Default::default() },
            resources: vec![one(None, Some(service(1)))],
        };
        let text = text(&told, false);
        assert!(
            text.starts_with(
                "--- /dev/null\n+++ Service shop/orders (applied)\n@@ -0,0 +1,8 @@\n+"
            ),
            "{text}"
        );
    }
}
