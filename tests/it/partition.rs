//! The network between the sidecars and their control plane is cut without a word: no packet says so.
//! Calls go on, both ends notice by themselves that nobody is there, and when the network is back the
//! mesh is whole again soon, without a call lost on the way.
//!
//! `OUTRIGGER_PARTITION_SECONDS` makes the cut longer.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::{
    change::Load,
    harness::{App, Island, Mesh, Program, SOON, eventually, finish, get, heavy},
};

/// Both ends ask after 10 s of silence, and wait 5 s for the answer.
const NOTICED_MAX: Duration = Duration::from_secs(40);
/// From the first packet that goes again until all is as it was.
const HEALED_MAX: Duration = Duration::from_secs(30);

/// Whether a sidecar takes itself for connected.
async fn connected(sidecar: &Program) -> bool {
    let page = get(sidecar.address("admin"), "/config").await.expect("the admin listener answers");
    let page: Value = serde_json::from_str(&page).expect("JSON");
    page["controlPlane"]["connected"] == true
}

/// What the control plane says of itself, asked beside it.
async fn status(mesh: &Mesh, island: &Island) -> Value {
    let mut args = island.under();
    args.extend([env!("CARGO_BIN_EXE_outrigger"), "status", "-o", "json"].map(str::to_owned));
    let command = mesh.place.command(&args[0], &args[1..]);
    finish(command, SOON).await.assert_done().json()
}

/// How many sidecars it knows, how many of them are in sync, and of the endpoints of `echo` how many are
/// ready and how many there are.
async fn known(mesh: &Mesh, island: &Island) -> (usize, usize, u64, u64) {
    let status = status(mesh, island).await;
    let sidecars = status["sidecars"].as_array().expect("a list");
    let synced = sidecars.iter().filter(|it| it["inSync"] == true).count();
    let services = status["services"].as_array().expect("a list");
    let echo = services.iter().find(|it| it["name"] == "echo");
    let count = |name: &str| echo.and_then(|it| it[name].as_u64()).unwrap_or(0);
    (sidecars.len(), synced, count("ready"), count("total"))
}

fn longer() -> Duration {
    let seconds = std::env::var("OUTRIGGER_PARTITION_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_network_costs_no_call_and_is_noticed_by_both_ends() {
    let _turn = heavy().await;
    let Some(island) = Island::new() else { return };
    let mesh = Mesh::start_on(&island).await;
    let app = App::start("one").await;
    let server = mesh.server("echo-1", "echo", app.address).await;
    let client = mesh.sidecar("caller", "caller", &[]).await;
    let start = Instant::now();
    let load = Load::start(client.address("outbound"));
    load.go_on(500).await;
    eventually(SOON, async || {
        let known = known(&mesh, &island).await;
        if known == (2, 2, 1, 1) { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;

    let cut = Instant::now();
    island.cut();
    let noticed = eventually(NOTICED_MAX, async || {
        let both = [connected(&server).await, connected(&client).await];
        if both == [false; 2] { Ok(cut.elapsed()) } else { Err(format!("connected: {both:?}")) }
    });
    let forgotten = eventually(NOTICED_MAX, async || {
        let known = known(&mesh, &island).await;
        if known == (0, 0, 0, 1) { Ok(cut.elapsed()) } else { Err(format!("{known:?}")) }
    });
    let (noticed, forgotten) = tokio::join!(noticed, forgotten);
    sleep_until(cut + longer()).await;
    load.go_on(500).await;

    let joined = Instant::now();
    let lasted = joined - cut;
    island.join();
    let healed = eventually(HEALED_MAX, async || {
        let known = known(&mesh, &island).await;
        if known == (2, 2, 1, 1) { Ok(joined.elapsed()) } else { Err(format!("{known:?}")) }
    })
    .await;
    load.go_on(500).await;
    mesh.apply(
        "apiVersion: outrigger.dev/v1\nkind: TrafficPolicy\nmetadata: {name: echo}\n\
         spec: {targetRefs: [{kind: Service, name: echo}], timeouts: {request: 20s}}\n",
    )
    .await;
    load.go_on(500).await;
    let (made, failures) = load.stop().await;
    println!(
        "cut for {lasted:.1?}: noticed by the sidecars after {noticed:.1?}, by the control plane after \
         {forgotten:.1?}; whole {healed:.1?} after it ended; {} of {made} calls failed",
        failures.len()
    );
    let told: Vec<_> = failures.iter().take(30).map(|call| call.tell(start)).collect();
    assert!(told.is_empty(), "{} of {made} calls failed:\n{}", failures.len(), told.join("\n"));
}
