//! Nothing that happens to a mesh in a day may cost a call: routes change, a sidecar drains, an
//! endpoint is killed, certificates are renewed, the control plane is killed and comes back, all
//! under a steady load that does not wait for anybody.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{self, Instant, MissedTickBehavior},
};

use crate::{
    calls::{text, with},
    harness::{App, Mesh, Program, SOON, echo_client, eventually, heavy, metrics},
};

/// Between two calls: 500 a second.
const TICK: Duration = Duration::from_millis(2);
/// Calls under way at once. At a few milliseconds each there are a handful; a machine that is too
/// busy for the load makes it wait here, and the test says at what rate it really went.
const IN_FLIGHT_MAX: usize = 64;
/// A call that takes longer counts as failed.
const CALL_MAX: Duration = Duration::from_secs(20);
/// Connections from the application to its sidecar.
const CONNECTIONS: usize = 4;

/// How long certificates last; they are renewed from half of it.
const LEAF_TTL: Duration = Duration::from_secs(30);

/// A call that failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    id: u64,
    began: Instant,
    ended: Instant,
    what: String,
}

impl Failure {
    /// For people: when, since the load began, and what.
    pub(crate) fn tell(&self, start: Instant) -> String {
        let (began, ended) = (self.began - start, self.ended - start);
        format!("call {} from {began:.3?} to {ended:.3?}: {}", self.id, self.what)
    }
}

/// What the load has come to.
#[derive(Default)]
struct Tally {
    ended: AtomicU64,
    failures: Mutex<Vec<Failure>>,
    stop: AtomicBool,
}

/// An open loop of calls; a slow answer does not slow down the next call.
pub(crate) struct Load {
    tally: Arc<Tally>,
    calling: JoinHandle<u64>,
}

impl Load {
    pub(crate) fn start(outbound: SocketAddr) -> Self {
        let tally = Arc::new(Tally::default());
        let calling = tokio::spawn(call_on(outbound, Arc::clone(&tally)));
        Self { tally, calling }
    }

    /// Waits until `more` further calls have ended, or as many as a busy machine makes in three times
    /// as long.
    pub(crate) async fn go_on(&self, more: u32) {
        let begun = self.tally.ended.load(Ordering::Relaxed);
        let goal = begun + u64::from(more);
        let end = Instant::now() + 3 * more * TICK;
        eventually(Duration::from_secs(60), async || {
            let ended = self.tally.ended.load(Ordering::Relaxed);
            let enough = ended >= goal || Instant::now() >= end && ended > begun;
            if enough { Ok(()) } else { Err(format!("{ended} of {goal} calls ended")) }
        })
        .await;
    }

    /// Ends it, and returns how many calls were made and which failed.
    pub(crate) async fn stop(self) -> (u64, Vec<Failure>) {
        self.tally.stop.store(true, Ordering::Relaxed);
        let made = self.calling.await.expect("the load does not panic");
        let failures = self.tally.failures.lock().unwrap().clone();
        (made, failures)
    }
}

async fn call_on(outbound: SocketAddr, tally: Arc<Tally>) -> u64 {
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| echo_client(outbound, "echo:9090")).collect();
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut made = 0;
    for client in clients.iter().cycle() {
        ticks.tick().await;
        if tally.stop.load(Ordering::Relaxed) {
            break;
        }
        let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
        let (id, tally, mut client) = (made, Arc::clone(&tally), client.clone());
        made += 1;
        tokio::spawn(async move {
            let began = Instant::now();
            let request = with("hello".to_owned(), &[("echo-id", &id.to_string())]);
            let what = match time::timeout(CALL_MAX, client.unary(request)).await {
                Ok(Ok(_)) => None,
                Ok(Err(status)) => Some(format!(
                    "{:?} {} {}",
                    status.code(),
                    text(status.metadata(), "outrigger-reason"),
                    status.message()
                )),
                Err(_) => Some(format!("no answer within {CALL_MAX:?}")),
            };
            if let Some(what) = what {
                let failure = Failure { id, began, ended: Instant::now(), what };
                tally.failures.lock().unwrap().push(failure);
            }
            tally.ended.fetch_add(1, Ordering::Relaxed);
            drop(permit);
        });
    }
    // Every permit back: every call has ended.
    let all = u32::try_from(IN_FLIGHT_MAX).expect("small");
    let _all = room.acquire_many(all).await.expect("never closed");
    made
}

