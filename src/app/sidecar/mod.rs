//! The sidecar's role: identity, discovery, proxy, admin and their order, from start to drain. `run`
//! has one of these in its own process; `outrigger sidecar` is one with signals around it.
//!
//! The order of a start: the listeners for operators, so that whoever waits sees what for; the
//! certificate; the proxy's listeners, whose addresses the mesh is told; the configuration, from disk
//! at once if there is one. The order of an end: out of the mesh, then away from new connections,
//! then what is under way, then telemetry.
//!
//! All the while it looks whether the application is well, and the workload takes requests only then.
//! That is for the mesh to know and not for whoever starts the sidecar: one that serves says so, so
//! that an application may be started after it.

mod ending;
mod files;
mod flags;
mod options;
mod role;
mod start;
mod surroundings;
mod view;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

pub use files::{FileError, Problems};
pub use flags::{AppFlag, FlagError, UpstreamFlag};
pub use options::{Listen, Mode, Options, StartError};
pub use role::{RoleError, serve};
pub use surroundings::{External, TelemetryOptions};

use self::view::{Origin, Running, State};
use super::{admin::Server, announce::Addresses, probe::Verdict};
use crate::{
    app::footprint, proxy::Proxy, resource::pb::WorkloadPhase, snapshot, task::Tasks,
    telemetry::metrics::Certificate, units::ServiceName,
};

/// How long the mesh is waited for to hear that the workload is ready or drains.
const REPORT_MAX: Duration = Duration::from_secs(2);
/// From the report that the workload drains until its callers know: the control plane's batch, the
/// way to them, their compilation. Who still comes later is turned away unseen and goes elsewhere.
const WITHDRAWN: Duration = Duration::from_millis(400);
/// How long a drain on request may take; it ends nothing, so there is no hurry.
const ON_REQUEST_MAX: Duration = Duration::from_hours(24);
/// How long the last spans and log lines may take.
const TELEMETRY_MAX: Duration = Duration::from_secs(2);
/// How long scrapes under way may take.
const SCRAPE_MAX: Duration = Duration::from_millis(500);

/// A sidecar that runs. Dropping it ends everything at once; [`Sidecar::drain`] and
/// [`Sidecar::stop`] before that end it in order.
#[derive(Debug)]
pub struct Sidecar {
    state: Arc<State>,
    addresses: Addresses,
    servers: Vec<Server>,
    _tasks: Tasks,
}

impl Sidecar {
    /// Starts it. In live mode this waits for the first certificate. Needs a Tokio runtime with more
    /// than nothing to do: it lives on that until the sidecar is dropped. Cancelling ends what was
    /// started.
    ///
    /// # Errors
    /// When something is wrong with the options, a listener, the identity or the files.
    pub async fn start(mut options: Options) -> Result<Self, StartError> {
        let (service, own) = start::identity(&options.mode)?;
        let workload = start::workload_name(&options, &service)?;
        let telemetry = start::telemetry(&mut options, &service, &workload)?;
        let certificate = options.ready.condition("certificate");
        let configuration = options.ready.condition("configuration");
        let application = options.application.take();
        let state = Arc::new(State {
            service,
            workload,
            private_files: start::private_files(&options.mode),
            telemetry,
            logging: options.logging.take(),
            ready: options.ready.clone(),
            phase: watch::Sender::new(WorkloadPhase::Starting),
            application: watch::Sender::default(),
            drain_asked: Notify::new(),
            running: OnceLock::new(),
        });
        let mut addresses = Addresses::default();
        let servers = start::operators(&options.listen, &state, &mut addresses).await?;
        let mut tasks = Tasks::new();
        start::checks(&options, &state, application, &mut tasks);
        match own {
            Some(identity) => {
                tasks.spawn("certificate's end", ending::tell(Arc::clone(&identity)));
                Box::pin(start::files(options, &state, identity, &mut addresses)).await?;
            }
            None => Box::pin(start::live(options, &state, &mut addresses, &mut tasks)).await?,
        }
        certificate.set(true);
        let running = state.running.get().expect("both ways of starting set it");
        tasks.spawn("certificate metrics", show_certificates(Arc::clone(&state)));
        let first = first_configuration(Arc::clone(&running.snapshots), Arc::clone(&running.proxy));
        tasks.spawn("first configuration", async move {
            first.await;
            configuration.set(true);
        });
        tasks.spawn("phase", follow_phase(Arc::clone(&state)));
        tasks.spawn("drain on request", drain_on_request(Arc::clone(&state)));
        let ready = state.ready.clone();
        tasks.spawn("footprint", footprint::let_go_of_start(async move { ready.wait(true).await }));
        Ok(Self { state, addresses, servers, _tasks: tasks })
    }

