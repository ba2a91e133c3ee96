//! Many orders at once, each with when it began, when it ended and what came of it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::{self, Instant};

use super::client::Connection;

/// What the shop answers to an order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Placed {
    /// Its number.
    pub(super) order: u64,
    /// `EUR 42.00`
    pub(super) total: String,
    /// Which version of `orders` took it.
    pub(super) version: String,
    /// The trace that it left.
    #[serde(skip)]
    pub(super) trace: String,
}

/// One order and what came of it.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) result: Result<Placed, String>,
}

impl Order {
    /// Whether it was under way at any time between the two.
    pub(super) fn under_way(&self, from: Instant, until: Instant) -> bool {
        self.began <= until && self.ended >= from
    }
}

/// Places one order, two paddles, at the front's sidecar.
pub(super) async fn place(door: &mut Connection) -> Order {
    let began = Instant::now();
    let body = r#"{"item": "paddle", "quantity": 2}"#;
    let result = match door.send(Method::POST, "/orders", body).await {
        Ok(answer) if answer.status == StatusCode::CREATED => {
            serde_json::from_slice::<Placed>(&answer.body)
                .context("the shop's answer")
                .map(|placed| Placed { trace: answer.header("trace-id").to_owned(), ..placed })
                .map_err(|error| format!("{error:#}"))
        }
        Ok(answer) => {
            let reason = answer.header("outrigger-reason").to_owned();
            Err(format!("{} {reason} {}", answer.status, answer.text().trim()))
        }
        Err(error) => Err(format!("{error:#}")),
    };
    Order { began, ended: Instant::now(), result }
}

/// How many orders, how many at once, and over how long they are spread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) orders: usize,
    pub(super) at_once: usize,
    /// `None`: as fast as it goes.
    pub(super) over: Option<Duration>,
}

impl Load {
    /// As fast as it goes, eight at once.
    pub(super) fn of(orders: usize) -> Self {
        Self { orders, at_once: 8, over: None }
    }

    /// Places them all; `begun` counts them as they begin.
    pub(super) async fn place(self, door: SocketAddr, begun: &AtomicUsize) -> Vec<Order> {
        let start = Instant::now();
        let caller = || async {
            let mut connection = Connection::new(door);
            let mut orders = Vec::new();
            loop {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                if number >= self.orders {
                    return orders;
                }
                if let Some(over) = self.over {
                    time::sleep_until(start + share(over, number, self.orders)).await;
                }
                orders.push(place(&mut connection).await);
            }
        };
        let callers: FuturesUnordered<_> = (0..self.at_once).map(|_| caller()).collect();
        callers.collect::<Vec<_>>().await.into_iter().flatten().collect()
    }
}

/// The part of a time that `number` of `all` make up.
fn share(time: Duration, number: usize, all: usize) -> Duration {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let all = u32::try_from(all).unwrap_or(u32::MAX).max(1);
    time * number / all
}

/// What went wrong with the first of these orders that failed; `None`: none did.
pub(super) fn first_failure<'a>(orders: impl IntoIterator<Item = &'a Order>) -> Option<String> {
    let failures: Vec<&String> =
        orders.into_iter().filter_map(|order| order.result.as_ref().err()).collect();
    let first = failures.first()?;
    Some(format!("{} orders failed, the first with: {first}", failures.len()))
}
