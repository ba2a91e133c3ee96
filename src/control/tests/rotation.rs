//! The exchange of a root over the API: who may go on, who is cut off, who still finds the way.

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Caller, Plane, hello, soon};
use crate::{
    identity::JoinToken,
    resource::pb::{self, RotationPhase, subscribe_request::Message},
    tls::{self, ControlTrust},
};

async fn authority(admin: &Caller) -> pb::Authority {
    soon(admin.tokens().get_authority(pb::GetAuthorityRequest {})).await.expect("told").into_inner()
}

async fn rotate(admin: &Caller) -> Result<pb::Rotation, Status> {
    let begun = soon(admin.tokens().rotate_root(pb::RotateRootRequest::default())).await?;
    Ok(begun.into_inner().rotation.expect("under way"))
}

async fn advance(admin: &Caller, phase: RotationPhase) -> Result<Option<pb::Rotation>, Status> {
    let request = pb::AdvanceRotationRequest { phase: phase.into() };
    Ok(soon(admin.tokens().advance_rotation(request)).await?.into_inner().rotation)
}

fn reason(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

#[tokio::test]
async fn an_exchange_goes_phase_by_phase_and_one_at_a_time() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    assert!(authority(&admin).await.root_key_online);
    let refused = advance(&admin, RotationPhase::Trust).await.expect_err("none is under way");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "NO_ROTATION".to_owned()));
    let begun = rotate(&admin).await.expect("begun");
    assert_eq!(begun.phase(), RotationPhase::Trust);
    assert_eq!(begun.began_by, "spiffe://mesh.local/credential/admin");
    let refused = rotate(&admin).await.expect_err("one at a time");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "ROTATION_UNDER_WAY".to_owned()));
    let refused = advance(&admin, RotationPhase::Drop).await.expect_err("another phase");
    assert_eq!(reason(&refused), (Code::Aborted, "OTHER_PHASE".to_owned()));
    let both = authority(&admin).await;
    assert_eq!(both.roots.len(), 2);

    // A restart finds it where it was.
    let plane = plane.restart().await;
    let admin = plane.admin();
    let rotation = authority(&admin).await.rotation.expect("under way");
    assert_eq!((rotation.from_root, rotation.to_root), (begun.from_root, begun.to_root.clone()));
    for phase in [RotationPhase::Trust, RotationPhase::Issue, RotationPhase::Retire] {
        advance(&admin, phase).await.expect("advanced");
    }
    let refused = soon(plane.admin().tokens().abort_rotation(pb::AbortRotationRequest {})).await;
    let refused = refused.expect_err("too late");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "ROTATION_TOO_LATE".to_owned()));
    assert!(advance(&plane.admin(), RotationPhase::Drop).await.expect("finished").is_none());
    let after = authority(&plane.admin()).await;
    assert_eq!(
        after.roots.iter().map(|root| root.sha256.clone()).collect::<Vec<_>>(),
        [begun.to_root]
    );
}

#[tokio::test]
async fn what_is_of_a_dropped_root_ends_and_the_token_before_it_still_leads_here() {
    let plane = Plane::start().await;
    let (admin, old) = (plane.admin(), plane.workload("shop/orders"));
    let request = pb::CreateTokenRequest {
        service: "web".to_owned(),
        namespace: "shop".to_owned(),
        ..Default::default()
    };
    let token = soon(admin.tokens().create_token(request)).await.expect("made").into_inner().token;
    let stranger = plane.caller(None);
    let mut stream = old.sidecar(hello("shop/orders", "orders-1")).await;
    stream.hear().await;
    let told = soon(old.identity().trust_bundle(pb::TrustBundleRequest {})).await;
    let mut told = told.expect("accepted").into_inner();
    let first = soon(told.message()).await.expect("open").expect("told");
    assert_eq!((first.roots.len(), first.retiring.len()), (1, 0));

    rotate(&admin).await.expect("begun");
    let both = soon(told.message()).await.expect("open").expect("told");
    assert_eq!((both.roots.len(), &both.issuer), (2, &first.issuer));
    assert_ne!(both.version, first.version);
    advance(&admin, RotationPhase::Trust).await.expect("advanced");
    let issuing = soon(told.message()).await.expect("open").expect("told");
    assert_ne!(issuing.issuer, first.issuer);
    advance(&plane.admin(), RotationPhase::Issue).await.expect("advanced");
    let retiring = soon(told.message()).await.expect("open").expect("told");
    assert_eq!(retiring.retiring, std::slice::from_ref(&first.issuer));
    stream.say(Message::State(pb::WorkloadState::default())).await;
    advance(&plane.admin(), RotationPhase::Retire).await.expect("advanced");
    // Whoever is cut off is told the roots by which it finds back.
    let last = soon(told.message()).await.expect("open").expect("told");
    assert_eq!((last.roots.len(), &last.issuer), (1, &issuing.issuer));
    assert!(soon(told.message()).await.expect("ended in order").is_none());
    let ended = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), (Code::Unauthenticated, "CERTIFICATE_DISTRUSTED".to_owned()));
    let request = pb::RenewRequest { csr: crate::identity::csr::make().expect("made").csr };
    let refused = soon(old.identity().renew(request)).await.expect_err("refused");
    assert_eq!(reason(&refused), (Code::Unauthenticated, "CERTIFICATE_DISTRUSTED".to_owned()));

    // The token knows the old root only; so does whoever was here before.
    let parsed = JoinToken::parse(&token).expect("a token");
    let trust = ControlTrust::RootHash(parsed.root_hash());
    for caller in [
        Caller { channel: super::channel(plane.address, tls::control_client(trust, None)) },
        stranger,
    ] {
        let csr = crate::identity::csr::make().expect("made").csr;
        let join = pb::JoinRequest { token: token.clone(), csr };
        match soon(caller.identity().join(join)).await {
            Ok(joined) => {
                let bundle = joined.into_inner().bundle.expect("comes along");
                assert_eq!(bundle.version, last.version);
            }
            Err(status) => assert_eq!(reason(&status).1, "TOKEN_USED"),
        }
    }
    // And the administrator's files were exchanged in time.
    assert_eq!(authority(&plane.admin()).await.issuing.len(), 2);
}
