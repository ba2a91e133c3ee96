//! The check of a peer's certificates, the same for both roles and for connections that are open
//! already when a root is dropped; and its two faces for rustls.

use std::{
    collections::HashSet,
    fmt, io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::{provider, verified::Verified};
use crate::spiffe::{Leaf, LeafError, SpiffeId, TrustBundle, may_sign_der, sha256};

/// Which part the peer plays in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The peer is the client.
    Client,
    /// The peer is the server.
    Server,
}

/// Why a peer's certificates are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It sent none.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The leaf is no X.509-SVID.
    #[error("the peer's certificate {0}")]
    Leaf(LeafError),
    /// Another trust domain's.
    #[error("the peer's identity {0} is of another trust domain than {1}")]
    TrustDomain(SpiffeId, String),
    /// Another than the expected identity.
    #[error("the peer is {found}, expected {expected}")]
    OtherIdentity {
        /// Who was expected at that address.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// It is no control plane.
    #[error("the peer is {0}, which is no control plane")]
    NotControlPlane(SpiffeId),
    /// None of its certificates is the pinned root.
    #[error("the peer did not send the root certificate that the token names")]
    NotPinned,
    /// The chain does not lead to a root that is trusted and valid now.
    #[error("the peer's certificate {0} is not trusted: {why}", why = why(.1))]
    Chain(SpiffeId, webpki::Error),
}

/// What is wrong with a chain, as people say it.
fn why(error: &webpki::Error) -> String {
    let time = |at: &UnixTime| {
        let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        prost_types::Timestamp { seconds, nanos: 0 }.to_string()
    };
    match error {
        webpki::Error::CertExpired { not_after, time: now } => {
            format!("it expired at {}, and now it is {}", time(not_after), time(now))
        }
        webpki::Error::CertNotValidYet { not_before, time: now } => {
            format!("it is valid from {}, and now it is {}", time(not_before), time(now))
        }
        webpki::Error::InvalidCertValidity => "it ends before it begins".to_owned(),
        webpki::Error::UnknownIssuer => "none of the trusted roots has signed it".to_owned(),
        webpki::Error::InvalidSignatureForPublicKey => {
            "a signature of its chain is not that of the CA that it names".to_owned()
        }
        other => other.to_string(),
    }
}

/// An error of a handshake in words: rustls shows what a verifier of ours says, and what is no TLS at
/// all, as a program's text. One of another kind is given back as it is.
pub fn explained(error: io::Error) -> io::Error {
    let why = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
        Some(Error::InvalidMessage(_)) => "it does not speak TLS".to_owned(),
        _ => return error,
    };
    io::Error::new(error.kind(), why)
}

/// Checks a chain, leaf first, against a trust bundle and returns what the leaf says.
///
/// # Errors
/// When the peer must not be trusted, and why.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    role: Role,
    now: SystemTime,
) -> Result<Leaf, Untrusted> {
    verify_as_of(chain, bundle, role, now, now)
}

/// The roots are those that are valid `now`; the rest is checked as of `time`.
pub(super) fn verify_as_of(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    role: Role,
    time: SystemTime,
    now: SystemTime,
) -> Result<Leaf, Untrusted> {
    let (end, intermediates) = chain.split_first().ok_or(Untrusted::NoCertificate)?;
    let leaf = Leaf::read(end).map_err(Untrusted::Leaf)?;
    if leaf.id.trust_domain() != bundle.trust_domain() {
        return Err(Untrusted::TrustDomain(leaf.id, bundle.trust_domain().to_owned()));
    }
    let untrusted = |error| Untrusted::Chain(leaf.id.clone(), error);
    let certificate = EndEntityCert::try_from(end).map_err(untrusted)?;
    certificate
        .verify_for_usage(
            provider().signature_verification_algorithms.all,
            &bundle.anchors(now),
            intermediates,
            UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default()),
            match role {
                Role::Client => KeyUsage::client_auth(),
                Role::Server => KeyUsage::server_auth(),
            },
            None,
            Some(&every_issuer_may_sign),
        )
        .map_err(untrusted)?;
    Ok(leaf)
}

fn every_issuer_may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let signs = |der: CertificateDer<'_>| may_sign_der(&der).unwrap_or(false);
    if path.intermediate_certificates().all(|issuer| signs(issuer.der())) {
        Ok(())
    } else {
        Err(webpki::Error::EndEntityUsedAsCa)
    }
}

/// Whom a client accepts as its server.
#[derive(Debug)]
pub(super) enum Expected {
    /// Exactly this identity, by this trust bundle.
    Id(SpiffeId, Arc<TrustBundle>, Arc<Verified>),
    /// The control plane, by this trust bundle.
    ControlPlane(Arc<TrustBundle>),
    /// The control plane whose chain holds the root with this SHA-256.
    Pinned([u8; 32]),
}

