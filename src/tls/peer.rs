//! Who is at the other end of a connection whose handshake is done.

use std::{io, time::SystemTime};

use rustls::{AlertDescription, CommonState, Error};
use rustls_pki_types::CertificateDer;

use super::{ALPN_H2, ALPN_TCP};
use crate::spiffe::{Leaf, LeafError, SpiffeId, fingerprint};

/// An authenticated peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub id: SpiffeId,
    /// When its certificate ends, and with it the connection.
    pub not_after: SystemTime,
    /// The SHA-256 of its certificate, in lower-case hexadecimal.
    pub sha256: String,
}

/// Why a connection is not one between sidecars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// Its certificate is no X.509-SVID.
    #[error("the peer's certificate {0}")]
    Leaf(LeafError),
    /// Its certificate ended too long ago.
    #[error("the peer's certificate has expired")]
    Expired,
    /// It did not say that it speaks what is spoken here.
    #[error("the peer did not agree on a protocol (ALPN)")]
    Alpn,
}

/// What a connection between sidecars carries, as both have agreed (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Requests, as HTTP/2: `h2`.
    Requests,
    /// The bytes of one TCP connection: `outrigger-tcp`.
    Bytes,
}

impl Carried {
    /// The protocol's name.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Requests => ALPN_H2,
            Self::Bytes => ALPN_TCP,
        }
    }
}

/// What was agreed on. A connection without ALPN is refused, as by [`require_alpn`].
///
/// # Errors
/// When neither protocol was.
pub fn carried(connection: &CommonState) -> Result<Carried, PeerError> {
    let agreed = connection.alpn_protocol();
    let all = [Carried::Requests, Carried::Bytes];
    all.into_iter().find(|one| Some(one.alpn()) == agreed).ok_or(PeerError::Alpn)
}

/// Names the peer of a connection from the certificates that the handshake has verified.
///
/// # Errors
/// When there is none.
pub fn peer(verified: &[CertificateDer<'_>]) -> Result<Peer, PeerError> {
    let end = verified.first().ok_or(PeerError::NoCertificate)?;
    let Leaf { id, not_after, .. } = Leaf::read(end).map_err(PeerError::Leaf)?;
    Ok(Peer { id, not_after, sha256: fingerprint(end) })
}

/// Refuses a connection without ALPN: rustls lets a peer through that offers no protocol at all,
/// and a peer that does not say what it speaks could be made to speak something else.
///
/// # Errors
/// When `h2` was not agreed on.
pub fn require_alpn(connection: &CommonState) -> Result<(), PeerError> {
    if connection.alpn_protocol() == Some(ALPN_H2) { Ok(()) } else { Err(PeerError::Alpn) }
}

/// What the application learns of the caller: `x-forwarded-client-cert` in Envoy's format. A SPIFFE
/// ID has no character that would need quoting in it.
pub fn xfcc(own: &SpiffeId, peer: &Peer) -> String {
    format!("By={own};Hash={};URI={}", peer.sha256, peer.id)
}

/// What was wrong about certificates, if that is why a handshake or a first read failed; `None`
/// for every other failure. In TLS 1.3 a server's refusal arrives after the client's handshake.
pub fn identity_failure(failure: &io::Error) -> Option<String> {
    let error = failure.get_ref()?.downcast_ref::<Error>()?;
    match error {
        Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            Some(other.0.to_string())
        }
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Some(error.to_string()),
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied,
        ) => Some("the peer refused our certificate".to_owned()),
        _ => None,
    }
}
