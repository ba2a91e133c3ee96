//! The commands that are clients of the API, as users run them.

use std::{os::unix::net::UnixListener, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};

use crate::harness::{Mesh, Place, Program, SOON, Said, eventually};

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

/// A mesh whose context means the namespace `shop`.
async fn start() -> Mesh {
    let mesh = Mesh::start().await;
    let server = mesh.control.address("listen").to_string();
    add_context(&mesh, &mesh, "local", &["--server", &server, "--namespace", "shop"]).await;
    mesh
}

/// A context of a mesh with the credential of another one; its root as well, unless `more` says so.
async fn add_context(mesh: &Mesh, other: &Mesh, name: &str, more: &[&str]) {
    let data = other.place.path("state/outrigger/control-plane");
    let file = |name: &str| data.join(name).display().to_string();
    let (certificate, key, root) = (file("admin.pem"), file("admin-key.pem"), file("root.pem"));
    let mut args = vec!["context", "add", name, "--cert", &certificate, "--key", &key];
    if !more.contains(&"--cacert") {
        args.extend(["--cacert", &root]);
    }
    args.extend(more);
    mesh.run(&args).await.assert_done();
}

/// The built program in that place, to be started by the test itself.
fn command(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_outrigger"), args);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[track_caller]
fn assert_said(said: &Said, code: i32, stdout: &str, stderr: &str) {
    let shown = (said.code, said.stdout.as_str(), said.stderr.as_str());
    assert_eq!(shown, (Some(code), stdout, stderr), "{}", said.what);
}

#[tokio::test]
async fn what_is_applied_can_be_read_changed_and_deleted() {
    let mesh = start().await;
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

#[tokio::test]
async fn a_deletion_takes_versions_and_a_guard_as_a_write_does() {
    let mesh = start().await;
    let file = mesh.place.write("mesh.yaml", MESH).display().to_string();
    mesh.run(&["apply", "-f", &file]).await.assert_done();
    let version = async || {
        let read = mesh.run(&["get", "tp", "inventory", "-o", "json"]).await.json();
        read["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
    };
    let old = version().await;
    let changed = MESH.replace("UNAVAILABLE", "ABORTED");
    let file = mesh.place.write("mesh.yaml", &changed).display().to_string();
    mesh.run(&["apply", "-f", &file]).await.assert_done();

    // Whoever read it before the change does not delete it by that.
    let said = mesh.run(&["delete", "tp/inventory", "--expect-version", &old]).await;
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
    assert!(said.stderr.contains("was changed meanwhile: its version is 2-"), "{said:?}");
    let said = mesh.run(&["delete", "tp/a", "tp/b", "--expect-version", "1-x"]).await;
    assert_eq!(said.code, Some(2), "{said:?}");
    let now = version().await;
    let delete =
        ["delete", "tp/inventory", "--expect-version", &now, "--guard", "10s", "-o", "json"];
    let guarded = mesh.run(&delete).await.assert_done().json();
    assert_eq!(guarded["revision"], 3, "{guarded}");
    assert_eq!(guarded["guard"]["state"], "Passed", "{guarded}");
    let said = mesh.run(&["delete", "svc/inventory", "--wait"]).await;
    assert!(said.assert_done().stdout.ends_with("no sidecar is connected\n"), "{said:?}");
}

#[tokio::test]
async fn a_wrong_file_is_refused_with_its_lines_and_nothing_changes() {
    let mesh = start().await;
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

    // What both find is said once.
    mesh.place.write("home/twice.yaml", &format!("{MESH}---\n{MESH}"));
    let said = mesh.run(&["apply", "-f", "twice.yaml"]).await;
    assert!(said.stderr.contains("\nrefused: 2 errors, 4 resources. Nothing changed"), "{said:?}");

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
        (
            vec![
                "context",
                "add",
                "x",
                "--server",
                "nowhere",
                "--cacert",
                "mesh.yaml",
                "--cert",
                "mesh.yaml",
                "--key",
                "mesh.yaml",
            ],
            2,
            "error: invalid value 'nowhere' for '--server <HOST:PORT>': no HOST:PORT",
        ),
        (vec!["apply"], 2, "error: the following required arguments"),
    ] {
        let said = mesh.run(&args).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(code), ""), "{said:?}");
        assert!(said.stderr.starts_with(error), "{said:?}");
    }
}

