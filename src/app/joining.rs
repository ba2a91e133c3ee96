//! How a sidecar comes by its identity: from its data directory, by a join token, and then by
//! renewal; and how it learns whom to trust while it runs.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tonic::{Code, Status};

use super::client::{Client, ConnectError, TlsSource, is_credential_refused};
use crate::{
    clock,
    identity::{
        JoinToken, csr,
        disk::{DataDirectory, DiskError},
        rotation::{Renew, Renewed},
    },
    resource::pb,
    spiffe::{self, BundleError, Svid, SvidError, TrustBundle},
    tls::{self, ControlTrust, Identity, IdentityError},
    units::ServiceName,
};

/// Pauses between tries grow up to this and are random below it.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Neither disk nor token.
    #[error(
        "no certificate for {service} in {directory} and no join token; `outrigger token create \
         --service {service}` makes one for --token-file"
    )]
    NoToken {
        /// Who wants to join.
        service: ServiceName,
        /// The data directory.
        directory: String,
    },
    /// The token is another service's.
    #[error("the join token is for {token}, not for {service}")]
    OtherService {
        /// Who wants to join.
        service: ServiceName,
        /// Whose token it is.
        token: ServiceName,
    },
    /// The control plane can not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The control plane refuses.
    #[error("the control plane refuses: {}", .0.message())]
    Refused(Status),
    /// It is not reached in time.
    #[error("{0}")]
    Unreachable(String),
    /// A key could not be made.
    #[error(transparent)]
    Csr(#[from] csr::CsrError),
    /// What came back is no certificate for our key.
    #[error("the control plane's answer: {0}")]
    Svid(#[from] SvidError),
    /// What came back are no roots.
    #[error("the control plane's answer: {0}")]
    Bundle(#[from] BundleError),
    /// What came back does not belong together, or is for somebody else.
    #[error("the control plane's answer: {0}")]
    Identity(#[from] IdentityError),
    /// The certificate is for another identity.
    #[error("the control plane's certificate is for {0}")]
    OtherIdentity(String),
    /// The data directory.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl JoinError {
    /// Whether the control plane was there, and what it said will not change by asking again.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_)
            | Self::Svid(_)
            | Self::Bundle(_)
            | Self::Identity(_)
            | Self::OtherIdentity(_) => true,
            Self::NoToken { .. }
            | Self::OtherService { .. }
            | Self::Connect(_)
            | Self::Unreachable(_)
            | Self::Csr(_)
            | Self::Disk(_) => false,
        }
    }
}

/// What a sidecar joins with.
#[derive(Debug)]
pub struct Joining<'a> {
    /// `127.0.0.1:15010`
    pub server: &'a str,
    /// Who it is.
    pub service: &'a ServiceName,
    /// Its join token, if it was given one.
    pub token: Option<&'a JoinToken>,
    /// Where its identity is kept.
    pub disk: &'a DataDirectory,
    /// How long an absent control plane is waited for; `None`: for ever.
    pub patience: Option<Duration>,
}

