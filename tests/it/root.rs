//! The mesh's root is exchanged under a steady load, by one command, while the control plane is killed
//! and started again in the middle: no call fails, and nothing of the old root is left.

use std::{fs, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    calls::with,
    change::Load,
    harness::{
        App, Certificates, Mesh, Program, SOON, echo_client, eventually, get, heavy, metrics,
    },
};

/// The SHA-256 of the roots that a sidecar trusts, and its certificate.
async fn certificates(sidecar: &Program) -> Result<(Vec<String>, Value), String> {
    let page = get(sidecar.address("admin"), "/certificates").await?;
    let page: Value = serde_json::from_str(&page).map_err(|error| error.to_string())?;
    let roots = page["roots"].as_array().into_iter().flatten();
    let roots = roots.filter_map(|root| Some(root["sha256"].as_str()?.to_owned())).collect();
    Ok((roots, page["sha256"].clone()))
}

async fn authority(mesh: &Mesh) -> Value {
    mesh.place.run(&["ca", "status", "-o", "json"]).await.assert_done().json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_exchanged_under_load_and_no_call_fails() {
    let _turn = heavy().await;
    let mut mesh = Mesh::start().await;
    let app = App::start("one").await;
    let servers = [
        mesh.server("echo-1", "echo", app.address).await,
        mesh.server("echo-2", "echo", app.address).await,
    ];
    let client = mesh.sidecar("caller", "caller", &[]).await;
    // A context on another machine: it has a copy of the root as it is now.
    let copy = mesh.place.path("copy.pem");
    fs::copy(mesh.place.path("state/outrigger/control-plane/root.pem"), &copy).expect("copied");
    let old_token = mesh.token("late").await;
    let before = certificates(&client).await.expect("told");
    let start = Instant::now();
    let load = Load::start(client.address("outbound"));
    load.go_on(300).await;

    mesh.place.run(&["ca", "rotate", "--no-wait"]).await.assert_done();
    // In whichever phase it is by then.
    mesh.restart_control().await;
    let rotated = mesh.place.run(&["ca", "rotate", "--timeout", "50s"]).await;
    rotated.assert_done();
    assert!(
        rotated.stderr.contains("3/3 ") && rotated.stderr.contains("done in "),
        "{}",
        rotated.stderr
    );
    load.go_on(500).await;
    let (made, failures) = load.stop().await;
    let told: Vec<_> = failures.iter().map(|call| call.tell(start)).collect();
    assert!(told.is_empty(), "of {made} calls failed:\n{}", told.join("\n"));
    let now = authority(&mesh).await;
    let new_root = now["roots"][0]["sha256"].as_str().expect("a root").to_owned();
    assert!(now["rotation"].is_null() && now["roots"].as_array().is_some_and(|it| it.len() == 1));
    for sidecar in servers.iter().chain([&client]) {
        let (roots, _) = certificates(sidecar).await.expect("told");
        assert_eq!(roots, [new_root.as_str()]);
    }
    assert_ne!(certificates(&client).await.expect("told"), before);

    // The token of before and the context of before still lead here.
    let data = mesh.place.path("data/late").display().to_string();
    let mut args = mesh.sidecar_args("late", &["--data", &data]).await;
    let at = args.iter().position(|flag| flag == "--token-file").expect("given");
    args[at + 1] = old_token;
    let late = Program::start(&mesh.place, "late", &args).await;
    assert_eq!(certificates(&late).await.expect("told").0, [new_root.as_str()]);
    check_context_of_before(&mesh, &copy).await;

    // A restart of everything finds the new root on disk.
    mesh.restart_control().await;
    eventually(SOON, async || {
        let status = mesh.place.run(&["status", "-o", "json"]).await;
        let sidecars = status.json()["sidecars"].as_array().map_or(0, Vec::len);
        if sidecars == 4 { Ok(()) } else { Err(format!("{sidecars} sidecars are back")) }
    })
    .await;
    assert_eq!(authority(&mesh).await["roots"][0]["sha256"], new_root.as_str());
}

/// A context that knows the root as it was still leads to the control plane.
async fn check_context_of_before(mesh: &Mesh, copy: &Path) {
    let data = mesh.place.path("state/outrigger/control-plane");
    let file = |name: &str| data.join(name).display().to_string();
    let server = mesh.control.address("listen").to_string();
    let (copy, certificate, key) =
        (copy.display().to_string(), file("admin.pem"), file("admin-key.pem"));
    let add = [
        "context",
        "add",
        "far",
        "--server",
        &server,
        "--cacert",
        &copy,
        "--cert",
        &certificate,
        "--key",
        &key,
    ];
    mesh.place.run(&add).await.assert_done();
    mesh.place.run(&["status", "--context", "far"]).await.assert_done();
}

#[tokio::test]
async fn an_exchange_that_is_taken_back_leaves_the_root() {
    let mesh = Mesh::start().await;
    let app = App::start("one").await;
    let server = mesh.server("echo-1", "echo", app.address).await;
    let before = authority(&mesh).await["roots"][0]["sha256"].clone();
    mesh.place.run(&["ca", "rotate", "--no-wait"]).await.assert_done();
    let said = mesh.place.run(&["ca", "abort"]).await;
    // It may have gone so far by now that it leads back in order.
    said.assert_done();
    mesh.place.run(&["ca", "rotate", "--timeout", "50s"]).await;
    eventually(Duration::from_secs(60), async || {
        let now = authority(&mesh).await;
        if now["rotation"].is_null() { Ok(()) } else { Err(now["rotation"].to_string()) }
    })
    .await;
    let _still_there = certificates(&server).await.expect("told");
    let again = mesh.place.run(&["ca", "abort"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("no exchange of a root is under way"), "{}", again.stderr);
    assert!(before.is_string());
}

/// The exchange of the root for one that openssl made, over the API as a program on another machine
/// would ask for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_of_ones_own_takes_over_under_load_and_no_call_fails() {
    let _turn = heavy().await;
    let mesh = Mesh::start().await;
    let Some(own) = Certificates::called(&mesh.place, "own") else { return };
    let other = Certificates::called(&mesh.place, "other").expect("there is openssl");
    let app = App::start("one").await;
    let server = mesh.server("echo-1", "echo", app.address).await;
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let before = authority(&mesh).await;
    let rotate = async |certificate: &str, key: &str| {
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let flags = ["ca", "rotate", "--timeout", "50s", "--root-cert", &certificate];
        mesh.place.run(&[&flags[..], &["--root-key", &key]].concat()).await
    };
    // A certificate and the key of another one change nothing.
    let refused = rotate(&own.file("ca.pem"), &other.file("ca-key.pem")).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(authority(&mesh).await["roots"], before["roots"]);

    let start = Instant::now();
    let load = Load::start(client.address("outbound"));
    load.go_on(300).await;
    rotate(&own.file("ca.pem"), &own.file("ca-key.pem")).await.assert_done();
    load.go_on(300).await;
    let (made, failures) = load.stop().await;
    let told: Vec<_> = failures.iter().map(|call| call.tell(start)).collect();
    assert!(told.is_empty(), "of {made} calls failed:\n{}", told.join("\n"));

    let now = authority(&mesh).await;
    let pem = |text: &str| text.split_whitespace().collect::<String>();
    let file = fs::read_to_string(own.file("ca.pem")).expect("made");
    assert_eq!(pem(now["roots"][0]["pem"].as_str().expect("PEM")), pem(&file));
    assert_eq!(now["roots"].as_array().map(Vec::len), Some(1));
    for sidecar in [&server, &client] {
        let (roots, _) = certificates(sidecar).await.expect("told");
        assert_eq!(roots, [now["roots"][0]["sha256"].as_str().expect("a hash")]);
    }
    // Who joins from now on is of it too.
    let late = mesh.server("echo-2", "echo", app.address).await;
    assert_eq!(certificates(&late).await.expect("told").0.len(), 1);
}

/// Certificates that last a minute in life last moments here: every connection ends with one, and is
/// followed by another before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_last_moments_are_renewed_under_load_and_no_call_fails() {
    const RENEWALS: f64 = 3.0;
    let _turn = heavy().await;
    let mesh = Mesh::start_with(&["--leaf-ttl", "12s"]).await;
    let app = App::start("one").await;
    let at = format!("9090={}", app.address);
    // Of the server only: an application that does not try again what came after a GOAWAY would see it.
    let flags = ["--app", &at, "--connection-age-max", "2s"];
    let server = mesh.sidecar("echo-1", "echo", &flags).await;
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let start = Instant::now();
    let load = Load::start(client.address("outbound"));
    eventually(Duration::from_secs(120), async || {
        for sidecar in [&server, &client] {
            let page = metrics(sidecar.address("metrics")).await;
            let done = page.sum("outrigger_certificate_renewals_total", &[("result", "success")]);
            if done < RENEWALS {
                return Err(format!("{done} renewals"));
            }
        }
        Ok(())
    })
    .await;
    let (made, failures) = load.stop().await;
    let told: Vec<_> = failures.iter().map(|call| call.tell(start)).collect();
    assert!(told.is_empty(), "of {made} calls failed:\n{}", told.join("\n"));
    // A connection that lasts as long as its certificate would be one or two by now.
    let page = metrics(client.address("metrics")).await;
    let opened = page.sum("outrigger_connections_opened_total", &[("direction", "outbound")]);
    assert!(opened >= 4.0, "{opened} connections to the server");
}

