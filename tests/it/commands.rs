//! The commands that are clients of the API, as users run them, against a control plane that serves
//! in this process.

use std::{net::SocketAddr, path::Path};

use outrigger::control::{ControlPlane, Options};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::harness::{Place, Said};

const MESH: &str = "\
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: inventory, namespace: shop, labels: {team: stock}}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: inventory, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: inventory}]
  retry:
    on: {grpc: [CANCELLED, UNAVAILABLE]}
";

/// A control plane and the `local` context for it.
struct Mesh {
    place: Place,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
}

impl Mesh {
    async fn start() -> Self {
        let place = Place::new();
        let options = Options::new(place.path("data"), "mesh.local");
        let plane = ControlPlane::open(options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let credential = plane.credential().clone();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let ended = plane.serve(listener, async { drop(stopped.await) }).await;
            ended.unwrap();
        });
        let text = |path: &Path| path.display().to_string();
        let (root, certificate, key) =
            (text(&credential.root), text(&credential.certificate), text(&credential.key));
        let server = address.to_string();
        place
            .run(&[
                "context",
                "add",
                "local",
                "--server",
                &server,
                "--cacert",
                &root,
                "--cert",
                &certificate,
                "--key",
                &key,
                "--namespace",
                "shop",
            ])
            .await
            .assert_done();
        Self { place, address, stop: Some(stop), serving }
    }

    async fn run(&self, args: &[&str]) -> Said {
        self.place.run(args).await
    }

    async fn stop(&mut self) {
        drop(self.stop.take());
        (&mut self.serving).await.unwrap();
    }
}

