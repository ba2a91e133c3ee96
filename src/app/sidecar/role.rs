//! `outrigger sidecar`: a sidecar with the system's signals around it.

use std::{io, time::Duration};

use super::{Options, Sidecar, StartError};
use crate::{
    app::{
        announce::{self, Announce},
        signals::{Wish, Wishes},
    },
    task::Tasks,
};

/// How long what is under way may take after SIGTERM: below the 30 s after which Kubernetes and
/// most supervisors kill.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// Why the role failed.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There are no signals to be had, or nobody to tell.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT, then drains; a second one ends at once. SIGHUP reloads static
/// mode's files. Tells `announce` when all serve.
///
/// # Errors
/// When it does not start, or the one who waits for it to be ready can not be told.
pub async fn serve(options: Options, announce: Announce) -> Result<(), RoleError> {
    let mut wishes = Wishes::listen(announce.supervisor)?;
    let mut tasks = Tasks::new();
    // From the first moment on: whoever waits for a control plane is alive.
    announce::start_watchdog(&mut tasks);
    announce::notify("STATUS=starting");
    let sidecar = tokio::select! {
        started = Sidecar::start(options) => started?,
        () = ended(&mut wishes) => return Ok(()),
    };
    announce::start_status(&mut tasks, sidecar.summary());
    let mut told = false;
    loop {
        let wish = tokio::select! {
            () = sidecar.ready(), if !told => {
                told = true;
                announce.ready(&sidecar.addresses().to_json())?;
                tracing::info!(service = %sidecar.service(), workload = sidecar.workload(), "ready");
                continue;
            }
            wish = wishes.next() => wish,
        };
        match wish {
            Wish::Reload => reload(&sidecar).await,
            Wish::Terminate | Wish::Interrupt => break,
        }
    }
    announce::notify("STOPPING=1");
    tracing::info!(in_flight = sidecar.in_flight(), "draining");
    let left = tokio::select! {
        left = sidecar.drain(DRAIN_MAX) => left,
        () = ended(&mut wishes) => sidecar.in_flight(),
    };
    if left > 0 {
        tracing::warn!(left, "cut off what was still under way");
    }
    sidecar.stop().await;
    Ok(())
}

/// The next wish to end.
async fn ended(wishes: &mut Wishes) {
    while wishes.next().await == Wish::Reload {}
}

async fn reload(sidecar: &Sidecar) {
    announce::notify_reloading();
    // What goes wrong is logged there.
    let _kept = sidecar.reload().await;
    announce::notify("READY=1");
}
