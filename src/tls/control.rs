//! TLS on the control plane's port: the server shows its SVID with the root in the chain, so that a
//! joining sidecar can check the root against the hash in its token; client certificates are
//! optional, because a token or nothing at all comes without.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::CertificateDer;

use super::{
    ALPN_H2, Peer, PeerError, Role, config, peer,
    verify::{ClientVerifier, Expected, time_of_check, verify_as_of},
};
use crate::spiffe::{Svid, TrustBundle};

/// How long after its end an SVID still renews itself, so that a laptop may sleep over a weekend.
pub const RENEW_EXPIRED_MAX: Duration = Duration::from_hours(72);

/// By what a client knows the control plane. In every case its certificate must also name the
/// control plane's identity: each workload has a certificate of the same root.
#[derive(Debug, Clone)]
pub enum ControlTrust {
    /// The SHA-256 of the root, from a join token.
    RootHash([u8; 32]),
    /// The roots.
    Bundle(Arc<TrustBundle>),
}

/// Who calls the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlCaller {
    /// Without certificate.
    Anonymous,
    /// With a certificate that is valid now.
    Valid(Peer),
    /// With a certificate that ended within the last 72 hours: it may renew itself, nothing else.
    Expired(Peer),
}

/// The configuration of a client of the control plane's port.
pub fn control_client(trust: ControlTrust, credential: Option<&Svid>) -> Arc<ClientConfig> {
    let expected = match trust {
        ControlTrust::RootHash(hash) => Expected::Pinned(hash),
        ControlTrust::Bundle(bundle) => Expected::ControlPlane(bundle),
    };
    config::client(credential.map(Svid::certified_key), expected)
}

/// The configuration of the control plane's port. Made anew whenever its SVID, the bundle or the
/// certificates that are `known` by themselves change. Name the caller with [`control_caller`]: expired
/// certificates get through the handshake.
pub fn control_server(
    svid: &Svid,
    bundle: &Arc<TrustBundle>,
    known: Arc<HashSet<[u8; 32]>>,
) -> Arc<ServerConfig> {
    let verifier = ClientVerifier {
        bundle: Arc::clone(bundle),
        verified: None,
        required: false,
        expired_max: RENEW_EXPIRED_MAX,
        known,
    };
    config::server(svid.certified_key(), Arc::new(verifier), &[ALPN_H2])
}

/// Whether certificates that the handshake let through would still get through it with this bundle.
pub fn control_admits(
    verified: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> bool {
    let Some(end) = verified.first() else { return true };
    let time = time_of_check(end, RENEW_EXPIRED_MAX, now);
    verify_as_of(verified, bundle, Role::Client, time, now).is_ok()
}

/// Names the caller of a connection from the certificates that the handshake has verified. Called
/// for each request, since a certificate may end while its connection lives.
///
/// # Errors
/// When the certificate ended more than 72 hours ago, or is no X.509-SVID, which the handshake does
/// not let through.
pub fn control_caller(
    verified: Option<&[CertificateDer<'_>]>,
    now: SystemTime,
) -> Result<ControlCaller, PeerError> {
    let Some(verified) = verified.filter(|chain| !chain.is_empty()) else {
        return Ok(ControlCaller::Anonymous);
    };
    let peer = peer(verified)?;
    if now <= peer.not_after {
        Ok(ControlCaller::Valid(peer))
    } else if now <= peer.not_after + RENEW_EXPIRED_MAX {
        Ok(ControlCaller::Expired(peer))
    } else {
        Err(PeerError::Expired)
    }
}
