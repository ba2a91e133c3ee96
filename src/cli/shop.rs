//! `outrigger shop SERVICE`: one service of the demo's shop. Hidden, because it is no part of the
//! mesh; it is here so that the demo needs nothing but the program itself.

use std::process::ExitCode;

use super::output::Failure;

#[path = "../../examples/shop/mod.rs"]
pub(crate) mod services;

/// Which of the shop's services to run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// front, orders, catalog, inventory or payments
    service: String,
}

/// Serves until SIGTERM or SIGINT.
pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    super::wait(async {
        services::run(&args.service).await?;
        Ok(ExitCode::SUCCESS)
    })
}
