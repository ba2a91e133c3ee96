//! `outrigger dev`: a control plane and several services with their sidecars on one machine, each a
//! process of its own, and all of them gone when this one is, however it ends.

mod config;
mod instance;
mod output;
mod process;

pub use config::{Config, ConfigError, Restart, Service, Words};
pub use instance::{Instance, State};
pub use output::Output;
pub use process::ProcessError;
