//! The exchange of a root: what issues and who is trusted in each phase, whoever crashes in between.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;

use super::{HOUR, authority, sign};
use crate::{
    clock,
    identity::{Authority, Opened, Phase, RootKey, Roots, RotationError, csr},
    spiffe::{TrustBundle, sha256},
    tls::{self, Role},
};

fn open(directory: &Path) -> Roots {
    open_at(directory, clock::now())
}

fn open_at(directory: &Path, now: SystemTime) -> Roots {
    match Roots::open(directory, "mesh.local", None, now).expect("opened") {
        Opened::Roots(roots) => roots,
        Opened::OtherRoot => unreachable!("none was brought"),
    }
}

fn accepts(bundle: &TrustBundle, chain: &[CertificateDer<'_>]) -> bool {
    tls::verify(chain, bundle, Role::Server, clock::now()).is_ok()
}

fn leaf(authority: &Authority) -> Vec<CertificateDer<'static>> {
    sign(authority, &csr::make().expect("a key").csr, clock::now()).chain
}

/// Which of both roots' leaves are accepted, what issues, and what retires: as `old+new new -`.
fn state(roots: &Roots, old: &Authority, new: &Authority) -> String {
    let bundle = roots.bundle();
    let trusted = [("old", old), ("new", new)];
    let trusted: Vec<_> = trusted
        .iter()
        .filter(|(_, ca)| accepts(&bundle, &leaf(ca)))
        .map(|(name, _)| *name)
        .collect();
    let name = |hash: [u8; 32]| if hash == old.root_hash() { "old" } else { "new" };
    let retiring: String = roots.retiring().into_iter().map(name).collect();
    format!("{} {} {retiring}", trusted.join("+"), name(roots.issuer().root_hash()))
}

#[test]
fn each_phase_survives_a_restart_and_is_what_it_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let roots = open(path);
    let old = Arc::clone(roots.issuer());
    let roots = roots.begin(None, "ana\n[to]", clock::now()).expect("begun");
    let new = Arc::clone(roots.rotation().expect("under way").to());
    assert!(matches!(roots.begin(None, "", clock::now()), Err(RotationError::UnderWay)));
    for (phase, expected) in [
        (Phase::Trust, "old+new old "),
        (Phase::Issue, "old+new new "),
        (Phase::Retire, "old+new new old"),
        (Phase::Drop, "new new "),
    ] {
        let roots = open(path);
        let rotation = roots.rotation().expect("under way");
        assert_eq!((rotation.phase, rotation.by.as_str()), (phase, "ana"));
        assert_eq!(state(&roots, &old, &new), expected, "{phase:?}");
        // Whoever only knows the old root, and whoever only knows the new one, finds the control plane;
        // before the new one issues only the former is possible.
        let served = roots.server_certificate(&[], HOUR, clock::now()).expect("made");
        assert!(accepts(old.bundle(), served.chain()), "{phase:?}: the old root");
        assert_eq!(accepts(new.bundle(), served.chain()), phase != Phase::Trust, "{phase:?}");
        let shown: Vec<_> = served.chain().iter().map(|der| sha256(der)).collect();
        assert!(shown.contains(&old.root_hash()), "tokens that name it");
        roots.advance(clock::now()).expect("advanced");
    }
    let roots = open(path);
    assert!(roots.rotation().is_none());
    assert_eq!(state(&roots, &old, &new), "new new ");
    let served = roots.server_certificate(&[], HOUR, clock::now()).expect("made");
    assert!(accepts(old.bundle(), served.chain()) && accepts(new.bundle(), served.chain()));
    assert!(roots.is_root_key_here());
    let text = std::fs::read_to_string(path.join("root.pem")).expect("laid");
    assert_eq!(text, new.bundle().to_pem());
    // And once more.
    let again = roots.begin(None, "", clock::now()).expect("begun");
    assert_eq!(state(&again, &old, &new), "new new ");
}

