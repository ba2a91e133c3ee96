//! What all workers of a process share, and the pair that a request runs on: a snapshot and the table
//! made for it, behind one pointer, so that a request loads both at once and they always fit.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    Discover, Settings, Shared, destination::Table, dial::Dialer, ends::OwnSockets,
    pressure::Pressure, settings::FIRST_ANSWER_MAX,
};
use crate::{
    http::answer::Rejection, reason::Reason, snapshot::Snapshot, task::Drain, telemetry::Telemetry,
    tls::Identity,
};

/// What all workers share.
pub(super) struct Core {
    pub(super) settings: Settings,
    /// `orders.shop`: the service beside this proxy.
    pub(super) own_name: Arc<str>,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) discover: Arc<dyn Discover>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) own_sockets: Arc<OwnSockets>,
    /// How much waits in all workers.
    pub(super) pressure: Arc<Pressure>,
    /// Held by every connection of other sidecars.
    pub(super) inbound_drain: Drain,
    /// Held by every connection of the application.
    pub(super) outbound_drain: Drain,
    /// Started when the time to end in order is up: whoever is left is told and cut.
    pub(super) cut_off: Drain,
    running: ArcSwapOption<Running>,
    changed: watch::Sender<u64>,
}

/// What one request runs on.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) table: Table,
}

impl Core {
    pub(super) fn new(settings: Settings, shared: &Shared) -> Arc<Self> {
        let own_sockets = Arc::new(OwnSockets::default());
        let dialer = Dialer::new(
            shared.identity.clone(),
            Arc::clone(&own_sockets),
            shared.telemetry.metrics().clone(),
        );
        Arc::new(Self {
            own_name: settings.service.to_string().into(),
            pressure: Pressure::new(settings.waiting_bytes_max),
            settings,
            identity: shared.identity.clone(),
            discover: Arc::clone(&shared.discover),
            telemetry: Arc::clone(&shared.telemetry),
            dialer: Arc::new(dialer),
            own_sockets,
            inbound_drain: Drain::new(),
            outbound_drain: Drain::new(),
            cut_off: Drain::new(),
            running: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
        })
    }

    /// What runs now; `None` before the first configuration.
    pub(super) fn running(&self) -> Option<Arc<Running>> {
        self.running.load_full()
    }

    /// The same for a short look, without counting another user.
    pub(super) fn load(&self) -> Guard<Option<Arc<Running>>> {
        self.running.load()
    }

    /// Runs on `snapshot` from now on, on all workers: when this returns, no new request sees the
    /// last one.
    pub(super) fn adopt(&self, snapshot: Arc<Snapshot>) {
        let last = self.running();
        if last.as_ref().is_some_and(|last| Arc::ptr_eq(&last.snapshot, &snapshot)) {
            return;
        }
        let now = Instant::now().into_std();
        let table = last.map_or_else(
            || Table::default().next(&snapshot, &self.settings, now),
            |last| last.table.next(&snapshot, &self.settings, now),
        );
        self.telemetry.configure(&snapshot.mesh);
        self.running.store(Some(Arc::new(Running { snapshot, table })));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Waits until it runs this snapshot.
    pub(super) async fn runs(&self, snapshot: &Arc<Snapshot>) {
        let mut changed = self.changed.subscribe();
        let running = |running: Arc<Running>| Arc::ptr_eq(&running.snapshot, snapshot);
        while !self.running().is_some_and(running) {
            changed.changed().await.expect("`self` holds the sender");
        }
    }

    /// Asks `found` of what runs, again after every change until it answers, at most 2 s.
    ///
    /// # Errors
    /// What `found` refuses, and `not_ready` when the time is up.
    pub(super) async fn first_answer<T>(
        &self,
        mut found: impl FnMut(&Arc<Running>) -> Result<Option<T>, Rejection>,
    ) -> Result<T, Rejection> {
        let mut changed = None;
        let end = Instant::now() + FIRST_ANSWER_MAX;
        loop {
            if let Some(running) = self.running()
                && let Some(found) = found(&running)?
            {
                return Ok(found);
            }
            // Listen before looking for the last time, else a change could go in between.
            let Some(changes) = &mut changed else {
                changed = Some(self.changed.subscribe());
                continue;
            };
            if !matches!(timeout_at(end, changes.changed()).await, Ok(Ok(()))) {
                let what = if self.running().is_none() {
                    "there is no configuration yet"
                } else {
                    "the control plane has not answered yet"
                };
                return Err(Rejection::unseen(Reason::NotReady, what));
            }
        }
    }
}
