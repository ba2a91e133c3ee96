//! The control plane as one value: opened from its data directory, served on a listener.
//!
//! Opening touches the disk only, in an order that changes nothing before everything was checked:
//! lock, store (whose trust domain is fixed), CA, credential. What runs beside the services is the
//! renewal of the port's own certificate.

use std::{
    convert::Infallible,
    fmt, io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    admin::Admin,
    audit::Audit,
    backup::{self, BackupError, Backups, STORE_FILE},
    ca::{self, Ca},
    config::{self, Config},
    credential::{CredentialFiles, LayError},
    discovery::Discovery,
    error,
    fleet::Fleet,
    grants::{Grants, GrantsError},
    guard,
    issue::{Identities, Issuing},
    lease::Leases,
    metrics::Metrics,
    registry::Registry,
    rotation,
    server::{self, Services, Surroundings},
    state::State,
    status::Facts,
    store::StoreError,
    tokens,
    transitions::Observer,
};
use crate::{
    clock,
    identity::{
        Authority, CaError, Opened, Roots,
        disk::{DataDirectory, DiskError},
    },
    spiffe::{self, IdError, TrustBundle},
    telemetry::chain,
    units::ServiceName,
};

/// How long a certificate lasts by default.
pub const LEAF_TTL: Duration = Duration::from_hours(24);
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
    /// A restore into it was interrupted.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The CA in it, or the one that was brought.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// The book of credentials, or the files of the administrator's.
    #[error("{0}")]
    Credentials(String),
    /// The audit log.
    #[error("can not open the audit log")]
    Audit(#[source] io::Error),
    /// Another root would cut off every sidecar that has joined.
    #[error(
        "{} has another root than the one given; outrigger ca rotate --root-cert … --root-key … \
         exchanges it while the mesh works", .0.display()
    )]
    OtherRoot(PathBuf),
}

impl From<GrantsError> for OpenError {
    fn from(error: GrantsError) -> Self {
        Self::Credentials(chain(&error))
    }
}

