//! The command line: one command per file. Every command is a client of what the roles in
//! [`crate::app`] and the control plane's API offer to anyone.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage; `run` has those of the shell. Errors go
//! to stderr, and with `-o json` stdout holds valid JSON in every case.

mod apply;
mod check;
mod context;
mod delete;
mod describe;
mod dev;
mod environment;
mod get;
mod manifest;
mod output;
mod remote;
mod report;
mod select;
mod settle;
mod shop;
mod status;
mod token;
mod version;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::Failure;

/// What the root command says of itself.
const ABOUT: &str =
    "A gRPC-first service mesh: a sidecar beside each service, and a small control plane

  outrigger control-plane                           start the mesh on this machine
  outrigger run orders --app :9090 -- ./orders      a service with its sidecar
  outrigger status                                  how all of it is";

#[derive(Debug, Parser)]
#[command(name = "outrigger", version, about = ABOUT, propagate_version = true)]
#[command(after_help = "Every flag can also stand in the environment: --data is OUTRIGGER_DATA.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write resources: all of them, or none
    Apply(apply::Args),
    /// Find out what is wrong, from here to every sidecar
    Check(check::Args),
    /// List, choose or add the control planes that this user knows
    Context(context::Args),
    /// Delete resources: all of them, or none
    Delete(delete::Args),
    /// Show a resource with all that the mesh says of it
    Describe(describe::Args),
    /// Run a control plane and several services with their sidecars
    Dev(dev::Args),
    /// Print the environment that leads an application through a sidecar
    Env(environment::Args),
    /// List resources, or show some of them
    #[command(visible_alias = "list")]
    Get(get::Args),
    /// Run one service of the demo's shop
    #[command(hide = true)]
    Shop(shop::Args),
    /// Show how the mesh is: verdict, causes, services, control plane
    Status(status::Args),
    /// Make, list and revoke the tokens with which sidecars join
    Token(token::Args),
    /// Print the versions of this program and of the control plane
    Version(version::Args),
}

/// Parses the command line, runs the command and turns its outcome into an exit code: 0 done, 1
/// refused or failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Prints clap's answer: help and version are no failure, anything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    let printed = error.print();
    if !error.use_stderr() {
        return if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    ExitCode::from(2)
}

impl Command {
    fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Apply(args) => wait(apply::run(args)),
            Self::Check(args) => wait(check::run(args)),
            Self::Context(args) => context::run(args),
            Self::Delete(args) => wait(delete::run(args)),
            Self::Describe(args) => wait(describe::run(args)),
            Self::Dev(args) => wait(dev::run(args)),
            Self::Env(args) => environment::run(&args),
            Self::Get(args) => wait(get::run(args)),
            Self::Shop(args) => shop::run(&args),
            Self::Status(args) => wait(status::run(args)),
            Self::Token(args) => wait(token::run(args)),
            Self::Version(args) => wait(version::run(args)),
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
