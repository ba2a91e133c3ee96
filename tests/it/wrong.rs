//! Forty wrong configurations, pushed at a running mesh under load: none may cost a call, end a
//! process or go by without a word. The texts are in `wrong.txt`; what is too large to be written
//! there is made here.

use std::{fs, time::Duration};

use outrigger::{
    app::{
        client::{Client, Credential},
        context::Contexts,
    },
    resource::{pb, yaml},
};
use tokio::time::Instant;

use crate::{
    change::Load,
    harness::{App, Mesh, SOON, eventually, heavy, root},
};

/// One wrong configuration, and what has to be said of it.
struct Wrong {
    name: String,
    /// Whether all of it is refused; else it is taken with a warning.
    refused: bool,
    /// Part of what is said.
    says: String,
    text: Vec<u8>,
}

/// `=== NAME | refused or warned | PART OF WHAT IS SAID`, then the text.
fn written() -> Vec<Wrong> {
    let all = fs::read_to_string(root().join("tests/it/wrong.txt")).unwrap();
    let cases = all.split("=== ").skip(1).map(|case| {
        let (head, text) = case.split_once('\n').expect("a head");
        let [name, how, says] = head.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("no name, verdict and words: {head}");
        };
        Wrong {
            name: name.to_owned(),
            refused: how == "refused",
            says: says.to_owned(),
            text: text.as_bytes().to_vec(),
        }
    });
    cases.collect()
}

fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1\nkind: Service\nmetadata: {{name: {name}{more}}}\nspec: {{}}\n---\n"
    )
}

/// Those that are large, or no text at all.
fn made() -> Vec<Wrong> {
    let refused = |name: &str, says: &str, text: Vec<u8>| Wrong {
        name: name.to_owned(),
        refused: true,
        says: says.to_owned(),
        text,
    };
    let many = (0..10_001).map(|number| service(&format!("s{number}"), "")).collect::<String>();
    let label = format!(", labels: {{a: \"{}\"}}", "x".repeat(2 << 20));
    let mut laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for level in 1..12 {
        let last = format!("*a{}", level - 1);
        let all = vec![last; 8].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{all}]\n"));
    }
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    vec![
        refused("ten thousand and one resources", "10000", many.into_bytes()),
        refused("a label of two megabytes", "metadata.labels", service("big", &label).into_bytes()),
        refused("a billion laughs", "", laughs.into_bytes()),
        refused("twenty thousand brackets", "", deep.into_bytes()),
        refused("no UTF-8", "UTF-8", vec![0xff, 0xfe, b'a', b'\n']),
        refused("zeroes", "", vec![0; 4096]),
    ]
}

const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: echo}
spec:
  parentRefs: [{kind: Service, group: outrigger.dev, name: echo}]
  rules:
  - backendRefs: [{name: echo, port: 9090}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_wrong_configurations_cost_nothing_and_are_all_named() {
    let _turn = heavy().await;
    let mut mesh = Mesh::start().await;
    let app = App::start("echo").await;
    let mut server = mesh.server("echo", "echo", app.address).await;
    let mut caller = mesh.sidecar("caller", "caller", &[]).await;
    mesh.apply(ROUTE).await;
    let contexts = Contexts::load(Some(&mesh.place.path("config/outrigger/config.yaml"))).unwrap();
    let context = contexts.choose(None).unwrap().context;
    let credential = Credential::load(&context).unwrap();
    let client = Client::new(&context.server, credential.tls()).unwrap();

    let start = Instant::now();
    let load = Load::start(caller.address("outbound"));
    load.go_on(200).await;
    let mut wrong = written();
    wrong.extend(made());
    assert!(wrong.len() >= 40, "{}", wrong.len());
    let mut unnamed = Vec::new();
    for case in &wrong {
        let Wrong { name, refused, says, text } = case;
        let file = mesh.place.path("wrong.yaml");
        fs::write(&file, text).unwrap();
        let said = mesh.place.run(&["apply", "-f", &file.display().to_string()]).await;
        let all = format!("{}{}", said.stdout, said.stderr);
        if (said.code != Some(0)) != *refused || !all.contains(says) || all.trim().is_empty() {
            let all: String = all.chars().take(600).collect();
            unnamed.push(format!("--- {name}: exit {:?}, expected {says:?} in\n{all}", said.code));
        }
        push(&client, name, *refused, text, &mut unnamed).await;
        load.go_on(20).await;
        for program in [&mut mesh.control, &mut server, &mut caller] {
            assert!(program.poll().is_none(), "{name} ended a process");
        }
    }
    load.go_on(300).await;
    let (made, failures) = load.stop().await;
    assert!(unnamed.is_empty(), "{} of {}:\n{}", unnamed.len(), wrong.len(), unnamed.join("\n"));
    let failures: Vec<_> = failures.iter().map(|call| call.tell(start)).collect();
    assert!(failures.is_empty(), "{} of {made} calls failed: {failures:#?}", failures.len());

    // All of it left nothing behind that anyone refuses, and everyone runs the newest.
    eventually(SOON, async || {
        let asked = client.config().status(pb::StatusRequest::default()).await;
        let status = asked.map_err(|status| status.to_string())?.into_inner();
        let synced = status.sidecars.iter().all(|it| it.in_sync);
        if status.refusals.is_empty() && synced && status.sidecars.len() == 2 {
            Ok(())
        } else {
            Err(format!("{:?} {:?}", status.refusals, status.sidecars))
        }
    })
    .await;
    println!("{} wrong configurations, {made} calls, 0 failed", wrong.len());
}

/// The same without the command's own checks, as another client would send it. A document whose text
/// is wrong gives no resource.
async fn push(client: &Client, name: &str, refused: bool, text: &[u8], unnamed: &mut Vec<String>) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let resources: Vec<_> =
        yaml::parse(text, "wrong").0.into_iter().map(|document| document.resource).collect();
    if resources.is_empty() {
        return;
    }
    let problems = resources.len();
    let request = pb::ApplyRequest { resources, ..Default::default() };
    let began = Instant::now();
    let answered = client.config().apply(request).await;
    let took = began.elapsed();
    let named = match answered {
        Err(status) => !status.message().is_empty(),
        Ok(answer) => {
            let said = &answer.get_ref().problems;
            let error = said.iter().any(|it| it.severity() == pb::Severity::Error);
            !said.is_empty() && error == refused
        }
    };
    if !named || took > Duration::from_secs(10) {
        unnamed.push(format!("--- {name}: {problems} resources pushed, nothing said, {took:?}"));
    }
}
