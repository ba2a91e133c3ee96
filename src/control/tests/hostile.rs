//! Requests by those who want more than is theirs: of certificates, of the mesh, of memory and time.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;
use tower::{Service as _, ServiceExt as _};

use super::{Caller, Plane, soon};
use crate::{
    identity::csr,
    resource::pb,
    spiffe::{Leaf, may_sign_der, sha256},
};

fn asking(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(&key).expect("made").der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// CSRs that are well-formed and ask for what is not the sender's.
fn greedy() -> Vec<(&'static str, Vec<u8>)> {
    let other = |text: &'static str| asking(move |it| it.subject_alt_names = vec![uri(text)]);
    vec![
        ("another service", other("spiffe://mesh.local/ns/shop/svc/payments")),
        ("another namespace", other("spiffe://mesh.local/ns/billing/svc/orders")),
        ("the control plane", other("spiffe://mesh.local/control-plane")),
        ("a credential", other("spiffe://mesh.local/credential/admin")),
        ("the trust domain", other("spiffe://mesh.local")),
        ("another trust domain", other("spiffe://other.org/ns/shop/svc/orders")),
        (
            "two identities",
            asking(|it| {
                it.subject_alt_names = vec![
                    uri("spiffe://mesh.local/ns/shop/svc/orders"),
                    uri("spiffe://mesh.local/ns/shop/svc/payments"),
                ];
            }),
        ),
        ("to be a CA", asking(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (
            "to sign",
            asking(|it| {
                it.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign]
            }),
        ),
        (
            "to sign code",
            asking(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
        ),
        (
            "a host name",
            asking(|it| {
                let name = "localhost".try_into().expect("a name");
                it.subject_alt_names = vec![SanType::DnsName(name)];
            }),
        ),
        ("a subject", asking(|it| it.distinguished_name.push(DnType::CommonName, "control-plane"))),
    ]
}

/// What is no CSR, or is not by the holder of its key.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let whole = csr::make().expect("made").csr;
    let other = csr::make().expect("made").csr;
    let mut bad_signature = whole.clone();
    *bad_signature.last_mut().expect("long") ^= 1;
    let mut other_key = whole.clone();
    // The public key is the last long run of bytes that differs; the signature is then not by it.
    let middle = whole.len() / 2;
    other_key[middle - 20..middle].copy_from_slice(&other[middle - 20..middle]);
    vec![
        ("nothing", Vec::new()),
        ("zeros", vec![0; 200]),
        ("cut off", whole[..whole.len() - 1].to_vec()),
        ("trailing bytes", [whole.as_slice(), &[0]].concat()),
        ("twice", [whole.as_slice(), &whole].concat()),
        ("another signature", bad_signature),
        ("another key", other_key),
        ("PEM", b"-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n".to_vec()),
        ("a length that lies", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ("nested sequences", [0x30, 0x80].repeat(3000)),
        ("too long", vec![0x30; 9000]),
    ]
}

#[tokio::test]
async fn of_a_csr_only_the_public_key_counts() {
    let plane = Plane::start().await;
    let caller = plane.workload("shop/orders");
    let renew = async |csr: Vec<u8>| {
        Ok::<_, Status>(soon(caller.identity().renew(pb::RenewRequest { csr })).await?.into_inner())
    };
    let (greedy, broken) = (greedy(), broken());
    assert!(greedy.len() + broken.len() >= 20);
    for (name, csr) in greedy {
        let issued = renew(csr).await.expect(name);
        assert_eq!(issued.spiffe_id, "spiffe://mesh.local/ns/shop/svc/orders", "{name}");
        let leaf = CertificateDer::from(issued.chain[0].clone());
        let read = Leaf::read(&leaf).expect(name);
        assert_eq!(read.id.as_str(), issued.spiffe_id, "{name}");
        assert_eq!(may_sign_der(&leaf), Ok(false), "{name}");
        for text in ["payments", "billing", "localhost", "other.org", "credential", "control-plane"]
        {
            let found = leaf.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{name}: {text} is in the certificate");
        }
    }
    for (name, csr) in broken {
        let refused = renew(csr).await.expect_err(name);
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused:?}");
    }
}

#[tokio::test]
async fn a_token_that_was_altered_joins_nobody() {
    let plane = Plane::start().await;
    let request = pb::CreateTokenRequest {
        service: "orders".to_owned(),
        namespace: "shop".to_owned(),
        uses: Some(0),
        ..Default::default()
    };
    let made = soon(plane.admin().tokens().create_token(request)).await.expect("made");
    let text = made.into_inner().token;
    let (prefix, body) = text.rsplit_once('.').expect("a token");
    let body = URL_SAFE_NO_PAD.decode(body).expect("base64");
    let body = &body[..body.len() - 4];
    let sealed = |body: &[u8]| {
        let sealed = [body, &sha256(body)[..4]].concat();
        format!("{prefix}.{}", URL_SAFE_NO_PAD.encode(sealed))
    };
    assert_eq!(sealed(body), text);
    let caller = plane.caller(None);
    let mut codes = Vec::new();
    // One bit of the id, the secret and the root's hash each; then names that are not its own.
    let flipped = [0, 7, 8, 20, 39].map(|at| {
        let mut body = body.to_vec();
        body[at] ^= 1;
        sealed(&body)
    });
    let named = |names: &[u8]| sealed(&[&body[..72], names].concat());
    let names = [
        named(b"\x04shoppayments"),
        named(b"\x07billingorders"),
        named(b"\x04shopcontrol-plane"),
        named(b"\x04shop"),
        named(b"\x00orders"),
        named(b"\x04shoporders/../payments"),
    ];
    for token in flipped.into_iter().chain(names) {
        let join = pb::JoinRequest { token, csr: csr::make().expect("made").csr };
        let refused = soon(caller.identity().join(join)).await.expect_err("altered");
        codes.push(refused.code());
        assert!(!refused.message().contains(&text[30..60]), "tells no secret");
    }
    let known = [Code::Unauthenticated, Code::InvalidArgument];
    assert!(codes.iter().all(|code| known.contains(code)), "{codes:?}");
    let join = pb::JoinRequest { token: text, csr: csr::make().expect("made").csr };
    soon(caller.identity().join(join)).await.expect("as it was made");
}

/// An Apply that says how long it is, and goes no further. How it is answered.
async fn unfinished_apply(caller: &Caller, bytes: u32) -> Status {
    let (body, receiver) = mpsc::channel::<Result<_, Status>>(1);
    let head = [&[0][..], &bytes.to_be_bytes(), &[0x0a; 10]].concat();
    body.send(Ok(Frame::data(Bytes::from(head)))).await.expect("open");
    let request = Request::post("/outrigger.v1.ConfigService/Apply")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(ReceiverStream::new(receiver))))
        .expect("a request");
    let mut channel = caller.channel.clone();
    let call = channel.ready().await.expect("ready").call(request);
    let answer = soon(call).await.expect("answered");
    drop(body);
    Status::from_header_map(answer.headers()).expect("an answer without messages")
}

#[tokio::test]
async fn large_writes_of_one_caller_are_refused_beside_another_and_one_that_stands_still_is_cut() {
    let plane = Plane::start().await;
    let admin = plane.admin();
    let one = unfinished_apply(&admin, 60 << 20);
    let other = unfinished_apply(&admin, 60 << 20);
    tokio::pin!(one, other);
    // Whichever comes second has no room and hears it at once.
    let (refused, left) = tokio::select! {
        refused = &mut one => (refused, other),
        refused = &mut other => (refused, one),
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");
    // Others have room, and so have the same caller's small writes.
    admin.apply(vec![crate::control::sample::service("shop/small", "")]).await;
    let cut = left.await;
    assert_eq!(cut.code(), Code::DeadlineExceeded, "{cut:?}");
    let late = unfinished_apply(&admin, 65 << 20).await;
    assert_eq!(late.code(), Code::OutOfRange, "longer than any may be: {late:?}");
}
