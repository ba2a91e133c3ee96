//! The log by example: what it gives back, and what it forgets.

use std::path::Path;

use super::{LIMITS, Limits, Past, UndoRow};
use crate::{
    control::{
        sample::service,
        store::{Batch, Store},
    },
    resource::{self, pb},
};

fn open(path: &Path) -> Store {
    Store::open(path, "mesh.local").expect("opens").0
}

fn labelled(name: &str, label: &str) -> pb::Resource {
    let mut resource = service(name, "");
    resource.metadata.as_mut().expect("set").labels.insert("is".to_owned(), label.to_owned());
    resource
}

/// Writes a revision that makes one resource what it is, or nothing.
fn write(
    store: &Store,
    revision: u64,
    before: Option<&pb::Resource>,
    after: Option<&pb::Resource>,
) {
    let of = after.or(before).expect("one of them");
    let key = resource::key(of).expect("has a spec");
    let past = Past { id: Some(key.to_pb()), before: before.cloned(), registered: false };
    let change = pb::Change { resource: Some(key.to_pb()), ..Default::default() };
    let batch = Batch {
        put: after.cloned().into_iter().collect(),
        delete: if after.is_none() { vec![key] } else { Vec::new() },
        revision: Some(pb::Revision { revision, changes: vec![change], ..Default::default() }),
        undo: UndoRow { past: vec![past], request: format!("r{revision}"), ..Default::default() },
        ..Default::default()
    };
    store.write(&batch).expect("written");
}

fn content(store: &Store, revision: u64) -> Option<Vec<String>> {
    let ([content, _], _) = store.contents([revision, revision]).expect("read");
    let of = |resource: &pb::Resource| {
        let metadata = resource.metadata.clone().expect("set");
        format!("{}={}", metadata.name, metadata.labels["is"])
    };
    content.map(|content| content.values().map(of).collect())
}

#[test]
fn every_revision_can_be_had_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("mesh.redb");
    let store = open(&path);
    let [a1, a2, b1] = [labelled("shop/a", "1"), labelled("shop/a", "2"), labelled("shop/b", "1")];
    write(&store, 1, None, Some(&a1));
    write(&store, 2, None, Some(&b1));
    write(&store, 3, Some(&a1), Some(&a2));
    write(&store, 4, Some(&b1), None);
    write(&store, 5, Some(&a2), Some(&a1));
    drop(store);
    let store = open(&path);
    for (revision, expected) in [
        (0, vec![]),
        (1, vec!["a=1"]),
        (2, vec!["a=1", "b=1"]),
        (3, vec!["a=2", "b=1"]),
        (4, vec!["a=2"]),
        (5, vec!["a=1"]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(content(&store, revision), Some(expected), "{revision}");
    }
    assert_eq!(content(&store, 6), None);
    let numbers = |before, only: Option<&pb::Resource>| {
        let only = only.and_then(resource::key).map(|key| key.to_pb());
        let page = store.page(before, only.as_ref(), 2).expect("read");
        let numbers: Vec<_> = page.entries.iter().map(|entry| entry.revision).collect();
        (numbers, page.next)
    };
    assert_eq!(numbers(None, None), (vec![5, 4], Some(4)));
    assert_eq!(numbers(Some(2), None), (vec![1], None));
    assert_eq!(numbers(None, Some(&b1)), (vec![4, 2], None));
    assert_eq!(store.done("r3").expect("read").map(|done| done.entry.revision), Some(3));
    assert_eq!(store.done("r9").expect("read"), None);
}

#[test]
fn the_log_is_bounded_and_says_how_far_it_reaches() {
    let large = labelled("shop/large", &"x".repeat(300));
    for limits in [Limits { bytes: 1000, ..LIMITS }, Limits { entries: 2, ..LIMITS }] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = open(&directory.path().join("mesh.redb"));
        store.limits = limits;
        write(&store, 1, None, Some(&large));
        for revision in 2..=4 {
            write(&store, revision, Some(&large), Some(&large));
        }
        assert_eq!(store.reach().expect("read"), 2, "{limits:?}");
        assert_eq!(content(&store, 1), None);
        assert!(content(&store, 2).is_some());
        assert_eq!(store.done("r2").expect("read"), None, "forgotten with its revision");
        assert!(store.done("r3").expect("read").is_some());
    }
    // One that is larger than all that is kept.
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = open(&directory.path().join("mesh.redb"));
    store.limits = Limits { bytes: 1, ..LIMITS };
    write(&store, 1, None, Some(&large));
    write(&store, 2, Some(&large), None);
    assert_eq!(store.reach().expect("read"), 1);
}

#[test]
fn a_log_of_an_older_program_leads_back_only_as_far_as_it_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(&directory.path().join("mesh.redb"));
    let a = labelled("shop/a", "1");
    write(&store, 1, None, Some(&a));
    // As a program wrote it that kept no past, from 2 to 6.
    write(&store, 7, Some(&a), None);
    assert_eq!(store.reach().expect("read"), 6);
    assert_eq!(content(&store, 6), Some(vec!["a=1".to_owned()]));
    assert_eq!(content(&store, 5), None);
}
