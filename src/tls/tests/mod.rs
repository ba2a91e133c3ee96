//! Handshakes between two identities of one CA, in memory.

mod matrix;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;

use crate::{
    clock,
    identity::{Authority, csr},
    spiffe::{SpiffeId, Svid, TrustBundle},
    tls::{self, ControlCaller, ControlTrust, Identity, Role, control_caller, peer, require_alpn},
};

/// Moves bytes both ways until both sides are done or one has failed; a TLS 1.3 client is done
/// before it knows whether the server takes its certificate, so both results count.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (Result<ClientConnection, rustls::Error>, Result<ServerConnection, rustls::Error>) {
    let name = ServerName::try_from("9090.orders.shop.mesh").expect("a name");
    let mut near = ClientConnection::new(client, name).expect("a configuration");
    let mut far = ServerConnection::new(server).expect("a configuration");
    let (mut near_error, mut far_error) = (None, None);
    for _ in 0..20 {
        let mut bytes = Vec::new();
        while near.wants_write() {
            near.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && far_error.is_none() {
            far.read_tls(&mut rest).expect("memory");
            far_error = far.process_new_packets().err();
        }
        let mut bytes = Vec::new();
        while far.wants_write() {
            far.write_tls(&mut bytes).expect("memory");
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() && near_error.is_none() {
            near.read_tls(&mut rest).expect("memory");
            near_error = near.process_new_packets().err();
        }
    }
    let near_done = near_error.map_or(Ok(()), Err);
    let far_done = far_error.map_or(Ok(()), Err);
    assert!(near_done.is_err() || far_done.is_err() || !near.is_handshaking());
    (near_done.map(|()| near), far_done.map(|()| far))
}

const DAY: Duration = Duration::from_hours(24);

fn authority() -> Authority {
    Authority::create("mesh.local", clock::now()).expect("a CA")
}

fn id(service: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/shop/svc/{service}").parse().expect("an ID")
}

fn svid(authority: &Authority, service: &str, now: SystemTime, ttl: Duration) -> Svid {
    let request = csr::make().expect("a key");
    let issued = authority.sign(&request.csr, &id(service), ttl, now).expect("signed");
    Svid::new(issued.chain, request.key, tls::provider()).expect("an SVID")
}

fn identity(authority: &Authority, service: &str) -> Identity {
    let svid = svid(authority, service, clock::now(), DAY);
    Identity::new(svid, authority.bundle().clone()).expect("one trust domain")
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let authority = authority();
    let (front, orders) = (identity(&authority, "front"), identity(&authority, "orders"));
    let (near, far) = handshake(front.client_config(&id("orders")), orders.server_config());
    let (near, far) = (near.expect("accepted"), far.expect("accepted"));
    let seen = peer(far.peer_certificates().expect("verified")).expect("an SVID");
    assert_eq!((seen.id, seen.not_after), (id("front"), front.svid().not_after()));
    assert_eq!(peer(near.peer_certificates().expect("verified")).expect("SVID").id, id("orders"));
    assert_eq!(require_alpn(&far), Ok(()));
    assert_eq!(far.server_name(), Some("9090.orders.shop.mesh"));
    assert_eq!(far.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[test]
fn a_client_accepts_only_the_identity_that_it_expects() {
    let authority = authority();
    let (front, orders) = (identity(&authority, "front"), identity(&authority, "orders"));
    let (near, _) = handshake(front.client_config(&id("payments")), orders.server_config());
    let error = std::io::Error::other(near.expect_err("another identity"));
    assert_eq!(
        tls::identity_failure(&error).expect("about the certificate"),
        format!("the peer is {}, expected {}", id("orders"), id("payments")),
    );
}

#[test]
fn a_peer_without_certificate_or_alpn_is_refused() {
    let authority = authority();
    let (front, orders) = (identity(&authority, "front"), identity(&authority, "orders"));
    let trust = ControlTrust::Bundle(front.bundle());
    let bare = tls::control_client(trust, None);
    let (_, far) = handshake(bare, orders.server_config());
    assert!(far.is_err());
    let mut silent = (*front.client_config(&id("orders"))).clone();
    silent.alpn_protocols = Vec::new();
    let (_, far) = handshake(Arc::new(silent), orders.server_config());
    let far = far.expect("rustls itself lets it through");
    assert_eq!(require_alpn(&far), Err(tls::PeerError::Alpn));
    assert_eq!(tls::carried(&far), Err(tls::PeerError::Alpn));
    let mut bytes = (*front.client_config(&id("orders"))).clone();
    bytes.alpn_protocols = vec![tls::ALPN_TCP.to_vec()];
    let (near, far) = handshake(Arc::new(bytes), orders.server_config());
    for end in [tls::carried(&near.expect("accepted")), tls::carried(&far.expect("accepted"))] {
        assert_eq!(end, Ok(tls::Carried::Bytes));
    }
    let mut other = (*front.client_config(&id("orders"))).clone();
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(handshake(Arc::new(other), orders.server_config()).1.is_err());
}

#[tokio::test]
async fn a_client_learns_that_its_certificate_was_refused() {
    let (ours, theirs) = (authority(), authority());
    let front = identity(&ours, "front");
    let orders = Identity::new(svid(&ours, "orders", clock::now(), DAY), theirs.bundle().clone())
        .expect("one trust domain");
    let (near, far) = tokio::io::duplex(64 * 1024);
    let config = front.client_config(&id("orders"));
    let name = ServerName::try_from("9090.orders.shop.mesh").expect("a name");
    let client = async {
        let connector = tokio_rustls::TlsConnector::from(config);
        let mut stream = connector.connect(name, near).await.expect("done before the verdict");
        stream.read_u8().await.expect_err("refused")
    };
    let server = tokio_rustls::TlsAcceptor::from(orders.server_config()).accept(far);
    let (near, far) = tokio::join!(client, server);
    assert_eq!(tls::identity_failure(&near).as_deref(), Some("the peer refused our certificate"));
    let far = far.map(drop).expect_err("another root");
    let why = tls::identity_failure(&far).expect("about the certificate");
    assert!(
        why.starts_with("the peer's certificate spiffe://mesh.local/ns/shop/svc/front"),
        "{why}"
    );
    let eof = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    assert_eq!(tls::identity_failure(&eof), None);
}

#[test]
fn nothing_is_resumed() {
    let authority = authority();
    let (front, orders) = (identity(&authority, "front"), identity(&authority, "orders"));
    for _ in 0..3 {
        let (near, far) = handshake(front.client_config(&id("orders")), orders.server_config());
        let (near, far) = (near.expect("accepted"), far.expect("accepted"));
        assert_eq!(near.tls13_tickets_received(), 0);
        assert_eq!(far.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_new_svid_and_a_new_bundle_hold_for_the_next_handshake() {
    let (old, new) = (authority(), authority());
    let (front, orders) = (identity(&old, "front"), identity(&old, "orders"));
    let versions = orders.subscribe();
    let before = orders.server_config();
    let both: Vec<_> =
        old.bundle().certificates().chain(new.bundle().certificates()).cloned().collect();
    let both = TrustBundle::new("mesh.local", both).expect("two roots");
    let accepted = || handshake(front.client_config(&id("orders")), orders.server_config()).0;

    orders.replace_svid(svid(&new, "orders", clock::now(), DAY)).expect("the same identity");
    assert!(accepted().is_err(), "front does not trust the new root yet");
    front.replace_bundle(both.clone()).expect("the same trust domain");
    let near = accepted().expect("front trusts both");
    orders.replace_bundle(new.bundle().clone()).expect("the same trust domain");
    let refused = handshake(front.client_config(&id("orders")), orders.server_config()).1;
    assert!(refused.is_err(), "orders has dropped the root of front's SVID");
    let chain = near.peer_certificates().expect("verified").to_vec();
    assert!(front.trusts(&chain, Role::Server, clock::now()).is_ok());
    front.replace_bundle(old.bundle().clone()).expect("the same trust domain");
    assert!(front.trusts(&chain, Role::Server, clock::now()).is_err(), "an open connection ends");
    assert!(!Arc::ptr_eq(&before, &orders.server_config()));
    assert_eq!(*versions.borrow(), 2);
}

#[test]
fn an_identity_never_becomes_another() {
    let authority = authority();
    let orders = identity(&authority, "orders");
    assert!(orders.replace_svid(svid(&authority, "front", clock::now(), DAY)).is_err());
    let other = Authority::create("other.local", clock::now()).expect("a CA");
    assert!(orders.replace_bundle(other.bundle().clone()).is_err());
    assert_eq!((orders.id(), orders.bundle().trust_domain()), (id("orders"), "mesh.local"));
}

#[test]
fn client_configurations_are_kept_and_bounded() {
    let authority = authority();
    let front = identity(&authority, "front");
    let kept = front.client_config(&id("orders"));
    for number in 0..1100 {
        front.client_config(&id(&format!("s{number}")));
        assert!(Arc::ptr_eq(&kept, &front.client_config(&id("orders"))), "used each time");
    }
    let first = front.client_config(&id("s1"));
    assert!(Arc::ptr_eq(&first, &front.client_config(&id("s1"))));
    front.replace_bundle(authority.bundle().clone()).expect("the same trust domain");
    assert!(Arc::ptr_eq(&kept, &front.client_config(&id("orders"))), "nothing has changed");
    front.replace_svid(svid(&authority, "front", clock::now(), DAY)).expect("the same identity");
    assert!(!Arc::ptr_eq(&kept, &front.client_config(&id("orders"))));
}

#[test]
fn a_token_pins_the_root_of_the_control_plane() {
    let authority = authority();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let server = authority.server_certificate(&names, &[], DAY, clock::now()).expect("signed");
    let bundle = Arc::new(authority.bundle().clone());
    let server = tls::control_server(&server, &bundle, Arc::default());
    let pinned = |hash| tls::control_client(ControlTrust::RootHash(hash), None);
    let (near, far) = handshake(pinned(authority.root_hash()), Arc::clone(&server));
    assert!(near.is_ok());
    let far = far.expect("accepted");
    let caller = control_caller(far.peer_certificates(), clock::now());
    assert_eq!(caller, Ok(ControlCaller::Anonymous));
    assert!(handshake(pinned([0; 32]), Arc::clone(&server)).0.is_err());
    let other = self::authority();
    assert!(handshake(pinned(other.root_hash()), server).0.is_err());
}

#[test]
fn no_workload_can_pass_for_the_control_plane() {
    let authority = authority();
    let bundle = Arc::new(authority.bundle().clone());
    let workload = svid(&authority, "orders", clock::now(), DAY);
    let chain = workload.chain().iter().chain(bundle.certificates()).cloned().collect();
    let key = rustls_pki_types::pem::PemObject::from_pem_slice(workload.key_pem().as_bytes());
    let workload = Svid::new(chain, key.expect("its own"), tls::provider()).expect("an SVID");
    let server = tls::control_server(&workload, &bundle, Arc::default());
    for trust in
        [ControlTrust::RootHash(authority.root_hash()), ControlTrust::Bundle(Arc::clone(&bundle))]
    {
        let (near, _) = handshake(tls::control_client(trust, None), Arc::clone(&server));
        assert!(near.is_err());
    }
}

#[test]
fn the_control_plane_knows_its_callers() {
    let authority = authority();
    let now = clock::now();
    let bundle = Arc::new(authority.bundle().clone());
    let server = authority.server_certificate(&[], &[], DAY, now).expect("signed");
    let server = tls::control_server(&server, &bundle, Arc::default());
    let call = |credential: &Svid| {
        let trust = ControlTrust::Bundle(Arc::clone(&bundle));
        let client = tls::control_client(trust, Some(credential));
        let (_, far) = handshake(client, Arc::clone(&server));
        far.map(|far| control_caller(far.peer_certificates(), now).expect("named"))
    };
    let admin = authority.credential("admin", DAY, now).expect("signed");
    let Ok(ControlCaller::Valid(peer)) = call(&admin) else { panic!("an admin") };
    assert_eq!(peer.id.as_str(), "spiffe://mesh.local/credential/admin");

    let hours = |hours| now - Duration::from_hours(hours);
    let asleep = svid(&authority, "orders", hours(50), DAY);
    assert!(matches!(call(&asleep), Ok(ControlCaller::Expired(peer)) if peer.id == id("orders")));
    let gone = svid(&authority, "orders", hours(100), DAY);
    assert!(call(&gone).is_err());
    let chain = gone.chain();
    assert_eq!(control_caller(Some(chain), now), Err(tls::PeerError::Expired));
    let stranger = self::authority().credential("admin", DAY, now).expect("signed");
    assert!(call(&stranger).is_err());
}

#[test]
fn the_application_learns_who_calls() {
    let authority = authority();
    let front = svid(&authority, "front", clock::now(), DAY);
    let peer = peer(front.chain()).expect("an SVID");
    let text = tls::xfcc(&id("orders"), &peer);
    let (by, uri) = (id("orders"), id("front"));
    assert_eq!(text, format!("By={by};Hash={};URI={uri}", peer.sha256));
    assert_eq!(peer.sha256.len(), 64);
}
