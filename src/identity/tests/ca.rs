//! The CA: what it signs, what it refuses, and which files it takes for a CA.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::{HOUR, authority, orders, sign};
use crate::{
    clock,
    identity::{Authority, CaError, Opened, Roots, csr},
    spiffe::{Leaf, SpiffeId, sha256},
    tls::{self, Role},
};

fn csr() -> Vec<u8> {
    csr::make().expect("a key").csr
}

/// Certificates carry whole seconds.
fn seconds_between(earlier: SystemTime, later: SystemTime) -> u64 {
    later.duration_since(earlier).expect("later").as_secs()
}

#[test]
fn a_certificate_is_an_svid_that_peers_accept() {
    let (authority, now) = (authority(), clock::now());
    let issued = sign(&authority, &csr(), now);
    for role in [Role::Client, Role::Server] {
        let leaf = tls::verify(&issued.chain, authority.bundle(), role, now).expect("accepted");
        assert_eq!((leaf.id, leaf.not_after), (orders(), issued.not_after));
    }
    let leaf = Leaf::read(&issued.chain[0]).expect("an SVID");
    let begins = seconds_between(leaf.not_before, now);
    assert!((60..=61).contains(&begins), "{begins}");
    assert_eq!(seconds_between(leaf.not_before, leaf.not_after), 3660);
    assert_eq!(issued.chain.len(), 1);
    assert_ne!(sign(&authority, &csr(), now).chain, issued.chain);
}

#[test]
fn a_root_lasts_ten_years_and_nothing_outlives_it() {
    let now = clock::now();
    let authority = authority();
    let days = seconds_between(now, authority.not_after()) / 86_400;
    assert!((3651..=3653).contains(&days), "{days}");
    let late = authority.not_after() - HOUR / 2;
    let issued = sign(&authority, &csr(), late);
    assert_eq!(issued.not_after, authority.not_after());
    let forever = authority.sign(&csr(), &orders(), Duration::MAX, now).expect("signed");
    assert_eq!(forever.not_after, authority.not_after());
    let expired = authority.sign(&csr(), &orders(), HOUR, authority.not_after());
    assert!(matches!(expired, Err(CaError::Expired)));
}

#[test]
fn no_other_trust_domain_is_signed() {
    let authority = authority();
    for id in ["spiffe://other/ns/shop/svc/orders", "spiffe://mesh.local.evil/x"] {
        let id: SpiffeId = id.parse().expect("an ID");
        let refused = authority.sign(&csr(), &id, HOUR, clock::now());
        assert!(matches!(refused, Err(CaError::TrustDomain { .. })), "{refused:?}");
    }
    let named =
        authority.sign(&csr(), &"spiffe://mesh.local".parse().expect("an ID"), HOUR, clock::now());
    assert!(named.is_err(), "the trust domain itself is nobody's identity");
}

#[test]
fn the_control_plane_shows_its_names_and_the_root() {
    let (authority, now) = (authority(), clock::now());
    let names = ["localhost", "127.0.0.1", "::1", "mesh.example.com"].map(str::to_owned);
    let svid = authority.server_certificate(&names, &[], HOUR, now).expect("signed");
    assert_eq!(svid.id().as_str(), "spiffe://mesh.local/control-plane");
    assert_eq!(sha256(svid.chain().last().expect("a root")), authority.root_hash());
    let end = webpki::EndEntityCert::try_from(&svid.chain()[0]).expect("a certificate");
    for name in names {
        let name = rustls_pki_types::ServerName::try_from(name).expect("a name");
        assert_eq!(end.verify_is_valid_for_subject_name(&name), Ok(()), "{name:?}");
    }
    for name in ["", "a b", "https://localhost", "localhost:15010", "a..b", "\u{e9}"] {
        let refused = authority.server_certificate(&[name.to_owned()], &[], HOUR, now);
        assert!(matches!(refused, Err(CaError::HostName(_))), "{name:?}");
    }
    for name in ["", "a/b", "..", "a b"] {
        let refused = authority.credential(name, HOUR, now);
        assert!(matches!(refused, Err(CaError::Id(_))), "{name:?}");
    }
}

#[test]
fn a_ca_is_found_again_in_its_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = clock::now();
    let open = || Roots::open(directory.path(), "mesh.local", None, now).expect("opened");
    let Opened::Roots(first) = open() else { unreachable!("none was brought") };
    let Opened::Roots(again) = open() else { unreachable!("none was brought") };
    let (first, again) = (first.issuer(), again.issuer());
    assert_eq!(first.chain(), again.chain());
    let issued = sign(again, &csr(), now);
    assert!(tls::verify(&issued.chain, first.bundle(), Role::Client, now).is_ok());
    let mode = |name: &str| {
        fs::metadata(directory.path().join(name)).expect("a file").permissions().mode() & 0o777
    };
    assert_eq!((mode("authority.pem"), mode("root.pem")), (0o600, 0o644));
    assert_eq!(mode("root-key.pem"), 0o600);
    let public = fs::read_to_string(directory.path().join("root.pem")).expect("text");
    assert!(!public.contains("PRIVATE"));
    assert!(!format!("{first:?}").contains("PRIVATE"));
}

