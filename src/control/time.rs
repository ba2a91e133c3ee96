//! Moments as the API and versions write them.

use std::time::{SystemTime, UNIX_EPOCH};

/// As protobuf writes a moment.
pub(crate) fn pb_time(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}

/// The version of a service that a registration made: one that no revision has.
pub(crate) fn registered_version(now: SystemTime) -> String {
    format!("r{}", now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
}
