//! Configuration over time, with the built program: what the commands print, what survives, and that
//! every client of the API sees the same.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Stdio, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    task::JoinHandle,
    time,
};

use crate::{
    calls::with,
    harness::{
        App, Mesh, Program, Said, echo_client, eventually, finish, heavy, interpreter, peer, root,
    },
};

/// Two services and how many ports the first has.
fn services(port: u16) -> String {
    format!(
        "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {{name: orders, namespace: shop}}\n\
         spec: {{ports: [{{port: {port}}}]}}\n---\napiVersion: outrigger.dev/v1\nkind: Service\n\
         metadata: {{name: web, namespace: shop}}\nspec: {{ports: [{{port: 8080}}]}}\n"
    )
}

/// Without what differs from one run to the next: ages and times.
fn steady(said: &Said) -> String {
    let is_age = |word: &str| {
        word.strip_suffix('s').is_some_and(|it| it.chars().all(|c| c.is_ascii_digit()))
    };
    let line = |line: &str| {
        line.split("  ")
            .map(|cell| {
                if is_age(cell.trim()) { cell.replace(cell.trim(), "0s") } else { cell.to_owned() }
            })
            .collect::<Vec<_>>()
            .join("  ")
    };
    said.stdout.lines().map(|text| line(text) + "\n").collect()
}

#[tokio::test]
async fn changes_are_kept_compared_and_taken_back() {
    let mesh = Mesh::start().await;
    let place = &mesh.place;
    let file = |port| place.write("mesh.yaml", &services(port)).display().to_string();
    let one = file(9090);
    place.run(&["apply", "-f", &one, "-m", "the shop"]).await.assert_done();
    assert_eq!(place.run(&["diff", "-f", &one]).await.assert_done().stdout, "");

    let two = file(9091);
    let tried = place.run(&["apply", "-f", &two, "--dry-run"]).await;
    let expected = "\
Service shop/orders configured (dry run)
  spec.ports[0].port
Service shop/web unchanged (dry run)
would be told to no sidecar that is connected now
dry run: nothing was written; revision is 1
";
    assert_eq!(tried.assert_done().stdout, expected);
    let differs = place.run(&["diff", "-f", &two]).await;
    assert_eq!(differs.code, Some(1), "{differs:?}");
    let expected = "\
--- Service shop/orders (revision 1)
+++ Service shop/orders (applied)
";
    assert!(differs.stdout.starts_with(expected), "{differs:?}");
    assert!(differs.stdout.contains("\n-  - port: 9090\n+  - port: 9091\n"), "{differs:?}");

    place.run(&["apply", "-f", &two]).await.assert_done();
    let expected = "\
REVISION  AGE  BY     CHANGES       MESSAGE
       2   0s  admin  1 configured
       1   0s  admin  2 created     the shop
";
    assert_eq!(steady(&place.run(&["history"]).await), expected);
    let json = place.run(&["history", "2", "-o", "json"]).await.assert_done().json();
    assert_eq!(json["revisions"][0]["changes"][0]["fields"], json!(["spec.ports[0].port"]));
    let differs = place.run(&["diff", "1", "-o", "name"]).await;
    assert_eq!((differs.code, differs.stdout.as_str()), (Some(1), "Service shop/orders\n"));
    for trouble in [&["diff", "7"][..], &["diff", "-f", "missing.yaml"], &["diff"]] {
        assert_eq!(place.run(trouble).await.code, Some(2), "{trouble:?}");
    }

    let rolled = place.run(&["rollback", "1"]).await;
    assert_eq!(rolled.assert_done().stdout, "Service shop/orders configured\nrevision 3\n");
    let again = place.run(&["rollback", "1"]).await;
    assert_eq!(again.assert_done().stdout, "nothing changed; revision is 3\n");
    assert_eq!(place.run(&["diff", "1", "3"]).await.assert_done().stdout, "");
    let never = place.run(&["rollback", "9"]).await;
    assert_eq!(never.code, Some(1));
    assert_eq!(never.stderr, "error: there is no revision 9; the newest is 3\n");
}

