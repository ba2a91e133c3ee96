//! One supervised child through all its lives: started, ready, ended, started again.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    config::Restart,
    output::Voice,
    pass::Pass,
    process::{Process, ProcessError, Spec},
};
use crate::{app::announce::Addresses, task::Tasks, units::ServiceName};

/// From start to the ready line; a slow machine under load needs some of it.
const READY_MAX: Duration = Duration::from_secs(30);
/// A child drains for some seconds and then ends its own child; only then is it killed.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Pauses before a restart double up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so long a life the next restart is quick again.
const STEADY: Duration = Duration::from_secs(30);

/// A child that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serving {
    /// Its process id; for `run` that of the sidecar.
    pub process: u32,
    /// The addresses really bound, and the application's process id.
    pub addresses: Addresses,
}

impl Serving {
    /// Where other sidecars come in, and whom a permissive port lets in without one.
    pub fn inbound(&self) -> Option<SocketAddr> {
        parse(self.addresses.inbound.as_ref())
    }

    /// Where its application goes out.
    pub fn outbound(&self) -> Option<SocketAddr> {
        parse(self.addresses.outbound.as_ref())
    }

    /// Its admin listener.
    pub fn admin(&self) -> Option<SocketAddr> {
        parse(self.addresses.admin.as_ref())
    }

    /// Its metrics.
    pub fn metrics(&self) -> Option<SocketAddr> {
        parse(self.addresses.metrics.as_ref())
    }
}

fn parse(address: Option<&String>) -> Option<SocketAddr> {
    address?.parse().ok()
}

/// How a child is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Started and not yet ready, or about to be started again; why its last life ended, if it had
    /// one.
    Starting(Option<String>),
    /// All its listeners serve.
    Ready(Arc<Serving>),
    /// It stays down until it is started again; why, for people.
    Down(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Start,
    Stop,
    Kill,
}

/// What an instance is, beside how to start it.
#[derive(Debug, Clone)]
pub(super) struct About {
    /// `None` for the control plane.
    pub(super) service: Option<ServiceName>,
    /// What it keeps between its lives.
    pub(super) data: PathBuf,
    /// What it and its application said.
    pub(super) log: Option<PathBuf>,
}

/// A child that is looked after: a sidecar with its application, or the control plane. Dropping it
/// kills all of the child's processes.
#[derive(Debug)]
pub struct Instance {
    name: String,
    about: About,
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<State>,
    /// Ends with this value, and the child with it.
    _task: Tasks,
}

impl Instance {
    /// Starts it. `pass` is asked for before each life.
    pub(super) fn start(
        spec: Spec,
        about: About,
        restart: Restart,
        pass: Option<Pass>,
        voice: Arc<Voice>,
    ) -> Self {
        let (orders, taken) = mpsc::channel(4);
        let (says, state) = watch::channel(State::Starting(None));
        let name = spec.name.clone();
        let mut task = Tasks::new();
        let lives = Lives { spec, restart, pass, voice, orders: taken, state: says };
        task.spawn("instance", lives.look_after());
        Self { name, about, orders, state, _task: task }
    }

    /// `orders-1`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `orders.shop`; `None` for the control plane.
    pub fn service(&self) -> Option<&ServiceName> {
        self.about.service.as_ref()
    }

    /// The directory that holds its certificate and its last good configuration, or the store.
    pub fn data(&self) -> &Path {
        &self.about.data
    }

    /// The file with what it and its application said, if there is one.
    pub fn log(&self) -> Option<&Path> {
        self.about.log.as_deref()
    }

    /// How it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Its processes and addresses, while it is ready.
    pub fn serving(&self) -> Option<Arc<Serving>> {
        match &*self.state.borrow() {
            State::Ready(serving) => Some(Arc::clone(serving)),
            State::Starting(_) | State::Down(_) => None,
        }
    }

