//! `Subscribe` as a sidecar sees it, and what status says of it.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Plane, hello, id, subscription};
use crate::{
    clock,
    control::sample::{authorization, route, service},
    resource::pb::{self, WorkloadPhase, subscribe_request::Message},
};

pub(super) fn held(message: &pb::SubscribeResponse) -> Vec<pb::Held> {
    message
        .changed
        .iter()
        .map(|resource| pb::Held {
            resource: crate::resource::key(resource).map(|key| key.to_pb()),
            resource_version: resource.metadata.clone().unwrap_or_default().resource_version,
        })
        .collect()
}

#[tokio::test]
async fn a_sidecar_gets_its_own_side_first_and_what_it_uses_when_it_asks() {
    let plane = Plane::start().await;
    plane
        .admin()
        .apply(vec![
            service("shop/orders", ""),
            service("shop/catalog", ""),
            service("shop/catalog-v2", ""),
            route("shop/canary", "catalog", &["catalog", "catalog-v2"]),
            authorization("shop/guard", &["orders"]),
            service("other/far", ""),
        ])
        .await;
    let mut sidecar = plane.workload("shop/orders").sidecar(hello("shop/orders", "orders-1")).await;
    let first = sidecar.next().await.expect("a message");
    assert_eq!(
        super::words(&first),
        ["+Service shop/orders", "+AuthorizationPolicy shop/guard", "!orders.shop"]
    );
    assert_eq!(first.revision, 1);
    assert_eq!(first.namespaces.expect("told").names, ["other", "shop"]);

    sidecar.say(Message::Subscribe(subscription("shop/catalog"))).await;
    let heard = sidecar.hear().await;
    assert_eq!(
        heard,
        [
            "+Service shop/catalog",
            "+Service shop/catalog-v2",
            "+GRPCRoute shop/canary",
            "!catalog.shop"
        ]
    );
    sidecar.say(Message::Subscribe(subscription("shop/nothing"))).await;
    assert_eq!(sidecar.hear().await, ["?nothing.shop"]);
    // What did not exist is told when it does.
    plane.admin().apply(vec![service("shop/nothing", "")]).await;
    assert_eq!(sidecar.hear().await, ["+Service shop/nothing", "!nothing.shop"]);

    let unsubscribe = pb::UnsubscribeService { name: "catalog".into(), namespace: "shop".into() };
    sidecar.say(Message::Unsubscribe(unsubscribe)).await;
    assert_eq!(
        sidecar.hear().await,
        ["-GRPCRoute shop/canary", "-Service shop/catalog", "-Service shop/catalog-v2"]
    );
}

#[tokio::test]
async fn who_comes_again_gets_only_what_differs() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/orders", ""), service("shop/catalog", "")]).await;
    let caller = plane.workload("shop/orders");
    let with = |held: Vec<pb::Held>| pb::Hello {
        subscriptions: vec![subscription("shop/catalog")],
        held,
        ..hello("shop/orders", "orders-1")
    };
    let mut first = caller.sidecar(with(Vec::new())).await;
    let mut holds = held(&first.next().await.expect("a message"));
    drop(first);
    holds.push(pb::Held {
        resource: Some(id("Service", "shop/long-gone")),
        resource_version: "1".into(),
    });
    admin.apply(vec![service("shop/catalog", "app=x")]).await;
    let mut again = caller.sidecar(with(holds)).await;
    let heard = again.hear().await;
    assert_eq!(
        heard,
        ["+Service shop/catalog", "-Service shop/long-gone", "!orders.shop", "!catalog.shop"]
    );
}