#[tokio::test]
async fn a_backup_makes_the_same_mesh_again() {
    let app = App::start("one").await;
    let mut mesh = Mesh::start().await;
    let sidecar = mesh.server("echo", "echo", app.address).await;
    mesh.apply(&services(9090)).await;
    let place = &mesh.place;
    let file = place.path("mesh.tar").display().to_string();
    let made = place.run(&["backup", &file]).await;
    let first = made.assert_done().stdout.lines().next().unwrap_or_default().to_owned();
    assert!(first.starts_with("backup of mesh.local at revision 1, made "), "{made:?}");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let listed = place.run(&["backup", "--show", &file, "-o", "json"]).await.assert_done().json();
    let names: Vec<_> =
        listed["files"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    for name in ["mesh.redb", "admin-key.pem"] {
        assert!(names.contains(&name.into()), "{names:?}");
    }
    // Not in the backup.
    mesh.apply(&services(9091)).await;

    let address = mesh.control.address("listen").to_string();
    mesh.control.kill();
    let data = mesh.place.path("restored").display().to_string();
    let args = |file: &str| {
        ["control-plane", "--metrics", "127.0.0.1:0", "--listen", &address, "--data", &data]
            .into_iter()
            .chain(["--restore", file])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let whole = fs::read(&file).unwrap();
    let half = mesh.place.path("half.tar");
    fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let args_of_half = args(&half.display().to_string());
    let refused =
        finish(mesh.place.command(env!("CARGO_BIN_EXE_outrigger"), &args_of_half), SOON_MAX).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("half.tar is no whole backup"), "{refused:?}");

    mesh.control = Program::start(&mesh.place, "restored", &args(&file)).await;
    let log = mesh.place.run(&["history", "-o", "json"]).await.assert_done().json();
    assert_eq!(log["revisions"].as_array().map(Vec::len), Some(1), "{log}");
    // The sidecar knows it again: the same CA, the same identity.
    eventually(SOON_MAX, async || {
        let status = mesh.place.run(&["status", "-o", "json"]).await;
        let there = status.code == Some(0) && status.stdout.contains("echo");
        let live = mesh.place.run(&["get", "wl", "-o", "name"]).await.stdout;
        let in_sync = there && !live.is_empty();
        if in_sync { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    drop(sidecar);
    mesh.control.kill();
    let again =
        finish(mesh.place.command(env!("CARGO_BIN_EXE_outrigger"), &args(&file)), SOON_MAX).await;
    assert!(again.stderr.contains("has files already"), "{again:?}");
}

/// How long what should come soon may take on a busy machine.
const SOON_MAX: Duration = Duration::from_secs(60);

#[tokio::test]
async fn killed_while_it_writes_it_has_every_acknowledged_revision() {
    let _turn = heavy().await;
    let mut mesh = Mesh::start().await;
    let mut acknowledged = 0;
    for round in 0..6_u16 {
        let writes = async {
            let mut newest = 0;
            for i in 0..100 {
                let file = mesh.place.write("w.yaml", &services(2000 + round * 100 + i));
                let file = file.display().to_string();
                let said = mesh.place.run(&["apply", "-f", &file, "-o", "json"]).await;
                if said.code != Some(0) {
                    break;
                }
                newest = said.json()["revision"].as_u64().unwrap();
            }
            newest
        };
        // Somewhere in a write, another place each time.
        let kill = async {
            time::sleep(Duration::from_millis(700 + 137 * u64::from(round))).await;
            mesh.control.signal(rustix::process::Signal::KILL);
        };
        let (newest, ()) = tokio::join!(writes, kill);
        acknowledged = newest.max(acknowledged);
        mesh.restart_control().await;
        let log = mesh.place.run(&["history", "--limit", "1", "-o", "json"]).await;
        let found = log.assert_done().json()["revisions"][0]["revision"].as_u64().unwrap_or(0);
        // One more may have been written without an answer; its retry finds it by its ID.
        assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} of {acknowledged}");
        acknowledged = found;
    }
    assert!(acknowledged > 6, "{acknowledged}");
}

/// One way to call the API.
enum Client<'a> {
    Python(&'a mut Python),
    Grpcurl(&'a Grpcurl<'a>),
}

struct Python {
    child: tokio::process::Child,
    answers: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

struct Grpcurl<'a> {
    mesh: &'a Mesh,
    program: String,
    flags: Vec<String>,
}

impl Client<'_> {
    /// The messages of the answer, or its code.
    async fn call(&mut self, method: &str, request: Value) -> Value {
        match self {
            Self::Python(python) => {
                let mut request = request;
                request["call"] = method.into();
                let stdin = python.child.stdin.as_mut().expect("open");
                stdin.write_all(format!("{request}\n").as_bytes()).await.expect("open");
                let answer = time::timeout(SOON_MAX, python.answers.next_line()).await;
                let answer = answer.expect("soon").expect("open").expect("an answer");
                let answer: Value = serde_json::from_str(&answer).expect("JSON");
                answer.get("code").cloned().unwrap_or(answer)
            }
            Self::Grpcurl(grpcurl) => {
                let mut args = grpcurl.flags.clone();
                args.extend(["-format-error".into(), "-d".into(), request.to_string()]);
                args.push(grpcurl.mesh.control.address("listen").to_string());
                args.push(format!("outrigger.v1.ConfigService/{method}"));
                let command = grpcurl.mesh.place.command(&grpcurl.program, &args);
                let said = finish(command, SOON_MAX).await;
                if said.code != Some(0) {
                    let error: Value = serde_json::from_str(&said.stderr).expect("JSON");
                    return code_name(error["code"].as_u64().unwrap()).into();
                }
                let answers = serde_json::Deserializer::from_str(&said.stdout).into_iter::<Value>();
                answers.map(|answer| answer.expect("JSON")).collect()
            }
        }
    }
}

fn code_name(code: u64) -> &'static str {
    match code {
        3 => "INVALID_ARGUMENT",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        _ => "another code",
    }
}

/// "configured orders spec.ports[0].port" of the CLI's JSON, or of the API's.
fn changes(list: &Value) -> Vec<String> {
    let one = |change: &Value| {
        let kind = change["change"].as_str().map_or_else(
            || {
                change["kind"]
                    .as_str()
                    .unwrap_or_default()
                    .trim_start_matches("CHANGE_KIND_")
                    .to_lowercase()
            },
            str::to_owned,
        );
        let name = change["name"].as_str().or_else(|| change["resource"]["name"].as_str());
        let fields = change["fields"].as_array().cloned().unwrap_or_default();
        let fields: Vec<_> = fields.iter().filter_map(Value::as_str).collect();
        format!("{kind} {} {}", name.unwrap_or_default(), fields.join(",")).trim().to_owned()
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

impl Python {
    /// Starts a client that makes its code of `proto/`.
    fn start(mesh: &Mesh, program: &str, packages: &str, credential: &[String; 3]) -> Self {
        let work = mesh.place.path("generated");
        fs::create_dir(&work).unwrap();
        let mut args = vec![
            root().join("tests/interop/python/config.py").display().to_string(),
            root().join("proto").display().to_string(),
            work.display().to_string(),
            mesh.control.address("listen").to_string(),
        ];
        args.extend(credential.iter().cloned());
        let mut command = mesh.place.command(program, &args);
        command.env("PYTHONPATH", packages).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("starts");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, answers }
    }
}

/// What the commands said to what clients are asked.
struct Expected {
    tried: Value,
    back: Value,
    differs: Value,
}

/// Asks a client what the commands were asked, and lets it write once.
async fn compare(client: &mut Client<'_>, expected: &Expected, number: u64) {
    let written = json!([
        {"metadata": {"name": "orders", "namespace": "shop"}, "service": {"ports": [{"port": 9091}]}},
        {"metadata": {"name": "web", "namespace": "shop"}, "service": {"ports": [{"port": 8080}]}},
    ]);
    let answer = client.call("Apply", json!({"resources": written, "dryRun": true})).await;
    assert_eq!(changes(&answer[0]["changes"]), changes(&expected.tried["changes"]), "{answer}");
    let answer = client.call("Rollback", json!({"revision": "0", "dryRun": true})).await;
    let mut back = changes(&answer[0]["changes"]);
    // What the client before this one wrote.
    back.retain(|change| !change.contains("own-"));
    assert_eq!(back, changes(&expected.back["changes"]), "{answer}");
    let answer = client.call("Diff", json!({"fromRevision": "0", "toRevision": "1"})).await;
    let told: Vec<_> =
        answer.as_array().unwrap()[1..].iter().map(|it| it["change"].clone()).collect();
    assert_eq!(changes(&told.into()), changes(&expected.differs["resources"]), "{answer}");
    let answer = client.call("History", json!({"revision": "1"})).await;
    assert_eq!(answer[0]["revisions"][0]["message"], "first", "{answer}");
    let stale = json!({"resources": written, "expectRevision": "99"});
    assert_eq!(client.call("Apply", stale).await, "ABORTED");
    assert_eq!(client.call("Rollback", json!({"revision": "99"})).await, "OUT_OF_RANGE");
    // One write, sent twice.
    let name = format!("own-{number}");
    let own = json!({
        "resources": [{"metadata": {"name": name, "namespace": "shop"}, "service": {}}],
        "requestId": name,
    });
    for repeated in [Value::Null, true.into()] {
        let answer = client.call("Apply", own.clone()).await;
        assert_eq!(answer[0]["revision"], number.to_string(), "{answer}");
        assert_eq!(answer[0]["repeatedRequest"], repeated, "{answer}");
    }
    let listed = client.call("List", json!({"kinds": ["Service"], "pageSize": 1})).await;
    assert!(listed[0]["nextPageToken"].is_string(), "{listed}");
}

#[tokio::test]
async fn grpcurl_python_and_the_commands_do_the_same() {
    let (Some(python), Some(packages)) = (interpreter("python3"), peer("python")) else { return };
    let Some(program) = peer("bin/grpcurl") else { return };
    if peer("python/grpc_tools").is_none() {
        return;
    }
    let _turn = heavy().await;
    let mesh = Mesh::start().await;
    let place = &mesh.place;
    let first = place.write("first.yaml", &services(9090)).display().to_string();
    place.run(&["apply", "-f", &first, "-m", "first"]).await.assert_done();
    let second = place.write("second.yaml", &services(9091)).display().to_string();
    let cli = async |args: &[&str]| place.run(args).await.json();
    let expected = Expected {
        tried: cli(&["apply", "-f", &second, "--dry-run", "-o", "json"]).await,
        back: cli(&["rollback", "0", "--dry-run", "-o", "json"]).await,
        differs: cli(&["diff", "0", "1", "-o", "json"]).await,
    };
    assert_eq!(changes(&expected.tried["changes"])[0], "configured orders spec.ports[0].port");

    let data = place.path("state/outrigger/control-plane");
    let credential = ["root.pem", "admin.pem", "admin-key.pem"]
        .map(|name| data.join(name).display().to_string());
    let flags = ["-cacert", "-cert", "-key"].into_iter().zip(&credential);
    let flags = flags.flat_map(|(flag, file)| [flag.to_owned(), file.clone()]).collect();
    let grpcurl = Grpcurl { mesh: &mesh, program, flags };
    let mut python = Python::start(&mesh, &python, &packages, &credential);
    compare(&mut Client::Python(&mut python), &expected, 2).await;
    compare(&mut Client::Grpcurl(&grpcurl), &expected, 3).await;
    // What the others wrote is the commands' to see.
    let log = cli(&["history", "-o", "json"]).await;
    let numbers: Vec<_> =
        log["revisions"].as_array().unwrap().iter().map(|it| it["revision"].clone()).collect();
    assert_eq!(numbers, [3, 2, 1]);
}

/// Calls `echo` for as long as it lives.
fn call_on(outbound: std::net::SocketAddr) -> JoinHandle<()> {
    tokio::spawn(async move {
        let client = echo_client(outbound, "echo:9090");
        loop {
            let mut client = client.clone();
            let request = with("hello".to_owned(), &[]);
            let _answer = time::timeout(Duration::from_secs(5), client.unary(request)).await;
            time::sleep(Duration::from_millis(20)).await;
        }
    })
}

#[tokio::test]
async fn a_guarded_write_that_hurts_is_rolled_back_by_the_control_plane() {
    let _turn = heavy().await;
    let app = App::start("one").await;
    let mesh = Mesh::start().await;
    let _server = mesh.server("echo", "echo", app.address).await;
    let caller = mesh.sidecar("caller", "caller", &[]).await;
    let load = call_on(caller.address("outbound"));
    // Until its reports have shown some calls.
    eventually(SOON_MAX, async || {
        let status = mesh.place.run(&["status", "-o", "json"]).await;
        if status.stdout.contains("caller.default") { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let deny = "apiVersion: outrigger.dev/v1\nkind: AuthorizationPolicy\nmetadata: {name: echo}\n\
                spec:\n  targetRefs: [{kind: Service, name: echo}]\n  action: Deny\n  rules:\n  - from: \
                [{services: [caller]}]\n";
    let file = mesh.place.write("deny.yaml", deny).display().to_string();
    let args = ["apply", "-f", &file, "--guard", "2m", "-m", "too strict"];
    let guarded = mesh.place.command(env!("CARGO_BIN_EXE_outrigger"), &args);
    let said = finish(guarded, Duration::from_secs(120)).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    for words in [
        "guarded by the control plane for 2m: calls to echo.default\n",
        "before  ",
        "after   ",
        "rolled back by revision 2: denied 0.00% -> ",
    ] {
        assert!(said.stdout.contains(words), "{words:?} in {said:?}");
    }
    let log = mesh.place.run(&["history"]).await;
    let log = &log.assert_done().stdout;
    assert!(log.contains("rolled back by 2"), "{log}");
    assert!(log.contains("guard of revision 1: denied"), "{log}");
    assert_eq!(mesh.place.run(&["get", "ap", "-o", "name"]).await.assert_done().stdout, "");
    load.abort();
}
