//! Starting and ending the data plane: listeners, workers, the task that takes over configuration.

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    acceptor::{self, Acceptor, Listener},
    connection::Side,
    core::Core,
    destination::EndpointReport,
    settings::{Address, CUT_OFF_MAX, Settings, Upstream},
    worker::{self, Crew},
};
use crate::{
    net::{self, ListenError},
    snapshot::{self, Snapshot},
    task,
    telemetry::Telemetry,
    tls::Identity,
    units::ServiceName,
};

/// What a proxy shares with the rest of the process.
#[derive(Clone)]
pub struct Shared {
    /// Where its configuration comes from; every snapshot that is published there runs.
    pub snapshots: Arc<snapshot::Handle>,
    /// Who it is; `None`: it neither dials nor accepts mutual TLS.
    pub identity: Option<Arc<Identity>>,
    /// Whom it asks for services that no snapshot has answered for.
    pub discover: Arc<dyn Discover>,
    /// Where requests leave their records.
    pub telemetry: Arc<Telemetry>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Asks the mesh about services on their first use.
pub trait Discover: Send + Sync {
    /// `service` is used and no snapshot answers for it yet. Must not wait; may be called again and
    /// again for the same one.
    fn want(&self, service: &ServiceName);
}

/// Where a proxy really listens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Other sidecars.
    pub inbound: Option<SocketAddr>,
    /// The application.
    pub outbound: Option<SocketAddr>,
    /// The application, one address for each service port.
    pub upstreams: Vec<Upstream>,
}

/// Why a proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address can not be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A Unix socket can not be listened on.
    #[error("can not listen on unix:{path}")]
    Unix {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread or no runtime for a worker.
    #[error("can not start a worker")]
    Worker(#[source] io::Error),
}

/// A data plane that runs. Dropping it ends its listeners, workers and connections without waiting for
/// them: the workers' threads end on their own.
pub struct Proxy {
    core: Arc<Core>,
    addresses: Addresses,
    _adopting: task::Tasks,
    _crew: Arc<Crew>,
}

impl Proxy {
    /// Listens and serves. Until there is a configuration, requests wait a bounded time for it. Needs
    /// a Tokio runtime that lives as long as the proxy, for the task that takes over configuration.
    ///
    /// # Errors
    /// When an address can not be listened on, or there is no thread for a worker.
    pub async fn start(mut settings: Settings, shared: Shared) -> Result<Self, StartError> {
        let mut addresses = Addresses::default();
        let [mut inbound, mut outbound] = [Vec::new(), Vec::new()];
        if let Some(address) = settings.inbound {
            let listener = Listener::tcp(net::listen(address)?)?;
            addresses.inbound = listener.address();
            inbound.push((listener, Side::Inbound { peer: None, sni: None }));
        }
        if let Some(address) = settings.outbound {
            let listener = Listener::tcp(net::listen(address)?)?;
            addresses.outbound = listener.address();
            outbound.push((listener, Side::Outbound { fixed: None }));
        }
        for upstream in &settings.upstreams {
            let listener = Listener::open(&upstream.listen)?;
            let listen = listener.address().map_or_else(|| upstream.listen.clone(), Address::Tcp);
            addresses.upstreams.push(Upstream { listen, ..upstream.clone() });
            let fixed = Some((upstream.service.clone(), upstream.port));
            outbound.push((listener, Side::Outbound { fixed }));
        }
        // As bound, so that a request to the proxy itself is recognized.
        settings.outbound = addresses.outbound;

        let core = Core::new(settings, &shared);
        let crew = Arc::new(worker::start(&core)?);
        let adopting = adopt(&core, &shared.snapshots);
        watch_destinations(&core);
        let sides = [(inbound, &core.inbound_drain), (outbound, &core.outbound_drain)];
        let mut turn = 0;
        for (listeners, drain) in sides {
            let limit = acceptor::Limit::default();
            for (listener, side) in listeners {
                let (drain, limit) = (drain.clone(), limit.clone());
                let acceptor = Acceptor { listener, side, drain, limit };
                crew.accept(turn, acceptor).await.map_err(StartError::Worker)?;
                turn += 1;
            }
        }
        Ok(Self { core, addresses, _adopting: adopting, _crew: crew })
    }

    /// Where it listens, with the ports that it got.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until every worker runs this snapshot, which was published and not replaced since.
    pub async fn runs(&self, snapshot: &Arc<Snapshot>) {
        self.core.runs(snapshot).await;
    }

    /// Requests under way, in both directions.
    pub fn in_flight(&self) -> usize {
        self.core.telemetry.metrics().requests_in_flight()
    }

    /// What requests that begin now run on; `None` before the first configuration.
    pub fn running(&self) -> Option<Arc<Snapshot>> {
        self.core.running().map(|running| Arc::clone(&running.snapshot))
    }

    /// Every endpoint that it knows, by destination and name.
    pub fn endpoints(&self) -> Vec<EndpointReport> {
        let running = self.core.running();
        running.map_or_else(Vec::new, |running| running.table.endpoints(Instant::now().into_std()))
    }

    /// The first half of [`drain`](Self::drain): the application still reaches others, so that it
    /// can finish what it was asked. Returns how many connections are left after `bound`.
    pub async fn drain_inbound(&self, bound: Duration) -> usize {
        self.core.inbound_drain.finish(bound).await
    }

    /// Ends in order: takes no connections of other sidecars any more, lets what is under way finish,
    /// and then the same towards the application, which may have to call others to finish. Returns
    /// how many connections are left after `bound`. Their requests are answered with `draining`, as far
    /// as there is still something to answer, and they end, at the latest when the proxy is dropped. May
    /// be cancelled and called again.
    pub async fn drain(&self, bound: Duration) -> usize {
        let end = Instant::now() + bound;
        let inbound = self.drain_inbound(bound).await;
        let left = end.saturating_duration_since(Instant::now());
        let left = inbound + self.core.outbound_drain.finish(left).await;
        if left > 0 {
            self.core.cut_off.start();
            let heard = [&self.core.inbound_drain, &self.core.outbound_drain];
            for drain in heard {
                drain.finish(CUT_OFF_MAX).await;
            }
        }
        left
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Runs on every snapshot that is published, the one that is there at once.
fn adopt(core: &Arc<Core>, snapshots: &Arc<snapshot::Handle>) -> task::Tasks {
    let mut published = snapshots.subscribe();
    if let Some(snapshot) = snapshots.load() {
        core.adopt(snapshot);
    }
    let (core, snapshots) = (Arc::clone(core), Arc::clone(snapshots));
    let mut tasks = task::Tasks::new();
    tasks.spawn("adopt", async move {
        while published.changed().await.is_ok() {
            if let Some(snapshot) = snapshots.load() {
                core.adopt(snapshot);
            }
        }
    });
    tasks
}

/// Lets metrics see the table without keeping it.
fn watch_destinations(core: &Arc<Core>) {
    let weak = Arc::downgrade(core);
    core.telemetry.metrics().watch_destinations(move || {
        let running = weak.upgrade().and_then(|core| core.running());
        running.map_or_else(Vec::new, |running| running.table.states(Instant::now().into_std()))
    });
}
