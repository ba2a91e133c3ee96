//! Backups: everything that a control plane keeps, as it was at one moment, in one archive that every
//! `tar` reads; and control planes made of one.
//!
//! The archive is made while nobody writes, in a nameless file beside the store, and told from there,
//! so that a slow reader holds up nothing. What stands at its end, `manifest.json`, says what must be
//! in it: an archive that is cut off or altered is refused before anything of it is used.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{
    error,
    state::State,
    store::{Store, StoreError},
    tar::{self, Header},
};
use crate::{
    identity::disk::{self, DataDirectory, DiskError},
    resource::pb,
    spiffe::hex,
    telemetry::chain,
};

/// The store's file in the data directory.
pub(super) const STORE_FILE: &str = "mesh.redb";
/// What an archive ends with.
const MANIFEST: &str = "manifest.json";
/// Stands in a data directory from the beginning of a restore to its end.
const RESTORING: &str = "restoring";
/// The layout of an archive; a newer one is refused.
const FORMAT: u32 = 1;
/// Files of a data directory beside the store.
const FILES_MAX: usize = 1000;
/// Folders in folders.
const DEPTH_MAX: usize = 4;
/// Bytes of one file beside the store.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Bytes of an archive in one message.
const PART_BYTES: u64 = 256 << 10;
/// Messages that wait for their reader.
const PARTS_QUEUE: usize = 2;
/// How long a reader may take for one of them.
const PART_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The archive's layout.
    pub format: u32,
    /// The version of the program that made it.
    pub version: String,
    /// The mesh.
    pub trust_domain: String,
    /// The newest revision in it.
    pub revision: u64,
    /// When it was made, in seconds since the epoch.
    pub made_at: u64,
    /// What must be in it.
    pub files: Vec<Listed>,
}

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Below the data directory.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// Of its bytes, in hexadecimal digits.
    pub sha256: String,
    /// Whether it was for its owner only.
    pub secret: bool,
}

/// Why there is no backup, or no control plane made of one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The archive is cut off, altered, or none.
    #[error("{} is no whole backup: {why}", path.display())]
    Broken {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer program made it.
    #[error("{} was made by a newer version of outrigger", .0.display())]
    Newer(PathBuf),
    /// The data directory is not empty.
    #[error("{} has files already; restore into an empty directory, or move it away", .0.display())]
    NotEmpty(PathBuf),
    /// A restore was interrupted.
    #[error(
        "{} holds half of a restore: start with --restore again, or move it away", .0.display()
    )]
    Half(PathBuf),
    /// A file can not be read or written.
    #[error("can not {verb} {}", path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory.
    #[error(transparent)]
    Data(#[from] DiskError),
    /// The store in the archive.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> BackupError + use<'a> {
    move |source| BackupError::Io { verb, path: path.to_owned(), source }
}

/// Makes an archive of a data directory whose writer the caller holds: a file without a name, to be
/// read from its beginning. Blocks on the disk.
pub(super) fn make(state: &State, data: &Path) -> Result<(File, Manifest), BackupError> {
    let writes = failed("write", data);
    let archive = nameless(data).map_err(&writes)?;
    let mut archive = BufWriter::new(archive);
    let made_at = state.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trust_domain: state.trust_domain().to_owned(),
        revision: state.newest().revision,
        made_at,
        files: Vec::new(),
    };
    let mut add = |name: String, path: &Path| {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let header = Header { name, mode: metadata.mode() & 0o777, size: metadata.len() };
        let sum = tar::write(&mut archive, &header, made_at, &mut file)?;
        manifest.files.push(Listed {
            name: header.name,
            size: header.size,
            sha256: hex(&sum),
            secret: header.mode & 0o077 == 0,
        });
        Ok(())
    };
    for (name, path) in files(data)? {
        add(name, &path).map_err(failed("read", &path))?;
    }
    let store = data.join(STORE_FILE);
    state.store().still(|| add(STORE_FILE.to_owned(), &store)).map_err(failed("read", &store))?;
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
    let header = Header { name: MANIFEST.to_owned(), mode: 0o600, size };
    tar::write(&mut archive, &header, made_at, &mut text.as_slice()).map_err(&writes)?;
    tar::finish(&mut archive).map_err(&writes)?;
    let mut archive = archive.into_inner().map_err(|error| writes(error.into_error()))?;
    archive.rewind().map_err(&writes)?;
    Ok((archive, manifest))
}

