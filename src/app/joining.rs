//! How a sidecar comes by its identity at its start: from its data directory, or by a join token. What
//! it does to keep it is in [`super::keeping`].

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};

use super::{
    client::{ConnectError, is_credential_refused},
    keeping::{self, Renewer, read_chain, read_trust},
};
use crate::{
    clock,
    identity::{
        JoinToken, csr,
        disk::{DataDirectory, DiskError},
        rotation::Renew,
    },
    spiffe::{self, BundleError, Svid, SvidError},
    tls::{self, Identity, IdentityError, Trust},
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
        self.disk.save_joined(&token.root_hash())?;
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
        let same_mesh = match self.token.map(JoinToken::root_hash) {
            None => true,
            // The one by which it joined, whose root may have been exchanged since, is no other's.
            Some(root_hash) => {
                bundle.certificates().any(|root| spiffe::sha256(root) == root_hash)
                    || self.disk.has_joined(&root_hash)?
            }
        };
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
        let renewer = Renewer::new(self.server, &identity, None);
        let request = csr::make()?;
        let renewed = self.patiently(|| renewer.renew(&request.csr)).await?;
        let svid = Svid::new(renewed.chain, request.key, tls::provider())?;
        let trust = renewed.trust;
        let trust = trust.unwrap_or_else(|| Trust::of((*identity.bundle()).clone()));
        let identity = Identity::new(svid, trust.bundle.clone())?;
        identity.replace_trust(trust)?;
        self.store(&identity)?;
        Ok(identity)
    }

    fn store(&self, identity: &Identity) -> Result<(), DiskError> {
        self.disk.save_bundle(&identity.bundle())?;
        self.disk.save_svid(&identity.svid())
    }

    async fn join(&self, token: &JoinToken) -> Result<Identity, JoinError> {
        let request = csr::make()?;
        let answer = self.patiently(|| keeping::join(self.server, token, &request.csr)).await?;
        let trust = read_trust(answer.bundle.as_ref().ok_or(BundleError::Empty)?)?;
        let svid = Svid::new(read_chain(answer.chain), request.key, tls::provider())?;
        if svid.id().service().as_ref() != Some(self.service) {
            return Err(JoinError::OtherIdentity(svid.id().to_string()));
        }
        let identity = Identity::new(svid, trust.bundle.clone())?;
        identity.replace_trust(trust)?;
        Ok(identity)
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
