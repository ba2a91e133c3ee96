//! What the control plane keeps on disk, in one redb file: resources, the log of revisions,
//! services that registrations made, and join tokens.
//!
//! Every call is one transaction that is on disk when the call returns, so that an acknowledged
//! write survives a crash and no reader ever sees half of one. The calls block; [`super::state`]
//! runs them off the asynchronous runtime. There is one process per file: redb locks it.
//!
//! After a failure of the disk the file is closed, and opened and read again before the next write:
//! what is on disk decides what is so, and a disk that was full needs no restart.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use prost::Message;
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase as _, TableDefinition, WriteTransaction,
};

use super::{
    key,
    open::{Missing, Opener, open_error, open_file, prepare, read, unwound},
    revisions::{self, Done, LIMITS, Limits, Page, PastByKey, UndoRow},
};
use crate::resource::{self, ResourceKey, pb};

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
pub(super) const REGISTERED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("registered");
pub(super) const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");
pub(super) const SUPERSEDED: TableDefinition<'_, &str, (u64, u64)> =
    TableDefinition::new("superseded");

/// The open store.
pub(crate) struct Store {
    path: PathBuf,
    opener: Box<Opener>,
    /// How much of the log is kept.
    pub(super) limits: Limits,
    /// `None` after a failure: redb takes nothing more then, until the file is opened again.
    database: Mutex<Option<Database>>,
}

/// Resources by key.
pub(crate) type Content = BTreeMap<ResourceKey, pb::Resource>;

/// Everything that is read at the start.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Random, made at each start: versions of two stores never look alike, nor those that one gives
    /// before and after it was put back from a copy.
    pub id: String,
    /// Random, made with the file: names the history that its revisions count in.
    pub history: String,
    /// The mesh's trust domain, fixed when the file was made.
    pub trust_domain: String,
    /// The newest entry of the log.
    pub newest: Option<pb::Revision>,
    /// What users wrote.
    pub resources: Vec<pb::Resource>,
    /// Services that registrations made.
    pub registered: Vec<pb::Resource>,
    /// Join tokens.
    pub tokens: Vec<TokenRow>,
    /// Certificates that have been renewed.
    pub superseded: Vec<(String, Superseded)>,
    /// Writes that are guarded or were.
    pub guards: Vec<pb::Guard>,
}

/// When a certificate was renewed for the first time; it is named by its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superseded {
    /// In seconds since the epoch.
    pub at: u64,
    /// In seconds since the epoch: from then on the certificate could do nothing anyway.
    pub until: u64,
}

/// A join token as it is kept: never the secret itself.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TokenRow {
    /// What lists show.
    #[prost(message, optional, tag = "1")]
    pub info: Option<pb::Token>,
    /// SHA-256 of the secret.
    #[prost(bytes = "vec", tag = "2")]
    pub secret_sha256: Vec<u8>,
    /// SHA-256 of the last requests that it was used for: the same request is the same use, because
    /// an answer can get lost on the way.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub requests_sha256: Vec<Vec<u8>>,
}

/// Changes that are written together or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Resources to write.
    pub put: Vec<pb::Resource>,
    /// Resources to delete.
    pub delete: Vec<ResourceKey>,
    /// Services that a registration made, to write.
    pub register: Vec<pb::Resource>,
    /// Services that a registration made, to forget.
    pub unregister: Vec<ResourceKey>,
    /// The log entry of these changes.
    pub revision: Option<pb::Revision>,
    /// How to go back behind it.
    pub undo: UndoRow,
    /// What became of guards.
    pub put_guards: Vec<pb::Guard>,
    /// Join tokens to write.
    pub put_tokens: Vec<TokenRow>,
    /// Join tokens to forget, by ID.
    pub delete_tokens: Vec<String>,
    /// Certificates that were renewed, by SHA-256.
    pub supersede: Vec<(String, Superseded)>,
    /// Renewed certificates to forget.
    pub forget_superseded: Vec<String>,
}

/// Why the store does not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another control plane has it open.
    #[error("{} is in use by another control plane", .0.display())]
    Locked(PathBuf),
    /// It is not what was written.
    #[error("{} is damaged ({detail}); restore a copy of it, or move it away to begin anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A newer program wrote it.
    #[error("{} was written by a newer version of outrigger", .0.display())]
    Newer(PathBuf),
    /// It belongs to another mesh.
    #[error(
        "this store belongs to the trust domain {stored}, not to {asked}; a trust domain is fixed at the first start"
    )]
    TrustDomain {
        /// That of the file.
        stored: String,
        /// That of the options.
        asked: String,
    },
    /// It can not be opened.
    #[error("can not open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A transaction failed. It was not written, unless the disk lost its answer only.
    #[error("the store failed")]
    Write(#[source] Box<redb::Error>),
    /// A row of it is not what was written.
    #[error("the store is damaged: {0}; restore a backup of it")]
    Row(String),
    /// A write failed before, and the file was not opened again since.
    #[error("the store is closed after a failure")]
    Broken,
}

