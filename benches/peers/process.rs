//! Programs that are started for a measurement: pinned to a CPU, their output in files, their CPU
//! time and memory read from `/proc`, and gone at the end.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

/// How long a program may take until it listens.
const START_MAX: Duration = Duration::from_secs(20);
/// How long it may take to end by itself.
const END_MAX: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// A directory for configurations, certificates and logs, and which CPU is whose.
pub(crate) struct Place {
    directory: PathBuf,
    keep: bool,
    pub(crate) sidecar_cpu: usize,
    pub(crate) load_cpu: usize,
}

impl Place {
    pub(crate) fn new(keep: bool, sidecar_cpu: usize, load_cpu: usize) -> Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("outrigger-peers-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        if keep {
            eprintln!("configurations and logs are in {}", directory.display());
        }
        Ok(Self { directory, keep, sidecar_cpu, load_cpu })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// A file's path as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Starts a program on a CPU; its output goes to `NAME.log`.
    pub(crate) fn start(&self, name: &str, cpu: usize, command: &[String]) -> Result<Process> {
        let log = File::create(self.path(&format!("{name}.log")))?;
        // Gone with this process, however it ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", &cpu.to_string()])
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name}: {}", command.join(" ")))?;
        Ok(Process { name: name.to_owned(), child, log: self.path(&format!("{name}.log")) })
    }

    /// Runs a load generator to its end, beside the server.
    pub(crate) async fn run(&self, command: &[String], bound: Duration) -> Result<String> {
        let ended = tokio::process::Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", &self.load_cpu.to_string()])
            .args(command)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let Output { status, stdout, stderr } =
            tokio::time::timeout(bound, ended).await.context("took too long")??;
        let said = String::from_utf8_lossy(&stdout).into_owned();
        let error = String::from_utf8_lossy(&stderr);
        ensure!(status.success(), "{}: {status}: {said}{error}", command.join(" "));
        Ok(said)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            eprintln!("{}: {error}", self.directory.display());
        }
    }
}

/// A program that runs until this is dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Waits until something listens on `address`.
    pub(crate) async fn listens(&mut self, address: SocketAddr) -> Result<()> {
        let until = Instant::now() + START_MAX;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            self.check(until)?;
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Waits for a line in a file.
    pub(crate) async fn line(&mut self, file: &Path) -> Result<String> {
        let until = Instant::now() + START_MAX;
        loop {
            let text = fs::read_to_string(file).unwrap_or_default();
            if let Some((line, _)) = text.split_once('\n') {
                return Ok(line.to_owned());
            }
            self.check(until)?;
            sleep(PAUSE).await;
        }
    }

    fn check(&mut self, until: Instant) -> Result<()> {
        let ended = self.child.try_wait()?;
        if ended.is_some() || Instant::now() > until {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{} is not there ({ended:?}): {log}", self.name);
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Asks it to end, so that a program that counts for itself can write down what it counted; one
    /// that does not is killed.
    pub(crate) async fn end(mut self) -> Result<()> {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let until = Instant::now() + END_MAX;
        while self.child.try_wait()?.is_none() && Instant::now() < until {
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The CPU time of its threads so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let run = text.split(' ').next().context("schedstat is empty")?;
            nanoseconds += run.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        Ok(number.parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait().map(|_| ()));
        if let Err(error) = ended {
            eprintln!("{}: {error}", self.name);
        }
    }
}

/// Puts this process, whose generators run in it, on a CPU.
pub(crate) fn pin_self(cpu: usize) -> Result<()> {
    let process = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-a", "-c", "-p", &cpu.to_string(), &process])
        .stdout(Stdio::null())
        .status()
        .context("taskset (util-linux)")?;
    ensure!(pinned.success(), "there is no CPU {cpu}");
    Ok(())
}

/// A port that is free now; for programs that can not say which one they were given.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
