//! The control plane as one value: opened from its data directory, served on a listener.
//!
//! Opening touches the disk only, in an order that changes nothing before everything was checked:
//! lock, store (whose trust domain is fixed), CA, credential. What runs beside the services is the
//! renewal of the port's own certificate.

use std::{
    convert::Infallible,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    admin::Admin,
    config::{self, Config},
    credential::CredentialFiles,
    discovery::Discovery,
    error,
    fleet::Fleet,
    issue::{Identities, Issuing},
    lease::Leases,
    metrics::Metrics,
    registry::Registry,
    server::{self, Services, Surroundings},
    state::State,
    status::Facts,
    store::StoreError,
    tokens,
};
use crate::{
    clock,
    identity::{
        Authority, CaError,
        disk::{DataDirectory, DiskError},
    },
    spiffe::{self, IdError, TrustBundle},
    tls,
    units::ServiceName,
};

/// How long a certificate lasts by default.
pub const LEAF_TTL: Duration = Duration::from_hours(24);
/// The store's file in the data directory.
const STORE_FILE: &str = "mesh.redb";
/// How often is looked whether the port's own certificate is to be renewed. A timer until then
/// would stand still while the machine sleeps.
const RENEWAL_CHECK: Duration = Duration::from_secs(30);

/// What a control plane is opened with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it keeps everything; made if it is not there. One process at a time holds it.
    pub data: PathBuf,
    /// Fixed by the first start with this data directory.
    pub trust_domain: String,
    /// Host names and addresses that the port's certificate carries, for clients that check them.
    pub names: Vec<String>,
    /// A CA certificate and key to sign with, instead of a root of our own.
    pub root: Option<Root>,
    /// How long the certificates last that are issued to workloads.
    pub leaf_ttl: Duration,
    /// The wall clock.
    pub now: fn() -> SystemTime,
}

/// A CA that somebody else made.
#[derive(Clone)]
pub struct Root {
    /// PEM: the certificate that signs, then those above it up to the root.
    pub certificates: Vec<u8>,
    /// PEM: the key of the first.
    pub key: String,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").finish_non_exhaustive()
    }
}

impl Options {
    /// With everything else as it usually is.
    pub fn new(data: impl Into<PathBuf>, trust_domain: impl Into<String>) -> Self {
        Self {
            data: data.into(),
            trust_domain: trust_domain.into(),
            names: Vec::new(),
            root: None,
            leaf_ttl: LEAF_TTL,
            now: clock::now,
        }
    }
}

/// Why a control plane does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The trust domain can not be part of an identity.
    #[error("the trust domain {0:?} {1}")]
    TrustDomain(String, IdError),
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DiskError),
    /// The store in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA in it, or the one that was brought.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// Another root would cut off every sidecar that has joined.
    #[error(
        "{} has another root than the one given; a mesh keeps its root", .0.display()
    )]
    OtherRoot(PathBuf),
}

/// An open control plane. Clones are the same one; the data directory is held until the last of
/// them is dropped.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    state: Arc<State>,
    registry: Arc<Registry>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    authority: Arc<Authority>,
    bundle: watch::Sender<Arc<TrustBundle>>,
    tls: Arc<ArcSwap<ServerConfig>>,
    credential: CredentialFiles,
    started_at: SystemTime,
    // Last, so that nobody else opens the directory while anything above is still open.
    _directory: DataDirectory,
}

