//! A private place for one test: home, state and configuration directories of its own, so that
//! nothing of the machine's user leaks in and nothing is left behind.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, time};

/// How long a command that ends by itself may take.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// The package's root directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory of one test, removed with this value.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("outrigger-it-").tempdir().unwrap();
        for name in ["home", "config", "state", "log"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in it, and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The environment of everything that runs in it.
    pub(crate) fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        vec![
            ("PATH", path.into()),
            ("HOME", self.path("home")),
            ("XDG_CONFIG_HOME", self.path("config")),
            ("XDG_STATE_HOME", self.path("state")),
            ("RUST_BACKTRACE", "1".into()),
        ]
    }

    /// Any program, not started yet, with this place's environment.
    pub(crate) fn command<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: &[A],
    ) -> Command {
        let mut command = Command::new(program);
        command.args(args).env_clear().envs(self.environment()).current_dir(self.path("home"));
        command
    }

    /// The built program with these arguments, run until it ends.
    pub(crate) async fn run(&self, args: &[&str]) -> Said {
        finish(self.command(env!("CARGO_BIN_EXE_outrigger"), args), COMMAND_MAX).await
    }
}

/// Runs a command to its end and takes what it says; panics when it takes longer than `bound`.
pub(crate) async fn finish(mut command: Command, bound: Duration) -> Said {
    let what = format!("{:?}", command.as_std());
    let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = time::timeout(bound, run)
        .await
        .unwrap_or_else(|_| panic!("{what}: not done within {bound:?}"))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    Said {
        what,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What a command said until its end.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) what: String,
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// Panics unless it exited with 0.
    #[track_caller]
    pub(crate) fn assert_done(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}\n{}\n{}", self.what, self.stdout, self.stderr);
        self
    }

    /// Its stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.what, self.stdout))
    }
}
