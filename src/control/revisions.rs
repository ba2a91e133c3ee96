//! The log of revisions as the store keeps it: what each one changed and what was there before, so
//! that every revision that the log reaches can be had again. What is kept is bounded by number and
//! by bytes; the oldest goes first.
//!
//! The log holds the past of a change and not the resources after it: going back from what is stored
//! now needs nothing else, and forgetting the oldest entries leaves all others whole.

use std::collections::BTreeMap;

use prost::Message;
use redb::{
    ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};

use super::store::{META, RESOURCES, StoreError, failed};
use crate::{
    resource::{self, ResourceKey, pb},
    spiffe::sha256,
};

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
/// Sealed [`UndoRow`]s of the same revisions.
const UNDO: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("undo");
/// Which revision a request made, by caller and request ID.
const REQUESTS: TableDefinition<'_, &str, u64> = TableDefinition::new("requests");
/// Sealed [`pb::Guard`]s by the revision that they guard.
const GUARDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("guards");
/// How many bytes the log has, in [`META`].
const LOG_BYTES: &str = "log_bytes";

/// How much of the log is kept; the newest entry stays, however large it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of entries and of what was before them.
    pub bytes: u64,
}

/// Those of a control plane.
pub(crate) const LIMITS: Limits = Limits { entries: 10_000, bytes: 64 << 20 };
/// Guards that are remembered after they ended.
pub(crate) const GUARDS_MAX: u64 = 200;
/// Bytes of the seal in front of a row.
const SEAL: usize = 8;

/// How to go back behind one revision, and which request made it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UndoRow {
    /// What was there before, of everything that the revision touched.
    #[prost(message, repeated, tag = "1")]
    pub past: Vec<Past>,
    /// The caller and his request ID; empty without one.
    #[prost(string, tag = "2")]
    pub request: String,
    /// SHA-256 of what was asked for.
    #[prost(bytes = "vec", tag = "3")]
    pub request_sha256: Vec<u8>,
}

/// One resource as it was.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Past {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub id: Option<pb::ResourceId>,
    /// Absent when there was none.
    #[prost(message, optional, tag = "2")]
    pub before: Option<pb::Resource>,
    /// Whether a registration had made it, so that it belonged to no revision.
    #[prost(bool, tag = "3")]
    pub registered: bool,
}

impl Past {
    /// What belonged to the configuration that users wrote.
    pub(crate) fn written(&self) -> Option<&pb::Resource> {
        self.before.as_ref().filter(|_| !self.registered)
    }
}

/// What every resource was at a revision, of those that were touched since.
pub(crate) type PastByKey = BTreeMap<ResourceKey, Past>;

/// A request that was carried out before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Done {
    /// The entry that it made.
    pub entry: pb::Revision,
    /// SHA-256 of what was asked for.
    pub request_sha256: Vec<u8>,
}

/// One page of the log.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The newest first.
    pub entries: Vec<pb::Revision>,
    /// The entry before which the next page begins; `None` at the end.
    pub next: Option<u64>,
    /// The oldest revision whose content can be had.
    pub reach: u64,
    /// The newest revision.
    pub newest: u64,
}

/// Makes the tables of the log, and counts a log that nobody has counted yet.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let entries = transaction.open_table(ENTRIES).map_err(failed)?;
    let undo = transaction.open_table(UNDO).map_err(failed)?;
    transaction.open_table(REQUESTS).map_err(failed)?;
    transaction.open_table(GUARDS).map_err(failed)?;
    let mut meta = transaction.open_table(META).map_err(failed)?;
    if meta.get(LOG_BYTES).map_err(failed)?.is_some() {
        return Ok(());
    }
    let mut bytes = 0;
    for table in [&entries, &undo] {
        for row in table.iter().map_err(failed)? {
            bytes += length(row.map_err(failed)?.1.value());
        }
    }
    meta.insert(LOG_BYTES, bytes.to_le_bytes().as_slice()).map_err(failed)?;
    Ok(())
}

