//! The data plane.
mod detect;
mod dial;
mod exec;
mod expiry;
mod fault;
mod io;
mod pool;
mod settings;
pub use settings::{Address, App, CONNECTION_AGE_MAX, Settings, Upstream};
