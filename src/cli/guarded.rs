//! `outrigger guarded`: the hidden step between `run` and its command. It asks the system to end the
//! command together with `run`, and becomes the command.

use std::{ffi::OsString, process::ExitCode};

use super::output::Failure;
use crate::app::child;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The process id of `run`
    parent: u32,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Returns only when the command can not be executed.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let error = child::execute(args.parent, &args.command);
    let code = error.exit_code();
    Err(Failure::new(error).with_code(code))
}
