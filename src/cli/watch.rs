//! `outrigger watch`: every change of the mesh, for as long as somebody reads. When the control plane
//! goes away it goes on where it was as soon as there is one again.

use std::process::ExitCode;

use super::{
    get::{self, Wanted},
    output::{Failure, Output},
    remote::Remote,
    select,
};

const EXAMPLES: &str = "\
Examples:
  outrigger watch                            everything in the namespace, then every change
  outrigger watch gr,tp -A -o json           one event a line, for programs
  outrigger watch gr --from 41               what has changed since revision 41, then every change

It goes on over restarts of the control plane. Ctrl-C ends it.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// One or several, as grpcroutes, gr or svc,tp; or KIND/NAME
    #[arg(default_value = "all")]
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
    #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "")]
    #[arg(hide_default_value = true, env = "OUTRIGGER_SELECTOR")]
    selector: String,
    /// Begin with what has changed since this revision, instead of with all there is
    #[arg(long, value_name = "REVISION", env = "OUTRIGGER_FROM")]
    from: Option<u64>,
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    watch(args).await.map_err(|failure| failure.in_format(format))
}

async fn watch(args: Args) -> Result<ExitCode, Failure> {
    let selection = select::parse(Some(&args.kind), &args.names)?;
    let connected = args.remote.connect()?;
    let namespace = args.namespace.unwrap_or_else(|| connected.namespace.clone());
    let wanted = Wanted {
        selection,
        namespace: (!args.all_namespaces).then_some(namespace),
        selector: args.selector,
    };
    get::watch_on(&connected, &wanted, args.output.format, args.from).await
}
