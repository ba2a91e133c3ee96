//! The command line: one command per file. Every command is a client of what the roles in
//! [`crate::app`] and the control plane's API offer to anyone.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage; `run` has those of the shell. Errors go
//! to stderr, and with `-o json` stdout holds valid JSON in every case.

mod apply;
mod audit;
mod backup;
mod ca;
mod check;
mod completions;
mod context;
mod control_plane;
mod credential;
mod delete;
mod demo;
mod describe;
mod dev;
mod diff;
mod environment;
mod get;
mod guard;
mod guarded;
mod healthcheck;
mod history;
mod issued;
mod lines;
mod manifest;
mod output;
mod remote;
mod repeat;
mod report;
mod role;
mod rollback;
mod run;
mod select;
mod settle;
mod shop;
mod sidecar;
mod status;
mod token;
mod version;
mod watch;
mod words;
mod writing;

use std::{io, process::ExitCode};

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::app::bootstrap;
use output::Failure;

/// What the root command says of itself.
const ABOUT: &str =
    "A gRPC-first service mesh: a sidecar beside each service, and a small control plane

  outrigger control-plane                           start the mesh on this machine
  outrigger run orders --app :9090 -- ./orders      a service with its sidecar
  outrigger status                                  how all of it is";

/// The one rule for all flags.
const VARIABLES: &str = "\
Every flag can also stand in the environment: --token-file is OUTRIGGER_TOKEN_FILE. What is given
several times stands there with commas between. A flag goes before its variable.";

#[derive(Debug, Parser)]
#[command(name = "outrigger", version, about = ABOUT, propagate_version = true)]
#[command(after_help = VARIABLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write resources: all of them, or none
    Apply(apply::Args),
    /// Show who changed what, and when
    Audit(audit::Args),
    /// Copy everything that a control plane keeps
    Backup(backup::Args),
    /// Show the certificate authority, and exchange its root
    Ca(ca::Args),
    /// Find out what is wrong, from here to every sidecar
    Check(check::Args),
    /// Print what a shell needs to complete commands and flags
    Completions(completions::Args),
    /// List, choose or add the control planes that this user knows
    Context(context::Args),
    /// Start the control plane: configuration, certificates, registry
    ControlPlane(control_plane::Args),
    /// Make, list and revoke the credentials with which people and programs call the API
    Credential(credential::Args),
    /// Delete resources: all of them, or none
    Delete(delete::Args),
    /// Show the mesh with a small shop on this machine, and check what is said of it
    Demo(demo::Args),
    /// Show a resource with all that the mesh says of it
    Describe(describe::Args),
    /// Run a control plane and several services with their sidecars
    Dev(dev::Args),
    /// Show what differs between revisions, or between the mesh and files
    Diff(diff::Args),
    /// Print the environment that leads an application through a sidecar
    Env(environment::Args),
    /// List resources, or show some of them
    #[command(visible_alias = "list")]
    Get(get::Args),
    /// Become a command that ends with its parent
    #[command(hide = true, name = crate::app::child::GUARD_COMMAND)]
    Guarded(guarded::Args),
    /// Ask the sidecar or control plane on this machine whether it is ready
    Healthcheck(healthcheck::Args),
    /// Show who changed what, when and why
    History(history::Args),
    /// Make the configuration what it was at a revision
    Rollback(rollback::Args),
    /// Run a command with a sidecar beside it
    Run(Box<run::Args>),
    /// Run one service of the demo's shop
    #[command(hide = true)]
    Shop(shop::Args),
    /// Start the data plane beside one workload
    Sidecar(Box<sidecar::Args>),
    /// Show how the mesh is: verdict, causes, services, control plane
    Status(status::Args),
    /// Make, list and revoke the tokens with which sidecars join
    Token(token::Args),
    /// Print the versions of this program and of the control plane
    Version(version::Args),
    /// Print what there is, then every change
    Watch(watch::Args),
}

/// Parses the command line, runs the command and turns its outcome into an exit code: 0 done, 1
/// refused or failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn parse() -> Result<Cli, clap::Error> {
    let mut command = without_variables(Cli::command());
    let mut matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// One rule for all flags is said once and not with each of them.
fn without_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| argument.hide_env(true)).mut_subcommands(without_variables)
}

/// Prints clap's answer: help and version are no failure, anything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = error.print();
        let gone = printed.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::BrokenPipe);
        return if printed.is_ok() || gone { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let text = plain(&error.render().to_string());
    if output::is_coloured(&io::stderr()) {
        output::note(&plain(&error.render().ansi().to_string()));
    } else {
        output::note(&text);
    }
    let words: Vec<_> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if output::asks_for_json(&words, bootstrap::variable("OUTRIGGER_OUTPUT").as_deref()) {
        let message = text.trim().strip_prefix("error: ").unwrap_or_else(|| text.trim());
        // A failing stdout is not worth a second failure.
        let _unheard = output::out(&output::json(&serde_json::json!({ "error": message })));
    }
    ExitCode::from(2)
}

/// What the standard library says of a number or an address that is none, for people.
fn plain(text: &str) -> String {
    text.replace("invalid digit found in string", "not a whole number")
        .replace("invalid socket address syntax", "not IP:PORT, such as 127.0.0.1:15001")
}

impl Command {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Apply(args) => wait(apply::run(args)),
            Self::Backup(args) => wait(backup::run(args)),
            Self::Audit(args) => wait(audit::run(args)),
            Self::Ca(args) => wait(ca::run(args)),
            Self::Check(args) => wait(check::run(args)),
            Self::Completions(args) => completions::run(&args, Cli::command()),
            Self::Context(args) => context::run(args),
            Self::ControlPlane(args) => control_plane::run(&args),
            Self::Credential(args) => wait(credential::run(args)),
            Self::Delete(args) => wait(delete::run(args)),
            Self::Demo(args) => wait(demo::run(args)),
            Self::Describe(args) => wait(describe::run(args)),
            Self::Dev(args) => wait(dev::run(args)),
            Self::Diff(args) => wait(diff::run(args)),
            Self::Env(args) => environment::run(&args),
            Self::Get(args) => wait(get::run(args)),
            Self::Guarded(args) => guarded::run(&args),
            Self::Healthcheck(args) => wait(healthcheck::run(args)),
            Self::History(args) => wait(history::run(args)),
            Self::Rollback(args) => wait(rollback::run(args)),
            Self::Run(args) => run::run(&args),
            Self::Shop(args) => shop::run(&args),
            Self::Sidecar(args) => sidecar::run(&args),
            Self::Status(args) => wait(status::run(args)),
            Self::Token(args) => wait(token::run(args)),
            Self::Version(args) => wait(version::run(args)),
            Self::Watch(args) => wait(watch::run(args)),
        }
    }
}

/// Runs what waits for others on a runtime of its own; one thread is enough for a client.
fn wait(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_tree_is_sound_and_explains_every_flag() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = format!("{} {}", command.get_name(), argument.get_id());
                assert!(argument.get_help().is_some(), "{name} has no help");
                let standard = ["help", "version"].contains(&argument.get_id().as_str());
                if !argument.is_positional() && !standard && !argument.is_hide_set() {
                    let long = argument.get_long().expect("every flag has a long form");
                    let expected = format!("OUTRIGGER_{}", long.replace('-', "_").to_uppercase());
                    let variable = argument.get_env().and_then(|name| name.to_str());
                    assert_eq!(variable, Some(expected.as_str()), "{name}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
        command.debug_assert();
    }
}