impl ControlPlane {
    /// Opens the data directory, or makes it: store, CA, administrator's credential. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// When the directory is in use, unreadable or damaged, belongs to another trust domain or
    /// root, or the CA that was brought can not be used.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let now = (options.now)();
        let trust_domain = options.trust_domain.as_str();
        spiffe::control_plane(trust_domain)
            .map_err(|wrong| OpenError::TrustDomain(trust_domain.to_owned(), wrong))?;
        let directory = DataDirectory::open(&options.data)?;
        let state = State::open(&options.data.join(STORE_FILE), trust_domain, options.now)?;
        let authority = authority(&options, now)?;
        let credential = CredentialFiles::lay(&options.data, &authority, now)?;
        let bundle = Arc::new(authority.bundle().clone());
        let (config, _) = server_config(&authority, &bundle, &options, now)?;
        let fleet = Arc::new(Fleet::default());
        let metrics = Arc::new(Metrics::new(&state, &fleet));
        Ok(Self {
            inner: Arc::new(Inner {
                registry: Registry::new(Arc::clone(&state)),
                state,
                fleet,
                metrics,
                authority: Arc::new(authority),
                bundle: watch::Sender::new(bundle),
                tls: Arc::new(ArcSwap::new(config)),
                credential,
                started_at: now,
                options,
                _directory: directory,
            }),
        })
    }

    /// The mesh's trust domain.
    pub fn trust_domain(&self) -> &str {
        self.inner.state.trust_domain()
    }

    /// The roots that sidecars trust.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.inner.bundle.borrow())
    }

    /// The SHA-256 of the root, as tokens carry it.
    pub fn root_hash(&self) -> [u8; 32] {
        self.inner.authority.root_hash()
    }

    /// The administrator's credential on disk.
    pub fn credential(&self) -> &CredentialFiles {
        &self.inner.credential
    }

    /// Its metrics as Prometheus text.
    pub fn metrics(&self) -> String {
        self.inner.metrics.encode()
    }

    /// Whether its store takes writes, as far as the last one said.
    pub fn is_healthy(&self) -> bool {
        self.inner.state.is_healthy()
    }

    /// How it is, in one line for a supervisor: `revision 42, 12 of 13 sidecars in sync, store ok`.
    pub fn summary(&self) -> String {
        let revision = self.inner.state.world().revision;
        let sessions = self.inner.fleet.sessions();
        let synced = sessions.iter().filter(|it| it.progress().in_sync(revision)).count();
        let store = if self.is_healthy() { "ok" } else { "failing" };
        let all = sessions.len();
        format!("revision {revision}, {synced} of {all} sidecars in sync, store {store}")
    }

    /// Makes a join token, as `AdminService.CreateToken` does; `uses` 0: until its time is up.
    ///
    /// # Errors
    /// As the API: a malformed name, a time outside of 1 s to 30 days, a store that failed.
    pub async fn create_token(
        &self,
        service: ServiceName,
        uses: u32,
        ttl: Duration,
        by: &str,
    ) -> Result<String, Status> {
        let ttl = prost_types::Duration::try_from(ttl)
            .map_err(|_| error::invalid("ttl", "is too long"))?;
        let ttl = tokens::ttl(Some(ttl))?;
        let wanted = tokens::Wanted { service, uses, ttl, by: by.to_owned() };
        let root_hash = self.root_hash();
        let make = move |state: &State, writer: &mut _| {
            tokens::create(state, writer, &wanted, root_hash, state.now())
        };
        let (token, _) = self.inner.state.write(make).await?;
        Ok(token.to_text())
    }

    /// Serves the API on a listener until `shutdown` is done; then tells the streams so and waits a
    /// few seconds for calls under way.
    ///
    /// # Errors
    /// When connections can not be served.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let ending = CancellationToken::new();
        let inner = &*self.inner;
        let surroundings = Surroundings {
            tls: Arc::clone(&inner.tls),
            trust_domain: inner.state.trust_domain().into(),
            metrics: Arc::clone(&inner.metrics),
            now: inner.options.now,
            ending: ending.clone(),
        };
        let leases = Leases::open(&inner.options.data, &inner.state, &inner.registry);
        let services = self.services(&ending, leases.until());
        let shutdown = async {
            shutdown.await;
            inner.registry.freeze();
        };
        // On the heap, because the whole of the API is in it.
        let serving = Box::pin(server::serve(services, surroundings, listener, shutdown));
        let ended = tokio::select! {
            ended = serving => ended,
            never = self.renew_own() => match never {},
            never = leases.run() => match never {},
        };
        leases.save().await;
        ended
    }

    fn services(&self, ending: &CancellationToken, grace_until: Instant) -> Services {
        let inner = &*self.inner;
        let (state, fleet, metrics) = (&inner.state, &inner.fleet, &inner.metrics);
        Services {
            config: Config {
                state: Arc::clone(state),
                fleet: Arc::clone(fleet),
                facts: Facts {
                    started_at: inner.started_at,
                    root_expires_at: inner.authority.not_after(),
                },
                watches: Arc::new(Semaphore::new(config::WATCHES_MAX)),
                ending: ending.clone(),
            },
            discovery: Discovery {
                state: Arc::clone(state),
                registry: Arc::clone(&inner.registry),
                fleet: Arc::clone(fleet),
                metrics: Arc::clone(metrics),
                grace_until,
                ending: ending.clone(),
            },
            identities: Identities::new(Issuing {
                state: Arc::clone(state),
                authority: Arc::clone(&inner.authority),
                metrics: Arc::clone(metrics),
                leaf_ttl: inner.options.leaf_ttl,
                bundle: inner.bundle.subscribe(),
                ending: ending.clone(),
            }),
            admin: Admin { state: Arc::clone(state), root_hash: self.root_hash() },
        }
    }

    /// Renews the port's own certificate when half of its time is over.
    async fn renew_own(&self) -> Infallible {
        let inner = &*self.inner;
        let now = inner.options.now;
        let mut renew_at = now() + inner.options.leaf_ttl / 2;
        loop {
            sleep(RENEWAL_CHECK.min(inner.options.leaf_ttl / 4)).await;
            if now() < renew_at {
                continue;
            }
            let bundle = self.bundle();
            match server_config(&inner.authority, &bundle, &inner.options, now()) {
                Ok((config, next)) => {
                    inner.tls.store(config);
                    renew_at = next;
                    tracing::info!("the port's certificate was renewed");
                }
                Err(failed) => {
                    tracing::error!(error = %error::chain(&failed), "can not renew the port's certificate");
                }
            }
        }
    }
}

/// The CA that was brought, the one on disk, or a new one.
fn authority(options: &Options, now: SystemTime) -> Result<Authority, OpenError> {
    let (data, trust_domain) = (&options.data, options.trust_domain.as_str());
    let Some(root) = &options.root else {
        return Ok(Authority::open(data, trust_domain, now)?);
    };
    let brought = Authority::from_pem(trust_domain, &root.certificates, &root.key, now)?;
    if let Some(known) = Authority::load(data, trust_domain, now)?
        && known.root_hash() != brought.root_hash()
    {
        return Err(OpenError::OtherRoot(data.clone()));
    }
    // Kept, so that a start without the flags goes on with it.
    brought.save(data)?;
    Ok(brought)
}

/// The port's TLS configuration with a new certificate, and when to make the next.
fn server_config(
    authority: &Authority,
    bundle: &Arc<TrustBundle>,
    options: &Options,
    now: SystemTime,
) -> Result<(Arc<ServerConfig>, SystemTime), CaError> {
    let svid = authority.server_certificate(&options.names, options.leaf_ttl, now)?;
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    Ok((tls::control_server(&svid, bundle), now + left / 2))
}
