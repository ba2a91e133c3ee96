//! Mutual TLS for clients that speak none: a byte relay to an inbound listener, with the certificate,
//! SNI and ALPN of a sidecar.

use std::{fs, net::SocketAddr, sync::Arc};

use outrigger::{
    spiffe::{SpiffeId, Svid, TrustBundle},
    tls::{Identity, Sni, provider},
};
use rustls::ClientConfig;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::{StaticPair, spiffe_id};

/// Passes bytes between plain connections and mutual TLS to an inbound listener.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Relay {
    /// As the sidecar `caller` would call `echo`.
    pub(crate) async fn start(pair: &StaticPair) -> Self {
        let (to, config) = (pair.server.address("inbound"), client_config(pair));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let sni: Sni = "9090.echo.default.mesh".parse().expect("an SNI");
        let name = sni.server_name().expect("a name");
        let serving = tokio::spawn(async move {
            let connector = TlsConnector::from(config);
            loop {
                let (mut plain, _) = listener.accept().await.expect("accepts");
                let (connector, name) = (connector.clone(), name.clone());
                tokio::spawn(async move {
                    let far = TcpStream::connect(to).await.expect("the inbound listener");
                    let mut far = connector.connect(name, far).await.expect("a handshake");
                    // Most cases end with a connection that is cut.
                    let _cut = copy_bidirectional(&mut plain, &mut far).await;
                });
            }
        });
        Self { address, serving }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What the sidecar `caller` shows, to someone who expects `echo`.
fn client_config(pair: &StaticPair) -> Arc<ClientConfig> {
    let files = pair.certificates.issue("relayed", &spiffe_id("caller"));
    let read = |at: usize| fs::read(&files[at]).expect("it was issued");
    let svid = Svid::from_pem(&read(1), &read(3), provider()).expect("an SVID");
    let bundle = TrustBundle::from_pem(svid.id().trust_domain(), &read(5)).expect("a bundle");
    let echo: SpiffeId = spiffe_id("echo").parse().expect("an identity");
    Identity::new(svid, bundle).expect("one trust domain").client_config(&echo)
}