    /// Tells how it is, in one line for a supervisor: `ready, revision 42, no control plane`.
    pub fn summary(&self) -> impl Fn() -> String + Send + 'static + use<> {
        let state = Arc::clone(&self.state);
        move || state.summary()
    }

    /// The service beside it.
    pub fn service(&self) -> &ServiceName {
        &self.state.service
    }

    /// Its name in the mesh.
    pub fn workload(&self) -> &str {
        &self.state.workload
    }

    /// Where it really listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until all of it serves, its application was looked at, and the mesh was told what came
    /// of that. For ever, if the control plane stays away and there is no configuration on disk.
    pub async fn ready(&self) {
        const HELD: &str = "the state holds the sender";
        self.state.ready.wait(true).await;
        let mut application = self.state.application.subscribe();
        let looked = application.wait_for(|verdict| *verdict != Verdict::Unknown);
        let well = looked.await.expect(HELD).is_well();
        let mut phase = self.state.phase.subscribe();
        let settled = phase.wait_for(|phase| !well || *phase != WorkloadPhase::Starting);
        let phase = *settled.await.expect(HELD);
        if let Some(Running { origin: Origin::Live { watch, .. }, .. }) = self.state.running.get() {
            watch.reported(phase, REPORT_MAX).await;
        }
    }

    /// Requests under way, in both directions.
    pub fn in_flight(&self) -> usize {
        self.state.running.get().map_or(0, |running| running.proxy.in_flight())
    }

    /// Reads the files of static mode again. In live mode there is nothing to read.
    ///
    /// # Errors
    /// When they are not taken, which is logged and shown already; what ran before runs on.
    pub async fn reload(&self) -> Result<(), FileError> {
        let Some(Running { origin: Origin::Static(files), .. }) = self.state.running.get() else {
            tracing::info!("nothing to reload: configuration comes from the control plane");
            return Ok(());
        };
        let files = Arc::clone(files);
        let reload = tokio::task::spawn_blocking(move || files.reload());
        reload.await.unwrap_or_else(|error| {
            tracing::error!(%error, "the reload did not come to an end");
            Ok(())
        })
    }

    /// Withdraws the workload from the mesh, takes no new connections, and lets what is under way
    /// finish. Returns how many connections are left after `bound`. May be cancelled and called
    /// again.
    pub async fn drain(&self, bound: Duration) -> usize {
        drain(&self.state, bound).await
    }

    /// The first half of [`drain`](Self::drain): afterwards nobody asks the application anything, and
    /// it still reaches others. Returns how many connections are left after `bound`.
    pub async fn withdraw(&self, bound: Duration) -> usize {
        withdraw(&self.state, bound).await
    }

    /// Ends it: what is left is cut off, and what telemetry and disk still wait for is written.
    pub async fn stop(self) {
        if let Some(Running { origin: Origin::Live { watch, .. }, .. }) = self.state.running.get() {
            watch.flush().await;
        }
        self.state.telemetry.shutdown(TELEMETRY_MAX).await;
        for server in self.servers {
            server.stop(SCRAPE_MAX).await;
        }
    }
}

/// Waits until the workers run a configuration.
async fn first_configuration(snapshots: Arc<snapshot::Handle>, proxy: Arc<Proxy>) {
    let mut published = snapshots.subscribe();
    loop {
        let Some(snapshot) = snapshots.load() else {
            if published.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            () = proxy.runs(&snapshot) => return,
            // It may have been replaced before anybody ran it.
            _ = published.changed() => {}
        }
    }
}

/// Ready while all conditions hold and the application is well; draining is for good.
async fn follow_phase(state: Arc<State>) {
    let mut application = state.application.subscribe();
    let mut was_ready = false;
    let set = |phase: WorkloadPhase| {
        state.phase.send_if_modified(|now| {
            let changes = *now != WorkloadPhase::Draining && *now != phase;
            if changes {
                *now = phase;
            }
            changes
        });
    };
    loop {
        let serves = state.ready.is_ready();
        // Seen before it is read: a change in between is looked at again.
        let well = application.borrow_and_update().is_well();
        set(match (serves && well, was_ready) {
            (true, _) => WorkloadPhase::Ready,
            (false, true) => WorkloadPhase::NotReady,
            (false, false) => WorkloadPhase::Starting,
        });
        was_ready |= serves && well;
        tokio::select! {
            () = state.ready.wait(!serves) => {}
            _ = application.changed() => {}
        }
    }
}

/// `POST /drain`: the same as at the end, and then the process waits for its end.
async fn drain_on_request(state: Arc<State>) {
    loop {
        state.drain_asked.notified().await;
        tracing::info!("draining on request");
        drain(&state, ON_REQUEST_MAX).await;
    }
}

async fn drain(state: &State, bound: Duration) -> usize {
    let end = Instant::now() + bound;
    withdraw(state, bound).await;
    let Some(running) = state.running.get() else { return 0 };
    running.proxy.drain(end.saturating_duration_since(Instant::now())).await
}

async fn withdraw(state: &State, bound: Duration) -> usize {
    let already = state.phase.send_replace(WorkloadPhase::Draining) == WorkloadPhase::Draining;
    let Some(running) = state.running.get() else { return 0 };
    if let Origin::Live { watch, .. } = &running.origin
        && !already
        && watch.progress().connected
    {
        // It also carries the last counts of who was called.
        watch.reported(WorkloadPhase::Draining, REPORT_MAX).await;
        if running.proxy.addresses().inbound.is_some() {
            sleep(WITHDRAWN).await;
        }
    }
    running.proxy.drain_inbound(bound).await
}

/// Tells metrics when the certificates end, now and whenever they change.
async fn show_certificates(state: Arc<State>) {
    let Some(running) = state.running.get() else { return };
    let mut changed = running.identity.subscribe();
    loop {
        let metrics = state.telemetry.metrics();
        metrics.certificate(Certificate::Svid, running.identity.svid().not_after());
        if let Some(end) = running.identity.bundle().not_after() {
            metrics.certificate(Certificate::Root, end);
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
