//! What a control plane needs for a thousand sidecars: `cargo bench --bench fleet`, or with another
//! number of them `cargo bench --bench fleet -- 500`. Starts the built program, joins light sidecars
//! to it over real TLS, and prints what writes, changes of endpoints, a restart and an idle mesh
//! cost. The sidecars run on the same machine and take their share of it, so that the times are
//! worse than a control plane's of its own machine.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a measurement for people: it prints, and ends where something is not as it should"
)]

mod sim;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::Ordering,
    time::Duration,
};

use sim::{Fleet, HUB, policy};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Sidecars, if the command line does not say.
const SIDECARS: usize = 1000;
/// Writes that concern all, one after the other.
const WRITES: usize = 30;
/// Of the kernel, in a second: the unit of a process's times (USER_HZ).
const TICKS: u64 = 100;
/// Longer than anything here should take.
const LONG: Duration = Duration::from_secs(120);

/// The built control plane.
struct Control {
    child: Child,
    listen: String,
    metrics: String,
    directory: PathBuf,
}

/// What a process has used.
#[derive(Clone, Copy)]
struct Used {
    cpu: Duration,
    resident_kib: u64,
}

impl Control {
    async fn start(directory: &Path, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(["control-plane", "--listen", listen, "--metrics", "127.0.0.1:0", "--data"])
            .arg(directory.join("data"))
            .env("OUTRIGGER_CONTEXTS", directory.join("contexts.yaml"))
            .env("HOME", directory)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(directory.join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let ready = loop {
            let line = lines.next_line().await.expect("readable").expect("a ready line");
            if let Some(json) = line.strip_prefix("ready ") {
                break serde_json::from_str::<serde_json::Value>(json).expect("JSON");
            }
        };
        let address = |name: &str| ready[name].as_str().expect("an address").to_owned();
        Self {
            child,
            listen: address("listen"),
            metrics: address("metrics"),
            directory: directory.to_owned(),
        }
    }

    fn used(&self) -> Used {
        let pid = self.child.id().expect("runs");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("runs");
        let fields: Vec<u64> = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.split(' ').map(|it| it.parse().unwrap_or(0)).collect())
            .unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("runs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|it| it.trim().split(' ').next()?.parse().ok());
        Used {
            cpu: Duration::from_millis((fields[11] + fields[12]) * 1000 / TICKS),
            resident_kib: resident.expect("a size"),
        }
    }

    async fn restart(self) -> Self {
        let Self { mut child, listen, directory, .. } = self;
        child.kill().await.expect("killed");
        Self::start(&directory, &listen).await
    }
}

/// The value below which that share of the sorted values lies.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a short list"
    )]
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index]
}

fn say(what: &str, number: impl std::fmt::Display) {
    println!("{what:<58} {number}");
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    format!(
        "p50 {:.0?}, p99 {:.0?}, worst {:.0?}",
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 1.0)
    )
}

fn main() {
    let count = std::env::args().filter_map(|it| it.parse().ok()).next().unwrap_or(SIDECARS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(count));
}

async fn measure(count: usize) {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::start(directory.path(), "127.0.0.1:0").await;
    let contexts = directory.path().join("contexts.yaml");
    let empty = control.used();
    let began = Instant::now();
    let fleet = Fleet::start(&control.listen, &contexts, count).await;
    say("sidecars joined, one after the other", format!("{count} in {:.1?}", began.elapsed()));
    let began = Instant::now();
    fleet.in_sync(LONG).await;
    say("connected at once until all are in sync", format!("{:.1?}", began.elapsed()));
    let held: usize = fleet.sidecars.iter().map(|it| it.held()).sum();
    say("resources that each holds", held / count);
    sleep(Duration::from_secs(2)).await;
    let full = control.used();
    let each = full.resident_kib.saturating_sub(empty.resident_kib) / count as u64;
    say("control plane's memory, empty", format!("{} MiB", empty.resident_kib >> 10));
    say("control plane's memory for each sidecar", format!("{each} KiB"));
    say("CPU for all the joining and connecting", format!("{:.1?}", full.cpu - empty.cpu));

    idle(&control).await;
    writes(&fleet, &control).await;
    burst(&fleet, &control).await;
    scoped(&fleet, &control).await;
    endpoints(&fleet, &control).await;
    deaf(&fleet, &control).await;
    let control = storm(&fleet, control).await;
    rollback(&fleet, &contexts).await;
    say("metrics at the end", format!("http://{}/metrics", control.metrics));
    say("control plane's memory at the end", format!("{} MiB", control.used().resident_kib >> 10));
}