/// The weights of the `number`th version of the route.
fn route(number: u32) -> String {
    let (echo, canary) = [(100, 0), (90, 10), (50, 50), (10, 90)][number as usize % 4];
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: echo}}\nspec:\n  \
         parentRefs: [{{kind: Service, group: outrigger.dev, name: echo}}]\n  rules:\n  \
         - backendRefs: [{{name: echo, port: 9090, weight: {echo}}}, \
         {{name: canary, port: 9090, weight: {canary}}}]\n"
    )
}

async fn renewals(sidecar: &Program) -> f64 {
    let page = metrics(sidecar.address("metrics")).await;
    page.sum("outrigger_certificate_renewals_total", &[("result", "success")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_costs_a_call() {
    let _turn = heavy().await;
    // Everyone renews several times while this goes on, and connections end with their certificates.
    let mut mesh = Mesh::start_with(&["--leaf-ttl", &format!("{}s", LEAF_TTL.as_secs())]).await;
    let mut apps = Vec::new();
    let mut servers = Vec::new();
    for (name, service) in
        [("echo-1", "echo"), ("echo-2", "echo"), ("echo-3", "echo"), ("canary", "canary")]
    {
        let app = App::start(name).await;
        servers.push(mesh.server(name, service, app.address).await);
        apps.push(app);
    }
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let start = Instant::now();
    let load = Load::start(client.address("outbound"));
    load.go_on(500).await;

    let mut killed = None;
    for number in 1..=20 {
        mesh.apply(&route(number)).await;
        load.go_on(200).await;
        match number {
            5 => {
                let code = servers[1].stop(SOON).await.code();
                assert_eq!(code, Some(0), "a drained sidecar ends in order");
                load.go_on(500).await;
                servers[1] = mesh.server("echo-2-again", "echo", apps[1].address).await;
            }
            10 => {
                let before = Instant::now();
                servers[2].kill();
                killed = Some((before, Instant::now()));
                load.go_on(1000).await;
            }
            15 => {
                mesh.control.kill();
                // Shorter than the half of a certificate's life that is left, on any machine.
                load.go_on(400).await;
                mesh.restart_control().await;
                load.go_on(1500).await;
            }
            _ => {}
        }
    }
    eventually(3 * LEAF_TTL, async || {
        let renewed = renewals(&client).await;
        if renewed >= 2.0 { Ok(()) } else { Err(format!("{renewed} renewals")) }
    })
    .await;
    load.go_on(500).await;
    let renewed = renewals(&client).await;
    let took = start.elapsed();
    let (made, failures) = load.stop().await;

    let rate = f64::from(u32::try_from(made).expect("few")) / took.as_secs_f64();
    let (before, after) = killed.expect("one was killed");
    let (inside, outside): (Vec<_>, Vec<_>) =
        failures.into_iter().partition(|call| call.began <= after && call.ended >= before);
    let reached = apps[2].calls();
    println!(
        "{made} calls in {took:.1?} ({rate:.0}/s), 20 route changes, {renewed} renewals by the caller: {} failed \
         inside the killed process ({} had reached its application), {} elsewhere",
        inside.len(),
        inside.iter().filter(|call| reached.contains_key(&call.id.to_string())).count(),
        outside.len()
    );
    let told: Vec<_> = outside.iter().map(|call| call.tell(start)).collect();
    let some = told.iter().take(30).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(told.is_empty(), "{} of {made} calls failed:\n{some}", told.len());
    for (app, name) in apps.iter().zip(["echo-1", "echo-2", "echo-3", "canary"]) {
        assert!(app.calls().len() > 20, "{name} took part");
    }
}