/// Any of redb's many error types as its common one.
pub(super) fn failed<E: Into<redb::Error>>(error: E) -> StoreError {
    StoreError::Write(Box::new(error.into()))
}

impl Store {
    /// Opens the file, makes it if there is none, and reads all of it.
    ///
    /// # Errors
    /// When another process has it open, when it is damaged, newer, or belongs to another trust
    /// domain.
    pub(crate) fn open(path: &Path, trust_domain: &str) -> Result<(Self, Contents), StoreError> {
        Self::open_by(Box::new(open_file), path, trust_domain)
    }

    /// As [`Store::open`] on something else than a file of the file system.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(super) fn open_by(
        opener: Box<Opener>,
        path: &Path,
        trust_domain: &str,
    ) -> Result<(Self, Contents), StoreError> {
        let (database, contents) = unwound(path, || {
            let database =
                opener(path, Missing::Create).map_err(|error| open_error(path, error))?;
            prepare(&database, path, trust_domain)?;
            let contents = read(&database, path)?;
            Ok((database, contents))
        })?;
        let store = Self {
            path: path.to_owned(),
            opener,
            limits: LIMITS,
            database: Mutex::new(Some(database)),
        };
        if contents.trust_domain != trust_domain {
            return Err(StoreError::TrustDomain {
                stored: contents.trust_domain,
                asked: trust_domain.to_owned(),
            });
        }
        Ok((store, contents))
    }

    /// Writes all of the batch, or nothing; on disk when it returns.
    ///
    /// # Errors
    /// When the disk is full or failing; then nothing was written.
    pub(crate) fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut place = self.lock();
        let database = place.as_ref().ok_or(StoreError::Broken)?;
        let written = transaction(database, |transaction| {
            let mut resources = transaction.open_table(RESOURCES).map_err(failed)?;
            for key in &batch.delete {
                resources.remove(key::text(key).as_str()).map_err(failed)?;
            }
            for (key, resource) in keyed(&batch.put) {
                resources.insert(key.as_str(), resource.as_slice()).map_err(failed)?;
            }
            let mut registered = transaction.open_table(REGISTERED).map_err(failed)?;
            for key in &batch.unregister {
                registered.remove(key::text(key).as_str()).map_err(failed)?;
            }
            for (key, resource) in keyed(&batch.register) {
                registered.insert(key.as_str(), resource.as_slice()).map_err(failed)?;
            }
            write_identities(transaction, batch)?;
            if let Some(entry) = &batch.revision {
                revisions::append(transaction, entry, &batch.undo, self.limits)?;
            }
            revisions::put_guards(transaction, &batch.put_guards)
        });
        if written.is_err() {
            *place = None;
        }
        written
    }

    /// Reads what is on disk, all of it as it was at one moment.
    fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = {
            let place = self.lock();
            place.as_ref().ok_or(StoreError::Broken)?.begin_read().map_err(failed)?
        };
        read(&transaction)
    }

    /// What was there at a revision, of everything that was touched since; `None` when the log does
    /// not reach it.
    ///
    /// # Errors
    /// When the disk fails or is damaged, as all that reads.
    pub(crate) fn past(&self, revision: u64) -> Result<Option<PastByKey>, StoreError> {
        self.read(|transaction| revisions::past(transaction, revision))
    }

    /// One revision and what it found; `None` when the log does not reach it.
    pub(crate) fn undo(
        &self,
        revision: u64,
    ) -> Result<Option<(pb::Revision, UndoRow)>, StoreError> {
        self.read(|transaction| revisions::undo(transaction, revision))
    }

    /// What users had written at two revisions; `None` for one that the log does not reach. Also the
    /// oldest that it does.
    pub(crate) fn contents(&self, at: [u64; 2]) -> Result<([Option<Content>; 2], u64), StoreError> {
        self.read(|transaction| {
            let [one, two] = at.map(|revision| revisions::content(transaction, revision));
            Ok(([one?, two?], revisions::reach(transaction)?))
        })
    }

    /// The oldest revision whose content can be had.
    pub(crate) fn reach(&self) -> Result<u64, StoreError> {
        self.read(revisions::reach)
    }

    /// What a request made when it came before.
    pub(crate) fn done(&self, request: &str) -> Result<Option<Done>, StoreError> {
        self.read(|transaction| revisions::done(transaction, request))
    }

    /// A page of the log before an entry, of those that changed one resource or of all.
    pub(crate) fn page(
        &self,
        before: Option<u64>,
        only: Option<&pb::ResourceId>,
        size: usize,
    ) -> Result<Page, StoreError> {
        self.read(|transaction| revisions::page(transaction, before, only, size))
    }

    /// Whether a write failed and the file is still to be opened again.
    pub(crate) fn is_broken(&self) -> bool {
        self.lock().is_none()
    }

    /// Opens the file again after a failure and reads all of it: what a failed write left there
    /// counts.
    ///
    /// # Errors
    /// As [`Store::open`], and when the file is gone; then it is still broken.
    pub(crate) fn reopen(&self) -> Result<Contents, StoreError> {
        let mut place = self.lock();
        // The old one lets go of its lock first.
        drop(place.take());
        let (database, contents) = unwound(&self.path, || {
            let database = (self.opener)(&self.path, Missing::Refuse)
                .map_err(|error| open_error(&self.path, error))?;
            let contents = read(&database, &self.path)?;
            Ok((database, contents))
        })?;
        *place = Some(database);
        Ok(contents)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Commits what `write` did, or drops all of it when it failed.
pub(super) fn transaction(
    database: &Database,
    write: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::Immediate).map_err(failed)?;
    // A restart after a crash must not read the whole file first.
    transaction.set_quick_repair(true);
    write(&transaction)?;
    transaction.commit().map_err(failed)
}

