//! Requirement R1: certificates of every kind, right and wrong, shown by a client to our server and
//! by a server to our client in real handshakes. No wrong accept and no wrong refusal; a refusal
//! names its reason.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SignatureAlgorithm,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::handshake;
use crate::{
    clock,
    spiffe::{SpiffeId, Svid, TrustBundle},
    tls::{self, Identity, config, provider},
};

const ORDERS: &str = "spiffe://mesh.local/ns/shop/svc/orders";
const HOUR: Duration = Duration::from_hours(1);
const SAN: &[u64] = &[2, 5, 29, 17];

/// What must become of a certificate.
enum Verdict {
    /// Our server takes it from a client, our client from the endpoint `orders`.
    Accepted,
    /// Our server takes it; our client expects somebody else.
    Somebody,
    /// Both refuse it, with these words.
    Refused(&'static str),
}

use Verdict::{Accepted, Refused, Somebody};

struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// A certificate with its key, that may sign others.
struct Signer {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

struct World {
    now: SystemTime,
    /// Trusted, valid.
    root: Signer,
    /// Trusted, valid, and of another kind of key.
    second: Signer,
    /// In the bundle, but expired.
    expired: Signer,
    /// Not trusted; of the same name as `root`.
    stranger: Signer,
    /// Everything that is trusted.
    bundle: TrustBundle,
}

fn algorithm_of(signer: &str) -> &'static SignatureAlgorithm {
    if signer == "second" { &rcgen::PKCS_ECDSA_P384_SHA384 } else { &rcgen::PKCS_ECDSA_P256_SHA256 }
}

fn authority(name: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - HOUR).into();
    params.not_after = (now + HOUR).into();
    params
}

fn root(name: &str, params: CertificateParams) -> Signer {
    let key = KeyPair::generate_for(algorithm_of(name)).expect("a key");
    let der = params.self_signed(&key).expect("a root").der().clone();
    Signer { params, key, der }
}

impl World {
    fn new() -> Self {
        let now = clock::now();
        let first = root("root", authority("mesh root", now));
        let second = root("second", authority("second root", now));
        let mut old = authority("old root", now);
        old.not_after = (now - Duration::from_secs(1)).into();
        let expired = root("expired", old);
        let stranger = root("stranger", authority("mesh root", now));
        let trusted = vec![first.der.clone(), second.der.clone(), expired.der.clone()];
        let bundle = TrustBundle::new("mesh.local", trusted).expect("three roots");
        Self { now, root: first, second, expired, stranger, bundle }
    }

    /// A good leaf for `orders`, changed.
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = (self.now - HOUR).into();
        params.not_after = (self.now + HOUR).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(ORDERS)];
        change(&mut params);
        params
    }

    fn shown(&self, by: &Signer, change: impl FnOnce(&mut CertificateParams)) -> Shown {
        self.shown_with(by, &rcgen::PKCS_ECDSA_P256_SHA256, change)
    }

    fn shown_with(
        &self,
        by: &Signer,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Shown {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let der = by.sign(&self.leaf(change), &key);
        Shown { chain: vec![der], key }
    }

    /// An intermediate CA below `by`.
    fn below(&self, by: &Signer, change: impl FnOnce(&mut CertificateParams)) -> Signer {
        let mut params = authority("intermediate", self.now);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let der = by.sign(&params, &key);
        Signer { params, key, der }
    }

    /// A good leaf below intermediates, all of which are shown.
    fn through(&self, intermediates: &[&Signer]) -> Shown {
        let mut shown = self.shown(intermediates.last().expect("one"), |_| {});
        shown.chain.extend(intermediates.iter().rev().map(|signer| signer.der.clone()));
        shown
    }

    /// Somebody of the mesh with everything in order, at our end of the handshake.
    fn ours(&self, id: &str) -> Identity {
        let shown = self.shown(&self.root, |params| params.subject_alt_names = vec![uri(id)]);
        let svid = Svid::new(shown.chain, private_key(&shown.key), provider());
        Identity::new(svid.expect("an SVID"), self.bundle.clone()).expect("one trust domain")
    }
}

