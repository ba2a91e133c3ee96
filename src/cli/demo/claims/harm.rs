//! What goes wrong with services, and whom it does not harm: a failing instance, a hanging service
//! and a killed one.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;
use tonic::Code;

use crate::cli::{
    demo::{
        call::{self, Called, Calls},
        load::{self, Load},
        metrics,
        numbers::percentile,
        running::{Member, Shop, unlike, until},
        screen::milliseconds,
    },
    shop::services::Fault,
};

/// How long something that happens at once may take to be seen on a machine that is very busy.
const LOOK_WITHIN: Duration = Duration::from_secs(15);
/// Failures in a row after which `mesh.yaml` leaves an instance alone.
const FAILURES: usize = 5;
/// Calls after that, none of which may fail.
const LATER_CALLS: usize = 40;
/// Calls within which the failing instance has to have got its failures.
const CALLS_MAX: usize = 100;

/// An instance that fails is left alone after five failures, and the other one serves.
pub(super) async fn failure(shop: &Shop) -> anyhow::Result<String> {
    let caller = shop.first("orders").await?;
    let failing = shop.first("inventory").await?;
    let inventory = caller.calls("inventory")?;
    let ejections = || async {
        let page = caller.scrape().await?;
        let labels = [("destination", "inventory.shop")];
        anyhow::Ok(metrics::sum(&page, "outrigger_ejections_total", &labels))
    };
    let before = ejections().await?;
    failing.turn(Fault::Unavailable).await?;

    let (mut failures, mut calls) = (0, 0);
    while failures < FAILURES && calls < CALLS_MAX {
        calls += 1;
        failures += usize::from(unavailable(&inventory.reserve().await)?);
    }
    if failures < FAILURES {
        return Err(unlike(format!("{FAILURES} failures"), format!("{failures} of {calls} calls")));
    }
    until(LOOK_WITHIN, "inventory ejected", async || match ejections().await {
        Ok(now) if now > before => Ok(()),
        Ok(_) => Err(format!("no ejection after {failures} failures")),
        Err(error) => Err(format!("{error:#}")),
    })
    .await?;
    for later in 1..=LATER_CALLS {
        if unavailable(&inventory.reserve().await)? {
            let expected = format!("no failure once {} is ejected", failing.name);
            return Err(unlike(expected, format!("one in call {later}")));
        }
    }
    Ok(format!(
        "inventory answers UNAVAILABLE: ejected after {failures}, {LATER_CALLS}/{LATER_CALLS} later \
         calls ok"
    ))
}

/// Whether the call failed as the fault says; any other failure is an error.
fn unavailable(called: &Called) -> anyhow::Result<bool> {
    match &called.result {
        Ok(()) => Ok(false),
        Err(status) if status.code() == Code::Unavailable && call::reason(status).is_empty() => {
            Ok(true)
        }
        Err(status) => Err(unlike("inventory's own UNAVAILABLE", call::say(status))),
    }
}

/// Calls at once to the catalog while it hangs.
const HANGING_CALLS: usize = 200;
/// Places in the bulkhead of `mesh.yaml`.
const PLACES: usize = 20;
/// Connections that the calls share: a listener bounds the streams of one.
const CONNECTIONS: usize = 4;
/// Calls to the payments over which the 99th percentile is taken.
const PAYMENTS: usize = 100;
/// What payments may take longer on a machine that has other work too. Behind the hanging catalog
/// they would take as long as it hangs.
const PAYMENTS_SLACK: Duration = Duration::from_millis(100);
/// In metrics.
const CATALOG: [(&str, &str); 1] = [("destination", "catalog.shop")];
const DURATIONS: &str = "outrigger_request_duration_seconds";
const REJECTED: &str = "outrigger_bulkhead_rejected_total";

/// A catalog that hangs holds its bulkhead's places and no more; payments stay quick.
pub(super) async fn bulkhead(shop: &Shop) -> anyhow::Result<String> {
    let caller = shop.first("orders").await?;
    let payments = caller.calls("payments")?;
    let quiet = charge(&payments).await?;
    let catalog: Vec<Calls> =
        (0..CONNECTIONS).map(|_| caller.calls("catalog")).collect::<Result<_, _>>()?;
    // Opens them, so that what is measured is calls and not connections.
    for calls in &catalog {
        calls.get().await.result.map_err(|status| unlike("a price", call::say(&status)))?;
    }
    let before = refused_in_time(&caller).await?;
    let refused_before = metrics::sum(&caller.scrape().await?, REJECTED, &CATALOG);
    shop.turn("catalog", Fault::Hang).await?;

    let calls = (0..HANGING_CALLS).zip(catalog.iter().cycle()).map(|(_, calls)| calls.get());
    let observed = async {
        let waiting = full(&caller, refused_before).await;
        let busy = charge(&payments).await;
        shop.turn("catalog", Fault::None).await?;
        anyhow::Ok((waiting?, busy?))
    };
    let (called, observed) = tokio::join!(join_all(calls), observed);
    let (waiting, busy) = observed?;
    let in_time = refused_in_time(&caller).await? - before;
    judge_bulkhead(&called, in_time, waiting)?;
    let refused = HANGING_CALLS - PLACES;
    let times = format!("payments p99 {} -> {}", milliseconds(quiet), milliseconds(busy));
    if busy > quiet * 2 + PAYMENTS_SLACK {
        return Err(unlike("payments as quick as before", times));
    }
    Ok(format!(
        "catalog hangs: {waiting} wait, {refused} refused within 100ms (bulkhead_full), {times}"
    ))
}

