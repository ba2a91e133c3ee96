//! What discovery is started with, and what it asks of the data plane.

use std::{collections::BTreeSet, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::Wants;
use crate::{
    app::probe::Verdict,
    identity::disk::DataDirectory,
    resource::pb::{self, WorkloadPhase},
    snapshot::{self, Snapshot},
    telemetry::Telemetry,
    tls::Identity,
    units::ServiceName,
};

/// What discovery asks of the data plane.
pub trait DataPlane: Send + Sync + 'static {
    /// Waits until every worker runs this snapshot, which was published.
    fn adopted(&self, snapshot: Arc<Snapshot>) -> BoxFuture<'_, ()>;

    /// Destinations with requests under way, as metrics name them: `orders.shop`.
    fn under_way(&self) -> BTreeSet<String>;

    /// Endpoints that are left alone because they failed, and until when.
    fn ejected(&self) -> Vec<pb::Ejection>;
}

/// What discovery is started with.
pub struct Options {
    /// `127.0.0.1:15010`
    pub server: String,
    /// By which it connects; its SVID may change meanwhile.
    pub identity: Arc<Identity>,
    /// The workload beside this sidecar.
    pub node: pb::Node,
    /// Services that are used from the start and never given up.
    pub pinned: BTreeSet<ServiceName>,
    /// Where what runs is kept for the next start.
    pub disk: Arc<DataDirectory>,
    /// Where the proxy asks for services.
    pub wants: Arc<Wants>,
    /// Where snapshots are published.
    pub snapshots: Arc<snapshot::Handle>,
    /// Counts what goes on here, and has counted who is called.
    pub telemetry: Arc<Telemetry>,
    /// What runs the snapshots.
    pub data_plane: Arc<dyn DataPlane>,
    /// The workload's phase, reported at each change.
    pub phase: watch::Receiver<WorkloadPhase>,
    /// What the checks of the application found, told with each report.
    pub application: watch::Receiver<Verdict>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("server", &self.server).finish_non_exhaustive()
    }
}
