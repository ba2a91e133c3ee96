//! Crashes, torn writes and damage below the store: a disk in memory that keeps what was synced, loses
//! or tears what was not, and flips bits. After each, exactly what was acknowledged is there, or the
//! file is refused.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex},
};

use fastrand::Rng;
use redb::{DatabaseError, StorageBackend};
use tokio::time::Instant;

use super::{Batch, Content, Contents, Store, StoreError};
use crate::{
    control::{
        open::builder,
        revisions::{Past, UndoRow},
        sample::service,
    },
    resource::{self, ResourceKey, pb},
};

/// What a disk writes at once.
const SECTOR: usize = 512;

/// A change that no sync has made lasting.
#[derive(Debug, Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Image {
    /// What is there after the power fails.
    lasting: Vec<u8>,
    /// What reads see.
    seen: Vec<u8>,
    pending: Vec<Pending>,
    /// Writes, changes of the length and syncs until the crash; `None`: no crash.
    left: Option<u64>,
    /// Those made so far.
    made: u64,
}

impl Pending {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                let end = at + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*at..end].copy_from_slice(data);
            }
            Self::Length(length) => image.resize(*length, 0),
        }
    }

    /// Nothing of it, all of it, or some sectors.
    fn tear(&self, rng: &mut Rng, image: &mut Vec<u8>) {
        match (self, rng.u8(0..10)) {
            (_, 0..3) => {}
            (Self::Length(_), _) | (_, 3..6) => self.apply(image),
            (Self::Write(at, data), _) => {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if rng.bool() {
                        Self::Write(at + i * SECTOR, sector.to_vec()).apply(image);
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Image>>);

impl Disk {
    fn with(bytes: Vec<u8>, left: Option<u64>) -> Self {
        let image = Image { lasting: bytes.clone(), seen: bytes, left, ..Image::default() };
        Self(Arc::new(Mutex::new(image)))
    }

    /// Counts an operation; fails from the crash on. The one that it hits may have begun.
    fn operate(&self, change: Option<Pending>) -> io::Result<()> {
        let mut image = self.0.lock().expect("no panic");
        match &mut image.left {
            Some(0) => {
                // Once: what is begun after the crash never reaches the disk.
                image.left = Some(u64::MAX);
                image.pending.extend(change);
                return Err(io::Error::other("the machine is gone"));
            }
            Some(u64::MAX) => return Err(io::Error::other("the machine is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        image.made += 1;
        let Image { lasting, seen, pending, .. } = &mut *image;
        match change {
            Some(change) => {
                change.apply(seen);
                pending.push(change);
            }
            None => pending.drain(..).for_each(|change| change.apply(lasting)),
        }
        Ok(())
    }

    /// What the disk has after the process was killed, or the power failed.
    fn after(&self, rng: &mut Rng, power: bool) -> Vec<u8> {
        let image = self.0.lock().expect("no panic");
        if !power {
            // The system still has all that was written, save what was being written.
            let mut seen = image.seen.clone();
            if let (Some(u64::MAX), Some(last)) = (image.left, image.pending.last()) {
                last.tear(rng, &mut seen);
            }
            return seen;
        }
        let mut lasting = image.lasting.clone();
        image.pending.iter().for_each(|change| change.tear(rng, &mut lasting));
        lasting
    }

    fn made(&self) -> u64 {
        self.0.lock().expect("no panic").made
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(u64::try_from(self.0.lock().expect("no panic").seen.len()).expect("small"))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let image = self.0.lock().expect("no panic");
        let at = usize::try_from(offset).expect("small");
        let bytes = image.seen.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(Some(Pending::Length(usize::try_from(len).expect("small"))))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(None)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).expect("small");
        self.operate(Some(Pending::Write(at, data.to_vec())))
    }
}

fn open(disk: &Disk) -> Result<(Store, Contents), StoreError> {
    let disk = disk.clone();
    let opener = move |_: &Path, _| -> Result<_, DatabaseError> {
        builder().create_with_backend(disk.clone())
    };
    Store::open_by(Box::new(opener), Path::new("mesh.redb"), "mesh.local")
}

/// What should be there after each revision; the last is the newest.
#[derive(Debug, Clone)]
struct Model(Vec<Content>);

impl Model {
    fn newest(&self) -> &Content {
        self.0.last().expect("one at least")
    }

    /// The next write: a few resources come, change or go.
    fn next(&self, rng: &mut Rng) -> (Batch, Content) {
        let revision = u64::try_from(self.0.len()).expect("small");
        let mut content = self.newest().clone();
        let mut batch = Batch::default();
        let mut past = BTreeMap::new();
        for _ in 0..rng.usize(1..6) {
            let mut resource = service(&format!("shop/s{}", rng.u8(0..12)), "");
            let key = resource::key(&resource).expect("has a spec");
            if past.contains_key(&key) {
                continue;
            }
            let before = content.get(&key).cloned();
            past.insert(key.clone(), before.clone());
            if before.is_some() && rng.bool() {
                content.remove(&key);
                batch.delete.push(key);
            } else {
                let labels = &mut resource.metadata.as_mut().expect("set").labels;
                // Sometimes larger than a page.
                let size = if rng.u8(0..5) == 0 { 9000 } else { 20 };
                labels.insert("is".to_owned(), format!("{revision}-{}", "x".repeat(size)));
                content.insert(key, resource.clone());
                batch.put.push(resource);
            }
        }
        let past = past.into_iter().map(|(key, before): (ResourceKey, _)| Past {
            id: Some(key.to_pb()),
            before,
            registered: false,
        });
        batch.undo = UndoRow { past: past.collect(), ..UndoRow::default() };
        batch.undo.request = format!("request {revision}");
        batch.revision = Some(pb::Revision { revision, ..pb::Revision::default() });
        if rng.u8(0..4) == 0 {
            batch.put_guards.push(pb::Guard { revision, ..pb::Guard::default() });
        }
        (batch, content)
    }

    /// Writes until the crash, or so often; says what the one under way would have made.
    fn write(&mut self, store: &Store, rng: &mut Rng, times: u32) -> Option<Content> {
        for _ in 0..times {
            let (batch, content) = self.next(rng);
            if store.write(&batch).is_err() {
                return Some(content);
            }
            self.0.push(content);
        }
        None
    }

    /// Everything that was acknowledged is there, and of the write under way all or nothing; takes
    /// over what it finds.
    fn check(&mut self, store: &Store, contents: &Contents, under_way: Option<Content>, why: &str) {
        let found: Content = contents
            .resources
            .iter()
            .map(|it| (resource::key(it).expect("has a spec"), it.clone()))
            .collect();
        let newest = contents.newest.as_ref().map_or(0, |entry| entry.revision);
        let acknowledged = u64::try_from(self.0.len() - 1).expect("small");
        if newest == acknowledged + 1
            && let Some(content) = under_way
        {
            self.0.push(content);
        } else {
            assert_eq!(newest, acknowledged, "{why}");
        }
        assert_eq!(found, *self.newest(), "{why}");
        for (revision, content) in (0..).zip(&self.0) {
            let ([found, _], _) = store.contents([revision, revision]).expect("the log reads");
            assert_eq!(found.as_ref(), Some(content), "{why}, revision {revision}");
            if revision > 0 {
                let done = store.done(&format!("request {revision}")).expect("the log reads");
                assert_eq!(done.map(|done| done.entry.revision), Some(revision), "{why}");
            }
        }
    }
}

/// A new file, as it is when it gets its name.
fn new_file() -> Vec<u8> {
    let disk = Disk::default();
    drop(builder().create_with_backend(disk.clone()).expect("made"));
    let image = disk.0.lock().expect("no panic");
    image.lasting.clone()
}

/// One life of a store with a crash in it, a second crash while it recovers, and what is there then.
fn live(seed: u64, crash_at: u64, power: bool) {
    let why = format!("seed {seed}, crash at {crash_at}, power {power}");
    let mut rng = Rng::with_seed(seed);
    let mut model = Model(vec![Content::new()]);
    let disk = Disk::with(new_file(), Some(crash_at));
    let mut under_way = None;
    if let Ok((store, _)) = open(&disk) {
        under_way = model.write(&store, &mut rng, 12);
    }
    let mut bytes = disk.after(&mut rng, power);
    // It may crash again while it recovers; nothing was written then.
    let again = Disk::with(bytes.clone(), Some(rng.u64(0..12)));
    drop(open(&again));
    bytes = again.after(&mut rng, power);

    let disk = Disk::with(bytes, None);
    let (store, contents) = open(&disk).unwrap_or_else(|error| unreachable!("{why}: {error:?}"));
    model.check(&store, &contents, under_way, &why);
    assert_eq!(model.write(&store, &mut rng, 2), None, "{why}: it goes on");
    drop((store, contents));
    let (store, contents) = open(&disk).expect("opens again");
    model.check(&store, &contents, None, &why);
}

#[test]
fn a_crash_at_every_operation_loses_nothing_that_was_acknowledged() {
    let whole = Disk::with(new_file(), None);
    let (store, _) = open(&whole).expect("opens");
    Model(vec![Content::new()]).write(&store, &mut Rng::with_seed(0), 12);
    let operations = whole.made();
    assert!(operations > 60, "{operations}");
    for crash_at in 0..operations {
        live(0, crash_at, crash_at % 2 == 0);
        live(0, crash_at, crash_at % 2 == 1);
    }
}

#[test]
fn a_crash_anywhere_under_200_seeds_loses_nothing_that_was_acknowledged() {
    for seed in 1..=200 {
        let mut rng = Rng::with_seed(seed);
        live(seed, rng.u64(0..160), rng.bool());
    }
}

#[test]
fn a_file_that_was_never_finished_is_made_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("mesh.redb");
    let unfinished = directory.path().join("mesh.redb.new");
    fs::write(&unfinished, [0; 9000]).expect("written");
    let (store, _) = Store::open(&path, "mesh.local").expect("opens");
    drop(store);
    assert!(path.exists() && !unfinished.exists());
}

/// All that a store gives, for comparison.
fn everything(disk: &Disk) -> Result<(Vec<pb::Resource>, Vec<Option<Content>>), StoreError> {
    let (store, contents) = open(disk)?;
    let newest = contents.newest.as_ref().map_or(0, |entry| entry.revision);
    let log = (0..=newest).map(|at| Ok(store.contents([at, at])?.0[0].clone()));
    Ok((contents.resources, log.collect::<Result<_, StoreError>>()?))
}

#[test]
fn a_damaged_file_is_refused_or_as_it_was_and_never_something_else() {
    let disk = Disk::default();
    {
        let (store, _) = open(&disk).expect("opens");
        Model(vec![Content::new()]).write(&store, &mut Rng::with_seed(0), 40);
    }
    let whole = disk.0.lock().expect("no panic").seen.clone();
    let expected = everything(&Disk::with(whole.clone(), None)).expect("is whole");
    let (mut refused, mut rng) = (0, Rng::with_seed(0));
    for seed in 0..200 {
        let mut bytes = whole.clone();
        let at = rng.usize(0..bytes.len());
        match seed % 4 {
            0 => bytes[at] ^= 1 << rng.u8(0..8),
            1 => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
            2 => bytes.iter_mut().skip(at).take(64).for_each(|byte| *byte = rng.u8(..)),
            _ => bytes.truncate(at),
        }
        // A new file is an empty store.
        if bytes.is_empty() {
            continue;
        }
        let found = catch_unwind(AssertUnwindSafe(|| everything(&Disk::with(bytes, None))));
        match found.expect("no panic reaches us") {
            Ok(found) => assert_eq!(found, expected, "damage {seed} at {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 50, "{refused}");
}

#[test]
fn a_disk_that_can_not_be_written_refuses_to_open_with_its_name() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("missing").join("mesh.redb");
    let error = Store::open(&path, "mesh.local").expect_err("refused");
    assert!(error.to_string().contains("missing/mesh.redb"), "{error}");
}

/// A measurement, not a test: how long a store of 10,000 resources takes to open.
#[test]
#[ignore = "a measurement; run it in release"]
#[allow(clippy::print_stdout, reason = "its result is what it prints")]
fn opening_ten_thousand_resources() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("mesh.redb");
    let resource = |i: u32, label: u64| {
        let mut resource = service(&format!("shop/service-{i}"), "");
        let labels = &mut resource.metadata.as_mut().expect("set").labels;
        labels.insert("is".to_owned(), format!("{label}-{}", "x".repeat(200)));
        resource
    };
    {
        let (store, _) = Store::open(&path, "mesh.local").expect("opens");
        let put: Vec<_> = (0..10_000).map(|i| resource(i, 0)).collect();
        for revision in 1..=30_u64 {
            let again: Vec<_> = (0..10_000).map(|i| resource(i, revision)).collect();
            let past = put.iter().map(|it| Past {
                id: resource::key(it).map(|key| key.to_pb()),
                before: Some(it.clone()),
                registered: false,
            });
            let undo = UndoRow { past: past.collect(), ..UndoRow::default() };
            let revision = Some(pb::Revision { revision, ..pb::Revision::default() });
            store.write(&Batch { put: again, undo, revision, ..Batch::default() }).expect("writes");
        }
    }
    let size = fs::metadata(&path).expect("is there").len();
    for _ in 0..3 {
        let began = Instant::now();
        let (_store, contents) = Store::open(&path, "mesh.local").expect("opens");
        let took = began.elapsed();
        println!("{} resources, {} MiB: {took:?}", contents.resources.len(), size >> 20);
    }
}