#[test]
fn an_exchange_that_is_taken_back_leads_back_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let roots = open(path);
    let old = Arc::clone(roots.issuer());
    assert!(matches!(roots.abort(clock::now()), Err(RotationError::None)));
    let begun = roots.begin(None, "", clock::now()).expect("begun");
    let new = Arc::clone(begun.rotation().expect("under way").to());
    let back = begun.abort(clock::now()).expect("taken back");
    assert_eq!(state(&back, &old, &new), "old old ");
    assert!(open(path).rotation().is_none());

    // Where the new one has issued, its certificates are exchanged for those of the old one first.
    let begun = back.begin(None, "", clock::now()).expect("begun");
    let new = Arc::clone(begun.rotation().expect("under way").to());
    let issuing = begun.advance(clock::now()).expect("advanced");
    issuing.abort(clock::now()).expect("taken back");
    for (phase, expected) in [
        (Phase::Issue, "old+new old "),
        (Phase::Retire, "old+new old new"),
        (Phase::Drop, "old old "),
    ] {
        let roots = open(path);
        let rotation = roots.rotation().expect("under way");
        assert_eq!((rotation.phase, rotation.aborting), (phase, true));
        assert_eq!(state(&roots, &old, &new), expected, "{phase:?}");
        if phase == Phase::Drop {
            assert!(matches!(roots.abort(clock::now()), Err(RotationError::TooLate)));
        }
        roots.advance(clock::now()).expect("advanced");
    }
    let roots = open(path);
    assert_eq!(state(&roots, &old, &new), "old old ");
    assert_eq!(roots.issuer().chain(), old.chain());
}

#[test]
fn a_crash_before_the_last_file_is_gone_finishes_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let mut roots = open(path).begin(None, "", clock::now()).expect("begun");
    while roots.rotation().is_some_and(|it| it.phase != Phase::Drop) {
        roots = roots.advance(clock::now()).expect("advanced");
    }
    let left = std::fs::read(path.join("rotation.pem")).expect("there");
    let finished = roots.advance(clock::now()).expect("finished");
    crate::identity::disk::write_private(&path.join("rotation.pem"), &left).expect("put back");
    let again = open(path).advance(clock::now()).expect("finished");
    assert_eq!(again.issuer().chain(), finished.issuer().chain());
    assert!(open(path).rotation().is_none());
}

#[test]
fn a_damaged_exchange_is_refused_and_never_guessed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rotation.pem");
    let roots = open(directory.path()).begin(None, "", clock::now()).expect("begun");
    drop(roots);
    let whole = std::fs::read_to_string(&path).expect("there");
    for (name, text) in [
        ("empty", String::new()),
        ("another phase", whole.replace("phase trust", "phase later")),
        ("no new CA", whole.replace("[to]", "[two]")),
        ("cut off", whole[..whole.len() / 2].to_owned()),
        ("no time", whole.replace("\nbegan ", "\nbegun ")),
    ] {
        crate::identity::disk::write_private(&path, text.as_bytes()).expect("written");
        let opened = Roots::open(directory.path(), "mesh.local", None, clock::now());
        assert!(opened.is_err(), "{name}");
    }
}

#[test]
fn what_issues_is_renewed_while_the_roots_key_is_here() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    let roots = open(path);
    let now = clock::now();
    assert_eq!(roots.issuer().chain().len(), 2, "a root and what issues");
    assert!(roots.renewed(now).expect("looked").is_none(), "not yet");
    let later = now + Duration::from_hours(24 * 200);
    let renewed = roots.renewed(later).expect("made").expect("due");
    assert_eq!(renewed.issuer().root_hash(), roots.issuer().root_hash());
    assert_ne!(renewed.issuer().chain(), roots.issuer().chain());
    assert_eq!(open_at(path, later).issuer().chain(), renewed.issuer().chain());

    // Off line, what issues goes on until its end.
    let key = std::fs::read(path.join("root-key.pem")).expect("there");
    RootKey::remove(path).expect("removed");
    let offline = open_at(path, later);
    assert!(!offline.is_root_key_here());
    let much_later = later + Duration::from_hours(24 * 300);
    assert!(offline.renewed(much_later).expect("looked").is_none());
    crate::identity::disk::write_private(&path.join("root-key.pem"), &key).expect("put back");
    let renewed = offline.renewed(much_later).expect("made").expect("due");
    assert!(renewed.issuer().not_after() > much_later);
}

#[test]
fn a_root_that_the_mesh_has_already_is_not_exchanged_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let roots = open(directory.path());
    let same = Authority::load(directory.path(), "mesh.local", clock::now())
        .expect("loads")
        .expect("there");
    let refused = roots.begin(Some(same), "", clock::now());
    assert!(matches!(refused, Err(RotationError::SameRoot)));
    let other = authority();
    let hash = other.root_hash();
    let begun = roots.begin(Some(other), "", clock::now()).expect("begun");
    assert_eq!(begun.rotation().expect("under way").to().root_hash(), hash);
    assert!(!begun.is_root_key_here(), "the key of a root that was brought is not asked for");
}