/// Waits until all calls have got a place in the catalog's bulkhead or been refused; how many places
/// are taken then.
async fn full(caller: &Member, refused_before: f64) -> anyhow::Result<usize> {
    let (places, refused) = (number(PLACES), number(HANGING_CALLS - PLACES));
    until(LOOK_WITHIN, "20 waiting and 180 refused", async || {
        let page = caller.scrape().await.map_err(|error| format!("{error:#}"))?;
        let taken = metrics::sum(&page, "outrigger_bulkhead_in_use", &CATALOG);
        let refused_now = metrics::sum(&page, REJECTED, &CATALOG) - refused_before;
        if (taken - places).abs() < 0.5 && (refused_now - refused).abs() < 0.5 {
            return Ok(PLACES);
        }
        Err(format!("{taken} waiting and {refused_now} refused"))
    })
    .await
}

/// Calls to the catalog that a sidecar has ended within 100 ms as failures. It is asked, because a
/// caller's own time has in it how busy the caller is with 200 calls.
async fn refused_in_time(caller: &Member) -> anyhow::Result<f64> {
    let page = caller.scrape().await?;
    let labels = [CATALOG[0], ("result", "failure"), ("le", "0.1")];
    Ok(metrics::sum(&page, &format!("{DURATIONS}_bucket"), &labels))
}

fn judge_bulkhead(called: &[Called], in_time: f64, waiting: usize) -> anyhow::Result<()> {
    let failures: Vec<_> =
        called.iter().filter_map(|called| called.result.as_ref().err()).collect();
    if let Some(status) = failures.iter().find(|status| call::reason(status) != "bulkhead_full") {
        return Err(unlike("calls that wait or are refused with bulkhead_full", call::say(status)));
    }
    let (refused, answered) = (failures.len(), called.len() - failures.len());
    let expected = HANGING_CALLS - PLACES;
    let all_in_time = (in_time - number(expected)).abs() < 0.5;
    if (waiting, answered, refused) != (PLACES, PLACES, expected) || !all_in_time {
        let seen = format!("{answered} answered and {refused} refused, {in_time} within 100ms");
        let wanted = format!("{PLACES} to wait and {expected} to be refused within 100ms");
        return Err(unlike(wanted, seen));
    }
    Ok(())
}

/// As metrics have it.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// The 99th percentile of some payments, none of which may fail.
async fn charge(payments: &Calls) -> anyhow::Result<Duration> {
    let mut times = Vec::with_capacity(PAYMENTS);
    for _ in 0..PAYMENTS {
        let called = payments.charge().await;
        called.result.map_err(|status| unlike("a payment", call::say(&status)))?;
        times.push(called.took);
    }
    Ok(percentile(&times, 99))
}

/// Orders while an instance is killed.
const KILL_ORDERS: usize = 300;
/// After so many of them.
const KILL_AFTER: usize = 100;
/// How long they are spread.
const KILL_OVER: Duration = Duration::from_millis(1500);

/// An instance that is killed without warning costs the orders that it had a hand in, and no other.
pub(super) async fn kill(shop: &Shop) -> anyhow::Result<String> {
    let victim = shop.first("inventory").await?;
    let victim = shop.instance(&victim.name)?;
    let begun = AtomicUsize::new(0);
    let load = Load { over: Some(KILL_OVER), ..Load::of(KILL_ORDERS) };
    let killing = async {
        until(LOOK_WITHIN, "orders", async || match begun.load(Ordering::Relaxed) {
            KILL_AFTER.. => Ok(()),
            begun => Err(format!("{begun}")),
        })
        .await?;
        let from = Instant::now();
        victim.kill().await;
        anyhow::Ok((from, Instant::now()))
    };
    let (orders, killed) = tokio::join!(load.place(shop.door().await?, &begun), killing);
    let (from, until) = killed?;
    victim.start_again().await.map_err(|why| unlike("inventory again", why))?;

    let clear: Vec<_> = orders.iter().filter(|order| !order.under_way(from, until)).collect();
    if let Some(failure) = load::first_failure(clear.iter().copied()) {
        return Err(unlike(format!("no failed order of {} not in flight", clear.len()), failure));
    }
    let under_way = orders.len() - clear.len();
    let lost = orders.iter().filter(|order| order.result.is_err()).count();
    let inside = match lost {
        0 => String::new(),
        lost => format!(", {lost} of {under_way} in flight"),
    };
    Ok(format!("1 of 2 inventory killed -9: 0 failed of {} not in flight{inside}", clear.len()))
}
