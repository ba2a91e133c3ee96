//! Join tokens and certificates, as workloads come by them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use rustls_pki_types::CertificateDer;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Caller, Plane, hello, soon};
use crate::{
    clock,
    identity::{JoinToken, csr},
    resource::pb,
    spiffe::{Svid, TrustBundle},
    tls::{self, ControlTrust, Role},
};

async fn token(admin: &Caller, service: &str, change: fn(&mut pb::CreateTokenRequest)) -> String {
    let (namespace, service) = service.split_once('/').expect("namespace/name");
    let mut request = pb::CreateTokenRequest {
        service: service.to_owned(),
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    change(&mut request);
    soon(admin.tokens().create_token(request)).await.expect("made").into_inner().token
}

/// Joins as a sidecar does: knowing nothing of the mesh but the token.
async fn join(plane: &Plane, token: &str) -> Result<Svid, Status> {
    let parsed = JoinToken::parse(token).expect("a token");
    let trust = ControlTrust::RootHash(parsed.root_hash());
    let channel = super::channel(plane.address, tls::control_client(trust, None));
    join_over(&Caller { channel }, token).await
}

async fn join_over(caller: &Caller, token: &str) -> Result<Svid, Status> {
    let request = csr::make().expect("made");
    let join = pb::JoinRequest { token: token.to_owned(), csr: request.csr };
    let answer = soon(caller.identity().join(join)).await?.into_inner();
    let chain: Vec<_> = answer.chain.into_iter().map(CertificateDer::from).collect();
    let svid = Svid::new(chain, request.key, tls::provider()).expect("belongs together");
    assert_eq!(svid.id().as_str(), answer.spiffe_id);
    let bundle = answer.bundle.expect("comes along");
    let roots = bundle.roots.into_iter().map(CertificateDer::from).collect();
    let bundle = TrustBundle::new(&bundle.trust_domain, roots).expect("roots");
    tls::verify(svid.chain(), &bundle, Role::Server, clock::now()).expect("leads to the root");
    Ok(svid)
}

fn reason(refused: Result<Svid, Status>) -> String {
    let refused = refused.expect_err("refused");
    let info = refused.get_details_error_info();
    info.map_or_else(|| format!("{:?}", refused.code()), |info| info.reason)
}

#[tokio::test]
async fn a_token_makes_one_identity_once() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let token = token(&admin, "shop/orders", |_| {}).await;
    let svid = join(&plane, &token).await.expect("joined");
    assert_eq!(svid.id().as_str(), "spiffe://mesh.local/ns/shop/svc/orders");
    let left = svid.not_after().duration_since(clock::now()).expect("valid");
    assert!(left <= super::super::LEAF_TTL && left > super::super::LEAF_TTL / 2, "{left:?}");
    assert_eq!(reason(join(&plane, &token).await), "TOKEN_USED");

    // The certificate is what it says: good for a stream of its own service, and of no other.
    let caller = plane.caller(Some(&svid));
    let mut own = caller.sidecar(hello("shop/orders", "orders-1")).await;
    assert!(own.hear().await.contains(&"!orders.shop".to_owned()));
    let mut other = caller.sidecar(hello("shop/payments", "payments-1")).await;
    assert_eq!(other.next().await.expect_err("refused").code(), Code::PermissionDenied);

    let listed = soon(admin.tokens().list_tokens(pb::ListTokensRequest {})).await.expect("listed");
    let listed = &listed.get_ref().tokens[0];
    assert_eq!((listed.used, listed.uses, listed.service.as_str()), (1, 1, "orders"));
    assert_eq!(listed.created_by, "spiffe://mesh.local/credential/admin");
}

#[tokio::test]
async fn an_answer_that_got_lost_is_given_again() {
    let plane = Plane::start().await;
    let token = token(&plane.admin(), "shop/orders", |_| {}).await;
    let caller = plane.caller(None);
    let csr = csr::make().expect("made").csr;
    for _ in 0..3 {
        let request = pb::JoinRequest { token: token.clone(), csr: csr.clone() };
        soon(caller.identity().join(request)).await.expect("joined");
    }
    assert_eq!(reason(join_over(&caller, &token).await), "TOKEN_USED");
}

#[tokio::test]
async fn of_many_who_use_a_token_at_once_as_many_join_as_it_permits() {
    let plane = Plane::start().await;
    let token = token(&plane.admin(), "shop/orders", |it| it.uses = Some(3)).await;
    let caller = plane.caller(None);
    let joins = (0..12).map(|_| join_over(&caller, &token));
    let results = join_all(joins).await;
    let joined = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(joined, 3);
    for refused in results.into_iter().filter(Result::is_err) {
        assert_eq!(reason(refused), "TOKEN_USED");
    }
}

