//! A disk that fails: what is refused, what stays, and how it goes on.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use redb::StorageBackend;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Note, Plan, State};
use crate::{
    clock,
    control::{
        apply,
        open::{Missing, builder},
        sample::{route, service},
        store::Store,
        time::pb_time,
        world::World,
    },
};

/// A file that takes so many more operations and then is full.
#[derive(Debug)]
struct Disk {
    file: File,
    left: Arc<AtomicI64>,
}

impl Disk {
    fn spend(&self) -> io::Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            1.. => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.spend()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.spend()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.spend()?;
        self.file.write_all_at(data, offset)
    }
}

const ENOUGH: i64 = i64::MAX / 2;

fn open(path: &Path, left: &Arc<AtomicI64>) -> Arc<State> {
    let left = Arc::clone(left);
    let opener = move |path: &Path, missing: Missing| {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(missing == Missing::Create).open(path)?;
        builder().create_with_backend(Disk { file, left: Arc::clone(&left) })
    };
    let (store, contents) = Store::open_by(Box::new(opener), path, "mesh.local").expect("opens");
    State::of(store, contents, clock::now)
}

async fn put(state: &Arc<State>, name: &str) -> Result<u64, Status> {
    let plan = Plan { put: vec![service(name, "")], ..Default::default() };
    state
        .write(move |state, writer| {
            state
                .commit(writer, plan, Note::default())
                .map_err(|error| crate::control::error::store(&error))
        })
        .await
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_else_and_heals_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let left = Arc::new(AtomicI64::new(ENOUGH));
    let state = open(&directory.path().join("mesh.redb"), &left);
    assert_eq!(put(&state, "shop/a").await.expect("written"), 1);

    left.store(0, Ordering::Relaxed);
    for _ in 0..3 {
        let refused = put(&state, "shop/b").await.expect_err("refused");
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(refused.get_details_error_info().expect("details").reason, "STORE_FAILED");
        assert!(!state.is_healthy());
        // Whoever reads does not notice.
        assert_eq!((state.world().revision, state.world().all().count()), (1, 1));
    }

    left.store(ENOUGH, Ordering::Relaxed);
    assert_eq!(put(&state, "shop/c").await.expect("written"), 2);
    assert!(state.is_healthy());
    let names: Vec<_> = state.world().all().map(|(key, _)| key.name.clone()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[tokio::test]
async fn wherever_a_write_fails_memory_and_disk_agree_afterwards() {
    for operations in 0.. {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mesh.redb");
        let left = Arc::new(AtomicI64::new(ENOUGH));
        let state = open(&path, &left);
        put(&state, "shop/a").await.expect("written");
        left.store(operations, Ordering::Relaxed);
        let result = put(&state, "shop/b").await;
        left.store(ENOUGH, Ordering::Relaxed);
        put(&state, "shop/c").await.expect("written");
        let in_memory: Vec<_> = state.world().all().map(|(key, _)| key.clone()).collect();
        let revision = state.world().revision;
        drop(state);

        let again = open(&path, &left);
        let on_disk: Vec<_> = again.world().all().map(|(key, _)| key.clone()).collect();
        assert_eq!(
            (on_disk, again.world().revision),
            (in_memory.clone(), revision),
            "{operations}"
        );
        let has = |name: &str| in_memory.iter().any(|key| key.name == name);
        assert!(has("a") && has("c"), "what was acknowledged is there");
        if result.is_ok() {
            assert!(has("b") && operations > 3, "{operations}");
            return;
        }
    }
}

/// To ask the compiler again about the same resources would cost as much as all else about a write.
#[tokio::test]
async fn what_was_said_of_a_plan_is_said_of_the_world_that_it_makes() {
    let directory = tempfile::tempdir().expect("a directory");
    let left = Arc::new(AtomicI64::new(ENOUGH));
    let state = open(&directory.path().join("mesh.redb"), &left);
    put(&state, "shop/b").await.expect("written");
    let write = state.write(|state, writer| {
        let resources = vec![service("shop/a", ""), route("shop/r", "a", &["b", "gone"])];
        let planned = apply::apply(&state.world(), "mesh.local", resources, pb_time(state.now()));
        assert!(!planned.is_refused() && !planned.problems.is_empty());
        state
            .commit(writer, planned.plan, Note::default())
            .map_err(|error| crate::control::error::store(&error))
    });
    write.await.expect("written");
    let world = state.world();
    assert!(world.checked.get().is_some(), "nobody has to ask");
    let fresh = World { checked: Arc::default(), ..World::clone(&world) };
    assert_eq!(format!("{:?}", world.problems()), format!("{:?}", fresh.problems()));
    assert!(!world.problems().is_empty());
    // A change by itself says nothing about what follows.
    put(&state, "shop/gone").await.expect("written");
    assert!(state.world().checked.get().is_none());
    assert!(state.world().problems().is_empty());
}