#[test]
fn a_broken_or_open_ca_is_refused_and_never_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let now = clock::now();
    let path = directory.path().join("authority.pem");
    let open = || Roots::open(directory.path(), "mesh.local", None, now);
    open().expect("made");
    let whole = fs::read_to_string(&path).expect("text");
    let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mine");
    for mode in [0o644, 0o640, 0o604, 0o666] {
        set(mode);
        let refused = open().expect_err("others can read it").to_string();
        assert!(refused.contains("chmod 600"), "{refused}");
    }
    set(0o600);
    let other = authority();
    let second = tempfile::tempdir().expect("a directory");
    other.save(second.path()).expect("stored");
    let theirs = fs::read_to_string(second.path().join("authority.pem")).expect("text");
    let (key, certificate) = split(&whole);
    let (their_key, _) = split(&theirs);
    for (name, text) in [
        ("empty", String::new()),
        ("no key", certificate.to_owned()),
        ("no certificate", key.to_owned()),
        ("somebody else's key", format!("{their_key}{certificate}")),
        ("cut off", whole[..whole.len() - 40].to_owned()),
    ] {
        fs::write(&path, &text).expect("written");
        open().map(drop).expect_err(name);
        assert_eq!(fs::read_to_string(&path).expect("text"), text, "{name}: nothing was replaced");
    }
}

fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find("-----BEGIN CERTIFICATE").expect("a certificate"))
}

/// A CA made elsewhere: a root and, below it, an issuing CA.
fn elsewhere(change: impl Fn(&mut CertificateParams)) -> (String, String) {
    let now = clock::now();
    let ca = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now - HOUR).into();
        params.not_after = (now + 10 * HOUR).into();
        params
    };
    let root_key = KeyPair::generate().expect("a key");
    let root = ca("root").self_signed(&root_key).expect("signed");
    let key = KeyPair::generate().expect("a key");
    let mut params = ca("issuing");
    change(&mut params);
    let root_params = ca("root");
    let issuer = Issuer::from_params(&root_params, &root_key);
    let issuing = params.signed_by(&key, &issuer).expect("signed");
    (format!("{}{}", issuing.pem(), root.pem()), key.serialize_pem())
}

#[test]
fn an_issuing_ca_below_another_root_can_be_brought() {
    let now = clock::now();
    let (certificates, key) = elsewhere(|_| {});
    let authority =
        Authority::from_pem("mesh.local", certificates.as_bytes(), &key, now).expect("a CA");
    let issued = sign(&authority, &csr(), now);
    assert_eq!(issued.chain.len(), 2, "leaf and issuing CA");
    assert!(tls::verify(&issued.chain, authority.bundle(), Role::Server, now).is_ok());
    let server = authority.server_certificate(&[], &[], HOUR, now).expect("signed");
    assert_eq!(server.chain().len(), 3, "and for the port the root");
    let directory = tempfile::tempdir().expect("a directory");
    authority.save(directory.path()).expect("stored");
    let again = Authority::load(directory.path(), "mesh.local", now).expect("whole");
    assert_eq!(again.expect("there").root_hash(), authority.root_hash());
    assert!(Authority::load(Path::new("/nowhere"), "mesh.local", now).expect("no file").is_none());
}

#[test]
fn what_could_not_sign_is_refused_as_a_ca() {
    let now = clock::now();
    type Change = fn(&mut CertificateParams);
    let cases: [(&str, Change, &str); 4] = [
        ("no CA", |params| params.is_ca = IsCa::ExplicitNoCa, "may not sign"),
        (
            "no keyCertSign",
            |params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            "may not sign",
        ),
        ("expired", |params| params.not_after = (clock::now() - HOUR / 2).into(), "expired"),
        ("not begun", |params| params.not_before = (clock::now() + HOUR).into(), "not accepted"),
    ];
    for (name, change, words) in cases {
        let (certificates, key) = elsewhere(change);
        let made = Authority::from_pem("mesh.local", certificates.as_bytes(), &key, now);
        let error = made.expect_err(name).to_string();
        assert!(error.contains(words), "{name}: {error}");
    }
    let (certificates, _) = elsewhere(|_| {});
    let (_, other_key) = elsewhere(|_| {});
    let mixed = Authority::from_pem("mesh.local", certificates.as_bytes(), &other_key, now);
    assert!(matches!(mixed, Err(CaError::OtherKey)), "{mixed:?}");
    for trust_domain in ["", "Mesh", "a/b", "a b"] {
        assert!(Authority::create(trust_domain, now).is_err(), "{trust_domain:?}");
    }
}
