//! Writing, reading and watching the configuration.

use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Plane, id, soon};
use crate::{
    control::sample::{mesh, route, service},
    resource::pb::{self, resource::Spec, watch_response::Event},
};

fn changes(changes: &[pb::Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            let id = change.resource.clone().unwrap_or_default();
            format!("{:?} {}", change.kind(), id.name)
        })
        .collect()
}

#[tokio::test]
async fn what_is_applied_is_read_back_with_version_and_status() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let written = admin.apply(vec![service("shop/orders", ""), mesh()]).await;
    assert_eq!(written.revision, 1);
    assert_eq!(changes(&written.changes), ["Created orders", "Created mesh"]);
    assert!(written.problems.is_empty(), "{:?}", written.problems);

    let read = admin.get("Service", "shop/orders").await.expect("is there");
    let metadata = read.metadata.expect("set");
    assert!(metadata.resource_version.starts_with("1-"), "{metadata:?}");
    assert!(metadata.creation_timestamp.is_some());
    assert_eq!(read.spec, service("shop/orders", "").spec);
    let conditions = read.status.expect("set").conditions;
    assert!(conditions.iter().all(|condition| condition.status == "True"), "{conditions:?}");

    // Again the same: no revision.
    let again = admin.apply(vec![service("shop/orders", "")]).await;
    assert_eq!((again.revision, changes(&again.changes)), (1, vec!["Unchanged orders".into()]));

    let deleted = admin.delete(vec![id("Service", "shop/orders")]).await;
    assert_eq!((deleted.revision, changes(&deleted.changes)), (2, vec!["Deleted orders".into()]));
    let gone = admin.get("Service", "shop/orders").await.expect_err("is gone");
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(gone.get_details_error_info().expect("has details").reason, "NO_SUCH_RESOURCE");
}

#[tokio::test]
async fn one_error_refuses_all_and_every_problem_is_told() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let mut other_mesh = mesh();
    if let Some(Spec::Mesh(spec)) = &mut other_mesh.spec {
        spec.trust_domain = "other.local".to_owned();
    }
    let mut no_port = service("shop/orders", "");
    if let Some(Spec::Service(spec)) = &mut no_port.spec {
        spec.ports[0].port = 70_000;
    }
    let good = service("shop/catalog", "");
    let dangling = route("shop/r", "catalog", &["nothing"]);
    let refused = admin.apply(vec![good, no_port, other_mesh, dangling]).await;
    let told: Vec<_> = refused
        .problems
        .iter()
        .map(|it| format!("{:?} {} {}", it.severity(), it.resource.clone().unwrap().name, it.field))
        .collect();
    for problem in [
        "Error orders spec.ports[0].port",
        "Error mesh spec.trustDomain",
        "Warning r spec.rules[0].backendRefs[0]",
    ] {
        assert!(told.iter().filter(|it| *it == problem).count() == 1, "{problem} in {told:?}");
    }
    assert_eq!(refused.revision, 0);
    assert!(admin.get("Service", "shop/catalog").await.is_err(), "nothing is written");

    // Warnings alone refuse nothing; what a deletion breaks is told.
    let written =
        admin.apply(vec![service("shop/catalog", ""), route("shop/r", "catalog", &["x"])]);
    assert_eq!(written.await.revision, 1);
    let deleted = admin.delete(vec![id("Service", "shop/catalog")]).await;
    assert_eq!(deleted.revision, 2);
    let told: Vec<_> = deleted.problems.iter().map(|it| it.message.as_str()).collect();
    assert!(told.iter().any(|it| it.ends_with("no Service catalog.shop")), "{told:?}");
}

#[tokio::test]
async fn a_dry_run_says_all_and_writes_nothing() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/orders", "")]).await;
    let request = pb::ApplyRequest {
        resources: vec![service("shop/orders", "app=x"), service("shop/new", "")],
        dry_run: true,
        ..Default::default()
    };
    let tried = soon(admin.config().apply(request)).await.expect("tried").into_inner();
    assert_eq!(changes(&tried.changes), ["Configured orders", "Created new"]);
    assert_eq!(tried.revision, 1);
    assert!(admin.get("Service", "shop/new").await.is_err());
    let request = pb::DeleteRequest {
        resources: vec![id("Service", "shop/orders")],
        dry_run: true,
        ..Default::default()
    };
    let tried = soon(admin.config().delete(request)).await.expect("tried").into_inner();
    assert_eq!(changes(&tried.changes), ["Deleted orders"]);
    admin.get("Service", "shop/orders").await.expect("still there");
}

