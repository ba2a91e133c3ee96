//! How a running sidecar keeps its identity: it renews its certificate by the one that it has, and
//! follows what the control plane says of whom to trust and from which root certificates are issued.

use std::{convert::Infallible, error::Error as _, fmt, sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::client::{Client, TlsSource, connect_error, is_credential_refused};
use crate::{
    clock,
    identity::{
        JoinToken,
        disk::DataDirectory,
        rotation::{Renew, Renewed, Wish},
    },
    resource::pb,
    spiffe::{BundleError, TrustBundle},
    tls::{self, ControlTrust, Identity, Trust},
};

/// Pauses between tries grow up to this and are random below it.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// No renewal is put off for longer, whatever the control plane says.
const WITHIN_MAX: Duration = Duration::from_secs(60);

/// Certificates as they travel.
pub(super) fn read_chain(chain: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    chain.into_iter().map(CertificateDer::from).collect()
}

/// Whom to trust, as it travels.
pub(super) fn read_trust(bundle: &pb::TrustBundleResponse) -> Result<Trust, BundleError> {
    Ok(Trust {
        bundle: TrustBundle::new(&bundle.trust_domain, read_chain(bundle.roots.clone()))?,
        retiring: bundle
            .retiring
            .iter()
            .filter_map(|hash| hash.as_slice().try_into().ok())
            .collect(),
        version: bundle.version.clone(),
    })
}

/// The TLS side of a client that calls as this identity: always with the newest SVID and roots.
pub fn tls_source(identity: &Arc<Identity>) -> TlsSource {
    let identity = Arc::clone(identity);
    Arc::new(move || {
        let trust = ControlTrust::Bundle(identity.bundle());
        tls::control_client(trust, Some(&identity.svid()))
    })
}

/// Joins by a token: sends the CSR to a control plane of which only the root's hash is known.
pub(super) async fn join(
    server: &str,
    token: &JoinToken,
    csr: &[u8],
) -> Result<pb::SvidResponse, Status> {
    let config = tls::control_client(ControlTrust::RootHash(token.root_hash()), None);
    let client = Client::new(server, Arc::new(move || Arc::clone(&config)))
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let request = pb::JoinRequest { token: token.to_text(), csr: csr.to_vec() };
    Ok(client.identity().join(request).await?.into_inner())
}

/// Renews by `IdentityService.Renew`. Each time on a connection of its own: one from before the last
/// renewal would still show the certificate of that time. Where the certificate is refused (its root
/// was dropped, or it has been superseded) a join token takes its place, if there is one.
pub struct Renewer {
    server: String,
    identity: Arc<Identity>,
    token: Option<JoinToken>,
}

impl Renewer {
    /// For [`crate::identity::rotation::keep`].
    pub fn new(server: &str, identity: &Arc<Identity>, token: Option<JoinToken>) -> Self {
        Self { server: server.to_owned(), identity: Arc::clone(identity), token }
    }

    async fn answer(&self, csr: &[u8]) -> Result<pb::SvidResponse, Status> {
        let request = pb::RenewRequest { csr: csr.to_vec() };
        let client = Client::new(&self.server, tls_source(&self.identity))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let refused = match client.identity().renew(request).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let Some(token) = self.token.as_ref().filter(|_| self.is_over(&refused)) else {
            return Err(refused);
        };
        tracing::warn!(error = refused.message(), "the certificate is refused; joining anew");
        // Why the token does not help is the lesser news.
        join(&self.server, token, csr).await.map_err(|status| {
            tracing::warn!(error = status.message(), "the join token is refused too");
            refused
        })
    }
}

impl Renewer {
    /// Whether there is no use in asking by this certificate any more. The reason for which the
    /// control plane hangs up may get lost on the way; one that has ended is not worth another try.
    fn is_over(&self, refused: &Status) -> bool {
        let ended = clock::now() > self.identity.svid().not_after();
        let hung_up = refused.code() == Code::Unavailable
            && refused.source().is_some()
            && connect_error(refused).is_none();
        is_refused(refused) || (ended && hung_up)
    }
}

impl fmt::Debug for Renewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewer").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Whether the control plane knows us no more.
fn is_refused(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || is_credential_refused(status)
}

impl Renew for Renewer {
    type Error = Status;

    async fn renew(&self, csr: &[u8]) -> Result<Renewed, Status> {
        let answer = self.answer(csr).await?;
        let trust = answer.bundle.as_ref().map(read_trust).transpose();
        let trust = trust.map_err(|error| Status::internal(format!("the new roots: {error}")))?;
        if answer.spiffe_id != self.identity.id().as_str() {
            return Err(Status::internal(format!("a certificate for {}", answer.spiffe_id)));
        }
        Ok(Renewed { chain: read_chain(answer.chain), trust })
    }
}

/// Keeps whom to trust as the control plane says, and passes on from which root it issues, until the
/// future is dropped. Each stream is on a connection of its own, as with [`Renewer`].
pub async fn keep_trust(
    server: &str,
    identity: Arc<Identity>,
    disk: Arc<DataDirectory>,
    wish: watch::Sender<Wish>,
) -> Infallible {
    let mut pause = BACKOFF_FIRST;
    loop {
        match open(server, &identity).await {
            Ok((_client, mut stream)) => {
                while let Ok(Some(bundle)) = stream.message().await {
                    pause = BACKOFF_FIRST;
                    take(&bundle, &identity, &disk).await;
                    wish.send_if_modified(|wish| {
                        let issuer = bundle.issuer.as_slice().try_into().ok();
                        let changed = wish.issuer != issuer;
                        (wish.issuer, wish.within) = (issuer, within(&bundle));
                        changed
                    });
                }
            }
            Err(status) if is_refused(&status) => {
                wish.send_modify(|wish| wish.refused = wish.refused.wrapping_add(1));
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause.mul_f64(fastrand::f64())).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn open(
    server: &str,
    identity: &Arc<Identity>,
) -> Result<(Client, tonic::Streaming<pb::TrustBundleResponse>), Status> {
    let client = Client::new(server, tls_source(identity))
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let stream = client.identity().trust_bundle(pb::TrustBundleRequest {}).await?;
    Ok((client, stream.into_inner()))
}

fn within(bundle: &pb::TrustBundleResponse) -> Duration {
    let within = bundle.renew_within.and_then(|within| Duration::try_from(within).ok());
    within.unwrap_or_default().min(WITHIN_MAX)
}

async fn take(
    bundle: &pb::TrustBundleResponse,
    identity: &Arc<Identity>,
    disk: &Arc<DataDirectory>,
) {
    let trust = match read_trust(bundle) {
        Ok(trust) => trust,
        Err(error) => {
            tracing::warn!(%error, "the control plane sent roots that are none; keeping the old");
            return;
        }
    };
    let bundle = trust.bundle.clone();
    let before = identity.bundle();
    if let Err(error) = identity.replace_trust(trust) {
        tracing::warn!(%error, "the control plane sent another mesh's roots; keeping the old");
        return;
    }
    if *before == bundle {
        return;
    }
    tracing::info!(?bundle, "trusting these roots from now on");
    let disk = Arc::clone(disk);
    let stored = tokio::task::spawn_blocking(move || disk.save_bundle(&bundle)).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(%error, "can not store the roots");
    }
}
