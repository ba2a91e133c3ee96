//! The log of revisions: history, differences, rollback, writes that come twice, and watches that go
//! on where they were.

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Caller, Plane, hello, id, soon, subscription};
use crate::{
    control::sample::{labels, route, service},
    resource::pb::{self, watch_response::Event},
};

fn labelled(name: &str, text: &str) -> pb::Resource {
    let mut resource = service(name, "");
    resource.metadata.as_mut().expect("set").labels = labels(text);
    resource
}

async fn history(admin: &Caller, request: pb::HistoryRequest) -> pb::HistoryResponse {
    soon(admin.config().history(request)).await.expect("told").into_inner()
}

async fn rollback(admin: &Caller, to: u64) -> Result<pb::RollbackResponse, tonic::Status> {
    let request = pb::RollbackRequest { revision: to, ..Default::default() };
    Ok(soon(admin.config().rollback(request)).await?.into_inner())
}

/// "+name", "~name: fields" and "-name" of what differs.
async fn diff(admin: &Caller, request: pb::DiffRequest) -> Result<Vec<String>, tonic::Status> {
    let mut stream = soon(admin.config().diff(request)).await?.into_inner();
    let head = soon(stream.message()).await?.expect("a head");
    assert!(head.change.is_none(), "{head:?}");
    let mut found = Vec::new();
    while let Some(told) = soon(stream.message()).await? {
        let change = told.change.expect("a change");
        let name = change.resource.clone().expect("a name").name;
        found.push(match (told.before, told.after) {
            (None, Some(_)) => format!("+{name}"),
            (Some(_), None) => format!("-{name}"),
            _ => format!("~{name}: {}", change.fields.join(",")),
        });
    }
    Ok(found)
}

fn between(from: u64, to: u64) -> pb::DiffRequest {
    pb::DiffRequest { from_revision: Some(from), to_revision: Some(to), ..Default::default() }
}

#[tokio::test]
async fn rollback_brings_back_what_was_also_after_a_restart() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![labelled("shop/a", "is=1"), service("shop/b", "")]).await;
    let first = admin.get("Service", "shop/a").await.expect("is there");
    admin.apply(vec![labelled("shop/a", "is=2"), service("shop/c", "")]).await;
    admin.delete(vec![id("Service", "shop/b")]).await;
    let plane = plane.restart().await;
    let admin = plane.admin();
    assert_eq!(
        diff(&admin, between(1, 3)).await.expect("told"),
        ["~a: metadata.labels.is", "-b", "+c"]
    );
    let tried = pb::RollbackRequest { revision: 1, dry_run: true, ..Default::default() };
    let tried = soon(admin.config().rollback(tried)).await.expect("tried").into_inner();
    assert_eq!((tried.revision, tried.changes.len()), (3, 3));

    let done = rollback(&admin, 1).await.expect("done");
    assert_eq!(done.revision, 4);
    assert_eq!(diff(&admin, between(1, 4)).await.expect("told"), Vec::<String>::new());
    let back = admin.get("Service", "shop/a").await.expect("is there");
    let metadata = |resource: &pb::Resource| resource.metadata.clone().expect("set");
    assert_eq!(metadata(&back).labels, labels("is=1"));
    assert_eq!(metadata(&back).creation_timestamp, metadata(&first).creation_timestamp);
    assert!(admin.get("Service", "shop/c").await.is_err());

    let log = history(&admin, pb::HistoryRequest { page_size: 2, ..Default::default() }).await;
    let said: Vec<_> =
        log.revisions.iter().map(|it| (it.revision, it.message.as_str(), it.rollback_to)).collect();
    assert_eq!(said, [(4, "rollback to 1", Some(1)), (3, "", None)]);
    assert_eq!((log.oldest_reachable, log.newest), (0, 4));
    let next = pb::HistoryRequest { page_token: log.next_page_token, ..Default::default() };
    assert_eq!(history(&admin, next).await.revisions.len(), 2);
    let of_b = pb::HistoryRequest { resource: Some(id("Service", "shop/b")), ..Default::default() };
    let of_b: Vec<_> = history(&admin, of_b).await.revisions.iter().map(|it| it.revision).collect();
    assert_eq!(of_b, [4, 3, 1]);

    // To what is now: nothing to do, and no revision.
    assert_eq!(rollback(&admin, 4).await.expect("nothing to do").revision, 4);
    // To the beginning: nothing is left.
    rollback(&admin, 0).await.expect("done");
    assert!(admin.get("Service", "shop/a").await.is_err());
    let never = rollback(&admin, 99).await.expect_err("never was");
    assert_eq!(never.code(), Code::OutOfRange);
    assert_eq!(never.get_details_error_info().expect("details").reason, "NO_SUCH_REVISION");
}