#[tokio::test]
async fn a_token_is_printed_once_and_can_be_taken_back() {
    let mesh = start().await;
    let said = mesh.run(&["token", "create", "--service", "orders", "--ttl", "30m"]).await;
    said.assert_done();
    assert_eq!(said.stdout.lines().count(), 1, "{said:?}");
    assert!(said.stderr.contains("orders.shop may join with it once within 30m"), "{said:?}");
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

#[tokio::test]
async fn status_and_check_say_how_it_is_and_what_to_do() {
    let mut mesh = start().await;
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
    let (version, address) = (env!("CARGO_PKG_VERSION"), mesh.control.address("listen"));
    let both = format!("outrigger {version}\ncontrol plane {address} {version}\n");
    assert_said(&said, 0, &both, "");

    mesh.control.stop(SOON).await;
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

#[tokio::test]
async fn another_mesh_s_credential_is_refused_and_explained() {
    let (mesh, other) = (start().await, Mesh::start().await);
    let server = mesh.control.address("listen").to_string();
    let own = mesh.place.path("state/outrigger/control-plane/root.pem").display().to_string();
    let with_own_root = ["--server", &server, "--cacert", &own];
    for (name, more) in
        [("wrong-credential", &with_own_root[..]), ("wrong-root", &with_own_root[..2])]
    {
        add_context(&mesh, &other, name, more).await;
        let said = mesh.run(&["status", "--context", name]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.stderr.contains("\n  try: "), "{said:?}");
        // The refusal comes when the first call is on its way already, and is not lost by that.
        for _ in 0..10 {
            let said = mesh.run(&["get", "svc", "--context", name]).await;
            let known = ["does not know the credential of", "is not the control plane that"];
            assert!(known.iter().any(|known| said.stderr.contains(known)), "{said:?}");
        }
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

#[tokio::test]
async fn a_watch_tells_every_change_and_goes_on_over_a_restart() {
    let mut mesh = start().await;
    let file = mesh.place.write("mesh.yaml", MESH);
    let file = file.to_str().unwrap();
    mesh.run(&["apply", "-f", file]).await.assert_done();
    let mut watch = command(&mesh.place, &["get", "svc,tp", "-w", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut notes = BufReader::new(watch.stderr.take().unwrap()).lines();
    let mut told = Vec::new();
    while told.len() < 6 {
        match told.len() {
            2 => {
                mesh.run(&["delete", "svc/inventory", "tp/inventory"]).await.assert_done();
            }
            4 => {
                mesh.restart_control().await;
                let note =
                    timeout(SOON, notes.next_line()).await.unwrap().unwrap().expect("a note");
                assert!(note.starts_with("the control plane went away; going on"), "{note}");
                mesh.run(&["apply", "-f", file]).await.assert_done();
            }
            _ => {}
        }
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().expect("a line");
        let event: Value = serde_json::from_str(&line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        told.push(format!("{} {}", text(&event["type"]), text(&event["object"]["kind"])));
    }
    let there = ["ADDED Service", "ADDED TrafficPolicy"];
    let gone = ["DELETED Service", "DELETED TrafficPolicy"];
    assert_eq!(told, [there, gone, there].concat());
    assert!(watch.try_wait().unwrap().is_none(), "it goes on");
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_a_command_quietly() {
    let mesh = start().await;
    let file = mesh.place.write("mesh.yaml", MESH);
    let file = file.to_str().unwrap();
    mesh.run(&["apply", "-f", file]).await.assert_done();
    for args in [&["--help"][..], &["get", "all", "-o", "yaml"], &["get", "svc", "-w"], &["status"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut quiet = command(&mesh.place, args);
        let quiet = quiet.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let ended = timeout(SOON, quiet.wait_with_output()).await.unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!((ended.status.code(), stderr.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[tokio::test]
async fn wrong_usage_is_json_too_when_json_is_asked_for() {
    let place = Place::new();
    for args in
        [&["get", "-o", "json"][..], &["apply", "-f", "x", "--no-such-flag", "--output=json"]]
    {
        let said = place.run(args).await;
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.json()["error"].is_string(), "{said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
    }
}

#[tokio::test]
async fn apply_waits_until_the_sidecars_run_it() {
    let place = Place::new();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let control_plane = words("control-plane --listen 127.0.0.1:0 --metrics 127.0.0.1:0");
    let mut control_plane = Program::start(&place, "control-plane", &control_plane).await;
    let said = place.run(&["token", "create", "--service", "inventory.shop"]).await;
    place.write("token", &said.assert_done().stdout);
    let sidecar = format!(
        "sidecar --service inventory.shop --app :1 --app-check none --control-plane {} \
         --token-file {} --workload inventory-1 --inbound 127.0.0.1:0 --outbound 127.0.0.1:0 --admin 127.0.0.1:0 \
         --metrics 127.0.0.1:0 --health 127.0.0.1:0",
        control_plane.address("listen"),
        place.path("token").display(),
    );
    let mut sidecar = Program::start(&place, "sidecar", &words(&sidecar)).await;
    eventually(SOON, || async {
        let said = place.run(&["status", "-o", "json"]).await;
        let ready = said.json()["services"][0]["ready"] == 1;
        ready.then_some(()).ok_or(said.stdout)
    })
    .await;

    place.write("home/mesh.yaml", MESH);
    let said = place.run(&["apply", "-f", "mesh.yaml", "--wait", "-m", "stock"]).await;
    assert!(said.assert_done().stdout.contains("\nrevision 1\nthe 1 sidecar runs revision 1, "));
    let said = place.run(&["apply", "-f", "mesh.yaml", "--wait", "-o", "json"]).await;
    assert_eq!(said.json()["settled"]["behind"], serde_json::json!([]), "{said:?}");
    let said = place.run(&["get", "tp", "inventory", "-n", "shop", "-o", "json"]).await;
    let conditions = said.json()["status"]["conditions"].clone();
    let programmed = conditions.as_array().unwrap().iter().find(|it| it["type"] == "Programmed");
    assert_eq!(programmed.unwrap()["status"], "True", "{said:?}");

    for subject in ["inventory.shop", "inventory-1.shop"] {
        let said = place.run(&["status", subject]).await;
        assert!(said.assert_done().stdout.contains("admin: \"stock\"   1/1 in sync"), "{said:?}");
        assert!(said.stdout.contains("\ninventory-1.shop  inventory  ready "), "{said:?}");
        let said = place.run(&["check", subject]).await;
        assert!(said.assert_done().stdout.contains("1 sidecar, all in sync"), "{said:?}");
    }
    assert!(sidecar.stop(SOON).await.success());
    eventually(SOON, || async {
        let said = place.run(&["check", "inventory-1.shop"]).await;
        let gone = said.stdout.contains("none of inventory-1.shop is connected");
        (gone && said.code == Some(1)).then_some(()).ok_or(said.stdout)
    })
    .await;
    assert!(control_plane.stop(SOON).await.success());
}

#[tokio::test]
async fn what_can_not_be_kept_is_not_made() {
    let mesh = start().await;
    mesh.place.write("home/file", "");
    std::fs::create_dir(mesh.place.path("home/full")).unwrap();
    std::fs::create_dir(mesh.place.path("home/full/a.pem")).unwrap();
    for out in ["file", "full"] {
        let said = mesh.run(&["credential", "create", "a", "--role", "viewer", "--out", out]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        let said = mesh.run(&["credential", "list", "-o", "name"]).await;
        assert_said(&said, 0, "admin\n", "");
    }
    // What is no file is not replaced by one.
    let _socket = UnixListener::bind(mesh.place.path("home/socket")).expect("a socket");
    let said = mesh.run(&["backup", "socket"]).await;
    assert_said(
        &said,
        1,
        "",
        "error: socket is no file that could be replaced\n  \
         try: outrigger backup - writes to stdout\n",
    );
    assert!(!std::fs::metadata(mesh.place.path("home/socket")).unwrap().is_file());
}

#[tokio::test]
async fn a_credential_that_was_revoked_is_refused_in_words() {
    let mesh = start().await;
    mesh.run(&["credential", "create", "ana", "--role", "viewer", "--out", "ana"])
        .await
        .assert_done();
    let server = mesh.control.address("listen").to_string();
    let add = "context add ana --cacert ana/root.pem --cert ana/ana.pem --key ana/ana-key.pem";
    let mut add: Vec<_> = add.split(' ').collect();
    add.extend(["--server", &server]);
    mesh.run(&add).await.assert_done();
    mesh.run(&["get", "svc", "--context", "ana"]).await.assert_done();
    mesh.run(&["credential", "revoke", "ana"]).await.assert_done();
    let said = mesh.run(&["get", "svc", "--context", "ana"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("this credential was revoked"), "{said:?}");
    assert!(said.stderr.contains("  try: outrigger check --context ana\n"), "{said:?}");
}