impl Joining<'_> {
    /// Takes the identity from disk, where one is that is still good; else joins by token.
    ///
    /// # Errors
    /// When neither works.
    pub async fn identity(&self) -> Result<Identity, JoinError> {
        if let Some(token) = self.token.filter(|token| token.service() != self.service) {
            let token = token.service().clone();
            return Err(JoinError::OtherService { service: self.service.clone(), token });
        }
        if let Some(identity) = self.stored()? {
            match self.usable(identity).await {
                Err(error) if error.is_refusal() && self.token.is_some() => {
                    let error = error.to_string();
                    tracing::warn!(error, "the stored certificate is not renewed; joining anew");
                }
                usable => return usable,
            }
        }
        let Some(token) = self.token else {
            let directory = self.disk.path().display().to_string();
            return Err(JoinError::NoToken { service: self.service.clone(), directory });
        };
        let identity = self.join(token).await?;
        // What another service or another mesh left there is not ours to run.
        self.disk.forget_last_good()?;
        self.store(&identity)?;
        tracing::info!(id = %identity.id(), server = self.server, "joined");
        Ok(identity)
    }

    /// What is on disk, unless it is another service's or another mesh's, or ended too long ago. What
    /// is broken does not matter to whoever has a token.
    fn stored(&self) -> Result<Option<Identity>, JoinError> {
        let (svid, bundle) = match self.disk.load_identity() {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(None),
            Err(error) if error.is_broken() && self.token.is_some() => {
                tracing::warn!(%error, "the stored certificate is broken; joining anew");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let own = svid.id().service().as_ref() == Some(self.service);
        let renewable = is_renewable(&svid);
        // A token of another mesh says that we are to leave the one on disk.
        let same_mesh = self.token.is_none_or(|token| {
            bundle.certificates().any(|root| spiffe::sha256(root) == token.root_hash())
        });
        if !(own && renewable && same_mesh) {
            return Ok(None);
        }
        Ok(Identity::new(svid, bundle).ok())
    }

    /// An identity from disk may have ended while the machine slept; then it renews before it
    /// serves.
    async fn usable(&self, identity: Identity) -> Result<Identity, JoinError> {
        if clock::now() <= identity.svid().not_after() {
            return Ok(identity);
        }
        tracing::info!(id = %identity.id(), "the stored certificate has ended; renewing it");
        let identity = Arc::new(identity);
        let renewer = Renewer::new(self.server, &identity);
        let request = csr::make()?;
        let renewed = self.patiently(|| renewer.renew(&request.csr)).await?;
        let svid = Svid::new(renewed.chain, request.key, tls::provider())?;
        let bundle = renewed.bundle.unwrap_or_else(|| (*identity.bundle()).clone());
        let identity = Identity::new(svid, bundle)?;
        self.store(&identity)?;
        Ok(identity)
    }

    fn store(&self, identity: &Identity) -> Result<(), DiskError> {
        self.disk.save_bundle(&identity.bundle())?;
        self.disk.save_svid(&identity.svid())
    }

    async fn join(&self, token: &JoinToken) -> Result<Identity, JoinError> {
        let trust = ControlTrust::RootHash(token.root_hash());
        let config = tls::control_client(trust, None);
        let client = Client::new(self.server, Arc::new(move || Arc::clone(&config)))?;
        let request = csr::make()?;
        let join = pb::JoinRequest { token: token.to_text(), csr: request.csr.clone() };
        let answer = self
            .patiently(|| {
                let (mut client, join) = (client.identity(), join.clone());
                async move { client.join(join).await.map(tonic::Response::into_inner) }
            })
            .await?;
        let bundle = answer.bundle.as_ref().ok_or(BundleError::Empty)?;
        let bundle = read_bundle(bundle)?;
        let svid = Svid::new(read_chain(answer.chain), request.key, tls::provider())?;
        if svid.id().service().as_ref() != Some(self.service) {
            return Err(JoinError::OtherIdentity(svid.id().to_string()));
        }
        Ok(Identity::new(svid, bundle)?)
    }

    /// Tries again while the control plane is not there or has too much to do, with growing jittered pauses. A refusal is
    /// final.
    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, JoinError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut pause = BACKOFF_FIRST;
        let started = tokio::time::Instant::now();
        loop {
            let status = match call().await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !may_pass(status.code()) || is_credential_refused(&status) {
                return Err(JoinError::Refused(status));
            }
            if self.patience.is_some_and(|patience| started.elapsed() >= patience) {
                return Err(JoinError::Unreachable(status.message().to_owned()));
            }
            if pause == BACKOFF_FIRST {
                tracing::warn!(error = status.message(), "waiting for the control plane");
            }
            tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }
}

/// Whether the same call may be answered otherwise in a moment.
fn may_pass(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}

/// Whether the control plane still takes it, be it for a renewal.
pub fn is_renewable(svid: &Svid) -> bool {
    clock::now() <= svid.not_after() + tls::RENEW_EXPIRED_MAX
}

fn read_chain(chain: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    chain.into_iter().map(CertificateDer::from).collect()
}

fn read_bundle(bundle: &pb::TrustBundleResponse) -> Result<TrustBundle, BundleError> {
    TrustBundle::new(&bundle.trust_domain, read_chain(bundle.roots.clone()))
}

/// The TLS side of a client that calls as this identity: always with the newest SVID and roots.
pub fn tls_source(identity: &Arc<Identity>) -> TlsSource {
    let identity = Arc::clone(identity);
    Arc::new(move || {
        let trust = ControlTrust::Bundle(identity.bundle());
        tls::control_client(trust, Some(&identity.svid()))
    })
}

/// Renews by `IdentityService.Renew`. Each time on a connection of its own: one from before the last
/// renewal would still show the certificate of that time.
#[derive(Debug)]
pub struct Renewer {
    server: String,
    identity: Arc<Identity>,
}

impl Renewer {
    /// For [`crate::identity::rotation::keep`].
    pub fn new(server: &str, identity: &Arc<Identity>) -> Self {
        Self { server: server.to_owned(), identity: Arc::clone(identity) }
    }
}

impl Renew for Renewer {
    type Error = Status;

    async fn renew(&self, csr: &[u8]) -> Result<Renewed, Status> {
        let request = pb::RenewRequest { csr: csr.to_vec() };
        let client = Client::new(&self.server, tls_source(&self.identity))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let answer = client.identity().renew(request).await?.into_inner();
        let bundle = answer.bundle.as_ref().map(read_bundle).transpose();
        let bundle = bundle.map_err(|error| Status::internal(format!("the new roots: {error}")))?;
        if answer.spiffe_id != self.identity.id().as_str() {
            return Err(Status::internal(format!("a certificate for {}", answer.spiffe_id)));
        }
        Ok(Renewed { chain: read_chain(answer.chain), bundle })
    }
}

/// Keeps the trust bundle as the control plane says, until the future is dropped. Each stream is on
/// a connection of its own, as with [`Renewer`].
pub async fn keep_bundle(
    server: &str,
    identity: Arc<Identity>,
    disk: Arc<DataDirectory>,
) -> Infallible {
    let mut pause = BACKOFF_FIRST;
    loop {
        let stream = async {
            let client = Client::new(server, tls_source(&identity)).ok()?;
            let stream = client.identity().trust_bundle(pb::TrustBundleRequest {}).await.ok()?;
            Some((client, stream.into_inner()))
        };
        if let Some((_client, mut stream)) = stream.await {
            while let Ok(Some(bundle)) = stream.message().await {
                pause = BACKOFF_FIRST;
                take_bundle(&bundle, &identity, &disk).await;
            }
        }
        tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn take_bundle(
    bundle: &pb::TrustBundleResponse,
    identity: &Arc<Identity>,
    disk: &Arc<DataDirectory>,
) {
    let bundle = match read_bundle(bundle) {
        Ok(bundle) if bundle == *identity.bundle() => return,
        Ok(bundle) => bundle,
        Err(error) => {
            tracing::warn!(%error, "the control plane sent roots that are none; keeping the old");
            return;
        }
    };
    if let Err(error) = identity.replace_bundle(bundle.clone()) {
        tracing::warn!(%error, "the control plane sent another mesh's roots; keeping the old");
        return;
    }
    tracing::info!(?bundle, "trusting these roots from now on");
    let disk = Arc::clone(disk);
    let stored = tokio::task::spawn_blocking(move || disk.save_bundle(&bundle)).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(%error, "can not store the roots");
    }
}

/// When the identity's SVID ends, for `status` and metrics.
pub fn not_after(identity: &Identity) -> SystemTime {
    identity.svid().not_after()
}
