//! Saying that all serve, and how it goes, to whoever started this process: a line on stdout, a file
//! descriptor, systemd's socket, or the supervisor that holds the other end of stdin.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bootstrap::variable;
use crate::task::Tasks;

/// How long a message may wait for a supervisor that does not read.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Between two looks at whether there is something new to say.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// The variables of systemd's protocol; they are for this process and not for its child.
pub const NOTIFY_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The addresses really bound, as the ready line has them. What a role does not have is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    /// A control plane's gRPC API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Where other sidecars come in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<String>,
    /// Where the application goes out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<String>,
    /// For operators on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// For Prometheus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// For orchestrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Local addresses that lead to one service each, by `SERVICE.NAMESPACE:PORT`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub upstreams: BTreeMap<String, String>,
    /// Where the application listens, by the service's port.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub app: BTreeMap<String, String>,
    /// The application's process id, for `run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<u32>,
}

impl Addresses {
    /// For [`Announce::ready`].
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("texts and numbers under texts are JSON")
    }
}

/// Where to say that all serve.
#[derive(Debug, Clone, Default)]
pub struct Announce {
    /// `ready {…}` on stdout.
    pub stdout: bool,
    /// The JSON line to this file descriptor of ours.
    pub fd: Option<u32>,
    /// The JSON line to the supervisor, whose socket is our stdin.
    pub supervisor: bool,
}

impl Announce {
    /// Tells everyone that all serve, with the addresses really bound.
    ///
    /// # Errors
    /// When the file descriptor or the supervisor can not be written to. A closed stdout is none:
    /// nobody waits there.
    pub fn ready(&self, addresses: &Value) -> io::Result<()> {
        let line = format!("{addresses}\n");
        if let Some(fd) = self.fd {
            // The system's own name for it; a number can not be turned into a file without unsafe.
            let path = format!("/proc/self/fd/{fd}");
            let named = |error| io::Error::other(format!("--ready-fd {fd}: {error}"));
            let mut file = OpenOptions::new().append(true).open(path).map_err(named)?;
            file.write_all(line.as_bytes()).map_err(named)?;
        }
        if self.supervisor {
            let socket = io::stdin().as_fd().try_clone_to_owned()?;
            std::os::unix::net::UnixStream::from(socket).write_all(line.as_bytes())?;
        }
        if self.stdout {
            let mut stdout = io::stdout().lock();
            let _unheard = stdout.write_all(format!("ready {line}").as_bytes());
            let _unheard = stdout.flush();
        }
        notify("READY=1");
        Ok(())
    }
}

/// Tells systemd, if it started us: `RELOADING=1`, `STOPPING=1`, `STATUS=…`. A lost message is not
/// worth a failure.
pub fn notify(message: &str) {
    let Some(name) = variable("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&name, message) {
        tracing::debug!(%error, message, "systemd was not told");
    }
}

/// Tells systemd, if it started us, that the configuration is read again; `READY=1` follows. It asks
/// for the time of this message, to tell several reloads apart.
pub fn notify_reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// Signs of life come again soon, so that one is not waited for that finds the queue full; anything
/// else waits a moment. Never longer: a supervisor that hangs must not stop who runs under it.
fn send(name: &str, message: &str) -> io::Result<()> {
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    match message.starts_with("WATCHDOG=") || message.starts_with("STATUS=") {
        true => socket.set_nonblocking(true)?,
        false => socket.set_write_timeout(Some(WAIT_MAX))?,
    }
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// Tells systemd how it goes, if it started us, whenever `say` says something else: what `systemctl
/// status` shows.
pub fn start_status(tasks: &mut Tasks, say: impl Fn() -> String + Send + 'static) {
    if variable("NOTIFY_SOCKET").is_none() {
        return;
    }
    tasks.spawn("status", async move {
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = String::new();
        loop {
            ticks.tick().await;
            let now = say();
            if now != said {
                // One line: another would be another variable of the protocol.
                notify(&format!("STATUS={}", now.replace(['\n', '\r'], " ")));
                said = now;
            }
        }
    });
}

/// Sends systemd a sign of life twice in the time after which it would end us, if it asks for one.
pub fn start_watchdog(tasks: &mut Tasks) {
    let Some(microseconds) = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok()) else {
        return;
    };
    let own = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    if !own {
        return;
    }
    let every = (Duration::from_micros(microseconds) / 2).max(Duration::from_millis(10));
    tasks.spawn("watchdog", async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            notify("WATCHDOG=1");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::send;

    #[test]
    fn systemd_is_told_by_path_and_by_abstract_name() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let path = root.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        send(path.to_str().expect("text"), "READY=1").expect("sent");
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..length], b"READY=1");
        // One that does not read holds nobody up.
        let sent =
            (0..100_000).take_while(|_| send(path.to_str().expect("text"), "WATCHDOG=1").is_ok());
        assert!(sent.count() < 100_000, "its queue has an end");
        assert!(send("@outrigger-nobody-listens-here", "READY=1").is_err());
    }
}
