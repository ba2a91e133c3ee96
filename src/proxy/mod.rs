//! The data plane.
mod detect;
mod dial;
mod exec;
mod expiry;
mod fault;
mod io;
mod pool;
mod settings;
pub use settings::{Address, App, Settings, Upstream, CONNECTION_AGE_MAX};