impl Signer {
    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).expect("signed").der().clone()
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

/// A subjectAltName of names that rcgen would not write: context tag and content of each.
fn raw_names(names: &[(u8, &[u8])], behind: &[u8]) -> CustomExtension {
    let mut content = Vec::new();
    for (tag, bytes) in names {
        content.push(0x80 | tag);
        content.push(u8::try_from(bytes.len()).expect("short"));
        content.extend_from_slice(bytes);
    }
    let mut sequence = vec![0x30, u8::try_from(content.len()).expect("short")];
    sequence.extend(content);
    sequence.extend_from_slice(behind);
    CustomExtension::from_oid_content(SAN, sequence)
}

type Make = Box<dyn Fn(&World) -> Shown>;

struct Case(&'static str, Verdict, Make);

/// A leaf below the root, changed.
fn leaf(
    name: &'static str,
    verdict: Verdict,
    change: impl Fn(&World, &mut CertificateParams) + 'static,
) -> Case {
    let make = move |world: &World| world.shown(&world.root, |params| change(world, params));
    Case(name, verdict, Box::new(make))
}

/// A leaf below the root with this URI as its only name.
fn named(text: &'static str, verdict: Verdict) -> Case {
    leaf(text, verdict, move |_, params| params.subject_alt_names = vec![uri(text)])
}

fn chain(name: &'static str, verdict: Verdict, make: impl Fn(&World) -> Shown + 'static) -> Case {
    Case(name, verdict, Box::new(make))
}

fn keys() -> Vec<Case> {
    let with = |name, algorithm: &'static SignatureAlgorithm| {
        chain(name, Accepted, move |world| world.shown_with(&world.root, algorithm, |_| {}))
    };
    vec![
        with("ECDSA P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
        with("ECDSA P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
        with("Ed25519", &rcgen::PKCS_ED25519),
        with("RSA", &rcgen::PKCS_RSA_SHA256),
        chain("somebody else's key", Refused("ignature"), |world| {
            let mut shown = world.shown(&world.root, |_| {});
            shown.key = KeyPair::generate().expect("a key");
            shown
        }),
        chain("a changed byte in the signature", Refused("not trusted"), |world| {
            let mut shown = world.shown(&world.root, |_| {});
            let mut der = shown.chain[0].to_vec();
            *der.last_mut().expect("bytes") ^= 1;
            shown.chain[0] = der.into();
            shown
        }),
        chain("a changed byte in the name", Refused("not trusted"), |world| {
            let mut shown = world.shown(&world.root, |params| {
                params.subject_alt_names = vec![uri("spiffe://mesh.local/ns/shop/svc/orderz")]
            });
            let mut der = shown.chain[0].to_vec();
            let at = der.windows(6).position(|window| window == b"orderz").expect("its name");
            der[at + 5] = b's';
            shown.chain[0] = der.into();
            shown
        }),
        chain("a byte behind the certificate", Refused("well-formed"), |world| {
            let mut shown = world.shown(&world.root, |_| {});
            shown.chain[0] = [&shown.chain[0], &b"\0"[..]].concat().into();
            shown
        }),
        chain("no certificate", Refused("peer sent no certificates"), |world| {
            let mut shown = world.shown(&world.root, |_| {});
            shown.chain.clear();
            shown
        }),
    ]
}

fn names() -> Vec<Case> {
    let refused = "no SPIFFE ID";
    vec![
        named("spiffe://mesh.local/ns/shop/svc/payments", Somebody),
        named("spiffe://mesh.local/ns/shop/svc/orders2", Somebody),
        named("spiffe://mesh.local/ns/shop/svc/Orders", Somebody),
        named("spiffe://mesh.local/credential/admin", Somebody),
        named("spiffe://mesh.local", Refused("trust domain and not a workload")),
        named("spiffe://mesh.local.evil/ns/shop/svc/orders", Refused("another trust domain")),
        named("spiffe://evil/mesh.local/ns/shop/svc/orders", Refused("another trust domain")),
        named("spiffe://mesh.loca/ns/shop/svc/orders", Refused("another trust domain")),
        named("SPIFFE://mesh.local/ns/shop/svc/orders", Refused(refused)),
        named("spiffe://MESH.LOCAL/ns/shop/svc/orders", Refused(refused)),
        named("spiffe://user@mesh.local/ns/shop/svc/orders", Refused(refused)),
        named("spiffe://mesh.local:443/ns/shop/svc/orders", Refused(refused)),
        named("spiffe:///ns/shop/svc/orders", Refused(refused)),
        named("spiffe:/mesh.local/ns/shop/svc/orders", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders/", Refused(refused)),
        named("spiffe://mesh.local//ns/shop/svc/orders", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/x/../orders", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/./orders", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/%6frders", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders?a=b", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders#a", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders ", Refused(refused)),
        named(" spiffe://mesh.local/ns/shop/svc/orders", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders\0", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders\0/x", Refused(refused)),
        named("spiffe://mesh.local/ns/shop/svc/orders\n", Refused(refused)),
        named("https://mesh.local/ns/shop/svc/orders", Refused(refused)),
        named("orders.shop.mesh", Refused(refused)),
        named("", Refused(refused)),
        leaf("a URI of 2,049 bytes", Refused(refused), |_, params| {
            let long = format!("spiffe://mesh.local/{}", "a".repeat(2029));
            params.subject_alt_names = vec![uri(&long)];
        }),
        leaf("a URI of 2,048 bytes", Somebody, |_, params| {
            let long = format!("spiffe://mesh.local/{}", "a".repeat(2028));
            params.subject_alt_names = vec![uri(&long)];
        }),
    ]
}

fn several_names() -> Vec<Case> {
    let sans = |name, verdict, sans: fn() -> Vec<SanType>| {
        leaf(name, verdict, move |_, params| params.subject_alt_names = sans())
    };
    let raw = |name, verdict, extension: fn() -> CustomExtension| {
        leaf(name, verdict, move |_, params| {
            params.subject_alt_names.clear();
            params.custom_extensions = vec![extension()];
        })
    };
    vec![
        sans("DNS, address and mail beside the URI", Accepted, || {
            let mail = SanType::Rfc822Name("a@b".try_into().expect("ASCII"));
            let address = SanType::IpAddress([127, 0, 0, 1].into());
            vec![dns("orders.shop.mesh"), address, uri(ORDERS), mail]
        }),
        sans("two URIs, ours first", Refused("2 URI names"), || {
            vec![uri(ORDERS), uri("spiffe://mesh.local/ns/shop/svc/payments")]
        }),
        sans("two URIs, ours last", Refused("2 URI names"), || {
            vec![uri("spiffe://mesh.local/ns/shop/svc/payments"), uri(ORDERS)]
        }),
        sans("two URIs, one no SPIFFE ID", Refused("2 URI names"), || {
            vec![uri(ORDERS), uri("https://orders.example")]
        }),
        sans("the same URI twice", Refused("2 URI names"), || vec![uri(ORDERS), uri(ORDERS)]),
        sans("three URIs", Refused("3 URI names"), || vec![uri("a:"), uri("b:"), uri(ORDERS)]),
        sans("no names", Refused("no URI name"), Vec::new),
        sans("DNS only", Refused("no URI name"), || vec![dns("orders.shop.mesh")]),
        sans("the ID as a DNS name", Refused("no URI name"), || vec![dns(ORDERS)]),
        leaf("the ID as common name", Refused("no URI name"), |_, params| {
            params.subject_alt_names.clear();
            params.distinguished_name.push(DnType::CommonName, ORDERS);
        }),
        leaf("another ID as common name", Accepted, |_, params| {
            let other = "spiffe://mesh.local/ns/shop/svc/payments";
            params.distinguished_name.push(DnType::CommonName, other);
        }),
        leaf("two extensions of names", Refused("well-formed"), |_, params| {
            params.custom_extensions = vec![raw_names(&[(6, ORDERS.as_bytes())], b"")];
        }),
        raw("a second URI that is no text", Refused("well-formed"), || {
            raw_names(&[(6, ORDERS.as_bytes()), (6, b"spiffe://\xff\xfe")], b"")
        }),
        raw("a URI that is UTF-8", Refused(""), || {
            raw_names(&[(6, "spiffe://mesh.local/\u{e9}".as_bytes())], b"")
        }),
        raw("bytes behind the names", Refused(""), || {
            raw_names(&[(6, ORDERS.as_bytes())], b"\x05\0")
        }),
        raw("names written by hand", Accepted, || raw_names(&[(6, ORDERS.as_bytes())], b"")),
    ]
}

fn usages() -> Vec<Case> {
    use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyAgreement, KeyCertSign, KeyEncipherment};
    let usage = |name, verdict, usages: &'static [KeyUsagePurpose]| {
        leaf(name, verdict, move |_, params| params.key_usages = usages.to_vec())
    };
    let extended = |name, verdict, usages: &'static [ExtendedKeyUsagePurpose]| {
        leaf(name, verdict, move |_, params| params.extended_key_usages = usages.to_vec())
    };
    let constraints =
        |name, verdict, is_ca: IsCa| leaf(name, verdict, move |_, params| params.is_ca = is_ca);
    let (wrong, extension) = (|| Refused("wrong key usage"), || Refused("extended key usage"));
    let ca = || Refused("a CA certificate");
    vec![
        usage("more key usages", Accepted, &[DigitalSignature, KeyEncipherment, KeyAgreement]),
        usage("no key usage", wrong(), &[]),
        usage("key usage without digitalSignature", wrong(), &[KeyAgreement]),
        usage("key usage with keyCertSign", wrong(), &[DigitalSignature, KeyCertSign]),
        usage("key usage with cRLSign", wrong(), &[DigitalSignature, CrlSign]),
        extended("no extended key usage", Accepted, &[]),
        extended("more extended key usages", Accepted, &[CodeSigning, ServerAuth, ClientAuth]),
        extended("serverAuth only", extension(), &[ServerAuth]),
        extended("clientAuth only", extension(), &[ClientAuth]),
        extended("codeSigning only", extension(), &[CodeSigning]),
        constraints("no basic constraints", Accepted, IsCa::NoCa),
        constraints("a CA as a leaf", ca(), IsCa::Ca(BasicConstraints::Unconstrained)),
        constraints("a CA without length", ca(), IsCa::Ca(BasicConstraints::Constrained(0))),
        leaf("an unknown extension", Accepted, |_, params| {
            let unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 1], vec![5, 0]);
            params.custom_extensions = vec![unknown];
        }),
        leaf("an unknown critical extension", Refused(""), |_, params| {
            let oid = &[1, 3, 6, 1, 4, 1, 1];
            let mut unknown = CustomExtension::from_oid_content(oid, vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions = vec![unknown];
        }),
        leaf("20 KiB of names", Refused("well-formed"), |_, params| {
            let many = (0..1000).map(|number| dns(&format!("name-{number}.example.com")));
            params.subject_alt_names.extend(many);
        }),
    ]
}

