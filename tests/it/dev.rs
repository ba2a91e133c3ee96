//! `dev`: a mesh from one file, and nothing left of it afterwards, however it ends.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Place, Program, SOON, descendants, echo_client, eventually, get};

const DEV: &str = "\
mesh: mesh.yaml
services:
  - name: catalog
    namespace: shop
    replicas: 2
    app: \"9090=:0\"
    command: [outrigger, shop, catalog]
    restart: OnFailure
  - name: web
    namespace: shop
    labels: {tier: front}
    command: [sleep, \"600\"]
    upstreams: [catalog:9090]
";
const MESH: &str = "\
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
";
/// From a wish to end to the end of all.
const END_MAX: Duration = Duration::from_secs(25);

/// A running `dev` in a directory for temporary files of its own.
struct Dev {
    program: Program,
    place: Place,
}

impl Dev {
    async fn start() -> Self {
        let place = Place::new();
        place.write("mesh.yaml", MESH);
        let file = place.write("dev.yaml", DEV).display().to_string();
        fs::create_dir(place.path("tmp")).unwrap();
        let temporary = place.path("tmp").display().to_string();
        let args = ["dev", "-f", &file].map(str::to_owned);
        let environment = [("TMPDIR", temporary.as_str())];
        let program = Program::start_with(&place, "dev", &args, &environment).await;
        Self { program, place }
    }

    fn instance(&self, name: &str) -> &Value {
        &self.program.ready["instances"][name]
    }

    fn address(&self, name: &str, what: &str) -> SocketAddr {
        self.instance(name)[what].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    fn process(&self, name: &str, what: &str) -> u32 {
        let id = self.instance(name)[what].as_u64().expect("a process");
        u32::try_from(id).expect("small")
    }
}

fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

async fn all_gone(processes: &[u32]) {
    eventually(END_MAX, async || {
        let left: Vec<_> = processes.iter().filter(|process| lives(**process)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} live")) }
    })
    .await;
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test]
async fn one_file_makes_a_mesh_and_ctrl_c_ends_all_of_it() {
    let mut dev = Dev::start().await;
    let below = descendants(dev.program.pid());
    assert_eq!(below.len(), 7, "a control plane, three sidecars, three applications: {below:?}");

    // The services reach each other under their names; the mesh is known to other terminals.
    let upstream = dev.instance("web-1")["upstreams"]["catalog:9090"].as_str().expect("told");
    let mut client = echo_client(upstream.parse().expect("an address"), "catalog:9090");
    let answer = client.unary(String::new()).await.expect_err("a catalog is no echo");
    assert_eq!(answer.code(), tonic::Code::Unimplemented, "{answer:?}");
    let said = dev.place.run(&["status", "--context", "dev", "-o", "json"]).await;
    let services = said.assert_done().json()["services"].clone();
    assert!(services.to_string().contains("catalog"), "{services}");
    let said = dev.place.run(&["get", "svc", "-n", "shop", "-o", "name", "--context", "dev"]).await;
    assert!(said.assert_done().stdout.contains("service/catalog"), "{said:?}");
    let metrics = get(dev.address("catalog-2", "metrics"), "/metrics").await.expect("served");
    assert!(metrics.contains("workload=\"catalog-2\"") || metrics.contains("catalog-2"));
    let log = dev.instance("catalog-1")["log"].as_str().expect("told").to_owned();
    assert!(fs::exists(&log).unwrap(), "{log}");

    dev.program.signal(Signal::INT);
    assert_eq!(dev.program.end(END_MAX).await.code(), Some(0));
    all_gone(&below).await;
    assert!(is_empty(&dev.place.path("tmp")), "its directory is gone");
    let said = dev.place.run(&["context", "list"]).await;
    assert!(!said.stdout.contains("dev"), "{said:?}");
}

#[tokio::test]
async fn what_fails_is_started_again_if_asked_and_a_killed_dev_leaves_no_process() {
    let mut dev = Dev::start().await;
    let (sidecar, application) =
        (dev.process("catalog-1", "process"), dev.process("catalog-1", "application"));
    let kill = |process: u32| {
        let id = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("a process"), Signal::KILL).expect("it lives");
    };
    kill(sidecar);
    all_gone(&[sidecar, application]).await;
    eventually(SOON, async || {
        let said = dev.place.run(&["status", "--context", "dev", "-o", "json"]).await;
        let services = said.assert_done().json()["services"].clone();
        let services = services.as_array().cloned().unwrap_or_default();
        let catalog = services.iter().find(|service| service["name"] == "catalog");
        match catalog {
            Some(catalog) if catalog["ready"] == 2 => Ok(()),
            _ => Err(format!("{services:?}")),
        }
    })
    .await;
    dev.program.logs("starting it again").await;

    // One that is not to be started again stays down, and the others stay up.
    kill(dev.process("web-1", "application"));
    dev.program.logs("web-1         | outrigger: ended (exit status: 137)\n").await;

    let below = descendants(dev.program.pid());
    assert_eq!(below.len(), 5, "{below:?}");
    dev.program.kill();
    all_gone(&below).await;
}

#[tokio::test]
async fn a_wrong_file_is_refused_before_anything_runs() {
    let place = Place::new();
    let mesh = MESH.replace("appProtocol: grpc", "appProtocol: carrier-pigeon");
    for (dev, mesh, expected) in [
        ("services: [{name: a, command: []}]", MESH, "command is empty"),
        (DEV, mesh.as_str(), "mesh.yaml:4:54: error: Service shop/catalog: spec.ports[0]"),
        ("mesh: absent.yaml\nservices: []", MESH, "absent.yaml: No such file"),
    ] {
        place.write("home/dev.yaml", dev);
        place.write("home/mesh.yaml", mesh);
        let said = place.run(&["dev"]).await;
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{said:?}");
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
}
