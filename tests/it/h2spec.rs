//! h2spec against both listeners of the data plane: every case, in its strict mode, three times in a
//! row. It speaks no mutual TLS, so that for the inbound listener a byte relay adds the client's certificate,
//! SNI and ALPN.

use std::{net::SocketAddr, time::Duration};

use crate::harness::{App, Relay, StaticPair, finish, heavy, peer};

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

#[tokio::test]
async fn the_outbound_listener_passes_every_case() {
    let _turn = heavy().await;
    let Some(h2spec) = peer("bin/h2spec") else { return };
    let app = App::start("one").await;
    // What does not say what it speaks may be no HTTP, and is then carried as it is.
    let pair = StaticPair::start_speaking(app.address, Some("grpc")).await;
    let Some(pair) = pair else { return };
    conforms(&pair, &h2spec, pair.client.upstream("echo:9090")).await;
}

#[tokio::test]
async fn the_inbound_listener_passes_every_case() {
    let _turn = heavy().await;
    let Some(h2spec) = peer("bin/h2spec") else { return };
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let relay = Relay::start(&pair).await;
    conforms(&pair, &h2spec, relay.address).await;
}