fn times() -> Vec<Case> {
    let valid =
        |name, verdict, from: fn(SystemTime) -> SystemTime, to: fn(SystemTime) -> SystemTime| {
            leaf(name, verdict, move |world, params| {
                params.not_before = from(world.now).into();
                params.not_after = to(world.now).into();
            })
        };
    vec![
        valid("just begun", Accepted, |now| now, |now| now + HOUR),
        valid("about to end", Accepted, |now| now - HOUR, |now| now + Duration::from_secs(60)),
        valid(
            "just ended",
            Refused("xpired"),
            |now| now - HOUR,
            |now| now - Duration::from_secs(2),
        ),
        valid("long ended", Refused("xpired"), |now| now - 48 * HOUR, |now| now - 47 * HOUR),
        valid("not begun", Refused("alid"), |now| now + Duration::from_secs(60), |now| now + HOUR),
        valid(
            "ends before it begins",
            Refused("ends before it begins"),
            |now| now + HOUR,
            |now| now - HOUR,
        ),
    ]
}

fn chains() -> Vec<Case> {
    vec![
        chain("the second root", Accepted, |world| world.shown(&world.second, |_| {})),
        chain("the root sent along", Accepted, |world| {
            let mut shown = world.shown(&world.root, |_| {});
            shown.chain.push(world.root.der.clone());
            shown
        }),
        chain("a stranger's root sent along", Accepted, |world| {
            let mut shown = world.shown(&world.root, |_| {});
            shown.chain.push(world.stranger.der.clone());
            shown
        }),
        chain("an intermediate", Accepted, |world| {
            world.through(&[&world.below(&world.root, |_| {})])
        }),
        chain("an intermediate of length 0", Accepted, |world| {
            world.through(&[&world.below(&world.root, |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            })])
        }),
        chain("an intermediate without key usage", Accepted, |world| {
            world.through(&[&world.below(&world.root, |params| params.key_usages.clear())])
        }),
        chain("two intermediates", Accepted, |world| {
            let upper = world.below(&world.root, |params| {
                params.distinguished_name.push(DnType::CommonName, "upper");
            });
            world.through(&[&upper, &world.below(&upper, |_| {})])
        }),
        chain("two intermediates in the wrong order", Accepted, |world| {
            let upper = world.below(&world.root, |params| {
                params.distinguished_name.push(DnType::CommonName, "upper");
            });
            let mut shown = world.through(&[&upper, &world.below(&upper, |_| {})]);
            shown.chain.swap(1, 2);
            shown
        }),
        chain("an intermediate that is not sent", Refused("none of the trusted roots"), |world| {
            let mut shown = world.through(&[&world.below(&world.root, |_| {})]);
            shown.chain.truncate(1);
            shown
        }),
    ]
}

