//! The data directory: what a sidecar must find again after a restart without the control plane.
//!
//! Everything is written to a temporary file, synced and renamed, so that a crash leaves the old
//! file or the new one. Secrets are for the owner only, and a secret that others can read is
//! refused rather than used. One process at a time holds a directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    spiffe::{BundleError, Svid, SvidError, TrustBundle, hex},
    tls,
};

/// Key and chain in one file, so that no crash leaves one without the other.
const SVID_FILE: &str = "svid.pem";
const BUNDLE_FILE: &str = "bundle.pem";
const LAST_GOOD_FILE: &str = "last-good";
/// The root that the token of the last join named.
const JOINED_FILE: &str = "joined";
const LOCK_FILE: &str = "lock";
const PEM_BYTES_MAX: u64 = 1024 * 1024;
/// Far more than the resources that concern one node.
const LAST_GOOD_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A directory that this process holds until it is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Its lock is let go when it is closed, also by a crash.
    _lock: File,
}

/// What is wrong with a file or directory.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process holds the directory.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// Others can read a secret.
    #[error("{path} holds a private key and others can read it (mode {mode:04o}): chmod 600 it")]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// More bytes than are read.
    #[error("{0} is larger than it can be")]
    TooLarge(PathBuf),
    /// The system says no.
    #[error("can not {verb} {path}")]
    Io {
        /// `read`, `write`, `create` or `remove`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stored SVID is broken.
    #[error("{path}: {why}")]
    Svid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: SvidError,
    },
    /// The stored bundle is broken.
    #[error("{path}: {why}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: BundleError,
    },
}

impl DiskError {
    /// Whether the file is there and ours, and only what stands in it can not be used.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Svid { .. } | Self::Bundle { .. })
    }
}

impl DataDirectory {
    /// Makes the directory if need be, for the owner only, and takes hold of it.
    ///
    /// # Errors
    /// When it can not be made, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |source| io_error("create", path, source);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock_path = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(|source| io_error("create", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DiskError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io_error("create", &lock_path, source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds the SVID and its key.
    pub fn svid_file(&self) -> PathBuf {
        self.path.join(SVID_FILE)
    }

