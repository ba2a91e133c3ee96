//! Who may call what, over every method that the port has.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{
    future::join_all,
    stream::{self, FuturesUnordered, StreamExt as _},
};
use http::uri::PathAndQuery;
use prost::Message as _;
use rustls_pki_types::ServerName;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::{Code, Request, client::Grpc};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;

use super::{Caller, Plane, soon};
use crate::{
    clock,
    control::{listen::STRANGERS_MAX, server::CALLS_MAX},
    identity::Authority,
    resource::{
        DESCRIPTORS,
        pb::{self, CredentialRole},
    },
    tls::{self, ControlTrust},
};

/// Every method of our services, from their descriptors, and those of the two standard ones.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
    let mut methods = Vec::new();
    for file in set.file.iter().filter(|file| file.package() == "outrigger.v1") {
        for service in &file.service {
            let of = |method: &prost_types::MethodDescriptorProto| {
                format!("/outrigger.v1.{}/{}", service.name(), method.name())
            };
            methods.extend(service.method.iter().map(of));
        }
    }
    assert!(methods.len() >= 13, "{methods:?}");
    for other in [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "outrigger.v1.ConfigService/NoSuchMethod",
        "some.other.Service/Method",
    ] {
        methods.push(format!("/{other}"));
    }
    methods
}