/// An archive on its way to its reader.
pub(super) type Parts = ReceiverStream<Result<pb::BackupResponse, Status>>;

/// Makes archives, one at a time.
#[derive(Debug)]
pub(super) struct Backups {
    data: PathBuf,
    place: Arc<Semaphore>,
}

impl Backups {
    /// Of a data directory.
    pub(super) fn of(data: PathBuf) -> Self {
        Self { data, place: Arc::new(Semaphore::new(1)) }
    }

    /// Makes an archive and begins to tell it; also says what it is, for the audit log.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED while another one is under way; when the disk fails or is full.
    pub(super) async fn begin(&self, state: &Arc<State>) -> Result<(Parts, String), Status> {
        let Ok(place) = Arc::clone(&self.place).try_acquire_owned() else {
            let message = "another backup is under way";
            let pause = Duration::from_secs(5);
            return Err(error::later(Code::ResourceExhausted, "BACKUP", message, pause));
        };
        let data = self.data.clone();
        let made = state.write(move |state, _| {
            let (archive, manifest) = make(state, &data).map_err(|failure| {
                tracing::error!(error = %chain(&failure), "no backup");
                let message = "the backup can not be made; is there room in the data directory?";
                error::refused(Code::FailedPrecondition, "BACKUP_FAILED", message, &[])
            })?;
            let total = archive.metadata().map_or(0, |metadata| metadata.len());
            Ok((archive, manifest, total))
        });
        let (archive, manifest, total) = made.await?;
        let (sender, receiver) = mpsc::channel(PARTS_QUEUE);
        let runtime = Handle::current();
        let _detached = spawn_blocking(move || {
            send(archive, total, &sender, &runtime);
            drop(place);
        });
        let what = format!("backup at revision {}", manifest.revision);
        Ok((ReceiverStream::new(receiver), what))
    }
}

/// Sends an archive part by part; a reader who stands still is left.
fn send(
    mut archive: File,
    total: u64,
    sender: &mpsc::Sender<Result<pb::BackupResponse, Status>>,
    runtime: &Handle,
) {
    loop {
        let mut data = Vec::new();
        let part = Read::by_ref(&mut archive).take(PART_BYTES).read_to_end(&mut data);
        let message = match part {
            Ok(0) => return,
            Ok(_) => Ok(pb::BackupResponse { data, total_bytes: total }),
            Err(failure) => {
                tracing::error!(%failure, "a backup can not be read");
                Err(Status::internal("the backup can not be read"))
            }
        };
        let last = message.is_err();
        let sent = sender.send_timeout(message, PART_TIME_MAX);
        if runtime.block_on(sent).is_err() || last {
            return;
        }
    }
}

