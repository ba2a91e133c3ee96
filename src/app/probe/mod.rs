//! The sidecar's own checks of its application: does it take connections, and does it say that it is
//! well? The workload is an endpoint of the mesh while it does, so that callers go elsewhere when an
//! application stops, hangs or asks for no more work, and come back by themselves.
//!
//! One task looks, beside the data plane and never in it. Its pauses are random by a tenth, so that a
//! thousand sidecars do not look at the same moment. A verdict changes only after several looks that
//! say the same, and only a changed verdict is told to the mesh.

mod ask;
mod flag;

use std::{fmt, future::Future, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

pub use flag::{CheckFlag, CheckFlagError, How};

use self::ask::{Asked, ask};
use crate::{proxy::Address, units};

/// Between two looks at an application that is well: callers of one that dies in between are told so
/// by its sidecar before it has seen a byte of theirs, and go elsewhere.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// How long one look may take; an application that needs longer to say that it is well is not.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Looks in a row that fail before the workload is not ready.
pub const FAILURES: u32 = 3;
/// Looks in a row that succeed before it is ready again.
const SUCCESSES: u32 = 2;
/// While a verdict is in doubt, looks are so many times as frequent.
const IN_DOUBT: u32 = 4;
/// The first pauses after the start, doubled up to those of doubt: an application just started is
/// there any moment.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_START_MAX: Duration = Duration::from_millis(250);
/// Pauses are up to this part shorter or longer.
const JITTER: f64 = 0.1;

/// How an application is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// What is asked, by port or for all of them; the last one that fits a port holds for it.
    pub how: Vec<CheckFlag>,
    /// Between two looks.
    pub interval: Duration,
    /// How long one look may take.
    pub timeout: Duration,
    /// Looks in a row that fail before the workload is not ready; at least 1.
    pub failures: u32,
}

impl Default for Checks {
    fn default() -> Self {
        Self { how: Vec::new(), interval: INTERVAL, timeout: TIMEOUT, failures: FAILURES }
    }
}

/// What is known of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It was not looked at yet.
    #[default]
    Unknown,
    /// It has not been well since the sidecar started, and why.
    Starting(String),
    /// It is well, or nobody looks.
    Well,
    /// It was well before, and why it is not now.
    Failing(String),
}

impl Verdict {
    /// Whether it takes requests.
    pub fn is_well(&self) -> bool {
        *self == Self::Well
    }

    /// Why it is not well; `None` when it is, or nothing is known.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Starting(why) | Self::Failing(why) => Some(why),
            Self::Unknown | Self::Well => None,
        }
    }
}

