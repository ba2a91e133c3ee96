//! Where calls go: a canary by weight, and retries of calls that may be tried again.

use std::sync::atomic::AtomicUsize;

use crate::cli::{
    demo::{
        load::{self, Load},
        metrics,
        numbers::likely,
        running::{Shop, unlike},
    },
    shop::services::Fault,
};

/// Orders over which the canary is counted.
const CANARY_ORDERS: u32 = 200;
/// The share of `mesh.yaml`.
const CANARY_SHARE: f64 = 0.1;
/// Orders over which retries are counted.
const RETRY_ORDERS: usize = 100;
/// One of so many calls to the catalog fails.
const FAILS_ONE_OF: u64 = 8;
/// Retries that the budget of `mesh.yaml` permits for each call.
const BUDGET: f64 = 0.2;

/// Nine of ten orders go to the old version and one to the new one.
pub(super) async fn canary(shop: &Shop) -> anyhow::Result<String> {
    let load = Load::of(usize::try_from(CANARY_ORDERS)?);
    let orders = load.place(shop.door().await?, &AtomicUsize::new(0)).await;
    if let Some(failure) = load::first_failure(&orders) {
        return Err(unlike(format!("{CANARY_ORDERS} orders"), failure));
    }
    let of = |version: &str| {
        let placed = orders.iter().filter_map(|order| order.result.as_ref().ok());
        placed.filter(|placed| placed.version == version).count()
    };
    let (old, new) = (of("v1"), u32::try_from(of("v2"))?);
    let (low, high) = likely(CANARY_ORDERS, CANARY_SHARE);
    let counted = format!("v1 {old}, v2 {new}");
    if !(low..=high).contains(&new) {
        return Err(unlike(format!("from {low} to {high} orders at v2"), counted));
    }
    Ok(format!("{CANARY_ORDERS} orders: {counted} (90/10, allowed {low}-{high})"))
}

/// Attempts and calls of the catalog that all sidecars of `orders` have counted, and retries for
/// which there was no budget.
#[derive(Debug, Clone, Copy)]
struct Counted {
    calls: f64,
    attempts: f64,
    exhausted: f64,
}

/// Every eighth call fails, and no order does.
pub(super) async fn retry(shop: &Shop) -> anyhow::Result<String> {
    let before = count(shop).await?;
    shop.turn("catalog", Fault::OneOf(FAILS_ONE_OF)).await?;
    // One after the other: the instances count calls, so that side by side one order could meet a
    // failure three times.
    let load = Load { at_once: 1, ..Load::of(RETRY_ORDERS) };
    let orders = load.place(shop.door().await?, &AtomicUsize::new(0)).await;
    shop.turn("catalog", Fault::None).await?;
    let after = count(shop).await?;

    if let Some(failure) = load::first_failure(&orders) {
        return Err(unlike(format!("{RETRY_ORDERS} orders saved by retries"), failure));
    }
    let (calls, attempts) = (after.calls - before.calls, after.attempts - before.attempts);
    let each = attempts / calls;
    let exhausted = after.exhausted - before.exhausted;
    let seen = format!("{attempts} attempts for {calls} calls, {exhausted} over the budget");
    let share = 1.0 / f64::from(u32::try_from(FAILS_ONE_OF)?);
    let expected = 1.0 + share / 2.0..=1.0 + BUDGET;
    if calls < f64::from(u32::try_from(RETRY_ORDERS)?)
        || !expected.contains(&each)
        || exhausted > 0.0
    {
        let (low, high) = (expected.start(), expected.end());
        return Err(unlike(format!("from {low:.2} to {high:.2} attempts each"), seen));
    }
    Ok(format!(
        "1 of {FAILS_ONE_OF} calls to catalog fails: {RETRY_ORDERS}/{RETRY_ORDERS} orders ok, \
         {each:.2} attempts each, budget {:.0}% kept",
        BUDGET * 100.0
    ))
}

async fn count(shop: &Shop) -> anyhow::Result<Counted> {
    let mut counted = Counted { calls: 0.0, attempts: 0.0, exhausted: 0.0 };
    for orders in shop.members_of("orders").await? {
        let page = orders.scrape().await?;
        let of = |family, more: &[(&str, &str)]| {
            metrics::sum(&page, family, &[&[("destination", "catalog.shop")], more].concat())
        };
        counted.calls += of("outrigger_requests_total", &[("direction", "outbound")]);
        counted.attempts += of("outrigger_attempts_total", &[]);
        counted.exhausted += of("outrigger_retry_budget_exhausted_total", &[]);
    }
    Ok(counted)
}
