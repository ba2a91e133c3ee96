//! The workloads, and how each is driven: by h2load and wrk where they can, by generators of our own
//! where they can not.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use tokio::time::Instant;

use crate::{
    backend::{PLAIN, UNARY},
    handshake,
    pair::{Kind, Pair},
    process::Place,
    streams,
};

/// How long a load may take beyond its time.
const GRACE: Duration = Duration::from_secs(30);

/// A kind of load. The letters are those of the table in README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    A,
    F,
    Q,
    B,
    R,
    D,
    T,
    K,
    C,
    H,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::A => "a: gRPC unary 100 B, 8 connections x 16 streams",
            Self::F => "f: the same at 4,000/s, in bursts",
            Self::Q => "q: the same at 4,000/s, evenly spaced",
            Self::B => "b: the same, one at a time",
            Self::R => "r: as b, through a TCP relay with the same mutual TLS",
            Self::D => "d: gRPC unary 100 KB, 8 connections x 2 streams",
            Self::T => "t: gRPC streaming ping-pong, 4 x 25 streams, 1 B",
            Self::K => "k: the same with 1 KiB",
            Self::C => "c: HTTP/1.1 GET, 32 connections",
            Self::H => "h: new mTLS connections (server's sidecar only)",
        }
    }
}

impl Workload {
    /// Whether it is driven through a pair of this kind: that every request is sampled and logged is
    /// measured by the first one only, and only ours is a relay too.
    pub(crate) fn is_for(self, kind: Kind) -> bool {
        match kind {
            Kind::Envoy | Kind::Haproxy => self != Self::R,
            Kind::Outrigger => true,
            Kind::OutriggerAll => self == Self::A,
        }
    }
}

/// What one drive came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// CPU time of the sidecars for one request.
    pub(crate) micros: f64,
    /// Requests that succeeded in a second.
    pub(crate) rate: f64,
    /// The part of all requests that failed.
    pub(crate) failed: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} µs, {:.0}/s", self.micros, self.rate)?;
        if self.failed > 0.0 {
            write!(f, ", {:.1}% failed", self.failed * 100.0)?;
        }
        Ok(())
    }
}

/// What a generator counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

/// Drives a pair for so long.
pub(crate) async fn drive(
    workload: Workload,
    place: &Place,
    pair: &Pair,
    time: Duration,
) -> Result<Sample> {
    let cpu = || match workload {
        Workload::H => pair.processes()[1].cpu(),
        _ => pair.cpu(),
    };
    let (before, began) = (cpu()?, Instant::now());
    let count = match workload {
        Workload::A => h2load(place, pair.grpc, time, &["-c", "8", "-m", "16"], 100).await?,
        Workload::F => {
            h2load(place, pair.grpc, time, &["-c", "8", "-m", "16", "--rps", "500"], 100).await?
        }
        Workload::B => h2load(place, pair.grpc, time, &["-c", "1", "-m", "1"], 100).await?,
        Workload::R => h2load(place, pair.relay, time, &["-c", "1", "-m", "1"], 100).await?,
        Workload::D => h2load(place, pair.grpc, time, &["-c", "8", "-m", "2"], 100_000).await?,
        Workload::C => wrk(place, pair, time).await?,
        Workload::Q => streams::paced(pair.grpc, time).await?,
        Workload::T => streams::ping_pong(pair.grpc, time, 1).await?,
        Workload::K => streams::ping_pong(pair.grpc, time, 1024).await?,
        Workload::H => handshake::connect_again_and_again(place, pair.inbound, time).await?,
    };
    let (took, spent) = (began.elapsed(), cpu()?.saturating_sub(before));
    ensure!(count.done > 0, "nothing succeeded");
    let done = f64::from(u32::try_from(count.done)?);
    let failed = f64::from(u32::try_from(count.failed)?);
    Ok(Sample {
        micros: spent.as_secs_f64() * 1e6 / done,
        rate: done / took.as_secs_f64(),
        failed: failed / (done + failed),
    })
}

/// A gRPC message of so many bytes.
pub(crate) fn message(length: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&length.to_be_bytes());
    message.resize(5 + length as usize, b'x');
    message
}

async fn h2load(
    place: &Place,
    address: SocketAddr,
    time: Duration,
    shape: &[&str],
    length: u32,
) -> Result<Count> {
    let body = place.write(&format!("message-{length}"), message(length))?;
    let mut command = vec!["h2load".to_owned(), "-t1".into(), "-d".into()];
    command.extend([body.display().to_string(), "-D".into(), time.as_secs().to_string()]);
    for header in ["content-type: application/grpc", "te: trailers", "user-agent: grpc-go/1.70.0"] {
        command.extend(["-H".into(), header.into()]);
    }
    command.extend(shape.iter().map(|arg| (*arg).to_owned()));
    command.push(format!("http://{address}{UNARY}"));
    let said = place.run(&command, time + GRACE).await?;
    // requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout
    let line = said.lines().find_map(|line| line.strip_prefix("requests: "));
    let line = line.with_context(|| said.clone())?;
    let number = |what: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(what));
        part.and_then(|number| number.trim().parse().ok()).with_context(|| line.to_owned())
    };
    Ok(Count { done: number("succeeded")?, failed: number("failed")? })
}

async fn wrk(place: &Place, pair: &Pair, time: Duration) -> Result<Count> {
    let url = format!("http://{}{PLAIN}", pair.plain);
    let duration = format!("{}s", time.as_secs());
    let command = ["wrk", "-t1", "-c32", "-d", &duration, &url].map(str::to_owned);
    let said = place.run(&command, time + GRACE).await?;
    let number = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    let done: Option<u64> =
        said.lines().filter(|line| line.contains(" requests in ")).find_map(number);
    let bad = said.lines().find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses: "));
    let failed = bad.and_then(|bad| bad.parse().ok()).unwrap_or(0);
    Ok(Count { done: done.with_context(|| said.clone())?.saturating_sub(failed), failed })
}
