//! What a stranger may send as a CSR. Nothing of it but the key reaches a certificate, and not
//! every key does.

use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{HOUR, authority, orders, sign};
use crate::{
    clock,
    identity::{
        CaError,
        csr::{self, CSR_BYTES_MAX, CsrError},
    },
};

/// Everything in a certificate that says what its holder may do.
#[derive(Debug, PartialEq)]
struct Says {
    subject: String,
    extensions: Vec<(String, bool, Vec<u8>)>,
}

fn says(der: &CertificateDer<'_>) -> Says {
    let (rest, certificate) = X509Certificate::from_der(der).expect("a certificate");
    assert!(rest.is_empty());
    let extensions = certificate.extensions().iter();
    Says {
        subject: certificate.subject().to_string(),
        // All but the subject key identifier, which is the key's hash.
        extensions: extensions
            .filter(|it| it.oid.to_id_string() != "2.5.29.14")
            .map(|it| (it.oid.to_id_string(), it.critical, it.value.to_vec()))
            .collect(),
    }
}

fn key_of(der: &CertificateDer<'_>) -> Vec<u8> {
    X509Certificate::from_der(der).expect("a certificate").1.public_key().raw.to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

type Wish = (&'static str, fn(&mut CertificateParams));

const WISHES: &[Wish] = &[
    ("another service", |wish| {
        wish.subject_alt_names = vec![uri("spiffe://mesh.local/ns/shop/svc/payments")];
    }),
    ("another service beside its own", |wish| {
        wish.subject_alt_names = vec![
            uri("spiffe://mesh.local/ns/shop/svc/orders"),
            uri("spiffe://mesh.local/ns/shop/svc/payments"),
        ];
    }),
    ("the control plane", |wish| {
        wish.subject_alt_names = vec![uri("spiffe://mesh.local/control-plane")];
    }),
    ("an admin", |wish| {
        wish.subject_alt_names = vec![uri("spiffe://mesh.local/credential/admin")];
    }),
    ("the trust domain", |wish| wish.subject_alt_names = vec![uri("spiffe://mesh.local")]),
    ("another trust domain", |wish| {
        wish.subject_alt_names = vec![uri("spiffe://other/ns/shop/svc/orders")];
    }),
    ("a URI with NUL", |wish| wish.subject_alt_names = vec![uri("spiffe://mesh.local/a\0b")]),
    ("DNS names", |wish| {
        wish.subject_alt_names = vec![dns("localhost"), dns("*"), dns("control-plane")];
    }),
    ("addresses", |wish| {
        wish.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
    }),
    ("mail", |wish| {
        wish.subject_alt_names = vec![SanType::Rfc822Name("a@b".try_into().expect("ASCII"))];
    }),
    ("a hundred names", |wish| {
        wish.subject_alt_names =
            (0..100).map(|number| dns(&format!("n{number}.example"))).collect();
    }),
    ("to be a CA", |wish| {
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }),
    ("to be a CA of length 3 that signs", |wish| {
        wish.is_ca = IsCa::Ca(BasicConstraints::Constrained(3));
        wish.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }),
    ("every key usage", |wish| {
        wish.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::KeyAgreement,
        ];
    }),
    ("any extended key usage", |wish| {
        wish.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::OcspSigning];
    }),
    ("clientAuth only", |wish| {
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }),
    ("a subject", |wish| {
        wish.distinguished_name.push(DnType::CommonName, "spiffe://mesh.local/control-plane");
        wish.distinguished_name.push(DnType::OrganizationName, "Outrigger admins");
    }),
    ("an extension of its own", |wish| {
        let oid = &[1, 3, 6, 1, 4, 1, 99999, 1];
        let mut own = CustomExtension::from_oid_content(oid, vec![4, 1, 0]);
        own.set_criticality(true);
        wish.custom_extensions = vec![own];
    }),
    ("names twice", |wish| {
        wish.subject_alt_names = vec![dns("a.example")];
        let again = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0]);
        wish.custom_extensions = vec![again];
    }),
    ("names that are no DER", |wish| {
        let broken = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0x7f, 6]);
        wish.custom_extensions = vec![broken];
    }),
];