impl Expected {
    fn check(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Leaf, Untrusted> {
        match self {
            Self::Id(expected, bundle, verified) => {
                let leaf = verified.check(chain, bundle, Role::Server, now)?;
                if leaf.id == *expected {
                    Ok(leaf)
                } else {
                    let (expected, found) = (expected.clone(), leaf.id);
                    Err(Untrusted::OtherIdentity { expected, found })
                }
            }
            Self::ControlPlane(bundle) => control_plane(verify(chain, bundle, Role::Server, now)?),
            Self::Pinned(hash) => {
                let end = chain.first().ok_or(Untrusted::NoCertificate)?;
                let domain = Leaf::read(end).map_err(Untrusted::Leaf)?.id;
                let root = chain.iter().skip(1).find(|der| sha256(der) == *hash);
                let root = root.ok_or(Untrusted::NotPinned)?.clone().into_owned();
                let bundle = TrustBundle::new(domain.trust_domain(), vec![root]);
                let bundle = bundle.map_err(|_| Untrusted::NotPinned)?;
                control_plane(verify(chain, &bundle, Role::Server, now)?)
            }
        }
    }
}

/// Any workload has a certificate of the same root; only the control plane has this path.
fn control_plane(leaf: Leaf) -> Result<Leaf, Untrusted> {
    if leaf.id.path() == crate::spiffe::CONTROL_PLANE_PATH {
        Ok(leaf)
    } else {
        Err(Untrusted::NotControlPlane(leaf.id))
    }
}

/// The client's verifier of the server.
#[derive(Debug)]
pub(super) struct ServerVerifier(pub(super) Expected);

/// The server's verifier of clients: any identity of the trust domain.
pub(super) struct ClientVerifier {
    pub(super) bundle: Arc<TrustBundle>,
    /// What was found good with this bundle; for a client whose certificate must be valid now.
    pub(super) verified: Option<Arc<Verified>>,
    /// Whether a client without a certificate is refused.
    pub(super) required: bool,
    /// How long after its end a certificate is still taken, for whoever then looks at its time.
    pub(super) expired_max: Duration,
    /// Leaves that are taken whoever signed them, by SHA-256.
    pub(super) known: Arc<HashSet<[u8; 32]>>,
}

/// Whether a leaf is one that is known by itself, and valid now.
pub(super) fn is_known(
    known: &HashSet<[u8; 32]>,
    end: &CertificateDer<'_>,
    now: SystemTime,
) -> bool {
    // Of what is not known nothing is read.
    let is_known = !known.is_empty() && known.contains(&sha256(end));
    is_known && Leaf::read(end).is_ok_and(|leaf| leaf.not_before <= now && now <= leaf.not_after)
}

/// When `expired_max` permits it, a chain is checked as of its leaf's last moment.
pub(super) fn time_of_check(
    end: &CertificateDer<'_>,
    expired_max: Duration,
    now: SystemTime,
) -> SystemTime {
    if expired_max.is_zero() {
        return now;
    }
    match Leaf::read(end) {
        Ok(leaf) if leaf.not_after < now && now <= leaf.not_after + expired_max => leaf.not_after,
        _ => now,
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientVerifier").field(&self.bundle).finish()
    }
}

fn chain<'a>(
    end: &CertificateDer<'a>,
    intermediates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end).chain(intermediates).cloned().collect()
}

fn system_time(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

/// As rustls wants it; the kind decides which alert the peer sees, the text is for our own log.
fn refuse(untrusted: Untrusted) -> Error {
    match untrusted {
        Untrusted::NoCertificate => Error::NoCertificatesPresented,
        other => CertificateError::Other(OtherError(Arc::new(other))).into(),
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.0.check(&chain(end, intermediates), system_time(now));
        checked.map(|_| ServerCertVerified::assertion()).map_err(refuse)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, end, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, end, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = system_time(now);
        if is_known(&self.known, end, now) {
            return Ok(ClientCertVerified::assertion());
        }
        let chain = chain(end, intermediates);
        if let Some(verified) = &self.verified {
            let checked = verified.check(&chain, &self.bundle, Role::Client, now);
            return checked.map(|_| ClientCertVerified::assertion()).map_err(refuse);
        }
        let time = time_of_check(end, self.expired_max, now);
        let checked = verify_as_of(&chain, &self.bundle, Role::Client, time, now);
        checked.map(|_| ClientCertVerified::assertion()).map_err(refuse)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, end, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, end, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