#[track_caller]
fn assert_said(said: &Said, code: i32, stdout: &str, stderr: &str) {
    let shown = (said.code, said.stdout.as_str(), said.stderr.as_str());
    assert_eq!(shown, (Some(code), stdout, stderr), "{}", said.what);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_can_be_read_changed_and_deleted() {
    let mesh = Mesh::start().await;
    let file = mesh.place.write("mesh.yaml", MESH);
    let file = file.to_str().unwrap();

    let said = mesh.run(&["apply", "-f", file, "--dry-run"]).await;
    assert!(said.stdout.contains("Service shop/inventory created (dry run)\n"), "{said:?}");
    assert!(said.stdout.ends_with("dry run: nothing was written; revision is 0\n"), "{said:?}");
    let created =
        "Service shop/inventory created\nTrafficPolicy shop/inventory created\nrevision 1\n";
    assert_said(&mesh.run(&["apply", "-f", file, "-m", "the first"]).await, 0, created, "");
    let unchanged = "Service shop/inventory unchanged\nTrafficPolicy shop/inventory unchanged\n\
                     nothing changed; revision is 1\n";
    assert_said(&mesh.run(&["apply", "-f", file]).await, 0, unchanged, "");

    // What get shows can be applied again, as YAML and as JSON.
    for (format, name) in [("yaml", "again.yaml"), ("json", "again.json")] {
        let said = mesh.run(&["get", "svc,tp", "-o", format]).await;
        said.assert_done();
        let again = mesh.place.write(name, &said.stdout);
        let said = mesh.run(&["apply", "-f", again.to_str().unwrap()]).await;
        assert!(said.stdout.ends_with("nothing changed; revision is 1\n"), "{said:?}");
    }
    let said = mesh.run(&["get", "services", "-l", "team=stock", "-o", "name"]).await;
    assert_said(&said, 0, "service/inventory\n", "");
    let said = mesh.run(&["list", "gr"]).await;
    assert_said(&said, 0, "", "no grpcroutes in namespace shop; -A looks in all\n");
    let said = mesh.run(&["get", "tp", "inventory", "-o", "json"]).await;
    assert_eq!(said.json()["spec"]["retry"]["on"]["grpc"][1], "UNAVAILABLE");
    let said = mesh.run(&["describe", "tp/inventory"]).await;
    assert!(said.stdout.starts_with("TrafficPolicy shop/inventory   made "), "{said:?}");
    assert!(said.stdout.contains("Accepted    True "), "{said:?}");

    let said =
        mesh.run(&["delete", "svc/inventory", "tp/inventory", "--expect-revision", "9"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.stderr.starts_with("error: the newest revision is 1, not 9"), "{said:?}");
    let said = mesh.run(&["delete", "-f", file]).await;
    let deleted =
        "Service shop/inventory deleted\nTrafficPolicy shop/inventory deleted\nrevision 2\n";
    assert_said(&said, 0, deleted, "");
    let said = mesh.run(&["get", "svc", "inventory"]).await;
    assert_said(&said, 1, "", "error: there is no Service shop/inventory\n");
    let said = mesh.run(&["delete", "svc", "inventory", "-o", "json"]).await;
    assert_eq!((said.code, &said.json()["refused"]), (Some(1), &true.into()), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_refused_with_its_lines_and_nothing_changes() {
    let mesh = Mesh::start().await;
    mesh.place.write("home/mesh.yaml", &MESH.replace("UNAVAILABLE", "UNAVAILBLE"));
    let said = mesh.run(&["apply", "-f", "mesh.yaml"]).await;
    let expected = "\
mesh.yaml:12:28: error: TrafficPolicy shop/inventory: spec.retry.on.grpc[1]
  12 |     on: {grpc: [CANCELLED, UNAVAILBLE]}
     |                            ^^^^^^^^^^ not a gRPC status
  mend: UNAVAILABLE

refused: 1 error, 2 resources. Nothing changed; revision is 0.
";
    assert_said(&said, 1, "", expected);
    let said = mesh.run(&["apply", "-f", "mesh.yaml", "-o", "json"]).await;
    let json = said.json();
    assert_eq!((said.code, &json["refused"]), (Some(1), &true.into()), "{said:?}");
    assert_eq!(
        (&json["problems"][0]["line"], &json["problems"][0]["column"]),
        (&12.into(), &28.into())
    );

    // What only the control plane can find is shown in its place too.
    let other = "apiVersion: outrigger.dev/v1\nkind: Mesh\nmetadata: {name: mesh}\n\
                 spec: {trustDomain: other.local}\n";
    mesh.place.write("home/other.yaml", other);
    let said = mesh.run(&["apply", "-f", "other.yaml"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.stderr.starts_with("other.yaml:4:21: error: Mesh mesh: spec.trustDomain\n"),
        "{said:?}"
    );
    assert!(said.stderr.ends_with("1 resource. Nothing changed; revision is 0.\n"), "{said:?}");

    for (args, code, error) in [
        (vec!["apply", "-f", "absent.yaml"], 1, "error: absent.yaml: No such file"),
        (vec!["get", "pods"], 2, "error: no kind \"pods\"; kinds are services (svc)"),
        (vec!["get", "svc", "a", "-A"], 2, "error: a NAME is in one namespace"),
        (vec!["get", "svc", "-l", "=x"], 1, "error: selector: "),
        (vec!["apply"], 2, "error: the following required arguments"),
    ] {
        let said = mesh.run(&args).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(code), ""), "{said:?}");
        assert!(said.stderr.starts_with(error), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_printed_once_and_can_be_taken_back() {
    let mesh = Mesh::start().await;
    let said = mesh.run(&["token", "create", "--service", "orders", "--ttl", "30m"]).await;
    said.assert_done();
    assert_eq!(said.stdout.lines().count(), 1, "{said:?}");
    assert!(said.stderr.contains("orders.shop may join with it once within 29m"), "{said:?}");
    let secret = said.stdout.trim();
    let said = mesh.run(&["token", "list"]).await;
    assert!(said.stdout.starts_with("ID "), "{said:?}");
    assert!(!said.stdout.contains(secret) && said.stdout.contains("orders.shop"), "{said:?}");
    let said = mesh.run(&["token", "list", "-o", "name"]).await;
    mesh.run(&["token", "revoke", said.stdout.trim()]).await.assert_done();
    let said = mesh.run(&["token", "list", "-o", "json"]).await;
    assert_eq!(said.json()["tokens"][0]["state"], "revoked");
    let said = mesh.run(&["token", "revoke", "nothing", "-o", "json"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.json()["error"], "there is no token \"nothing\"");
    let said = mesh.run(&["token", "create", "--service", "Orders"]).await;
    assert_eq!(said.code, Some(2), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_check_say_how_it_is_and_what_to_do() {
    let mut mesh = Mesh::start().await;
    let said = mesh.run(&["status"]).await;
    assert!(said.assert_done().stdout.starts_with("HEALTHY   rev 0"), "{said:?}");
    assert_eq!(mesh.run(&["status", "-o", "json"]).await.json()["verdict"], "HEALTHY");
    let said = mesh.run(&["status", "nothing"]).await;
    assert!(said.stderr.contains("no service and no sidecar nothing.shop"), "{said:?}");

    let said = mesh.run(&["check"]).await;
    assert!(said.assert_done().stdout.ends_with(" checks, all ok\n"), "{said:?}");
    for subject in ["context", "credential", "reach", "tls", "api", "clock", "version", "sidecars"]
    {
        assert!(said.stdout.contains(&format!("ok    {subject} ")), "{subject}: {said:?}");
    }
    let said = mesh.run(&["version"]).await;
    let version = env!("CARGO_PKG_VERSION");
    let both = format!("outrigger {version}\ncontrol plane {} {version}\n", mesh.address);
    assert_said(&said, 0, &both, "");

    mesh.stop().await;
    let address = mesh.address;
    for command in ["status", "version", "check"] {
        let said = mesh.run(&[command, "-o", "json"]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        said.json();
    }
    let said = mesh.run(&["status"]).await;
    assert!(
        said.stderr.starts_with(&format!("error: no control plane at {address}: ")),
        "{said:?}"
    );
    assert!(said.stderr.contains("  try: outrigger control-plane starts one"), "{said:?}");
    let said = mesh.run(&["check"]).await;
    assert!(said.stdout.contains("fail  reach "), "{said:?}");
    assert!(said.stdout.contains("try: outrigger control-plane starts one"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mesh_s_credential_is_refused_and_explained() {
    let (mesh, other) = (Mesh::start().await, Mesh::start().await);
    let data = other.place.path("data");
    let file = |name: &str| data.join(name).display().to_string();
    let (root, certificate, key) = (
        mesh.place.path("data/root.pem").display().to_string(),
        file("admin.pem"),
        file("admin-key.pem"),
    );
    let server = mesh.address.to_string();
    for (name, root) in [("wrong-credential", root.as_str()), ("wrong-root", &file("root.pem"))] {
        mesh.run(&[
            "context",
            "add",
            name,
            "--server",
            &server,
            "--cacert",
            root,
            "--cert",
            &certificate,
            "--key",
            &key,
        ])
        .await
        .assert_done();
        let said = mesh.run(&["status", "--context", name]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.stderr.contains("\n  try: "), "{said:?}");
        let said = mesh.run(&["check", "--context", name]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stdout.contains("ok    reach "), "{said:?}");
    }
}

#[tokio::test]
async fn without_a_context_every_command_says_how_to_get_one() {
    let place = Place::new();
    for args in [
        vec!["status"],
        vec!["get", "svc"],
        vec!["token", "list"],
        vec!["apply", "-f", "-"],
        vec!["delete", "svc", "a"],
    ] {
        let said = place.run(&args).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.stderr.starts_with("error: no context: "), "{said:?}");
        assert!(said.stderr.contains("`outrigger control-plane` starts one"), "{said:?}");
        let json = place.run(&[&args[..], &["-o", "json"]].concat()).await;
        assert!(json.json()["error"].is_string(), "{json:?}");
    }
    let said = place.run(&["check"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.starts_with("fail  context  no context: "), "{said:?}");
}
