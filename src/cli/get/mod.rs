//! `outrigger get`: resources as a table, as names, or as they would be written in a file.

mod columns;
mod fetch;
mod watch;

use std::process::ExitCode;

use tonic::Code;

use super::{
    output::{self, Failure, Format, Output},
    remote::{Connected, Remote},
    select::{self, Selection},
};
use crate::{
    clock,
    resource::{self, Kind, ResourceKey, pb},
};
pub(super) use fetch::{Filter, one};
pub(super) use watch::watch_on;

const EXAMPLES: &str = "\
Examples:
  outrigger get services                      the namespace's services
  outrigger get gr,hr,tp -A -o wide           routes and policies of all namespaces
  outrigger get grpcroute orders -n shop -o yaml
  outrigger get workloads -l version=v2 -w    and every change from now on
  outrigger get all -A -o yaml > mesh.yaml    apply reads it again

Kinds: services (svc), workloads (wl), httproutes (hr), grpcroutes (gr), trafficpolicies (tp), \
authorizationpolicies (ap), meshes, all. With -w, -o json prints one event a line.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// One or several, as grpcroutes, gr or svc,tp; or KIND/NAME
    kind: String,
    /// Only these; all of the kind when there is none
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The namespace [default: the context's]
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    /// Of every namespace
    #[arg(short = 'A', long, env = "OUTRIGGER_ALL_NAMESPACES")]
    all_namespaces: bool,
    /// Only those with these labels: app=shop,tier!=test,canary,!old
    #[arg(
        short = 'l',
        long,
        value_name = "SELECTOR",
        default_value = "",
        env = "OUTRIGGER_SELECTOR"
    )]
    #[arg(hide_default_value = true)]
    selector: String,
    /// Then print every change, until Ctrl-C; it goes on over restarts of the control plane
    #[arg(short, long, env = "OUTRIGGER_WATCH")]
    watch: bool,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

/// Which resources a `get` is about.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) selection: Selection,
    /// `None`: every namespace.
    pub(super) namespace: Option<String>,
    pub(super) selector: String,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    get(args).await.map_err(|failure| failure.in_format(format))
}

async fn get(args: Args) -> Result<ExitCode, Failure> {
    let selection = select::parse(Some(&args.kind), &args.names)?;
    let is_named = matches!(selection, Selection::Named(_));
    if is_named && args.all_namespaces {
        return Err(Failure::usage("a NAME is in one namespace: -n instead of -A"));
    }
    if is_named && !args.selector.is_empty() {
        return Err(Failure::usage("either names or -l"));
    }
    let connected = args.remote.connect()?;
    let namespace = args.namespace.unwrap_or_else(|| connected.namespace.clone());
    let wanted = Wanted {
        selection,
        namespace: (!args.all_namespaces).then_some(namespace),
        selector: args.selector,
    };
    let format = args.output.format;
    if args.watch {
        return watch_on(&connected, &wanted, format, None).await;
    }
    match &wanted.selection {
        Selection::Kinds(kinds) => {
            let filter = Filter {
                kinds,
                namespace: wanted.namespace.as_deref(),
                selector: &wanted.selector,
            };
            let found = filter.fetch(&connected).await?;
            print(&found, kinds, &wanted, format)?;
            Ok(ExitCode::SUCCESS)
        }
        Selection::Named(named) => some(&connected, named, &wanted, format).await,
    }
}

/// Prints what there is of the named ones, and says which are not there.
async fn some(
    connected: &Connected,
    named: &[(Kind, String)],
    wanted: &Wanted,
    format: Format,
) -> Result<ExitCode, Failure> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    let namespace = wanted.namespace.as_deref().unwrap_or_default();
    for (kind, name) in named {
        let key = ResourceKey::new(*kind, namespace, name.clone());
        match one(connected, &key).await {
            Ok(resource) => found.push(resource),
            Err(status) if status.code() == Code::NotFound => missing.push(key),
            Err(status) => return Err(connected.failed(&status)),
        }
    }
    let missing: Vec<_> = missing.iter().map(|key| format!("there is no {key}")).collect();
    if found.is_empty() && !missing.is_empty() {
        return Err(Failure::say(missing.join("\n")));
    }
    let mut kinds: Vec<_> = named.iter().map(|(kind, _)| *kind).collect();
    kinds.dedup();
    match (named, format) {
        // One that was asked for by name is itself and no list.
        ([_], Format::Json | Format::Yaml) => {
            output::out(&document(&found[0], format))?;
        }
        _ => print(&found, &kinds, wanted, format)?,
    }
    for line in &missing {
        output::note(&format!("error: {line}\n"));
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(
    found: &[pb::Resource],
    kinds: &[Kind],
    wanted: &Wanted,
    format: Format,
) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let items: Vec<_> = found.iter().map(resource::to_json).collect();
            let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": items });
            output::out(&output::json(&list))
        }
        Format::Yaml => {
            let documents: Vec<_> = found.iter().map(resource::to_yaml).collect();
            output::out(&documents.join("---\n"))
        }
        Format::Name => output::out(&found.iter().filter_map(name_line).collect::<String>()),
        Format::Table | Format::Wide if found.is_empty() => {
            output::note(&nothing(kinds, wanted));
            Ok(())
        }
        Format::Table | Format::Wide => output::out(&tables(found, wanted, format)),
    }
}

/// One resource for a program.
fn document(resource: &pb::Resource, format: Format) -> String {
    if format.is_json() {
        output::json(&resource::to_json(resource))
    } else {
        resource::to_yaml(resource)
    }
}

/// `grpcroute/orders`
fn name_line(resource: &pb::Resource) -> Option<String> {
    let key = resource::key(resource)?;
    Some(format!("{}/{}\n", key.kind.to_lowercase(), key.name))
}

fn nothing(kinds: &[Kind], wanted: &Wanted) -> String {
    let what = match kinds {
        [kind] => kind.plural(),
        _ => "resources",
    };
    let labels = if wanted.selector.is_empty() { "" } else { " with these labels" };
    match &wanted.namespace {
        Some(namespace) if kinds.iter().any(|kind| kind.namespaced()) => {
            format!("no {what}{labels} in namespace {namespace}; -A looks in all\n")
        }
        _ => format!("no {what}{labels}\n"),
    }
}

/// A table for each kind that there is something of.
fn tables(found: &[pb::Resource], wanted: &Wanted, format: Format) -> String {
    let now = clock::now();
    let of = |kind: Kind| {
        let rows: Vec<_> = found.iter().filter(|it| Kind::of(it) == Some(kind)).collect();
        (!rows.is_empty()).then_some((kind, rows))
    };
    let kinds: Vec<_> = Kind::ALL.into_iter().filter_map(of).collect();
    let view = columns::View {
        namespaces: wanted.namespace.is_none(),
        kinds: kinds.len() > 1,
        wide: format == Format::Wide,
        now,
    };
    let table = |(kind, rows): &(Kind, Vec<&pb::Resource>)| columns::table(*kind, rows, view);
    kinds.iter().map(table).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
