//! The only reader of the wall clock, so that a test or a reviewer finds every place where absolute
//! time enters: certificates, tokens, log lines and spans. Durations are measured with
//! `tokio::time::Instant`, which tests can pause.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The current wall-clock time.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// The current time as a duration since the Unix epoch; zero for a clock set before it.
pub fn since_epoch() -> Duration {
    now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