impl From<LayError> for OpenError {
    fn from(error: LayError) -> Self {
        match error {
            LayError::Ca(error) => Self::Authority(error),
            LayError::Disk(error) => Self::Data(error),
            LayError::Grants(error) => error.into(),
        }
    }
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
    ca: Arc<Ca>,
    audit: Arc<Audit>,
    credential: CredentialFiles,
    started_at: SystemTime,
    /// Where Prometheus reads.
    metrics_address: OnceLock<String>,
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
        backup::check_whole(&options.data)?;
        let state = State::open(&options.data.join(STORE_FILE), trust_domain, options.now)?;
        let roots = roots(&options, now)?;
        let grants = Grants::load(&options.data)?;
        let (credential, grants) =
            CredentialFiles::lay(&options.data, roots.issuer(), &grants, now)?;
        let audit = Audit::open(&options.data).map_err(OpenError::Audit)?;
        let settings = ca::Settings {
            data: options.data.clone(),
            names: options.names.clone(),
            leaf_ttl: options.leaf_ttl,
            now: options.now,
        };
        let ca = Arc::new(Ca::new(settings, roots, grants)?);
        let fleet = Arc::new(Fleet::default());
        let metrics = Arc::new(Metrics::with_ca(&state, &fleet, Some(&ca)));
        Ok(Self {
            inner: Arc::new(Inner {
                registry: Registry::new(Arc::clone(&state)),
                state,
                fleet,
                metrics,
                ca,
                audit: Arc::new(audit),
                credential,
                started_at: now,
                metrics_address: OnceLock::new(),
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
        Arc::clone(&self.inner.ca.trust().borrow().bundle)
    }

    /// The SHA-256 of the root that issues, as tokens carry it.
    pub fn root_hash(&self) -> [u8; 32] {
        self.inner.ca.issuer().root_hash()
    }

    /// The administrator's credential on disk.
    pub fn credential(&self) -> &CredentialFiles {
        &self.inner.credential
    }

    /// Its metrics as Prometheus text.
    pub fn metrics(&self) -> String {
        self.inner.metrics.encode()
    }

    /// Where its metrics are served, for those who ask how it is; the first time counts.
    pub fn tell_metrics_address(&self, address: &str) {
        self.inner.metrics_address.get_or_init(|| address.to_owned());
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
            tls: inner.ca.tls(),
            trust: inner.ca.trust(),
            audit: Arc::clone(&inner.audit),
            state: Arc::clone(&inner.state),
            metrics: Arc::clone(&inner.metrics),
            now: inner.options.now,
            ending: ending.clone(),
        };
        let leases = Leases::open(&inner.options.data, &inner.state, &inner.registry);
        let (data, until) = (&inner.options.data, leases.until());
        let observer = Observer::open(data, &inner.state, &inner.fleet, until);
        let bound = listener.local_addr().map_or_else(|_| String::new(), |it| it.to_string());
        let services = self.services(bound, &ending, until);
        let shutdown = async {
            shutdown.await;
            inner.registry.freeze();
        };
        // On the heap, because the whole of the API is in it.
        let serving = Box::pin(server::serve(services, surroundings, listener, shutdown));
        let (ca, fleet) = (Arc::clone(&inner.ca), Arc::clone(&inner.fleet));
        let guards = Box::pin(guard::run(&inner.state, &inner.fleet));
        let ended = tokio::select! {
            ended = serving => ended,
            never = self.renew_own() => match never {},
            never = leases.run() => match never {},
            never = observer.run() => match never {},
            never = guards => match never {},
            never = rotation::drive(ca, fleet, leases.until()) => match never {},
        };
        leases.save().await;
        observer.save().await;
        ended
    }

    fn services(
        &self,
        listen: String,
        ending: &CancellationToken,
        grace_until: Instant,
    ) -> Services {
        let inner = &*self.inner;
        let facts = Facts {
            started_at: inner.started_at,
            ca: Arc::clone(&inner.ca),
            listen,
            metrics: inner.metrics_address.get().cloned().unwrap_or_default(),
        };
        let (state, fleet, metrics) = (&inner.state, &inner.fleet, &inner.metrics);
        Services {
            config: Config {
                state: Arc::clone(state),
                fleet: Arc::clone(fleet),
                facts,
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
                ca: Arc::clone(&inner.ca),
                fleet: Arc::clone(fleet),
                metrics: Arc::clone(metrics),
                ending: ending.clone(),
            }),
            admin: Admin {
                state: Arc::clone(state),
                backups: Backups::of(inner.options.data.clone()),
                ca: Arc::clone(&inner.ca),
                audit: Arc::clone(&inner.audit),
            },
        }
    }

    /// Renews the port's own certificate, and what issues, when half of its time is over.
    async fn renew_own(&self) -> Infallible {
        let pause = RENEWAL_CHECK.min(self.inner.options.leaf_ttl / 4);
        loop {
            sleep(pause).await;
            let ca = Arc::clone(&self.inner.ca);
            let renew = move || {
                ca.renew();
                ca.warn_of_ends();
            };
            if spawn_blocking(renew).await.is_err() {
                tracing::error!("the renewal of the port's certificate panicked");
            }
        }
    }
}

/// The CA of the data directory, in which one that was brought may take the place of what issues.
fn roots(options: &Options, now: SystemTime) -> Result<Roots, OpenError> {
    let trust_domain = options.trust_domain.as_str();
    let brought = options.root.as_ref();
    let brought =
        brought.map(|root| Authority::from_pem(trust_domain, &root.certificates, &root.key, now));
    match Roots::open(&options.data, trust_domain, brought.transpose()?, now)? {
        Opened::Roots(roots) => Ok(roots),
        Opened::OtherRoot => Err(OpenError::OtherRoot(options.data.clone())),
    }
}
