//! The audit log: one line of JSON for every call that was to change something, with who, when, from
//! which revision to which, and how it ended. A line is on disk before the caller has the answer. What
//! exactly a write changed is in the log of revisions.
//!
//! It is a file of the data directory, for its owner only, and the one before it when it grew too
//! large: bounded in size, and readable without this program.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::UNIX_EPOCH,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tonic::{Code, Status, body::Body};

use super::{
    auth::{self, Connection, Principal},
    layers::Around,
    state::State,
};
use crate::{resource::pb, telemetry::Rfc3339};

/// The file.
const FILE: &str = "audit.jsonl";
/// The one before it.
const FILE_BEFORE: &str = "audit.1.jsonl";
/// A file that has grown larger becomes the one before.
const BYTES_MAX: u64 = 8 << 20;
/// Entries of one answer.
const ENTRIES_MAX: usize = 10_000;
/// Characters kept of a text.
const TEXT_MAX: usize = 500;

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// RFC 3339.
    pub time: String,
    /// The caller's identity.
    pub who: String,
    /// `admin`, `editor` or `viewer`.
    pub role: String,
    /// The caller's address.
    pub address: String,
    /// `AdminService/CreateToken`
    pub method: String,
    /// What it was about, as far as the call says.
    pub what: String,
    /// The newest revision when it came.
    pub revision_before: u64,
    /// The newest revision when it was answered.
    pub revision_after: u64,
    /// `OK`, or the gRPC status and its message.
    pub outcome: String,
}

impl Entry {
    /// As it travels.
    pub(crate) fn to_pb(&self) -> pb::AuditEntry {
        pb::AuditEntry {
            time: self.time.parse().ok(),
            who: self.who.clone(),
            role: self.role.clone(),
            address: self.address.clone(),
            method: self.method.clone(),
            what: self.what.clone(),
            revision_before: self.revision_before,
            revision_after: self.revision_after,
            outcome: self.outcome.clone(),
        }
    }
}

/// What a call was about: put by its handler into the extensions of its answer.
#[derive(Debug, Clone)]
pub(crate) struct Note(pub String);

/// The log.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
    before: PathBuf,
    file: Mutex<Option<(File, u64)>>,
}

impl Audit {
    /// Opens that of a data directory.
    ///
    /// # Errors
    /// When it can not be written.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let (path, before) = (directory.join(FILE), directory.join(FILE_BEFORE));
        let file = open(&path)?;
        Ok(Self { path, before, file: Mutex::new(Some(file)) })
    }

    /// Adds an entry. Blocks until it is on disk.
    ///
    /// # Errors
    /// When it can not be written; the next one tries again.
    pub(crate) fn add(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut place = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut file, mut bytes) = match place.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        if bytes >= BYTES_MAX {
            fs::rename(&self.path, &self.before)?;
            (file, bytes) = open(&self.path)?;
        }
        file.write_all(&line)?;
        file.sync_data()?;
        bytes += u64::try_from(line.len()).unwrap_or_default();
        *place = Some((file, bytes));
        Ok(())
    }

    /// The last entries, the newest first. Lines that a crash cut off are left out. Blocks.
    ///
    /// # Errors
    /// When they can not be read.
    pub(crate) fn last(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let limit = limit.min(ENTRIES_MAX);
        let mut last = VecDeque::new();
        for path in [&self.before, &self.path] {
            let file = match File::open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in BufReader::new(file).lines() {
                let Ok(entry) = serde_json::from_str(&line?) else { continue };
                if last.len() >= limit {
                    last.pop_front();
                }
                last.push_back(entry);
            }
        }
        Ok(last.into_iter().rev().take(limit).collect())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    // What a crash cut off gets a line of its own.
    if bytes > 0 && !fs::read(path)?.ends_with(b"\n") {
        file.write_all(b"\n")?;
    }
    Ok((file, bytes))
}

/// Adds an entry for each call that is to change something.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub audit: Arc<Audit>,
    pub state: Arc<State>,
}

impl Around for Record {
    fn call<F>(
        &self,
        request: Request<Body>,
        next: impl FnOnce(Request<Body>) -> F,
    ) -> BoxFuture<'static, Response<Body>>
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let entry = begin(&request, &self.state);
        let call = next(request);
        let Some(mut entry) = entry else { return Box::pin(call) };
        let (audit, state) = (Arc::clone(&self.audit), Arc::clone(&self.state));
        Box::pin(async move {
            let answer = call.await;
            let status = Status::from_header_map(answer.headers());
            entry.outcome = match status.filter(|status| status.code() != Code::Ok) {
                None => "OK".to_owned(),
                Some(status) => short(&format!("{:?}: {}", status.code(), status.message())),
            };
            entry.what =
                answer.extensions().get::<Note>().map_or_else(String::new, |it| short(&it.0));
            entry.revision_after = state.world().revision;
            // It is written even when the caller goes away meanwhile.
            let written = spawn_blocking(move || audit.add(&entry)).await;
            match written {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the audit log can not be written"),
                Err(error) => tracing::error!(%error, "the audit log can not be written"),
            }
            answer
        })
    }
}

/// The entry of a call that is to change something, as far as it is known when it comes.
fn begin(request: &Request<Body>, state: &State) -> Option<Entry> {
    let path = request.uri().path();
    if !auth::changes(path) {
        return None;
    }
    let principal = request.extensions().get::<Principal>()?;
    let address = request.extensions().get::<Connection>().map(|it| it.remote.to_string());
    let now = state.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let revision = state.world().revision;
    Some(Entry {
        time: Rfc3339(now).to_string(),
        who: principal.name().to_owned(),
        role: principal.role().to_owned(),
        address: address.unwrap_or_default(),
        method: path.trim_start_matches("/outrigger.v1.").to_owned(),
        what: String::new(),
        revision_before: revision,
        revision_after: revision,
        outcome: String::new(),
    })
}

fn short(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _};

    use super::{Audit, BYTES_MAX, Entry};

    fn entry(number: u64, what: &str) -> Entry {
        Entry {
            time: "2026-11-23T12:00:00Z".to_owned(),
            who: "spiffe://mesh.local/credential/ana".to_owned(),
            role: "editor".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            method: "ConfigService/Apply".to_owned(),
            what: what.to_owned(),
            revision_before: number,
            revision_after: number + 1,
            outcome: "OK".to_owned(),
        }
    }

    #[test]
    fn entries_are_found_again_after_a_crash_the_newest_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let audit = Audit::open(directory.path()).expect("opens");
        for number in 1..=3 {
            audit.add(&entry(number, "")).expect("written");
        }
        drop(audit);
        let mut file = fs::OpenOptions::new().append(true).open(&path).expect("there");
        file.write_all(b"{\"time\": \"2026").expect("cut off");
        let audit = Audit::open(directory.path()).expect("opens");
        audit.add(&entry(4, "")).expect("written");
        let revisions: Vec<_> =
            audit.last(3).expect("read").iter().map(|entry| entry.revision_before).collect();
        assert_eq!(revisions, [4, 3, 2]);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            audit.last(1).expect("read")[0].to_pb().time.expect("a time").seconds,
            1_795_435_200
        );
    }

    #[test]
    fn the_log_is_bounded() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, vec![b'\n'; usize::try_from(BYTES_MAX).expect("small")]).expect("full");
        let audit = Audit::open(directory.path()).expect("opens");
        audit.add(&entry(1, "")).expect("written");
        assert!(fs::metadata(&path).expect("there").len() < 1000);
        assert!(directory.path().join("audit.1.jsonl").exists());
        assert_eq!(audit.last(10).expect("read").len(), 1);
    }
}