/// Who was away while its certificate ended and its root was dropped has nothing left by which to
/// renew: it joins again by its token, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_sidecar_that_lost_its_identity_joins_again_by_its_token() {
    let _turn = heavy().await;
    let mesh = Mesh::start_with(&["--leaf-ttl", "6s"]).await;
    let app = App::start("one").await;
    let many = mesh.place.run(&["token", "create", "--service", "echo", "--uses", "0"]).await;
    let token = mesh.place.write("many.token", many.assert_done().stdout.trim());
    let at = format!("9090={}", app.address);
    let mut args = mesh.sidecar_args("echo", &["--app", &at]).await;
    let place = args.iter().position(|flag| flag == "--token-file").expect("given");
    args[place + 1] = token.display().to_string();
    args.extend(["--data".into(), mesh.place.path("data/echo-1").display().to_string()]);
    let server = Program::start(&mesh.place, "echo-1", &args).await;
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let (_, before) = certificates(&server).await.expect("told");

    server.signal(Signal::STOP);
    mesh.place.run(&["ca", "rotate", "--timeout", "1s", "--force"]).await.assert_done();
    let now = authority(&mesh).await;
    let stopped = Instant::now();
    eventually(SOON, async || {
        let ended = stopped.elapsed() > Duration::from_secs(7);
        if ended { Ok(()) } else { Err("its certificate has not ended") }
    })
    .await;
    server.signal(Signal::CONT);
    eventually(Duration::from_secs(60), async || {
        let (roots, own) = certificates(&server).await?;
        let new = roots == [now["roots"][0]["sha256"].as_str().unwrap_or_default()];
        if new && own != before { Ok(()) } else { Err(format!("it trusts {roots:?}")) }
    })
    .await;
    assert!(server.log().contains("joining anew"), "{}", server.log());
    eventually(SOON, async || {
        let mut caller = echo_client(client.address("outbound"), "echo:9090");
        caller.unary(with("hello".to_owned(), &[])).await.map_err(|status| status.to_string())
    })
    .await;
}
