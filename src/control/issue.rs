//! `IdentityService`: from an attested identity to a certificate. Who is attested is decided by the
//! token or by the certificate of the connection; of the CSR only the public key counts.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::{
    auth::{self, Connection, Principal},
    ca::Ca,
    error,
    fleet::Fleet,
    limit::Limiter,
    metrics::{Grounds, Metrics},
    state::{State, Writer, pb_time},
    store::{Batch, Superseded},
    tokens,
    trust::Tenure,
};
use crate::{
    identity::{CaError, Issued, JoinToken},
    resource::pb::{self, identity_service_server::IdentityService},
    spiffe::SpiffeId,
    task,
    telemetry::chain,
    tls::{Peer, RENEW_EXPIRED_MAX},
};

/// How long after an expired certificate was renewed it may be so again, because an answer can get
/// lost on the way.
const RENEWED_AGAIN_MAX: Duration = Duration::from_mins(10);
/// How long a renewal by a valid certificate waits for its note to be on disk.
const NOTE_MAX: Duration = Duration::from_secs(3);
/// How long the last bundle of a stream waits for a slow sidecar.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);
/// Certificates for one identity at once and per second: many replicas may start together.
const ISSUES: (f64, f64) = (500.0, 20.0);
/// Failed joins of one address at once and per second.
const FAILED_JOINS: (f64, f64) = (20.0, 0.5);

/// What certificates are issued from.
#[derive(Debug)]
pub(crate) struct Issuing {
    pub state: Arc<State>,
    pub ca: Arc<Ca>,
    pub fleet: Arc<Fleet>,
    pub metrics: Arc<Metrics>,
    /// Cancelled when the control plane ends.
    pub ending: CancellationToken,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Identities {
    from: Issuing,
    issues: Arc<Limiter<SpiffeId>>,
    failed_joins: Limiter<IpAddr>,
}

impl Identities {
    pub(crate) fn new(from: Issuing) -> Self {
        Self {
            from,
            issues: Arc::new(Limiter::new(ISSUES.0, ISSUES.1)),
            failed_joins: Limiter::new(FAILED_JOINS.0, FAILED_JOINS.1),
        }
    }

    async fn joined(&self, request: pb::JoinRequest) -> Result<Issued, Status> {
        let token = JoinToken::parse(&request.token)
            .map_err(|wrong| error::invalid("token", wrong.to_string()))?;
        let ca = Arc::clone(&self.from.ca);
        let issues = Arc::clone(&self.issues);
        self.from
            .state
            .write(move |state, writer| {
                let now = state.now();
                let service = tokens::attest(writer, &token, &request.csr, now)?;
                let id = SpiffeId::of_service(state.trust_domain(), &service)
                    .map_err(|_| error::internal("a token for what is no identity"))?;
                issues.take(id.clone(), Instant::now()).map_err(too_often)?;
                // A CSR that can not be signed costs no use, and what was signed leaves only after
                // its use is on disk.
                let issued = sign(&ca, &request.csr, &id, now)?;
                tokens::count(state, writer, &token, &request.csr)?;
                tracing::info!(%id, token = token.id(), "joined");
                Ok(issued)
            })
            .await
    }

    /// By a certificate that has expired: only when it is the latest of its line, which is noted
    /// before the next one leaves.
    async fn renewed_expired(&self, csr: Vec<u8>, peer: Peer) -> Result<Issued, Status> {
        let ca = Arc::clone(&self.from.ca);
        self.from
            .state
            .write(move |state, writer| {
                let now = state.now();
                check_latest(writer, &peer, now)?;
                let issued = sign(&ca, &csr, &peer.id, now)?;
                supersede(state, writer, &peer, now)?;
                tracing::info!(id = %peer.id, "renewed after its end");
                Ok(issued)
            })
            .await
    }

    /// By a certificate that is valid. That it was renewed is noted for the time after its end; a
    /// disk that is full or slow must not let certificates end.
    async fn renewed(&self, csr: &[u8], peer: Peer) -> Result<Issued, Status> {
        let state = &self.from.state;
        let issued = sign(&self.from.ca, csr, &peer.id, state.now())?;
        let id = peer.id.clone();
        let note = state.write(move |state, writer| supersede(state, writer, &peer, state.now()));
        match timeout(NOTE_MAX, note).await {
            Ok(Ok(())) => {}
            Ok(Err(status)) => tracing::warn!(%id, %status, "a renewal is not noted"),
            Err(_) => tracing::warn!(%id, "a renewal is not noted yet: the disk is slow"),
        }
        tracing::info!(%id, "renewed");
        Ok(issued)
    }

