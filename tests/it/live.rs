//! A live mesh: a control plane, and sidecars that join it by token.

use std::time::Duration;

use tonic::Code;

use crate::{
    calls::{bare_call, check_all_kinds, text, with},
    harness::{App, Mesh, Program, SOON, echo_client, eventually, get, spiffe_id},
};

/// Calls that were answered, with who answered.
async fn who(outbound: std::net::SocketAddr) -> Result<String, String> {
    let mut client = echo_client(outbound, "echo:9090");
    let response =
        client.unary("hello".to_owned()).await.map_err(|status| format!("{status:?}"))?;
    Ok(text(response.metadata(), "echo-instance").to_owned())
}

#[tokio::test]
async fn a_service_is_reachable_by_name_as_soon_as_it_joined() {
    let app = App::start("one").await;
    let mesh = Mesh::start().await;
    let _server = mesh.server("echo-1", "echo", app.address).await;
    let client = mesh.sidecar("caller", "caller", &["--upstream", "echo:9090=127.0.0.1:0"]).await;
    let caller = spiffe_id("caller");
    check_all_kinds(client.address("outbound"), "echo:9090", &caller).await;
    check_all_kinds(client.upstream("echo:9090"), "anything", &caller).await;
    let unknown = echo_client(client.address("outbound"), "nobody.default.mesh:9090")
        .unary(String::new())
        .await
        .expect_err("there is no such service");
    assert_eq!(unknown.code(), Code::Unavailable, "{unknown:?}");
    assert_eq!(text(unknown.metadata(), "outrigger-reason"), "unknown_service");
}

#[tokio::test]
async fn a_route_splits_and_a_change_reaches_everyone() {
    let (one, two) = (App::start("one").await, App::start("two").await);
    let mesh = Mesh::start().await;
    let _one = mesh.server("one", "echo", one.address).await;
    let _two = mesh.server("two", "echo-two", two.address).await;
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let outbound = client.address("outbound");
    assert_eq!(who(outbound).await.as_deref(), Ok("one"));
    for (backend, expected) in [("echo-two", "two"), ("echo", "one")] {
        mesh.apply(&route_to(backend)).await;
        // `--wait` returned, so it runs.
        for _ in 0..5 {
            assert_eq!(who(outbound).await.as_deref(), Ok(expected), "{backend}");
        }
    }
}

/// All calls to `echo` go to the backend.
fn route_to(backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: echo}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: outrigger.dev, name: echo}}]\n  \
         rules: [{{backendRefs: [{{name: {backend}, port: 9090}}]}}]\n"
    )
}

#[tokio::test]
async fn deadlines_travel_and_are_kept() {
    let app = App::start("one").await;
    let mesh = Mesh::start().await;
    let _server = mesh.server("echo-1", "echo", app.address).await;
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let mut echo = echo_client(client.address("outbound"), "echo:9090");
    let mut request = with("hello".to_owned(), &[]);
    request.set_timeout(Duration::from_secs(10));
    let response = echo.unary(request).await.expect("in time");
    let left = text(response.metadata(), "echoed-grpc-timeout");
    assert!(!left.is_empty(), "the application is told what is left");
    // A client without a clock of its own: the mesh has to end it.
    let fields = [("echo-delay", "20000"), ("grpc-timeout", "300m")];
    let answer = bare_call(client.address("outbound"), "echo:9090", &fields).await;
    let field = |name: &str| answer.get(name).and_then(|value| value.to_str().ok());
    assert_eq!(field("grpc-status"), Some("4"), "{answer:?}");
    assert_eq!(field("outrigger-reason"), Some("deadline"), "{answer:?}");
}

#[tokio::test]
async fn everything_serves_on_without_the_control_plane_and_restarts_from_disk() {
    let app = App::start("one").await;
    let mut mesh = Mesh::start().await;
    let server_args = mesh.sidecar_args("echo", &["--app", &format!("9090={}", app.address)]).await;
    let with_data = |args: &[String], name: &str| {
        let data = mesh.place.path(format!("data/{name}")).display().to_string();
        [args, &["--data".into(), data]].concat()
    };
    let server_args = with_data(&server_args, "echo");
    let client_args = with_data(&mesh.sidecar_args("caller", &[]).await, "caller");
    let mut server = Program::start(&mesh.place, "echo", &server_args).await;
    let mut client = Program::start(&mesh.place, "caller", &client_args).await;
    assert_eq!(who(client.address("outbound")).await.as_deref(), Ok("one"));

    mesh.control.kill();
    assert_eq!(who(client.address("outbound")).await.as_deref(), Ok("one"), "from memory");
    client.kill();
    let client_again = Program::start(&mesh.place, "caller", &client_args).await;
    let outbound = client_again.address("outbound");
    assert_eq!(who(outbound).await.as_deref(), Ok("one"), "from disk");
    // The server's own port is what the caller's last good configuration names.
    let inbound = server.address("inbound").to_string();
    server.kill();
    let mut server_args = server_args;
    let at = server_args.iter().position(|flag| flag == "--inbound").expect("given");
    server_args[at + 1] = inbound;
    let server_again = Program::start(&mesh.place, "echo", &server_args).await;
    eventually(SOON, async || who(outbound).await).await;

    mesh.restart_control().await;
    for sidecar in [&client_again, &server_again] {
        eventually(SOON, async || {
            let page = get(sidecar.address("admin"), "/metrics").await?;
            let connected = page.lines().any(|line| line == "outrigger_control_connected 1");
            if connected { Ok(()) } else { Err("not connected again".to_owned()) }
        })
        .await;
    }
    assert_eq!(who(outbound).await.as_deref(), Ok("one"), "and after it came back");
}