    /// Waits until it is ready. One that fails and is started again each time never is; give it a
    /// bound.
    ///
    /// # Errors
    /// Why it is down instead.
    pub async fn ready(&self) -> Result<Arc<Serving>, String> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Starting(_))).await;
        match settled.as_deref() {
            Ok(State::Ready(serving)) => Ok(Arc::clone(serving)),
            Ok(State::Down(why)) => Err(why.clone()),
            Ok(State::Starting(_)) | Err(_) => Err("nobody looks after it".to_owned()),
        }
    }

    /// Waits until it is down and stays so.
    pub async fn down(&self) {
        let mut state = self.state.clone();
        let _gone = state.wait_for(|state| matches!(state, State::Down(_))).await;
    }

    /// Ends it in order (SIGTERM: it drains, then its application ends); it stays down. Cancelling
    /// this leaves it ending.
    pub async fn stop(&self) {
        self.order(Order::Stop).await;
        self.down().await;
    }

    /// Kills it and all it started (SIGKILL); it stays down, whatever its restart policy.
    pub async fn kill(&self) {
        self.order(Order::Kill).await;
        self.down().await;
    }

    /// Starts it again, with the data it had, and waits until it is ready.
    ///
    /// # Errors
    /// Why it is down instead.
    pub async fn start_again(&self) -> Result<Arc<Serving>, String> {
        self.order(Order::Start).await;
        // Down until the order is taken; so wait for what follows. What the wait returns is a lock,
        // which must not be held on.
        let mut state = self.state.clone();
        let taken = state.wait_for(|state| !matches!(state, State::Down(_)));
        drop(time::timeout(READY_MAX, taken).await);
        self.ready().await
    }

    async fn order(&self, order: Order) {
        let _gone = self.orders.send(order).await;
    }
}

/// The state of [`Instance`]'s task.
struct Lives {
    spec: Spec,
    restart: Restart,
    pass: Option<Pass>,
    voice: Arc<Voice>,
    orders: mpsc::Receiver<Order>,
    state: watch::Sender<State>,
}

/// How one life ended.
enum End {
    /// By itself: what there is to say, and whether it was a failure.
    Itself(String, bool),
    /// On order.
    Ordered(&'static str),
}

impl Lives {
    async fn look_after(mut self) {
        let mut pause = PAUSE_FIRST;
        loop {
            let born = time::Instant::now();
            let why = match self.live().await {
                End::Ordered(why) => why.to_owned(),
                End::Itself(why, failed) => {
                    let again = match self.restart {
                        Restart::Never => false,
                        Restart::OnFailure => failed,
                        Restart::Always => true,
                    };
                    if born.elapsed() >= STEADY {
                        pause = PAUSE_FIRST;
                    }
                    let then = if again { "; starting it again" } else { "" };
                    self.voice.say(format!("outrigger: {why}{then}").as_bytes());
                    if again && self.rest(pause, &why).await {
                        pause = (pause * 2).min(PAUSE_MAX);
                        continue;
                    }
                    why
                }
            };
            self.state.send_replace(State::Down(why));
            loop {
                match self.orders.recv().await {
                    Some(Order::Start) => break,
                    Some(Order::Stop | Order::Kill) => {}
                    None => return,
                }
            }
            pause = PAUSE_FIRST;
            self.state.send_replace(State::Starting(None));
        }
    }

    /// Waits before a restart; `false` when it is not to be.
    async fn rest(&mut self, pause: Duration, why: &str) -> bool {
        self.state.send_replace(State::Starting(Some(why.to_owned())));
        let end = time::Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        tokio::select! {
            () = time::sleep_until(end) => true,
            order = self.orders.recv() => order == Some(Order::Start),
        }
    }