#[tokio::test]
async fn of_two_who_expect_the_same_revision_one_is_refused() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let request = |name: &str| pb::ApplyRequest {
        resources: vec![service(name, "")],
        expect_revision: Some(0),
        ..Default::default()
    };
    let (mut one, mut other) = (admin.config(), admin.config());
    let (one, other) =
        tokio::join!(soon(one.apply(request("a/a"))), soon(other.apply(request("b/b"))));
    let refused = match (one, other) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        both => unreachable!("{both:?}"),
    };
    assert_eq!(refused.code(), Code::Aborted);
    let info = refused.get_details_error_info().expect("has details");
    assert_eq!((info.reason.as_str(), info.metadata["newest"].as_str()), ("REVISION", "1"));
}

#[tokio::test]
async fn malformed_requests_name_their_field() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let field = |status: tonic::Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let violations = status.get_details_bad_request().expect("has details").field_violations;
        violations.into_iter().map(|it| it.field).collect::<Vec<_>>().join(",")
    };
    let wrong_kind = admin.get("Serviec", "a/b").await.expect_err("refused");
    assert_eq!(field(wrong_kind), "resource.kind");
    let request = pb::ListRequest { page_size: 5000, ..Default::default() };
    assert_eq!(field(soon(admin.config().list(request)).await.expect_err("refused")), "page_size");
    let request = pb::ApplyRequest { message: "x".repeat(2000), ..Default::default() };
    assert_eq!(field(soon(admin.config().apply(request)).await.expect_err("refused")), "message");
    let request = pb::WatchRequest { kinds: vec!["x".into()], ..Default::default() };
    assert_eq!(field(soon(admin.config().watch(request)).await.expect_err("refused")), "kinds");
    let request = pb::StatusRequest { service: "A B".into() };
    assert_eq!(field(soon(admin.config().status(request)).await.expect_err("refused")), "service");
    let resources = vec![pb::Resource::default(); 10_001];
    let request = pb::ApplyRequest { resources, ..Default::default() };
    let refused = soon(admin.config().apply(request)).await.expect_err("refused");
    assert_eq!(field(refused), "resources");
}

#[tokio::test]
async fn a_watch_tells_what_there_is_and_then_every_change() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    admin.apply(vec![service("shop/a", ""), service("web/b", ""), mesh()]).await;
    let request = pb::WatchRequest {
        kinds: vec!["Service".into()],
        namespace: "shop".into(),
        ..Default::default()
    };
    let mut watch = soon(admin.config().watch(request)).await.expect("accepted").into_inner();
    let mut hear = async || {
        let heard = soon(watch.message()).await.expect("open").expect("not the end");
        match heard.event.expect("set") {
            Event::Changed(it) => {
                format!("{} {}", heard.revision, it.metadata.expect("set").name)
            }
            Event::Removed(it) => format!("{} -{}", heard.revision, it.name),
            Event::Synced(_) => format!("{} synced", heard.revision),
        }
    };
    assert_eq!(hear().await, "1 a");
    assert_eq!(hear().await, "1 synced");
    admin.apply(vec![service("web/c", "")]).await;
    admin.apply(vec![service("shop/d", "")]).await;
    assert_eq!(hear().await, "3 d");
    admin.delete(vec![id("Service", "shop/a")]).await;
    assert_eq!(hear().await, "4 -a");
    admin.apply(vec![service("shop/d", "app=x")]).await;
    assert_eq!(hear().await, "5 d");
}

#[tokio::test]
async fn lists_page_through_everything() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let names: Vec<_> = (0..25).map(|i| format!("shop/s{i:02}")).collect();
    admin.apply(names.iter().map(|name| service(name, "")).collect()).await;
    let mut request = pb::ListRequest { page_size: 10, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = soon(admin.config().list(request.clone())).await.expect("a page").into_inner();
        assert_eq!(page.revision, 1);
        let names = page.resources.into_iter().filter_map(|it| it.metadata);
        seen.extend(names.map(|it| format!("{}/{}", it.namespace, it.name)));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, names);
}
