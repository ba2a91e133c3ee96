//! Static mode: two sidecars with files and certificates from openssl, and no control plane.

use std::{fs, time::Duration};

use futures_util::StreamExt as _;
use rustix::process::Signal;
use tonic::Code;

use crate::{
    calls::{check_all_kinds, text, with},
    harness::{
        App, Certificates, Place, Program, SOON, StaticPair, echo_client, eventually, get, metrics,
        service_yaml, sidecar_args, spiffe_id, start_static_server, workload_yaml,
    },
};

/// Longer than a drain takes, with what is still under way in these tests.
const DRAINED: Duration = Duration::from_secs(30);

#[tokio::test]
async fn all_kinds_of_call_go_through_two_sidecars() {
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let caller = spiffe_id("caller");
    let outbound = pair.client.address("outbound");
    check_all_kinds(outbound, "echo:9090", &caller).await;
    check_all_kinds(outbound, "echo.default.mesh:9090", &caller).await;
    // Dialled under any name, a fixed upstream leads to its service.
    check_all_kinds(pair.client.upstream("echo:9090"), "anything", &caller).await;

    let inbound = metrics(pair.server.address("metrics")).await;
    let labels = [("direction", "inbound"), ("source", "caller.default")];
    assert!(inbound.sum("outrigger_requests_total", &labels) >= 18.0);
}

#[tokio::test]
async fn plain_http_goes_through_two_sidecars() {
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let asked = hyper::Request::post("/orders?x=1").header("host", "echo:9090");
    let asked = asked.body("an order".to_owned()).expect("a request");
    let outbound = pair.client.address("outbound");
    let (status, _, body) = crate::harness::request(outbound, asked).await.expect("answered");
    assert_eq!(status, 200, "{body}");
    let told: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&told["method"], &told["path"]), (&"POST".into(), &"/orders?x=1".into()));
    assert_eq!((&told["body"], &told["version"]), (&"an order".into(), &"HTTP/1.1".into()));
    let peer = told["headers"]["x-forwarded-client-cert"].as_str().expect("the caller's identity");
    assert!(peer.contains(&spiffe_id("caller")), "{peer}");
}

/// Whether `caller` may call, by what the server's sidecar says.
async fn outcome(pair: &StaticPair) -> Result<(), (Code, String)> {
    let mut client = echo_client(pair.client.address("outbound"), "echo:9090");
    match client.unary("hello".to_owned()).await {
        Ok(_) => Ok(()),
        Err(status) => Err((status.code(), text(status.metadata(), "outrigger-reason").to_owned())),
    }
}

const DENY: &str = "---
apiVersion: outrigger.dev/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  targetRefs: [{kind: Service, name: echo}]
  action: Deny
  rules: [{from: [{services: [caller]}]}]
";