fn broken_chains() -> Vec<Case> {
    let intermediate = |name, verdict, change: fn(&World, &mut CertificateParams)| {
        chain(name, verdict, move |world| {
            world.through(&[&world.below(&world.root, |params| change(world, params))])
        })
    };
    vec![
        intermediate("an expired intermediate", Refused("it expired at "), |world, params| {
            params.not_after = (world.now - Duration::from_secs(2)).into();
        }),
        intermediate("an intermediate not begun", Refused("it is valid from "), |world, params| {
            params.not_before = (world.now + Duration::from_secs(60)).into();
        }),
        intermediate("an intermediate that is no CA", Refused("not trusted"), |_, params| {
            params.is_ca = IsCa::ExplicitNoCa;
        }),
        intermediate("an intermediate without CA", Refused("not trusted"), |_, params| {
            params.is_ca = IsCa::NoCa;
        }),
        intermediate("an intermediate without keyCertSign", Refused("not trusted"), |_, params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }),
        chain("one intermediate too many", Refused("not trusted"), |world| {
            let upper = world.below(&world.root, |params| {
                params.distinguished_name.push(DnType::CommonName, "upper");
                params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            });
            world.through(&[&upper, &world.below(&upper, |_| {})])
        }),
        chain("another workload as issuer", Refused("not trusted"), |world| {
            let params = world.leaf(|_| {});
            let key = KeyPair::generate().expect("a key");
            let der = world.root.sign(&params, &key);
            world.through(&[&Signer { params, key, der }])
        }),
        chain("a stranger's root of the same name", Refused("not trusted"), |world| {
            world.shown(&world.stranger, |_| {})
        }),
        chain("a stranger's root sent along with its leaf", Refused("not trusted"), |world| {
            let mut shown = world.shown(&world.stranger, |_| {});
            shown.chain.push(world.stranger.der.clone());
            shown
        }),
        chain("a stranger's intermediate", Refused("not trusted"), |world| {
            world.through(&[&world.below(&world.stranger, |_| {})])
        }),
        chain("an expired root", Refused("not trusted"), |world| {
            world.shown(&world.expired, |_| {})
        }),
        chain("self-signed", Refused("not trusted"), |world| {
            let key = KeyPair::generate().expect("a key");
            let der = world.leaf(|_| {}).self_signed(&key).expect("signed").der().clone();
            Shown { chain: vec![der], key }
        }),
        chain("self-signed in the root's name", Refused("not trusted"), |world| {
            let key = KeyPair::generate().expect("a key");
            let params = world.leaf(|params| {
                params.distinguished_name = world.root.params.distinguished_name.clone();
            });
            Shown { chain: vec![params.self_signed(&key).expect("signed").der().clone()], key }
        }),
        chain("the root itself", Refused(""), |world| {
            let key = KeyPair::from_pem(&world.root.key.serialize_pem()).expect("its key");
            Shown { chain: vec![world.root.der.clone()], key }
        }),
    ]
}

