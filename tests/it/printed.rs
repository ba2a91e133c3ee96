//! What the commands that look at a mesh print, as a whole: a change of it is to be seen and meant.

use std::{fs, fs::Permissions, os::unix::fs::PermissionsExt as _, path::Path};

use regex::Regex;

use crate::harness::Mesh;

const MESH: &str = "\
apiVersion: outrigger.dev/v1
kind: Service
metadata: {name: orders, namespace: shop, labels: {team: sales}}
spec: {ports: [{name: grpc, port: 9090, appProtocol: grpc}]}
---
apiVersion: outrigger.dev/v1
kind: Workload
metadata: {name: vm-1, namespace: shop}
spec: {service: orders, address: 10.0.0.9, ports: {grpc: 9090}, zone: eu-1/a}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: orders, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: \"\", name: orders}]
  rules: [{backendRefs: [{name: orders, port: 9090, weight: 90}, {name: canary, port: 9090, weight: 10}]}]
---
apiVersion: outrigger.dev/v1
kind: TrafficPolicy
metadata: {name: orders, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  bulkhead: {maxConcurrent: 20}
";

/// What differs from run to run, in words; and how far columns are apart.
fn plain(mesh: &Mesh, text: &str) -> String {
    let mut text = text.replace(&mesh.place.path("").display().to_string(), "PLACE/");
    for (pattern, word) in [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
        (r"\d\d:\d\d:\d\d UTC", "CLOCK"),
        (r"127\.0\.0\.1:\d+", "SERVER"),
        (r"\b\d+(\.\d+)?(ms|s|m|h|d|y)\b", "AGE"),
        (r"-[0-9a-f]{8}\b", "-STORE"),
        (r"\b\d+\.\d+\.\d+\b(?: everywhere)", "VERSION everywhere"),
        (r"version \d+\.\d+\.\d+", "version VERSION"),
        (r"   +", "  "),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, word).into_owned();
    }
    text
}

async fn check(mesh: &Mesh, args: &[&str], code: i32, expected: &str) {
    let said = mesh.place.run(args).await;
    assert_eq!(plain(mesh, &said.stdout), expected, "{said:?}");
    assert_eq!(said.code, Some(code), "{said:?}");
}

async fn start() -> Mesh {
    let mesh = Mesh::start().await;
    for (name, text, message) in [
        ("one.yaml", MESH.to_owned(), "the first"),
        ("two.yaml", MESH.replace("maxConcurrent: 20", "maxConcurrent: 30"), "more room"),
    ] {
        let file = mesh.place.write(name, &text).display().to_string();
        mesh.place.run(&["apply", "-f", &file, "-m", message]).await.assert_done();
    }
    mesh
}

#[tokio::test]
async fn get_prints_tables_and_what_apply_reads() {
    let mesh = start().await;
    let tables = "\
NAME  PORTS  AGE
service/orders  grpc:9090/grpc  AGE

NAME  SERVICE  ADDRESS  READY  AGE
workload/vm-1  orders  10.0.0.9:9090  -  AGE

NAME  PARENTS  BACKENDS  ACCEPTED  PROGRAMMED  AGE
grpcroute/orders  orders  orders=90,canary=10  True  True  AGE

NAME  TARGETS  SETS  ACCEPTED  PROGRAMMED  AGE
trafficpolicy/orders  orders  bulkhead  True  True  AGE
";
    check(&mesh, &["get", "all", "-n", "shop"], 0, tables).await;
    let wide = "\
NAME  PARENTS  BACKENDS  ACCEPTED  PROGRAMMED  AGE  RULES  LABELS  WHY
orders  orders  orders=90,canary=10  True  True  AGE  1  -  no Service canary.shop; its share is \
answered with backend_invalid
";
    check(&mesh, &["get", "gr", "-n", "shop", "-o", "wide"], 0, wide).await;
    check(&mesh, &["get", "tp", "-A", "-o", "name"], 0, "trafficpolicy/orders\n").await;
    let yaml = "\
apiVersion: outrigger.dev/v1
kind: Service
metadata:
  name: orders
  namespace: shop
  labels:
  team: sales
  resourceVersion: 1-STORE
  creationTimestamp: \"TIME\"
spec:
  ports:
  - name: grpc
  port: 9090
  appProtocol: grpc
status:
  conditions:
  - type: Accepted
  status: \"True\"
  reason: Accepted
  lastTransitionTime: \"TIME\"
  - type: Programmed
  status: \"True\"
  reason: NoSidecars
  message: concerns no connected sidecar
  lastTransitionTime: \"TIME\"
  related:
  - kind: GRPCRoute
  namespace: shop
  name: orders
  - kind: TrafficPolicy
  namespace: shop
  name: orders
";
    check(&mesh, &["get", "svc", "orders", "-n", "shop", "-o", "yaml"], 0, yaml).await;
}

