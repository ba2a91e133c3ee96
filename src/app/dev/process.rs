//! One child process of the supervisor: a role of this same program in a process group of its own,
//! with a socket as its stdin. The socket carries the child's `ready` line one way, and its end is
//! the child's wish to end the other way.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::UnixStream,
    process::{Child, Command},
    time,
};

use super::output::Voice;
use crate::{
    app::{
        announce::{Addresses, NOTIFY_VARIABLES},
        bootstrap,
        ports::ReservedPort,
    },
    task,
};

/// How to start a child; the same each time.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    /// `orders-1`
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) directory: PathBuf,
    /// Whether what it writes to stdout is for the user.
    pub(super) shows_stdout: bool,
    /// A port of its own that has to stay free between its lives.
    pub(super) _reserved: Option<Arc<ReservedPort>>,
}

/// Why a child is not ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    /// It could not be started.
    #[error("{name}: {source}")]
    Start {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{name}: ended before it was ready ({status})")]
    Ended {
        /// Its name.
        name: String,
        /// How.
        status: ExitStatus,
    },
    /// It took too long.
    #[error("{name}: not ready within {}s", bound.as_secs())]
    Late {
        /// Its name.
        name: String,
        /// How long was waited.
        bound: Duration,
    },
    /// It said something else than its addresses.
    #[error("{name}: its ready line is no JSON: {line}")]
    Line {
        /// Its name.
        name: String,
        /// What it said.
        line: String,
    },
}

/// A running child. Dropping it kills its whole group at once.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    group: Option<Pid>,
    lifeline: BufReader<UnixStream>,
}

impl Process {
    /// Starts it and follows what it says. Its flags are given to it; those of this process's own
    /// environment are not.
    pub(super) fn start(spec: &Spec, voice: &Arc<Voice>) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Start { name: spec.name.clone(), source };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let lifeline = BufReader::new(UnixStream::from_std(ours).map_err(failed)?);
        let mut command = Command::new(&spec.program);
        for name in bootstrap::own_variables() {
            command.env_remove(name);
        }
        for name in NOTIFY_VARIABLES {
            command.env_remove(name);
        }
        let mut child = command
            .args(&spec.arguments)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.directory)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(if spec.shows_stdout { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(stdout) = child.stdout.take() {
            let _detached = task::spawn("child's stdout", Arc::clone(voice).follow(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            let _detached = task::spawn("child's stderr", Arc::clone(voice).follow(stderr));
        }
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Self { name: spec.name.clone(), child, group, lifeline })
    }

    /// Its process id; `None` once it was waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for its addresses.
    pub(super) async fn ready(&mut self, bound: Duration) -> Result<Addresses, ProcessError> {
        let name = || self.name.clone();
        let mut line = String::new();
        let said = tokio::select! {
            said = time::timeout(bound, self.lifeline.read_line(&mut line)) => said,
            ended = self.child.wait() => return Err(match ended {
                Ok(status) => ProcessError::Ended { name: name(), status },
                Err(source) => ProcessError::Start { name: name(), source },
            }),
        };
        match said {
            Err(_) => Err(ProcessError::Late { name: name(), bound }),
            Ok(Ok(1..)) => {
                serde_json::from_str(&line).map_err(|_| ProcessError::Line { name: name(), line })
            }
            // It closed its end, so it is ending.
            Ok(_) => match self.child.wait().await {
                Ok(status) => Err(ProcessError::Ended { name: name(), status }),
                Err(source) => Err(ProcessError::Start { name: name(), source }),
            },
        }
    }

    /// Waits for its end; what it left behind in its group is killed. Cancelling it loses nothing.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.kill();
        status
    }

    /// Ends it in order, or by force when that takes longer than `bound`.
    pub(super) async fn stop(&mut self, bound: Duration) -> io::Result<ExitStatus> {
        if let Some(id) = self.child.id().and(self.group) {
            let _ended = kill_process(id, Signal::TERM);
        }
        match time::timeout(bound, self.child.wait()).await {
            Ok(status) => {
                self.kill();
                status
            }
            Err(_) => {
                self.kill();
                self.child.wait().await
            }
        }
    }

    /// Kills its whole group (SIGKILL). A group without members is nobody's.
    pub(super) fn kill(&mut self) {
        if let Some(group) = self.group {
            let _nobody = kill_process_group(group, Signal::KILL);
        }
        if self.child.id().is_none() {
            // It has been waited for: its number may soon be somebody else's.
            self.group = None;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
