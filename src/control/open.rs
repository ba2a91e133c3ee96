//! How the store's file is opened: every page of it checked, its format and trust domain looked at,
//! and all of it read. What is not as it was written is refused, with what was found; nothing of it
//! is served.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use prost::Message as _;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
};

use super::{
    key, revisions,
    store::{
        Contents, META, REGISTERED, RESOURCES, SUPERSEDED, StoreError, Superseded, TOKENS,
        TokenRow, failed, transaction,
    },
};
use crate::resource::{self, pb};

/// The layout of the tables; a newer one is refused instead of misread.
const FORMAT: &[u8] = b"1";
/// redb's page cache: the contents are in memory already, so little is read twice.
const CACHE_BYTES: usize = 16 << 20;

/// Opens the file; makes it when that is permitted and there is none.
pub(super) type Opener = dyn Fn(&Path, Missing) -> Result<Database, DatabaseError> + Send + Sync;

/// What to do when there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make an empty one.
    Create,
    /// Fail.
    Refuse,
}

/// How every store is opened: each page of it is checked against its checksum, because nothing
/// looks at that again while it is read.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Opens a file of the file system.
pub(super) fn open_file(path: &Path, missing: Missing) -> Result<Database, DatabaseError> {
    let builder = builder();
    match missing {
        Missing::Create => {
            // For its owner only, as all secrets are; redb would make it readable by all.
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
            // The name is on the disk before anything that is told to be.
            if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
                File::open(directory)?.sync_all()?;
            }
            builder.create(path)
        }
        Missing::Refuse => builder.open(path),
    }
}

/// What `open` gives; a panic means a file in a state that its reader did not think of.
pub(super) fn unwound<T>(
    path: &Path,
    open: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        let detail = "it can not be read without a panic".to_owned();
        Err(StoreError::Damaged { path: path.to_owned(), detail })
    })
}

/// Makes the tables and the facts that never change, once.
pub(super) fn prepare(
    database: &Database,
    path: &Path,
    trust_domain: &str,
) -> Result<(), StoreError> {
    transaction(database, |transaction| {
        transaction.open_table(RESOURCES).map_err(failed)?;
        transaction.open_table(REGISTERED).map_err(failed)?;
        transaction.open_table(TOKENS).map_err(failed)?;
        transaction.open_table(SUPERSEDED).map_err(failed)?;
        revisions::prepare(transaction)?;
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let id = format!("{:08x}", fastrand::u32(..));
        meta.insert("id", id.as_bytes()).map_err(failed)?;
        if meta.get("history").map_err(failed)?.is_none() {
            let history = format!("{:016x}", fastrand::u64(..));
            meta.insert("history", history.as_bytes()).map_err(failed)?;
        }
        let format = meta.get("format").map_err(failed)?.map(|value| value.value().to_vec());
        match format.as_deref() {
            Some(FORMAT) => return Ok(()),
            Some(_) => return Err(StoreError::Newer(path.to_owned())),
            None => {}
        }
        meta.insert("format", FORMAT).map_err(failed)?;
        meta.insert("trust_domain", trust_domain.as_bytes()).map_err(failed)?;
        Ok(())
    })
}

/// Reads all of it.
pub(super) fn read(database: &Database, path: &Path) -> Result<Contents, StoreError> {
    let damaged = |what: &str| StoreError::Damaged {
        path: path.to_owned(),
        detail: format!("{what} does not decode"),
    };
    let transaction = database.begin_read().map_err(failed)?;
    let mut contents = Contents::default();
    let meta = transaction.open_table(META).map_err(failed)?;
    for (name, field) in [
        ("id", &mut contents.id),
        ("history", &mut contents.history),
        ("trust_domain", &mut contents.trust_domain),
    ] {
        let value = meta.get(name).map_err(failed)?.ok_or_else(|| damaged(name))?;
        *field = String::from_utf8(value.value().to_vec()).map_err(|_| damaged(name))?;
    }
    for (definition, into) in
        [(RESOURCES, &mut contents.resources), (REGISTERED, &mut contents.registered)]
    {
        for entry in transaction.open_table(definition).map_err(failed)?.iter().map_err(failed)? {
            let (name, value) = entry.map_err(failed)?;
            let resource = pb::Resource::decode(value.value())
                .ok()
                .filter(|resource| {
                    resource::key(resource).is_some_and(|key| key::text(&key) == name.value())
                })
                .ok_or_else(|| damaged(name.value()))?;
            into.push(resource);
        }
    }
    for entry in transaction.open_table(TOKENS).map_err(failed)?.iter().map_err(failed)? {
        let (id, value) = entry.map_err(failed)?;
        let row = TokenRow::decode(value.value()).map_err(|_| damaged(id.value()))?;
        contents.tokens.push(row);
    }
    for entry in transaction.open_table(SUPERSEDED).map_err(failed)?.iter().map_err(failed)? {
        let (name, value) = entry.map_err(failed)?;
        let (at, until) = value.value();
        contents.superseded.push((name.value().to_owned(), Superseded { at, until }));
    }
    contents.newest = revisions::newest(&transaction)?;
    contents.guards = revisions::guards(&transaction)?;
    Ok(contents)
}

/// What an opener's failure means.
pub(super) fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::Locked(path)
        }
        DatabaseError::UpgradeRequired(_) => StoreError::Newer(path),
        DatabaseError::Storage(StorageError::Io(source))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            StoreError::Open { path, source }
        }
        other => StoreError::Damaged { path, detail: other.to_string() },
    }
}