#[tokio::test]
async fn describe_and_status_say_what_holds_and_since_when() {
    let mesh = start().await;
    let route = "\
GRPCRoute shop/orders  made AGE ago  version 1-STORE

apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata:
  name: orders
  namespace: shop
spec:
  parentRefs:
  - group: \"\"
  kind: Service
  name: orders
  rules:
  - backendRefs:
  - name: orders
  port: 9090
  weight: 90
  - name: canary
  port: 9090
  weight: 10

FOR  CONDITION  HOLDS  SINCE  REASON  MESSAGE
all  Accepted  True  AGE  Accepted
all  ResolvedRefs  False  AGE  BackendNotFound  no Service canary.shop; its share is answered with \
backend_invalid
all  Programmed  True  AGE  NoSidecars  concerns no connected sidecar
Service shop/orders  Accepted  True  AGE  Accepted
Service shop/orders  ResolvedRefs  False  AGE  BackendNotFound  no Service canary.shop; its share is \
answered with backend_invalid

holds for: Service shop/orders
";
    check(&mesh, &["describe", "gr/orders", "-n", "shop"], 0, route).await;
    let service = "\
holds for it: GRPCRoute shop/orders, TrafficPolicy shop/orders

ENDPOINT  ADDRESS  ZONE  WEIGHT  STATE  WHY
vm-1  10.0.0.9  eu-1/a  1  ready  -
";
    let said = mesh.place.run(&["describe", "svc/orders", "-n", "shop"]).await;
    let text = plain(&mesh, &said.assert_done().stdout);
    assert!(text.ends_with(service), "{text}");
    let status = "\
HEALTHY  1 warning  rev 2, AGE ago, admin: \"more room\"

! GRPCRoute shop/orders  ResolvedRefs is False since CLOCK, BackendNotFound: no Service canary.shop; \
its share is answered with backend_invalid
  try: outrigger describe grpcroute orders -n shop

SERVICE  READY  RPS  OK  P50  P99  REASONS AGE  REV
orders.shop  1/1  -  -  -  -  -  -

control plane SERVER  up AGE  store ok  root expires in AGE  version VERSION
";
    check(&mesh, &["status"], 0, status).await;
}

#[tokio::test]
async fn history_and_diff_say_what_changed() {
    let mesh = start().await;
    let history = "\
REVISION  AGE  BY  CHANGES  MESSAGE
  2  AGE  admin  1 configured  more room
  1  AGE  admin  4 created  the first
";
    check(&mesh, &["history"], 0, history).await;
    let one = "\
revision 2, AGE ago (TIME)
by  admin
message  more room
TrafficPolicy shop/orders configured
  spec.bulkhead.maxConcurrent
";
    check(&mesh, &["history", "2"], 0, one).await;
    let diff = "\
--- TrafficPolicy shop/orders (revision 1)
+++ TrafficPolicy shop/orders (revision 2)
@@ -9,4 +9,4 @@
  - kind: Service
  name: orders
  bulkhead:
-  maxConcurrent: 20
+  maxConcurrent: 30
";
    check(&mesh, &["diff", "1", "2"], 1, diff).await;
    check(&mesh, &["diff", "2"], 0, "").await;
}