/// Adds an entry and forgets what is too old.
pub(super) fn append(
    transaction: &WriteTransaction,
    entry: &pb::Revision,
    row: &UndoRow,
    limits: Limits,
) -> Result<(), StoreError> {
    let mut entries = transaction.open_table(ENTRIES).map_err(failed)?;
    let mut undo = transaction.open_table(UNDO).map_err(failed)?;
    let mut requests = transaction.open_table(REQUESTS).map_err(failed)?;
    let mut meta = transaction.open_table(META).map_err(failed)?;
    let counted = meta.get(LOG_BYTES).map_err(failed)?.map(|value| number(value.value()));
    let mut bytes = counted.unwrap_or_default();
    // An older program keeps the log without the past; nothing leads across such a gap.
    let last = undo.last().map_err(failed)?.map(|(revision, _)| revision.value());
    if last.is_some_and(|last| last + 1 != entry.revision) {
        while let Some((_, row)) = undo.pop_first().map_err(failed)? {
            bytes = bytes.saturating_sub(length(row.value()));
        }
    }
    let (encoded, sealed) = (entry.encode_to_vec(), seal(&row.encode_to_vec()));
    bytes += length(&encoded) + length(&sealed);
    entries.insert(entry.revision, encoded.as_slice()).map_err(failed)?;
    undo.insert(entry.revision, sealed.as_slice()).map_err(failed)?;
    if !row.request.is_empty() {
        requests.insert(row.request.as_str(), entry.revision).map_err(failed)?;
    }
    loop {
        let count = entries.len().map_err(failed)?;
        if count <= 1 || (count <= limits.entries && bytes <= limits.bytes) {
            break;
        }
        let Some((oldest, row)) = entries.pop_first().map_err(failed)? else { break };
        bytes = bytes.saturating_sub(length(row.value()));
        let Some(row) = undo.remove(oldest.value()).map_err(failed)? else { continue };
        bytes = bytes.saturating_sub(length(row.value()));
        let request = unsealed::<UndoRow>(row.value()).map(|row| row.request).unwrap_or_default();
        if !request.is_empty() {
            requests.remove(request.as_str()).map_err(failed)?;
        }
    }
    meta.insert(LOG_BYTES, bytes.to_le_bytes().as_slice()).map_err(failed)?;
    Ok(())
}

/// Writes what became of guards, and forgets the oldest.
pub(super) fn put_guards(
    transaction: &WriteTransaction,
    guards: &[pb::Guard],
) -> Result<(), StoreError> {
    let mut table = transaction.open_table(GUARDS).map_err(failed)?;
    for guard in guards {
        let sealed = seal(&guard.encode_to_vec());
        table.insert(guard.revision, sealed.as_slice()).map_err(failed)?;
    }
    if table.len().map_err(failed)? > GUARDS_MAX {
        let mut ended = None;
        for row in table.iter().map_err(failed)? {
            let (revision, row) = row.map_err(failed)?;
            let guard: pb::Guard =
                open_row(row.value(), "the guard of revision", revision.value())?;
            if guard.state() != pb::GuardState::Watching {
                ended = Some(revision.value());
                break;
            }
        }
        if let Some(revision) = ended {
            table.remove(revision).map_err(failed)?;
        }
    }
    Ok(())
}

/// Every guard that is remembered.
pub(super) fn guards(read: &ReadTransaction) -> Result<Vec<pb::Guard>, StoreError> {
    let table = read.open_table(GUARDS).map_err(failed)?;
    let mut guards = Vec::new();
    for row in table.iter().map_err(failed)? {
        let (revision, row) = row.map_err(failed)?;
        guards.push(open_row(row.value(), "the guard of revision", revision.value())?);
    }
    Ok(guards)
}

/// The newest entry.
pub(super) fn newest(read: &ReadTransaction) -> Result<Option<pb::Revision>, StoreError> {
    let entries = read.open_table(ENTRIES).map_err(failed)?;
    let last = entries.last().map_err(failed)?;
    last.map(|(revision, row)| entry(row.value(), revision.value())).transpose()
}

/// The oldest revision whose content can be had.
pub(super) fn reach(read: &ReadTransaction) -> Result<u64, StoreError> {
    let undo = read.open_table(UNDO).map_err(failed)?;
    if let Some((first, _)) = undo.first().map_err(failed)? {
        return Ok(first.value().saturating_sub(1));
    }
    Ok(newest(read)?.map_or(0, |entry| entry.revision))
}

/// What was there at a revision, of everything that was touched since; `None` when the log does not
/// reach it.
pub(super) fn past(read: &ReadTransaction, revision: u64) -> Result<Option<PastByKey>, StoreError> {
    let newest = newest(read)?.map_or(0, |entry| entry.revision);
    if revision > newest || revision < reach(read)? {
        return Ok(None);
    }
    let undo = read.open_table(UNDO).map_err(failed)?;
    let mut found = PastByKey::new();
    // The oldest of several pasts of one resource is what was there at the revision.
    for row in undo.range(revision + 1..).map_err(failed)?.rev() {
        let (at, row) = row.map_err(failed)?;
        let row: UndoRow = open_row(row.value(), "what was before revision", at.value())?;
        for past in row.past {
            if let Some(key) = past.id.as_ref().and_then(ResourceKey::from_pb) {
                found.insert(key, past);
            }
        }
    }
    Ok(Some(found))
}