    /// One life, from start to end.
    async fn live(&mut self) -> End {
        if let Some(pass) = &self.pass
            && let Err(error) = pass.make().await
        {
            // One that has a certificate from an earlier life needs none.
            self.voice.say(format!("outrigger: no join token: {error}").as_bytes());
        }
        let failed = |error: ProcessError| End::Itself(error.to_string(), true);
        let mut process = match Process::start(&self.spec, &self.voice) {
            Ok(process) => process,
            Err(error) => return failed(error),
        };
        let id = process.id();
        let addresses = tokio::select! {
            ready = process.ready(READY_MAX) => ready,
            order = next_end(&mut self.orders) => return self.end(process, order).await,
        };
        match (addresses, id) {
            (Ok(addresses), Some(process)) => {
                let serving = Arc::new(Serving { process, addresses });
                self.state.send_replace(State::Ready(serving));
            }
            (Err(error), _) => return failed(error),
            (Ok(_), None) => return End::Itself("ended at once".to_owned(), true),
        }
        tokio::select! {
            status = process.ended() => match status {
                Ok(status) => End::Itself(format!("ended ({status})"), !status.success()),
                Err(error) => End::Itself(format!("lost: {error}"), true),
            },
            order = next_end(&mut self.orders) => self.end(process, order).await,
        }
    }

    /// Carries out an order to end; while it ends in order it can still be killed.
    async fn end(&mut self, mut process: Process, order: Option<Order>) -> End {
        if order == Some(Order::Stop) {
            let harder = async {
                while let Some(order) = next_end(&mut self.orders).await {
                    if order == Order::Kill {
                        break;
                    }
                }
            };
            tokio::select! {
                _status = process.stop(STOP_MAX) => return End::Ordered("stopped"),
                () = harder => {}
            }
        }
        process.kill();
        let _status = process.ended().await;
        End::Ordered("killed")
    }
}

/// The next order that ends a life; one to start changes nothing for who lives. `None`: the owner
/// is gone.
async fn next_end(orders: &mut mpsc::Receiver<Order>) -> Option<Order> {
    loop {
        match orders.recv().await {
            Some(Order::Start) => {}
            order => return order,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, time::Duration};

    use rustix::process::{Pid, test_kill_process};

    use super::{About, Instance, State};
    use crate::app::dev::{config::Restart, output::Output, process::Spec};

    fn instance(script: &str, restart: Restart) -> Instance {
        let spec = Spec {
            name: "a".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            directory: PathBuf::from("/"),
            shows_stdout: true,
            _reserved: None,
        };
        let output = Output { terminal: None, directory: None };
        let about = About { service: None, data: PathBuf::from("/"), log: None };
        Instance::start(spec, about, restart, None, output.of("a", 0, 0).expect("no file"))
    }

    #[tokio::test]
    async fn it_says_its_addresses_and_can_be_killed_and_started_again() {
        let child = instance("echo '{}' >&0; exec sleep 600", Restart::Never);
        let first = child.ready().await.expect("ready");
        child.kill().await;
        assert_eq!(child.state(), State::Down("killed".into()));
        let second = child.start_again().await.expect("ready again");
        assert_ne!(first.process, second.process);
        child.stop().await;
        assert_eq!(child.state(), State::Down("stopped".into()));
    }

    #[tokio::test]
    async fn one_that_is_dropped_ends_and_is_not_started_again() {
        let child = instance("echo '{}' >&0; exec sleep 600", Restart::Always);
        let process = child.ready().await.expect("ready").process;
        let process = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process");
        assert!(test_kill_process(process).is_ok());
        drop(child);
        let gone = async {
            while test_kill_process(process).is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it ends");
    }

    #[tokio::test]
    async fn one_that_fails_is_started_again_only_if_asked() {
        let child = instance("exit 3", Restart::Never);
        let why = child.ready().await.expect_err("it ends");
        assert!(why.contains("exit status: 3"), "{why}");

        let root = tempfile::tempdir().expect("a temporary directory");
        let mark = root.path().join("mark");
        let script = format!(
            "if test -e {0}; then echo '{{}}' >&0; exec sleep 600; fi; touch {0}; exit 1",
            mark.display()
        );
        let child = instance(&script, Restart::OnFailure);
        child.ready().await.expect("the second life is ready");
    }
}
