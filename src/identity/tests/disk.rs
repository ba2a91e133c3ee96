//! The data directory after restarts, crashes and other people.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::{authority, orders, sign};
use crate::{
    clock,
    identity::{
        csr,
        disk::{DataDirectory, DiskError, read, read_private, write_private},
    },
    spiffe::Svid,
    tls,
};

#[test]
fn what_was_stored_is_found_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state/orders.shop");
    let (authority, request) = (authority(), csr::make().expect("a key"));
    let chain = sign(&authority, &request.csr, clock::now()).chain;
    let svid = Svid::new(chain, request.key, tls::provider()).expect("an SVID");

    let first = DataDirectory::open(&path).expect("made");
    assert!(first.load_svid().expect("readable").is_none());
    assert!(first.load_bundle("mesh.local").expect("readable").is_none());
    assert_eq!(first.load_last_good().expect("readable"), None);
    first.save_svid(&svid).expect("stored");
    first.save_bundle(authority.bundle()).expect("stored");
    first.save_last_good(b"one").expect("stored");
    first.save_last_good(b"two").expect("stored");
    drop(first);

    let again = DataDirectory::open(&path).expect("free again");
    let found = again.load_svid().expect("readable").expect("stored");
    assert_eq!((found.id(), found.chain()), (&orders(), svid.chain()));
    assert_eq!(found.key_pem(), svid.key_pem());
    let bundle = again.load_bundle("mesh.local").expect("readable");
    assert_eq!(bundle.as_ref(), Some(authority.bundle()));
    assert_eq!(again.load_last_good().expect("readable").as_deref(), Some(&b"two"[..]));
    let mode =
        |name: &str| fs::metadata(path.join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("svid.pem"), mode("last-good")), (0o700, 0o600, 0o600));
}

#[test]
fn one_process_at_a_time_holds_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let held = DataDirectory::open(directory.path()).expect("mine");
    let refused = DataDirectory::open(directory.path()).expect_err("in use");
    assert!(matches!(refused, DiskError::InUse(_)), "{refused}");
    drop(held);
    DataDirectory::open(directory.path()).expect("free again");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("svid.pem");
    write_private(&path, b"secret").expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("mine");
    let held = DataDirectory::open(directory.path()).expect("mine");
    let refused = held.load_svid().expect_err("readable by others");
    let words = format!(
        "{} holds a private key and others can read it (mode 0640): chmod 600 it",
        path.display(),
    );
    assert_eq!(refused.to_string(), words);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mine");
    assert!(matches!(held.load_svid(), Err(DiskError::Svid { .. })), "and broken ones are too");
}

#[test]
fn what_a_crash_or_a_stranger_left_is_not_written_through() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, elsewhere) = (directory.path().join("file"), directory.path().join("elsewhere"));
    fs::write(&elsewhere, "theirs").expect("written");
    symlink(&elsewhere, directory.path().join("file.new")).expect("linked");
    write_private(&path, b"ours").expect("written");
    assert_eq!(fs::read(&elsewhere).expect("there"), b"theirs");
    assert_eq!(read_private(&path, 10).expect("readable").as_deref(), Some(&b"ours"[..]));
    fs::remove_file(&path).expect("there");
    symlink(&elsewhere, &path).expect("linked");
    write_private(&path, b"ours").expect("written");
    assert_eq!(fs::read(&elsewhere).expect("there"), b"theirs");
}

#[test]
fn nothing_endless_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    write_private(&path, &[0; 11]).expect("written");
    assert!(matches!(read(&path, 10), Err(DiskError::TooLarge(_))));
    assert_eq!(read(&path, 11).expect("fits").map(|bytes| bytes.len()), Some(11));
    let missing = write_private(&directory.path().join("no/such"), b"").expect_err("no directory");
    assert!(missing.to_string().starts_with("can not write "), "{missing}");
}