/// One port of the application.
pub struct Port {
    /// Where it listens.
    address: Address,
    how: How,
    /// Whether it is known to speak gRPC, so that [`How::Auto`] asks for its health; told again
    /// before each look.
    grpc: Box<dyn Fn() -> bool + Send + Sync>,
    /// It does not serve gRPC's health service; forgotten when it fails.
    unserved: bool,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Port {
    /// The port that callers know as `name`. `grpc` tells whether it is known to speak gRPC.
    pub fn new(
        name: &str,
        address: &Address,
        checks: &Checks,
        grpc: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let fits = |flag: &&CheckFlag| flag.port.as_deref().is_none_or(|port| port == name);
        let how = checks.how.iter().rev().find(fits).map_or(How::Auto, |flag| flag.how.clone());
        let address = ask::reached(address);
        Self { address, how, grpc: Box::new(grpc), unserved: false }
    }

    /// Looks once. The error says what is wrong with it.
    async fn look(&mut self, bound: Duration) -> Result<(), String> {
        let how = match &self.how {
            How::Auto if !self.unserved && (self.grpc)() => How::Grpc(String::new()),
            How::Auto => How::Tcp,
            how => how.clone(),
        };
        let asked = timeout(bound, ask(&self.address, &how)).await;
        match asked.unwrap_or_else(|_| {
            Err(Asked::Wrong(format!("no answer within {}", units::duration::format(bound))))
        }) {
            Ok(()) => Ok(()),
            // Nobody asked for more than that it answers.
            Err(Asked::Unserved(_)) if self.how == How::Auto => {
                self.unserved = true;
                Ok(())
            }
            Err(Asked::Unserved(why) | Asked::Wrong(why)) => {
                self.unserved = false;
                Err(format!("{}: {why}", self.address))
            }
        }
    }
}

/// What is looked at.
trait Target {
    /// Looks once; the error says what is wrong.
    fn look(&mut self) -> impl Future<Output = Result<(), String>> + Send;
}

struct Ports {
    ports: Vec<Port>,
    timeout: Duration,
}

impl Target for Ports {
    /// All at once; the first that fails says why.
    async fn look(&mut self) -> Result<(), String> {
        let looks = self.ports.iter_mut().map(|port| port.look(self.timeout));
        join_all(looks).await.into_iter().collect()
    }
}

/// Looks at an application's ports and tells `verdict` what it finds, until the future is dropped.
/// Returns at once when there is nothing to look at: then it is well.
pub async fn watch(ports: Vec<Port>, checks: &Checks, verdict: &watch::Sender<Verdict>) {
    let ports: Vec<_> = ports.into_iter().filter(|port| port.how != How::Never).collect();
    if ports.is_empty() {
        verdict.send_replace(Verdict::Well);
        return;
    }
    let target = Ports { ports, timeout: checks.timeout };
    follow(target, checks, verdict, fastrand::f64).await;
}

/// `random` is from 0.0 up to 1.0.
async fn follow(
    mut target: impl Target,
    checks: &Checks,
    verdict: &watch::Sender<Verdict>,
    random: impl Fn() -> f64,
) {
    let mut count = Count::default();
    loop {
        let found = target.look().await;
        let next = count.take(found, checks.failures);
        verdict.send_if_modified(|now| {
            // A cause that is told in other words is no change for the mesh, but for who asks.
            let changes = *now != next;
            if changes {
                tell(now, &next);
                *now = next;
            }
            changes
        });
        let pause = count.pause(checks.interval);
        sleep(pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * random())).await;
    }
}

/// In the log: that it is well again, or not any more.
fn tell(before: &Verdict, now: &Verdict) {
    match (before, now) {
        (Verdict::Well, Verdict::Failing(why)) => {
            tracing::warn!(why, "the application fails its checks; callers go elsewhere");
        }
        (Verdict::Failing(_), Verdict::Well) => {
            tracing::info!("the application is well again");
        }
        (Verdict::Unknown, Verdict::Starting(why)) => {
            tracing::info!(why, "waiting for the application");
        }
        _ => {}
    }
}

/// Looks in a row, and what follows from them.
#[derive(Debug, Default)]
struct Count {
    verdict: Verdict,
    /// Looks in a row that contradict the verdict.
    against: u32,
    /// Looks since the start, while it has never been well.
    tries: u32,
}

impl Count {
    fn take(&mut self, found: Result<(), String>, failures_max: u32) -> Verdict {
        let next = match (&self.verdict, found) {
            (Verdict::Unknown | Verdict::Starting(_), Ok(())) => Verdict::Well,
            (Verdict::Unknown | Verdict::Starting(_), Err(why)) => {
                self.tries = self.tries.saturating_add(1);
                Verdict::Starting(why)
            }
            (Verdict::Well, Ok(())) => {
                self.against = 0;
                Verdict::Well
            }
            (Verdict::Well, Err(why)) => {
                self.against += 1;
                if self.against < failures_max { Verdict::Well } else { Verdict::Failing(why) }
            }
            (Verdict::Failing(why), Ok(())) => {
                self.against += 1;
                if self.against < SUCCESSES { Verdict::Failing(why.clone()) } else { Verdict::Well }
            }
            (Verdict::Failing(_), Err(why)) => {
                self.against = 0;
                Verdict::Failing(why)
            }
        };
        if next.is_well() != self.verdict.is_well() {
            self.against = 0;
        }
        self.verdict = next.clone();
        next
    }

    /// Until the next look, without jitter.
    fn pause(&self, interval: Duration) -> Duration {
        let in_doubt = interval / IN_DOUBT;
        match &self.verdict {
            Verdict::Well if self.against == 0 => interval,
            Verdict::Unknown | Verdict::Starting(_) => {
                let grown = PAUSE_FIRST.saturating_mul(1 << self.tries.min(10));
                grown.min(PAUSE_START_MAX).min(in_doubt)
            }
            Verdict::Well | Verdict::Failing(_) => in_doubt,
        }
    }
}

#[cfg(test)]
mod tests;