/// One revision and what it found.
pub(super) fn undo(
    read: &ReadTransaction,
    revision: u64,
) -> Result<Option<(pb::Revision, UndoRow)>, StoreError> {
    let entries = read.open_table(ENTRIES).map_err(failed)?;
    let undo = read.open_table(UNDO).map_err(failed)?;
    let rows = (entries.get(revision).map_err(failed)?, undo.get(revision).map_err(failed)?);
    let (Some(row), Some(undo)) = rows else { return Ok(None) };
    let undo = open_row(undo.value(), "what was before revision", revision)?;
    Ok(Some((entry(row.value(), revision)?, undo)))
}

/// All that users had written at a revision; `None` when the log does not reach it.
pub(super) fn content(
    read: &ReadTransaction,
    revision: u64,
) -> Result<Option<BTreeMap<ResourceKey, pb::Resource>>, StoreError> {
    let Some(past) = past(read, revision)? else { return Ok(None) };
    let mut content = BTreeMap::new();
    for row in read.open_table(RESOURCES).map_err(failed)?.iter().map_err(failed)? {
        let (name, row) = row.map_err(failed)?;
        let resource = pb::Resource::decode(row.value())
            .map_err(|_| StoreError::Row(format!("{} does not decode", name.value())))?;
        if let Some(key) = resource::key(&resource) {
            content.insert(key, resource);
        }
    }
    for (key, past) in past {
        match past.written() {
            Some(resource) => content.insert(key, resource.clone()),
            None => content.remove(&key),
        };
    }
    Ok(Some(content))
}

/// What a request made when it came before.
pub(super) fn done(read: &ReadTransaction, request: &str) -> Result<Option<Done>, StoreError> {
    let requests = read.open_table(REQUESTS).map_err(failed)?;
    let Some(revision) = requests.get(request).map_err(failed)?.map(|it| it.value()) else {
        return Ok(None);
    };
    let made = undo(read, revision)?;
    Ok(made.map(|(entry, undo)| Done { entry, request_sha256: undo.request_sha256 }))
}

/// A page of the log before an entry, of those that changed one resource or of all.
pub(super) fn page(
    read: &ReadTransaction,
    before: Option<u64>,
    only: Option<&pb::ResourceId>,
    size: usize,
) -> Result<Page, StoreError> {
    let newest = newest(read)?.map_or(0, |entry| entry.revision);
    let mut page = Page { reach: reach(read)?, newest, ..Page::default() };
    let entries = read.open_table(ENTRIES).map_err(failed)?;
    for row in entries.range(..before.unwrap_or(u64::MAX)).map_err(failed)?.rev() {
        let (revision, row) = row.map_err(failed)?;
        let entry = entry(row.value(), revision.value())?;
        let touches = |change: &pb::Change| change.resource.as_ref() == only;
        if only.is_some() && !entry.changes.iter().any(touches) {
            continue;
        }
        if page.entries.len() == size {
            page.next = page.entries.last().map(|entry| entry.revision);
            break;
        }
        page.entries.push(entry);
    }
    Ok(page)
}

fn entry(row: &[u8], revision: u64) -> Result<pb::Revision, StoreError> {
    pb::Revision::decode(row)
        .map_err(|_| StoreError::Row(format!("revision {revision} does not decode")))
}

/// With what shows that nothing of it changed since it was written: a row of the log is read again
/// long after the file was checked at the start.
fn seal(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = sha256(bytes)[..SEAL].to_vec();
    sealed.extend_from_slice(bytes);
    sealed
}

fn unsealed<M: Message + Default>(row: &[u8]) -> Option<M> {
    let (seal, bytes) = row.split_at_checked(SEAL)?;
    if sha256(bytes)[..SEAL] != *seal {
        return None;
    }
    M::decode(bytes).ok()
}

fn open_row<M: Message + Default>(row: &[u8], what: &str, at: u64) -> Result<M, StoreError> {
    unsealed(row).ok_or_else(|| StoreError::Row(format!("{what} {at} is damaged")))
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
#[path = "revisions_tests.rs"]
mod tests;