/// How the port answers an empty message to that method.
async fn answer(caller: &Caller, method: &str) -> Code {
    let mut client = Grpc::new(caller.channel.clone());
    soon(client.ready()).await.expect("the channel is lazy");
    let path: PathAndQuery = method.parse().expect("a path");
    // As far as the head goes, every kind of method is called in the same way.
    let codec = ProstCodec::<(), ()>::default();
    match soon(client.server_streaming(Request::new(()), path, codec)).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

async fn permitted(caller: &Caller) -> BTreeSet<String> {
    let mut permitted = BTreeSet::new();
    for method in methods() {
        let code = answer(caller, &method).await;
        if !matches!(code, Code::Unauthenticated | Code::PermissionDenied) {
            permitted.insert(method.rsplit('/').next().expect("a method").to_owned());
        }
    }
    permitted
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn every_method_is_refused_to_whoever_may_not_call_it() {
    let plane = Plane::start().await;
    let standard = ["Check", "Watch", "ServerReflectionInfo"];
    let day = Duration::from_secs(86_400);
    let hour = Duration::from_secs(3600);
    let now = clock::now();
    // A certificate of the mesh's CA is no credential by that alone.
    let unknown = plane.authority().credential("reader", hour, now).expect("made");
    let viewer = plane.credential("viewer", CredentialRole::Viewer, &[]).await;
    let editor = plane.credential("editor", CredentialRole::Editor, &["shop"]).await;
    let log = ["History", "Diff", "GetGuard"];
    let reads = ["Get", "List", "Status", "ListTokens", "GetAuthority", "TrustBundle", "Join"];
    let reads = [&reads[..], &log].concat();
    let writes = ["Apply", "Delete", "Rollback", "CreateToken", "RevokeToken"];
    let of_workload = [&["Join", "Renew", "TrustBundle", "Subscribe"], &standard[..]].concat();
    // Watch is a method of two services, and only one of them is for everybody.
    for (who, caller, expected) in [
        ("nobody", plane.caller(None), names(&["Join"])),
        (
            "an expired workload",
            plane.caller(Some(&plane.svid("shop/orders", now - day, hour))),
            names(&["Join", "Renew"]),
        ),
        ("a workload", plane.workload("shop/orders"), names(&of_workload)),
        ("a credential that is not known", plane.caller(Some(&unknown)), names(&[])),
        ("a viewer", plane.caller(Some(&viewer)), names(&[&reads, &standard[..]].concat())),
        (
            "an editor",
            plane.caller(Some(&editor)),
            names(&[&reads[..], &writes, &standard].concat()),
        ),
    ] {
        assert_eq!(permitted(&caller).await, expected, "{who}");
        if who == "a workload" {
            let code = answer(&caller, "/outrigger.v1.ConfigService/Watch").await;
            assert_eq!(code, Code::PermissionDenied, "{who}");
        }
    }
    let refused: BTreeSet<_> = {
        let permitted = permitted(&plane.admin()).await;
        let all = methods().into_iter().map(|it| it.rsplit('/').next().expect("one").to_owned());
        all.filter(|method| !permitted.contains(method)).collect()
    };
    assert_eq!(refused, names(&["Renew", "Subscribe"]), "the administrator");
}

#[tokio::test]
async fn a_refusal_says_why_in_words_and_for_programs() {
    let plane = Plane::start().await;
    for (caller, code, reason) in [
        (plane.caller(None), Code::Unauthenticated, "CERTIFICATE_REQUIRED"),
        (plane.workload("shop/orders"), Code::PermissionDenied, "NOT_PERMITTED"),
    ] {
        let refused = caller.get("Service", "shop/orders").await.expect_err("refused");
        let info = refused.get_details_error_info().expect("has details");
        assert_eq!((refused.code(), info.reason.as_str()), (code, reason));
        assert_eq!(info.domain, "outrigger.dev");
    }
}

#[tokio::test]
async fn a_certificate_of_another_root_opens_nothing() {
    let plane = Plane::start().await;
    let (now, hour) = (clock::now(), Duration::from_secs(3600));
    let other = Authority::create("mesh.local", now).expect("made");
    let forged = other.credential("admin", hour, now).expect("made");
    let long_ago = now - Duration::from_secs(73 * 3600) - hour;
    let ended = plane.svid("shop/orders", long_ago, hour);
    for (who, svid) in [("forged", &forged), ("ended too long ago", &ended)] {
        for method in methods() {
            let code = answer(&plane.caller(Some(svid)), &method).await;
            // The handshake fails, so there is no answer of ours.
            assert!(matches!(code, Code::Unavailable | Code::Unknown), "{who} {method}: {code:?}");
        }
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let plane = Plane::start().await;
    let request = pb::JoinRequest { token: "x".repeat(1 << 20), csr: Vec::new() };
    let refused = soon(plane.caller(None).identity().join(request)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::OutOfRange);
}

#[tokio::test]
async fn strangers_can_not_take_the_places_of_sidecars() {
    let plane = Plane::start().await;
    let trust = ControlTrust::Bundle(plane.control.bundle());
    let config = tls::control_client(trust, None);
    let connect = || async {
        let stream = TcpStream::connect(plane.address).await.expect("accepted");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.expect("a handshake")
    };
    let mut strangers = soon(join_all((0..STRANGERS_MAX).map(|_| connect()))).await;
    // The server takes its own time after the client's side of the handshake.
    let refused = soon(async {
        loop {
            let mut stranger = connect().await;
            let mut byte = [0];
            match stranger.read(&mut byte).await {
                // SETTINGS: there was a place left.
                Ok(1) => strangers.push(stranger),
                _ => return,
            }
        }
    });
    refused.await;
    assert_eq!(
        answer(&plane.workload("shop/orders"), "/grpc.health.v1.Health/Check").await,
        Code::Ok
    );
    drop(strangers);
    let join = "/outrigger.v1.IdentityService/Join";
    soon(async { while answer(&plane.caller(None), join).await != Code::InvalidArgument {} }).await;
}

#[tokio::test]
async fn strangers_can_not_take_the_calls_of_others() {
    const CONNECTIONS: usize = 5;
    let plane = Plane::start().await;
    let callers: Vec<_> = (0..CONNECTIONS).map(|_| plane.caller(None)).collect();
    let join = PathAndQuery::from_static("/outrigger.v1.IdentityService/Join");
    let count = CALLS_MAX + 64;
    // Calls whose message never comes.
    let call = |number: usize| {
        let mut client = Grpc::new(callers[number % CONNECTIONS].channel.clone());
        let join = join.clone();
        async move {
            client.ready().await.expect("the channel is lazy");
            let silence = Request::new(stream::pending::<()>());
            client.client_streaming(silence, join, ProstCodec::<(), ()>::default()).await
        }
    };
    let mut calls: FuturesUnordered<_> = (0..count).map(call).collect();
    for _ in CALLS_MAX..count {
        let answer = soon(calls.next()).await.expect("more than there are places");
        assert_eq!(answer.expect_err("refused").code(), Code::ResourceExhausted);
    }
    let check = "/grpc.health.v1.Health/Check";
    assert_eq!(answer(&plane.workload("shop/orders"), check).await, Code::Ok);
    drop(calls);
}

#[tokio::test]
async fn an_editor_writes_in_its_namespaces_and_nowhere_else() {
    let plane = Plane::start().await;
    let editor = plane.credential("ci", CredentialRole::Editor, &["shop"]).await;
    let editor = plane.caller(Some(&editor));
    let service = |name: &str| crate::control::sample::service(name, "");
    let applied = editor.apply(vec![service("shop/orders")]).await;
    assert!(applied.problems.is_empty() && applied.revision == 1, "{applied:?}");
    let refused = |resources| {
        let mut client = editor.config();
        let request = pb::ApplyRequest { resources, ..Default::default() };
        async move { soon(client.apply(request)).await.expect_err("refused") }
    };
    let mesh = pb::Resource {
        metadata: Some(pb::Metadata { name: "mesh".to_owned(), ..Default::default() }),
        spec: Some(pb::resource::Spec::Mesh(pb::Mesh::default())),
        ..Default::default()
    };
    for resources in [
        vec![service("billing/refunds")],
        vec![service("shop/orders"), service("billing/refunds")],
        vec![mesh],
    ] {
        let status = refused(resources).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains("ci (editor) may not write"), "{status:?}");
    }
    let delete = pb::DeleteRequest {
        resources: vec![super::id("Service", "billing/refunds")],
        ..Default::default()
    };
    let refused = soon(editor.config().delete(delete)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let token = |namespace: &str| pb::CreateTokenRequest {
        service: "orders".to_owned(),
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    soon(editor.tokens().create_token(token("shop"))).await.expect("its own");
    let refused = soon(editor.tokens().create_token(token("billing"))).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let theirs = soon(plane.admin().tokens().create_token(token("billing"))).await.expect("made");
    let revoke = pb::RevokeTokenRequest { id: theirs.into_inner().info.expect("told").id };
    let refused = soon(editor.tokens().revoke_token(revoke)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    check_audit(&plane).await;
}

/// Each of these calls is in the audit log, the refused ones too.
async fn check_audit(plane: &Plane) {
    let audit = pb::ListAuditRequest::default();
    let entries = soon(plane.admin().tokens().list_audit(audit)).await.expect("read").into_inner();
    let lines: Vec<_> = entries
        .entries
        .iter()
        .rev()
        .map(|it| {
            let name = it.who.rsplit('/').next().unwrap_or_default();
            let outcome = it.outcome.split(':').next().unwrap_or_default();
            format!("{name} {} {}-{} {outcome}", it.method, it.revision_before, it.revision_after)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "admin AdminService/CreateCredential 0-0 OK",
            "ci ConfigService/Apply 0-1 OK",
            "ci ConfigService/Apply 1-1 PermissionDenied",
            "ci ConfigService/Apply 1-1 PermissionDenied",
            "ci ConfigService/Apply 1-1 PermissionDenied",
            "ci ConfigService/Delete 1-1 PermissionDenied",
            "ci AdminService/CreateToken 1-1 OK",
            "ci AdminService/CreateToken 1-1 PermissionDenied",
            "admin AdminService/CreateToken 1-1 OK",
            "ci AdminService/RevokeToken 1-1 PermissionDenied",
        ]
    );
}

#[tokio::test]
async fn a_revoked_credential_is_good_for_nothing_at_once() {
    let plane = Plane::start().await;
    let ana = plane.credential("ana", CredentialRole::Viewer, &[]).await;
    let ana = plane.caller(Some(&ana));
    let watch = soon(ana.config().watch(pb::WatchRequest::default())).await;
    let mut watch = watch.expect("accepted").into_inner();
    soon(watch.message()).await.expect("synced");
    let admin = plane.admin();
    let again = plane.try_credential("ana", CredentialRole::Admin, &[]).await.expect_err("exists");
    assert_eq!(again.code(), Code::AlreadyExists);
    let revoke = || pb::RevokeCredentialRequest { name: "ana".to_owned() };
    soon(admin.tokens().revoke_credential(revoke())).await.expect("revoked");
    let ended = soon(async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => unreachable!("it ends with a reason"),
                Err(status) => return status,
            }
        }
    })
    .await;
    let info = ended.get_details_error_info().expect("has details");
    assert_eq!((ended.code(), &*info.reason), (Code::Unauthenticated, "CREDENTIAL_UNKNOWN"));
    let refused = soon(ana.config().status(pb::StatusRequest::default())).await;
    assert_eq!(refused.expect_err("refused").code(), Code::Unauthenticated);
    let gone = soon(admin.tokens().revoke_credential(revoke())).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);

    // The administrator's own leaves another one in the data directory.
    let revoke = pb::RevokeCredentialRequest { name: "admin".to_owned() };
    soon(admin.tokens().revoke_credential(revoke)).await.expect("revoked");
    let refused = soon(admin.config().status(pb::StatusRequest::default())).await;
    assert_eq!(refused.expect_err("refused").code(), Code::Unauthenticated);
    plane.admin().status().await;
}