#[test]
fn nothing_of_a_csr_but_its_key_survives() {
    let (authority, now) = (authority(), clock::now());
    let plain = csr::make().expect("a key");
    let ours = says(&sign(&authority, &plain.csr, now).chain[0]);
    assert_eq!(ours.subject, "O=Outrigger");
    assert!(WISHES.len() >= 20);
    for (name, wish) in WISHES {
        let key = KeyPair::generate().expect("a key");
        let mut wanted = CertificateParams::default();
        wish(&mut wanted);
        let challenge = Attribute {
            oid: &[1, 2, 840, 113_549, 1, 9, 7],
            values: vec![0x31, 4, 0x0c, 2, b'h', b'i'],
        };
        let csr = wanted.serialize_request_with_attributes(&key, vec![challenge]);
        // One that can not be read is as good an answer as one whose wishes are ignored.
        match authority.sign(csr.expect("encoded").der(), &orders(), HOUR, now) {
            Ok(issued) => {
                assert_eq!(says(&issued.chain[0]), ours, "{name}");
                assert_eq!(key_of(&issued.chain[0]), key.subject_public_key_info(), "{name}");
                assert_eq!(issued.id, orders(), "{name}");
            }
            Err(error) => assert!(matches!(error, CaError::Csr(CsrError::Malformed)), "{name}"),
        }
    }
}

#[test]
fn good_keys_of_four_kinds_are_signed() {
    let (authority, now) = (authority(), clock::now());
    let kinds: [&'static SignatureAlgorithm; 6] = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ];
    for kind in kinds {
        let key = KeyPair::generate_for(kind).expect("a key");
        let csr = CertificateParams::default().serialize_request(&key).expect("encoded");
        let issued = sign(&authority, csr.der(), now);
        assert_eq!(key_of(&issued.chain[0]), key.subject_public_key_info(), "{kind:?}");
    }
}

#[test]
fn weak_and_unusual_keys_are_refused() {
    let (authority, now) = (authority(), clock::now());
    let text = include_str!("hostile_csrs.pem");
    let mut count = 0;
    for section in text.split("# ").skip(1) {
        let (name, pem) = section.split_once('\n').expect("a name and a CSR");
        let csr = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let refused = authority.sign(&csr, &orders(), HOUR, now).expect_err(name);
        let by_reason = matches!(refused, CaError::Csr(CsrError::Key | CsrError::Signature));
        assert!(by_reason, "{name}: {refused}");
        count += 1;
    }
    assert_eq!(count, 13);
}

/// Replaces bytes in a CSR.
fn replaced(csr: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = csr.windows(from.len()).position(|window| window == from).expect("in the CSR");
    [&csr[..at], to, &csr[at + from.len()..]].concat()
}

#[test]
fn what_is_not_signed_by_its_own_key_is_refused() {
    let (authority, now) = (authority(), clock::now());
    let mut wanted = CertificateParams::default();
    wanted.distinguished_name.push(DnType::CommonName, "marked");
    let (mine, yours) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let csr = wanted.serialize_request(&mine).expect("encoded").der().to_vec();
    let pem = wanted.serialize_request(&mine).expect("encoded").pem().expect("PEM");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let of_p384 = wanted.serialize_request(&p384).expect("encoded").der().to_vec();
    // ecdsa-with-SHA384 to ecdsa-with-SHA256
    let (sha384, sha256) =
        ([0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]);
    let mut flipped = csr.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    let (malformed, key, signature) = (CsrError::Malformed, CsrError::Key, CsrError::Signature);
    let certificate = authority.bundle().certificates().next().expect("a root").to_vec();
    for (name, csr, error) in [
        ("nothing", Vec::new(), malformed.clone()),
        ("a byte", vec![0x30], malformed.clone()),
        ("zeros", vec![0; 100], malformed.clone()),
        ("PEM", pem.into_bytes(), malformed.clone()),
        ("a certificate", certificate, malformed.clone()),
        ("half of it", csr[..csr.len() / 2].to_vec(), malformed.clone()),
        ("bytes behind it", [&csr[..], b"\0"].concat(), malformed.clone()),
        ("another after it", [&csr[..], &csr[..]].concat(), malformed.clone()),
        ("more than it may have", vec![0x30; CSR_BYTES_MAX + 1], CsrError::TooLong),
        ("a changed signature", flipped, signature.clone()),
        ("a changed name", replaced(&csr, b"marked", b"masked"), signature.clone()),
        (
            "your key, my signature",
            replaced(&csr, mine.der_bytes(), yours.der_bytes()),
            signature.clone(),
        ),
        ("another hash than said", replaced(&of_p384, &sha384, &sha256), signature.clone()),
        (
            "a point not on the curve",
            replaced(&csr, mine.der_bytes(), &[&[4][..], &[9; 64]].concat()),
            signature.clone(),
        ),
        ("the point at infinity", replaced(&csr, mine.der_bytes(), &[0; 65]), key),
    ] {
        match authority.sign(&csr, &orders(), HOUR, now) {
            Err(CaError::Csr(found)) => assert_eq!(found, error, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}