#[tokio::test]
async fn endpoints_come_go_and_drain() {
    let plane = Plane::start().await;
    let mut web = plane.workload("shop/web").sidecar(hello("shop/web", "web-1")).await;
    web.say(Message::Subscribe(subscription("shop/orders"))).await;
    web.hear_until("?orders.shop").await;
    let orders = plane.workload("shop/orders");
    let one = orders.sidecar(hello("shop/orders", "orders-1")).await;
    one.report(WorkloadPhase::Ready).await;
    // The first workload makes its service.
    let heard = web.hear_until("+Workload shop/orders-1").await;
    assert!(heard.contains(&"+Service shop/orders".to_owned()), "{heard:?}");
    let two = orders.sidecar(hello("shop/orders", "orders-2")).await;
    two.report(WorkloadPhase::Ready).await;
    assert_eq!(web.hear().await, ["+Workload shop/orders-2"]);
    two.report(WorkloadPhase::Draining).await;
    let drained = web.next().await.expect("a message");
    assert_eq!(super::words(&drained), ["+Workload shop/orders-2"]);
    let Some(pb::resource::Spec::Workload(workload)) = &drained.changed[0].spec else {
        unreachable!("{drained:?}")
    };
    assert_eq!(workload.ready, Some(false));
    drop(two);
    assert_eq!(web.hear().await, ["-Workload shop/orders-2"]);
    drop(one);
    assert_eq!(web.hear().await, ["-Workload shop/orders-1"]);
    let admin = plane.admin();
    let left = admin.get("Service", "shop/orders").await.expect("is kept until deleted");
    assert_eq!(left.metadata.expect("set").name, "orders");
}

#[tokio::test]
async fn status_shows_what_each_sidecar_runs_and_refuses() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let mut sidecar = plane.workload("shop/orders").sidecar(hello("shop/orders", "orders-1")).await;
    sidecar.report(WorkloadPhase::Ready).await;
    let first = sidecar.next().await.expect("a message");
    sidecar.say(Message::Ack(pb::Ack { resources: held(&first) })).await;
    admin
        .status_when(|status| {
            let sidecar = &status.sidecars.first();
            sidecar.is_some_and(|it| it.in_sync && it.phase() == WorkloadPhase::Ready)
        })
        .await;

    admin
        .apply(vec![authorization("shop/one", &["orders"]), authorization("shop/two", &["orders"])])
        .await;
    let mut pushed = Vec::new();
    while pushed.len() < 2 {
        pushed.extend(held(&sidecar.next().await.expect("a message")));
    }
    let status = admin.status().await;
    assert!(!status.sidecars[0].in_sync && status.sidecars[0].revision == 0, "{status:?}");
    let refused =
        pushed.iter().position(|it| it.resource.as_ref().is_some_and(|it| it.name == "two"));
    let refused = pushed.remove(refused.expect("pushed"));
    let problem = pb::Problem { message: "not today".into(), ..Default::default() };
    sidecar
        .say(Message::Nack(pb::Nack {
            resource: refused.resource.clone(),
            resource_version: refused.resource_version.clone(),
            problems: vec![problem; 100],
        }))
        .await;
    sidecar.say(Message::Ack(pb::Ack { resources: pushed })).await;
    admin.status_when(|status| status.refusals.len() == 1).await;
    let status = admin.status().await;
    assert_eq!(status.refusals[0].workload, "orders-1");
    assert_eq!(status.refusals[0].problems.len(), 20, "bounded");

    // Each of them on its own.
    let programmed = async |name: &str| {
        let resource = admin.get("AuthorizationPolicy", name).await.expect("is there");
        let conditions = resource.status.expect("set").conditions;
        let programmed = conditions.into_iter().find(|it| it.r#type == "Programmed").expect("one");
        (programmed.status, programmed.message)
    };
    assert_eq!(programmed("shop/one").await.0, "True");
    let (status, message) = programmed("shop/two").await;
    assert_eq!(status, "False");
    assert!(message.contains("orders-1: not today"), "{message}");

    // A new version is a new chance.
    admin.delete(vec![id("AuthorizationPolicy", "shop/two")]).await;
    sidecar.hear_until("-AuthorizationPolicy shop/two").await;
    admin.status_when(|status| status.refusals.is_empty() && status.sidecars[0].in_sync).await;
}

