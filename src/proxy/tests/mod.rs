//! The data plane end to end in one process: applications, sidecars and their mutual TLS, all real.

mod app;
mod calls;
mod client;
mod connections;
mod ending;
mod entrances;
mod hostile;
mod opaque;
mod resilience;
mod security;
mod world;

use std::time::Duration;

/// Every wait of a test.
const BOUND: Duration = Duration::from_secs(20);

/// Waits for it, not longer than the bound.
async fn bounded<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, what).await.expect("within the bound")
}

/// Asks again until it holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + BOUND;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
