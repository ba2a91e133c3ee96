//! Resident memory: of a sidecar that just started, of connections that are idle, and what is left
//! after a burst of streams.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use crate::{backend::SLOW, handshake, load::message, pair::Pair, process::Place};

/// How many idle connections.
const CONNECTIONS: u32 = 1000;
/// The burst: so many connections with so many streams each, all open at once for a second.
const BURST: [&str; 4] = ["-c", "100", "-m", "100"];
const STREAMS: &str = "10000";
const BOUND: Duration = Duration::from_secs(60);
/// How long a process has to give memory back.
const SETTLE: Duration = Duration::from_secs(5);
/// How long for what handshakes took.
const GIVEN_BACK: Duration = Duration::from_secs(3);

/// What a pair's memory came to; for both sidecars where there are two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// After the start, in MB.
    pub(crate) fresh: [f64; 2],
    /// For each idle mTLS connection, in KB.
    pub(crate) connection: f64,
    /// More than before the burst, in MB.
    pub(crate) left: [f64; 2],
}

/// Measures a pair that was not used yet.
pub(crate) async fn measure(place: &Place, pair: &Pair) -> Result<Memory> {
    let resident = || -> Result<[f64; 2]> {
        let [caller, server] = pair.processes();
        Ok([caller.memory()?, server.memory()?])
    };
    sleep(SETTLE).await;
    let fresh = resident()?;
    // The first few connections make what all share.
    let first = handshake::open_many(place, pair.inbound, 20).await?;
    sleep(GIVEN_BACK).await;
    let before = resident()?[1];
    let idle = handshake::open_many(place, pair.inbound, CONNECTIONS as usize).await?;
    sleep(GIVEN_BACK).await;
    let connection = (resident()?[1] - before) / f64::from(CONNECTIONS);
    drop((first, idle));
    burst(place, pair, "100").await?;
    sleep(SETTLE).await;
    let before = resident()?;
    burst(place, pair, STREAMS).await?;
    sleep(SETTLE).await;
    let after = resident()?;
    let left = [(after[0] - before[0]) / 1024.0, (after[1] - before[1]) / 1024.0];
    Ok(Memory { fresh: fresh.map(|kib| kib / 1024.0), connection, left })
}

async fn burst(place: &Place, pair: &Pair, requests: &str) -> Result<()> {
    let body = place.write("message-burst", message(100))?.display().to_string();
    let url = format!("http://{}{SLOW}", pair.grpc);
    let mut command = vec!["h2load", "-t1", "-d", &body, "-n", requests];
    command.extend(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    command.extend(BURST);
    command.push(&url);
    let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
    place.run(&command, BOUND).await?;
    Ok(())
}
