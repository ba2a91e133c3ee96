//! One supervised child through all its lives: started, ready, ended, started again.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    config::Restart,
    output::Voice,
    process::{Process, ProcessError, Spec},
};
use crate::task::Tasks;

/// From start to the ready line; a slow machine under load needs some of it.
const READY_MAX: Duration = Duration::from_secs(30);
/// A child drains for some seconds and then ends its own child; only then is it killed.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Pauses before a restart double up to the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// After so long a life the next restart is quick again.
const STEADY: Duration = Duration::from_secs(30);

/// How a child is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Started and not yet ready, or about to be started again.
    Starting,
    /// All its listeners serve; the addresses really bound.
    Ready(Arc<Value>),
    /// It stays down until it is started again; why, for people.
    Down(String),
}

#[derive(Debug)]
enum Order {
    Start,
    Stop,
    Kill,
}

/// A child that is looked after. Dropping it kills the child.
#[derive(Debug)]
pub struct Instance {
    name: String,
    service: String,
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<State>,
    /// Ends with this value, and the child with it.
    _task: Tasks,
}

impl Instance {
    /// Starts it.
    pub(super) fn start(spec: Spec, service: String, restart: Restart, voice: Arc<Voice>) -> Self {
        let (orders, taken) = mpsc::channel(4);
        let (says, state) = watch::channel(State::Starting);
        let name = spec.name.clone();
        let mut task = Tasks::new();
        let lives = Lives { spec, restart, voice, orders: taken, state: says };
        task.spawn("instance", lives.look_after());
        Self { name, service, orders, state, _task: task }
    }

    /// `orders-1`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `orders.shop`; empty for the control plane.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// How it is now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Its addresses, while it is ready.
    pub fn addresses(&self) -> Option<Arc<Value>> {
        match &*self.state.borrow() {
            State::Ready(addresses) => Some(Arc::clone(addresses)),
            State::Starting | State::Down(_) => None,
        }
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// Why it is down instead.
    pub async fn ready(&self) -> Result<Arc<Value>, String> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| *state != State::Starting).await;
        match settled.as_deref() {
            Ok(State::Ready(addresses)) => Ok(Arc::clone(addresses)),
            Ok(State::Down(why)) => Err(why.clone()),
            Ok(State::Starting) | Err(_) => Err(format!("{} is not looked after", self.name)),
        }
    }

    /// Waits until it is down and stays so.
    pub async fn down(&self) {
        let mut state = self.state.clone();
        let _gone = state.wait_for(|state| matches!(state, State::Down(_))).await;
    }

    /// Ends it in order; it stays down.
    pub async fn stop(&self) {
        self.order(Order::Stop).await;
        self.down().await;
    }

    /// Kills it and all it started (SIGKILL); it stays down.
    pub async fn kill(&self) {
        self.order(Order::Kill).await;
        self.down().await;
    }

    /// Starts it again and waits until it is ready.
    ///
    /// # Errors
    /// Why it is down instead.
    pub async fn start_again(&self) -> Result<Arc<Value>, String> {
        self.order(Order::Start).await;
        // Down until the order is taken; so wait for what follows.
        let mut state = self.state.clone();
        let _gone =
            time::timeout(READY_MAX, state.wait_for(|state| !matches!(state, State::Down(_))))
                .await;
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
            let end = match self.live().await {
                Ok(end) => end,
                Err(error) => End::Itself(error.to_string(), true),
            };
            let why = match end {
                End::Ordered(why) => why.to_owned(),
                End::Itself(why, failed) => {
                    self.voice.say(format!("outrigger: {why}").as_bytes());
                    let again = match self.restart {
                        Restart::Never => false,
                        Restart::OnFailure => failed,
                        Restart::Always => true,
                    };
                    if born.elapsed() >= STEADY {
                        pause = PAUSE_FIRST;
                    }
                    if again && self.rest(pause).await {
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
            self.state.send_replace(State::Starting);
        }
    }

    /// Waits before a restart; `false` when it is not to be.
    async fn rest(&mut self, pause: Duration) -> bool {
        self.state.send_replace(State::Starting);
        let end = time::Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        loop {
            tokio::select! {
                () = time::sleep_until(end) => return true,
                order = self.orders.recv() => match order {
                    Some(Order::Start) => return true,
                    Some(Order::Stop | Order::Kill) | None => return false,
                },
            }
        }
    }

    /// One life, from start to end.
    async fn live(&mut self) -> Result<End, ProcessError> {
        let mut process = Process::start(&self.spec, &self.voice)?;
        let addresses = tokio::select! {
            ready = process.ready(READY_MAX) => ready,
            order = next_end(&mut self.orders) => return Ok(end(&mut process, order).await),
        };
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(error) => {
                process.kill();
                return Err(error);
            }
        };
        self.state.send_replace(State::Ready(Arc::new(addresses)));
        tokio::select! {
            status = process.ended() => Ok(match status {
                Ok(status) => End::Itself(format!("ended ({status})"), !status.success()),
                Err(error) => End::Itself(format!("lost: {error}"), true),
            }),
            order = next_end(&mut self.orders) => Ok(end(&mut process, order).await),
        }
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

async fn end(process: &mut Process, order: Option<Order>) -> End {
    match order {
        Some(Order::Kill) | None => {
            process.kill();
            let _status = process.ended().await;
            End::Ordered("killed")
        }
        Some(Order::Start | Order::Stop) => {
            let _status = process.stop(STOP_MAX).await;
            End::Ordered("stopped")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Instance, State};
    use crate::app::dev::{config::Restart, output::Output, process::Spec};

    fn instance(script: &str, restart: Restart) -> Instance {
        let spec = Spec {
            name: "a".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            directory: PathBuf::from("/"),
        };
        let output = Output { terminal: None, directory: None, width: 0 };
        Instance::start(spec, String::new(), restart, output.of("a", 0).expect("no file"))
    }

    #[tokio::test]
    async fn it_says_its_addresses_and_can_be_killed_and_started_again() {
        let child = instance("echo '{\"pid\": '$$'}' >&0; exec sleep 600", Restart::Never);
        let first = child.ready().await.expect("ready");
        child.kill().await;
        assert_eq!(child.state(), State::Down("killed".into()));
        let second = child.start_again().await.expect("ready again");
        assert_ne!(first["pid"], second["pid"]);
        child.stop().await;
        assert_eq!(child.state(), State::Down("stopped".into()));
    }

    #[tokio::test]
    async fn the_end_of_the_supervisor_is_seen_on_stdin() {
        let child = instance("echo '{}' >&0; cat; exit 3", Restart::Never);
        child.ready().await.expect("ready");
        drop(child);
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
