//! The directory with all that a mesh on one machine keeps. One process holds it, and a temporary one
//! goes with that process; what a killed process left is taken away by the next.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    clock,
    identity::disk::{DataDirectory, DiskError},
};

/// How temporary directories begin.
const PREFIX: &str = "outrigger-dev-";
/// One that was made just now may not be held yet.
const LEFT_BEHIND: Duration = Duration::from_mins(1);

/// A directory of this process.
#[derive(Debug)]
pub struct Directory {
    held: DataDirectory,
    temporary: bool,
}

impl Directory {
    /// The directory at `path`, which stays; made if need be, for the owner only.
    ///
    /// # Errors
    /// When it can not be made, or another process holds it.
    pub fn kept(path: &Path) -> Result<Self, DiskError> {
        Ok(Self { held: DataDirectory::open(path)?, temporary: false })
    }

    /// A new one below the system's directory for such, removed when this value is dropped.
    ///
    /// # Errors
    /// When it can not be made.
    pub fn temporary() -> Result<Self, DiskError> {
        let base = env::temp_dir();
        remove_left_behind(&base);
        let path = base.join(format!("{PREFIX}{:08x}", fastrand::u32(..)));
        Ok(Self { held: DataDirectory::open(&path)?, temporary: true })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.held.path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(self.path())
        {
            tracing::warn!(path = %self.path().display(), %error, "can not be removed");
        }
    }
}

/// Removes this user's temporary directories that no process holds.
fn remove_left_behind(base: &Path) {
    for path in left_behind(base) {
        if DataDirectory::open(&path).is_ok() {
            // Another process may be at the same thing.
            let _gone = fs::remove_dir_all(&path);
        }
    }
}

fn left_behind(base: &Path) -> Vec<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let old = |entry: &fs::DirEntry| {
        let Ok(metadata) = entry.metadata() else { return false };
        let age = metadata.modified().ok().and_then(|time| clock::now().duration_since(time).ok());
        let own = metadata.is_dir() && metadata.uid() == user;
        own && age.is_some_and(|age| age > LEFT_BEHIND)
    };
    let ours =
        |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
    entries.flatten().filter(ours).filter(old).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::Directory;

    #[test]
    fn a_temporary_directory_goes_and_another_stays() {
        let temporary = Directory::temporary().expect("made");
        let path = temporary.path().to_owned();
        std::fs::create_dir(path.join("inner")).expect("writable");
        drop(temporary);
        assert!(!path.exists());

        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("kept");
        let kept = Directory::kept(&path).expect("made");
        assert!(Directory::kept(&path).is_err(), "held");
        drop(kept);
        assert!(path.exists());
    }
}