#[test]
fn every_certificate_is_accepted_or_refused_as_it_should_be() {
    let world = World::new();
    let front = world.ours("spiffe://mesh.local/ns/shop/svc/front");
    let orders: SpiffeId = ORDERS.parse().expect("an ID");
    let cases: Vec<Case> =
        [keys(), names(), several_names(), usages(), times(), chains(), broken_chains()]
            .into_iter()
            .flatten()
            .collect();
    assert!(cases.len() >= 45, "{}", cases.len());
    let mut wrong = Vec::new();
    for Case(name, verdict, make) in &cases {
        let shown = make(&world);
        let as_client = handshake(shown.client(), front.server_config()).1.map(drop);
        let empty = shown.chain.is_empty();
        let as_server =
            (!empty).then(|| handshake(front.client_config(&orders), shown.server()).0.map(drop));
        let judge = |role: &str, expected: &Verdict, result: Result<(), Error>| {
            let text = result.err().map(|error| {
                let failure = std::io::Error::other(error.clone());
                tls::identity_failure(&failure).unwrap_or_else(|| error.to_string())
            });
            let right = match (expected, role, &text) {
                (Accepted, _, None) | (Somebody, "client", None) => true,
                (Somebody, "server", Some(text)) => text.contains("expected spiffe://"),
                (Refused(words), _, Some(text)) => text.contains(words),
                _ => false,
            };
            (!right).then(|| format!("{name:?} as {role}: {text:?}"))
        };
        wrong.extend(judge("client", verdict, as_client));
        wrong.extend(as_server.and_then(|result| judge("server", verdict, result)));
    }
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

impl Shown {
    fn certified(&self) -> Arc<CertifiedKey> {
        let key = provider().key_provider.load_private_key(private_key(&self.key));
        Arc::new(CertifiedKey::new(self.chain.clone(), key.expect("a key")))
    }

    /// A client that shows it and takes any server.
    fn client(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(&[&TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = if self.chain.is_empty() {
            builder.with_no_client_auth()
        } else {
            let shown = SingleCertAndKey::from(self.certified());
            builder.with_client_cert_resolver(Arc::new(shown))
        };
        config.alpn_protocols = vec![tls::ALPN_H2.to_vec()];
        Arc::new(config)
    }

    /// A server that shows it and takes any client.
    fn server(&self) -> Arc<ServerConfig> {
        config::server(&self.certified(), Arc::new(Anybody), &[tls::ALPN_H2])
    }
}

/// The other end trusts everyone, so that only our own verdict counts.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
