//! What the program takes from its surroundings before it does anything: environment variables,
//! where files belong, the machine's name. Together with the command line this is the only reader
//! of the environment, so that nothing further down depends on hidden input.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Why a directory or file of the program could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Neither the XDG variable nor `HOME` says where files belong.
    #[error("no place for {what}: neither {variable} nor HOME is set; {flag} names one")]
    NoHome {
        /// What should be stored.
        what: &'static str,
        /// The XDG variable that would say it.
        variable: &'static str,
        /// The flag that would.
        flag: &'static str,
    },
    /// Another process holds the directory's lock.
    #[error("{} is in use by another outrigger; --data names another directory", .0.display())]
    InUse(PathBuf),
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl BootstrapError {
    /// For `map_err`: puts the path to what the system said.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// The value of an environment variable; `None` when unset, empty or not text.
#[allow(clippy::disallowed_methods, reason = "this and the command line read the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The contexts file: `OUTRIGGER_CONTEXTS`, else `$XDG_CONFIG_HOME/outrigger/config.yaml`, else
/// below `~/.config`.
///
/// # Errors
/// When none of these variables is set.
pub fn contexts_path() -> Result<PathBuf, BootstrapError> {
    if let Some(path) = variable("OUTRIGGER_CONTEXTS") {
        return Ok(path.into());
    }
    let directory = home("XDG_CONFIG_HOME", ".config").ok_or(BootstrapError::NoHome {
        what: "contexts",
        variable: "XDG_CONFIG_HOME",
        flag: "--contexts",
    })?;
    Ok(directory.join("outrigger/config.yaml"))
}

/// Where data belongs that is kept between starts: `$STATE_DIRECTORY` (systemd), else
/// `$XDG_STATE_HOME/outrigger`, else below `~/.local/state`.
///
/// # Errors
/// When none of these variables is set.
pub fn state_directory() -> Result<PathBuf, BootstrapError> {
    if let Some(path) = variable("STATE_DIRECTORY") {
        // systemd lists several with colons between; the first is the unit's main one.
        return Ok(path.split(':').next().unwrap_or_default().into());
    }
    let directory = home("XDG_STATE_HOME", ".local/state").ok_or(BootstrapError::NoHome {
        what: "data",
        variable: "XDG_STATE_HOME",
        flag: "--data",
    })?;
    Ok(directory.join("outrigger"))
}

fn home(xdg: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG specification: a relative path in its variables is to be ignored.
    let set = variable(xdg).map(PathBuf::from).filter(|path| path.is_absolute());
    set.or_else(|| Some(PathBuf::from(variable("HOME")?).join(below_home)))
}

/// The machine's name, `localhost` when it has none that is text.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_str().ok().filter(|name| !name.is_empty()).unwrap_or("localhost").to_owned()
}

/// A directory that one process at a time uses; the lock goes with the value or the process.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory (0700) and locks it.
    ///
    /// # Errors
    /// [`BootstrapError::InUse`] when another process has it, else what the file system said.
    pub fn open(path: &Path) -> Result<Self, BootstrapError> {
        make_private_directory(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(BootstrapError::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(BootstrapError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(BootstrapError::Io { path: lock_path, source }),
        }
    }

    /// Opens `path`, or `path.2`, `path.3` … when it is in use: several instances of a service on
    /// one machine need not be told apart by hand.
    ///
    /// # Errors
    /// As [`Self::open`]; in use when a hundred are.
    pub fn open_free(path: &Path) -> Result<Self, BootstrapError> {
        let mut name = path.as_os_str().to_owned();
        for number in 2..=101_u32 {
            match Self::open(Path::new(&name)) {
                Err(BootstrapError::InUse(_)) => {
                    name = path.as_os_str().to_owned();
                    name.push(format!(".{number}"));
                }
                opened => return opened,
            }
        }
        Err(BootstrapError::InUse(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes a directory and its parents, for the owner only.
///
/// # Errors
/// What the file system said.
pub fn make_private_directory(path: &Path) -> Result<(), BootstrapError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(BootstrapError::io(path))
}

/// Writes a file for the owner only (0600), whole or not at all: a reader or a crash never meets
/// half of it.
///
/// # Errors
/// What the file system said.
pub fn write_private(path: &Path, text: &[u8]) -> Result<(), BootstrapError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(BootstrapError::io(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{BootstrapError, DataDirectory, write_private};

    #[test]
    fn a_data_directory_has_one_user_and_a_second_gets_the_next() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("shop.orders");
        let first = DataDirectory::open(&path).expect("free");
        assert!(matches!(DataDirectory::open(&path), Err(BootstrapError::InUse(_))));
        let second = DataDirectory::open_free(&path).expect("the next");
        assert_eq!(second.path(), root.path().join("shop.orders.2"));
        drop(first);
        assert_eq!(DataDirectory::open_free(&path).expect("free again").path(), path);
    }

    #[test]
    fn what_is_written_is_for_the_owner_only_and_leaves_nothing_else() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("key.pem");
        write_private(&path, b"one").expect("written");
        write_private(&path, b"two").expect("written again");
        assert_eq!(std::fs::read(&path).expect("there"), b"two");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(root.path()).expect("there").count(), 1);
    }
}
