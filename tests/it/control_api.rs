//! The control plane's API as other programs meet it: grpcurl, with the very line that the control
//! plane printed.

use std::time::Duration;

use crate::harness::{Mesh, finish, peer};

const GRPCURL_MAX: Duration = Duration::from_secs(30);

#[tokio::test]
async fn grpcurl_lists_describes_and_calls_with_the_printed_line() {
    let Some(grpcurl) = peer("bin/grpcurl") else { return };
    let mesh = Mesh::start().await;
    let log = mesh.control.log();
    let line = log.lines().find_map(|line| Some(line[line.find("grpcurl -")?..].trim().to_owned()));
    let line = line.unwrap_or_else(|| panic!("no line with grpcurl in {log}"));
    let call = async |line: String| {
        // As a person who pastes it: by the shell, with grpcurl in PATH.
        let path = std::env::var("PATH").unwrap_or_default();
        let directory = grpcurl.trim_end_matches("/grpcurl");
        let mut command = mesh.place.command("/bin/sh", &["-c", &line]);
        command.env("PATH", format!("{directory}:{path}"));
        finish(command, GRPCURL_MAX).await.assert_done().stdout.clone()
    };
    let said = call(line.clone()).await;
    assert!(!said.is_empty(), "{line}");

    // The same line with other ends: everything up to the address stays.
    let address = mesh.control.address("listen").to_string();
    let (before, _) = line.split_once(&address).unwrap_or_else(|| panic!("{address}: {line}"));
    let said = call(format!("{before}{address} list")).await;
    for service in ["Config", "Discovery", "Identity", "Admin"] {
        assert!(said.contains(&format!("outrigger.v1.{service}Service")), "{said}");
    }
    assert!(said.contains("grpc.health.v1.Health"), "{said}");
    let said = call(format!("{before}{address} describe outrigger.v1.ConfigService.Apply")).await;
    assert!(said.contains("rpc Apply ( .outrigger.v1.ApplyRequest )"), "{said}");
    let said = call(format!("{before}{address} outrigger.v1.ConfigService/Status")).await;
    assert!(said.contains("startedAt"), "{said}");

    let data = r#"{"resources": [{"metadata": {"name": "orders", "namespace": "shop"}, "service":
        {"ports": [{"name": "grpc", "port": 9090, "appProtocol": "grpc"}]}}]}"#;
    let (flags, _) = before.split_at("grpcurl".len());
    let apply = format!(
        "{flags} -d '{data}' {} {address} outrigger.v1.ConfigService/Apply",
        before["grpcurl".len()..].trim()
    );
    let said = call(apply).await;
    assert!(said.contains("CHANGE_KIND_CREATED"), "{said}");
    let got = mesh.place.run(&["get", "service", "orders", "-n", "shop", "-o", "json"]).await;
    assert_eq!(got.assert_done().json()["metadata"]["name"], "orders", "{got:?}");
}

#[tokio::test]
async fn a_stranger_gets_nothing() {
    let Some(grpcurl) = peer("bin/grpcurl") else { return };
    let mesh = Mesh::start().await;
    let address = mesh.control.address("listen").to_string();
    let list = ["-insecure", "-max-time", "5", &address, "outrigger.v1.ConfigService/Status"];
    let said = finish(mesh.place.command(grpcurl, &list), GRPCURL_MAX).await;
    assert_ne!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("Unauthenticated"), "{said:?}");
}
