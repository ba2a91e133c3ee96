//! The command line: one command per file.

mod shop;

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "outrigger", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one service of the demo's shop
    #[command(hide = true)]
    Shop(shop::Args),
}

/// Parses the command line, runs the command and turns its outcome into an exit code: 0 done, 1
/// refused or failed, 2 wrong usage.
pub fn main() -> ExitCode {
    let Cli { command: Command::Shop(args) } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match shop::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _unheard = writeln!(std::io::stderr(), "outrigger: {error:#}");
            ExitCode::FAILURE
        }
    }
}