#[tokio::test]
async fn status_counts_endpoints_and_traffic() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let web = plane.workload("shop/web").sidecar(hello("shop/web", "web-1")).await;
    let traffic = |total, failed| pb::Traffic {
        source: "liar.shop".into(),
        destination: "orders.shop".into(),
        total,
        failed: [("no_endpoint".to_owned(), failed)].into(),
        latency_buckets: vec![total],
        ..Default::default()
    };
    for (total, failed) in [(100, 50), (110, 53)] {
        web.say(Message::State(pb::WorkloadState {
            phase: WorkloadPhase::Ready.into(),
            in_flight: 3,
            traffic: vec![traffic(total, failed)],
            ..Default::default()
        }))
        .await;
    }
    // What callers ask for in vain is shown too.
    admin.status_when(|status| status.services.len() == 2).await;
    let status = admin.status().await;
    let [orders, web] = status.services.as_slice() else { unreachable!("{status:?}") };
    assert_eq!((orders.name.as_str(), orders.ready, orders.total), ("orders", 0, 0));
    assert_eq!((web.name.as_str(), web.ready, web.total), ("web", 1, 1));
    let seen = &orders.traffic[0];
    assert_eq!((seen.source.as_str(), seen.total, seen.failed["no_endpoint"]), ("web.shop", 10, 3));
    assert_eq!(status.sidecars[0].in_flight, 3);
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert!(status.root_expires_at.is_some() && status.started_at.is_some());
}

