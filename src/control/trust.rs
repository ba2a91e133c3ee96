//! Whom the mesh trusts now, as everybody in the control plane sees it: one immutable picture that is
//! exchanged as a whole when a root is exchanged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::{sync::watch, time::sleep};
use tonic::{Code, Status};

use super::{auth::Connection, error, grants::Grants};
use crate::{
    identity::Roots,
    resource::pb,
    spiffe::{CREDENTIAL_PATH, Leaf, TrustBundle, fingerprint, hex, sha256},
    tls,
};

/// Sidecars that renew in one second when the root is exchanged.
const RENEWALS_PER_SECOND: u64 = 100;
/// How long a wait for the wall clock trusts the other clock.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Whom to trust.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Counts up with each; never 0.
    pub generation: u64,
    /// The roots.
    pub bundle: Arc<TrustBundle>,
    /// The SHA-256 of the root that issues.
    pub issuer: [u8; 32],
    /// The SHA-256 of those whose connections are to end.
    pub retiring: Vec<[u8; 32]>,
    /// Names all of it to sidecars.
    pub version: String,
    /// Who may call the API.
    pub grants: Arc<Grants>,
}

impl Trust {
    /// As the CA has it.
    pub(crate) fn of(roots: &Roots, grants: &Arc<Grants>, generation: u64) -> Self {
        let bundle = roots.bundle();
        let (issuer, retiring) = (roots.issuer().root_hash(), roots.retiring());
        let mut all: Vec<u8> = bundle.certificates().flat_map(|root| sha256(root)).collect();
        all.extend(issuer);
        all.extend(retiring.iter().flatten());
        let version = hex(&sha256(&all)[..8]);
        let grants = Arc::clone(grants);
        Self { generation, bundle: Arc::new(bundle), issuer, retiring, version, grants }
    }

    /// Whether a connection that showed these certificates may stay. A credential is known by its
    /// certificate alone.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it may not.
    fn admit(&self, certificates: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Status> {
        let Some(end) = certificates.first() else { return Ok(()) };
        let refused = |reason, message: &str| {
            Err(error::refused(Code::Unauthenticated, reason, message, &[]))
        };
        let path = |leaf: Leaf| leaf.id.path().starts_with(CREDENTIAL_PATH);
        if Leaf::read(end).is_ok_and(path) {
            if self.grants.by_certificate(&fingerprint(end)).is_some() {
                return Ok(());
            }
            return refused(
                "CREDENTIAL_UNKNOWN",
                "this credential was revoked, or another control plane made it",
            );
        }
        if tls::control_admits(certificates, &self.bundle, now) {
            return Ok(());
        }
        refused(
            "CERTIFICATE_DISTRUSTED",
            "the root of this certificate is not trusted any more; join again with a token",
        )
    }

    /// As it travels to one of `sidecars`.
    pub(crate) fn to_pb(&self, sidecars: u32) -> pb::TrustBundleResponse {
        let within = Duration::from_millis(u64::from(sidecars) * 1000 / RENEWALS_PER_SECOND);
        pb::TrustBundleResponse {
            trust_domain: self.bundle.trust_domain().to_owned(),
            roots: self.bundle.certificates().map(|der| der.to_vec()).collect(),
            issuer: self.issuer.to_vec(),
            renew_within: prost_types::Duration::try_from(within).ok(),
            retiring: self.retiring.iter().map(|hash| hash.to_vec()).collect(),
            version: self.version.clone(),
        }
    }
}

/// For which [`Trust`] a connection's certificates were looked at last.
#[derive(Debug, Default)]
pub(crate) struct Verdict(AtomicU64);

impl Connection {
    /// Whether the certificates of this connection are still accepted. They are looked at once for
    /// each exchange of roots.
    ///
    /// # Errors
    /// UNAUTHENTICATED when they are not.
    pub(crate) fn check(&self, trust: &Trust, now: SystemTime) -> Result<(), Status> {
        let Some(certificates) = &self.certificates else { return Ok(()) };
        if self.verdict.0.load(Ordering::Relaxed) == trust.generation {
            return Ok(());
        }
        trust.admit(certificates, now)?;
        self.verdict.0.store(trust.generation, Ordering::Relaxed);
        Ok(())
    }
}

/// For how long a stream may live: in the extensions of each request.
#[derive(Debug, Clone)]
pub(crate) struct Tenure {
    pub connection: Connection,
    /// The end of the caller's certificate.
    pub not_after: SystemTime,
    pub trust: watch::Receiver<Arc<Trust>>,
    /// The wall clock.
    pub now: fn() -> SystemTime,
}

impl Tenure {
    /// That of a request that has come through authentication.
    ///
    /// # Errors
    /// INTERNAL when it has not.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        let tenure = request.extensions().get::<Self>().cloned();
        tenure.ok_or_else(|| error::internal("a stream came around authentication"))
    }

    /// Waits until the stream has to end, and says why.
    pub(crate) async fn over(mut self) -> Status {
        loop {
            let trust = Arc::clone(&self.trust.borrow_and_update());
            let now = (self.now)();
            if let Err(distrusted) = self.connection.check(&trust, now) {
                return distrusted;
            }
            let left = self.not_after.duration_since(now).unwrap_or_default();
            if left.is_zero() {
                return error::refused(
                    Code::Unauthenticated,
                    "CERTIFICATE_EXPIRED",
                    "the certificate of this stream has expired; connect with the renewed one",
                    &[],
                );
            }
            tokio::select! {
                () = sleep(left.min(LOOK_EVERY)) => {}
                changed = self.trust.changed() => if changed.is_err() {
                    // The control plane ends; whoever serves the stream ends it.
                    std::future::pending::<()>().await;
                },
            }
        }
    }
}
