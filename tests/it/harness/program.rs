//! A long-running role of the built program (or a peer), started as a user or a supervisor starts
//! it: ready when it says so, logged to a file that is printed when the test fails, and gone with
//! all its children at the end, whatever happened.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Place, eventually};

/// From start to the ready line: a debug build on a machine with other tests needs some of it.
const READY_MAX: Duration = Duration::from_secs(45);
/// Lines of a log that a failed test prints.
const LOG_LINES_MAX: usize = 120;

/// A program that runs.
pub(crate) struct Program {
    name: String,
    child: Child,
    /// What it wrote to stdout and stderr.
    log: PathBuf,
    /// Set once it has been waited for.
    ended: Option<ExitStatus>,
    /// The addresses of its ready line; null for a peer.
    pub(crate) ready: Value,
}

impl Program {
    /// Starts the built program with these arguments and waits until all its listeners serve.
    pub(crate) async fn start(place: &Place, name: &str, args: &[String]) -> Self {
        Self::start_with(place, name, args, &[]).await
    }

    /// The same with more environment.
    pub(crate) async fn start_with(
        place: &Place,
        name: &str,
        args: &[String],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut program = Self::begin(place, name, args, environment);
        program.wait_ready(place).await;
        program
    }

    /// Starts the built program and waits for nothing.
    pub(crate) fn begin(
        place: &Place,
        name: &str,
        args: &[String],
        environment: &[(&str, &str)],
    ) -> Self {
        Self::begin_under(place, name, &[], args, environment)
    }

    /// The same by a command line that becomes the program, such as `ip netns exec`.
    pub(crate) fn begin_under(
        place: &Place,
        name: &str,
        under: &[String],
        args: &[String],
        environment: &[(&str, &str)],
    ) -> Self {
        let ready = place.path(format!("log/{name}.ready"));
        fs::write(&ready, "").unwrap();
        // The shell opens file descriptor 3 in this child alone, and becomes the program.
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ready=$1; shift; exec \"$@\" 3>>\"$ready\"", "sh"]);
        command.arg(&ready).args(under).arg(env!("CARGO_BIN_EXE_outrigger"));
        let (role, rest) = args.split_first().expect("a role");
        command.args([role.as_str(), "--ready-fd", "3"]).args(rest);
        Self::spawn(place, name, command, environment)
    }

    /// Starts something else; it counts as ready at once.
    pub(crate) fn other(place: &Place, name: &str, program: &str, args: &[String]) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(place, name, command, &[])
    }

    fn spawn(
        place: &Place,
        name: &str,
        mut command: Command,
        environment: &[(&str, &str)],
    ) -> Self {
        let log = place.path(format!("log/{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .env_clear()
            .envs(place.environment())
            .envs(environment.iter().copied())
            .current_dir(place.path("home"))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), child, log, ended: None, ready: Value::Null }
    }

    /// Waits for the ready line.
    pub(crate) async fn wait_ready(&mut self, place: &Place) {
        let path = place.path(format!("log/{}.ready", self.name));
        self.ready = eventually(READY_MAX, || {
            let text = fs::read_to_string(&path).unwrap();
            // One that ended says no more: stop waiting.
            let gone = self.poll().filter(|_| !text.ends_with('\n'));
            assert!(gone.is_none(), "{} ended before it was ready: {gone:?}", self.name);
            std::future::ready(match text.strip_suffix('\n') {
                Some(line) => Ok(serde_json::from_str(line).expect("the ready line is JSON")),
                None => Err(format!("{} is not ready", self.name)),
            })
        })
        .await;
    }

    /// One of its addresses.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let text = self.ready[name].as_str();
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{}: no address {name} in {}", self.name, self.ready))
    }

    /// Where it listens for one `--upstream`, such as `echo:9090`.
    #[track_caller]
    pub(crate) fn upstream(&self, name: &str) -> SocketAddr {
        let text = self.ready["upstreams"][name].as_str();
        text.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("{}: no upstream {name} in {}", self.name, self.ready))
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until its log contains `text`.
    pub(crate) async fn logs(&self, text: &str) {
        eventually(super::SOON, || {
            let found = self.log().contains(text);
            std::future::ready(
                found
                    .then_some(())
                    .ok_or_else(|| format!("the log of {} does not say {text:?}", self.name)),
            )
        })
        .await;
    }

    /// Sends it a signal; its children get none.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            kill_process(pid(self.child.id()), signal).unwrap();
        }
    }

    /// How it ended, if it did.
    pub(crate) fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self, bound: Duration) -> ExitStatus {
        let name = self.name.clone();
        eventually(bound, || {
            std::future::ready(self.poll().ok_or_else(|| format!("{name} still runs")))
        })
        .await
    }

    /// Ends it as a supervisor does: SIGTERM, and it has to follow within `bound`.
    pub(crate) async fn stop(&mut self, bound: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.end(bound).await
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        if self.poll().is_none() {
            self.signal(Signal::KILL);
            self.ended = Some(self.child.wait().unwrap());
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let below = descendants(self.child.id());
        self.kill();
        for child in below {
            // Gone already is what is wanted.
            let _gone = kill_process(pid(child), Signal::KILL);
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_MAX);
            eprintln!("--- log of {} ({} lines)", self.name, lines.len());
            lines[from..].iter().for_each(|line| eprintln!("{line}"));
            eprintln!("--- end of {}'s log", self.name);
        }
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("process IDs are small")).expect("never 0")
}

/// The processes that `ancestor` started, and those that these started.
pub(crate) fn descendants(ancestor: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // `pid (name) state parent …`; the name may hold anything, so begin at its end.
        let parent = fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| {
            let rest = stat.rsplit_once(") ")?.1;
            rest.split(' ').nth(1)?.parse().ok()
        });
        if let Some(parent) = parent {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = Vec::new();
    let mut left = vec![ancestor];
    while let Some(process) = left.pop() {
        let below = children.remove(&process).unwrap_or_default();
        found.extend(&below);
        left.extend(below);
    }
    found
}
