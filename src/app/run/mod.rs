//! `outrigger run`: an application with its sidecar in our process, as if it were the application
//! alone: same terminal, same signals, same exit code.
//!
//! The order of a start: sidecar, application, its ports; only then is the workload ready for
//! others. The order of an end: out of the mesh, what the application was asked, the application,
//! what it asked of others.

mod apps;
mod entry;

use std::{env, ffi::OsString, io, net::SocketAddr, process::ExitStatus, time::Duration};

use rustix::process::{Pid, Signal, getpgrp, getpid, getppid, kill_current_process_group};
use tokio::{process::Child, time};

pub use entry::{Entry, EntryError};

use super::{
    announce::{self, Announce},
    bootstrap,
    child::{self, ChildError},
    environment::{self, Mode, Surroundings},
    sidecar::{self, Sidecar, StartError},
    signals::{Wish, Wishes},
};
use crate::task::Tasks;

/// The condition that the application is well.
const APPLICATION: &str = "application";
/// How long requests under way may take before the application is told to end.
const WITHDRAW_MAX: Duration = Duration::from_secs(10);
/// How long the application may take to end before it is killed. Together with the above and the
/// below less than the 30 s after which most supervisors kill.
const APPLICATION_MAX: Duration = Duration::from_secs(10);
/// How long the way out may take once the application is gone.
const DRAIN_MAX: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// The sidecar. An application's port 0 is chosen and told to the command.
    pub sidecar: sidecar::Options,
    /// The program and its arguments; at least the former.
    pub command: Vec<OsString>,
    /// What the command finds in its environment.
    pub environment: Mode,
    /// Who is told that all of it is ready.
    pub announce: Announce,
}

/// Why the command did not run, or is not known how it ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The command can not be run.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The sidecar does not start.
    #[error(transparent)]
    Sidecar(#[from] StartError),
    /// There are no signals, ports or addresses to be had, or nobody to tell.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl RunError {
    /// The exit code that says so.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Child(error) => error.exit_code(),
            Self::Sidecar(_) | Self::Io(_) => child::EXIT_OWN_FAILURE,
        }
    }
}

/// Runs the command beside its sidecar until it ends, and returns the exit code that says how. Call
/// it on the main thread: the application is killed when the thread that started it is gone.
///
/// # Errors
/// When the command can not be run, or the sidecar does not start.
///
/// # Panics
/// When the command is empty.
pub async fn run(mut options: Options) -> Result<u8, RunError> {
    child::check(options.command.first().expect("clap asks for a command"))?;
    let supervisor = options.announce.supervisor.then(getppid).flatten();
    let mut wishes = Wishes::listen(options.announce.supervisor)?;
    let reserved = apps::choose(&mut options.sidecar.apps)?;
    let mut surroundings = surroundings(&options.sidecar);
    surroundings.app_chosen = !reserved.is_empty();
    let ready = options.sidecar.ready.clone();
    // As one with its application, it is ready when that is.
    options.sidecar.application = Some(ready.condition(APPLICATION));
    let sidecar = tokio::select! {
        sidecar = Sidecar::start(options.sidecar) => sidecar?,
        signal = ended(&mut wishes) => return Ok(signal_code(signal)),
    };
    tokio::select! {
        () = ready.wait_for_others(APPLICATION) => {}
        signal = ended(&mut wishes) => {
            sidecar.stop().await;
            return Ok(signal_code(signal));
        }
    }
    complete(&mut surroundings, &sidecar)?;
    let variables =
        environment::variables(options.environment, &surroundings, &bootstrap::variable);
    let guard = env::current_exe()?;
    let supervised = options.announce.supervisor;
    let child = child::start(&options.command, &variables, supervised, Some(&guard))?;
    let running = Running { sidecar, child, wishes, announce: options.announce };
    let status = running.until_end().await?;
    leave_nothing(supervisor);
    Ok(child::exit_code(status))
}

/// The signal of the next wish to end.
async fn ended(wishes: &mut Wishes) -> Signal {
    loop {
        match wishes.next().await {
            Wish::Terminate => return Signal::TERM,
            Wish::Interrupt => return Signal::INT,
            Wish::Reload => {}
        }
    }
}

/// As if it had ended us.
fn signal_code(signal: Signal) -> u8 {
    u8::try_from(128 + signal.as_raw()).unwrap_or(child::EXIT_OWN_FAILURE)
}

