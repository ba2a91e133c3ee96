//! The application as a child of `run`: started in the environment that leads into the mesh, told
//! the signals that we get, and its end turned into our exit code.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, ErrorKind, IsTerminal as _},
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use super::announce::NOTIFY_VARIABLES;
use crate::task::Tasks;

/// Our own failure, as the shell's conventions and docker have it.
pub const EXIT_OWN_FAILURE: u8 = 125;
/// The command was found and can not be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub const EXIT_NOT_FOUND: u8 = 127;

/// Why the command does not run.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// No such file, neither here nor in `PATH`.
    #[error("{}: no such command", .0.display())]
    NotFound(PathBuf),
    /// It is there and is no program, or not ours to run.
    #[error("{}: can not be executed", path.display())]
    NotExecutable {
        /// The command as written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ChildError {
    /// The exit code that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => EXIT_NOT_FOUND,
            Self::NotExecutable { .. } => EXIT_NOT_EXECUTABLE,
        }
    }

    fn of(command: &OsStr, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::NotFound => Self::NotFound(command.into()),
            _ => Self::NotExecutable { path: command.into(), source },
        }
    }
}

/// Looks whether the command can be found and run, before anything is started for it. What only
/// the attempt can tell (a missing interpreter) is left to it.
///
/// # Errors
/// When it can not.
pub fn check(command: &OsStr) -> Result<(), ChildError> {
    let direct = Path::new(command);
    let candidates: Vec<PathBuf> = if command.as_encoded_bytes().contains(&b'/') {
        vec![direct.to_owned()]
    } else {
        env::var_os("PATH")
            .map(|path| env::split_paths(&path).map(|directory| directory.join(direct)).collect())
            .unwrap_or_default()
    };
    let mut refused = None;
    for path in candidates {
        match fs::metadata(&path) {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(()),
            Ok(_) => refused = Some(io::Error::from(ErrorKind::PermissionDenied)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => refused = Some(error),
            Err(_) => {}
        }
    }
    match refused {
        Some(source) => Err(ChildError::NotExecutable { path: direct.to_owned(), source }),
        None => Err(ChildError::NotFound(direct.to_owned())),
    }
}

/// The hidden command by which [`start`] comes to [`execute`].
pub const GUARD_COMMAND: &str = "guarded";

/// Starts the command. It stays in our process group, so that a terminal's Ctrl-C reaches it as if
/// we were not there, and a supervisor's kill of the group leaves nothing behind. With `guard`, the
/// path of this program, it also ends when we are killed: the system ends it when the thread ends
/// that started it, so call this on the main thread.
///
/// # Errors
/// When it can not be started.
///
/// # Panics
/// When `command` is empty.
pub fn start(
    command: &[OsString],
    variables: &[(String, String)],
    supervised: bool,
    guard: Option<&Path>,
) -> Result<Child, ChildError> {
    let (program, arguments) = command.split_first().expect("clap asks for a command");
    let mut child = match guard {
        None => Command::new(program),
        Some(guard) => {
            let mut child = Command::new(guard);
            child.args([GUARD_COMMAND, &std::process::id().to_string(), "--"]).arg(program);
            child
        }
    };
    child.args(arguments).envs(variables.iter().map(|(name, value)| (name, value)));
    for name in NOTIFY_VARIABLES {
        child.env_remove(name);
    }
    if supervised {
        // Our stdin is the supervisor's socket.
        child.stdin(Stdio::null());
    }
    child.spawn().map_err(|error| ChildError::of(program, error))
}

/// Becomes the command, in a process that the system kills together with `parent`. The setting
/// outlives the change of program, unless the new one is set-user-ID.
///
/// # Panics
/// When `command` is empty.
pub fn execute(parent: u32, command: &[OsString]) -> ChildError {
    let (program, arguments) = command.split_first().expect("clap asks for a command");
    let failed = |source| ChildError::of(program, source);
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return failed(error.into());
    }
    let now = getppid().map(Pid::as_raw_nonzero);
    if now.and_then(|now| u32::try_from(now.get()).ok()) != Some(parent) {
        // It ended before the system was asked; nobody waits for our answer.
        return failed(io::Error::other("whoever wanted it is gone"));
    }
    failed(std::process::Command::new(program).args(arguments).exec())
}

/// Sends the child a signal; one that has ended needs none.
pub fn send(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(id) = id {
        let _ended = kill_process(id, signal);
    }
}

/// Whether a SIGINT of ours has reached the child already: a terminal sends it to the whole
/// foreground group.
pub fn interrupt_is_shared() -> bool {
    io::stdin().is_terminal()
}

/// Passes on to the child what is meant for the application alone.
///
/// # Errors
/// When the system gives no handler.
pub fn pass_on(tasks: &mut Tasks, child: &Child) -> io::Result<()> {
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else {
        return Ok(());
    };
    for (kind, sent) in [
        (SignalKind::user_defined1(), Signal::USR1),
        (SignalKind::user_defined2(), Signal::USR2),
        (SignalKind::quit(), Signal::QUIT),
        (SignalKind::alarm(), Signal::ALARM),
    ] {
        let mut received = signal(kind)?;
        tasks.spawn("signals for the application", async move {
            while received.recv().await.is_some() {
                let _ended = kill_process(id, sent);
            }
        });
    }
    Ok(())
}

/// The exit code that tells how the child ended: its own, or 128 and the signal that ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_OWN_FAILURE)
}

#[cfg(test)]
mod tests {
    use std::ffi::{OsStr, OsString};

    use rustix::process::Signal;

    use super::{check, exit_code, send, start};

    fn command(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    async fn run(script: &str) -> u8 {
        let mut child =
            start(&command(&["sh", "-c", script]), &[], true, None).expect("there is a shell");
        exit_code(child.wait().await.expect("waited for"))
    }

    #[tokio::test]
    async fn the_exit_code_is_the_childs_or_its_signal() {
        assert_eq!(run("exit 0").await, 0);
        assert_eq!(run("exit 42").await, 42);
        assert_eq!(run("kill -KILL $$").await, 137);
    }

    #[tokio::test]
    async fn a_signal_reaches_the_child() {
        let mut child =
            start(&command(&["sleep", "600"]), &[], true, None).expect("there is sleep");
        send(&child, Signal::TERM);
        assert_eq!(exit_code(child.wait().await.expect("waited for")), 143);
    }

    #[test]
    fn what_can_not_run_is_known_before_anything_is_started() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("plain");
        std::fs::write(&file, "text").expect("written");
        for (name, expected) in [
            (OsStr::new("sh"), None),
            (OsStr::new("/bin/sh"), None),
            (OsStr::new("no-such-command-anywhere"), Some(127)),
            (OsStr::new("/no/such/file"), Some(127)),
            (file.as_os_str(), Some(126)),
            (root.path().as_os_str(), Some(126)),
        ] {
            assert_eq!(check(name).err().map(|error| error.exit_code()), expected, "{name:?}");
        }
    }

    #[tokio::test]
    async fn the_child_gets_the_variables_and_not_systemds() {
        let variables = [("A_TEST".to_owned(), "yes".to_owned())];
        let script = "test \"$A_TEST\" = yes && test -z \"$NOTIFY_SOCKET\"";
        let mut child =
            start(&command(&["sh", "-c", script]), &variables, true, None).expect("a shell");
        assert_eq!(exit_code(child.wait().await.expect("waited for")), 0);
    }
}
