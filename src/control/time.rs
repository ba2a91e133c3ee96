//! Moments as the API writes them.

use std::time::SystemTime;

/// As protobuf writes a moment.
pub(crate) fn pb_time(time: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp::from(time)
}