async fn idle(control: &Control) {
    let before = control.used();
    sleep(Duration::from_secs(10)).await;
    let used = control.used().cpu - before.cpu;
    say("idle: CPU of one core", format!("{:.1}%", used.as_secs_f64() * 10.0));
}

/// Each of these writes concerns everyone.
async fn writes(fleet: &Fleet, control: &Control) {
    let (mut times, mut last) = (Vec::new(), Vec::new());
    let (before, counted) = (control.used(), fleet.counts());
    for number in 0..WRITES {
        let began = Instant::now();
        let revision = fleet.apply(vec![policy(HUB, 1000 + number)]).await;
        let at = fleet.acknowledged(revision, LONG).await;
        times.extend(at.iter().map(|at| *at - began));
        last.push(*at.last().expect("some") - began);
    }
    let cpu = control.used().cpu - before.cpu;
    let pushed = fleet.counts().changed - counted.changed;
    say("write for all -> acknowledged by each", spread(times));
    say("write for all -> acknowledged by the last", spread(last));
    say("CPU of a push to one sidecar", format!("{:.0?}", cpu / u32::try_from(pushed).unwrap()));
}

/// Many writes at once: what counts is the last one.
async fn burst(fleet: &Fleet, control: &Control) {
    let (before, counted) = (control.used(), fleet.counts());
    let began = Instant::now();
    let mut revision = 0;
    for number in 0..100 {
        revision = fleet.apply(vec![policy(HUB, 2000 + number)]).await;
    }
    let wrote = began.elapsed();
    fleet.acknowledged(revision, LONG).await;
    let sent = fleet.counts().changed - counted.changed;
    let cpu = control.used().cpu - before.cpu;
    say(
        "100 writes in a row -> the last acknowledged by all",
        format!("written in {wrote:.1?}, there after {:.1?}", began.elapsed()),
    );
    say(
        "   resources sent to each for that, and CPU",
        format!("{:.1}, {cpu:.1?}", sent as f64 / fleet.sidecars.len() as f64),
    );
}

/// Writes that concern few.
async fn scoped(fleet: &Fleet, control: &Control) {
    let name = sim::service(1);
    let before = control.used();
    let mut times = Vec::new();
    for number in 0..WRITES {
        let counted = fleet.counts();
        let began = Instant::now();
        fleet.apply(vec![policy(&name, 1000 + number)]).await;
        let concerned =
            fleet.sidecars.iter().filter(|it| it.version("TrafficPolicy", &name).is_some());
        let wanted = if number == 0 { 1 } else { concerned.count() as u64 };
        while fleet.counts().changed - counted.changed < wanted {
            sleep(Duration::from_millis(2)).await;
        }
        times.push(began.elapsed());
        sleep(Duration::from_millis(300)).await;
    }
    let cpu = (control.used().cpu - before.cpu) / u32::try_from(WRITES).unwrap();
    say("write for a few -> there", spread(times));
    say("   CPU for each of these writes", format!("{cpu:.1?}"));
}

/// A workload of the hub withdraws and comes back: everyone hears it.
async fn endpoints(fleet: &Fleet, control: &Control) {
    let before = control.used();
    let mut times = Vec::new();
    for number in 0..WRITES {
        let sidecar = &fleet.sidecars[number / 2 % sim::WORKLOADS];
        let counted = fleet.counts();
        let began = Instant::now();
        sidecar.ready.fetch_xor(true, Ordering::Relaxed);
        while fleet.counts().changed - counted.changed < fleet.sidecars.len() as u64 {
            sleep(Duration::from_millis(2)).await;
            assert!(began.elapsed() < LONG);
        }
        times.push(began.elapsed());
    }
    let cpu = (control.used().cpu - before.cpu) / u32::try_from(WRITES).unwrap();
    say("an endpoint of all turns (un)ready -> the last knows", spread(times));
    say("   CPU for each of these changes", format!("{cpu:.1?}"));
}

