//! What hostile peers do to the program over the wire, while honest callers beside them notice
//! nothing: their calls all succeed, no connection that they share is lost, and what the program
//! takes of memory and CPU stays bounded.

mod ambiguous;
mod attacks;
mod backends;
mod responses;
mod streams;
mod wire;

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::timeout};

use crate::harness::{Program, SOON, StaticPair, echo_client, eventually, metrics};

/// How long one call of a bystander may take on a busy machine before it counts as failed.
const CALL_MAX: Duration = SOON;
/// What a sidecar may hold at its peak under attack; a debug build at rest holds some of it. KiB.
const PEAK_KIB_MAX: u64 = 256 * 1024;

/// Honest callers, each on a connection of its own, that call as long as this lives.
pub(super) struct Bystanders {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    calling: Vec<JoinHandle<()>>,
}

impl Bystanders {
    pub(super) fn start(through: SocketAddr, authority: &str, count: usize) -> Self {
        let (stop, calls, failed) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<Mutex<_>>)>::default();
        let calling = (0..count).map(|_| {
            let mut client = echo_client(through, authority);
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            let failed: Arc<Mutex<Vec<String>>> = Arc::clone(&failed);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let said = timeout(CALL_MAX, client.unary("hello".to_owned())).await;
                    let wrong = match said {
                        Ok(Ok(answer)) if answer.get_ref() == "hello" => None,
                        Ok(Ok(answer)) => Some(format!("{answer:?}")),
                        Ok(Err(status)) => Some(format!("{status:?}")),
                        Err(_) => Some("took too long".to_owned()),
                    };
                    failed.lock().unwrap().extend(wrong);
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let calling = calling.collect();
        Self { stop, calls, failed, calling }
    }

    /// Waits until each has called some more, as it would not if it were kept waiting.
    pub(super) async fn go_on(&self, during: &str) {
        let before = self.calls.load(Ordering::Relaxed);
        let enough = before + 5 * u64::try_from(self.calling.len()).expect("a few");
        eventually(SOON, || {
            let now = self.calls.load(Ordering::Relaxed);
            std::future::ready(if now >= enough { Ok(()) } else { Err(format!("{now} calls")) })
        })
        .await;
        self.check(during);
    }

    #[track_caller]
    fn check(&self, during: &str) {
        let failed = self.failed.lock().unwrap();
        let calls = self.calls.load(Ordering::Relaxed);
        let first = failed.first();
        assert!(first.is_none(), "{during}: {} of {calls} calls failed: {first:?}", failed.len());
    }

    /// Ends them; all that they called has to have succeeded.
    pub(super) async fn end(self) {
        self.go_on("at the end").await;
        self.stop.store(true, Ordering::Relaxed);
        for calling in &self.calling {
            eventually(SOON, || {
                let done = calling.is_finished();
                std::future::ready(if done { Ok(()) } else { Err("a bystander still calls") })
            })
            .await;
        }
        self.check("at the end");
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        self.calling.iter().for_each(JoinHandle::abort);
    }
}

/// Whether a pair of sidecars is as it was: little memory, no spinning, and no connection between the
/// two has been lost.
pub(super) async fn check_unharmed(pair: &StaticPair) {
    check_unharmed_by(pair, 0).await;
}

/// The same after so many attackers that came in as sidecars, and have gone.
pub(super) async fn check_unharmed_by(pair: &StaticPair, attackers: usize) {
    for program in [&pair.client, &pair.server] {
        let peak = status(program, "VmHWM:");
        assert!(peak <= PEAK_KIB_MAX, "{peak} KiB at the peak");
        rests(program).await;
    }
    let attackers = u32::try_from(attackers).map_or(0.0, f64::from);
    eventually(SOON, || async {
        let seen = metrics(pair.server.address("metrics")).await;
        let inbound = [("direction", "inbound")];
        let opened = seen.sum("outrigger_connections_opened_total", &inbound) - attackers;
        let open = seen.sum("outrigger_connections_open", &inbound);
        let kept = opened > 0.0 && (opened - open).abs() < 0.5;
        if kept { Ok(()) } else { Err(format!("of {opened} shared connections {open} are left")) }
    })
    .await;
}

/// A number of KiB that Linux tells of a process.
fn status(program: &Program, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", program.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// CPU time of a process so far, in hundredths of a second.
fn ticks(program: &Program) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", program.pid())).expect("it runs");
    let rest = stat.rsplit_once(") ").expect("a name").1;
    rest.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// Waits for a moment in which it does next to nothing: one that spins has none.
async fn rests(program: &Program) {
    eventually(SOON, || async {
        let before = ticks(program);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let spent = ticks(program) - before;
        if spent <= 6 { Ok(()) } else { Err(format!("{spent} of 30 ticks are spent on nothing")) }
    })
    .await;
}
