//! Mutual TLS between sidecars, and TLS to the control plane.
//!
//! TLS 1.3 only, without tickets or resumption: a resumed session would skip the verification below
//! and keep an old certificate alive. A peer is accepted when its chain leads to a root of the trust
//! bundle, every certificate in it is valid now, and its leaf is an X.509-SVID
//! ([`crate::spiffe::Leaf`]) of the trust domain. The client side accepts exactly the identity that
//! it expects of the endpoint. Names of hosts play no part; SNI only says which port is meant.
//!
//! Absent on purpose: a way to switch verification off, TLS 1.2, a process-wide default provider.

mod config;
mod control;
mod identity;
mod peer;
mod sni;
mod verified;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use control::{
    ControlCaller, ControlTrust, RENEW_EXPIRED_MAX, control_admits, control_caller, control_client,
    control_server,
};
pub use identity::{Identity, IdentityError, Standing, Trust};
pub use peer::{Carried, Peer, PeerError, carried, identity_failure, peer, require_alpn, xfcc};
pub use sni::{Sni, SniError};
pub use verify::{Role, Untrusted, explained, verify};

/// The protocol of every connection that carries requests.
pub const ALPN_H2: &[u8] = b"h2";
/// The protocol of a connection between sidecars that carries the bytes of one TCP connection.
pub const ALPN_TCP: &[u8] = b"outrigger-tcp";

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));

/// The one provider of cryptography: aws-lc-rs, handed to rustls explicitly everywhere.
pub fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

#[cfg(test)]
mod tests;
