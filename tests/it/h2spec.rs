//! h2spec against both listeners of the data plane: every case, in its strict mode, three times in a
//! row. It speaks no mutual TLS, so that for the inbound listener a byte relay of the test adds the
//! client's certificate, SNI and ALPN.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

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

use crate::harness::{App, StaticPair, finish, heavy, peer, spiffe_id};

/// All cases take some seconds; each may wait that long for an answer.
const RUN_MAX: Duration = Duration::from_secs(180);
const RUNS: usize = 3;

async fn conforms(pair: &StaticPair, h2spec: &str, to: SocketAddr) {
    for run in 1..=RUNS {
        let port = to.port().to_string();
        let args = ["--strict", "--host", "127.0.0.1", "--port", &port, "--timeout", "5"];
        let said = finish(pair.place.command(h2spec, &args), RUN_MAX).await;
        let passed = said.stdout.contains("146 tests, 146 passed, 0 skipped, 0 failed");
        let failures = said.stdout.find("Failures:").unwrap_or_default();
        assert!(passed, "run {run}: {}\n{}", &said.stdout[failures..], said.stderr);
    }
}

/// Passes bytes between plain connections and mutual TLS to an inbound listener.
struct Relay {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Relay {
    async fn start(to: SocketAddr, config: Arc<ClientConfig>) -> Self {
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
    let files = pair.certificates.issue("h2spec", &spiffe_id("caller"));
    let read = |at: usize| fs::read(&files[at]).expect("it was issued");
    let svid = Svid::from_pem(&read(1), &read(3), provider()).expect("an SVID");
    let bundle = TrustBundle::from_pem(svid.id().trust_domain(), &read(5)).expect("a bundle");
    let echo: SpiffeId = spiffe_id("echo").parse().expect("an identity");
    Identity::new(svid, bundle).expect("one trust domain").client_config(&echo)
}

#[tokio::test]
async fn the_outbound_listener_passes_every_case() {
    let _turn = heavy().await;
    let Some(h2spec) = peer("bin/h2spec") else { return };
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    conforms(&pair, &h2spec, pair.client.upstream("echo:9090")).await;
}

#[tokio::test]
async fn the_inbound_listener_passes_every_case() {
    let _turn = heavy().await;
    let Some(h2spec) = peer("bin/h2spec") else { return };
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let relay = Relay::start(pair.server.address("inbound"), client_config(&pair)).await;
    conforms(&pair, &h2spec, relay.address).await;
}
