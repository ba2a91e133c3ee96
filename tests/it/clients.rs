//! Clients of other languages reach the mesh by the environment that `run` sets for them, without a
//! word about a proxy in their code.

use std::time::Duration;

use crate::harness::{App, Mesh, Program, finish, heavy, interpreter, peer, root};

/// A sidecar joins, an interpreter starts, five calls are made.
const CLIENT_MAX: Duration = Duration::from_secs(60);

/// A mesh with `echo` in it.
struct Echo {
    mesh: Mesh,
    _sidecar: Program,
    _app: App,
}

impl Echo {
    async fn start() -> Self {
        let app = App::start("one").await;
        let mesh = Mesh::start().await;
        let sidecar = mesh.server("echo", "echo", app.address).await;
        Self { mesh, _sidecar: sidecar, _app: app }
    }

    /// Runs a command beside a sidecar of its own and returns what it printed.
    async fn run(&self, command: &[&str], environment: &[(&str, &str)]) -> String {
        let mut args = vec!["run", "caller", "--"];
        args.extend(command);
        let mut command = self.mesh.place.command(env!("CARGO_BIN_EXE_outrigger"), &args);
        command.envs(environment.iter().copied());
        let said = finish(command, CLIENT_MAX).await;
        said.assert_done().stdout.clone()
    }
}

/// The path of a file of `tests/interop`.
fn interop(name: &str) -> String {
    root().join("tests/interop").join(name).display().to_string()
}

#[tokio::test]
async fn grpcio_needs_nothing_but_its_environment() {
    let Some(python) = interpreter("python3") else { return };
    let Some(packages) = peer("python") else { return };
    let _turn = heavy().await;
    let echo = Echo::start().await;
    let program = interop("python/client.py");
    let said = echo.run(&[&python, &program], &[("PYTHONPATH", &packages)]).await;
    assert!(said.contains("ok grpcio "), "{said}");
}

#[tokio::test]
async fn grpc_js_needs_nothing_but_its_environment() {
    let Some(node) = interpreter("node") else { return };
    let Some(packages) = peer("node/node_modules") else { return };
    let _turn = heavy().await;
    let echo = Echo::start().await;
    let program = interop("node/client.js");
    let said = echo.run(&[&node, &program], &[("NODE_PATH", &packages)]).await;
    assert!(said.contains("ok grpc-js "), "{said}");
}

#[tokio::test]
async fn grpc_go_needs_nothing_but_its_environment() {
    let Some(program) = peer("bin/go-client") else { return };
    let _turn = heavy().await;
    let said = Echo::start().await.run(&[&program], &[]).await;
    assert!(said.contains("ok grpc-go "), "{said}");
}

#[tokio::test]
async fn curl_needs_nothing_but_its_environment() {
    let Some(curl) = interpreter("curl") else { return };
    let _turn = heavy().await;
    let echo = Echo::start().await;
    let said = echo.run(&[&curl, "-sS", "--fail", "http://echo:9090/buy?x=1"], &[]).await;
    let told: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&told["instance"], &told["path"]), (&"one".into(), &"/buy?x=1".into()), "{told}");
    let peer = told["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
    assert!(peer.contains("URI=spiffe://mesh.local/ns/default/svc/caller"), "{told}");
}
