//! `outrigger context`: the control planes that this user knows.

use std::{
    path::{self, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;

use super::{
    output::{self, Failure, Format, Output},
    words,
};
use crate::{
    app::{
        client::Credential,
        context::{Context, Contexts, NamedContext},
    },
    units::name::check_label,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The contexts file [default: $XDG_CONFIG_HOME/outrigger/config.yaml]
    #[arg(long, global = true, value_name = "FILE", env = "OUTRIGGER_CONTEXTS")]
    contexts: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all contexts and which one is current
    #[command(after_help = "Example:\n  outrigger context list -o json")]
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make a context the current one
    #[command(after_help = "Example:\n  outrigger context use local")]
    Use {
        /// Its name
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Add a context, or replace the one of that name
    Add(AddArgs),
}

const ADD_EXAMPLE: &str = "\
Example:
  outrigger context add far --server mesh.example:15010 --cacert root.pem --cert admin.pem \\
    --key admin-key.pem --namespace shop

The files are those that the control plane lays in its data directory.";

#[derive(Debug, clap::Args)]
#[command(after_help = ADD_EXAMPLE)]
struct AddArgs {
    /// Its name
    name: String,
    /// The control plane's address
    #[arg(long, value_name = "HOST:PORT", env = "OUTRIGGER_SERVER", value_parser = words::server)]
    server: String,
    /// PEM file with the roots that the control plane's certificate may come from
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_CACERT")]
    cacert: PathBuf,
    /// PEM file with the client certificate
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_CERT")]
    cert: PathBuf,
    /// PEM file with the client certificate's key
    #[arg(long, value_name = "FILE", env = "OUTRIGGER_KEY")]
    key: PathBuf,
    /// The namespace meant when none is named [default: default]
    #[arg(short, long, value_name = "NAMESPACE", env = "OUTRIGGER_NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let format = match &args.command {
        Command::List { output }
        | Command::Use { output, .. }
        | Command::Add(AddArgs { output, .. }) => output.format,
    };
    execute(args).map_err(|failure| failure.in_format(format))
}

fn execute(args: Args) -> Result<ExitCode, Failure> {
    let mut contexts = Contexts::load(args.contexts.as_deref())?;
    match args.command {
        Command::List { output } if output.format == Format::Name => {
            let names = contexts.all().iter().map(|named| format!("{}\n", named.name));
            output::out(&names.collect::<String>())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::List { output } => {
            output.format.print(|| list(&contexts), || list_json(&contexts))
        }
        Command::Use { name, output } => {
            contexts.choose_current(&name)?;
            contexts.save()?;
            let said = || format!("current context: {name}\n");
            output.format.print(said, || list_json(&contexts))
        }
        Command::Add(args) => add(&mut contexts, args),
    }
}

fn add(contexts: &mut Contexts, args: AddArgs) -> Result<ExitCode, Failure> {
    let file = |path: PathBuf| -> Result<PathBuf, Failure> {
        let context = format!("{}", path.display());
        std::fs::metadata(&path).map_err(|error| anyhow::Error::new(error).context(context))?;
        Ok(path::absolute(path)?)
    };
    if let Some(namespace) = &args.namespace {
        check_label(namespace)
            .map_err(|wrong| Failure::usage(format!("--namespace {namespace:?}: {wrong}")))?;
    }
    let context = Context {
        server: args.server,
        certificate_authority: file(args.cacert)?,
        client_certificate: file(args.cert)?,
        client_key: file(args.key)?,
        namespace: args.namespace,
    };
    Credential::load(&context)?;
    contexts.put(NamedContext { name: args.name.clone(), context });
    contexts.save()?;
    let said = || format!("context {} added to {}\n", args.name, contexts.path().display());
    args.output.format.print(said, || list_json(contexts))
}

fn list(contexts: &Contexts) -> String {
    let row = |named: &NamedContext| {
        let current = contexts.current() == Some(named.name.as_str());
        vec![
            if current { "*" } else { "" }.to_owned(),
            named.name.clone(),
            named.context.server.clone(),
            named.context.namespace().to_owned(),
        ]
    };
    let rows: Vec<_> = contexts.all().iter().map(row).collect();
    output::table(&["CURRENT", "NAME", "SERVER", "NAMESPACE"], &[], &rows)
}

fn list_json(contexts: &Contexts) -> serde_json::Value {
    serde_json::json!({ "current-context": contexts.current(), "contexts": contexts.all() })
}

#[cfg(test)]
mod tests {
    use super::list;
    use crate::app::context::{Context, Contexts, NamedContext};

    #[test]
    fn the_list_marks_the_current_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("config.yaml");
        let mut contexts = Contexts::load(Some(&path)).expect("none yet");
        for (name, server, namespace) in
            [("local", "127.0.0.1:15010", None), ("far", "mesh.example:15010", Some("shop"))]
        {
            let context = Context {
                server: server.to_owned(),
                certificate_authority: "root.pem".into(),
                client_certificate: "admin.pem".into(),
                client_key: "admin-key.pem".into(),
                namespace: namespace.map(str::to_owned),
            };
            contexts.put(NamedContext { name: name.to_owned(), context });
        }
        contexts.choose_current("far").expect("is there");
        let expected = "\
CURRENT  NAME   SERVER              NAMESPACE
         local  127.0.0.1:15010     default
*        far    mesh.example:15010  shop
";
        assert_eq!(list(&contexts), expected);
    }
}