    /// Stores an SVID with its key.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn save_svid(&self, svid: &Svid) -> Result<(), DiskError> {
        let text = format!("{}{}", svid.key_pem(), svid.chain_pem());
        write_private(&self.svid_file(), text.as_bytes())
    }

    /// The stored SVID, if there is one; it may have expired.
    ///
    /// # Errors
    /// When others can read it, or it is broken.
    pub fn load_svid(&self) -> Result<Option<Svid>, DiskError> {
        let path = self.svid_file();
        let Some(text) = read_private(&path, PEM_BYTES_MAX)? else { return Ok(None) };
        let svid = Svid::from_pem(&text, &text, tls::provider());
        svid.map(Some).map_err(|why| DiskError::Svid { path, why })
    }

    /// Stores a trust bundle.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn save_bundle(&self, bundle: &TrustBundle) -> Result<(), DiskError> {
        // Not secret, but whoever could write it could make us trust anyone: owner only, like all.
        write_private(&self.path.join(BUNDLE_FILE), bundle.to_pem().as_bytes())
    }

    /// The stored trust bundle, if there is one.
    ///
    /// # Errors
    /// When it can not be read or is broken.
    pub fn load_bundle(&self, trust_domain: &str) -> Result<Option<TrustBundle>, DiskError> {
        let path = self.path.join(BUNDLE_FILE);
        let Some(text) = read(&path, PEM_BYTES_MAX)? else { return Ok(None) };
        let bundle = TrustBundle::from_pem(trust_domain, &text);
        bundle.map(Some).map_err(|why| DiskError::Bundle { path, why })
    }

    /// The stored SVID and the bundle of its trust domain, if both are there.
    ///
    /// # Errors
    /// As [`DataDirectory::load_svid`] and [`DataDirectory::load_bundle`].
    pub fn load_identity(&self) -> Result<Option<(Svid, TrustBundle)>, DiskError> {
        let Some(svid) = self.load_svid()? else { return Ok(None) };
        let bundle = self.load_bundle(svid.id().trust_domain())?;
        Ok(bundle.map(|bundle| (svid, bundle)))
    }

    /// Notes the root that the token named by which the identity was had.
    ///
    /// # Errors
    /// When it can not be written.
    pub fn save_joined(&self, root_hash: &[u8; 32]) -> Result<(), DiskError> {
        write_private(&self.path.join(JOINED_FILE), hex(root_hash).as_bytes())
    }

    /// Whether the identity was had by a token that names this root: the mesh may have exchanged it
    /// since.
    ///
    /// # Errors
    /// When the note can not be read.
    pub fn has_joined(&self, root_hash: &[u8; 32]) -> Result<bool, DiskError> {
        let noted = read(&self.path.join(JOINED_FILE), PEM_BYTES_MAX)?;
        Ok(noted.is_some_and(|noted| noted == hex(root_hash).as_bytes()))
    }

    /// Stores the resources that run now, encoded by whoever reads them again.
    ///
    /// # Errors
    /// When they can not be written.
    pub fn save_last_good(&self, resources: &[u8]) -> Result<(), DiskError> {
        write_private(&self.path.join(LAST_GOOD_FILE), resources)
    }

    /// Forgets the resources that were stored last.
    ///
    /// # Errors
    /// When they are there and can not be removed.
    pub fn forget_last_good(&self) -> Result<(), DiskError> {
        remove(&self.path.join(LAST_GOOD_FILE))
    }

    /// The resources that were stored last, if any.
    ///
    /// # Errors
    /// When they can not be read.
    pub fn load_last_good(&self) -> Result<Option<Vec<u8>>, DiskError> {
        read(&self.path.join(LAST_GOOD_FILE), LAST_GOOD_BYTES_MAX)
    }
}

/// Replaces a file as a whole, readable by its owner only.
///
/// # Errors
/// When it can not be written; the old file is whole then.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    replace(path, bytes, 0o600).map_err(|source| io_error("write", path, source))
}

/// Replaces a file as a whole, readable by all.
///
/// # Errors
/// When it can not be written; the old file is whole then.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    replace(path, bytes, 0o644).map_err(|source| io_error("write", path, source))
}

/// Removes a file, if it is there.
///
/// # Errors
/// When it is there and can not be removed.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// Reads a secret; `None` when there is no such file.
///
/// # Errors
/// When others than its owner can read it, it is larger than `bytes_max`, or can not be read.
pub fn read_private(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, DiskError> {
    let Some(file) = open(path)? else { return Ok(None) };
    // Of the open file, so that nothing can be exchanged between check and use.
    let metadata = file.metadata().map_err(|source| io_error("read", path, source))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(DiskError::Readable { path: path.to_owned(), mode });
    }
    read_file(path, file, bytes_max).map(Some)
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// When it is larger than `bytes_max` or can not be read.
pub fn read(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, DiskError> {
    let Some(file) = open(path)? else { return Ok(None) };
    read_file(path, file, bytes_max).map(Some)
}

fn open(path: &Path) -> Result<Option<File>, DiskError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn read_file(path: &Path, file: File, bytes_max: u64) -> Result<Vec<u8>, DiskError> {
    let mut bytes = Vec::new();
    let read = file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes);
    let count = read.map_err(|source| io_error("read", path, source))?;
    if u64::try_from(count).is_ok_and(|count| count > bytes_max) {
        return Err(DiskError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

/// The new bytes are on the disk before the name points to them, and the name before this returns.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = directory.join(name);
    // One that a crash left may have other permissions or be somebody's link.
    if let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> DiskError {
    DiskError::Io { verb, path: path.to_owned(), source }
}
