//! Static mode's three files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::{HOUR, authority};
use crate::{
    clock,
    identity::{Authority, Files, FilesError},
};

/// The files of a credential, which is an SVID like any other.
fn files(directory: &Path, authority: &Authority) -> Files {
    let svid = authority.credential("orders", HOUR, clock::now()).expect("signed");
    let at = |name: &str| directory.join(name);
    let files = Files { certificate: at("tls.crt"), key: at("tls.key"), ca: at("ca.crt") };
    fs::write(&files.certificate, svid.chain_pem()).expect("written");
    fs::write(&files.key, svid.key_pem()).expect("written");
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("mine");
    fs::write(&files.ca, authority.bundle().to_pem()).expect("written");
    files
}

fn refused(files: &Files) -> String {
    files.load(clock::now()).expect_err("refused").to_string()
}

#[test]
fn three_files_make_an_identity() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    let files = files(directory.path(), &authority);
    let (svid, bundle) = files.load(clock::now()).expect("they fit");
    assert_eq!(svid.id().as_str(), "spiffe://mesh.local/credential/orders");
    assert_eq!(&bundle, authority.bundle());
}

#[test]
fn files_that_do_not_fit_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = authority();
    let files = files(directory.path(), &own);
    let late = files.load(clock::now() + 2 * HOUR).expect_err("expired");
    assert!(matches!(late, FilesError::NotAccepted { .. }), "{late}");

    fs::write(&files.ca, authority().bundle().to_pem()).expect("written");
    let text = refused(&files);
    assert!(text.contains("tls.crt would be refused by peers that trust"), "{text}");
    assert!(text.ends_with("UnknownIssuer") || text.contains("not trusted"), "{text}");
    fs::copy(&files.certificate, &files.ca).expect("written");
    assert!(refused(&files).ends_with("ca.crt: certificate 1 is not a CA certificate"));
    fs::write(&files.ca, "").expect("written");
    assert!(refused(&files).ends_with("ca.crt: there is no CA certificate in it"));
    fs::remove_file(&files.ca).expect("there");
    assert!(refused(&files).starts_with("there is no file "));
}

#[test]
fn wrong_keys_and_certificates_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = authority();
    let files = files(directory.path(), &own);
    let key = fs::read(&files.key).expect("there");
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).expect("mine");
    assert!(refused(&files).contains("(mode 0644): chmod 600 it"));
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("mine");
    let other = own.credential("other", HOUR, clock::now()).expect("signed");
    for (content, words) in [
        (other.key_pem(), "the private key does not belong to the certificate"),
        (other.chain_pem(), "the private key can not be used: there is none in the file"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(), "can not be"),
    ] {
        fs::write(&files.key, content).expect("written");
        let text = refused(&files);
        assert!(text.contains("tls.key") && text.contains(words), "{text}");
    }
    fs::write(&files.key, key).expect("written");
    fs::write(&files.certificate, own.bundle().to_pem()).expect("written");
    assert!(refused(&files).contains("the certificate names a trust domain and not a workload"));
    fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\n!\n").expect("written");
    assert!(refused(&files).contains("the PEM text is broken"));
}
