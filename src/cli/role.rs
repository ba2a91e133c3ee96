//! What the long-running commands have in common: their log, whom they tell that they serve, and
//! their runtime.

use std::{io::ErrorKind, path::Path, process::ExitCode, sync::Arc};

use super::output::Failure;
use crate::app::{
    announce::Announce,
    logging::{self, Logging, LoggingError},
};

/// Threads for everything but the proxy's workers: accepting, discovery, admin.
const THREADS: usize = 2;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Common {
    /// What is logged: trace, debug, info, warn, error, off, or by module as outrigger=debug,h2=warn
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "OUTRIGGER_LOG")]
    #[arg(value_parser = log_filter)]
    log: String,
    /// When all serve, write the addresses really bound as one JSON line to this file descriptor
    #[arg(long, value_name = "N", env = "OUTRIGGER_READY_FD")]
    ready_fd: Option<u32>,
    /// Standard input is a supervisor's socket: tell it the addresses, and end with it
    #[arg(long, hide = true)]
    supervised: bool,
}

/// A filter of the log.
pub(super) fn log_filter(text: &str) -> Result<String, LoggingError> {
    logging::check(text).map(|()| text.to_owned())
}

impl Common {
    /// Starts the program's log, on stderr or in a file.
    pub(super) fn start_log(&self, file: Option<&Path>) -> Result<Arc<Logging>, Failure> {
        Ok(Arc::new(Logging::start(&self.log, file)?))
    }

    /// Whom to tell, besides stdout.
    pub(super) fn announce(&self) -> Announce {
        Announce { stdout: false, fd: self.ready_fd, supervisor: self.supervised }
    }
}

/// Asks the system for pages of the usual size only: a huge one costs 2 MB, of which a thread of a
/// sidecar uses little. A system that can not is left as it is. Children would inherit it, so this is
/// for roles that start none.
pub(super) fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Runs a role to its end.
pub(super) fn run(
    role: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(THREADS).thread_name("control").enable_all().build()?;
    runtime.block_on(role).map_err(|failure| {
        if failure.is(ErrorKind::AddrInUse) {
            failure.with_hint(
                "another program listens there (ss -ltnp shows which); every address is a flag, and \
                 port 0 any free one",
            )
        } else {
            failure
        }
    })
}