#[tokio::test]
async fn a_reload_takes_the_new_file_and_a_bad_one_keeps_the_last_good() {
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    outcome(&pair).await.expect("allowed without a policy");

    let allowing = service_yaml("echo", 9090);
    pair.place.write("server.yaml", &(allowing.clone() + DENY));
    pair.server.signal(Signal::HUP);
    let denied = Err((Code::PermissionDenied, "denied".to_owned()));
    let expect = async |expected: &Result<(), (Code, String)>| {
        eventually(SOON, async || {
            let found = outcome(&pair).await;
            if found == *expected { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    };
    expect(&denied).await;

    let bad = allowing.clone() + &DENY.replace("action: Deny", "action: Dney");
    pair.place.write("server.yaml", &bad);
    pair.server.signal(Signal::HUP);
    pair.server.logs("Dney").await;
    pair.server.logs("server.yaml:").await;
    assert_eq!(outcome(&pair).await, denied, "the last good one runs on");
    // Not even YAML.
    pair.place.write("server.yaml", "kind: {");
    pair.server.signal(Signal::HUP);
    pair.server.logs("server.yaml:1").await;
    assert_eq!(outcome(&pair).await, denied, "the last good one runs on");

    pair.place.write("server.yaml", &allowing);
    pair.server.signal(Signal::HUP);
    expect(&Ok(())).await;
}

#[tokio::test]
async fn a_reload_takes_new_certificates() {
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let mut client = echo_client(pair.client.address("outbound"), "echo:9090");
    let hash = async |client: &mut crate::harness::echo::echo_client::EchoClient<_>| {
        let response = client.unary(String::new()).await.expect("answered");
        let told = text(response.metadata(), "echoed-x-forwarded-client-cert").to_owned();
        told.split(';').find(|part| part.starts_with("Hash=")).expect("a hash").to_owned()
    };
    let first = hash(&mut client).await;
    let admin = pair.client.address("admin");
    let before = get(admin, "/certificates").await.expect("shown");
    pair.certificates.issue("caller", &spiffe_id("caller"));
    pair.client.signal(Signal::HUP);
    eventually(SOON, async || match get(admin, "/certificates").await? {
        now if now == before => Err("still the old certificate".to_owned()),
        _ => Ok(()),
    })
    .await;
    // A connection made before keeps its certificate. A new caller comes to the worker that has
    // none yet, and its connection has the new one.
    let mut other = echo_client(pair.client.address("outbound"), "echo:9090");
    assert_ne!(hash(&mut other).await, first);
}

#[tokio::test]
async fn sigterm_lets_streams_under_way_end_in_order() {
    let app = App::start("one").await;
    let Some(mut pair) = StaticPair::start(app.address).await else { return };
    let mut client = echo_client(pair.client.address("outbound"), "echo:9090");
    for who in ["server", "client"] {
        let request = with("20".to_owned(), &[("echo-delay", "100")]);
        let mut counted = client.count(request).await.expect("a head").into_inner();
        assert_eq!(counted.message().await.expect("goes on").as_deref(), Some("0"));
        let ending = if who == "server" { &mut pair.server } else { &mut pair.client };
        ending.signal(Signal::TERM);
        let rest: Vec<_> = counted.map(|text| text.expect("goes on to its end")).collect().await;
        assert_eq!(rest.len(), 19, "{who}");
        assert_eq!(ending.end(DRAINED).await.code(), Some(0), "{who}");
        if who == "server" {
            let file = pair.place.path("server.yaml");
            let mut args = sidecar_args(&[&file]);
            args.extend(pair.certificates.issue("server", &spiffe_id("echo")));
            args.extend(["--app".into(), format!("9090={}", app.address)]);
            pair.server = Program::start(&pair.place, "server", &args).await;
            let known = service_yaml("echo", 9090)
                + &workload_yaml(
                    "echo-1",
                    "echo",
                    pair.server.address("inbound").port(),
                    &spiffe_id("echo"),
                );
            pair.place.write("client.yaml", &known);
            pair.client.signal(Signal::HUP);
            eventually(SOON, async || outcome(&pair).await.map_err(|why| format!("{why:?}"))).await;
        }
    }
}

#[tokio::test]
async fn a_server_of_another_identity_or_root_is_not_talked_to() {
    let app = App::start("one").await;
    let Some(pair) = StaticPair::start(app.address).await else { return };
    let place = &pair.place;
    let strangers = Certificates::called(place, "strangers").expect("openssl is there");
    let stranger = start_static_server(place, &strangers, "stranger", "echo", app.address).await;
    let inbound = pair.server.address("inbound").port();
    let cases = [
        ("a wrong identity", inbound, spiffe_id("payments")),
        ("another root", stranger.address("inbound").port(), spiffe_id("echo")),
    ];
    let before = app.calls().len();
    for (what, inbound, id) in cases {
        let known = service_yaml("echo", 9090) + &workload_yaml("echo-1", "echo", inbound, &id);
        place.write("client.yaml", &known);
        pair.client.signal(Signal::HUP);
        eventually(SOON, async || match outcome(&pair).await {
            Err((Code::Unavailable, reason)) if reason == "peer_identity" => Ok(()),
            found => Err(format!("{what}: {found:?}")),
        })
        .await;
    }
    assert_eq!(app.calls().len(), before, "nothing of it reached the application");
}

#[tokio::test]
async fn a_sidecar_does_not_start_on_broken_files() {
    let place = Place::new();
    let Some(certificates) = Certificates::new(&place) else { return };
    let mine = certificates.issue("mine", &spiffe_id("mine"));
    let other = Certificates::called(&place, "other").expect("openssl is there");
    let theirs = other.issue("mine", &spiffe_id("mine"));
    let good = place.write("good.yaml", &service_yaml("mine", 9090));
    let bad = place.write("bad.yaml", "kind: Service\nmetadata: {nmae: x}\n");
    let absent = place.path("absent.yaml");
    let empty = place.write("empty.yaml", "# nothing yet\n");
    let mut mixed = mine[..4].to_vec();
    mixed.extend_from_slice(&theirs[4..]);
    let cases = [
        (&absent, &mine, "absent.yaml"),
        (&bad, &mine, "the configuration is refused\n"),
        (&bad, &mine, "bad.yaml:"),
        (&good, &mixed, "is not that of the CA that it names"),
        (&empty, &mine, "no resources in "),
    ];
    for (file, certificates, expected) in cases {
        let mut args = sidecar_args(&[file]);
        args.extend(certificates.iter().cloned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = place.run(&args).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.stderr.contains(expected), "{expected}: {said:?}");
    }
    // A key that others can read is as good as published.
    let key = &mine[3];
    let mut open = fs::metadata(key).expect("a key").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o644);
    fs::set_permissions(key, open).expect("set");
    let mut args = sidecar_args(&[&good]);
    args.extend(mine.iter().cloned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = place.run(&args).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("mine-key.pem"), "{said:?}");
}
