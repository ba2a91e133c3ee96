//! Deadlines, retries and their budget, bulkheads, outlier detection.
//!
//! Everything here is a decision: `now` and random numbers are arguments, nothing reads a clock or a
//! socket. What is counted is shared by all workers of the process, so it is kept in atomics; the
//! only locks are taken where a request has to queue or an endpoint is ejected.

pub mod backoff;
pub mod budget;
pub mod bulkhead;
pub mod deadline;
pub mod outlier;
pub mod retry;

pub use budget::Budget;
pub use bulkhead::{Admission, Bulkhead, Permit, Waiter};
pub use outlier::{Cause, Ejection, Health, Outlier, Verdict};
