//! Backups of a store beside other files, and directories made of them.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{BackupError, RESTORING, check, check_whole, make, restore};
use crate::{
    clock,
    control::{
        error,
        plan::{Note, Plan},
        sample::service,
        state::State,
    },
    identity::disk,
};

async fn put(state: &Arc<State>, name: &str) {
    let plan = Plan { put: vec![service(name, "")], ..Plan::default() };
    let write = state.write(move |state, writer| {
        state.commit(writer, plan, Note::default()).map_err(|failure| error::store(&failure))
    });
    write.await.expect("written");
}

fn open(data: &Path) -> Arc<State> {
    State::open(&data.join("mesh.redb"), "mesh.local", clock::now).expect("opens")
}

/// A data directory with a store and files beside it, and a backup of it.
async fn backed_up(root: &Path) -> (PathBuf, Arc<State>) {
    let data = root.join("data");
    fs::create_dir(&data).expect("made");
    let state = open(&data);
    put(&state, "shop/a").await;
    disk::write_private(&data.join("ca-key.pem"), b"secret").expect("written");
    disk::write_public(&data.join("root.pem"), b"public").expect("written");
    fs::create_dir(data.join("more")).expect("made");
    disk::write_private(&data.join("more/file"), b"below").expect("written");
    let (mut archive, manifest) = make(&state, &data).expect("made");
    assert_eq!((manifest.revision, manifest.files.len()), (1, 4));
    let mut bytes = Vec::new();
    archive.read_to_end(&mut bytes).expect("read");
    let path = root.join("mesh.tar");
    fs::write(&path, bytes).expect("written");
    let left: Vec<_> = fs::read_dir(&data)
        .expect("read")
        .filter_map(|entry| entry.expect("read").file_name().into_string().ok())
        .filter(|name| name.starts_with("backup"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    (path, state)
}

#[tokio::test]
async fn a_restored_directory_is_what_was_copied_with_a_history_of_its_own() {
    let root = tempfile::tempdir().expect("a directory");
    let (path, state) = backed_up(root.path()).await;
    // Written after the copy.
    put(&state, "shop/b").await;
    let listed = check(&path).expect("whole");
    let secret: Vec<_> = listed.files.iter().map(|it| (it.name.as_str(), it.secret)).collect();
    let expected =
        [("ca-key.pem", true), ("more/file", true), ("root.pem", false), ("mesh.redb", true)];
    assert_eq!(secret, expected);

    let new = root.path().join("new");
    restore(&path, &new).expect("restored");
    let restored = open(&new);
    let names: Vec<_> = restored.world().all().map(|(key, _)| key.name.clone()).collect();
    assert_eq!((names, restored.newest().revision), (vec!["a".to_owned()], 1));
    assert_ne!(restored.history(), state.history());
    assert_eq!(fs::read(new.join("more/file")).expect("read"), b"below");
    for (name, mode) in [("ca-key.pem", 0o600), ("root.pem", 0o644), ("mesh.redb", 0o600)] {
        let metadata = fs::metadata(new.join(name)).expect("is there");
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
    check_whole(&new).expect("whole");
    assert!(matches!(restore(&path, &new), Err(BackupError::NotEmpty(_))));
}

#[tokio::test]
async fn what_is_not_whole_is_refused_and_half_a_restore_can_be_made_again() {
    let root = tempfile::tempdir().expect("a directory");
    let (path, _state) = backed_up(root.path()).await;
    let whole = fs::read(&path).expect("read");
    let broken = root.path().join("broken.tar");
    for length in [0, 700, whole.len() / 2, whole.len() - 2000] {
        fs::write(&broken, &whole[..length]).expect("written");
        assert!(matches!(check(&broken), Err(BackupError::Broken { .. })), "{length}");
    }
    let mut altered = whole.clone();
    // Of the first file's bytes, behind its header.
    altered[512] ^= 1;
    fs::write(&broken, altered).expect("written");
    let new = root.path().join("new");
    let error = restore(&broken, &new).expect_err("refused").to_string();
    assert!(error.contains("ca-key.pem is not as manifest.json says"), "{error}");
    assert!(!new.exists(), "nothing of it is used");

    fs::create_dir(&new).expect("made");
    fs::write(new.join(RESTORING), b"").expect("written");
    fs::write(new.join("ca-key.pem"), b"half").expect("written");
    fs::write(new.join("mesh.redb"), b"also").expect("written");
    assert!(matches!(check_whole(&new), Err(BackupError::Half(_))));
    restore(&path, &new).expect("made again");
    check_whole(&new).expect("whole");
    assert_eq!(fs::read(new.join("ca-key.pem")).expect("read"), b"secret");
}
