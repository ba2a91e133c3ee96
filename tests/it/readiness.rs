//! An application that stops, hangs or comes back beside its sidecar: callers go elsewhere, and know
//! it from the sidecar's own checks.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    calls::text,
    harness::{App, Mesh, Program, SOON, echo_client, eventually, get},
};

/// Who answered one call, or the reason why nobody did.
async fn who(outbound: SocketAddr) -> Result<String, String> {
    let mut client = echo_client(outbound, "echo:9090");
    match client.unary("hello".to_owned()).await {
        Ok(response) => Ok(text(response.metadata(), "echo-instance").to_owned()),
        Err(status) => Err(text(status.metadata(), "outrigger-reason").to_owned()),
    }
}

async fn status(mesh: &Mesh) -> Value {
    mesh.place.run(&["status", "-o", "json"]).await.json()
}

/// Waits until so many of the echoes' workloads are ready, as the control plane and the caller see
/// it.
async fn ready(mesh: &Mesh, caller: &Program, count: usize) {
    eventually(SOON, async || {
        let status = status(mesh).await;
        let services = status["services"].as_array().expect("services");
        let echo = services.iter().find(|it| it["name"] == "echo").expect("registered");
        let endpoints = get(caller.address("admin"), "/endpoints").await?;
        let seen = endpoints.matches("\"state\": \"ready\"").count();
        if echo["ready"] == count && seen == count {
            Ok(())
        } else {
            Err(format!("{echo} {endpoints}"))
        }
    })
    .await;
}

async fn server(mesh: &Mesh, name: &str, app: SocketAddr) -> Program {
    let app = format!("9090={app}");
    mesh.sidecar(name, "echo", &["--app", &app, "--app-check-interval", "400ms"]).await
}

#[tokio::test]
async fn callers_go_elsewhere_while_an_application_is_away_and_come_back() {
    let (one, two) = (App::start("one").await, App::start("two").await);
    let (first, second) = (one.address, two.address);
    let mesh = Mesh::start().await;
    let sidecar = server(&mesh, "echo-1", first).await;
    let _other = server(&mesh, "echo-2", second).await;
    let caller = mesh.sidecar("caller", "caller", &[]).await;
    let outbound = caller.address("outbound");
    who(outbound).await.expect("answered");
    ready(&mesh, &caller, 2).await;

    drop(one);
    ready(&mesh, &caller, 1).await;
    for _ in 0..100 {
        assert_eq!(who(outbound).await.as_deref(), Ok("two"));
    }
    // The sidecar itself serves on, and says what is wrong.
    assert!(get(sidecar.address("health"), "/ready").await.is_ok());
    let shown = status(&mesh).await;
    let refused = format!("{first}: connection refused");
    let sidecars = shown["sidecars"].as_array().expect("sidecars");
    let waiting = sidecars.iter().find(|it| it["phase"] == "not ready").expect("one");
    assert_eq!(waiting["application"], refused);
    let said = mesh.place.run(&["describe", "service", "echo"]).await;
    assert!(said.assert_done().stdout.contains(&refused), "{said:?}");

    let _one = App::start_at("one", first).await;
    ready(&mesh, &caller, 2).await;
    eventually(SOON, async || match who(outbound).await.as_deref() {
        Ok("one") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[tokio::test]
async fn when_all_fail_their_checks_calls_are_tried_all_the_same() {
    let (app, health) = (App::start("one").await, App::start("health").await);
    let apps = format!("9090={},8081={}", app.address, health.address);
    let mesh = Mesh::start().await;
    // It is the second port that says whether it is well.
    let flags = ["--app", &apps, "--app-check", "9090=none,8081=tcp"];
    let flags = [&flags[..], &["--app-check-interval", "400ms"]].concat();
    let _sidecar = mesh.sidecar("echo-1", "echo", &flags).await;
    let caller = mesh.sidecar("caller", "caller", &[]).await;
    let outbound = caller.address("outbound");
    assert_eq!(who(outbound).await.as_deref(), Ok("one"));
    drop(health);
    ready(&mesh, &caller, 0).await;
    for _ in 0..20 {
        assert_eq!(who(outbound).await.as_deref(), Ok("one"));
    }
}
