//! The first ten minutes of a new user: a control plane, two services by `run`, a look at `status`,
//! and how `run` behaves as the command that it stands in front of.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{App, Mesh, Program, SOON, descendants, eventually};

/// `run` beside an application that already listens; the command only lives.
async fn beside(mesh: &Mesh, service: &str, app: &App) -> Program {
    let args = ["run", service, "--app", &format!("9090={}", app.address), "--", "sleep", "600"];
    Program::start(&mesh.place, service, &args.map(str::to_owned)).await
}

#[tokio::test]
async fn two_services_by_run_reach_each_other_and_show_in_status() {
    let (orders, web) = (App::start("orders").await, App::start("web").await);
    let mesh = Mesh::start().await;
    let _orders = beside(&mesh, "orders", &orders).await;
    let web = beside(&mesh, "web", &web).await;
    let mut client = crate::harness::echo_client(web.address("outbound"), "orders:9090");
    for _ in 0..20 {
        client.unary("buy".to_owned()).await.expect("answered");
    }
    let status = eventually(SOON, async || {
        let said = mesh.place.run(&["status", "-o", "json"]).await;
        let status = said.assert_done().json();
        let text = status.to_string();
        if text.contains("web") && text.contains("orders") && text.contains("\"traffic\":[{") {
            Ok(status)
        } else {
            Err(text)
        }
    })
    .await;
    let names: Vec<_> = status["services"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|service| service["name"].as_str().unwrap_or_default())
        .collect();
    assert!(names.contains(&"orders") && names.contains(&"web"), "{status}");
    let said = mesh.place.run(&["status"]).await;
    let text = &said.assert_done().stdout;
    assert!(text.contains("orders.default"), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.starts_with("control plane ")), "{text}");
}

#[tokio::test]
async fn run_ends_as_its_command_ends() {
    let mesh = Mesh::start().await;
    let directory = mesh.place.path("home").display().to_string();
    let cases: [(&[&str], i32); 5] = [
        (&["sh", "-c", "exit 0"], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["no-such-command"], 127),
        (&[&directory], 126),
    ];
    for (command, expected) in cases {
        let args = [&["run", "job", "--"], command].concat();
        let said = mesh.place.run(&args).await;
        assert_eq!(said.code, Some(expected), "{command:?}: {said:?}");
    }
    // Its own trouble: nowhere to join.
    let alone = crate::harness::Place::new();
    let said = alone.run(&["run", "job", "--", "true"]).await;
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(said.stderr.contains("control-plane"), "it says what to do: {said:?}");
}

#[tokio::test]
async fn run_passes_signals_on_and_leaves_nothing_behind() {
    let mesh = Mesh::start().await;
    let script = "trap 'echo told; exit 3' TERM; echo begun; while :; do sleep 0.1; done";
    let args = ["run", "job", "--", "sh", "-c", script].map(str::to_owned);
    let mut run = Program::start(&mesh.place, "job", &args).await;
    run.logs("begun").await;
    let below = descendants(run.pid());
    assert!(!below.is_empty(), "the command runs below it");
    run.signal(Signal::TERM);
    assert_eq!(run.end(Duration::from_secs(30)).await.code(), Some(3));
    assert!(run.log().contains("told"));
    eventually(SOON, async || {
        let left: Vec<_> =
            below.iter().filter(|id| std::fs::exists(format!("/proc/{id}")).unwrap()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} still run")) }
    })
    .await;
}
