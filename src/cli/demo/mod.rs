//! `outrigger demo`: the shop of `examples/shop` on this machine, every instance a process with a
//! sidecar of its own, and ten claims about the mesh that are measured while one looks on. Whatever
//! happens, nothing of it is left behind.

mod call;
mod claims;
mod client;
mod collector;
mod left;
mod load;
mod metrics;
mod numbers;
mod running;
mod screen;
mod start;
mod trace;

use std::{process::ExitCode, time::Duration};

use tokio::time::{self, Instant};

use super::{output::Failure, words};
use crate::app::signals::Wishes;
use claims::Claim;
use client::Connection;
use left::Descendants;
use running::Shop;
use screen::Screen;
use start::Place;

/// Between two orders of the light traffic that goes on after the claims.
const ORDER_EVERY: Duration = Duration::from_millis(500);
/// How long spans may take to reach the real collector in the end.
const SPANS_WITHIN: Duration = Duration::from_secs(5);
/// How long all of it may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long processes that were told to end may still be seen.
const GONE_WITHIN: Duration = Duration::from_secs(3);
/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
Examples:
  outrigger demo                                  until Ctrl-C
  outrigger demo --once                           exits with 0 if every claim holds
  outrigger demo --otlp http://127.0.0.1:4317     with its traces in Jaeger";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// End when the claims are checked, with 0 if all hold
    #[arg(long, env = "OUTRIGGER_ONCE")]
    once: bool,
    /// A collector that gets the traces too, such as Jaeger's http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "OUTRIGGER_OTLP", value_parser = words::collector)]
    otlp: Option<String>,
}

/// How the demo came to its end.
enum End {
    /// By itself: how many claims failed.
    Checked(usize),
    /// Somebody asked for it.
    Asked,
}

/// Runs it until all is checked, or until Ctrl-C.
pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let screen = Screen::new();
    let mut wishes = Wishes::listen(false)?;
    let began = Instant::now();
    let mut place = Place::new()?;
    let mut descendants = Descendants::default();

    let starting = start::start(&place, args.otlp.as_deref());
    let shop = tokio::select! {
        started = starting => started,
        _ = wishes.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let mut shop = match shop {
        Ok(shop) => shop,
        Err(error) => {
            place.keep();
            let logs = place.logs();
            return Err(Failure::new(error.context(format!("logs are in {}", logs.display()))));
        }
    };
    descendants.note();
    screen.line(&format!("outrigger demo: {}, ready in {}", shop.count(), seconds(began)));

    let checking = check(&screen, &mut shop, &place, &mut descendants);
    let mut end = tokio::select! {
        failed = checking => End::Checked(failed),
        _ = wishes.next() => End::Asked,
    };
    if let End::Checked(failed) = end {
        if failed > 0 {
            place.keep();
        }
        if !args.once {
            screen.line("");
            where_to_look(&screen, &shop, &place, args.otlp.as_deref()).await;
            tokio::select! {
                never = go_on(&shop) => match never {},
                _ = wishes.next() => {}
            }
            end = End::Asked;
        }
    }

    descendants.note();
    let Shop { mesh, collector, .. } = shop;
    let killed = mesh.shutdown(END_WITHIN).await;
    if !killed.is_empty() {
        screen
            .line(&format!("did not end in {}s and were killed: {killed:?}", END_WITHIN.as_secs()));
    }
    collector.finish(SPANS_WITHIN).await;
    let left = gone(&descendants).await;
    Ok(conclude(&screen, &end, began, &left, &args))
}

/// Checks every claim, one after the other, and prints it; how many fail.
async fn check(
    screen: &Screen,
    shop: &mut Shop,
    place: &Place,
    descendants: &mut Descendants,
) -> usize {
    let mut failed = 0;
    for claim in Claim::ALL {
        match Box::pin(claim.check(shop)).await {
            Ok(evidence) => {
                screen.holds(claim.name(), &evidence.line);
                evidence.details.iter().for_each(|line| screen.detail(line));
            }
            Err(error) => {
                failed += 1;
                screen.fails(claim.name(), &format!("{error:#}"));
                screen.detail(&format!("logs: {}", place.logs().display()));
            }
        }
        descendants.note();
    }
    failed
}

/// Light traffic, until it is dropped.
async fn go_on(shop: &Shop) -> std::convert::Infallible {
    let mut ticks = time::interval(ORDER_EVERY);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        let Ok(door) = shop.door().await else { continue };
        let mut door = Connection::new(door);
        while load::place(&mut door).await.result.is_ok() {
            ticks.tick().await;
        }
        // The door may have moved.
        ticks.tick().await;
    }
}

/// What to try while it goes on.
async fn where_to_look(screen: &Screen, shop: &Shop, place: &Place, otlp: Option<&str>) {
    let mut rows = Vec::new();
    if let Ok(door) = shop.door().await {
        let body = r#"{"item": "paddle", "quantity": 2}"#;
        rows.push(("an order", format!("curl -d '{body}' http://{door}/orders")));
    }
    if let Ok(orders) = shop.first("orders").await {
        rows.push((
            "metrics",
            format!("curl http://{}/metrics   ({})", orders.metrics, orders.name),
        ));
        rows.push(("what runs", format!("curl http://{}/config", orders.admin)));
    }
    rows.push(("logs", format!("{}", place.logs().display())));
    rows.push(("status", format!("outrigger status --contexts {}", place.contexts().display())));
    rows.push(match otlp {
        Some(otlp) => ("traces", format!("at {otlp}, the first order's is {:032x}", shop.order)),
        None => ("traces", "start Jaeger and give --otlp http://127.0.0.1:4317".to_owned()),
    });
    screen.line("two orders a second go on until Ctrl-C; meanwhile:");
    for (what, how) in rows {
        screen.line(&format!("  {what:<10} {how}"));
    }
}

/// Waits until no process of the demo is left, but not long; which are.
async fn gone(descendants: &Descendants) -> Vec<u32> {
    let looking =
        running::until(GONE_WITHIN, "the end of every process", async || {
            match descendants.left() {
                left if left.is_empty() => Ok(()),
                left => Err(format!("{left:?}")),
            }
        });
    match looking.await {
        Ok(()) => Vec::new(),
        Err(_) => descendants.left(),
    }
}

/// The last lines, and the exit code.
fn conclude(screen: &Screen, end: &End, began: Instant, left: &[u32], args: &Args) -> ExitCode {
    let processes = match left {
        [] => "no process left".to_owned(),
        left => format!("processes left: {left:?}"),
    };
    let End::Checked(failed) = end else {
        screen.line(&processes);
        let interrupted = if args.once { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS };
        return if left.is_empty() { interrupted } else { ExitCode::FAILURE };
    };
    let all = Claim::ALL.len();
    let hold = all - failed;
    screen.line(&format!("{all} claims, {hold} hold, {}, {processes}", seconds(began)));
    if *failed == 0 && left.is_empty() {
        screen
            .line("next: `outrigger demo` stays up to be looked at; README.md has the first steps");
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn seconds(since: Instant) -> String {
    format!("{:.1}s", since.elapsed().as_secs_f64())
}