#[tokio::test]
async fn a_rollback_leaves_registrations_alone() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let caller = plane.workload("shop/orders");
    let mut sidecar = caller.sidecar(hello("shop/orders", "orders-1")).await;
    sidecar.hear_until("!orders.shop").await;
    // It belongs to the registration, then to a user, then to the registration again.
    admin.apply(vec![labelled("shop/orders", "mine=yes"), service("shop/other", "")]).await;
    let done = rollback(&admin, 0).await.expect("done");
    assert_eq!(done.revision, 2);
    let orders = admin.get("Service", "shop/orders").await.expect("still there");
    let metadata = orders.metadata.expect("set");
    assert!(metadata.resource_version.starts_with('r'), "{metadata:?}");
    assert_eq!(metadata.labels.get("mine"), None);
    assert!(admin.get("Service", "shop/other").await.is_err());
    let plane = plane.restart().await;
    plane.admin().get("Service", "shop/orders").await.expect("also after a restart");
}

#[tokio::test]
async fn a_difference_to_what_is_not_applied_writes_nothing() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![labelled("shop/a", "is=1"), service("shop/b", "")]).await;
    let resources = vec![labelled("shop/a", "is=2"), service("shop/b", ""), service("shop/c", "")];
    let request = pb::DiffRequest { resources, ..Default::default() };
    let told = diff(&admin, request).await.expect("told");
    assert_eq!(told, ["~a: metadata.labels.is", "+c"]);
    assert_eq!(admin.apply(vec![service("shop/b", "")]).await.revision, 1);
}

#[tokio::test]
async fn a_request_that_comes_twice_is_carried_out_once() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let request = |label: &str| pb::ApplyRequest {
        resources: vec![labelled("shop/a", label)],
        expect_revision: Some(0),
        request_id: "one".to_owned(),
        ..Default::default()
    };
    let apply = async |admin: &Caller, request| soon(admin.config().apply(request)).await;
    let first = apply(&admin, request("is=1,and=2")).await.expect("done").into_inner();
    admin.apply(vec![labelled("shop/a", "is=9")]).await;
    // Its answer was lost, others wrote meanwhile, the control plane was started anew.
    let plane = plane.restart().await;
    let admin = plane.admin();
    let again = apply(&admin, request("and=2,is=1")).await.expect("done").into_inner();
    assert_eq!((again.revision, again.repeated_request), (first.revision, true));
    assert_eq!(again.changes, first.changes);
    let now = admin.get("Service", "shop/a").await.expect("is there").metadata.expect("set");
    assert_eq!(now.labels, labels("is=9"), "not written again");
    let other = apply(&admin, request("is=3")).await.expect_err("another write");
    assert_eq!(other.code(), Code::InvalidArgument);
    let delete = pb::DeleteRequest {
        resources: vec![id("Service", "shop/a")],
        request_id: "two".to_owned(),
        ..Default::default()
    };
    for repeated in [false, true] {
        let deleted = soon(admin.config().delete(delete.clone())).await.expect("done");
        let deleted = deleted.into_inner();
        assert_eq!((deleted.revision, deleted.repeated_request), (3, repeated));
        assert!(deleted.problems.is_empty(), "{deleted:?}");
    }
}

#[tokio::test]
async fn whoever_read_an_older_version_does_not_write_over_a_newer_one() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![labelled("shop/a", "is=1")]).await;
    let mut read = admin.get("Service", "shop/a").await.expect("is there");
    admin.apply(vec![labelled("shop/a", "is=2")]).await;
    read.metadata.as_mut().expect("set").labels = labels("is=3");
    let refused = admin.apply(vec![read.clone(), service("shop/b", "")]).await;
    assert_eq!(refused.revision, 2);
    assert_eq!(refused.problems.len(), 1, "{refused:?}");
    assert_eq!(refused.problems[0].field, "metadata.resourceVersion");
    assert!(admin.get("Service", "shop/b").await.is_err(), "all or nothing");
    admin.delete(vec![id("Service", "shop/a")]).await;
    let refused = admin.apply(vec![read]).await;
    assert_eq!(refused.problems[0].message, "was deleted meanwhile");
    // Read, changed and written without anybody in between.
    admin.apply(vec![labelled("shop/a", "is=1")]).await;
    let mut read = admin.get("Service", "shop/a").await.expect("is there");
    read.metadata.as_mut().expect("set").labels = labels("is=4");
    assert!(admin.apply(vec![read]).await.problems.is_empty());
}

#[tokio::test]
async fn a_dry_run_names_the_sidecars_that_would_be_told() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/orders", ""), service("shop/catalog", "")]).await;
    let caller = plane.workload("shop/orders");
    let mut sidecar = caller.sidecar(hello("shop/orders", "orders-1")).await;
    sidecar.hear_until("!orders.shop").await;
    sidecar.say(pb::subscribe_request::Message::Subscribe(subscription("shop/catalog"))).await;
    sidecar.hear_until("!catalog.shop").await;
    let mut idle = caller.sidecar(hello("shop/orders", "orders-2")).await;
    idle.hear_until("!orders.shop").await;
    let tried = async |resources| {
        let request = pb::ApplyRequest { resources, dry_run: true, ..Default::default() };
        let tried = soon(admin.config().apply(request)).await.expect("tried").into_inner();
        let names: Vec<_> = tried.sidecars.iter().map(|it| it.workload.clone()).collect();
        assert_eq!(usize::try_from(tried.sidecars_total), Ok(names.len()));
        names.join(" ")
    };
    assert_eq!(tried(vec![route("shop/r", "catalog", &["catalog"])]).await, "orders-1");
    assert_eq!(tried(vec![labelled("shop/orders", "a=b")]).await, "orders-1 orders-2");
    assert_eq!(tried(vec![service("web/front", "")]).await, "");
    assert_eq!(tried(vec![service("shop/orders", "")]).await, "", "unchanged");
}

