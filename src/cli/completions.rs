//! `outrigger completions`: what a shell needs to complete this program's commands and flags. Made of
//! the command tree itself, so that it never lags behind.

use std::process::ExitCode;

use clap_complete::{Shell, generate};

use super::output::{self, Failure};

const EXAMPLES: &str = "\
Examples:
  outrigger completions bash > /etc/bash_completion.d/outrigger
  outrigger completions zsh > \"${fpath[1]}/_outrigger\"
  outrigger completions fish > ~/.config/fish/completions/outrigger.fish";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// For which shell
    shell: Shell,
}

pub(super) fn run(args: &Args, mut command: clap::Command) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "outrigger", &mut script);
    output::out(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