#[tokio::test]
async fn what_comes_instead_of_a_hello_ends_the_stream() {
    let plane = Plane::start().await;
    let caller = plane.workload("shop/orders");
    for (wrong, code) in [
        (pb::Hello::default(), Code::InvalidArgument),
        (hello("shop/payments", "payments-1"), Code::PermissionDenied),
        (hello("other/orders", "orders-1"), Code::PermissionDenied),
        (hello("shop/orders", "NOT A LABEL"), Code::InvalidArgument),
    ] {
        let mut sidecar = caller.sidecar(wrong.clone()).await;
        assert_eq!(sidecar.next().await.expect_err("refused").code(), code, "{wrong:?}");
    }
    let mut twice = caller.sidecar(hello("shop/orders", "orders-1")).await;
    twice.hear().await;
    twice.say(Message::Hello(hello("shop/orders", "orders-1"))).await;
    assert_eq!(twice.next().await.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_newer_stream_of_a_workload_takes_over() {
    let plane = Plane::start().await;
    let caller = plane.workload("shop/orders");
    let mut old = caller.sidecar(hello("shop/orders", "orders-1")).await;
    old.report(WorkloadPhase::Ready).await;
    old.hear_until("!orders.shop").await;
    let mut new = caller.sidecar(hello("shop/orders", "orders-1")).await;
    new.hear_until("!orders.shop").await;
    let replaced = loop {
        if let Err(status) = old.next().await {
            break status;
        }
    };
    assert_eq!(replaced.get_details_error_info().expect("has details").reason, "REPLACED");
    assert_eq!(plane.admin().status().await.sidecars.len(), 1);
    // A workload of another service can not take the name.
    let thief = plane.workload("shop/thief");
    let mut thief = thief.sidecar(hello("shop/thief", "orders-1")).await;
    assert_eq!(thief.next().await.expect_err("refused").code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let plane = Plane::start().await;
    // Two seconds are left of it.
    let hour = Duration::from_secs(3600);
    let from = clock::now() - hour + Duration::from_secs(2);
    let caller = plane.caller(Some(&plane.svid("shop/orders", from, hour)));
    let mut sidecar = caller.sidecar(hello("shop/orders", "orders-1")).await;
    sidecar.hear_until("!orders.shop").await;
    let ended = loop {
        if let Err(status) = sidecar.next().await {
            break status;
        }
    };
    assert_eq!(ended.get_details_error_info().expect("has details").reason, "CERTIFICATE_EXPIRED");
    plane.admin().status_when(|status| status.sidecars.is_empty()).await;
}

#[tokio::test]
async fn one_who_does_not_read_holds_up_nobody() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let names: Vec<_> = (0..40).map(|i| format!("shop/s{i:02}")).collect();
    let uses = || names.iter().map(|name| subscription(name)).collect::<Vec<_>>();
    let hello = |service: &str, workload: &str| pb::Hello {
        subscriptions: uses(),
        ..hello(service, workload)
    };
    let big = |round: usize| -> Vec<pb::Resource> {
        let annotate = |name: &String| {
            let mut service = service(name, "");
            let metadata = service.metadata.as_mut().expect("set");
            metadata.annotations.insert("example.com/x".into(), format!("{round}").repeat(100_000));
            service
        };
        names.iter().map(annotate).collect()
    };
    // Its own connection, whose windows fill up.
    let slow = plane.workload("shop/slow").sidecar(hello("shop/slow", "slow-1")).await;
    let mut quick = plane.workload("shop/quick").sidecar(hello("shop/quick", "quick-1")).await;
    let rounds = 9;
    for round in 1..=rounds {
        let written = admin.apply(big(round)).await;
        let mut seen = 0;
        while seen < written.revision {
            seen = quick.next().await.expect("a message").revision;
        }
    }
    // 36 MB were written; of it the slow one gets what is true when it reads at last.
    let mut slow = slow;
    let (mut bytes, mut seen) = (0, 0);
    while seen < u64::try_from(rounds).expect("small") {
        let message = slow.next().await.expect("a message");
        seen = message.revision;
        bytes += prost::Message::encoded_len(&message);
    }
    let all = rounds * 40 * 100_000;
    assert!(bytes < all / 2, "{bytes} of {all} bytes");
}

#[tokio::test]
async fn a_policy_that_a_sidecar_does_not_know_in_full_lets_nobody_in() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let policy = pb::AuthorizationPolicy {
        action: pb::AuthorizationAction::Audit.into(),
        rules: vec![pb::AuthorizationRule::default()],
        ..Default::default()
    };
    let metadata =
        pb::Metadata { name: "p".into(), namespace: "shop".into(), ..Default::default() };
    let policy = pb::Resource {
        metadata: Some(metadata),
        spec: Some(pb::resource::Spec::AuthorizationPolicy(policy)),
        ..Default::default()
    };
    assert!(admin.apply(vec![policy]).await.problems.is_empty());
    let mut known = crate::resource::understood::known();
    known.remove("action=3");
    let mut old = hello("shop/orders", "orders-1");
    old.policy_fields = known.into_iter().collect();
    let mut old = plane.workload("shop/orders").sidecar(old).await;
    let sent = loop {
        let message = old.next().await.expect("a message");
        let is_policy = |it: &&pb::Resource| {
            matches!(it.spec, Some(pb::resource::Spec::AuthorizationPolicy(_)))
        };
        if let Some(policy) = message.changed.iter().find(is_policy) {
            break policy.clone();
        }
    };
    let Some(pb::resource::Spec::AuthorizationPolicy(spec)) = &sent.spec else { unreachable!() };
    assert_eq!(spec.action(), pb::AuthorizationAction::Deny);
    let held = pb::Held {
        resource: Some(id("AuthorizationPolicy", "shop/p")),
        resource_version: sent.metadata.expect("set").resource_version,
    };
    old.say(Message::Ack(pb::Ack { resources: vec![held] })).await;
    // It is told as refused, although the sidecar runs what it was sent.
    admin
        .status_when(|status| {
            status
                .refusals
                .iter()
                .any(|it| it.problems[0].message.contains("does not know action=3"))
        })
        .await;

    // One that knows all of it gets it as it was written.
    let mut new = plane.workload("shop/web").sidecar(hello("shop/web", "web-1")).await;
    let heard = new.next().await.expect("a message");
    let audits = heard.changed.iter().any(|it| match &it.spec {
        Some(pb::resource::Spec::AuthorizationPolicy(spec)) => {
            spec.action() == pb::AuthorizationAction::Audit
        }
        _ => false,
    });
    assert!(audits, "{:?}", super::words(&heard));
}
