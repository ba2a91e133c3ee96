//! The only place where rustls configurations are made, so that both roles and both ports share
//! what must hold: TLS 1.3, no tickets, no resumption, no early data, ALPN.

use std::{sync::Arc, time::UNIX_EPOCH};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
    version::TLS13,
};
use rustls_pki_types::UnixTime;

use super::{
    ALPN_H2, provider,
    verify::{Expected, ServerVerifier},
};
use crate::clock;

/// The wall clock, read where everything else reads it.
#[derive(Debug)]
struct WallClock;

impl TimeProvider for WallClock {
    fn current_time(&self) -> Option<UnixTime> {
        clock::now().duration_since(UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// A server that shows `certified` whatever name it is asked for, and speaks `protocols` (ALPN).
pub(super) fn server(
    certified: &Arc<CertifiedKey>,
    verifier: Arc<dyn ClientCertVerifier>,
    protocols: &[&[u8]],
) -> Arc<ServerConfig> {
    let shown = SingleCertAndKey::from(Arc::clone(certified));
    let builder = ServerConfig::builder_with_details(Arc::clone(provider()), Arc::new(WallClock));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has cipher suites for TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// A client that accepts `expected` and shows `certified`, if any.
pub(super) fn client(
    certified: Option<&Arc<CertifiedKey>>,
    expected: Expected,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_details(Arc::clone(provider()), Arc::new(WallClock));
    let builder = builder
        .with_protocol_versions(&[&TLS13])
        .expect("aws-lc-rs has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier(expected)));
    let mut config = match certified {
        Some(certified) => {
            let shown = SingleCertAndKey::from(Arc::clone(certified));
            builder.with_client_cert_resolver(Arc::new(shown))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