#[tokio::test]
async fn check_says_what_was_looked_at_and_what_to_do() {
    let mesh = start().await;
    let expected = "\
ok  context  local: SERVER, from PLACE/CONTEXTS
ok  files  NUMBER private files, each for its owner alone
ok  credential  spiffe://mesh.local/credential/admin, for AGE
ok  reach  SERVER in AGE
ok  tls  the control plane's certificate lasts AGE
ok  api  answers in AGE, revision 2
ok  clock  agrees with the control plane's
ok  permissions  admin: may do everything
ok  version  VERSION everywhere
ok  sidecars  none is connected
ok  certificates  all valid, the root for AGE
ok  ports  API on SERVER, for its own machine alone
ok  ports  metrics on SERVER, for its own machine alone
warn  resources  GRPCRoute shop/orders: ResolvedRefs is False, BackendNotFound: no Service \
canary.shop; its share is answered with backend_invalid
  try: outrigger describe grpcroute orders -n shop

14 checks: 0 failures, 1 warning
";
    let said = mesh.place.run(&["check"]).await;
    let text = plain(&mesh, &said.assert_done().stdout);
    // As many as this start has made.
    let text = Regex::new(r"\d+ private files").unwrap().replace(&text, "NUMBER private files");
    let contexts =
        Regex::new("PLACE/.*\n").unwrap().replace(&text, "PLACE/CONTEXTS\n").into_owned();
    assert_eq!(contexts, expected);
}

#[tokio::test]
async fn a_sidecar_on_this_machine_is_asked_without_a_context() {
    let mesh = Mesh::start().await;
    let sidecar = mesh.sidecar("web-1", "web", &["--workload", "web-1"]).await;
    let admin = sidecar.address("admin").to_string();
    let expected = "\
ok  sidecar  web.default web-1, at SERVER
ok  version  0.1.0
ok  ready  it takes requests
ok  control plane  connected to SERVER, revision 0
ok  certificate  spiffe://mesh.local/ns/default/svc/web, for AGE
ok  files  1 private file, each for its owner alone

6 checks, all ok
";
    let args = ["check", "--sidecar", &admin, "--contexts", "/nowhere"];
    check(&mesh, &args, 0, expected).await;
}

#[tokio::test]
async fn check_names_each_key_that_others_can_read_and_what_to_do() {
    let mesh = Mesh::start().await;
    let sidecar = mesh.sidecar("web-1", "web", &["--workload", "web-1"]).await;
    let admin = sidecar.address("admin").to_string();
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    let data = mesh.place.path("state/outrigger/control-plane");
    let said = mesh.place.run(&["check", "--sidecar", &admin, "-o", "json"]).await;
    assert_eq!(said.assert_done().json()["ok"], true);

    open(&data.join("root-key.pem"));
    let said = mesh.place.run(&["check"]).await;
    let key = data.join("root-key.pem").display().to_string();
    let named = format!("fail  files         {key} is not for its owner alone: mode 0644\n");
    assert!(said.stdout.contains(&named), "{said:?}");
    assert!(said.stdout.contains(&format!("try: chmod 600 {key}\n")), "{said:?}");
    assert_eq!(said.code, Some(1), "{said:?}");

    // Without the key there is no credential, and the rest is looked at as far as that goes.
    open(&data.join("admin-key.pem"));
    let said = mesh.place.run(&["check"]).await;
    assert!(said.stdout.contains("admin-key.pem is not for its owner alone"), "{said:?}");
    assert!(said.stdout.contains("ok    reach "), "{said:?}");
    assert!(said.stdout.contains(": 2 failures, 0 warnings\n"), "{said:?}");

    let kept = mesh.place.path("data/web-1/svid.pem");
    open(&kept);
    let said = mesh.place.run(&["check", "--sidecar", &admin]).await;
    assert!(said.stdout.contains(&format!("try: chmod 600 {}\n", kept.display())), "{said:?}");
    assert_eq!(said.code, Some(1), "{said:?}");
}
