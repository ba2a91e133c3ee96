//! `run` from the command's side: what it finds in its environment, where it stands among the
//! processes, and that it is started again without anybody's help.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::harness::{App, Mesh, Program, SOON, descendants, eventually};

/// The command's environment, told by itself.
fn environment(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[tokio::test]
async fn the_command_finds_the_mesh_in_its_environment() {
    let mesh = Mesh::start().await;
    let upstreams = ["--upstream", "catalog:9090,price-list.shop:80"];
    let run = [&["run", "web", "--app", ":0"], &upstreams[..], &["--", "env"]].concat();
    let said = mesh.place.run(&run).await;
    let found = environment(&said.assert_done().stdout);
    let outbound = found["OUTRIGGER_OUTBOUND_ADDRESS"];
    for name in ["http_proxy", "https_proxy", "grpc_proxy", "HTTPS_PROXY"] {
        assert_eq!(found.get(name), Some(&&*format!("http://{outbound}")), "{name}");
    }
    for name in ["OUTRIGGER_UPSTREAM_CATALOG", "OUTRIGGER_UPSTREAM_PRICE_LIST_SHOP"] {
        assert!(found[name].starts_with("127.0.0.1:"), "{name}={}", found[name]);
    }
    assert_eq!(found["OUTRIGGER_APP_ADDRESS"], format!("127.0.0.1:{}", found["PORT"]));
    assert!(found["no_proxy"].contains("localhost") && !found.contains_key("HTTP_PROXY"));
    assert!(!found.contains_key("NOTIFY_SOCKET"));

    let run = ["run", "web", "--env", "none", "--app", ":7777", "--", "env"];
    let said = mesh.place.run(&run).await;
    let found = environment(&said.assert_done().stdout);
    assert!(found.contains_key("OUTRIGGER_OUTBOUND_ADDRESS"), "{found:?}");
    for name in ["http_proxy", "HTTPS_PROXY", "JAVA_TOOL_OPTIONS", "PORT"] {
        assert!(!found.contains_key(name), "{name} in {found:?}");
    }
}

#[tokio::test]
async fn its_own_log_can_go_to_a_file() {
    let mesh = Mesh::start().await;
    let log = mesh.place.path("sidecar.log");
    let path = log.display().to_string();
    let run = ["run", "web", "--log-file", &path, "--", "sh", "-c", "echo out; echo err >&2"];
    let said = mesh.place.run(&run).await;
    said.assert_done();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("out\n", "err\n"));
    assert!(std::fs::read_to_string(log).unwrap().contains("joined"));
}

#[tokio::test]
async fn a_killed_run_takes_its_command_along() {
    let mesh = Mesh::start().await;
    let args = ["run", "job", "--", "sleep", "600"].map(str::to_owned);
    let mut run = Program::start(&mesh.place, "job", &args).await;
    let below = descendants(run.pid());
    assert_eq!(below.len(), 1, "the command itself, and no shell between");
    run.kill();
    eventually(SOON, async || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", below[0]));
        // Whoever inherits it may be slow to wait for it.
        match stat.as_deref().ok().filter(|stat| !stat.contains(") Z ")) {
            None => Ok(()),
            Some(stat) => Err(format!("it lives: {stat}")),
        }
    })
    .await;
}

#[tokio::test]
async fn it_joins_once_and_serves_on_without_a_control_plane() {
    let mut mesh = Mesh::start().await;
    let app = App::start("orders").await;
    let port = format!("9090={}", app.address);
    let data = mesh.place.path("data/orders").display().to_string();
    let args = ["run", "orders", "--app", &port, "--data", &data, "--", "sleep", "600"];
    let args = args.map(str::to_owned);
    let mut first = Program::start(&mesh.place, "orders", &args).await;
    assert_eq!(first.stop(SOON).await.code(), Some(128 + Signal::TERM.as_raw()));
    let tokens = mesh.place.run(&["token", "list", "-o", "json"]).await;
    assert_eq!(tokens.json()["tokens"].as_array().map(Vec::len), Some(1));

    // What it needs is on disk.
    mesh.control.kill();
    let second = Program::start(&mesh.place, "orders", &args).await;
    let ready = crate::harness::get(second.address("health"), "/ready").await;
    assert!(ready.is_ok(), "{ready:?}");
    drop(second);
    mesh.restart_control().await;
    let _third = Program::start(&mesh.place, "orders", &args).await;
    let tokens = mesh.place.run(&["token", "list", "-o", "json"]).await;
    assert_eq!(tokens.json()["tokens"].as_array().map(Vec::len), Some(1), "it needs no other");
}
