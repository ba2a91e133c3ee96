//! Starting, ending and starting again; what is kept and what is refused.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Plane, data, discovery::held, hello, soon, subscription};
use crate::{
    clock,
    control::{ControlPlane, OpenError, Options, Root, StoreError, sample::service},
    identity::{Authority, JoinToken},
    resource::pb::{self, WorkloadPhase, subscribe_request::Message},
    units::ServiceName,
};

#[tokio::test]
async fn a_restart_keeps_configuration_root_tokens_and_credential() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/orders", "")]).await;
    let hour = Duration::from_secs(3600);
    let name = || ServiceName::new("orders", "shop");
    let used = plane.control.create_token(name(), 1, hour, "a test").await.expect("made");
    let fresh = plane.control.create_token(name(), 1, hour, "a test").await.expect("made");
    let join = async |plane: &Plane, token: &str| {
        let csr = crate::identity::csr::make().expect("made").csr;
        let request = pb::JoinRequest { token: token.to_owned(), csr };
        soon(plane.caller(None).identity().join(request)).await
    };
    join(&plane, &used).await.expect("joined");
    let root = plane.control.root_hash();
    let credential = std::fs::read(&plane.control.credential().certificate).expect("is there");

    let plane = plane.restart().await;
    assert_eq!(plane.control.root_hash(), root);
    let again = std::fs::read(&plane.control.credential().certificate).expect("is there");
    assert_eq!(again, credential, "contexts stay good");
    let admin = plane.admin();
    admin.get("Service", "shop/orders").await.expect("is kept");
    assert_eq!(admin.status().await.revision, 1);
    let refused = join(&plane, &used).await.expect_err("refused");
    assert_eq!(refused.get_details_error_info().expect("details").reason, "TOKEN_USED");
    join(&plane, &fresh).await.expect("joined");
    assert_eq!(JoinToken::parse(&fresh).expect("a token").root_hash(), root);
}

#[tokio::test]
async fn endpoints_stay_over_a_restart_until_they_had_time_to_come_back() {
    let plane = Plane::start().await;
    let orders = plane.workload("shop/orders").sidecar(hello("shop/orders", "orders-1")).await;
    orders.report(WorkloadPhase::Ready).await;
    plane.admin().status_when(|it| it.services.iter().any(|it| it.ready == 1)).await;
    let with = |held| pb::Hello {
        subscriptions: vec![subscription("shop/orders")],
        held,
        ..hello("shop/web", "web-1")
    };
    let mut web = plane.workload("shop/web").sidecar(with(Vec::new())).await;
    let first = web.next().await.expect("a message");
    assert_eq!(first.changed.len(), 3, "{first:?}");
    let held = |resource: &pb::Resource| pb::Held {
        resource: crate::resource::key(resource).map(|key| key.to_pb()),
        resource_version: resource.metadata.clone().unwrap_or_default().resource_version,
    };
    let holds: Vec<_> = first.changed.iter().map(held).collect();

    let plane = plane.restart().await;
    let mut web = plane.workload("shop/web").sidecar(with(holds)).await;
    // Nothing is changed or removed, though orders-1 is not back.
    assert_eq!(web.hear().await, ["!web.shop", "!orders.shop"]);
    // Who knew nothing of it hears of it too.
    let caller = plane.workload("shop/web");
    let new = caller.sidecar(pb::Hello {
        subscriptions: vec![subscription("shop/orders")],
        ..hello("shop/web", "web-2")
    });
    let heard = new.await.hear_until("!orders.shop").await;
    assert!(heard.contains(&"+Workload shop/orders-1".to_owned()), "{heard:?}");
    // It comes back as it was: nothing to tell. What comes next is about another.
    let caller = plane.workload("shop/orders");
    let orders = caller.sidecar(hello("shop/orders", "orders-1")).await;
    orders.report(WorkloadPhase::Ready).await;
    let two = caller.sidecar(hello("shop/orders", "orders-2")).await;
    two.report(WorkloadPhase::Ready).await;
    assert_eq!(web.hear().await, ["+Workload shop/orders-2"]);
    web.say(Message::Subscribe(subscription("shop/orders"))).await;
    assert_eq!(web.hear().await, ["!orders.shop"]);
}

#[tokio::test]
async fn the_end_is_told_to_streams_and_comes_soon() {
    let plane = Plane::start().await;
    let mut sidecar = plane.workload("shop/orders").sidecar(hello("shop/orders", "orders-1")).await;
    sidecar.hear_until("!orders.shop").await;
    let request = pb::WatchRequest::default();
    let watch = soon(plane.admin().config().watch(request)).await.expect("accepted");
    plane.stop.cancel();
    let ended = loop {
        if let Err(status) = sidecar.next().await {
            break status;
        }
    };
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.get_details_retry_info().is_some(), "{ended:?}");
    drop(watch);
    plane.stop().await;
}

