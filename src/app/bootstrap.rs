//! What the program takes from its surroundings before it does anything: environment variables,
//! where files belong, the machine's name. Together with the command line this is the only reader
//! of the environment, so that nothing further down depends on hidden input.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::identity::disk::{DataDirectory, DiskError};

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
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The value of an environment variable; `None` when unset, empty or not text.
#[allow(clippy::disallowed_methods, reason = "this and the command line read the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The names of all variables that are flags of this program: a role that starts another one says
/// what that one needs by flags, and what was meant for itself must not reach it.
pub fn own_variables() -> Vec<OsString> {
    let own = |name: &OsString| name.as_encoded_bytes().starts_with(b"OUTRIGGER_");
    std::env::vars_os().map(|(name, _)| name).filter(own).collect()
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

/// Opens the data directory at `path`, or `path.2`, `path.3` … when it is in use: several instances
/// of a service on one machine need not be told apart by hand.
///
/// # Errors
/// As [`DataDirectory::open`]; in use when a hundred are.
pub fn open_free_directory(path: &Path) -> Result<DataDirectory, DiskError> {
    let mut name = path.as_os_str().to_owned();
    for number in 2..=101_u32 {
        match DataDirectory::open(Path::new(&name)) {
            Err(DiskError::InUse(_)) => {
                name = path.as_os_str().to_owned();
                name.push(format!(".{number}"));
            }
            opened => return opened,
        }
    }
    Err(DiskError::InUse(path.to_owned()))
}

/// The text of a file of this user's, which is not larger than it can be meant to be: a device never
/// ends.
///
/// # Errors
/// What the file system said, or that it is too large or no text.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|bytes| bytes <= bytes_max) {
        Ok(text)
    } else {
        let message = format!("larger than {} KiB", bytes_max >> 10);
        Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
    }
}

/// Makes a directory and its parents, for the owner only.
///
/// # Errors
/// What the file system said.
pub fn make_private_directory(path: &Path) -> Result<(), BootstrapError> {
    let failed = |source| BootstrapError::Io { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{open_free_directory, read_text};
    use crate::identity::disk::DataDirectory;

    #[test]
    fn what_never_ends_is_not_read_for_ever() {
        let error = read_text(std::path::Path::new("/dev/zero"), 1 << 20).expect_err("endless");
        assert_eq!(error.to_string(), "larger than 1024 KiB");
    }

    #[test]
    fn a_data_directory_in_use_leads_to_the_next() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("shop.orders");
        let first = DataDirectory::open(&path).expect("free");
        let second = open_free_directory(&path).expect("the next");
        assert_eq!(second.path(), root.path().join("shop.orders.2"));
        drop(first);
        // A child that another test starts at this moment holds every lock until it executes.
        let again = || open_free_directory(&path).expect("free again").path() == path;
        assert!((0..10_000).any(|_| again()), "the first is free again");
    }
}