/// What is known before the sidecar listens.
fn surroundings(options: &sidecar::Options) -> Surroundings {
    let otlp = options.telemetry.otlp.as_deref().and_then(|url| url.parse::<http::Uri>().ok());
    Surroundings {
        outbound: SocketAddr::from(([127, 0, 0, 1], 0)),
        upstreams: Vec::new(),
        app: options.apps.iter().filter_map(apps::tcp).collect(),
        app_chosen: false,
        otlp_host: otlp.and_then(|url| Some(url.host()?.to_owned())),
    }
}

/// Adds where the sidecar really listens.
fn complete(surroundings: &mut Surroundings, sidecar: &Sidecar) -> io::Result<()> {
    let addresses = sidecar.addresses();
    let outbound = addresses.outbound.as_deref().unwrap_or_default();
    surroundings.outbound = outbound.parse().map_err(io::Error::other)?;
    for (name, address) in &addresses.upstreams {
        let service = name.rsplit_once(':').map_or(name.as_str(), |(service, _)| service);
        surroundings.upstreams.push((service.to_owned(), address.clone()));
    }
    Ok(())
}

/// The application and its sidecar.
struct Running {
    sidecar: Sidecar,
    child: Child,
    wishes: Wishes,
    announce: Announce,
}

impl Running {
    async fn until_end(mut self) -> io::Result<ExitStatus> {
        let mut tasks = Tasks::new();
        announce::start_watchdog(&mut tasks);
        announce::start_status(&mut tasks, self.sidecar.summary());
        child::pass_on(&mut tasks, &self.child)?;
        let status = self.serve().await?;
        announce::notify("STOPPING=1");
        tokio::select! {
            _left = self.sidecar.drain(DRAIN_MAX) => {}
            _signal = ended(&mut self.wishes) => {}
        }
        self.sidecar.stop().await;
        Ok(status)
    }

    /// Until the application ended, by itself or because we were told to end.
    async fn serve(&mut self) -> io::Result<ExitStatus> {
        let mut told = false;
        loop {
            let wish = tokio::select! {
                status = self.child.wait() => return status,
                () = self.sidecar.ready(), if !told => {
                    told = true;
                    self.tell()?;
                    continue;
                }
                wish = self.wishes.next() => wish,
            };
            match wish {
                Wish::Reload => {
                    announce::notify_reloading();
                    child::send(&self.child, Signal::HUP);
                    // What goes wrong is logged there.
                    let _kept = self.sidecar.reload().await;
                    announce::notify("READY=1");
                }
                // The application decides what a Ctrl-C means.
                Wish::Interrupt if child::interrupt_is_shared() => {}
                Wish::Interrupt => return self.end(Signal::INT).await,
                Wish::Terminate => return self.end(Signal::TERM).await,
            }
        }
    }

    fn tell(&self) -> io::Result<()> {
        let mut addresses = self.sidecar.addresses().clone();
        addresses.application = self.child.id();
        self.announce.ready(&addresses.to_json())?;
        let service = self.sidecar.service();
        tracing::info!(%service, workload = self.sidecar.workload(), "ready");
        Ok(())
    }

    /// First out of the mesh, then the signal; a second wish to end skips what it waits for.
    async fn end(&mut self, signal: Signal) -> io::Result<ExitStatus> {
        announce::notify("STOPPING=1");
        tokio::select! {
            status = self.child.wait() => return status,
            left = self.sidecar.withdraw(WITHDRAW_MAX) => {
                if left > 0 {
                    tracing::warn!(left, "callers are still connected");
                }
            }
            _again = ended(&mut self.wishes) => {}
        }
        child::send(&self.child, signal);
        tokio::select! {
            status = self.child.wait() => return status,
            () = time::sleep(APPLICATION_MAX) => tracing::warn!("the application does not end"),
            _again = ended(&mut self.wishes) => {}
        }
        child::send(&self.child, Signal::KILL);
        self.child.wait().await
    }
}

/// When our supervisor is gone, nobody else ends what the application left in our process group; and
/// as nobody waits for our exit code, we may go with it.
fn leave_nothing(supervisor: Option<Pid>) {
    if supervisor.is_some() && supervisor != getppid() && getpgrp() == getpid() {
        let _gone = kill_current_process_group(Signal::KILL);
    }
}