fn write_identities(transaction: &WriteTransaction, batch: &Batch) -> Result<(), StoreError> {
    let mut tokens = transaction.open_table(TOKENS).map_err(failed)?;
    for id in &batch.delete_tokens {
        tokens.remove(id.as_str()).map_err(failed)?;
    }
    for row in &batch.put_tokens {
        let id = row.info.as_ref().map_or("", |info| &info.id);
        tokens.insert(id, row.encode_to_vec().as_slice()).map_err(failed)?;
    }
    let mut superseded = transaction.open_table(SUPERSEDED).map_err(failed)?;
    for name in &batch.forget_superseded {
        superseded.remove(name.as_str()).map_err(failed)?;
    }
    for (name, entry) in &batch.supersede {
        superseded.insert(name.as_str(), (entry.at, entry.until)).map_err(failed)?;
    }
    Ok(())
}

fn keyed(resources: &[pb::Resource]) -> impl Iterator<Item = (String, Vec<u8>)> {
    resources.iter().filter_map(|resource| {
        Some((key::text(&resource::key(resource)?), resource.encode_to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::{Batch, Store, StoreError, TokenRow};
    use crate::resource::{
        Kind, ResourceKey,
        pb::{self, resource::Spec},
    };

    fn service(name: &str) -> pb::Resource {
        pb::Resource {
            metadata: Some(pb::Metadata {
                name: name.to_owned(),
                namespace: "shop".to_owned(),
                ..Default::default()
            }),
            spec: Some(Spec::Service(pb::Service::default())),
            status: None,
        }
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mesh.redb");
        let (store, empty) = Store::open(&path, "mesh.local").expect("opens");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(empty.resources.is_empty() && empty.newest.is_none());
        let token = TokenRow {
            info: Some(pb::Token { id: "t1".to_owned(), ..Default::default() }),
            secret_sha256: vec![1; 32],
            requests_sha256: Vec::new(),
        };
        store
            .write(&Batch {
                put: vec![service("a"), service("b")],
                register: vec![service("c")],
                revision: Some(pb::Revision { revision: 1, ..Default::default() }),
                put_tokens: vec![token.clone()],
                ..Default::default()
            })
            .expect("writes");
        store
            .write(&Batch {
                delete: vec![ResourceKey::new(Kind::Service, "shop", "a")],
                revision: Some(pb::Revision { revision: 2, ..Default::default() }),
                ..Default::default()
            })
            .expect("writes");
        drop(store);

        let (_store, contents) = Store::open(&path, "mesh.local").expect("opens again");
        // Versions of a file that was put back from a copy are not those given since.
        assert_ne!(contents.id, empty.id);
        assert_eq!(contents.resources, [service("b")]);
        assert_eq!(contents.registered, [service("c")]);
        assert_eq!(contents.tokens, [token]);
        assert_eq!(contents.newest.map(|entry| entry.revision), Some(2));
    }

    #[test]
    fn a_file_in_use_says_so() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mesh.redb");
        let _open = Store::open(&path, "mesh.local").expect("opens");
        assert!(matches!(Store::open(&path, "mesh.local"), Err(StoreError::Locked(_))));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mesh.redb");
        fs::write(&path, b"this is no database, but it is long enough to look at").expect("writes");
        assert!(matches!(
            Store::open(&path, "mesh.local"),
            Err(StoreError::Damaged { .. } | StoreError::Open { .. })
        ));
    }

    #[test]
    fn another_trust_domain_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mesh.redb");
        drop(Store::open(&path, "mesh.local").expect("opens"));
        let error = Store::open(&path, "other.local").err();
        assert!(matches!(error, Some(StoreError::TrustDomain { .. })), "{error:?}");
    }
}