#[tokio::test]
async fn revoked_foreign_and_altered_tokens_are_refused() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let revoked = token(&admin, "shop/orders", |_| {}).await;
    let id = JoinToken::parse(&revoked).expect("a token").id();
    soon(admin.tokens().revoke_token(pb::RevokeTokenRequest { id })).await.expect("revoked");
    assert_eq!(reason(join(&plane, &revoked).await), "TOKEN_REVOKED");

    // One that this control plane has not made, although it names its root.
    let name = crate::units::ServiceName::new("orders", "shop");
    let foreign = JoinToken::new(name, plane.control.root_hash()).expect("made").to_text();
    assert_eq!(reason(join(&plane, &foreign).await), "TOKEN_UNKNOWN");
    let caller = plane.caller(None);
    for text in ["", "x", &revoked[..revoked.len() - 1], &"x".repeat(4000)] {
        let refused = join_over(&caller, text).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(!refused.message().contains(&revoked[20..40]), "tells no secret");
    }
    let unknown = pb::RevokeTokenRequest { id: "nothing".into() };
    let refused = soon(admin.tokens().revoke_token(unknown)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
}

#[tokio::test]
async fn whoever_guesses_tokens_is_slowed_down_and_nobody_else() {
    let plane = Plane::start().await;
    let caller = plane.caller(None);
    let guess =
        async || join_over(&caller, "outrigger-join.v1.x").await.expect_err("refused").code();
    assert_eq!(guess().await, Code::InvalidArgument);
    // At once, since who guesses slowly is not slowed down.
    let codes = join_all((0..60).map(|_| guess())).await;
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    let renewed = plane.workload("shop/orders");
    let request = pb::RenewRequest { csr: csr::make().expect("made").csr };
    soon(renewed.identity().renew(request)).await.expect("is no join");
}

#[tokio::test]
async fn a_request_that_can_not_be_signed_costs_no_use() {
    let plane = Plane::start().await;
    let token = token(&plane.admin(), "shop/orders", |_| {}).await;
    let caller = plane.caller(None);
    for csr in [Vec::new(), b"no request".to_vec(), vec![0x30; 9000]] {
        let request = pb::JoinRequest { token: token.clone(), csr };
        let refused = soon(caller.identity().join(request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(
            refused.get_details_bad_request().expect("details").field_violations[0].field,
            "csr"
        );
    }
    join(&plane, &token).await.expect("joined");
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    static AHEAD_SECONDS: AtomicU64 = AtomicU64::new(0);
    fn now() -> SystemTime {
        clock::now() + Duration::from_secs(AHEAD_SECONDS.load(Ordering::Relaxed))
    }
    let plane = Plane::with_clock(now).await;
    let minute = |it: &mut pb::CreateTokenRequest| {
        it.ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        it.uses = Some(0);
    };
    let token = token(&plane.admin(), "shop/orders", minute).await;
    for _ in 0..3 {
        join(&plane, &token).await.expect("joined");
    }
    AHEAD_SECONDS.store(61, Ordering::Relaxed);
    assert_eq!(reason(join(&plane, &token).await), "TOKEN_EXPIRED");
}

async fn renew(caller: &Caller) -> Result<String, Status> {
    let request = pb::RenewRequest { csr: csr::make().expect("made").csr };
    Ok(soon(caller.identity().renew(request)).await?.into_inner().spiffe_id)
}

#[tokio::test]
async fn a_certificate_renews_itself_and_nobody_else() {
    let plane = Plane::start().await;
    let own = "spiffe://mesh.local/ns/shop/svc/orders";
    assert_eq!(renew(&plane.workload("shop/orders")).await.expect("renewed"), own);
    let hour = Duration::from_secs(3600);
    let ended = plane.svid("shop/orders", clock::now() - 70 * hour, hour);
    assert_eq!(renew(&plane.caller(Some(&ended))).await.expect("renewed"), own);
    // The answer may have been lost, so it may ask again.
    assert_eq!(renew(&plane.caller(Some(&ended))).await.expect("renewed again"), own);
}

#[tokio::test]
async fn an_expired_certificate_that_was_renewed_is_good_for_nothing_soon_after() {
    static AHEAD_SECONDS: AtomicU64 = AtomicU64::new(0);
    fn now() -> SystemTime {
        clock::now() + Duration::from_secs(AHEAD_SECONDS.load(Ordering::Relaxed))
    }
    let plane = Plane::with_clock(now).await;
    let hour = Duration::from_secs(3600);
    let ended = plane.svid("shop/orders", clock::now() - 2 * hour, hour);
    renew(&plane.caller(Some(&ended))).await.expect("renewed");
    AHEAD_SECONDS.store(11 * 60, Ordering::Relaxed);
    let refused = renew(&plane.caller(Some(&ended))).await.expect_err("refused");
    let info = refused.get_details_error_info().expect("has details");
    assert_eq!((refused.code(), &*info.reason), (Code::Unauthenticated, "CERTIFICATE_SUPERSEDED"));
}

#[tokio::test]
async fn the_trust_bundle_is_told_and_the_stream_stays() {
    let plane = Plane::start().await;
    let caller = plane.workload("shop/orders");
    let stream = soon(caller.identity().trust_bundle(pb::TrustBundleRequest {})).await;
    let mut stream = stream.expect("accepted").into_inner();
    let bundle = soon(stream.message()).await.expect("open").expect("a bundle");
    let roots: Vec<_> = plane.control.bundle().certificates().map(|root| root.to_vec()).collect();
    assert_eq!((bundle.trust_domain.as_str(), bundle.roots), ("mesh.local", roots));
}
