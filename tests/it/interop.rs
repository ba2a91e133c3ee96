//! gRPC's own interoperability cases, with the client and server of grpc-go: everything that another
//! implementation may do within the four kinds of call has to survive two sidecars.

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpStream;

use crate::harness::{
    Mesh, Place, Program, SOON, StaticPair, eventually, finish, free_port, heavy, peer,
};

/// All that need no credentials and no client-side policy.
const CASES: [&str; 16] = [
    // First: its end comes while the connections to the application are opened.
    "empty_stream",
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

/// One case, with its soak of ten calls and everything else, takes a second or two.
const CASE_MAX: Duration = Duration::from_secs(60);

/// Starts the interop server; it can not take a port of the system's choice.
async fn server(place: &Place) -> Option<(Program, SocketAddr)> {
    let program = peer("bin/interop-server")?;
    let address = free_port();
    let args = [format!("--port={}", address.port())];
    let server = Program::other(place, "interop-server", &program, &args);
    eventually(SOON, async || TcpStream::connect(address).await.map(drop)).await;
    Some((server, address))
}

/// Runs all cases against `to` and returns those that failed, with what they said.
async fn failures(place: &Place, client: &str, to: SocketAddr) -> Vec<String> {
    let mut failed = Vec::new();
    for case in CASES {
        let args = [
            "--server_host".to_owned(),
            to.ip().to_string(),
            "--server_port".to_owned(),
            to.port().to_string(),
            "--test_case".to_owned(),
            case.to_owned(),
            // The soak cases also measure; what is asked here is whether they pass.
            "--soak_per_iteration_max_acceptable_latency_ms=10000".to_owned(),
            "--soak_overall_timeout_seconds=60".to_owned(),
        ];
        let said = finish(place.command(client, &args), CASE_MAX).await;
        if said.code != Some(0) {
            failed.push(format!("{case}: {:?}\n{}{}", said.code, said.stdout, said.stderr));
        }
    }
    failed
}

#[tokio::test]
async fn all_interop_cases_pass_through_two_static_sidecars() {
    let _turn = heavy().await;
    let place = Place::new();
    let Some(client) = peer("bin/interop-client") else { return };
    let Some((_server, app)) = server(&place).await else { return };
    let Some(pair) = StaticPair::start(app).await else { return };
    let failed = failures(&place, &client, pair.client.upstream("echo:9090")).await;
    assert!(failed.is_empty(), "{} of 16 failed: {failed:#?}", failed.len());
}

#[tokio::test]
async fn all_interop_cases_pass_through_a_live_mesh() {
    let _turn = heavy().await;
    let mesh = Mesh::start().await;
    let Some(client) = peer("bin/interop-client") else { return };
    let Some((_server, app)) = server(&mesh.place).await else { return };
    let _sidecar = mesh.server("interop", "interop", app).await;
    let caller =
        mesh.sidecar("caller", "caller", &["--upstream", "interop:9090=127.0.0.1:0"]).await;
    let failed = failures(&mesh.place, &client, caller.upstream("interop:9090")).await;
    assert!(failed.is_empty(), "{} of 16 failed: {failed:#?}", failed.len());
}

#[tokio::test]
async fn all_interop_cases_pass_by_the_environment_that_run_sets() {
    let _turn = heavy().await;
    let mesh = Mesh::start().await;
    let Some(client) = peer("bin/interop-client") else { return };
    let Some((_server, app)) = server(&mesh.place).await else { return };
    let _sidecar = mesh.server("interop", "interop", app).await;
    let script = "for case in \"$@\"; do \
        \"$0\" --server_host=interop --server_port=9090 --test_case=$case \
        --soak_per_iteration_max_acceptable_latency_ms=10000 --soak_overall_timeout_seconds=60 \
        || exit 1; done";
    let mut args = vec!["run", "caller", "--", "sh", "-c", script, client.as_str()];
    args.extend(CASES);
    mesh.place.run(&args).await.assert_done();
}