/// A file that is gone when it is closed, also by a crash.
fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join(format!("backup-{:016x}.new", fastrand::u64(..)));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The files of a data directory by name, without the store and what is there for a moment only.
fn files(data: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let mut found = Vec::new();
    let mut left = vec![(String::new(), data.to_owned(), 0)];
    while let Some((prefix, directory, depth)) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(failed("read", &directory))? {
            let entry = entry.map_err(failed("read", &directory))?;
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).map_err(failed("read", &path))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let passing = ["lock", RESTORING, STORE_FILE].contains(&name.as_str())
                || Path::new(&name).extension().is_some_and(|ending| ending == "new");
            if metadata.is_dir() && depth < DEPTH_MAX {
                left.push((format!("{name}/"), path, depth + 1));
            } else if metadata.is_file() && !passing {
                if metadata.len() > FILE_BYTES_MAX || found.len() >= FILES_MAX {
                    return Err(DiskError::TooLarge(path).into());
                }
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads an archive to its end and checks all of it.
///
/// # Errors
/// When it can not be read, is not whole, or a newer program made it.
pub fn check(path: &Path) -> Result<Manifest, BackupError> {
    unpack(path, None)
}

/// Checks all of an archive; with a directory, writes its files there, the store under another name.
fn unpack(path: &Path, into: Option<&Path>) -> Result<Manifest, BackupError> {
    let broken = |why: String| BackupError::Broken { path: path.to_owned(), why };
    let mut archive = File::open(path).map_err(failed("read", path))?;
    let mut manifest = None;
    let mut writing: Result<(), BackupError> = Ok(());
    let found = tar::read(&mut archive, |header, bytes| {
        if header.name == MANIFEST {
            let mut text = Vec::new();
            bytes.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)?;
            manifest = Some(text);
        } else if let Some(directory) = into
            && writing.is_ok()
            && is_plain(&header.name)
        {
            writing = write(directory, header, bytes);
        }
        Ok(())
    });
    let found = found.map_err(|error| broken(error.to_string()))?;
    writing?;
    let text = manifest.ok_or_else(|| broken(format!("it has no {MANIFEST}")))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| broken(format!("{MANIFEST}: {error}")))?;
    if manifest.format > FORMAT {
        return Err(BackupError::Newer(path.to_owned()));
    }
    let mut listed = manifest.files.iter();
    for (header, sum) in found.iter().filter(|(header, _)| header.name != MANIFEST) {
        if !is_plain(&header.name) {
            return Err(broken(format!("{:?} leads out of it", header.name)));
        }
        let as_listed = listed.next().is_some_and(|listed| {
            (&listed.name, listed.size, &listed.sha256) == (&header.name, header.size, &hex(sum))
        });
        if !as_listed {
            return Err(broken(format!("{} is not as {MANIFEST} says", header.name)));
        }
    }
    if let Some(missing) = listed.next() {
        return Err(broken(format!("{} is missing", missing.name)));
    }
    if !manifest.files.iter().any(|listed| listed.name == STORE_FILE) {
        return Err(broken(format!("{STORE_FILE} is missing")));
    }
    Ok(manifest)
}

/// Whether a name stays below the directory that it is put in.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.split('/').all(|part| !["", ".", ".."].contains(&part))
}

fn write(directory: &Path, header: &Header, bytes: &mut dyn Read) -> Result<(), BackupError> {
    let name = if header.name == STORE_FILE { new_store() } else { header.name.clone() };
    let path = directory.join(name);
    let writes = failed("write", &path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(&writes)?;
    }
    // Never more open than it was, and never open to others for a moment.
    let mode = header.mode & 0o644;
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&path).map_err(&writes)?;
    io::copy(bytes, &mut file).map_err(&writes)?;
    file.flush().and_then(|()| file.sync_all()).map_err(&writes)
}

/// The store's name until all of a restore is done.
fn new_store() -> String {
    format!("{STORE_FILE}.new")
}

/// Makes a data directory of an archive. Its revisions count in a history of their own from then on,
/// so that whoever saw later ones is not led astray.
///
/// # Errors
/// When the archive is not whole, the directory is not empty or in use, or writing fails. What an
/// interrupted restore leaves is refused by [`check_whole`].
pub fn restore(path: &Path, data: &Path) -> Result<Manifest, BackupError> {
    let manifest = check(path)?;
    let _held = DataDirectory::open(data)?;
    let half = data.join(RESTORING).exists();
    let empty = files(data)?.is_empty() && !data.join(STORE_FILE).exists();
    if !(half || empty) {
        return Err(BackupError::NotEmpty(data.to_owned()));
    }
    disk::write_private(&data.join(RESTORING), b"")?;
    unpack(path, Some(data))?;
    let new = data.join(new_store());
    {
        let (store, _) = Store::open(&new, &manifest.trust_domain)?;
        store.begin_history()?;
    }
    let place = data.join(STORE_FILE);
    fs::rename(&new, &place).map_err(failed("write", &place))?;
    fs::remove_file(data.join(RESTORING)).map_err(failed("write", data))?;
    File::open(data).and_then(|it| it.sync_all()).map_err(failed("write", data))?;
    Ok(manifest)
}

/// Refuses a data directory in which a restore was interrupted.
///
/// # Errors
/// [`BackupError::Half`].
pub(super) fn check_whole(data: &Path) -> Result<(), BackupError> {
    if data.join(RESTORING).exists() {
        return Err(BackupError::Half(data.to_owned()));
    }
    Ok(())
}

impl Manifest {
    /// When it was made.
    pub fn made_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.made_at)
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
