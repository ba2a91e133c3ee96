//! `outrigger shop SERVICE`: one service of the demo's shop. Hidden, because it is no part of the
//! mesh; it is here so that the demo needs nothing but the program itself.

#[path = "../../examples/shop/mod.rs"]
pub(crate) mod services;

/// Which of the shop's services to run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// front, orders, catalog, inventory or payments
    service: String,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// An unknown service, a variable that can not be read, or a port that is taken.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(services::run(&args.service))?)
}