#[tokio::test]
async fn one_directory_has_one_control_plane_trust_domain_and_root() {
    let plane = Plane::start().await;
    let options = |trust_domain: &str| Options::new(data(plane.directory.path()), trust_domain);
    assert!(matches!(ControlPlane::open(options("mesh.local")), Err(OpenError::Data(_))));
    let options = options("mesh.local");
    let directory = plane.stop().await;
    let opened =
        ControlPlane::open(Options { trust_domain: "other.local".into(), ..options.clone() });
    assert!(matches!(opened, Err(OpenError::Store(StoreError::TrustDomain { .. }))), "{opened:?}");
    let opened =
        ControlPlane::open(Options { trust_domain: "Not A Domain".into(), ..options.clone() });
    assert!(matches!(opened, Err(OpenError::TrustDomain(..))), "{opened:?}");
    let other = tempfile::tempdir().expect("a directory");
    let brought = Authority::create("mesh.local", clock::now()).expect("made");
    brought.save(other.path()).expect("saved");
    let pem = std::fs::read(other.path().join("authority.pem")).expect("is there");
    let key = String::from_utf8(pem.clone()).expect("PEM");
    let root = Some(Root { certificates: pem, key });
    let opened = ControlPlane::open(Options { root: root.clone(), ..options.clone() });
    assert!(matches!(opened, Err(OpenError::OtherRoot(_))), "{opened:?}");
    drop(directory);

    // In a new directory the one that was brought is used, also by a start without it.
    let fresh = tempfile::tempdir().expect("a directory");
    let options = Options { data: fresh.path().to_owned(), ..options };
    let opened = ControlPlane::open(Options { root, ..options.clone() }).expect("opens");
    assert_eq!(opened.root_hash(), brought.root_hash());
    drop(opened);
    let opened = ControlPlane::open(options).expect("opens");
    assert_eq!(opened.root_hash(), brought.root_hash());
}

#[tokio::test]
async fn nothing_secret_is_readable_by_others() {
    let plane = Plane::start().await;
    let secret = plane
        .control
        .create_token(ServiceName::new("orders", "shop"), 1, Duration::from_secs(60), "a test")
        .await
        .expect("made");
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("is there").permissions().mode() & 0o777
    };
    let directory = data(plane.directory.path());
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&plane.control.credential().key), 0o600);
    assert_eq!(mode(&directory.join("authority.pem")), 0o600);
    let shown = format!("{:?} {}", plane.control, plane.control.metrics());
    assert!(!shown.contains("PRIVATE") && !shown.contains(&secret), "{shown}");
    let store = std::fs::read(directory.join("mesh.redb")).expect("is there");
    let holds = |text: &[u8]| store.windows(text.len()).any(|window| window == text);
    assert!(holds(b"orders") && !holds(&secret.as_bytes()[30..60]), "only a hash is stored");
}

#[tokio::test]
async fn the_metrics_name_what_happened() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/orders", "")]).await;
    let mut sidecar = plane.workload("shop/orders").sidecar(hello("shop/orders", "orders-1")).await;
    let first = sidecar.next().await.expect("a message");
    sidecar.say(Message::Ack(pb::Ack { resources: held(&first) })).await;
    let in_sync = |status: &pb::StatusResponse| status.sidecars.iter().any(|it| it.in_sync);
    admin.status_when(in_sync).await;
    admin.apply(vec![service("shop/catalog", "")]).await;
    admin.status_when(in_sync).await;
    let text = plane.control.metrics();
    for line in [
        "outrigger_store_revision 2",
        "outrigger_store_resources 2",
        "outrigger_config_propagation_seconds_count 1",
        "outrigger_sidecars{state=\"starting\"} 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
    }
    assert!(text.contains("\nprocess_cpu_seconds_total"), "{text}");
    assert!(plane.control.is_healthy());
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let mut health = tonic_health::pb::health_client::HealthClient::new(admin.channel.clone());
    for service in ["", "outrigger.v1.ConfigService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = soon(health.check(request)).await.expect("answers").into_inner();
        assert_eq!(
            answer.status(),
            tonic_health::pb::health_check_response::ServingStatus::Serving
        );
    }
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(
            admin.channel.clone(),
        );
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            tonic_reflection::pb::v1::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            ),
        ),
    };
    let requests = tokio_stream::once(request);
    let mut answers =
        soon(reflection.server_reflection_info(requests)).await.expect("answers").into_inner();
    let answer = soon(answers.message()).await.expect("open").expect("an answer");
    let text = format!("{answer:?}");
    for service in
        ["ConfigService", "DiscoveryService", "IdentityService", "AdminService", "Health"]
    {
        assert!(text.contains(service), "{service} in {text}");
    }
    drop(Arc::clone(&plane.directory));
}