/// Hears a watch in words.
async fn hear(stream: &mut tonic::Streaming<pb::WatchResponse>) -> String {
    let heard = soon(stream.message()).await.expect("open").expect("not the end");
    match heard.event.expect("set") {
        Event::Changed(it) => format!("+{}", it.metadata.expect("set").name),
        Event::Removed(it) => format!("-{}", it.name),
        Event::Synced(_) => format!("synced {}", heard.revision),
    }
}

async fn hear_to_sync(stream: &mut tonic::Streaming<pb::WatchResponse>) -> Vec<String> {
    let mut heard = Vec::new();
    while !heard.last().is_some_and(|it: &String| it.starts_with("synced")) {
        heard.push(hear(stream).await);
    }
    heard
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/a", ""), service("shop/b", "")]).await;
    let from = |revision, kind: &str, store: &str| pb::WatchRequest {
        kinds: vec![kind.to_owned()],
        from_revision: Some(revision),
        store: store.to_owned(),
        ..Default::default()
    };
    let routes = async |admin: &Caller, from| soon(admin.config().watch(from)).await;
    admin.apply(vec![route("shop/r1", "a", &["a"]), route("shop/r2", "a", &["a"])]).await;
    let mut stream = routes(&admin, from(2, "GRPCRoute", "")).await.expect("accepted").into_inner();
    let first = soon(stream.message()).await.expect("open").expect("synced");
    assert!(matches!(first.event, Some(Event::Synced(true))), "nothing since: {first:?}");
    drop(stream);
    admin.apply(vec![route("shop/r1", "a", &["b"])]).await;
    admin.delete(vec![id("GRPCRoute", "shop/r2")]).await;
    admin.apply(vec![route("shop/r3", "a", &["b"])]).await;
    let plane = plane.restart().await;
    let admin = plane.admin();
    let resumed = routes(&admin, from(2, "GRPCRoute", &first.store)).await.expect("accepted");
    let heard = hear_to_sync(&mut resumed.into_inner()).await;
    assert_eq!(heard, ["+r1", "+r3", "-r2", "synced 5"]);

    // Which live workloads went before the first start is not known.
    for (refused, reason) in [
        (from(0, "Workload", ""), "REVISION_TOO_OLD"),
        (from(2, "GRPCRoute", "another"), "REVISION_TOO_OLD"),
        (from(6, "GRPCRoute", ""), "NO_SUCH_REVISION"),
    ] {
        let refused = routes(&admin, refused).await.expect_err("refused");
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(refused.get_details_error_info().expect("details").reason, reason);
    }
}

#[tokio::test]
async fn a_watch_that_goes_on_hears_of_live_workloads_that_went() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/other", "")]).await;
    let caller = plane.workload("shop/orders");
    let mut sidecar = caller.sidecar(hello("shop/orders", "orders-1")).await;
    sidecar.hear_until("!orders.shop").await;
    sidecar.report(pb::WorkloadPhase::Ready).await;
    let request = |from| pb::WatchRequest {
        kinds: vec!["Workload".into()],
        from_revision: from,
        ..Default::default()
    };
    let watch = async |from| soon(admin.config().watch(request(from))).await;
    let mut stream = watch(None).await.expect("accepted").into_inner();
    // It may not have come yet when the stream begins.
    while hear(&mut stream).await != "+orders-1" {}
    drop(stream);
    drop(sidecar);
    admin.status_when(|status| status.sidecars.is_empty()).await;
    let mut stream = watch(Some(1)).await.expect("accepted").into_inner();
    assert_eq!(hear_to_sync(&mut stream).await, ["-orders-1", "synced 1"]);

    // After an end in order that is known too; after another one it is said that it is not.
    let mut directory = plane.stop().await;
    for known in [true, false] {
        let plane = Plane::again(&directory).await;
        let request = request(Some(1));
        match soon(plane.admin().config().watch(request)).await {
            Ok(stream) => {
                let heard = hear_to_sync(&mut stream.into_inner()).await;
                assert_eq!((known, &*heard.join(" ")), (true, "-orders-1 synced 1"));
            }
            Err(refused) => {
                assert_eq!((known, refused.code()), (false, Code::OutOfRange));
                let details = refused.get_details_error_info().expect("details");
                assert_eq!(details.reason, "REVISION_TOO_OLD");
            }
        }
        directory = plane.stop().await;
        // As a crash leaves it.
        std::fs::remove_file(super::data(directory.path()).join("workloads.bin")).expect("there");
    }
}