    fn answer(&self, issued: Issued, grounds: Grounds) -> Response<pb::SvidResponse> {
        self.from.metrics.issued(grounds);
        Response::new(pb::SvidResponse {
            chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
            spiffe_id: issued.id.to_string(),
            not_after: Some(pb_time(issued.not_after)),
            bundle: Some(self.from.ca.trust().borrow().to_pb(self.from.fleet.count())),
        })
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    type TrustBundleStream = ReceiverStream<Result<pb::TrustBundleResponse, Status>>;

    async fn join(
        &self,
        request: Request<pb::JoinRequest>,
    ) -> Result<Response<pb::SvidResponse>, Status> {
        let from = request.extensions().get::<Connection>().map(|it| it.remote.ip());
        let from = from.ok_or_else(|| error::internal("a call without its connection"))?;
        self.failed_joins.check(&from, Instant::now()).map_err(too_often)?;
        match self.joined(request.into_inner()).await {
            Ok(issued) => Ok(self.answer(issued, Grounds::Join)),
            Err(status) => {
                if matches!(status.code(), Code::Unauthenticated | Code::InvalidArgument) {
                    // Its own limit is checked before the next try.
                    let _taken = self.failed_joins.take(from, Instant::now());
                }
                tracing::warn!(%from, code = ?status.code(), reason = status.message(), "join refused");
                Err(status)
            }
        }
    }

    async fn renew(
        &self,
        request: Request<pb::RenewRequest>,
    ) -> Result<Response<pb::SvidResponse>, Status> {
        let principal = auth::principal(&request)?;
        let expired = matches!(principal, Principal::Expired(_));
        let peer = principal.workload()?.clone();
        self.issues.take(peer.id.clone(), Instant::now()).map_err(too_often)?;
        let csr = request.into_inner().csr;
        let issued = match expired {
            true => self.renewed_expired(csr, peer).await?,
            false => self.renewed(&csr, peer).await?,
        };
        Ok(self.answer(issued, Grounds::Renew))
    }

    async fn trust_bundle(
        &self,
        request: Request<pb::TrustBundleRequest>,
    ) -> Result<Response<Self::TrustBundleStream>, Status> {
        let over = Tenure::of(&request)?.over();
        let (sender, receiver) = mpsc::channel(1);
        let (mut trust, ending) = (self.from.ca.trust(), self.from.ending.clone());
        let fleet = Arc::clone(&self.from.fleet);
        let _detached = task::spawn("trust bundle", async move {
            tokio::pin!(over);
            loop {
                let now = trust.borrow_and_update().to_pb(fleet.count());
                if sender.send(Ok(now)).await.is_err() {
                    return;
                }
                tokio::select! {
                    // Whom to trust now is told to whoever is not trusted any more, too.
                    biased;
                    changed = trust.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = ending.cancelled() => return,
                    _ = &mut over => {
                        // It may be over by the very change that is not told yet.
                        if trust.has_changed().is_ok_and(|changed| changed) {
                            let last = trust.borrow_and_update().to_pb(fleet.count());
                            let _told = sender.send_timeout(Ok(last), LAST_WORD_MAX).await;
                        }
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn sign(ca: &Ca, csr: &[u8], id: &SpiffeId, now: SystemTime) -> Result<Issued, Status> {
    ca.issuer().sign(csr, id, ca.leaf_ttl(), now).map_err(|failed| match failed {
        CaError::Csr(wrong) => error::invalid("csr", wrong.to_string()),
        CaError::Expired => {
            error::refused(Code::FailedPrecondition, "CA_EXPIRED", failed.to_string(), &[])
        }
        other => {
            tracing::error!(error = %chain(&other), "can not sign");
            Status::internal("the certificate could not be made; the control plane's log says more")
        }
    })
}

/// An expired certificate is only good for a renewal when it is the latest one of its line.
fn check_latest(writer: &Writer, peer: &Peer, now: SystemTime) -> Result<(), Status> {
    let Some(superseded) = writer.superseded.get(&peer.sha256) else { return Ok(()) };
    if seconds(now) <= superseded.at + RENEWED_AGAIN_MAX.as_secs() {
        return Ok(());
    }
    Err(error::refused(
        Code::Unauthenticated,
        "CERTIFICATE_SUPERSEDED",
        "the certificate has expired and was renewed before; join again with a token",
        &[("identity", peer.id.to_string())],
    ))
}

/// Notes that the certificate has been renewed, and forgets what could do nothing any more.
fn supersede(
    state: &State,
    writer: &mut Writer,
    peer: &Peer,
    now: SystemTime,
) -> Result<(), Status> {
    let now = seconds(now);
    let over = writer.superseded.iter().filter(|(_, entry)| entry.until < now);
    let forget_superseded: Vec<_> = over.map(|(name, _)| name.clone()).collect();
    let mut batch = Batch { forget_superseded, ..Default::default() };
    if !writer.superseded.contains_key(&peer.sha256) {
        let until = seconds(peer.not_after + RENEW_EXPIRED_MAX);
        batch.supersede.push((peer.sha256.clone(), Superseded { at: now, until }));
    }
    state.write_identities(&batch).map_err(|error| error::store(&error))?;
    for name in &batch.forget_superseded {
        writer.superseded.remove(name);
    }
    writer.superseded.extend(batch.supersede);
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn too_often(pause: Duration) -> Status {
    error::later(
        Code::ResourceExhausted,
        "RATE_LIMITED",
        "too many certificates are asked for",
        pause.max(Duration::from_millis(100)),
    )
}