/// Sidecars that do not read hold up nobody and cost no queue.
async fn deaf(fleet: &Fleet, control: &Control) {
    let (deaf, others) = fleet.sidecars.split_at(fleet.sidecars.len() / 20);
    let before = control.used();
    deaf.iter().for_each(|it| it.deaf.store(true, Ordering::Relaxed));
    let mut revision = 0;
    for number in 0..WRITES {
        revision = fleet.apply(vec![policy(HUB, 3000 + number)]).await;
        while !others.iter().all(|it| it.acknowledged(revision).is_some()) {
            sleep(Duration::from_millis(5)).await;
        }
    }
    let grown = control.used().resident_kib.saturating_sub(before.resident_kib);
    let counted: u64 = deaf.iter().map(|it| it.counts().changed).sum();
    deaf.iter().for_each(|it| it.deaf.store(false, Ordering::Relaxed));
    let began = Instant::now();
    fleet.acknowledged(revision, LONG).await;
    let sent = deaf.iter().map(|it| it.counts().changed).sum::<u64>() - counted;
    say("5% do not read: memory that grew over 30 writes", format!("{grown} KiB"));
    say(
        "   they read again: in sync after, resources sent to each",
        format!("{:.0?}, {:.1}", began.elapsed(), sent as f64 / deaf.len() as f64),
    );
}

async fn storm(fleet: &Fleet, control: Control) -> Control {
    let counted = fleet.counts();
    let control = control.restart().await;
    let began = Instant::now();
    fleet.in_sync(LONG).await;
    let took = began.elapsed();
    let mut at: Vec<_> =
        fleet.sidecars.iter().filter_map(|it| Some(it.connected_at()? - began)).collect();
    at.sort();
    let mut most = 0;
    for (index, from) in at.iter().enumerate() {
        let within = at[index..].iter().take_while(|it| **it - *from < Duration::from_secs(1));
        most = most.max(within.count());
    }
    let now = fleet.counts();
    say("control plane killed and started: all in sync after", format!("{took:.1?}"));
    say("   most connections within one second", most);
    say(
        "   streams opened, resources sent, workloads taken away",
        format!(
            "{}, {}, {}",
            now.streams - counted.streams,
            now.changed - counted.changed,
            now.removed_workloads - counted.removed_workloads
        ),
    );
    say("   CPU until then", format!("{:.1?}", control.used().cpu));
    control
}

/// Back to what was: by the call, and by the command, which starts, connects and waits until all have
/// followed.
async fn rollback(fleet: &Fleet, contexts: &Path) {
    let policies = |limit| (0..20).map(|it| policy(&sim::service(it), limit)).collect::<Vec<_>>();
    let good = fleet.apply(policies(500)).await;
    let mut times = Vec::new();
    for limit in 501..506 {
        let revision = fleet.apply(policies(limit)).await;
        fleet.acknowledged(revision, LONG).await;
        let began = Instant::now();
        let revision = fleet.rollback(good).await;
        times.push(*fleet.acknowledged(revision, LONG).await.last().expect("some") - began);
    }
    say("Rollback of 20 resources -> acknowledged by the last", spread(times));
    let revision = fleet.apply(policies(510)).await;
    fleet.acknowledged(revision, LONG).await;
    let began = Instant::now();
    let done = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["rollback", &good.to_string(), "--wait"])
        .env("OUTRIGGER_CONTEXTS", contexts)
        .stdout(Stdio::null())
        .status();
    assert!(done.await.expect("runs").success());
    say("   `outrigger rollback N --wait`, from start to end", format!("{:.0?}", began.elapsed()));
}
